"""`leakscan CACHE` on real kernels' memory: guilty ones, innocent ones, damaged questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.conftest import ask, lab_dump, on, recorded, run
from tests.lab import read_addresses


def scanned(name: str, *arguments: object) -> dict[str, Any]:
    ran = ask("leakscan", *on(name), "--json", *arguments)
    assert ran.status == 0, ran.err
    return ran.document


def only_cache(document: dict[str, Any]) -> dict[str, Any]:
    (cache,) = document["caches"]
    assert isinstance(cache, dict)
    return cache


def holds(interval: dict[str, int], truth: int) -> bool:
    return interval["low"] <= truth <= interval["high"]


def words(group: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return {w["offset"]: w for w in group["words"]}


@pytest.mark.parametrize("samples", [5_000, 50_000, 250_000])
def test_unlinked_nodes_come_first_and_are_counted(samples: int) -> None:
    """200,000 forgotten nodes: first, within 1 %, decoded down to the module's symbol."""
    truth = lab_dump("default").truth()["parts"]["nodes"]
    cache = only_cache(scanned("default", "kmalloc-32", "--samples", samples))
    first = cache["groups"][0]
    assert holds(first["objects"], truth["count"])
    if samples >= 100_000:
        assert abs(first["objects"]["estimate"] - truth["count"]) <= truth["count"] / 100
    nodes = set(read_addresses(lab_dump("default").addresses("nodes")))
    assert int(first["exemplar"], 16) in nodes
    decoded = words(first)
    assert decoded[0]["value"] == truth["pointers"]["owner"]
    assert "[kmalloc-256+0x0]" in decoded[0]["meaning"]
    assert "leaklab_ops [leaklab]" in decoded[0]["hops"][-1]["what"]
    assert decoded[8]["meaning"].startswith("LIST_POISON1")
    assert decoded[16]["meaning"].startswith("LIST_POISON2")
    assert "counter" in decoded[24]["varies"]
    assert any(n.startswith("unlinked from a list and not freed") for n in first["notes"])


def test_intervals_hold_the_truth_over_many_seeds() -> None:
    """A 95 % interval from 5,000 of 205,000 objects: one in twenty may miss, not more."""
    truth = lab_dump("default").truth()["parts"]["nodes"]["count"]
    held = 0
    for seed in range(20):
        asked = ("kmalloc-32", "--samples", 5000, "--seed", seed, "--no-refs")
        cache = only_cache(scanned("default", *asked))
        assert cache["groups"][0]["objects"]["low"] < cache["groups"][0]["objects"]["high"]
        held += holds(cache["groups"][0]["objects"], truth)
    assert held >= 17


def test_two_leaks_in_one_cache_are_two_groups() -> None:
    """No two sessions share a byte pattern: their pointers differ, their structure does not."""
    dump = lab_dump("twin")
    parts = dump.truth()["parts"]
    first, second = only_cache(scanned("twin", "kmalloc-64"))["groups"][:2]
    assert holds(first["objects"], parts["sessions"]["count"])
    assert holds(second["objects"], parts["requests"]["count"])
    assert int(first["exemplar"], 16) in set(read_addresses(dump.addresses("sessions")))
    assert int(second["exemplar"], 16) in set(read_addresses(dump.addresses("requests")))
    assert first["distinct"] == first["sampled"]
    assert '"!SESSION"' in words(first)[0]["meaning"]
    assert "[leaklab]" in words(second)[16]["meaning"]


def test_private_cache_and_linked_structure_are_found() -> None:
    parts = lab_dump("default").truth()["parts"]
    for name, part in (("leaklab_obj", "private"), ("kmalloc-96", "chain")):
        first = only_cache(scanned("default", name))["groups"][0]
        assert holds(first["objects"], parts[part]["count"]), name
        members = set(read_addresses(lab_dump("default").addresses(part)))
        assert int(first["exemplar"], 16) in members


def test_freed_objects_are_no_group() -> None:
    """19,803 objects were freed with their content left in place; 197 are alive."""
    cache = only_cache(scanned("innocent", "leaklab_freed"))
    parts = lab_dump("innocent").truth()["parts"]
    assert cache["allocated"]["estimate"] == parts["freed_kept"]["count"]
    assert cache["objects_total"]["estimate"] > 19_000
    assert sum(g["objects"]["estimate"] for g in cache["groups"]) <= parts["freed_kept"]["count"]


def test_a_living_list_is_said_to_be_one() -> None:
    """Thousands of near-identical objects that are in use: alike, but linked, not unlinked."""
    first = only_cache(scanned("innocent", "kmalloc-32"))["groups"][0]
    assert first["objects"]["estimate"] >= 19_900
    assert any("still on a list" in n for n in first["notes"])
    assert not any("unlinked" in n for n in first["notes"])


