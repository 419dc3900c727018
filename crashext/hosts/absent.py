"""A name that is asked for and not known, where one is known that a flipped bit makes of it.

What a kernel lacks tells its version: to take a damaged name for that would be to answer for
another kernel. For symbols this does not hold: there are too many (pti_init, pty_init).
"""

from __future__ import annotations

from collections.abc import Container

from crashext.hosts.base import HostError, Member

_LEAST = 4  # letters: two shorter names may well be a bit apart
_BITS = 7  # of a letter of ASCII


def a_bit_apart(name: str, known: Container[str]) -> str:
    """The one of `known` that differs from `name` in one bit; "" where none does."""
    if len(name) < _LEAST:
        return ""
    others = (
        f"{name[:i]}{chr(ord(letter) ^ 1 << bit)}{name[i + 1 :]}"
        for i, letter in enumerate(name)
        for bit in range(_BITS)
    )
    return next((other for other in others if other in known), "")


def require_absent(name: str, known: Container[str]) -> None:
    """Raises `HostError` where a damaged `name` is among those `known`."""
    other = a_bit_apart(name, known)
    if other:
        raise HostError(
            f"the kernel's BTF is damaged: {other} is there, one bit from {name}, and not that: "
            "give its vmlinux with -s"
        )


class Members(dict[str, Member]):
    """Members of a struct: any other name is absent, and not damaged."""

    def __contains__(self, name: object) -> bool:
        found = super().__contains__(name)
        if not found:
            require_absent(str(name), self.keys())
        return found
