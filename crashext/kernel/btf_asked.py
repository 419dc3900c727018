"""What is asked of BTF must fit: a struct lies as compilers lay it out, an enumerator in its enum's
row, a name in its place.

A flipped bit makes types that are possible, and none that a compiler would make. What all types
of a kernel keep to is in `btf_check`; a few of tens of thousands do not keep to this (a driver's
struct with unnamed bit fields), so it is asked of those only that answers are read with.
"""

from __future__ import annotations

from collections.abc import Container
from itertools import takewhile

from crashext.hosts.layouts import Layout
from crashext.kernel.btf import Btf
from crashext.kernel.btf_types import MAX_CHAIN, BtfKind

_MOST_INSIDE = 256  # nameless structs and unions of one type
_WORD = 8
_AGGREGATES = (BtfKind.STRUCT, BtfKind.UNION)
_EVERYWHERE = {
    "struct address_space": "nrpages",
    "struct dentry": "d_name d_parent",
    "struct file_system_type": "name",
    "struct inode": "i_data i_dentry i_sb_list",
    "struct kmem_cache": "list name object_size size",
    "struct mm_struct": "pgd rss_stat",
    "struct mount": "mnt mnt_mountpoint mnt_ns mnt_parent",
    "struct page": "",
    "struct per_cpu_pages": "count lists",
    "struct pglist_data": "node_zones",
    "struct qstr": "name",
    "struct rb_node": "rb_left rb_right",
    "struct super_block": "s_fs_info s_inodes s_list s_mounts s_op s_type",
    "struct task_struct": "comm mm pid stack tasks tgid thread",
    "struct thread_struct": "cpu_context sp",  # arm64's, and x86-64's, each asked of its own
    "struct vfsmount": "mnt_root",
    "struct vm_struct": "addr caller flags nr_pages pages",
    "struct vmap_area": "list rb_node va_end va_start",
    "struct zone": "managed_pages present_pages spanned_pages",
}
"""What every kernel with BTF has, whatever its options (4.18 to 7.2)."""
_WHERE_THERE = {
    "struct cpu_context": "sp",
    "struct module": "list name state",
    "struct percpu_counter": "count",
    "struct rcu_data": "cblist",
    "struct rcu_segcblist": "len",
}
"""The same of types that some options leave out."""
_WORDS = {
    "struct dentry": "d_parent",
    "struct kmem_cache": "ctor name",
    "struct mm_struct": "pgd",
    "struct mount": "mnt_mountpoint mnt_ns mnt_parent",
    "struct super_block": "s_fs_info s_op s_type",
    "struct task_struct": "active_mm mm stack",
    "struct thread_struct": "sp",
    "struct vfsmount": "mnt_root",
    "struct vm_struct": "addr caller pages",
    "struct vmap_area": "va_end va_start",
    "struct zone": "managed_pages present_pages spanned_pages",
}
"""Pointers and longs, of 8 bytes."""
_PLACE_BITS = 24
_COUNTED = {
    "NR_VM_ZONE_STAT_ITEMS": (
        ("struct zone", "vm_stat", 8),
        ("struct per_cpu_zonestat", "vm_stat_diff", 1),
    ),
    "NR_VM_NODE_STAT_ITEMS": (
        ("struct pglist_data", "vm_stat", 8),
        ("struct per_cpu_nodestat", "vm_node_stat_diff", 1),
    ),
    "NR_LRU_LISTS": (("struct lruvec", "lists", 16),),
    "NR_MM_COUNTERS": (("struct mm_rss_stat", "count", 8),),
}
"""Arrays of as many elements: type, member, and bytes of an element (3.10 to 7.2)."""
_ROW = 3
"""Enumerators on either side of one that must count, for its own value to be foreseen."""


def misplaced(btf: Btf, number: int) -> str:
    """The member, or "the end", that compilers would not put where it is; "" where all fits.

    Between two members is no more than what the second one's alignment takes, and in a struct that
    is not packed each scalar is aligned.
    """
    return _misplaced(btf, number, set())


