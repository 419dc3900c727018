"""Which classes read the code of a kernel."""

from __future__ import annotations

from typing import NamedTuple

from crashext.hosts.base import Host
from crashext.kernel.architecture import ARM64, architecture
from crashext.kernel.origin import code_arm64
from crashext.kernel.origin.code import X86_64, Isa
from crashext.kernel.origin.constants import Constants
from crashext.kernel.origin.stores import Walk
from crashext.kernel.origin.stores_arm64 import Arm64Walk


class Reader(NamedTuple):
    """Of one architecture."""

    isa: Isa
    constants: type[Constants]
    walk: type[Walk]
    call: int
    """Bytes of a call instruction."""


def reader(host: Host) -> Reader:
    """That of the kernel's architecture."""
    known = architecture(host)
    if known is ARM64:
        return Reader(code_arm64.ISA, code_arm64.Arm64Constants, Arm64Walk, known.call)
    return Reader(X86_64, Constants, Walk, known.call)
