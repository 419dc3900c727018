"""Next commands as they are printed: run by a shell, from where they were printed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import crashext
from crashext.commands.questions import Question
from crashext.report.asking import Asking, split
from tests.conftest import SESSIONS, lab_dump, run
from tests.in_crash.test_bridge import session
from tests.record_samples import SAMPLES, Sample
from tests.report.pages import Parsed

_NEXT = re.compile(r"^ *next: +(.*)$", re.MULTILINE)
_STEPS = re.compile(r"^  (?:  What likeness .* )?Next:\n((?:    .*\n?)+)", re.MULTILINE)
_ELSEWHERE = re.compile(r"(in the dump|in crash|on the machine): ")


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(crashext.__file__).parents[1])}
    return subprocess.run(
        ["sh", "-c", line],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def advised(*arguments: object, folder: Path) -> list[str]:
    """Every next command that a run prints."""
    line = shlex.join([sys.executable, "-m", "crashext", *map(str, arguments)])
    ran = shell(line, folder)
    assert ran.returncode == 0, ran.stderr
    out = re.sub(r" \\\n +", " ", ran.stdout)  # a long command goes on behind a backslash
    found = _NEXT.findall(out)
    for block in _STEPS.findall(out):
        found += [row[4:] for row in block.splitlines() if row[4:5] not in ("", " ")]
    assert found
    return list(dict.fromkeys(found))


def check(commands: list[str], folder: Path) -> list[str]:
    """Run them as printed; returns those of another place, which they name."""
    elsewhere = []
    for command in commands:
        if _ELSEWHERE.match(command):
            elsewhere.append(command)
            continue
        ran = shell(command, folder)
        assert (ran.returncode, ran.stderr) == (0, ""), command
    return elsewhere


WITH_ADVICE = [s for s in SAMPLES if s.question != ("--orphans",)]


@pytest.mark.parametrize("sample", WITH_ADVICE, ids=lambda s: s.name)
def test_of_the_sample_sessions(sample: Sample) -> None:
    """A session answers what it was recorded for; the rest, it says, is to be asked of the dump."""
    name = f"{sample.name}.session"
    commands = advised("leakscan", "-v", "-r", name, *sample.question[:1], folder=SESSIONS)
    for command in check(commands, SESSIONS):
        assert command.startswith(("in the dump: ", "in crash: ")), command


@pytest.mark.parametrize(("name", "question"), [("default", []), ("twin", ["kmalloc-64"])])
def test_of_lab_dumps(name: str, question: list[str], tmp_path: Path) -> None:
    """The paths have blanks in them and are relative."""
    dump = lab_dump(name)
    for link, target in (("a vmcore", dump.vmcore), ("a vmlinux", dump.vmlinux)):
        (tmp_path / link).symlink_to(target)
    where = ("-c", "a vmcore", "-s", "a vmlinux")
    commands = advised("leakscan", "-v", *where, *question, folder=tmp_path)
    elsewhere = check(commands, tmp_path)
    assert len(elsewhere) < len(commands)
    assert all(command.startswith("in crash: ") for command in elsewhere)


def test_of_crash() -> None:
    """Bare, as everything is typed there; crash takes no comments after a command."""
    with session("default") as crash:
        found = _NEXT.findall(crash.ask("leakscan -v"))
        ours = [command for command in found if command.startswith("leakscan ")]
        assert ours
        said = crash.ask(ours[0])
        assert said.startswith(ours[0].split()[1] + ": ")
        steps = _STEPS.findall(said)
        assert "    leakscan --orphans\n" in steps[0]


def test_of_drgn() -> None:
    dump = lab_dump("default")
    drgn = Path(sys.executable).with_name("drgn")
    where = shlex.join([str(drgn), "-q", "-c", str(dump.vmcore), "-s", str(dump.vmlinux), "-e"])

    def typed(command: str) -> str:
        script = f"from drgn.commands import run_command; run_command(prog, {command!r})"
        ran = shell(f"{where} {shlex.quote(script)}", Path.cwd())
        assert (ran.returncode, ran.stderr) == (0, ""), command
        return ran.stdout

    found = _NEXT.findall(typed("leakscan -v"))
    assert all(command.startswith("%") for command in found)
    for question in ("%leakscan kmalloc-32", "%leakscan --orphans"):
        assert typed(next(c for c in found if c.startswith(question)).removeprefix("%"))


SHELL = Asking("shell", source=("-c", "a vmcore"))


@pytest.mark.parametrize(
    ("asking", "command", "typed"),
    [
        (SHELL, "leakscan dentry", "leakscan -c 'a vmcore' dentry"),
        (SHELL, "crash> vm 1", "in crash: vm 1"),
        (SHELL, "cat /proc/1/status", "on the machine: cat /proc/1/status"),
        (Asking("shell", source=("-k",), live=True), "leakscan --orphans", "leakscan -k --orphans"),
        (Asking("shell", live=True), "cat /proc/1/status", "cat /proc/1/status"),
        (Asking("crash"), "leakscan dentry", "leakscan dentry"),
        (Asking("crash"), "crash> vm 1", "vm 1"),
        (Asking("crash", live=True), "cat /proc/1/status", "!cat /proc/1/status"),
        (Asking("drgn"), "leakscan dentry", "%leakscan dentry"),
        (Asking("drgn"), "crash> vm 1", "%crash vm 1"),
        (Asking("drgn", live=True), "cat /proc/1/status", "%sh cat /proc/1/status"),
        (Asking("shell", answers=lambda words: False), "leakscan x", "in the dump: leakscan x"),
    ],
)
def test_each_place_has_its_own_words(asking: Asking, command: str, typed: str) -> None:
    assert asking.typed(command) == typed


def test_a_name_out_of_a_dump_starts_nothing_in_a_shell() -> None:
    """A slab cache may have any name."""
    evil = "x'; touch owned; #"
    printed = SHELL.typed(f"leakscan {shlex.quote(evil)}")
    assert shlex.split(printed) == ["leakscan", "-c", "a vmcore", evil]


def test_a_mark_inside_quotes_begins_no_reason() -> None:
    assert split("leakscan 'a # b'") == ("leakscan 'a # b'", "")
    assert split("leakscan 'a # b' # why") == ("leakscan 'a # b'", "why")


def test_a_session_is_asked_what_it_was_recorded_for() -> None:
    held = Question("leakscan", ("dentry", "filp"))
    assert held.answers(Question("leakscan", ("filp",)))
    assert not held.answers(Question("leakscan", ("inode_cache",)))
    assert not held.answers(Question("leakscan"))
    assert not held.answers(Question("leakscan", orphans=True))
    assert Question("leakscan").answers(Question("leakscan"))
    assert not Question("leakscan").answers(Question("leakscan", ("dentry",)))


def test_a_page_says_all_that_its_answer_hangs_on(tmp_path: Path) -> None:
    """The command line of a page prints the same answer again."""
    source = ["-r", SESSIONS / "two-leaks.session", "kmalloc-64"]
    asked = [*source, "--threshold", "0.95", "--samples", "5000", "--seed", "3"]
    first = run("leakscan", *asked, "--html", tmp_path / "page.html")
    assert (first.status, first.err) == (0, "")
    typed = [e.text for e in Parsed((tmp_path / "page.html").read_text()).all("code")]
    told = next(line for line in typed if "--threshold 0.95" in line)
    words = shlex.split(told)
    again = run("leakscan", *words[words.index("-r") :])
    assert again.out == first.out
    assert again.out != run("leakscan", *source).out
