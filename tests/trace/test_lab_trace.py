"""A real leak in a real guest, traced: by ftrace, through trace-cmd, and in perf's form."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from crashext.trace import Site, TraceSummary, trace_table
from tests.conftest import lab_dump, run
from tests.lab import read_addresses
from tests.trace.helpers import shown, site
from tests.trace.perf_form import perf_script

# With hash-ptr=0, Linux 6.1 prints strings in tracefs empty; trace.dat has them.
_NAMES = re.compile(r"name=\S+")


def _by_function(trace: TraceSummary, function: str) -> Site:
    return next(s for s in trace.sites if s.function.startswith(f"{function}+"))


def _forms(name: str, folder: Path) -> dict[str, Path]:
    """Files of one trace as tracefs, trace-cmd and perf print it."""
    traces = lab_dump(name).traces
    command = ["trace-cmd", "report", "-i", str(traces / "trace.dat")]
    report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    report = _NAMES.sub("name=", report)
    stacks = "stack" in name
    forms = {"tracefs": traces / "trace.txt", "report": folder / "r", "perf": folder / "p"}
    forms["report"].write_text(report)
    script = perf_script(report.splitlines(), stacks)
    forms["perf"].write_text("\n".join(script) + "\n")
    return forms


@pytest.mark.parametrize("file", ["trace.txt", "trace.dat"])
def test_the_leak_and_the_living_are_outstanding(file: str) -> None:
    dump = lab_dump("trace")
    trace = trace_table(dump.traces / file)
    leases = sorted(read_addresses(dump.addresses("leases")))
    clients = sorted(read_addresses(dump.addresses("clients")))
    assert not trace.hashed
    for function, addresses in (("leaklab_lease_grant", leases), ("leaklab_client_join", clients)):
        found = _by_function(trace, function)
        assert (found.outstanding, found.allocs, found.frees) == (500, 500, 0)
        assert found.bytes == 500 * 64
        assert min(found.spread) > 25  # all the time, not at once
        mine = trace.outstanding.site == trace.sites.index(found)
        assert trace.outstanding.address[mine].tolist() == addresses
    first = {s.function.split("+")[0] for s in trace.sites[:2]}
    assert first == {"leaklab_lease_grant", "leaklab_client_join"}


def test_busy_traffic_is_balanced() -> None:
    trace = trace_table(lab_dump("trace").traces / "trace.txt")
    busy = max(trace.sites, key=lambda s: s.allocs)
    assert busy.allocs == busy.frees == 150_000
    assert busy.outstanding == 0
    cache = next(c for c in trace.caches if c.name == "kmalloc 64")
    assert cache.allocs - cache.frees == cache.outstanding


@pytest.mark.parametrize("name", ["trace", "trace-stacks"])
def test_the_same_table_from_three_tools(name: str, tmp_path: Path) -> None:
    traces = {form: trace_table(path) for form, path in _forms(name, tmp_path).items()}
    tables = {form: shown(trace) for form, trace in traces.items()}
    assert tables["report"] == tables["tracefs"]
    assert tables["perf"] == tables["tracefs"]
    assert "leaklab_lease_grant" in tables["perf"]
    whole = trace_table(lab_dump(name).traces / "trace.dat")
    assert whole.sites == tuple(replace(s, module="") for s in traces["tracefs"].sites)
    assert whole.pages == traces["tracefs"].pages


def test_names_of_caches_come_from_trace_dat() -> None:
    names = {c.name for c in trace_table(lab_dump("trace").traces / "trace.dat").caches}
    assert names & {"lsm_file_cache", "filp", "vmap_area", "dentry", "cred_jar"}


def test_stacks_of_the_leak() -> None:
    trace = trace_table(lab_dump("trace-stacks").traces / "trace.txt")
    leak = _by_function(trace, "leaklab_lease_grant")
    mine = trace.outstanding.stack[trace.outstanding.site == trace.sites.index(leak)]
    assert len(set(mine.tolist())) == 1
    assert trace.stacks[mine[0]][1:4] == (
        "leaklab_lease_grant",
        "leaklab_run_traffic",
        "leaklab_thread",
    )
    assert site(trace, "allocate_slab").outstanding > 0


def test_the_command_prints_it(schema: Any) -> None:
    path = lab_dump("trace").traces / "trace.txt"
    ran = run("leakscan", "--trace", path)
    assert ran.status == 0
    assert re.search(r"^ +500 +32,000 +500 +0 +leaklab_lease_grant\+0x", ran.out, re.MULTILINE)
    assert "leaklab_lease_grant+0x" in ran.out.splitlines()[0] + ran.out.splitlines()[1]
    document = run("leakscan", "--trace", path, "--json").document
    jsonschema.validate(document, schema)
    assert document["sites"][0]["outstanding"] == 500
