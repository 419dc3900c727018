"""Whether the kernel's symbols are whole: each rule is one that damage breaks and no kernel does.

Witnesses are the tables themselves (scripts/kallsyms.c writes them), VMCOREINFO, the addresses that
modules link with, and, in bare.py, BTF. What is left: the last letters of a name that no other is
like, of which those that are asked for are found (kallsyms_packed.py), and the low bits of an
address between its neighbours'. One flipped bit may change those; a lost, foreign or zeroed page
does not pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import HostError, ReadFault
from crashext.hosts.kallsyms_packed import Packing, rows_by_name

Read = Callable[[int, int], bytes]
"""Memory at an address, of a size; raises `ReadFault`."""

DAMAGED = "its own symbols (kallsyms) are damaged"
EXPORT = "__ksymtab_"
MAX_TABLE = 1 << 26
_ENOUGH = 2  # symbols that must be where VMCOREINFO says
_GROUP = 256  # names a marker
# The linker names what it puts in for a broken Cortex-A53 e843419@0583_0000d8e3_2844.
_NAMES = re.compile(r"(?:[A-Za-z_.$][\w.$]*+\n|e\d++@\w++\n)++", re.ASCII)

_PREFIX = "__pfx_"
_COLD = ".cold"
_LAST_PERCPU = 1 << 16  # bytes: more than the last per-CPU variable has, with what is aligned
_TRACEPOINT = "__tracepoint_"
_SYSCALL = "__syscall_meta__"
_FAMILY = {  # prefix: that of which there is one for each
    # include/linux/tracepoint.h, include/trace/bpf_probe.h
    **dict.fromkeys(("__SCK__tp_func_", "__SCT__tp_func_", "__traceiter_"), _TRACEPOINT),
    **dict.fromkeys(("__tpstrtab_", "__probestub_", "__bpf_trace_tp_map_"), _TRACEPOINT),
    # include/trace/trace_events.h
    **{"__TRACE_SYSTEM_": "TRACE_SYSTEM_", "TRACE_SYSTEM_": "__TRACE_SYSTEM_"},
    "trace_event_fields_": "trace_event_type_funcs_",
    # include/linux/syscalls.h
    **dict.fromkeys(("__event_enter__", "__event_exit__", "event_exit__"), _SYSCALL),
    **dict.fromkeys(("event_enter__", "__p_syscall_meta__"), _SYSCALL),
    _SYSCALL: "event_enter__",
    "args__": "types__",
    "types__": "args__",
    # include/linux/static_call.h, include/linux/init.h, include/linux/moduleparam.h
    "__SCK__": "__SCT__",
    "__SCT__": "__SCK__",
    "__setup_str_": "__setup_",
    "__param_str_": "__param_",
    # include/linux/export-internal.h
    **dict.fromkeys(("__kstrtab_", "__kstrtabns_", "__flags_"), EXPORT),
    EXPORT: "__flags_",
}
_PREFIXES = sorted({*_FAMILY, *_FAMILY.values()}, key=len, reverse=True)
_OF_EVENTS = ("event_", "print_fmt_", "__event_")
_MADE = re.compile(rf"\n({'|'.join(_PREFIXES)})([^.\n]*)")


def require_tokens(tokens: Sequence[str], index: Sequence[int]) -> Packing:
    """A token is a letter, which stands for itself, or two that were put together; their texts
    stand one after the other.
    """
    at = 0
    for byte, (token, place) in enumerate(zip(tokens, index, strict=True)):
        if place != at or (len(token) < 2 and token != chr(byte)):
            raise HostError(f"{DAMAGED}: a part of their names is none")
        at += len(token) + 1
    try:
        return Packing(tokens)
    except ValueError as error:
        raise HostError(f"{DAMAGED}: a part of their names is none") from error


def require_packing(packing: Packing, codes: NDArray[np.uint16]) -> None:
    """Names are packed as the kernel's makers pack them."""
    strange = packing.strange(codes)
    if strange:
        raise HostError(f"{DAMAGED}: some are packed in parts that are not theirs")


def require_markers(places: Sequence[int], behind: bytes) -> bytes:
    """The kernel keeps where every 256th name begins, `behind` the last one. Gives what is behind
    that."""
    right = np.array(places[::_GROUP], np.uint64)
    for form in ("<u4", "<u8"):  # a long until 4.20 (80ffbaa5b1bd)
        size = np.dtype(form).itemsize * len(right)
        for pad in range(0, 8, 4):
            marks = np.frombuffer(behind[pad : pad + size].ljust(size, b"\xff"), form)
            if np.array_equal(marks.astype(np.uint64), right):
                return behind[pad + size :]
    raise HostError(f"{DAMAGED}: their names do not begin where they are marked")


def require_order(order: bytes, names: Sequence[str]) -> None:
    """Of kallsyms_seqs_of_names (6.2, 60443c88f3a8): the row of each name, three bytes, by name."""
    if any(".llvm." in name for name in names):  # sorted without that suffix
        return
    numbers = rows_by_name(order)
    if not np.array_equal(np.sort(numbers), np.arange(len(names))):
        raise HostError(f"{DAMAGED}: their order is none")
    in_order = [names[row] for row in numbers.tolist()]
    if in_order != sorted(in_order):
        raise HostError(f"{DAMAGED}: some names are not those that the kernel put in order")


