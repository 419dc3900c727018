"""The commands `leakscan` and `objsim`: arguments in, report out. Wiring only.

Inside another tool (drgn, crash) memory is already open: it hands over its host, and the options
that say where memory comes from are not there.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from . import __version__
from .analysis.excerpt import MAX_TEXT, compare_text
from .analysis.groups import Settings
from .analysis.kmemscan import KmemHost, scan_caches_kmem
from .analysis.leakscan import scan_caches
from .analysis.objsim import compare
from .analysis.orphans import scan_orphans
from .analysis.overview import look_over
from .analysis.procfs import read_snapshot
from .analysis.procfs import report as report_proc
from .analysis.reachability import MEMORY_BUDGET
from .analysis.results import LeakReport, Skipped
from .analysis.similarity import DEFAULT_THRESHOLD, METRICS
from .analysis.verdict import judge
from .hosts.base import CommandHost, Host, HostError, ReadFault
from .hosts.procfs import ProcFolder
from .hosts.recorded import RecordedHost, RecordingHost
from .hosts.session import MAX_MEMORY
from .kernel.access import UnknownLayout, Words
from .kernel.slabs import MAP_BUDGET, Progress
from .kernel.view import KernelView, silent
from .report.as_json import leak_document, similarity_document
from .report.orphans_json import orphan_document
from .report.orphans_text import print_orphan_report, write_list
from .report.procfs_json import proc_document
from .report.procfs_text import print_proc_report
from .report.safe import safe
from .report.text import print_leak_report, print_similarity_report, write_addresses
from .report.trace_json import trace_document
from .report.trace_text import print_trace
from .report.verdict_json import overview_document
from .report.verdict_text import print_overview
from .trace import trace_table

BAD_INPUT = 2
_DEFAULT_SAMPLES = 250_000
_PIPED_WIDTH = 120
_NARROWEST = 40
_MOST_HOPS = 16
_MOST_SUBJECTS = 16
_MOMENT = 1.0  # seconds without a word that nobody minds
_NEAR_SYMBOL = re.compile(r"([A-Za-z_][\w.]*) *([+-] *(?:0x[0-9a-fA-F]+|[1-9][0-9]*))")
_ADDRESS_DIGITS = 8  # a shorter word without 0x, such as dead or add, may be a symbol


def leakscan(arguments: Sequence[str] | None = None, host: Host | None = None) -> int:
    """Console script `leakscan`. Returns the exit status: 0 answered, 2 bad input."""
    parser = _Parser(
        prog="leakscan",
        description="Find out what the objects of a slab cache are and how many are alike.",
        epilog=f"Example: leakscan {_example(host)}kmalloc-32",
    )
    parser.add_argument("caches", metavar="CACHE", nargs="*", help="slab cache, by name or alias")
    parser.add_argument(
        "--orphans",
        action="store_true",
        help="find every object of every cache that nothing reaches",
    )
    parser.add_argument(
        "--list", metavar="FILE", type=Path, help="with --orphans: write their addresses to FILE"
    )
    parser.add_argument(
        "--trace",
        metavar="FILE",
        type=Path,
        help="without CACHE: who allocated in this trace what was not freed (tracefs text, "
        "trace-cmd report, trace.dat, perf script; - for stdin)",
    )
    _source_options(parser, host)
    if host is None:
        parser.add_argument(
            "--procfs",
            metavar="DIR",
            type=Path,
            action="append",
            default=[],
            help="no dump: an overview from saved proc files, of sosreport or a shell, or from "
            "/proc; repeated, in time order, it shows what grew",
        )
    parser.add_argument(
        "--walker",
        choices=("map", "kmem"),
        default="map",
        help="how objects are found: map reads the memory map (default); kmem asks crash's kmem "
        "-S, which lists no full slabs, and is used where map does not know the kernel",
    )
    _reference_options(parser)
    _comparison_options(parser)
    return _run(parser, arguments, _leakscan, host)


def objsim(arguments: Sequence[str] | None = None, host: Host | None = None) -> int:
    """Console script `objsim`. Returns the exit status: 0 answered, 2 bad input."""
    parser = _Parser(
        prog="objsim",
        description="Say how alike objects are; with one address, find every object like it.",
        epilog=f"Example: objsim {_example(host)}ffff888003a4b1c0",
    )
    parser.add_argument(
        "addresses", metavar="ADDR", nargs="*", help="address of an object: hex, or a symbol"
    )
    parser.add_argument(
        "--list", action="store_true", help="list the address of every object like ADDR"
    )
    parser.add_argument(
        "--text", metavar="FILE", help="compare the objects in pasted rd or x output (- for stdin)"
    )
    parser.add_argument("--size", type=_number(1), help="object size in bytes, for --text")
    parser.add_argument(
        "--as",
        dest="as_type",
        metavar="TYPE",
        help="list the object's members, as of struct TYPE",
    )
    _source_options(parser, host)
    _comparison_options(parser)
    return _run(parser, arguments, _objsim, host)


def _example(host: Host | None) -> str:
    return "" if host is not None else "-c vmcore -s vmlinux "


class _Parser(argparse.ArgumentParser):
    """Bad arguments get one line, not the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message} ({self.prog} -h helps)\n")


