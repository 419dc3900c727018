"""Texts of other ages and machines than those that reporters sent: each says who has the memory.

They are made after what the tools and kernels print: mm/page_alloc.c and mm/show_mem.c (2.6.18,
2.6.32, 6.12), fs/proc/meminfo.c (2.4, 6.19), procps, crash 4 to 8, OpenZFS 2, supportutils.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from crashext.procfs.memorytext import parse
from crashext.procfs.sections import sections
from tests.conftest import run
from tests.end_to_end.test_pastes import CASES, first

SIBLINGS = CASES.parent / "siblings"
TEXTS = sorted(p for p in (*SIBLINGS.rglob("*"), *CASES.rglob("*")) if p.is_file())


@pytest.mark.parametrize(
    ("name", "said", "also"),
    [
        (
            "oom-2.6.18",
            ("7.1 GiB of slab memory (90.1 % of memory)", "not told apart"),
            ("user: anonymous 398.0 MiB",),
        ),
        (
            "oom-2.6.32",
            ("user-space", "httpd (pid 2021) has 5.7 GiB"),
            ("anonymous 6.9 GiB", "pages of 4,096 bytes recognised"),
        ),
        (
            "oom-6.x",
            ("kmalloc-rnd-05-4k has 12.4 GiB", "drivers/foo/bar.c:123 (foo_rx_refill [foo])"),
            ("MemTotal 15.6 GiB",),
        ),
        ("meminfo-2.4", ("size-4096 has 781.3 MiB", "77.9 % of memory"), ("200,000 objects",)),
        (
            "zfs",
            ("known-holder", "the ZFS ARC holds 94.0 GiB (74.7 % of memory)", "no leak"),
            ("it may grow to 94.1 GiB",),
        ),
        ("virtio", ("known-holder", "the balloon holds 5.3 GiB", "no leak"), ("balloon_inflate",)),
        ("hv", ("5.4 GiB of pages are unaccounted for", "hv_balloon is loaded"), ("hv-balloon",)),
        ("supportconfig-memory", ("kmalloc-1024 has 11.8 GiB", "79.4 % of memory"), ()),
        ("crash-old", ("size-4096 has 13.4 GiB", "89.1 % of memory"), ("read: sys, kmem -i",)),
        ("slab-64k", ("kmalloc-512 has 3.1 GiB",), ("pages of 65,536 bytes recognised",)),
        ("free", ("15.1 GiB (97.1 % of memory) is in use", "nothing here says by whom"), ()),
        ("threads", ("kernel stacks have 3.4 GiB (45.0 % of memory)",), ("225,000 threads",)),
        ("gpu", ("graphics drivers have 5.1 GiB (67.5 % of memory)",), ("a driver leaks them",)),
        ("healthy", ("reclaimable", "the page cache has 2.5 GiB"), ()),
    ],
)
def test_siblings_of_what_reporters_pasted(
    name: str, said: tuple[str, ...], also: tuple[str, ...]
) -> None:
    ran = run("leakscan", "-v", SIBLINGS / f"{name}.txt")
    assert (ran.status, ran.err) == (0, "")
    for words in said:
        assert words in first(ran.out)
    for words in also:
        assert words in " ".join(ran.out.split())
    assert not ran.out.startswith(("healthy", "leak"))


def snapshot(hour: int, stuck: int) -> str:
    text = (SIBLINGS / "healthy.txt").read_text()
    text = text.replace("SUnreclaim:       100000", f"SUnreclaim:       {100_000 + stuck}")
    text = text.replace("Slab:             400000", f"Slab:             {400_000 + stuck}")
    text = text.replace("MemFree:         3500000", f"MemFree:         {3_500_000 - stuck}")
    return f"Fri Nov 22 {hour:02}:13:19 UTC 2019\n{text}"


def test_growth_inside_one_log_has_a_rate_and_an_end(tmp_path: Path) -> None:
    log = tmp_path / "watch.log"
    log.write_text("".join(snapshot(h, 256 * 1024 * h) for h in range(5)))
    ran = run("leakscan", log)
    assert "slab memory that cannot be reclaimed grows: 1.0 GiB" in first(ran.out)
    assert "256.0 MiB per hour: at this rate memory lasts 20.4 hours" in first(ran.out)


def test_growth_between_files_with_dates_in_their_names(tmp_path: Path) -> None:
    for day in range(3):
        name = tmp_path / f"meminfo-2019-11-2{day}.txt"
        name.write_text(snapshot(day, 256 * 1024 * day).split("\n", 1)[1])
    out = run("leakscan", tmp_path).out
    assert "slab memory that cannot be reclaimed grows: 512.0 MiB" in first(out)


def test_a_second_meminfo_without_a_date_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(snapshot(1, 0))
    (tmp_path / "b.txt").write_text(snapshot(2, 1024))
    out = " ".join(run("leakscan", tmp_path).out.split())
    assert "meminfo in b.txt; not used" in out


def damaged(text: str, seed: int) -> bytes:
    """Lines cut, shuffled, doubled; bytes flipped; the end missing."""
    dice = random.Random(seed)
    lines = text.splitlines(keepends=True)
    for _ in range(1 + len(lines) // 4):
        i = dice.randrange(len(lines))
        cut = dice.randrange(len(lines[i]) + 1)
        lines[i] = dice.choice(
            [lines[i][:cut], lines[i][cut:], lines[i] * 2, dice.choice(lines), "9" * 300 + lines[i]]
        )
    if seed % 2:
        dice.shuffle(lines)
    data = bytearray("".join(lines).encode())
    for _ in range(len(data) // 50):
        data[dice.randrange(len(data))] = dice.randrange(256)
    return bytes(data[: dice.randrange(len(data)) + 1])


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: str(p.relative_to(CASES.parent)))
def test_damaged_texts_get_an_answer_or_one_line(path: Path, tmp_path: Path) -> None:
    for seed in range(4):
        file = tmp_path / "text"
        file.write_bytes(damaged(path.read_text(), seed))
        for command, *words in (("leakscan", file), ("objsim", "--text", file, "--size", 32)):
            ran = run(str(command), *words)
            assert ran.status in (0, 2)
            if ran.status:
                assert len(ran.err.splitlines()) == 1
            assert all(c == "\n" or " " <= c <= "~" for c in ran.out + ran.err)


LONG = 1 << 14
NOISE = [
    *(unit * (LONG // len(unit)) for unit in (" ", "a", "a ", "a_", "1 ", "> ", "| ", "[", "&")),
    *(unit * (LONG // len(unit)) for unit in ("<6>", "&amp;", "\x1b[", "PID ", "a@b ", "x: ")),
    *(unit * (LONG // len(unit)) for unit in ("00 ", "ffff:", "[a:", "a+1 ", "0x1 <a> ", "- ")),
    *(unit * (LONG // len(unit)) for unit in ("active_anon:1 ", "MemTotal: 1 kB ", "1 2 3% 4K ")),
    "a" + " " * (LONG - 2) + "b",
    "0x" + "f" * (LONG - 2),
    "Node 0, zone " + " 1" * (LONG // 3) + "x",
    "Nov 22 07:13:19 " * (LONG // 16),
]


@pytest.mark.parametrize("line", NOISE, ids=lambda line: repr(line[:12]))
def test_no_line_takes_long(line: str) -> None:
    begun = time.process_time()
    sections([line] * 8)
    parse("\n".join([line] * 8))
    assert time.process_time() - begun < 1.0  # 128 KiB, twice; milliseconds where all is well


MEMLEAK = """\
Attaching to kernel allocators, Ctrl+C to quit.
[11:46:12] Top 2 stacks with outstanding allocations:
\t999424 bytes in 244 allocations from stack
\t\t__kmalloc_node+0x1a5 [kernel]
\t\tkvmalloc_node+0x2b [kernel]
\t\told_table+0x11 [other]
[11:46:17] Top 2 stacks with outstanding allocations:
\t65536 bytes in 1024 allocations from stack
\t\tkmem_cache_alloc_trace+0x1a5 [kernel]
\t\tvfs_statx+0x11 [kernel]
\t1048576 bytes in 2048 allocations from stack
\t\t__kmalloc+0x1a5 [kernel]
\t\tmy_ring_alloc+0x31 [my_driver]
\t\tmy_open+0x10 [my_driver]
"""


def test_the_last_table_of_bcc_s_memleak_names_who_does_not_free(tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_text(MEMLEAK)
    ran = run("leakscan", tmp_path / "out.txt")
    assert "my_ring_alloc [my_driver] has 1.0 MiB in 2,048 allocations" in first(ran.out)
    assert "call stack: my_ring_alloc [my_driver] <- my_open [my_driver]" in ran.out
    assert "94.1 %" in ran.out


def test_what_sits_in_sockets_explains_slab_memory(tmp_path: Path) -> None:
    stuck = 2 << 20
    text = snapshot(1, stuck) + "sockets: used 290\nTCP: inuse 5 orphan 0 tw 0 alloc 9 mem 500000\n"
    (tmp_path / "out.txt").write_text(text)
    ran = run("leakscan", tmp_path / "out.txt")
    assert "the sum of socket buffers holds 1.9 GiB" in first(ran.out)
    assert "cannot tell" not in ran.out


def test_an_oom_report_beside_newer_counters_is_said_and_not_used(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(snapshot(1, 0).split("\n", 1)[1])
    for name in ("dmesg", "journal.log"):
        (tmp_path / name).write_text((CASES / "oom-log/dmesg").read_text())
    out = " ".join(run("leakscan", tmp_path).out.split())
    assert "kmemleak_object" not in out
    assert "OOM reports in a log: 1; not used: the counters beside it are newer" in out


def test_top_alone_names_the_process(tmp_path: Path) -> None:
    (tmp_path / "top.txt").write_text(
        "top - 10:11:12 up 100 days,  3:04,  1 user,  load average: 0.00, 0.01, 0.05\n"
        "MiB Mem :  64000.0 total,    500.0 free,  60000.0 used,   3500.0 buff/cache\n"
        "    PID USER      PR  NI    VIRT    RES    SHR S  %CPU  %MEM     TIME+ COMMAND\n"
        "   1234 mysql     20   0   60.2g  52.1g  12000 S   1.0  83.1   1000:00 mysqld\n"
    )
    assert "mysqld (pid 1234) has 52.1 GiB" in first(run("leakscan", tmp_path / "top.txt").out)


def test_a_page_of_a_bug_tracker(tmp_path: Path) -> None:
    text = (CASES / "percpu/meminfo").read_text().replace(" ", "&nbsp;").replace("\n", "<br/>\n")
    (tmp_path / "bug.html").write_text(f'<div class="c"><pre>{text}</pre></div>')
    out = run("leakscan", tmp_path / "bug.html").out
    assert "per-CPU memory has 17.1 GiB (54.6 % of memory)" in first(out)
    assert "skipped" not in out


def test_a_crash_session_is_sent_back_to_its_dump() -> None:
    out = run("leakscan", SIBLINGS / "crash-old.txt").out
    assert "\nnext: in a dump: leakscan size-4096\n" in out


def test_a_cgroup_s_counters_are_said_not_to_be_the_machine_s(tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_text(
        snapshot(1, 0) + "$ cat memory.stat\nanon 4096\nfile 8192\nkernel_stack 0\n"
    )
    out = " ".join(run("leakscan", tmp_path / "out.txt").out.split())
    assert "memory.stat; not used: it counts one cgroup, not the machine" in out
    assert "of no kind" not in out
