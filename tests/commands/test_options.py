"""What a command line means, and what is refused before anything is opened."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from crashext.commands.arguments import Parser, leakscan_parser, objsim_parser
from crashext.commands.options import (
    CacheOptions,
    ExcerptOptions,
    LiveOptions,
    ObjsimOptions,
    OrphansOptions,
    OverviewOptions,
    ProcfsOptions,
    Refusal,
    TraceOptions,
    leakscan_options,
    objsim_options,
)
from crashext.commands.place import SHELL, Place
from crashext.commands.setup import setup_parser
from crashext.hosts.base import Host


def _never() -> Host:
    raise AssertionError("parsing asks the tool for nothing")


CRASH, DRGN = Place("crash", _never), Place("drgn", _never)
HEAVY = ("numpy", "drgn", "rich", "rapidfuzz", "elftools")


@pytest.mark.parametrize(
    ("line", "mode"),
    [
        ("-c core", OverviewOptions),
        ("-r session --before old", OverviewOptions),
        ("-k dentry", CacheOptions),
        ("-c core --orphans --list file", OrphansOptions),
        ("--trace file", TraceOptions),
        ("--trace file -c core dentry", TraceOptions),
        ("--live 5 --stacks --record file", LiveOptions),
        ("--procfs /proc --procfs /proc", ProcfsOptions),
    ],
)
def test_each_command_line_is_of_one_mode(line: str, mode: type) -> None:
    assert type(leakscan_options(leakscan_parser(SHELL).parse_args(line.split()), SHELL)) is mode


@pytest.mark.parametrize("place", [CRASH, DRGN])
def test_inside_a_tool_nobody_says_where_memory_is(place: Place) -> None:
    def meant(*words: str) -> object:
        return leakscan_options(leakscan_parser(place).parse_args(list(words)), place)

    assert type(meant()) is OverviewOptions
    assert type(meant("dentry")) is CacheOptions
    assert type(meant("--live", "5")) is LiveOptions
    given = objsim_parser(place).parse_args(["0xffff888000001000"])
    assert type(objsim_options(given, place)) is ObjsimOptions


@pytest.mark.parametrize(
    "line",
    [
        "dentry",  # of what?
        "",
        "-c core --list file",
        "-c core --stacks",
        "-c core --orphans dentry",
        "-c core --orphans --no-refs",
        "-c core --orphans --walker kmem",
        "-c core --before old dentry",
        "-c core --before old --orphans",
        "-c core growth",  # since when?
        "-c core why growth",
        "-c core --walker kmem",
        "-c core --walker kmem dentry",  # outside crash
        "--trace file -r session",
        "--trace file --orphans",
        "--trace file --before old",
        "--trace file --procfs /proc",
        "--trace file --record session",
        "--trace file dentry",
        "--live 5 -c core",
        "--live 5 --trace file",
        "--live 5 --before old",
        "--live 5 --walker kmem",
        "--procfs /proc -c core",
        "--procfs /proc dentry",
        "--procfs /proc --orphans",
        "--procfs /proc --walker kmem",
        "--procfs /proc --list file",
        "--procfs /proc --record session",
    ],
)
def test_what_does_not_go_together_is_refused(line: str) -> None:
    given = leakscan_parser(SHELL).parse_args(line.split())
    with pytest.raises(Refusal):
        leakscan_options(given, SHELL)


@pytest.mark.parametrize("line", ["-c core why nosuch", "-c core nosuch memory", "why nosuch"])
def test_a_topic_and_a_cache_are_not_asked_together(line: str) -> None:
    given = leakscan_parser(SHELL).parse_args(line.split())
    with pytest.raises(Refusal, match=r"(why|memory) is a part .*, nosuch would be a cache"):
        leakscan_options(given, SHELL)


def test_growth_since_an_earlier_moment_is_a_question() -> None:
    given = leakscan_parser(SHELL).parse_args(["-c", "core", "--before", "old", "growth"])
    assert type(leakscan_options(given, SHELL)) is OverviewOptions


def test_crashs_own_walker_has_no_session() -> None:
    parser = leakscan_parser(CRASH)
    assert (
        type(leakscan_options(parser.parse_args(["--walker", "kmem", "x"]), CRASH)) is CacheOptions
    )
    given = parser.parse_args(["--walker", "kmem", "x", "--record", "file"])
    with pytest.raises(Refusal, match="cannot be recorded"):
        leakscan_options(given, CRASH)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "-c core",
        "0x10",
        "-c core --list 0x10 0x20",
        "-c core --size 8 0x10",
        "--text file",
        "--text file --size 8 0x10",
        "--text file --size 8 --as list_head",
        "-c core 0x10 --as \udcff",
        "--text file --size 8 -r session",
        "--text file --size 8 --record session",
        "-c core " + "0x10 " * 17,
    ],
)
def test_what_objsim_is_not_asked(line: str) -> None:
    with pytest.raises(Refusal):
        objsim_options(objsim_parser(SHELL).parse_args(line.split()), SHELL)


def test_an_excerpt_needs_no_memory() -> None:
    given = objsim_parser(SHELL).parse_args(["--text", "-", "--size", "32"])
    assert type(objsim_options(given, SHELL)) is ExcerptOptions


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["leakscan", "-h"], 0),
        (["leakscan", "--version"], 0),
        (["leakscan", "--nonsense"], 2),
        (["leakscan", "dentry"], 2),
        (["leakscan", "-c", "/nonexistent"], 2),
        (["objsim", "-h"], 0),
        (["objsim", "-c", "/nonexistent", "0x10"], 2),
    ],
)
def test_help_and_mistakes_do_not_wait_for_the_engine(arguments: list[str], status: int) -> None:
    program = (
        "import sys; from crashext.__main__ import main\n"
        f"sys.argv = ['crashext', *{arguments!r}]\n"
        "try: status = main()\n"
        "except SystemExit as stop: status = stop.code or 0\n"
        f"print(status, [m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stderr.splitlines()[-1] == f"{status} []"
    assert len(ran.stderr.splitlines()) == 1 + (status != 0)


def test_help_offers_what_makes_sense_where_it_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    class Info:
        live = False

    class Dump:
        def info(self) -> Info:
            return Info()

    def helped(place: Place) -> str:
        with pytest.raises(SystemExit):
            leakscan_parser(place).parse_args(["-h"])
        return capsys.readouterr().out

    dump: object = Dump()
    in_crash, in_drgn = (helped(Place(t, lambda: dump)) for t in ("crash", "drgn"))  # type: ignore[arg-type, return-value]
    shell = helped(SHELL)
    assert all(option in shell for option in ("--live", "--stacks", "--core", "--procfs"))
    for said in (in_crash, in_drgn):
        assert not any(o in said for o in ("--live", "--stacks", "--core", "--procfs", "vmlinux"))
    assert ["--walker" in said for said in (shell, in_crash, in_drgn)] == [False, True, False]
    assert ["stdin" in said for said in (shell, in_crash, in_drgn)] == [True, False, True]
    Info.live = True
    assert "--live" in helped(Place("crash", lambda: dump))  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("line", ["-c vmcore", "-s vmlinux", "-k", "--core=vmcore", "-r session"])
@pytest.mark.parametrize("parser", [leakscan_parser, objsim_parser])
def test_inside_crash_the_open_dump_is_what_is_looked_at(
    parser: Callable[[Place], Parser], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, open_there in ((CRASH, "the open dump"), (DRGN, "the program's memory")):
        with pytest.raises(SystemExit) as end:
            parser(place).parse_args(line.split())
        said = " ".join(capsys.readouterr().err.split())
        assert end.value.code == 2
        option = line.replace("=", " ").split()[0]
        where = f"inside {place.tool} {open_there} is what is looked at"
        assert said.endswith(f": {where}: leave out {option}")


@pytest.mark.parametrize("words", [[], ["foo"]])
def test_crashext_says_what_is_wrong_in_a_line(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        setup_parser().parse_args(words)
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert said.startswith("crashext: ")
    assert "usage" not in said