def _source_options(parser: argparse.ArgumentParser, host: Host | None) -> None:
    source = parser.add_argument_group("where memory comes from")
    if host is None:
        one = source.add_mutually_exclusive_group()
        one.add_argument("-c", "--core", metavar="CORE", type=Path, help="vmcore")
        one.add_argument("-k", "--kernel", action="store_true", help="the running kernel (root)")
        one.add_argument("-r", "--replay", metavar="SESSION", type=Path, help="a recorded session")
        source.add_argument(
            "-s",
            "--symbols",
            metavar="VMLINUX",
            type=Path,
            action="append",
            default=[],
            help="debug file: vmlinux, or a module's; may be repeated (default: by build ID)",
        )
    source.add_argument(
        "--record", metavar="FILE", type=Path, help="also record this run as a session"
    )
    parser.add_argument("--version", action="version", version=f"crashext {__version__}")


def _reference_options(parser: argparse.ArgumentParser) -> None:
    refs = parser.add_argument_group("who points at the objects")
    refs.add_argument(
        "--refs",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="look through all kernel memory for it (default: where that takes seconds)",
    )
    refs.add_argument(
        "--memory",
        type=_number(64, 1 << 20),
        default=MEMORY_BUDGET >> 20,
        metavar="MIB",
        help="memory to use; the largest caches are sampled to fit (default %(default)s)",
    )


