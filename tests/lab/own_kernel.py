"""Kernels of our own: Debian's kernel source, compiled with a small configuration of ours.

Debian's binary kernels lack the kernel's own leak detector. A file ``kernels/NAME.config`` makes a
kernel NAME, laid out in the cache like an unpacked Debian one, so that the rest of the lab
does not know the difference. Compiling takes minutes: the caller decides when it may happen.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from .errors import LabError, MissingToolsError
from .packages import NATIVE, Kernel, arm64_packages, download, newest_dependency, staged
from .run import run
from .suites import (
    CROSS,
    NEWEST_SUITE,
    SUITES,
    download_from,
    fetch_busybox,
    suite_source,
)

CONFIGS = Path(__file__).parent / "kernels"

SOURCES = {
    "profiling": "trixie",
    "profiling-flags": NEWEST_SUITE,
    "arm64-64k": "arm64-trixie",
}
"""Kernels whose source is another suite's (suites.py), and the architecture they are compiled for;
the compiler is the machine's own."""

KERNEL_PACKAGES = {
    "bc": "bc",
    "bison": "bison",
    "flex": "flex",
    "xz": "xz-utils",
}
"""Program looked for on PATH -> Debian package; needed beyond `APT_PACKAGES`."""

IMAGES = {"amd64": ("x86", "bzImage"), "arm64": ("arm64", "Image")}
"""Debian's name of an architecture -> the kernel's, and that of the file to boot."""

HEADER_PACKAGES = {Path("/usr/include/gelf.h"): "libelf-dev"}
"""Header that kbuild's objtool includes -> Debian package that brings it."""

UNPACK_TIMEOUT = 600.0
CONFIGURE_TIMEOUT = 300.0
COMPILE_TIMEOUT = 7200.0


@lru_cache
def own_kernel(cache: Path, name: str) -> Kernel:
    """Name the kernel that ``kernels/NAME.config`` makes of the source apt offers now.

    Nothing is fetched or compiled; ``Kernel.root`` is a folder once it was.
    """
    config = CONFIGS / f"{name}.config"
    if not config.is_file():
        known = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.config")))
        raise LabError(f"no kernel {name!r} (known: {known})")
    _, source = _source(cache, name)
    # Debian's revision is no part of what the kernel says it is.
    release = f"{source.rpartition('-')[0]}-{name}"
    version = f"{source}_{sha256(config.read_bytes()).hexdigest()[:10]}"
    root = cache / "own-kernels" / f"{release}_{version}"
    return Kernel(release, version, root, config, arch=_arch(name))


def _source(cache: Path, name: str) -> tuple[str, str]:
    """Name and version of the package with the source of the kernel `name`."""
    if name in SOURCES:
        return suite_source(cache, SUITES[SOURCES[name]])
    return newest_dependency("linux-source", "linux-source-")


def own_kernel_packages(name: str) -> set[str]:
    """The Debian packages that the kernel `name` needs beyond those of every dump."""
    needed = {*KERNEL_PACKAGES.values(), *HEADER_PACKAGES.values()}
    if _arch(name) == "arm64":
        needed |= arm64_packages()
    return needed


def _arch(name: str) -> str:
    return SUITES[SOURCES[name]].arch if name in SOURCES else NATIVE


def compile_kernel(cache: Path, kernel: Kernel) -> None:
    """Fetch the source, compile it and keep what booting, debugging and modules need.

    The source tree and the objects, 3 GB, are removed again.
    """
    if kernel.root.is_dir():
        return
    _require_tools()
    with staged(kernel.root) as building:
        tree = building / "source"
        _unpack_source(cache, kernel, building, tree)
        configure(kernel, tree)
        run(["nice", *_make(kernel, tree), f"-j{os.cpu_count() or 1}"], COMPILE_TIMEOUT)
        keep(kernel, tree, building)
        shutil.rmtree(tree)
        if kernel.arch != NATIVE:
            assert kernel.config is not None
            fetch_busybox(cache, SUITES[SOURCES[kernel.config.stem]], building)


