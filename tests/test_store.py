"""Columns in files: the same as in memory, out of sight, and refused where there is no room."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from crashext import store
from crashext.store import FileStore, NoRoom, Store, free


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileStore:
    monkeypatch.setattr(store, "_VISIBLE", -1)  # every release gives all back
    return FileStore(tmp_path)


def test_what_is_added_is_there_in_files_as_in_memory(files: FileStore) -> None:
    rng = np.random.default_rng(1)
    kept, known = files.growing(np.int32), Store().growing(np.int32)
    assert not len(kept.array())
    for _ in range(9):
        some = rng.integers(1 << 30, size=int(rng.integers(5000)))
        for column in (kept, known):
            column.add(some.astype(np.int32))
        files.release()
    assert len(kept) == len(known)
    assert (kept.array() == known.array()).all()


def test_what_is_written_stays_when_it_is_given_back(files: FileStore) -> None:
    values = files.filled(1 << 20, np.int32, -1)
    at = np.arange(0, len(values), 4097)
    values[at] = at
    files.release()
    assert (values[at] == at).all()
    assert int((values == -1).sum()) == len(values) - len(at)


def test_files_have_no_names(files: FileStore, tmp_path: Path) -> None:
    values = files.filled(1000, np.uint8, 7)
    assert not list(tmp_path.iterdir())
    assert values.sum() == 7000


def test_a_full_disk_is_told(files: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(NoRoom, match="No space"):
        files.filled(10, np.int32, 0)


def test_there_is_no_room_in_a_folder_that_cannot_be_written_or_is_memory(tmp_path: Path) -> None:
    assert free(tmp_path / "missing") == 0
    if store._kind(tmp_path) not in store._IN_MEMORY:
        found = os.statvfs(tmp_path)
        assert free(tmp_path) <= found.f_bavail * found.f_frsize
    assert store._kind(Path("/proc")) == "proc"


def test_files_of_others_that_stay_visible_are_given_back_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a debugger that maps its files: our own are not pushed out again and again."""

    class Mapping:
        times = 0

        def madvise(self, _: int) -> None:
            self.times += 1

    visible = 10 << 20
    monkeypatch.setattr(store, "_shared", lambda: visible)
    files, ours = FileStore(tmp_path), Mapping()
    files._maps = {ours}  # type: ignore[assignment]
    told = []
    for visible in (20 << 20, 60 << 20, 60 << 20, 70 << 20, 80 << 20, 5 << 20, 15 << 20, 30 << 20):  # noqa: B007
        files.release()
        told.append(ours.times)
    assert told == [0, 1, 1, 1, 2, 2, 2, 3]
