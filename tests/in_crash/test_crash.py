"""Real crash with real PyKdump, typed at through a terminal.

PyKdump is in no package registry: build it by its own documentation and name the shared objects in
CRASHEXT_PYKDUMP, separated by colons. Without it, or without crash, these tests skip and say so.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from crashext.commands import setup
from tests.conftest import ask, lab_dump, on, only_if, run
from tests.hosts.holes import ending_before
from tests.in_crash.processes import engines_of
from tests.lab import read_addresses
from tests.report.pages import Parsed, figures

BUILDS = [p for p in os.environ.get("CRASHEXT_PYKDUMP", "").split(":") if p]
FORMS = ("vmcore", "vmcore.kdump", "vmcore.d31")
BAR = r"(?m)^.*[━╸╺](?: +\d+%)?(?: +\d+ (?:s|min) left)? *\n?"
PROMPT = r"(?:[\r\n]|\x1b\[[0-9?]*[A-Za-z]|\x1b>)crash> "  # at a line's start: reports say it too

pytestmark = only_if(
    BUILDS and shutil.which("crash"),
    "NOT TESTED INSIDE CRASH: set CRASHEXT_PYKDUMP to mpykdump64.so, and install crash",
)


def ended(terminal: pexpect.spawn) -> None:
    """Wait until crash has ended: on a busy machine the kernel takes a while to free its memory."""
    terminal.expect(pexpect.EOF)
    terminal.wait()
    terminal.close()


class Crash:
    """A crash session on a terminal, its ~/.crashrc written by `crashext setup`."""

    def __init__(
        self,
        home: Path,
        pykdump: str,
        form: str | Path,
        scenario: str = "default",
        scroll: str | None = "off",
        window: tuple[int, int] = (50, 160),
    ) -> None:
        setup.main(["setup", "--write", "--crashrc", str(home / ".crashrc"), pykdump])
        dump = lab_dump(scenario)
        self.home = home
        # A path of its own is opened in place of the scenario's dump. By links, for crash takes
        # FILE@N for memory at address N.
        files = [home / "vmlinux", home / Path(form).name]
        for link, file in zip(files, (dump.vmlinux, dump.folder / form), strict=True):
            link.unlink(missing_ok=True)
            link.symlink_to(file)
        self.terminal = pexpect.spawn(
            "crash",
            [str(f if "@" in scenario else f.readlink()) for f in files],
            cwd=home,
            env={**os.environ, "HOME": str(home), "TERM": "vt100"},
            encoding="utf-8",
            codec_errors="replace",
            timeout=240,  # on a machine that has other work to do
            dimensions=window,
        )
        # crash shows each line of the file as if it were typed, and then its first prompt.
        lines = (home / ".crashrc").read_text().splitlines()
        typed = [line for line in lines if line and line[0] != "#"]
        for _ in range(len(typed) + 1):
            self.terminal.expect(PROMPT)
        if scroll is not None:
            self.ask(f"set scroll {scroll}")

    def ask(self, line: str) -> str:
        """What a typed line prints, up to the next prompt."""
        self.terminal.sendline(line)
        return self.answer(line)

    def answer(self, line: str) -> str:
        self.terminal.expect(PROMPT)
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", str(self.terminal.before))
        text = text.replace("\r", "").split(line, 1)[-1]
        # The progress bar erases itself on a terminal; here its last state is still to be read.
        return re.sub(BAR, "", text).lstrip("\n")

    def settle(self, number: int = 42) -> None:
        """After Ctrl-C: where that found the prompt already there it makes another one, and may
        eat what is typed."""
        for _ in range(3):
            self.terminal.sendline(f"p {number}+1000")
            if not self.terminal.expect([rf"= {number + 1000}(?=[\r\n])", "command not found"]):
                break
        else:
            raise AssertionError("crash does not answer")
        self.terminal.expect(PROMPT)

    def memory(self) -> int:
        """Resident KiB of the crash process."""
        status = Path(f"/proc/{self.terminal.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found
        return int(found[1])

    def quit(self) -> None:
        if not self.terminal.isalive():
            return
        self.terminal.sendline("quit")
        ended(self.terminal)

    def descriptors(self) -> list[str]:
        """What each is open on; of sockets and pipes the kind alone."""
        folder = f"/proc/{self.terminal.pid}/fd"
        return sorted(os.readlink(f"{folder}/{n}").split("[")[0] for n in os.listdir(folder))

    def engines(self) -> list[int]:
        """Process numbers of this session's engines, which are no children of crash's."""
        return engines_of(f"HOME={self.home}")

    def children(self) -> list[str]:
        return (
            Path(f"/proc/{self.terminal.pid}/task/{self.terminal.pid}/children").read_text().split()
        )


@pytest.fixture(scope="module", params=BUILDS or [""])
def build(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def crash(build: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crash]:
    session = Crash(tmp_path_factory.mktemp("home"), build, "vmcore")
    yield session
    session.quit()


def test_extend_leakscan_py_as_written(crash: Crash) -> None:
    assert "leakscan and objsim are commands" in crash.ask("extend leakscan.py")
    assert "kmalloc-32: 200,000 of" in crash.ask("leakscan kmalloc-32")
    assert "kmalloc-32: 200,000 of" in crash.ask("extend leakscan.py kmalloc-32")


def test_extend_is_otherwise_what_it_was(crash: Crash) -> None:
    for line in ("extend", "extend nosuch.so", "extend -Z", "help extend"):
        assert crash.ask(line) == crash.ask("\\" + line) or line == "help extend", line
    (crash.home / "hello.py").write_text("print('hello from a script')\n")
    assert "hello from a script" in crash.ask("extend hello.py")


@pytest.mark.parametrize("form", FORMS)
def test_the_document_is_the_drgn_hosts(build: str, form: str, tmp_path: Path) -> None:
    caches = ["kmalloc-32", "dentry", "task_struct"]
    session = Crash(tmp_path, build, form)
    questions: tuple[list[str], ...] = (caches, ["--orphans"], [])
    for number, question in enumerate(questions):
        session.ask(f"leakscan --json {' '.join(question)} > report{number}.json")
    session.quit()
    for number, question in enumerate(questions):
        ours = ask("leakscan", *on("default", form), "--json", *question)
        theirs = json.loads((tmp_path / f"report{number}.json").read_text())
        assert theirs == ours.document, question


def test_a_dump_cut_short_is_judged_as_in_the_shell(build: str, tmp_path: Path) -> None:
    """A quarter of its memory was to come after the end of the file; crash opens it without."""
    dump, cut = lab_dump("default"), tmp_path / "cut" / "vmcore"
    cut.parent.mkdir()
    ending_before(dump.vmcore, [(64 << 20, 128 << 20)], cut)
    session = Crash(tmp_path, build, cut)
    session.ask("leakscan --json > report.json")
    session.quit()
    theirs = json.loads((tmp_path / "report.json").read_text())
    ours = run("leakscan", "-c", cut, "-s", dump.vmlinux, "--json")
    assert theirs == ours.document
    assert theirs["facts"]["damage"].startswith("truncated")


def test_objsim(crash: Crash) -> None:
    node = read_addresses(lab_dump("default").addresses("nodes"))[7]
    assert re.search(r"200,000 of 205,\d{3} kmalloc-32", crash.ask(f"objsim {node:x}"))
    assert f"{node:x}: kmalloc-32 object" in crash.ask(f"objsim 0x{node:x}")
    assert "leaklab_ops+0x8 [leaklab]" in crash.ask("objsim leaklab_ops+8")
    assert "init_task" in crash.ask("objsim &init_task")


def test_pipes_files_and_colours(crash: Crash) -> None:
    assert len(crash.ask("leakscan kmalloc-32 | head -5").splitlines()) == 5
    crash.ask("leakscan kmalloc-32 > out.txt")
    written = (crash.home / "out.txt").read_text()
    assert written.startswith("kmalloc-32: 200,000 of")
    assert "\x1b" not in written


@pytest.mark.parametrize("question", ["", "--orphans", "kmalloc-32"])
def test_a_page(crash: Crash, question: str) -> None:
    """Written where crash was started, it says what is printed and asks again in crash's words."""
    line = f"leakscan {question}".strip()
    crash.ask(f"{line} --html page.html > page.txt")
    page = Parsed((crash.home / "page.html").read_text("ascii"))
    printed = " ".join((crash.home / "page.txt").read_text().split())
    assert page.one("h1").text in printed
    assert line in [e.text for e in page.all("code")]
    crash.ask(f"{line} --json > page.json")
    assert page.values
    assert page.values <= figures(json.loads((crash.home / "page.json").read_text()))


