"""What grew between moments: curves, rates, and how long free memory lasts at that rate."""

from __future__ import annotations

from crashext.analysis.memory.growth import Growth
from crashext.analysis.memory.memsplit import MemorySplit
from crashext.report.growth_text import (
    NO_MEMORY,
    another_machine,
    not_compared,
    not_one_boot,
    time_between,
)
from crashext.report.html.blocks import (
    Amounts,
    Block,
    Cell,
    Figure,
    Line,
    Section,
    number,
    size,
    table,
)
from crashext.report.html.figures import plot
from crashext.wording import called, difference_text, duration, percent

_CURVES = 6


def growth_sections(
    growth: Growth | None, split: MemorySplit | None, amounts: Amounts
) -> tuple[Section, ...]:
    """Nothing where one moment is known."""
    if growth is None:
        return ()
    between = time_between(growth)
    blocks: list[Block] = [Line(f"From {growth.paths[0]} to {growth.paths[-1]}: {between}.")]
    if growth.machines is not None:
        blocks.append(Line(f"{another_machine(growth.machines)}.", "warn"))
    if growth.another_boot:
        blocks.append(Line(f"{not_one_boot(growth)}.", "warn"))
    if growth.unlisted:
        blocks.append(Line(f"{not_compared(growth.unlisted)}.", "quiet"))
    if growth.backwards:
        blocks.append(Line("By their dates the moments are not in time order.", "warn"))
    if not growth.alike:
        blocks.append(
            Line(
                "/proc counts objects on CPUs' lists as allocated, a dump does not: look at slabs.",
                "quiet",
            )
        )
    grown = [c for c in growth.caches if c.bytes > 0 or (c.active_objs or 0) > 0]
    drawn = [c for c in grown if len(c.steps) > 1][:_CURVES]
    if drawn:
        moments = [f"moment {i + 1}" for i in range(max(len(c.steps) for c in drawn))]
        describes = "; ".join(f"{c.name} {difference_text(c.bytes)}" for c in drawn)
        blocks.append(
            Figure(
                "Slab memory of the caches that grew most, moment by moment.",
                plot([(c.name, c.steps) for c in drawn], moments, f"Growth of {describes}"),
            )
        )
    free = split.get("free") if split is not None else 0
    rows = [
        (
            Cell(c.name),
            _signed(c.active_objs),
            _signed(c.slabs),
            size(c.bytes, "bad" if c.bytes > 0 else ""),
            Cell(_rate(growth, c.bytes)),
            Cell(_lasts(growth, c.bytes, free)),
            Cell(
                f"fragmentation: use fell from {percent(c.use[0])} to {percent(c.use[1])}"
                if c.fragmenting
                else ("at every step" if c.steady and len(c.steps) > 2 else "")
            ),
        )
        for c in grown
    ]
    columns = "cache | objects# | slabs# | grew by# | an hour# | free memory lasts# | "
    blocks += table("Slab caches that grew", columns, rows, amounts.rows)
    lines = [
        (Cell(m.name), size(m.first), size(m.last), size(m.bytes), Cell(_rate(growth, m.bytes)))
        for m in growth.meminfo
        if m.bytes > 0 and not m.name.startswith(NO_MEMORY)
    ]
    columns = "line | first# | last# | grew by# | an hour#"
    blocks += table("Lines of meminfo that grew", columns, lines, amounts.rows)
    callers = [
        (
            Cell(called(c.function, c.module)),
            number(c.areas, text=f"{c.areas:+,}"),
            size(c.bytes),
            Cell(_rate(growth, c.bytes)),
        )
        for c in growth.vmalloc
        if c.bytes > 0
    ]
    columns = "caller | areas# | grew by# | an hour#"
    blocks += table("Callers of vmalloc that grew", columns, callers, amounts.rows)
    return (Section("What grew", tuple(blocks)),)


def _signed(difference: int | None) -> Cell:
    return Cell("") if difference is None else number(difference, text=f"{difference:+,}")


def _rate(growth: Growth, difference: int) -> str:
    rate = growth.per_hour(difference)
    return "" if rate is None else difference_text(round(rate))


def _lasts(growth: Growth, difference: int, free: int) -> str:
    seconds = growth.lasts(difference, free)
    return "" if seconds is None else duration(seconds)
