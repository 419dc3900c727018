"""What is in pages that nothing accounts for: whoever the kernel's records name, else their words.

Records are allocation tags and page_owner's. A sample of the page frames is read; shares are of the
sample. The kinds, the first that fits: zeros, one value all over, text, pointers to a module,
pointers to the kernel image, pointers to other memory, anything else.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.origin.sites import FrameNames
from crashext.hosts.base import U64, Host
from crashext.kernel.access import Words
from crashext.kernel.addresses import Range
from crashext.kernel.markers import FILLED
from crashext.kernel.origin.allocprofile import page_tags, read_tags
from crashext.kernel.origin.pageowner import owners_known, read_owners
from crashext.kernel.origin.stackdepot import StackDepot
from crashext.kernel.slab.view import KernelView

SAMPLE = 2048
_MIN_TEXT = 64  # bytes, to be called text
_TEXT_SHARE = 0.9
_EXCERPT = 48
_MANY_POINTERS = 0.1  # share of the words
_FEW_GROUPS = 16
_BATCH = 256
# Stacks that page_owner gives to pages whose allocation it did not see (mm/page_owner.c).
_UNSEEN = ("register_early_stack", "register_dummy_stack", "register_failure_stack")
_PRINTABLE = np.zeros(256, np.bool_)
_PRINTABLE[[0x09, 0x0A, *range(0x20, 0x7F)]] = True


@dataclass(frozen=True, slots=True)
class PageGroup:
    """Pages alike."""

    by: str
    """``alloc-tag``, ``page-owner`` or ``content``."""
    kind: str
    """``allocated-by``; or ``zeros``, ``one-value``, ``text``, ``module-pointers``,
    ``kernel-pointers``, ``pointers``, ``data``."""
    detail: str
    """The allocating function, or its line; the value, the text with # for digits, the symbol."""
    module: str
    pages: int
    """Estimated from the sample."""
    share: float
    """Of the sample."""
    sampled: int
    example: U64
    """Address of one of the pages."""


@dataclass(frozen=True, slots=True)
class PageGroups:
    """Groups of page frames, the largest first."""

    groups: tuple[PageGroup, ...]
    sampled: int
    unreadable: int
    """Of the sample: the dump does not hold these pages."""


BY_RECORD = ("alloc-tag", "page-owner")
"""Which `PageGroup.by` name who allocated the pages."""

Label = tuple[str, str, str, str]
"""(by, kind, detail, module)"""


def group_pages(
    view: KernelView, frames: NDArray[np.int64], rng: np.random.Generator
) -> PageGroups:
    """Group page frames by a sample of them."""
    chosen = frames
    if len(frames) > SAMPLE:
        chosen = np.sort(rng.choice(frames, SAMPLE, replace=False))
    labels = label_pages(view, chosen)
    members: dict[Label, list[int]] = {}
    for frame in chosen.tolist():
        if frame in labels:
            members.setdefault(labels[frame], []).append(frame)
    members = _pooled(members)
    groups = [
        PageGroup(
            *label,
            pages=round(len(some) / len(labels) * len(frames)),
            share=len(some) / len(labels),
            sampled=len(some),
            example=U64(view.space.address(some[0])),
        )
        for label, some in sorted(members.items(), key=lambda m: (-len(m[1]), m[0]))
    ]
    return PageGroups(tuple(groups[:_FEW_GROUPS]), len(chosen), len(chosen) - len(labels))


def label_pages(view: KernelView, frames: NDArray[np.int64]) -> dict[int, Label]:
    """What each page frame is, by the strongest that knows; those that cannot be read have none."""
    labels = recorded_pages(view, frames)
    rest = np.array([f for f in frames.tolist() if f not in labels], np.int64)
    labels.update(_contents(view, rest))
    return labels


def recorded_pages(view: KernelView, frames: NDArray[np.int64]) -> dict[int, Label]:
    """Who allocated each page frame, by the kernel's records; those without one have no label."""
    labels: dict[int, Label] = dict(_tagged(view, frames))
    rest = np.array([f for f in frames.tolist() if f not in labels], np.int64)
    labels.update(_owners(view, rest))
    return labels


def _pooled(members: dict[Label, list[int]]) -> dict[Label, list[int]]:
    """Groups of one page together with others of their kind: a detail seen once says nothing."""
    pooled: dict[Label, list[int]] = {}
    for label, some in members.items():
        by, kind, _, module = label
        alone = len(some) == 1 and by == "content"
        pooled.setdefault((by, kind, "", module) if alone else label, []).extend(some)
    return pooled


