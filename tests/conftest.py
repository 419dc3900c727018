"""Fixtures: real dumps from the lab, built on first use and kept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from crashext.commands import cli
from crashext.hosts.drgn import DrgnHost, open_core
from crashext.kernel.slab.view import KernelView
from tests.lab import Dump, build, must_compile, scenario

SESSIONS = Path(__file__).parent.parent / "sample_sessions"


@cache
def lab_dump(name: str) -> Dump:
    """The dump of a lab scenario; the first call of all fetches the kernel and takes a minute.

    A scenario whose kernel would have to be compiled first, which takes many, skips the test
    unless $CRASHEXT_KMEMLEAK asks for it.
    """
    chosen = scenario(name)
    if must_compile(chosen) and not os.environ.get("CRASHEXT_KMEMLEAK"):
        pytest.skip(
            f"lab kernel {chosen.kernel!r} is not compiled here: make test-kmemleak compiles it"
        )
    return build(chosen)


@cache
def lab_host(name: str) -> DrgnHost:
    dump = lab_dump(name)
    return open_core(dump.vmcore, [dump.vmlinux])


@cache
def lab_view(name: str) -> KernelView:
    """A scanned view of a lab dump, shared by all tests: they only read."""
    view = KernelView(lab_host(name))
    view.scan({}, seed=0)
    return view


@dataclass(frozen=True)
class Ran:
    """What a command printed and returned."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        parsed = json.loads(self.out)
        assert isinstance(parsed, dict)
        return parsed


def run(command: str, *arguments: object) -> Ran:
    """Run `leakscan` or `objsim` in this process, as its console script would."""
    entry: Callable[[list[str]], int] = {"leakscan": cli.leakscan, "objsim": cli.objsim}[command]
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = entry([str(a) for a in arguments])
        except SystemExit as stop:  # argparse's way out
            status = int(stop.code or 0)
    return Ran(status, out.getvalue(), err.getvalue())


def on(name: str, form: str = "vmcore") -> list[object]:
    """The options that open a lab dump in one of its forms."""
    dump = lab_dump(name)
    return ["-c", dump.folder / form, "-s", dump.vmlinux]


@pytest.fixture(scope="session")
def schema() -> Any:
    path = Path(cli.__file__).parents[1] / "report" / "schema.json"
    return json.loads(path.read_text())
