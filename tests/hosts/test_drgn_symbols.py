"""What symbols of a kernel's file name: where it ends in memory, and what is each CPU's own."""

from __future__ import annotations

import pytest

from crashext.hosts import crash_text
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


@pytest.mark.parametrize("name", ["default", "kmemleak"])
def test_numbers_of_assembler_code_name_no_percpu_memory(name: str) -> None:
    """``.set i, 0x200`` and the like are absolute symbols: nothing is there."""
    names = {symbol.name for n in (0x18, 0x108, 0x208) if (symbol := lab_host(name).symbol_at(n))}
    assert names == {"fixed_percpu_data"}


def test_crash_says_which_symbols_are_numbers() -> None:
    text = "0 (D) fixed_percpu_data\n100 (a) vector\n1f3 (A) kexec_control_code_size\n1000 (d) x\n"
    assert crash_text.percpu_symbols(text) == [(0, "fixed_percpu_data"), (0x1000, "x")]
