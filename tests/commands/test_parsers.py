"""What is made from the parsers: manual pages, completion, and the page that tells of options."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from crashext.commands.arguments import leakscan_parser, objsim_parser
from crashext.commands.completion import SHELLS
from crashext.commands.place import SHELL, Place
from crashext.commands.setup import setup_parser
from crashext.report.topics import TOPICS
from tests.conftest import need_lab
from tests.manpages import FOLDER, PAGES, text

OPTIONS_PAGE = Path(leakscan_parser.__code__.co_filename).parents[1] / "docs" / "options.md"


@pytest.mark.parametrize("command", PAGES)
def test_the_manual_page_is_the_parsers(command: str) -> None:
    """`make man` writes it anew; how lines are wrapped is the machine's argparse's business."""
    committed = (FOLDER / f"{command}.1").read_text()
    assert committed.split() == text(PAGES[command]).split()


@pytest.mark.parametrize("command", PAGES)
def test_man_has_nothing_to_complain_of(command: str) -> None:
    if shutil.which("man") is None:
        need_lab()
    ran = subprocess.run(
        ["man", "--warnings", "--local-file", str(FOLDER / f"{command}.1")],
        capture_output=True,
        text=True,
        check=True,
        env={"MANWIDTH": "80", "LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
    )
    assert ran.stderr == ""
    assert ran.stdout.startswith(command.upper())


@pytest.mark.parametrize("parser", [leakscan_parser(SHELL), objsim_parser(SHELL)])
def test_the_page_of_options_tells_of_each(parser: argparse.ArgumentParser) -> None:
    told = OPTIONS_PAGE.read_text()
    untold = [
        option
        for action in parser._actions
        for option in action.option_strings
        if action.help != argparse.SUPPRESS and not re.search(rf"`{option}[` ]", told)
    ]
    assert untold == []


def completion(
    parser: argparse.ArgumentParser, shell: str, capsys: pytest.CaptureFixture[str]
) -> str:
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--print-completion", shell])
    assert not end.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", SHELLS)
def test_each_command_completes_its_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    for parser in (leakscan_parser(SHELL), objsim_parser(SHELL), setup_parser()):
        script = completion(parser, shell, capsys)
        assert parser.prog in script
        assert "print-completion" in script


def test_bash_completes_options_choices_and_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "leakscan").write_text(completion(leakscan_parser(SHELL), "bash", capsys))
    (tmp_path / "vmcore").touch()
    asked = """
        source ./leakscan
        for line in "leakscan --or" "leakscan --metric ham" "leakscan -c vmc"; do
            COMP_WORDS=($line) COMPREPLY=()
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            _shtab_leakscan
            echo "${COMPREPLY[@]}"
        done
    """
    ran = subprocess.run(
        ["bash", "-c", asked], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["--orphans", "hamming", "vmcore"]


def test_inside_a_tool_there_is_no_shell_to_complete_for() -> None:
    inside = leakscan_parser(Place("crash"))
    assert not any("--print-completion" in a.option_strings for a in inside._actions)


def test_help_names_the_words_that_show_one_part(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        leakscan_parser(SHELL).parse_args(["-h"])
    said = " ".join(capsys.readouterr().out.split())
    assert all(f"{word} ({what})" in said for word, what in TOPICS.items())
    assert TOPICS.keys() == {word for word in TOPICS if f"\n.B {word}\n" in text(PAGES["leakscan"])}
