"""Ctrl-C while Python still imports the engine: one line, no traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

_INTERRUPTED = """
import sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "crashext.analysis.likeness.similarity":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
from crashext.__main__ import leakscan, main, objsim
sys.argv = {argv!r}
sys.exit({entry}())
"""


@pytest.mark.parametrize("command", ["leakscan", "objsim"])
@pytest.mark.parametrize("script", [False, True])
def test_an_interrupt_while_the_engine_is_loaded_is_one_line(command: str, script: bool) -> None:
    asked = [command, "-k", *(["0x10"] if command == "objsim" else [])]
    argv = asked if script else ["crashext", *asked]
    program = _INTERRUPTED.format(argv=argv, entry=command if script else "main")
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert ran.stderr == f"{command}: interrupted before anything was known\n"
    assert (ran.returncode, ran.stdout) == (130, "")
