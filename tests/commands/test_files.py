"""Files that a command names are tried before any work, and left as they were."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import SESSIONS, run

MANY_LEAKS = SESSIONS / "many-leaks.session"
ORPHANS = SESSIONS / "orphans.session"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("leakscan -c {0}/no", "cannot open dump"),
        ("leakscan -r {0}/no", "cannot open session"),
        ("leakscan -c {1} -s {0}/no", "cannot open debug file"),
        ("leakscan -r {1} --before {0}/no", "cannot open"),
        ("leakscan --trace {0}/no", "cannot read trace"),
        ("leakscan --procfs {0}/no", "cannot open"),
        ("leakscan --procfs /proc --before {0}/no", "cannot open"),
        ("leakscan -r {1} --record {0}/no/file", "cannot write session"),
        ("leakscan -r {1} --record {0}", "cannot write session"),
        ("leakscan -r {1} --record {1}", "this run reads it"),
        ("leakscan -r {1} --orphans --list {0}/no/file", "cannot write"),
        ("leakscan -r {1} --html {0}/no/file", "cannot write report"),
        ("leakscan -r {1} --html {0}", "cannot write report"),
        ("leakscan -r {1} --html {1}", "this run reads it"),
        ("leakscan -r {1} --html {0}/one --record {0}/one", "writes something else there"),
        ("objsim --text {0}/no --size 8", "cannot read"),
        ("objsim -r {1} --record {0}/no/file 0x10", "cannot write session"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path: Path, line: str, says: str) -> None:
    program, *arguments = line.format(tmp_path, MANY_LEAKS).split()
    ran = run(program, *arguments)
    assert (ran.status, ran.out) == (2, "")
    assert says in ran.err
    assert ran.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--before {0}/garbage", "garbage is not a kernel dump"),
        ("--before {0}/empty", "empty is not a kernel dump"),
        ("--trace {0}/garbage", "garbage is no trace"),
        ("--trace {0}", "Is a directory"),
        ("--trace {0}/text", "text has no allocation events"),
        ("--before {0}/folder", "folder has none of the files this reads"),
    ],
)
def test_what_a_file_is_not_is_told_before_memory_is_opened(
    tmp_path: Path, line: str, says: str
) -> None:
    """The dump is none, which nobody gets to see."""
    (tmp_path / "garbage").write_bytes(bytes(range(256)) * 16)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("no trace\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "vmcore").write_bytes(b"KDUMP   " + bytes(100))
    ran = run("leakscan", "-c", tmp_path / "vmcore", *line.format(tmp_path).split())
    assert (ran.status, ran.err.count("\n")) == (2, 1)
    assert says in ran.err


def test_a_text_without_memory_is_told_before_anything_is_compared(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no memory\n")
    ran = run("objsim", "--text", tmp_path / "text", "--size", "8")
    assert (ran.status, ran.err.count("\n")) == (2, 1)
    assert "no memory in this text" in ran.err


def test_a_trace_with_zeros_in_it_is_read(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    line = " a-1 [000] ..... 1.0: kfree: call_site=f+0x1/0x2 ptr=0000000000000001\n"
    trace.write_text(line + "\0" * 9 + "\n")
    assert "is no trace" not in run("leakscan", "--trace", trace).err


def test_files_are_tried_before_a_dump_is_opened(tmp_path: Path) -> None:
    """The dump is none, which nobody gets to see."""
    dump = tmp_path / "vmcore"
    dump.write_text("no dump")
    for more in (["--before", tmp_path / "no"], ["--record", tmp_path / "no" / "file"]):
        assert "No such file" in run("leakscan", "-c", dump, *more).err


def test_a_run_that_fails_leaves_an_old_session_alone(tmp_path: Path) -> None:
    old = tmp_path / "old.session"
    old.write_bytes(MANY_LEAKS.read_bytes())
    assert run("leakscan", "-r", MANY_LEAKS, "--record", old, "--orphans").status == 2
    assert old.read_bytes() == MANY_LEAKS.read_bytes()


def test_a_link_to_what_is_not_there_yet_is_followed(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "list")
    assert run("leakscan", "-r", ORPHANS, "--orphans", "--list", link).status == 0
    assert link.is_symlink()
    assert (tmp_path / "list").read_text()


def test_a_pipe_is_not_emptied_by_being_looked_at(tmp_path: Path) -> None:
    """Nor does opening it wait for a writer, or for a reader."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDWR)
    os.write(end, b"no trace\n")
    assert "cannot open session" in run("leakscan", "-r", tmp_path / "no", "--record", pipe).err
    assert os.read(end, 64) == b"no trace\n"
    os.close(end)


def test_what_is_no_earlier_moment_is_told_before_the_verdict(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.write_text("{}")
    ran = run("leakscan", "-r", MANY_LEAKS, "--before", old)
    assert (ran.status, ran.out) == (2, "")
    assert "no report of leakscan" in ran.err
