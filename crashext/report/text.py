"""Reports as text: rich on a terminal, plain when piped. The first line is the answer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TextIO

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from crashext.analysis.results.estimate import count_text, share_text
from crashext.analysis.results.joined import JoinedTrace
from crashext.analysis.results.reports import (
    CacheReport,
    Group,
    Kernel,
    LeakReport,
    Word,
)
from crashext.report.asking import Asking, print_step
from crashext.report.evidence_text import allocator_lines
from crashext.report.joined_text import print_joined
from crashext.report.kinds import COLOURS, UNKNOWN
from crashext.report.lines import folded, line
from crashext.report.reach_text import (
    cache_reach_lines,
    headline,
    held_lines,
    reachability_lines,
    unreachable_note,
)
from crashext.report.safe import safe
from crashext.report.skipped_text import skipped_text
from crashext.report.types_text import type_lines
from crashext.skipped import Skipped
from crashext.wording import percent, plural, size_text

_FEW_GROUPS = 3
_FEW_WORDS = 32
_LARGE, _MOSTLY = 0.01, 0.5
"""Shares of a cache, and of a group, from which something is much."""
_NAME = 24
_LEAST_MEANING = 20
_ROOMY = 72
"""Columns from which a hop is shown with its address, which the word nearly says."""
_WORDS_AT, _GAP = 6, 2
"""The column where words begin, and the blanks between columns."""
_CHUNK = 1 << 16
_DIM, _BOLD, _HEAD, _WARN, _MARK = "dim", "bold", "bold cyan", "yellow", "bold red"

_STYLES = {
    "pointer": "cyan",
    "symbol": "green",
    "poison": "red",
    "text": "yellow",
    "number": "magenta",
    "zero": _DIM,
    "opaque": "",
}
"""Of a kind's colour, in a terminal."""


def print_leak_report(report: LeakReport, console: Console, verbose: bool, asking: Asking) -> None:
    """The answer to `leakscan CACHE…`."""
    if report.trace is not None:
        print_joined(report.trace, console, verbose)
    for cache in report.caches:
        line(console, cache_answer(cache), _BOLD)
        if verbose or report.trace is None or _told(report.trace, cache.name):
            _cache(console, cache, verbose, asking)
    for text in reachability_lines(report.reachability):
        line(console, safe(text), _DIM)
    footer(console, report.kernel, report.skipped, report.interrupted, report.seed)


def _told(trace: JoinedTrace, cache: str) -> bool:
    """Whether a trace has more to say of a cache than that: -v shows the others, too."""
    others = [c for c in trace.caches if c.cache != cache]
    return not others or any(s.marked for c in trace.caches if c.cache == cache for s in c.sites)


def write_addresses(addresses: NDArray[np.uint64], stream: TextIO) -> None:
    """One address a line; millions of them, so without rich."""
    for start in range(0, len(addresses), _CHUNK):
        some = addresses[start : start + _CHUNK].tolist()
        stream.write("\n".join(f"{a:x}" for a in some) + "\n")


def cache_answer(cache: CacheReport) -> str:
    """The first line of what is said of a cache."""
    asked = f" (asked for as {safe(cache.asked)})" if cache.asked != cache.name else ""
    unreachable = unreachable_note(cache)
    if not cache.groups:
        return f"{safe(cache.name)}{asked}: {_no_groups(cache)}{unreachable}"
    first = cache.groups[0]
    size = first.objects.estimate * cache.slot_size
    told = "; ".join(t for t in (headline(first), *first.notes[:1]) if t)
    note = f": {told}" if told else ""
    likeness = (
        f"{count_text(first.objects)} of {count_text(cache.allocated)} objects "
        f"({share_text(first.share)}) are alike, {size_text(size)}"
    )
    if cache.walker == "kmem":
        likeness = (
            f"{count_text(first.objects)} of the {cache.sampled:,} objects seen "
            f"({share_text(first.share)}) are alike; {count_text(cache.allocated)} are allocated"
        )
    return f"{safe(cache.name)}{asked}: {likeness}{safe(note)}{unreachable}"


def _no_groups(cache: CacheReport) -> str:
    if cache.sampled == 1:
        return "only one object was seen" if cache.allocated.high > 1 else "it has one object"
    if cache.sampled:
        return f"no two of the {cache.sampled:,} objects seen are alike"
    if cache.walker == "kmem" and cache.allocated.high:
        return (
            f"none of its {count_text(cache.allocated)} objects is listed by kmem -S and readable"
        )
    if cache.allocated.estimate and cache.slabs_examined < cache.slabs_total.estimate:
        return f"none of its {count_text(cache.allocated)} objects is in the slabs examined"
    if cache.allocated.estimate:
        return f"none of its {count_text(cache.allocated)} objects can be read"
    return "no allocated objects"


