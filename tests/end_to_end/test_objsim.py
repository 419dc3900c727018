"""`objsim` on real kernels' memory and on text from a ticket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.conftest import SESSIONS, ask, lab_dump, lab_host, on, run
from tests.lab import read_addresses

TICKET = """\
crash> rd ffff88031e138000 8
ffff88031e138000: ffff882f59bade00 dead000000100100 ...Y/...........
ffff88031e138010: dead000000200200 ffffffff002856f7 .. ......V(.....
ffff88031e138020: ffff882f59bade00 dead000000100100 ...Y/...........
ffff88031e138030: dead000000200200 ffffffff00284a2a .. .....*J(.....
"""


def compared(name: str, *arguments: object) -> dict[str, Any]:
    ran = ask("objsim", *on(name), "--json", *arguments)
    assert ran.status == 0, ran.err
    return ran.document


def test_one_object_finds_its_kin() -> None:
    nodes = read_addresses(lab_dump("default").addresses("nodes"))
    alike = compared("default", hex(nodes[777]))["kin"]
    assert alike["cache"] == "kmalloc-32"
    assert alike["objects"] == {"estimate": 200_000, "low": 200_000, "high": 200_000}


def test_the_list_is_exactly_the_leaked_objects() -> None:
    nodes = read_addresses(lab_dump("default").addresses("nodes"))
    alike = compared("default", hex(nodes[0]), "--list")["kin"]
    assert sorted(int(a, 16) for a in alike["listed"]) == sorted(nodes)


def test_the_list_is_whole_even_from_a_small_sample() -> None:
    dump = lab_dump("twin")
    requests = read_addresses(dump.addresses("requests"))
    alike = compared("twin", hex(requests[5]), "--list", "--samples", 2000)["kin"]
    assert sorted(int(a, 16) for a in alike["listed"]) == sorted(requests)
    assert alike["objects"]["low"] <= len(requests) <= alike["objects"]["high"]
    assert alike["objects"]["low"] < alike["objects"]["high"]


def test_an_address_inside_an_object_is_accepted_and_said() -> None:
    node = read_addresses(lab_dump("default").addresses("nodes"))[3]
    (subject,) = compared("default", f"{node + 8:x}")["subjects"]
    assert int(subject["address"], 16) == node
    assert "+0x8" in subject["note"]


def test_two_objects_show_where_they_differ() -> None:
    nodes = read_addresses(lab_dump("default").addresses("nodes"))
    living = read_addresses(lab_dump("default").addresses("living"))
    same = compared("default", hex(nodes[10]), hex(nodes[11]))["pairs"][0]
    other = compared("default", hex(nodes[10]), hex(living[10]))["pairs"][0]
    assert same["differing"] == [24]
    assert same["similarity"] > 0.9
    assert {8, 16} <= set(other["differing"])
    assert other["similarity"] < 0.7


def test_a_free_slot_is_called_free() -> None:
    freed = read_addresses(lab_dump("innocent").addresses("freed"))
    (subject,) = compared("innocent", hex(freed[0]))["subjects"]
    assert subject["state"] == "free"


def test_what_is_no_slab_object_is_named() -> None:
    host = lab_host("default")
    ops = int(lab_dump("default").truth()["parts"]["nodes"]["pointers"]["ops"], 16)
    linux_banner = host.address_of("linux_banner")
    base = int.from_bytes(host.read(host.address_of("page_offset_base") or 0, 8), "little")
    vmalloc_base = int.from_bytes(host.read(host.address_of("vmalloc_base") or 0, 8), "little")
    assert linux_banner is not None
    expected = {
        linux_banner + 3: "linux_banner+0x3",
        ops: "leaklab_ops [leaklab]",
        base: "page frame 0x0",
        vmalloc_base: "vmap area of 16,384 bytes, by irq_init_percpu_irqstack",
        0x10: "not a kernel address",
        0x00007FFD12345678: "user-space",
    }
    document = compared("default", *map(hex, expected))
    for subject, what in zip(document["subjects"], expected.values(), strict=True):
        assert subject["cache"] is None
        assert what in subject["note"]


def test_a_symbol_is_an_address_too() -> None:
    (subject,) = compared("default", "linux_banner")["subjects"]
    assert "linux_banner" in subject["note"]


def test_red_zones_are_not_objects() -> None:
    node = read_addresses(lab_dump("nodes-debug").addresses("nodes"))[3]
    (before,) = compared("nodes-debug", hex(node - 8))["subjects"]
    assert before["state"] == ""
    assert "metadata" in before["note"]


def test_documents_follow_the_schema(schema: dict[str, Any], tmp_path: Path) -> None:
    nodes = read_addresses(lab_dump("default").addresses("nodes"))
    jsonschema.validate(compared("default", hex(nodes[0])), schema)
    jsonschema.validate(compared("default", hex(nodes[0]), hex(nodes[1]), "0x10"), schema)
    ticket = tmp_path / "ticket"
    ticket.write_text(TICKET)
    jsonschema.validate(run("objsim", "--json", "--text", ticket, "--size", 32).document, schema)


def test_replay_gives_the_same_document(tmp_path: Path) -> None:
    node = hex(read_addresses(lab_dump("twin").addresses("requests"))[9])
    session = tmp_path / "twin.session"
    recorded = run("objsim", *on("twin"), "--json", "--record", session, node)
    replayed = run("objsim", "-r", session, "--json", node)
    assert replayed.out == recorded.out
    assert replayed.err == ""


def test_an_excerpt_needs_no_dump(tmp_path: Path) -> None:
    """Two objects of a RHEL 7 kernel, pasted with the prompt line that made them."""
    ticket = tmp_path / "ticket"
    ticket.write_text(TICKET)
    document = run("objsim", "--json", "--text", ticket, "--size", 32).document
    assert [int(s["address"], 16) for s in document["subjects"]] == [
        0xFFFF88031E138000,
        0xFFFF88031E138020,
    ]
    (pair,) = document["pairs"]
    assert pair["differing"] == [24]
    pointer, next_, prev, number = document["groups"][0]["words"]
    assert "kernel pointer" in pointer["meaning"]
    assert next_["meaning"].startswith("LIST_POISON1 of kernels before 4.3")
    assert prev["meaning"].startswith("LIST_POISON2 of kernels before 4.3")
    assert "low half each different, 2,640,426 to 2,643,703" in number["varies"]
    assert document["skipped"] == [
        {"what": "lines without memory", "count": 1, "effect": "not looked at"}
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give the address"),
        (["--text", "x"], "--size"),
        (["--text", "/nonexistent", "--size", "32"], "cannot read"),
        (["--text", "x", "--size", "32", "ffff0000"], "give no addresses"),
        (["ffff888000000000"], "-c VMCORE"),
        (["--size", "no", "--text", "x"], "not a number"),
    ],
)
def test_bad_questions_get_one_line(arguments: list[str], says: str) -> None:
    ran = run("objsim", *arguments)
    assert ran.status == 2
    assert ran.out == ""
    assert ran.err.count("\n") == 1
    assert says in ran.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["_text+0xffffffffffffffff"], "outside the address space"),
        (["0xffff89e382fa7d4000"], "neither a hexadecimal address nor a symbol"),
        (["0x10"] * 17, "at most 16 objects"),
        (["--hops", "17", "0x10"], "from 0 to 16"),
        (["--record", "/nonexistent/x", "0x10"], "cannot write session"),
    ],
)
def test_questions_out_of_range_get_one_line(arguments: list[str], says: str) -> None:
    ran = run("objsim", *on("default"), *arguments)
    assert ran.status == 2
    assert ran.err.count("\n") == 1
    assert says in ran.err


def test_an_interrupted_list_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from crashext.analysis import kin
    from crashext.analysis.likeness import similarity

    compared_batches = []
    score = similarity.scores

    def second_batch_is_interrupted(*arguments: Any) -> Any:
        compared_batches.append(1)
        if len(compared_batches) == 2:  # the first call is the sample's, then the list's begin
            raise KeyboardInterrupt
        return score(*arguments)

    monkeypatch.setattr(kin, "scores", second_batch_is_interrupted)
    node = hex(read_addresses(lab_dump("default").addresses("nodes"))[0])
    ran = run("objsim", *on("default"), "--list", node)
    assert ran.status == 0
    assert "slabs not read for the list" in ran.out
    assert "interrupted" in ran.out


def test_an_excerpt_says_how_many_are_alone(tmp_path: Path) -> None:
    ticket = tmp_path / "ticket"
    lines = [f"ffff8880000{i:02x}000: {i * 0x1234567:016x} {i << 40:016x}" for i in range(1, 11)]
    ticket.write_text("\n".join([*lines, lines[0], TICKET]))
    ran = run("objsim", "--text", ticket, "--size", 16)
    assert "alone" in ran.out.splitlines()[0]
    assert "1 object shown more than once" in ran.out


def test_where_nothing_is_the_status_says_so_and_nothing_was_random() -> None:
    session = SESSIONS / "unlinked-nodes.session"
    for typed in ("0x0", "0x10", "0xffffffffffffffff"):
        ran = run("objsim", "-r", session, typed)
        assert ran.status == 2
        assert ran.out.startswith(f"{typed}: not a kernel address that is mapped\n")
        assert "seed" not in ran.out
    both = run("objsim", "-r", session, "0x10", "ffff888603091540")
    assert both.status == 0
    assert "0x10: not a kernel address" in both.out
