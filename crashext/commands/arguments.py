"""The command lines of `leakscan` and `objsim`: what may be typed, and what -h says.

Inside another tool (drgn, crash) memory is open already: the options that say where it comes from
are not there, nor what the tool or its dump cannot do. It opens nothing.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from crashext import __version__
from crashext.analysis.settings import DEFAULTS, MEMORY_BUDGET, METRICS
from crashext.commands import telling
from crashext.commands.completion import completion_option
from crashext.commands.place import Place
from crashext.report.topics import TOPICS

BAD_INPUT = 2
_MOST_HOPS = 16
MOST_JOBS = 64
_LONGEST_LIVE = 24 * 3600
_UNKNOWN = "unrecognized arguments: "  # argparse's words
_SAYS_WHERE = re.compile(
    r"(-[ckrs]|--(?:core|kernel|replay|symbols|no-debuginfod|procfs)(?==|$))"
)  # options that a shell's command line has, and a tool's has not
_OPEN = {"crash": "the open dump", "drgn": "the program's memory"}


class _Version(argparse.Action):
    """`--version`: also whether what is slow without them is compiled."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:  # noqa: A002
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from crashext.kernel.loops import state  # here, as every command has this option

        print(f"crashext {__version__}\n{state()}")
        parser.exit()


class Parser(argparse.ArgumentParser):
    """Bad arguments get one line, not the whole usage."""

    tool = "shell"
    """Where it was typed, as in `Place`."""

    def error(self, message: str) -> NoReturn:
        words = message.removeprefix(_UNKNOWN).split() if message.startswith(_UNKNOWN) else []
        found = next(filter(None, map(_SAYS_WHERE.match, words)), None)
        if found is not None and self.tool in _OPEN:
            what = f"inside {self.tool} {_OPEN[self.tool]} is what is looked at"
            self.exit(BAD_INPUT, telling.message(self.prog, f"{what}: leave out {found[1]}"))
        self.exit(BAD_INPUT, telling.message(self.prog, f"{message} ({self.prog} -h helps)"))


class _LeakscanParser(Parser):
    """Whether a kernel runs is asked only where help is: it means asking the tool."""

    def __init__(self, place: Place) -> None:
        example = _example(place)
        super().__init__(
            prog="leakscan",
            description="Say whether memory is leaked, where, and by whom; with CACHE, what its "
            "objects are, how many are alike, who points at them and who allocated them.",
            epilog=f"Examples: leakscan {example}".rstrip() + f"; leakscan {example}kmalloc-32",
        )
        self._place = place
        self.tool = place.tool
        self.for_running_kernels: list[argparse.Action] = []

    def format_help(self) -> str:
        if self._place.inside and not self._place.live:
            for action in self.for_running_kernels:
                action.help = argparse.SUPPRESS
        return super().format_help()


def leakscan_parser(place: Place) -> Parser:
    """The parser of `leakscan`, as it may be typed at `place`."""
    parser = _LeakscanParser(place)
    texts = (
        ""
        if place.inside
        else "; without a dump PATH: text that was saved of a machine (a file, a folder, a "
        "sosreport or supportconfig or its tar, - for stdin), recognised by what is in it"
    )
    parser.add_argument(
        "caches",
        metavar="CACHE" if place.inside else "CACHE|PATH",
        nargs="*",
        help=f"slab cache, by name or alias{texts}",
    )
    parser.add_argument(
        "--orphans",
        action="store_true",
        help="find every object of every cache that nothing reaches",
    )
    parser.add_argument(
        "--list", metavar="FILE", type=Path, help="with --orphans: write their addresses to FILE"
    )
    parser.add_argument(
        "--sites",
        action="store_true",
        help="with CACHE: list every place in the kernel's and the modules' code that allocates "
        "from it",
    )
    stdin = "" if place.tool == "crash" else "; - for stdin"
    parser.add_argument(
        "--trace",
        metavar="FILE",
        type=Path,
        help="who allocated in this trace what was not freed (tracefs text, trace-cmd report, "
        f"trace.dat, perf script{stdin}); with a later dump: which of it is leaked",
    )
    parser.for_running_kernels = [
        parser.add_argument(
            "--live",
            metavar="SECONDS",
            type=number(1, _LONGEST_LIVE),
            help="trace the running kernel for so long (root), then see what is leaked of it",
        ),
        parser.add_argument("--stacks", action="store_true", help="with --live: trace stacks, too"),
    ]
    _source(parser, place)
    if place.inside:
        parser.set_defaults(procfs=[])
    else:
        parser.add_argument(
            "--procfs",
            metavar="PATH",
            type=Path,
            action="append",
            default=[],
            help="the same as PATH: an overview from saved text, or from /proc; repeated, in time "
            "order, it shows what grew; files of different kinds are one moment",
        )
    parser.add_argument(
        "--before",
        metavar="OLD",
        type=Path,
        help="without CACHE: what grew since OLD, an earlier dump, a session or --json report of "
        "leakscan without CACHE, or a directory of proc files",
    )
    parser.add_argument(
        "--walker",
        choices=("map", "kmem"),
        default="map",
        help="how objects are found: map reads the memory map (default); kmem asks crash's kmem "
        "-S, which lists no full slabs, and is used where map does not know the kernel"
        if place.tool == "crash"
        else argparse.SUPPRESS,
    )
    _topics(parser, place)
    _references(parser)
    _comparison(parser)
    parser.add_argument(
        "--html", metavar="FILE", type=Path, help="also write the report as one HTML file"
    )
    return parser


