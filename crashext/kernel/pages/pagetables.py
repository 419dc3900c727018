"""Where the kernel's own page tables put a virtual address. x86-64, four and five levels.

Sources: arch/x86/include/asm/pgtable_types.h (4.19 to 6.12).
"""

from __future__ import annotations

import numpy as np

from crashext.hosts.base import Addresses, Host, Mask
from crashext.kernel.access import Words, words_at
from crashext.kernel.addresses import AddressSpace

_PRESENT, _HUGE = 1, 1 << 7
_FRAME = np.uint64(0x000FFFFFFFFFF000)  # also takes off the encryption bit's usual place (51 up)
_SHIFTS4 = (39, 30, 21, 12)
_SHIFTS5 = (48, *_SHIFTS4)


def physical(host: Host, space: AddressSpace, addresses: Addresses) -> tuple[Words, Mask]:
    """Physical addresses of kernel virtual ones: ``(uint64[n], ok[n])``; not ok: not mapped."""
    result = np.zeros(len(addresses), np.uint64)
    done = np.zeros(len(addresses), np.bool_)
    # init_level4_pgt was renamed init_top_pgt by 65ade2f872b4 (4.13).
    root = host.address_of("init_top_pgt") or host.address_of("init_level4_pgt")
    if root is None or not len(addresses):
        return result, done
    five = host.info().vmcoreinfo.get("NUMBER(pgtable_l5_enabled)", "0") == "1"
    shifts = _SHIFTS5 if five else _SHIFTS4
    tables = np.full(len(addresses), root, np.uint64)
    walking = np.ones(len(addresses), np.bool_)
    for shift in shifts:
        index = addresses >> np.uint64(shift) & np.uint64(511)
        entries = np.zeros(len(addresses), np.uint64)
        entries[walking], ok = words_at(host, tables[walking] + index[walking] * np.uint64(8))
        walking[walking] = ok
        walking &= entries & np.uint64(_PRESENT) == 1
        leaf = walking & ((entries & np.uint64(_HUGE) != 0) | (shift == 12))
        inside = np.uint64((1 << shift) - 1)
        result[leaf] = (entries[leaf] & _FRAME & ~inside) | (addresses[leaf] & inside)
        done |= leaf
        walking &= ~leaf
        tables = np.uint64(space.direct.start) + (entries & _FRAME)
    return result, done
