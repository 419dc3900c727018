"""A verdict stands on its evidence: without it, a recorded session is judged otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from crashext.hosts.session import load, write
from tests.conftest import recorded, run

KEY = "overview 0"


def without(session: Path, into: Path, **facts: Any) -> Any:
    """The verdict of a session whose overview knows these facts otherwise."""
    document, extents = load(session)
    known = document["derived"][KEY]["facts"]
    assert set(facts) <= set(known)  # no fact of another name is set in vain
    known.update(facts)
    write(into, document, [(address, bytes(data)) for address, data in extents])
    ran = run("leakscan", "-r", into, "--json")
    assert (ran.status, ran.err) == (0, "")
    return ran.document


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("evidence")
    return {name: recorded(folder, "leakscan", name)[0] for name in ("nodes", "vmalloc", "pages")}


@pytest.mark.parametrize(
    ("name", "where", "removed"),
    [
        ("nodes", "slab", {"unreachable": []}),
        ("vmalloc", "vmalloc", {"areas": []}),
        ("pages", "pages", {"pages": None}),
    ],
)
def test_without_its_evidence_there_is_no_leak(
    sessions: dict[str, Path],
    tmp_path: Path,
    name: str,
    where: str,
    removed: dict[str, Any],
    schema: Any,
) -> None:
    whole = run("leakscan", "-r", sessions[name], "--json").document
    jsonschema.validate(whole, schema)
    verdict = whole["verdict"]
    assert (verdict["class"], verdict["where"]) == ("leak", where)
    assert verdict["for"]
    assert whole["verdict"] == without(sessions[name], tmp_path / "same")["verdict"]
    left = without(sessions[name], tmp_path / "less", **removed)
    jsonschema.validate(left, schema)
    # That so much memory is there is still known by the counters; not that it is lost.
    assert ("leak", where) not in {(v["class"], v["where"]) for v in left["verdicts"]}
    said = [v for v in left["verdicts"] if v["where"] != where]
    # The rest of the evidence is still there, and speaks as before.
    assert said == [v for v in whole["verdicts"] if v["where"] != where] or (
        left["verdict"]["class"] == "healthy"
    )


def test_who_could_not_look_does_not_say_healthy(sessions: dict[str, Path], tmp_path: Path) -> None:
    """Without reachability the same numbers are a riddle or low confidence, never a clean bill."""
    blind = without(sessions["nodes"], tmp_path / "blind", unreachable=None, reachability=None)
    assert blind["verdict"]["class"] in ("healthy", "cannot-tell")
    assert blind["verdict"]["confidence"] == "low"
