"""Single flipped bits of a dump's BTF, aimed at what answers use: what becomes of the answers.

`python -m tests.damaged_btf [-n FLIPS] [-s SEED] [SCENARIO[@KERNEL]...]` asks all questions of each
dump without a vmlinux, notes which types, members and enumerators they ask for, and asks them again
with one bit of one of those changed: of its name, the place of its name, its type, its offset, a
size or a value. It prints a table; the status is 1 where an answer changed without a word.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import drgn

from crashext.commands.opening import open_program
from crashext.hosts.absent import Members
from crashext.hosts.base import HostError, Info, Layout, Member
from crashext.kernel.btf import Btf
from crashext.kernel.btf_layouts import CarriedTypes
from crashext.kernel.btf_types import BtfKind
from tests import no_debug_info
from tests.fake import FakeHost
from tests.lab import Dump, build, scenario
from tests.no_debug_info import alone, differences

KERNELS = ("default", "default@sid")
_START = 0xFFFFFFFF82000000
_LOW_BITS = 16
"""Of a number: what is flipped above makes an impossible one of any."""
OUTCOMES = (
    "refused when opened",
    "refused by a question",
    "changes nothing shown",
    "told in the answer",
    "changed without a word",
)
_SILENT = OUTCOMES[-1]


@dataclass(frozen=True)
class Site:
    """Bits of BTF that an answer uses, and what they are of."""

    kind: str
    of: str
    offset: int
    """In the BTF's bytes."""
    bits: int


@dataclass(frozen=True)
class Answers:
    """What all questions were answered, and what was said on the way."""

    documents: dict[str, Any]
    said: str
    asked: tuple[tuple[str, str], ...] = ()
    """(type, member), (type, "") and ("", enumerator) that were asked for, there or not."""
    start: int = 0
    """Address of the BTF."""
    data: bytes = b""
    """The BTF, where it was noted what was asked for."""
    info: Info | None = None


class _Noting(Members):
    """Notes which members were asked for."""

    def __init__(self, members: Members, note: Callable[[str], None]) -> None:
        super().__init__(members, members.elsewhere)
        self._note = note

    def __contains__(self, name: object) -> bool:
        self._note(str(name))
        return super().__contains__(name)

    def __getitem__(self, name: str) -> Member:
        self._note(name)
        return super().__getitem__(name)


class _NotingTypes(CarriedTypes):
    """Notes which types, members and enumerators were asked for."""

    asked: set[tuple[str, str]] = set()  # noqa: RUF012 - one process, one dump

    def layout(self, type_name: str) -> Layout | None:
        self.asked.add((type_name, ""))
        found = super().layout(type_name)
        if found is None:
            return None
        assert isinstance(found.members, Members)
        note = partial(self._of, type_name)
        return replace(found, members=_Noting(found.members, note))

    def _of(self, type_name: str, member: str) -> None:
        self.asked.add((type_name, member))

    def enumerator(self, name: str) -> int | None:
        self.asked.add(("", name))
        return super().enumerator(name)


def ask(dump: Dump, damage: dict[int, bytes], noting: bool = False) -> Answers:
    """All questions to a dump without vmlinux, with other bytes at some addresses."""
    said = StringIO()
    opening = sys.modules[open_program.__module__]
    if noting:
        vars(opening)["CarriedTypes"] = _NotingTypes
    with TemporaryDirectory() as folder, redirect_stderr(said):
        core = alone(dump, "vmcore", Path(folder))
        program = drgn.Program()
        program.set_core_dump(str(core))
        for address, data in damage.items():
            program.add_memory_segment(address, len(data), _reader(address, data), False)
        try:
            host = open_program(program, core)
        except HostError as error:
            return Answers({}, str(error))
        documents = no_debug_info.ask(host, dump)
        start, stop = (host.address_of(f"__{end}_BTF") or 0 for end in ("start", "stop"))
        data = host.read(start, stop - start) if noting else b""
    asked = tuple(sorted(_NotingTypes.asked))
    return Answers(documents, said.getvalue(), asked, start, data, host.info())