def test_a_page_that_cannot_be_written(crash: Crash) -> None:
    said = crash.ask("leakscan kmalloc-32 --html nowhere/page.html").strip()
    assert said == "leakscan: cannot write report nowhere/page.html: No such file or directory"


def test_the_pager_returns(crash: Crash) -> None:
    crash.ask("set scroll on")
    crash.terminal.sendline("leakscan -v kmalloc-32")
    crash.terminal.expect("kmalloc-32: 200,000")
    time.sleep(1)
    crash.terminal.send("q")
    crash.terminal.expect(PROMPT)
    crash.ask("set scroll off")
    assert "kmalloc-32: 200,000" in crash.ask("leakscan kmalloc-32")


@pytest.mark.parametrize(("line", "said"), [("", "scroll: on"), ("set scroll off", "scroll: off")])
def test_scrolling_is_as_the_user_had_it(build: str, tmp_path: Path, line: str, said: str) -> None:
    """PyKdump switches it off when it is loaded, and then the first line of a report is gone."""
    (tmp_path / ".crashrc").write_text(line + "\n")
    session = Crash(tmp_path, build, "vmcore", scroll=None)
    assert said in session.ask("set scroll")
    session.quit()


def test_the_pagers_width_is_the_terminals(crash: Crash) -> None:
    crash.terminal.setwinsize(50, 84)
    crash.ask("leakscan -v --no-refs kmalloc-32")  # again, without a progress bar:
    lines = crash.ask("leakscan -v --no-refs kmalloc-32 | cat").splitlines()
    crash.terminal.setwinsize(50, 160)
    assert 60 < max(map(len, lines)) <= 84


