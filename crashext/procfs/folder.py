"""A folder of /proc and /sys files: saved by sosreport or by a shell, or the running machine's.

It finds the files and hands out their lines, within limits. It does not know what they mean. A
folder may come from a stranger: only regular files inside it are opened, links that lead out of it
are not followed, and nothing is read without a bound.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from crashext.hosts.base import HostError
from crashext.procfs.dates import parse_date

_MIB = 1 << 20
_CHUNK = _MIB
MAX_LINE = 1 << 14  # the kernel's own files have lines of a few hundred bytes
_MAX_ENTRIES = 1 << 17  # of a folder: more processes than any machine has
_MAX_PROBLEMS = 64
_TRACES_BUDGET = 64 * _MIB  # of text, all alloc_traces together

_SYS = "sys/kernel/"


@dataclass(frozen=True)
class _Kind:
    """One sort of file: where sosreport, a shell and the kernel put it, and how much to read."""

    places: tuple[str, ...]
    limit: int


_KINDS = {
    "meminfo": _Kind(("meminfo", "proc/meminfo"), _MIB),
    "slabinfo": _Kind(("slabinfo", "proc/slabinfo"), 256 * _MIB),
    "vmallocinfo": _Kind(("vmallocinfo", "proc/vmallocinfo"), 256 * _MIB),
    "zoneinfo": _Kind(("zoneinfo", "proc/zoneinfo"), 64 * _MIB),
    "vmstat": _Kind(("vmstat", "proc/vmstat"), _MIB),
    "buddyinfo": _Kind(("buddyinfo", "proc/buddyinfo"), _MIB),
    "allocinfo": _Kind(("allocinfo", "proc/allocinfo"), 64 * _MIB),
    "kmemleak": _Kind(("kmemleak", _SYS + "debug/kmemleak"), 4096 * _MIB),
    "page_owner": _Kind(
        ("page_owner", _SYS + "debug/page_owner", "page_owner_full.txt", "proc/page_owner"),
        1 << 40,
    ),
    "page_owner_stacks": _Kind(
        ("page_owner_stacks", "show_stacks", _SYS + "debug/page_owner_stacks/show_stacks"),
        1024 * _MIB,
    ),
    "ps": _Kind(
        tuple(
            f"{folder}{name}"
            for folder in ("", "sos_commands/process/")
            for name in ("ps", "ps_auxwwwm", "ps_auxwww", "ps_aux", "ps_auxww", "ps_alxwww")
        ),
        64 * _MIB,
    ),
}
KINDS = tuple(_KINDS)

_DATES = ("date", "sos_commands/date/date", "sos_commands/host/date", "sos_commands/general/date")
_UPTIMES = ("uptime", "proc/uptime")
_STATUS = re.compile(r"(?:[\w.-]{1,64}[._-])?status(?:[._-][\w.-]{1,64})?", re.ASCII)


@dataclass(frozen=True)
class Problem:
    """A file, or so many of a kind, that could not be read or not wholly; one line each."""

    what: str
    count: int
    effect: str


@dataclass(frozen=True)
class Moment:
    """When a folder was saved, in seconds, by every clock that it has; None where it has not."""

    date: float | None
    """From the output of ``date``, or the running machine's clock."""
    uptime: float | None
    """Since the machine was started."""
    modified: float | None
    """Of the newest file: a copy may have changed it."""


