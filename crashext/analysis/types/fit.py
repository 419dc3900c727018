"""How well a struct explains some bytes: the log-likelihood of their words, field by field.

A word's kind is probable or improbable for what a field holds (`_KINDS`), against what it is for
a field of any kind. What a struct gains is the sum over its fields; zeros tell next to nothing.
The tables were set by hand, once, from what such fields hold in kernels. It follows no pointer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.likeness.words import Kind, WordMap
from crashext.distinct import among
from crashext.kernel.fields import Field, Form
from crashext.kernel.markers import LIST_POISON

_KINDS: dict[Form, dict[Kind, float]] = {
    Form.POINTER: {
        Kind.ZERO: 0.40,
        Kind.SLAB: 0.34,
        Kind.DATA_SYMBOL: 0.07,
        Kind.MODULE: 0.04,
        Kind.DIRECT: 0.05,
        Kind.VMALLOC: 0.03,
        Kind.VMEMMAP: 0.02,
        Kind.SELF: 0.02,
        Kind.PERCPU: 0.01,
        Kind.USER: 0.004,
        Kind.NEGATIVE: 0.01,  # -1: ACL_NOT_CACHED and the like
        Kind.ERR_PTR: 0.003,
        Kind.POISON: 0.002,
        Kind.LIST_POISON: 0.002,
        Kind.SMALL: 0.003,
    },
    Form.FUNCTION: {
        Kind.ZERO: 0.40,
        Kind.TEXT_SYMBOL: 0.44,
        Kind.MODULE: 0.12,
        Kind.USER: 0.008,  # a signal handler
        Kind.SMALL: 0.008,
    },
    Form.LONG: {
        Kind.ZERO: 0.40,
        Kind.SMALL: 0.24,
        Kind.INT: 0.12,
        Kind.PAIR: 0.05,
        Kind.OPAQUE: 0.08,
        Kind.NEGATIVE: 0.03,
        Kind.USER: 0.03,
        Kind.ASCII: 0.01,
        Kind.SLAB: 0.006,
        Kind.DIRECT: 0.004,
        Kind.VMALLOC: 0.002,
        Kind.PERCPU: 0.003,
        Kind.ERR_PTR: 0.01,
    },
    Form.INT: {
        Kind.ZERO: 0.40,
        Kind.SMALL: 0.22,
        Kind.INT: 0.12,
        Kind.PAIR: 0.14,
        Kind.OPAQUE: 0.08,
        Kind.NEGATIVE: 0.01,
        Kind.ERR_PTR: 0.004,
        Kind.ASCII: 0.01,
        Kind.PERCPU: 0.001,
        Kind.USER: 0.004,
    },
    Form.CHARS: {
        Kind.ZERO: 0.42,
        Kind.ASCII: 0.35,
        Kind.OPAQUE: 0.12,
        Kind.INT: 0.04,
        Kind.SMALL: 0.03,
        Kind.PAIR: 0.01,
        Kind.USER: 0.004,
    },
    Form.TAGGED: {
        Kind.ZERO: 0.45,
        Kind.SLAB: 0.24,
        Kind.SELF: 0.10,
        Kind.DIRECT: 0.03,
        Kind.VMALLOC: 0.03,
        Kind.DATA_SYMBOL: 0.03,
        Kind.INT: 0.02,
        Kind.SMALL: 0.12,
        Kind.OPAQUE: 0.03,
        Kind.MODULE: 0.005,
    },
}
_IMPROBABLE = 0.0006
_MIXTURE = {
    Form.POINTER: 0.40,
    Form.FUNCTION: 0.07,
    Form.LONG: 0.18,
    Form.INT: 0.25,
    Form.CHARS: 0.06,
    Form.TAGGED: 0.04,
}
_WORDS = len(_KINDS)
_POINTING = (Kind.SLAB, Kind.DATA_SYMBOL, Kind.MODULE, Kind.DIRECT, Kind.VMALLOC, Kind.SELF)
_AS = {
    Form.BOOL: Form.INT,
    Form.ENUM: Form.INT,
    Form.REFCOUNT: Form.INT,
    Form.LOCK: Form.INT,
}
_LINK, _NO_LINK = 8.0, 4.0  # the most that a pair of links may gain, and what no pair loses

# What is expected of small values: (probability if it is that, probability of any number).
_ZERO_HOLE = (0.95, 0.75)
_BOOLEAN = (0.997, 0.70)
_ENUMERATED = (0.98, 0.65)
_COUNTED = (0.85, 0.45)
_UNLOCKED = (0.97, 0.60)
_MOST_REFERENCES = 1 << 16


def _tables() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """log(P(kind | form) / P(kind)): float64[forms, kinds], and log P(kind): float64[kinds]."""
    probability = np.full((_WORDS, len(Kind)), _IMPROBABLE)
    for form, kinds in _KINDS.items():
        for kind, value in kinds.items():
            probability[form, kind] = value
    probability /= probability.sum(axis=1, keepdims=True)
    weights = np.array([_MIXTURE[Form(i)] for i in range(_WORDS)])
    any_field = weights @ probability
    return np.log(probability / any_field), np.log(any_field)


_RATIO, _ANY = _tables()


@dataclass(frozen=True)
class Observed:
    """Some objects, or one, as far as a struct can be laid over them."""

    words: WordMap
    length: int
    """Bytes of each that are known."""

    @cached_property
    def gains(self) -> list[list[float]]:
        """Mean log ratio by form and word: [form][word]."""
        mean: list[list[float]] = _RATIO[:, self.words.kinds].mean(axis=1).tolist()
        return mean

    @cached_property
    def lists(self) -> list[float]:
        """Log ratio of a list_head in each two words: [word]."""
        kinds, details, values = self.words.kinds, self.words.details, self.words.values
        own = np.arange(kinds.shape[1], dtype=np.uint64)[None] * np.uint64(8)
        itself = (kinds == Kind.SELF) & (details == own)
        before = (kinds == Kind.SELF) & (details + np.uint64(8) == own)
        leads = _leads(kinds) & ~itself
        same = (kinds == Kind.SLAB) & (details & np.uint64(0xFFFFFFFF) == own)
        first, second = _poisons(values)
        a, b = slice(None, -1), slice(1, None)
        chance = np.zeros(kinds[:, a].shape)
        chance[(kinds[:, a] == Kind.ZERO) & (kinds[:, b] == Kind.ZERO)] = 0.15
        chance[leads[:, a] & leads[:, b]] = 0.30
        chance[same[:, a] & leads[:, b]] = 0.45
        chance[itself[:, a] & before[:, b]] = 0.25
        chance[first[:, a] & second[:, b]] = 0.10
        chance[leads[:, a] & second[:, b]] = 0.08  # list_del_rcu() leaves the way forward
        return _pair_gain(chance, kinds)

    @cached_property
    def hashed(self) -> list[float]:
        """Log ratio of an hlist_node in each two words: [word]."""
        kinds, values = self.words.kinds, self.words.values
        zero, leads = kinds == Kind.ZERO, _leads(kinds)
        first, second = _poisons(values)
        a, b = slice(None, -1), slice(1, None)
        chance = np.zeros(kinds[:, a].shape)
        chance[zero[:, a] & zero[:, b]] = 0.15
        chance[(zero | leads)[:, a] & leads[:, b]] = 0.30
        chance[(zero | leads | first)[:, a] & second[:, b]] = 0.08
        return _pair_gain(chance, kinds)

    @cached_property
    def _bytes(self) -> NDArray[np.uint8]:
        return np.ascontiguousarray(self.words.values).view(np.uint8)

    @cached_property
    def zero_bytes(self) -> list[float]:
        """Share of the objects in which each byte is 0."""
        share: list[float] = (self._bytes == 0).mean(axis=0).tolist()
        return share

    @cached_property
    def low_bytes(self) -> list[float]:
        """Share of the objects in which each byte is 0 or 1."""
        share: list[float] = (self._bytes <= 1).mean(axis=0).tolist()
        return share

    def numbers(self, offset: int, size: int) -> NDArray[np.uint64]:
        """An unsigned number of up to 8 bytes in every object."""
        wide = np.zeros((len(self._bytes), 8), np.uint8)
        wide[:, :size] = self._bytes[:, offset : offset + size]
        return wide.view("<u8")[:, 0]

    def gain(self, field: Field, enumerators: frozenset[int] | None = None) -> float:
        """How much more probable the bytes are if `field` is there than if anything may be."""
        return field.share * self._gain(field, enumerators)

    def _gain(self, field: Field, enumerators: frozenset[int] | None) -> float:
        offset, size, form = field.offset, field.size, field.form
        if offset < 0 or offset + size > self.length:
            return 0.0
        word = offset // 8
        match form:
            case Form.LIST | Form.HLIST_NODE:
                if offset % 8:
                    return 0.0
                return self.lists[word] if form == Form.LIST else self.hashed[word]
            case Form.BYTES:
                return 0.0
            case Form.CHARS:
                return self._spread(self.gains[Form.CHARS], offset, size)
        if size > 8 or offset % 8 + size > 8:
            return 0.0
        gain = self.gains[_AS.get(form, form)][word] * size / 8
        if form == Form.BOOL and not field.bit_size:
            gain += _expected(self.low_bytes[offset], *_BOOLEAN)
        elif form == Form.LOCK:
            gain += _expected(float((self.numbers(offset, size) == 0).mean()), *_UNLOCKED)
        elif form == Form.REFCOUNT:
            counts = self.numbers(offset, size) - np.uint64(1)
            gain += _expected(float((counts < _MOST_REFERENCES).mean()), *_COUNTED)
        elif form == Form.ENUM and enumerators is not None and not field.bit_size:
            values = self.numbers(offset, size)
            known = among(values, np.array(sorted(enumerators), np.uint64))
            gain += _expected(float(known.mean()), *_ENUMERATED)
        return gain

    def hole(self, start: int, end: int) -> float:
        """The gain of bytes that no field has: they are hardly ever set."""
        end = min(end, self.length)
        if start >= end:
            return 0.0
        zero = min(self.zero_bytes[start:end])
        return _expected(zero, *_ZERO_HOLE) * min(1.0, (end - start) / 4)

    @staticmethod
    def _spread(gains: list[float], start: int, size: int) -> float:
        total, at = 0.0, start
        while at < start + size:
            step = min(8 - at % 8, start + size - at)
            total += gains[at // 8] * step / 8
            at += step
        return total


def _leads(kinds: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.isin(kinds, np.array(_POINTING, np.uint8))


def _poisons(values: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Words that are LIST_POISON1, and those that are LIST_POISON2."""
    one, two = (
        np.array([m.value for m in LIST_POISON if m.name.startswith(f"LIST_POISON{i}")], np.uint64)
        for i in (1, 2)
    )
    return np.isin(values, one), np.isin(values, two)


def _pair_gain(chance: NDArray[np.float64], kinds: NDArray[np.uint8]) -> list[float]:
    """Mean log ratio of two words as one pair, whose probability is `chance`; 0: it is none."""
    some = chance > 0
    ratio = np.log(np.where(some, chance, 1.0)) - _ANY[kinds[:, :-1]] - _ANY[kinds[:, 1:]]
    gains: list[float] = np.where(some, ratio, -_NO_LINK).clip(max=_LINK).mean(axis=0).tolist()
    return [*gains, 0.0]


def _expected(share: float, if_so: float, otherwise: float) -> float:
    """Mean log ratio where `share` of the values are as expected."""
    return float(
        share * np.log(if_so / otherwise) + (1 - share) * np.log((1 - if_so) / (1 - otherwise))
    )
