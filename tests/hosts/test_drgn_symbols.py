"""Where the kernel ends in memory, on a kernel whose last symbol is the end of its file."""

from __future__ import annotations

import pytest

from tests.conftest import lab_host, lab_view


@pytest.mark.parametrize("name", ["default", "kmemleak"])
def test_the_kernels_end_moves_with_kaslr_like_every_symbol(name: str) -> None:
    host = lab_host(name)
    start, bss_stop, end = (host.address_of(n) for n in ("_text", "__bss_stop", "_end"))
    assert start is not None
    assert bss_stop is not None
    assert end is not None
    # .brk, which lies between, is small (arch/x86/include/asm/setup.h).
    assert start < bss_stop <= end < bss_stop + (4 << 20)


@pytest.mark.parametrize("name", ["default", "kmemleak"])
def test_data_symbols_are_inside_the_image(name: str) -> None:
    view, host = lab_view(name), lab_host(name)
    for symbol in ("module_ktype", "init_task", "slab_caches"):
        address = host.address_of(symbol)
        assert address is not None
        assert view.space.image.start <= address < view.space.image.end
