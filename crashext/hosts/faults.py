"""What a source of memory raises. It imports nothing: a mistake is told before numpy is loaded."""

from __future__ import annotations


class UnknownLayout(Exception):
    """This kernel's structures are not the ones this code understands; says which."""


class HostError(Exception):
    """The source cannot be used: one line for the user, what is wrong and what to do."""


GONE = "the running kernel freed it, or does not give it; ask again"


class ReadFault(Exception):
    """Memory at `address` is not in the dump, not mapped, or not readable."""

    def __init__(self, address: int, why: str = "not in this dump") -> None:
        super().__init__(f"cannot read memory at {address:#x}: {why}")
        self.address = address
