"""The width of what is printed: COLUMNS, else the nearest terminal, else a fixed one."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from crashext.commands.telling import message
from crashext.report import window
from crashext.report.lines import folded
from tests.conftest import SESSIONS, run

MISTAKE = ("--list", "addresses", "--orphans", "-c", "/no/folder/of/a/dump/vmcore-of-a-machine")


def in_terminal(columns: int, *arguments: str, to: int | None = None) -> str:
    """What `leakscan` prints on a terminal so wide; standard output goes to descriptor `to`."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
    command = [sys.executable, "-m", "crashext", "leakscan", *arguments]
    with subprocess.Popen(
        command,
        cwd=SESSIONS.parent,
        env=environment,
        stdin=slave,
        stdout=slave if to is None else to,
        stderr=slave,
    ) as ran:
        os.close(slave)
        said = b""
        while True:
            try:
                some = os.read(master, 1 << 16)
            except OSError:  # the last of its writers has ended
                break
            if not some:
                break
            said += some
        ran.wait()
    os.close(master)
    return said.decode()


@pytest.mark.parametrize("columns", [60, 90])
def test_a_mistake_is_folded_to_the_terminal(columns: int) -> None:
    lines = in_terminal(columns, *MISTAKE).splitlines()
    assert len(lines) > 1
    assert max(map(len, lines)) <= columns
    assert lines[0].startswith("leakscan: ")
    assert all(line.startswith("  ") for line in lines[1:])


def test_a_mistake_is_one_line_where_no_terminal_shows_it() -> None:
    ran = run("leakscan", *MISTAKE)
    assert ran.status == 2
    assert ran.err.count("\n") == 1
    assert len(ran.err) > 80


def test_what_is_piped_is_as_wide_as_the_terminal_it_was_typed_on(tmp_path: Path) -> None:
    printed = tmp_path / "printed"
    with printed.open("w") as file:
        in_terminal(70, "/proc", to=file.fileno())
    widths = [len(line) for line in printed.read_text().splitlines()]
    assert 60 < max(widths) <= 70


def test_without_a_terminal_columns_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crashext.report.window._first", lambda *streams: 0)
    assert window.output_width() == window.UNKNOWN
    for exported, width in (("72", 72), ("10", window.NARROWEST), ("wide", window.UNKNOWN)):
        monkeypatch.setenv("COLUMNS", exported)
        assert window.output_width() == width
    monkeypatch.setattr("crashext.report.window._first", lambda *streams: 200)
    monkeypatch.setenv("COLUMNS", "72")
    assert window.output_width() == window.message_width() == 72


def test_a_message_is_escaped_before_it_is_folded() -> None:
    assert message("leakscan", "a\tb\x1b[2J\nc\v") == "leakscan: a\\tb\\x1b[2J\\nc\\x0b\n"


@pytest.mark.parametrize("unit", ["%", "bytes", "KiB", "GiB"])
def test_a_number_stays_with_its_unit(unit: str) -> None:
    for before in range(40, 62):
        lines = folded(f"{'x' * before} 12.5 {unit}, and more words to fold it", 60)
        assert any(f"12.5 {unit}" in line for line in lines)
