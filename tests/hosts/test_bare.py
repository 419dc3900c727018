"""Damaged symbols and types of a dump are one clear line, never a wrong name or offset."""

from __future__ import annotations

from collections.abc import Callable

import drgn
import numpy as np
import pytest

from crashext.commands.opening import open_dump
from crashext.hosts.bare import BareHost
from crashext.hosts.base import HostError, Module
from crashext.hosts.modulelist import module_list
from crashext.hosts.modulesymbols import module_symbols
from crashext.kernel.btf_layouts import BtfLayouts, CarriedTypes, disagreement
from crashext.kernel.btf_memory import read_kernel_btf
from tests.conftest import alone, lab_dump, lab_host

LEAKING = "leaklab_leak_nodes"


def program(damage: dict[int, bytes] | None = None) -> drgn.Program:
    """The memory of a dump, with other bytes at some addresses."""
    opened = drgn.Program()
    opened.set_core_dump(str(lab_dump("default").vmcore))
    for address, data in (damage or {}).items():
        opened.add_memory_segment(address, len(data), reader(address, data), False)
    return opened


def opened(damaged: drgn.Program) -> BareHost:
    host = BareHost(damaged, "vmcore")
    types = CarriedTypes(host)
    host.require(types.functions(), types.percpu())
    host.require_whole(types.functions)
    return host


def reader(start: int, data: bytes) -> Callable[[int, int, int, bool], bytes]:
    return lambda address, count, offset, physical: data[address - start :][:count]


def table(name: str) -> int:
    """Where VMCOREINFO says a table of kallsyms is."""
    return int(lab_host("default").info().vmcoreinfo[f"SYMBOL({name})"], 16)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("kallsyms_num_syms", b"\xff" * 4),
        ("kallsyms_num_syms", b"\x10\0\0\0"),
        ("kallsyms_names", b"\xff" * 64),
        ("kallsyms_names", b"\0" * 64),
        ("kallsyms_token_table", b"z" * 256),
        ("kallsyms_token_table", b"\0" * 512),
        ("kallsyms_token_table", b"D__\0cqu"),  # one letter of one token
        ("kallsyms_token_index", b"\0" * 512),
        ("kallsyms_relative_base", b"\0\0\x40\x81\xff\xff\xff\xff"),
        ("kallsyms_offsets", b"\0" * 4096),
        ("kallsyms_offsets", b"\xff" * 4096),
    ],
)
def test_damaged_symbols_are_refused(name: str, data: bytes) -> None:
    damaged = program({table(name): data})
    with pytest.raises(HostError, match=r"^its own symbols \(kallsyms\) (are dam|cannot)"):
        opened(damaged)


def test_a_dump_whose_btf_is_not_there_has_no_types() -> None:
    start = BareHost(program(), "vmcore").address_of("__start_BTF")
    assert start is not None
    types = CarriedTypes(BareHost(program({start: b"\0" * 24}), "vmcore"))
    assert not types.known
    assert types.problem == "holds damaged BTF: it does not begin as BTF"


def test_btf_that_vmcoreinfo_contradicts_has_no_types() -> None:
    host = BareHost(program(), "vmcore")
    btf, why = read_kernel_btf(host)
    assert btf is not None
    assert why == ""
    said = dict(host.info().vmcoreinfo)
    assert disagreement(BtfLayouts(btf), said) == ""
    for number in ("77", "9" * 5000):  # more digits than int() takes
        assert "PG_lru" in disagreement(BtfLayouts(btf), said | {"NUMBER(PG_lru)": number})
    wrong = said | {"SIZE(page)": "96"}
    assert disagreement(BtfLayouts(btf), wrong) == (
        "holds damaged BTF: SIZE(page) is 64 there, 96 in VMCOREINFO"
    )


@pytest.mark.parametrize(
    ("name", "ask"),
    [
        ("kmem_cache_cpu", lambda types: types.layout("struct kmem_cache_cpu")),
        ("cpu_slab", lambda types: "cpu_slab" in types.layout("struct kmem_cache")),
        ("PG_slab", lambda types: types.enumerator("PG_slab")),
    ],
)
def test_a_name_with_a_flipped_bit_is_not_taken_for_one_that_the_kernel_lacks(
    name: str, ask: Callable[[CarriedTypes], object]
) -> None:
    host = BareHost(program(), "vmcore")
    start, stop = (host.address_of(f"__{edge}_BTF") or 0 for edge in ("start", "stop"))
    at = host.read(start, stop - start).index(b"\0" + name.encode() + b"\0") + len(name)
    other = bytes([name.encode()[-1] ^ 1])
    damaged = BareHost(program({start + at: other}), "vmcore")
    with pytest.raises(HostError, match=f"one bit from {name}, and not that"):
        ask(CarriedTypes(damaged, alone=True))


