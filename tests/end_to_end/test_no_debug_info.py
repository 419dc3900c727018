"""With nothing but the dump: the same documents as with its vmlinux, and one line that says so."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from os import SEEK_CUR
from pathlib import Path
from typing import Any, NoReturn

import drgn
import numpy as np
import pytest
from elftools.elf.elffile import ELFFile

from crashext.commands.opening import BY_ITSELF, NO_DEBUG_INFO
from crashext.hosts.nodebuginfo import require_debug_info
from crashext.kernel.pages.pagetables import physical
from tests.conftest import alone, lab_dump, lab_host, lab_view, on, run
from tests.hosts.test_modulesymbols import leaking
from tests.lab import read_addresses
from tests.no_debug_info import without_lines

QUESTIONS = (
    ("default", "vmcore", ()),
    ("default", "vmcore.d31", ()),
    ("default", "vmcore.kdump", ("--orphans",)),
    ("default", "vmcore.d31", ("kmalloc-192",)),
    ("twin", "vmcore", ()),
    ("private", "vmcore.kdump", ("--orphans",)),
    ("tasks", "vmcore", ()),
    ("healthy", "vmcore.kdump", ()),
    ("default", "vmcore.d31", ("--sites", "kmalloc-64")),
)
OTHER_KERNELS = (
    ("default@bullseye", "vmcore.d31", ()),  # its VMCOREINFO does not tell where kallsyms are
    ("default@bullseye", "vmcore.kdump", ("--orphans",)),
    ("default@trixie", "vmcore", ("--orphans",)),
    ("default@trixie", "vmcore", ("kmalloc-192",)),
    ("default@sid", "vmcore", ()),
    ("default@arm64-trixie", "vmcore", ()),
    ("default@arm64-16k", "vmcore", ("--orphans",)),
)


@pytest.mark.parametrize(("name", "form", "question"), [*QUESTIONS, *OTHER_KERNELS])
def test_the_document_is_that_of_a_run_with_vmlinux(
    name: str, form: str, question: tuple[str, ...]
) -> None:
    bare = run("leakscan", "-c", alone(name, form), "--json", *question)
    assert bare.status == 0, bare.err
    assert [line for line in bare.err.splitlines() if line.endswith(NO_DEBUG_INFO)]
    with_vmlinux = run("leakscan", *on(name, form), "--json", *question)
    assert NO_DEBUG_INFO not in with_vmlinux.err
    assert without_lines(bare.document) == without_lines(with_vmlinux.document)


@pytest.mark.parametrize("name", ["default", "default@bullseye", "default@arm64-16k"])
def test_objects_are_compared_alike(name: str) -> None:
    some = [hex(a) for a in read_addresses(lab_dump(name).addresses("chain"))[:2]]
    for asked in (some, some[:1]):
        bare = run("objsim", "-c", alone(name), "--json", *asked)
        with_vmlinux = run("objsim", *on(name), "--json", *asked)
        assert without_lines(bare.document) == without_lines(with_vmlinux.document)


def test_a_session_of_it_replays(tmp_path: Path) -> None:
    session = tmp_path / "a.session"
    dump = alone("default", "vmcore.d31")
    bare = run("leakscan", "-c", dump, "--record", session, "--json", "kmalloc-32")
    replayed = run("leakscan", "-r", session, "--json", "kmalloc-32")
    assert replayed.status == 0
    assert replayed.err == ""
    assert replayed.document == bare.document


def test_a_verdict_recorded_without_replays_as_it_was(tmp_path: Path) -> None:
    session = tmp_path / "a.session"
    bare = run("leakscan", "-c", alone("healthy", "vmcore.d31"), "--record", session, "--json")
    replayed = run("leakscan", "-r", session, "--json")
    assert replayed.err == ""
    assert replayed.document == bare.document


@pytest.mark.parametrize(
    ("symbol", "says"),
    [
        ("kallsyms_token_index", r"its own symbols \(kallsyms\) "),
        ("__start_BTF", "it holds damaged BTF: "),
    ],
)
def test_what_is_missing_is_one_line(
    symbol: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = lab_host("default")
    note = host.info().vmcoreinfo.get(f"SYMBOL({symbol})")
    where = host.address_of(symbol) if note is None else int(note, 16)
    assert where is not None
    program = drgn.Program()
    program.set_core_dump(str(lab_dump("default").vmcore))
    program.add_memory_segment(where, 512, lambda at, size, offset, physical: bytes(size), False)

    def opened(core: Path, debug: Sequence[Path]) -> NoReturn:
        require_debug_info(program)
        raise AssertionError

    monkeypatch.setattr("crashext.hosts.drgn.open_core", opened)
    ran = run("leakscan", "-c", alone("default"))
    assert ran.status == 2
    assert "slab caches, the largest first" in ran.out if symbol == "__start_BTF" else not ran.out
    assert len(ran.err.splitlines()) == 1
    assert re.search(
        r"no debug info found for kernel 6\.1\.\S+ \(build ID [0-9a-f]{40}\): give its vmlinux "
        r"with -s; package linux-image-\S+-dbg \(Debian\) has it; " + says,
        ran.err,
    )


@pytest.mark.parametrize("name", ["default", "default@sid"])
def test_a_module_whose_symbols_are_damaged_is_told_and_gets_no_wrong_name(
    name: str, tmp_path: Path
) -> None:
    """One bit of a function's name, in the file itself."""
    host, _, symtab, count = leaking(name)
    function = lab_dump(name).truth()["parts"]["nodes"]["function"]
    strings = symtab + 24 * count
    offsets = np.frombuffer(host.read(symtab, 24 * count), "<u4")[::6].tolist()
    length = len(function) + 1
    named = [o for o in offsets[1:] if host.read(strings + o, length) == f"{function}\0".encode()]
    at = strings + named[0] + len("leaklab_")
    ((place,), _) = physical(lab_host(name), lab_view(name).space, np.array([at], np.uint64))
    path = tmp_path / "vmcore"
    shutil.copyfile(lab_dump(name).vmcore, path)
    with path.open("r+b") as core:
        memory = [s.header for s in ELFFile(core).iter_segments("PT_LOAD")]
        (piece,) = (m for m in memory if 0 <= int(place) - m["p_paddr"] < m["p_filesz"])
        core.seek(piece["p_offset"] + int(place) - piece["p_paddr"])
        letter = core.read(1)[0]
        core.seek(-1, SEEK_CUR)
        core.write(bytes([letter ^ 1]))
    damaged = run("leakscan", "-c", path, "--json")
    assert damaged.status == 0
    assert "the symbols of leaklab in this kernel's memory are damaged" in damaged.err
    whole = run("leakscan", "-c", alone(name), "--json")
    assert function in whole.out
    # Without its names and code, what a module's own functions call themselves is not known.
    assert "leaklab_leak_" not in damaged.out
    assert what_is_lost(damaged.document) == what_is_lost(whole.document)