class ProcFolder:
    """The files of one moment of one machine. Raises `HostError` when there are none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[Problem] = []
        try:
            self._root = path.resolve(strict=True)
            if not self._root.is_dir():
                raise HostError(f"{path} is not a directory: --procfs wants one with proc files")
            # For proc/ of a saved tree, or /proc, sys/ is beside it.
            self._bases = [self._root]
            if self._root.name == "proc":
                self._bases.append(self._root.parent)
            self.live = any(_is_proc(base) for base in (self._root, self._root / "proc"))
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, Python 3.11
            raise HostError(f"cannot open {path}: {_why(error)}") from error
        self._inside = [Path("/proc"), Path("/sys")] if self.live else self._bases[-1:]
        self._files = {
            kind: found
            for kind, where in _KINDS.items()
            if (found := self._find(kind, where.places)) is not None
        }
        self._slab_folders = self._find_slab_folders()
        if not (self._files or self._slab_folders or self._status_files()):
            if self.problems:
                first = self.problems[0]
                raise HostError(f"cannot read {first.what} in {path}: {first.effect}")
            names = ", ".join(KINDS[:4])
            raise HostError(f"{path} has none of the files this reads ({names}, kmemleak, ...)")

    @property
    def kinds(self) -> tuple[str, ...]:
        """What of `KINDS` is here."""
        return tuple(self._files)

    def places(self) -> dict[str, Path]:
        """Where each of `kinds` is."""
        return dict(self._files)

    def lines(
        self, kind: str, progress: Callable[[str, int, int], None] | None = None
    ) -> Iterator[str]:
        """Lines of a file without their ends; nothing where it is missing or cannot be read.

        Bytes beyond ASCII come as escapes. What was left out is in `problems` afterwards.
        """
        path = self._files.get(kind)
        if path is not None:
            yield from self._read(path, kind, _KINDS[kind].limit, progress)

    def status_files(self) -> Iterator[Iterator[str]]:
        """Lines of each process's status."""
        gone = denied = 0
        for path in self._status_files():
            try:
                yield iter(list(file_lines(path, 1 << 16, None, lambda what, effect: None)))
            except OSError as error:
                gone += error.errno in (errno.ENOENT, errno.ESRCH)
                denied += error.errno not in (errno.ENOENT, errno.ESRCH)
        if gone:
            self._problem("processes that ended meanwhile", "they are not counted", gone)
        if denied:
            self._problem("status files that cannot be read", "their processes are missing", denied)

    def alloc_traces(self) -> Iterator[tuple[str, Iterator[str]]]:
        """(cache, lines) of every alloc_traces or alloc_calls; merged caches by one of their names.

        Without slub_debug=U the kernel refuses each of them: that is no problem, only nothing.
        """
        refused: dict[str, int] = {}
        budget, left_out = _TRACES_BUDGET, 0
        for cache, path in self._slab_files():
            if budget <= 0:
                left_out += 1
                continue
            try:
                found = list(file_lines(path, 8 * _MIB, None, lambda what, effect: None))
            except OSError as error:
                if error.errno not in (errno.ENOSYS, errno.ENODEV, errno.ENOMEM, errno.ENOENT):
                    refused[_why(error)] = refused.get(_why(error), 0) + 1
                continue
            budget -= sum(map(len, found)) + len(found)
            yield cache, iter(found)
        if left_out:
            self._problem("alloc_traces files", "left out: there are too many", left_out)
        for why, count in refused.items():
            self._problem("alloc_traces files", f"not read: {why}", count)

    def reclaim_account(self) -> dict[str, bool]:
        """SLUB's own word which caches count as reclaimable, by every name; empty without sysfs."""
        found: dict[str, bool] = {}
        for folder in (base / place for base in self._bases for place in (_SYS + "slab", "slab")):
            if folder.is_symlink():
                continue
            for name in _names(folder):
                # A merged cache is a folder ":0000192", and its names are links to it.
                path = folder / name
                target = folder / os.path.basename(os.readlink(path)) if path.is_symlink() else path
                if not self._is_own_file(target / "reclaim_account"):
                    continue
                try:
                    text = next(
                        file_lines(target / "reclaim_account", 16, None, lambda what, effect: None),
                        "",
                    )
                except OSError:
                    continue
                if text.strip() in ("0", "1"):
                    found[name] = text.strip() == "1"
        return found

    def moment(self) -> Moment:
        """When the files were saved."""
        if self.live:
            return Moment(time.time(), self._uptime(), None)
        date = self._first_line("date", _DATES)
        modified = []
        for path in self._files.values():
            try:
                modified.append(path.stat().st_mtime)
            except OSError:
                continue
        return Moment(
            parse_date(date) if date is not None else None,
            self._uptime(),
            max(modified, default=None),
        )

    def _uptime(self) -> float | None:
        line = self._first_line("uptime", _UPTIMES)
        match = re.match(r"(\d{1,12}(?:\.\d+)?) \d", line or "", re.ASCII)
        return float(match[1]) if match else None

    def _first_line(self, kind: str, places: tuple[str, ...]) -> str | None:
        path = self._find(kind, places)
        return None if path is None else next(iter(self._read(path, kind, 4096, None)), None)

    def _find(self, kind: str, places: tuple[str, ...]) -> Path | None:
        """The first regular file at `places`, wherever its links lead inside the folder."""
        for base in self._bases:
            for place in places:
                if (path := self._usable(kind, base / place)) is not None:
                    return path
        return None

    def _usable(self, kind: str, path: Path) -> Path | None:
        try:
            real = path.resolve(strict=True)
            mode = real.stat().st_mode
        except (OSError, RuntimeError) as error:
            if getattr(error, "errno", None) not in (errno.ENOENT, errno.ENOTDIR):
                self._problem(kind, f"not read: {_why(error)}")
            return None
        if not any(real.is_relative_to(root) for root in self._inside):
            self._problem(kind, "not read: it is a link that leads out of the folder")
            return None
        return real if stat.S_ISREG(mode) else None

    def _status_files(self) -> list[Path]:
        found = []
        for base in (self._root, self._root / "proc"):
            pids = sorted((n for n in _names(base) if n.isascii() and n.isdigit()), key=int)
            paths = [base / n / "status" for n in pids]
            paths += [base / n for n in _names(base) if _STATUS.fullmatch(n)]
            found += [p for p in paths if self._is_own_file(p)]
            if self.live and found:
                break
        return found

    def _is_own_file(self, path: Path) -> bool:
        """Regular, and not a link; a process's folder may vanish at any time."""
        try:
            return stat.S_ISREG(path.lstat().st_mode) and not path.parent.is_symlink()
        except OSError:
            return False

    def _find_slab_folders(self) -> list[Path]:
        places = (_SYS + "debug/slab", _SYS + "slab", "slab")
        found = [base / place for base in self._bases for place in places]
        return [f for f in found if not f.is_symlink() and next(self._slab_entries(f), None)]

    def _slab_entries(self, folder: Path) -> Iterator[tuple[str, Path]]:
        for name in sorted(_names(folder)):
            for file in ("alloc_traces", "alloc_calls"):
                if self._is_own_file(folder / name / file):
                    yield name, folder / name / file
                    break

    def _slab_files(self) -> Iterator[tuple[str, Path]]:
        seen: set[str] = set()
        for folder in self._slab_folders:
            # A merged cache is a folder ":0000192", and its names are links to it.
            aliases: dict[str, list[str]] = {}
            for name in sorted(_names(folder)):
                if (folder / name).is_symlink():
                    target = os.path.basename(os.readlink(folder / name))
                    aliases.setdefault(target, []).append(name)
            for name, path in self._slab_entries(folder):
                names = sorted(aliases.get(name, [name]), key=lambda n: "kmalloc" not in n)
                if names[0] not in seen:
                    seen.add(names[0])
                    yield names[0], path

    def _read(
        self,
        path: Path,
        kind: str,
        limit: int,
        progress: Callable[[str, int, int], None] | None,
    ) -> Iterator[str]:
        def complain(what: str, effect: str) -> None:
            self._problem(what.format(kind), effect)

        def advance(done: int, total: int) -> None:
            if progress is not None:
                progress(f"reading {kind}", done, total)

        try:
            yield from file_lines(path, limit, advance, complain)
        except OSError as error:
            self._problem(kind, f"not read: {_why(error)}")

    def _problem(self, what: str, effect: str, count: int = 1) -> None:
        problem = Problem(what, count, effect)
        if problem not in self.problems and len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(problem)


