"""The commands `leakscan` and `objsim`: arguments in, report out. Wiring only.

Inside another tool (drgn, crash) memory is already open: it hands over its host, and the options
that say where memory comes from are not there.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from crashext.analysis.caches import scan_caches
from crashext.analysis.excerpt import MAX_TEXT, compare_text
from crashext.analysis.kmem_walker import KmemHost, scan_caches_kmem
from crashext.analysis.likeness.groups import Settings
from crashext.analysis.memory.growth import Compared, growth
from crashext.analysis.moments import of_overview
from crashext.analysis.objects import compare
from crashext.analysis.origin.outstanding import kept, outstanding
from crashext.analysis.orphans import scan_orphans
from crashext.analysis.overview import look_over
from crashext.analysis.proc import read_snapshot
from crashext.analysis.proc import report as report_proc
from crashext.analysis.proc_facts import proc_facts
from crashext.analysis.results.joined import Traced
from crashext.analysis.results.reports import LeakReport
from crashext.analysis.verdict.rules import judge
from crashext.analysis.verdict.verdict import Verdict
from crashext.commands.before import earlier
from crashext.commands.options import (
    Parser,
    comparison_options,
    example,
    number,
    reference_options,
    source_options,
)
from crashext.commands.running import Output, open_host, open_view, run
from crashext.hosts.base import CommandHost, Host, HostError
from crashext.hosts.crash import CrashHost
from crashext.hosts.recorded import RecordedHost, RecordingHost
from crashext.hosts.session import MAX_MEMORY
from crashext.kernel.access import UnknownLayout
from crashext.kernel.slab.slabs import MAP_BUDGET
from crashext.kernel.slab.view import KernelView
from crashext.procfs.folder import ProcFolder
from crashext.progress import Progress
from crashext.report.as_json import leak_document, similarity_document
from crashext.report.orphans_json import orphan_document
from crashext.report.orphans_text import print_orphan_report, write_list
from crashext.report.procfs_text import print_proc_report
from crashext.report.text import print_leak_report, print_similarity_report
from crashext.report.trace_json import trace_document
from crashext.report.trace_text import print_trace
from crashext.report.verdict_json import overview_document, proc_document, verdict_fields
from crashext.report.verdict_text import print_overview, print_verdicts
from crashext.skipped import Skipped
from crashext.trace import TraceSummary, trace_table
from crashext.trace.live import Wanted, capture

_MOST_SUBJECTS = 16
_LONGEST_LIVE = 24 * 3600
_NEAR_SYMBOL = re.compile(r"([A-Za-z_][\w.]*) *([+-] *(?:0x[0-9a-fA-F]+|[1-9][0-9]*))")
_ADDRESS_DIGITS = 8  # a shorter word without 0x, such as dead or add, may be a symbol


def leakscan(arguments: Sequence[str] | None = None, host: Host | None = None) -> int:
    """Console script `leakscan`. Returns the exit status: 0 answered, 2 bad input."""
    parser = Parser(
        prog="leakscan",
        description="Say whether memory is leaked, where, and by whom; with CACHE, what its "
        "objects are, how many are alike, who points at them and who allocated them.",
        epilog=f"Examples: leakscan {example(host)}; leakscan {example(host)}kmalloc-32",
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
        help="who allocated in this trace what was not freed (tracefs text, trace-cmd report, "
        "trace.dat, perf script; - for stdin); with a later dump: which of it is leaked",
    )
    parser.add_argument(
        "--live",
        metavar="SECONDS",
        type=number(1, _LONGEST_LIVE),
        help="trace the running kernel for so long (root), then see what is leaked of it",
    )
    parser.add_argument("--stacks", action="store_true", help="with --live: trace stacks, too")
    source_options(parser, host)
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
        "--before",
        metavar="OLD",
        type=Path,
        help="without CACHE: what grew since OLD, an earlier dump, a session or --json report of "
        "leakscan without CACHE, or a directory of proc files",
    )
    parser.add_argument(
        "--walker",
        choices=("map", "kmem"),
        default="map",
        help="how objects are found: map reads the memory map (default); kmem asks crash's kmem "
        "-S, which lists no full slabs, and is used where map does not know the kernel",
    )
    reference_options(parser)
    comparison_options(parser)
    return run(parser, arguments, _leakscan, host)


def objsim(arguments: Sequence[str] | None = None, host: Host | None = None) -> int:
    """Console script `objsim`. Returns the exit status: 0 answered, 2 bad input."""
    parser = Parser(
        prog="objsim",
        description="Say how alike objects are; with one address, find every object like it.",
        epilog=f"Example: objsim {example(host)}ffff888003a4b1c0",
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
    parser.add_argument("--size", type=number(1), help="object size in bytes, for --text")
    parser.add_argument(
        "--as",
        dest="as_type",
        metavar="TYPE",
        help="list the object's members, as of struct TYPE",
    )
    source_options(parser, host)
    comparison_options(parser)
    return run(parser, arguments, _objsim, host)


def _leakscan(options: argparse.Namespace, host: Host | None, progress: Progress) -> Output:
    trace = _trace(options) if options.live is None else None
    if options.live is not None:
        trace, host = _live(options, host, progress)
    if trace is not None and host is None and not (options.core or options.kernel):
        return _trace_alone(options, trace)
    if getattr(options, "procfs", None):
        return _procfs(options, progress)
    if options.before is not None and (options.caches or options.orphans):
        raise HostError("--before compares whole machines: leave out CACHE and --orphans")
    if options.orphans:
        return _orphans(options, host, progress)
    if options.list is not None:
        raise HostError("--list writes the addresses that --orphans finds: add --orphans")
    if not options.caches and trace is None:
        return _overview(options, host, progress)
    verdicts: tuple[Verdict, ...] = ()
    if options.walker == "kmem":
        report = _by_kmem(options, host, progress)
    else:
        try:
            with open_view(options, host, "leakscan") as view:
                traced = kept(view.host, None if trace is None else outstanding(trace))
                report = scan_caches(
                    view,
                    options.caches,
                    _settings(options),
                    progress,
                    _budget(view),
                    _refs(options, view),
                    options.memory << 20,
                    traced,
                )
                if traced is not None and not options.caches and options.record is None:
                    verdicts = _traced_verdicts(options, view, progress, traced)
                # A session tells how to ask again.
                options.caches = options.caches or [c.name for c in report.caches]
        except UnknownLayout as why:
            if trace is not None and options.live is not None:
                options.caches = []
                return _trace_alone(options, _unmarked(trace, why))
            if not isinstance(host, KmemHost) or options.record is not None or trace is not None:
                raise
            report = _by_kmem(options, host, progress)
            instead = Skipped(
                f"own slab walker: {why}", 1, "crash's kmem -S was used instead (--walker kmem)"
            )
            report = replace(report, skipped=(instead, *report.skipped))
    if trace is not None:
        said = (replace(s, what=f"trace: {s.what}") for s in trace.skipped)
        report = replace(report, skipped=(*report.skipped, *said))

    def text(console: Console) -> None:
        print_verdicts(verdicts, console)
        print_leak_report(report, console, options.verbose)

    extra = verdict_fields(verdicts) if verdicts else {}
    return Output(text=text, json=lambda: leak_document(report, extra))


def _traced_verdicts(
    options: argparse.Namespace, view: KernelView, progress: Progress, traced: Traced
) -> tuple[Verdict, ...]:
    """The verdict over the whole machine, the trace's call sites among its evidence."""
    if _refs(options, view) is False or isinstance(view.host, RecordedHost):
        return ()
    overview = look_over(
        view, _settings(options), progress, options.memory << 20, options.refs, traced
    )
    return judge(overview.facts)


