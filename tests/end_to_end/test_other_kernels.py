"""The kernels of Debian's suites, and one with SLAB: nobody innocent is accused, what is lost is
found.

The newest is looked at every day. Each other kernel is fetched, or compiled, only when
$CRASHEXT_KERNELS asks (`make test-kernels`); where it is there already, its tests run. The everyday
kernel of the other tests has its row of README's table from here, so it is asked the same then.
Kernels that the lab cannot make are tested by hand: $CRASHEXT_DUMPS (tests/lab/README.md).
The truth is the lab's, and drgn's for what is allocated.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile

from crashext.analysis.reach.reachability import Class
from crashext.analysis.reach.selfcheck import misgivings
from crashext.hosts import decompress
from crashext.kernel.markers import release_tuple
from crashext.kernel.tested import NEWEST
from tests.conftest import ask, dumps_by_hand, lab_dump, lab_view, on, only_if, run
from tests.end_to_end import test_gallery as gallery
from tests.end_to_end.guests import (
    LOST,
    LOST_SLAB,
    RECALL,
    addresses,
    asked_files,
    census,
    classes,
    compared_with_drgn,
    explained,
    lost_share,
    marked,
    overview,
    unexplained,
    unreachable_files,
)
from tests.hosts.recompressed import recompressed
from tests.kernel.pages import test_pagetables
from tests.lab import NEWEST_SUITE, OWN_KERNELS, SUITES

SCENARIOS = ("healthy", "innocent", "default")
ASKED = os.environ.get("CRASHEXT_KERNELS")
EVERYDAY = list(SCENARIOS) if ASKED else []
ALL = EVERYDAY + [f"{n}@{suite}" for suite in (*SUITES, *OWN_KERNELS) for n in SCENARIOS]
ALL += [name for name in dumps_by_hand() if name.partition("@")[0] in SCENARIOS]
FILTERED = [name for name in ALL if "@arm64" not in name]
"""Only makedumpfile of the dump's own architecture filters it."""

Note = Callable[[str, object], None]
"""What README's table of kernels is written from: tests/record_support.py."""


@pytest.mark.parametrize("name", ALL)
def test_allocated_objects_are_drgns_in_every_cache(name: str, record_property: Note) -> None:
    caches, objects = compared_with_drgn(name)
    assert caches > 50  # of a kernel with few drivers
    assert objects > 6_000
    info, layout = lab_view(name).host.info(), lab_view(name).host.layout("struct kmem_cache")
    assert layout is not None
    record_property("release", info.release)
    record_property("built for", f"{info.arch} {'SLUB' if 'offset' in layout else 'SLAB'}")
    record_property("objects", objects)
    record_property("caches", caches)
    if name in dumps_by_hand():
        record_property("tested", "by hand")


@pytest.mark.parametrize("name", [n for n in ALL if not n.startswith("default")])
def test_a_kernel_that_loses_nothing_is_healthy(name: str, record_property: Note) -> None:
    document = overview(name)
    assert [v["class"] for v in document["verdicts"]] == ["healthy"]
    assert document["verdict"]["confidence"] == "high"
    assert not [g for g in census(name)["orphans"] if not g["explanation"]]
    record_property("verdicts", 1)
    record_property("form", "ELF")


@pytest.mark.parametrize("name", ALL)
def test_the_mark_believes_itself(name: str) -> None:
    assert misgivings(marked(name)) == ()


@pytest.mark.parametrize("name", [n for n in ALL if n.startswith("default")])
@pytest.mark.parametrize("part", LOST)
def test_what_was_lost_is_unreachable(name: str, part: str, record_property: Note) -> None:
    found, lost = lost_share(name, part), len(addresses(name, part))
    assert found >= RECALL
    record_property("lost", lost)
    record_property("found", round(found * lost))


@pytest.mark.parametrize("name", ALL)
def test_what_is_in_use_is_held(name: str) -> None:
    for part, facts in lab_dump(name).truth()["parts"].items():
        if facts["caches"] and part not in (*LOST, "freed"):
            assert (classes(name, part) == Class.HELD).all(), part


