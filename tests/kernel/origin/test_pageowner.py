"""page_ext and page_owner on synthetic memory: both memory models, and what may be missing."""

from __future__ import annotations

import numpy as np
import pytest

from crashext.kernel.origin.pageowner import PageOwners, owners_known, read_owners
from tests.fake import FakeHost, layout, word

SECTIONS, ROOT, EXT = 0xFFFFFFFF82100000, 0xFFFF888000400000, 0xFFFF888000600000
INITED, OPS, SIZE_AT, NODE = (0xFFFFFFFF82000000 + 0x100 * i for i in range(4))
PFNS_A_SECTION = 1 << 15
ENTRY, OFFSET = 80, 8
OWNER, ALLOCATED = 0, 1  # PAGE_EXT_OWNER, PAGE_EXT_OWNER_ALLOCATED of 6.1
# mm/page_owner.c of 6.1
RECORD = layout(
    "struct page_owner",
    64,
    order=(0, 2),
    last_migrate_reason=(2, 2),
    gfp_mask=(4, 4),
    handle=(8, 4),
    free_handle=(12, 4),
    ts_nsec=(16, 8),
    free_ts_nsec=(24, 8),
    comm=(32, 16),
    pid=(48, 4),
    tgid=(52, 4),
)
COMMON = (
    RECORD,
    layout("struct page_ext", 8, flags=(0, 8)),
    layout("struct page_ext_operations", 32, offset=(0, 8)),
    layout("struct static_key", 16, enabled=(0, 4)),
)
SECTION = layout("struct mem_section", 32, section_mem_map=(0, 8), page_ext=(16, 8))


class Machine:
    """Pages of section 2 (sparse), or from page frame 1,000 on (flat); each has an entry."""

    def __init__(self, sparse: bool = True) -> None:
        symbols = {"page_owner_inited": INITED, "page_owner_ops": OPS, "page_ext_size": SIZE_AT}
        node = layout("struct pglist_data", 64, node_page_ext=(0, 8), node_start_pfn=(8, 8))
        self.host = FakeHost(
            *COMMON,
            SECTION if sparse else node,
            symbols=symbols,
            enumerators={"PAGE_EXT_OWNER": OWNER, "PAGE_EXT_OWNER_ALLOCATED": ALLOCATED},
        )
        self.host.put(INITED, (1).to_bytes(4, "little"))
        self.host.put(OPS, word(OFFSET))
        self.host.put(SIZE_AT, word(ENTRY))
        self.host.put(EXT, bytes(ENTRY * 1100))
        if sparse:
            self.first = 2 * PFNS_A_SECTION
            self.host.vmcoreinfo(
                SYMBOL__mem_section=hex(SECTIONS),
                LENGTH__mem_section="4",
                NUMBER__SECTION_SIZE_BITS="27",
            )
            self.host.put(SECTIONS, word(ROOT, 0, 0, 0))
            self.host.put(ROOT, bytes(4096))
            self.bias(EXT - ENTRY * self.first)
        else:
            self.first = 0
            self.host.symbols["contig_page_data"] = NODE
            self.host.put(NODE, word(EXT, 1000) + bytes(48))

    def bias(self, value: int) -> None:
        """Section 2's page_ext."""
        self.host.put(ROOT + 2 * 32 + 16, word(value))

    def own(self, pfn: int, handle: int, flags: int = 1 << OWNER | 1 << ALLOCATED) -> None:
        data = bytearray(RECORD.size)
        data[0:2], data[8:12] = (3).to_bytes(2, "little"), handle.to_bytes(4, "little")
        data[16:24] = word(5_000_000_000)
        data[32:37], data[48:52] = b"mount", (212).to_bytes(4, "little")
        at = EXT + ENTRY * (pfn - self.first)
        self.host.put(at, word(flags) + bytes(data))

    def read(self, *pfns: int) -> PageOwners:
        return read_owners(self.host, np.array(pfns, np.uint64))


