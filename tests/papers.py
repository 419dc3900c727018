"""The papers of the project: every page that somebody reads before the code."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
PAPERS = [
    *ROOT.glob("*.md"),
    *ROOT.glob(".github/**/*.md"),
    *ROOT.glob("crashext/docs/*.md"),
    *ROOT.glob("tests/*/README.md"),
]
