"""An HTML page read back as a browser would: its elements, their text, and whether they nest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

_SHAPES = ("rect", "path", "polyline")
"""The elements that may close themselves, as those of an SVG may."""


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    text: str = ""
    """Its own and that of what it holds."""
    parent: Element | None = None


@dataclass
class Parsed(HTMLParser):
    """All elements of a page in order; fails where tags do not match."""

    page: str
    elements: list[Element] = field(default_factory=list)
    _open: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.page)
        self.close()
        assert not self._open, f"not closed: {self._open[-1].tag}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self._open.append(self._added(tag, attrs))
        else:
            self._added(tag, attrs)

    def _added(self, tag: str, attrs: list[tuple[str, str | None]]) -> Element:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice: {attrs}"
        parent = self._open[-1] if self._open else None
        one = Element(tag, {name: value or "" for name, value in attrs}, parent=parent)
        self.elements.append(one)
        return one

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _SHAPES
        self._added(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> without a beginning"
        assert self._open.pop().tag == tag, f"</{tag}> closes another"

    def handle_data(self, data: str) -> None:
        for one in self._open:
            one.text += data

    def all(self, *tags: str) -> list[Element]:
        return [e for e in self.elements if e.tag in tags]

    def one(self, tag: str) -> Element:
        (found,) = self.all(tag)
        return found

    @property
    def values(self) -> set[int]:
        """Numbers that the page gives exactly."""
        return {int(e.attributes["value"]) for e in self.all("data")}


def figures(document: dict[str, Any]) -> set[int]:
    """Every figure that a page of what `document` says may give."""
    found = set(_integers(document))
    for cache in document.get("caches", ()):  # a group's memory: the document has count and size
        for group in cache.get("groups", ()):
            found.add(group["objects"]["estimate"] * cache["slot_size"])
    return found


def _integers(value: object) -> Iterator[int]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _integers(inner)
    elif isinstance(value, int):
        yield value
