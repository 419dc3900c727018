"""The recorded sessions that ship with the project, and what README shows of them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SESSIONS, run
from tests.record_samples import SAMPLES, Sample

README = Path(__file__).parents[2] / "README.md"


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


def readme_blocks() -> list[tuple[str, list[str]]]:
    """The commands over sample sessions that README shows, each with the lines it shows."""
    blocks = re.findall(
        r"```console\n\$ ((?:leakscan|objsim) -r .*)\n((?s:.*?))```", README.read_text()
    )
    return [(command, shown.splitlines()) for command, shown in blocks]


def test_readme_shows_samples() -> None:
    assert len(readme_blocks()) >= 5


@pytest.mark.parametrize(("command", "shown"), readme_blocks(), ids=lambda v: str(v)[:60])
def test_readme_shows_what_the_samples_say(
    command: str, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Line by line; an ellipsis leaves some out."""
    monkeypatch.setenv("COLUMNS", "100")
    program, *arguments = shlex.split(command)
    monkeypatch.chdir(README.parent)
    said = iter(run(program, *arguments).out.splitlines())
    follows = True
    for line in shown:
        if line.strip() == "...":
            follows = False
            continue
        found = next(said) if follows else next((s for s in said if s == line), None)
        assert found == line
        follows = True
