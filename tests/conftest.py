"""Fixtures: real dumps from the lab, built on first use and kept.

`make check` runs the tests with $CRASHEXT_NO_LAB set: whatever needs the lab's dumps, or a
program beside Python, skips, in one line of the summary. Without it nothing skips for the lack
of a tool: the lab then says what is missing, and the test fails.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache, lru_cache
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

import crashext
from crashext.commands import entry
from crashext.hosts.drgn import DrgnHost
from crashext.hosts.drgn import open_core as _open_core
from crashext.kernel import compiled, loops
from crashext.kernel.btf_layouts import CarriedTypes
from crashext.kernel.slab.view import KernelView
from tests.lab import (
    NEWEST_SUITE,
    OWN_KERNELS,
    SCENARIOS,
    Dump,
    build,
    cache_folder,
    must_boot_distribution,
    must_compile,
    must_fetch_suite,
    scenario,
)

SESSIONS = Path(__file__).parent.parent / "sample_sessions"

BY_HAND = Path(os.environ.get("CRASHEXT_DUMPS") or "/nonexistent")
"""Dumps of kernels that the lab cannot make, each in a folder SCENARIO@KERNEL laid out as the
lab's own: vmcore, vmlinux, truth.json and so on (tests/lab/README.md)."""

NO_LAB = bool(os.environ.get("CRASHEXT_NO_LAB"))
NEEDS_LAB = "needs real kernels' memory or a program beside Python: `make test` runs it"


def need_lab() -> None:
    """Skip the test, or a whole module that asks while it is collected, where there is no lab."""
    if NO_LAB:
        pytest.skip(NEEDS_LAB, allow_module_level=True)


@pytest.fixture(scope="session")
def lab() -> None:
    """For tests that need the lab, though they ask for no dump of it by themselves."""
    need_lab()


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The compiled loops, as pip builds them."""
    need_lab()
    path = tmp_path_factory.mktemp("compiled") / loops.build_name()
    flags = ["-O3", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    sources = sorted(map(str, Path(compiled.__file__).parent.glob("*.c")))
    subprocess.run(["cc", *flags, "-o", str(path), *sources], check=True)
    found = compiled.load(path)
    assert found is not None
    return found


def only_if(asked: object, otherwise: str) -> pytest.MarkDecorator:
    """For what needs the lab, and even `make test` runs only when it is `asked` to."""
    if NO_LAB:
        return pytest.mark.usefixtures("lab")
    return pytest.mark.skipif(not asked, reason=otherwise)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Give all tests that `need_lab` one place, so that the summary folds them to one line."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple) and NEEDS_LAB in report.longrepr[2]:
        line = need_lab.__code__.co_firstlineno
        report.longrepr = (__file__, line, f"Skipped: {NEEDS_LAB}")
    return report


@cache
def lab_dump(name: str) -> Dump:
    """The dump of a lab scenario; the first call of all fetches the kernel and takes a minute.

    A scenario whose kernel would have to be compiled first, which takes many, skips the test
    unless $CRASHEXT_KMEMLEAK asks for it, or $CRASHEXT_KERNELS where any scenario may run on it.
    """
    need_lab()
    if name in dumps_by_hand():
        return Dump(BY_HAND / name)
    chosen = scenario(name)
    asks = "KERNELS" if chosen.kernel in OWN_KERNELS else "KMEMLEAK"
    if must_compile(chosen) and not os.environ.get(f"CRASHEXT_{asks}"):
        pytest.skip(
            f"lab kernel {chosen.kernel!r} is not compiled here: make test-{asks.lower()} does"
        )
    if must_boot_distribution(chosen) and not os.environ.get("CRASHEXT_BUSY"):
        pytest.skip(f"the guest {name!r} is not built here: make test-busy builds it")
    if "@arm64" in name and not os.environ.get("CRASHEXT_KERNELS"):
        pytest.skip("guests of arm64 are emulated, and looked at by make test-kernels alone")
    everyday = chosen.kernel == NEWEST_SUITE
    if must_fetch_suite(chosen) and not everyday and not os.environ.get("CRASHEXT_KERNELS"):
        pytest.skip(f"the kernel of {chosen.kernel} is not here: make test-kernels fetches it")
    return build(chosen)


def dumps_by_hand() -> list[str]:
    """The names of the dumps in `BY_HAND`."""
    return sorted(truth.parent.name for truth in BY_HAND.glob("*@*/truth.json"))


few = lru_cache(maxsize=3)
"""For what holds a dump open: some hundred MB each. Tests of one dump run one after the other."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one dump stand together, and run in one process where there are several.

    Then few dumps are open at any time, each is opened once or twice, and two processes build
    two dumps at a time. Tests without a dump stay together file by file.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_dump_of(item) or item.path.stem))
    items.sort(key=_dump_of)


