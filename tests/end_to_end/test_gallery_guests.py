"""The lab's gallery: each guest really has what its truth says, by the guest's own account."""

from __future__ import annotations

import drgn
import pytest
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.percpu import per_cpu_ptr

from tests.conftest import lab_dump
from tests.lab import SCENARIOS, Dump, read_addresses

MIB = 1 << 20
CLASSES = {
    *("leak", "held-growth", "deferred-free", "reclaimable", "fragmentation", "user-space"),
    "healthy",
}

# Scenario -> the line of meminfo that shows it, and how much more it says than a healthy guest.
SHOWS = {
    "process": ("AnonPages", 100 * MIB),
    "tmpfs": ("Shmem", 80 * MIB),
    "pagetables": ("PageTables", 48 * MIB),
    "pagecache": ("Cached", 96 * MIB),
    "hugetlb": ("Hugetlb", 16 * MIB),
    "dentries": ("SReclaimable", 60 * MIB),
    "rcu": ("SUnreclaim", 200_000 * (64 + 128)),
    "fragmentation": ("SUnreclaim", 300_000 * 264),
    "kmem_test": ("VmallocUsed", 96 * MIB),
    "two": ("VmallocUsed", 24 * MIB),
    "growth": ("SUnreclaim", 100_000 * 32),
}
# Gone to where it belongs, and not to more than that; two boots differ by some pages.
ROOM = 1.1
BOOTS_DIFFER = 256 * 1024


def meminfo(dump: Dump) -> dict[str, int]:
    """Line -> bytes."""
    lines = (dump.proc / "meminfo").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}


def open_drgn(dump: Dump) -> drgn.Program:
    program = drgn.Program()
    program.set_core_dump(str(dump.vmcore))
    program.load_debug_info([str(dump.vmlinux)], main=True)
    return program


@pytest.mark.parametrize("name", SHOWS)
def test_meminfo_shows_what_the_truth_says(name: str) -> None:
    line, size = SHOWS[name]
    more = meminfo(lab_dump(name))[line] - meminfo(lab_dump("healthy"))[line]
    assert size - BOOTS_DIFFER <= more <= size * ROOM + MIB


@pytest.mark.parametrize("name", ["healthy", "default", "process", "tmpfs", "dentries", "rcu"])
def test_meminfo_is_that_of_the_dump(name: str) -> None:
    dump = lab_dump(name)
    program, said = open_drgn(dump), meminfo(dump)
    free = program["vm_zone_stat"][program.constant("NR_FREE_PAGES")].counter.value_()
    assert abs(free * 4096 - said["MemFree"]) <= 256 * 1024
    for item, line in (
        ("NR_ANON_MAPPED", "AnonPages"),
        ("NR_SHMEM", "Shmem"),
        ("NR_SLAB_RECLAIMABLE_B", "SReclaimable"),
        ("NR_SLAB_UNRECLAIMABLE_B", "SUnreclaim"),
        ("NR_PAGETABLE", "PageTables"),
    ):
        pages = program["vm_node_stat"][program.constant(item)].counter.value_()
        assert abs(pages * 4096 - said[line]) <= 256 * 1024, line


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "huge"])
def test_every_scenario_has_a_verdict(name: str) -> None:
    truth = lab_dump(name).truth()
    verdicts = [truth["verdict"], *truth["also"]]
    assert {verdict["class"] for verdict in verdicts} <= CLASSES
    blamed = {part for verdict in verdicts for part in verdict["parts"]}
    guilty = {part for part, facts in truth["parts"].items() if facts["guilty"]}
    # Areas of vmap() are addresses: the pages in them have another holder.
    assert guilty - {"vmaps"} <= blamed
    if truth["verdict"]["class"] == "healthy":
        assert (blamed, truth["also"]) == (set(), [])
    for verdict in verdicts:
        assert (verdict["bytes"] > 0) == (verdict["class"] != "healthy")


@pytest.mark.parametrize(
    ("name", "line"), [("process", "RssAnon"), ("pagetables", "VmPTE"), ("hugetlb", "HugetlbPages")]
)
def test_the_process_of_the_truth_has_the_memory(name: str, line: str) -> None:
    dump = lab_dump(name)
    verdict = dump.truth()["verdict"]
    process = verdict["culprit"]["process"]
    folder = dump.proc / str(process["pid"])
    status = dict(row.split(":", 1) for row in (folder / "status").read_text().splitlines())
    size = int(status[line].split()[0]) * 1024
    assert verdict["bytes"] * 0.99 <= size <= verdict["bytes"] * 1.01
    assert (folder / "comm").read_text().strip() == process["comm"] == "labuser"
    if name == "pagetables":
        assert int(status["VmRSS"].split()[0]) * 1024 < MIB


def test_the_rcu_backlog_is_waiting_in_the_dump() -> None:
    dump = lab_dump("rcu")
    program = open_drgn(dump)
    waiting = pending = 0
    for cpu in for_each_online_cpu(program):
        waiting += per_cpu_ptr(program["rcu_data"].address_of_(), cpu).cblist.len.counter.value_()
        pending += per_cpu_ptr(program["krc"].address_of_(), cpu).count.value_()
    assert waiting >= 200_000
    # The rest is in the batches that were handed on already and wait for the same reader.
    assert pending >= 50_000


def test_growth_is_one_guest_at_two_moments() -> None:
    later = lab_dump("growth")
    earlier = later.before
    old, new = earlier.truth(), later.truth()
    assert (old["parts"]["nodes"]["count"], new["parts"]["nodes_later"]["count"]) == (
        20_000,
        80_000,
    )
    assert old["module"]["base"] == new["module"]["base"]
    assert new["parts"]["nodes"] == old["parts"]["nodes"]
    assert "nodes_later" not in old["parts"]
    seconds = [float((dump.proc / "uptime").read_text().split()[0]) for dump in (earlier, later)]
    assert seconds[1] - seconds[0] >= 20
    for dump in (earlier, later):
        program = open_drgn(dump)
        node = read_addresses(dump.addresses("nodes"))[0]
        assert program.read_u64(node) == int(old["parts"]["nodes"]["pointers"]["owner"], 16)
    assert verdict_bytes(earlier) == 20_000 * 32
    assert verdict_bytes(later) == 100_000 * 32


def verdict_bytes(dump: Dump) -> int:
    size = dump.truth()["verdict"]["bytes"]
    assert isinstance(size, int)
    return size
