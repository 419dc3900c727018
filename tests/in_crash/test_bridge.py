"""The bridge and the host over it, through a real socket, without PyKdump: see `stand_in`."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crashext.incrash import crashext_wire as wire
from tests.conftest import ask, lab_dump, lab_host, on, run
from tests.in_crash.processes import engines_of, gone
from tests.lab import read_addresses

PROMPT = "crash>\n"
_MARK = "CRASHEXT_TEST_SESSION"


class Session:
    """A stand-in crash session that takes command lines."""

    def __init__(self, process: subprocess.Popen[str], mark: str) -> None:
        self._process = process
        self._mark = f"{_MARK}={mark}"
        self.pid = process.pid

    def send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        """Everything up to the next prompt."""
        assert self._process.stdout is not None
        lines: list[str] = []
        for line in iter(self._process.stdout.readline, ""):
            if line == PROMPT:
                return "".join(lines)
            lines.append(line)
        raise AssertionError("the session ended: " + "".join(lines))

    def ask(self, line: str) -> str:
        self.send(line)
        return self.answer()

    def engines(self) -> list[int]:
        """Process numbers of this session's engines, which are no children of crash's."""
        return engines_of(self._mark)

    def counts(self) -> tuple[int, int, int]:
        """(open descriptors, children, failed reads)"""
        descriptors, children, failed, *_ = map(int, self.ask(".fds").split())
        return descriptors, children, failed

    def reads(self) -> int:
        """Reads of memory that crash was asked for so far."""
        return int(self.ask(".fds").split()[3])

    def text_bytes(self) -> int:
        """Bytes of the kernel's text among them."""
        return int(self.ask(".fds").split()[4])


@contextmanager
def session(
    name: str,
    engine: Path | str = sys.executable,
    form: str = "vmcore",
    incrash: Path = Path(wire.__file__).parent,
) -> Iterator[Session]:
    dump = lab_dump(name)
    script = Path(__file__).with_name("stand_in.py")
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, str(script), str(dump.folder / form), str(dump.vmlinux)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            **os.environ,
            "CRASHEXT_PYTHON": str(engine),
            "CRASHEXT_INCRASH": str(incrash),
            "PYTHONPATH": str(incrash.parents[1]),
            _MARK: mark,
        },
    )
    try:
        yield Session(process, mark)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


def script(path: Path, text: str) -> Path:
    """An engine of our own making."""
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("form", ["vmcore", "vmcore.kdump", "vmcore.d31"])
def test_the_document_is_the_drgn_hosts(form: str) -> None:
    ours = ask("leakscan", *on("default", form), "--json", "kmalloc-32", "dentry", "task_struct")
    with session("default", form=form) as crash:
        theirs = crash.ask("leakscan --json kmalloc-32 dentry task_struct")
        assert theirs == ours.out
        assert crash.counts()[2] == 0  # a failed read leaks memory inside PyKdump


def test_objsim_finds_the_same_kin() -> None:
    node = hex(read_addresses(lab_dump("default").addresses("nodes"))[5])
    ours = ask("objsim", *on("default"), "--json", "--list", node)
    with session("default") as crash:
        assert crash.ask(f"objsim --json --list {node}") == ours.out


def test_bad_questions_get_one_line_and_the_prompt() -> None:
    with session("default") as crash:
        assert crash.ask("leakscan kmaloc-32").count("\n") == 1
        assert "did you mean kmalloc-32" in crash.ask("leakscan kmaloc-32")
        assert "leakscan -h helps" in crash.ask("leakscan --nonsense")
        assert "-c" not in crash.ask("leakscan -h").split()


def test_a_missing_engine() -> None:
    with session("default", "/nonexistent/python3") as crash:
        said = crash.ask("leakscan kmalloc-32")
    assert said.count("\n") == 1
    assert "cannot start /nonexistent/python3" in said
    assert "crashext setup" in said


