"""Damaged and hostile traces: no exception, and every line accounted for."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from crashext.hosts.base import HostError
from crashext.report.documents import TraceTotals, document
from crashext.trace import TraceReader, trace_table
from crashext.trace import lines as parsed_lines
from tests.conftest import run
from tests.trace import test_lines
from tests.trace.generator import lines
from tests.trace.helpers import read, shown, skipped

SAMPLES = [
    test_lines.TRACEFS_6_1,
    test_lines.REPORT_6_1,
    test_lines.PERF_6_1,
    test_lines.FORMAT_3_10,
    test_lines.TWO_CPUS,
    b"".join(lines(300)).decode(),
]


@pytest.mark.parametrize("seed", range(60))
def test_flipped_bytes_and_cuts(seed: int) -> None:
    rng = random.Random(seed)
    data = bytearray(rng.choice(SAMPLES).encode())
    for _ in range(rng.choice((1, 10, 200))):
        what, at = rng.randrange(4), rng.randrange(len(data))
        if what == 0:
            data[at] = rng.randrange(256)
        elif what == 1:
            del data[at : at + rng.randrange(1, 40)]
        elif what == 2:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(40)))
        else:
            data[at] = rng.choice(b"\n:=[] +->(0\t")
        if not data:
            data += b"x"
    reader = TraceReader("test")
    piece = rng.choice((13, 500, 1 << 20))
    for start in range(0, len(data), piece):
        reader.feed(bytes(data[start : start + piece]))
    trace = reader.finish()
    heard = reader._lines.heard
    assert heard.lines == data.count(b"\n")
    # Every line is one thing: an event, a frame, a remark, or one of the counted kinds.
    told = heard.remarks + heard.other_events + heard.frames + heard.unparsable
    told += heard.null_frees + heard.unprinted + heard.lost_lines + trace.events + heard.failed
    assert told == heard.lines
    assert all(31 < ord(c) < 127 or c == "\n" for c in shown(trace))
    assert document(TraceTotals.of(trace))


def test_a_broken_line_is_counted_and_the_rest_read() -> None:
    text = b"".join(lines(1000)).splitlines(keepends=True)
    whole = read(b"".join(text))
    text[500] = text[500].replace(b"ptr=ffff", b"ptr=wxyz")
    broken = read(b"".join(text))
    assert skipped(broken, "could not be read") == 1
    assert broken.events == whole.events - 1


def test_numbers_beyond_all_bounds() -> None:
    line = (
        " sh-1 [000] .... {time}: kmalloc: call_site=f+0x1/0x2 ptr={ptr} bytes_req=8 "
        "bytes_alloc={size} gfp_flags=\n"
    )
    good = {"time": "1.000000", "ptr": "ffff888000000000", "size": "8"}
    for bad in (
        {"size": "9" * 40},
        {"size": "-8"},
        {"ptr": "f" * 17},
        {"ptr": "0x"},
        {"time": "9" * 30},
        {"time": "1." + "0" * 30},
    ):
        trace = read(line.format(**{**good, **bad}))
        assert (trace.events, skipped(trace, "could not be read")) == (0, 1), bad


def test_names_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace of ever new places and tasks: bounded, and said so."""
    for limit in ("_MOST_SITES", "_MOST_TASKS"):
        monkeypatch.setattr(parsed_lines, limit, 1000)
    text = "".join(
        f" t{i}-{i} [000] .... 1.{i:06}: kmalloc: call_site=f{i}+0x1/0x2 ptr={0xFFFF888000000000 + i * 64:x} "  # noqa: E501
        "bytes_req=8 bytes_alloc=8 gfp_flags=\n"
        for i in range(1500)
    )
    trace = read(text)
    assert len(trace.sites) <= 1000
    assert len(trace.outstanding) == 1500
    assert sum(s.outstanding for s in trace.sites) == 1500
    assert skipped(trace, "beyond the limit")


def test_a_line_without_end() -> None:
    text = b"".join(lines(10)) + b"x" * (5 << 20) + b"\n" + b"".join(lines(10, seed=1))
    trace = read(text)
    assert skipped(trace, "too long") == 1
    assert trace.events == 20


def test_terminal_controls_in_names_are_printed_as_text() -> None:
    line = " \x1b[31mevil-1 [000] .... 1.000000: kmalloc: call_site=\x1b]0;x\x07+0x1/0x2 ptr=ffff888000000000 bytes_req=8 bytes_alloc=8 gfp_flags=\n"  # noqa: E501
    text = shown(read(line))
    assert "\x1b" not in text
    assert "\\x1b]0;x\\x07+0x1" in text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "nothing in it"),
        (b"hello\nworld\n", "2 lines in it"),
        (b"PERFILE2" + bytes(100), "perf script"),
        (b"\x1f\x8b" + bytes(100), "gzip"),
    ],
)
def test_files_that_are_no_traces(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    _refused(path, says)


@pytest.mark.usefixtures("lab")
def test_a_file_that_trace_cmd_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.dat"
    path.write_bytes(b"\x17\x08\x44tracing7\0" + bytes(100))
    _refused(path, "trace-cmd cannot read")


def _refused(path: Path, says: str) -> None:
    with pytest.raises(HostError, match=says):
        trace_table(path)
    ran = run("leakscan", "--trace", path)
    assert ran.status == 2
    assert says in ran.err
    assert ran.err.count("\n") == 1


def test_without_trace_cmd_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trace.dat"
    path.write_bytes(b"\x17\x08\x44tracing7\0")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="needs trace-cmd, which is not installed"):
        trace_table(path)


def test_trace_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_bytes(b"".join(lines(10)))
    assert run("leakscan", "--trace", path).status == 0
    for more in (["kmalloc-32"], ["-c", "vmcore"], ["--record", tmp_path / "s"]):
        ran = run("leakscan", "--trace", path, *more)
        assert (ran.status, ran.out) == (2, "")
    assert run("leakscan").status == 2