class Places:
    """Where in the BTF's bytes things are."""

    def __init__(self, data: bytes) -> None:
        self._btf = Btf(data)
        _, length, types, _, texts, _ = struct.unpack_from("<6I", data)
        self._types, self._texts = length + types, length + texts

    def sites(self, asked: tuple[tuple[str, str], ...]) -> Iterator[Site]:
        """What can be changed of all that was asked for."""
        for of, member in asked:
            if not of:
                yield from self._of_enumerator(member)
                continue
            number = self._btf.find(of)
            if number is None:
                continue  # a module's
            word = self._btf._start[number]
            if not member:
                yield from self._name("a type's name", of, word)
                yield Site("size", of, self._types + 4 * (word + 2), _LOW_BITS)
                continue
            yield from self._of_member(number, f"{of}.{member}", member)

    def _of_member(self, number: int, of: str, member: str) -> Iterator[Site]:
        btf = self._btf
        for i, one in enumerate(btf.members(number)):
            word = btf._start[number] + 3 + 3 * i
            if one.name == member:
                yield from self._name("a member's name", of, word)
                yield Site("type", of, self._types + 4 * (word + 1), _LOW_BITS)
                yield Site("offset", of, self._types + 4 * (word + 2), _LOW_BITS)
            elif not one.name:
                inner = btf.strip(one.type)
                if btf.kind[inner] in (BtfKind.STRUCT, BtfKind.UNION):
                    yield from self._of_member(inner, of, member)

    def _of_enumerator(self, name: str) -> Iterator[Site]:
        btf = self._btf
        for number in range(len(btf)):
            if btf.kind[number] != BtfKind.ENUM:
                continue
            for i, (value, _) in enumerate(btf._entries(number, 2)):
                if btf._string(number, value) == name:
                    word = btf._start[number] + 3 + 2 * i
                    yield from self._name("an enumerator's name", name, word)
                    yield Site("value", name, self._types + 4 * (word + 1), _LOW_BITS)
                    return

    def _name(self, kind: str, of: str, word: int) -> Iterator[Site]:
        place = self._btf._words[word]
        length = self._btf._text.index(b"\0", place) - place
        yield Site(kind, of, self._texts + place, 8 * length)
        yield Site("place of a name", of, self._types + 4 * word, 24)


@dataclass(frozen=True)
class Trial:
    """One flipped bit."""

    site: Site
    bit: int

    def damage(self, start: int, data: bytes) -> dict[int, bytes]:
        at = self.site.offset + self.bit // 8
        return {start + at: bytes([data[at] ^ 1 << self.bit % 8])}

    def damaged(self, data: bytes) -> bytes:
        """The BTF with the bit flipped."""
        ((at, byte),) = self.damage(0, data).items()
        return data[:at] + byte + data[at + 1 :]


class _OnlyBtf(FakeHost):
    """A kernel's BTF, and what VMCOREINFO says of it."""

    def __init__(self, data: bytes, info: Info) -> None:
        super().__init__(symbols={"__start_BTF": _START, "__stop_BTF": _START + len(data)})
        self._data, self._info = data, info

    def info(self) -> Info:
        return self._info

    def read(self, address: int, size: int) -> bytes:
        if address == _START:
            return self._data
        return super().read(address, size)


def refusal(data: bytes, whole: Answers) -> tuple[str, str]:
    """(outcome, what is said) where damaged BTF is refused; ("", "") where it is not.

    What any question asked for is asked for again: this takes a tenth of asking all questions.
    """
    assert whole.info is not None
    types = CarriedTypes(_OnlyBtf(data, whole.info), alone=True)
    if not types.known:
        return OUTCOMES[0], types.problem
    try:
        for of, name in whole.asked:
            layout = types.layout(of) if of else None
            if not of:
                types.enumerator(name)
            elif name and layout is not None:
                layout.first_of(name)
    except HostError as error:
        return OUTCOMES[1], str(error)
    return "", ""