def test_an_engine_without_crashext(tmp_path: Path) -> None:
    engine = script(tmp_path / "python3", "import sys; sys.exit('No module named crashext')")
    with session("default", engine) as crash:
        said = crash.ask("leakscan kmalloc-32")
        assert "did not start" in said
        assert "crashext setup" in said
        assert crash.counts()[1] == 0


def test_an_engine_that_writes_garbage(tmp_path: Path) -> None:
    send = "import os, sys; os.write(int(sys.argv[-1]), {}); import time; time.sleep(60)"
    for garbage in (b"hello, who is there?" * 9, b"\xff" * 64, wire._HEADER.pack(3, 99) + b"abc"):
        engine = script(tmp_path / "python3", send.format(garbage))
        with session("default", engine) as crash:
            said = crash.ask("leakscan kmalloc-32")
            assert said.count("\n") == 1, said
            assert "it was stopped" in said
            assert crash.counts()[1] == 0


def test_an_engine_of_another_version(tmp_path: Path) -> None:
    text = (
        "import socket, sys\n"
        f"sys.path.insert(0, {str(Path(wire.__file__).parent)!r})\n"
        "import crashext_wire as wire\n"
        "sock = socket.socket(fileno=int(sys.argv[-1]))\n"
        "wire.send(sock, wire.HELLO, b'\\x63\\0\\0\\0')\n"
        "sys.exit(2 if wire.receive(sock)[0] == wire.FAILED else 0)\n"
    )
    with session("default", script(tmp_path / "python3", text)) as crash:
        assert "of another version" in crash.ask("leakscan kmalloc-32")


def test_an_engine_that_is_killed(tmp_path: Path) -> None:
    text = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with session("default", script(tmp_path / "python3", text)) as crash:
        said = crash.ask("leakscan kmalloc-32")
        assert said.count("\n") == 1
        assert "killed by signal 9" in said
        assert crash.counts()[1] == 0


def test_interruption_returns_to_the_prompt() -> None:
    """Ctrl-C reaches crash alone; the engine hears of it once and says what it knows."""
    with session("default") as crash:
        crash.ask("leakscan kmalloc-32")
        for delay in (0.05, 0.3, 0.6, 0.9):
            crash.send("leakscan kmalloc-32 kmalloc-96 dentry task_struct kmalloc-64 filp")
            time.sleep(delay)
            os.kill(crash.pid, signal.SIGINT)
            said = crash.answer()
            assert "Traceback" not in said, said
            assert "nterrupt" in said or said.startswith("kmalloc-32: 200,000"), said
            assert crash.counts()[1] == 0
        assert crash.ask("leakscan kmalloc-32").startswith("kmalloc-32: 200,000")


def test_200_commands_leave_nothing_behind() -> None:
    with session("healthy") as crash:
        crash.ask("objsim linux_banner")
        before, engines = crash.counts(), crash.engines()
        for _ in range(200):
            assert "linux_banner" in crash.ask("objsim linux_banner")
        assert crash.counts() == before
        assert crash.engines() == engines
        assert len(engines) == 1


def test_what_was_learnt_of_a_dump_is_not_read_again() -> None:
    with session("default") as crash:
        first = crash.ask("leakscan kmalloc-32")
        before = crash.reads()
        assert crash.ask("leakscan kmalloc-32") == first
        assert crash.ask("leakscan --json kmalloc-32").startswith("{")
        assert crash.reads() == before


def test_the_text_is_read_once_a_session() -> None:
    host = lab_host("default")
    first, last = host.address_of("_text"), host.address_of("_etext")
    assert first is not None
    assert last is not None
    with session("default") as crash:
        assert "leaklab_leak_nodes" in crash.ask("leakscan --sites kmalloc-32")
        read = crash.text_bytes()
        assert last - first <= read <= 1.01 * (last - first)
        assert "leaklab_queue_messages" in crash.ask("leakscan --sites kmalloc-512")
        assert "leaklab_leak_private" in crash.ask("leakscan --no-refs leaklab_obj")
        # Whoever calls and is called there, two deep: with who keeps pointers to the objects.
        assert "keeps the address of it" in crash.ask("leakscan kmalloc-192")
        assert crash.text_bytes() <= 1.01 * (last - first)


