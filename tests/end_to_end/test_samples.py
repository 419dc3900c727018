"""The recorded sessions that ship with the project, and what the papers show of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SESSIONS, run
from tests.papers import PAPERS, ROOT
from tests.record_papers import renewed
from tests.record_samples import SAMPLES, Sample


def truth(name: str) -> dict[str, Any]:
    parts = json.loads((SESSIONS / f"{name}.truth.json").read_text())["parts"]
    assert isinstance(parts, dict)
    return parts


def first_groups(name: str, cache: str) -> list[dict[str, Any]]:
    document = run("leakscan", "-r", SESSIONS / f"{name}.session", "--json", cache).document
    groups = document["caches"][0]["groups"]
    assert isinstance(groups, list)
    return groups


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.name)
def test_each_session_answers_what_it_was_recorded_for(sample: Sample) -> None:
    session = SESSIONS / f"{sample.name}.session"
    ran = run("leakscan", "-r", session, *sample.question)
    assert ran.status == 0
    assert ran.err == ""
    assert session.stat().st_size < 2 << 20


def test_unlinked_nodes() -> None:
    assert (
        first_groups("unlinked-nodes", "kmalloc-32")[0]["objects"]["estimate"]
        == truth("unlinked-nodes")["nodes"]["count"]
    )


def test_two_leaks() -> None:
    counts = [g["objects"]["estimate"] for g in first_groups("two-leaks", "kmalloc-64")[:2]]
    parts = truth("two-leaks")
    assert counts == [parts["sessions"]["count"], parts["requests"]["count"]]


def test_living_list() -> None:
    group = first_groups("living-list", "kmalloc-32")[0]
    assert group["objects"]["estimate"] >= truth("living-list")["living"]["count"] - 10
    assert any("still on a list" in note for note in group["notes"])


def test_healthy_has_no_module_and_no_unlinked_mass() -> None:
    assert truth("healthy") == {}
    for cache in ("kmalloc-32", "kmalloc-64", "filp"):
        for group in first_groups("healthy", cache):
            assert not any(note.startswith("unlinked") for note in group["notes"])


@pytest.mark.parametrize("paper", PAPERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_papers_show_what_is_printed(paper: Path) -> None:
    """`make papers` fills them anew."""
    assert paper.read_text() == renewed(paper)


def test_papers_show_something() -> None:
    texts = [paper.read_text() for paper in PAPERS]
    assert sum(text.count("$ leakscan -r ") for text in texts) >= 5
    assert any("crash> leakscan" in text for text in texts)


def test_the_transcript_from_crash_says_what_its_session_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`python -m tests.record_transcript` and `record_samples` are of one dump."""
    monkeypatch.setenv("COLUMNS", "80")
    transcript = (SESSIONS / "unlinked-nodes.crash.txt").read_text()
    shown = transcript.split("crash> leakscan kmalloc-32 |")[1].split("\n\n")[0].splitlines()[1:]
    ran = run("leakscan", "-r", SESSIONS / "unlinked-nodes.session", "kmalloc-32")
    assert len(shown) > 10
    assert shown == ran.out.splitlines()[: len(shown)]
