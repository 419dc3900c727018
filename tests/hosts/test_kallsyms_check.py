"""Each rule of whole symbols has damage that breaks it; real kernels keep them all (test_bare)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from crashext.hosts import kallsyms_check as check
from crashext.hosts.base import HostError

NAMES = ["wake_up", "schedule", "kmem_cache_alloc"]


def index(tokens: list[str]) -> list[int]:
    return [sum(len(t) + 1 for t in tokens[:i]) for i in range(len(tokens))]


def letters(tokens: list[str]) -> list[str]:
    """A table in which each letter stands at its own number, the first of `tokens` at the last."""
    return [chr(i) for i in range(256 - len(tokens))] + tokens[::-1]


def refused(rule: Callable[[], object]) -> str:
    with pytest.raises(HostError, match=r"^its own symbols \(kallsyms\) are damaged: ") as why:
        rule()
    return str(why.value).partition(": ")[2]


def test_a_token_is_made_of_tokens_and_stands_where_the_index_says() -> None:
    whole = letters(["ab", "ab_"])
    check.require_tokens(whole, index(whole))
    for damaged in (letters(["ab", "aXb"]), ["b", *whole[1:]], ["", *whole[1:]]):
        assert "none" in refused(partial(check.require_tokens, damaged, index(damaged)))
    moved = index(whole)
    moved[200] += 1
    assert "none" in refused(lambda: check.require_tokens(whole, moved))


@pytest.mark.parametrize("form", ["I", "Q"])
@pytest.mark.parametrize("pad", [0, 4])
def test_every_256th_name_begins_where_its_marker_says(form: str, pad: int) -> None:
    places = list(range(0, 9000, 9))
    marks = bytes(pad) + struct.pack(f"<{len(places[::256])}{form}", *places[::256])
    assert check.require_markers(places, marks + b"next") == b"next"
    places[256] += 1
    assert "marked" in refused(lambda: check.require_markers(places, marks))


def test_names_are_in_the_order_that_the_kernel_keeps() -> None:
    order = sorted(range(len(NAMES)), key=NAMES.__getitem__)
    table = b"".join(row.to_bytes(3, "big") for row in order)
    check.require_order(table, NAMES)
    wrong = [*NAMES[:2], "xmem_cache_alloc"]
    assert "in order" in refused(partial(check.require_order, table, wrong))
    assert "none" in refused(partial(check.require_order, table[3:] + table[-3:], NAMES))


def test_what_one_macro_makes_is_there_whole() -> None:
    family = {f"{prefix}sched_switch.12" for prefix in check._FAMILY}
    family |= {f"{other}sched_switch" for other in check._FAMILY.values()}
    check.require_families(family)
    check.require_families({"__SCT__tp_func_sched_switch"})  # a kernel that names no tracepoint
    for prefix in check._FAMILY:
        assert refused(partial(check.require_families, {*family, f"{prefix}sched_witch"}))


def test_a_cold_part_has_its_function() -> None:
    check.require_wholes(["vfs_read", "vfs_read.cold", "seq.isra.0", "seq.isra.0.cold"])
    assert "1 part" in refused(lambda: check.require_wholes(["vfs_reae", "vfs_read.cold"]))


def test_per_cpu_variables_are_where_btf_says() -> None:
    known = {"__per_cpu_start": 4096, "runqueues": 4096 + 64, "__per_cpu_end": 8192}
    check.require_percpu({"runqueues": 64}, known)
    check.require_percpu({"runqueues": 65}, {"runqueues": 64})  # a kernel that does not say where
    for wrong in ({"runqueues": 72}, {"runqueuet": 64}):
        assert "1 per-CPU" in refused(partial(check.require_percpu, wrong, known))
    for end in (4096 + 63, 4096 + (1 << 17)):
        moved = known | {"__per_cpu_end": end}
        assert refused(partial(check.require_percpu, {"runqueues": 64}, moved))


def test_a_function_lies_behind_its_padding() -> None:
    names = ["__pfx_a", "a", "__pfx_b", "alias", "b", "c", "__pfx_d", "d"]
    places = [0, 16, 64, 80, 80, 96, 160, 176]
    check.require_pairs(names, np.array(places, np.uint64))
    check.require_pairs(["a", "c"], np.array([0, 16], np.uint64))  # another architecture's
    for row, name in ((1, "x"), (2, "__pfx_x"), (7, "x")):
        damaged = [*names[:row], name, *names[row + 1 :]]
        assert refused(partial(check.require_pairs, damaged, np.array(places, np.uint64)))
    for row in (0, 1, 2, 6):
        moved = np.array([*places[:row], places[row] + 4, *places[row + 1 :]], np.uint64)
        assert "1 function" in refused(partial(check.require_pairs, names, moved))
