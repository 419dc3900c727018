"""Where trace text comes from: a file, standard input, or an installed trace-cmd."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from crashext.hosts.base import HostError
from crashext.hosts.signature import COMPRESSED, TRACES

PIECE = 1 << 20
_TRACE_DAT, *_PERF_DATA = TRACES
_HEAD = 1 << 16
_EVENT = re.compile(
    rb"^[^\n=]{1,120}\b(?:kmem:)?(?:kmalloc|kmem_cache_alloc|kfree|kmem_cache_free|mm_page_\w+)"
    rb"(?:_node)?:\s+(?:\([^\n=]{1,120}\)\s+)?(?:call_site|page|pfn)=",
    re.MULTILINE,
)
_PATIENCE = 10.0  # seconds that a finished trace-cmd gets to end


def is_trace(path: Path) -> bool:
    """Whether a file begins as a trace of allocations."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    return head.startswith(TRACES) or _EVENT.search(head) is not None


def pieces(path: Path) -> Iterator[bytes]:
    """The trace's text, in pieces that may end anywhere; raises `HostError` with one line.

    A ``trace.dat`` is read through ``trace-cmd report``; ``-`` is standard input.
    """
    if str(path) == "-":
        yield from _read(sys.stdin.buffer, "standard input")
        return
    try:
        with path.open("rb") as file:
            magic = file.read(16)
    except OSError as error:
        raise HostError(f"cannot read trace {path}: {error.strerror}") from error
    if magic.startswith(_TRACE_DAT):
        yield from _report(path)
        return
    if magic.startswith(tuple(_PERF_DATA)):
        raise HostError(f"{path} is perf.data: give the output of `perf script -i {path}`")
    for start, how in COMPRESSED.items():
        if magic.startswith(start):
            raise HostError(f"trace {path} is compressed with {how}: unpack it first")
    with _reading(path) as file:
        yield from _read(file, f"trace {path}")


@contextmanager
def _reading(path: Path) -> Iterator[IO[bytes]]:
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise HostError(f"cannot read trace {path}: {error.strerror}") from error
    with file:
        yield file


def _read(file: IO[bytes], what: str) -> Iterator[bytes]:
    while True:
        try:
            piece = file.read(PIECE)
        except OSError as error:
            raise HostError(f"cannot read {what}: {error.strerror}") from error
        if not piece:
            return
        yield piece


def _report(path: Path) -> Iterator[bytes]:
    program = shutil.which("trace-cmd")
    if program is None:
        raise HostError(
            f"{path} is a trace.dat: reading it needs trace-cmd, which is not installed"
        )
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [program, "report", "-i", str(path.absolute())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
        )
        try:
            assert child.stdout is not None
            some = False
            for piece in _read(child.stdout, f"trace {path}"):
                some = True
                yield piece
            status = child.wait(_PATIENCE)
            if status and not some:
                said.seek(0)
                words = said.read(4096).decode("ascii", "backslashreplace").split("\n")
                why = next((w.strip() for w in words if w.strip()), f"exit status {status}")
                raise HostError(f"trace-cmd cannot read {path}: {why}")
        except subprocess.TimeoutExpired:
            raise HostError(f"trace-cmd does not end on {path}") from None
        finally:
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()
