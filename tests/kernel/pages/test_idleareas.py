"""Records of address ranges that no area uses, in the trees and lists of each generation."""

from __future__ import annotations

from crashext.kernel.pages.idleareas import idle_records
from tests.fake import FakeHost, layout, word

AREA = 0xFFFF888001000000
ROOT, LIST, NODES = 0xFFFFFFFF82000000, 0xFFFFFFFF82000100, 0xFFFF888002000000
RB, LINK = 16, 40
LAYOUTS = (
    layout("struct rb_node", 24, rb_right=(8, 8), rb_left=(16, 8)),
    layout("struct vmap_area", 72, rb_node=(RB, 24), list=(LINK, 16), vm=(56, 8)),
)


def area(host: FakeHost, number: int, left: int = 0, right: int = 0, following: int = 0) -> int:
    at = AREA + 0x100 * number
    host.put(at, word(0, 0, 0, right, left, following, 0, 0xFFFF888009000000, 0))
    return at


def test_free_ranges_are_in_a_tree() -> None:
    host = FakeHost(*LAYOUTS, symbols={"free_vmap_area_root": ROOT})
    left, right = area(host, 1), area(host, 2)
    top = area(host, 0, left + RB, right + RB)
    host.put(ROOT, word(top + RB))
    assert idle_records(host).tolist() == [top, left, right]


def test_ranges_to_be_purged_are_on_a_list() -> None:
    host = FakeHost(*LAYOUTS, symbols={"purge_vmap_area_list": LIST})
    last = area(host, 1, following=LIST)
    first = area(host, 0, following=last + LINK)
    host.put(LIST, word(first + LINK, last + LINK))
    assert idle_records(host).tolist() == [first, last]


def test_nodes_since_6_9_have_lazy_trees_purge_lists_and_pools() -> None:
    host = FakeHost(
        *LAYOUTS,
        layout("struct rb_list", 32, root=(0, 8), head=(8, 16)),
        layout("struct vmap_pool", 24, head=(0, 16), len=(16, 8)),
        layout(
            "struct vmap_node",
            128,
            pool=(0, 48),
            busy=(48, 32),
            lazy=(80, 32),
            purge_list=(112, 16),
        ),
        symbols={"vmap_nodes": ROOT, "nr_vmap_nodes": ROOT + 8},
    )
    host.put(ROOT, word(NODES, 2))
    busy, lazy = area(host, 0), area(host, 1)
    pooled, purged = area(host, 2, following=NODES + 24), area(host, 3, following=NODES + 128 + 112)

    def node(at: int, pool: int, of_lazy: int, purge: int) -> bytes:
        empty = word(at, at, 0)
        second = word(pool + LINK, pool + LINK, 1) if pool else word(at + 24, at + 24, 0)
        listed = word(purge + LINK) * 2 if purge else word(at + 112, at + 112)
        trees = word(busy + RB, 0, 0, 0, of_lazy + RB if of_lazy else 0, 0, 0, 0)
        return empty + second + trees + listed

    host.put(NODES, node(NODES, pooled, lazy, 0) + node(NODES + 128, 0, 0, purged))
    assert idle_records(host).tolist() == [lazy, pooled, purged]


def test_a_kernel_without_areas_has_none() -> None:
    assert not len(idle_records(FakeHost()))
