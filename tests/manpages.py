"""Write `crashext/man/` anew from the commands' parsers: `python -m tests.manpages`.

The options come from the parsers, so a page cannot tell of one that is not there. The date is that
of the version in CHANGELOG.md: the same tree writes the same bytes.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from argparse_manpage.manpage import Manpage

from crashext import __version__
from crashext.commands.arguments import leakscan_parser, objsim_parser
from crashext.commands.place import SHELL
from crashext.commands.setup import setup_parser
from crashext.report.topics import TOPICS

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "crashext" / "man"
_STATUS = (
    "0 when the question was answered, whatever the answer; 2 for bad input, with one line that "
    "says what and what to do; 130 when it was interrupted before anything was known."
)


@dataclass(frozen=True)
class Page:
    """A command's manual page: what the parser does not say."""

    parser: Callable[[], argparse.ArgumentParser]
    name: str
    """What comes after the dash in NAME."""
    examples: Mapping[str, str]
    """Command line and what it is for."""
    status: str
    also: tuple[str, ...]
    words: Mapping[str, str] = field(default_factory=dict)
    """What may be asked for in place of a cache."""


PAGES = {
    "leakscan": Page(
        lambda: leakscan_parser(SHELL),
        "find kernel memory leaks in a crash dump",
        {
            "leakscan -c vmcore -s vmlinux": "the verdict over the whole machine",
            "leakscan -c vmcore -s vmlinux kmalloc-32": "what is in one slab cache",
            "leakscan -c vmcore -s vmlinux --orphans": "every object that nothing reaches",
            "leakscan -c vmcore -s vmlinux --record case.session": "keep it for later",
            "leakscan --procfs sosreport-host/": "no dump: from saved proc files",
            "leakscan --trace trace.dat": "who allocated what was not freed",
        },
        _STATUS,
        ("objsim(1)", "crashext(1)", "crash(8)", "drgn(1)", "slabinfo(5)"),
        TOPICS,
    ),
    "objsim": Page(
        lambda: objsim_parser(SHELL),
        "say how alike objects of kernel memory are",
        {
            "objsim -c vmcore -s vmlinux ffff888003a4b1c0": "an object, and how many are like it",
            "objsim -c vmcore -s vmlinux --list ffff888003a4b1c0": "the addresses of all of them",
            "objsim -c vmcore -s vmlinux ffff888003a4b1c0 ffff888003a4b200": "what sets two apart",
            "objsim --text ticket --size 32": "objects pasted into a ticket, no dump needed",
        },
        _STATUS,
        ("leakscan(1)", "crashext(1)", "crash(8)", "drgn(1)"),
    ),
    "crashext": Page(
        setup_parser,
        "make crash know leakscan and objsim",
        {
            "crashext setup": "print the lines that ~/.crashrc needs",
            "crashext setup --write /usr/local/lib/mpykdump64.so": "add them",
            "crashext setup --remove": "take them out again",
        },
        "0 when done, 2 for bad input.",
        ("leakscan(1)", "objsim(1)", "crash(8)"),
    ),
}


def released() -> str:
    """The day of this version, as CHANGELOG.md has it."""
    heading = re.search(
        rf"^## {re.escape(__version__)} \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.M
    )
    if heading is None:
        raise SystemExit(f"CHANGELOG.md has no version {__version__} with its day")
    return heading[1]


def text(page: Page) -> str:
    """The page as troff."""
    parser = page.parser()
    parser.epilog = None  # the examples are said below, each with what it is for
    with patch.dict(os.environ, COLUMNS="80"):  # argparse wraps to the terminal
        manual = Manpage(parser)
        manual.description = page.name
        manual.date, manual.source = released(), f"crashext {__version__}"
        manual.manual = "User Commands"
        if page.words:
            manual.add_section("parts of the answer", "=", _list(page.words))
        manual.add_section("examples", "=", _list(page.examples))
        manual.add_section("exit status", "=", _plain(page.status))
        also = (f".BR {name[:-3]} ({name[-2]})" for name in page.also)
        manual.add_section("see also", "=", ",\n".join(also))
        return str(manual)


def _list(items: Mapping[str, str]) -> str:
    return "\n".join(f".TP\n.B {_plain(item)}\n{_plain(what)}" for item, what in items.items())


def _plain(words: str) -> str:
    return words.replace("\\", r"\e").replace("-", r"\-")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for command, each in PAGES.items():
        (FOLDER / f"{command}.1").write_text(text(each))
