"""Damaged proc files: no parser raises or hangs, and every line it leaves out is counted."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from crashext.kernel.slab.families import families, family
from crashext.procfs.alloctraces import parse_alloc_traces, parse_allocinfo
from crashext.procfs.counters import (
    parse_buddyinfo,
    parse_meminfo,
    parse_vmstat,
    parse_zoneinfo,
)
from crashext.procfs.kmemleak import parse_kmemleak
from crashext.procfs.pageowner import parse_page_owner
from crashext.procfs.processes import parse_ps, parse_status
from crashext.procfs.slabinfo import parse_slabinfo
from crashext.procfs.vmallocinfo import by_caller, parse_vmallocinfo
from tests.conftest import lab_dump
from tests.procfs.test_kmemleak import GUEST, NEW, OLD
from tests.procfs.test_pageowner import ALLOC_CALLS, DRIVER, MOVABLE, SLAB

SEEDS = range(20)


def proc(name: str) -> str:
    return (lab_dump("default").folder / "proc" / name).read_text()


def damage(text: str, seed: int) -> str:
    """Bytes flipped, lines cut, joined, doubled and swapped, and the end missing."""
    dice = random.Random(seed)
    lines = text.splitlines(keepends=True)
    for _ in range(1 + len(lines) // 5):
        i = dice.randrange(len(lines))
        line = lines[i]
        at = dice.randrange(len(line) + 1)
        lines[i] = dice.choice(
            [
                line[:at] + chr(dice.randrange(256)) + line[at + 1 :],
                line[:at],
                line[at:],
                line + line,
                lines[dice.randrange(len(lines))],
                "9" * 400 + line,
            ]
        )
    whole = "".join(lines)
    return whole[: dice.randrange(len(whole))]


Read = Callable[[list[str]], tuple[int, int]]


def meminfo(lines: list[str]) -> tuple[int, int]:
    found = parse_meminfo(lines)
    return len(found.sizes) + len(found.counts), found.damaged


def vmstat(lines: list[str]) -> tuple[int, int]:
    found = parse_vmstat(lines)
    return len(found.values), found.damaged


def buddyinfo(lines: list[str]) -> tuple[int, int]:
    found = parse_buddyinfo(lines)
    return len(found.zones), found.damaged


def slabinfo(lines: list[str]) -> tuple[int, int]:
    found = parse_slabinfo(lines)
    assert sum(len(f.members) for f in families(found.caches)) == len(found.caches)
    return len(found.caches), found.damaged


def vmallocinfo(lines: list[str]) -> tuple[int, int]:
    found = parse_vmallocinfo(lines)
    assert sum(c.areas for c in by_caller(found)) <= len(found.areas)
    return len(found.areas), found.damaged


@pytest.mark.parametrize("read", [meminfo, vmstat, buddyinfo, slabinfo, vmallocinfo])
def test_every_line_is_read_or_counted(read: Read) -> None:
    found = 0
    for seed in SEEDS:
        lines = damage(proc(read.__name__), seed).split("\n")
        understood, damaged = read(lines)
        headings = sum(
            line.startswith(("# name", "slabinfo - version: 2.1"))
            for line in lines
            if read is slabinfo
        )
        filled = sum(bool(line.strip()) for line in lines)
        # A heading that was damaged itself may be either.
        assert filled - headings <= understood + damaged <= filled
        found += damaged
    assert found > len(SEEDS) // 2


@pytest.mark.parametrize("seed", SEEDS)
def test_zones_are_sums_of_what_was_read(seed: int) -> None:
    found = parse_zoneinfo(damage(proc("zoneinfo"), seed).split("\n"))
    assert found.damaged > 0
    assert all(isinstance(n, int) for z in found.zones for n in z.values.values())


@pytest.mark.parametrize("seed", SEEDS)
def test_reports_are_sums_of_their_groups(seed: int) -> None:
    leaks = parse_kmemleak(damage((GUEST + OLD + NEW) * 20, seed).split("\n"))
    assert sum(g.count for g in leaks.groups) + leaks.ungrouped == leaks.objects
    assert sum(g.size for g in leaks.groups) == leaks.size
    assert leaks.damaged > 0
    pages = parse_page_owner(damage((DRIVER + SLAB + MOVABLE) * 20, seed).split("\n"))
    assert sum(g.pages for g in pages.groups) + pages.ungrouped == pages.pages
    assert sum(g.allocations for g in pages.groups) == pages.allocations
    assert pages.damaged > 0
    traces = parse_alloc_traces(damage("\n".join(ALLOC_CALLS * 20), seed).split("\n"))
    assert traces.objects == sum(s.count for s in traces.sites)


PARSERS: list[Callable[[list[str]], object]] = [
    parse_meminfo,
    parse_vmstat,
    parse_buddyinfo,
    parse_zoneinfo,
    parse_slabinfo,
    parse_vmallocinfo,
    parse_kmemleak,
    parse_page_owner,
    parse_alloc_traces,
    parse_allocinfo,
    parse_status,
    parse_ps,
]


@pytest.mark.parametrize("parser", PARSERS)
def test_noise_is_harmless(parser: Callable[[list[str]], object]) -> None:
    """Lines that make a careless expression try every way: each as long as a line may get."""
    long = 1 << 14
    noise = [
        " " * long,
        "a" * long,
        "a " * (long // 2),
        "a_" * (long // 2),
        "1 " * (long // 2),
        "a" + " " * (long - 2) + "b",
        "0x" + "f" * (long - 2),
        "Node 0, zone " + " 1" * (long // 3) + "x",
        "name" + " 1" * (long // 3),
        " 7 f" + " a=b" * (long // 5) + " !",
        'comm "' + '", pid ' * (long // 8),
        "Page allocated via order 1" + ", pid 1" * (long // 8),
        "[<" + "f" * (long - 4),
        "\x00\x1b[2J\u202e",
    ]
    parser(["PID RSS", *noise])
    for head in (DRIVER, GUEST, ALLOC_CALLS[0] + "\n", "slabinfo - version: 1.1\n"):
        parser([*head.splitlines(), *noise])
    # One linear pass takes milliseconds; what tries every way does not come back.
    found = parser(noise)
    damaged = found[1] if isinstance(found, tuple) else vars(found)["damaged"]
    assert 0 < damaged <= len(noise)


def test_names_of_families_are_harmless() -> None:
    for name in ("(" * 5000, "kmalloc-" * 2000, "a-" * 5000 + "1k", "x(1:" * 3000, "_" * 9000):
        assert family(name)[1] in ("", "memcg")
