"""What a command line means: one frozen dataclass a mode, and which options do not go together.

Nothing is opened here (whether a word is a file is looked up), and nothing heavy imported: a
mistake is told at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from crashext.analysis.settings import Settings
from crashext.commands.place import Place
from crashext.commands.words import or_word
from crashext.report.topics import SINCE_WHEN, TOPICS

MOST_SUBJECTS = 16


class Refusal(Exception):
    """Options that do not go together, or a file that cannot be used: one line for the user."""


@dataclass(frozen=True)
class Source:
    """Where memory comes from, unless a tool has it open, and whether the run is recorded."""

    core: Path | None = None
    kernel: bool = False
    """The running one."""
    replay: Path | None = None
    symbols: tuple[Path, ...] = ()
    record: Path | None = None
    debuginfod: bool = True
    """Whether servers that the environment names may be asked for debug files."""
    jobs: int = 1
    """Threads that read memory side by side."""

    @property
    def given(self) -> bool:
        return self.core is not None or self.kernel or self.replay is not None


@dataclass(frozen=True)
class Look:
    """How hard to look."""

    settings: Settings
    refs: bool | None
    """Whether to look for who points at objects; None: where that takes seconds."""
    memory: int
    """Bytes that the look through all memory may use."""


@dataclass(frozen=True)
class Printing:
    json: bool
    verbose: bool
    html: Path | None = None
    """Where the report is also written as a page."""


@dataclass(frozen=True)
class OverviewOptions:
    """`leakscan`"""

    source: Source
    before: Path | None
    look: Look
    printing: Printing
    topics: tuple[str, ...] = ()
    """Parts of the text to print; a cache that is called so wins."""


@dataclass(frozen=True)
class CacheOptions:
    """`leakscan CACHE...`"""

    source: Source
    caches: tuple[str, ...]
    kmem: bool
    """Objects are those that crash's kmem -S lists."""
    look: Look
    printing: Printing


@dataclass(frozen=True)
class OrphansOptions:
    """`leakscan --orphans`"""

    source: Source
    list: Path | None
    look: Look
    printing: Printing


@dataclass(frozen=True)
class SitesOptions:
    """`leakscan --sites CACHE`"""

    source: Source
    cache: str
    printing: Printing


@dataclass(frozen=True)
class TraceOptions:
    """`leakscan --trace FILE`, alone or with memory."""

    trace: Path
    source: Source
    caches: tuple[str, ...]
    look: Look
    printing: Printing


@dataclass(frozen=True)
class LiveOptions:
    """`leakscan --live SECONDS`"""

    seconds: int
    stacks: bool
    source: Source
    caches: tuple[str, ...]
    look: Look
    printing: Printing


@dataclass(frozen=True)
class ProcfsOptions:
    """`leakscan PATH...`, `leakscan --procfs PATH`"""

    paths: tuple[Path, ...]
    """In time order; - for standard input."""
    before: Path | None
    symbols: tuple[Path, ...]
    debuginfod: bool
    settings: Settings
    printing: Printing
    topics: tuple[str, ...] = ()
    """As in `OverviewOptions`."""


@dataclass(frozen=True)
class ObjsimOptions:
    """`objsim ADDR...`"""

    source: Source
    addresses: tuple[str, ...]
    list: bool
    as_type: str | None
    refs: bool | None
    """As in `Look`."""
    settings: Settings
    printing: Printing


@dataclass(frozen=True)
class ExcerptOptions:
    """`objsim --text FILE`"""

    text: str
    """A path, or - for standard input."""
    size: int
    settings: Settings
    printing: Printing


LeakscanOptions = (
    OverviewOptions
    | CacheOptions
    | OrphansOptions
    | SitesOptions
    | TraceOptions
    | LiveOptions
    | ProcfsOptions
)
Options = LeakscanOptions | ObjsimOptions | ExcerptOptions