def file_lines(
    path: Path,
    limit: int,
    advance: Callable[[int, int], None] | None,
    complain: Callable[[str, str], None],
) -> Iterator[str]:
    """Lines of a file; never more than `limit` bytes of it, nor lines beyond `MAX_LINE`."""
    # Not to wait for a pipe that took the file's place, nor to follow a link that did.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        rest, done, overlong, dropping = "", 0, 0, False
        while done < limit and (chunk := file.read(min(_CHUNK, limit - done))):
            done += len(chunk)
            if advance is not None:
                advance(done, max(done, status.st_size))
            text = rest + chunk.decode("ascii", "backslashreplace")
            *whole, rest = (text.replace("\r\n", "\n") if "\r" in text else text).split("\n")
            if dropping and whole:  # the end of a line that was too long
                whole, dropping = whole[1:], False
            fit = [line for line in whole if len(line) <= MAX_LINE]
            overlong += len(whole) - len(fit)
            yield from fit
            if dropping or len(rest) > MAX_LINE:
                overlong += not dropping
                rest, dropping = "", True
        if rest:
            yield rest.rstrip("\r")
        if overlong:
            complain("lines of {}" + f" beyond {MAX_LINE:,} bytes: {overlong:,}", "left out")
        if done >= limit and status.st_size > limit:
            complain("{}", f"only its first {limit >> 20:,} MiB were read")


def _names(folder: Path) -> list[str]:
    """Entries of a folder; none where it is missing or closed."""
    names: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                names.append(entry.name)
                if len(names) >= _MAX_ENTRIES:
                    break
    except OSError:
        pass
    return names


def _is_proc(folder: Path) -> bool:
    try:
        return os.path.samefile(folder, "/proc")
    except OSError:
        return False


def _why(error: BaseException) -> str:
    if isinstance(error, PermissionError):
        return "permission denied (try as root)"
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return "a loop of links"
    return (error.strerror if isinstance(error, OSError) else None) or "a loop of links"
