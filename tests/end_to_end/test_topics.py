"""Words after leakscan are parts of its verdict, unless this kernel has a cache of that name."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO

import drgn

from crashext.commands import entry
from crashext.commands.place import Place
from crashext.hosts.drgn import DrgnHost
from crashext.kernel.access import u64
from crashext.kernel.btf_layouts import CarriedTypes
from crashext.report.topics import TOPICS
from tests.conftest import SESSIONS, ask, lab_dump, lab_host


def host_with(renamed: str, name: str) -> DrgnHost:
    """The default dump, in which the cache `renamed` is called `name`."""
    known = lab_host("default")
    layout = known.layout("struct kmem_cache")
    assert layout is not None
    program = drgn.Program()
    program.set_core_dump(str(lab_dump("default").vmcore))
    program.load_debug_info([str(lab_dump("default").vmlinux)], main=True)
    head = known.address_of("slab_caches")
    assert head is not None
    at, place = u64(known, head), 0
    while at != head:
        place = u64(known, at - layout["list"].offset + layout["name"].offset)
        if known.read(place, len(renamed) + 1) == renamed.encode() + b"\0":
            break
        at = u64(known, at)
    data = name.encode() + b"\0"

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        return data[address - place :][:count]

    program.add_memory_segment(place, len(data), read, False)
    host = DrgnHost(program, "vmcore")
    host.prefer(CarriedTypes(host))
    return host


def test_a_cache_that_is_called_like_a_topic_is_what_the_word_means() -> None:
    topic = next(word for word in TOPICS if word == "pages")
    host = host_with("task_struct", topic)
    out = StringIO()
    with redirect_stdout(out):
        assert entry.leakscan(["--json", "--no-refs", topic], Place("drgn", lambda: host)) == 0
    document = json.loads(out.getvalue())
    assert [cache["name"] for cache in document["caches"]] == [topic]
    assert document["caches"][0]["objects_total"]["estimate"] > 50  # tasks of a small guest


def test_a_part_is_no_document() -> None:
    done = ask("leakscan", "--json", "why", "-r", SESSIONS / "many-leaks.session")
    assert done.status == 2
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert "why is a part of what is printed" in done.err