def _overview(options: argparse.Namespace, host: Host | None, progress: Progress) -> Output:
    if options.walker == "kmem":
        raise HostError("--walker kmem lists the objects of a CACHE: say which")
    with open_view(options, host, "leakscan") as view:
        overview = look_over(view, _settings(options), progress, options.memory << 20, options.refs)
    facts = overview.facts
    if (before := _before(options, host, progress)) is not None:
        facts = replace(
            facts, growth=growth([before, of_overview(overview.kernel.source, overview)])
        )
    verdicts = judge(facts)
    return Output(
        text=lambda console: print_overview(overview, facts, verdicts, console, options.verbose),
        json=lambda: overview_document(overview, facts, verdicts),
    )


def _before(options: argparse.Namespace, host: Host | None, progress: Progress) -> Compared | None:
    if options.before is None:
        return None
    symbols = host.debug_files() if isinstance(host, CrashHost) else getattr(options, "symbols", [])
    return earlier(options.before, symbols, _settings(options), progress)


def _orphans(options: argparse.Namespace, host: Host | None, progress: Progress) -> Output:
    if options.caches:
        raise HostError("--orphans looks at every cache: give no names")
    if options.refs is False or options.walker == "kmem":
        raise HostError("--orphans is the look through all memory: no --no-refs, no --walker kmem")
    with open_view(options, host, "leakscan") as view:
        answer = scan_orphans(view, _settings(options), progress, options.memory << 20)
    if options.list is not None:
        write_list(answer.addresses, answer.caches, options.list)
    return Output(
        text=lambda console: print_orphan_report(answer.report, console, options.verbose),
        json=lambda: orphan_document(answer.report),
    )


