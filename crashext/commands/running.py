"""A command at work: its mode called, progress shown, output printed, errors told in one line."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

from crashext.commands.arguments import BAD_INPUT
from crashext.commands.opening import NoTypes
from crashext.commands.options import (
    CacheOptions,
    ExcerptOptions,
    LiveOptions,
    ObjsimOptions,
    Options,
    OrphansOptions,
    OverviewOptions,
    Printing,
    ProcfsOptions,
    SitesOptions,
    TraceOptions,
)
from crashext.commands.output import Output
from crashext.commands.place import Place
from crashext.commands.telling import tell
from crashext.commands.timeleft import TimeLeft
from crashext.commands.words import or_word
from crashext.hosts.base import HostError, ReadFault, UnknownLayout
from crashext.kernel.slab.named import UnknownCache
from crashext.progress import Progress, silent
from crashext.report.lines import without_trailing_blanks
from crashext.report.safe import safe
from crashext.report.text import write_addresses
from crashext.report.window import output_width

_TEXTS = ("description", "fields[left]")
_MOMENT = 1.0  # seconds without a word that nobody minds

_MODES: dict[type[Options], tuple[str, str]] = {
    OverviewOptions: ("overview", "answer"),
    CacheOptions: ("cache", "answer"),
    OrphansOptions: ("orphans", "answer"),
    SitesOptions: ("sites", "answer"),
    TraceOptions: ("trace", "answer"),
    LiveOptions: ("live", "answer"),
    ProcfsOptions: ("procfs", "answer"),
    ObjsimOptions: ("objsim", "answer"),
    ExcerptOptions: ("objsim", "answer_excerpt"),
}
"""Module and function of each. What one needs the others need not: it is imported when it is asked
for."""


def run(program: str, options: Options, place: Place) -> int:
    """Answer; returns the exit status."""
    try:
        with _progress() as progress:
            output = _output(program, options, place, progress)
        if output is None:
            return BAD_INPUT
        _write_page(options.printing, output)
        _print(options.printing, output)
    except UnknownCache as error:
        tell(program, or_word(str(error), error.name))
        return BAD_INPUT
    except (HostError, UnknownLayout, ReadFault) as error:
        tell(program, str(error))
        return BAD_INPUT
    except KeyboardInterrupt:
        tell(program, "interrupted before anything was known")
        return 130
    except BrokenPipeError:
        # The reader (head, a pager) has seen enough; nothing is wrong. Keep the interpreter
        # from complaining when it flushes on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        tell(program, f"cannot write the report: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BAD_INPUT
    except MemoryError:
        tell(program, "out of memory: is the dump or session damaged?")
        return BAD_INPUT
    return BAD_INPUT if output.lost or output.nothing else 0


def _output(program: str, options: Options, place: Place, progress: Progress) -> Output | None:
    module, name = _MODES[type(options)]
    answer: Callable[[Any, Place, Progress], Output]
    answer = getattr(import_module(f"crashext.commands.{module}"), name)
    try:
        return answer(options, place, progress)
    except NoTypes as less:
        from crashext.commands import untyped

        return untyped.answer(program, options, less)


def _write_page(printing: Printing, output: Output) -> None:
    """Before anything is printed: whoever reads that may stop early."""
    if printing.html is not None and output.page is not None:
        from crashext.report.html.page import write_page  # few runs need templates

        write_page(output.page, printing.html)


def _print(printing: Printing, output: Output) -> None:
    if printing.json:
        print(output.json())
    else:
        console = _console()
        with console.capture() as page:
            output.text(console)
        print(without_trailing_blanks(page.get()), end="")
        write_addresses(output.listed, sys.stdout)
    sys.stdout.flush()


def _console() -> Console:
    """Colours on a terminal only."""
    console = Console(highlight=False, markup=False, emoji=False)
    console.width = output_width()
    return console


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on stderr for what takes longer than a moment, when stderr is a terminal."""
    if not sys.stderr.isatty():
        yield silent
        return
    step, rest = (TextColumn(f"{{task.{text}}}", markup=False) for text in _TEXTS)
    columns = (step, BarColumn(), TaskProgressColumn(), rest)
    bar = Bar(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task("", left="")
    begun, left = time.monotonic(), TimeLeft()

    def show(what: str, done: int, total: int) -> None:
        if time.monotonic() - begun > _MOMENT:
            bar.start()
        more = left.after(done, total)
        bar.update(task, description=safe(what), completed=done, total=max(total, 1), left=more)

    try:
        yield show
    finally:
        bar.stop()
