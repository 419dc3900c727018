"""Files that a command names, looked at before any work: can they be read, can they be written?

Whether their content is any good is found out by who reads it, but for what the first bytes tell.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from crashext.commands.options import (
    ExcerptOptions,
    Options,
    OrphansOptions,
    OverviewOptions,
    ProcfsOptions,
    Refusal,
    TraceOptions,
)
from crashext.hosts.signature import COMPRESSED, LENGTH, SESSION, TRACES, no_debug_file, no_dump

_STDIN = "-"
_TRACE_HEAD = 4096
_OF_TRACES = re.compile(rb"alloc|free|tracer|cpus=")
_NO_FOLDER = ("read trace", "read")


def check_files(options: Options) -> None:
    """Raises `Refusal` for the first file that cannot be used."""
    inputs = _inputs(options)
    for path, what in inputs:
        _readable(path, what)
    written: list[Path] = []
    for path, what in _outputs(options):
        _writable(path, what, [path for path, _ in inputs])
        if path.resolve() in written:
            raise Refusal(f"cannot {what} {path}: this run writes something else there")
        written.append(path.resolve())
    if isinstance(options, OverviewOptions) and options.before is not None:
        _of_its_kind(options.before, _no_moment)
    if isinstance(options, TraceOptions) and str(options.trace) != _STDIN:
        _of_its_kind(options.trace, _no_trace, _TRACE_HEAD)
    if not isinstance(options, ExcerptOptions | ProcfsOptions) and options.source.core is not None:
        _of_its_kind(options.source.core, no_dump)
        for path in options.source.symbols:
            _of_its_kind(path, no_debug_file)


def _inputs(options: Options) -> list[tuple[Path, str]]:
    """(path, what one cannot do with it) of every file that is read."""
    found: list[tuple[Path | None, str]] = []
    if isinstance(options, ExcerptOptions):
        found.append((Path(options.text), "read"))
    elif isinstance(options, ProcfsOptions):
        found += [(path, "open") for path in options.paths]
        found += [(path, "open debug file") for path in options.symbols]
    else:
        found.append((options.source.core, "open dump"))
        found.append((options.source.replay, "open session"))
        found += [(path, "open debug file") for path in options.source.symbols]
    if isinstance(options, OverviewOptions | ProcfsOptions):
        found.append((options.before, "open"))
    if isinstance(options, TraceOptions):
        found.append((options.trace, "read trace"))
    return [(path, what) for path, what in found if path is not None and str(path) != _STDIN]


def _outputs(options: Options) -> list[tuple[Path, str]]:
    found: list[tuple[Path | None, str]] = []
    if not isinstance(options, ExcerptOptions | ProcfsOptions):
        found.append((options.source.record, "write session"))
    if isinstance(options, OrphansOptions):
        found.append((options.list, "write"))
    found.append((options.printing.html, "write report"))
    return [(path, what) for path, what in found if path is not None]


def _readable(path: Path, what: str) -> None:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            if what in _NO_FOLDER:
                raise Refusal(f"cannot {what} {path}: Is a directory")
            os.scandir(path).close()
        elif stat.S_ISREG(mode):  # opening a pipe would wait, or take what is in it
            path.open("rb").close()
    except (OSError, ValueError) as error:
        raise Refusal(f"cannot {what} {path}: {_why(error)}") from None


def _no_moment(path: object, head: bytes) -> str:
    """Why a file is no earlier moment; it may be a dump, a session or a report."""
    return "" if head.lstrip()[:1] == b"{" or head.startswith(SESSION) else no_dump(path, head)


def _no_trace(path: object, head: bytes) -> str:
    """Why a file is no trace: it is no text, damaged or not, and nothing that its reader knows."""
    known = head.startswith((*TRACES, *COMPRESSED)) or _OF_TRACES.search(head)
    text = b"\0" not in head or known
    return "" if text else f"{path} is no trace: neither text nor trace.dat"


def _of_its_kind(path: Path, wrong: Callable[[Path, bytes], str], length: int = LENGTH) -> None:
    if path.is_file():
        with path.open("rb") as file:
            why = wrong(path, file.read(length))
        if why:
            raise Refusal(why)


def _writable(path: Path, what: str, inputs: list[Path]) -> None:
    """Leaves an old file as it is until there is something to write, and no new one behind."""
    try:
        there = path.exists()
        if there and any(path.samefile(other) for other in inputs):
            raise Refusal(f"cannot {what} {path}: this run reads it")
        if there and not path.is_file() and not path.is_dir():
            return  # a device or a pipe
        path.open("ab").close()
        if not there:
            path.resolve().unlink()  # not a link that led to it
    except (OSError, ValueError) as error:
        raise Refusal(f"cannot {what} {path}: {_why(error)}") from None


def _why(error: Exception) -> str:
    """ValueError: a path with a zero byte in it."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
