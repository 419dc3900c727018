"""Where a kernel keeps its BTF and that of its modules: in its own memory."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

from crashext.hosts.base import Host, ReadFault
from crashext.hosts.keeping import keep
from crashext.kernel.btf import Btf
from crashext.kernel.btf_check import defect
from crashext.kernel.btf_modules import module_btf
from crashext.kernel.btf_types import BtfKind
from crashext.kernel.btf_unit import parse, parse_kernel, strings_of
from crashext.wording import missing

_MAX_KERNEL = 64 << 20  # a distribution's kernel has 4 to 6 MB
_MOST_CHECKED = 1 << 12
_CHECKED: dict[tuple[bytes, tuple[int, int]], bool] = {}
"""Modules' BTF by what it is, not the data itself, which would stay in memory."""


def read_btf(host: Host) -> Btf | None:
    """The BTF of the kernel (4.18, CONFIG_DEBUG_INFO_BTF) and of its loaded modules (5.11,
    36e68442d1af); None where this kernel carries none, or it is not whole in the dump.
    """
    blobs = read_blobs(host)
    try:
        return None if blobs is None else Btf(*blobs)
    except ValueError:
        return None


def read_blobs(host: Host) -> tuple[bytes, tuple[tuple[str, bytes], ...]] | None:
    """The data that `read_btf` makes types of: the kernel's, and each module's by its name."""
    return keep(host, "BTF", lambda: _blobs(host), large=True)


def _blobs(host: Host) -> tuple[bytes, tuple[tuple[str, bytes], ...]] | None:
    kernel, _ = _kernel_btf(host)
    unit = None if kernel is None else parse_kernel(kernel)
    if kernel is None or unit is None:
        return None
    base = len(unit.starts) + 1, len(unit.strings)
    return kernel, tuple((name, data) for name, data in module_btf(host) if _whole(data, base))


def _whole(data: bytes, base: tuple[int, int]) -> bool:
    """Whether a module's BTF is that. A dump is asked for them twice, first for names alone."""
    key = blake2b(data, digest_size=16).digest(), base
    if key not in _CHECKED:
        if len(_CHECKED) >= _MOST_CHECKED:
            _CHECKED.clear()
        unit = parse("", data)
        _CHECKED[key] = unit is not None and not defect(unit, base)
    return _CHECKED[key]


def module_functions(host: Host, module: str) -> set[str]:
    """Names of the functions that a module's BTF has."""
    blobs = read_blobs(host)
    if blobs is None:
        return set()
    kernel = strings_of(blobs[0])
    found = set[str]()
    for unit in (parse(name, data) for name, data in blobs[1] if name == module):
        if unit is None:
            continue
        kinds = unit.words[unit.starts + 1] >> 24 & 0x1F
        strings = kernel + unit.strings  # a module's begin where the kernel's end
        for at in unit.words[unit.starts[kinds == BtfKind.FUNC]].tolist():
            found.add(strings[at : strings.find(b"\0", at)].decode("ascii", "replace"))
    return found - {""}


def read_names(host: Host) -> bytes:
    """The strings of the kernel's types and of its modules', each between zeros: a type that has
    no such name is nobody's."""
    blobs = read_blobs(host)
    if blobs is None:
        return b""
    return b"".join(map(strings_of, (blobs[0], *(data for _, data in blobs[1]))))


def read_kernel_btf(host: Host) -> tuple[Btf | None, str]:
    """As `read_btf`, without the modules: for that no layout must be known. Where it is damaged,
    what is wrong with it instead.
    """
    kernel, why = _kernel_btf(host)
    return (None, why) if kernel is None else (Btf(kernel), "")


def _kernel_btf(host: Host) -> tuple[bytes | None, str]:
    """(data, ""), or (None, what is wrong): "" where there is none."""
    start, stop = host.address_of("__start_BTF"), host.address_of("__stop_BTF")
    if start is None or stop is None or not 0 < stop - start <= _MAX_KERNEL:
        return None, ""
    try:
        data = keep(host, "kernel BTF", lambda: host.read(start, stop - start), large=True)
    except ReadFault:
        return None, f"part of it is {missing(host.info().live)}"
    why = _kernel_defect(data)
    return (None, why) if why else (data, "")


@lru_cache(maxsize=1)
def _kernel_defect(data: bytes) -> str:
    unit = parse_kernel(data)
    return "it does not begin as BTF" if unit is None else defect(unit)
