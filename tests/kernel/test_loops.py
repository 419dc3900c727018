"""The file of the compiled loops is of this version, or is not used, and that is told."""

from __future__ import annotations

import ctypes
import hashlib
import re
from pathlib import Path

import pytest

from crashext.kernel import loops

_CODE = (3, "d1688d9a3a2d5f4a")
"""VERSION, and what the C files were then: where they have changed, both are to."""


def test_with_each_change_of_the_c_files_there_is_another_version() -> None:
    folder = Path(loops.__file__).parent
    text = "".join(path.read_text() for path in sorted(folder.glob("*.[ch]")))
    bare = re.sub(r"\s+", " ", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL))
    assert (loops.VERSION, hashlib.sha256(bare.encode()).hexdigest()[:16]) == _CODE
    assert f"LOOPS_VERSION = {loops.VERSION} " in bare


def test_a_library_of_another_version_is_not_used_and_why_is_told(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(library._name)
    assert isinstance(loops.opened(path), ctypes.CDLL)
    monkeypatch.setattr(loops, "installed", lambda: loops.opened(path))
    assert loops.state() == "compiled loops: used"
    monkeypatch.setattr(loops, "VERSION", loops.VERSION + 1)
    assert loops.state() == (
        "compiled loops: not used, as they are of another version or machine: install the package "
        "again; all else is the same, and slower"
    )


def test_what_is_no_library_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert loops.opened(tmp_path / "missing") == "the package was installed without a C compiler"
    (tmp_path / "other").write_bytes(b"\x7fELF of another machine")
    assert "another version" in str(loops.opened(tmp_path / "other"))
    monkeypatch.setenv("CRASHEXT_NUMPY", "1")
    assert "not used, as $CRASHEXT_NUMPY forbids them" in loops.state()