def try_one(dump: Dump, trial: Trial, whole: Answers) -> tuple[str, list[str]]:
    """What becomes of the answers, and where they differ."""
    what, said = refusal(trial.damaged(whole.data), whole)
    if what:
        return what, [said]
    return outcome(whole, ask(dump, trial.damage(whole.start, whole.data)))


def trials(whole: Answers, count: int, seed: int) -> list[Trial]:
    """As many of each kind; of each, any place that is asked for, and any of its bits."""
    places: dict[str, list[Site]] = {}
    for site in Places(whole.data).sites(whole.asked):
        places.setdefault(site.kind, []).append(site)
    chance = random.Random(seed)
    found = []
    for i in range(count):
        site = chance.choice(places[sorted(places)[i % len(places)]])
        found.append(Trial(site, chance.randrange(site.bits)))
    return found


def outcome(whole: Answers, damaged: Answers) -> tuple[str, list[str]]:
    """What became of the answers, and where they differ."""
    if not damaged.documents:
        return OUTCOMES[0], [damaged.said]
    refused = [q for q, found in damaged.documents.items() if isinstance(found, str)]
    wrong, told = list[str](), True
    for question, found in damaged.documents.items():
        if question in refused or found == whole.documents.get(question):
            continue
        wrong += [f"{question}{d}" for d in differences(found, whole.documents.get(question))]
        told = told and len(_limits(found)) > len(_limits(whole.documents.get(question)))
    if wrong:
        return (OUTCOMES[3] if told else _SILENT), wrong
    return (OUTCOMES[1] if refused else OUTCOMES[2]), [damaged.said.splitlines()[-1]]


def _limits(document: Any) -> list[Any]:
    """What a document says that it leaves out."""
    if not isinstance(document, dict):
        return []
    return [*document.get("skipped", ()), *document.get("facts", {}).get("limits", ())]


def measure(name: str, count: int, seed: int, processes: int) -> Counter[tuple[str, str]]:
    """Outcomes by kind of place."""
    dump = build(scenario(name))
    # Forked for each: nothing that was learnt of one is left for the next.
    pool = multiprocessing.get_context("fork").Pool(processes, maxtasksperchild=1)
    with pool:
        whole = pool.apply(ask, (dump, {}, True))
        chosen = trials(whole, count, seed)
        found = Counter[tuple[str, str]]()
        pending = [pool.apply_async(try_one, (dump, trial, whole)) for trial in chosen]
        for trial, tried in zip(chosen, pending, strict=True):
            what, details = tried.get()
            found[trial.site.kind, what] += 1
            line = f"{name}: {trial.site.kind} of {trial.site.of}, bit {trial.bit}: {what}"
            print("\n  ".join([line, *(d[:300] for d in details[:6])]), file=sys.stderr, flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.damaged_btf")
    parser.add_argument("-n", type=int, default=160, help="flips of each dump")
    parser.add_argument("-s", type=int, default=1, help="seed of chance")
    parser.add_argument("-j", type=int, default=1, help="processes")
    parser.add_argument("dumps", nargs="*", default=KERNELS)
    options = parser.parse_args()
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    silent = 0
    for name in options.dumps:
        found = measure(name, options.n, options.s, options.j)
        print(f"\n{name}\n\n| of | {' | '.join(OUTCOMES)} |\n|" + "---|" * (1 + len(OUTCOMES)))
        kinds = sorted({kind for kind, _ in found})
        for kind in kinds:
            print("|", kind, "|", " | ".join(str(found[kind, what]) for what in OUTCOMES), "|")
        sums = (sum(found[kind, what] for kind in kinds) for what in OUTCOMES)
        print("| all |", " | ".join(map(str, sums)), "|", flush=True)
        silent += sum(found[kind, _SILENT] for kind in kinds)
    print(f"load after: {os.getloadavg()[0]:.1f}, CPU seconds: {process_time():.0f}")
    return int(silent > 0)


def _reader(start: int, data: bytes) -> Callable[[int, int, int, bool], bytes]:
    return lambda address, count, offset, physical: data[address - start :][:count]


if __name__ == "__main__":
    sys.exit(main())