@pytest.mark.parametrize("name", ALL)
def test_nobody_innocent_is_unreachable(name: str, record_property: Note) -> None:
    """But for what hangs below leaked tasks, six objects each, and tables registered for good."""
    assert unexplained(name) == 0
    assert explained(name) <= 4
    record_property("innocents", unexplained(name))


@pytest.mark.parametrize("name", [n for n in ALL if n.startswith("default")])
def test_the_verdicts_name_what_was_lost(name: str, record_property: Note) -> None:
    document, truth = overview(name), lab_dump(name).truth()
    leaks = [v for v in document["verdicts"] if v["class"] == "leak"]
    slab = {v["culprit"]["cache"] for v in leaks if v["where"] == "slab"}
    assert slab == {truth["parts"][p]["cache"] for p in LOST}
    areas = [v["culprit"]["module"] for v in leaks if v["where"] == "vmalloc"]
    assert areas == ["leaklab"]
    record_property("verdicts", 1)


RECORDS = ("slub-track", "alloc-tag")
"""Of DEBUG_SLAB and of allocation profiling: the kernel's own notes of who allocated an object."""

WHOLE_GALLERY = (NEWEST_SUITE, "arm64-trixie")
"""Suites: the newest kernel of x86-64, and one of arm64."""
GALLERY = [
    f"{name}@{suite}" for suite in WHOLE_GALLERY for name in (*gallery.GUILTY, *gallery.INNOCENT)
]


@pytest.mark.parametrize("name", GALLERY)
@only_if(ASKED, "make test-kernels has the gallery of the newest kernel, and of one of arm64")
def test_the_whole_gallery_has_the_right_verdicts(name: str, record_property: Note) -> None:
    if name.partition("@")[0] in gallery.GUILTY:
        gallery.test_the_verdict_is_right(name)
    else:
        gallery.test_no_innocent_is_accused(name)
    if name not in ALL:
        record_property("verdicts", 1)


@pytest.mark.parametrize("name", GALLERY)
@only_if(ASKED, "make test-kernels has the gallery of the newest kernel, and of one of arm64")
def test_the_mark_is_right_in_the_whole_gallery(name: str) -> None:
    """All that was lost is unreachable, what is in use is not, and nobody innocent is."""
    for part, facts in lab_dump(name).truth()["parts"].items():
        if part in LOST_SLAB:
            assert lost_share(name, part) >= RECALL, part
        elif facts["caches"] and not part.startswith("freed"):
            assert (classes(name, part) == Class.HELD).all(), part
    if lost := asked_files(name):
        assert RECALL * lost <= unreachable_files(name) <= lost
    assert unexplained(name) == 0


FURTHER = ("rcu@bullseye", *(f"{n}@arm64-16k" for n in ("process", "tmpfs", "pagecache", "rcu")))
"""Of x86-64 without CONFIG_PREEMPT_RCU, and what user space does with pages of 16 KiB."""


@pytest.mark.parametrize("name", FURTHER)
@only_if(ASKED, "make test-kernels has more of the gallery on two other kernels")
def test_further_guests_have_the_right_verdicts(name: str, record_property: Note) -> None:
    gallery.test_the_verdict_is_right(name)
    record_property("verdicts", 1)


OTHER_PROCESSORS = ("default@arm64-64k+cortex-a57", "default@arm64-trixie+max")
"""Kernels for addresses of 52 bits, with 48 and 52 of them, on the other processor."""


@pytest.mark.parametrize("name", OTHER_PROCESSORS)
@only_if(ASKED, "make test-kernels has kernels of arm64 on other processors")
def test_another_processor_of_arm64_has_other_tables_and_the_same_answers(name: str) -> None:
    test_pagetables.test_addresses_of_every_kind_are_where_drgn_finds_them(name)
    compared_with_drgn(name)
    assert misgivings(marked(name)) == ()
    test_the_mark_is_right_in_the_whole_gallery(name)
    test_pages_that_were_lost_and_no_others_are_unreachable(name)
    verdicts = [(v["class"], v["where"], v["culprit"]) for v in overview(name)["verdicts"]]
    usual = overview(name.partition("+")[0])["verdicts"]
    assert verdicts == [(v["class"], v["where"], v["culprit"]) for v in usual]