def require_exports(read: Read, by_name: Mapping[str, int]) -> None:
    """Of each exported symbol the kernel keeps the address a second time: modules link with it.

    struct kernel_symbol begins with it, since 4.19 (7290d5809571) as a distance from itself.
    """
    names = [name for name in by_name if name.startswith(EXPORT)]
    exported = [by_name.get(name.removeprefix(EXPORT)) for name in names]
    wanted = [address for address in exported if address is not None]
    if len(wanted) < len(names):
        raise HostError(f"{DAMAGED}: an exported one is not among them")
    if not names:
        return
    places = np.array([by_name[name] for name in names], np.uint64)
    low, high = int(places.min()), int(places.max()) + 8
    if high - low > MAX_TABLE:
        raise HostError(f"{DAMAGED}: the exported ones are all over memory")
    try:
        table = np.frombuffer(read(low, high - low), np.uint8)
    except ReadFault:
        return  # that page is not in the dump: nothing to compare with
    rows = table[(places - np.uint64(low)).astype(np.int64)[:, None] + np.arange(8)]
    near = places + rows[:, :4].copy().view("<i4")[:, 0].astype(np.int64).astype(np.uint64)
    far = rows.copy().view("<u8")[:, 0]
    right = np.array(wanted, np.uint64)
    wrong = min((near != right).sum(), (far != right).sum())
    if wrong:
        raise HostError(f"{DAMAGED}: {wrong:,} exported ones are not where the kernel links them")


def require_names(addresses: Mapping[str, int]) -> None:
    if _NAMES.fullmatch("\n".join([*addresses, ""])) is None:
        raise HostError(f"{DAMAGED}: some are no names")


def require_agreement(addresses: Mapping[str, int], known: Mapping[str, int]) -> None:
    """What VMCOREINFO says of symbols must be true of these."""
    low, high = addresses["_stext"], addresses.get("_end", 0)
    # Some are no symbol's address but a variable's value: mem_section, a pointer.
    inside = {name: at for name, at in known.items() if low <= at < high and name in addresses}
    for name, address in inside.items():
        if addresses[name] != address:
            raise HostError(f"{DAMAGED}: {name} is not where VMCOREINFO says")
    if len(inside) < _ENOUGH:
        raise HostError(f"{DAMAGED}: VMCOREINFO knows others")


def require_families(names: Collection[str]) -> None:
    """What one macro makes has one ending under several prefixes."""
    endings: dict[str, set[str]] = {prefix: set() for prefix in _PREFIXES}
    for prefix, ending in _MADE.findall("\n".join(["", *names])):
        endings[prefix].add(ending)
    for prefix, other in _FAMILY.items():
        theirs = endings[other]
        if theirs and not endings[prefix] <= theirs:
            raise HostError(f"{DAMAGED}: of the names of one thing some are not among them")


def has_witness(name: str, names: Collection[str]) -> bool:
    """Whether a symbol's name is there a second time: modules link with it, or one macro made it
    together with others.
    """
    return EXPORT + name in names or name.startswith((*_PREFIXES, *_OF_EVENTS))


def require_wholes(names: Collection[str]) -> None:
    """What the compiler moves out of a function, `name.cold`, is not there without it."""
    parts = [name for name in names if name.endswith(_COLD)]
    missing = sum(part.removesuffix(_COLD) not in names for part in parts)
    if missing:
        raise HostError(f"{DAMAGED}: {missing:,} parts of functions are there without these")


def require_percpu(variables: Mapping[str, int], by_name: Mapping[str, int]) -> None:
    """BTF has the per-CPU variables too, by their distance from the first: pahole takes them from
    the same symbol table.
    """
    first = by_name.get("__per_cpu_start")
    if first is None:
        return
    wrong = sum(by_name.get(name) != first + at for name, at in variables.items())
    end = by_name.get("__per_cpu_end", 0) - first
    last = max(variables.values(), default=end)
    if wrong or not last <= end <= last + _LAST_PERCPU:
        raise HostError(f"{DAMAGED}: {max(wrong, 1):,} per-CPU ones are not where BTF says")


def require_pairs(names: Sequence[str], addresses: NDArray[np.uint64]) -> None:
    """Before a function lie as many bytes for its caller to patch as before any (x86, 6.2,
    9f2899fe36a6): they have its name behind a prefix, a second witness of name and address.
    """
    before = [row for row, name in enumerate(names) if name.startswith(_PREFIX)]
    if not before:
        return
    starts = addresses[before]
    behind = np.searchsorted(addresses, starts, side="right")
    gaps = addresses[np.minimum(behind, len(addresses) - 1)] - starts
    functions = starts + np.uint64(np.median(gaps))
    first = np.searchsorted(addresses, functions).tolist()
    last = np.searchsorted(addresses, functions, side="right").tolist()
    missing = sum(
        names[row][len(_PREFIX) :] not in names[low:high]
        for row, low, high in zip(before, first, last, strict=True)
    )
    if missing:
        raise HostError(f"{DAMAGED}: {missing:,} functions are not where their padding is")
