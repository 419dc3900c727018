"""The gallery: one guest for each thing that can be wrong, and what `leakscan` says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ask, lab_dump, on, recorded, run
from tests.end_to_end.guests import RECALL

GUILTY = (
    "nodes",
    "tasks",
    "files",
    "private",
    "chain",
    "messages",
    "vmalloc",
    "kmem_test",
    "pages",
    "twin",
    "two",
    "process",
    "tmpfs",
    "pagetables",
    "pagecache",
    "hugetlb",
    "dentries",
    "rcu",
    "fragmentation",
)
INNOCENT = ("healthy", "innocent", "accounted", "healthy4g")


def overview(name: str) -> dict[str, Any]:
    ran = ask("leakscan", *on(name), "--json")
    assert ran.status == 0, ran.err
    return ran.document


def found(verdict: dict[str, Any]) -> dict[str, Any]:
    """A verdict of ours in the truth's words: a caller without its offset, a process as a pair."""
    culprit = dict(verdict["culprit"])
    if culprit["process"]:
        comm, _, pid = culprit["process"].rpartition(" (pid ")
        culprit["process"] = {"pid": int(pid.rstrip(")")), "comm": comm}
    return {"class": verdict["class"], "where": verdict["where"], "culprit": culprit}


def names(truth: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Whether a verdict says what the truth says. A caller counts where one is named at all: no
    record in these dumps tells who allocated slab objects or pages."""
    mine = found(ours)
    if (mine["class"], mine["where"]) != (truth["class"], truth["where"]):
        return False
    theirs, culprit = truth["culprit"], mine["culprit"]
    for what in ("cache", "module", "process"):
        if theirs[what] and culprit[what] != theirs[what]:
            return False
    if mine["class"] == "user-space" and culprit["mount"] != (theirs["mount"] or ""):
        return False
    function = culprit["caller"].split("+")[0].partition(".")[0]  # leak_session.isra.0+0x25
    return not function or function == theirs["caller"]


@pytest.mark.parametrize("name", GUILTY)
def test_the_verdict_is_right(name: str) -> None:
    truth = lab_dump(name).truth()
    document = overview(name)
    wrong = [truth["verdict"], *truth["also"]]
    verdicts = document["verdicts"]
    assert document["verdict"] == verdicts[0]
    assert names(truth["verdict"], verdicts[0]) or any(names(t, verdicts[0]) for t in wrong)
    # Leaks of one cache are one verdict, so there may be fewer verdicts than wrongs, but no wrong
    # is without one, and no verdict without a wrong.
    places = {(t["class"], t["where"]) for t in wrong}
    assert {(v["class"], v["where"]) for v in verdicts} == places
    for verdict in verdicts:
        assert any(names(t, verdict) for t in wrong), verdict
        assert verdict["for"]
        assert verdict["next"]


@pytest.mark.parametrize("name", INNOCENT)
def test_no_innocent_is_accused(name: str) -> None:
    (verdict,) = overview(name)["verdicts"]
    assert (verdict["class"], verdict["where"]) == ("healthy", "none")


@pytest.mark.parametrize("name", ["nodes", "pages", "vmalloc", "healthy"])
def test_memory_adds_up(name: str) -> None:
    memory = overview(name)["facts"]["split"]
    parts = sum(p["bytes"] for p in memory["parts"])
    assert parts + memory["unaccounted"] == memory["total"]


def test_the_size_of_what_is_lost() -> None:
    for name in ("nodes", "private", "vmalloc", "kmem_test"):
        truth = lab_dump(name).truth()["verdict"]["bytes"]  # what was asked for
        found = overview(name)["verdict"]["bytes"]  # in slots and whole pages
        # A word in a stack that nobody has written to since may lead to one of many.
        assert RECALL * truth <= found <= 1.1 * truth, name


def test_the_same_from_a_session(tmp_path: Path) -> None:
    session, told = recorded(tmp_path, "leakscan", "nodes")
    assert session.stat().st_size < 1 << 20
    replayed = run("leakscan", "-r", session)
    assert _answer(replayed.out) == _answer(told.out)
    assert replayed.err == ""


def _answer(text: str) -> list[str]:
    """Without how to ask on, which is not the same from a session."""
    return text.partition("next: ")[0].splitlines()


def test_nobody_looked_is_no_acquittal() -> None:
    """Without reachability the leak cannot be told from use, and the report says so."""
    verdicts = ask("leakscan", *on("nodes"), "--json", "--no-refs").document["verdicts"]
    assert all(v["class"] != "leak" for v in verdicts)
    assert all(v["confidence"] == "low" for v in verdicts)
    assert any("--refs" in text for v in verdicts for text in v["against"])
