"""Dataclasses as JSON data and back; a stranger's data is one ValueError."""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, fields
from typing import Any

import pytest

from crashext.analysis.overview import Overview
from crashext.analysis.results.estimate import Share
from crashext.analysis.results.evidence import Chain, Held, Reachability, TypeCandidate
from crashext.analysis.results.joined import TracedSite
from crashext.analysis.results.reports import OrphanReport
from crashext.hosts.base import U64
from crashext.hosts.plain import from_plain, plain
from crashext.report.schema import classes_of

SHARE = Share(0.5, 0.0, 1.0)
HELD = Held(
    SHARE, SHARE, SHARE, SHARE, 7, (Chain(U64(1 << 63), ("root", "kmalloc-64+0x8")),), (("x", 3),)
)
SEEN = Reachability(1, 2, 3, 4, 5, 6, True, ("a note",))


@dataclass(frozen=True)
class Maybe:
    number: int | None
    ratio: float
    pair: tuple[int, str]


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(plain(value)))


@pytest.mark.parametrize("value", [HELD, SEEN, Maybe(None, 0.5, (1, "a")), Maybe(4, 1.0, (1, ""))])
def test_there_and_back(value: Any) -> None:
    assert from_plain(type(value), through_json(value)) == value


def test_a_report_is_read_back_too() -> None:
    data = json.loads(json.dumps(plain(HELD, word=hex)))
    assert data["chains"][0]["target"] == "0x8000000000000000"
    assert from_plain(Held, data) == HELD


def test_a_whole_number_is_a_float_too() -> None:
    """JSON of other writers has no 1.0."""
    assert from_plain(Share, {"value": 1, "low": 0, "high": 1}) == Share(1.0, 0.0, 1.0)
    assert isinstance(from_plain(Share, {"value": 1, "low": 0, "high": 1}).value, float)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        7,
        "held",
        {},
        {**plain(HELD), "examined": "7"},
        {**plain(HELD), "examined": 7.0},
        {**plain(HELD), "examined": True},
        {**plain(HELD), "examined": None},
        {**plain(HELD), "examined": 1 << 64},
        {**plain(HELD), "examined": -(1 << 63) - 1},
        {**plain(HELD), "orphan": None},
        {**plain(HELD), "orphan": {"value": True, "low": 0.0, "high": 1.0}},
        {**plain(HELD), "holders": [["x"]]},
        {**plain(HELD), "holders": [["x", 3, 4]]},
        {**plain(HELD), "holders": {"x": 3}},
        {**plain(HELD), "holders": "x3"},
        {**plain(HELD), "chains": [{"target": 1}]},
        {**plain(HELD), "chains": [{"target": 1, "steps": "root"}]},
        {**plain(HELD), "chains": [{"target": -1, "steps": []}]},
        {**plain(HELD), "chains": [{"target": 1 << 64, "steps": []}]},
        {**plain(HELD), "chains": [{"target": True, "steps": []}]},
        {**plain(HELD), "chains": [{"target": "10", "steps": []}]},
        {**plain(HELD), "chains": [{"target": "0x1_0", "steps": []}]},
        {**plain(HELD), "chains": [{"target": "0x10000000000000000", "steps": []}]},
    ],
)
def test_anything_else_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_plain(Held, data)


def test_a_list_nested_without_end_is_refused() -> None:
    data: Any = []
    for _ in range(100_000):
        data = [data]
    with pytest.raises(ValueError, match=r"."):
        from_plain(OrphanReport, {"kernel": data})


def test_members_nobody_knows_are_passed_over() -> None:
    """A later version's session may say more."""
    assert from_plain(Reachability, {**plain(SEEN), "more": 1}) == SEEN


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**400])
def test_a_number_that_is_not_finite_is_none(value: float) -> None:
    with pytest.raises(ValueError, match=r"no (finite )?number"):
        from_plain(Share, {"value": value, "low": 0.0, "high": 1.0})


def test_what_a_later_release_added_may_be_missing() -> None:
    data = plain(SEEN)
    del data["misgivings"]
    assert from_plain(Reachability, data) == SEEN
    assert plain(from_plain(Reachability, data)) == plain(SEEN)


def test_what_has_defaults_has_slots() -> None:
    """Else what a session lacks is left out of documents, too: msgspec does not set it."""
    kept = (Reachability, Held, OrphanReport, Overview, TypeCandidate, TracedSite)
    classes = list(classes_of(*kept))
    assert len(classes) > 30
    for cls in classes:
        defaults = any(f.default is not MISSING for f in fields(cls))
        assert not defaults or "__slots__" in vars(cls), cls
