"""schema.json is what the types say, and real documents of every kind follow it."""

from __future__ import annotations

import json

import jsonschema
import pytest

from crashext.analysis.results.callsites import CallSite
from crashext.analysis.results.reports import CachesReport, Kernel, SitesReport
from crashext.hosts.base import U64
from crashext.hosts.plain import plain
from crashext.hosts.session import load, write
from crashext.kernel.slab.untyped import UntypedCache
from crashext.report.documents import KINDS, VERSION, document
from crashext.report.schema import PATH, schema, text
from tests.conftest import SESSIONS, run

NODE = "0xffff8d9782aada80"
ALLOC = (
    "          insmod-812     [001] .....   100.{:06}: kmalloc: call_site=leaklab_take+0x21/0x40 "
    "ptr=0x{:016x} bytes_req=24 bytes_alloc=32 gfp_flags=GFP_KERNEL node=-1 accounted=false\n"
)
MEMINFO = "MemTotal: 4030636 kB\nMemFree: 3502020 kB\nSlab: 101364 kB\nHugePages_Total: 0\n"

SITE = CallSite("take", 0x21, "lab", U64(0xFFFFFFFFC0000021), "kmalloc_trace", False, (24,))
SITES = SitesReport(Kernel("6.1", "x86_64", False, "vmcore"), "kmalloc-32", (SITE,), (), (), 4096)


def test_the_file_is_what_the_types_say() -> None:
    assert PATH.read_text() == text(), "python -m crashext.report.schema writes it anew"
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[object, ...]]:
    """A command for each kind of document."""
    folder = tmp_path_factory.mktemp("sources")
    trace, proc, sites = folder / "trace", folder / "proc", folder / "sites.session"
    trace.write_text("".join(ALLOC.format(i, 0xFFFF888000100000 + 32 * i) for i in range(40)))
    proc.mkdir()
    (proc / "meminfo").write_text(MEMINFO)
    document, extents = load(SESSIONS / "unlinked-nodes.session")
    document["derived"]["sites kmalloc-32"] = plain(SITES)
    # The places are an answer that it keeps: of memory it needs the caches, not their slabs.
    write(sites, document, [(a, bytes(data)) for a, data in extents if len(data) < 4096])
    return {
        "leakscan": ("leakscan", "-r", SESSIONS / "unlinked-nodes.session", "kmalloc-32"),
        "objsim": ("objsim", "-r", SESSIONS / "unlinked-nodes.session", NODE),
        "orphans": ("leakscan", "-r", SESSIONS / "orphans.session", "--orphans"),
        "sites": ("leakscan", "-r", sites, "--sites", "kmalloc-32"),
        "trace": ("leakscan", "--trace", trace),
        "verdict": ("leakscan", "-r", SESSIONS / "many-leaks.session"),
        "procfs": ("leakscan", "--procfs", proc),
    }


CACHES = CachesReport(
    Kernel("6.1", "x86_64", False, "vmcore"),
    "no debug info found",
    (
        UntypedCache("kmalloc-32", 32, 4096, 1000, 131072),
        UntypedCache("dentry", 192, None, None, None),
    ),
)


def test_what_is_known_without_types_follows_it() -> None:
    written = json.loads(document(CACHES))
    assert written["schema"] == f"crashext/caches/{VERSION}"
    assert written["caches"][1]["slots"] is None
    jsonschema.Draft202012Validator(schema()).validate(written)


@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if kind != "caches"])
def test_a_document_of_each_kind_follows_it(
    kind: str, arguments: dict[str, tuple[object, ...]]
) -> None:
    command, *rest = arguments[kind]
    written = run(str(command), *rest, "--json").document
    assert written["schema"] == f"crashext/{kind}/{VERSION}"
    of_kind = jsonschema.Draft202012Validator(
        {"$ref": f"#/$defs/{kind}", "$defs": schema()["$defs"]}
    )
    of_kind.validate(written)
    less = {key: value for key, value in written.items() if key != "skipped"}
    for wrong in ({**written, "unknown": 1}, {**written, "schema": "x"}, less):
        assert not of_kind.is_valid(wrong)


def test_addresses_are_hex_and_fractions_short() -> None:
    session = SESSIONS / "unlinked-nodes.session"
    out = run("leakscan", "-r", session, "kmalloc-32", "--json").out
    group = json.loads(out)["caches"][0]["groups"][0]
    for address in (group["exemplar"], group["lowest"], group["words"][0]["value"]):
        assert address == hex(int(address, 16))
    fractions = [word for word in out.replace(",", " ").split() if _is_fraction(word)]
    assert fractions
    assert all(len(word.partition(".")[2]) <= 6 for word in fractions)


def _is_fraction(word: str) -> bool:
    whole, point, rest = word.partition(".")
    return bool(point) and whole.isdigit() and rest.isdigit()
