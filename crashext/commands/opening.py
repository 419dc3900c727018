"""A run's memory: opened from where the options say, recorded or replayed where they say so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crashext.commands.download import downloaded
from crashext.commands.options import Source
from crashext.commands.place import Place
from crashext.commands.questions import Question, held_by
from crashext.commands.telling import tell
from crashext.commands.words import or_word
from crashext.hosts.base import Host, HostError, KernelMissing, ReadFault, UnknownLayout
from crashext.hosts.kallsyms_named import PlacingHost
from crashext.hosts.keeping import keep
from crashext.hosts.mapped import let_go
from crashext.hosts.modulesymbols import DoubtingHost
from crashext.hosts.readers import ManyReaders
from crashext.hosts.recorded import RecordedHost, RecordingHost
from crashext.hosts.session import MAX_MEMORY
from crashext.kernel.btf_layouts import CarriedTypes
from crashext.kernel.slab.slabs import MAP_BUDGET
from crashext.kernel.slab.view import KernelView
from crashext.wording import plural

if TYPE_CHECKING:
    import drgn

    from crashext.hosts.nodebuginfo import NoDebugInfo

NO_DEBUG_INFO = "no debug info: types from the kernel's own BTF; file and line not known"
BY_ITSELF = "debug info: {}, which has this kernel's build ID"
FUNCTIONS_ONLY = "its own symbols are functions only (no CONFIG_KALLSYMS_ALL)"


_DOUBTS = "doubted symbols"


class NoTypes(HostError):
    """Symbols are known, types are not: words can be read, and little is known of them."""

    def __init__(self, message: str, host: Host) -> None:
        super().__init__(message)
        self.host = host


@dataclass
class Opened:
    """A kernel to look at, and what a session of this run is to be asked again."""

    view: KernelView
    question: Question
    """May be made more precise before the session is written."""
    lost: bool = False
    """The session could not be written."""

    @property
    def recorded(self) -> bool:
        return isinstance(self.view.host, RecordingHost)

    @property
    def budget(self) -> int:
        """Bytes of memory map to read: less where they must fit into a session, or are from one."""
        in_session = isinstance(self.view.host, RecordingHost | RecordedHost)
        return MAX_MEMORY // 4 if in_session else MAP_BUDGET


def open_host(source: Source, place: Place) -> Host:
    """The tool's own memory, or that of the source. Raises `HostError`."""
    host = _open(source, place)
    if isinstance(host, ManyReaders):
        host.jobs = source.jobs
    return host


def _open(source: Source, place: Place) -> Host:
    if place.inside:
        return place.host
    if source.replay is not None:
        return RecordedHost(source.replay)
    if source.core is not None:
        return open_dump(source.core, source.symbols, source.debuginfod)
    return _open_live(source.symbols, source.debuginfod)


def open_dump(core: Path, symbols: Sequence[Path], debuginfod: bool = True) -> Host:
    """A dump with its debug files, those that lie where one expects them, or with none where it
    carries what they would tell.

    `debuginfod`: servers that the environment names may be asked. Raises `HostError` where it
    carries too little.
    """
    from crashext.hosts.beside import load_beside
    from crashext.hosts.drgn import DrgnHost, open_core
    from crashext.hosts.nodebuginfo import NoDebugInfo

    try:
        host = open_core(core, list(symbols))
        let_go(symbols)
        by_itself = None if symbols else host.debug_file
    except NoDebugInfo as missing:
        by_itself = load_beside(core, missing)
        if by_itself is None and not (debuginfod and downloaded(missing)):
            return _open_bare(core, missing)
        host = DrgnHost(missing.program, core.name, core)
    if by_itself is not None:
        let_go([by_itself])
        tell(str(core), BY_ITSELF.format(by_itself))
    host.prefer(CarriedTypes(host))
    return host


def _open_live(symbols: Sequence[Path], debuginfod: bool) -> Host:
    """The running kernel, with its debug files, or with none where it carries what they tell."""
    # drgn takes a third of a second to import, and a replay does without it.
    from crashext.hosts.drgn import KCORE, DrgnHost, open_live
    from crashext.hosts.nodebuginfo import NoDebugInfo

    try:
        return open_live(list(symbols))
    except NoDebugInfo as missing:
        if not (debuginfod and downloaded(missing)):
            return _open_bare(KCORE, missing, str(KCORE))
        return DrgnHost(missing.program, str(KCORE))


