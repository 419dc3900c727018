"""Building ``leaklab.ko``: against the private headers, outside the source tree."""

from __future__ import annotations

import shutil
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from .packages import Kernel
from .run import run
from .suites import CROSS, SUITES, in_root

SOURCE = Path(__file__).parent / "module"
EXTRA = Path(__file__).parent / "modules"
"""Modules of scenarios that have one of their own, a folder each."""
BUILD_TIMEOUT = 300.0


def source_hash(source: Path = SOURCE) -> str:
    """A digest of everything that makes a module what it is."""
    digest = sha256()
    for path in sorted(source.iterdir()):
        if path.suffix in (".c", ".h") or path.name == "Kbuild":
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def build_module(cache: Path, kernel: Kernel, extra: str = "") -> Path:
    """Return ``leaklab.ko`` for `kernel`, or the module called `extra`, with DWARF and BTF, from
    the cache when it is there."""
    name, source = (extra, EXTRA / extra) if extra else ("leaklab", SOURCE)
    version = f"{kernel.release}_{kernel.version}-{source_hash(source)}"
    built = cache / "modules" / f"{name}-{version}.ko"
    if built.is_file():
        return built
    built.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".building-", dir=built.parent) as folder:
        work = Path(folder) / "module"
        if kernel.suite:
            _build_in_suite(kernel, source, work / f"{name}.ko")
        else:
            shutil.copytree(source, work)
            cross = CROSS.get(kernel.arch, ())
            run(["make", "-C", kernel.headers, f"M={work}", *cross, "modules"], BUILD_TIMEOUT)
            _add_btf(kernel, work / f"{name}.ko")
        (work / f"{name}.ko").rename(built)
    return built


def _build_in_suite(kernel: Kernel, source: Path, target: Path) -> None:
    """Compile with the compiler of the kernel's own suite.

    Since Debian 13 the headers have a vmlinux that is BTF alone: kbuild adds the module's by
    itself. 5.10 has no BTF of modules at all.
    """
    with TemporaryDirectory(prefix=".module-", dir=kernel.root / "work") as folder:
        inside = f"/{Path(folder).relative_to(kernel.root)}"  # as it is called in there
        shutil.copytree(source, folder, dirs_exist_ok=True)
        headers = f"/usr/src/linux-headers-{kernel.release}"
        cross = CROSS.get(kernel.arch, ())
        make = ["make", "-C", headers, f"M={inside}", *cross, "modules"]
        in_root(kernel, make, BUILD_TIMEOUT)
        target.parent.mkdir()
        shutil.copyfile(Path(folder) / target.name, target)
    if not SUITES[kernel.suite].pahole and SUITES[kernel.suite].debian == "bookworm":
        _add_btf(kernel, target)


def _add_btf(kernel: Kernel, module: Path) -> None:
    """Kbuild does this only with the kernel's whole build tree at hand; a kernel without BTF has
    modules without."""
    if kernel.config is not None and "CONFIG_DEBUG_INFO_BTF=y" not in kernel.config.read_text():
        return
    run(("pahole", "-J", "--btf_base", kernel.vmlinux, module), BUILD_TIMEOUT)
