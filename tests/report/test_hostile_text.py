"""Nothing that a dump says about itself may steer the terminal of the one who looks at it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from crashext.analysis.results.estimate import Estimate, Share
from crashext.analysis.results.reports import (
    CacheReport,
    Group,
    Hop,
    Kernel,
    Kin,
    LeakReport,
    Pair,
    SimilarityReport,
    Subject,
    Word,
)
from crashext.hosts.base import U64
from crashext.report.asking import Asking
from crashext.report.documents import document
from crashext.report.objsim_text import print_similarity_report
from crashext.report.safe import safe
from crashext.report.text import print_leak_report
from crashext.skipped import Skipped

# Clears the screen, sets the title, answers back, moves up, breaks lines, turns text around;
# and what rich itself would take for markup, an emoji, a link.
MARKUP = "[bold red]:skull:[/bold red][link=x]"
EVIL = "EVIL\x1b[2J\x1b]0;owned\x07\r\n\x08\x7f\x9b6n\u202e\ud800\x00" + MARKUP
AT = U64(0xFFFF888000001000)
ONE = Estimate.known(5)
SOME = Estimate(5, 3, 9)
HALF = Share(0.5, 0.4, 0.6)
KERNEL = Kernel(EVIL, EVIL, False, EVIL)
SKIPPED = (Skipped(EVIL, 3, EVIL),)
WORDS = tuple(
    Word(8 * i, U64(7), 8, kind, EVIL, 0.5, 0.5, varies, (Hop(U64(0xFFFF888000000000), EVIL),))
    for i, (kind, varies) in enumerate(
        [("slab-pointer", EVIL), ("text", ""), ("list-poison", EVIL), ("zero", "")]
    )
)
GROUP = Group(AT, 5, SOME, HALF, 0.9, 1, 5, EVIL, 0.2, WORDS, (EVIL, EVIL), AT, AT)
CACHE = CacheReport(
    name=EVIL,
    asked=EVIL + "2",
    aliases=(EVIL, EVIL),
    address=AT,
    object_size=64,
    slot_size=64,
    flags=("ACCOUNT",),
    has_constructor=True,
    slabs_total=SOME,
    slabs_examined=3,
    objects_total=SOME,
    allocated=SOME,
    sampled=5,
    free_sampled=1,
    groups=(GROUP,) * 5,
    more_groups=2,
    more=SOME,
    rest=SOME,
    rest_examined=True,
    next_steps=(f"objsim 1 # {EVIL}", EVIL),
)
LEAK = LeakReport(
    KERNEL,
    0,
    0.7,
    "hamming",
    (CACHE, replace(CACHE, groups=()), replace(CACHE, groups=(), sampled=0)),
    SKIPPED,
    True,
)
SIMILARITY = SimilarityReport(
    KERNEL,
    0,
    0.7,
    "hamming",
    (
        Subject(AT, AT, EVIL, 32, "allocated", EVIL, WORDS),
        Subject(AT, AT, EVIL, 0, "", EVIL, ()),
        Subject(AT, AT, None, 0, "", EVIL, ()),
    ),
    (Pair(AT, AT, 0.5, (8,)),),
    Kin(AT, EVIL, SOME, HALF, ONE, 0.9, 0.1, np.array([1, 2], np.uint64)),
    (GROUP,),
    SKIPPED,
    True,
)
GROUPS = replace(SIMILARITY, subjects=(), pairs=(), kin=None)

Print = Callable[[Console, bool], None]
PRINTS: list[Print] = [
    lambda console, verbose: print_leak_report(LEAK, console, verbose, Asking()),
    lambda console, verbose: print_similarity_report(SIMILARITY, console, verbose),
    # As `objsim --text` of many objects: groups and no subjects.
    lambda console, verbose: print_similarity_report(GROUPS, console, verbose),
]
EITHER = pytest.mark.parametrize("show", PRINTS, ids=["leakscan", "objsim", "text"])
VERBOSE = pytest.mark.parametrize("verbose", [False, True], ids=["short", "verbose"])


def shown(show: Print, verbose: bool, terminal: bool, markup: bool = False) -> str:
    out = io.StringIO()
    console = Console(
        file=out,
        width=4000,
        force_terminal=terminal,
        color_system="truecolor" if terminal else None,
        highlight=False,
        markup=markup,
        emoji=markup,
    )
    show(console, verbose)
    return out.getvalue()


@EITHER
@VERBOSE
def test_piped_output_is_printable_ascii_and_its_own_line_breaks(
    show: Print, verbose: bool
) -> None:
    text = shown(show, verbose, terminal=False)
    assert "EVIL" in text
    assert re.search(r"[^\x20-\x7e\n]", text) is None
    # Every line began with the report's own words, none with what followed a line break in a name.
    assert not [line for line in text.splitlines() if line.startswith(("\x08", "6n", "[bold"))]


@EITHER
@VERBOSE
def test_a_terminal_gets_colours_and_no_other_sequence(show: Print, verbose: bool) -> None:
    text = shown(show, verbose, terminal=True)
    assert "\x1b[" in text
    assert re.search(r"[^\x20-\x7e\n]", re.sub(r"\x1b\[[0-9;]*m", "", text)) is None


@EITHER
@VERBOSE
def test_markup_in_a_name_is_text_even_where_a_console_reads_markup(
    show: Print, verbose: bool
) -> None:
    text = shown(show, verbose, terminal=False, markup=True)
    assert text == shown(show, verbose, terminal=False)
    assert text.count(MARKUP) == text.count("EVIL")


@EITHER
def test_the_number_of_lines_does_not_depend_on_what_a_name_holds(show: Print) -> None:
    """A line break in a name, if it got through, could forge a whole line of the report."""
    lines = shown(show, True, terminal=False).splitlines()
    assert all(line.count("EVIL") == line.count("\\r\\n") for line in lines)


@pytest.mark.parametrize("text", [document(LEAK), document(SIMILARITY)], ids=["leakscan", "objsim"])
def test_json_holds_the_very_strings_and_no_raw_byte_of_them(text: str) -> None:
    assert re.search(r"[^\x20-\x7e\n]", text) is None
    assert json.loads(text)["kernel"]["release"] == EVIL


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kmalloc-64", "kmalloc-64"),
        ("", ""),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\x7f\x80\x9b", "\\x7f\\x80\\x9b"),
        ("caf\xe9 \u202e \U0001f480", "caf\\xe9 \\u202e \\U0001f480"),
        ("\ud800", "\\ud800"),
        ("[bold]", "[bold]"),
    ],
)
def test_safe_text_is_printable_ascii(text: str, expected: str) -> None:
    assert safe(text) == expected


def test_every_character_comes_out_printable() -> None:
    every = "".join(map(chr, [*range(0x3000), *range(0xD700, 0x11000)]))
    assert all(" " <= c <= "~" for c in safe(every))
