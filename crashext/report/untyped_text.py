"""The caches of a kernel whose types nobody knows, as text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from crashext.kernel.slab.untyped import UntypedCache
from crashext.report.lines import line
from crashext.report.safe import safe
from crashext.wording import plural, size_text

_FEW = 12


def print_untyped_caches(caches: Sequence[UntypedCache], console: Console, verbose: bool) -> None:
    """The largest, with what is proved of them."""
    if not caches:
        line(console, "Without types the list of slab caches does not prove itself: not shown.")
        return
    counted = caches[0].bytes is not None
    order = "the largest first" if counted else "by name: how many objects they have is not proved"
    line(console, f"{plural(len(caches), 'slab cache')}, {order}:", "bold")
    shown = caches if verbose else caches[:_FEW]
    width = max(5, *(len(safe(cache.name)) for cache in shown))
    used = counted and caches[0].used is not None
    heads = ("object", *(("objects" if used else "slots", "memory") if counted else ()))
    line(console, f"  {'cache':<{width}}" + "".join(f"{head:>12}" for head in heads), "dim")
    for cache in shown:
        cells = [f"{cache.object_size:,} B"]
        if counted:
            number = cache.used if used else cache.slots
            cells += [f"{number:,}", size_text(cache.bytes or 0)]
        line(console, f"  {safe(cache.name):<{width}}" + "".join(f"{cell:>12}" for cell in cells))
    if len(shown) < len(caches):
        line(console, f"  and {len(caches) - len(shown):,} more (-v shows them)")
    line(
        console,
        "Proved by the memory itself: sizes by every kmalloc cache's, counters by the lists beside "
        "them. Whether anything is leaked takes types; objsim ADDR shows words with their symbols.",
    )
