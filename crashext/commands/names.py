"""Names of caches, looked up before what does the work is imported: a mistake is told at once."""

from __future__ import annotations

from crashext.commands.options import CacheOptions, Options, SitesOptions
from crashext.commands.place import Place


def unknown_cache(options: Options, place: Place) -> str:
    """What is wrong with a cache's name, where memory is open; "" where nothing is, and where that
    cannot be asked: then who does the work says why."""
    if not place.inside:
        return ""
    if isinstance(options, CacheOptions) and not options.kmem:
        names = options.caches
    elif isinstance(options, SitesOptions):
        names = (options.cache,)
    else:
        return ""
    from crashext.hosts.base import HostError, ReadFault, UnknownLayout
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
