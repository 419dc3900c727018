"""Building ``labuser``, the guest's program: static, since the guest has no libraries."""

from __future__ import annotations

from pathlib import Path

from .run import run

SOURCE = Path(__file__).parent / "guest" / "labuser.c"
BUILD_TIMEOUT = 60.0


def build_program(target: Path) -> None:
    """Compile ``guest/labuser.c`` to `target`."""
    run(["gcc", "-O2", "-static", "-s", "-Wall", "-Werror", SOURCE, "-o", target], BUILD_TIMEOUT)
