"""Saved text on a terminal: the verdict is one screen, a word shows one part, -v shows all."""

from __future__ import annotations

from pathlib import Path

import pytest

from crashext.report.brief_text import ROWS
from tests.conftest import run
from tests.end_to_end.test_pastes import CASES, first
from tests.end_to_end.test_siblings import SIBLINGS, snapshot

TEXTS = [
    *(p for p in sorted(CASES.iterdir()) if p.name not in ("objsim",)),
    *(p for p in sorted(SIBLINGS.iterdir()) if p.stem not in ("ftrace", "perf")),
]


def printed(width: int, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    ran = run("leakscan", *arguments)
    assert (ran.status, ran.err) == (0, "")
    return ran.out.splitlines()


def too_wide(lines: list[str], width: int) -> list[str]:
    """Those that could have been folded: of several words."""
    return [t for t in lines if len(t) > width and len(t.split()) > 1]


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("path", TEXTS, ids=lambda p: str(p.stem))
def test_the_verdict_is_one_screen(path: Path, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)  # a long path, too, is printed whole
    lines = printed(width, monkeypatch, path.name)
    assert len(lines) <= ROWS
    assert too_wide(lines, width) == []
    assert [t for t in lines if t != t.rstrip()] == []
    assert sum(t.startswith("next: ") for t in lines) == 1
    evidence = " ".join(lines).split("  for:     ")
    assert len(evidence) == len(set(evidence))
    assert "not seen" not in "\n".join(lines)
    whole = printed(width, monkeypatch, "-v", path.name)
    assert too_wide(whole, width) == []
    assert first("\n".join(lines)) == first("\n".join(whole))
    # What the files cannot say stands once.
    assert sum("or leakscan -k" in t for t in " ".join(whole).split(" - ")) == 1


def test_a_word_shows_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    path = CASES / "slabtop"
    whole = printed(80, monkeypatch, "-v", path)
    for word, says in (
        ("why", "cannot-tell, slab (low confidence): 44.9 GiB"),
        ("memory", "Where memory is"),
        ("caches", "Slab caches, 9 families, 44.5 GiB:"),
    ):
        lines = printed(80, monkeypatch, path, word)
        assert lines[0].startswith(says)
        assert lines[1] in whole
        assert printed(80, monkeypatch, "--procfs", path, word) == lines
    assert "page_owner" in printed(80, monkeypatch, path, "pages")[0]
    assert "--before OLD" in printed(80, monkeypatch, path, "growth")[0]


def test_a_file_that_is_called_like_a_word_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("memory").write_text(snapshot(1, 0))
    assert "saved files memory" in run("leakscan", "memory").out
    assert run("leakscan", "memory", "caches").status == 0
    ran = run("leakscan", "memory", "cache")
    said = "leakscan: cannot open cache: No such file or directory: did you mean the word caches ("
    assert ran.status == 2
    assert ran.err.startswith(said)


@pytest.mark.parametrize(("minutes", "rate"), [(2, False), (60, True)])
def test_a_rate_takes_more_than_moments(minutes: int, rate: bool, tmp_path: Path) -> None:
    later = snapshot(1, 256 * 1024).replace(
        "01:13:19", f"{1 + (13 + minutes) // 60:02}:{(13 + minutes) % 60:02}:19"
    )
    (tmp_path / "watch.log").write_text(snapshot(1, 0) + later)
    out = " ".join(run("leakscan", "-v", tmp_path / "watch.log").out.split())
    assert (" per hour" in out, "an hour" in out, "memory lasts" in out) == (rate,) * 3
    assert rate or "in 2.0 minutes" in out


def test_a_limit_of_a_cgroup_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for options in ((), ("-v",)):
        out = " ".join(printed(80, monkeypatch, *options, SIBLINGS / "oom-memcg-5.4.txt"))
        assert out.count("ran into its limit") == 1
        assert out.count("95.5 % of what its counters") == 1


def test_what_counters_leave_out_is_not_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    out = " ".join(printed(80, monkeypatch, SIBLINGS / "free.txt"))
    assert "kernel memory not told" in out
    assert "0 bytes" not in out
