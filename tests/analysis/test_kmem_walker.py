"""`--walker kmem` on a real kernel's memory, with crash's part played from our own walker's slabs.

What crash itself prints is `tests/kernel/test_kmemtext.py`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from typing import Any

import jsonschema
import numpy as np
import pytest

from crashext.analysis import kmem_walker as kmemscan
from crashext.analysis.kmem_walker import KmemHost, scan_caches_kmem
from crashext.analysis.likeness.decode import Decoder
from crashext.analysis.likeness.groups import decode_object
from crashext.analysis.likeness.words import Classifier
from crashext.analysis.results.reports import CacheReport, Group, LeakReport
from crashext.analysis.settings import Settings
from crashext.commands import entry
from crashext.commands.place import SHELL, Place
from crashext.hosts.base import (
    Addresses,
    Bytes,
    Host,
    HostError,
    Info,
    Layout,
    Mask,
    Module,
    Symbol,
)
from crashext.kernel.addresses import address_space
from crashext.kernel.slab.objects import State
from crashext.kernel.slab.usage import usage
from crashext.progress import silent
from tests.conftest import Ran, lab_dump, lab_host, lab_view
from tests.lab import read_addresses

SETTINGS = Settings(samples=250_000, seed=0, threshold=0.7, metric="hamming", hops=1)
HEADER = "CACHE             OBJSIZE  ALLOCATED     TOTAL  SLABS  SSIZE  NAME\n"
SLAB = "  SLAB              MEMORY            NODE  TOTAL  ALLOCATED  FREE\n"


class Session:
    """A crash session over a lab dump: `kmem` says what a test wants it to say."""

    def __init__(self, host: Host, kmem: Callable[[str], str], *, known: bool = True) -> None:
        self._host, self._kmem, self._known = host, kmem, known
        self.asked: list[str] = []

    def crash_command(self, line: str) -> str:
        self.asked.append(line)
        answer = self._kmem(line)
        if not answer:  # as PyKdump has it
            raise HostError("")
        return answer

    def layout(self, type_name: str) -> Layout | None:
        found = self._host.layout(type_name)
        if found is None or self._known or type_name != "struct kmem_cache":
            return found
        slub = ("offset", "cpu_slab", "oo")  # SLAB and SLOB have none of them
        return replace(found, members={k: v for k, v in found.members.items() if k not in slub})

    def info(self) -> Info:
        return self._host.info()

    def read(self, address: int, size: int) -> bytes:
        return self._host.read(address, size)

    def read_many(self, addresses: Addresses, size: int) -> tuple[Bytes, Mask]:
        return self._host.read_many(addresses, size)

    def registers(self) -> tuple[tuple[int, ...], ...]:
        return ()

    def present(self) -> list[tuple[int, int]] | None:
        return self._host.present()

    def symbol_at(self, address: int) -> Symbol | None:
        return self._host.symbol_at(address)

    def address_of(self, name: str) -> int | None:
        return self._host.address_of(name)

    def modules(self) -> Sequence[Module]:
        return self._host.modules()

    def enumerator(self, name: str) -> int | None:
        return self._host.enumerator(name)


def kmem(*texts: str) -> Callable[[str], str]:
    """Answers: each text to the questions that end in its cache's name."""
    by_name = {text.splitlines()[1].split()[-1]: text for text in texts}

    def answer(line: str) -> str:
        if line == "kmem -s list":
            return "".join(f"ffff888100042400 {name}\n" for name in by_name)
        return by_name.get(line.split()[-1].lstrip("\\"), "")

    return answer


def slub_text(name: str, slabs: int, up_to: int) -> str:
    """`kmem -S` of a cache of the default dump: the last slabs up to an address as CPU slabs."""
    view = lab_view("default")
    cache = view.caches.find(name)
    assert cache is not None
    used = usage(view, cache, view.index)
    rows = np.sort(view.index.rows_of(view.caches.index(cache)))
    rows = rows[view.index.address[rows] <= np.uint64(up_to)][-slabs:]
    text = (
        f"{HEADER}{cache.address:x} {cache.object_size:8}  {used.allocated:9}  {used.slots:8}  "
        f"{used.slabs:5}     4k  {name}\nCPU 0 KMEM_CACHE_CPU:\n  ffff8e1d4f837080\nCPU 0 SLAB:\n"
    )
    for batch in view.reader(cache).read(view.index, rows):
        for base, addresses, states in zip(batch.base, batch.address, batch.state, strict=True):
            free = int((states == State.FREE).sum())
            text += f"{SLAB}  ffffea0004c94e80  {base:x}     0  {len(states)}  "
            text += f"{len(states) - free}  {free}\n  FREE / [ALLOCATED]\n"
            text += "".join(
                f"   {a:x}  \n" if s == State.FREE else f"  [{a:x}]\n"
                for a, s in zip(addresses.tolist(), states.tolist(), strict=True)
            )
    return text + "NODE 0 PARTIAL:\n  (empty)\nNODE 0 FULL:\n  (not tracked)\n\n"