def test_random_objects_are_no_group() -> None:
    """The hash table's objects hold random bytes: they must not be called alike."""
    hashed = set(read_addresses(lab_dump("innocent").addresses("hashed")))
    for cache in scanned("innocent", "kmalloc-64", "kmalloc-128", "kmalloc-192")["caches"]:
        for group in cache["groups"]:
            assert int(group["exemplar"], 16) not in hashed or group["objects"]["estimate"] < 20


def test_debugged_caches_are_read_inside_their_red_zones() -> None:
    truth = lab_dump("nodes-debug").truth()["parts"]["nodes"]
    first = only_cache(scanned("nodes-debug", "kmalloc-32"))["groups"][0]
    assert holds(first["objects"], truth["count"])
    nodes = set(read_addresses(lab_dump("nodes-debug").addresses("nodes")))
    assert int(first["exemplar"], 16) in nodes
    assert words(first)[8]["meaning"].startswith("LIST_POISON1")


def test_two_runs_with_one_seed_print_the_same_bytes() -> None:
    one, two = (run("leakscan", *on("twin"), "kmalloc-64", "--samples", 9000) for _ in "ab")
    assert one.out == two.out
    other = ask("leakscan", *on("twin"), "kmalloc-64", "--samples", 9000, "--seed", 1)
    assert other.out != one.out


@pytest.mark.parametrize("form", ["vmcore.kdump", "vmcore.d31"])
def test_formats_differ_in_the_source_only(form: str) -> None:
    whole = scanned("default", "kmalloc-32")
    other = ask("leakscan", *on("default", form), "--json", "kmalloc-32").document
    assert other["kernel"].pop("source") == form
    assert whole["kernel"].pop("source") == "vmcore"
    assert other == whole


def test_the_replayed_session_gives_the_same_document(tmp_path: Path) -> None:
    for name, cache in (("default", "kmalloc-32"), ("nodes-debug", "dentry")):
        session, told = recorded(tmp_path, "leakscan", name, "--json", cache)
        replayed = run("leakscan", "-r", session, "--json", cache)
        assert replayed.status == 0
        assert replayed.out == told.out
        assert replayed.err == ""
        assert session.stat().st_size < 2 << 20


def test_documents_follow_the_schema(schema: dict[str, Any]) -> None:
    document = scanned("innocent", "kmalloc-32", "dentry", "task_struct", "leaklab_freed")
    jsonschema.validate(document, schema)
    assert len(document["caches"]) == 4


def test_aliases_and_other_spellings_are_accepted() -> None:
    alias = only_cache(scanned("default", "io_kiocb"))  # merged into filp by Debian's kernel
    assert alias["name"] == "filp"
    assert alias["asked"] == "io_kiocb"
    assert "io_kiocb" in alias["aliases"]
    assert only_cache(scanned("default", "kmalloc-1024"))["name"] == "kmalloc-1k"


def test_an_unknown_cache_is_answered_with_close_names() -> None:
    ran = ask("leakscan", *on("default"), "kmaloc-32")
    assert ran.status == 2
    assert ran.out == ""
    assert ran.err.count("\n") == 1
    assert "did you mean kmalloc-32" in ran.err


def test_piped_text_is_plain_and_leads_with_the_answer() -> None:
    ran = ask("leakscan", *on("default"), "kmalloc-32")
    assert "\x1b" not in ran.out
    first = ran.out.splitlines()[0]
    assert first.startswith("kmalloc-32: 200,000 of ")
    assert all(line == line.rstrip() for line in ran.out.splitlines())


@pytest.mark.parametrize("metric", ["indel", "levenshtein"])
def test_other_metrics_find_the_same_group(metric: str) -> None:
    cache = only_cache(scanned("default", "kmalloc-32", "--metric", metric, "--samples", 20_000))
    assert holds(cache["groups"][0]["objects"], 200_000)


def test_interruption_keeps_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    from crashext.analysis import caches as leakscan

    examine = leakscan.examine_cache
    calls = []

    def second_is_interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return examine(*arguments)

    monkeypatch.setattr(leakscan, "examine_cache", second_is_interrupted)
    ran = run("leakscan", *on("default"), "kmalloc-32", "dentry")
    assert ran.status == 0
    assert ran.out.startswith("kmalloc-32: 200,000")
    assert "interrupted" in ran.out


def test_interrupted_while_it_looks_who_holds_them_who_allocated_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("crashext.analysis.reach.on_demand.marked", interrupted)
    ran = run("leakscan", *on("default"), "--refs", "kmalloc-512", "--json")
    group = ran.document["caches"][0]["groups"][0]
    assert ran.document["interrupted"]
    assert group["held"] is None
    assert group["callers"]["sites"][0]["site"]["function"] == "leaklab_queue_messages"