def leakscan_options(given: argparse.Namespace, place: Place) -> LeakscanOptions:
    """Which mode was asked for; raises `Refusal` where the options are no question."""
    if given.sites:
        return _sites(given, place)
    if given.live is not None:
        return _live(given)
    if given.stacks:
        raise Refusal("--stacks is for --live: a trace in a file has stacks or has not")
    if given.trace is not None:
        return _trace(given, place)
    if not place.inside and not _source(given).given:
        texts, topics = _texts(given.caches)
        if given.procfs or texts:
            return _procfs(given, texts, topics)
    elif given.procfs:
        return _procfs(given, [], ())
    caches = [word for word in given.caches if word not in TOPICS]
    if caches and len(caches) < len(given.caches):
        topic = next(word for word in given.caches if word in TOPICS)
        raise Refusal(
            f"{topic} is a part of the whole answer, {caches[0]} would be a cache: ask for one or "
            "the other"
        )
    if given.before is not None and (caches or given.orphans):
        raise Refusal("--before compares whole machines: leave out CACHE and --orphans")
    if given.orphans:
        return _orphans(given, place)
    if given.list is not None:
        raise Refusal("--list writes the addresses that --orphans finds: add --orphans")
    if "growth" in given.caches and given.before is None and given.walker != "kmem":
        raise Refusal(SINCE_WHEN)
    words = given.walker != "kmem" and all(word in TOPICS for word in given.caches)
    return _overview(given, place) if words or not given.caches else _caches(given, place)


def objsim_options(given: argparse.Namespace, place: Place) -> ObjsimOptions | ExcerptOptions:
    """Which mode was asked for; raises `Refusal` where the options are no question."""
    if given.text is not None:
        if given.addresses or given.list:
            raise Refusal("--text compares what the text shows: give no addresses and no --list")
        if given.as_type is not None:
            raise Refusal("--as needs a kernel that knows its types: --text has none")
        if given.record is not None or _source(given).given:
            raise Refusal("--text needs no memory: leave out -c, -k, -r and --record")
        if given.size is None:
            raise Refusal("--text needs --size BYTES: the object size of the cache")
        return ExcerptOptions(given.text, given.size, _settings(given), _printing(given))
    if given.size is not None:
        raise Refusal("--size is for --text: a kernel knows the size of its objects")
    if given.as_type is not None and not given.as_type.isascii():
        raise Refusal(f"no kernel has a type {given.as_type}")  # its bytes may be no text at all
    if not given.addresses:
        raise Refusal("give the address of an object, or --text FILE")
    if given.list and len(given.addresses) > 1:
        raise Refusal("--list finds what is like one object: give one address")
    if len(given.addresses) > MOST_SUBJECTS:
        raise Refusal(
            f"at most {MOST_SUBJECTS} objects are compared pairwise; leakscan groups more"
        )
    return ObjsimOptions(
        _memory(given, place),
        tuple(given.addresses),
        given.list,
        given.as_type,
        given.refs,
        _settings(given),
        _printing(given),
    )


def _overview(given: argparse.Namespace, place: Place) -> OverviewOptions:
    if given.walker == "kmem":
        raise Refusal("--walker kmem lists the objects of a CACHE: say which")
    topics = tuple(given.caches)
    return OverviewOptions(
        _memory(given, place), given.before, _look(given), _printing(given), topics
    )


def _caches(given: argparse.Namespace, place: Place) -> CacheOptions:
    kmem = given.walker == "kmem"
    if kmem and place.tool != "crash":
        raise Refusal("--walker kmem needs a crash session")
    if kmem and given.record is not None:
        raise Refusal("--walker kmem cannot be recorded: a session holds no output of crash")
    return CacheOptions(
        _memory(given, place), tuple(given.caches), kmem, _look(given), _printing(given)
    )


def _orphans(given: argparse.Namespace, place: Place) -> OrphansOptions:
    if given.caches:
        raise Refusal("--orphans looks at every cache: give no names")
    if given.refs is False or given.walker == "kmem":
        raise Refusal("--orphans is the look through all memory: no --no-refs, no --walker kmem")
    return OrphansOptions(_memory(given, place), given.list, _look(given), _printing(given))


def _sites(given: argparse.Namespace, place: Place) -> SitesOptions:
    if len(given.caches) != 1:
        raise Refusal("--sites looks at the code for one CACHE: give its name")
    others = ("procfs", "orphans", "list", "trace", "live", "stacks", "before", "refs")
    if any(_given(given, others)) or given.walker == "kmem":
        raise Refusal("--sites reads the code alone: no --orphans, --trace, --procfs or --refs")
    return SitesOptions(_memory(given, place), given.caches[0], _printing(given))


