"""What flipped bits do to symbols that an answer uses, without debug info.

`python -m tests.benchmarks.flips [-n FLIPS] [SCENARIO[@KERNEL]...]`: the questions of
tests/no_debug_info.py are asked once of the whole dump, and what they ask of the symbols is noted.
Then one bit at a time, chosen with a seed, is flipped in the packed name or the offset of a
kernel's symbol that was asked for, or in the entry or the name of a module's symbol that was
shown, and the same is asked of the symbols again. `changed` are flips after which one of these
answers is another and nothing was said, `lost` those after which there is none: more than change
a document, as not all that is asked for is shown. `told`: no answer, or none of a module's names;
`doubted`: an answer, and a line that it may be wrong.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import drgn
import numpy as np

from crashext.commands.opening import open_dump
from crashext.hosts.bare import BareHost
from crashext.hosts.base import HostError, Symbol
from crashext.hosts.drgn_modules import LoadedSymbols
from crashext.hosts.modulelist import module_list
from crashext.kernel.btf_layouts import CarriedTypes
from tests.lab import Dump, build, scenario
from tests.no_debug_info import alone, ask

_SEED = 15
_ENTRY = 24  # bytes of Elf64_Sym
_FIELDS = {"section and kind": (4, 8), "address": (8, 16), "size": (16, 24)}
"""Bytes of an entry, by what they say; its first four are where the name is."""
_WHERE = "where its name is"


@dataclass(frozen=True)
class Asked:
    """What an answer asked of the symbols, and what it was told."""

    symbols: dict[int, Symbol | None]
    names: dict[str, int | None]


def note(host: Any, dump: Dump) -> Asked:
    """Everything that the questions ask of a whole dump's symbols."""
    asked = Asked({}, {})
    symbol_at, address_of = host.symbol_at, host.address_of

    def noting_symbol(address: int) -> Symbol | None:
        asked.symbols[address] = symbol_at(address)
        return asked.symbols[address]

    def noting_address(name: str) -> int | None:
        asked.names[name] = address_of(name)
        return asked.names[name]

    host.symbol_at, host.address_of = noting_symbol, noting_address
    ask(host, dump)
    host.symbol_at, host.address_of = symbol_at, address_of
    return asked


class Memory:
    """A dump's memory, a part of which can be changed."""

    def __init__(self, path: Path) -> None:
        self.program = drgn.Program()
        self.program.set_core_dump(str(path))

    def loosen(self, start: int, size: int) -> bytearray:
        """The bytes from `start` on; what is written to them is what the program then reads."""
        data = bytearray(self.program.read(start, size))

        def part(address: int, count: int, offset: int, physical: bool) -> bytes:
            return bytes(data[address - start :][:count])

        self.program.add_memory_segment(start, size, part, False)
        return data


def _open(memory: Memory) -> BareHost:
    host = BareHost(memory.program, "vmcore")
    types = CarriedTypes(host, alone=True)
    host.require(types.functions(), types.percpu())
    host.require_whole(types.functions)
    host.prefer(types)
    return host


def _outcome(before: Mapping[Any, Any], after: Callable[[Any], Any]) -> str:
    """How the same questions are answered now."""
    both = ((_shown(was), _shown(after(key))) for key, was in before.items())
    differing = [(was, now) for was, now in both if was != now]
    if not differing:
        return "unchanged"
    return "lost" if all(now is None for _, now in differing) else "changed"


def _shown(answer: Any) -> Any:
    """What an answer can show: how far a symbol reaches is none of it."""
    return (answer.name, answer.address) if isinstance(answer, Symbol) else answer


def _bits(rng: random.Random, first: int, last: int) -> tuple[int, int]:
    """A byte and a bit of it."""
    return rng.randrange(first, last), 1 << rng.randrange(8)


class ModuleTable:
    """The symbols of one module, whose bits can be flipped."""

    def __init__(self, host: BareHost, memory: Memory, name: str, asked: Asked) -> None:
        self._host = host
        address = next(at for at, module in module_list(host) if module.name == name)
        module, table = host.layout("struct module"), host.layout("struct mod_kallsyms")
        assert module is not None
        assert table is not None

        def number(at: int, size: int) -> int:
            return int.from_bytes(host.read(at, size), "little")

        at = number(address + module["kallsyms"].offset, 8)
        self._first = number(at + table["symtab"].offset, 8)
        count = number(at + table["num_symtab"].offset, 4)
        strings = number(at + table["strtab"].offset, 8)
        rows = np.frombuffer(host.read(self._first, _ENTRY * count), "<u4").reshape(count, -1)
        values = rows[:, 2:4].copy().view("<u8")[:, 0].tolist()
        names, self._strings = rows[:, 0].tolist(), strings - self._first
        end = names[-1]
        while host.read(strings + end, 1) != b"\0":
            end += 1
        self.data = memory.loosen(self._first, strings + end + 1 - self._first)
        wanted = {s.address for s in asked.symbols.values() if s is not None and s.module == name}
        self.rows = [row for row, value in enumerate(values) if value in wanted]
        self._names = names
        self._before = {
            at: s for at, s in asked.symbols.items() if s is not None and s.module == name
        }

    def flips(self, count: int, rng: random.Random) -> Iterator[tuple[str, int, int]]:
        """(what it is in, byte, bit)"""
        kinds = ["name", "name", "address", "address", "size", "section and kind", _WHERE]
        for kind in rng.choices(kinds, k=count):
            row = rng.choice(self.rows)
            first, last = (_ENTRY * row + at for at in _FIELDS.get(kind, (0, 4)))
            if kind == "name":
                first = self._strings + self._names[row]
                last = self.data.index(b"\0", first)
            yield (kind, *_bits(rng, first, last))

    def outcome(self, byte: int, bit: int) -> str:
        """What is answered with that bit flipped."""
        host = self._host
        self.data[byte] ^= bit
        fresh = LoadedSymbols(host._functions_of)
        host._of_modules = fresh
        found = _outcome(self._before, host.symbol_at)
        self.data[byte] ^= bit
        return "told" if fresh.damaged() else found


