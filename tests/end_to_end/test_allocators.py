"""Who allocated: ours agrees with the guest's truth and with drgn's reading of the same notes."""

from __future__ import annotations

from functools import cache
from typing import Any

import drgn
import jsonschema
import numpy as np
import pytest
from drgn.helpers.linux.mm import compound_head, page_to_virt, virt_to_page
from drgn.helpers.linux.slab import find_slab_cache
from drgn.helpers.linux.stackdepot import stack_depot_fetch

from crashext.kernel.counters.clock import clock
from crashext.kernel.origin.memcg import cgroup_paths, object_cgroups
from crashext.kernel.origin.stackdepot import StackDepot
from crashext.kernel.origin.tracks import Event, read_tracks
from crashext.kernel.slab.objects import State
from tests.conftest import ask, few, lab_dump, lab_host, lab_view, on, recorded, run
from tests.lab import read_addresses

TRACED = ("traced", "nodes-debug")
PER_PART = 200


@few
def program(name: str) -> drgn.Program:
    """A program that knows the module's debug info too, and so what was inlined."""
    dump = lab_dump(name)
    opened = drgn.Program()
    opened.set_core_dump(str(dump.vmcore))
    opened.load_debug_info([str(dump.vmlinux), str(dump.module)], main=True)
    return opened


@cache
def groups(name: str, cache_name: str) -> list[dict[str, Any]]:
    answer = ask("leakscan", *on(name), "--json", cache_name)
    assert answer.status == 0, answer.err
    found: list[dict[str, Any]] = answer.document["caches"][0]["groups"]
    return found


def parts(name: str) -> dict[str, dict[str, Any]]:
    """Guilty parts with one cache whose function is the module's."""
    known = lab_dump(name).truth()["parts"]
    return {k: p for k, p in known.items() if p["guilty"] and p["cache"] and p["function"]}


def group_of(name: str, part: str) -> dict[str, Any]:
    """The reported group that the part's objects are in."""
    truth = lab_dump(name).truth()["parts"][part]
    members = set(read_addresses(lab_dump(name).addresses(part)))
    return next(g for g in groups(name, truth["cache"]) if int(g["exemplar"], 16) in members)


@pytest.mark.parametrize("name", TRACED)
def test_the_leaking_function_is_named_first_with_its_module(name: str) -> None:
    assert len(parts(name)) >= 4
    for part, truth in parts(name).items():
        first = group_of(name, part)["allocators"][0]
        assert (first["rung"], first["module"]) == ("slub-track", "leaklab"), part
        assert first["objects"] == first["of"] > 0
        reported = first["site"].split("+")[0]
        address = int(lab_dump(name).truth()["parts"][part]["first"], 16)
        assert reported in outermost_and_inlined(name, truth["cache"], address, truth["function"])


def outermost_and_inlined(name: str, cache_name: str, address: int, function: str) -> set[str]:
    """Names of the frame that drgn says is `function`, where the compiler inlined it included."""
    frames = list(drgn_stack(name, cache_name, address))
    pc = next(f.pc for f in frames if f.name == function)
    same = {f.name for f in frames if f.pc == pc}
    return same | {f.symbol().name for f in frames if f.pc == pc}


def drgn_stack(name: str, cache_name: str, address: int) -> drgn.StackTrace:
    found = stack_depot_fetch(drgn_track(name, cache_name, address, 0).handle)
    assert found is not None
    return found


def drgn_track(name: str, cache_name: str, address: int, which: int) -> drgn.Object:
    """The kernel's get_track(), in drgn's words (mm/slub.c, 6.1)."""
    slab_cache = find_slab_cache(program(name), cache_name)
    assert slab_cache is not None
    outside = slab_cache.offset >= slab_cache.inuse
    at = address + slab_cache.inuse.value_() + (8 if outside else 0)
    track = program(name).type("struct track")
    return drgn.Object(program(name), track, address=at + which * drgn.sizeof(track))


