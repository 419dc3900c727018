"""The accounting of a dump's memory as lines of text. Every string of the dump is made safe."""

from __future__ import annotations

from collections.abc import Iterator

from crashext.analysis.memory.accounting import Accounting
from crashext.analysis.memory.memsplit import MemorySplit
from crashext.analysis.memory.pagegroups import BY_RECORD, PageGroup
from crashext.analysis.memory.quantities import Check, Unaccounted
from crashext.procfs.processes import Process
from crashext.report.lines import COLUMN, STUCK
from crashext.report.safe import safe
from crashext.wording import called, part_of, percent, percent_of, plural, size_text

_FEW = 5
_BAR = 20
BARS_FROM = 110
"""Columns of a window that has room for bars, and for notes behind them."""
_KINDS = {
    "zeros": "zeros",
    "one-value": "one value all over",
    "text": "text",
    "module-pointers": "pointers into module",
    "kernel-pointers": "pointers into the kernel image",
    "pointers": "pointers to other kernel memory",
    "data": "other data",
}


def memory_lines(accounting: Accounting, rows: int = _FEW, bars: bool = False) -> list[str]:
    """The whole of memory, what both counts disagree on, and who has most of it.

    At most `rows` lines of each list; `bars` draws the parts of memory.
    """
    split = accounting.split
    lines = [memory_sentence(split)]
    lines += split_lines(split, _BAR if bars else 0)
    lines += _aside(accounting)
    lines += _checks(accounting)
    if accounting.unaccounted is not None and accounting.unaccounted.pages:
        lines += _unaccounted(accounting.unaccounted, rows)
    lines += _callers(accounting, rows)
    lines += _users(accounting, rows)
    lines += [f"not seen: {safe(limit)}" for limit in accounting.limits]
    return lines


def memory_sentence(split: MemorySplit) -> str:
    """How memory is split, in one line."""
    groups = ", ".join(f"{size_text(split.sum(g))} {g}" for g in ("free", "user", "kernel"))
    return (
        f"{size_text(split.total)} of memory: {groups}, {size_text(split.unaccounted)} unaccounted"
    )


def split_lines(split: MemorySplit, bar: int = 0) -> Iterator[str]:
    """A row for each part of memory, its bar at most `bar` columns long."""
    for part in split.parts:
        name = part.name if part.group == "free" else f"{part.group}: {part.name}"
        yield _row(name, part.bytes, split.total, part.note, bar)
    note = "the counters overlap" if split.unaccounted < 0 else ""
    yield _row("unaccounted", split.unaccounted, split.total, note, bar)
    yield _row("MemTotal", split.total, split.total, "", 0)


def _row(name: str, size: int, total: int, note: str, bar: int) -> str:
    share = percent_of(size, total) if total else ""
    text = f"  {name:<33} {size_text(size):>11} {share:>7}"
    if bar:
        drawn = "#" * min(bar, round(bar * max(0, size) / total)) if total else ""
        text = f"{text}  {drawn:{bar}}"
    return (f"{text}  {COLUMN}{safe(note)}" if note else text).rstrip()


def _aside(accounting: Accounting) -> Iterator[str]:
    """What is a part of a part, or of no part."""
    for pool in accounting.huge_pages:
        if pool.pages:
            yield (
                f"  huge pages of {size_text(pool.size)}: {pool.pages:,}, {pool.free:,} free, "
                f"{pool.reserved:,} reserved, {pool.surplus:,} surplus"
            )
    if accounting.mlocked:
        yield f"  locked in memory (mlock): {size_text(accounting.mlocked)}"
    reserved = accounting.reserved
    if reserved is not None:
        yield (
            f"  outside MemTotal, reserved at boot: {size_text(reserved.total)} (kernel image "
            f"{size_text(reserved.image)}, memory map {size_text(reserved.memory_map)}, per-CPU "
            f"{size_text(reserved.percpu)})"
        )


def _checks(accounting: Accounting) -> Iterator[str]:
    if not accounting.checks:
        return
    wrong = [c for c in accounting.checks if not c.agrees]
    exact = sum(1 for c in accounting.checks if not c.difference)
    yield (
        f"  counted twice, by the kernel's counters and by page frames: "
        f"{len(accounting.checks) - len(wrong)} of {len(accounting.checks)} quantities agree, "
        f"{exact} of them to the page"
    )
    for check in wrong:
        yield _disagreement(check)


def _disagreement(check: Check) -> str:
    return (
        f"  {check.name}: {size_text(check.counted)} by the counters, "
        f"{size_text(check.found)} by page frames"
    )


def _unaccounted(rest: Unaccounted, rows: int) -> Iterator[str]:
    about = "" if rest.looked == rest.pages else f", estimated from {rest.looked:,} of them"
    orders = ", ".join(f"{o.blocks:,} of order {o.order}" for o in rest.orders)
    yield f"Unaccounted: {plural(rest.pages, 'page')}; allocations: {orders}{about}"
    if rest.with_kmalloc:
        yield f"  {plural(rest.with_kmalloc, 'page')} of large kmalloc()s are among these pages"
    if rest.unreadable:
        yield f"  {part_of(rest.unreadable, rest.sampled, 'sampled page')} could not be read"
    for group in rest.groups[:rows]:
        pages = plural(group.pages, "page")
        yield f"  {percent(group.share):>7}  {pages:>14}  {COLUMN}{_group(group)}"


def _group(group: PageGroup) -> str:
    module = f" [{safe(group.module)}]" if group.module else ""
    detail = safe(group.detail)
    if group.by in BY_RECORD:
        what = f"allocated by {detail}{module}"
    else:
        what = _KINDS[group.kind] + module + (f": {detail}" if detail else "")
    return f"{what} (such as {group.example:#x})"


def _callers(accounting: Accounting, rows: int) -> Iterator[str]:
    some = accounting.callers[:rows]
    if some:
        yield "vmalloc by caller:"
    for c in some:
        name = safe(called(c.function, c.module))
        yield f"  {size_text(c.bytes):>12}  {plural(c.areas, 'area'):>12}  {COLUMN}{name}"


def _users(accounting: Accounting, rows: int) -> Iterator[str]:
    if accounting.processes:
        yield f"Processes by memory ({accounting.process_count:,} with some):"
    for p in accounting.processes[:rows]:
        yield process_line(p)
    some = [t for t in accounting.tmpfs if t.bytes][:rows]
    if some:
        yield "Files in memory (tmpfs and its kin):"
    for t in some:
        where = f"{safe(t.kind)} on {safe(t.mounted)}" if t.mounted else "the kernel's own mount"
        files = plural(t.files, "file") + ("" if t.complete else " and more")
        largest = ", ".join(
            f"{safe(f.name) or 'no name'} {size_text(f.bytes)}" for f in t.largest[:1]
        )
        yield f"  {size_text(t.bytes):>12}  {COLUMN}{where}: {files}, largest {largest}"


def process_line(process: Process) -> str:
    """What a process has, and of which kinds, where its source tells them."""
    kinds = (
        ("anon", process.rss_anon),
        ("file", process.rss_file),
        ("shmem", process.rss_shmem),
        ("swap", process.swap),
        ("page tables", process.page_tables),
        ("huge pages", process.hugetlb),
        ("locked", process.locked),
    )
    parts = ", ".join(f"{name}{STUCK}{size_text(size)}" for name, size in kinds if size)
    who = f"{safe(process.comm)} (pid {process.pid})"
    return f"  {size_text(process.rss):>12}  {COLUMN}{who}" + (f": {parts}" if parts else "")
