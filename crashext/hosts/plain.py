"""Dataclasses as plain JSON data and back, types checked: what a session keeps of an analysis."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Callable
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from crashext.hosts.base import Host, HostError
from crashext.hosts.derived import derived

T = TypeVar("T")


def answered(host: Host, key: str, kind: type[T], compute: Callable[[], T]) -> T | None:
    """`compute()`, or the answer that a session keeps under `key`; None where it has none.

    Raises `HostError` where the session's answer is no `kind`.
    """
    answer = derived(host, key, lambda: plain(compute()))
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


def plain(value: Any) -> Any:
    """A dataclass of numbers, strings, tuples and dataclasses as JSON data."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    return value


def from_plain(kind: type[T], data: Any) -> T:
    """The dataclass `kind` that `plain` made `data` of. Raises `ValueError` at anything else."""
    try:
        return cast(T, _build(kind, data))
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"no {kind.__name__}") from error


def _build(kind: Any, data: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        fields = [f for f in dataclasses.fields(kind) if f.init]
        # What a later release added has a default: a session of an earlier one lacks it.
        known = [f for f in fields if f.name in data or f.default is dataclasses.MISSING]
        return kind(**{f.name: _build(hints[f.name], data[f.name]) for f in known})
    if origin in (Union, types.UnionType):
        if data is None and type(None) in arguments:
            return None
        (other,) = [a for a in arguments if a is not type(None)]
        return _build(other, data)
    if origin is tuple:
        if not isinstance(data, list):
            raise ValueError("not a list")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_build(arguments[0], d) for d in data)
        return tuple(_build(a, d) for a, d in zip(arguments, data, strict=True))
    if kind is float and type(data) in (int, float):
        if not abs(data) <= sys.float_info.max:
            raise ValueError("no finite number")
        return float(data)
    if kind is int and type(data) is int and not -1 << 63 <= data < 1 << 64:
        raise ValueError("no number of this machine")
    if kind in (int, float, str, bool) and type(data) is kind:
        return data
    raise ValueError(f"{data!r:.40} is no {kind}")
