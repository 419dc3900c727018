"""All of MemTotal: both counts add up and agree, and what was leaked is where it was leaked."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from crashext.analysis.memory.accounting import Accounting, account, unaccounted_frames
from crashext.analysis.memory.memsplit import MemorySplit
from crashext.analysis.memory.quantities import Check
from crashext.hosts.drgn import open_core
from crashext.hosts.plain import from_plain, plain
from crashext.kernel.pages.leftover import Pages, read_pages
from crashext.kernel.slab.view import KernelView
from crashext.progress import silent
from crashext.report.memory_text import memory_lines
from tests.conftest import lab_dump, lab_view
from tests.kernel.counters.test_meminfo import DUMPS
from tests.lab import SCENARIOS, read_addresses

MIB = 1 << 20


@cache
def parts_of(name: str) -> tuple[KernelView, Pages]:
    view = lab_view(name)
    return view, read_pages(view, silent)


@cache
def accounting(name: str) -> Accounting:
    view, pages = parts_of(name)
    result = account(view, pages, pages.areas)
    assert result is not None
    return result


def adds_up(split: MemorySplit) -> bool:
    return sum(p.bytes for p in split.parts) + split.unaccounted == split.total


@pytest.mark.parametrize("name", DUMPS)
def test_both_counts_add_up_and_agree(name: str) -> None:
    result = accounting(name)
    assert result.found is not None
    assert adds_up(result.counted)
    assert adds_up(result.found)
    assert [c.name for c in result.checks if not c.agrees] == []
    checks = {c.name: c for c in result.checks}
    exact = (
        "MemTotal",
        "free",
        "page tables",
        "vmalloc",
        "slab and large kmalloc",
        "kernel stacks",
    )
    assert [n for n in exact if checks[n].difference] == []
    assert result.found.total == result.line("MemTotal")
    assert result.limits == () or all("per-CPU" in limit for limit in result.limits)


@pytest.mark.parametrize("name", DUMPS)
def test_unaccounted_pages_are_the_frames_that_are_left(name: str) -> None:
    result = accounting(name)
    left = unaccounted_frames(*parts_of(name))
    assert result.found is not None
    assert result.unaccounted is not None
    assert len(left) == result.unaccounted.pages == result.found.unaccounted >> 12
    assert sum(o.pages for o in result.unaccounted.orders) == len(left)


@pytest.mark.parametrize("name", [n for n in DUMPS if n not in ("pages", "default", "nodes-debug")])
def test_little_is_unaccounted_where_no_pages_were_leaked(name: str) -> None:
    assert accounting(name).split.unaccounted < 8 * MIB


def leaked_pages(name: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Page frames that the module allocated and forgot."""
    dump, view = lab_dump(name), lab_view(name)
    found = []
    for order in range(4):
        blocks = np.array(read_addresses(dump.addresses(f"pages{order}")), np.uint64)
        first = (blocks - np.uint64(view.space.direct.start)) >> np.uint64(12)
        found.append((first[:, None] + np.arange(1 << order, dtype=np.uint64)).reshape(-1))
    return np.concatenate(found).astype(np.int64)


@pytest.mark.parametrize("name", ["pages", "default", "nodes-debug"])
def test_leaked_pages_are_unaccounted(name: str) -> None:
    leaked = leaked_pages(name)
    left = unaccounted_frames(*parts_of(name))
    assert np.isin(leaked, left).all()
    assert len(left) - len(leaked) < 8 * MIB >> 12
    count = SCENARIOS[name].parameters["pages"]
    rest = accounting(name).unaccounted
    assert rest is not None
    blocks = {o.order: o.blocks for o in rest.orders}
    assert all(blocks[order] >= count for order in range(4))
    assert all(blocks[order] < count + 16 for order in (1, 2, 3))
    text = next(g for g in rest.groups if g.kind == "text")
    assert text.detail.startswith("LEAKLAB pages#")
    assert abs(text.pages - len(leaked)) <= 0.03 * len(leaked)
    assert (text.example - lab_view(name).space.direct.start) >> 12 in leaked


def test_vmalloc_is_not_unaccounted_and_has_its_caller() -> None:
    result = accounting("vmalloc")
    top = result.callers[0]
    assert (top.function, top.module) == ("leaklab_leak_vmallocs", "leaklab")
    assert (top.areas, top.bytes) == (512, 32 * MIB)
    for split in (result.counted, result.split):
        assert 32 * MIB <= split.get("vmalloc") < 40 * MIB


