"""Pages of real sessions: one file that needs nothing else, says what the document says, and is
built so that anybody can read it."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from crashext.wording import size_text
from tests.conftest import SESSIONS, run
from tests.report.pages import Element, Parsed, figures

ASKED: dict[str, tuple[str, ...]] = {
    "many-leaks": (),
    "orphans": ("--orphans",),
    "two-leaks": ("kmalloc-64",),
    "healthy": ("dentry", "filp"),
}
ALLOC = (
    "          insmod-812     [001] .....   100.{:06}: kmalloc: call_site=leaklab_take+0x21/0x40 "
    "ptr=0x{:016x} bytes_req=24 bytes_alloc=32 gfp_flags=GFP_KERNEL node=-1 accounted=false\n"
)
MEMINFO = "MemTotal: 4030636 kB\nMemFree: 3502020 kB\nSlab: {} kB\nSUnreclaim: {} kB\n"
SLABINFO = (
    "slabinfo - version: 2.1\n# name\n"
    "kmalloc-64 {0} {0} 64 64 1 : tunables 0 0 0 : slabdata {1} {1} 0\n"
)
KINDS = (*ASKED, "trace", "procfs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace, and three moments of a machine whose kmalloc-64 grows."""
    here = tmp_path_factory.mktemp("html")
    (here / "trace").write_text(
        "".join(ALLOC.format(i, 0xFFFF888000100000 + 32 * i) for i in range(40))
    )
    for hour, slabs in enumerate((1000, 20_000, 39_000)):
        proc = here / f"proc{hour}"
        proc.mkdir()
        (proc / "meminfo").write_text(MEMINFO.format(slabs * 4, slabs * 4))
        (proc / "slabinfo").write_text(SLABINFO.format(slabs * 64, slabs))
        (proc / "date").write_text(f"Thu Nov 26 1{hour}:00:00 UTC 2026\n")
    return here


def arguments(kind: str, folder: Path) -> tuple[object, ...]:
    if kind == "trace":
        return ("--trace", folder / "trace")
    if kind == "procfs":
        return tuple(folder / f"proc{hour}" for hour in range(3))
    return ("-r", SESSIONS / f"{kind}.session", *ASKED[kind])


@cache
def page(kind: str, folder: Path) -> Parsed:
    file = folder / f"{kind}.html"
    ran = run("leakscan", *arguments(kind, folder), "--html", file)
    assert (ran.status, ran.err) == (0, "")
    return Parsed(file.read_text("ascii"))


@pytest.fixture(params=KINDS)
def parsed(request: pytest.FixtureRequest, folder: Path) -> Parsed:
    return page(request.param, folder)


def document(kind: str, folder: Path) -> dict[str, Any]:
    return run("leakscan", *arguments(kind, folder), "--json").document


def own(name: str) -> str:
    """A file of ours that stands in every page."""
    return (files("crashext.report.html") / "templates" / name).read_text()


def hashed(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def test_it_is_one_small_file_that_loads_nothing(parsed: Parsed) -> None:
    assert len(parsed.page) < 2 << 20
    assert not parsed.all("link", "img", "iframe", "object", "base", "form", "use")
    for element in parsed.elements:
        assert not [name for name in element.attributes if name.startswith("on")]
        assert not {"src", "style", "xlink:href", "srcset", "action"} & set(element.attributes)
        assert element.attributes.get("href", "#").startswith("#")
    assert not re.search(r"https?:|//|url\(|@import|data:", parsed.one("style").text)


def test_its_one_script_is_ours_and_writes_no_markup(parsed: Parsed) -> None:
    script = parsed.one("script")
    assert (script.text, script.attributes) == (own("script.js"), {})
    assert script.parent is not None
    assert script.parent.tag == "body"
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function|fetch|XMLHttp|import|https?:"
        r"|Storage|cookie",
        script.text,
    )


