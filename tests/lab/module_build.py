"""Building ``leaklab.ko``: against the private headers, outside the source tree."""

from __future__ import annotations

import shutil
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from .packages import Kernel
from .run import run
from .suites import SUITES, in_root

SOURCE = Path(__file__).parent / "module"
BUILD_TIMEOUT = 300.0
CROSS = ("ARCH=arm64", "CROSS_COMPILE=aarch64-linux-gnu-")


def source_hash() -> str:
    """A digest of everything that makes the module what it is."""
    digest = sha256()
    for path in sorted(SOURCE.iterdir()):
        if path.suffix in (".c", ".h") or path.name == "Kbuild":
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def build_module(cache: Path, kernel: Kernel) -> Path:
    """Return ``leaklab.ko`` for `kernel`, with DWARF and BTF, from the cache when it is there."""
    built = cache / "modules" / f"leaklab-{kernel.release}_{kernel.version}-{source_hash()}.ko"
    if built.is_file():
        return built
    built.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".building-", dir=built.parent) as folder:
        work = Path(folder) / "module"
        if kernel.suite:
            _build_in_suite(kernel, work)
        else:
            shutil.copytree(SOURCE, work)
            run(["make", "-C", kernel.headers, f"M={work}", "modules"], BUILD_TIMEOUT)
            _add_btf(kernel, work)
        (work / "leaklab.ko").rename(built)
    return built


def _build_in_suite(kernel: Kernel, work: Path) -> None:
    """Compile with the compiler of the kernel's own suite.

    Since Debian 13 the headers have a vmlinux that is BTF alone: kbuild adds the module's by
    itself. 5.10 has no BTF of modules at all.
    """
    with TemporaryDirectory(prefix=".module-", dir=kernel.root / "work") as folder:
        inside = f"/work/{Path(folder).name}"
        shutil.copytree(SOURCE, folder, dirs_exist_ok=True)
        headers = f"/usr/src/linux-headers-{kernel.release}"
        cross = CROSS if kernel.arch == "arm64" else ()
        make = ["make", "-C", headers, f"M={inside}", *cross, "modules"]
        in_root(kernel, make, BUILD_TIMEOUT)
        work.mkdir()
        shutil.copyfile(Path(folder) / "leaklab.ko", work / "leaklab.ko")
    if not SUITES[kernel.suite].pahole and SUITES[kernel.suite].debian == "bookworm":
        _add_btf(kernel, work)


def _add_btf(kernel: Kernel, work: Path) -> None:
    """Kbuild does this only with the kernel's whole build tree at hand; a kernel without BTF has
    modules without."""
    if kernel.config is not None and "CONFIG_DEBUG_INFO_BTF=y" not in kernel.config.read_text():
        return
    run(("pahole", "-J", "--btf_base", kernel.vmlinux, work / "leaklab.ko"), BUILD_TIMEOUT)
