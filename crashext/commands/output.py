"""What a mode hands back to be printed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console

from crashext.kernel.access import Words
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
