"""What can be told to be wrong before what does the work is imported: names, addresses, files.

Files that are named are looked at by `files`; this asks the tool that has memory open.
"""

from __future__ import annotations

from crashext.commands.addresses import address_of
from crashext.commands.options import (
    CacheOptions,
    LiveOptions,
    ObjsimOptions,
    Options,
    SitesOptions,
    TraceOptions,
)
from crashext.commands.place import Place
from crashext.hosts.faults import HostError, ReadFault, UnknownLayout

NOT_LIVE = "--live needs the running kernel: this is a dump"


def mistake(options: Options, place: Place) -> str:
    """What is wrong with a question, where memory is open; "" where nothing is, and where that
    cannot be asked: then who does the work says why."""
    if not place.inside:
        return ""
    if isinstance(options, LiveOptions) and not place.live:
        return NOT_LIVE
    if isinstance(options, ObjsimOptions):
        return _no_address(options, place)
    names = _caches(options)
    return _unknown_cache(names, place) if names else ""


def _no_address(options: ObjsimOptions, place: Place) -> str:
    if place.symbols is None:
        return ""
    try:
        for text in options.addresses:
            address_of(place.symbols, text)
    except HostError as why:
        return str(why)
    return ""


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
        return next(filter(None, map(quick.wrong, names)), "")
    from crashext.hosts.keeping import keep
    from crashext.kernel.slab.caches import read_caches
    from crashext.kernel.slab.named import UnknownCache, find_cache

    try:
        host = place.host
        caches = keep(host, "caches", lambda: read_caches(host))
        for name in names:
            find_cache(caches, name)
    except UnknownCache as unknown:
        return str(unknown)
    except (HostError, ReadFault, UnknownLayout):
        return ""
    return ""
