"""Dumps, debug files and sessions that cannot be used: one clear line, exit status 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SESSIONS, alone, lab_dump, run


def refused(*arguments: object) -> str:
    ran = run("leakscan", *arguments, "kmalloc-32")
    assert ran.status == 2
    assert ran.out == ""
    assert ran.err.count("\n") == 1, ran.err
    assert "Traceback" not in ran.err
    return ran.err


def test_no_source() -> None:
    assert "-c VMCORE" in refused()


def test_missing_dump(tmp_path: Path) -> None:
    assert "cannot open dump" in refused("-c", tmp_path / "none")


def test_a_text_file_is_no_dump(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("call the customer back\n")
    assert "not a kernel dump" in refused("-c", path)
    assert "not an ELF debug file" in refused("-c", lab_dump("default").vmcore, "-s", path)


def test_vmlinux_given_as_dump() -> None:
    assert "-s is for vmlinux" in refused("-c", lab_dump("default").vmlinux)


def test_dump_given_as_vmlinux() -> None:
    dump = lab_dump("default")
    assert "-c is for dumps" in refused("-c", dump.vmcore, "-s", dump.vmcore)


def test_missing_vmlinux(tmp_path: Path) -> None:
    dump = lab_dump("default")
    assert "cannot open debug file" in refused("-c", dump.vmcore, "-s", tmp_path / "vmlinux")


def test_wrong_vmlinux() -> None:
    """Any ELF file with another build ID: here, this Python."""
    line = refused("-c", lab_dump("default").vmcore, "-s", sys.executable)
    assert "does not belong to this dump" in line
    assert "6.1" in line


def test_no_vmlinux_at_all() -> None:
    """The lab's kernel is not installed, so no build ID lookup can find it: its BTF serves."""
    ran = run("leakscan", "-c", alone("default"), "kmalloc-32", "--no-refs")
    assert (ran.status, "no debug info: types from the kernel's own BTF" in ran.err) == (0, True)


@pytest.mark.parametrize("form", ["vmcore", "vmcore.kdump", "vmcore.d31"])
@pytest.mark.parametrize("keep", [0.999, 0.5, 0.0001])
def test_truncated_dump(tmp_path: Path, form: str, keep: float) -> None:
    dump = lab_dump("healthy")
    whole = dump.folder / form
    cut = tmp_path / "vmcore"
    with whole.open("rb") as source, cut.open("wb") as target:
        os.sendfile(target.fileno(), source.fileno(), 0, int(whole.stat().st_size * keep))
    ran = run("leakscan", "-c", cut, "-s", dump.vmlinux, "kmalloc-32")
    if ran.status == 0:  # what is left has the memory map, and the cache
        assert "skipped: dump that is truncated" in ran.out
        return
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert "truncated" in ran.err or "damaged" in ran.err


def test_no_permission_for_the_running_kernel() -> None:
    """As nobody, the live kernel cannot be read; the line says what to do."""
    script = (
        "import os, sys\n"
        "import crashext.commands.running, crashext.hosts.drgn\n"  # while everything is readable
        "from crashext.commands.entry import leakscan\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "sys.exit(leakscan(['-k', 'kmalloc-32']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "leakscan: " in done.stderr


def test_session_of_a_newer_format(tmp_path: Path) -> None:
    path = tmp_path / "new.session"
    path.write_bytes(b"CRASHEXT-SESSION 7\nwhatever follows")
    assert "format 7" in refused("-r", path)
    assert "update crashext" in refused("-r", path)


def test_a_dump_is_no_session() -> None:
    assert "not a crashext session" in refused("-r", lab_dump("default").vmcore)


def test_a_session_refuses_what_it_was_not_asked(tmp_path: Path) -> None:
    """Another cache would look empty, which is worse than unknown."""
    session = SESSIONS / "living-list.session"
    for question in (["kmalloc-8"], [], ["--orphans"]):
        ran = run("leakscan", "-r", session, *question)
        assert (ran.status, ran.out) == (2, "")
        assert "this session holds the answer to 'leakscan kmalloc-32" in ran.err
    assert "no objects of kmalloc-8 are in this session; it" in run(
        "leakscan", "-r", session, "kmalloc-8"
    ).err.replace("this session holds", "it holds")
    assert (
        "no slab cache is called kmaloc-8: did you mean kmalloc-8"
        in run("leakscan", "-r", session, "kmaloc-8").err
    )
    assert run("leakscan", "-r", session, "dentry").status == 0


@pytest.mark.parametrize("asked", ["init_task", "leaklab_ops+8", "0xffff89b382c75500"])
def test_what_a_session_lacks_is_not_said_of_the_kernel(asked: str) -> None:
    ran = run("objsim", "-r", SESSIONS / "many-leaks.session", asked)
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert ran.err.endswith("; this session holds the answer to 'leakscan' and may lack this one\n")


def test_a_session_recorded_from_a_session_answers_as_it_did(tmp_path: Path) -> None:
    """With the answers that it keeps, for what they were worked out from is in neither."""
    first, second = SESSIONS / "many-leaks.session", tmp_path / "again.session"
    ran = run("leakscan", "-r", first, "--record", second)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out == run("leakscan", "-r", first).out == run("leakscan", "-r", second).out
