"""Dataclasses as plain JSON data and back, types and limits checked: what sessions keep of a run.

msgspec knows dataclasses; the rules for what it does not know stand here, once: words of the
kernel, numpy's arrays and numbers. report/documents.py writes the same dataclasses for readers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import numpy as np

from crashext.hosts.base import U64, Host, HostError
from crashext.hosts.derived import DerivingHost

T = TypeVar("T")

_DEEPEST = 32  # of what is nested; our own answers go half as deep
_LEAST, _END = -1 << 63, 1 << 64
_HEX = re.compile("0x[0-9a-f]{1,16}")


def answered(host: Host, key: str, kind: type[T], compute: Callable[[], T | None]) -> T | None:
    """`compute()`, or the answer that a session keeps under `key`; None where it has none.

    Raises `HostError` where the session's answer is no `kind`.
    """
    if not isinstance(host, DerivingHost):
        return compute()
    answer = host.derived(key, lambda: plain(compute()))
    if answer is None:
        return None
    try:
        return from_plain(kind, answer)
    except ValueError as error:
        raise no_answer(key) from error


def no_answer(key: str) -> HostError:
    """The error for a session whose answer makes no sense."""
    return HostError(
        f"this session is damaged, or of another version of crashext: its answer to '{key}' is none"
    )


def plain(value: Any, word: Callable[[int], Any] = int) -> Any:
    """Dataclasses, numbers, strings, tuples and arrays as JSON data; `word` writes a `U64`."""

    def unknown(value: Any) -> Any:
        if isinstance(value, U64):
            return word(value)
        if isinstance(value, np.ndarray):
            numbers = value.tolist()
            return [word(n) for n in numbers] if value.dtype == np.uint64 else numbers
        if isinstance(value, np.generic):
            return value.item()
        raise NotImplementedError(f"{type(value)} in an answer")

    return msgspec.to_builtins(value, enc_hook=unknown, str_keys=True)


def from_plain(kind: type[T], data: Any) -> T:
    """The `kind` that `plain` made `data` of. Raises `ValueError` at anything else.

    What a later release added to a dataclass has a default: data of an earlier one lacks it. Such
    dataclasses have slots: where there are none, msgspec leaves a default out of what it writes.
    Members that nobody knows are passed over: a later release may say more.
    """
    try:
        _within_limits(data, _DEEPEST)
        return msgspec.convert(data, kind, dec_hook=_word)
    except msgspec.ValidationError as error:
        raise ValueError(f"no {getattr(kind, '__name__', kind)}: {error}") from error


def _word(kind: type, value: Any) -> Any:
    """A number, as a session has it, or hex, as a report does."""
    if kind is U64 and type(value) is int and value >= 0:
        return U64(value)
    if kind is U64 and isinstance(value, str) and _HEX.fullmatch(value):
        return U64(value, 16)
    raise ValueError("no word of 64 bits")


def _within_limits(data: Any, room: int) -> None:
    """Numbers of this machine, and not nested without end."""
    if isinstance(data, int):
        if not _LEAST <= data < _END:
            raise ValueError("no number of this machine")
    elif isinstance(data, float):
        if not math.isfinite(data):
            raise ValueError("no finite number")
    elif isinstance(data, dict | list | tuple):
        if not room:
            raise ValueError("nested too deep")
        for inner in data.values() if isinstance(data, dict) else data:
            _within_limits(inner, room - 1)
