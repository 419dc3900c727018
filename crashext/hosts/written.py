"""A file that is whole, or not there: half a report would be taken for one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from crashext.hosts.base import HostError


@contextmanager
def writing(path: Path, what: str = "") -> Iterator[BinaryIO]:
    """Raises `HostError` where `what` cannot be written; what was begun is gone then."""
    try:
        with path.open("wb") as stream:
            try:
                yield stream
                stream.flush()
            except OSError:
                if path.is_file():  # neither a device nor a pipe
                    path.resolve().unlink()
                raise
    except OSError as error:
        raise HostError(f"cannot write {what}{path}: {error.strerror}") from error
