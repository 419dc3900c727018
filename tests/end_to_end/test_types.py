"""Types on the command line: what a group may be, and `objsim --as`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.conftest import ask, lab_dump, lab_host, on, recorded, run
from tests.lab import read_addresses


@pytest.fixture(scope="module")
def node() -> int:
    return int(read_addresses(lab_dump("default").addresses("nodes"))[7])


def test_leakscan_names_the_struct(schema: Any) -> None:
    text = ask("leakscan", *on("default"), "kmalloc-32")
    assert text.status == 0
    assert "may be struct leaklab_node [leaklab] (score " in text.out
    document = ask("leakscan", *on("default"), "--json", "kmalloc-32").document
    jsonschema.validate(document, schema)
    best, *others = document["caches"][0]["groups"][0]["types"]
    assert (best["name"], best["module"]) == ("struct leaklab_node", "leaklab")
    assert all(best["score"] >= other["score"] for other in others)
    assert best["agreements"]
    assert best["disagreements"] == []


def test_verbose_says_why() -> None:
    out = ask("leakscan", *on("default"), "-v", "dentry").out
    assert "struct dentry, score" in out
    assert "agrees: +0x30 d_inode: struct inode *" in out


def test_a_session_holds_the_types(tmp_path: Path) -> None:
    session, told = recorded(tmp_path, "leakscan", "default", "--json", "filp")
    again = run("leakscan", "-r", session, "--json", "filp")
    assert again.err == ""
    assert again.out == told.out
    assert again.document["caches"][0]["groups"][0]["types"][0]["name"] == "struct file"


def test_members_are_what_the_module_wrote(node: int, schema: Any) -> None:
    ran = ask("objsim", *on("default"), "--json", f"{node:#x}", "--as", "struct leaklab_node")
    jsonschema.validate(ran.document, schema)
    (subject,) = ran.document["subjects"]
    members = {m["name"]: m for m in subject["members"]}
    assert list(members) == ["owner", "link.next", "link.prev", "id", "pad"]
    assert (members["id"]["value"], members["id"]["meaning"]) == ("0x7", "7")
    assert members["link.next"]["meaning"].startswith("LIST_POISON1")
    assert members["owner"]["meaning"] == "[kmalloc-256+0x0]"


def test_members_by_name_against_drgn() -> None:
    """init_task, which is no slab object: every scalar as drgn reads it."""
    ran = ask("objsim", *on("default"), "--json", "init_task", "--as", "task_struct")
    (subject,) = ran.document["subjects"]
    members = {m["name"]: m for m in subject["members"]}
    init_task = lab_host("default")._program["init_task"]
    assert members["comm"]["meaning"] == '"swapper/0"'
    for name in ("prio", "static_prio", "nr_cpus_allowed", "policy", "pid", "tgid"):
        assert members[name]["meaning"] == str(int(init_task.member_(name))), name
    assert int(members["mm"]["value"], 16) == init_task.mm.value_()
    assert int(members["se.exec_start"]["value"], 16) == init_task.se.exec_start.value_()
    assert int(members["children.next"]["value"], 16) == init_task.children.next.value_()


def test_members_as_text(node: int) -> None:
    out = ask("objsim", *on("default"), f"{node:#x}", "--as", "leaklab_node").out
    assert "read as struct leaklab_node, 32 bytes" in out
    assert "+0x018  id" in out


def test_an_object_shows_only_the_members_it_has_room_for() -> None:
    """A task_struct's slot ends long before the struct does."""
    task = lab_host("default")._program["init_task"].tasks.next.value_()
    offset = next(
        m.bit_offset // 8
        for m in lab_host("default")._program.type("struct task_struct").members or ()
        if m.name == "tasks"
    )
    ran = ask("objsim", *on("default"), "--json", f"{task - offset:#x}", "--as", "task_struct")
    (subject,) = ran.document["subjects"]
    assert "of which the object has 6,208" in subject["note"]
    assert max(m["offset"] + m["size"] for m in subject["members"]) <= 6208


@pytest.mark.parametrize("name", ["leaklab_nod", "struct leaklab_nod", "union no_such", "a b c"])
def test_an_unknown_type_is_one_line(node: int, name: str) -> None:
    ran = ask("objsim", *on("default"), f"{node:#x}", "--as", name)
    assert ran.status == 2
    assert ran.out == ""
    assert ran.err.startswith(f"objsim: this kernel has no {name}")
    assert ran.err.count("\n") == 1
    if "leaklab" in name:
        assert "did you mean leaklab_node" in ran.err


def test_a_session_holds_the_members(node: int, tmp_path: Path) -> None:
    session = tmp_path / "a.session"
    asked = (f"{node:#x}", "--as", "leaklab_node")
    told = run("objsim", *on("default"), "--record", session, *asked)
    assert run("objsim", "-r", session, *asked).out == told.out


def test_what_a_session_did_not_record_is_not_said_of_the_kernel(node: int, tmp_path: Path) -> None:
    """Every kernel has a list_head, and a session that was asked of it has it, too."""
    session = tmp_path / "a.session"
    run("objsim", *on("default"), "--record", session, f"{node:#x}")
    ran = run("objsim", "-r", session, f"{node:#x}", "--as", "list_head")
    assert ran.status == 2
    assert ran.err.startswith("objsim: this session did not record list_head: objsim ADDRESS --as")
    asked = (f"{node:#x}", "--as", "list_head")
    told = run("objsim", *on("default"), "--record", session, *asked)
    assert run("objsim", "-r", session, *asked).out == told.out
