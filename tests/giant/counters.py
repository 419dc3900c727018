"""The counters of a generated machine: of nodes, zones, and of all memory."""

from __future__ import annotations

from dataclasses import dataclass

from .kernel import Kernel

_NORMAL = 2  # ZONE_NORMAL


@dataclass
class Pages:
    """Page frames that were added to one node."""

    first: int = 0
    end: int = 0
    present: int = 0
    free: int = 0
    user: int = 0
    slab: int = 0
    kernel: int = 0
    """Of vmalloc areas, stacks among them."""
    stacks: int = 0
    reserved: int = 0
    """Not given to the page allocator."""

    @property
    def managed(self) -> int:
        return self.present - self.reserved


def count(kernel: Kernel, number: int, added: Pages) -> None:
    """Let a node, its ZONE_NORMAL and the sums know of pages."""
    node, zone = kernel.layout("struct pglist_data"), kernel.layout("struct zone")
    at = kernel.nodes[number]
    start = kernel.read(at + node["node_start_pfn"].offset) if number == 0 else added.first
    kernel.write(at + node["node_start_pfn"].offset, start)
    kernel.write(at + node["node_spanned_pages"].offset, added.end - start)
    kernel.bump(at + node["node_present_pages"].offset, added.present)
    normal = at + node["node_zones"].offset + _NORMAL * zone.size
    kernel.write(normal + zone["zone_start_pfn"].offset, added.first)
    kernel.write(normal + zone["spanned_pages"].offset, added.end - added.first)
    kernel.bump(normal + zone["present_pages"].offset, added.present)
    kernel.bump(normal + zone["managed_pages"].offset, added.managed)
    for name, pages in (("NR_FREE_PAGES", added.free), ("NR_ZONE_INACTIVE_ANON", added.user)):
        kernel.bump(kernel.item(normal + zone["vm_stat"].offset, name), pages)
        kernel.bump(kernel.item(kernel.symbol("vm_zone_stat"), name), pages)
    for name, pages in (
        ("NR_SLAB_UNRECLAIMABLE_B", added.slab),
        ("NR_ANON_MAPPED", added.user),
        ("NR_INACTIVE_ANON", added.user),
        ("NR_KERNEL_STACK_KB", 16 * added.stacks),
    ):
        kernel.bump(kernel.item(at + node["vm_stat"].offset, name), pages)
        kernel.bump(kernel.item(kernel.symbol("vm_node_stat"), name), pages)
    kernel.bump(kernel.symbol("_totalram_pages"), added.managed)
    kernel.bump(kernel.symbol("nr_vmalloc_pages"), added.kernel)


def resident(kernel: Kernel, pages: int) -> None:
    """Let the first process know of its own memory."""
    task, mm = kernel.layout("struct task_struct"), kernel.layout("struct mm_struct")
    at = kernel.symbol("init_task")
    while not kernel.read(at + task["mm"].offset):
        at = kernel.read(at + task["tasks"].offset) - task["tasks"].offset
    anonymous = kernel.host.enumerator("MM_ANONPAGES")
    assert anonymous is not None
    where = kernel.read(at + task["mm"].offset) + mm["rss_stat"].offset + 8 * anonymous
    kernel.bump(where, pages)
