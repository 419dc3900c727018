"""Lines that a mail client broke, put together again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_WHOLE = re.compile(r"\S.*\s:\s?tunables(?:\s+\d+){3}\s?:\s?slabdata(?:\s+\d+){3}(?:\s?:.*)?\s*")
_GOES_ON = re.compile(
    r"\s*(?:\d[\d\s]*(?:$|:)|:(?:\s|$)|(?:tunables|slabdata|globalstat|cpustat)\b|<)"
)
_STATISTICS = re.compile(r"[\d\s]*:?\s*(?:(?:globalstat|cpustat)[\d\s:a-z]*)?")
_AREA = re.compile(r"\s*(?:0x)?[0-9a-fA-F(_p]")
_REST = re.compile(
    r"\s*(?:\S+\+0x\S+(?:\s|$)|(?:\[\w+\]\s*)?(?:pages=|phys=|vmalloc|ioremap|vmap|vpages|user|N\d+=\d))"
)
_MAX_JOINED = 4096


def unwrapped(kind: str, lines: Iterable[str]) -> Iterator[str]:
    """Lines of slabinfo or vmallocinfo as they were before a mail client broke them."""
    return _slabinfo(lines) if kind == "slabinfo" else _vmallocinfo(lines)


def _slabinfo(lines: Iterable[str]) -> Iterator[str]:
    held = ""
    for line in lines:
        broken = bool(held) and not _WHOLE.fullmatch(held) and len(held) < _MAX_JOINED
        if broken and _GOES_ON.match(line):
            held = f"{held} {line.strip()}"
            continue
        if held and _GOES_ON.match(line) and _STATISTICS.fullmatch(line):
            continue  # the end of statistics, which nobody reads
        if held:
            yield held
        held = line.strip()
    if held:
        yield held


def _vmallocinfo(lines: Iterable[str]) -> Iterator[str]:
    held = ""
    for line in lines:
        if (
            held
            and not re.match(r"\s*(?:0x|\(_*ptrval|[0-9a-f]{8,16}-)", line)
            and _REST.match(line)
        ):
            held = f"{held} {line.strip()}"[:_MAX_JOINED]
            continue
        if held:
            yield held
        held = line
    if held:
        yield held
