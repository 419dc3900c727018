"""Who points at a group, in lines of text."""

from __future__ import annotations

from crashext.analysis.results.estimate import NONE, count_text, share_text
from crashext.analysis.results.evidence import CacheReach, Held, Reachability
from crashext.analysis.results.reports import CacheReport, Group
from crashext.wording import percent, plural, root_text, some_of

_STEPS = " -> "
_FEW = 3
_UNTOLD = 0.001
_MOSTLY, _NEARLY = 0.5, 0.9
_NAMELESS = ("per-CPU memory", "boot memory", "page frame")


def nameless(root: str) -> bool:
    """Whether a holder's name says nothing of who it is."""
    return root.startswith(_NAMELESS)


def headline(group: Group) -> str:
    """The few words for a report's first line; "" where nobody looked."""
    held = group.held
    if held is None:
        return ""
    if held.orphan.value >= 0.5:
        return "nothing points at them" + _unless_all(held.orphan.value)
    if held.structure.value >= 0.5:
        return "only unreachable objects point at them" + _unless_all(held.structure.value)
    unreachable = held.orphan.value + held.structure.value
    if held.holders and held.held.value >= 0.5:
        name, count = held.holders[0]
        total = sum(n for _, n in held.holders)
        by = f"held by {root_text(name)}" if 2 * count >= total else "still in use"
        return by + (f"; {percent(unreachable)} are not" if unreachable >= 0.001 else "")
    return ""


def _unless_all(share: float) -> str:
    return "" if share >= 0.9995 else f" ({percent(share)})"


def unreachable_note(cache: CacheReport) -> str:
    """How many of all its objects are unreachable, unless the first group says it."""
    found = cache.reach.unreachable if cache.reach is not None else NONE
    if not found.estimate:
        return ""
    held = cache.groups[0].held if cache.groups else None
    if held is not None:
        said = (held.orphan.value + held.structure.value) * cache.groups[0].objects.estimate
        if held.held.value < _MOSTLY and said >= _NEARLY * found.estimate:
            return ""
    return f"; {count_text(found)} of {count_text(cache.allocated)} objects are unreachable"


def cache_reach_lines(reach: CacheReach | None) -> list[str]:
    """What became of all objects of the cache."""
    if reach is None:
        return []
    parts = [
        f"{count_text(reach.unreachable)} unreachable",
        f"{count_text(reach.held)} held",
        f"{count_text(reach.weak)} weakly held",
        f"{reach.not_judged:,} not judged",
    ]
    return [f"reach: {', '.join(parts)}"]


def held_lines(group: Group, verbose: bool) -> list[str]:
    """Shares of each class, holders, and example chains."""
    held = group.held
    if held is None:
        return []
    lines = [f"reach: {_classes(held)} ({held.examined:,} looked at)"]
    if held.holders:
        shown = held.holders if verbose else held.holders[:_FEW]
        names = [f"{root_text(name)} ({count:,})" for name, count in held.holders]
        lines.append(f"held by {some_of(names, len(shown))}")
    chains = held.chains if verbose else held.chains[:1]
    lines += [f"{_STEPS.join(chain.steps)}: {chain.target:x}" for chain in chains]
    return lines


def _classes(held: Held) -> str:
    parts = []
    for share, what in (
        (held.orphan, "orphans, nothing points at them"),
        (held.structure, "unreachable too, only unreachable objects point at them"),
        (held.weak, "weakly held, by struct page pointers or physical addresses only"),
        (held.held, "held, reachable from a root"),
    ):
        if share.value > (_UNTOLD if share is held.weak else 0.0):
            parts.append(f"{share_text(share)} {what}")
    return "; ".join(parts) or "none could be judged"


def reachability_lines(seen: Reachability | None) -> list[str]:
    """What the pass read, and what limits it."""
    if seen is None:
        return []
    total = seen.pages_present + seen.pages_missing
    return [
        f"reach: {plural(seen.objects, 'object')} judged by {plural(seen.roots, 'root')} and "
        f"{plural(seen.edges, 'pointer')} between objects, "
        f"in {seen.pages_present:,} of {total:,} pages of kernel memory",
        *(f"reach: {note}" for note in seen.notes),
    ]
