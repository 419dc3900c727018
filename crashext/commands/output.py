"""What a mode hands back to be printed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console

from crashext.kernel.access import Words


@dataclass(frozen=True)
class Output:
    """The answer, both ways."""

    text: Callable[[Console], None]
    json: Callable[[], str]
    listed: Words = field(default_factory=lambda: np.zeros(0, np.uint64))
    """Addresses to print after the text."""
    lost: bool = False
    """The session that was asked for could not be written."""
