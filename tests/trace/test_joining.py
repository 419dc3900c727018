"""A trace joined with the dump that was taken after it: marks, and what must not be marked."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from crashext.analysis.caches import scan_caches
from crashext.analysis.origin.outstanding import outstanding
from crashext.analysis.results.joined import MarkedCache, MarkedSite, Traced
from crashext.analysis.results.reports import LeakReport
from crashext.analysis.settings import Settings
from crashext.commands import entry, live
from crashext.commands.place import Place
from crashext.kernel.slab.view import KernelView
from crashext.progress import silent
from crashext.trace import trace_table
from tests.conftest import lab_dump, lab_host, on, run
from tests.trace.test_lab_trace import _forms

SETTINGS = Settings(samples=250_000, seed=0, threshold=0.7, metric="hamming", hops=1)


def _traced() -> Traced:
    return outstanding(trace_table(lab_dump("trace").traces / "trace.txt"))


def _scan(traced: Traced, *caches: str, refs: bool | None = None) -> LeakReport:
    view = KernelView(lab_host("trace"))
    return scan_caches(view, list(caches), SETTINGS, silent, refs=refs, traced=traced)


def _cache(report: LeakReport, name: str) -> MarkedCache:
    assert report.trace is not None
    return next(c for c in report.trace.caches if c.cache == name)


def _of(cache: MarkedCache, function: str) -> MarkedSite:
    return next(s for s in cache.sites if s.function.startswith(f"{function}+"))


@pytest.fixture(scope="module")
def joined() -> LeakReport:
    return _scan(_traced(), "kmalloc-64")


def test_the_leak_is_marked_and_the_living_are_not(joined: LeakReport) -> None:
    cache = _cache(joined, "kmalloc-64")
    assert cache.by_reach
    lease, client = cache.sites[:2]
    assert lease.function.startswith("leaklab_lease_grant+")
    assert (lease.outstanding, lease.marked, lease.reachable) == (500, 500, 0)
    assert client.function.startswith("leaklab_client_join+")
    assert (client.outstanding, client.marked, client.reachable) == (500, 0, 500)
    assert {lease.module, client.module} == {"leaklab"}
    assert all(s.marked <= s.outstanding / 100 for s in cache.sites[1:])
    busy = max(t.allocs for t in _traced().sites)
    assert busy == 150_000  # the frequent caller is not even in the table
    assert all(s.allocs < busy for s in cache.sites)


def test_every_address_is_accounted_for(joined: LeakReport) -> None:
    trace = joined.trace
    assert trace is not None
    cache = _cache(joined, "kmalloc-64")
    assert cache.compared + cache.gone + cache.unreadable == cache.outstanding
    assert cache.outstanding + trace.elsewhere + trace.moved == trace.outstanding
    for site in cache.sites:
        assert site.marked + site.reachable + site.gone <= site.outstanding
        assert sum(n for _, n in site.groups) == site.marked


def test_it_names_who_allocated_the_groups(joined: LeakReport) -> None:
    first, second = joined.caches[0].groups[:2]
    who = {g.allocators[0].site.split("+")[0] for g in (first, second)}
    assert who == {"leaklab_lease_grant", "leaklab_client_join"}
    for group in (first, second):
        rung = group.allocators[0]
        assert (rung.rung, rung.module, rung.objects) == ("trace", "leaklab", rung.of)
        assert group.unattributed == ""


def test_a_stack_comes_with_the_rung() -> None:
    dump = lab_dump("trace-stacks")
    view = KernelView(lab_host("trace-stacks"))
    traced = outstanding(trace_table(dump.traces / "trace.txt"))
    report = scan_caches(view, ["kmalloc-64"], SETTINGS, silent, refs=True, traced=traced)
    lease = _of(_cache(report, "kmalloc-64"), "leaklab_lease_grant")
    assert (lease.outstanding, lease.marked) == (50, 50)
    rungs = [a for g in report.caches[0].groups for a in g.allocators if a.rung == "trace"]
    stack = next(a.stack for a in rungs if a.site.startswith("leaklab_lease_grant"))
    assert stack[1:4] == ("leaklab_lease_grant", "leaklab_run_traffic", "leaklab_thread")


def test_without_names_the_caches_with_most_of_it() -> None:
    report = _scan(_traced())
    assert "kmalloc-64" in [c.name for c in report.caches]
    assert _of(_cache(report, "kmalloc-64"), "leaklab_lease_grant").marked == 500
    marked = [s for c in (report.trace.caches if report.trace else ()) for s in c.sites if s.marked]
    assert [s.function.split("+")[0] for s in marked] == ["leaklab_lease_grant"]


def test_likeness_alone_says_so() -> None:
    cache = _cache(_scan(_traced(), "kmalloc-64", refs=False), "kmalloc-64")
    assert not cache.by_reach
    assert cache.judged == 0
    assert _of(cache, "leaklab_lease_grant").marked == 500
    assert _of(cache, "leaklab_client_join").marked > 490  # alike too: that is all it can say
    ran = run("leakscan", "kmalloc-64", *on("trace"), "--no-refs", "--trace", _file())
    assert "likeness alone does not tell unreachable from held objects" in ran.out.splitlines()[0]
    assert "marked by likeness alone" in ran.out
    assert "leaking function" not in ran.out


def _file() -> Path:
    return lab_dump("trace").traces / "trace.txt"


def _moved(traced: Traced) -> Traced:
    """Eight bytes on: inside the objects, where none begins."""
    return replace(traced, address=traced.address + np.uint64(8))


def _other_size(traced: Traced) -> Traced:
    return replace(traced, size=traced.size * 2)


def _elsewhere(traced: Traced) -> Traced:
    return replace(traced, address=traced.address + np.uint64(1 << 44))


@pytest.mark.parametrize("change", [_moved, _other_size, _elsewhere])
def test_what_is_no_object_any_more_is_not_marked(change: Callable[[Traced], Traced]) -> None:
    report = _scan(change(_traced()), "kmalloc-64")
    trace = report.trace
    assert trace is not None
    cache = _cache(report, "kmalloc-64")
    assert not any(s.marked for s in cache.sites)
    assert cache.compared == 0
    assert cache.gone + trace.moved + trace.elsewhere == trace.outstanding
    if change is _moved:
        assert cache.gone == cache.outstanding > 1000
    else:
        assert trace.moved > 1000
    if change is _elsewhere:
        assert "of the same boot" in trace.notes[0]


def test_freed_objects_are_said_to_be_freed() -> None:
    traced = _traced()
    free = scan_free(64)
    n = len(traced) + len(free)
    order = np.argsort(np.concatenate([traced.address, free]), kind="stable")
    more = replace(
        traced,
        address=np.concatenate([traced.address, free])[order],
        size=np.concatenate([traced.size, np.full(len(free), 64)])[order],
        site=np.concatenate([traced.site, np.zeros(len(free), np.int32)])[order],
    )
    assert len(more) == n
    before, after = (_cache(_scan(t, "kmalloc-64"), "kmalloc-64") for t in (traced, more))
    assert after.gone == before.gone + len(free)
    assert after.compared == before.compared


def scan_free(most: int) -> Any:
    """Addresses of free kmalloc-64 slots, from the survey's own sample."""
    from crashext.analysis.likeness.survey import make_classifier, survey

    view = KernelView(lab_host("trace"))
    view.scan({}, 0)
    cache = view.caches.find("kmalloc-64")
    assert cache is not None
    seen = survey(view, make_classifier(view), cache, SETTINGS, silent)
    return seen.sample.free_address[:most]


