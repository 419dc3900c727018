"""How a report's reader asks again: what the options and the place of this run say of it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from crashext.analysis.settings import DEFAULTS, MEMORY_BUDGET
from crashext.commands.options import Look, Source
from crashext.commands.place import Place
from crashext.commands.questions import Question, held_by
from crashext.hosts.base import Host
from crashext.hosts.recorded import RecordedHost
from crashext.report.asking import Asking

if TYPE_CHECKING:
    from crashext.report.html.made import Made


def asking(place: Place, source: Source, host: Host, seed: int, whole: bool = False) -> Asking:
    """Of the memory that was looked at; `whole`: each object of the caches that were asked for."""
    live = not isinstance(host, RecordedHost) and host.info().live
    if place.inside:
        return Asking(place.tool, live=live)
    words = []
    for option, path in (("-c", source.core), ("-r", source.replay)):
        words += [] if path is None else [option, str(path)]
    words += ["-k"] if source.kernel else []
    for path in source.symbols:
        words += ["-s", str(path)]
    words += ["--seed", str(seed)] if seed else []
    if not isinstance(host, RecordedHost):
        return Asking("shell", place.start, tuple(words), live)
    held = held_by(host.command)

    def answers(asked: Sequence[str]) -> bool:
        question = _question(asked)
        if held is None or not held.answers(question):
            return False
        if question.program == "leakscan":
            return not question.options  # what they ask for was not recorded
        # Objects were, where caches were looked at; all of them, where those were looked at whole.
        return bool(held.subjects) and (whole or not question.options)

    elsewhere = "on the machine" if host.info().live else "in the dump"
    return Asking("shell", place.start, tuple(words), answers=answers, elsewhere=elsewhere)


def asking_of_files(place: Place, live: bool) -> Asking:
    """Of proc files: they answer no other question."""
    return Asking(
        "shell", place.start, live=live, answers=lambda words: False, elsewhere="in a dump"
    )


def made(again: Asking, question: Question, look: Look, *words: object) -> Made:
    """How a report with memory came about: all that decides about the answer, so that it comes
    again. `words`: options of the mode."""
    from crashext.report.html.made import Made  # few runs make a page

    told = [*shlex.split(question.short), *map(str, words)]
    for name, usual in vars(DEFAULTS).items():
        value = getattr(look.settings, name)
        if value != usual and f"--{name}" not in again.source:
            told += [f"--{name}", str(value)]
    if look.refs is not None:
        told.append("--refs" if look.refs else "--no-refs")
    if look.memory != MEMORY_BUDGET:
        told += ["--memory", str(look.memory >> 20)]
    rows = tuple((name, str(value)) for name, value in vars(look.settings).items())
    return Made(again.again(told), again, rows)


def made_of_files(place: Place, again: Asking, words: Sequence[str]) -> Made:
    """Of one without."""
    from crashext.report.html.made import Made

    return Made(shlex.join([*place.start("leakscan"), *words]), again)


def _question(words: Sequence[str]) -> Question:
    """What a plain command asks, with all its options but --orphans taken for decisive."""
    options = tuple(w for w in words[1:] if w.startswith("-") and w != "--orphans")
    subjects = tuple(w for w in words[1:] if not w.startswith("-"))
    return Question(words[0], subjects, "--orphans" in words, options)