def _dump_of(item: pytest.Item) -> str:
    """The lab scenario that a test is parametrized with; "" for none."""
    spec = getattr(item, "callspec", None)
    names = [] if spec is None else [p for p in spec.params.values() if isinstance(p, str)]
    return next((name for name in names if name.partition("@")[0] in SCENARIOS), "")


@few
def opened(core: Path, debug: tuple[Path, ...]) -> DrgnHost:
    """A lab dump, opened once for the whole run: its debug information takes half a second."""
    return _open_core(core, debug)


def lab_host(name: str) -> DrgnHost:
    dump = lab_dump(name)
    return opened(dump.vmcore, (dump.vmlinux,))


def open_core(core: Path, debug: Sequence[Path]) -> DrgnHost:
    """For commands under test: a lab dump that is open already is not opened again."""
    known = bool({cache_folder(), BY_HAND} & {*core.parents})
    return opened(core, tuple(debug)) if known else _open_core(core, debug)


@pytest.fixture(scope="session", autouse=True)
def _surroundings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crashext.hosts.drgn.open_core", open_core)
        # Nor are its types read again.
        patch.setattr("crashext.commands.opening.CarriedTypes", few(CarriedTypes))
        # Of the terminal that the tests were started from: what they print is not for that.
        patch.delenv("COLUMNS", raising=False)
        # No test asks a server in the network.
        patch.delenv("DEBUGINFOD_URLS", raising=False)
        yield


@few
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
    commands: dict[str, Callable[[list[str]], int]]
    commands = {"leakscan": entry.leakscan, "objsim": entry.objsim}
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = commands[command]([str(a) for a in arguments])
        except SystemExit as stop:  # argparse's way out
            status = int(stop.code or 0)
    return Ran(status, out.getvalue(), err.getvalue())


@cache
def ask(command: str, *arguments: object) -> Ran:
    """`run`, but once for each question, for all tests that only read the answer."""
    return run(command, *arguments)


@cache
def _recorded(command: str, name: str, *arguments: object) -> tuple[bytes, Ran]:
    with TemporaryDirectory() as folder:
        session = Path(folder) / "a.session"
        ran = run(command, *on(name), "--record", session, *arguments)
        return session.read_bytes(), ran


def recorded(folder: Path, command: str, name: str, *arguments: object) -> tuple[Path, Ran]:
    """The session of a question about a lab dump, and what was printed: recorded once, and copied
    into `folder` for a test to do with as it likes."""
    data, ran = _recorded(command, name, *arguments)
    assert ran.status == 0, ran.err
    path = folder / f"{name}.session"
    path.write_bytes(data)
    return path, ran


def on(name: str, form: str = "vmcore") -> list[object]:
    """The options that open a lab dump in one of its forms."""
    dump = lab_dump(name)
    return ["-c", dump.folder / form, "-s", dump.vmlinux]


@cache
def _alone() -> TemporaryDirectory[str]:
    return TemporaryDirectory()


def alone(name: str, form: str = "vmcore") -> Path:
    """A lab dump in one of its forms, in a folder where its vmlinux is not."""
    folder = Path(_alone().name, name)
    folder.mkdir(exist_ok=True)
    path = folder / form
    if not path.is_symlink():
        path.symlink_to(lab_dump(name).folder / form)
    return path


@pytest.fixture(scope="session")
def schema() -> Any:
    path = Path(crashext.__file__).parent / "report" / "schema.json"
    return json.loads(path.read_text())
