"""One report in every form that logs have it, reports of memory cgroups, and growth in any form.

The report is one of 4.18 as rsyslog keeps it (``#012`` for a line's end). Forms: printk.c,
util-linux dmesg, journalctl, rsyslog, /dev/kmsg, OPAL's and Android's logs, kmemleak's messages.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import run
from tests.end_to_end.test_pastes import first
from tests.end_to_end.test_siblings import SIBLINGS

SAID = "kmalloc-8192 has 87.0 GiB"
RSYSLOG = (SIBLINGS / "oom-4.18-rsyslog.txt").read_text()
BARE = re.sub(r"(?m)^Jan 12 03:14:15 db1 kernel: ", "", RSYSLOG).replace("#012", "\n")


def before(prefix: str) -> Callable[[], str]:
    return lambda: "".join(f"{prefix}{line}\n" for line in BARE.splitlines())


FORMS: dict[str, Callable[[], str]] = {
    "rsyslog": lambda: RSYSLOG,
    "bare": lambda: BARE,
    "dmesg": before("[12345.678901] "),
    "dmesg -T": before("[Wed Jan 12 03:14:15 2022] "),
    "dmesg -r": before("<4>[12345.678901] "),
    "dmesg -x": before("kern  :warn  : [Wed Jan 12 03:14:15 2022] "),
    "caller": before("[12345.678901][ T12345] "),
    "caller, spaced": before("[12345.678901] [ T12345] "),
    "kmsg": before("4,1234,12345678901,-;"),
    "short-iso": before("2022-01-12T03:14:15+0100 db1 kernel: "),
    "rsyslog iso": before("2022-01-12T03:14:15.123456+01:00 db1 kernel: "),
    "short-full": before("Wed 2022-01-12 03:14:15 CET db1 kernel[0]: "),
    "short-monotonic": before("[12345.678901] db1 kernel: "),
    "ubuntu": before("Jan 12 03:14:15 db1 kernel: [12345.678901] "),
    "console": before("2022-01-12 03:14:15 [12345.678901] "),
    "opal": before("[12345.678901,4] "),
    "logcat": before("01-12 03:14:15.123     0     0 W         : "),
    "quoted": before("> [12345.678901] "),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_log(form: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(FORMS[form]())
    ran = run("leakscan", tmp_path / "log")
    assert "107.2 GiB of slab memory (85.2 % of memory)" in first(ran.out)
    assert SAID in first(ran.out)
    assert "of no kind" not in ran.out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("oom-memcg-3.10", ("its limit of 1.0 GiB", "anonymous memory is 1013.0 MiB, >99.9 %")),
        ("oom-memcg-5.4", ("its limit of 4.0 GiB", "reclaimable slab memory is 3.7 GiB, 95.5 %")),
    ],
)
def test_a_cgroup_at_its_limit_is_not_the_machine(name: str, said: tuple[str, ...]) -> None:
    out = first(run("leakscan", SIBLINGS / f"{name}.txt").out)
    for words in ("not the machine out of memory", *said):
        assert words in out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("kml-mail", ("1 kmalloc-256 object", "allocated by usb_foo_probe [usbfoo]")),
        ("kml-dmesg", ("1 kmalloc-2k object", "kmemleak_test_init [kmemleak_test]")),
        (
            "page-owner-culled",
            ("page_owner has 1,312,312 pages of baz_pin_pages+0x54/0x130 [baz]",),
        ),
    ],
)
def test_reports_that_were_mailed_logged_or_summed(name: str, said: tuple[str, ...]) -> None:
    ran = run("leakscan", SIBLINGS / f"{name}.txt")
    for words in said:
        assert words in first(ran.out)
    assert "damaged" not in ran.out


@pytest.mark.parametrize("name", ["ftrace", "perf"])
def test_a_trace_is_answered_as_one(name: str) -> None:
    path = SIBLINGS / f"{name}.txt"
    assert run("leakscan", path).out == run("leakscan", "--trace", path).out
    assert "leaky_init+0x25" in run("leakscan", path).out


def test_a_trace_beside_counters_is_said(tmp_path: Path) -> None:
    for name in ("ftrace", "healthy"):
        (tmp_path / f"{name}.txt").write_text((SIBLINGS / f"{name}.txt").read_text())
    out = " ".join(run("leakscan", "-v", tmp_path).out.split())
    assert "trace in ftrace.txt; not used here" in out


COUNTERS = """\
MemTotal:       16384000 kB
MemFree:        {free} kB
Buffers:           12000 kB
Cached:          3500000 kB
AnonPages:       1030000 kB
Shmem:             20000 kB
Slab:            4400000 kB
SReclaimable:     100000 kB
SUnreclaim:      4300000 kB
"""
DATE = "Fri Nov 22 {hour:02}:13:19 UTC 2019\n"
OOM = (SIBLINGS / "oom-4.18-rsyslog.txt").read_text()


def slabtop(hour: int) -> str:
    slabs = 10_000 + 16_000 * hour
    return (
        f"{DATE.format(hour=hour)} Active / Total Objects (% used)    : 9 / 9 (99.7%)\n"
        "  OBJS ACTIVE  USE OBJ SIZE  SLABS OBJ/SLAB CACHE SIZE NAME\n"
        f"{slabs * 32} {slabs * 32}  99%    0.50K {slabs}       32  {slabs * 16}K kmalloc-512\n"
    )


def free(hour: int) -> str:
    return (
        f"{DATE.format(hour=hour)}              total        used        free      shared  "
        "buff/cache   available\n"
        f"Mem:       16384000    {2_000_000 + hour * 1_000_000}     {9_000_000 - hour * 1_000_000}"
        "       20000     3500000     9000000\n"
    )


def areas(hour: int) -> str:
    one = "0x{0:016x}-0x{0:016x} 1052672 foo_buf_alloc+0x4b/0x120 [foo] pages=256 vmalloc\n"
    lines = "".join(one.format(i) for i in range(100 + 200 * hour))
    return DATE.format(hour=hour) + COUNTERS.format(free=7_000_000) + lines


def reports(hour: int) -> str:
    size = 91_201_880 + hour * (1 << 20)
    text = BARE.replace("91201880KB", f"{size}KB").replace(
        "28101221", str(28101221 + 262144 * hour)
    )
    return "".join(f"[{3600 * (hour + 1)}.000000] {line}\n" for line in text.splitlines())


@pytest.mark.parametrize(
    ("form", "start", "said", "rate"),
    [
        (slabtop, COUNTERS.format(free=7_000_000), "kmalloc-512 grows: +1,536,000", "250.0 MiB"),
        (free, "", "memory in use, by processes or the kernel, grows: 2.9 GiB", "976.6 MiB"),
        (areas, "", "vmalloc memory of foo_buf_alloc [foo] grows: +600 areas", "200.0 MiB"),
        (reports, "", "kmalloc-8k grows: 3.0 GiB", "1.0 GiB"),
    ],
    ids=["slabtop", "free", "vmallocinfo", "oom"],
)
def test_growth_in_any_form_has_a_rate(
    form: Callable[[int], str], start: str, said: str, rate: str, tmp_path: Path
) -> None:
    (tmp_path / "watch.log").write_text(start + "".join(form(hour) for hour in range(4)))
    out = " ".join(run("leakscan", tmp_path / "watch.log").out.split())
    assert said in out
    assert f"{rate} per hour: at this rate memory lasts" in out