def test_hashed_pointers_are_said_to_be_useless(tmp_path: Path) -> None:
    text = re.sub(r"ptr=\w{8}", "ptr=00000000", _file().read_text())
    path = tmp_path / "hashed"
    path.write_text(text)
    ran = run("leakscan", "kmalloc-64", *on("trace"), "--trace", path)
    assert ran.status == 0
    assert "no object can be found by them" in ran.out
    assert "hash-ptr" in ran.out
    assert "no_hash_pointers" in ran.out
    assert "leaking function" not in ran.out


def _trace_part(out: str) -> str:
    """The joined table: everything before the line that names the trace's file."""
    return out.partition("\ntrace ")[0]


def test_the_same_table_from_three_tools(tmp_path: Path) -> None:
    forms = _forms("trace", tmp_path)
    forms["trace.dat"] = lab_dump("trace").traces / "trace.dat"
    shown = {
        form: _trace_part(run("leakscan", "kmalloc-64", *on("trace"), "--trace", path).out)
        for form, path in forms.items()
    }
    assert len(set(shown.values())) == 1
    assert re.search(
        r"^ +500 +500 +0 +500 +leaklab_lease_grant\+0x\w+ \[leaklab\]", shown["perf"], re.M
    )
    assert re.search(
        r"^leaking function: leaklab_lease_grant\+0x\w+ \[leaklab\]$", shown["perf"], re.M
    )
    assert re.search(
        r"^cache: kmalloc-64   object: ffff\w+ .*similar objects: 500$", shown["perf"], re.M
    )


