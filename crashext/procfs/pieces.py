"""Texts that somebody saved: a file, a folder of any layout, an archive, standard input.

Of small folders everything is read; of large ones (a sosreport has 20,000 files) what by its name
may speak of memory, and how much was left is said. Only regular files are opened.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from crashext.hosts.base import HostError
from crashext.procfs.archive import REFUSED, compression, is_tar, members
from crashext.procfs.cleaning import decoded

STDIN = Path("-")
_MIB = 1 << 20
LIMIT = 64 * _MIB
_ALL_LIMIT = 512 * _MIB
_SMALL_FOLDER = 300
_MOST_FILES = 1 << 17
_MOST_READ = 4096
_DEEPEST = 12
_LARGE = _MIB
# What a file's path has in it that may say something of memory.
_INTERESTING = re.compile(
    r"meminfo|slab|vmstat|zoneinfo|buddyinfo|vmalloc|kmemleak|page_?owner|alloc(?:info|_traces|_calls)"
    r"|dmesg|messages|syslog|kern\.log|journal|console|(?:^|/)free|(?:^|[/_.-])(?:ps|top)(?:[_.-]|$)"
    r"|lsmod|modules\.txt|proc/modules|balloon|vmmemctl|toolbox|arcstats|mm_stat|zswap|zram|xen_memory|xen/balloon|dma_?buf"
    r"|memory\.(?:stat|txt)|cgroup\.stat|proc/cgroups|sockstat|kmem[-_.]|(?:^|/)kmem|oom|sysrq"
    r"|basic-health|(?:^|/)(?:proc|sysinfo|memory|hardware)\.txt|(?:^|/)(?:date|uptime)$|crash"
    r"|bufinfo|nr_hugepages",
    re.IGNORECASE | re.ASCII,
)
_NOT = re.compile(
    r"(?:^|/)(?:etc|usr|lib|lib64|opt|home|root|sos_reports|sos_logs|sos_strings)/"
    r"|(?:^|/)sys/(?!kernel/(?:debug|mm)/|block/zram|devices/system/xen_memory/|fs/cgroup/(?:memory/)?\w+\.stat$)"
    r"|(?:^|/)proc/(?:\d+|sys|irq|fs|scsi)/|(?:^|/)proc/net/(?!sockstat)"
    r"|(?:^|/)boot/|\.(?:rpm|deb|ko|so|png|html?|py|pyc|sh|conf|repo|pem)$",
    re.ASCII,
)
_BY_PLACE = re.compile(r"(?:^|/)(?:proc/)?\d+/status$|(?:^|/)sys/kernel/(?:debug/)?slab/", re.ASCII)
"""Files of which there are thousands, which are found by their places (folder.py)."""
_CONTROLS = bytes(n for n in range(32) if n not in b"\t\n\v\f\r\x1b")
_DUMPS = (
    (b"CRASHEXT-SESSION", "it is a recorded session: give it with -r"),
    (b"\x7fELF", "it is a dump or a program: give a dump with -c, its vmlinux with -s"),
    (b"KDUMP", "it is a dump: give it with -c"),
)
_LOG = re.compile(r"(?:^|/)(?:messages|syslog|kern\.log|journal|dmesg)", re.ASCII)
_LOG_MARKS = (b"em-info:", b"em-Info:", b"oom-killer", b"unreferenced object")
_MARKS = (
    b"em-info:",
    b"em-Info:",
    b"oom-killer",
    b"unreferenced object",
    b"MemTotal:",
    b"slabinfo - version",
    b"<active_objs>",
    b"nr_free_pages",
    b"allocated via order",
    b"Active / Total Objects",
    b"OBJSIZE",
    b"func:",
    b" age=",
    b"vmalloc",
    b"PERCENTAGE",
)
"""A large file that has none of these speaks of something else."""


@dataclass(frozen=True)
class Piece:
    """One text."""

    name: str
    """Its path below what was asked for."""
    text: str
    modified: float | None


class Pieces:
    """The texts at a path, and what was not read of it."""

    def __init__(self, path: Path, without: frozenset[Path] = frozenset()) -> None:
        self.path = path
        self._without = without
        """Files that somebody else reads."""
        self.problems: list[tuple[str, str, int]] = []
        self.passed = 0
        """Files whose names, or content, say nothing of memory."""

    def __iter__(self) -> Iterator[Piece]:
        if self.path == STDIN:
            yield Piece("standard input", self._text(sys.stdin.buffer.read(LIMIT + 1)), None)
        elif self.path.is_dir():
            yield from self._of_folder()
        else:
            yield from self._of_file(self.path, self.path.name)

    def complain(self, what: str, effect: str, count: int = 1) -> None:
        if len(self.problems) < 64:
            self.problems.append((what, effect, count))

    def _of_folder(self) -> Iterator[Piece]:
        root = self.path.resolve()
        files = list(self._walk(root))
        few = len(files) <= _SMALL_FOLDER
        read = total = 0
        for path in files:
            name = str(path.relative_to(root))
            if path in self._without:
                continue
            if _BY_PLACE.search(name):
                continue
            if not few and (not interesting(name) or _NOT.search(name)):
                self.passed += 1
                continue
            if read >= _MOST_READ or total >= _ALL_LIMIT:
                self.complain("files", "not read: there are too many, or they are too large")
                return
            for piece in self._of_file(path, name):
                read += 1
                total += len(piece.text)
                yield piece

    def _walk(self, root: Path) -> Iterator[Path]:
        found = 0
        for folder, names, files in os.walk(root, followlinks=False):
            names.sort()
            if len(Path(folder).relative_to(root).parts) >= _DEEPEST:
                names.clear()
            for name in sorted(files):
                path = Path(folder, name)
                try:
                    if not stat.S_ISREG(path.lstat().st_mode):
                        continue
                except OSError:
                    continue
                found += 1
                if found > _MOST_FILES:
                    self.complain("files", f"not looked at: more than {_MOST_FILES:,}")
                    return
                yield path

    def _of_file(self, path: Path, name: str) -> Iterator[Piece]:
        try:
            # Not to wait for a pipe that took the file's place, nor to follow a link that did.
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            flags |= 0 if path == self.path else os.O_NOFOLLOW
            with open(os.open(path, flags), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise OSError(errno.EINVAL, "not a regular file")
                head = file.read(1024)
                archive = bool(compression(head)) or is_tar(head)
                data = b"" if archive else head + file.read(LIMIT)
        except OSError as error:
            if path == self.path:
                raise HostError(f"cannot open {path}: {error.strerror}") from error
            self.complain(name, f"not read: {error.strerror}")
            return
        if archive and (path == self.path or not is_tar(head)):
            yield from self._of_archive(path)
        elif head.startswith(b"CRASHEXT-SESSION"):
            self._refuse(path, name, "it is a session", head)
        elif head.startswith(REFUSED):
            self._refuse(path, name, "zip, 7z, rar, zstd and lz4 are not read: unpack it first")
        elif archive:
            self._refuse(path, name, "an archive in a folder is not read: name it")
        elif not _is_text(head):
            self._refuse(path, name, "it is no text", head)
        elif (piece := self._piece(name, data, status.st_mtime)) is not None:
            yield piece

    def _refuse(self, path: Path, name: str, why: str, head: bytes = b"") -> None:
        if path == self.path:
            other = next((how for magic, how in _DUMPS if head.startswith(magic)), "")
            why = other or why
            raise HostError(f"cannot use {path}: {why}")
        self.complain(name, f"not read: {why}")

    def _of_archive(self, path: Path) -> Iterator[Piece]:
        def wanted(name: str) -> bool:
            inside = name.partition("/")[2] or name
            yes = interesting(inside) and not _NOT.search(inside)
            self.passed += not yes
            return yes

        total = read = 0
        for name, data, modified in members(path, wanted, LIMIT, self.complain):
            total, read = total + len(data), read + 1
            if read > _MOST_READ or total > _ALL_LIMIT:
                self.complain("members", "not read: there are too many, or they are too large")
                return
            if not _is_text(data[:1024]):
                self.complain(name, "not read: it is no text")
            elif (piece := self._piece(name, data, modified)) is not None:
                yield piece

    def _piece(self, name: str, data: bytes, modified: float | None) -> Piece | None:
        marks = _LOG_MARKS if _LOG.search(name) else _MARKS
        if len(data) > _LARGE and not any(mark in data for mark in marks):
            self.passed += 1
            return None
        return Piece(name, self._text(data, name), modified)

    def _text(self, data: bytes, name: str = "standard input") -> str:
        if len(data) > LIMIT:
            self.complain(name, f"only its first {LIMIT >> 20} MiB were read")
            data = data[:LIMIT]
        return decoded(data)


def interesting(name: str) -> bool:
    """Whether a file's path lets hope for numbers of memory."""
    return _INTERESTING.search(name) is not None


def _is_text(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    return len(head.translate(None, _CONTROLS)) * 20 >= len(head) * 19


Complain = Callable[[str, str, int], None]
