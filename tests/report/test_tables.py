"""Tables in a narrow window: names and numbers stay whole, other columns give way."""

from __future__ import annotations

import pytest

from crashext.report.tables import Table

LONG = "a_function_of_a_driver_with_a_long_name+0x1234/0x5678"


def made() -> Table:
    table = Table("lrrrt")
    table.heads("cache", "objects", "bytes", "nothing", "")
    table.row("dentry", "734,506,368", "43.8 GiB", "", "words " * 12)
    table.row(LONG, "1", "12 bytes", "", "")
    return table


@pytest.mark.parametrize("width", [60, 80, 120])
def test_names_and_numbers_stay_whole(width: int) -> None:
    lines = [text for text, _ in made().lines(width)]
    assert max(map(len, lines)) <= width
    for whole in (LONG, "734,506,368", "43.8 GiB", "12 bytes"):
        assert sum(whole in text for text in lines) == 1
    assert " ".join(lines).count("words") == 12
    # Numbers stand under their heads.
    ends = {
        text.index(n) + len(n) for n in ("objects", "734,506,368") for text in lines if n in text
    }
    assert len(ends) == 1
    assert "nothing" not in "".join(lines)


def test_numbers_that_leave_a_name_no_room_stand_below_it() -> None:
    table = Table("lrrr", indent=0)
    table.row("kmalloc-32", "1" * 18, "2" * 18, "3" * 12)
    lines = [text for text, _ in table.lines(60)]
    assert lines[0] == "kmalloc-32"
    assert lines[1].split() == ["1" * 18, "2" * 18, "3" * 12]


def test_a_text_without_room_beside_stands_below() -> None:
    table = Table("rrt", indent=0)
    table.row("1" * 25, "2" * 25, LONG)
    assert [text for text, _ in table.lines(60)] == [f"{'1' * 25}  {'2' * 25}", f"  {LONG}"]


def test_a_name_at_the_end_is_not_broken_where_a_line_of_its_own_holds_it() -> None:
    table = Table("rrt", indent=0)
    table.row("1" * 14, "2" * 14, "short+0x1")
    table.row("1", "2", "a_name_of_thirty_characters+0x1 [module]")
    lines = [text for text, _ in table.lines(60)]
    assert lines[0].endswith("  short+0x1")
    assert lines[2] == "  a_name_of_thirty_characters+0x1 [module]"
