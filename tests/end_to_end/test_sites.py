"""`leakscan --sites CACHE` on real dumps: the module's source says where the truth is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from crashext.kernel.origin.freeing import Freeing, Sure
from crashext.kernel.origin.requests import requests_of
from tests.conftest import ask, lab_dump, lab_host, lab_view, on, run
from tests.end_to_end.by_truth import placed

PARTS = [
    ("nodes", "nodes", 32),
    ("private", "private", None),
    ("chain", "chain", 88),
    ("twin", "sessions", 64),
    ("twin", "requests", 56),
    ("messages", "messages", 400),
    ("innocent", "living", 32),
    ("innocent", "freed", None),
    ("innocent", "hashed", None),
]


@pytest.mark.parametrize(("dump", "part", "size"), PARTS)
def test_the_function_that_allocates_is_listed(
    dump: str, part: str, size: int | None, schema: object
) -> None:
    lab = lab_dump(dump)
    truth = lab.truth()["parts"][part]
    ran = run("leakscan", *on(dump), "--sites", truth["caches"][0], "--json")
    assert (ran.status, ran.err) == (0, "")
    jsonschema.validate(ran.document, schema)
    # The size of what is hashed varies: it may be of any such cache.
    places = [*ran.document["sites"], *ran.document["varying"]]
    mine = [s for s in places if s["function"].startswith(truth["function"])]
    assert [s["sizes"] for s in mine] == [[size] if size else []]
    assert mine[0]["module"] == "leaklab"
    assert placed(lab_host(dump), mine[0])


def test_lines_of_source_come_with_the_modules_debug_info() -> None:
    lab = lab_dump("nodes")
    module = lab.vmcore.with_name("leaklab.ko")
    asked = ("leakscan", "-c", lab.vmcore, "-s", lab.vmlinux, "-s", module, "--sites", "kmalloc-32")
    (mine,) = [
        s for s in run(*asked, "--json").document["sites"] if s["function"] == "leaklab_leak_nodes"
    ]
    path, _, number = mine["source"].partition(":")
    text = (Path(__file__).parents[1] / "lab" / path).read_text().splitlines()
    assert "kmalloc(" in text[int(number) - 1]


def test_a_dedicated_cache_has_few_places() -> None:
    lab = lab_dump("nodes")
    ran = run("leakscan", "-c", lab.vmcore, "-s", lab.vmlinux, "--sites", "task_struct", "--json")
    # dup_task_struct() is compiled into copy_process().
    assert [s["function"] for s in ran.document["sites"]] == ["copy_process"]
    assert {s["function"] for s in ran.document["freed"]} >= {"free_task"}


def test_a_session_says_the_same(tmp_path: Path) -> None:
    lab, kept = lab_dump("nodes"), tmp_path / "sites.session"
    asked = ("leakscan", "--sites", "kmalloc-32")
    first = run(*asked, "-c", lab.vmcore, "-s", lab.vmlinux, "--record", kept)
    again = run(*asked, "-r", kept)
    assert (first.status, again.status, again.err) == (0, 0, "")
    assert again.out == first.out
    assert first.out.startswith("kmalloc-32: ")


def test_a_session_of_a_cache_keeps_who_allocated(tmp_path: Path) -> None:
    lab, kept = lab_dump("private"), tmp_path / "cache.session"
    asked = ("leakscan", "--no-refs", "leaklab_obj", "--json")
    first = run(*asked, "-c", lab.vmcore, "-s", lab.vmlinux, "--record", kept)
    again = run(*asked, "-r", kept)
    assert (first.status, again.status, again.err) == (0, 0, "")
    group = first.document["caches"][0]["groups"][0]
    assert group["callers"]["sites"][0]["site"]["function"] == "leaklab_leak_private"
    assert again.document == first.document


def test_the_code_is_for_one_cache() -> None:
    for wrong in (["--sites"], ["--sites", "a", "b"], ["--sites", "a", "--orphans"]):
        ran = run("leakscan", "-k", *wrong)
        assert ran.status == 2
        assert "--sites" in ran.err


def test_who_allocates_files_is_among_the_first_and_rarely_who_lost_one() -> None:
    """filp is merged with caches of timers and io_uring on this kernel."""
    lab = lab_dump("default")
    ran = ask("leakscan", "-c", lab.vmcore, "-s", lab.vmlinux, "--no-refs", "filp", "--json")
    for group in ran.document["caches"][0]["groups"]:
        callers = group["callers"]
        first = {s["site"]["function"]: s["site"] for s in callers["sites"][:3]}
        # alloc_empty_file() calls it, or has it compiled in.
        (mine,) = first.keys() & {"__alloc_file", "alloc_empty_file"}
        assert callers["clear"]
        assert callers["sites"][0]["site"]["function"] == mine
        assert first[mine]["source"].startswith("fs/file_table.c:")
        assert "where a reference was lost, look for who took it" in callers["remark"]


@pytest.mark.parametrize("dump", ["default", "default@sid"])
def test_what_frees_other_objects_is_not_named(dump: str) -> None:
    """By its source the module has one kfree() by RCU's callback, one of a packet, one by
    kfree_rcu(), and frees objects of two other caches; nodes and private objects never. On 7.2
    put_task_struct() is inlined, whose call_rcu() is for tasks."""
    report = ask("leakscan", *on(dump), "--orphans", "--json").document
    of: dict[str, Any] = {
        g["callers"]["sites"][0]["site"]["function"]: g["callers"]
        for g in report["orphans"]
        if g["callers"]
    }
    nodes, private = of["leaklab_leak_nodes"], of["leaklab_leak_private"]
    assert (nodes["freed"], private["freed"], private["perhaps_freed"]) == ([], [], [])
    perhaps = {site["function"] for site in nodes["perhaps_freed"]}
    assert perhaps == {"leaklab_event_free", "leaklab_defer_frees", "leaklab_packet_put"}


@pytest.mark.parametrize(
    ("dump", "cache", "function"),
    [
        ("innocent", "leaklab_freed", "leaklab_free_most"),
        ("fragmentation", "leaklab_fragment", "leaklab_fragment"),
    ],
)
def test_what_frees_objects_of_a_cache_is_named(dump: str, cache: str, function: str) -> None:
    view = lab_view(dump)
    found = view.caches.find(cache)
    assert found is not None
    freeing = Freeing(view.host, view.caches, requests_of(view.host, view.caches))
    assert [(r.function.name, sure) for r, sure in freeing.of(found, "leaklab")] == [
        (function, Sure.YES)
    ]


def test_what_takes_from_a_pool_that_is_not_there_is_not_listed() -> None:
    """Nothing is swapped or encrypted: __swap_writepage() and the like have no pool yet."""
    ran = ask("leakscan", *on("default@sid"), "--sites", "bio-280", "--json")
    listed = {s["function"] for s in [*ran.document["sites"], *ran.document["varying"]]}
    assert {"bioset_init", "bio_alloc_bioset"} <= listed
    assert not listed & {"__swap_writepage", "swap_read_folio", "fscrypt_alloc_bounce_page"}
