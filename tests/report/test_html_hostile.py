"""Nothing that a dump says of itself becomes part of a page: it stays text, and can be seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from crashext.analysis.caches import scan_caches
from crashext.analysis.orphans import scan_orphans
from crashext.analysis.overview import look_over
from crashext.analysis.proc import read_snapshot, report
from crashext.analysis.proc_facts import proc_facts
from crashext.analysis.settings import Settings
from crashext.analysis.verdict.rules import judge
from crashext.hosts.recorded import RecordedHost
from crashext.kernel.slab.view import KernelView
from crashext.procfs.saved import saved
from crashext.progress import silent
from crashext.report.asking import Asking
from crashext.report.html.blocks import Amounts, Page
from crashext.report.html.caches import leak_page
from crashext.report.html.made import Made
from crashext.report.html.orphans import orphans_page
from crashext.report.html.overview import overview_page
from crashext.report.html.page import MOST_BYTES, render
from crashext.report.html.procfs import proc_page
from crashext.report.html.traces import trace_page
from crashext.report.safe import safe
from crashext.trace import trace_table
from tests.conftest import SESSIONS
from tests.report.pages import Parsed
from tests.report.test_html import ALLOC, own

EVIL = (
    "</style></title></svg>\"'><script>alert(1)</script><img src=x onerror=alert(2)>&lt;b&gt;&#62;"
    "{{ 7 * 7 }}{% raw %}--><!--\x1b[2J\x07\r\n\x00\u202egnp.exe\ud800]]>"
)
LONG = "<\u202e" * 5000
OURS = ("kind", "where", "confidence", "group", "walker", "rung", "by", "what", "clock")
"""Fields whose words are the engine's own, that decide how something is told."""
_ELEMENTS = """html head meta title style body a header p span h1 h2 h3 h4 h5 nav main section
article div table caption thead tbody tfoot tr th td data ul li dl dt dd code details summary
figure figcaption footer svg g rect text path polyline circle script"""
SETTINGS = Settings(250_000, 0, 0.7, "hamming", 1)
Poison = Callable[[str], str]


def poisoned(value: Any, poison: Poison, name: str = "") -> Any:
    """`value` with every string in it replaced, but for words of the engine's own."""
    if isinstance(value, str):
        return value if name in OURS else poison(value)
    if is_dataclass(value) and not isinstance(value, type):
        new = {
            f.name: poisoned(getattr(value, f.name), poison, f.name)
            for f in fields(value)
            if f.init
        }
        return replace(value, **new)
    if isinstance(value, msgspec.Struct):
        inner = {n: poisoned(getattr(value, n), poison, n) for n in value.__struct_fields__}
        return type(value)(**inner)
    if isinstance(value, tuple):
        return tuple(poisoned(inner, poison, name) for inner in value)
    if isinstance(value, Mapping):
        return {key: poisoned(inner, poison, name) for key, inner in value.items()}
    return value


def view(session: str) -> KernelView:
    return KernelView(RecordedHost(SESSIONS / f"{session}.session"))


@cache
def verdict() -> tuple[Any, ...]:
    overview = look_over(view("many-leaks"), SETTINGS, silent)
    return overview, judge(overview.facts)


@cache
def caches() -> Any:
    return scan_caches(view("two-leaks"), ["kmalloc-64"], SETTINGS, silent)


@cache
def orphans() -> Any:
    return scan_orphans(view("orphans"), SETTINGS, silent).report


def trace(folder: Path) -> Any:
    file = folder / "trace"
    file.write_text("".join(ALLOC.format(i, 0xFFFF888000100000 + 32 * i) for i in range(9)))
    return trace_table(file)


def proc(folder: Path) -> tuple[Any, ...]:
    moments = []
    for size in (1000, 9000):
        here = folder / f"proc{size}"
        here.mkdir()
        (here / "meminfo").write_text(f"MemTotal: 4030636 kB\nMemFree: 99 kB\nSlab: {size} kB\n")
        moments.append(read_snapshot(saved(here)[0], silent))
    found = report(moments, None)
    facts = proc_facts(found)
    return found, facts, judge(facts)


def page(kind: str, folder: Path, poison: Poison) -> Callable[[Amounts], Page]:
    return changed(kind, folder, lambda value: poisoned(value, poison), poison("x"))


def changed(
    kind: str, folder: Path, change: Callable[[Any], Any], word: str = "x"
) -> Callable[[Amounts], Page]:
    """The page of results that were changed."""
    made = Made(word, Asking("shell"), ((word, word),))
    if kind == "verdict":
        overview, verdicts = map(change, verdict())
        return lambda amounts: overview_page(overview, overview.facts, verdicts, made, amounts)
    if kind == "cache":
        leaks = change(caches())
        return lambda amounts: leak_page(leaks, (), made, amounts)
    if kind == "orphans":
        unreachable = change(orphans())
        return lambda amounts: orphans_page(unreachable, made, amounts)
    if kind == "trace":
        summary = change(trace(folder))
        return lambda amounts: trace_page(summary, made, amounts)
    found, facts, verdicts = map(change, proc(folder))
    return lambda amounts: proc_page(found, facts, verdicts, made, amounts)


KINDS = pytest.mark.parametrize("kind", ["verdict", "cache", "orphans", "trace", "procfs"])


@KINDS
def test_what_is_hostile_stays_text(kind: str, tmp_path: Path) -> None:
    text = render(page(kind, tmp_path, lambda _: EVIL))
    parsed = Parsed(text)
    assert {e.tag for e in parsed.elements} <= set(_ELEMENTS.split())
    assert not [c for c in text if c != "\n" and not " " <= c <= "~"]
    assert len(parsed.all("html", "head", "style", "body", "main")) == 5
    assert parsed.one("script").text == own("script.js")
    for element in parsed.elements:
        assert not [name for name in element.attributes if name.startswith("on")]
        assert "src" not in element.attributes
    assert safe(EVIL) in parsed.one("main").text
    assert r"\u202egnp.exe" in parsed.one("main").text
    if kind == "cache":  # a chain's description names what is in it: an attribute is hostile, too
        labels = [e.attributes.get("aria-label", "") for e in parsed.all("svg")]
        assert any(safe(EVIL) in label for label in labels)


@KINDS
def test_long_names_make_no_large_page(kind: str, tmp_path: Path) -> None:
    text = render(page(kind, tmp_path, lambda _: LONG))
    assert len(text) < MOST_BYTES
    assert "(cut, of 10,000 characters)" in Parsed(text).one("main").text


@KINDS
def test_the_poison_is_what_made_the_difference(kind: str, tmp_path: Path) -> None:
    """Unpoisoned, the same results make a page without it."""
    text = render(page(kind, tmp_path, lambda said: said))
    assert "alert(1)" not in text
    assert "(cut, of" not in text
    assert text.count("<h2") >= 3
