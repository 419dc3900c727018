"""Which texts belong to one moment of a machine, and in which order the moments were.

A date or a number in a file's name puts texts in order, and so does their place in one file. Where
nothing does, the second text of a kind is left out, and that is said.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from crashext.procfs.sections import Section

SNAPSHOTS = frozenset(
    (
        "meminfo",
        "slabinfo",
        "slabtop",
        "slabinfo_tool",
        "vmstat_m",
        "oom",
        "kmem_i",
        "kmem_s",
        "free",
    )
)
"""Kinds of which a second one in a text is a second moment."""
_MOST_MOMENTS = 64
OOM_REPORTS = "OOM reports"


@dataclass
class Cut:
    """The outputs of one text, in the moments that it has."""

    piece: str
    label: str
    modified: float | None
    moments: list[dict[str, list[Section]]] = field(default_factory=list)


def in_order(
    cuts: list[Cut],
) -> tuple[list[tuple[dict[str, list[Section]], float | None]], list[str]]:
    """Every moment with its outputs, and the files that are not used."""
    if not any(k in m for c in cuts for m in c.moments for k in SNAPSHOTS - {"oom", "free"}):
        return _sequence(cuts)
    doubles: list[str] = []
    reports = [m["oom"] for c in cuts for m in c.moments if "oom" in m]
    logs = len({"\n".join(line for s in some for line in s.lines) for some in reports})
    if logs:
        doubles.append(f"{OOM_REPORTS} in a log: {logs:,}")
        for cut in cuts:
            cut.moments = [{k: v for k, v in m.items() if k != "oom"} for m in cut.moments]
            cut.moments = [m for m in cut.moments if m]
    found, more = _sequence(cuts)
    return found, doubles + more


def _sequence(
    cuts: list[Cut],
) -> tuple[list[tuple[dict[str, list[Section]], float | None]], list[str]]:
    labels: dict[str, list[str]] = {}
    for cut in cuts:
        for kind in {k for m in cut.moments for k in m} & SNAPSHOTS:
            labels.setdefault(kind, []).append(cut.label)
    ordered = any(len(set(some)) > 1 and all(some) for some in labels.values())
    steps: dict[tuple[str, int], dict[str, list[Section]]] = {}
    times: dict[tuple[str, int], float | None] = {}
    taken: dict[tuple[str, int, str], tuple[str, list[list[str]]]] = {}
    doubles = []
    last = max((c.label for c in cuts), default="")
    for cut in sorted(cuts, key=lambda c: (c.piece.count("/"), c.piece)):
        for number, moment in enumerate(cut.moments):
            # A text of one moment belongs to the last; of several, the last to the last.
            back = number - len(cut.moments)
            step = ((cut.label or last) if ordered else "", back)
            for kind, some in moment.items():
                content = [s.lines for s in some]
                before = taken.get((*step, kind))
                if before is None:
                    taken[(*step, kind)] = (cut.piece, content)
                    steps.setdefault(step, {})[kind] = some
                    times[step] = cut.modified
                elif before[1] == content:
                    pass  # a copy
                elif kind in _MANY:
                    steps[step][kind] += some
                else:
                    doubles.append(f"{kind} in {cut.piece}")
    order = sorted(steps)[-_MOST_MOMENTS:]
    return [(steps[s], times.get(s)) for s in order], list(dict.fromkeys(doubles))


_MANY = frozenset(
    (
        "status",
        "alloc_traces",
        "zram",
        "kmemleak",
        "memory_stat",
        "date",
        "vmallocinfo",
        "xen",
        "zswap",
        "slub_trace",
    )
)
"""Kinds of which one machine has several texts."""
