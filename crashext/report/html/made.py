"""What every page ends with: what was skipped, how to ask again, and of what it was made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from crashext import __version__
from crashext.analysis.results.evidence import Reachability
from crashext.analysis.results.reports import Kernel
from crashext.report.asking import Asking, split
from crashext.report.html.blocks import (
    Amounts,
    Block,
    Cell,
    Commands,
    Line,
    Points,
    Section,
    Step,
    Terms,
    number,
    table,
)
from crashext.report.reach_text import reachability_lines
from crashext.skipped import Skipped

INTERRUPTED = "Interrupted: this is what was known so far."


@dataclass(frozen=True)
class Made:
    """How a report came about."""

    command: str
    """As it was typed, or where it can be."""
    asking: Asking
    rows: tuple[tuple[str, str], ...] = ()
    """Settings: the seed, and so on."""


def steps(made: Made, plain: Iterable[str]) -> Commands:
    """Next commands as they are typed where the report was made."""
    told = (split(step) for step in plain)
    return Commands(tuple(Step(*made.asking.placed(command), why) for command, why in told))


def limits_section(
    limits: Sequence[str],
    skipped: Sequence[Skipped],
    interrupted: bool,
    amounts: Amounts,
    seen: Reachability | None = None,
) -> Section:
    """What the answer leaves out."""
    blocks: list[Block] = [Line(INTERRUPTED, "bad")] * interrupted
    if seen is not None and seen.misgivings:
        blocks.append(Points("Not to be believed:", seen.misgivings, "bad"))
    if limits:
        blocks.append(Points("Not seen:", tuple(limits)))
    rows = [(Cell(s.what), number(s.count), Cell(s.effect)) for s in skipped]
    blocks += table("What was skipped", "what | count# | how it limits the answer", rows,
                    amounts.rows)  # fmt: skip
    if seen is not None:
        blocks += [Line(text, "quiet") for text in reachability_lines(seen)]
    return Section("What was not seen", tuple(blocks or [Line("Nothing was skipped.")]))


def made_section(made: Made, kernel: Kernel | None, following: Sequence[str] = ()) -> Section:
    """How to get this answer again, and what comes next."""
    rows: list[tuple[str, str]] = []
    if kernel is not None:
        rows += [
            ("kernel", f"Linux {kernel.release} {kernel.arch}"),
            ("running kernel" if kernel.live else "dump", kernel.source),
        ]
    rows += [*made.rows, ("crashext", __version__)]
    blocks: list[Block] = [
        Commands((Step("", made.command, "this report; with --html FILE as a page"),)),
        Terms(tuple(rows)),
    ]
    if following:
        blocks += [Line("Next:"), steps(made, dict.fromkeys(following))]
    return Section("How to ask again", tuple(blocks))


def of_kernel(kernel: Kernel | None) -> str:
    """The line below the answer."""
    if kernel is None:
        return ""
    state = "running kernel" if kernel.live else "dump"
    return f"{state} {kernel.source}, Linux {kernel.release} {kernel.arch}; intervals are 95 %"
