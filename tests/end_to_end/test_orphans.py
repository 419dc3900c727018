"""`leakscan --orphans` and who holds what, on real kernels' memory, against what was leaked there.

The truth is the lab's: every address that the leak module forgot, and every one that it kept.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jsonschema
import numpy as np
import pytest
from numpy.typing import NDArray

from crashext.analysis.likeness.survey import generator
from crashext.analysis.reach import reachability
from crashext.analysis.reach.group_reach import reachability_of
from crashext.analysis.reach.holders import Holders
from crashext.analysis.reach.reachability import Class, Reach, reach
from crashext.analysis.reach.totals import unreachable_counts
from crashext.analysis.settings import Settings
from crashext.hosts import session
from crashext.hosts.base import ReadFault
from crashext.hosts.drgn import DrgnHost
from crashext.kernel.roots.places import Place, PlaceKind
from crashext.kernel.slab.view import KernelView
from crashext.progress import silent
from tests.conftest import SESSIONS, Ran, ask, few, lab_dump, lab_host, lab_view, on, recorded, run
from tests.lab import read_addresses

SETTINGS = Settings(250_000, 0, 0.7, "hamming", 1)
LOST = ("nodes", "private", "chain", "sessions", "requests")
"""Parts of the truth that nothing in the kernel holds."""
KEPT = ("living", "hashed", "freed_kept", "payloads", "messages")
"""Parts that are on a list or in a table of the module."""
BOOT = "a sysctl table registered at boot for good (kmemleak_not_leak)"
WITH_LOST = ("default", "private", "chain", "twin", "nodes-debug")
WITHOUT = ("healthy", "innocent", "messages", "vmalloc")

Addresses = NDArray[np.uint64]


def addresses(name: str, part: str) -> Addresses:
    return np.array(read_addresses(lab_dump(name).addresses(part)), np.uint64)


def parts(name: str, wanted: tuple[str, ...]) -> list[str]:
    return [p for p in lab_dump(name).truth()["parts"] if p in wanted]


@few
def marked(name: str, budget_mib: int = 500) -> Reach:
    """A lab dump's marked kernel."""
    return _marked(name, budget_mib)


def _marked(name: str, budget_mib: int) -> Reach:
    return reach(
        KernelView(lab_host(name)),
        silent,
        lambda cache_name: generator(SETTINGS, cache_name),
        budget_mib << 20,
    )


@few
def without_disk(name: str, budget_mib: int) -> Reach:
    """The same where no file may be written."""
    with patch.object(reachability, "free", lambda folder: 0):
        return _marked(name, budget_mib)


@cache
def census(name: str) -> dict[str, Any]:
    ran = ask("leakscan", *on(name), "--orphans", "--json")
    assert ran.status == 0, ran.err
    return ran.document


def root_of(found: Reach, address: int) -> Place:
    holders = Holders(found)
    slot = int(found.table.at(np.array([address], np.uint64))[0])
    return holders.root_of(holders.start_of(slot))


