"""The kernel under test: which Debian packages it is made of, and a private copy of them.

Nothing is installed. The image, its ``vmlinux`` with debug information and the headers are
fetched with ``apt-get download`` and unpacked below the cache folder, so the lab leaves the
machine's own kernel packages alone. Names and versions are asked of apt at run time.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

from .errors import LabError, MissingToolsError
from .run import run

APT_PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "makedumpfile": "makedumpfile",
    "busybox": "busybox-static",
    "gcc": "gcc",
    "gencat": "libc6-dev",  # of libc-dev-bin, which comes with it: libc.a has no program
    "make": "make",
    "pahole": "pahole",
    "dpkg-deb": "dpkg",
    "fallocate": "util-linux",
    "flock": "util-linux",
    "setpriv": "util-linux",
    "trace-cmd": "trace-cmd",
}
"""Program looked for on PATH -> Debian package that brings it."""

NATIVE = "amd64"
"""Debian's name of this machine's architecture, the only one whose dumps makedumpfile knows."""

DOWNLOAD_TIMEOUT = 600.0
UNPACK_TIMEOUT = 300.0


@dataclass(frozen=True)
class Kernel:
    """A kernel in the cache, laid out as Debian's packages unpack."""

    release: str
    """What ``uname -r`` says in the guest, ``6.1.0-56-amd64``."""
    version: str
    """The Debian package version, ``6.1.192-2``: a release is rebuilt under the same name.
    Of a kernel of our own: the source's version, and a digest of its configuration."""
    root: Path
    config: Path | None = None
    """What it is compiled with here (own_kernel.py); None: Debian's own binary."""
    suite: str = ""
    """The other Debian suite it is from (suites.py), whose compiler lies in `root` as well."""
    arch: str = NATIVE
    """Debian's name of what it runs on."""

    @property
    def image(self) -> Path:
        """The bootable kernel; Debian's packages of 7.x keep it beside the modules."""
        beside = self.modules / "vmlinuz"
        return beside if beside.is_file() else self.root / "boot" / f"vmlinuz-{self.release}"

    @property
    def vmlinux(self) -> Path:
        """The unstripped kernel with DWARF and BTF."""
        return self.vmlinux_in(self.root)

    @staticmethod
    def vmlinux_in(root: Path) -> Path:
        """Where a kernel below `root` has its `vmlinux`."""
        return root / "vmlinux"

    @property
    def busybox(self) -> Path | None:
        """The guest's programs; None where there are none."""
        if self.arch != NATIVE:
            return self.root / "busybox"
        found = shutil.which("busybox")
        return None if found is None else Path(found)

    @property
    def modules(self) -> Path:
        """The modules that come with the image."""
        return self.root / "lib" / "modules" / self.release

    @property
    def headers(self) -> Path:
        """The tree to build modules against (kbuild's ``-C``)."""
        return self.root / "usr" / "src" / f"linux-headers-{self.release}"

    @property
    def large_pages(self) -> bool:
        """Whether its pages are larger than 4 KiB: ``-arm64-16k``, but not ``-kmemleak``."""
        return re.search(r"-\d+k$", self.release) is not None


ARM64_GCC = "aarch64-linux-gnu-gcc"
ARM64_COMPILER = "gcc-aarch64-linux-gnu"
"""The package that brings it, here and in other suites."""

ARM64_PACKAGES = {
    "qemu-system-aarch64": "qemu-system-arm",
    ARM64_GCC: ARM64_COMPILER,
}
"""Of guests of arm64, beside the others."""

ARM64_FILES = {Path("/usr/aarch64-linux-gnu/lib/libc.a"): "libc6-dev-arm64-cross"}
"""File that the guest's program is linked with -> Debian package that brings it."""


def arm64_packages() -> set[str]:
    """The Debian packages that guests of arm64 need beyond those of every dump."""
    return {*ARM64_PACKAGES.values(), *ARM64_FILES.values()}


def require_tools(kernel: Kernel) -> None:
    """Raise `MissingToolsError` unless every program that a dump of `kernel` takes is on PATH."""
    arm64 = kernel.arch == "arm64"
    programs = {**APT_PACKAGES, **(ARM64_PACKAGES if arm64 else {})}
    absent = {package for tool, package in programs.items() if shutil.which(tool) is None}
    if arm64:
        absent |= {package for file, package in ARM64_FILES.items() if not file.is_file()}
    missing = sorted(absent)
    if missing:
        raise MissingToolsError("missing Debian packages: apt-get install " + " ".join(missing))


