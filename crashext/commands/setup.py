"""`crashext setup`: the lines of ~/.crashrc that teach crash `leakscan` and `objsim`.

It looks for PyKdump, remembers this Python as the engine's, and keeps everything else that is in
the file. What it is about to write down, it tries, where there is a dump to try it on.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from crashext import __version__
from crashext.commands.arguments import Parser
from crashext.commands.athand import dump_at_hand
from crashext.commands.completion import completion_option
from crashext.commands.telling import tell
from crashext.commands.trial import is_program, linkers_complaint, trial

_BEGIN = "# >>> crashext >>> (crashext setup --remove takes these lines out)"
_END = "# <<< crashext <<<"
_BLOCK = re.compile(r"^# >>> crashext >>>.*?^# <<< crashext <<<\n?", re.MULTILINE | re.DOTALL)
_LOADS_PYKDUMP = re.compile(r"^\s*extend\s.*pykdump\S*\.so", re.MULTILINE)

# Where distributions and PyKdump's own documentation put extensions.
_FOLDERS = (
    "~/bin",
    "~/.local/lib/crash/extensions",
    "/usr/lib64/crash/extensions",
    "/usr/lib/crash/extensions",
    "/usr/local/lib64/crash/extensions",
    "/usr/local/lib/crash/extensions",
    "/usr/local/lib",
    "/opt/pykdump",
)
_NAMES = ("mpykdump64.so", "mpykdump.so", "pykdump64.so")


# What works in a crash that cannot load PyKdump, such as crash 9 (gdb 16) with PyKdump 3.5.3.
_WITHOUT_PYKDUMP = """without PyKdump, type in crash{paths}:
  !{leakscan} -c {core} -s {kernel}
or run '{drgn} -c {core} -s {kernel}' and type %leakscan there"""


class Tried(NamedTuple):
    """What crash is started on."""

    vmlinux: Path
    vmcore: Path
    named: bool
    """By the user: crash is to open it."""


class SetupError(Exception):
    """What is wrong, in one line, and what to do instead."""


def setup_parser() -> argparse.ArgumentParser:
    """The parser of `crashext`."""
    parser = Parser(
        prog="crashext",
        description="Set-up of crashext inside crash. The commands themselves are leakscan and "
        "objsim.",
    )
    parser.add_argument("--version", action="version", version=f"crashext {__version__}")
    completion_option(parser)
    commands = parser.add_subparsers(dest="command", required=True)
    setup = commands.add_parser("setup", help="make crash know leakscan and objsim")
    setup.add_argument("pykdump", nargs="?", type=Path, help="mpykdump64.so, if it is not found")
    what = setup.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true", help="add the lines to the file")
    what.add_argument("--remove", action="store_true", help="take them out again")
    setup.add_argument(
        "--crashrc",
        type=Path,
        default=Path("~/.crashrc"),
        metavar="FILE",
        help="the file (default %(default)s)",
    )
    tried = setup.add_mutually_exclusive_group()
    tried.add_argument(
        "--try",
        dest="on",
        nargs=2,
        type=Path,
        metavar=("VMLINUX", "VMCORE"),
        help="before anything is written, start crash on these with the lines and run leakscan; "
        "else on a dump of the current directory or of /var/crash whose vmlinux is there too",
    )
    tried.add_argument("--no-try", action="store_true", help="do not start crash")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Console script `crashext`. Returns the exit status: 0 done, 2 bad input."""
    options = setup_parser().parse_args(arguments)
    try:
        if options.remove:
            _remove(options.crashrc.expanduser())
        else:
            started = None if options.no_try else options.on or dump_at_hand()
            on = None if started is None else Tried(started[0], started[1], options.on is not None)
            _setup(options.crashrc.expanduser(), options.pykdump, options.write, on)
    except (SetupError, OSError) as error:
        what, _, lines = str(error).partition("\n")
        tell("crashext", what)
        print(lines, end="\n" if lines else "", file=sys.stderr)  # to copy: not folded
        return 2
    return 0


def _remove(crashrc: Path) -> None:
    before = _content(crashrc)
    kept = _BLOCK.sub("", before)
    if kept == before:
        print(f"{crashrc} has no lines of crashext")
    else:
        _replace(crashrc, kept)
        print(f"crashext's lines are out of {crashrc}")


def _setup(crashrc: Path, pykdump: Path | None, write: bool, on: Tried | None) -> None:
    before = _content(crashrc)
    kept = _BLOCK.sub("", before)
    found = find_pykdump(pykdump)
    lines = block(found, Path(sys.executable), loads_it=not _LOADS_PYKDUMP.search(kept))
    _try(found, lines, on)
    if not write:
        print(f"Add these lines to {crashrc}, or let 'crashext setup --write' do it:\n")
        print(lines, end="")
        return
    after = kept + ("\n" if kept and not kept.endswith("\n") else "") + lines
    if after == before:
        print(f"{crashrc} has these lines already")
        return
    _replace(crashrc, after)
    print(f"{crashrc} now loads {found} and adds leakscan and objsim to crash")


