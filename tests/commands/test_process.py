"""The process that a command runs in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SESSIONS

SESSION = SESSIONS / "many-leaks.session"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_closed_stream_swallows_what_it_is_given(closed: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    command = [sys.executable, "-m", "crashext", "leakscan", "-r", str(SESSION)]
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *command, "--html", str(page)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("leak, slab") == (">&-" not in closed.replace("2>&-", ""))
    assert page.stat().st_size
