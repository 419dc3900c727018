"""Where a command was typed: at a shell, or inside a tool that has memory open already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crashext.commands.addresses import Symbols
    from crashext.hosts.base import Host
    from crashext.kernel.btf_names import TypeNames
    from crashext.kernel.slab.listed import CacheNames


def _nothing_open() -> Host:
    raise RuntimeError("a shell has no memory open")


@dataclass(frozen=True)
class Place:
    """A tool, and how to get at the memory that it has open: asked for only when it is needed."""

    tool: str = "shell"
    """``shell``, ``crash`` or ``drgn``."""
    open: Callable[[], Host] = _nothing_open
    """Raises `HostError`."""
    start: Callable[[str], tuple[str, ...]] = lambda program: (program,)
    """The words that start `leakscan` or `objsim` again from the shell."""
    runs: Callable[[], bool] | None = None
    """Whether it looks at the running kernel, where the tool says so without opening memory."""
    names: Callable[[], CacheNames | None] = lambda: None
    """What its slab caches are called, where the tool can say so without opening memory."""
    types: Callable[[], TypeNames | None] = lambda: None
    """What its types are called, likewise."""
    symbols: Symbols | None = None
    """Its symbols, likewise."""

    @property
    def inside(self) -> bool:
        """Whether memory is open: then nobody needs to say where it is."""
        return self.tool != "shell"

    @cached_property
    def host(self) -> Host:
        """The memory that the tool has open."""
        return self.open()

    @property
    def live(self) -> bool:
        """Whether the tool looks at the running kernel: not where its memory cannot be used."""
        if self.runs is not None:
            return self.runs()
        from crashext.hosts.base import HostError

        try:
            return self.inside and self.host.info().live
        except HostError:
            return False


SHELL = Place()
