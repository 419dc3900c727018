"""What a reader needs of this kernel's types and does not find: that is left out, and said.

A member that came or went with a version is asked for, and its lack is no news. One that every
kernel known has is taken: where that fails, the kernel is newer than this code, or damaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from crashext.hosts.base import UnknownLayout


class Lacking:
    """What was left out so far, each once."""

    def __init__(self) -> None:
        self._said: dict[str, None] = {}

    @property
    def sentences(self) -> tuple[str, ...]:
        return tuple(self._said)

    @contextmanager
    def leaves_out(self, what: str) -> Iterator[None]:
        """Say `what` is not known where the types that it takes are not understood."""
        try:
            yield
        except UnknownLayout as why:
            self._said[f"{what}: {why}"] = None
