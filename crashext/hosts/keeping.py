"""What was worked out of a dump, kept for the next command, by a host whose process lives on.

A dump does not change, so an answer stays true; whoever asks names everything that it depends on.
Nothing is kept that was being worked out when Ctrl-C came, for that may be partial. What was learnt
after it may rest on that; of the time before, finished reports are whole for certain: plain data,
which nobody changes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

from crashext.hosts.base import Host

T = TypeVar("T")

_MOST = 48


class Kept:
    """Answers, the most recently used ones."""

    def __init__(self, interrupts: Callable[[], int]) -> None:
        """`interrupts` counts those so far."""
        self._interrupts = interrupts
        self._answers: OrderedDict[Hashable, Any] = OrderedDict()
        self._large: set[Hashable] = set()
        self._finished: set[Hashable] = set()
        self._begun = interrupts()

    def take(self, finished: Mapping[Hashable, Any]) -> None:
        """What another one had finished."""
        self._answers.update(finished)
        self._finished.update(finished)

    def begin(self) -> None:
        """A command begins: what came before did not cut anything of it off."""
        self._begun = self._interrupts()

    @property
    def finished(self) -> dict[Hashable, Any]:
        """Reports that no interrupt can have touched."""
        return {key: self._answers[key] for key in self._answers if key in self._finished}

    def get(
        self, key: Hashable, compute: Callable[[], T], large: bool = False, report: bool = False
    ) -> T:
        """The answer under `key`, worked out if it is not there."""
        if key in self._answers:
            self._answers.move_to_end(key)
        else:
            before = self._interrupts()
            answer = compute()
            if self._interrupts() != before:
                return answer
            self._answers[key] = answer
            if large:
                self._large.add(key)
            if report and before == self._begun:
                self._finished.add(key)
            if len(self._answers) > _MOST:
                self._answers.popitem(last=False)
        found: T = self._answers[key]
        return found

    def shrink(self) -> None:
        """Keep reports, but not what they were made from: memory is short."""
        for key in self._large:
            self._answers.pop(key, None)
        self._large.clear()


@runtime_checkable
class KeepingHost(Protocol):
    """A host that outlives a command, of memory that does not change."""

    @property
    def kept(self) -> Kept: ...


def keep(
    host: Host, key: Hashable, compute: Callable[[], T], large: bool = False, report: bool = False
) -> T:
    """`compute()`, or what `host` keeps under `key`; what is `large` it forgets first.

    A `report` is plain data.
    """
    if isinstance(host, KeepingHost):
        return host.kept.get(key, compute, large, report)
    return compute()
