"""``python -m tests.lab``: build the dumps of the scenarios named on the command line."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from . import (
    APT_PACKAGES,
    DISTRIBUTION_PACKAGES,
    SCENARIOS,
    LabError,
    MissingToolsError,
    arm64_packages,
    build,
    cache_folder,
    own_kernel_packages,
    scenario,
)
from .scenarios import DEBIAN
from .suites import SUITES


def main() -> int:
    """Build what the command line asks for; print the folder of each dump."""
    # Ends through the `finally` blocks, so that no guest is left running.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    options = _parser().parse_args()
    if options.print_packages:
        packages = set(APT_PACKAGES.values())
        kernels = [scenario(name).kernel for name in options.scenarios]
        for kernel in kernels:
            if kernel not in (DEBIAN, *SUITES):
                packages |= own_kernel_packages(kernel)
        if any(SUITES[kernel].arch == "arm64" for kernel in kernels if kernel in SUITES):
            packages |= arm64_packages()
        if any(scenario(name).distribution for name in options.scenarios):
            packages |= set(DISTRIBUTION_PACKAGES.values())
        print(" ".join(sorted(packages)))
        return 0
    if options.list or not options.scenarios:
        for known in SCENARIOS.values():
            print(f"{known.name:14} {known.memory:>5}  {known.summary}")
        print(f"NAME@SUITE: on the kernel of another suite of Debian: {', '.join(SUITES)}")
        return 0
    try:
        for name in options.scenarios:
            print(_build(name, options), flush=True)
    except MissingToolsError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 2
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _build(name: str, options: argparse.Namespace) -> Path:
    chosen = scenario(name).changed(dict(options.set), options.memory, options.append)
    dump = build(
        chosen,
        kdump=not options.no_kdump,
        d31=not options.no_d31,
        force=options.force,
        tell=lambda line: print(f"lab: {line}", file=sys.stderr, flush=True),
    )
    return dump.folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.lab",
        description="Build real leaky vmcores; without a scenario, list them.",
        epilog=f"Everything is kept below {cache_folder()} ($CRASHEXT_LAB).",
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO")
    parser.add_argument("--list", action="store_true", help="list the scenarios")
    parser.add_argument(
        "--print-packages",
        action="store_true",
        help="print the Debian packages that are needed, for the scenarios named if any are",
    )
    parser.add_argument("--force", action="store_true", help="build again what is there already")
    parser.add_argument("--memory", metavar="SIZE", help="guest memory, for example 4G")
    parser.add_argument(
        "--set",
        type=_assignment,
        action="append",
        default=[],
        metavar="NAME=COUNT",
        help="change a parameter, for example nodes=20000000",
    )
    parser.add_argument(
        "--append", default="", metavar="WORDS", help="more words for the kernel command line"
    )
    parser.add_argument("--no-kdump", action="store_true", help="make no vmcore.kdump")
    parser.add_argument("--no-d31", action="store_true", help="make no vmcore.d31")
    return parser


def _assignment(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    try:
        return name, int(number)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=COUNT") from None


if __name__ == "__main__":
    sys.exit(main())
