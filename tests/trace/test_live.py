"""Live capture on a folder that looks like tracefs: what is written, and that it is taken away."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crashext.hosts.base import HostError
from crashext.trace import live, tracefs
from crashext.trace.live import Wanted, capture
from crashext.trace.table import TraceReader
from tests.conftest import run
from tests.trace.fake_tracefs import (
    LIFE,
    Kernel,
    contents,
    empty_and_remove,
    fill_instance,
    new_root,
)

SLABINFO = """slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables
dentry             53181  53181    192   21    1 : tunables    0    0    0 : slabdata
kmalloc-64          2980   3136     64   64    1 : tunables    0    0    0 : slabdata
"""
CHILD = """
import sys
from pathlib import Path
from tests.trace.fake_tracefs import install
from crashext.trace.live import Wanted, capture
install()
print("ready", flush=True)
capture(Wanted(60.0), lambda *_: None, Path(sys.argv[1]))
"""


def silent(what: str, done: int, total: int) -> None:
    pass


def ctrl_c(when: Callable[[str], bool]) -> live.Progress:
    """Progress that presses Ctrl-C, once, as soon as what it is told fits."""
    pressed: list[str] = []

    def press(what: str, done: int, total: int) -> None:
        if not pressed and when(what):
            pressed.append(what)
            os.kill(os.getpid(), signal.SIGINT)

    return press


def many_events(what: str) -> bool:
    """More than what lives `LIFE` has events at a time."""
    return int(what.split()[1].replace(",", "")) > 100


@pytest.fixture
def at_a_terminal() -> Iterator[None]:
    """Ctrl-C interrupts, though a shell makes what it starts in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tracefs, "make_folder", fill_instance)
    monkeypatch.setattr(tracefs, "remove_folder", empty_and_remove)
    monkeypatch.setattr(live, "_SHORTEST_DRAIN", 5 * LIFE)
    monkeypatch.setattr(live, "_BETWEEN_WORDS", 0.1)
    monkeypatch.setattr(live, "_SLABS", tmp_path / "slab")
    (tmp_path / "slabinfo").write_text(SLABINFO)
    monkeypatch.setattr(live, "_SLABINFO", tmp_path / "slabinfo")
    return new_root(tmp_path)


@pytest.fixture
def kernel(root: Path) -> Iterator[Kernel]:
    thread = Kernel(root)
    thread.start()
    yield thread
    thread.stop.set()
    thread.join(10)
    assert thread.failed is None


def _instances(root: Path) -> list[Path]:
    return list((root / "instances").iterdir())


def test_what_lives_shorter_than_the_drain_comes_home(root: Path, kernel: Kernel) -> None:
    before = contents(root)
    summary = capture(Wanted(0.4), silent, root)
    assert [(s.function, s.module) for s in summary.sites if s.outstanding] == [
        ("leaky+0x21", "mod")
    ]
    assert summary.outstanding.address.tolist() == kernel.leaked
    busy = next(s for s in summary.sites if s.function == "busy+0x10")
    assert busy.allocs == busy.frees > 10
    assert not summary.hashed
    assert not summary.interrupted
    assert "8 lost" in summary.remarks[0]  # by the buffers' own counters, two CPUs
    assert f"{summary.events:,} events" in summary.remarks[0]
    assert not _instances(root)
    assert contents(root) == before


def test_settings_of_the_instance(root: Path, kernel: Kernel) -> None:
    capture(Wanted(0.3, ("dentry", "kmalloc-64"), stacks=True), silent, root)
    assert kernel.written["options/hash-ptr"] == "0"
    assert kernel.written["options/stacktrace"] == "1"
    kilobytes = int(kernel.written["buffer_size_kb"])
    assert 1024 <= kilobytes <= 8192
    sizes = f"common_pid != {os.getpid()} && (bytes_alloc == 64 || bytes_alloc == 192)"
    assert kernel.written["events/kmem/kmalloc/filter"] == sizes
    # kmem_cache_alloc has no name here, so names cannot choose frees either.
    assert kernel.written["events/kmem/kmem_cache_alloc/filter"] == sizes
    assert kernel.written["events/kmem/kmem_cache_free/filter"] == "none"
    assert kernel.written["events/kmem/kfree/filter"] == "ptr != 0"
    assert kernel.order.index("kmalloc 0") > kernel.order.index("kmalloc 1")
    assert "kfree 0" not in kernel.order[: kernel.order.index("kmalloc 0")]


