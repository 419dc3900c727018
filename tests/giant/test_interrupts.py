"""Ctrl-C typed at a terminal while a machine of 1 TiB is looked at, in a shell and in drgn."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.conftest import lab_dump
from tests.giant import SHAPES, make

_LONG = 120  # seconds, on a machine with other work
_ANSWER = "cannot-tell, slab"
_REMARK = "interrupted: the kernel's counters are"
_PROMPT = ">>> "


@pytest.fixture(scope="module")
def giant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("giant") / "1T.vmcore"
    make(lab_dump("nodes"), SHAPES["1T"], path)
    yield path
    path.unlink()


def terminal(words: list[str]) -> pexpect.spawn[str]:
    options = ["-c", str(words[-1]), "-s", str(lab_dump("nodes").vmlinux)]
    return pexpect.spawn(
        words[0],
        [*words[1:-1], *options],
        timeout=_LONG,
        dimensions=(60, 200),
        encoding="utf-8",
        # What is started in the background is born deaf to Ctrl-C, and passes that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_in_a_shell(giant: Path) -> None:
    typed = terminal([sys.executable, "-m", "crashext", "leakscan", str(giant)])
    typed.expect_exact("memory map")  # of the progress bar
    typed.sendintr()
    typed.expect_exact(_ANSWER)
    assert "Traceback" not in typed.before
    typed.expect_exact(_REMARK)
    typed.expect(pexpect.EOF)
    assert "Traceback" not in typed.before
    typed.close()
    assert typed.exitstatus == 0


def test_in_drgn_which_goes_on(giant: Path) -> None:
    typed = terminal([str(Path(sys.executable).with_name("drgn")), "-q", str(giant)])
    typed.expect_exact(_PROMPT)
    typed.sendline("%leakscan")
    typed.expect_exact("memory map")
    typed.sendintr()
    typed.expect_exact(_ANSWER)
    assert "Traceback" not in typed.before
    typed.expect_exact(_REMARK)
    typed.expect_exact(_PROMPT)
    assert "Traceback" not in typed.before
    # Ctrl-C is drgn's again.
    typed.sendline("import time; print('slee' + 'ping', flush=True); time.sleep(100)")
    typed.expect_exact("sleeping")  # not the echo: the line is not read yet then
    typed.sendintr()
    typed.expect_exact("KeyboardInterrupt")
    typed.expect_exact(_PROMPT)
    typed.sendline("exit()")
    typed.expect(pexpect.EOF)
