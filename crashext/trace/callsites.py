"""What a trace says of a place or a task, in one form whoever printed it.

tracefs prints ``func+0x21/0xd0 [mod]``, libtraceevent (trace-cmd, perf) ``func+0x21``, kernels
before 5.4 the bare address (%lx until "mm, tracing: Print symbol name for call_site in trace
events"). One place is ``func+0x21`` here, whatever was printed; the module, where
the trace names it, is beside it and no part of its identity.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

UNKNOWN_TASK = -1

# The address of sym-addr is in angle brackets, libtraceevent's in parentheses.
_PLACE = re.compile(
    r"(?:(?P<func>[^\s+/\[]+)(?P<offset>\+0x[0-9a-f]+)?(?:/0x[0-9a-f]+)?"
    r"(?: \[(?P<module>[^\]\s]+)\])?(?: ?[<(](?:0x)?[0-9a-f]+[>)])?)"
)
_HEX = re.compile(r"(?:0x)?([0-9a-f]{8,16})")
_TRACEFS_TASK = re.compile(rb"(?:[^\s:]+:\s+)?\s*(.*?)-(\d+)\s*(?:\(\s*[-\d]+\s*\))?\s*")
_PERF_TASK = re.compile(rb"\s*(.*?)\s+(-?\d+)(?:/(-?\d+))?\s*")
_FRAME = re.compile(r"\s*=>\s*(.*)")
_PERF_FRAME = re.compile(r"\s+([0-9a-f]{1,16}) (.*) \(([^()]*)\)")
_KERNEL_HALF = 1 << 63
# The tracing itself, on top of each stack: another set of functions for ftrace and for perf.
_TRACING = re.compile(
    r"(?:trace_event_raw_event_|__traceiter_|perf_trace_|trace_event_|ftrace_|__trace_|"
    r"perf_tp_event|__bpf_trace|bpf_trace_run)"
)


@dataclass(frozen=True)
class CallSite:
    """A call site; two are equal when they name the same function and offset."""

    function: str
    """``func+0x21``, or ``0xffffffff81234567`` where the trace has addresses only."""
    module: str = field(default="", compare=False)
    """"" for the kernel image, and where the trace does not say."""


@dataclass(frozen=True)
class Task:
    comm: str
    pid: int
    """`UNKNOWN_TASK` where the line does not say."""


def place(text: bytes) -> CallSite:
    """The place that `text` names, the value of ``call_site=``."""
    return _place(text.decode("ascii", "backslashreplace").strip())


def _place(word: str) -> CallSite:
    number = _HEX.fullmatch(word)
    if number:
        return CallSite(f"0x{int(number[1], 16):x}")
    match = _PLACE.fullmatch(word)
    if match is None:
        return CallSite(word or "(nothing)")
    return CallSite(match["func"] + (match["offset"] or ""), match["module"] or "")


def task(text: bytes) -> Task:
    """The task in the head of a line, which ends before the CPU."""
    match = _TRACEFS_TASK.fullmatch(text) or _PERF_TASK.fullmatch(text)
    if match is None:
        return Task(text.decode("ascii", "backslashreplace").strip(), UNKNOWN_TASK)
    thread = match[3] if len(match.groups()) > 2 and match[3] else match[2]
    # More digits than a pid has are damage; int() of very many raises.
    pid = int(thread) if len(thread) <= 10 else UNKNOWN_TASK
    return Task(match[1].decode("ascii", "backslashreplace").strip(), pid)


def stack(block: bytes) -> tuple[str, ...]:
    """Function names of the frames in `block`, innermost first.

    Without offsets, which trace-cmd does not print, without user space, and without the
    functions that did the tracing.
    """
    frames: list[str] = []
    for line in block.decode("ascii", "backslashreplace").splitlines():
        name = _frame(line)
        if name and (frames or not _TRACING.match(name)):
            frames.append(name)
    return tuple(frames)


def _frame(line: str) -> str | None:
    match = _FRAME.fullmatch(line)
    if match:
        where = _place(match[1].strip())
        return where.function.split("+0x")[0]
    perf = _PERF_FRAME.fullmatch(line)
    if perf is None:
        return None
    address, symbol, image = int(perf[1], 16), perf[2], perf[3]
    in_kernel = address >= _KERNEL_HALF or "kernel" in image or "vmlinux" in image
    if not in_kernel:
        return None
    return f"0x{address:x}" if symbol == "[unknown]" else symbol.split("+0x")[0]
