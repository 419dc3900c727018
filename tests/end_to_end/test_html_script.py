"""What a page's script adds in a real browser, by mouse and by keys, and that it takes nothing.

`make test-browser AXE=axe.min.js` runs this, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.browser import Browser
from tests.end_to_end.test_html_browser import EACH, browser, pages, pytestmark
from tests.report.pages import Parsed

__all__ = ["browser", "pages", "pytestmark"]  # fixtures of the same pages

_ADDED = ".tools, .filter, .pointed, button.copy"
_TABLE = "[...document.querySelectorAll('main table')].find(t => t.caption.textContent == {!r})"
_ROWS = "[...{}.tBodies[0].rows].filter(r => !r.hidden).map(r => r.cells[{}].textContent.trim())"
_PARTS = _TABLE.format("All memory by parts")


@pytest.fixture
def verdict(browser: Browser, pages: dict[str, Path]) -> Browser:
    browser.window(1200, 900)
    browser.open(pages["many-leaks"])
    return browser


def click(browser: Browser, what: str) -> None:
    browser.evaluate(f"({what}).click()")


def button(name: str) -> str:
    return f"[...document.querySelectorAll('button')].find(b => b.textContent == {name!r})"


def column(browser: Browser, table: str, number: int) -> list[str]:
    found = browser.evaluate(_ROWS.format(table, number))
    assert isinstance(found, list)
    return found


@EACH
def test_without_scripts_nothing_is_missing(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    """All words of the page are in the file, none of them hidden by more than a fold, and with
    scripts they are the same but for what is pressed or typed into."""
    words = Parsed(pages[name].read_text()).one("main").text.split()
    main = "document.querySelector('main')"
    browser.open(pages[name], scripts=False)
    assert browser.evaluate(f"{main}.textContent").split() == words
    assert browser.evaluate("document.querySelectorAll('button, input').length") == 0
    hidden = (
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('details, svg') &&"
        " e.getClientRects().length == 0 && e.textContent.trim()).map(e => e.outerHTML)"
    )
    assert browser.evaluate(hidden) == []
    browser.open(pages[name])
    assert browser.evaluate("document.querySelectorAll('button').length") > 0
    browser.evaluate(f"document.querySelectorAll('{_ADDED}').forEach(e => e.remove())")
    assert browser.evaluate(f"{main}.textContent").split() == words


def test_a_table_sorts_by_what_its_cells_stand_for(verdict: Browser) -> None:
    head = f"{_PARTS}.tHead.rows[0].cells[2]"
    before = column(verdict, _PARTS, 0)
    values = f"[...{_PARTS}.tBodies[0].rows].map(r => Number(r.querySelector('data').value))"
    click(verdict, f"{head}.querySelector('button')")
    falling = verdict.evaluate(values)
    assert falling == sorted(falling, reverse=True)
    assert verdict.evaluate(f"{head}.getAttribute('aria-sort')") == "descending"
    click(verdict, f"{head}.querySelector('button')")
    assert verdict.evaluate(values) == falling[::-1]
    click(verdict, f"{head}.querySelector('button')")
    assert column(verdict, _PARTS, 0) == before
    assert verdict.evaluate(f"{head}.getAttribute('aria-sort')") is None
    click(verdict, f"{_PARTS}.tHead.rows[0].cells[0].querySelector('button')")
    assert column(verdict, _PARTS, 0) == sorted(before)
    total = f"{_PARTS}.tFoot.rows[0].cells[0].textContent.trim()"
    assert verdict.evaluate(total) == "MemTotal"  # a sum stays below its parts


def test_a_table_shows_the_rows_that_have_some_words(verdict: Browser) -> None:
    before = column(verdict, _PARTS, 0)
    field = "document.querySelector('input[aria-label=\"Filter: All memory by parts\"]')"
    verdict.evaluate(f"{field}.value = 'PAGE tables'")
    verdict.evaluate(f"{field}.dispatchEvent(new Event('input'))")
    left = column(verdict, _PARTS, 0)
    assert left == [row for row in before if "page tables" in row]
    assert 0 < len(left) < len(before)
    told = f"{field}.parentElement.querySelector('[role=status]').textContent"
    assert verdict.evaluate(told).startswith(f"{len(left)} of {len(before)} rows")
    verdict.evaluate(f"{field}.value = ''")
    verdict.evaluate(f"{field}.dispatchEvent(new Event('input'))")
    assert column(verdict, _PARTS, 0) == before
    assert verdict.evaluate(told) == ""


def test_all_that_is_folded_unfolds(verdict: Browser) -> None:
    opened = "[...document.querySelectorAll('details')].map(d => d.open)"
    assert not any(verdict.evaluate(opened))
    click(verdict, button("Unfold all"))
    assert all(verdict.evaluate(opened))
    verdict.evaluate("new Promise(done => setTimeout(done, 50))")  # the browser tells of it later
    click(verdict, button("Fold all"))
    assert not any(verdict.evaluate(opened))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_light_and_dark_turn_and_paper_stays_white(verdict: Browser, dark: bool) -> None:
    verdict.window(1200, 900, dark)
    colour = "getComputedStyle(document.body).backgroundColor"
    white, black = "rgb(255, 255, 255)", "rgb(20, 22, 26)"
    assert verdict.evaluate(colour) == (black if dark else white)
    for shown in (dark, not dark):
        click(verdict, button("Light" if shown else "Dark"))
        assert verdict.evaluate(colour) == (white if shown else black)
        verdict.ask("Emulation.setEmulatedMedia", media="print")
        assert verdict.evaluate(colour) == white
        verdict.ask("Emulation.setEmulatedMedia", media="")
    verdict.window(1200, 900)


def test_a_command_is_copied(verdict: Browser) -> None:
    verdict.ask("Emulation.setFocusEmulationEnabled", enabled=True)
    verdict.ask("Browser.grantPermissions", permissions=["clipboardReadWrite"])
    click(verdict, "document.querySelector('.commands button')")
    copied = verdict.evaluate("navigator.clipboard.readText()")
    assert copied == "leakscan kmalloc-32"  # and not where it is typed
    said = verdict.evaluate("document.querySelector('.commands button').textContent")
    assert said == "Copied"


def test_what_is_pointed_at_is_told(verdict: Browser) -> None:
    box = "document.querySelector('svg.boxes rect')"
    place: dict[str, Any] = verdict.evaluate(f"{box}.getBoundingClientRect().toJSON()")
    where = {"x": place["x"] + 4, "y": place["y"] + 4}
    verdict.ask("Input.dispatchMouseEvent", type="mouseMoved", **where)
    told = verdict.evaluate("document.querySelector('.pointed').textContent")
    assert told == verdict.evaluate(f"{box}.parentElement.querySelector('title').textContent")
    assert told.startswith("free: ")


def test_keys_reach_everything(verdict: Browser) -> None:
    """Tab goes where a mouse would, in the order of the page; Enter presses."""
    names = []
    at = "document.activeElement"
    for _ in range(40):
        for kind in ("rawKeyDown", "keyUp"):
            verdict.ask("Input.dispatchKeyEvent", type=kind, key="Tab", windowsVirtualKeyCode=9)
        names.append(verdict.evaluate(f"{at}.textContent || {at}.getAttribute('aria-label')"))
        if names[-1] == "size":
            break
    assert names[:2] == ["Skip to the report", "Why"]
    assert names[names.index("How to ask again") + 1 :][:3] == ["Dark", "Unfold all", "Copy"]
    assert "Filter: All memory by parts" in names
    enter = {"key": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
    verdict.ask("Input.dispatchKeyEvent", type="keyDown", **enter)
    verdict.ask("Input.dispatchKeyEvent", type="keyUp", key="Enter", windowsVirtualKeyCode=13)
    assert verdict.evaluate(f"{at}.closest('th').getAttribute('aria-sort')") == "descending"
