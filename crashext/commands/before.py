"""The earlier moment of `leakscan --before OLD`, whatever OLD is: opened, and its counters read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from crashext.analysis.memory.growth import Compared
from crashext.analysis.moments import of_document, of_overview
from crashext.analysis.overview import look_over
from crashext.analysis.proc import read_snapshot
from crashext.analysis.settings import Settings
from crashext.commands.opening import open_dump
from crashext.hosts.base import Host, HostError
from crashext.hosts.recorded import RecordedHost
from crashext.hosts.signature import SESSION
from crashext.kernel.slab.view import KernelView
from crashext.procfs.saved import saved
from crashext.progress import Progress

_MAX_JSON = 64 << 20  # Python makes some times that of it


def earlier(
    path: Path,
    symbols: Sequence[Path],
    settings: Settings,
    progress: Progress,
    debuginfod: bool,
) -> Compared:
    """Counters of a dump, a session that holds an overview, a JSON report or a /proc directory.

    Raises `HostError` where it is none of them, or cannot be read.
    """
    if path.is_dir():
        return read_snapshot(saved(path)[0], progress)
    try:
        with path.open("rb") as file:
            head = file.read(len(SESSION))
            data = head + file.read(_MAX_JSON) if head.lstrip()[:1] == b"{" else b""
    except OSError as error:
        raise HostError(f"cannot open {path}: {error.strerror}") from error
    if data:
        if len(data) > _MAX_JSON:
            raise HostError(f"{path} is larger than {_MAX_JSON >> 20} MiB: is it a report?")
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise HostError(f"{path} is damaged: it is no JSON document") from error
        return of_document(str(path), document)
    host: Host = RecordedHost(path) if head == SESSION else open_dump(path, symbols, debuginfod)
    # Counters are enough: who points at what is asked of the later moment only.
    overview = look_over(KernelView(host), settings, progress, refs=False)
    return of_overview(str(path), overview)
