"""How to ask again from where a report is read: the plain next commands as they are typed there.

A command that does not run there is told with the place where it does: ``in the dump: leakscan
dentry``, ``in crash: vm 102``. All others run as they are printed.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from crashext.report.lines import continued, folded
from crashext.report.safe import safe

_OURS = ("leakscan", "objsim")
_CRASHS = "crash> "
_DIM = "dim"


def _anything(words: Sequence[str]) -> bool:
    return True


@dataclass(frozen=True)
class Asking:
    """A place where a report is read."""

    tool: str = "crash"
    """``shell``, ``crash`` or ``drgn``."""
    start: Callable[[str], tuple[str, ...]] = lambda program: (program,)
    """The words that start `leakscan` or `objsim` at this shell."""
    source: tuple[str, ...] = ()
    """Options that say, at a shell, where memory is."""
    live: bool = False
    """The machine that was looked at is this one."""
    answers: Callable[[Sequence[str]], bool] = _anything
    """Whether the source can be asked a command of ours: a session is of one question only."""
    elsewhere: str = "in the dump"
    """Where those can be asked that it cannot answer."""

    def typed(self, command: str) -> str:
        """The plain `command` as it is typed here, or with the place where it can be."""
        place, words = self.placed(command)
        return f"{place}: {words}" if place else words

    def placed(self, command: str) -> tuple[str, str]:
        """Where the plain `command` can be typed ("" is here), and how."""
        if command.startswith(_CRASHS):
            return self._crashs(command.removeprefix(_CRASHS))
        words = _words(command)
        if words and words[0] in _OURS and not _of_running_machine(words):
            return self._ours(command, words)
        return self._machines(command)

    def again(self, words: Sequence[str]) -> str:
        """The command line of this very run, which this place could answer."""
        if self.tool == "shell":
            return shlex.join([*self.start(words[0]), *self.source, *words[1:]])
        return f"%{shlex.join(words)}" if self.tool == "drgn" else shlex.join(words)

    def _ours(self, command: str, words: list[str]) -> tuple[str, str]:
        return ("", self.again(words)) if self.answers(words) else (self.elsewhere, command)

    def _crashs(self, command: str) -> tuple[str, str]:
        if self.tool == "drgn":  # it knows crash's commands
            return "", f"%crash {command}"
        return "" if self.tool == "crash" else "in crash", command

    def _machines(self, command: str) -> tuple[str, str]:
        if not self.live:
            return "on the machine", command
        return "", {"crash": f"!{command}", "drgn": f"%sh {command}"}.get(self.tool, command)


def _of_running_machine(words: Sequence[str]) -> bool:
    return "--live" in words or "/proc" in words


def print_step(console: Console, asking: Asking, step: str, label: str = "") -> None:
    """One next command, and what its answer tells."""
    for text, style in step_lines(asking, step, label, console.width):
        console.print(Text(text, style=style), soft_wrap=True)


def step_lines(asking: Asking, step: str, label: str, width: int) -> list[tuple[str, str]]:
    """The lines of it, and how each is to look. At a shell a long command goes on behind a
    backslash, so that it runs as it is printed; elsewhere it is left to the window to fold."""
    command, why = split(step)
    lines = [(f"{label}{safe(asking.typed(command))}", "")]
    if asking.tool == "shell" and len(lines[0][0]) > width:
        typed = continued(lines[0][0][len(label) :], label, width)
        lines = [(text, "") for text in typed]
    hang = len(label) + 2
    told = folded(f"{' ' * hang}{safe(why)}", width, hang) if why else []
    return lines + [(text, _DIM) for text in told]


def split(step: str) -> tuple[str, str]:
    """The command, and what follows its last `` # `` outside quotes."""
    command, mark, why = step.rpartition(" # ")
    return (command, why) if mark and _words(command) else (step, "")


def _words(command: str) -> list[str]:
    """No words where its quotes do not close."""
    try:
        return shlex.split(command)
    except ValueError:
        return []
