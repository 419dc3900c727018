"""The index of calls beside the object files' own lists of them: it has every one, and no other.

The kernel's list is in Debian's vmlinux up to 6.1, a module's in its file, whatever the kernel.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import drgn
import numpy as np
import pytest
from numpy.typing import NDArray

from crashext.hosts.drgn import DrgnHost
from crashext.kernel.origin.callsites import CallSites, find_calls
from crashext.kernel.origin.entrypoints import ALLOCATING, FREEING
from tests.conftest import lab_dump, lab_host, only_if, opened
from tests.kernel.origin.relocations import calls
from tests.lab import Dump, build, scenario

NAMES = {entry.name for entry in (*ALLOCATING, *FREEING)}
STUFFED = "retbleed=stuff,force spectre_v2=retpoline"


def index(host: DrgnHost) -> CallSites:
    found = {host.address_of(name) for name in NAMES} - {None}
    return find_calls(host, {address: 0 for address in found if address is not None})


def kernel_text(host: DrgnHost) -> tuple[int, int]:
    first, last = host.address_of("_text"), host.address_of("_etext")
    assert first is not None
    assert last is not None
    return first, last


def module_files(dump: Dump) -> dict[str, Path]:
    root = next(p for p in dump.vmlinux.resolve().parents if (p / "lib" / "modules").is_dir())
    files = sorted((root / "lib" / "modules").rglob("*.ko*"))
    known = {f.name.partition(".ko")[0].replace("-", "_"): f for f in files}
    return known | ({"leaklab": dump.module} if dump.module.exists() else {})


def loaded(host: DrgnHost) -> Iterator[drgn.RelocatableModule]:
    for module, _ in host._program.loaded_modules():
        if isinstance(module, drgn.RelocatableModule):
            yield module


def check_modules(dump: Dump, host: DrgnHost) -> int:
    """How many calls the files of all modules list; the index has the same."""
    known, files = index(host), module_files(dump)
    listed = 0
    for module in loaded(host):
        # What is run once, at the start, is gone.
        at = {k: v for k, v in module.section_addresses.items() if not k.startswith(".init")}
        mine = calls(files[module.name], NAMES, at)
        areas = [r for m in host.modules() if m.name == module.name for r in m.ranges]
        inside = np.zeros(len(known.address), np.bool_)
        for start, end in areas:
            inside |= (known.address >= start) & (known.address < end)
        assert known.address[inside].tolist() == mine.tolist(), module.name
        listed += len(mine)
    return listed


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("nodes", 100),
        ("busy", 9_000),
        ("default@bullseye", 100),
        ("default@trixie", 70),
        ("default@sid", 70),
        ("default@arm64", 70),
        ("default@arm64-trixie", 70),
        ("default@arm64-16k", 70),
    ],
)
def test_every_call_that_modules_list_is_known_and_no_other(name: str, least: int) -> None:
    assert check_modules(lab_dump(name), lab_host(name)) > least


@pytest.mark.parametrize("name", ["nodes", "default@bullseye"])
def test_every_call_that_the_kernel_lists_is_known(name: str) -> None:
    """Calls within one source file need no relocation: those alone it does not list."""
    host = lab_host(name)
    first, last = kernel_text(host)
    dump = lab_dump(name)
    listed = calls(dump.vmlinux, NAMES, {".text": first})
    known = index(host).address
    known = known[(known >= first) & (known < last)]
    assert len(listed) > 10_000
    assert not set(listed.tolist()) - set(known.tolist())
    assert len(set(known.tolist()) - set(listed.tolist())) < 30


@only_if(os.environ.get("CRASHEXT_KERNELS"), "another guest: make test-kernels boots it")
def test_calls_that_are_counted_are_the_same_calls() -> None:
    """retbleed=stuff patches every call of the kernel's; which there are does not change."""
    plain = lab_host("default@trixie")
    chosen = replace(scenario("default@trixie"), name="stuffed@trixie")
    dump = build(chosen.changed({}, append=STUFFED), kdump=False, d31=False)
    assert "RETBleed: Mitigation: Stuffing" in dump.console.read_text()
    host = opened(dump.vmcore, (dump.vmlinux,))
    assert offsets(host).tolist() == offsets(plain).tolist()
    assert len(offsets(host)) > 10_000
    assert check_modules(dump, host) > 70


def offsets(host: DrgnHost) -> NDArray[np.uint64]:
    """Of the calls in the kernel's text."""
    first, last = kernel_text(host)
    known = index(host).address
    return known[(known >= first) & (known < last)] - np.uint64(first)
