"""A guest that is a real distribution under load, for scenarios with ``distribution``.

Debian boots from a copy of its disk image (distribution.py); ``guest/busy`` is what it does there:
devices, filesystems, networks, services and containers, load on all of them, and the leaks of the
scenario in between. The load goes on while the guest is dumped.
"""

from __future__ import annotations

import gzip
import shlex
import shutil
from pathlib import Path

from .distribution import build_image
from .errors import MissingToolsError
from .initramfs import GUEST_MODULES, Archive, add_modules
from .packages import Kernel
from .run import run
from .scenarios import Scenario

GUEST = Path(__file__).parent / "guest" / "busy"
TIMEOUT = 1500.0
"""From power on to the ready line, where the machine is busy itself."""

MODULES = (*GUEST_MODULES, "crc32c_generic", "ext4")
"""What finds the disk; all others are on it."""

COPY_TIMEOUT = 300.0


def sources() -> list[str]:
    """All that decides what the guest does, for the key of its dump."""
    return [path.read_text() for path in sorted(GUEST.iterdir())]


def prepare(
    work: Path, cache: Path, kernel: Kernel, scenario: Scenario, module: Path | None
) -> Path:
    """Write ``initramfs`` into `work`, and return the disk there that it goes on from."""
    disk = work / "root.img"
    image = build_image(cache, kernel)
    run(["cp", "--sparse=always", "--reflink=auto", image, disk], COPY_TIMEOUT)
    _write_initramfs(work / "initramfs", kernel, scenario, module)
    return disk


def _write_initramfs(path: Path, kernel: Kernel, scenario: Scenario, module: Path | None) -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        raise MissingToolsError("missing Debian packages: apt-get install busybox-static")
    archive = Archive()
    for folder in ("bin", "lab", "lab/modules"):
        archive.folder(folder)
    archive.file("bin/busybox", Path(busybox).read_bytes(), executable=True)
    add_modules(archive, kernel, MODULES)
    for script in sorted(GUEST.iterdir()):
        if script.name == "init":
            archive.file("init", script.read_bytes(), executable=True)
        else:
            archive.file(f"lab/{script.name}", script.read_bytes())
    leaks = ""
    if module is not None:
        archive.file("lab/leaklab.ko", module.read_bytes())
        leaks = " ".join(f"{k}={v}" for k, v in scenario.module_parameters.items())
    archive.file("lab/settings", f"LEAKLAB={shlex.quote(leaks)}\n".encode())
    path.write_bytes(gzip.compress(archive.finish(), compresslevel=1))
