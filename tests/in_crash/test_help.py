"""`help leakscan` and `help objsim` in crash: complete, and as wide as crash's own."""

from __future__ import annotations

import importlib.util
import re
from argparse import SUPPRESS
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import crashext
from crashext.commands.arguments import Parser, leakscan_parser, objsim_parser
from crashext.commands.place import Place
from crashext.report.topics import TOPICS


@pytest.fixture(scope="module")
def crashext_help() -> ModuleType:
    """As PyKdump finds it: by its bare name, outside any package."""
    path = Path(crashext.__file__).parent / "incrash" / "crashext_help.py"
    spec = importlib.util.spec_from_file_location("crashext_help", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def options_of(parser: Parser) -> set[str]:
    """Every long option that -h shows."""
    shown = [a for a in parser._actions if a.help != SUPPRESS]
    return {o for action in shown for o in action.option_strings if o.startswith("--")}


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize(
    ("program", "parser"), [("leakscan", leakscan_parser), ("objsim", objsim_parser)]
)
def test_help_has_every_option_that_there_is(
    crashext_help: ModuleType, program: str, parser: Callable[[Place], Parser], live: bool
) -> None:
    _, _, text = crashext_help.texts(live)[program]
    there = options_of(parser(Place("crash"))) - {"--verbose"}
    there -= set() if live else {"--live", "--stacks"}
    told = set(re.findall(r"--[a-z][a-z-]+", text)) - {"--verbose"}
    assert told == there
    assert " -v" in text
    assert max(map(len, text.splitlines())) <= 80
    assert text == "\n".join(line.rstrip() for line in text.splitlines())


def test_help_has_every_topic(crashext_help: ModuleType) -> None:
    _, _, text = crashext_help.texts(False)["leakscan"]
    assert {t for t in TOPICS if re.search(rf"^ +{t}  ", text, re.M)} == set(TOPICS)
