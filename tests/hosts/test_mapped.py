"""Pages of mapped files are given up where the file still has them, and only there."""

from __future__ import annotations

import mmap
from pathlib import Path

from crashext.hosts.mapped import let_go

SIZE = 4 << 20


def resident(name: Path) -> int:
    """Bytes of a file that this process has in memory, by the kernel's own count."""
    total, mine = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            mine = line.endswith(str(name))
        elif mine and line.startswith("Rss:"):
            total += int(line.split()[1]) << 10
    return total


def mapped(path: Path) -> mmap.mmap:
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), SIZE, flags=mmap.MAP_PRIVATE)


def test_pages_of_a_file_go_and_come_back(tmp_path: Path) -> None:
    data, other = mapped(tmp_path / "vmlinux"), mapped(tmp_path / "other")
    before = sum(data[:]), sum(other[:])
    assert resident(tmp_path / "vmlinux") == SIZE
    let_go([tmp_path / "vmlinux"])
    assert resident(tmp_path / "vmlinux") == 0
    assert resident(tmp_path / "other") == SIZE
    assert (sum(data[:]), sum(other[:])) == before


def test_what_was_changed_in_memory_stays(tmp_path: Path) -> None:
    data = mapped(tmp_path / "module.ko")
    data[5000:5004] = b"here"  # as relocations are: in the mapping, not in the file
    let_go([tmp_path / "module.ko"])
    assert data[5000:5004] == b"here"
