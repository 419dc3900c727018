"""`objsim ADDR` on a real kernel's memory, in a session that keeps what it learnt, against the
lab's truth and drgn's helpers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from typing import Any

import drgn
import jsonschema
import pytest
from drgn.helpers.linux.mm import for_each_page, page_to_virt, virt_to_page
from drgn.helpers.linux.percpu import per_cpu_ptr
from drgn.helpers.linux.pid import find_task

from crashext.commands import entry
from crashext.commands.place import Place
from crashext.hosts.drgn import DrgnHost
from crashext.hosts.keeping import Kept
from crashext.kernel.btf_layouts import CarriedTypes
from tests.conftest import lab_dump, lab_host, on, recorded, run
from tests.end_to_end.test_orphans import marked
from tests.lab import read_addresses


class Keeping(DrgnHost):
    """As in a crash session: what one command learnt, the next one knows."""

    kept = Kept(lambda: 0)


@cache
def _host() -> Keeping:
    host = Keeping(lab_host("default")._program, "vmcore")
    host.prefer(CarriedTypes(host))
    return host


def _said(*arguments: str) -> str:
    out = StringIO()
    with redirect_stdout(out):
        assert entry.objsim(arguments, Place("drgn", _host)) == 0
    return out.getvalue()


@cache
def asked(*addresses: str) -> dict[str, Any]:
    document = json.loads(_said("--json", *addresses))
    assert isinstance(document, dict)
    return document


def _part(name: str) -> list[int]:
    return [int(a) for a in read_addresses(lab_dump("default").addresses(name))]


def test_a_leaked_object_in_the_order_in_which_one_asks(schema: Any) -> None:
    node = _part("nodes")[777]
    document = asked(f"{node:#x}")
    jsonschema.validate(document, schema)
    (subject,) = document["subjects"]
    assert (subject["kind"], subject["cache"], subject["state"]) == (
        "object",
        "kmalloc-32",
        "allocated",
    )
    assert subject["standing"]["state"] == "orphan"
    best = subject["types"][0]
    assert (best["name"], best["module"]) == ("struct leaklab_node", "leaklab")
    assert [m["name"] for m in subject["members"]][-2:] == ["id", "pad"]
    assert subject["allocators"][0]["rung"] == "code"
    assert subject["allocators"][0]["site"].startswith("leaklab_leak_nodes+")
    assert document["kin"]["objects"]["estimate"] == 200_000
    lines = _said(f"{node:#x}").splitlines()
    order = ("unreachable: nothing", "may be struct", "likely allocated by")
    places = [next(i for i, line in enumerate(lines) if w in line) for w in order]
    places += [next(i for i, line in enumerate(lines) if "like it: 200,000 of" in line)]
    places += [next(i for i, line in enumerate(lines) if "LIST_POISON1" in line)]
    assert places == sorted(places)


def test_a_held_object_names_who_holds_it_and_who_points_at_it() -> None:
    living = _part("living")
    pointed = lab_host("default").read(living[7] + 8, 8)
    (subject,) = asked(f"{living[7]:#x}")["subjects"]
    standing = subject["standing"]
    assert standing["state"] == "held"
    assert standing["chain"]["steps"][0] == "leaklab_living [leaklab]"
    # Its neighbours on the list, as the list itself has them.
    after = int.from_bytes(pointed, "little") - 8
    assert f"kmalloc-32 object {after:x}+0x10" in {p["place"] for p in standing["pointing"]}


def test_a_link_of_a_leaked_chain_is_lost_with_its_head() -> None:
    link = _part("chain")[777]
    (subject,) = asked(f"{link:#x}")["subjects"]
    assert subject["standing"]["state"] == "structure"
    assert subject["standing"]["chain"]["steps"][0].startswith("kmalloc-96 ffff")
    assert all("kmalloc-96 object" in p["place"] for p in subject["standing"]["pointing"])


@pytest.mark.parametrize("inside", [0, 4096 + 8])
def test_a_leaked_area(inside: int, schema: Any) -> None:
    areas = _part("vmalloc")
    document = asked(f"{areas[3] + inside:#x}")
    jsonschema.validate(document, schema)
    (subject,) = document["subjects"]
    assert (subject["kind"], int(subject["address"], 16)) == ("area", areas[3])
    assert subject["standing"]["state"] == "orphan"
    (allocator, *_) = subject["beyond"]["allocators"]
    assert allocator["site"].startswith("leaklab_leak_vmallocs+")
    assert subject["beyond"]["siblings"]["count"]["estimate"] == len(areas)
    assert subject["beyond"]["siblings"]["unreachable"]["estimate"] == len(areas)


def test_two_areas_are_compared_by_all_that_is_in_them(schema: Any) -> None:
    """The lab writes one line into each again and again, with the area's number at +0x10."""
    one, two = _part("vmalloc")[:2]
    document = asked(f"{one:#x}", f"{two + 0x1000:#x}")
    jsonschema.validate(document, schema)
    (pair,) = document["pairs"]
    assert (int(pair["first"], 16), int(pair["second"], 16)) == (one, two)
    assert pair["compared"] == 65536
    assert 0.9 < pair["similarity"] < 1
    first, second = (lab_host("default").read(a, 65536) for a in (one, two))
    unlike = [at for at in range(0, 65536, 8) if first[at : at + 8] != second[at : at + 8]]
    assert pair["differing"] == unlike
    line = _said(hex(one), hex(two)).splitlines()[0]
    assert f"alike in their first 65,536 bytes, differing at +{unlike[0]:#x}, " in line