@lru_cache
def newest_kernel(cache: Path) -> Kernel:
    """Name the kernel that apt offers now; nothing is fetched."""
    package, version = newest_dependency("linux-image-amd64", "linux-image-")
    release = package.removeprefix("linux-image-")
    return Kernel(release, version, cache / "kernels" / f"{release}_{version}")


def fetch(kernel: Kernel) -> None:
    """Unpack `kernel` into the cache, unless it is there already."""
    if kernel.root.is_dir():
        return
    with staged(kernel.root) as building:
        _unpack_kernel(kernel, building)


@contextmanager
def staged(root: Path) -> Iterator[Path]:
    """A new folder beside `root`, which gets the name `root` when the block has succeeded.

    So what stands under its final name is complete, however the run before ended.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    # Left by a run that was killed. The caller holds the lock, so nobody is at work in it.
    for stale in root.parent.glob(".*"):
        shutil.rmtree(stale)
    building = Path(mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        yield building
        building.chmod(0o755)
        building.rename(root)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _unpack_kernel(kernel: Kernel, into: Path) -> None:
    image = f"linux-image-{kernel.release}"
    headers = f"linux-headers-{kernel.release}"
    kbuild = _dependency(headers, "linux-kbuild-")
    common = _dependency(headers, "linux-headers-")
    for package in (image, headers, common, kbuild):
        deb = download(package, kernel.version, into)
        run(["dpkg-deb", "-x", deb, into], UNPACK_TIMEOUT)
        deb.unlink()
    deb = download(f"{image}-dbg", kernel.version, into)
    extract_vmlinux(deb, kernel.release, into / "vmlinux")
    deb.unlink()
    # The one absolute path in Debian's headers; their symlinks are relative already.
    common_tree = kernel.root / "usr" / "src" / common
    makefile = into / "usr" / "src" / headers / "Makefile"
    makefile.write_text(f"include {common_tree}/Makefile\n")


def extract_vmlinux(deb: Path, release: str, target: Path) -> None:
    """Take the one file out of the debug package and stop: unpacked whole it is 5.6 GB."""
    # Of 7.x the file in boot/ is a link to the one beside the modules.
    wanted = (f"boot/vmlinux-{release}", f"modules/{release}/vmlinux")
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as dpkg:
        try:
            with tarfile.open(fileobj=dpkg.stdout, mode="r|") as archive:
                for member in archive:
                    fits = member.isfile() and member.name.endswith(wanted)
                    source = archive.extractfile(member) if fits else None
                    if source is not None:
                        with target.open("wb") as out:
                            shutil.copyfileobj(source, out, 1 << 20)
                        return
        finally:
            dpkg.kill()
    raise LabError(f"{deb.name} has no {wanted[0]}")


def download(package: str, version: str, into: Path) -> Path:
    """Fetch a package into the folder `into`, and return the file."""
    # As root apt would drop to _apt, which cannot write into a private folder.
    run(
        ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", f"{package}={version}"],
        DOWNLOAD_TIMEOUT,
        cwd=into,
    )
    debs = list(into.glob(f"{package}_*.deb"))
    if len(debs) != 1:
        raise LabError(f"apt-get download {package}={version} left {len(debs)} files")
    return debs[0]


def newest_dependency(package: str, prefix: str) -> tuple[str, str]:
    """Name and version of the package that the empty `package` stands for now, as apt knows it."""
    name = _dependency(package, prefix)
    return name, _version(name)


def _dependency(package: str, prefix: str) -> str:
    """The first dependency of `package` whose name starts with `prefix`."""
    return first_dependency(run(["apt-cache", "depends", package]), package, re.escape(prefix))


def first_dependency(depends: str, package: str, start: str) -> str:
    """The first name in ``apt-cache depends PACKAGE`` that begins as the pattern `start` says."""
    for line in depends.splitlines():
        kind, _, name = line.strip().partition(": ")
        if kind == "Depends" and re.match(start, name):
            return name
    raise LabError(f"apt knows no {start}* that {package} depends on: run apt-get update")


def _version(package: str) -> str:
    return version_shown(run(["apt-cache", "show", "--no-all-versions", package]), package)


def version_shown(record: str, package: str) -> str:
    """The version in what ``apt-cache show PACKAGE`` prints."""
    for line in record.splitlines():
        if line.startswith("Version: "):
            return line.removeprefix("Version: ").strip()
    raise LabError(f"apt knows no version of {package}: run apt-get update")
