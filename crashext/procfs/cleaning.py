"""What mails, tickets, logs and terminals put around the text of a machine, taken off again.

Quoting marks, log and journal prefixes, prompts, line numbers, HTML entities, colours, CR LF. It
does not know what the lines mean.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

MAX_LINE = 1 << 14
_COLOUR = re.compile(r"\x1b\[[0-9;?]{0,16}[A-Za-z]")
_TAG = re.compile(
    r"</?(?:pre|br|p|div|span|code|tt|li|td|tr|table|blockquote|body|html)(?:\s[^<>]{0,200})?/?>",
    re.IGNORECASE,
)
_LONG = 512
_GAP = re.compile(r"\s{65,}")
_QUOTE = re.compile(r"(?:\s{0,2}[>|]\s?(?=[\s>|]|[^\s>|]))+")
_ODD = re.compile("[&\x1b\u00a0\r\u200b\ufeff]|\\\\xc2\\\\xa0")
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_STAMP = r"\[\s{0,12}\d{1,12}\.\d{1,9}"
_PREFIX = re.compile(
    rf"""(?:<\d{{1,3}}>)?\s*
    (?:\d{{1,3}},\d{{1,12}},\d{{1,18}},[^;]{{1,64}};)?                # /dev/kmsg
    (?:\d\d-\d\d\s\d\d:\d\d:\d\d\.\d{{3}}\s+\d+\s+\d+\s[VDIWEF]\s.{{0,32}}?:\s  # logcat
      |(?:{_MONTH}\s+\d{{1,2}}\s+\d\d:\d\d:\d\d(?:\.\d+)?          # syslog, journalctl
        |(?:\w{{3}}\s)?\d{{4}}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[\d.,:+Z-]{{0,20}}  # ... -o short-iso
         (?:\s[A-Z]{{2,5}})?)                                         # ... -o short-full
       (?:\s+(?:\S{{1,128}}\s+)?kernel(?:\[\d+\])?:\s?|\s+(?:\S{{1,128}}\s+)?(?={_STAMP})))?
    (?:kern\s{{0,3}}:\w{{1,8}}\s{{0,3}}:\s?)?                          # dmesg -x
    (?:\[\s{{0,12}}(\d{{1,12}}\.\d{{1,9}})(?:,\d{{1,4}})?\](?:\s?\[\s{{0,8}}[TC]\d{{1,9}}\])?\s?
      (?:\S{{1,128}}\s+kernel:\s?)?                                 # journalctl -o short-monotonic
      |\[\w{{3}}\s{_MONTH}\s+\d{{1,2}}\s\d\d:\d\d:\d\d\s\d{{4}}\]\s?      # dmesg -T
      |\[\s*[+]\s{{0,8}}\d{{1,9}}\.\d{{1,9}}\]\s?)?""",
    re.ASCII | re.VERBOSE,
)
_STARTS_LOG = re.compile(
    rf"\s*(?:<\d|\[|(?:\w{{3}}\s)?\d{{4}}-|\d\d-\d\d\s|\d{{1,3}},\d|{_MONTH}\s|kern\s)", re.ASCII
)
_NUMBER = re.compile(r"\s{0,8}(\d{1,7})(?:[\t:.|)]\s?|\s{1,2})", re.ASCII)
# Where a number has no name but its file's, that stays.
_GREP = re.compile(
    r"/(?:proc|sys)/(?!\S{0,200}(?:xen_memory|zswap/|mm_stat))[\w./-]{1,200}:(?=\S)", re.ASCII
)
_OF_KMEMLEAK = re.compile(r"kmemleak: (?=\s|unreferenced )", re.ASCII)
_PROMPT = re.compile(
    r"""\s*(?:crash>\s?|drgn>>>|\(gdb\)|[$#%]\s(?=/?\w)|\#=+\[|==+>|\[?[\w.-]{1,64}@[^\s]{1,128}[^#$]{0,128}?[#$]\s
    |```|~~~|-{5,}|={5,})""",
    re.ASCII | re.VERBOSE,
)


def decoded(data: bytes) -> str:
    """Text of a file of any usual encoding; bytes that are none come as escapes."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    return data.decode("utf-8", "backslashreplace")


def clean(line: str) -> str:
    """The line as the machine printed it."""
    if len(line) > _LONG:
        line = _GAP.sub(" " * 64, line)  # no column is so wide, and expressions try each blank
    if _ODD.search(line):
        line = _COLOUR.sub("", html.unescape(line) if "&" in line else line)
        line = line.replace("\\xc2\\xa0", " ").replace("\u00a0", " ")
        line = line.replace("\u200b", "").replace("\ufeff", "").rstrip("\r")
    if "<" in line:
        line = _TAG.sub("", line)
    if line[:4].lstrip()[:1] in (">", "|") and (quote := _QUOTE.match(line)):
        line = line[quote.end() :]
    if _STARTS_LOG.match(line) and (prefix := _PREFIX.match(line)):
        line = line[prefix.end() :]
    if line.startswith("kmemleak: ") and (own := _OF_KMEMLEAK.match(line)):
        line = line[own.end() :]
    if line.startswith(("/proc/", "/sys/")) and (name := _GREP.match(line)):
        line = line[name.end() :]
    return line


def stamp(line: str) -> float | None:
    """Seconds since boot that a kernel log's line begins with."""
    prefix = _PREFIX.match(line)
    return float(prefix[1]) if prefix and prefix[1] else None


def is_prompt(line: str) -> bool:
    """Whether it is what somebody typed, or a ruler between two outputs."""
    return _PROMPT.match(line) is not None


def without_numbers(lines: Sequence[str]) -> Iterable[str]:
    """The lines without their numbers (cat -n, nl, grep -n), where they are numbered."""
    filled = [line for line in lines[:256] if line.strip()]
    found = [_NUMBER.match(line) for line in filled]
    numbers = [int(m[1]) for m in found if m is not None]
    if len(numbers) < max(3, len(filled)) or any(b != a + 1 for a, b in pairwise(numbers)):
        return lines
    return _unnumbered(lines)


def _unnumbered(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        number = _NUMBER.match(line)
        yield line[number.end() :] if number else line