def test_slab_leak_is_slab() -> None:
    result = accounting("huge")
    least = SCENARIOS["huge"].parameters["nodes"] * 32
    assert least <= result.split.get("slab") < least + 64 * MIB
    assert result.counted.get("slab, unreclaimable") >= least


def test_a_filtered_dump_says_the_same() -> None:
    """Level 31 leaves out free, user and zero pages, but neither counters nor the memory map."""
    dump = lab_dump("pages")
    view = KernelView(open_core(dump.d31, [dump.vmlinux]))
    view.scan({}, seed=0)
    pages = read_pages(view, silent)
    filtered = account(view, pages, pages.areas)
    whole = accounting("pages")
    assert filtered is not None
    assert filtered.unaccounted is not None
    assert filtered.split == whole.split
    assert filtered.counted == whole.counted
    assert filtered.checks == whole.checks
    assert filtered.unaccounted.groups[0].kind == "text"


def test_counters_alone() -> None:
    view, pages = parts_of("default")
    alone = account(view, None, pages.areas)
    assert alone is not None
    assert alone.found is None
    assert alone.checks == ()
    assert alone.unaccounted is None
    assert adds_up(alone.split)
    assert any("stand alone" in limit for limit in alone.limits)
    # All that is missing are the pages that have to be walked for.
    names = ("page tables in no counter", "tracing and stack depot")
    walked = sum(accounting("default").counted.get(name) for name in names)
    assert alone.split.unaccounted == accounting("default").counted.unaccounted + walked


def test_the_same_seed_gives_the_same_answer() -> None:
    view, pages = parts_of("pages")
    assert account(view, pages, pages.areas, seed=3) == account(view, pages, pages.areas, seed=3)


@pytest.mark.parametrize("name", ["default", "pages"])
def test_reports(name: str) -> None:
    result = accounting(name)
    fields = json.loads(json.dumps(plain(result)))
    for count in (fields["counted"], fields["found"]):
        parts = sum(part["bytes"] for part in count["parts"])
        assert parts + count["unaccounted"] == count["total"]
    assert from_plain(Accounting, fields) == result
    lines = memory_lines(result)
    assert all(part.name in "\n".join(lines) for part in result.split.parts)
    assert any("LEAKLAB pages#" in line for line in lines)
    assert f"{len(result.checks)} of {len(result.checks)} quantities agree" in "\n".join(lines)


def test_names_from_the_dump_cannot_reach_the_terminal() -> None:
    result = accounting("default")
    caller = result.callers[0]
    evil = replace(caller, function="\x1b[2J", module="\x07mod")
    spoilt = replace(result, callers=(evil,))
    text = "\n".join(memory_lines(spoilt))
    assert "\x1b" not in text
    assert "\x07" not in text


def test_user_space_is_named() -> None:
    eater = accounting("process").processes[0]
    assert eater.comm == "labuser"
    assert eater.rss_anon is not None
    assert 100 * MIB <= eater.rss_anon < 101 * MIB
    spool = accounting("tmpfs").tmpfs[0]
    assert (spool.kind, spool.bytes) == ("tmpfs", 80 * MIB)
    assert spool.largest[0].bytes == 80 * MIB
    tables = accounting("pagetables")
    assert tables.split.get("page tables") >= 48 * MIB
    assert (tables.processes[0].page_tables or 0) >= 48 * MIB
    huge = accounting("hugetlb")
    assert huge.split.get("hugetlb") == 16 * MIB
    assert [p.hugetlb for p in huge.processes if p.hugetlb] == [12 * MIB]


def test_page_owner_names_who_allocated() -> None:
    """The small kernel runs with page_owner=on: its block tags are 8 blocks of 16 pages."""
    rest = accounting("kmemleak").unaccounted
    assert rest is not None
    owned = {g.detail.split("+")[0]: g for g in rest.groups if g.by == "page-owner"}
    assert owned["blk_mq_alloc_map_and_rqs"].pages == 128
    assert "vring_alloc_queue" in owned
    # What was allocated before page_owner was set up is grouped by its content.
    assert not any(name.startswith("register_") for name in owned)
    assert any(g.by == "content" for g in rest.groups)


@pytest.mark.parametrize(
    ("counted", "found", "agrees"),
    [
        (49152, 0, False),
        (0, 49152, False),
        (0, 0, True),
        (49152, 4096, True),
        (9 << 20, 10 << 20, False),
    ],
)
def test_what_only_one_count_can_see_does_not_agree(counted: int, found: int, agrees: bool) -> None:
    assert Check("page tables", counted, found).agrees is agrees
