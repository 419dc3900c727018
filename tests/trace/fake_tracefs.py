"""A folder that looks like tracefs, and a thread that fills its trace_pipe like a kernel.

What the real one does by itself is done here: a new instance has its files at once, and removing
it takes them along.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

from crashext.trace import tracefs

SETTINGS = ("tracing_on", "buffer_size_kb", "options/hash-ptr", "options/stacktrace")
EVENTS = ("kmalloc", "kmem_cache_alloc", "kfree", "kmem_cache_free", "mm_page_alloc")
LIFE = 0.1
# As Linux 6.1 prints them, shortened.
FORMATS = {
    "kmalloc": "field:unsigned long call_site; field:const void * ptr; field:size_t bytes_alloc;",
    "kmem_cache_alloc": "field:unsigned long call_site; field:const void * ptr;",
    "kfree": "field:unsigned long call_site; field:const void * ptr;",
    "kmem_cache_free": "field:const void * ptr; field:__data_loc char[] name;",
}


def new_root(folder: Path) -> Path:
    """A machine's tracefs with settings of its own, and no instance yet."""
    root = folder / "tracing"
    (root / "instances").mkdir(parents=True)
    _fill(root, on="1")
    (root / "events/kmem/kmalloc/enable").write_text("1\n")
    (root / "options/hash-ptr").write_text("1\n")
    return root


def fill_instance(folder: Path) -> None:
    """What the kernel does when an instance's folder is made."""
    folder.mkdir()
    _fill(folder, on="1")
    os.mkfifo(folder / "trace_pipe")
    for cpu in (0, 1):
        (folder / f"per_cpu/cpu{cpu}").mkdir(parents=True)
        text = "entries: 0\noverrun: 3\nbytes: 100\ndropped events: 1\nread events: 9\n"
        (folder / f"per_cpu/cpu{cpu}/stats").write_text(text)


def _fill(folder: Path, on: str) -> None:
    for name in SETTINGS:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("0\n")
    (folder / "tracing_on").write_text(f"{on}\n")
    for event in EVENTS:
        where = folder / "events/kmem" / event
        where.mkdir(parents=True)
        (where / "enable").write_text("0\n")
        (where / "filter").write_text("none\n")
        (where / "format").write_text(FORMATS.get(event, "field:unsigned long pfn;"))
    (folder / "events/enable").write_text("0\n")


def contents(root: Path) -> dict[str, tuple[str, int]]:
    """Every file outside the instances: its text and when it was last written."""
    files = (p for p in root.rglob("*") if p.is_file() and "instances" not in p.parts)
    return {str(p): (p.read_text(), p.stat().st_mtime_ns) for p in files}


class Kernel(threading.Thread):
    """Allocates 64 bytes 100 times a second, and as much again that lives `LIFE` seconds."""

    def __init__(self, root: Path) -> None:
        super().__init__(daemon=True)
        self.root = root
        self.stop = threading.Event()
        self.written: dict[str, str] = {}
        """Every setting of the instance as it last was."""
        self.order: list[str] = []
        """Switches as they were seen to change: ``kmalloc 1``, ``kfree 0``, ..."""
        self.leaked: list[int] = []
        self.failed: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                for instance in (self.root / "instances").iterdir():
                    if self._value(instance, "tracing_on") == "1":
                        self._trace(instance)
                time.sleep(0.005)
        except BaseException as error:  # told to the test, not to stderr
            self.failed = error

    def _value(self, instance: Path, name: str) -> str:
        try:
            value = (instance / name).read_text().strip()
        except OSError:
            return ""
        if value and self.written.get(name) != value:
            self.written[name] = value
            if name.endswith("enable"):
                self.order.append(f"{name.split('/')[-2]} {value}")
        return value

    def _trace(self, instance: Path) -> None:
        try:
            pipe = os.open(instance / "trace_pipe", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return
        waiting: list[tuple[float, int]] = []
        number = 0
        begun = time.monotonic()
        try:
            while self._value(instance, "tracing_on") == "1":
                now = time.monotonic() - begun
                for event in (*EVENTS[:4],):
                    self._value(instance, f"events/kmem/{event}/enable")
                    self._value(instance, f"events/kmem/{event}/filter")
                for name in SETTINGS:
                    self._value(instance, name)
                lines = []
                if self.written.get("events/kmem/kmalloc/enable") == "1":
                    leak, short = (
                        0xFFFF888000000000 + number * 128,
                        0xFFFF888010000000 + number * 64,
                    )
                    number += 1
                    self.leaked.append(leak)
                    waiting.append((now + LIFE, short))
                    lines += [_alloc(now, leak, "leaky+0x21/0xd0 [mod]")]
                    lines += [_alloc(now, short, "busy+0x10/0x80")]
                if self.written.get("events/kmem/kfree/enable") == "1":
                    lines += [_free(now, a) for due, a in waiting if due <= now]
                    waiting = [(due, a) for due, a in waiting if due > now]
                os.write(pipe, "".join(lines).encode())
                time.sleep(0.01)
        except (BrokenPipeError, BlockingIOError):
            pass  # nobody reads any more
        finally:
            os.close(pipe)


def _alloc(now: float, address: int, site: str) -> str:
    return (
        f"            task-7       [000] ..... {now:12.6f}: kmalloc: call_site={site} "
        f"ptr={address:016x} bytes_req=60 bytes_alloc=64 gfp_flags=GFP_KERNEL node=-1 "
        "accounted=false\n"
    )


def _free(now: float, address: int) -> str:
    return (
        f"            task-7       [000] ..... {now:12.6f}: kfree: call_site=done+0x8/0x20 "
        f"ptr={address:016x}\n"
    )


def empty_and_remove(folder: Path) -> None:
    """What the kernel does when an instance's folder is removed."""
    shutil.rmtree(folder)


def install() -> None:
    """Make `crashext.trace.tracefs` work on such folders, in a process of its own."""
    tracefs.make_folder = fill_instance
    tracefs.remove_folder = empty_and_remove
