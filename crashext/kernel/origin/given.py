"""Which slab caches a call is given: by address, from a variable, from a mempool, or just made."""

from __future__ import annotations

from functools import cached_property

from crashext.hosts.base import Host, ReadFault
from crashext.kernel.access import string
from crashext.kernel.origin.constants import Constants, Peek, Values, What
from crashext.kernel.origin.entrypoints import CREATING
from crashext.kernel.origin.readers import Reader
from crashext.kernel.origin.structures import pool_data
from crashext.kernel.origin.thunks import meant
from crashext.kernel.slab.caches import Caches


class GivenCaches:
    """Of one kernel."""

    def __init__(self, host: Host, caches: Caches, reader: Reader, peek: Peek) -> None:
        self._host, self._caches, self._reader, self._peek = host, caches, reader, peek

    def of(self, values: Values, known: Constants) -> set[int]:
        """Addresses that may be caches: given as such, from a variable, or just created."""
        found = set()
        for value in values:
            if value.what is What.CONSTANT:
                found.add(value.number)
            elif value.what is What.LOAD and (word := self._peek(value.number)) is not None:
                found.add(word)
            elif value.what is What.RESULT:
                found |= self._created(value.number, known)
        return found

    def _created(self, call: int, known: Constants) -> set[int]:
        """The cache that a function has made itself, by the name that it gave it; 0 where none has
        that name."""
        at = known.code.at(call)
        target = None if at is None else known.code.all[at].target
        if at is None or target is None:
            return set()
        if meant(self._host, target) not in self._creators:
            return set()
        found = set()
        for name in known.before(at, self._reader.isa.arguments[0]):
            if name.what is not What.CONSTANT:
                continue
            try:
                cache = self._caches.find(string(self._host, name.number))
            except ReadFault:
                continue
            found.add(0 if cache is None else cache.address)
        return found

    def pools(self, pools: Values) -> set[int] | None:
        """Addresses that may be caches: what mempools are given for whoever hands out; None where
        that cannot be read of all of them."""
        found = set()
        for value in pools:
            if value.what not in (What.LOAD, What.CONSTANT):
                continue
            pool = self._peek(value.number) if value.what is What.LOAD else value.number
            if pool == 0:
                continue
            if pool is None or self._pool_data is None:
                return None
            if (given := self._peek(pool + self._pool_data)) is None:
                return None
            found.add(given)
        return found

    @cached_property
    def _creators(self) -> set[int | None]:
        return {self._host.address_of(name) for name in CREATING} - {None}

    @cached_property
    def _pool_data(self) -> int | None:
        return pool_data(self._host)