def test_a_variable_with_a_damaged_name_is_not_taken_for_one_that_the_kernel_lacks() -> None:
    kallsyms = BareHost(program(), "vmcore")._kallsyms
    row = kallsyms.names.index("pcpu_base_addr")
    last = table("kallsyms_names") + int(kallsyms.packed._places[row + 1]) - 1
    token = lab_host("default").read(last, 1)[0]
    passed = 0
    for bit in range(8):
        try:
            host = opened(program({last: bytes([token ^ 1 << bit])}))
        except HostError:
            continue  # other names bear witness
        passed += 1
        with pytest.raises(HostError, match="one bit from pcpu_base_addr, and not that"):
            host.address_of("pcpu_base_addr")
    assert passed


def test_a_variable_that_moved_is_not_where_code_names_it() -> None:
    whole = opened(program())
    for name in ("totalreserve_pages", "shmem_ops", "slab_caches", "jiffies_64", "pti_init"):
        assert whole.address_of(name) is not None
    whole.require_places()
    row = int(
        np.searchsorted(whole._kallsyms.addresses, whole.address_of("totalreserve_pages") or 0)
    )
    at = table("kallsyms_offsets") + 4 * row
    before = int.from_bytes(whole.read(at, 4), "little")
    passed = 0
    for bit in range(2, 6):
        try:
            host = opened(program({at: (before ^ 1 << bit).to_bytes(4, "little")}))
        except HostError:
            continue  # out of order
        passed += 1
        host.address_of("totalreserve_pages")
        if 1 << bit < 16:  # what is aligned less than the place that code names
            with pytest.raises(HostError, match="no code names totalreserve_pages at 0x"):
                host.require_places()
        else:  # that may be a member
            host.require_places()
            (line,) = host.doubts()
            assert line.startswith("no code names totalreserve_pages at 0x")
    assert passed
    whole.require_places()
    assert whole.doubts() == []


def test_an_exported_symbol_that_moved_is_found_out() -> None:
    """Modules link with a second copy of its address."""
    kallsyms = BareHost(program(), "vmcore")._kallsyms
    row = kallsyms.names.index("kmem_cache_alloc")
    offsets = table("kallsyms_offsets")
    at = offsets + 4 * row  # in the order of addresses
    before = int.from_bytes(BareHost(program(), "vmcore").read(at, 4), "little")
    with pytest.raises(HostError, match="1 exported ones are not where the kernel links them"):
        opened(program({at: (before ^ 1).to_bytes(4, "little")}))


@pytest.mark.parametrize(
    "symbol",
    [
        *("slab_caches", "debugfs_root", "vfs_read", "leaknode_cache"),
        # As large as the end of a section may look.
        *("cpu_bit_bitmap", "rcu_state", "__per_cpu_offset", "_printk_rb_static_infos"),
    ],
)
def test_symbols_are_named_as_with_vmlinux(symbol: str) -> None:
    host, other = BareHost(program(), "vmcore"), lab_host("default")
    host.prefer(CarriedTypes(host))
    address = other.address_of(symbol)
    if address is None:
        assert host.address_of(symbol) is None
        return
    ours, theirs = host.symbol_at(address + 1), other.symbol_at(address + 1)
    assert ours is not None
    assert theirs is not None
    assert (ours.name, ours.address, ours.module) == (theirs.name, theirs.address, theirs.module)


def test_what_ends_nobody_knows_where_has_a_name_where_it_begins() -> None:
    """The last variable of .bss, from whose lock on nothing has a name for long."""
    host, other = BareHost(program(), "vmcore"), lab_host("default")
    where = other.address_of("linux_banner")
    assert where is not None
    for address in (where, where + 7):
        found = host.symbol_at(address)
        assert found is not None
        assert (found.name, found.address) == ("linux_banner", where)
    assert host.symbol_at(where + 1024) is None
    assert host.symbol_at(other.address_of("__end_rodata") or 0) is None


