"""A name that is asked for and not known, where one is known that a flipped bit makes of it.

What a kernel lacks tells its version: to take a damaged name for that would be to answer for
another kernel. For symbols this does not hold: there are too many (pti_init, pty_init).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping

from crashext.hosts.base import HostError, Member

_LEAST = 4  # letters: two shorter names may well be a bit apart
_BITS = 7  # of a letter of ASCII
SPELLINGS = (
    frozenset({"slub_debug", "slab_debug"}),  # 6.9
    frozenset({"stack_slabs", "stack_pools"}),  # 6.3
    frozenset({"tk_core", "timekeeper_data"}),
    frozenset({"slab_caches", "cache_chain"}),
    frozenset({"cpu_possible_bits", "__cpu_possible_mask"}),
    frozenset({"init_level4_pgt", "init_top_pgt"}),
    frozenset({"_text", "_stext"}),
)
"""Symbols of one thing: a kernel that has the one lacks the other, be they ever so alike."""


class DamagedTypes(HostError):
    """What was asked of the kernel's BTF is not as kernels have it."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the kernel's BTF is damaged: {what}: give its vmlinux with -s")


def a_bit_apart(name: str, known: Container[str]) -> str:
    """The one of `known` that differs from `name` in one bit; "" where none does."""
    if len(name) < _LEAST:
        return ""
    return next((other for other in bit_flips(name) if other in known), "")


def is_respelt(name: str, other: str) -> bool:
    """Whether these are names that kernels of different age have for one thing."""
    return any(name in both and other in both for both in SPELLINGS)


def bit_flips(name: str) -> Iterator[str]:
    """What a flipped bit makes of a name of ASCII."""
    for i, letter in enumerate(name):
        for bit in range(_BITS):
            yield f"{name[:i]}{chr(ord(letter) ^ 1 << bit)}{name[i + 1 :]}"


def require_absent(name: str, known: Container[str]) -> None:
    """Raises `DamagedTypes` where a damaged `name` is among those `known`."""
    other = a_bit_apart(name, known)
    if other:
        raise DamagedTypes(f"{other} is there, one bit from {name}, and not that")


class Members(dict[str, Member]):
    """Members of a struct, where what is asked for and missing may be there damaged."""

    def __init__(
        self, members: Mapping[str, Member], elsewhere: Callable[[str], Member | None]
    ) -> None:
        """`elsewhere` is asked for what is missing: None where the kernel does not have it. It
        raises `HostError` where that cannot be told.
        """
        super().__init__(members)
        self.elsewhere = elsewhere
        self._missing: dict[str, Member | None] = {}

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or self._found(str(name)) is not None

    def __missing__(self, name: str) -> Member:
        found = self._found(name)
        if found is None:
            raise KeyError(name)
        return found

    def _found(self, name: str) -> Member | None:
        """Looked for once: it takes milliseconds, and is asked of each process again."""
        if name not in self._missing:
            self._missing[name] = self.elsewhere(name)
        return self._missing[name]
