"""The papers: their links lead somewhere, and the version is one. What they show of commands is
tested with the samples.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import crashext
from tests.papers import PAPERS, ROOT

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def anchors(paper: Path) -> set[str]:
    """What a page's headings are called in links: lower case, blanks as dashes, no marks."""
    headings = re.findall(r"^#+ (.*)$", _FENCED.sub("", paper.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("paper", PAPERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(paper: Path) -> None:
    broken = []
    for link in _LINK.findall(_FENCED.sub("", paper.read_text())):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (paper.parent / path).resolve() if path else paper
        there = target.exists() and target.is_relative_to(ROOT)
        if not there or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_changelog_begins_with_this_version() -> None:
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None
    assert first[1] == crashext.__version__
