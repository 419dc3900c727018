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
    """Lines of a kind as they were before a mail client broke them."""
    return _UNWRAPPERS[kind](lines)


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


_KMEMLEAK_WHOLE = re.compile(r".*(?:\(age \d+\.\d+s\)|\(size \d+\):)\s*")
_KMEMLEAK_HEAD = re.compile(r'\s*(?:comm "|unreferenced )')
_KMEMLEAK_REST = re.compile(
    r"(?:\(?age )?\d*\.?\d*s?\)|jiffies \d+.*|\d+(?: \(age .*)?|pid \d+.*"
    r"|\(size \d+\):|\d+\):|object .*"
)
_KMEMLEAK_MODULE = re.compile(r"\s*\[\w[\w-]*\]\s*")
_FRAME_END = re.compile(r"\s*(?:\[<[0-9a-fx_().ptrval]+>\]\s*)?\S+\+0x[0-9a-f]+/0x[0-9a-f]+\s*")
_ADDRESS_ONLY = re.compile(r"\s*\[<[0-9a-fx_().ptrval]+>\]\s*")
_HEX = re.compile(r"\s*(?:[0-9a-f]{2}(?:\s+|$)){4,32}")


def _kmemleak(lines: Iterable[str]) -> Iterator[str]:
    """Heads of blocks, modules behind their frames, and the characters beside a hex dump."""
    held = ""
    for line in lines:
        text = line.strip()
        if (
            (_KMEMLEAK_HEAD.match(held) and not _KMEMLEAK_WHOLE.fullmatch(held))
            and _KMEMLEAK_REST.fullmatch(text)
        ) or (
            (_FRAME_END.fullmatch(held) and _KMEMLEAK_MODULE.fullmatch(line))
            or (_ADDRESS_ONLY.fullmatch(held) and "+0x" in line)
        ):
            held = f"{held.rstrip()} {text}"[:_MAX_JOINED]
            continue
        if (dump := _HEX.match(held)) and _is_shown(dump, text):
            continue
        if held:
            yield held
        held = line
    if held:
        yield held


def _is_shown(dump: re.Match[str], text: str) -> bool:
    """Whether `text` are the characters of the bytes before it: as many, and no bytes again."""
    return len(text) == len(dump[0].split()) and not _HEX.match(text)


_UNWRAPPERS = {"slabinfo": _slabinfo, "vmallocinfo": _vmallocinfo, "kmemleak": _kmemleak}
WRAPPED = frozenset(_UNWRAPPERS)