def what_is_lost(document: Any) -> list[tuple[Any, ...]]:
    """What is accused, how surely, and of how much: not who is said to have done it."""
    verdicts = document["verdicts"]
    return [(v["class"], v["where"], v["bytes"], v["confidence"]) for v in verdicts]


@pytest.mark.parametrize("name", ["vmlinux", "vmlinux-{}", "vmlinux.debug"])
def test_a_vmlinux_beside_the_dump_is_found_by_its_build_id(name: str, tmp_path: Path) -> None:
    dump = lab_dump("default")
    core, beside = (
        tmp_path / "vmcore.d31",
        tmp_path / name.format(lab_host("default").info().release),
    )
    core.symlink_to(dump.d31)
    beside.symlink_to(dump.vmlinux)
    ran = run("leakscan", "-c", core, "--json", "--sites", "leaklab_obj")
    assert ran.err == f"{core}: {BY_ITSELF.format(beside)}\n"
    with_vmlinux = run("leakscan", *on("default", "vmcore.d31"), "--json", "--sites", "leaklab_obj")
    assert ran.out == with_vmlinux.out


def test_another_kernels_vmlinux_beside_the_dump_is_let_be(tmp_path: Path) -> None:
    core = tmp_path / "vmcore.d31"
    core.symlink_to(lab_dump("default").d31)
    (tmp_path / "vmlinux").symlink_to(lab_dump("default@sid").vmlinux)
    (tmp_path / "vmlinux.debug").write_text("call the customer back\n")
    ran = run("leakscan", "-c", core, "--sites", "leaklab_obj")
    assert ran.status == 0
    assert ran.err == f"{core}: {NO_DEBUG_INFO}\n"
