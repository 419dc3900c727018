"""`leakscan --sites CACHE` on real dumps: the module's source says where the truth is."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from tests.conftest import lab_dump, run

PARTS = [
    ("nodes", "nodes", 32),
    ("private", "private", None),
    ("chain", "chain", 88),
    ("twin", "sessions", 64),
    ("twin", "requests", 56),
    ("messages", "messages", 400),
    ("innocent", "living", 32),
]


@pytest.mark.parametrize(("dump", "part", "size"), PARTS)
def test_the_function_that_allocates_is_listed(
    dump: str, part: str, size: int | None, schema: object
) -> None:
    lab = lab_dump(dump)
    truth = lab.truth()["parts"][part]
    ran = run("leakscan", "-c", lab.vmcore, "-s", lab.vmlinux, "--sites", truth["cache"], "--json")
    assert (ran.status, ran.err) == (0, "")
    jsonschema.validate(ran.document, schema)
    mine = [s for s in ran.document["sites"] if s["function"].startswith(truth["function"])]
    assert [s["sizes"] for s in mine] == [[size] if size else []]
    assert mine[0]["module"] == "leaklab"


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


def test_the_code_is_for_one_cache() -> None:
    for wrong in (["--sites"], ["--sites", "a", "b"], ["--sites", "a", "--orphans"]):
        ran = run("leakscan", "-k", *wrong)
        assert ran.status == 2
        assert "--sites" in ran.err
