"""What an answer leaves out, in a sentence: how many of what, and what that means."""

from __future__ import annotations

import re

from crashext.report.safe import safe
from crashext.skipped import Skipped

_COUNTED = re.compile(
    r"(?P<of>\S+: )?(?P<kind>(?:[\w-]+ ){0,2}?)"
    r"(?P<noun>archives|bytes|devices|events|files|freelists|frames|lines|links|members|names|objects|pages|places|slabs|slots"
    r"|stacks)\b(?P<rest>.*)",
    re.DOTALL,
)
"""``kmalloc-32: slabs with a broken freelist``; what else there is cannot be counted."""


def skipped_text(item: Skipped) -> str:
    """``skipped: kmalloc-32: 1 slab with a broken freelist; ...``"""
    found = _COUNTED.fullmatch(item.what)
    if found is not None:
        noun, kind, rest = found["noun"], found["kind"], found["rest"]
        noun = noun[:-1] if item.count == 1 else noun
        what = f"{found['of'] or ''}{item.count:,} {kind}{noun}{rest}"
    else:
        what = item.what if item.count == 1 else f"{item.count:,} {item.what}"
    return f"skipped: {safe(what)}; {safe(item.effect)}"
