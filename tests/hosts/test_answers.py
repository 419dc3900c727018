"""What a stranger's session may answer where the engine expects a trace or a type: one error."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from crashext.analysis.origin.outstanding import kept
from crashext.analysis.types.members import find_structure
from crashext.hosts import session
from crashext.hosts.base import Host, HostError
from crashext.hosts.recorded import RecordedHost
from crashext.kernel.slab.view import KernelView
from tests.conftest import SESSIONS

TRACE = {
    "source": "trace.dat",
    "seconds": 2.5,
    "hashed": False,
    "address": [0xFFFF888000001000, 0xFFFF888000002000],
    "size": [64, 64],
    "site": [0, 0],
    "sites": [{"function": "take+0x1", "module": "leaky", "outstanding": 2, "allocs": 9}],
    "remarks": [],
}
MEMBER = ["next", 0, 8, 1, 1, False, 0, 0, []]
STRUCT = {"name": "struct node", "size": 16, "members": [MEMBER]}


@cache
def recorded() -> tuple[dict[str, Any], list[tuple[int, bytes]]]:
    document, extents = session.load(SESSIONS / "unlinked-nodes.session")
    return document, [(a, bytes(d)) for a, d in extents if len(d) <= 1 << 12]


def answering(path: Path, key: str, answer: Any) -> Host:
    """A session that answers `key` so, and otherwise what a real one does, the map left out."""
    document, extents = recorded()
    asked = {**document["layouts"], "nod": None, "struct nod": None}
    session.write(path, {**document, "layouts": asked, "derived": {key: answer}}, extents)
    return RecordedHost(path)


def test_a_sound_trace_is_read(tmp_path: Path) -> None:
    found = kept(answering(tmp_path / "s", "trace", TRACE), None)
    assert found is not None
    assert found.address.tolist() == TRACE["address"]
    assert (found.sites[0].function, found.sites[0].stack) == ("take+0x1", ())


@pytest.mark.parametrize(
    "answer",
    [
        7,
        [],
        {},
        {**TRACE, "address": [-1, 0]},
        {**TRACE, "address": [1 << 64, 0]},
        {**TRACE, "address": "both"},
        {**TRACE, "size": [64]},
        {**TRACE, "size": [1 << 63, 64]},
        {**TRACE, "site": [0, 1]},
        {**TRACE, "site": [0, -1]},
        {**TRACE, "site": [0, 1 << 31]},
        {**TRACE, "seconds": float("inf")},
        {**TRACE, "sites": [{"function": "take"}]},
    ],
)
def test_a_trace_that_makes_no_sense_is_one_error(tmp_path: Path, answer: Any) -> None:
    with pytest.raises(HostError, match="damaged"):
        kept(answering(tmp_path / "s", "trace", answer), None)


def test_a_sound_type_is_read(tmp_path: Path) -> None:
    host = answering(tmp_path / "s", "members of node", STRUCT)
    found = find_structure(KernelView(host), "node")
    assert (found.name, found.size, found.slots[0].name) == ("struct node", 16, "next")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m[:3],
        lambda m: [7, *m[1:]],
        lambda m: [m[0], -8, *m[2:]],
        lambda m: [m[0], 16, *m[2:]],
        lambda m: [m[0], 0, 1 << 40, *m[3:]],
        lambda m: [*m[:3], 99, *m[4:]],
        lambda m: [*m[:4], 0, *m[5:]],
        lambda m: [*m[:4], 9, *m[5:]],
        lambda m: [*m[:6], 60, 8, []],
        lambda m: [*m[:8], [[1, "one"]] * 1000],
        lambda m: [*m[:8], [["one", 1]]],
    ],
)
def test_a_type_that_leads_outside_itself_is_one_error(
    tmp_path: Path, change: Callable[[list[Any]], list[Any]]
) -> None:
    answer = {**STRUCT, "members": [change(MEMBER)]}
    with pytest.raises(HostError, match=r"damaged|makes no sense"):
        find_structure(KernelView(answering(tmp_path / "s", "members of node", answer)), "node")


def test_names_that_are_close_are_said(tmp_path: Path) -> None:
    host = answering(tmp_path / "s", "members of nod", {"close": ["node", "nodes"]})
    with pytest.raises(HostError, match="did you mean node, nodes"):
        find_structure(KernelView(host), "nod")