def _cache(console: Console, cache: CacheReport, verbose: bool, asking: Asking) -> None:
    chosen = "listed by kmem -S" if cache.walker == "kmem" else "drawn at random"
    examined = (
        "all examined"
        if cache.slabs_total.exact and cache.slabs_examined == cache.slabs_total.estimate
        else f"{cache.slabs_examined:,} {chosen} and examined"
    )
    line(
        console,
        f"  {count_text(cache.allocated)} allocated of {count_text(cache.objects_total)} slots, "
        f"{cache.object_size:,} bytes each ({cache.slot_size:,} with metadata); "
        f"{count_text(cache.slabs_total, 'slab')}, {examined}",
    )
    for text in cache_reach_lines(cache.reach):
        line(console, f"  {text}")
    if cache.aliases:
        line(console, f"  also called {safe(', '.join(cache.aliases))}")
    traits = [f.lower().replace("_", " ") for f in cache.flags]
    traits += ["constructor"] * cache.has_constructor
    if traits:
        line(console, f"  {', '.join(traits)}")
    shown = cache.groups if verbose else cache.groups[:_FEW_GROUPS]
    said: set[str] = set()
    for number, group in enumerate(shown, 1):
        if verbose or number == 1 or _tells_much(group):
            print_group(console, number, group, cache.slot_size, verbose, said)
        else:
            line(console, _shortly(number, group, cache.slot_size))
    hidden = cache.groups[len(shown) :]
    if hidden:
        counts = ", ".join(count_text(g.objects) for g in hidden)
        line(console, f"  {plural(len(hidden), 'smaller group')} (-v shows): {counts} objects")
    if cache.more_groups:
        what = plural(cache.more_groups, "more group")
        line(console, f"  {what}: {count_text(cache.more, 'object')}")
    if cache.rest.estimate or cache.rest.high:
        what = "like no other" if cache.rest_examined else "not grouped further"
        line(console, f"  {what}: {count_text(cache.rest, 'object')}")
    if cache.next_steps:
        unsaid = "  What likeness cannot say is whether these objects are still in use. Next:"
        judged = any(g.held is not None for g in cache.groups)
        line(console, "  Next:" if judged else unsaid)
        for step in cache.next_steps:
            print_step(console, asking, step, "    ")


def _tells_much(group: Group) -> bool:
    """Whether a group is worth its twenty lines: many objects, or some that nobody holds."""
    return group.share.value >= _LARGE or group.held is None or group.held.held.value < _MOSTLY


def _shortly(number: int, group: Group, slot_size: int) -> str:
    told = "; ".join(t for t in (headline(group), *group.notes[:1]) if t)
    return f"  {_group_head(number, group, slot_size)}: {safe(told or 'still in use')} (-v shows)"


def _group_head(number: int, group: Group, slot_size: int) -> str:
    size = f", {size_text(group.objects.estimate * slot_size)}" if slot_size else ""
    return (
        f"group {number}: {count_text(group.objects, 'object')} ({share_text(group.share)}){size}"
    )


def print_group(
    console: Console, number: int, group: Group, slot_size: int, verbose: bool, said: set[str]
) -> None:
    """One group; `slot_size` is 0 where nobody knows it. `said` of other groups is what would tell
    who allocated them."""
    line(
        console,
        f"  {_group_head(number, group, slot_size)}; "
        f"likeness {group.similarity:.2f}, {plural(group.shapes, 'shape')}, "
        f"{plural(group.distinct, 'content')} in {group.sampled:,} seen",
        _HEAD,
    )
    for note in (*held_lines(group, verbose), *group.notes):
        line(console, f"    - {safe(note)}")
    for text in allocator_lines(group, verbose, said):
        line(console, f"    {text}" if text.startswith(" ") else f"    - {text}")
    for text in type_lines(group, verbose):
        line(console, text)
    line(console, f"    exemplar {group.exemplar:x}:")
    print_words(console, group.words, verbose, in_group=True)