def _make(kernel: Kernel, tree: Path) -> list[str | Path]:
    return ["make", "-C", tree, *CROSS.get(kernel.arch, ())]


def configure(kernel: Kernel, tree: Path) -> None:
    """Write ``.config``; raise `LabError` when kconfig dropped or changed a line of ours."""
    assert kernel.config is not None
    fragment = f"KCONFIG_ALLCONFIG={kernel.config}"
    run([*_make(kernel, tree), "allnoconfig", fragment], CONFIGURE_TIMEOUT)
    got = set((tree / ".config").read_text().splitlines())
    lost = [line for line in wanted(kernel.config.read_text()) if line not in got]
    if lost:
        raise LabError(f"{kernel.config.name}: kconfig did not take {', '.join(lost)}")


def wanted(fragment: str) -> list[str]:
    """The lines of a configuration that kconfig must have taken; comments may speak of options."""
    return re.findall(r"^CONFIG_\w+=.*$|^# CONFIG_\w+ is not set$", fragment, re.MULTILINE)


def keep(kernel: Kernel, tree: Path, into: Path) -> None:
    """Copy out of the compiled `tree` what a `Kernel` consists of, laid out as Debian does."""
    release = (tree / "include" / "config" / "kernel.release").read_text().strip()
    if release != kernel.release:
        raise LabError(f"the compiled kernel calls itself {release}, not {kernel.release}")
    target = replace(kernel, root=into)
    target.image.parent.mkdir(parents=True)
    arch, image = IMAGES[kernel.arch]
    shutil.copyfile(tree / "arch" / arch / "boot" / image, target.image)
    shutil.copyfile(tree / "vmlinux", target.vmlinux)
    # DEPMOD: the guest loads its modules by file, in an order that initramfs.py works out.
    options = (f"INSTALL_MOD_PATH={into}", "DEPMOD=true")
    run([*_make(kernel, tree), "modules_install", *options], CONFIGURE_TIMEOUT)
    for link in ("build", "source"):
        (target.modules / link).unlink(missing_ok=True)
    for path in _header_files(tree, arch):
        copy = target.headers / path.relative_to(tree)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy, follow_symlinks=False)


def _header_files(tree: Path, arch: str) -> list[Path]:
    """What modules are compiled with: the list of scripts/package/builddeb (6.1)."""
    own = tree / "arch" / arch
    found = [tree / ".config", tree / "Module.symvers"]
    objtool = tree / "tools" / "objtool" / "objtool"
    found += [objtool] if objtool.is_file() else []  # not of every architecture
    for folder in (tree, own):
        found += folder.glob("Makefile*")
    for name in ("Kbuild.platforms", "Platform"):
        found += own.rglob(name)
    folders = [tree / "include", tree / "scripts"]
    folders += [path for name in ("include", "scripts") for path in own.rglob(name)]
    for folder in folders:
        found += (path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    return found


def _unpack_source(cache: Path, kernel: Kernel, building: Path, tree: Path) -> None:
    assert kernel.config is not None
    name = kernel.config.stem
    package, version = _source(cache, name)
    if name in SOURCES:
        deb = download_from(cache, SUITES[SOURCES[name]], package, building)
    else:
        deb = download(package, version, building)
    run(["dpkg-deb", "-x", deb, building / "package"], UNPACK_TIMEOUT)
    deb.unlink()
    tree.mkdir()
    archive = building / "package" / "usr" / "src" / f"{package}.tar.xz"
    run(["tar", "-xJf", archive, "-C", tree, "--strip-components=1"], UNPACK_TIMEOUT)
    shutil.rmtree(building / "package")


def _require_tools() -> None:
    missing = {package for tool, package in KERNEL_PACKAGES.items() if shutil.which(tool) is None}
    missing |= {package for header, package in HEADER_PACKAGES.items() if not header.is_file()}
    if missing:
        raise MissingToolsError(
            "missing Debian packages: apt-get install " + " ".join(sorted(missing))
        )
