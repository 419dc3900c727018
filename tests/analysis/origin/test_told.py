"""What a place writes, in words: an address only where it is one."""

import pytest

from crashext.analysis.origin.weighing import _told
from crashext.hosts.base import U64
from crashext.kernel.origin.stores import Store
from tests.kernel.whole import DIRECT, VMALLOC, Kernel


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0x80, "writes 0x80 at +0x8"),
        ((1 << 64) - 1, "writes 0xffffffffffffffff at +0x8"),
        (DIRECT + 0x1000, f"writes the pointer that its variable holds now, {DIRECT + 0x1000:#x},"),
        (VMALLOC + 0x40, f"writes the pointer that its variable holds now, {VMALLOC + 0x40:#x},"),
    ],
)
def test_what_is_written(value: int, said: str) -> None:
    view = Kernel().marked().view
    assert _told(view, Store(8, 8, "value", U64(value), True), True).startswith(said)