@pytest.mark.parametrize("sparse", [True, False], ids=["sparsemem", "flatmem"])
def test_owners_of_many_pages_at_once(sparse: bool) -> None:
    machine = Machine(sparse)
    # A flat table begins at the start of the node, rounded down to the largest block.
    start = machine.first if sparse else 1000
    for i in (0, 7, 40):
        machine.own(start + i, 0x1000 + i)
    found = machine.read(start + 40, start, start + 7, start + 8)
    assert found.ok.tolist() == [True, True, True, False]
    assert found.handle.tolist() == [0x1028, 0x1000, 0x1007, 0]
    assert found.pid.tolist()[:3] == [212] * 3
    assert found.order.tolist()[:3] == [3] * 3
    assert found.nanoseconds.tolist()[:3] == [5_000_000_000] * 3
    assert bytes(found.comm[0]).rstrip(b"\0") == b"mount"


@pytest.mark.parametrize("form", ["3.19", "4.8"])
def test_before_4_10_the_record_is_in_page_ext_itself(form: str) -> None:
    """include/linux/page_ext.h: trace_entries[8] of 3.19, a stack depot handle of 4.8."""
    machine = Machine()
    host = machine.host
    tail: dict[str, tuple[int, ...]] = {"nr_entries": (16, 4), "trace_entries": (24, 64)}
    size = 88
    if form == "4.8":
        tail, size = {"last_migrate_reason": (16, 4), "handle": (20, 4)}, 24
    ext = layout("struct page_ext", size, flags=(0, 8), order=(8, 4), gfp_mask=(12, 4), **tail)
    host.layouts["struct page_ext"] = ext
    del host.layouts["struct page_owner"]
    host.layouts["struct page_ext_operations"] = layout(
        "struct page_ext_operations", 16, need=(0, 8)
    )
    del host.enumerators["PAGE_EXT_OWNER_ALLOCATED"], host.symbols["page_ext_size"]
    machine.bias(EXT - size * machine.first)
    trace = [0xFFFFFFFF81000100 + 16 * i for i in range(8)]
    data = {
        "3.19": word(1 << OWNER, 2) + word(3, *trace),
        "4.8": word(1 << OWNER, 2) + word(0x1234 << 32),
    }[form]
    host.put(EXT + 5 * size, data)
    assert owners_known(host)
    found = machine.read(machine.first + 5, machine.first + 6)
    assert found.ok.tolist() == [True, False]
    assert found.order.tolist() == [2, 0]
    if form == "4.8":
        assert found.handle.tolist() == [0x1234, 0]
        assert found.inline.shape == (2, 0)
    else:
        assert found.inline.tolist() == [[*trace[:3], 0, 0, 0, 0, 0], [0] * 8]
        assert found.handle.tolist() == [0, 0]


def test_a_freed_page_has_no_owner() -> None:
    machine = Machine()
    machine.own(machine.first, 0x1000, flags=1 << OWNER)
    assert machine.read(machine.first).handle.tolist() == [0]


@pytest.mark.parametrize("bias", [0, 1, EXT - ENTRY * 2 * PFNS_A_SECTION | 1])
def test_a_section_without_a_valid_table_has_no_owners(bias: int) -> None:
    """Bit 0 is PAGE_EXT_INVALID: the section is going offline."""
    machine = Machine()
    machine.own(machine.first, 0x1000)
    machine.bias(bias)
    assert machine.read(machine.first).ok.tolist() == [False]


def test_pages_beyond_the_table_or_the_sections_have_none() -> None:
    machine = Machine()
    machine.own(machine.first, 0x1000)
    far = (PFNS_A_SECTION * 4096, (1 << 52) - 1, machine.first + 1100, 0, machine.first)
    assert machine.read(*far).ok.tolist() == [False, False, False, False, True]


@pytest.mark.parametrize("size", [0, 16, 1 << 40])
def test_an_entry_size_that_cannot_be_is_refused(size: int) -> None:
    machine = Machine()
    machine.own(machine.first, 0x1000)
    machine.host.put(SIZE_AT, word(size))
    assert machine.read(machine.first).ok.tolist() == [False]


def test_whether_owners_are_tracked() -> None:
    machine = Machine()
    assert owners_known(machine.host)
    machine.host.put(INITED, bytes(4))
    assert not owners_known(machine.host)
    del machine.host.symbols["page_owner_inited"]
    assert not owners_known(machine.host)
