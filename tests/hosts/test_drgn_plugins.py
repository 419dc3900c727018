"""Which of its plugins drgn loads for us, by its own loader."""

from __future__ import annotations

import os

import pytest
from _drgn_util import plugins  # type: ignore[import-untyped]

from crashext.hosts.drgn_plugins import no_prompt

NAME = "DRGN_DISABLE_PLUGINS"


@pytest.mark.parametrize("given", [None, "", "*", "another,some*"])
def test_commands_of_the_prompt_are_left_out_and_what_a_user_said_stays(
    given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if given is None:
        monkeypatch.delenv(NAME, raising=False)
    else:
        monkeypatch.setenv(NAME, given)
    with no_prompt():
        assert plugins._load_plugins() == []
        assert given is None or os.environ[NAME].startswith(given)
    assert os.environ.get(NAME) == given


def test_a_plugin_of_a_user_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRGN_PLUGINS", "mine=json")
    with no_prompt():
        assert [name for name, _ in plugins._load_plugins()] == ["mine"]
