"""The lines that say who allocated a group."""

from __future__ import annotations

from dataclasses import replace

from crashext.analysis.results.callsites import Callers, CallSite, Candidate
from crashext.analysis.results.estimate import Estimate, Share
from crashext.analysis.results.evidence import Allocator
from crashext.analysis.results.reports import Group
from crashext.hosts.base import U64
from crashext.report.evidence_text import allocator_lines

STACK = tuple(f"frame{i}+0x{i:x} [bond]" for i in range(8))


def site(name: str, objects: int, rung: str = "slub-track", note: str = "") -> Allocator:
    return Allocator(rung, name, "bond", STACK, objects, 100, note)


def group(*allocators: Allocator, unattributed: str = "", absent: tuple[str, ...] = ()) -> Group:
    return Group(
        exemplar=U64(0xFFFF888000000000),
        sampled=100,
        objects=Estimate.known(100),
        share=Share(1.0, 1.0, 1.0),
        similarity=1.0,
        shapes=1,
        distinct=1,
        shape="zero",
        residue=None,
        words=(),
        notes=(),
        lowest=U64(0),
        highest=U64(0),
        allocators=allocators,
        unattributed=unattributed,
        absent_rungs=absent,
    )


def test_one_site_with_its_first_frames() -> None:
    lines = allocator_lines(group(site("leak+0x5c", 100, note="pid 212")), verbose=False)
    assert lines[0] == "allocated by leak+0x5c [bond] (slub-track, 100 of 100 looked at), pid 212"
    assert [x.strip() for x in lines[1:]] == [*STACK[:5], "... 3 more frames (-v shows)"]


def test_verbose_shows_every_frame_of_every_site_and_the_absent_rungs() -> None:
    sites = [site(f"leak{i}", 10) for i in range(5)]
    lines = allocator_lines(group(*sites, absent=("kmemleak: off",)), verbose=True)
    assert sum("allocated by" in x for x in lines) == 5
    assert sum("frame7" in x for x in lines) == 5
    assert lines[-1] == "no kmemleak: off"


def test_the_absent_rungs_are_not_mentioned_unasked() -> None:
    assert allocator_lines(group(absent=("kmemleak: off",)), verbose=False) == []


def test_a_few_sites_and_how_many_more() -> None:
    sites = [site(f"leak{i}", 10 - i) for i in range(5)]
    lines = allocator_lines(group(*sites), verbose=False)
    assert sum("allocated by" in x for x in lines) == 3
    assert lines[-1] == "2 more sites (-v shows), 13 objects"


def test_each_kind_of_evidence_has_its_own_words() -> None:
    words = {
        "alloc-tag": "allocated by",
        "kmemleak": "allocated by",
        "page-owner": "in pages allocated by",
        "memcg": "charged to",
        "content": "contain symbol",
    }
    for rung, said in words.items():
        assert allocator_lines(group(site("x", 1, rung)), verbose=False)[0].startswith(f"{said} x")


def test_nobody_is_named_and_why() -> None:
    assert allocator_lines(group(unattributed="cannot tell: no record"), verbose=False) == [
        "cannot tell: no record"
    ]


def test_strings_of_the_dump_cannot_reach_the_terminal() -> None:
    hostile = Allocator("memcg", "/lab/\x1b[2J", "m\x07", ("f\x1b]0;x",), 1, 1, "pid 1 (\x1b[0m)")
    text = "\n".join(
        allocator_lines(group(hostile, unattributed="\x1b", absent=("\x9b",)), verbose=True)
    )
    assert text.replace("\n", "").isprintable()
    assert text.isascii()


def test_advice_does_not_repeat_what_was_done_nor_itself() -> None:
    place = CallSite("f", 1, "", U64(0), "kmalloc_trace", False, (32,))
    unclear = Callers((Candidate(place, 0.5, ()),), 9, 0, False, 9, step="trace-cmd record # then")
    nobody = replace(group(unattributed="cannot tell: no record"), callers=unclear)
    said: set[str] = set()
    first = allocator_lines(nobody, verbose=False, said=said)
    assert any("trace-cmd record" in text for text in first)
    assert first[-1] == "cannot tell: no record"
    assert allocator_lines(nobody, verbose=False, said=said) == [
        "by the code: cannot tell, of 9 places 9 are equally likely"
    ]
    traced = replace(group(site("leak+0x5c", 100, "trace")), callers=unclear)
    assert not any("trace-cmd" in text for text in allocator_lines(traced, verbose=False))