def unexplained(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [g for g in document["orphans"] if not g["explanation"]]


def listed(path: Path) -> dict[int, str]:
    rows = [line.split(" # ")[0].split(" ", 1) for line in path.read_text().splitlines()]
    return {int(address, 16): cache_name for address, cache_name in rows}


@pytest.mark.parametrize("name", WITH_LOST)
def test_every_leaked_object_that_nothing_points_at_is_found(name: str) -> None:
    """Those few that are held are so by a left-over word in the live part of some stack."""
    found = marked(name)
    for part in parts(name, LOST):
        all_of_it = addresses(name, part)
        classes = found.classes(found.table.at(all_of_it))
        held = all_of_it[classes == Class.HELD]
        assert len(held) <= max(3, len(all_of_it) // 10_000), part
        for address in held.tolist():
            assert root_of(found, address).kind is PlaceKind.STACK
        expected = Class.STRUCTURE if part == "chain" else Class.ORPHAN
        assert (classes == expected).sum() == len(all_of_it) - len(held), part


@pytest.mark.parametrize("name", [*WITH_LOST, *WITHOUT, "tasks"])
def test_nothing_innocent_is_called_leaked(name: str) -> None:
    """What nobody leaked and nothing reaches: a few objects of every boot, each one explained."""
    found, truth = marked(name), lab_dump(name).truth()["parts"]
    for part in parts(name, KEPT):
        classes = found.classes(found.table.at(addresses(name, part)))
        assert (classes == Class.HELD).all(), part
    guilty = [addresses(name, p) for p in truth if p in LOST or p == "tasks"]
    known = found.table.at(np.concatenate([np.zeros(0, np.uint64), *guilty]))
    innocent = int((found.classes(np.arange(found.table.count)) != Class.NOT_JUDGED).sum())
    innocent -= len(known)
    tasks = truth.get("tasks", {"count": 0})["count"]
    others = np.setdiff1d(found.unreachable(), known)
    explained = sum(g["objects"] for g in census(name)["orphans"] if g["explanation"])
    # Of a leaked task_struct hang its credentials, signal and the like: five objects each.
    assert len(others) - explained <= 5 * tasks
    assert len(others) - explained - 5 * tasks <= innocent / 10_000
    # As many as in any other boot of this kernel; how many that is, its version decides.
    assert explained == census(name)["totals"]["explained"]
    assert 0 < explained == census("healthy")["totals"]["explained"] <= 16
    assert {g["explanation"] for g in census(name)["orphans"]} - {""} == {BOOT}


@pytest.mark.parametrize("name", WITHOUT)
def test_a_kernel_without_orphans_has_nothing_unexplained(name: str) -> None:
    document = census(name)
    totals = document["totals"]
    assert not unexplained(document)
    assert set(totals["objects"].values()) == {totals["explained"]}
    assert not document["caches"]
    assert totals["bytes"] < totals["judged_bytes"] / 1000
    text = ask("leakscan", *on(name), "--orphans").out
    lines = " ".join(text.split())
    some = f"no leak: {totals['explained']} objects"
    assert "; all of them are explained below" in lines
    assert re.search(rf" {some} of \S[^:]*: {re.escape(BOOT)}", lines)


def test_the_census_of_the_default_dump() -> None:
    document, truth = census("default"), lab_dump("default").truth()["parts"]
    by_cache = {g["cache"]: g for g in unexplained(document)}
    assert by_cache["kmalloc-32"]["heads"] == truth["nodes"]["count"]
    assert by_cache["leaklab_obj"]["heads"] == truth["private"]["count"]
    assert by_cache["kmalloc-96"]["heads"] == 100
    assert by_cache["kmalloc-96"]["objects"] == truth["chain"]["count"]
    sizes = [g["bytes"] for g in unexplained(document)]
    assert sizes == sorted(sizes, reverse=True)
    totals, groups = document["totals"], document["orphans"]
    assert set(totals["objects"].values()) == {sum(g["objects"] for g in groups)}
    assert set(totals["heads"].values()) == {sum(g["heads"] for g in groups)}
    whole = {c["cache"]: c for c in document["caches"]}
    caches = {"nodes": "kmalloc-32", "private": "leaklab_obj", "chain": "kmalloc-96"}
    for part, of in caches.items():
        assert set(whole[of]["objects"].values()) == {truth[part]["count"]}
    assert sum(c["bytes"] for c in document["caches"]) == sum(sizes)
    assert document["totals"]["bytes"] == sum(g["bytes"] for g in document["orphans"])
    nodes = set(addresses("default", "nodes").tolist())
    assert {int(a, 16) for a in by_cache["kmalloc-32"]["examples"]} <= nodes


@pytest.mark.parametrize(("name", "rings", "length"), [("default", 100, 200), ("chain", 300, 200)])
def test_leaked_rings_are_structures_with_one_head_each(name: str, rings: int, length: int) -> None:
    (group,) = [g for g in unexplained(census(name)) if g["cache"] == "kmalloc-96"]
    assert (group["heads"], group["objects"]) == (rings, rings * length)
    assert group["below"] == [
        {"cache": "kmalloc-96", "objects": rings * (length - 1), "bytes": rings * (length - 1) * 96}
    ]
    rank = {a: i // length for i, a in enumerate(addresses(name, "chain").tolist())}
    examples = [int(a, 16) for a in group["examples"]]
    assert len({rank[a] for a in examples}) == len(examples) > 1  # of different rings


@pytest.mark.parametrize("name", ["tasks", "default", "nodes-debug"])
def test_leaked_tasks_are_heads_and_what_they_own_hangs_below(name: str) -> None:
    """At least 95 % are unreachable; who holds the others has a name."""
    found, tasks = marked(name), addresses(name, "tasks")
    classes = found.classes(found.table.at(tasks))
    assert (classes == Class.STRUCTURE).mean() >= 0.95
    for address in tasks[classes == Class.HELD].tolist():
        assert root_of(found, address).name
    groups = unexplained(census(name))
    assert not {"signal_cache", "cred_jar", "kmalloc-cg-16"} & {g["cache"] for g in groups}
    of_tasks = [g for g in groups if g["cache"] == "task_struct"]
    lost = int((classes == Class.STRUCTURE).sum())
    below: Counter[str] = Counter()
    for group in of_tasks:
        below.update({b["cache"]: b["objects"] for b in group["below"]})
    # list_del_rcu() leaves `next`: leaked tasks are found through another, where that was its
    # neighbour when it died. How many, each boot decides; those that no other names are heads.
    assert sum(g["heads"] for g in of_tasks) + below["task_struct"] == lost
    named = named_by_another(name, tasks[classes == Class.STRUCTURE])
    assert lost >= sum(g["heads"] for g in of_tasks) >= lost - len(named)
    assert below["signal_cache"] == below["cred_jar"] == below["kmalloc-cg-16"] == lost
    if name == "tasks":
        assert {g["cache"] for g in groups} == {"task_struct"}
    (whole,) = [c for c in census(name)["caches"] if c["cache"] == "task_struct"]
    assert whole["objects"]["estimate"] == lost
    assert whole["heads"]["estimate"] == sum(g["heads"] for g in of_tasks)
    assert "task_struct" not in {b["cache"] for b in whole["below"]}
    assert whole["others"]["estimate"] == sum(b["objects"] for b in whole["below"]) >= 5 * lost


def named_by_another(name: str, tasks: Addresses) -> set[int]:
    """Those of some task_structs that the memory of another of them points into."""
    size = next(c for c in lab_view(name).caches.all if c.name == "task_struct").object_size
    rows, ok = lab_host(name).read_many(tasks, size & ~7)
    assert ok.all()
    words, order = rows.view("<u8"), np.sort(tasks)
    at = np.searchsorted(order, words, side="right") - 1
    inside = (at >= 0) & (words - order[at] < np.uint64(size)) & (order[at] != tasks[:, None])
    return set(order[at[inside]].tolist())


def held_group(name: str, cache_name: str, *arguments: object) -> dict[str, Any]:
    ran = ask("leakscan", *on(name), "--json", "--refs", *arguments, cache_name)
    assert ran.status == 0, ran.err
    (report,) = ran.document["caches"]
    group = report["groups"][0]
    assert isinstance(group, dict)
    return group


def test_the_queue_nobody_drains_is_held_by_its_list_head() -> None:
    group = held_group("messages", "kmalloc-512")
    held = group["held"]
    assert held["held"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert held["orphan"]["value"] == held["structure"]["value"] == 0
    assert held["holders"][0] == ["leaklab_ipmi_waiting [leaklab]", 4096]
    chain = held["chains"][0]
    assert chain["steps"][0].startswith("leaklab_ipmi_waiting")
    assert int(chain["target"], 16) in set(addresses("messages", "messages").tolist())
    text = ask("leakscan", *on("messages"), "kmalloc-512").out
    assert "held by the variable leaklab_ipmi_waiting [leaklab]" in " ".join(text.splitlines()[:3])


def test_the_living_list_is_held_by_its_list_head() -> None:
    held = held_group("innocent", "kmalloc-32")["held"]
    (name, objects), *_ = held["holders"]
    assert name == "leaklab_living [leaklab]"
    assert objects > 0.95 * sum(count for _, count in held["holders"])
    assert held["held"]["value"] > 0.999


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_list_is_every_unreachable_object(form: str, tmp_path: Path) -> None:
    out = tmp_path / "orphans"
    ran = run(
        "leakscan", *on("default"), "--orphans", "--list", out, *["--json"] * (form == "json")
    )
    assert ran.status == 0, ran.err
    found, rows = marked("default"), listed(out)
    lost = found.unreachable()
    names = [found.view.caches.all[i].name for i in found.table.caches(lost).tolist()]
    objects = dict(zip(found.table.addresses(lost).tolist(), names, strict=True))
    assert {a: of for a, of in rows.items() if a in objects} == objects
    # What is no object is an area, or a block of pages.
    others = {a: of.split()[0] for a, of in rows.items() if a not in objects}
    assert set(others.values()) == {"vmalloc", "pages"}
    areas = {a for a, of in others.items() if of == "vmalloc"}
    assert set(addresses("default", "vmalloc").tolist()) <= areas
    assert set(addresses("default", "nodes").tolist()) <= set(rows)
    assert not set(addresses("default", "living").tolist()) & set(rows)
    assert len(out.read_text().splitlines()) == len(rows)
    why = [line.split(" # ")[1] for line in out.read_text().splitlines() if " # " in line]
    assert why == [f"no leak: {BOOT}"] * census("default")["totals"]["explained"]


@pytest.mark.parametrize("name", ["default", "healthy", "tasks"])
def test_documents_follow_the_schema(name: str, schema: dict[str, Any]) -> None:
    jsonschema.validate(census(name), schema)
    assert census(name)["schema"].startswith("crashext/orphans/")


@pytest.mark.parametrize("name", ["default", "chain", "tasks"])
def test_a_filtered_dump_has_the_same_orphans(name: str) -> None:
    """Level 31 takes user, cache and free pages away, which point at nothing anyway."""
    ran = ask("leakscan", *on(name, "vmcore.d31"), "--orphans", "--json")
    assert ran.status == 0, ran.err
    filtered = ran.document
    assert filtered["kernel"].pop("source") == "vmcore.d31"
    whole = {**census(name), "kernel": {**census(name)["kernel"]}}
    assert whole["kernel"].pop("source") == "vmcore"
    assert filtered == whole
    assert whole["reachability"]["pages_missing"] == 0


class Holed:
    """A dump from which some page frames were lost."""

    def __init__(self, host: DrgnHost, start: int, lost: frozenset[int]) -> None:
        self._host, self._start, self._lost = host, start, lost

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)

    def _missing(self, address: int, size: int) -> bool:
        first = (address - self._start) >> 12
        return any(
            f in self._lost for f in range(first, ((address + size - 1 - self._start) >> 12) + 1)
        )

    def read(self, address: int, size: int) -> bytes:
        if self._missing(address, size):
            raise ReadFault(address)
        return self._host.read(address, size)

    def read_many(self, where: Addresses, size: int) -> tuple[Any, Any]:
        data, ok = self._host.read_many(where, size)
        gone = np.array([self._missing(a, size) for a in where.tolist()], np.bool_)
        data[gone] = 0
        return data, ok & ~gone

    def present(self) -> list[tuple[int, int]]:
        frames = marked("chain").frames.use[:]
        held = np.ones(len(frames), np.bool_)
        held[list(self._lost)] = False
        edges = np.flatnonzero(np.diff(held.view(np.int8), prepend=0, append=0)).reshape(-1, 2)
        return [(int(a) << 12, int(b) << 12) for a, b in edges]


def test_missing_pages_are_counted_and_named() -> None:
    """Every 20th page of the kernel's own is lost, slab pages included: their objects are not
    judged, the rest is, and the report says how much of the kernel it did not see."""
    whole = marked("chain")
    slabs = np.flatnonzero(whole.table.row_of_page[: len(whole.frames.use)] >= 0)
    # Not those of the caches' own descriptors: a cache that is not seen has no objects to judge.
    names = np.array([c.name for c in whole.view.caches.all])
    of = names[whole.table.index.cache[whole.table.row_of_page[slabs]]]
    lost = frozenset(slabs[~np.isin(of, ["kmem_cache", "kmem_cache_node"])][::20].tolist())
    host = lab_host("chain")
    view = KernelView(Holed(host, whole.view.space.direct.start, lost))
    found = reach(view, silent, lambda cache_name: generator(SETTINGS, cache_name))
    seen = reachability_of(found)
    assert seen.pages_missing == found.references.coverage.missing_slab == len(lost)
    assert seen.pages_present + seen.pages_missing == whole.references.coverage.present
    assert any("looks like an orphan" in n for n in seen.notes)
    assert any(f"{len(lost):,} of the missing pages are slab pages" in n for n in seen.notes)
    links = addresses("chain", "chain")
    classes = found.classes(found.table.at(links))
    gone = np.isin((links - np.uint64(whole.view.space.direct.start)) >> np.uint64(12), [*lost])
    assert (classes[gone] == Class.NOT_JUDGED).all()
    judged = classes[classes != Class.NOT_JUDGED]
    assert len(judged) > 0.8 * len(links)
    assert np.isin(judged, [Class.STRUCTURE, Class.ORPHAN]).all()


@pytest.mark.parametrize("name", ["default", "chain", "messages", "twin", "innocent"])
@pytest.mark.parametrize("budget", [64, 205])
def test_a_sample_of_the_giants_gets_the_same_verdicts(name: str, budget: int) -> None:
    """Where memory and disk are short, whole slabs are drawn: each of their objects is judged as
    before.

    What only objects outside the sample point at counts as held, and is known to be unsure.
    """
    whole, some = marked(name), without_disk(name, budget)
    assert some.giants
    slots = np.flatnonzero(some.classes(np.arange(some.table.count)) != Class.NOT_JUDGED)
    assert len(slots) > 8_000
    sampled = some.classes(slots)
    truth = whole.classes(whole.table.at(some.table.addresses(slots)))
    unsure = some.unsure[slots]
    assert (sampled[~unsure] == truth[~unsure]).all()
    assert (sampled[unsure] == Class.HELD).all()
    sure_of_an_object = unsure & ~some.doubtful[slots]
    assert np.isin(truth[sure_of_an_object], [Class.HELD, Class.STRUCTURE]).all()
    assert not (some.doubtful & ~some.unsure).any()
    if name in ("twin", "innocent"):  # held by what is no giant, or by nothing
        assert unsure.mean() < 0.3


@pytest.mark.parametrize("name", ["messages", "innocent"])
def test_what_is_in_use_is_judged_whole_in_little_memory(name: str) -> None:
    """By files: of what is mostly lost a sample does."""
    whole, little = marked(name), marked(name, 64)
    assert not little.giants
    every = np.arange(whole.table.count)
    assert (whole.classes(every) == little.classes(every)).all()
    assert not little.unsure.any()


@pytest.mark.parametrize(
    ("name", "cache_name", "kind"),
    [
        ("default", "kmalloc-32", "orphan"),
        ("chain", "kmalloc-96", "structure"),
        ("messages", "kmalloc-512", "held"),
        ("twin", "kmalloc-64", "orphan"),
    ],
)
@pytest.mark.parametrize("arguments", [(), ("--memory", "64"), ("--samples", "3000")])
def test_shares_of_who_points_there_hold_the_truth(
    name: str, cache_name: str, kind: str, arguments: tuple[str, ...]
) -> None:
    """The largest group of each is all leaked, or all held: its intervals must contain that."""
    held = held_group(name, cache_name, *arguments)["held"]
    assert held["examined"] > 1000
    found = marked(name)
    of_group = {"kmalloc-32": "nodes", "kmalloc-96": "chain", "kmalloc-512": "messages"}
    members = addresses(name, of_group.get(cache_name, "sessions"))
    classes = found.classes(found.table.at(members))
    assert (classes == Class[kind.upper()]).mean() > 0.9999
    # By chance a struct page pointer names one object of 40,000: it counts as weakly held.
    weak = held["weak"]["value"]
    assert weak * held["examined"] <= max(2, held["examined"] / 10_000)
    for key in ("orphan", "structure", "held"):
        truth = float((classes == Class[key.upper()]).mean())
        share = held[key]
        assert share["low"] - 1e-6 <= truth <= share["high"] + weak + 1e-6, (key, share)


def recorded_census(folder: Path, name: str = "healthy") -> tuple[Path, Ran]:
    return recorded(folder, "leakscan", name, "--orphans", "--json")


@pytest.mark.parametrize("name", ["healthy", "tasks", "chain"])
def test_a_recorded_census_replays_byte_for_byte(name: str, tmp_path: Path) -> None:
    path, ran = recorded_census(tmp_path, name)
    replayed = run("leakscan", "-r", path, "--orphans", "--json")
    assert (replayed.status, replayed.out, replayed.err) == (0, ran.out, "")
    text = ask("leakscan", *on(name), "--orphans").out
    assert run("leakscan", "-r", path, "--orphans").out == text


def test_a_session_of_another_question_says_that_it_does_not_know(tmp_path: Path) -> None:
    path, _ = recorded_census(tmp_path)
    for arguments in (("-r", SESSIONS / "unlinked-nodes.session"), ("-r", path, "--seed", "5")):
        ran = run("leakscan", *arguments, "--orphans")
        assert (ran.status, ran.out) == (2, "")
        assert ran.err.count("\n") == 1
        assert ran.err.startswith("leakscan: this session ")


def tampered(path: Path, change: Callable[[Any], Any]) -> Path:
    """The session with its answers about orphans changed."""
    document, extents = session.load(path)
    for key in [k for k in document["derived"] if k.startswith("orphans")]:
        document["derived"][key] = change(document["derived"][key])
    session.write(path, document, [(a, bytes(d)) for a, d in extents])
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda answer: [],
        lambda answer: "orphans",
        lambda answer: {**answer, "orphans": None},
        lambda answer: {**answer, "orphans": [[]] * 1000},
        lambda answer: {**answer, "totals": {**answer["totals"], "objects": "many"}},
        lambda answer: {**answer, "totals": {**answer["totals"], "objects": 1.5}},
        lambda answer: {**answer, "seed": True},
        lambda answer: {k: v for k, v in answer.items() if k != "kernel"},
        lambda answer: {**answer, "orphans": [{**answer["orphans"][0], "examples": [None]}]},
        lambda answer: {**answer, "orphans": [{**answer["orphans"][0], "below": {}}]},
    ],
)
def test_a_damaged_answer_is_one_line(change: Callable[[Any], Any], tmp_path: Path) -> None:
    path = tampered(recorded_census(tmp_path)[0], change)
    for form in ((), ("--json",), ("--list", tmp_path / "list")):
        ran = run("leakscan", "-r", path, "--orphans", *form)
        assert (ran.status, ran.out) == (2, "")
        assert ran.err.count("\n") == 1
        assert "damaged" in ran.err


def test_hostile_words_and_numbers_of_an_answer_do_no_harm(tmp_path: Path) -> None:
    """Right types, wrong values: printed escaped, or refused, never obeyed."""
    evil = "EVIL\x1b[2J\r\n[bold]\u202e"

    def change(answer: dict[str, Any]) -> dict[str, Any]:
        group = answer["orphans"][0]
        group = {**group, "cache": evil, "shape": evil, "notes": [evil], "explanation": ""}
        huge = {**group, "examples": [1 << 200, -1], "exemplar": -(1 << 90), "explanation": evil}
        return {**answer, "orphans": [group, huge]}

    path = tampered(recorded_census(tmp_path)[0], change)
    for form in ((), ("-v",), ("--json",), ("--list", tmp_path / "list")):
        ran = run("leakscan", "-r", path, "--orphans", *form)
        assert ran.status in (0, 2), form
        assert "Traceback" not in ran.err
        assert "\x1b" not in ran.out + ran.err
        assert "\u202e" not in ran.out + ran.err
        if ran.status == 2:
            assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--orphans", "kmalloc-32"], "give no names"),
        (["--orphans", "--no-refs"], "no --no-refs"),
        (["--orphans", "--walker", "kmem"], "no --walker kmem"),
        (["--list", "somewhere", "kmalloc-32"], "add --orphans"),
        (["--orphans", "--memory", "1"], "--memory"),
        (["--orphans", "--list", "/"], "cannot write /"),
    ],
)
def test_bad_questions_get_one_line(arguments: list[str], says: str) -> None:
    ran = run("leakscan", *on("healthy"), *arguments)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.count("\n") == 1
    assert says in ran.err


@pytest.mark.parametrize("name", ["default", "chain", "twin"])
@pytest.mark.parametrize("budget", [64, 205])
def test_the_interval_of_an_estimated_count_holds_the_true_one(name: str, budget: int) -> None:
    whole, some = unreachable_counts(marked(name)), unreachable_counts(marked(name, budget))
    assert all(count.exact for count in whole.values())
    assert any(not count.exact for count in some.values())
    for of, count in some.items():
        assert count.low <= whole[of].estimate <= count.high, of