@pytest.mark.parametrize("name", ["default@trixie", "default@sid"])
def test_a_module_whose_notes_are_not_in_the_dump_is_no_less_known(name: str) -> None:
    """drgn leaves it out, and with one module's symbols those of all."""
    dump = lab_dump(name)
    host, other = open_dump(alone(name, "vmcore.d31"), []), open_dump(dump.d31, [dump.vmlinux])
    assert host.modules() == other.modules()
    for module in host.modules():
        for address in range(module.ranges[0][0], module.ranges[0][1], 64):
            assert host.symbol_at(address) == other.symbol_at(address)


def test_modules_are_those_of_debug_info() -> None:
    host, other = BareHost(program(), "vmcore"), lab_host("default")
    host.prefer(CarriedTypes(host))
    assert sorted(host.modules(), key=str) == sorted(other.modules(), key=str)
    module = next(m for m in host.modules() if m.name == "leaklab")
    for address in range(module.ranges[0][0], module.ranges[0][1], 64):
        assert host.symbol_at(address) == other.symbol_at(address)


def loaded(damage: dict[int, bytes] | None = None) -> BareHost:
    """With its types, as a run opens it."""
    host = opened(program(damage))
    host.prefer(CarriedTypes(host, alone=True))
    return host


def leaklab(host: BareHost) -> tuple[int, Module]:
    return next((at, module) for at, module in module_list(host) if module.name == "leaklab")


@pytest.mark.parametrize("state", ["COMING", "GOING", "UNFORMED"])
def test_a_module_that_comes_or_goes_is_named_and_one_without_form_is_not(state: str) -> None:
    host = loaded()
    at, module = leaklab(host)
    number, layout = host.enumerator(f"MODULE_STATE_{state}"), host.layout("struct module")
    assert number is not None
    assert layout is not None
    where = next(
        s.symbol.address for s in module_symbols(host, at, module) if s.symbol.name == LEAKING
    )
    doctored = loaded({at + layout["state"].offset: number.to_bytes(4, "little")})
    found = doctored.symbol_at(where + 4)
    if state == "UNFORMED":
        assert "leaklab" not in [m.name for m in doctored.modules()]
        assert found is None
    else:
        assert found == host.symbol_at(where + 4)
        assert found is not None
        assert (found.name, found.module) == (LEAKING, "leaklab")


def test_functions_of_a_module_that_is_still_initialised_are_named() -> None:
    """Its init section is there until then; afterwards the base is zero."""
    host = loaded()
    at, module = leaklab(host)
    layout, area = host.layout("struct module"), host.layout("struct module_layout")
    kallsyms = host.layout("struct mod_kallsyms")
    assert layout is not None
    assert area is not None
    assert kallsyms is not None
    init = at + layout["init_layout"].offset
    assert host.read(init, 8) == bytes(8)
    base = max(end for m in host.modules() for _, end in m.ranges) + 0x10000
    table = int.from_bytes(host.read(at + layout["kallsyms"].offset, 8), "little")
    row = host.read(table, kallsyms.size)
    entries = int.from_bytes(row[kallsyms["symtab"].offset :][:8], "little")
    count = int.from_bytes(row[kallsyms["num_symtab"].offset :][:4], "little")
    rows = np.frombuffer(host.read(entries, 24 * count), "<u8").reshape(-1, 3)
    address = next(
        s.symbol.address for s in module_symbols(host, at, module) if s.symbol.name == LEAKING
    )
    moved = int(np.flatnonzero(rows[:, 1] == address)[0])
    doctored = loaded(
        {
            init + area["base"].offset: base.to_bytes(8, "little"),
            init + area["size"].offset: (0x2000).to_bytes(4, "little"),
            at + layout["kallsyms"].offset: base.to_bytes(8, "little"),
            base: row,  # with all symbols, which the kernel makes fewer in the end
            entries + 24 * moved + 8: (base + 0x1000).to_bytes(8, "little"),
        }
    )
    assert (base, base + 0x2000) in leaklab(doctored)[1].ranges
    found = doctored.symbol_at(base + 0x1004)
    assert found is not None
    assert (found.name, found.address, found.module) == (LEAKING, base + 0x1000, "leaklab")