@pytest.mark.parametrize("form", decompress.LIBRARIES)
@only_if(ASKED, "make test-kernels packs a dump of a guest of arm64 in every way")
def test_every_form_of_qemus_dump_says_the_same(form: str, tmp_path: Path) -> None:
    """Of arm64, whose memory it counts in pieces of 64 KiB."""
    name = "default@arm64-trixie"
    dump = lab_dump(name)
    written = dump.folder / "vmcore.kdump"
    path = recompressed(written, tmp_path / written.name, form)
    ran = run("leakscan", "-c", path, "-s", dump.vmlinux, "--json")
    assert (ran.status, ran.err) == (0, "")
    whole = ask("leakscan", *on(name, written.name), "--json")
    assert json.loads(ran.out.replace(str(path), str(written))) == whole.document


@only_if(ASKED, "Debian's newest kernel may be newer any day: make test-kernels says so")
def test_no_kernel_is_newer_than_the_product_says_it_was_tested_on() -> None:
    assert release_tuple(lab_view(f"healthy@{NEWEST_SUITE}").host.info().release) == NEWEST


@pytest.mark.parametrize("name", [n for n in ALL if n.startswith("default")])
def test_a_compressed_dump_says_the_same(name: str, record_property: Note) -> None:
    """By makedumpfile; of arm64 by QEMU, which leaves the kernel's name out of the header."""
    ran = run("leakscan", *on(name, "vmcore.kdump"), "--json")
    assert ran.status == 0, ran.err
    assert ran.document["verdicts"] == overview(name)["verdicts"]
    record_property("form", "kdump")


@pytest.mark.parametrize("name", [n for n in ALL if not n.startswith("innocent")])
def test_pages_that_were_lost_and_no_others_are_unreachable(name: str) -> None:
    found, parts = marked(name), lab_dump(name).truth()["parts"]
    guilty = [addresses(name, p) for p in parts if p.startswith("pages")]
    lost = np.concatenate([np.zeros(0, np.uint64), *guilty])
    nodes = found.unreachable_nodes()
    nodes = nodes[nodes >= found.nodes.first_block]
    blocks = found.nodes.addresses(nodes)
    # A lost task's stack is lost with it: blocks of pages where stacks are not vmalloc areas.
    heads = blocks[~found.pointed[nodes]]
    assert len(np.setdiff1d(heads, lost)) == 0
    assert len(np.intersect1d(blocks, lost)) >= RECALL * len(lost)


@pytest.mark.parametrize("name", [f"accounted@{suite}" for suite in SUITES])
@only_if(ASKED, "make test-kernels has a guest in a memory cgroup for each suite")
def test_what_a_memory_cgroup_is_charged_for_is_nobodys_leak(name: str) -> None:
    """Page tables of a type of their own until 5.11; slabs whose vector is one of their objects."""
    found = marked(name)
    nodes = found.unreachable_nodes()
    assert not (nodes >= found.nodes.first_block).any()
    assert unexplained(name) == 0


@cache
def filtered(name: str) -> list[dict[str, Any]]:
    """The verdicts on what makedumpfile -d 31 left, which drops live slab pages of some kernels."""
    dump = lab_dump(name)
    ran = run("leakscan", "-c", dump.d31, "-s", dump.vmlinux, "--json")
    assert ran.status == 0, ran.err
    verdicts: list[dict[str, Any]] = ran.document["verdicts"]
    return verdicts


@pytest.mark.parametrize("name", [n for n in FILTERED if not n.startswith("default")])
def test_nobody_is_accused_through_the_holes_of_a_filtered_dump(
    name: str, record_property: Note
) -> None:
    assert {v["class"] for v in filtered(name)} <= {"healthy", "cannot-tell"}
    record_property("form", "-d 31")


