"""Text in results: of a length that a report can print, whoever wrote the session."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

MOST_LINES = 8
Text = Annotated[str, Meta(max_length=4096)]
"""A line of a report."""