def allocated_in(text: str) -> list[int]:
    return [int(line[3:-1], 16) for line in text.splitlines() if line.startswith("  [")]


def scan(session: KmemHost, *names: str, settings: Settings = SETTINGS) -> LeakReport:
    return scan_caches_kmem(session, list(names), settings, silent)


def only_cache(report: LeakReport) -> CacheReport:
    (cache,) = report.caches
    return cache


def skipped(report: LeakReport) -> dict[str, int]:
    return {s.what: s.count for s in report.skipped}


def group_of(cache: CacheReport, addresses: Iterable[int]) -> Group:
    """The group whose exemplar is one of `addresses`."""
    (group,) = (g for g in cache.groups if g.exemplar in set(addresses))
    return group


@pytest.fixture(scope="module")
def nodes() -> str:
    """Ten slabs of kmalloc-32, the cache of the 200,000 leaked nodes."""
    middle = read_addresses(lab_dump("default").addresses("nodes"))[100_000]
    return slub_text("kmalloc-32", 10, up_to=middle)


def session(*texts: str, known: bool = True) -> Session:
    return Session(lab_host("default"), kmem(*texts), known=known)


def test_listed_nodes_are_grouped_decoded_and_counted(nodes: str) -> None:
    leaked = set(read_addresses(lab_dump("default").addresses("nodes")))
    there = allocated_in(nodes)
    report = scan(session(nodes), "kmalloc-32")
    cache = only_cache(report)
    assert cache.walker == "kmem"
    group = group_of(cache, leaked)
    assert group.sampled == len(leaked & set(there))
    words = {w.offset: w for w in group.words}
    assert words[8].meaning.startswith("LIST_POISON1")
    assert words[16].meaning.startswith("LIST_POISON2")
    assert words[0].constant == 1.0
    assert any(n.startswith("unlinked from a list and not freed") for n in group.notes)


def test_nothing_is_extrapolated(nodes: str) -> None:
    """kmem -S shows CPU slabs, which are no random sample of the cache."""
    there = allocated_in(nodes)
    report = scan(session(nodes), "kmalloc-32")
    cache = only_cache(report)
    assert cache.sampled == len(there)
    assert all(g.objects.exact and g.objects.estimate == g.sampled for g in cache.groups)
    assert all(g.share.low == g.share.high == g.sampled / len(there) for g in cache.groups)
    assert sum(g.sampled for g in cache.groups) + cache.rest.estimate == len(there)
    # crash's own numbers stay as crash gave them, and what is between is owned up to.
    allocated, slots, slabs = (int(n) for n in nodes.splitlines()[1].split()[2:5])
    assert (cache.allocated.estimate, cache.allocated.exact) == (allocated, True)
    assert (cache.objects_total.estimate, cache.slabs_total.estimate) == (slots, slabs)
    assert cache.slabs_examined == 10
    what = "kmalloc-32: objects in full slabs that kmem -S does not list"
    assert skipped(report) == {what: allocated - len(there)}


def test_symbols_and_modules_are_named_without_a_view() -> None:
    """The nodes' owner holds the module's operations."""
    host = lab_host("default")
    owner = int(lab_dump("default").truth()["parts"]["nodes"]["pointers"]["owner"], 16)
    classifier = Classifier(address_space(host), tuple(host.modules()))
    content, _ = host.read_many(np.array([owner], np.uint64), 256)
    words = classifier.classify(content, np.array([owner], np.uint64))
    decoder = Decoder(host, None, classifier)
    decoded = decode_object(decoder, words, 0, 256, None, hops=1)
    assert any(w.meaning == "leaklab_ops [leaklab]" for w in decoded)
    assert not any(w.hops for w in decoded)


def test_a_sample_is_drawn_at_random_and_within_bounds(nodes: str) -> None:
    few = replace(SETTINGS, samples=20)
    report = scan(session(nodes), "kmalloc-32", settings=few)
    again = scan(session(nodes), "kmalloc-32", settings=few)
    other = scan(session(nodes), "kmalloc-32", settings=replace(few, seed=1))
    cache = only_cache(report)
    assert cache.sampled == 20
    assert skipped(report)["kmalloc-32: listed objects beyond the sample"] == (
        len(allocated_in(nodes)) - 20
    )
    assert cache == only_cache(again)
    assert cache.groups[0].exemplar != only_cache(other).groups[0].exemplar


