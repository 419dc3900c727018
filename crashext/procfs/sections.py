"""Which kind of text a piece of text is, told by its lines alone; several pieces in one text.

A name says little: people save "out.txt" and paste six commands into one mail. Each kind has lines
that open it, and lines that it goes on with. What is of no kind is counted and shown, not dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from crashext.procfs.cleaning import MAX_LINE, clean, is_prompt, stamp
from crashext.procfs.kinds import JOINED, MEMBERS, OPENS, SHAPES
from crashext.procfs.names import of_command, one_number, promised
from crashext.procfs.wrapping import WRAPPED, unwrapped

MAX_SECTIONS = 4096
_MAX_SAMPLES = 5
_SAMPLE = 80
_OPEN = re.compile("|".join(f"(?P<{kind}>{shape})" for kind, shape in OPENS), re.ASCII)
_LOOKS = re.compile("|".join(f"(?P<{kind}>{shape})" for kind, shape in SHAPES), re.ASCII)
_PAIR = re.compile(r"[A-Za-z][\w()]{1,40}:\s{0,32}\d{1,20} kB", re.ASCII)
_SLAB_FOLDER = re.compile(r"/slab/([\w:.-]{1,64})/alloc_(?:traces|calls)")
_DATE = re.compile(
    r"(?:\w{3},? )?\s*(?:\w{3}\s+\d{1,2}|\d{1,2}\s+\w{3})\s.{0,8}\d\d:\d\d:\d\d.{0,16}"
    r"|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\S{0,20}",
    re.ASCII,
)


@dataclass
class Section:
    """One output of one kind."""

    kind: str
    lines: list[str] = field(default_factory=list)
    uptime: float | None = None
    """Seconds since boot, where a kernel log says it."""
    date: str = ""
    """The last line before it that looks like a date."""
    cache: str = ""
    """Whose alloc_traces they are, by the command that printed them."""


@dataclass
class Sections:
    """A text, cut into outputs."""

    found: list[Section]
    unknown: int
    """Lines of no kind that this knows."""
    samples: tuple[str, ...]
    """The first of them."""


def sections(lines: Iterable[str], hint: str = "") -> Sections:
    """Cut a text; `hint` is the kind that its name promises, which its lines may contradict."""
    reader = _Reader(hint)
    for line in lines:
        reader.line(line)
    return reader.result()


class _Reader:
    def __init__(self, hint: str) -> None:
        self._hint = hint
        self._found: list[Section] = [Section(hint)] if hint else []
        self._pending: list[str] = []
        self._unknown = 0
        self._samples: list[str] = []
        self._date = ""
        self._cache = ""
        self._shown = ""
        """The file that the command above shows, until its first line."""

    def line(self, raw: str) -> None:
        if len(raw) > MAX_LINE:
            self._drop([raw])
            return
        text = clean(raw)
        current = self._found[-1] if self._found else None
        if not text.strip():
            if current is not None and current.kind.startswith("page_owner"):
                current.lines.append("")
            return
        if text.count(" kB") > 1 and len(pairs := _PAIR.findall(text)) > 1:
            for pair in pairs:  # lines that a form or a mail client put into one
                self._of_kind("meminfo_line", pair.startswith("MemTotal:"), raw, pair)
            return
        kind, opens = _kind(text)
        if kind:
            self._of_kind(kind, opens, raw, text)
        elif current is not None and (goes_on := MEMBERS.get(current.kind)) and goes_on.match(text):
            self._flush(current)
            current.lines.append(text)
        elif _DATE.fullmatch(text.strip()):
            self._date = text.strip()
        elif not is_prompt(text):
            if not self._of_command(raw, text):
                self._pending.append(text)
        elif folder := _SLAB_FOLDER.search(text):
            self._cache = folder[1]
        else:
            self._shown = of_command(text)

    def _of_command(self, raw: str, text: str) -> bool:
        """A line that only the command above explains: ``cat /sys/block/zram0/mm_stat``."""
        shown, self._shown = self._shown, ""
        kind = promised(shown) if shown else ""
        if kind in _BY_COMMAND and MEMBERS[kind].match(text):
            self._of_kind(kind, True, raw, text)
            return True
        if shown and one_number(shown) and text.strip().isdigit():
            self.line(f"{shown}:{text.strip()}")
            return True
        return False

    def _of_kind(self, kind: str, opens: bool, raw: str, text: str) -> None:
        current = self._found[-1] if self._found else None
        kind = JOINED.get(kind, kind)
        if current is None or not _same(current, kind, opens, text):
            if current is not None and current.kind == kind == self._hint and not current.lines:
                pass  # the hint was right
            elif len(self._found) >= MAX_SECTIONS:
                self._pending.append(text)
                return
            else:
                if kind != "page_owner_stacks":  # its frames come before what says so
                    self._drop(self._pending)
                    self._pending = []
                current = Section(kind, uptime=stamp(raw), date=self._date, cache=self._cache)
                self._found.append(current)
        assert current is not None
        self._flush(current)
        current.uptime = current.uptime if current.uptime is not None else stamp(raw)
        current.date = current.date or self._date
        current.lines.append(text)

    def _flush(self, current: Section) -> None:
        """Lines of no kind between lines of one kind are damage, which its parser counts."""
        if not self._pending:
            return
        if current.kind in _NOISY:
            self._drop(self._pending)
        else:
            current.lines.extend(self._pending)
        self._pending = []

    def _drop(self, lines: list[str]) -> None:
        self._unknown += len(lines)
        room = _MAX_SAMPLES - len(self._samples)
        self._samples += [line.strip()[:_SAMPLE] for line in lines[: max(0, room)]]

    def result(self) -> Sections:
        if self._hint and len(self._found) == 1:
            self._found[0].lines.extend(self._pending)  # what the name promises, but damaged
        else:
            self._drop(self._pending)
        found = [s for s in self._found if s.lines]
        for section in found:
            if section.kind in WRAPPED:
                section.lines = list(unwrapped(section.kind, section.lines))
        return Sections(found, self._unknown, tuple(self._samples))


_BY_COMMAND = frozenset(("zram", "toolbox"))
_NOISY = frozenset(("oom", "lsmod", "ps", "top", "kmem_s", "slabtop", "slub_trace", "bpftrace"))
"""Kinds whose lines come with others between them: logs, tables of a terminal."""


def _kind(text: str) -> tuple[str, bool]:
    if match := _OPEN.match(text):
        return match.lastgroup or "", True
    match = _LOOKS.match(text)
    return (match.lastgroup or "" if match else ""), False


def _same(current: Section, kind: str, opens: bool, text: str) -> bool:
    """Whether a line of `kind` goes on with the section that is being read."""
    if current.kind == "oom" and kind == "allocinfo":
        return True  # the report has a table of them (6.10+)
    if current.kind != kind:
        member = MEMBERS.get(current.kind)
        return not opens and member is not None and member.match(text) is not None
    if not opens:
        return True
    if kind == "slabinfo":  # its two headings belong together
        return len(current.lines) < 6 and not any("tunables" in x for x in current.lines[1:])
    if kind == "oom":
        return not any(_OOM_PARTS[part] in x for part in _parts(text) for x in current.lines)
    if kind == "slabtop":
        return not any(x.split()[:2] == text.split()[:2] for x in current.lines)
    if kind == "meminfo" and current.kind == "meminfo":
        return not any("MemTotal:" in x for x in current.lines)
    if kind in ("kmem_s", "lsmod", "ps"):
        return not any(text.split() == x.split() for x in current.lines[:1])
    if kind == "vmmemctl":
        return not any(x.split()[:1] == text.split()[:1] for x in current.lines[:3])
    return kind not in ("kmem_i", "vmstat", "free", "memory_stat")


_OOM_PARTS = ("invoked oom-killer", "em-Info:", "em-info:", "active_anon:")
"""Each comes once in a report: the second one opens another."""


def _parts(text: str) -> list[int]:
    whole = "Node" not in text
    return [i for i, part in enumerate(_OOM_PARTS) if part in text and (whole or i < 3)]
