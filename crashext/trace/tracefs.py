"""A tracing instance of our own: made, set up, and taken away. Nothing outside it is written.

Instances are folders of tracefs (Documentation/trace/ftrace.rst, "Instances"); each has its own
buffers, events, filters and options. Its name tells which process made it and when that process
began, so that the next run recognises those whose maker is dead, as after SIGKILL.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from crashext.hosts.base import HostError

ROOTS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
PROC = Path("/proc")

_NAME = re.compile(r"crashext-(\d+)-(\d+)")
_START_TIME = 22  # field of /proc/PID/stat, counted from 1 (proc(5))
_TRIES, _PAUSE = 20, 0.05  # an instance is busy for a moment after its pipe was closed


def find_root() -> Path:
    """Where tracefs is mounted; raises `HostError` with what to do."""
    if os.geteuid() != 0:
        raise HostError("--live needs root: tracing is not for others")
    for root in ROOTS:
        if (root / "instances").is_dir():
            return root
    raise HostError(
        "--live needs tracefs, which is not mounted or not in this kernel: "
        "mount -t tracefs nodev /sys/kernel/tracing"
    )


def started(pid: int) -> str | None:
    """When a process began, in clock ticks since boot; None where there is none that runs."""
    try:
        stat = (PROC / str(pid) / "stat").read_text("ascii", "replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the command's name may hold anything
    if fields[:1] in (["Z"], ["X"]):
        return None  # dead, and nobody has asked for its exit status yet
    return fields[_START_TIME - 3] if len(fields) > _START_TIME - 3 else None


def remove_stale(root: Path) -> int:
    """Take away instances whose maker is dead; returns how many were."""
    removed = 0
    with suppress(OSError):
        for folder in sorted((root / "instances").iterdir()):
            match = _NAME.fullmatch(folder.name)
            if match and started(int(match[1])) != match[2]:
                _take_away(folder)
                removed += 1
    return removed


class Instance:
    """One tracing instance. Leaving the context takes it away, whatever happened."""

    def __init__(self, root: Path) -> None:
        pid = os.getpid()
        self.folder = root / "instances" / f"crashext-{pid}-{started(pid) or '0'}"

    def __enter__(self) -> Instance:
        try:
            with uninterrupted():
                make_folder(self.folder)
        except OSError as error:
            raise HostError(f"cannot make a tracing instance: {_why(error)}") from error
        except KeyboardInterrupt:  # it had waited until the folder was there
            _take_away(self.folder)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with uninterrupted():
            _take_away(self.folder)

    def has(self, name: str) -> bool:
        """Whether this kernel has a file or folder of that name in an instance."""
        return (self.folder / name).exists()

    def events(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the kmem events `names` that this kernel has."""
        return tuple(name for name in names if self.has(f"events/kmem/{name}/enable"))

    def fields(self, event: str) -> frozenset[str]:
        """Names of an event's fields."""
        text = self._read(f"events/kmem/{event}/format")
        return frozenset(re.findall(r"field:[^;]*?(\w+)(?:\[[^;]*\])?;", text))

    def set(self, name: str, value: str) -> None:
        """Write a setting; raises `HostError`."""
        try:
            _write(self.folder / name, value)
        except OSError as error:
            raise HostError(f"cannot set {name} to {value!r} for tracing: {_why(error)}") from error

    def enable(self, events: tuple[str, ...], on: bool) -> None:
        """Switch kmem events."""
        for event in events:
            self.set(f"events/kmem/{event}/enable", "1" if on else "0")

    def statistics(self) -> dict[str, int]:
        """The buffers' counters, summed over CPUs: ``entries``, ``overrun``, ``dropped events``."""
        total: dict[str, int] = {}
        for path in sorted((self.folder / "per_cpu").glob("cpu*/stats")):
            for key, value in re.findall(r"^([\w ]+): (\d+)$", path.read_text(), re.MULTILINE):
                total[key] = total.get(key, 0) + int(value)
        return total

    @contextmanager
    def pipe(self) -> Iterator[int]:
        """A descriptor of ``trace_pipe`` that never blocks; what is read leaves the buffer."""
        try:
            descriptor = os.open(self.folder / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise HostError(f"cannot read the trace: {_why(error)}") from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _read(self, name: str) -> str:
        try:
            return (self.folder / name).read_text("ascii", "replace")
        except OSError as error:
            raise HostError(f"cannot read {name} of tracing: {_why(error)}") from error


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the end of the block."""
    # Not by the thread's signal mask: the kernel would give the signal to another thread.
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or usual is None:
        yield
        return
    waiting: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: waiting.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        if waiting:
            signal.raise_signal(signal.SIGINT)


def make_folder(folder: Path) -> None:
    """tracefs fills a new instance's folder with its files."""
    folder.mkdir()


def remove_folder(folder: Path) -> None:
    """tracefs empties an instance's folder itself."""
    folder.rmdir()


def _take_away(folder: Path) -> None:
    """Stop tracing into an instance and remove it; one that is gone already is no error."""
    for name in ("tracing_on", "events/enable"):
        with suppress(OSError):
            _write(folder / name, "0")
    for _ in range(_TRIES):
        try:
            remove_folder(folder)
        except FileNotFoundError:
            return
        except OSError as error:
            why = error
            time.sleep(_PAUSE)
        else:
            return
    raise HostError(f"cannot remove the tracing instance {folder}: {_why(why)}; rmdir it")


def _write(path: Path, value: str) -> None:
    # Only what tracefs has is written: nothing may be made by writing to it.
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def _why(error: OSError) -> str:
    return error.strerror or str(error)
