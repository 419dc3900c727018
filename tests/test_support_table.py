"""README's table of kernels is what a run of the tests noted, and nothing when one failed."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from tests.record_support import BEGIN, END, HEAD, README, read, table, write

DAY = date(2026, 1, 2)
CASES = """<testsuites><testsuite>
<testcase name="test_objects[healthy@sid]"><properties>
<property name="release" value="7.2.13"/><property name="built for" value="x86_64 SLUB"/>
<property name="objects" value="1500"/><property name="caches" value="90"/></properties></testcase>
<testcase name="test_objects[default@sid]"><properties>
<property name="objects" value="500"/><property name="caches" value="91"/>
<property name="verdicts" value="1"/><property name="form" value="ELF"/></properties></testcase>
<testcase name="test_lost[nodes-default@sid]"><properties>
<property name="lost" value="200"/><property name="found" value="199"/>
<property name="form" value="kdump"/><property name="innocents" value="0"/></properties></testcase>
<testcase name="test_objects[healthy@trixie]"><skipped/></testcase>
<testcase name="test_of_no_kernel"/>
</testsuite></testsuites>"""
ROW = (
    "| 7.2.13 | x86_64 SLUB | 2,000 in 181 caches | 99.5 % of 200 | 0 | 1 | ELF, kdump "
    "| 2026-01-02 |\n"
)
OLDER = "| 5.10.0 | x86_64 SLUB | 1 in 1 caches | 100.0 % of 1 | 0 | 1 | ELF | 2025-01-02 |\n"


def saved(folder: Path, text: str = CASES) -> Path:
    path = folder / "kernels.xml"
    path.write_text(text)
    return path


def test_a_row_is_what_the_tests_of_a_kernel_noted(tmp_path: Path) -> None:
    kernels = read(saved(tmp_path))
    assert list(kernels) == ["sid"]
    assert table("", kernels, DAY) == HEAD + ROW


def test_rows_of_other_kernels_stay_and_old_ones_are_replaced(tmp_path: Path) -> None:
    before = HEAD + ROW.replace("99.5", "12.3") + OLDER
    assert table(before, read(saved(tmp_path)), DAY) == HEAD + ROW + OLDER


def test_a_test_that_fails_is_told(tmp_path: Path) -> None:
    failed = CASES.replace(
        '<testcase name="test_of_no_kernel"/>',
        '<testcase name="test_lost[tasks-default@sid]"><failure/></testcase>',
    )
    assert read(saved(tmp_path, failed))["sid"].wrong == ["test_lost[tasks-default@sid]"]


def test_only_what_is_between_the_marks_of_a_page_changes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}{OLDER}{END}after\n")
    write(read(saved(tmp_path)), page, DAY)
    assert page.read_text() == f"before\n{BEGIN}{HEAD}{ROW}{OLDER}{END}after\n"


def test_a_kernel_that_was_tested_by_hand_says_so(tmp_path: Path) -> None:
    noted = '<property name="tested" value="by hand"/><property name="objects" value="1500"/>'
    by_hand = CASES.replace('<property name="objects" value="1500"/>', noted)
    row = table("", read(saved(tmp_path, by_hand)), DAY).splitlines()[-1]
    assert row == ROW.strip().replace("2026-01-02", "2026-01-02, by hand")


def test_readme_has_the_table() -> None:
    text = README.read_text()
    assert text.count(BEGIN) == text.count(END) == 1
    assert HEAD in text


def test_a_suite_may_have_a_name_of_several_words(tmp_path: Path) -> None:
    renamed = CASES.replace("@sid]", "@arm64-16k]")
    assert list(read(saved(tmp_path, renamed))) == ["arm64-16k"]