def _trace(given: argparse.Namespace, place: Place) -> TraceOptions:
    if any(_given(given, ("replay", "procfs", "orphans", "list", "before"))):
        raise Refusal("--trace goes with a dump or alone: no --orphans, --procfs or --replay")
    if given.walker == "kmem":
        raise Refusal("--trace needs objects with their content: no --walker kmem")
    source = _source(given)
    alone = not place.inside and not source.given
    if alone and (given.caches or given.record is not None):
        raise Refusal(
            "a trace alone knows no CACHE and is no session: give memory with it (-c, -k)"
        )
    return TraceOptions(given.trace, source, tuple(given.caches), _look(given), _printing(given))


def _live(given: argparse.Namespace) -> LiveOptions:
    others = ("core", "replay", "procfs", "orphans", "list", "trace", "before")
    if any(_given(given, others)) or given.walker == "kmem":
        raise Refusal("--live looks at the running kernel: no dump, no other trace, no --orphans")
    running = replace(_source(given), kernel=True)
    return LiveOptions(
        given.live, given.stacks, running, tuple(given.caches), _look(given), _printing(given)
    )


def _texts(words: Sequence[str]) -> tuple[list[Path], tuple[str, ...]]:
    """The words without CACHE's meaning: files, folders, standard input; none where no word is.
    With them those that are topics and no file."""
    there = {word: word == "-" or Path(word).exists() for word in words}
    topics = tuple(word for word in words if word in TOPICS and not there[word])
    for word, found in there.items():
        if not found and word not in topics and (any(there.values()) or "/" in word):
            missing = f"cannot open {word}: No such file or directory"
            raise Refusal(missing if "/" in word else or_word(missing, word))
    return [Path(word) for word in words if there[word]], topics


def part_as_document(printing: Printing, topics: Sequence[str]) -> str:
    """What is wrong where a part of the printed answer is asked for as a document."""
    if not printing.json or not topics:
        return ""
    return f"{topics[0]} is a part of what is printed, --json is always the whole: leave one out"


def _procfs(given: argparse.Namespace, texts: list[Path], topics: tuple[str, ...]) -> ProcfsOptions:
    if _source(given).given:
        raise Refusal("--procfs is for when there is no dump: leave out -c, -k and -r")
    if len(given.caches) > len(texts) + len(topics) or given.orphans or given.walker == "kmem":
        raise Refusal("--procfs cannot look into a cache: leave out CACHE, or give a dump (-c)")
    if given.list is not None:
        raise Refusal("--list writes the addresses that --orphans finds: add --orphans and a dump")
    if given.record is not None:
        raise Refusal("--procfs cannot be recorded: keep the files themselves")
    if wrong := part_as_document(_printing(given), topics):
        raise Refusal(wrong)
    return ProcfsOptions(
        (*given.procfs, *texts),
        given.before,
        tuple(given.symbols),
        given.debuginfod,
        _settings(given),
        _printing(given),
        topics,
    )


def _given(given: argparse.Namespace, names: Sequence[str]) -> list[bool]:
    return [bool(getattr(given, name)) for name in names]


def _source(given: argparse.Namespace) -> Source:
    return Source(
        given.core,
        given.kernel,
        given.replay,
        tuple(given.symbols),
        given.record,
        given.debuginfod,
        given.jobs,
    )


def _memory(given: argparse.Namespace, place: Place) -> Source:
    """The source, for a mode that cannot do without memory."""
    source = _source(given)
    if not place.inside and not source.given:
        names = getattr(given, "caches", None)
        without = (
            "--text FILE" if "addresses" in given else "a PATH with saved text, or --trace FILE"
        )
        raise Refusal(
            (f"there is no file {names[0]}, and for a cache " if names else "")
            + "say where memory is: -c VMCORE, -k (this machine) or -r SESSION; without memory: "
            f"{without}"
        )
    return source


def _look(given: argparse.Namespace) -> Look:
    return Look(_settings(given), given.refs, given.memory << 20)


def _settings(given: argparse.Namespace) -> Settings:
    return Settings(given.samples, given.seed, given.threshold, given.metric, given.hops)


def _printing(given: argparse.Namespace) -> Printing:
    return Printing(given.json, given.verbose, getattr(given, "html", None))  # objsim has none