def _content(crashrc: Path) -> str:
    return crashrc.read_text(errors="surrogateescape") if crashrc.exists() else ""


def _try(pykdump: Path, lines: str, on: Tried | None) -> None:
    """Raise `SetupError` where the crash on PATH cannot do what the lines say."""
    crash = shutil.which("crash")
    if crash is None:
        tell("crashext", "crash itself is not on PATH, so nothing was tried")
        return
    why = linkers_complaint(Path(crash), pykdump)
    if why is not None:
        raise SetupError(f"{crash} cannot load {pykdump}: {why}\n{_instead(on)}")
    if on is None:
        can = f"can load {pykdump}" if is_program(Path(crash)) else "is a script: nothing was tried"
        tell("crashext", f"{crash} {can}; to see leakscan run in it, add --try VMLINUX VMCORE")
        return
    loads = "" if f"extend {_quoted(pykdump)}" in lines else f"extend {_quoted(pykdump)}\n"
    came = trial(Path(crash), loads + lines, on.vmlinux, on.vmcore)
    if came.ran:
        print(f"tried in {crash} on {on.vmcore}: leakscan runs")
    elif on.named or came.opened:
        what = f"tried in {crash}, leakscan does not run: {came.why}"
        raise SetupError(f"{what}\n{_instead(on)}")
    else:
        what = f"{crash} can load {pykdump}, but not open {on.vmcore} ({came.why})"
        tell("crashext", f"{what}; to see leakscan run in it, add --try VMLINUX VMCORE")


def _instead(on: Tried | None) -> str:
    """The lines that work without PyKdump, of the session that was tried where one was."""
    beside = Path(sys.executable).parent  # crash's shell may not find what is in a venv
    programs = {
        name: shlex.quote(str(beside / name) if (beside / name).is_file() else name)
        for name in ("leakscan", "drgn")
    }
    if on is None or not on.named:
        paths = ", with the two paths that its 'sys' shows"
        return _WITHOUT_PYKDUMP.format(paths=paths, core="DUMPFILE", kernel="KERNEL", **programs)
    kernel, core = (shlex.quote(str(path.absolute())) for path in (on.vmlinux, on.vmcore))
    return _WITHOUT_PYKDUMP.format(paths="", core=core, kernel=kernel, **programs)


def find_pykdump(given: Path | None) -> Path:
    """PyKdump's shared object: as given, named by CRASHEXT_PYKDUMP, or in a usual place."""
    named = given or (Path(os.environ["CRASHEXT_PYKDUMP"]) if _named() else None)
    if named is not None:
        return _checked(named.expanduser().absolute())
    for folder in _FOLDERS:
        for name in _NAMES:
            path = (Path(folder).expanduser() / name).absolute()
            if path.is_file():
                return _checked(path)
    raise SetupError(
        "PyKdump was not found: name its file, as in 'crashext setup /path/to/mpykdump64.so'"
    )


def _checked(path: Path) -> Path:
    if not path.is_file():
        raise SetupError(f"{path} does not exist")
    with path.open("rb") as file:
        if file.read(4) != b"\x7fELF":
            raise SetupError(f"{path} is no shared object: name PyKdump's mpykdump64.so")
    return path


def _named() -> bool:
    return bool(os.environ.get("CRASHEXT_PYKDUMP"))


def block(pykdump: Path, engine: Path, loads_it: bool) -> str:
    """The marked lines. `loads_it` is False where other lines of the file load PyKdump already."""
    script = Path(__file__).parents[1] / "incrash" / "crashrc.py"
    load = f"extend {_quoted(pykdump)}\n" if loads_it else ""
    return f"{_BEGIN}\n{load}epython {_quoted(script)} {_quoted(engine)}\n{_END}\n"


def _quoted(path: Path) -> str:
    text = str(path)
    if '"' in text or "\n" in text:
        raise SetupError(f"crash cannot take the path {text!r}: it has a quote in it")
    return f'"{text}"' if " " in text else text


def _replace(path: Path, text: str) -> None:
    """Write through a symbolic link, all at once, with the mode that was there."""
    target = path.resolve()
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o644
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".crashrc.")
    try:
        with os.fdopen(descriptor, "w", errors="surrogateescape") as file:
            file.write(text)
        Path(temporary).chmod(mode)
        Path(temporary).replace(target)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
