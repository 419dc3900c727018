"""Pages in a real browser: they load without a word, in any window, and can be read by anybody.

`make test-browser AXE=axe.min.js` runs them; axe-core's file says what a page owes its readers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from crashext.report.html.page import render
from tests.conftest import SESSIONS, only_if, run
from tests.end_to_end.browser import Browser
from tests.report.test_html import ASKED
from tests.report.test_html_hostile import EVIL
from tests.report.test_html_hostile import page as hostile

AXE = os.environ.get("CRASHEXT_AXE", "")
pytestmark = only_if(AXE, "needs a browser and axe-core: make test-browser, or CRASHEXT_AXE=FILE")

EACH = pytest.mark.parametrize("name", ASKED)
_SPOKEN = """axe.run(document, {resultTypes: ['violations']}).then(r => r.violations.map(
    v => v.impact + ' ' + v.id + ': ' + v.nodes.map(n => n.html).slice(0, 3).join(' ')))"""


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    one = Browser(tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    for name, asked in ASKED.items():
        session = SESSIONS / f"{name}.session"
        ran = run("leakscan", "-r", session, *asked, "--html", folder / f"{name}.html")
        assert ran.status == 0
    return {name: folder / f"{name}.html" for name in ASKED}


@EACH
@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no-scripts"])
def test_it_loads_itself_alone(
    browser: Browser, pages: dict[str, Path], name: str, scripts: bool
) -> None:
    browser.open(pages[name], scripts)
    assert browser.complaints == []
    assert browser.requests == [pages[name].as_uri()]


@EACH
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_anybody_can_read_it(
    browser: Browser, pages: dict[str, Path], name: str, dark: bool
) -> None:
    browser.window(1200, 900, dark)
    browser.ask("Page.setBypassCSP", enabled=True)
    browser.open(pages[name])
    browser.evaluate(Path(AXE).read_text())
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = browser.evaluate(_SPOKEN)
    browser.ask("Page.setBypassCSP", enabled=False)
    assert [v for v in found if v.startswith(("serious", "critical"))] == []


@EACH
def test_a_narrow_window_does_not_scroll_sideways(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    browser.window(390, 800)
    browser.open(pages[name])
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390


@EACH
def test_it_prints_on_a_few_sheets(browser: Browser, pages: dict[str, Path], name: str) -> None:
    browser.open(pages[name])
    sheets = len(re.findall(rb"/Type\s*/Page\b", browser.printed()))
    assert 1 <= sheets <= 8


@pytest.mark.parametrize("kind", ["verdict", "cache", "orphans", "trace", "procfs"])
def test_what_is_hostile_does_nothing(browser: Browser, tmp_path: Path, kind: str) -> None:
    """Its scripts would be stopped by the policy, but there are none, and ours makes none of it."""
    file = tmp_path / "page.html"
    file.write_text(render(hostile(kind, tmp_path, lambda _: EVIL)))
    browser.ask("Page.setBypassCSP", enabled=True)
    browser.open(file)
    browser.ask("Page.setBypassCSP", enabled=False)
    assert browser.complaints == []
    assert browser.requests == [file.as_uri()]
    assert browser.evaluate("document.scripts.length + document.images.length") == 1  # our own
    assert "<script>alert(1)</script>" in browser.evaluate("document.body.innerText")


def test_the_policy_stops_what_a_hole_would_let_in(browser: Browser, tmp_path: Path) -> None:
    """A page with a script and a picture put in by hand, as if escaping had failed."""
    file = tmp_path / "page.html"
    page = render(hostile("trace", tmp_path, lambda said: said))
    broken = "<script>document.title = 'owned'</script><img src='x.png'><p style='color:red'>"
    file.write_text(page.replace("</main>", f"{broken}</main>"))
    picture = tmp_path / "x.png"
    picture.write_bytes(browser.picture())
    browser.open(file)
    assert browser.evaluate("document.title") != "owned"
    assert browser.loaded == [file.as_uri()]
    assert len(browser.complaints) >= 3
    browser.ask("Page.setBypassCSP", enabled=True)  # the holes are real ones
    browser.open(file)
    browser.ask("Page.setBypassCSP", enabled=False)
    assert browser.evaluate("document.title") == "owned"
    assert browser.loaded == [file.as_uri(), picture.as_uri()]