def test_names_of_caches_where_the_events_have_them(
    root: Path, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_names(folder: Path) -> None:
        fill_instance(folder)
        form = folder / "events/kmem/kmem_cache_alloc/format"
        form.write_text(form.read_text() + " field:__data_loc char[] name;")

    monkeypatch.setattr(tracefs, "make_folder", with_names)
    capture(Wanted(0.3, ("dentry",)), silent, root)
    mine = f"common_pid != {os.getpid()}"
    filters = {e: kernel.written[f"events/kmem/{e}/filter"] for e in ("kmalloc", *live.FREES)}
    assert filters["kmalloc"] == f"{mine} && (bytes_alloc == 192)"
    assert filters["kmem_cache_free"] == 'name == "dentry"'
    named = kernel.written["events/kmem/kmem_cache_alloc/filter"]
    assert named == f'{mine} && (name == "dentry")'


@pytest.mark.usefixtures("kernel", "at_a_terminal")
def test_ctrl_c_keeps_what_was_traced(root: Path) -> None:
    before = contents(root)
    begun = time.monotonic()
    summary = capture(Wanted(60.0), ctrl_c(many_events), root)
    assert time.monotonic() - begun < 30
    assert summary.interrupted
    assert next(s for s in summary.sites if s.outstanding).function == "leaky+0x21"
    assert not _instances(root)
    assert contents(root) == before


@pytest.mark.usefixtures("at_a_terminal")
def test_ctrl_c_before_anything_was_traced(root: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        capture(Wanted(60.0), ctrl_c(lambda what: True), root)
    assert not _instances(root)


@pytest.mark.parametrize("moment", ["make_folder", "remove_folder"])
@pytest.mark.usefixtures("kernel", "at_a_terminal")
def test_ctrl_c_while_the_instance_comes_or_goes(
    root: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    usual = getattr(tracefs, moment)

    def interrupted(folder: Path) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        usual(folder)

    monkeypatch.setattr(tracefs, moment, interrupted)
    with pytest.raises(KeyboardInterrupt):
        capture(Wanted(0.2), silent, root)
    assert not _instances(root)


@pytest.mark.usefixtures("kernel")
def test_an_exception_leaves_nothing_behind(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: TraceReader, text: bytes) -> None:
        raise MemoryError

    monkeypatch.setattr(TraceReader, "feed", fail)
    with pytest.raises(MemoryError):
        capture(Wanted(5.0), silent, root)
    assert not _instances(root)


def test_the_next_run_cleans_up_after_sigkill(root: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(root)], stdout=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while not any((p / "trace_pipe").exists() for p in _instances(root)):
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.02)
        assert tracefs.remove_stale(root) == 0  # its maker lives
        assert len(_instances(root)) == 1
    finally:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, but still in /proc
    assert len(_instances(root)) == 1
    assert tracefs.remove_stale(root) == 1
    assert not _instances(root)
    child.wait()


@pytest.mark.usefixtures("kernel")
def test_a_run_says_that_it_cleaned_up_and_spares_what_is_not_ours(root: Path) -> None:
    fill_instance(root / "instances" / f"crashext-{os.getpid()}-1")  # another process, by its start
    (root / "instances" / "mine").mkdir()
    summary = capture(Wanted(0.3), silent, root)
    assert "removed 1 tracing instance of killed runs" in summary.remarks
    assert [p.name for p in _instances(root)] == ["mine"]


def test_a_kernel_that_traces_nothing_is_an_error(root: Path) -> None:
    with pytest.raises(HostError, match="no allocation was traced"):
        capture(Wanted(0.1), silent, root)
    assert not _instances(root)


def test_a_kernel_without_the_events(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(folder: Path) -> None:
        fill_instance(folder)
        shutil.rmtree(folder / "events/kmem")

    monkeypatch.setattr(tracefs, "make_folder", without)
    with pytest.raises(HostError, match="no kmem:kmalloc"):
        capture(Wanted(0.1), silent, root)
    assert not _instances(root)


def test_slot_sizes_from_sysfs_first(root: Path) -> None:
    assert live.slot_size("kmalloc-64") == 64
    folder = root.parent / "slab" / "kmalloc-64"
    folder.mkdir(parents=True)
    (folder / "slab_size").write_text("192\n")  # with debugging
    assert live.slot_size("kmalloc-64") == 192
    for name in ("nothing", "../slab/kmalloc-64", "kmalloc.64"):
        with pytest.raises(HostError, match="no slab cache"):
            live.slot_size(name)


def _says(says: str, *arguments: str) -> None:
    ran = run("leakscan", "--live", "1", *arguments)
    assert (ran.status, ran.out) == (2, "")
    assert says in ran.err
    assert ran.err.count("\n") == 1


def test_bad_input_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracefs, "ROOTS", (tmp_path,))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    _says("mount -t tracefs")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    _says("needs root")
    _says("running kernel", "-c", "vmcore")
    _says("--orphans", "--orphans")
    ran = run("leakscan", "--trace", "file", "--stacks")
    assert (ran.status, ran.err.count("\n")) == (2, 1)


@pytest.mark.usefixtures("kernel")
def test_without_memory_the_table_comes_without_marks(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracefs, "ROOTS", (root,))
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    def none(symbols: list[Path]) -> None:
        raise HostError("cannot look at the running kernel: it is not there")

    monkeypatch.setattr("crashext.hosts.drgn.open_live", none)
    ran = run("leakscan", "--live", "1", "kmalloc-64")
    assert ran.status == 0
    assert "leaky+0x21" in ran.out.splitlines()[0]
    assert "memory cannot be read, so nothing is marked" in ran.out
    assert "marked" not in ran.out.splitlines()[1]
    assert not _instances(root)
