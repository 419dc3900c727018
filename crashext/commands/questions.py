"""What was asked, without where: a session notes it, and says by it what it can be asked."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from crashext.analysis.settings import Settings


@dataclass(frozen=True)
class Question:
    """A command line without its source."""

    program: str
    subjects: tuple[str, ...] = ()
    """Caches, or addresses."""
    orphans: bool = False
    options: tuple[str, ...] = ()
    """The rest, in no way decisive."""

    @property
    def command(self) -> str:
        """The whole line, for a replay."""
        orphans = ["--orphans"] if self.orphans else []
        return shlex.join([self.program, *self.subjects, *orphans, *self.options])

    @property
    def short(self) -> str:
        """The line without what is not decisive."""
        return shlex.join([self.program, *self.subjects, *(["--orphans"] if self.orphans else [])])

    def answers(self, asked: Question) -> bool:
        """Whether a session that was recorded for this one can be asked `asked`."""
        if asked.program == "objsim":
            return True  # of any address; what is missing is counted
        known, wanted = set(self.subjects), set(asked.subjects)
        return wanted <= known and bool(wanted) == bool(known) and asked.orphans == self.orphans


def held_by(command: str) -> Question | None:
    """The question in a session's command line; None where that is nonsense: the counters of what
    it cannot answer will say what is missing."""
    try:
        program, *words = shlex.split(command) or [""]
    except ValueError:
        return None
    end = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
    return Question(program, tuple(words[:end]), "--orphans" in words)


def options_of(
    settings: Settings, refs: bool | None = None, listed: bool = False
) -> tuple[str, ...]:
    """The options that make a replay print what the run printed."""
    words = ["--list"] if listed else []
    if refs is not None:
        words.append("--refs" if refs else "--no-refs")
    for name in ("seed", "samples", "threshold", "metric", "hops"):
        words += [f"--{name}", str(getattr(settings, name))]
    return tuple(words)
