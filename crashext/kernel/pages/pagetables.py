"""Where the kernel's own page tables put a virtual address.

x86-64 with four and five levels, arm64 with as many as its pages and addresses take.
Sources: arch/x86/include/asm/pgtable_types.h, arch/arm64/include/asm/pgtable-hwdef.h
(4.19 to 6.12).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crashext.hosts.arm64 import vmcoreinfo_number
from crashext.hosts.base import Addresses, Host, Mask
from crashext.kernel.access import Words, words_at
from crashext.kernel.addresses import AddressSpace, page_shift, page_size
from crashext.kernel.architecture import ARM64, architecture


@dataclass(frozen=True)
class Format:
    """What entries of tables say."""

    root: int
    """Address of the kernel's top table."""
    others: tuple[int, ...]
    """Top tables that are in force for moments only, such as at the entry from user space."""
    shifts: tuple[int, ...]
    """Bits of an address below those that choose an entry, from the top table on."""
    frame: np.uint64
    """Bits of an entry that are a physical address ..."""
    high: np.uint64
    """... and those that are the highest bits of one, and stand lower in the entry ..."""
    lift: np.uint64
    """... by so many."""
    mask: np.uint64
    """What these bits of an entry of an upper table ..."""
    table: np.uint64
    """... must be where it leads to a table, and not to a large page."""
    top: int
    """Entries of a top table."""
    kernel: int
    """First entry of the top table that is the kernel's; those before are user space's."""

    def present(self, entries: Words) -> Mask:
        return np.asarray(entries & np.uint64(1) == 1, np.bool_)

    def leads_on(self, entries: Words) -> Mask:
        """Entries of an upper table that lead to another table."""
        return np.asarray(entries & self.mask == self.table, np.bool_)

    def physical(self, entries: Words) -> Words:
        """Physical addresses that entries lead to."""
        return np.asarray(entries & self.frame | (entries & self.high) << self.lift, np.uint64)


_X86_HUGE, _X86_ENTRIES = 1 << 7, 512
_LEAST_ENCRYPTION = 32
_X86_FRAME = 0x000FFFFFFFFFF000
_ARM64_TABLE = np.uint64(3), np.uint64(3)
_MOST_BITS, _FEWER_BITS = 52, 48
_LARGEST_PAGES = 16  # page_shift
_ARM64_OTHERS = ("tramp_pg_dir", "idmap_pg_dir")  # arch/arm64/kernel/vmlinux.lds.S


