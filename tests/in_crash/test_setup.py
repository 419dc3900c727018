"""`crashext setup`: what it does to ~/.crashrc."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from crashext.commands import setup


@pytest.fixture
def pykdump(tmp_path: Path) -> Path:
    path = tmp_path / "mpykdump64.so"
    path.write_bytes(b"\x7fELF and so on")
    return path


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