def test_an_interrupted_answer_is_not_kept() -> None:
    """What Ctrl-C cut off is told once, and worked out when it is asked again."""
    whole = run("leakscan", *on("default"), "--json", "kmalloc-32", "dentry", "filp").out
    with session("default") as crash:
        crash.ask("leakscan -h")
        for delay in (0.4, 0.8, 1.2, 1.6):
            crash.send("leakscan kmalloc-32 dentry filp")
            time.sleep(delay)
            os.kill(crash.pid, signal.SIGINT)
            crash.answer()
        theirs = crash.ask("leakscan --json kmalloc-32 dentry filp")
        assert theirs == whole


def test_the_engine_ends_with_crash() -> None:
    """However crash ends: its end of the socket is what the engine lives by."""
    with session("healthy") as crash:
        crash.ask("objsim linux_banner")
        (engine,) = crash.engines()
        os.kill(crash.pid, signal.SIGKILL)
        assert gone(engine)


def test_the_engine_ends_with_crash_in_the_midst_of_work() -> None:
    with session("default") as crash:
        crash.ask("leakscan -h")
        crash.send("leakscan --orphans")
        time.sleep(1.5)
        (engine,) = crash.engines()
        os.kill(crash.pid, signal.SIGKILL)
        assert gone(engine)


def test_a_killed_engine_is_started_anew_and_that_is_said() -> None:
    with session("healthy") as crash:
        crash.ask("objsim linux_banner")
        (engine,) = crash.engines()
        os.kill(engine, signal.SIGKILL)
        assert gone(engine)
        said = crash.ask("objsim linux_banner")
        assert said.startswith("objsim: the engine was gone and is started anew\n")
        assert "linux_banner" in said.split("\n", 1)[1]
        assert len(crash.engines()) == 1


def test_a_new_crashext_gets_a_new_engine(tmp_path: Path) -> None:
    """An upgrade under a running crash: the old engine must not go on."""
    package = tmp_path / "site" / "crashext"
    shutil.copytree(Path(wire.__file__).parents[1], package)
    with session("healthy", incrash=package / "incrash") as crash:
        crash.ask("objsim linux_banner")
        (engine,) = crash.engines()
        (package / "__init__.py").write_text('__version__ = "99"\n')
        said = crash.ask("objsim --version")
        assert "crashext is another now" in said
        assert "99" in said
        assert gone(engine)


def test_questions_that_crash_cannot_answer_are_refused() -> None:
    """Reads at 0, at the last word and at list poison: an answer, never an end of the session."""
    with session("healthy") as crash:
        said = crash.ask("objsim 0x0 0xffffffffffffffff 0xdead000000000100")
        assert "Traceback" not in said
        for address in ("0: not ", "ffffffffffffffff: not ", "dead000000000100: not "):
            assert address in said


def test_an_earlier_dump_is_opened_with_crashs_own_debug_file() -> None:
    earlier = lab_dump("growth").before
    with session("growth") as crash:
        inside = crash.ask(f"leakscan --before {earlier.vmcore}")
    outside = " ".join(run("leakscan", *on("growth"), "--before", earlier.vmcore).out.split())
    grew = re.findall(r"kmalloc-32 \+[\d.]+ MiB", outside)
    assert len(grew) == 1
    assert grew[0] in " ".join(inside.split())


def test_what_was_finished_before_an_interrupt_is_kept() -> None:
    """A report of before is plain data; all else of the interrupted command is let go."""
    with session("default") as crash:
        first = crash.ask("leakscan --no-refs kmalloc-32")
        cold = crash.reads()
        crash.send("leakscan --no-refs --seed 3 dentry filp")
        time.sleep(0.05)
        os.kill(crash.pid, signal.SIGINT)
        assert "nterrupt" in crash.answer()
        before = crash.reads()
        assert crash.ask("leakscan --no-refs kmalloc-32") == first
        assert crash.reads() - before < 0.7 * cold  # most of them read the names of all caches
