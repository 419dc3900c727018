"""The options that the commands share, and how bad ones are told. It opens nothing."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from crashext import __version__
from crashext.analysis.likeness.similarity import DEFAULT_THRESHOLD, METRICS
from crashext.analysis.reach.reachability import MEMORY_BUDGET
from crashext.hosts.base import Host

BAD_INPUT = 2
_DEFAULT_SAMPLES = 250_000
_MOST_HOPS = 16


def example(host: Host | None) -> str:
    return "" if host is not None else "-c vmcore -s vmlinux "


class Parser(argparse.ArgumentParser):
    """Bad arguments get one line, not the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message} ({self.prog} -h helps)\n")


def source_options(parser: argparse.ArgumentParser, host: Host | None) -> None:
    source = parser.add_argument_group("where memory comes from")
    if host is None:
        one = source.add_mutually_exclusive_group()
        one.add_argument("-c", "--core", metavar="CORE", type=Path, help="vmcore")
        one.add_argument("-k", "--kernel", action="store_true", help="the running kernel (root)")
        one.add_argument("-r", "--replay", metavar="SESSION", type=Path, help="a recorded session")
        source.add_argument(
            "-s",
            "--symbols",
            metavar="VMLINUX",
            type=Path,
            action="append",
            default=[],
            help="debug file: vmlinux, or a module's; may be repeated (default: by build ID)",
        )
    source.add_argument(
        "--record", metavar="FILE", type=Path, help="also record this run as a session"
    )
    parser.add_argument("--version", action="version", version=f"crashext {__version__}")


def reference_options(parser: argparse.ArgumentParser) -> None:
    refs = parser.add_argument_group("who points at the objects")
    refs.add_argument(
        "--refs",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="look through all kernel memory for it (default: where that takes seconds)",
    )
    refs.add_argument(
        "--memory",
        type=number(64, 1 << 20),
        default=MEMORY_BUDGET >> 20,
        metavar="MIB",
        help="memory to use; the largest caches are sampled to fit (default %(default)s)",
    )


def comparison_options(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how objects are compared")
    how.add_argument(
        "--samples",
        type=number(1),
        default=_DEFAULT_SAMPLES,
        metavar="N",
        help="objects to look at in each cache (default %(default)s; at most 24 MiB of them)",
    )
    how.add_argument(
        "--seed", type=number(0), default=0, metavar="N", help="of the random choice (default 0)"
    )
    how.add_argument(
        "--threshold",
        type=fraction,
        default=DEFAULT_THRESHOLD,
        metavar="S",
        help="score from which objects count as alike, 0 to 1 (default %(default)s)",
    )
    how.add_argument(
        "--metric",
        choices=sorted(METRICS),
        default="hamming",
        help="how bytes are compared (default %(default)s; the others find shifted content)",
    )
    how.add_argument(
        "--hops",
        type=number(0, _MOST_HOPS),
        default=1,
        metavar="N",
        help="objects to follow a pointer through until one has a name (default %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("-v", "--verbose", action="store_true", help="more groups, all words")


def number(least: int, most: int = (1 << 63) - 1) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text, 0)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not least <= value <= most:
            limit = f"to {most}" if most < (1 << 63) - 1 else "up"
            raise argparse.ArgumentTypeError(f"{text} is not a number from {least} {limit}")
        return value

    return parse


def fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0 and up to 1")
    return value
