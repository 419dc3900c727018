"""Running a command: its source opened, its progress shown, its output printed, errors told."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from crashext.commands.options import BAD_INPUT
from crashext.hosts.base import Host, HostError, ReadFault
from crashext.hosts.recorded import RecordedHost, RecordingHost
from crashext.kernel.access import UnknownLayout, Words
from crashext.kernel.slab.view import KernelView
from crashext.progress import Progress, silent
from crashext.report.safe import safe
from crashext.report.text import write_addresses

_PIPED_WIDTH = 120
_NARROWEST = 40
_MOMENT = 1.0  # seconds without a word that nobody minds


@dataclass(frozen=True)
class Output:
    """What a command prints, both ways."""

    text: Callable[[Console], None]
    json: Callable[[], str]
    listed: Words = field(default_factory=lambda: np.zeros(0, np.uint64))
    """Addresses to print after the text."""


def run(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    command: Callable[[argparse.Namespace, Host | None, Progress], Output],
    host: Host | None,
) -> int:
    options = parser.parse_args(arguments)
    options.record_failed = False
    try:
        with _progress() as progress:
            output = command(options, host, progress)
        _print(options, output)
    except (HostError, UnknownLayout, ReadFault) as error:
        print(f"{parser.prog}: {safe(str(error))}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted before anything was known", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, a pager) has seen enough; nothing is wrong. Keep the interpreter
        # from complaining when it flushes on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"{parser.prog}: cannot write the report: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BAD_INPUT
    except MemoryError:
        print(f"{parser.prog}: out of memory: is the dump or session damaged?", file=sys.stderr)
        return BAD_INPUT
    return BAD_INPUT if options.record_failed else 0


def _print(options: argparse.Namespace, output: Output) -> None:
    if options.json:
        print(output.json())
    else:
        console = _console()
        if console.is_terminal:
            output.text(console)
        else:
            with console.capture() as page:
                output.text(console)
            print("\n".join(line.rstrip() for line in page.get().splitlines()))
        write_addresses(output.listed, sys.stdout)
    sys.stdout.flush()


def _console() -> Console:
    """Colours and the window's width on a terminal; neither when piped, unless COLUMNS is set."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    console = Console(highlight=False, markup=False, emoji=False)
    console.width = _PIPED_WIDTH if piped else max(console.width, _NARROWEST)
    return console


@contextmanager
def open_view(options: argparse.Namespace, host: Host | None, program: str) -> Iterator[KernelView]:
    host = host or open_host(options)
    if isinstance(host, RecordedHost) and program == "leakscan":
        _require_question(host, options)
    if options.record is None:
        yield KernelView(host)
    else:
        try:
            options.record.open("wb").close()  # better to fail now than after the run
        except OSError as error:
            raise HostError(f"cannot write session {options.record}: {error.strerror}") from error
        recorder = RecordingHost(host)
        yield KernelView(recorder)
        try:
            recorder.save(options.record, shlex.join([program, *_question(options)]))
        except HostError as error:  # the report is worth printing all the same
            print(f"{program}: {safe(str(error))}", file=sys.stderr)
            options.record.unlink(missing_ok=True)
            options.record_failed = True
    if isinstance(host, RecordedHost) and host.unanswered:
        print(
            f"{program}: this session was recorded with '{safe(host.command)}' and cannot answer "
            f"{host.unanswered:,} questions of this run: what they concern is missing here",
            file=sys.stderr,
        )


def _require_question(host: RecordedHost, options: argparse.Namespace) -> None:
    """A session knows what it was recorded for: another cache would look empty, not unknown."""
    try:
        words = shlex.split(host.command)[1:]
    except ValueError:
        return  # a stranger's nonsense: the counters will say what is missing
    options_at = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
    known = set(words[:options_at])
    orphans = "--orphans" in words
    asked = set(options.caches)
    if not asked <= known or (not asked and known) or options.orphans != orphans:
        what = " ".join(["leakscan", *words[:options_at], *(["--orphans"] if orphans else [])])
        raise HostError(f"this session holds the answer to '{what}': ask it that")


def _question(options: argparse.Namespace) -> list[str]:
    """What was asked, without where: the replay's command line."""
    words = [*getattr(options, "caches", []), *getattr(options, "addresses", [])]
    words += ["--orphans"] if getattr(options, "orphans", False) else []
    words += ["--list"] if getattr(options, "list", None) is True else []
    if getattr(options, "refs", None) is not None:
        words += ["--refs" if options.refs else "--no-refs"]
    for name in ("seed", "samples", "threshold", "metric", "hops"):
        words += [f"--{name}", str(getattr(options, name))]
    return words


def open_host(options: argparse.Namespace) -> Host:
    if options.replay is not None:
        return RecordedHost(options.replay)
    if options.core is None and not options.kernel:
        raise HostError(
            "say where memory is: -c VMCORE, -k (this machine) or -r SESSION; without memory: "
            "--procfs DIR or --trace FILE"
        )
    # drgn takes a third of a second to import, and a replay does without it.
    from crashext.hosts.drgn import open_core, open_live

    return (
        open_live(options.symbols) if options.kernel else open_core(options.core, options.symbols)
    )


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on stderr for what takes longer than a moment, when stderr is a terminal."""
    if not sys.stderr.isatty():
        yield silent
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    bar = Bar(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task("")
    begun = time.monotonic()

    def show(what: str, done: int, total: int) -> None:
        if time.monotonic() - begun > _MOMENT:
            bar.start()
        bar.update(task, description=safe(what), completed=done, total=max(total, 1))

    try:
        yield show
    finally:
        bar.stop()