def open_program(program: drgn.Program, core: Path) -> Host:
    """What somebody has open in drgn, with debug info or without."""
    from crashext.hosts.drgn import DrgnHost
    from crashext.hosts.nodebuginfo import NoDebugInfo, require_debug_info
    from crashext.hosts.unusual import guard

    if program.core_dump_path is not None:
        guard(program, core)
    try:
        require_debug_info(program)
    except NoDebugInfo as missing:
        return _open_bare(core, missing)
    return DrgnHost(program, core.name if program.core_dump_path else str(core))


def _open_bare(core: Path, missing: NoDebugInfo, source: str = "") -> Host:
    from crashext.hosts.bare import BareHost

    try:
        host = BareHost(missing.program, source or core.name, core)
        types = CarriedTypes(host, alone=True)
        host.require(types.functions(), types.percpu())
        host.require_whole(types.functions)
    except HostError as error:
        raise HostError(f"{missing}; {error}") from error
    if host.functions_only:
        raise NoTypes(f"{missing}; {FUNCTIONS_ONLY}", host)
    if not types.known:
        raise NoTypes(f"{missing}; it {types.problem}", host)
    host.prefer(types)
    tell(str(core), NO_DEBUG_INFO)
    return host


@contextmanager
def open_view(host: Host, record: Path | None, question: Question) -> Iterator[Opened]:
    """A view to ask `question` of; on the way out the session is written, if one is wanted."""
    if isinstance(host, RecordedHost):
        _require(host, question)
    recorder = None if record is None else RecordingHost(host)
    view = keep(host, "view", lambda: _view(host), large=True) if recorder is None else None
    opened = Opened(view or _view(recorder or host), question)
    try:
        yield opened
    except (HostError, UnknownLayout) as error:
        if not isinstance(host, RecordedHost) or not host.unanswered:
            raise
        # Of a session it would be said of the kernel: that it has no such symbol, no memory map.
        raise HostError(f"{error}; {_holds(host)} and may lack this one") from error
    if isinstance(host, PlacingHost):
        host.require_places()
    for line in _doubts(host, recorder):
        tell(question.program, line)
    if recorder is not None and record is not None:
        try:
            recorder.save(record, opened.question.command)
        except HostError as error:  # the report is worth printing all the same
            tell(question.program, str(error))
            opened.lost = True
    if isinstance(host, RecordedHost) and host.unanswered:
        tell(
            question.program,
            f"this session was recorded with '{_short(host.command)}' and lacks the answer to "
            f"{plural(host.unanswered, 'question')} of this run: what they concern is missing here",
        )


def _doubts(host: Host, recorder: RecordingHost | None) -> list[str]:
    """What is wrong with symbols that the answer rests on, or would have shown."""
    found: Any = []
    if isinstance(host, RecordedHost):
        found = host.derived(_DOUBTS, list)
    elif isinstance(host, DoubtingHost):
        found = host.doubts()
    if found and recorder is not None:
        recorder.derived(_DOUBTS, lambda: found)
    return [line for line in found if isinstance(line, str)] if isinstance(found, list) else []


def _view(host: Host) -> KernelView:
    """Raises `KernelMissing` where the dump lacks what a view needs."""
    try:
        return KernelView(host)
    except (UnknownLayout, ReadFault) as error:
        if not host.info().damage:
            raise
        raise KernelMissing(host.info(), str(error)) from error


def _short(command: str) -> str:
    """A session's question, without the options that decide little."""
    held = held_by(command)
    return command if held is None else held.short


def _holds(host: RecordedHost) -> str:
    return f"this session holds the answer to '{_short(host.command)}'"


def _require(host: RecordedHost, question: Question) -> None:
    """A session knows what it was recorded for: another cache would look empty, not unknown."""
    held = held_by(host.command)
    if held is None or held.answers(question):
        return
    holds = _holds(host)
    strange = next((name for name in question.subjects if name not in held.subjects), None)
    if strange is None:
        raise HostError(f"{holds}: ask it that")
    raise HostError(f"{_no_cache(host, strange)}; {holds}: ask it that")


def _no_cache(host: RecordedHost, name: str) -> str:
    """What a session that was not asked for a cache knows of its name."""
    from crashext.kernel.slab.caches import read_caches
    from crashext.kernel.slab.named import UnknownCache, find_cache

    try:
        find_cache(read_caches(host), name)
    except UnknownCache as unknown:
        return or_word(str(unknown), name).removesuffix("?")
    except (UnknownLayout, ReadFault):
        return f"no cache named {name} is in this session"
    return f"no objects of {name} are in this session"