def test_a_block_is_compared_with_a_shorter_one() -> None:
    (pair,) = asked(*(f"{_part(name)[5]:#x}" for name in ("pages0", "pages2")))["pairs"]
    assert pair["compared"] == 4096
    assert 0.9 < pair["similarity"] < 1


def test_a_block_in_the_order_in_which_one_asks() -> None:
    lines = _said(f"{_part('pages2')[3]:#x}").splitlines()
    order = ("block of 4 pages", "in it: text", "likely asked for by", "like it: ", "bytes; --as")
    places = [next(i for i, line in enumerate(lines) if w in line) for w in order]
    assert places == sorted(places)
    assert "+0x000" in lines[places[-1] + 1]


def test_a_leaked_block_by_any_page_and_by_its_struct_page() -> None:
    blocks = _part("pages2")
    found = marked("default")
    # A left-over pointer may name some of them.
    lost = set(found.nodes.addresses(found.unreachable_nodes()).tolist())
    block = next(b for b in blocks if b in lost)
    page = virt_to_page(lab_host("default")._program, block + 8192).value_()
    for address, kind in ((block + 8200, "pages"), (page, "struct-page")):
        (subject,) = asked(f"{address:#x}")["subjects"]
        assert subject["kind"] == kind
        assert "block of 4 pages" in subject["note"]
        assert subject["standing"]["state"] == "orphan"
        assert "LEAKLAB" in subject["beyond"]["content"]
        count = subject["beyond"]["siblings"]["count"]
        assert count["low"] <= len(blocks) <= count["high"]
        assert {c["site"]["module"] for c in subject["beyond"]["callers"]["sites"]} == {"leaklab"}


@pytest.mark.parametrize("order", range(4))
def test_of_one_block_the_code_says_what_it_says_of_all(order: int) -> None:
    """Other places of the module ask for each of these orders, and for that alone."""
    found = marked("default")
    lost = set(found.nodes.addresses(found.unreachable_nodes()).tolist())
    block = next(b for b in _part(f"pages{order}") if b in lost)
    (subject,) = asked(f"{block:#x}")["subjects"]
    callers = subject["beyond"]["callers"]
    assert callers["clear"]
    assert callers["sites"][0]["site"]["function"] == "leaklab_leak_pages"


def test_what_else_there_is_against_drgn() -> None:
    program = lab_host("default")._program
    first = find_task(program, 1)
    stack = first.stack.value_()
    expected: dict[int, tuple[str, str]] = {
        stack + 8: ("stack", f"stack of {first.comm.string_().decode()} (pid 1)"),
        per_cpu_ptr(program["runqueues"].address_of_(), 1).value_(): ("per-cpu", "CPU 1"),
        program["slab_caches"].address_of_().value_(): ("symbol", "slab_caches"),
        _page(program, lambda flags, mapping: flags and mapping & 1): ("page", "anonymous"),
        _page(program, lambda flags, mapping: not flags and not mapping): ("page", "free"),
    }
    answer = json.loads(_said("--json", *map(hex, expected)))
    for subject, (kind, words) in zip(answer["subjects"], expected.values(), strict=True):
        assert subject["kind"] == kind, subject["note"]
        assert words in subject["note"]


def _page(program: drgn.Program, fits: Callable[[bool, int], object]) -> int:
    """Where the first page is that is, or is not, on an LRU list, and has such a mapping."""
    lru = 1 << int(program.constant("PG_lru"))
    buddy = 0xFFFFFF7F
    for page in for_each_page(program):
        on_list = bool(page.flags.value_() & lru)
        if not on_list and page.page_type.value_() & 0xFFFFFFFF != buddy:
            continue
        if fits(on_list, page.mapping.value_()):
            return int(page_to_virt(page).value_())
    raise AssertionError("no such page")


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("part", ["nodes", "chain", "tasks", "vmalloc", "pages2"])
def test_nothing_is_wider_than_the_window_and_what_is_folded_hangs(
    part: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    first, *lines = _said(f"{_part(part)[3]:#x}").splitlines()
    assert max(map(len, [first, *lines])) <= width
    assert not first.startswith(" ")
    flush = [line for line in lines if not line.startswith("  ")]
    assert len(flush) == 1
    assert flush[0].startswith("dump vmcore, Linux")


def test_a_session_says_the_same(tmp_path: Any) -> None:
    node = f"{_part('nodes')[777]:#x}"
    session, told = recorded(tmp_path, "objsim", "default", node)
    again = run("objsim", "-r", session, node)
    assert (again.out, again.err) == (told.out, "")
    assert "unreachable: nothing points at it" in told.out


def test_who_points_there_is_looked_for_only_where_it_is_wanted() -> None:
    area = f"{_part('vmalloc')[3]:#x}"
    ran = run("objsim", *on("default"), "--json", "--no-refs", area)
    (subject,) = ran.document["subjects"]
    assert subject["standing"] is None
    assert "by leaklab_leak_vmallocs+" in subject["note"]
