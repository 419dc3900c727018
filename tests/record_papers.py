"""Fill the papers' output blocks with what the commands print: `python -m tests.record_papers`.

A block begins with the command that it shows the output of. A comment above it may say how much of
that is shown:

    <!-- shows: until "Where memory", to "kernel: slab", 2 lines, ... -->

`N lines`, `until "words"` (the lines before the first with these words) and `rest` show; `to
"words"` leaves lines out up to the first with these words, `...` leaves out the rest. What crash
says comes from the recorded transcript.
"""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import chdir
from functools import cache
from pathlib import Path
from unittest.mock import patch

from tests.conftest import SESSIONS, run
from tests.papers import PAPERS, ROOT

WIDTH = "80"
_TRANSCRIPT = SESSIONS / "unlinked-nodes.crash.txt"
_BLOCK = re.compile(
    r"^(?P<shows><!-- shows: (?P<recipe>.*) -->\n)?"
    r"```console\n(?P<body>(?:\$|crash>) (?s:.*?))^```$",
    re.MULTILINE,
)
_OURS = ("leakscan", "objsim")
_ITEM = re.compile(r'(?P<count>\d+) lines|(?P<how>until|to) "(?P<words>[^"]+)"|rest|\.\.\.')


class WrongRecipe(Exception):
    """What a block asks for is not in what was printed."""


def renewed(paper: Path) -> str:
    """The paper's text with its output blocks as the commands print them now."""
    return _BLOCK.sub(_block, paper.read_text())


def _block(found: re.Match[str]) -> str:
    body = found["body"]
    if body.startswith("crash> "):
        said = _from_crash(body)
    else:
        asked = [
            (ask[1], ask[2]) for ask in re.finditer(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", body, re.M)
        ]
        commands = [command for command, _ in asked]
        if not any(c.split()[0] in _OURS for c in commands) or any("vmcore" in c for c in commands):
            return found[0]  # what nobody can run here
        said = _from_shell(asked, found["recipe"])
    return f"{found['shows'] or ''}```console\n{said}```"


def _from_shell(asked: list[tuple[str, str]], recipe: str | None) -> str:
    """Each command with its output; what `cat` shows is the file that the others are given."""
    text, where = "", str(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        for command, before in asked:
            program, *arguments = shlex.split(command, comments=True)
            if program == "cat":
                where = folder
                (Path(folder) / arguments[0]).write_text(before)
                text += f"$ {command}\n{before}"
            else:
                lines = list(_shown(_output(command, where), recipe or "rest"))
                text += "\n".join([f"$ {command}", *lines]) + "\n"
    return text


@cache
def _output(command: str, where: str) -> tuple[str, ...]:
    program, *arguments = shlex.split(command, comments=True)
    with chdir(where), patch.dict(os.environ, COLUMNS=WIDTH):
        return tuple(run(program, *arguments).out.splitlines())


def _shown(lines: tuple[str, ...], recipe: str) -> Iterator[str]:
    at = 0
    for item in _ITEM.finditer(recipe):
        if item["how"]:
            here = (i for i in range(at, len(lines)) if item["words"] in lines[i])
            end = next(here, None)
            if end is None:
                raise WrongRecipe(f"no line has {item['words']!r}: {recipe}")
        else:
            end = at + int(item["count"] or len(lines))
        if item["how"] == "to" or item[0] == "...":
            yield "  ..."
        else:
            yield from lines[at:end]
        at = end


def _from_crash(body: str) -> str:
    """Each line typed at crash's prompt, with what the transcript has for it."""
    answers = {
        answer.split("\n")[0]: answer.rstrip("\n") + "\n"
        for answer in re.split(r"^(?=crash> )", _TRANSCRIPT.read_text(), flags=re.MULTILINE)
    }
    typed = [line for line in body.splitlines() if line.startswith("crash> ")]
    for line in typed:
        if line not in answers:
            raise WrongRecipe(f"the transcript has no {line!r}")
    return "\n".join(answers[line] for line in typed)


if __name__ == "__main__":
    for each in PAPERS:
        each.write_text(renewed(each))
