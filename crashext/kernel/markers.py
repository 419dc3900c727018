"""Values the kernel writes on purpose: poison, magic, red zones, and what each of them implies.

Sources: include/linux/poison.h, include/linux/list.h, rculist.h, mm/slab.c (2.6.32 to 6.12).
The values are macros, so no debug info knows them; the kernel's release only decides how a value
of another generation is worded, never whether it is recognised.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_POISON_BASE = 0xDEAD000000000000


@dataclass(frozen=True)
class Marker:
    """One value and its meaning. `since` and `before` bound the kernels that write it."""

    value: int
    name: str
    implies: str
    since: tuple[int, int] = (0, 0)
    before: tuple[int, int] = (99, 0)

    def generation(self) -> str:
        """The kernels that write this value, in words; "" where all of them do."""
        since = ".".join(map(str, self.since)) if self.since > (0, 0) else ""
        before = ".".join(map(str, self.before)) if self.before < (99, 0) else ""
        if since and before:
            return f"kernels from {since} to before {before}"
        return f"kernels since {since}" if since else f"kernels before {before}" if before else ""


_UNLINKED = "unlinked from its list and not freed since"

LIST_POISON = (
    Marker(_POISON_BASE + 0x100, "LIST_POISON1", _UNLINKED, since=(4, 3)),
    # 8a5e5e02fc83 (4.3) moved the low half; "tweak LIST_POISON2 for better code generation on
    # x86_64" (5.3) made 0x200 0x122.
    Marker(_POISON_BASE + 0x122, "LIST_POISON2", _UNLINKED, since=(5, 3)),
    Marker(_POISON_BASE + 0x200, "LIST_POISON2", _UNLINKED, since=(4, 3), before=(5, 3)),
    Marker(_POISON_BASE + 0x100100, "LIST_POISON1", _UNLINKED, before=(4, 3)),
    Marker(_POISON_BASE + 0x200200, "LIST_POISON2", _UNLINKED, before=(4, 3)),
)

OTHER_POISON = (
    Marker(_POISON_BASE + 0x040, "PP_SIGNATURE", "a page_pool page"),
    Marker(_POISON_BASE + 0x300, "TIMER_ENTRY_STATIC", "a timer that is not pending"),
    Marker(_POISON_BASE + 0x400, "TAIL_MAPPING", "a tail page"),
    Marker(_POISON_BASE + 0x500, "MUTEX_POISON_WW_CTX", "a finished ww_mutex context"),
    Marker(_POISON_BASE + 0x800, "SKB_LIST_POISON_NEXT", "an sk_buff taken off its list"),
    Marker(_POISON_BASE + 0x801, "NET_PTR_POISON", "a network pointer given up"),
    Marker(_POISON_BASE + 0xEB9F, "BPF_PTR_POISON", "a BPF pointer given up"),
    Marker(_POISON_BASE + 0x00F5, "VFS_PTR_POISON", "a VFS pointer given up"),
    Marker(_POISON_BASE + 0xD390, "STACK_DEPOT_POISON", "a stack record given up"),
    Marker(0xD84156C5635688C0, "RED_ACTIVE", "SLAB red zone of an allocated object"),
    Marker(0x09F911029D74E35B, "RED_INACTIVE", "SLAB red zone of a free object"),
)

# One byte, eight times over.
FILLED = {
    0x6B: ("POISON_FREE", "free, poisoned by slub_debug=P: if allocated, damaged"),
    0x5A: ("POISON_INUSE", "never written since it was allocated"),
    0xBB: ("SLUB_RED_INACTIVE", "red zone of a free object"),
    0xCC: ("SLUB_RED_ACTIVE", "red zone of an allocated object, or freed init memory"),
    0xAA: ("PAGE_POISON", "a poisoned free page"),
    0xA7: ("POOL_POISON_FREED", "freed to a DMA pool"),
    0xA9: ("POOL_POISON_ALLOCATED", "allocated from a DMA pool, not written"),
    0x6C: ("FLEX_ARRAY_FREE", "freed flex_array part"),
    0xBD: ("KEY_DESTROY", "a destroyed key"),
    0x5B: ("JBD_POISON_FREE", "freed by jbd"),
    0x5C: ("JBD2_POISON_FREE", "freed by jbd2"),
    0x11: ("MUTEX_DEBUG_INIT", "a debugged mutex, set up"),
    0x22: ("MUTEX_DEBUG_FREE", "a debugged mutex, destroyed"),
}
POISON_END = 0xA56B6B6B6B6B6B6B  # POISON_FREE bytes closed by POISON_END, little endian

# 32-bit magic numbers, in either half of a word.
MAGIC32 = {
    0xDEAD4EAD: ("SPINLOCK_MAGIC", "a debugged spinlock"),
    0xDEAF1EED: ("RWLOCK_MAGIC", "a debugged rwlock"),
    0x57AC6E9D: ("STACK_END_MAGIC", "the end of a task's stack"),
    0x170FC2A5: ("RED_INACTIVE", "SLAB red zone of a free object (32-bit, old kernels)"),
    0x5A2CF071: ("RED_ACTIVE", "SLAB red zone of an allocated object (32-bit, old kernels)"),
}

BY_VALUE = {m.value: m for m in (*LIST_POISON, *OTHER_POISON)}


def release_tuple(release: str) -> tuple[int, int] | None:
    """(6, 1) of "6.1.0-56-amd64"; None if it does not begin with a version."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else None


def describe(marker: Marker, release: tuple[int, int] | None) -> str:
    """The marker's meaning for one kernel; with its generation where that says something."""
    generation = marker.generation()
    if not generation or (release is not None and marker.since <= release < marker.before):
        return f"{marker.name}: {marker.implies}"
    return f"{marker.name} of {generation}: {marker.implies}"
