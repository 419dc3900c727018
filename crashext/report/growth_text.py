"""What grew since an earlier moment, as text."""

from __future__ import annotations

from rich.console import Console

from crashext.analysis.memory.growth import CacheGrowth, CallerGrowth, Growth
from crashext.report.lines import line
from crashext.report.safe import safe
from crashext.report.tables import Table, show_table
from crashext.wording import (
    called,
    difference_text,
    duration,
    more,
    percent,
    plural,
    size_text,
    some_of,
)

_FEW, _MANY = 8, 40
NO_MEMORY = (
    "MemTotal",
    "DirectMap",
    "Commit",
    "MemFree",
    "MemAvailable",
    "VmallocTotal",
    "VmallocChunk",
)
"""Lines of meminfo whose growth is nobody's memory."""
_DIM, _HEAD, _WARN = "dim", "bold cyan", "yellow"


def print_growth(growth: Growth, console: Console, verbose: bool) -> None:
    """Caches, lines of meminfo and callers of vmalloc that grew, most first."""
    rows = _MANY if verbose else _FEW
    first, last = safe(growth.paths[0]), safe(growth.paths[-1])
    between = time_between(growth)
    steps = f" in {len(growth.paths) - 1} steps" if len(growth.paths) > 2 else ""
    what = "Growth" if growth.judged else "Difference"
    line(console, f"{what} from {first} to {last}{steps} ({between}):", _HEAD)
    if growth.machines is not None:
        line(console, f"    {another_machine(growth.machines)}", _WARN)
    if growth.another_boot:
        line(console, f"    {not_one_boot(growth)}", _WARN)
    if growth.backwards:
        line(console, "    by their dates the moments are not in time order", _WARN)
    if not growth.alike:
        note = "/proc counts objects on CPUs' lists as allocated, a dump does not: look at slabs"
        line(console, f"    {note}", _DIM)
    table = Table("lrrrrt")
    table.heads("cache", "objects", "slabs", "bytes", "an hour", "")
    caches = [c for c in growth.caches if c.bytes > 0 or (c.active_objs or 0) > 0]
    for cache in caches[:rows]:
        table.row(
            safe(cache.name),
            "" if cache.active_objs is None else f"{cache.active_objs:+,}",
            "" if cache.slabs is None else f"{cache.slabs:+,}",
            difference_text(cache.bytes),
            _rate(growth, cache.bytes),
            _shape(cache),
        )
    if caches:
        show_table(console, table)
    for title, lines in (
        (
            "meminfo",
            [
                (safe(m.name), m.bytes)
                for m in growth.meminfo
                if m.bytes > 0 and not m.name.startswith(NO_MEMORY)
            ],
        ),
        (
            "vmalloc",
            [(_caller(c), c.bytes) for c in growth.vmalloc if c.bytes > 0],
        ),
    ):
        table = Table("lrr")
        table.heads("", "bytes", "an hour")
        for name, difference in lines[:rows]:
            table.row(f"{title}: {name}", difference_text(difference), _rate(growth, difference))
        if lines:
            show_table(console, table)
    shrunk = sum(c.bytes for c in growth.caches if c.bytes < 0)
    if shrunk and growth.judged:
        line(console, f"    other caches shrank by {size_text(-shrunk)}", _DIM)
    if growth.unlisted:
        line(console, f"    {not_compared(growth.unlisted)}", _DIM)


def time_between(growth: Growth) -> str:
    """How much time passed, and who says so."""
    if growth.seconds is not None:
        return f"{duration(growth.seconds)} by {growth.clock}"
    return "two boots" if growth.another_boot else "no clock tells the time between"


def not_one_boot(growth: Growth) -> str:
    """That moments are of two boots, by what, and what that does to the comparison."""
    return (
        f"not the same boot: {safe(growth.another_boot)} (or it slept, or its clock was set): what "
        "grew is compared all the same, without rates"
    )


def another_machine(sizes: tuple[int, int]) -> str:
    """That two moments are not of one machine, by how much memory they have."""
    first, last = (size_text(size) for size in sizes)
    return (
        f"not the same machine: MemTotal {first}, then {last} (or memory was added or taken away): "
        "no growth is judged"
    )


def not_compared(names: tuple[str, ...]) -> str:
    """Which caches may have grown without anybody having counted it."""
    return (
        f"{plural(len(names), 'cache')} not compared, as one of these lists is not whole: "
        f"{some_of([safe(name) for name in names], 3)}"
    )


def _shape(cache: CacheGrowth) -> str:
    if cache.fragmenting:
        return f"fragmentation: use fell from {percent(cache.use[0])} to {percent(cache.use[1])}"
    return "at every step" if len(cache.steps) > 2 and cache.steady else ""


def _rate(growth: Growth, difference: int) -> str:
    rate = growth.per_hour(difference)
    return "" if rate is None else difference_text(round(rate))


def _caller(caller: CallerGrowth) -> str:
    who = safe(called(caller.function, caller.module))
    return f"{who}, {more(caller.areas, 'area')}"