def table_format(host: Host) -> Format | None:
    """That of this kernel; None where its top table is not among the symbols."""
    if architecture(host) is ARM64:
        page = page_shift(host)
        root, bits = host.address_of("swapper_pg_dir"), _address_bits(host, page)
        if root is None or bits is None:
            return None
        shifts = _arm64_shifts(page, bits)
        top = 1 << bits - shifts[0]
        others = tuple(a for n in _ARM64_OTHERS if (a := host.address_of(n)) is not None)
        place = _arm64_place(page, bits)
        return Format(root, others, shifts, *place, *_ARM64_TABLE, top, 0)
    # init_level4_pgt was renamed init_top_pgt by 65ade2f872b4 (4.13).
    root = host.address_of("init_top_pgt") or host.address_of("init_level4_pgt")
    if root is None:
        return None
    five = _notes(host).get("NUMBER(pgtable_l5_enabled)", "0") == "1"
    shifts = (48, 39, 30, 21, 12) if five else (39, 30, 21, 12)
    mask = np.uint64(_X86_HUGE | 1)
    place = np.uint64(_X86_FRAME & ~encryption_bit(host)), np.uint64(0), np.uint64(0)
    return Format(root, (), shifts, *place, mask, np.uint64(1), _X86_ENTRIES, _X86_ENTRIES // 2)


def encryption_bit(host: Host) -> int:
    """The bit of an entry that says that the memory is encrypted, of AMD's SME and SEV; or 0.

    It is one of those of an address: the 47th, or the 51st. 65f750e5457a (5.1) noted it.
    """
    mask = vmcoreinfo_number(_notes(host), "sme_mask") or 0
    # One bit, and none that memory of a machine needs: else the note is damaged.
    return mask if mask.bit_count() == 1 and mask >> _LEAST_ENCRYPTION and mask <= _X86_FRAME else 0


def _address_bits(host: Host, page: int) -> int | None:
    """That the kernel's tables are made for: one for 52 runs on processors with 48 or fewer.

    Where those would do with fewer levels, the tables have fewer (9684ec186f8f, 6.9, of pages of 4
    and 16 KiB). With 64 KiB they have as many: then the top table is that of 52 bits, of which such
    a processor is told the end. bbdbc11804ff (5.9) noted what is in force.
    """
    most = vmcoreinfo_number(_notes(host), "VA_BITS")
    unused = vmcoreinfo_number(_notes(host), "TCR_EL1_T1SZ")
    if unused is None or not 0 < 64 - unused <= _MOST_BITS:
        return most
    used = 64 - unused
    if most is None or not used < most <= _MOST_BITS:
        return used
    as_many = len(_arm64_shifts(page, most)) == len(_arm64_shifts(page, used))
    return most if as_many else used


def _arm64_shifts(page: int, bits: int) -> tuple[int, ...]:
    return tuple(reversed(range(page, bits, page - 3)))  # entries are of 8 bytes


def _arm64_place(page: int, bits: int) -> tuple[np.uint64, np.uint64, np.uint64]:
    """`Format.frame`, `high` and `lift`, of tables for so many bits of virtual addresses.

    Physical ones of 52 bits have their highest in those below 16 that pages of 64 KiB leave, and
    that are 0 where they are of 48 (75387b92635e, 4.16). With smaller pages they take those that
    say else who shares the memory. Nothing notes that, but a kernel has them where its virtual
    addresses have 52 bits, and nowhere else: 352b0395b505, and arch/arm64/Kconfig (6.9).
    """
    low = (1 << _FEWER_BITS) - (1 << page)
    if page == _LARGEST_PAGES:
        return np.uint64(low), np.uint64(0xF000), np.uint64(36)
    if bits <= _FEWER_BITS:
        return np.uint64(low), np.uint64(0), np.uint64(0)
    return np.uint64(low | 3 << _FEWER_BITS), np.uint64(0x300), np.uint64(42)


def _notes(host: Host) -> dict[str, str]:
    return dict(host.info().vmcoreinfo)


def physical(host: Host, space: AddressSpace, addresses: Addresses) -> tuple[Words, Mask]:
    """Physical addresses of kernel virtual ones: ``(uint64[n], ok[n])``; not ok: not mapped."""
    result = np.zeros(len(addresses), np.uint64)
    done = np.zeros(len(addresses), np.bool_)
    form = table_format(host)
    if form is None or not len(addresses):
        return result, done
    tables = np.full(len(addresses), form.root, np.uint64)
    walking = np.ones(len(addresses), np.bool_)
    for shift in form.shifts:
        count = form.top if shift == form.shifts[0] else page_size(host) // 8
        index = addresses >> np.uint64(shift) & np.uint64(count - 1)
        entries = np.zeros(len(addresses), np.uint64)
        entries[walking], ok = words_at(host, tables[walking] + index[walking] * np.uint64(8))
        walking[walking] = ok
        walking &= form.present(entries)
        leaf = walking & (~form.leads_on(entries) | (shift == form.shifts[-1]))
        inside = np.uint64((1 << shift) - 1)
        leads_to = form.physical(entries)
        result[leaf] = (leads_to[leaf] & ~inside) | (addresses[leaf] & inside)
        done |= leaf
        walking &= ~leaf
        tables = np.uint64(space.direct.start) + leads_to
    return result, done


def page_tables_of(host: Host, space: AddressSpace, addresses: Addresses) -> tuple[Words, Mask]:
    """Tables of the last level, with an entry for each page, that kernel virtual addresses are in:
    ``(uint64[n], ok[n])``; not ok: a larger page is there, or nothing."""
    form = table_format(host)
    if form is None or not len(addresses):
        return np.zeros(len(addresses), np.uint64), np.zeros(len(addresses), np.bool_)
    tables = np.full(len(addresses), form.root, np.uint64)
    walking = np.ones(len(addresses), np.bool_)
    for shift in form.shifts[:-1]:
        count = form.top if shift == form.shifts[0] else page_size(host) // 8
        index = addresses >> np.uint64(shift) & np.uint64(count - 1)
        entries = np.zeros(len(addresses), np.uint64)
        entries[walking], ok = words_at(host, tables[walking] + index[walking] * np.uint64(8))
        walking[walking] = ok
        walking &= form.present(entries) & form.leads_on(entries)
        tables = np.uint64(space.direct.start) + form.physical(entries)
    return tables, walking


def rows_of(host: Host, tables: Addresses, count: int) -> Words:
    """The first `count` entries of tables, of those that can be read: uint64[n, count]."""
    rows, ok = host.read_many(tables, 8 * count)
    return np.ascontiguousarray(rows[ok]).view("<u8").reshape(-1, count)
