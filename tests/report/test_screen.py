"""What is printed fits its window, and the verdict one screen of 80 columns and 24 rows."""

from __future__ import annotations

import re

import pytest
from rich.console import Console

from crashext.analysis.verdict.verdict import Culprit, Verdict
from crashext.report.asking import Asking, step_lines
from crashext.report.brief_text import ROWS, Brief, brief_lines
from crashext.report.lines import COLUMN, folded, line, without_trailing_blanks
from crashext.report.topics import TOPICS
from tests.conftest import SESSIONS, run
from tests.record_samples import SAMPLES, Sample

LONG = " ".join(["some words of a sentence that is long"] * 3)
BRIEF = Brief(LONG, LONG, (LONG, LONG), LONG, tuple(TOPICS))


def leak(size: int) -> Verdict:
    many = (LONG,) * 9
    return Verdict(
        "leak", "slab", Culprit("kmalloc-64"), size, "high", LONG, many, many, "leakscan x"
    )


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.name)
def test_no_line_is_wider_than_the_window(
    sample: Sample, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.chdir(SESSIONS)
    out = run("leakscan", "-v", "-r", f"{sample.name}.session", *sample.question[:1]).out
    assert [text for text in out.splitlines() if len(text) > width or text != text.rstrip()] == []
    assert width == 200 or any(len(text) > width - 20 for text in out.splitlines())


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("others", [0, 3, 40])
def test_a_verdict_is_one_screen_whatever_was_found(width: int, others: int) -> None:
    found = [leak(1 << 40 - i) for i in range(1 + others)]
    lines = [text for text, _ in brief_lines(found, BRIEF, width, Asking())]
    assert len(lines) <= ROWS
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("leak, slab (high confidence): some words")
    assert sum(text.startswith("  leak, slab ") for text in lines) <= 8
    shown = sum(text.startswith("  leak, slab ") for text in lines)
    hidden = [text for text in lines if re.search(rf"\b{others - shown:,} more.*\(-v\)$", text)]
    assert len(hidden) == (shown < others)


def test_evidence_against_is_never_left_out_for_evidence_for() -> None:
    small = Brief("", "", (), "dump vmcore", ("why",))
    one = Verdict("leak", "slab", Culprit(), 1, "high", "x", (LONG,) * 9, ("unsure",), "leakscan x")
    lines = [text for text, _ in brief_lines([one], small, 80, Asking())]
    assert "  against: unsure" in lines
    assert len(lines) <= ROWS


def test_what_is_folded_hangs_under_its_text() -> None:
    assert all(
        t[:11].isspace() and t[11] != " " for t in folded(f"  for:     {COLUMN}{LONG}", 80)[1:]
    )
    assert all(t[:4].isspace() and t[4] != " " for t in folded(f"  - {LONG}", 80)[1:])
    assert all(t[:2].isspace() and t[2] != " " for t in folded(LONG, 80)[1:])
    # Where no room is left under a last column, a step further in than the row.
    assert folded("    " + "x" * 50 + f"  {COLUMN}{LONG}", 60)[1].startswith("      words of a")


def test_a_word_too_long_for_any_line_is_cut_and_nothing_lost() -> None:
    pieces = folded("a " + "b" * 300, 60)
    assert max(map(len, pieces)) <= 60
    assert "".join(p.strip() for p in pieces).replace(" ", "") == "a" + "b" * 300


def test_colours_do_not_hide_trailing_blanks() -> None:
    assert (
        without_trailing_blanks("a  \x1b[0m\nb \x1b[1m \x1b[0m\n") == "a\x1b[0m\nb\x1b[1m\x1b[0m\n"
    )
    console = Console(width=80, force_terminal=True)
    with console.capture() as page:
        line(console, LONG, "bold")
    assert without_trailing_blanks(page.get()) == page.get()


def test_a_long_command_at_a_shell_still_runs_as_printed() -> None:
    paths = ("-c", "/a/very/long/path/of a dump/" + "x" * 60, "-s", "/usr/lib/debug/vmlinux")
    asking = Asking("shell", source=paths)
    lines = [text for text, _ in step_lines(asking, "leakscan kmalloc-32", "  next: ", 80)]
    assert all(text.endswith(" \\") for text in lines[:-1])
    assert len(lines) > 2
    joined = "\n".join(lines).removeprefix("  next: ").replace("\\\n", "")
    assert joined.split() == asking.typed("leakscan kmalloc-32").split()


def test_a_word_shows_one_thing() -> None:
    session = SESSIONS / "many-leaks.session"
    whole = run("leakscan", "-r", session, "-v").out.splitlines()
    for word, heading in (
        ("memory", "Where memory is"),
        ("pages", "Pages in no counter"),
        ("caches", "Largest slab caches"),
        ("why", "leak, slab (high confidence)"),
    ):
        ran = run("leakscan", "-r", session, word)
        assert ran.status == 0
        assert ran.out.startswith(heading)
        assert run("leakscan", "-r", session, "-v", word).out.splitlines()[1] in whole
    ran = run("leakscan", "-r", session, "growth")
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert "--before OLD" in ran.err


def test_a_long_path_leaves_room_for_evidence() -> None:
    folder = "dumps/of/a/very/long/path/to/the/dump/of/a/machine/that/nobody/shortens/" * 2
    asking = Asking("shell", source=("-c", f"{folder}vmcore", "-s", f"{folder}vmlinux"))
    found = [leak(1 << 40 - i) for i in range(9)]
    brief = Brief("memory " * 12, LONG, (LONG,), f"dump {folder}vmcore", tuple(TOPICS))
    lines = [text for text, _ in brief_lines(found, brief, 80, asking)]
    assert sum(max(1, -(-len(text) // 80)) for text in lines) <= ROWS
    shown = sum(text.startswith("  for: ") for text in lines)
    assert shown >= 2
    # What had no room is said to be there.
    cut = min(4, len(found[0].evidence)) - shown
    against = bool(found[0].against) - sum(text.startswith("  against: ") for text in lines)
    told = [f"{n} more {kind}" for n, kind in ((cut, "for it"), (against, "against it")) if n]
    assert told
    assert f"  and {', '.join(told)} (-v)" in lines
    # Nothing of the command is missing: it runs as it is printed.
    assert " ".join(lines).count("/very/long/") == 4