def _misplaced(btf: Btf, number: int, seen: set[int]) -> str:
    """`seen` are the types that were looked at: damaged ones may hold one another."""
    if btf.kind[number] not in _AGGREGATES or number in seen or len(seen) > _MOST_INSIDE:
        return ""
    seen.add(number)
    is_union = btf.kind[number] == BtfKind.UNION
    size = btf.size(number)
    end, bits = 0, False
    most, wrong = 1, ""
    for member in btf.members(number):
        begin, length = member.bit_offset // 8, btf.size(member.type)
        own = _alignment(btf, member.type, 0)
        most = max(most, own)
        if not member.bit_size:
            if not bits and not _padded(end, begin) and not is_union:
                return member.name or "a nameless member"
            if begin % own:
                wrong = wrong or member.name or "a nameless member"
            if not member.name and (inner := _misplaced(btf, btf.strip(member.type), seen)):
                return inner
        bits = bool(member.bit_size)
        last = (member.bit_offset + member.bit_size + 7) // 8 if bits else begin + length
        end = max(end, last) if is_union else last
    if not bits and not _padded(end, size):
        return "the end"
    return wrong if size % most == 0 else ""


def _padded(end: int, begin: int) -> bool:
    """Whether something that ends at `end` may be followed by something at `begin`."""
    return 0 <= begin - end < max(1, begin & -begin)


def _alignment(btf: Btf, number: int, depth: int) -> int:
    """What compilers align a type to at least: one byte where it may be packed."""
    inner = btf.strip(number)
    kind = btf.kind[inner]
    for _ in range(MAX_CHAIN):
        if kind != BtfKind.ARRAY:
            break
        inner = btf.strip(btf.array(inner)[0])
        kind = btf.kind[inner]
    if kind in _AGGREGATES:
        return 1
    size = btf.size(inner)
    return size if kind in (BtfKind.INT, BtfKind.PTR, BtfKind.ENUM) and size in (2, 4, 8) else 1


def is_everywhere(type_name: str, member: str = "") -> bool:
    """Whether every kernel with BTF has this type, or this member of a type that is there."""
    if not member:
        return type_name in _EVERYWHERE
    members = _EVERYWHERE.get(type_name) or _WHERE_THERE.get(type_name, "")
    return member in members.split()


def no_word(layout: Layout) -> str:
    """The member that is known to be a word and is none; "" where all are."""
    known = _WORDS.get(layout.name, "").split()
    return next((m for m in known if m in layout and layout[m].size != _WORD), "")


def out_of_row(values: list[int], nth: int) -> bool:
    """Whether a bit of an enum's value has flipped: it is none of its row's, and is with that bit.

    `values` are the enum's, as declared. Each counts on from the one before, or says otherwise, and
    is counted on from; the last may repeat one. A row that goes on past one which is off by a bit
    is none that is asked for.
    """
    before, after = values[max(0, nth - _ROW) : nth][::-1], values[nth + 1 : nth + 1 + _ROW]
    foreseen = before[0] + 1 if before else 0
    if (values[nth] ^ foreseen).bit_count() != 1 or (not after and values[nth] in before):
        return False
    # The first of some may have two names: NR_LRU_BASE, NR_INACTIVE_ANON.
    twice = after[:1] == [foreseen] and values[nth] not in before[:1]
    counted = takewhile(bool, (value == foreseen - i for i, value in enumerate(before, 1)))
    count_on = takewhile(
        bool, (value == foreseen + i for i, value in enumerate(after, 0 if twice else 1))
    )
    further = sum(count_on)
    return sum(counted) + further >= _ROW and (further > 0 or not after)


def miscounted(btf: Btf, name: str, value: int) -> str:
    """The array of as many elements as an enumerator says, where that has another number of them;
    "" where none has.
    """
    for type_name, member, size in _COUNTED.get(name, ()):
        number = btf.find(type_name)
        found = None if number is None else btf.layout_of(number, type_name).members.get(member)
        if found is not None and found.size != size * value:
            return f"{member} of {type_name}"
    return ""


def elsewhere(btf: Btf, name: str, places: Container[int]) -> str:
    """What is called by a name whose place is one bit from that of `name`, which nothing is called
    by; "" where nothing is. `places` are those where the names of its kind begin.
    """
    at = btf.unused(name)
    others = (at ^ 1 << bit for bit in range(_PLACE_BITS if at > 0 else 0))
    return next((btf.text_at(other) for other in others if other in places), "")
