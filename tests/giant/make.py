"""Write one generated machine, and the truth about it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crashext.kernel.pages.frames import FrameUse
from tests.lab import Dump

from .counters import Pages, count, resident
from .cpus import LastCpu
from .crowds import Crowds
from .held import HeldSlabs
from .image import PAGE, Image
from .kernel import Kernel, open_base
from .pages import PAGES, Rows, Templates, Workspace, free_section, on_node
from .sections import add_sections
from .shape import GIB, SECTION, TIB, Shape
from .slabs import LeakedSlabs

_FIRST = 4 * GIB
"""Physical address of the memory that is added: behind the hole that PCI has."""
_SPREAD = 2 * TIB
"""Bytes of the file that one hole for zeros has at most."""
_HELD = "held "
"""What runs of held objects are called, and their cache."""


def make(base: Dump, shape: Shape, target: Path) -> dict[str, Any]:
    """Extend a lab's dump; returns the truth, which is also beside `target` as JSON."""
    target.unlink(missing_ok=True)
    rng = np.random.default_rng(shape.seed)
    image = Image(base.vmcore, target)
    kernel = open_base(base.folder, image)
    templates = Templates(kernel)
    leak = LeakedSlabs(kernel, base, "nodes")
    runs = _plan(shape, len(kernel.nodes))
    work = Workspace(kernel, templates, _FIRST, _work_sections(shape, runs))
    held = {_HELD + name: HeldSlabs(kernel, work, name) for name in shape.held_in if shape.held}
    added = [Pages(first=work.start // PAGE) for _ in kernel.nodes]
    partial = leak.partial(work, shape.partial, rng)
    leak.count(0, shape.partial)
    added[0].slab = shape.partial
    _sections(kernel, templates, leak, held, work, runs, added)
    _content(image, leak, runs, shape, rng)
    own = added[0]
    holders = sum(_hold(image, kind, slabs, runs) for kind, slabs in held.items())
    own.slab += holders
    crowds = Crowds(kernel, work)
    crowds.add(shape.crowd, next((at * PAGES for kind, _, at, _ in runs if kind == "kernel"), 0))
    own.slab += crowds.slab_pages
    last = LastCpu(kernel, work)
    if shape.cpus:
        last.add()
        own.slab += last.slab_pages
    own.stacks = shape.crowd.tasks
    own.present += work.sections * PAGES
    own.reserved = work.used - shape.partial - crowds.slab_pages - holders - last.slab_pages
    own.free += work.free_rest()
    work.flush()
    kernel.flush()
    for number, pages in enumerate(added):
        count(kernel, number, pages)
    resident(kernel, sum(pages.user for pages in added))
    kernel.write(kernel.symbol("max_pfn"), max(pages.end for pages in added))
    segments = image.finish()
    full = sum(n for kind, _, _, n in runs if kind == "leaked") * PAGES
    slots = leak.cache.objects_per_slab
    truth = {
        "base": base.folder.name,
        "shape": asdict(shape),
        "nodes": len(kernel.nodes),
        "segments": segments,
        "leak": {
            "cache": leak.cache.name,
            "objects": leak.base + full * slots + partial,
            "added_slots": (full + shape.partial) * slots,
            "added_slabs": full + shape.partial,
        },
        "last_cpu": last.truth,
        "runs": [(kind, node, at * PAGES, n * PAGES) for kind, node, at, n in runs],
        "added": {name: sum(asdict(p)[name] for p in added) for name in asdict(added[0])},
    }
    target.with_suffix(".json").write_text(json.dumps(truth, indent=1) + "\n")
    return truth


Run = tuple[str, int, int, int]
"""What it is, node, first section, sections."""


def _plan(shape: Shape, nodes: int) -> list[Run]:
    """Where everything goes: each node has its share of each kind, and a hole behind it."""
    wanted = {
        "leaked": shape.leaked,
        **{_HELD + name: shape.held for name in shape.held_in},
        "free": shape.free,
        "user": shape.user,
        "kernel": shape.crowd.kernel,
    }
    runs: list[Run] = []
    at = _FIRST // SECTION + _WORK
    for node in range(nodes):
        for kind, size in wanted.items():
            whole = size // SECTION
            some = whole * (node + 1) // nodes - whole * node // nodes
            if some:
                runs.append((kind, node, at, some))
                at += some
        at += shape.hole // SECTION
    return runs


_WORK = 64
"""Sections of address space that the workspace may have."""


def _work_sections(shape: Shape, runs: list[Run]) -> int:
    """Sections of the workspace: struct pages of its own and of each run, tables, slabs."""
    sections = sum(n for *_, n in runs)
    tables = sections // 512 * 3 + sections // 128 + 64
    pages = 512 * (len(runs) + 4) + tables + shape.partial + shape.crowd.pages + 4096
    pages += shape.all_held // (64 * 500)
    return min(_WORK, pages // (PAGES - 1024) + 1)


def _sections(
    kernel: Kernel,
    templates: Templates,
    leak: LeakedSlabs,
    held: dict[str, HeldSlabs],
    work: Workspace,
    runs: list[Run],
    added: list[Pages],
) -> None:
    """The memory map of every run: one section of it for all."""
    reserved = templates.some(FrameUse.RESERVED)
    kinds: dict[str, Rows] = {
        "leaked": np.repeat(leak.row[None], PAGES, axis=0),
        **{kind: np.repeat(slabs.row[None], PAGES, axis=0) for kind, slabs in held.items()},
        "free": free_section(templates),
        "user": np.repeat(templates.some(FrameUse.ANON)[None], PAGES, axis=0),
        "kernel": np.repeat(templates.some(FrameUse.KERNEL)[None], PAGES, axis=0),
    }
    numbers: list[NDArray[np.int64]] = []
    targets: list[NDArray[np.uint64]] = []
    for kind, node, first, some in runs:
        rows = kinds[kind].copy()
        on_node(rows, node)
        at = work.take(512, reserved, align=512)
        kernel.image.write(at, rows)
        numbers.append(np.arange(first, first + some))
        targets.append(np.full(some, at, np.uint64))
        pages = added[node]
        if not pages.present and node:
            pages.first = first * PAGES
        pages.end = (first + some) * PAGES
        pages.present += some * PAGES
        match kind:
            case "leaked":
                pages.slab += some * PAGES
                leak.count(node, some * PAGES)
            case _ if kind in held:
                pages.slab += some * PAGES
                held[kind].count(node, some * PAGES)
            case "free":
                pages.free += some * PAGES
            case "user":
                pages.user += some * PAGES
            case "kernel":
                pages.kernel += some * PAGES
    own = work.take(512 * work.sections, reserved, align=512)
    work.map_at = own
    numbers.append(work.start // SECTION + np.arange(work.sections))
    targets.append(np.uint64(own) + np.arange(work.sections, dtype=np.uint64) * np.uint64(2 << 20))
    order = np.argsort(np.concatenate(numbers), kind="stable")
    add_sections(
        kernel, work, reserved, np.concatenate(numbers)[order], np.concatenate(targets)[order]
    )


def _content(
    image: Image, leak: LeakedSlabs, runs: list[Run], shape: Shape, rng: np.random.Generator
) -> None:
    """What the added pages hold: leaked objects, the same for every section if they may be; zeros;
    nothing."""
    objects = _objects(image, leak, rng)
    rest = [r for r in runs if r[0] != "leaked" and not r[0].startswith(_HELD)]
    zeros = image.room(min(_SPREAD, max((n for *_, n in rest), default=0) * SECTION))
    for kind, _, first, some in (r for r in runs if not r[0].startswith(_HELD)):
        step = 1 if kind == "leaked" else _SPREAD // SECTION
        if kind != "leaked" and not shape.whole:
            continue
        for at in range(first, first + some, step):
            size = min(step, first + some - at) * SECTION
            if kind == "leaked" and shape.apart and at > first:
                objects = _objects(image, leak, rng)
            image.add(at * SECTION, size, objects if kind == "leaked" else zeros)


def _objects(image: Image, leak: LeakedSlabs, rng: np.random.Generator) -> int:
    """Where in the file one section's leaked objects are."""
    at = image.room(SECTION)
    image.put(at, leak.content(PAGES, rng))
    return at


def _hold(image: Image, what: str, held: HeldSlabs, runs: list[Run]) -> int:
    """The held objects, the same in every section, and what holds them."""
    sections = [(first, some) for kind, _, first, some in runs if kind == what]
    if not sections:
        return 0
    content = image.room(SECTION)
    image.put(content, held.content(held.work.address(sections[0][0] * SECTION)))
    for first, some in sections:
        for at in range(first, first + some):
            image.add(at * SECTION, SECTION, content)
    return held.hold([(first * PAGES, some * PAGES) for first, some in sections])
