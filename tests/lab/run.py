"""Running other programs: bounded in time, and one clear line when they fail."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .errors import LabError

LONG_ENOUGH = 600.0
"""Seconds that a busy machine may take for what takes one by itself: apt's lists have 60 MB."""


def run(
    command: Sequence[str | Path],
    timeout: float = LONG_ENOUGH,
    cwd: Path | None = None,
    keep_fds: Sequence[int] = (),
) -> str:
    """Run `command` to its end and return its standard output, or raise `LabError`."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            timeout=timeout,
            pass_fds=keep_fds,
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise LabError(f"{words[0]} not found") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"{' '.join(words[:3])}: no end after {timeout:.0f} s") from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip() or error.stdout.strip() or "no message").splitlines()
        raise LabError(f"{' '.join(words)}: {said[-1]}") from None
    return done.stdout