def test_json_and_a_session_that_keeps_the_trace(tmp_path: Path, schema: Any) -> None:
    session = tmp_path / "joined.session"
    asked = ("kmalloc-64", *on("trace"), "--trace", _file(), "--record", session, "--json")
    document = run("leakscan", *asked).document
    jsonschema.validate(document, schema)
    site = document["trace"]["caches"][0]["sites"][0]
    assert (site["module"], site["outstanding"], site["marked"]) == ("leaklab", 500, 500)
    assert document["trace"]["caches"][0]["groups"][site["groups"][0][0] - 1]["suspect"]
    replayed = run("leakscan", "kmalloc-64", "-r", session, "--json")
    assert replayed.err == ""
    assert replayed.document["trace"] == document["trace"]
    assert replayed.document["caches"] == document["caches"]


def test_without_a_trace_the_field_is_null(schema: Any) -> None:
    document = run("leakscan", "kmalloc-64", *on("trace"), "--no-refs", "--json").document
    jsonschema.validate(document, schema)
    assert document["trace"] is None


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--orphans"], "--orphans"),
        (["--walker", "kmem"], "--walker kmem"),
        (["-r", "session"], "--replay"),
    ],
)
def test_what_does_not_go_together_is_said(more: list[str], says: str) -> None:
    ran = run("leakscan", "kmalloc-64", "--trace", _file(), *more)
    assert (ran.status, ran.out) == (2, "")
    assert says in ran.err
    assert ran.err.count("\n") == 1


def test_a_live_trace_is_joined_with_memory_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a running machine: the trace and the memory are a lab guest's."""
    trace = replace(trace_table(_file()), remarks=("cost: measured",))
    monkeypatch.setattr(live, "capture", lambda wanted, progress: trace)
    monkeypatch.setattr(live, "open_host", lambda source, place: lab_host("trace"))
    session = tmp_path / "live.session"
    ran = run("leakscan", "--live", "5", "--record", session)
    assert ran.status == 0
    assert "leaking function: leaklab_lease_grant+" in ran.out
    assert "cost: measured" in ran.out
    replayed = run("leakscan", "kmalloc-64", "-r", session)
    assert "cost: measured" in replayed.out
    assert "leaking function: leaklab_lease_grant+" in replayed.out


def test_live_wants_the_running_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    inside = Place("drgn", lambda: lab_host("trace"))  # a dump that is open already
    assert entry.leakscan(["--live", "1"], inside) == 2
    assert "this is a dump" in capsys.readouterr().err


def test_the_verdict_takes_the_trace() -> None:
    """Without a CACHE: what it saw allocated and nothing reaches is a leak, however little."""
    dump = lab_dump("trace")
    ran = run("leakscan", *on("trace"), "--trace", dump.traces / "trace.txt", "--json")
    assert ran.status == 0
    verdict = ran.document["verdict"]
    assert (verdict["class"], verdict["where"]) == ("leak", "slab")
    culprit = verdict["culprit"]
    assert culprit["cache"] == "kmalloc-64"
    assert culprit["caller"].startswith("leaklab_lease_grant+")
    assert culprit["module"] == "leaklab"
    assert any("500 of the 500 unreachable kmalloc-64 objects" in text for text in verdict["for"])
    # The same guest without the trace: 31 KiB are not worth an accusation.
    alone = run("leakscan", *on("trace"), "--json").document["verdict"]
    assert alone["class"] == "healthy"