def test_bytes_are_bounded_whatever_is_asked(nodes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmemscan, "MAX_SAMPLE_BYTES", 32 * 7)
    assert only_cache(scan(session(nodes), "kmalloc-32")).sampled == 7


def test_objects_that_are_not_in_the_dump_are_owned_up_to(nodes: str) -> None:
    text = nodes.replace("NODE 0 PARTIAL", "  [ffff000000000000]\n  [deadbeef00]\nNODE 0 PARTIAL")
    report = scan(session(text), "kmalloc-32")
    assert only_cache(report).sampled == len(allocated_in(nodes))
    assert skipped(report)["kmalloc-32: listed objects that are not in the dump"] == 2


def test_complaints_of_crash_are_passed_on(nodes: str) -> None:
    line = "kmem: kmalloc-32: slab: ffffea0004c94e80 invalid freepointer: 10"
    report = scan(session(nodes + line + "\n"), "kmalloc-32")
    assert skipped(report)[f'complaint of crash, "{line}"'] == 1


def test_what_crash_printed_before_it_failed_is_used(nodes: str) -> None:
    def fail(line: str) -> str:
        raise HostError(nodes.split("NODE 0")[0] + 'kmem: seek error: 0  type: "page.next"')

    report = scan(Session(lab_host("default"), fail), "kmalloc-32")
    assert only_cache(report).sampled == len(allocated_in(nodes))
    assert any("seek error" in what for what in skipped(report))


def test_free_slots_that_look_the_same_are_told(nodes: str) -> None:
    """The group's own objects shown as free slots too: likeness then says nothing."""
    there = allocated_in(nodes)
    half = nodes
    for address in there[::2]:
        half = half.replace(f"  [{address:x}]", f"   {address:x}  ")
    cache = only_cache(scan(session(half), "kmalloc-32"))
    assert cache.free_sampled >= len(there) // 2
    assert cache.groups[0].residue is not None
    assert cache.groups[0].residue > 0.5


def test_the_slot_is_larger_than_the_object_and_made_by_a_constructor() -> None:
    middle = read_addresses(lab_dump("default").addresses("private"))[10_000]
    text = slub_text("leaklab_obj", 2, up_to=middle)
    cache = only_cache(scan(session(text), "leaklab_obj"))
    assert (cache.object_size, cache.slot_size, cache.has_constructor) == (120, 128, True)
    assert (cache.slabs_examined, cache.groups[0].sampled) == (2, 64)


def test_question_marks_are_no_counts() -> None:
    row = "ffff890c47c0ec00      512          ?         ?      ?    32k  kmalloc-512"
    text = f"kmem: x\n{HEADER}{row}\n"
    report = scan(Session(lab_host("default"), lambda line: text), "kmalloc-512")
    cache = only_cache(report)
    assert (cache.sampled, cache.groups) == (0, ())
    assert not cache.allocated.exact
    assert not cache.slabs_total.exact
    assert skipped(report) == {
        "kmalloc-512: count that crash prints as ?": 1,
        'complaint of crash, "kmem: x"': 1,
    }


def test_objects_in_partial_slabs_are_told_apart_from_full_ones(nodes: str) -> None:
    row = f"{SLAB}  ffffea0004c94e80  ffff888103100000     0    128         29    99\n"
    text = nodes.replace("NODE 0 PARTIAL:\n  (empty)\n", f"NODE 0 PARTIAL:\n{row}")
    found = skipped(scan(session(text), "kmalloc-32"))
    assert found["kmalloc-32: objects in partial slabs of which kmem -S shows the slab only"] == 29
    assert sum(found.values()) == int(nodes.split()[9]) - len(allocated_in(nodes))


@pytest.mark.parametrize(
    "name", ["", "a b", "a;b", "a|sh", "a>x", "$(x)", "`x`", "a\nb", '"a', "\\a", "-v", "é", "!x"]
)
def test_a_name_that_crash_would_take_for_more_is_refused(name: str) -> None:
    there = session()
    with pytest.raises(HostError, match=r"only letters, digits"):
        scan(there, name)
    assert there.asked == []


def test_a_name_that_looks_like_an_address_is_escaped(nodes: str) -> None:
    there = session(nodes.replace("kmalloc-32", "dead"))
    assert only_cache(scan(there, "dead")).name == "dead"
    assert there.asked == ["kmem -S \\dead"]


def test_an_unknown_name_is_told_with_those_that_are_close(nodes: str) -> None:
    with pytest.raises(HostError, match=r"no slab cache called kmaloc-32: did you mean kmalloc-32"):
        scan(session(nodes), "kmaloc-32")
    with pytest.raises(HostError, match="called zzzz among the 1 of this kernel"):
        scan(session(nodes), "zzzz")