@pytest.mark.parametrize("name", TRACED)
def test_tracks_and_stacks_are_drgns(name: str) -> None:
    host, view = lab_host(name), lab_view(name)
    depot = StackDepot(host)
    for part, truth in parts(name).items():
        slab_cache = view.caches.find(truth["cache"])
        assert slab_cache is not None
        everyone = np.array(read_addresses(lab_dump(name).addresses(part)), np.uint64)
        some = everyone[:: max(1, len(everyone) // PER_PART)]
        tracks = read_tracks(host, slab_cache, some)
        stacks = depot.stacks(tracks.handle)
        assert tracks.ok.all(), part
        for i, address in enumerate(some.tolist()):
            theirs = drgn_track(name, slab_cache.name, address, 0)
            ours = [int(c[i]) for c in (tracks.addr, tracks.handle, tracks.pid, tracks.cpu)]
            members = (theirs.addr, theirs.handle, theirs.pid, theirs.cpu)
            assert ours == [m.value_() for m in members]
            assert int(tracks.when[i]) == theirs.when.value_()
        for handle, stack in stacks.items():
            theirs = drgn.Object(program(name), "depot_stack_handle_t", value=handle)
            frames = stack_depot_fetch(theirs)
            assert frames is not None
            assert list(stack) == list(dict.fromkeys(f.pc for f in frames))


def test_a_free_objects_track_says_who_freed_it() -> None:
    """Files are freed by RCU callbacks, whatever process opened them."""
    view, host = lab_view("traced"), lab_host("traced")
    files = view.caches.find("filp")
    assert files is not None
    rows = view.index.rows_of(view.caches.index(files))
    batches = view.reader(files).read(view.index, rows)
    free = np.concatenate([b.address[b.state == State.FREE] for b in batches])
    tracks = read_tracks(host, files, free, Event.FREE)
    assert tracks.ok.any()
    for i in np.flatnonzero(tracks.ok).tolist():
        theirs = drgn_track("traced", "filp", int(free[i]), 1)
        assert int(tracks.handle[i]) == theirs.handle.value_()
    stacks = StackDepot(host).stacks(tracks.handle[tracks.ok])
    names = {s.name for st in stacks.values() for a in st if (s := host.symbol_at(a - 1))}
    assert "rcu_core" in names


def test_without_records_the_code_and_the_content_name_who_it_was() -> None:
    first = groups("default", "kmalloc-32")[0]
    code, named = first["allocators"]
    assert (code["rung"], code["module"]) == ("code", "leaklab")
    assert code["site"].startswith("leaklab_leak_nodes+0x")
    assert (named["rung"], named["module"], named["site"]) == ("content", "leaklab", "leaklab_ops")
    assert named["objects"] == named["of"]
    assert first["unattributed"] == ""


def test_without_records_and_names_nobody_is_accused_and_the_option_is_said() -> None:
    for group in groups("default", "kmalloc-32")[1:]:
        if group["callers"]["clear"]:
            continue
        assert group["callers"]["step"]
        assert not any(a["rung"] == "code" for a in group["allocators"])
        assert "cannot tell who allocated them" in group["unattributed"]
        assert "slub_debug=U,kmalloc-32" in group["unattributed"]
        # The kernel is built without it: advice must be of use.
        assert "page_owner" not in group["unattributed"]
        break
    else:
        pytest.fail("the code names an allocator for every group")


def test_files_are_charged_to_the_memory_cgroup_that_made_them() -> None:
    view = lab_view("accounted")
    inodes = view.caches.find("shmem_inode_cache")
    assert inodes is not None
    groups_ = groups("accounted", "shmem_inode_cache")
    first = groups_[0]["allocators"][0]
    assert (first["rung"], first["site"]) == ("memcg", "/lab/tenant")
    assert first["objects"] >= 0.9 * first["of"]
    rows = view.index.rows_of(view.caches.index(inodes))
    every = np.concatenate(
        [b.address[b.state == State.ALLOCATED] for b in view.reader(inodes).read(view.index, rows)]
    )
    charged = object_cgroups(view, inodes, every)
    # 5,000 files, busybox's names and the lab's own; what was made before it is charged to none.
    assert 5_000 <= np.count_nonzero(charged) < len(every)
    assert set(cgroup_paths(view.host, charged).values()) == {"/lab/tenant"}
    for address, group in list(zip(every.tolist(), charged.tolist(), strict=True))[::50]:
        assert drgn_charge("accounted", address) == group


def drgn_charge(name: str, address: int) -> int:
    """page->memcg_data's vector by C's own rules (mm/slab.h slab_objcgs(), 6.1)."""
    page = compound_head(virt_to_page(program(name), address))
    slab = drgn.cast("struct slab *", page)
    vector = slab.memcg_data.value_() & ~3
    if not vector:
        return 0
    index = (address - page_to_virt(page).value_()) // slab.slab_cache.size.value_()
    objcg = drgn.Object(program(name), "struct obj_cgroup **", value=vector)[index]
    return int(objcg.memcg.value_()) if objcg else 0


def test_without_memory_cgroups_none_is_named() -> None:
    for group in groups("innocent", "dentry"):
        assert all(a["rung"] != "memcg" for a in group["allocators"])


def test_ticks_are_a_250th_of_a_second() -> None:
    """CONFIG_HZ=250 in Debian's configuration."""
    known = clock(lab_host("healthy"))
    assert known is not None
    assert known.hz == 250


def test_text_names_the_function_and_shows_its_stack() -> None:
    text = " ".join(ask("leakscan", *on("traced"), "kmalloc-32").out.split())
    assert "allocated by leaklab_leak_nodes+" in text
    assert "[leaklab] (slub-track, 4,096 of 4,096 looked at)" in text
    assert " s before the dump" in text
    assert "make_everything+" in text
    assert "alloc-tag" not in text
    verbose = ask("leakscan", *on("traced"), "-v", "kmalloc-32").out
    assert "no alloc-tag: " in verbose
    assert "ret_from_fork+" in verbose


def test_json_is_as_the_schema_says(schema: Any) -> None:
    for name in ("traced", "accounted", "default"):
        document = ask("leakscan", *on(name), "--json", "dentry", "kmalloc-32").document
        jsonschema.validate(document, schema)


def test_a_session_answers_the_same(tmp_path: Any) -> None:
    session, told = recorded(tmp_path, "leakscan", "traced", "--no-refs", "--json", "kmalloc-64")
    replayed = run("leakscan", "-r", session, "--no-refs", "--json", "kmalloc-64")
    assert replayed.err == ""
    assert replayed.document == told.document
    assert replayed.document["caches"][0]["groups"][0]["allocators"][0]["module"] == "leaklab"