def _comparison_options(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how objects are compared")
    how.add_argument(
        "--samples",
        type=_number(1),
        default=_DEFAULT_SAMPLES,
        metavar="N",
        help="objects to look at in each cache (default %(default)s; at most 24 MiB of them)",
    )
    how.add_argument(
        "--seed", type=_number(0), default=0, metavar="N", help="of the random choice (default 0)"
    )
    how.add_argument(
        "--threshold",
        type=_fraction,
        default=DEFAULT_THRESHOLD,
        metavar="S",
        help="score from which objects count as alike, 0 to 1 (default %(default)s)",
    )
    how.add_argument(
        "--metric",
        choices=sorted(METRICS),
        default="hamming",
        help="how bytes are compared (default %(default)s; the others find shifted content)",
    )
    how.add_argument(
        "--hops",
        type=_number(0, _MOST_HOPS),
        default=1,
        metavar="N",
        help="objects to follow a pointer through until one has a name (default %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("-v", "--verbose", action="store_true", help="more groups, all words")


def _number(least: int, most: int = (1 << 63) - 1) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text, 0)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not least <= value <= most:
            limit = f"to {most}" if most < (1 << 63) - 1 else "up"
            raise argparse.ArgumentTypeError(f"{text} is not a number from {least} {limit}")
        return value

    return parse


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0 and up to 1")
    return value


@dataclass(frozen=True)
class _Output:
    """What a command prints, both ways."""

    text: Callable[[Console], None]
    json: Callable[[], str]
    listed: Words = field(default_factory=lambda: np.zeros(0, np.uint64))
    """Addresses to print after the text."""


def _run(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    command: Callable[[argparse.Namespace, Host | None, Progress], _Output],
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


def _print(options: argparse.Namespace, output: _Output) -> None:
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


def _leakscan(options: argparse.Namespace, host: Host | None, progress: Progress) -> _Output:
    if options.trace is not None:
        return _trace(options)
    if getattr(options, "procfs", None):
        return _procfs(options, progress)
    if options.orphans:
        return _orphans(options, host, progress)
    if options.list is not None:
        raise HostError("--list writes the addresses that --orphans finds: add --orphans")
    if not options.caches:
        return _overview(options, host, progress)
    if options.walker == "kmem":
        report = _by_kmem(options, host, progress)
    else:
        try:
            with _view(options, host, "leakscan") as view:
                report = scan_caches(
                    view,
                    options.caches,
                    _settings(options),
                    progress,
                    _budget(view),
                    options.refs,
                    options.memory << 20,
                )
        except UnknownLayout as why:
            if not isinstance(host, KmemHost) or options.record is not None:
                raise
            report = _by_kmem(options, host, progress)
            instead = Skipped(
                f"own slab walker: {why}", 1, "crash's kmem -S was used instead (--walker kmem)"
            )
            report = replace(report, skipped=(instead, *report.skipped))
    return _Output(
        text=lambda console: print_leak_report(report, console, options.verbose),
        json=lambda: leak_document(report),
    )


def _overview(options: argparse.Namespace, host: Host | None, progress: Progress) -> _Output:
    if options.walker == "kmem":
        raise HostError("--walker kmem lists the objects of a CACHE: say which")
    with _view(options, host, "leakscan") as view:
        overview = look_over(view, _settings(options), progress, options.memory << 20, options.refs)
    verdicts = judge(overview.facts)
    return _Output(
        text=lambda console: print_overview(overview, verdicts, console, options.verbose),
        json=lambda: overview_document(overview, verdicts),
    )


def _orphans(options: argparse.Namespace, host: Host | None, progress: Progress) -> _Output:
    if options.caches:
        raise HostError("--orphans looks at every cache: give no names")
    if options.refs is False or options.walker == "kmem":
        raise HostError("--orphans is the look through all memory: no --no-refs, no --walker kmem")
    with _view(options, host, "leakscan") as view:
        answer = scan_orphans(view, _settings(options), progress, options.memory << 20)
    if options.list is not None:
        write_list(answer.addresses, answer.caches, options.list)
    return _Output(
        text=lambda console: print_orphan_report(answer.report, console, options.verbose),
        json=lambda: orphan_document(answer.report),
    )


def _procfs(options: argparse.Namespace, progress: Progress) -> _Output:
    if options.core is not None or options.kernel or options.replay is not None:
        raise HostError("--procfs is for when there is no dump: leave out -c, -k and -r")
    if options.caches:
        raise HostError("--procfs cannot look into a cache: leave out CACHE, or give a dump (-c)")
    if options.record is not None:
        raise HostError("--procfs cannot be recorded: keep the files themselves")
    report = report_proc([read_snapshot(ProcFolder(path), progress) for path in options.procfs])
    return _Output(
        text=lambda console: print_proc_report(report, console, options.verbose),
        json=lambda: proc_document(report),
    )


def _trace(options: argparse.Namespace) -> _Output:
    others = ("core", "kernel", "replay", "procfs", "record", "orphans", "list")
    if options.caches or any(getattr(options, name, None) for name in others):
        raise HostError("--trace FILE stands alone: give no CACHE, no dump and no --record")
    trace = trace_table(options.trace)
    return _Output(
        text=lambda console: print_trace(trace, console, options.verbose),
        json=lambda: trace_document(trace),
    )


def _by_kmem(options: argparse.Namespace, host: Host | None, progress: Progress) -> LeakReport:
    if not isinstance(host, KmemHost):
        raise HostError("--walker kmem needs a crash session")
    if options.record is not None:
        raise HostError("--walker kmem cannot be recorded: a session holds no output of crash")
    return scan_caches_kmem(host, options.caches, _settings(options), progress)


def _objsim(options: argparse.Namespace, host: Host | None, progress: Progress) -> _Output:
    if options.text is not None:
        if options.addresses or options.list:
            raise HostError("--text compares what the text shows: give no addresses and no --list")
        if options.as_type is not None:
            raise HostError("--as needs a kernel that knows its types: --text has none")
        if options.size is None:
            raise HostError("--text needs --size BYTES: the object size of the cache")
        report = compare_text(_read_text(options.text), options.size, _settings(options))
    else:
        if not options.addresses:
            raise HostError("give the address of an object, or --text FILE")
        if options.list and len(options.addresses) > 1:
            raise HostError("--list finds what is like one object: give one address")
        if len(options.addresses) > _MOST_SUBJECTS:
            raise HostError(
                f"at most {_MOST_SUBJECTS} objects are compared pairwise; leakscan groups more"
            )
        with _view(options, host, "objsim") as view:
            addresses = [_address(view, text) for text in options.addresses]
            report = compare(
                view,
                addresses,
                _settings(options),
                options.list,
                progress,
                _budget(view),
                options.as_type,
            )
    return _Output(
        text=lambda console: print_similarity_report(report, console, options.verbose),
        json=lambda: similarity_document(report),
        listed=report.kin.listed
        if report.kin is not None and report.kin.listed is not None
        else np.zeros(0, np.uint64),
    )


def _budget(view: KernelView) -> int:
    """Bytes of memory map to read: less where they must fit into a session, or come from one."""
    in_session = isinstance(view.host, (RecordingHost, RecordedHost))
    return MAX_MEMORY // 4 if in_session else MAP_BUDGET


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(options.samples, options.seed, options.threshold, options.metric, options.hops)


def _address(view: KernelView, text: str) -> int:
    digits = text.removeprefix("0x")
    number = text.startswith("0x") or len(digits) >= _ADDRESS_DIGITS
    if number and re.fullmatch(r"[0-9a-fA-F]{1,16}", digits):
        return int(digits, 16)
    match = _NEAR_SYMBOL.fullmatch(text)
    symbol = view.host.address_of(match[1] if match else text)
    if match and symbol is not None:
        symbol += int(match[2].replace(" ", ""), 0)
        if not 0 <= symbol < 1 << 64:
            raise HostError(f"{text} is outside the address space")
        return symbol
    if symbol is None and isinstance(view.host, CommandHost):
        symbol = view.host.evaluate(text)
    if symbol is None:
        raise HostError(f"{text} is neither a hexadecimal address nor a symbol of this kernel")
    return symbol


def _read_text(name: str) -> str:
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_TEXT + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(MAX_TEXT + 1)
    except OSError as error:
        raise HostError(f"cannot read {name}: {error.strerror}") from error
    if len(data) > MAX_TEXT:
        raise HostError(
            f"{name} is larger than {MAX_TEXT >> 20} MiB: cut out the objects of one cache"
        )
    return data.decode("utf-8", "backslashreplace")


@contextmanager
def _view(options: argparse.Namespace, host: Host | None, program: str) -> Iterator[KernelView]:
    host = host or _open(options)
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


def _open(options: argparse.Namespace) -> Host:
    if options.replay is not None:
        return RecordedHost(options.replay)
    if options.core is None and not options.kernel:
        raise HostError("say where memory is: -c VMCORE, -k (this machine) or -r SESSION")
    # drgn takes a third of a second to import, and a replay does without it.
    from .hosts.drgn import open_core, open_live

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
