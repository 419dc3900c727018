"""How a structure lies in memory, in the words of a host. It needs no numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from crashext.hosts.faults import UnknownLayout


@dataclass(frozen=True)
class Member:
    """One member of a structure. Offsets and sizes are in bytes, `bit_*` in bits."""

    offset: int
    size: int
    bit_offset: int = 0
    bit_size: int = 0
    """0 for a member that is not a bit field."""


@dataclass(frozen=True)
class Layout:
    """A structure's layout, members of anonymous structs and unions included."""

    name: str
    size: int
    members: Mapping[str, Member] = field(default_factory=dict)

    def __contains__(self, member: str) -> bool:
        return member in self.members

    def __getitem__(self, member: str) -> Member:
        try:
            return self.members[member]
        except KeyError:
            raise UnknownLayout(f"{self.name} has no member {member} in this kernel") from None

    def first_of(self, *names: str) -> Member | None:
        """The first of `names` that this kernel has: members get renamed between versions."""
        return next((self.members[n] for n in names if n in self.members), None)
