"""A page as one HTML file that needs nothing else: no network, no other file, and no script, though
it has a small one of ours that makes it better where scripts may run.

Every string of a dump is hostile. Nothing is escaped by hand: what a template prints goes through
report/safe.py (anything but printable ASCII becomes visible as an escape, so that no mark turns
text around), is cut to a length, and is then escaped by Jinja2, always. Should a hole be left, the
content security policy in the file allows one style sheet and one script, by their hashes, and
nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from crashext import __version__
from crashext.hosts.written import writing
from crashext.report.html.blocks import AMOUNTS, Amounts, Page
from crashext.report.safe import safe

MOST_BYTES = 2 << 20
"""Of a file: what any mail takes."""


def write_page(page: Callable[[Amounts], Page], path: Path) -> None:
    """Write the report; raises `HostError` where the file cannot be written."""
    text = render(page)
    with writing(path) as stream:
        stream.write(text.encode("ascii"))


def render(page: Callable[[Amounts], Page]) -> str:
    """The report as HTML, under 2 MiB: with fewer rows where it would be more."""
    *ample, last = AMOUNTS
    for amounts in ample:
        text = _rendered(page(amounts), amounts, MOST_BYTES)
        if len(text) < MOST_BYTES:
            return text
    return _rendered(page(last), last)


def _rendered(page: Page, amounts: Amounts, most: int = sys.maxsize) -> str:
    """Not to its end where it becomes longer than `most`."""
    style, script = _own("style.css"), _own("script.js")
    pieces = (
        _environment(amounts.text)
        .get_template("page.html")
        .generate(
            page=page,
            style=Markup(style),
            script=Markup(script),
            policy=f"default-src 'none'; style-src '{_hash(style)}'; "
            f"script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'",
            version=__version__,
        )
    )
    found, length = [], 0
    for piece in pieces:
        found.append(piece)
        length += len(piece)
        if length >= most:
            break
    return "".join(found)


@lru_cache
def _environment(most: int) -> Environment:
    def printed(value: Any) -> Any:
        """What stands for `value` in a template: markup is that of our own macros."""
        if not isinstance(value, str) or isinstance(value, Markup):
            return value
        text = safe(value[: most + 1])
        if len(text) <= most:
            return text
        return f"{text[:most]}... (cut, of {len(value):,} characters)"

    return Environment(
        loader=PackageLoader("crashext.report.html"),
        autoescape=True,
        finalize=printed,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@lru_cache
def _own(name: str) -> str:
    """A file of ours that stands in the page as it is."""
    return (files("crashext.report.html") / "templates" / name).read_text()


def _hash(text: str) -> str:
    """As a content security policy names what it allows."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
