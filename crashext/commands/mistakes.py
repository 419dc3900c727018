"""What can be told to be wrong before what does the work is imported: names, addresses, content.

Whether files are there, `files` knows; this looks into small ones, and asks the tool that has
memory open.
"""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import TypeGuard

from crashext.commands.addresses import address_of
from crashext.commands.options import (
    CacheOptions,
    ExcerptOptions,
    LiveOptions,
    ObjsimOptions,
    Options,
    OverviewOptions,
    SitesOptions,
    TraceOptions,
    part_as_document,
)
from crashext.commands.place import Place
from crashext.commands.words import or_word
from crashext.hosts.faults import HostError, ReadFault, UnknownLayout

_SMALL = 1 << 18  # bytes: read in no time
_FEW = 64
NOT_LIVE = "--live needs the running kernel: this is a dump"


def mistake(options: Options, place: Place) -> str:
    """What is wrong with a question, where memory is open; "" where nothing is, and where that
    cannot be asked: then who does the work says why."""
    content = _content(options)
    if content or not place.inside:
        return content
    if isinstance(options, LiveOptions) and not place.live:
        return NOT_LIVE
    if isinstance(options, ObjsimOptions):
        return _no_address(options, place) or _no_type(options, place)
    if isinstance(options, OverviewOptions):
        return _no_document(options, place)
    names = _caches(options)
    return _unknown_cache(names, place) if names else ""


def _content(options: Options) -> str:
    """What is wrong inside a file that is soon read: who reads it loads little besides numpy, and
    would else be asked when memory has been opened."""
    try:
        if isinstance(options, TraceOptions) and _small_file(options.trace):
            from crashext.trace import trace_table

            trace_table(options.trace)
        if isinstance(options, OverviewOptions) and _small_folder(options.before):
            from crashext.procfs.saved import saved

            saved(options.before)
        if isinstance(options, ExcerptOptions) and _small_file(Path(options.text)):
            from crashext.procfs.memorytext import memory_of

            memory_of(Path(options.text).read_text("utf-8", "backslashreplace"))
    except HostError as why:
        return str(why)
    return ""


def _small_file(path: Path) -> bool:
    return path.is_file() and path.stat().st_size <= _SMALL


def _small_folder(path: Path | None) -> TypeGuard[Path]:
    if path is None or not path.is_dir():
        return False
    with os.scandir(path) as entries:
        some = list(islice(entries, _FEW + 1))
    return len(some) <= _FEW and all(e.is_file() and e.stat().st_size <= _SMALL for e in some)


def _no_address(options: ObjsimOptions, place: Place) -> str:
    if place.symbols is None:
        return ""
    try:
        for text in options.addresses:
            address_of(place.symbols, text)
    except HostError as why:
        return str(why)
    return ""


def _no_type(options: ObjsimOptions, place: Place) -> str:
    known = None if options.as_type is None else place.types()
    return "" if known is None or options.as_type is None else known.wrong(options.as_type)


def _no_document(options: OverviewOptions, place: Place) -> str:
    """Of a part of the answer, unless a cache is called so."""
    wrong = part_as_document(options.printing, options.topics)
    known = place.names() if wrong else None
    return wrong if known is not None and known.every.isdisjoint(options.topics) else ""


def _caches(options: Options) -> tuple[str, ...]:
    """The names of caches among the words."""
    if isinstance(options, SitesOptions):
        return (options.cache,)
    if isinstance(options, CacheOptions):
        return () if options.kmem else options.caches
    return options.caches if isinstance(options, TraceOptions | LiveOptions) else ()


def _unknown_cache(names: tuple[str, ...], place: Place) -> str:
    quick = place.names()
    if quick is not None:
        wrong = ((quick.wrong(name), name) for name in names)
        return next((or_word(said, name) for said, name in wrong if said), "")
    from crashext.hosts.keeping import keep
    from crashext.kernel.slab.caches import read_caches
    from crashext.kernel.slab.named import UnknownCache, find_cache

    try:
        host = place.host
        caches = keep(host, "caches", lambda: read_caches(host))
        for name in names:
            find_cache(caches, name)
    except UnknownCache as unknown:
        return or_word(str(unknown), unknown.name)
    except (HostError, ReadFault, UnknownLayout):
        return ""
    return ""
