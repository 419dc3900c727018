"""Trace text as tracefs prints it, of any length: busy callers, a slow leak, losses of events.

Made of a few hundred call sites and a working set of live objects, so that addresses come back
as an allocator's do. Used by the benchmark and by the test against a dictionary.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

_HEADER = b"""# tracer: nop
#
# entries-in-buffer/entries-written: 0/0   #P:4
#
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
"""
_SITES = 300
_TASKS = 60
_LIVE = 20_000
_LEAK_EVERY = 997
_SIZES = (8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096)


def lines(events: int, seed: int = 0) -> Iterator[bytes]:
    """`events` lines of a trace, the header before them."""
    rng = random.Random(seed)
    yield _HEADER
    sites = [
        b"function_%03d+0x%x/0x%x" % (i, rng.randrange(16, 400), 512)
        + (b" [module%d]" % (i % 7) if i % 5 == 0 else b"")
        for i in range(_SITES)
    ]
    tasks = [
        b"%16s-%-7d [%03d] ....." % (b"task:%d/%d" % (i % 9, i), 100 + i, i % 4)
        for i in range(_TASKS)
    ]
    address = 0xFFFF888100000000
    spare: list[int] = []
    live: list[tuple[int, bool]] = []
    now = 5_000_000_000
    for number in range(events):
        now += rng.randrange(200, 6000)
        head = b"%s %5d.%06d: " % (tasks[rng.randrange(_TASKS)], now // 10**9, now // 1000 % 10**6)
        leak = number % _LEAK_EVERY == 0
        if leak or len(live) < _LIVE or rng.random() < 0.5:
            if spare:
                pointer = spare.pop()
            else:
                pointer, address = address, address + 64
            named = not leak and rng.random() < 0.3
            size = 64 if leak else _SIZES[rng.randrange(len(_SIZES))]
            yield (
                b"%s%s: call_site=%s ptr=%x bytes_req=%d bytes_alloc=%d gfp_flags=%s node=-1 "
                % (
                    head,
                    b"kmem_cache_alloc" if named else b"kmalloc",
                    b"leaky_function+0x21/0xd0 [leaky]" if leak else sites[rng.randrange(_SITES)],
                    pointer,
                    size - rng.randrange(4),
                    size,
                    b"GFP_KERNEL|__GFP_ZERO" if rng.random() < 0.5 else b"GFP_ATOMIC",
                )
                + b"accounted=false\n"
            )
            if not leak:
                live.append((pointer, named))
        else:
            at = rng.randrange(len(live))
            live[at], live[-1] = live[-1], live[at]
            pointer, named = live.pop()
            spare.append(pointer)
            event = b"kmem_cache_free" if named else b"kfree"
            tail = b" name=cache-64\n" if named else b"\n"
            site = sites[rng.randrange(_SITES)]
            yield b"%s%s: call_site=%s ptr=%x%s" % (head, event, site, pointer, tail)
