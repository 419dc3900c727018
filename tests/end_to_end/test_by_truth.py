"""Who allocated what the lab's guests lost or keep, by the code alone: the modules' source says.

No module's debug info is given but where lines of source are asked for. `make test-kernels` asks
the same of each guest of the gallery, on 6.1 and 7.2, and of guests of other kernels.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import lab_dump, on, recorded, run
from tests.end_to_end.by_truth import Said, named, said
from tests.end_to_end.guests import addresses, census
from tests.lab import NEWEST_SUITE

_ASKED = os.environ.get("CRASHEXT_KERNELS")
EVERYDAY = ("default", f"default@{NEWEST_SUITE}", "twin", "messages", "rcu")
ALONE = ("nodes", "private", "chain", "vmalloc", "pages", "two", "kmem_test")
OTHERS = ("bullseye", "trixie", "arm64", "arm64-trixie", "arm64-16k", "slab")
"""Kernels that note nobody: elsewhere in this list their records come before the code."""


def _later(*names: str) -> list[str]:
    """Guests that `make test-kernels` asks, too."""
    return list(names) if _ASKED else []


def _newest(*names: str) -> list[str]:
    return _later(*(f"{name}@{NEWEST_SUITE}" for name in names))


GUILTY = [
    *EVERYDAY,
    *_later("growth", "trace", *ALONE, *(f"default@{kernel}" for kernel in OTHERS)),
    *_newest("twin", "messages", "rcu", *ALONE),
]
INNOCENT = [
    *("innocent", "twin", "fragmentation"),
    *_later("trace", *(f"innocent@{kernel}" for kernel in OTHERS)),
    *_newest("innocent", "twin", "fragmentation"),
]
TASKS = [*EVERYDAY[:2], *_later(*(f"default@{k}" for k in OTHERS), "tasks"), *_newest("tasks")]
FILES = ["files", *_later("files@trixie"), *_newest("files")]


@pytest.mark.parametrize("name", GUILTY)
def test_of_what_was_lost_the_true_function_stands_out(name: str) -> None:
    found = list(said(name))
    assert found
    assert [one for one in found if not one.right] == []
    assert [one.known for one in found if one.known] == []


@pytest.mark.parametrize("name", INNOCENT)
def test_of_what_is_in_use_it_does_too(name: str) -> None:
    """But for `hashed`, of which no two objects are alike: there is no group to ask about."""
    found = [one for one in said(name, guilty=False) if one.part != "hashed"]
    assert found
    assert [one for one in found if not one.right] == []


@pytest.mark.parametrize("name", [*EVERYDAY[:3], *_later("rcu", *(f"default@{k}" for k in OTHERS))])
def test_with_the_modules_debug_info_the_line_is_right(name: str) -> None:
    found = list(said(name))
    assert found
    assert [(one.part, one.line(name)) for one in found if not one.line_is_right(name)] == []


@pytest.mark.parametrize("name", TASKS)
def test_who_allocates_tasks_is_rarely_who_lost_one(name: str) -> None:
    (callers,) = [g["callers"] for g in census(name)["orphans"] if g["cache"] == "task_struct"]
    # dup_task_struct() is compiled into copy_process().
    first = {named(s["site"]["function"]) for s in callers["sites"][:3]}
    assert first & {"copy_process", "dup_task_struct"}
    assert "where a reference was lost, look for who took it, not here" in callers["remark"]


@pytest.mark.parametrize("name", FILES)
def test_who_allocates_files_is_rarely_who_lost_one(name: str) -> None:
    """A module took a second reference to each of 20,000 files and never gave it back."""
    lost = [g for g in census(name)["orphans"] if g["cache"] == "filp"]
    assert sum(g["objects"] for g in lost) >= 0.99 * 20_000
    callers = max(lost, key=lambda g: g["objects"])["callers"]
    # One of the two is compiled into the other, by the kernel's age.
    first = {named(s["site"]["function"]) for s in callers["sites"][:3]}
    assert first & {"__alloc_file", "alloc_empty_file"}
    assert "where a reference was lost, look for who took it, not here" in callers["remark"]


def test_the_list_they_hang_at_is_told_of_one_object_and_by_a_session_as_well(
    tmp_path: Path,
) -> None:
    """On 7.2 nothing in a message says whose it is: that is its list's to say."""
    name, function = f"default@{NEWEST_SUITE}", "leaklab_queue_messages"
    session, ran = recorded(tmp_path, "leakscan", name, "kmalloc-512", "--json")
    mine = set(addresses(name, "messages").tolist())
    groups = ran.document["caches"][0]["groups"]
    group = next(g for g in groups if int(g["exemplar"], 16) in mine)
    head = lab_dump(name).truth()["parts"]["messages"]["pointers"]["head"]
    assert int(group["held"]["head"]["address"], 16) == int(head, 16)
    assert group["held"]["head"]["module"] == "leaklab"
    first = group["callers"]["sites"][0]
    assert "names leaklab_ipmi_waiting [leaklab], at which they hang" in first["reasons"]
    assert run("leakscan", "-r", session, "kmalloc-512", "--json").document == ran.document
    one = run("objsim", *on(name), "--refs", group["exemplar"], "--json").document
    (subject,) = one["subjects"]
    assert subject["standing"]["head"] == group["held"]["head"]
    assert [a["site"].partition("+")[0] for a in subject["allocators"]] == [function]


def test_what_is_called_right_has_to_be() -> None:
    """The table's own rule: another function, another group's, or no call there is not right."""
    right = Said("nodes", True, "leak", "leak.isra.0", 0.9, True, True, 0, "", ())
    assert right.right
    for wrong in (
        Said("nodes", True, "leak", "keep", 0.9, True, True, 0, "", ()),
        Said("nodes", True, "leak", "leak", 0.5, False, True, 0, "", ()),
        Said("nodes", True, "leak", "leak", 0.9, True, False, 0, "", ()),
        Said("nodes", True, "leak", "leak", 0.9, True, True, 0, "", ("keep",)),
    ):
        assert not wrong.right
