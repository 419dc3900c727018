"""What somebody saved of a machine, by kind and by moment, whatever its form and its names.

It hands out lines as `ProcFolder` does. Where one kind comes several times (a log with three OOM
reports, files with dates in their names), each is a moment of its own, in time order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from crashext.hosts.base import HostError
from crashext.procfs.cleaning import clean, decoded, without_numbers
from crashext.procfs.dates import parse_date
from crashext.procfs.folder import Moment, Problem, ProcFolder, file_lines
from crashext.procfs.names import label, one_number, promised
from crashext.procfs.order import OOM_REPORTS, SNAPSHOTS, Cut, in_order
from crashext.procfs.pieces import STDIN, Piece, Pieces
from crashext.procfs.sections import Section, sections

Progress = Callable[[str, int, int], None]

_STREAMED_FROM = 32 << 20
"""Bytes of a file at a known place, or of one that is named, from where on it is read as a stream
of one kind, not searched for several."""
_HEAD = 1 << 16
_LARGEST = 1 << 40
_LIVE = (
    "/proc/spl/kstat/zfs/arcstats",
    "/proc/modules",
    "/proc/cgroups",
    "/sys/fs/cgroup/cgroup.stat",
    "/sys/kernel/debug/vmmemctl",
    "/sys/kernel/debug/hv-balloon",
    "/sys/kernel/debug/zswap/pool_total_size",
    "/sys/devices/system/xen_memory/xen_memory0/info/low_kb",
    "/sys/devices/system/xen_memory/xen_memory0/info/high_kb",
)
_MACHINE = frozenset(("meminfo", "kmem_i", "free"))
_LIVE_LIMIT = 1 << 20


@dataclass(frozen=True)
class Recognised:
    """One output that was found."""

    kind: str
    name: str
    """Of the file it is in."""
    lines: int


class NothingRecognised(HostError):
    """A path with no text that this reads."""

    def __init__(self, message: str, what: str) -> None:
        super().__init__(message)
        self.what = what
        """The path."""


class Saved:
    """One moment of one machine."""

    live = False

    def __init__(
        self,
        path: Path,
        found: Mapping[str, list[Section]],
        modified: float | None,
        folder: ProcFolder | None,
    ) -> None:
        self.path = path
        self._found = found
        self._modified = modified
        self._folder = folder
        self.problems: list[Problem] = [] if folder is None else folder.problems
        self.recognised: tuple[Recognised, ...] = ()
        known = folder.kinds if folder is not None else ()
        self.live = folder is not None and folder.live
        self.kinds: tuple[str, ...] = tuple(dict.fromkeys((*known, *found)))

    @property
    def texts(self) -> Mapping[str, list[Section]] | None:
        """By kind; None where they are not all kept: of a folder, or of a large file."""
        return self._found if self._folder is None else None

    def lines(self, kind: str, progress: Progress | None = None) -> Iterator[str]:
        if kind in self._found:
            for section in self._found[kind]:
                yield from section.lines
                if kind.startswith("page_owner"):
                    yield ""
        elif self._folder is not None:
            yield from self._folder.lines(kind, progress)

    def status_files(self) -> Iterator[Iterator[str]]:
        if self._folder is not None:
            yield from self._folder.status_files()
        for section in self._found.get("status", []):
            yield iter(section.lines)

    def alloc_traces(self) -> Iterator[tuple[str, Iterator[str]]]:
        if self._folder is not None:
            yield from self._folder.alloc_traces()
        for section in self._found.get("alloc_traces", []):
            yield section.cache or "a cache that is not named", iter(section.lines)

    def reclaim_account(self) -> dict[str, bool]:
        return {} if self._folder is None else self._folder.reclaim_account()

    def each(self, kind: str) -> Iterator[list[str]]:
        """Every output of a kind that a machine may have several of."""
        for section in self._found.get(kind, []):
            yield section.lines

    def moment(self) -> Moment:
        own = Moment(None, None, None) if self._folder is None else self._folder.moment()
        every = [s for some in self._found.values() for s in some]
        dates = [d for s in every if s.date and (d := parse_date(s.date)) is not None]
        dates += [
            d
            for s in self._found.get("date", [])
            for line in s.lines[:1]
            if (d := parse_date(line)) is not None
        ]
        uptimes = [s.uptime for s in every if s.uptime is not None]
        return Moment(
            own.date or max(dates, default=None),
            own.uptime or max(uptimes, default=None),
            own.modified or self._modified,
        )


def saved(path: Path, progress: Progress | None = None) -> list[Saved]:
    """The moments at `path`, in time order. Raises `NothingRecognised` where there is none."""
    folder = _folder(path)
    if folder is not None and folder.live:
        return [Saved(path, _of_running_machine(), None, folder)]
    large = _large(path)
    if large is not None:
        return [large]
    streamed = frozenset(
        place
        for place in (folder.places() if folder is not None else {}).values()
        if place.stat().st_size > _STREAMED_FROM
    )
    pieces = Pieces(path if folder is None else folder.path, streamed)
    unknown, samples = 0, []
    cuts = []
    read: list[str] = []
    unread: list[str] = []
    for done, piece in enumerate(pieces, 1):
        if progress is not None:
            progress("recognising texts", done, done)
        cut, lost, some = _cut(piece)
        if cut.moments:
            cuts.append(cut)
            read.append(piece.name)
            unknown += lost
            samples += some
        else:
            unread.append(piece.name)
    moments, doubles = in_order(cuts)
    if not moments and folder is None:
        raise NothingRecognised(_nothing(path, pieces, unread), str(path))
    if not moments:
        moments = [({}, None)]
    found = [Saved(path, m, when, None) for m, when in moments[:-1]]
    last, when = moments[-1]
    found.append(Saved(path, last, when, folder))
    final = found[-1]
    final.recognised = tuple(
        Recognised(kind, cut.piece, sum(len(s.lines) for s in some))
        for cut in cuts
        for moment in cut.moments
        for kind, some in moment.items()
    )
    _complaints(final, pieces, unread, doubles, unknown, samples)
    return found


class _Large(Saved):
    """One file of one kind that is too large to keep."""

    def __init__(self, path: Path, kind: str) -> None:
        super().__init__(path, {}, path.stat().st_mtime, None)
        self.kinds = (kind,)
        self.recognised = (Recognised(kind, path.name, 0),)

    @property
    def texts(self) -> None:
        return None

    def lines(self, kind: str, progress: Progress | None = None) -> Iterator[str]:
        if kind not in self.kinds:
            return

        def say(what: str, effect: str) -> None:
            self.problems.append(Problem(what.format(kind), 1, effect))

        def advance(done: int, total: int) -> None:
            if progress is not None:
                progress(f"reading {kind}", done, total)

        for line in file_lines(self.path, _LARGEST, advance, say):
            yield clean(line)


def _large(path: Path) -> _Large | None:
    """A large file that begins as a text of one kind; a log is searched instead."""
    try:
        if path == STDIN or not path.is_file() or path.stat().st_size <= _STREAMED_FROM:
            return None
        with path.open("rb") as file:
            head = decoded(file.read(_HEAD))
    except OSError:
        return None
    found = {s.kind for s in sections(head.splitlines()[:-1]).found}
    kind = next(iter(found), "") if len(found) == 1 else ""
    return _Large(path, kind) if kind and kind != "oom" else None


def _of_running_machine() -> dict[str, list[Section]]:
    """Who says of himself how much he has, where the running kernel shows it."""
    found: dict[str, list[Section]] = {}
    places = [Path(place) for place in _LIVE]
    places += sorted(Path("/sys/block").glob("zram*/mm_stat"))[:64]
    for place in places:
        try:
            with place.open("rb") as file:
                text = decoded(file.read(_LIVE_LIMIT))
        except OSError:
            continue  # this machine has none, or shows it to root only
        cut, _, _ = _cut(Piece(str(place), text, None))
        for kind, some in (cut.moments[-1] if cut.moments else {}).items():
            found.setdefault(kind, []).extend(some)
    return found


def _complaints(
    final: Saved,
    pieces: Pieces,
    unread: list[str],
    doubles: list[str],
    unknown: int,
    samples: list[str],
) -> None:
    def say(what: str, count: int, effect: str) -> None:
        final.problems.append(Problem(what, count, effect))

    for what, effect, count in pieces.problems:
        say(what, count, effect)
    if unread:
        shown = ", ".join(unread[:5]) + (", ..." if len(unread) > 5 else "")
        say("files", len(unread), f"not recognised: {shown}")
    for double in doubles[:8]:
        why = "not used: another text of the same kind is, and nothing puts them in order"
        if double.startswith(OOM_REPORTS):
            why = (
                "not used: the counters beside it are newer; give the log alone to see what it says"
            )
        say(double, 1, why)
    if len(doubles) > 8:
        say("texts", len(doubles) - 8, "not used: others of the same kind are")
    if unknown:
        shown = "; ".join(samples[:2])
        say("lines", unknown, f"of no kind that is known, such as: {shown}")
    if any(one.kind == "memory_stat" for one in final.recognised) and _MACHINE & set(final.kinds):
        say("memory.stat", 1, "not used: it counts one cgroup, not the machine")
    for name in {one.name for one in final.recognised if one.kind == "trace"}:
        say(f"trace in {name}", 1, "not used here: leakscan --trace FILE answers it")
    if pieces.passed:
        say("files", pieces.passed, "not looked at: their names say nothing of memory")


def _nothing(path: Path, pieces: Pieces, unread: list[str]) -> str:
    what = "standard input" if path == STDIN else str(path)
    why = f"; {pieces.problems[0][0]}: {pieces.problems[0][1]}" if pieces.problems else ""
    if (path != STDIN and path.is_dir()) or len(unread) > 1:
        names = f" ({', '.join(unread[:3])})" if unread else ""
        return (
            f"{what} has none of the files this reads (meminfo, slabinfo, slabtop, OOM logs, "
            f"kmemleak, ...){names}{why}"
        )
    return (
        f"nothing in {what} is recognised: it is no meminfo, slabinfo, slabtop, OOM report, "
        f"kmemleak or other text of a kernel's memory{why}"
    )


def _folder(path: Path) -> ProcFolder | None:
    """Known places of a folder; None where it has none of them, or is no folder."""
    if path == STDIN or not path.is_dir():
        return None
    try:
        return ProcFolder(path)
    except HostError as error:
        if "has none of the files" not in str(error):
            raise
    below = [p for depth in ("*", "*/*") for p in sorted(path.glob(f"{depth}/proc/meminfo"))[:3]]
    machines = [p.parent.parent for p in below if not p.is_symlink()]
    if len(machines) > 1:
        names = ", ".join(str(m.relative_to(path)) for m in machines)
        raise HostError(f"{path} has several saved machines ({names}): say which")
    return ProcFolder(machines[0]) if machines else None


def _cut(piece: Piece) -> tuple[Cut, int, list[str]]:
    lines = without_numbers(piece.text.splitlines() if "\v" not in piece.text else _lines(piece))
    if one_number(piece.name):
        lines = [f"{piece.name}:{line.strip()}" for line in lines if line.strip()]
    hint = promised(piece.name)
    cut = Cut(piece.name, label(piece.name), piece.modified)
    parts = sections(lines, hint)
    seen: set[str] = set()
    for part in parts.found:
        if hint == "alloc_traces" and part.kind == "alloc_traces":
            part.cache = Path(piece.name).parent.name
        again = part.kind in SNAPSHOTS and part.kind in seen
        if again or not cut.moments:
            cut.moments.append({})
            seen = set()
        seen.add(part.kind)
        cut.moments[-1].setdefault(part.kind, []).append(part)
    _once_at_the_end(cut)
    return cut, parts.unknown, list(parts.samples)


def _once_at_the_end(cut: Cut) -> None:
    """Of several moments, what a text has once belongs to the last: how much memory there is."""
    for kind in SNAPSHOTS:
        having = [moment for moment in cut.moments if kind in moment]
        if len(having) == 1 and having[0] is not cut.moments[-1]:
            cut.moments[-1][kind] = having[0].pop(kind)
    cut.moments = [moment for moment in cut.moments if moment]


def _lines(piece: Piece) -> list[str]:
    return piece.text.split("\n")
