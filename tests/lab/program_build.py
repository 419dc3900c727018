"""Building ``labuser``, the guest's program: static, since the guest has no libraries."""

from __future__ import annotations

from pathlib import Path

from .packages import ARM64_GCC, NATIVE, Kernel
from .run import run

SOURCE = Path(__file__).parent / "guest" / "labuser.c"
BUILD_TIMEOUT = 60.0
COMPILERS = {NATIVE: "gcc", "arm64": ARM64_GCC}
"""This machine's also where the kernel is another suite's: the program takes no library along."""


def build_program(kernel: Kernel, target: Path) -> None:
    """Compile ``guest/labuser.c`` to `target`, for the guests of `kernel`."""
    compiler = COMPILERS[kernel.arch]
    run([compiler, "-O2", "-static", "-s", "-Wall", "-Werror", SOURCE, "-o", target], BUILD_TIMEOUT)
