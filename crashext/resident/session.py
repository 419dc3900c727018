"""What one engine knows of its crash session, kept from command to command.

A dump does not change, so all that was learnt of it stays true; what crash knows of it may change
(`mod -s` loads symbols), and then everything is learnt anew. Of a live kernel nothing that moves is
kept.
"""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crashext.commands import entry
from crashext.commands.place import Place
from crashext.hosts.bridge import Bridge
from crashext.hosts.crash_sys import dump_file, sys_fields
from crashext.hosts.faults import HostError
from crashext.resident.glimpse import names_of_caches, names_of_types
from crashext.resident.interrupts import Interrupts

if TYPE_CHECKING:
    from crashext.hosts.base import Host
    from crashext.hosts.crash import CrashHost
    from crashext.kernel.btf_names import TypeNames
    from crashext.kernel.slab.listed import CacheNames

_ROOM = 600 << 20  # bytes of its own after a command; a dump's warm state takes 200 to 400 MiB


class Session:
    """One crash session."""

    def __init__(self, sock: socket.socket, interrupts: Interrupts) -> None:
        self._bridge, self._interrupts = Bridge(sock, interrupts), interrupts
        self._host: CrashHost | None = None
        self._counted = interrupts.count
        self._names: CacheNames | None = None
        self._live: bool | None = None
        self._finished: tuple[dict[Hashable, Any], str | None] = {}, None
        """Reports of before the last interrupt, and the modules that crash knew then."""

    def command(self, program: str, arguments: list[str]) -> int:
        """Run one command; returns its exit status.

        What an interrupted one learnt after the interrupt may rest on what that cut off: a partial
        answer goes on with what is known. Nothing of it is kept but reports that were finished
        before.
        """
        command = entry.leakscan if program == "leakscan" else entry.objsim
        self._let_go()  # where one more Ctrl-C came in the midst of it
        if self._host is not None:
            self._host.kept.begin()
        try:
            place = Place(
                "crash",
                self.host,
                runs=self.live,
                names=self.names,
                types=self.types,
                symbols=self._bridge.fresh(),
            )
            return command(arguments, place)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        """Of the host, where there was an interrupt since it was whole."""
        if self._interrupts.count != self._counted and self._host is not None:
            cut, self._host = self._host, None
            reports = {} if cut.info().live else cut.kept.finished
            self._finished = reports, cut.known_modules
        self._counted = self._interrupts.count

    def host(self) -> Host:
        """The host of this command: the one before it, unless what that knows has changed."""
        from crashext.hosts.crash import CrashHost
        from crashext.hosts.keeping import Kept
        from crashext.kernel.btf_layouts import CarriedTypes

        host = self._host
        if host is None or host.info().live or host.moved_on():
            kept = Kept(lambda: self._interrupts.count)
            self._host = host = CrashHost(self._bridge, kept)
            host.prefer(CarriedTypes(host))
            reports, modules = self._finished
            if reports and modules is not None and not host.moved_on(modules):
                host.kept.take(reports)
            self._finished = {}, None
        return host

    def names(self) -> CacheNames | None:
        """Of its slab caches, without opening memory; None where it is open, and where a closer
        look is needed. A dump's, once known, stay known: whoever opened memory has read them for
        himself, and would read them once more for the next command's words."""
        if self._names is not None and not self.live():
            return self._names
        if self._host is not None:
            return None
        self._names = names_of_caches(self._bridge)
        return self._names

    def types(self) -> TypeNames | None:
        """What its types are called, likewise; asked anew, as `mod -s` may bring more."""
        return names_of_types(self._bridge)

    def live(self) -> bool:
        """Whether crash looks at a running kernel."""
        if self._live is None:
            try:
                self._live = not dump_file(sys_fields(self._bridge.command("sys")))
            except HostError:
                return False
        return self._live

    def tidy(self) -> bool:
        """After a command: give memory back. Returns whether this engine had better leave."""
        if self._host is None:
            return False
        from crashext.growing import give_back  # a mistake is told without numpy

        if _resident() > _ROOM // 2:
            gc.collect()  # what refers to itself is looked for seldom, and may hold arrays
        if _resident() > _ROOM:
            self._host.kept.shrink()
        give_back()
        return _resident() > _ROOM


def _resident() -> int:
    """Without the pages of files, as debug info is: the kernel takes those back when it must."""
    pages = Path("/proc/self/statm").read_text().split()
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")
