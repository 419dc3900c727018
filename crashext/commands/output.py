"""What a mode hands back to be printed.

JSON and pages are what few runs print, and take a fifth of a second to import: the forms do that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from crashext.kernel.access import Words

if TYPE_CHECKING:
    from crashext.report.html.blocks import Amounts, Page


@dataclass(frozen=True)
class Output:
    """The answer, in every form."""

    text: Callable[[Console], None]
    json: Callable[[], str]
    page: Callable[[Amounts], Page] | None = None
    """None where there is no --html."""
    listed: Words = field(default_factory=lambda: np.zeros(0, np.uint64))
    """Addresses to print after the text."""
    lost: bool = False
    """The session that was asked for could not be written."""
    nothing: bool = False
    """Nothing that was asked about is there."""
