"""What saved text says, as text: one screen of it, all of it, or one topic."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from crashext.analysis.proc import ProcReport, Snapshot
from crashext.analysis.verdict.verdict import Verdict
from crashext.procfs.kinds import LABELS
from crashext.report.asking import Asking
from crashext.report.brief_text import Brief, growth_sentence, print_brief, skipped_sentence
from crashext.report.growth_text import print_growth
from crashext.report.lines import line
from crashext.report.procfs_parts import print_memory, print_pages, print_slabs, proc_answer
from crashext.report.safe import safe
from crashext.report.skipped_text import skipped_text
from crashext.report.topics import SINCE_WHEN, TOPICS
from crashext.report.verdict_text import print_verdicts
from crashext.wording import some_of

_MANY = 40
_FEW_LIMITS = 2
_DIM, _HEAD, _WARN = "dim", "bold cyan", "yellow"
_NOTHING = {
    "memory": "these files do not say where memory is: no meminfo is here",
    "pages": "these files do not say who has pages: neither page_owner nor allocinfo is here",
    "caches": "these files do not say which caches there are: no slabinfo is here",
}


def print_proc_report(
    report: ProcReport,
    verdicts: tuple[Verdict, ...],
    console: Console,
    verbose: bool,
    asking: Asking,
    topics: Sequence[str] = (),
) -> None:
    """The answer to `leakscan PATH…`."""
    known = _known(report)
    if not verbose and not topics:
        print_brief(verdicts, _brief(report, known), console, asking)
        return
    for topic in topics or known:
        if topic == "why":
            print_verdicts(verdicts, console, asking, verbose)
            _limits(console, report)
        elif topic not in known:
            line(console, SINCE_WHEN if topic == "growth" else _NOTHING[topic])
        elif topic == "growth" and report.growth is not None:
            print_growth(report.growth, console, verbose)
        elif topic == "memory":
            print_memory(report, console, verbose)
        elif topic == "pages":
            print_pages(report, console, verbose)
        else:
            print_slabs(report, console, verbose)
    for item in report.skipped:
        line(console, skipped_text(item), _WARN)
    _footer(console, report.snapshot)


def _known(report: ProcReport) -> tuple[str, ...]:
    """The topics that these files say something of."""
    snapshot = report.snapshot
    said = {
        "why": True,
        "growth": report.growth is not None,
        "memory": bool(report.split is not None or report.vmalloc or report.processes),
        "pages": snapshot.page_owner is not None or snapshot.allocinfo is not None,
        "caches": bool(report.families or snapshot.kmemleak is not None or snapshot.traces),
    }
    return tuple(topic for topic in TOPICS if said[topic])


def _brief(report: ProcReport, topics: tuple[str, ...]) -> Brief:
    snapshot = report.snapshot
    skipped = skipped_sentence(report.skipped)
    unsaid = [safe(limit.partition(":")[0]) for limit in report.limits[:-1]]
    limits = f"these files do not say {some_of(unsaid, _FEW_LIMITS)} (why)" if unsaid else ""
    return Brief(
        proc_answer(report) if report.split is not None else "",
        growth_sentence(report.growth),
        tuple(text for text in (skipped,) if text),
        _source(snapshot),
        topics,
        limits,
    )


def _limits(console: Console, report: ProcReport) -> None:
    line(console, "What these files cannot say:", _HEAD)
    for limit in report.limits:
        line(console, f"  - {safe(limit)}")


def _footer(console: Console, snapshot: Snapshot) -> None:
    guess = "" if snapshot.page_size_known else " (a guess)"
    line(console, f"{_source(snapshot)}; pages of {snapshot.page_size:,} bytes{guess}", _DIM)
    if snapshot.recognised:
        texts: dict[str, list[str]] = {}
        for one in snapshot.recognised:
            texts.setdefault(one.name, []).append(LABELS.get(one.kind, one.kind))
        shown = [f"{name} ({', '.join(dict.fromkeys(kinds))})" for name, kinds in texts.items()]
        line(console, safe(f"recognised by content: {some_of(shown, _MANY)}"), _DIM)


def _source(snapshot: Snapshot) -> str:
    state = "running machine" if snapshot.live else "saved files"
    found = ", ".join(dict.fromkeys(LABELS.get(kind, kind) for kind in snapshot.files))
    return f"{state} {safe(snapshot.path)}; read: {found}"
