"""The lab's kmemleak dumps: the kernel's own judge must have seen what the lab says was lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import lab_dump
from tests.lab import LabError, read_addresses
from tests.lab.kmemleak_report import Unreferenced, read_report

TWO = """\
unreferenced object 0xffff9f97c02a93e0 (size 32):
  comm "leaklab", pid 38, jiffies 4294893141
  hex dump (first 32 bytes):
    00 20 d2 c0 97 9f ff ff 00 01 00 00 00 00 ad de  . ..............
    22 01 00 00 00 00 ad de 00 00 00 00 00 00 00 00  "...............
  backtrace:
    [<(____ptrval____)>] kmalloc_trace+0x11/0x20
    [<ffffffffc0395120>] leaklab_leak_nodes+0x57/0x110 [leaklab]
unreferenced object 0xffffaf6840359000 (size 65536):
  comm "a", pid 1, ", pid 77, jiffies 4294893141 (age 12.300s)
  hex dump (first 32 bytes):
    75 6e 72 65 66 65 72 65 6e 63 65 64 20 6f 62 6a  unreferenced obj
    65 63 74 20 00 00 00 00 00 00 00 00 00 00 00 00  ect ............
  backtrace:
"""


def test_a_report_is_read_whatever_a_process_calls_itself(tmp_path: Path) -> None:
    file = tmp_path / "kmemleak"
    file.write_text(TWO)
    stack = ("kmalloc_trace+0x11/0x20", "leaklab_leak_nodes+0x57/0x110 [leaklab]")
    assert read_report(file) == [
        Unreferenced(0xFFFF9F97C02A93E0, 32, "leaklab", 38, stack),
        Unreferenced(0xFFFFAF6840359000, 65536, 'a", pid 1, ', 77, ()),
    ]


@pytest.mark.parametrize("text", [TWO[:-5], TWO[:150], "no report\n"])
def test_a_report_cut_short_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "kmemleak"
    file.write_text(text)
    with pytest.raises(LabError, match="kmemleak"):
        read_report(file)


def _reported(name: str) -> tuple[list[Unreferenced], Counter[str], dict[int, str]]:
    """The report, how many of it are of each part, and the part of each address."""
    dump = lab_dump(name)
    report = read_report(dump.proc / "kmemleak")
    owner = {
        address: part
        for part in dump.truth()["parts"]
        for address in read_addresses(dump.addresses(part))
    }
    return report, Counter(owner[r.address] for r in report if r.address in owner), owner


def test_kmemleak_lists_what_was_lost_and_nothing_that_is_held() -> None:
    report, count, owner = _reported("kmemleak")
    parts = lab_dump("kmemleak").truth()["parts"]
    for name in ("nodes", "private", "chain", "sessions", "requests"):
        # A stale word anywhere hides an object from kmemleak, or a whole ring.
        assert 0.9 * parts[name]["count"] <= count[name] <= parts[name]["count"]
    assert count["tasks"] > 0
    assert count["vmalloc"] > 0
    for name in ("living", "hashed", "payloads", "messages"):
        assert parts[name]["count"] > 0
        assert count[name] == 0
    others = [r for r in report if r.address not in owner]
    assert others, "what leaked task_structs point to is reported with them"
    assert all(any("kernel_thread+" in frame for frame in r.backtrace) for r in others)


def test_kmemleak_says_where_each_node_was_allocated() -> None:
    report, _, owner = _reported("kmemleak")
    nodes = [r for r in report if owner.get(r.address) == "nodes"]
    assert {(r.size, r.comm) for r in nodes} == {(32, "leaklab")}
    assert all(r.backtrace[1].startswith("leaklab_leak_nodes+") for r in nodes)
    assert all(r.backtrace[1].endswith(" [leaklab]") for r in nodes)


def test_kmemleak_lists_whole_rings() -> None:
    report, count, _ = _reported("kmemleak-chain")
    assert 0.9 * 20_000 <= count["chain"] <= 20_000
    # Small as this guest is, the kernel itself may have lost an object or two.
    assert len(report) - count["chain"] <= 5
