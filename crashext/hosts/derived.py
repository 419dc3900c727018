"""Answers that need the whole memory: worked out once, and recorded as answers.

A session can hold what a run read of a few caches; it cannot hold the gigabytes that a pass over
all memory reads. So such a pass is one question: a recording host lets it be worked out unrecorded
and keeps the answer, and a replaying one gives the answer back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from crashext.hosts.base import Host


@runtime_checkable
class DerivingHost(Protocol):
    """A host that keeps answers, or gives kept ones."""

    def derived(self, key: str, compute: Callable[[], Any]) -> Any: ...


def derived(host: Host, key: str, compute: Callable[[], Any]) -> Any:
    """`compute()`, or the answer that a session has under `key`; None where it has none.

    The answer is plain JSON data (lists, dicts with string keys, numbers, strings, None). One
    that comes from a session comes from a stranger: whoever asks checks its types.
    """
    return host.derived(key, compute) if isinstance(host, DerivingHost) else compute()
