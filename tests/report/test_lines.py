"""Lines of text in a window: folded commands run as they are printed."""

from __future__ import annotations

import shlex

import pytest

from crashext.report.lines import COMMAND, folded

TRACE = "trace-cmd record -e kmem:kmalloc -f 'bytes_alloc == 32 && bytes_req == 32' -T sleep 60"


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_folded_command_is_the_same_to_a_shell(width: int) -> None:
    lines = folded(f"    {COMMAND}{TRACE}", width)
    assert all(line.endswith(" \\") for line in lines[:-1])
    assert shlex.split("\n".join(lines).replace("\\\n", "")) == shlex.split(TRACE)
    assert lines[0].startswith("    trace-cmd")
    # What is quoted stays in one line, however long.
    assert all(len(line) <= width or "'" in line for line in lines)


def test_one_that_fits_is_left_alone() -> None:
    assert folded(f"  {COMMAND}sleep 60", 60) == ["  sleep 60"]
