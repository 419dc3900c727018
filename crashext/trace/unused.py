"""What of a trace was not used or is not certain, and how that limits its table."""

from __future__ import annotations

from crashext.skipped import Skipped
from crashext.trace.flows import Flows
from crashext.trace.lines import LineReader


def skipped(
    names: LineReader, flows: Flows, unknown: int, unknown_pages: int, again: int, backwards: int
) -> tuple[Skipped, ...]:
    """Everything that was not used or not certain, with its effect."""
    heard = names.heard
    left_out = sum(n.left_out for n in (names.sites, names.tasks, names.caches, names.stacks))
    notes = (
        (
            "events lost, as the trace says",
            heard.lost,
            "some outstanding ones were freed unseen, and some leaks are not seen",
        ),
        (
            "times that events were lost, number unknown",
            heard.lost_uncounted,
            "some outstanding ones were freed unseen, and some leaks are not seen",
        ),
        (
            "events overwritten in the trace's buffer",
            heard.overwritten,
            "the trace starts later than the tracing; give it a larger buffer",
        ),
        (
            "frees of what was allocated before the trace",
            unknown,
            "not counted for any place",
        ),
        (
            "frees of pages allocated before the trace or in another order",
            unknown_pages,
            "not counted for any place",
        ),
        (
            "frees of what was freed just before",
            again,
            "an allocation in between was not traced",
        ),
        (
            "addresses allocated again with no free seen",
            int(flows.lost.sum()),
            "the earlier allocation is taken for freed",
        ),
        ("allocations that failed", heard.failed, "nothing was allocated"),
        ("frees of NULL", heard.null_frees, "nothing was freed"),
        (
            "events with a pointer that the kernel did not print",
            heard.unprinted,
            "neither counted nor paired",
        ),
        ("other events", heard.other_events, "not about allocations of objects or pages"),
        ("stacks of no known event", heard.stray_stacks, "not used"),
        ("lines that could not be read", heard.unparsable, "not used"),
        ("lines too long to be of a trace", heard.too_long, "not used"),
        ("cut-off last line", heard.cut_off, "not used"),
        (
            "events earlier than the one before",
            backwards,
            "taken in the order of the file",
        ),
        (
            "names of places, tasks or caches beyond the limit",
            left_out + flows.left_out,
            'counted as "(others)"',
        ),
    )
    return tuple(Skipped(what, count, effect) for what, count, effect in notes if count)
