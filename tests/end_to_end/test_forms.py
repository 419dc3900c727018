"""One dump in every form that makedumpfile and QEMU give it has one document; its beginning, too,
has a verdict."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from crashext.hosts.dumpfile import examine
from tests.conftest import ask, lab_dump, on, run
from tests.hosts.recompressed import cut, flattened, recompressed, without_names

NAME = "default"


def made(folder: Path, packed: str, *changes: Callable[[Path], Path]) -> Path:
    path = folder / "vmcore.d31"
    if packed == "zlib":
        shutil.copyfile(lab_dump(NAME).d31, path)
    else:
        recompressed(lab_dump(NAME).d31, path, packed)
    for change in changes:
        change(path)
    return path


@pytest.mark.parametrize(
    ("packed", "changes"),
    [
        ("zlib", (flattened,)),
        ("lzo", ()),
        ("snappy", (without_names,)),
        ("zstd", (without_names, flattened)),
    ],
    ids=["zlib, flattened", "lzo", "snappy, as of QEMU", "zstd, as of QEMU, flattened"],
)
def test_the_document_is_the_same(
    tmp_path: Path, packed: str, changes: tuple[Callable[[Path], Path], ...]
) -> None:
    path = made(tmp_path, packed, *changes)
    ran = run("leakscan", "-c", path, "-s", lab_dump(NAME).vmlinux, "--jobs", "2", "--json")
    assert (ran.status, ran.err) == (0, "")
    expected = ask("leakscan", *on(NAME, "vmcore.d31"), "--json")
    # Next commands name the file.
    named = ran.out.replace(str(path), str(lab_dump(NAME).d31))
    assert json.loads(named) == expected.document


@pytest.mark.parametrize("changes", [(), (flattened,)], ids=["plain", "flattened"])
def test_four_fifths_of_it_have_a_verdict(
    tmp_path: Path, changes: tuple[Callable[[Path], Path], ...]
) -> None:
    path = cut(made(tmp_path, "lzo", without_names, *changes), 0.8)
    ran = run("leakscan", "-c", path, "-s", lab_dump(NAME).vmlinux, "--json")
    assert (ran.status, ran.err) == (0, "")
    assert ran.document["verdict"]["class"] in {"cannot-tell", "leak"}
    assert ran.document["facts"]["damage"] == examine(path).damage
    assert ran.document["facts"]["damage"].startswith("truncated")
