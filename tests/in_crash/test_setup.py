"""`crashext setup`: what it does to ~/.crashrc."""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import stat
import sys
from pathlib import Path

import pytest

from crashext.commands import setup
from crashext.commands.athand import dump_at_hand
from tests.conftest import lab_dump, only_if


@pytest.fixture
def pykdump(tmp_path: Path) -> Path:
    """A shared object that any program can load, in PyKdump's stead."""
    return Path(shutil.copy(_loaded("libm."), tmp_path / "mpykdump64.so"))


def _loaded(name: str) -> str:
    """Path of a library of this process."""
    maps = Path("/proc/self/maps").read_text()
    return next(line.split()[-1] for line in maps.splitlines() if f"/{name}" in line)


def run_setup(*arguments: object) -> int:
    return setup.main(["setup", *map(str, arguments)])


def test_without_write_it_only_prints(
    tmp_path: Path, pykdump: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rc = tmp_path / "crashrc"
    assert run_setup("--crashrc", rc, pykdump) == 0
    out = capsys.readouterr().out
    assert f"extend {pykdump}\n" in out
    assert f"crashrc.py {sys.executable}\n" in out
    assert not rc.exists()


def test_write_keeps_what_was_there_and_happens_once(tmp_path: Path, pykdump: Path) -> None:
    rc = tmp_path / "crashrc"
    rc.write_text("set vi\nalias ll list -H")
    rc.chmod(0o600)
    assert run_setup("--crashrc", rc, "--write", pykdump) == 0
    once = rc.read_text()
    assert once.startswith("set vi\nalias ll list -H\n# >>> crashext")
    assert run_setup("--crashrc", rc, "--write", pykdump) == 0
    assert rc.read_text() == once
    assert stat.S_IMODE(rc.stat().st_mode) == 0o600


def test_remove_undoes_it(tmp_path: Path, pykdump: Path) -> None:
    rc = tmp_path / "crashrc"
    rc.write_text("set vi\n")
    run_setup("--crashrc", rc, "--write", pykdump)
    assert run_setup("--crashrc", rc, "--remove") == 0
    assert rc.read_text() == "set vi\n"


def test_a_moved_pykdump_replaces_the_old_lines(tmp_path: Path, pykdump: Path) -> None:
    rc = tmp_path / "crashrc"
    run_setup("--crashrc", rc, "--write", pykdump)
    moved = pykdump.rename(tmp_path / "other.so")
    run_setup("--crashrc", rc, "--write", moved)
    assert str(pykdump) not in rc.read_text()
    assert rc.read_text().count("extend ") == 1 + rc.read_text().count("# extend ")


def test_pykdump_is_not_loaded_twice(tmp_path: Path, pykdump: Path) -> None:
    rc = tmp_path / "crashrc"
    rc.write_text(f"extend {pykdump}\n")
    run_setup("--crashrc", rc, "--write", pykdump)
    assert rc.read_text().count("extend /") == 1


def test_a_linked_file_stays_a_link(tmp_path: Path, pykdump: Path) -> None:
    real, link = tmp_path / "dotfiles", tmp_path / "crashrc"
    real.write_text("")
    link.symlink_to(real)
    run_setup("--crashrc", link, "--write", pykdump)
    assert link.is_symlink()
    assert "crashext" in real.read_text()


@pytest.mark.parametrize("what", ["missing.so", "text"])
def test_a_wrong_pykdump_gets_one_line(
    tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("hello")
    assert run_setup("--crashrc", tmp_path / "rc", tmp_path / what) == 2
    assert capsys.readouterr().err.count("\n") == 1


needs_crash = only_if(shutil.which("crash"), "install crash: what it can load is asked of it")


@needs_crash
def test_what_crash_cannot_load_is_not_written_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A module of Python's own needs symbols that crash has not: as an alien PyKdump would."""
    rc = tmp_path / "crashrc"
    assert run_setup("--crashrc", rc, "--write", math.__file__) == 2
    said = capsys.readouterr().err.splitlines()
    assert "cannot load" in said[0]
    assert "undefined symbol Py" in said[0]
    assert any(re.fullmatch(r"  !\S*leakscan -c DUMPFILE -s KERNEL", line) for line in said)
    assert not rc.exists()


@needs_crash
def test_a_damaged_pykdump_is_told(
    tmp_path: Path, pykdump: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pykdump.write_bytes(pykdump.read_bytes()[:20])
    assert run_setup("--crashrc", tmp_path / "rc", "--write", pykdump) == 2
    assert "file too short" in capsys.readouterr().err


def at_hand(folder: Path, name: str = "default") -> None:
    """A dump with a vmlinux beside it, of that kernel or of another."""
    core, kernel = lab_dump("default").vmcore, lab_dump(name).vmlinux
    for link, file in ((folder / "vmcore", core), (folder / "vmlinux", kernel)):
        link.symlink_to(file)


@needs_crash
def test_lines_that_bring_no_command_are_told(
    tmp_path: Path,
    pykdump: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Loadable, but no PyKdump: only crash itself can tell. It is started on what lies there."""
    at_hand(tmp_path)
    monkeypatch.chdir(tmp_path)
    rc = tmp_path / "crashrc"
    assert run_setup("--crashrc", rc, "--write", pykdump) == 2
    assert "leakscan does not run" in capsys.readouterr().err.splitlines()[0]
    assert not rc.exists()


def crash_that_says(what: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash, behind a script as some sites have one: the dynamic linker cannot be asked."""
    crash = folder / "bin" / "crash"
    crash.parent.mkdir()
    crash.write_text(what)
    crash.chmod(0o755)
    monkeypatch.setenv("PATH", f"{crash.parent}:{os.environ['PATH']}")


def test_what_crash_cannot_open_is_no_reason_not_to_write(
    tmp_path: Path,
    pykdump: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody asked for that dump."""
    crash_that_says(
        "#!/bin/sh\necho 'crash: seek error: kernel virtual address'", tmp_path, monkeypatch
    )
    at_hand(tmp_path)
    monkeypatch.chdir(tmp_path)
    rc = tmp_path / "crashrc"
    assert run_setup("--crashrc", rc, "--write", pykdump) == 0
    said = capsys.readouterr().err
    assert "not open" in said
    assert "seek error: kernel virtual address" in " ".join(said.split())
    assert rc.exists()


def test_a_dump_with_another_kernels_vmlinux_is_not_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_hand(tmp_path, "default@bullseye")
    monkeypatch.chdir(tmp_path)
    assert dump_at_hand() is None
    (tmp_path / "vmlinux").unlink()
    (tmp_path / "vmlinux").symlink_to(lab_dump("default").vmlinux)
    assert dump_at_hand() == (tmp_path / "vmlinux", tmp_path / "vmcore")


@needs_crash
def test_no_try(
    tmp_path: Path,
    pykdump: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_hand(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run_setup("--crashrc", tmp_path / "rc", "--write", pykdump, "--no-try") == 0
    assert "to see leakscan run in it, add --try" in capsys.readouterr().err


@needs_crash
def test_without_a_dump_it_says_how_far_it_tried(
    tmp_path: Path, pykdump: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_setup("--crashrc", tmp_path / "rc", "--write", pykdump) == 0
    (said,) = capsys.readouterr().err.splitlines()
    assert f"crash can load {pykdump}; to see leakscan run in it, add --try" in said


CRASH_9 = """#!/bin/sh
# What crash 9.0.2 says of PyKdump 3.5.3: gdb 16 has other symbols.
sed -n 's/^extend //p' "$HOME/.crashrc" | while read -r object; do
    echo "extend: $object: undefined symbol: gdb_stdout"
done
echo "crash: command not found: leakscan"
"""


def test_a_crash_that_refuses_pykdump_is_told_with_what_works_instead(
    tmp_path: Path,
    pykdump: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crash_that_says(CRASH_9, tmp_path, monkeypatch)
    rc, core = tmp_path / "crashrc", tmp_path / "a vmcore"
    assert run_setup("--crashrc", rc, pykdump) == 0
    assert "is a script: nothing was tried" in capsys.readouterr().err
    assert run_setup("--crashrc", rc, "--write", pykdump, "--try", "/boot/vmlinux", core) == 2
    said = capsys.readouterr().err.splitlines()
    assert "leakscan does not run: extend: " in said[0]
    assert "undefined symbol: gdb_stdout" in said[0]
    command, *words = shlex.split(said[2].strip().removeprefix("!"))
    assert command.endswith("leakscan")
    assert words == ["-c", str(core), "-s", "/boot/vmlinux"]
    assert "%leakscan" in said[3]
    assert not rc.exists()