def _procfs(options: argparse.Namespace, progress: Progress) -> Output:
    if options.core is not None or options.kernel or options.replay is not None:
        raise HostError("--procfs is for when there is no dump: leave out -c, -k and -r")
    if options.caches:
        raise HostError("--procfs cannot look into a cache: leave out CACHE, or give a dump (-c)")
    if options.record is not None:
        raise HostError("--procfs cannot be recorded: keep the files themselves")
    moments = [read_snapshot(ProcFolder(path), progress) for path in options.procfs]
    report = report_proc(moments, _before(options, None, progress))
    facts = proc_facts(report)
    verdicts = judge(facts)
    return Output(
        text=lambda console: print_proc_report(report, verdicts, console, options.verbose),
        json=lambda: proc_document(report, facts, verdicts),
    )


def _trace(options: argparse.Namespace) -> TraceSummary | None:
    """The trace that was asked for, before any dump is opened: it may be no trace at all."""
    if options.stacks:
        raise HostError("--stacks is for --live: a trace in a file has stacks or has not")
    if options.trace is None:
        return None
    others = ("replay", "procfs", "orphans", "list", "before")
    if any(getattr(options, name, None) for name in others):
        raise HostError("--trace goes with a dump or alone: no --orphans, --procfs or --replay")
    if options.walker == "kmem":
        raise HostError("--trace needs objects with their content: no --walker kmem")
    return trace_table(options.trace)


def _refs(options: argparse.Namespace, view: KernelView) -> bool | None:
    """Whether to look for who points at the objects: after --live also on a small machine, for
    likeness alone does not tell leaked objects from living ones."""
    if options.live is None or options.refs is not None:
        refs: bool | None = options.refs
        return refs
    return view.memory.pages * view.memory.page_size <= MAP_BUDGET


def _live(
    options: argparse.Namespace, host: Host | None, progress: Progress
) -> tuple[TraceSummary, Host | None]:
    """A trace of this machine, and its memory afterwards; None where it cannot be read."""
    others = ("core", "replay", "procfs", "orphans", "list", "trace", "before")
    if any(getattr(options, name, None) for name in others) or options.walker == "kmem":
        raise HostError("--live looks at the running kernel: no dump, no other trace, no --orphans")
    if host is not None and not host.info().live:
        raise HostError("--live needs the running kernel: this is a dump")
    trace = capture(Wanted(options.live, tuple(options.caches), options.stacks), progress)
    if host is None:
        try:
            options.kernel = True
            host = open_host(options)
        except HostError as why:
            if options.record is not None:
                raise
            options.kernel, options.caches = False, []
            return _unmarked(trace, why), None
    return trace, host


def _unmarked(trace: TraceSummary, why: Exception) -> TraceSummary:
    said = f"memory cannot be read, so nothing is marked: {why}"
    return replace(trace, remarks=(*trace.remarks, said))


def _trace_alone(options: argparse.Namespace, trace: TraceSummary) -> Output:
    if options.caches or options.record is not None:
        raise HostError(
            "a trace alone knows no CACHE and is no session: give memory with it (-c, -k)"
        )
    return Output(
        text=lambda console: print_trace(trace, console, options.verbose),
        json=lambda: trace_document(trace),
    )


def _by_kmem(options: argparse.Namespace, host: Host | None, progress: Progress) -> LeakReport:
    if not isinstance(host, KmemHost):
        raise HostError("--walker kmem needs a crash session")
    if options.record is not None:
        raise HostError("--walker kmem cannot be recorded: a session holds no output of crash")
    return scan_caches_kmem(host, options.caches, _settings(options), progress)


def _objsim(options: argparse.Namespace, host: Host | None, progress: Progress) -> Output:
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
        with open_view(options, host, "objsim") as view:
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
    return Output(
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
