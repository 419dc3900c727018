"""Several paths that somebody named: files of different kinds are one moment of one machine.

`leakscan proc/*` names what `leakscan proc` finds. Where a kind comes again (``meminfo.1
slabinfo.1 meminfo.2 slabinfo.2``) the next moment begins.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from crashext.hosts.base import HostError
from crashext.procfs.folder import Problem
from crashext.procfs.saved import NothingRecognised, Saved, saved

_ALONE = "oom"
"""A kernel's report of one moment that is over: what is beside it is of another."""
_SHOWN = 5


def moments(paths: Sequence[Path]) -> list[Saved]:
    """What is at `paths`, in their order: that of time.

    Raises `HostError` where nothing is recognised in one of them and none is a file, or in none of
    them.
    """
    if len(paths) == 1:
        return saved(paths[0])
    each: list[list[Saved]] = []
    unknown: list[NothingRecognised] = []
    unread: list[tuple[Path, HostError]] = []
    files = any(path.is_file() for path in paths)
    for path in paths:
        try:
            each.append(saved(path))
        except NothingRecognised as error:
            if not files:
                raise
            unknown.append(error)
        except HostError as error:  # no text, or damaged
            if not path.is_file():
                raise
            unread.append((path, error))
    found: list[Saved] = []
    for these in _in_turn(each):
        if found and len(these) == 1 and _belong_together(found[-1], these[0]):
            these = [_joined(found.pop(), these[0])]
        found += these
    if not found:
        raise [*unknown, *(why for _, why in unread)][0]
    for path, why in unread[:_SHOWN]:
        reason = str(why).partition(f"{path}: ")[2] or str(why)
        found[-1].problems.append(Problem(path.name, 1, f"not read: {reason}"))
    if len(unread) > _SHOWN:
        found[-1].problems.append(Problem("files", len(unread) - _SHOWN, "not read either"))
    if unknown:
        names = [Path(error.what).name for error in unknown]
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        problem = Problem("files", len(names), f"not recognised: {shown}")
        found[-1].problems.append(problem)
    return found


def _in_turn(each: list[list[Saved]]) -> list[list[Saved]]:
    """As a shell sorts ``*`` all files of one kind come first (``meminfo.1 meminfo.2 slabinfo.1
    slabinfo.2``): where there are as many of each kind, the first of each comes first."""
    alone = [these[0].kinds for these in each if len(these) == 1 and these[0].texts is not None]
    times = Counter(alone)
    every = {kind for kinds in alone for kind in kinds}
    if len(alone) < len(each) or len(set(times.values())) != 1 or _ALONE in every:
        return each
    seen: Counter[tuple[str, ...]] = Counter()
    turns: list[list[list[Saved]]] = [[] for _ in range(next(iter(times.values())))]
    for these in each:
        turns[seen[these[0].kinds]].append(these)
        seen[these[0].kinds] += 1
    return [these for turn in turns for these in turn]


def _belong_together(one: Saved, other: Saved) -> bool:
    kinds = (*one.kinds, *other.kinds)
    files = one.texts is not None and other.texts is not None
    return files and len(set(kinds)) == len(kinds) and _ALONE not in kinds


def _joined(one: Saved, other: Saved) -> Saved:
    assert one.texts is not None
    assert other.texts is not None
    times = [when for when in (one.moment().modified, other.moment().modified) if when is not None]
    paths = [one.path, other.path]
    if len({path.is_absolute() for path in paths}) > 1:
        paths = [path.absolute() for path in paths]
    path = Path(os.path.commonpath(paths))
    whole = Saved(path, {**one.texts, **other.texts}, max(times, default=None), None)
    whole.problems += [*one.problems, *other.problems]
    whole.recognised = (*one.recognised, *other.recognised)
    return whole