def flip_modules(path: Path, asked: Asked, count: int) -> Counter[tuple[str, str]]:
    """(where, what came of it): how often, over the modules that were shown."""
    memory = Memory(path)
    host = _open(memory)
    shown = Counter(s.module for s in asked.symbols.values() if s is not None and s.module)
    rng, found = random.Random(_SEED), Counter[tuple[str, str]]()
    for name in shown:
        table = ModuleTable(host, memory, name, asked)
        assert table.outcome(0, 0) == "unchanged"
        for kind, byte, bit in table.flips(count // len(shown), rng):
            outcome = table.outcome(byte, bit)
            found[kind, outcome] += 1
            if outcome == "changed":
                print(f"{name}: {kind}, byte {byte:#x}, bit {bit:#x}", file=sys.stderr)
    return found


def flip_kernel(path: Path, asked: Asked, count: int) -> Counter[tuple[str, str]]:
    """The same of the kernel's own symbols."""
    whole = _open(Memory(path))
    kallsyms = whole._kallsyms
    known = whole.info().vmcoreinfo
    tables = [known.get(f"SYMBOL(kallsyms_{name})") for name in ("names", "offsets")]
    if None in tables:
        return Counter()  # 6.0: before, no note says where they are
    names, offsets = (int(table or "", 16) for table in tables)
    places = kallsyms.packed._places.tolist()
    rows = [
        kallsyms.names.index(name)
        for name, at in asked.names.items()
        if at and name in kallsyms.by_name
    ]
    in_order = {kallsyms.packed.name(row)[1:]: row for row in range(len(kallsyms.names))}
    rows = [in_order[kallsyms.names[row]] for row in rows if kallsyms.names[row] in in_order]
    before = {a: s for a, s in asked.symbols.items() if s is not None and not s.module}
    rng, found = random.Random(_SEED), Counter[tuple[str, str]]()
    for kind in rng.choices(["name", "address"], k=count):
        row = rng.choice(rows)
        at = (names + places[row] + 1, names + places[row + 1])
        if kind == "address":
            at = (offsets + 4 * row, offsets + 4 * row + 4)
        byte, bit = _bits(rng, *at)
        memory = Memory(path)
        memory.loosen(byte, 1)[0] ^= bit
        outcome = _kernel_outcome(memory, asked, before)
        found[kind, outcome] += 1
        if outcome == "changed":
            print(f"{kind} of {kallsyms.packed.name(row)[1:]}, bit {bit:#x}", file=sys.stderr)
    return found


def _kernel_outcome(memory: Memory, asked: Asked, before: Mapping[int, Symbol]) -> str:
    try:
        host = _open(memory)
    except HostError:
        return "refused"
    try:
        outcomes = {_outcome(asked.names, host.address_of), _outcome(before, host.symbol_at)}
        host.require_places()
    except HostError:
        return "told"
    if host.doubts():
        return "doubted"
    return next(o for o in ("changed", "lost", "unchanged") if o in outcomes)


def _print(what: str, name: str, found: Counter[tuple[str, str]]) -> None:
    outcomes = ("refused", "told", "doubted", "unchanged", "lost", "changed")
    for kind in dict.fromkeys(kind for kind, _ in found):
        cells = [str(found[kind, outcome]) for outcome in outcomes]
        print("|", " | ".join([name, what, kind, *cells]), "|", flush=True)


def main(arguments: Sequence[str]) -> None:
    count, names = 300, list(arguments)
    if names[:1] == ["-n"]:
        count, names = int(names[1]), names[2:]
    print("| dump | symbols of | bits of | refused | told | doubted | unchanged | lost | changed |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in names or ["default", "default@bullseye", "default@sid"]:
        dump = build(scenario(name))
        with TemporaryDirectory() as folder:
            path = alone(dump, "vmcore", Path(folder))
            asked = note(open_dump(path, (), debuginfod=False), dump)
            _print("modules", name, flip_modules(path, asked, count))
            _print("the kernel", name, flip_kernel(path, asked, count))


if __name__ == "__main__":
    main(sys.argv[1:])