def test_help(crash: Crash) -> None:
    assert "leakscan [options] [CACHE...]" in crash.ask("help leakscan")
    assert "objsim [options] ADDR..." in crash.ask("help objsim")
    assert "--samples" in crash.ask("leakscan -h")


def test_an_unknown_cache(crash: Crash) -> None:
    said = crash.ask("leakscan kmaloc-32").strip()
    assert said.count("\n") == 0
    assert "did you mean kmalloc-32" in said


@pytest.mark.parametrize("delay", [0.1, 0.6, 1.2])
def test_interruption(crash: Crash, delay: float) -> None:
    line = "leakscan kmalloc-32 kmalloc-96 dentry task_struct kmalloc-64 filp inode_cache"
    crash.terminal.sendline(line)
    time.sleep(delay)
    crash.terminal.sendcontrol("c")
    said = crash.answer(line)
    assert "Traceback" not in said
    assert crash.ask("p 40+2").strip().endswith("42")
    assert "kmalloc-32: 200,000" in crash.ask("leakscan kmalloc-32")


def test_a_second_interruption_leaves_the_answer_to_the_first(build: str, tmp_path: Path) -> None:
    """In a new session, so that there is something to interrupt: the verdict by the counters."""
    session = Crash(tmp_path, build, "vmcore")
    session.ask("leakscan --no-refs kmalloc-32")  # memory is open, who points at what is not known
    for delay in (0.5, 1, 2, 4, 8):  # until it has something to answer with
        session.terminal.sendline("leakscan")
        time.sleep(delay)
        session.terminal.sendcontrol("c")
        time.sleep(0.05)
        session.terminal.sendcontrol("c")
        said = session.answer("leakscan")
        session.settle()
        if said.strip("^C\n") and "interrupted before anything was known" not in said:
            break
    session.quit()
    assert "MiB of memory:" in said, said
    assert "Traceback" not in said