def test_its_policy_allows_its_own_style_and_script_and_nothing_else(parsed: Parsed) -> None:
    (policy,) = [
        e.attributes["content"]
        for e in parsed.all("meta")
        if e.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == (
        f"default-src 'none'; style-src {hashed(parsed.one('style').text)}; "
        f"script-src {hashed(parsed.one('script').text)}; base-uri 'none'; form-action 'none'"
    )


def test_who_does_not_see_it_can_read_it(parsed: Parsed) -> None:
    assert parsed.one("html").attributes["lang"] == "en"
    assert parsed.one("h1").text
    assert parsed.one("main")
    levels = [int(e.tag[1]) for e in parsed.all("h1", "h2", "h3", "h4", "h5")]
    assert all(b <= a + 1 for a, b in pairwise(levels))
    for table in parsed.all("table"):
        held = [e for e in parsed.elements if e.parent is table]
        assert held[0].tag == "caption"
        assert held[0].text
    for head in parsed.all("th"):
        assert head.attributes["scope"] in ("col", "row")
    for figure in parsed.all("figure"):
        assert any(e.parent is figure and e.text for e in parsed.all("figcaption"))
    for drawing in parsed.all("svg"):
        hidden = "true" in (drawing.attributes.get("aria-hidden"), _parents(drawing))
        assert hidden or drawing.attributes["aria-label"]
    for box in parsed.all("div"):
        if box.attributes.get("class") in ("scroll", "draw"):
            assert box.attributes["tabindex"] == "0"
            assert box.attributes["aria-label"]


def _is(element: Element, name: str) -> bool:
    return element.attributes.get("class") == name


def _parents(element: Element | None) -> str:
    while element is not None:
        if element.attributes.get("aria-hidden") == "true":
            return "true"
        element = element.parent
    return ""


def test_its_links_lead_somewhere(parsed: Parsed) -> None:
    ids = [e.attributes["id"] for e in parsed.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    targets = [e.attributes["href"][1:] for e in parsed.all("a")]
    assert targets
    assert set(targets) <= set(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_it_has_no_figure_that_the_document_lacks(kind: str, folder: Path) -> None:
    assert page(kind, folder).values <= figures(document(kind, folder))


def test_a_figure_is_written_as_what_it_stands_for(parsed: Parsed) -> None:
    figures = parsed.all("data")
    assert figures
    for one in figures:
        value = int(one.attributes["value"])
        as_written = {f"{value:,}", f"~{value:,}", f"{value:+,}", size_text(value)}
        assert one.text in as_written or one.text.startswith(f"~{value:,} ("), one.text


def test_the_text_is_printed_as_without_it(folder: Path) -> None:
    asked = arguments("many-leaks", folder)
    with_page = run("leakscan", *asked, "--html", folder / "again.html")
    assert with_page.out == run("leakscan", *asked).out
    assert (folder / "again.html").read_text() == page("many-leaks", folder).page


def test_a_verdict_is_what_the_document_says(folder: Path) -> None:
    found, said = page("many-leaks", folder), document("many-leaks", folder)
    verdict, facts = said["verdict"], said["facts"]
    assert found.one("h1").text == verdict["says"]
    assert f"{verdict['confidence']} confidence" in found.one("header").text
    items = {e.text for e in found.all("li")}
    for one in said["verdicts"]:
        assert {*one["for"], *one["against"], one["overturned_by"]} <= items
    parts = [p["bytes"] for p in facts["split"]["parts"]]
    assert {facts["split"]["total"], facts["split"]["unaccounted"], *parts} <= found.values
    for lost in facts["unreachable"]:
        assert {lost["objects"]["estimate"], lost["bytes"]} <= found.values
    for held in facts["pages"]["held"]:
        assert held["bytes"] in found.values


def test_a_cache_is_what_the_document_says(folder: Path) -> None:
    found, said = page("two-leaks", folder), document("two-leaks", folder)
    text = found.one("main").text
    for group in said["caches"][0]["groups"]:
        assert group["objects"]["estimate"] in found.values
        assert f"{int(group['exemplar'], 16):x}" in text
        for word in group["words"]:
            assert f"{int(word['value'], 16):0{2 * word['size']}x}" in text
    assert "Nothing points here" in text
    first = said["caches"][0]["groups"][0]
    shares = [float(e.attributes["width"]) for e in found.all("rect") if _is(e, "constant")]
    words = [round(110 * word["constant"], 1) for word in first["words"]]
    assert shares[: len(words)] == pytest.approx(words, abs=0.11)
    assert said["kernel"]["release"] in text


def test_orphans_are_what_the_document_says(folder: Path) -> None:
    found, said = page("orphans", folder), document("orphans", folder)
    for lost in said["caches"]:
        assert {lost["objects"]["estimate"], lost["bytes"]} <= found.values
    for memory in said["memory"]:
        assert {memory["count"], memory["bytes"]} <= found.values
    drawn = [e.text for e in found.all("text") if _is(e, "word")]
    assert drawn[:4] == ["-> object", "LIST_POISON", "LIST_POISON", "number"]
    assert said["orphans"][0]["shape"] == "slab-pointer list-poison*2 small-number"


def test_growth_is_drawn_with_its_rate(folder: Path) -> None:
    found, said = page("procfs", folder), document("procfs", folder)
    (grown,) = said["facts"]["growth"]["caches"]
    assert grown["bytes"] in found.values
    (curve,) = found.all("polyline")
    heights = [float(point.split(",")[1]) for point in curve.attributes["points"].split()]
    assert heights == sorted(heights, reverse=True)
    assert len(heights) == len(grown["steps"]) == 3
    assert "+74.2 MiB" in found.one("main").text  # an hour: 38,000 slabs of a page in two
    assert "46.1 hours" in found.one("main").text  # 3,502,020 kB at 76,000 kB an hour


def test_a_trace_names_its_function(folder: Path) -> None:
    found = page("trace", folder)
    assert "leaklab_take+0x21" in found.one("main").text
    assert 40 in found.values
    assert "--trace" in found.all("code")[0].text
