"""What a file's name says: a kind, which its content may contradict, and an order by date."""

from __future__ import annotations

import re

_LABEL = re.compile(r"(?<!\d)(?:\d{4}-?\d\d-?\d\d(?:[T_.-]?\d\d[:.-]?\d\d(?:[:.-]?\d\d)?)?)(?!\d)")
_ORDER = re.compile(r"(?<=[._-])(\d{1,6})(?=$|\.(?:txt|log|out)$)", re.ASCII)
_HINTS = (
    (re.compile(pattern, re.ASCII), kind)
    for pattern, kind in (
        (r"(?:^|/)meminfo$", "meminfo"),
        (r"(?:^|/)slabinfo$", "slabinfo"),
        (r"(?:^|/)vmallocinfo$", "vmallocinfo"),
        (r"(?:^|/)zoneinfo$", "zoneinfo"),
        (r"(?:^|/)vmstat$", "vmstat"),
        (r"(?:^|/)buddyinfo$", "buddyinfo"),
        (r"(?:^|/)allocinfo$", "allocinfo"),
        (r"(?:^|/)kmemleak$", "kmemleak"),
        (r"(?:^|/)page_owner(?:_full\.txt)?$", "page_owner"),
        (r"(?:^|/)(?:page_owner_stacks|show_stacks)$", "page_owner_stacks"),
        (r"(?:^|/)proc/modules$", "lsmod"),
        (r"stat_balloon$", "toolbox"),
        (r"(?:^|/)mm_stat$", "zram"),
        (r"(?:^|/)alloc_(?:traces|calls)$", "alloc_traces"),
        (r"(?:^|/)uptime$", "uptime"),
        (r"(?:^|/)date$", "date"),
    )
)
_BY_NAME = tuple(_HINTS)
_ONE_NUMBER = re.compile(r"(?:xen_memory0/(?:info/)?|(?:debug/)?zswap/)\w{1,64}$", re.ASCII)
_COMMAND = re.compile(r"\b(?:cat|sudo|head|tail|more)\b.{0,200}?\s(/\S{1,200})\s*$", re.ASCII)


def promised(name: str) -> str:
    """The kind that a path promises; "" where it promises none."""
    return next((kind for shape, kind in _BY_NAME if shape.search(name)), "")


def label(name: str) -> str:
    """What of a path puts files of one kind in order: a date, or a number at its end."""
    if date := _LABEL.search(name):
        return date[0]
    number = _ORDER.search(name)
    return number[1].zfill(6) if number else ""


def one_number(name: str) -> bool:
    """Whether a file has one number, which its name alone explains."""
    return _ONE_NUMBER.search(name) is not None


def of_command(line: str) -> str:
    """The file that a command shows which somebody typed; "" where it is none such."""
    if "vmware-toolbox-cmd stat balloon" in line:
        return "stat_balloon"
    match = _COMMAND.search(line[:512])
    return match[1] if match else ""