def test_setup_tries_what_lies_there(
    build: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dump = lab_dump("default")
    (tmp_path / "vmcore").symlink_to(dump.vmcore)
    (tmp_path / "vmlinux").symlink_to(dump.vmlinux)
    monkeypatch.chdir(tmp_path)
    assert setup.main(["setup", "--write", "--crashrc", str(tmp_path / "rc"), build]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith(f"on {tmp_path}/vmcore: leakscan runs")


@pytest.mark.parametrize("form", FORMS[:2])
def test_two_threads_say_what_one_does(build: str, form: str, tmp_path: Path) -> None:
    session = Crash(tmp_path, build, form)
    session.ask("leakscan --jobs 2 --json > report.json")
    session.quit()
    theirs = json.loads((tmp_path / "report.json").read_text())
    assert theirs == ask("leakscan", *on("default", form), "--json").document


def test_a_missing_engine(build: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRASHEXT_PYTHON", "/nonexistent/python3")
    session = Crash(tmp_path, build, "vmcore")
    said = session.ask("leakscan kmalloc-32").strip()
    session.quit()
    assert said.count("\n") == 0
    assert "cannot start /nonexistent/python3" in said


def test_epython_without_setup(build: str, tmp_path: Path) -> None:
    dump = lab_dump("default")
    script = Path(setup.__file__).parents[1] / "incrash" / "leakscan.py"
    terminal = pexpect.spawn(
        "crash",
        [str(dump.vmlinux), str(dump.vmcore)],
        cwd=tmp_path,
        env={
            **os.environ,
            "HOME": str(tmp_path),
            "TERM": "vt100",
            "CRASHEXT_PYTHON": sys.executable,
        },
        encoding="utf-8",
        timeout=240,
        dimensions=(50, 160),
    )
    for line in (f"extend {build}", "set scroll off"):
        terminal.expect(PROMPT)
        terminal.sendline(line)
    terminal.expect(PROMPT)
    terminal.sendline(f"epython {script} kmalloc-32")
    terminal.expect("kmalloc-32: 200,000 of")
    terminal.expect(PROMPT)
    terminal.sendline("quit")
    ended(terminal)


def test_200_commands_leave_nothing_behind(crash: Crash) -> None:
    for _ in range(10):
        crash.ask("objsim linux_banner")
    descriptors, memory = crash.descriptors(), crash.memory()
    for _ in range(200):
        assert "linux_banner" in crash.ask("objsim linux_banner")
    assert crash.descriptors() == descriptors
    assert not crash.children()
    assert crash.memory() < memory + 2048  # KiB over 200 commands


def test_unloading_pykdump_gives_extend_back(build: str, tmp_path: Path) -> None:
    session = Crash(tmp_path, build, "vmcore")
    assert "type the same line again" in session.ask(f"extend -u {build}")
    assert "unloaded" in session.ask(f"extend -u {build}")
    assert "No such device" in session.ask("extend nosuch.so")
    assert session.ask("p 40+2").strip().endswith("42")
    session.quit()


def test_slab_s_objects_are_the_shell_s(tmp_path: Path, build: str) -> None:
    """crash 8.0.2 itself shows no cache of this kernel: its kmem -s and -S fail there."""
    crash = Crash(tmp_path, build, "vmcore", "innocent@slab")
    try:
        inside = crash.ask("leakscan kmalloc-32 dentry")
    finally:
        crash.quit()
    outside = ask("leakscan", *on("innocent@slab"), "kmalloc-32", "dentry").out
    counted = re.compile(
        r"[\d,]+ allocated of [\d,]+ slots|reach: [\d,]+ unreachable, [\d,]+ held|"
        r"group \d+: [\d,]+ objects?"
    )
    lines = [counted.findall(text) for text in (inside, outside)]
    assert len(lines[0]) > 6
    assert lines[0] == lines[1]