def objsim_parser(place: Place) -> Parser:
    """The parser of `objsim`, as it may be typed at `place`."""
    parser = Parser(
        prog="objsim",
        description="Say what is at an address: what it is, who holds it, who allocated it, how "
        "many are like it; with several addresses, how alike these are.",
        epilog=f"Example: objsim {_example(place)}ffff888003a4b1c0",
    )
    parser.tool = place.tool
    parser.add_argument(
        "addresses",
        metavar="ADDR",
        nargs="*",
        help="address, of an object or of anything: hex, or a symbol",
    )
    parser.add_argument(
        "--list", action="store_true", help="list the address of every object like ADDR"
    )
    stdin = "" if place.tool == "crash" else " (- for stdin)"
    parser.add_argument(
        "--text",
        metavar="FILE",
        help="compare the objects in pasted output of crash's rd, gdb's x, hexdump, xxd, od, "
        f"kmemleak, SLUB or drgn{stdin}",
    )
    parser.add_argument("--size", type=number(1), help="object size in bytes, for --text")
    parser.add_argument(
        "--as",
        dest="as_type",
        metavar="TYPE",
        help="list the object's members, as of struct TYPE",
    )
    parser.add_argument(
        "--refs",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="say who points there, which takes a look through all kernel memory: always, or never "
        "(default: where it takes seconds, not minutes)",
    )
    _source(parser, place)
    _comparison(parser)
    return parser


def _example(place: Place) -> str:
    return "" if place.inside else "-c vmcore -s vmlinux "


def _source(parser: Parser, place: Place) -> None:
    source = parser.add_argument_group("where memory comes from")
    if place.inside:
        parser.set_defaults(core=None, kernel=False, replay=None, symbols=[], debuginfod=False)
    else:
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
            help="debug file: vmlinux, or a module's; may be repeated (default: found by build ID, "
            "beside the dump or where it is installed)",
        )
        source.add_argument(
            "--no-debuginfod",
            dest="debuginfod",
            action="store_false",
            help="ask no server of $DEBUGINFOD_URLS for a debug file that is not here",
        )
    source.add_argument(
        "--jobs",
        metavar="N",
        type=number(1, MOST_JOBS),
        default=1 if place.inside else min(len(os.sched_getaffinity(0)), MOST_JOBS),
        help="threads that read memory side by side (default: "
        + ("%(default)s, for the machine is crash's)" if place.inside else "as many as CPUs)"),
    )
    source.add_argument(
        "--record", metavar="FILE", type=Path, help="also record this run as a session"
    )
    parser.add_argument(
        "--version", action=_Version, help="show the version, and whether loops are compiled"
    )
    if not place.inside:
        completion_option(parser)


def _topics(parser: Parser, place: Place) -> None:
    beside = "" if place.inside else ", or beside PATH,"
    parser.add_argument_group(
        "one part of the answer",
        f"In place of CACHE{beside} a word shows one part of the whole, which -v prints in full: "
        + "; ".join(f"{word} ({what})" for word, what in TOPICS.items()),
    )


def _references(parser: Parser) -> None:
    refs = parser.add_argument_group("who points at the objects")
    refs.add_argument(
        "--refs",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="say who points at them, which takes a look through all kernel memory: always, or "
        "never (default: where it takes seconds, not minutes)",
    )
    refs.add_argument(
        "--memory",
        type=number(64, 1 << 20),
        default=MEMORY_BUDGET >> 20,
        metavar="MIB",
        help="memory to use; the largest caches are sampled to fit (default %(default)s)",
    )


def _comparison(parser: Parser) -> None:
    how = parser.add_argument_group("how objects are compared")
    how.add_argument(
        "--samples",
        type=number(1),
        default=DEFAULTS.samples,
        metavar="N",
        help="objects to look at in each cache (default %(default)s; at most 24 MiB of them)",
    )
    how.add_argument(
        "--seed",
        type=number(0),
        default=DEFAULTS.seed,
        metavar="N",
        help="number that the random choice of objects starts from: another N looks at others, "
        "the same N at the same ones (default 0)",
    )
    how.add_argument(
        "--threshold",
        type=fraction,
        default=DEFAULTS.threshold,
        metavar="S",
        help="score from which objects count as alike, 0 to 1 (default %(default)s)",
    )
    how.add_argument(
        "--metric",
        choices=sorted(METRICS),
        default=DEFAULTS.metric,
        help="how bytes are compared (default %(default)s; the others find shifted content)",
    )
    how.add_argument(
        "--hops",
        type=number(0, _MOST_HOPS),
        default=DEFAULTS.hops,
        metavar="N",
        help="objects to follow a pointer through until one has a name (default %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="the whole answer, not one screen of it"
    )


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