@pytest.mark.parametrize("listing_works", [True, False])
def test_a_kernel_that_crash_cannot_walk_is_told_in_crashs_words(listing_works: bool) -> None:
    def answer(line: str) -> str:
        if line == "kmem -s list" and listing_works:
            return "ffff888100042400 dentry\n"
        raise HostError("kmem: -S not supported for this kernel")

    with pytest.raises(HostError, match=r"kmem -S dentry shows no .*-S not supported for this"):
        scan(Session(lab_host("default"), answer), "dentry")


def test_a_corrupted_cache_is_told() -> None:
    text = f"{HEADER}ffff888100042400 [INVALID/CORRUPTED]   dentry\n"
    with pytest.raises(HostError, match=r"cannot read slab cache dentry: .*INVALID/CORRUPTED"):
        scan(Session(lab_host("default"), lambda line: text), "dentry")


def test_slabs_endless_listing_is_not_asked_for(nodes: str) -> None:
    """Where kmem -S lists full slabs too, its text grows with the cache."""
    row = nodes.splitlines()[1].split()
    row[3] = "20000000"
    text = f"{HEADER}{' '.join(row)}\n"
    there = session(text, known=False)
    with pytest.raises(HostError, match="would print 20,000,000 lines"):
        scan(there, "kmalloc-32")
    assert there.asked == ["kmem -s kmalloc-32"]


def test_ctrl_c_keeps_what_is_known(nodes: str) -> None:
    def answer(line: str) -> str:
        if line.endswith("dentry"):
            raise KeyboardInterrupt
        return nodes

    report = scan(Session(lab_host("default"), answer), "kmalloc-32", "dentry")
    assert report.interrupted
    assert only_cache(report).name == "kmalloc-32"


def test_an_address_space_that_is_not_understood_costs_names_only(
    nodes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = session(nodes)
    monkeypatch.setattr(there, "info", lambda: replace(lab_host("default").info(), arch="ppc64le"))
    assert only_cache(scan(there, "kmalloc-32")).groups


def leakscan(host: Host | None, *arguments: str) -> Ran:
    place = SHELL if host is None else Place("crash", lambda: host)
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = entry.leakscan(list(arguments), place)
    return Ran(status, out.getvalue(), err.getvalue())


def test_the_command_in_a_crash_session(nodes: str, schema: Any) -> None:
    ran = leakscan(session(nodes), "--walker", "kmem", "kmalloc-32")
    seen = len(allocated_in(nodes))
    assert ran.status == 0
    assert f"of the {seen:,} objects seen" in ran.out.splitlines()[0]
    assert "listed by kmem -S and examined" in ran.out
    assert "drawn at random and examined" not in ran.out
    ran = leakscan(session(nodes), "--walker", "kmem", "--json", "kmalloc-32")
    document = ran.document
    jsonschema.validate(document, schema)
    assert document["caches"][0]["walker"] == "kmem"
    assert sum(g["objects"]["high"] for g in document["caches"][0]["groups"]) <= seen


def test_without_a_crash_session_the_walker_is_refused() -> None:
    for host in (lab_host("default"), None):
        ran = leakscan(host, "--walker", "kmem", "kmalloc-32")
        assert (ran.status, ran.out) == (2, "")
        assert ran.err == "leakscan: --walker kmem needs a crash session\n"


def test_a_run_through_kmem_cannot_be_recorded(nodes: str, tmp_path: Any) -> None:
    file = str(tmp_path / "x.session")
    ran = leakscan(session(nodes), "--walker", "kmem", "--record", file, "kmalloc-32")
    assert (ran.status, ran.err.count("\n")) == (2, 1)
    assert "cannot be recorded" in ran.err


def test_a_kernel_that_our_walker_does_not_know_goes_through_kmem(nodes: str) -> None:
    ran = leakscan(session(nodes, known=False), "--json", "kmalloc-32")
    assert ran.status == 0
    document = ran.document
    assert document["caches"][0]["walker"] == "kmem"
    first = document["skipped"][0]
    assert first["what"].startswith("own slab walker: this kernel's slab allocator is SLOB")
    assert "kmem -S was used instead" in first["effect"]


def test_a_recorded_run_does_not_fall_back(nodes: str, tmp_path: Any) -> None:
    file = str(tmp_path / "x.session")
    ran = leakscan(session(nodes, known=False), "--record", file, "kmalloc-32")
    assert (ran.status, ran.err.count("\n")) == (2, 1)
    assert "is SLOB" in ran.err


def test_a_kernel_that_our_walker_knows_does_not(nodes: str) -> None:
    there = session(nodes)
    document = leakscan(there, "--json", "--samples", "1000", "kmalloc-32").document
    assert document["caches"][0]["walker"] == "map"
    assert there.asked == []