@pytest.mark.parametrize("name", [n for n in FILTERED if n.startswith("default")])
def test_only_the_guilty_are_accused_on_a_filtered_dump(name: str) -> None:
    parts = lab_dump(name).truth()["parts"]
    guilty = {parts[p]["cache"] for p in LOST}
    for verdict in filtered(name):
        assert verdict["class"] in ("leak", "cannot-tell")
        if verdict["class"] == "leak" and verdict["where"] == "slab":
            assert verdict["culprit"]["cache"] in guilty
        elif verdict["class"] == "leak":
            # Where what describes the module is missing too, its addresses have no names.
            culprit = verdict["culprit"]
            assert "leaklab" in f"{culprit['module']} {culprit['caller']}" or culprit[
                "caller"
            ].startswith("0xffffffffc0")


@pytest.mark.parametrize("name", [n for n in ALL if n.startswith("default")])
def test_the_code_names_who_allocated_what_was_lost(name: str) -> None:
    """But for tasks, which the kernel allocates for the module. Where the kernel noted it, that is
    said, and the code is not asked."""
    parts = lab_dump(name).truth()["parts"]
    expected = {parts[p]["function"] for p in LOST if p != "tasks"}
    orphans = census(name)["orphans"]
    groups = [g for g in orphans if g["callers"] and g["callers"]["clear"]]
    places = [g["callers"]["sites"][0]["site"] for g in groups]
    named = {p["function"].partition(".")[0] for p in places if p["module"]}
    noted = [
        a for g in orphans for a in g["allocators"][:1] if a["rung"] in RECORDS and a["module"]
    ]
    # ``function+0x2a``, or ``file:line function``
    named |= {a["site"].partition("+")[0].split(" ")[-1] for a in noted}
    assert expected <= named
    assert {p["module"] for p in (*places, *noted)} <= {"leaklab", ""}


@only_if(ASKED, "make test-kernels writes a dump of a guest of arm64 with tags")
def test_tags_in_the_pointers_of_arm64_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of KASAN and MTE, in each pointer to an object; no kernel of Debian's has them."""
    name = "default@arm64"
    dump, view = lab_dump(name), lab_view(name)
    path = tmp_path / "vmcore"
    shutil.copyfile(dump.vmcore, path)
    with path.open("rb") as core:
        memory = max(ELFFile(core).iter_segments("PT_LOAD"), key=lambda s: s["p_filesz"])
    shape = (memory["p_filesz"] // 8,)
    words = np.memmap(path, "<u8", "r+", memory["p_offset"], shape)
    pointers = np.flatnonzero(view.space.direct.holds(words))
    pointers = pointers[view.pointers.resolve(words[pointers]).known]
    tag = np.uint64(0xF0) + (words[pointers] >> np.uint64(4)) % np.uint64(14)
    words[pointers] &= tag << np.uint64(56) | np.uint64((1 << 56) - 1)
    words.flush()
    assert len(pointers) > 100_000
    monkeypatch.setattr("crashext.hosts.tags._HARDWARE", "kmem_cache_alloc")
    ran = run("leakscan", "-c", path, "-s", dump.vmlinux, "--json")
    assert ran.status == 0, ran.err
    assert ran.document["verdicts"] == overview(name)["verdicts"]


@pytest.mark.parametrize(
    ("part", "struct"),
    [("nodes", "leaklab_node"), ("private", "leaklab_obj"), ("chain", "leaklab_link")],
)
def test_modules_without_btf_have_their_types_from_their_debug_file(part: str, struct: str) -> None:
    """5.10's modules carry none; the file that lies beside the dump is found by its build ID."""
    one = int(addresses("default@bullseye", part)[0])
    ran = run("objsim", *on("default@bullseye"), "--no-refs", "--json", f"{one:#x}")
    (subject,) = ran.document["subjects"]
    best = subject["types"][0]
    assert (best["name"], best["module"]) == (f"struct {struct}", "leaklab")
    assert subject["members"]
