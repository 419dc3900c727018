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
_GUIDES = (ROOT / ".github/CONTRIBUTING.md", ROOT / "crashext/docs/design.md")
_CODE = re.compile(r"`([^`\n]+)`")
_FILE = re.compile(r"[\w./-]+\.(?:py|md|c|json)")
_NAME = re.compile(r"(?=\w*(?:_|[a-z][A-Z]))[A-Za-z_]\w+")  # lower_case, CamelCase
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


@pytest.mark.parametrize("guide", _GUIDES, ids=lambda p: p.stem)
def test_the_files_and_names_that_a_guide_sends_to_are_there(guide: Path) -> None:
    files = [*ROOT.glob("crashext/**/*.*"), *ROOT.glob("tests/**/*.*")]
    source = "\n".join(p.read_text() for p in files if p.suffix in (".py", ".c"))
    named = set(re.findall(r"\w+", source))
    missing = []
    for word in _CODE.findall(_FENCED.sub("", guide.read_text())):
        if _FILE.fullmatch(word):
            if not any(str(p).endswith(f"/{word}") for p in files):
                missing.append(word)
        elif _NAME.fullmatch(word) and word not in named:
            missing.append(word)
    assert missing == []


def test_the_changelog_begins_with_this_version() -> None:
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None
    assert first[1] == crashext.__version__
