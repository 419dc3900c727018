"""Pages of machines far larger than the lab's: as quick to render, and no larger to send.

No dump of 14.5 GiB is here. What a page is made of is: results, whose counts are as long as they
are, and whose lists are of caches, callers, holders and groups. So these are made larger than such
a dump makes them: counts as of 419,440,512 leaked objects, and lists twenty times as long.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from crashext.report.html.blocks import AMOUNTS
from crashext.report.html.page import MOST_BYTES, render
from tests.report.pages import Parsed
from tests.report.test_html_hostile import KINDS, changed, poisoned

OBJECTS = 419_440_512
_COUNTS = OBJECTS // 200_000 + 1
"""many-leaks and its like lose 200,000 objects of a cache."""
TIMES = 20
_PLACES = ("offset", "size", "value", "address", "target", "exemplar", "examples", "index", "root")
"""Fields whose numbers are no amounts."""
_NAME = "<\u202e" * 100
"""As long as is shown where there are many, and each character takes several bytes."""


def enlarged(value: Any, name: str = "", times: int = TIMES) -> Any:
    """`value` with larger amounts and lists that are longer, though not those within them."""
    if isinstance(value, bool) or name in _PLACES:
        return value
    if isinstance(value, int):
        return value * _COUNTS
    if is_dataclass(value) and not isinstance(value, type):
        new = {
            f.name: enlarged(getattr(value, f.name), f.name, times) for f in fields(value) if f.init
        }
        return replace(value, **new)
    if isinstance(value, msgspec.Struct):
        inner = {n: enlarged(getattr(value, n), n, times) for n in value.__struct_fields__}
        return type(value)(**inner)
    if isinstance(value, tuple):
        listed = all(is_dataclass(v) or isinstance(v, msgspec.Struct) for v in value)
        made = tuple(enlarged(v, name, 1 if listed else times) for v in value)
        return made * times if listed else made
    if isinstance(value, Mapping):
        return {key: enlarged(inner, name, times) for key, inner in value.items()}
    return value


@KINDS
def test_a_large_machine_makes_no_large_page(kind: str, tmp_path: Path) -> None:
    page = changed(kind, tmp_path, enlarged)
    begun = time.process_time()
    text = render(page)
    assert time.process_time() - begun < 1
    assert len(text) < MOST_BYTES
    if kind == "verdict":
        assert 200_000 * _COUNTS >= OBJECTS
        assert 200_000 * _COUNTS in Parsed(text).values
    if kind == "cache":  # those that have no section of their own are named
        heads = [e.text for e in Parsed(text).all("h2")]
        shown = heads.count("kmalloc-64")
        assert 0 < shown < TIMES
        assert f"{TIMES - shown} more caches" in heads


@KINDS
def test_nor_does_one_with_hostile_names_on_top(kind: str, tmp_path: Path) -> None:
    """The worst that is left when a page was made smaller twice."""
    page = changed(kind, tmp_path, lambda value: poisoned(enlarged(value), lambda _: _NAME), _NAME)
    assert len(render(page)) < MOST_BYTES


def test_smaller_pages_show_less_of_everything() -> None:
    for more, less in pairwise(AMOUNTS):
        assert more.rows > less.rows
        assert more.words > less.words
        assert more.text > less.text