def _tagged(view: KernelView, frames: NDArray[np.int64]) -> Iterator[tuple[int, Label]]:
    """Labels of the page frames whose allocation has a tag, which the first page of each has."""
    at = page_tags(view.memory, frames.astype(np.uint64))
    tags = read_tags(view.host, at)
    for frame, tag in zip(frames.tolist(), at.tolist(), strict=True):
        if tag in tags:
            yield frame, ("alloc-tag", "allocated-by", tags[tag].site, tags[tag].module)


def _owners(view: KernelView, frames: NDArray[np.int64]) -> Iterator[tuple[int, Label]]:
    """Labels of the page frames that page_owner has a record of."""
    if not len(frames) or not owners_known(view.host):
        return
    owners = read_owners(view.host, frames.astype(np.uint64))
    stacks = StackDepot(view.host).stacks(owners.handle[owners.ok])
    names = FrameNames(view.host)
    for frame, handle, inline, ok in zip(
        frames.tolist(),
        owners.handle.tolist(),
        owners.inline.tolist(),
        owners.ok.tolist(),
        strict=True,
    ):
        own = tuple(f for f in inline if f)
        stack = stacks.get(handle) or own if ok else None
        site = names.site(stack) if stack else None
        if site is not None and not site.function.startswith(_UNSEEN):
            yield frame, ("page-owner", "allocated-by", site.site, site.module)


def _contents(view: KernelView, frames: NDArray[np.int64]) -> Iterator[tuple[int, Label]]:
    areas = _ModuleAreas(view.host)
    for start in range(0, len(frames), _BATCH):
        some = frames[start : start + _BATCH]
        rows, ok = view.host.read_many(
            view.space.addresses(some.astype(np.uint64)), view.space.page_size
        )
        words = np.ascontiguousarray(rows).view("<u8")
        for i in np.flatnonzero(ok).tolist():
            kind, detail, module = _describe(view, areas, words[i])
            yield int(some[i]), ("content", kind, detail, module)


class _ModuleAreas:
    """Where modules are; a distribution's kernel has a hundred."""

    def __init__(self, host: Host) -> None:
        known = [(a, b, i) for i, m in enumerate(host.modules()) for a, b in m.ranges]
        table = np.array(sorted(known), np.uint64).reshape(-1, 3)
        self._start, self._end, self._number = table.T

    def first_of(self, words: Words) -> int | None:
        """The first module, by the host's order, that any of the words leads to."""
        if not len(self._start):
            return None
        at = np.searchsorted(self._start, words, side="right") - 1
        inside = (at >= 0) & (words < self._end[np.maximum(at, 0)])
        return int(self._number[at[inside]].min()) if inside.any() else None


def _describe(view: KernelView, areas: _ModuleAreas, words: Words) -> tuple[str, str, str]:
    """(kind, detail, module) of one page: uint64[512]."""
    used = words[words != 0]
    if not len(used):
        return "zeros", "", ""
    if (words == words[0]).all():
        value = int(words[0])
        known = FILLED.get(value & 0xFF) if value == (value & 0xFF) * 0x0101010101010101 else None
        return "one-value", f"{value:#018x}" + (f" ({known[0]})" if known else ""), ""
    text = words.tobytes()
    content = np.frombuffer(text, np.uint8)
    content = content[content != 0]
    if len(content) >= _MIN_TEXT and _PRINTABLE[content].mean() >= _TEXT_SHARE:
        return "text", _excerpt(text), ""
    number = areas.first_of(used)
    if number is not None:
        module = view.host.modules()[number]
        inside = [used[Range(a, b).holds(used)] for a, b in module.ranges]
        return "module-pointers", _symbol(view, np.concatenate(inside)), module.name
    image = used[view.space.image.holds(used)]
    if len(image):
        return "kernel-pointers", _symbol(view, image), ""
    space = view.space
    pointers = sum(int(r.holds(used).sum()) for r in (space.direct, space.vmalloc, space.vmemmap))
    return ("pointers" if pointers >= _MANY_POINTERS * len(used) else "data"), "", ""


def _excerpt(text: bytes) -> str:
    """The first line's beginning, with # for digits, so that numbered lines are alike."""
    lines = re.findall(rb"[ -~]{4,}", text)
    longest = max(lines[:8], key=len, default=b"")
    return re.sub(r"\d", "#", longest[:_EXCERPT].decode("ascii")).strip()


def _symbol(view: KernelView, values: Words) -> str:
    """Name of what most of the pointers point at."""
    value = Counter(values.tolist()).most_common(1)[0][0]
    symbol = view.host.symbol_at(value)
    return symbol.name if symbol else ""