def print_words(
    console: Console,
    words: tuple[Word, ...],
    verbose: bool,
    in_group: bool = False,
    marked: Collection[int] = (),
    names: Mapping[int, str] | None = None,
) -> None:
    """Words with their meanings; `marked` are offsets of those that differ from another object's,
    `names` what is at an offset by the type that the object may be.
    """
    called = names or {}
    rows: list[tuple[str, str, Text, str, str, str]] = []
    shown = 0
    for word, run in _zero_runs(words):
        if shown >= _FEW_WORDS and not verbose:
            rows.append(("...", "", Text(), "", f"{len(words)} words in all (-v shows them)", ""))
            break
        shown += 1
        offset = f"+{word.offset:#05x}"
        if run > 1:
            rows.append((offset, "", Text("0"), "", f"{run} words of zeros", ""))
            continue
        value = Text(_value(word), style=_style(word))
        mark = "*" if word.offset in marked else ""
        name = safe(called.get(word.offset, ""))
        rows.append((offset, name, value, mark, safe(_meaning(word, in_group)), ""))
        for hop in word.hops:
            where = f"{hop.address:x}, " if console.width >= _ROOMY else ""
            rows.append(("", "", Text(), "", f"-> {where}{safe(hop.what)}", _DIM))
    _show_words(console, rows, in_group or bool(marked))


def _show_words(
    console: Console, rows: Sequence[tuple[str, str, Text, str, str, str]], compared: bool
) -> None:
    """Offset, name, value, mark and meaning. Where a column of names leaves meanings no room, each
    stands before its meaning."""
    widths = [max(len(r[i]) for r in rows) for i in range(4)]
    widths[3] = int(compared)
    longest = max((len(part) for r in rows for part in r[1].split()), default=0)
    widths[1] = min(widths[1], max(longest, _NAME))
    at = _WORDS_AT + sum(w + _GAP for w in widths if w)
    inline = console.width - at < _LEAST_MEANING
    if inline:
        at -= widths[1] + _GAP
        widths[1] = 0
    for offset, name, value, mark, meaning, style in rows:
        told = f"{name}: {meaning}" if inline and name else meaning
        meanings = folded(told, console.width - at, 0)
        names = folded(name, widths[1], 0) if widths[1] else []
        for i in range(max(len(meanings), len(names))):
            cells = [Text(offset), Text(names[i] if i < len(names) else ""), value, Text(mark)]
            text = Text(" " * _WORDS_AT)
            for k, (cell, wide) in enumerate(zip(cells, widths, strict=True)):
                shown = cell if i == 0 or k == 1 else Text("")
                text += shown + Text(" " * (wide + _GAP - len(shown))) if wide else Text("")
            text.append(meanings[i] if i < len(meanings) else "", style)
            console.print(text, soft_wrap=True)


def _value(word: Word) -> str:
    return f"{word.value:0{2 * word.size}x}" if word.shown else "-" * (2 * word.size)


def _meaning(word: Word, in_group: bool) -> str:
    parts = [word.meaning] if word.meaning else []
    if in_group:
        if not word.varies:
            parts.append("same in all")
        elif word.agreement < 0.995:
            parts.append(f"{word.varies}; {percent(word.agreement)} are alike here")
        else:
            parts.append(word.varies)
    return " | ".join(parts)


def _zero_runs(words: tuple[Word, ...]) -> Iterable[tuple[Word, int]]:
    """(word, 1) for each, or (first word, n) for n > 2 constant zeros in a row."""
    i = 0
    while i < len(words):
        n = i
        while n < len(words) and words[n].kind == "zero" and not words[n].varies:
            n += 1
        run = n - i if n - i > 2 else 1
        yield words[i], run
        i += run


def _style(word: Word) -> str:
    return _STYLES[COLOURS.get(word.kind, UNKNOWN)[0]]


def footer(
    console: Console,
    kernel: Kernel | None,
    skipped: tuple[Skipped, ...],
    interrupted: str | bool,
    seed: int | None,
) -> None:
    """`interrupted` may say what the answer has; `seed` is None where nothing was random."""
    for item in skipped:
        line(console, skipped_text(item), _WARN)
    if interrupted:
        told = "interrupted: this is what was known so far, without what is skipped"
        line(console, interrupted if isinstance(interrupted, str) else told, _WARN)
    if kernel is not None:
        how = "" if seed is None else f"; intervals are 95 %; seed {seed}"
        line(console, source_line(kernel) + how, _DIM)


def source_line(kernel: Kernel) -> str:
    """Which kernel was looked at, and where."""
    state = "running kernel" if kernel.live else "dump"
    return f"{state} {safe(kernel.source)}, Linux {safe(kernel.release)} {safe(kernel.arch)}"
