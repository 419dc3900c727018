"""Whole pages of memory that does not change, those that were read last.

Where each question has a price, a word of a page costs as much as all of it, and whoever follows a
list or reads one structure's members asks for words of few pages again and again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

_PAGE = 4096
_MOST = 4096
_MOST_AT_ONCE = 64


class RecentPages:
    """Asks `fetch` for pages by their addresses, which gives None for one that cannot be read."""

    def __init__(self, fetch: Callable[[list[int]], list[bytes | None]]) -> None:
        self._fetch = fetch
        self._pages: OrderedDict[int, bytes] = OrderedDict()
        self._none: set[int] = set()

    def read(self, address: int, size: int) -> bytes | None:
        """None where it must be asked for by itself: it is in two pages, or in one that there is
        not."""
        return self.many((address,), size)[0]

    def many(self, addresses: Sequence[int], size: int) -> list[bytes | None]:
        """`read` of each, the pages that are missing fetched at once; of many addresses none."""
        inside = [at for at in addresses if at % _PAGE + size <= _PAGE]
        wanted = dict.fromkeys(at - at % _PAGE for at in inside)
        missing = [p for p in wanted if p not in self._pages and p not in self._none]
        if len(wanted) > _MOST_AT_ONCE:
            return [None] * len(addresses)
        for page, data in zip(missing, self._fetch(missing) if missing else (), strict=True):
            if data is not None:
                self._pages[page] = data
            elif len(self._none) < _MOST:
                self._none.add(page)
        found = [self._piece(at, size) for at in addresses]
        while len(self._pages) > _MOST:
            self._pages.popitem(last=False)
        return found

    def _piece(self, address: int, size: int) -> bytes | None:
        skip = address % _PAGE
        page = self._pages.get(address - skip) if skip + size <= _PAGE else None
        if page is None:
            return None
        self._pages.move_to_end(address - skip)
        return page[skip : skip + size]
