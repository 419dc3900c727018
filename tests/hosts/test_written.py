"""A file that could not be written to its end is not left there."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from crashext.hosts.base import HostError
from crashext.hosts.written import writing


@pytest.fixture
def no_room() -> Iterator[None]:
    """As on a full disk: files end at ten bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("length", [20, 200_000])
def test_half_a_file_is_none(tmp_path: Path, length: int, no_room: None) -> None:
    path = tmp_path / "report"
    with pytest.raises(HostError, match=r"cannot write .*report"), writing(path) as stream:
        stream.write(b"x" * length)
    assert not path.exists()


def test_what_cannot_be_opened_stays(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="Is a directory"), writing(tmp_path) as stream:
        stream.write(b"x")
    assert tmp_path.is_dir()


def test_a_device_stays() -> None:
    with pytest.raises(HostError, match="No space left"), writing(Path("/dev/full")) as stream:
        stream.write(b"x")
    assert Path("/dev/full").exists()


def test_a_whole_one(tmp_path: Path) -> None:
    with writing(tmp_path / "report") as stream:
        stream.write(b"whole\n")
    assert (tmp_path / "report").read_text() == "whole\n"
