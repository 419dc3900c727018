"""What one engine knows of its crash session, kept from command to command.

A dump does not change, so all that was learnt of it stays true; what crash knows of it may change
(`mod -s` loads symbols), and then everything is learnt anew. Of a live kernel nothing that moves is
kept.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from crashext.resident.interrupts import Interrupts

if TYPE_CHECKING:
    from crashext.hosts.crash import CrashHost


class Session:
    """One crash session."""

    def __init__(self, sock: socket.socket, interrupts: Interrupts) -> None:
        self._sock, self._interrupts = sock, interrupts
        self._host: CrashHost | None = None

    def command(self, program: str, arguments: list[str]) -> int:
        """Run one command; returns its exit status."""
        from crashext.commands import cli

        entry = cli.leakscan if program == "leakscan" else cli.objsim
        return entry(arguments, self.host())

    def host(self) -> CrashHost:
        """The host of this command: the one before it, unless what that knows has changed."""
        from crashext.hosts.crash import CrashHost
        from crashext.kernel.btf_layouts import CarriedTypes

        host = self._host
        if host is None or host.info().live or host.moved_on():
            self._host = host = CrashHost(self._sock, self._interrupts)
            host.prefer(CarriedTypes(host))
        return host

    def tidy(self) -> bool:
        """After a command: keep memory bounded. Returns whether this engine had better leave."""
        return False
