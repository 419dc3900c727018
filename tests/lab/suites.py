"""Kernels of Debian's other suites, each with the compiler that built it.

A suite's packages are unpacked below the cache into one folder, which serves twice: it is laid
out as a `Kernel`, and it is the root in which modules for that kernel are compiled, because the
compiler and kbuild's tools of another suite need that suite's C library. apt keeps its lists in
the cache too, and believes that nothing is installed: the machine's own apt and packages stay
as they are. The lists are fetched once, so that a suite's kernel stays the same until the
suite's folder is removed.

Kernels of arm64 are fetched beside tools of this machine's architecture: a cross compiler and
kbuild's own programs, which the headers' package leaves to whoever compiles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from .errors import LabError
from .packages import (
    ARM64_COMPILER,
    DOWNLOAD_TIMEOUT,
    UNPACK_TIMEOUT,
    Kernel,
    extract_vmlinux,
    first_dependency,
    staged,
    version_shown,
)
from .run import run

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
UPDATE_TIMEOUT = 300.0

BUILD_PACKAGES = (
    *("make", "gcc", "dash", "bash", "mawk", "sed", "grep", "perl-base"),
    *("coreutils", "findutils", "diffutils"),
)
"""What kbuild runs beside its own tools; the compiler's version is the headers' to name."""

CROSS = {"arm64": ("ARCH=arm64", "CROSS_COMPILE=aarch64-linux-gnu-")}
"""What make is told more where a kernel is not of this machine's architecture."""

SHARED_FOLDERS = ("bin", "sbin", "lib", "lib64")
"""Links into /usr since Debian 10; in the packages themselves only from 13 on."""

HOST_FOLDERS = ("dev", "proc")

# Read after the machine's configuration: hooks that touch the machine's own cache are cleared.
_CONFIGURATION = """\
Dir::State "{apt}/state";
Dir::State::status "{apt}/status";
Dir::Cache "{apt}/cache";
Dir::Etc::sourcelist "{apt}/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::preferencesparts "-";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
Acquire::Languages "none";
APT::Architectures {{ {architectures}; }};
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
"""


@dataclass(frozen=True)
class Suite:
    """A Debian suite as a source of kernels."""

    name: str
    pahole: str
    """The package with pahole, by which kbuild makes a module's BTF; empty where there is none."""
    debian: str = ""
    """The suite's name in Debian's archive, where it is another."""
    arch: str = "amd64"
    flavour: str = ""
    """What the name of the kernel's package has beside the architecture: "rt-", or "-16k"."""

    @property
    def image(self) -> str:
        """The package that depends on the newest kernel."""
        if self.flavour.endswith("-"):
            return f"linux-image-{self.flavour}{self.arch}"
        return f"linux-image-{self.arch}{self.flavour}"


SUITES = {
    suite.name: suite
    for suite in (
        Suite("bullseye", pahole=""),  # Module BTF began in 5.11: 36e68442d1af.
        Suite("trixie", pahole="pahole"),
        Suite("sid", pahole="pahole"),
        # Real-time: its locks are other structures, and its slab caches have locks of each CPU.
        Suite("rt-bullseye", pahole="", debian="bullseye", flavour="rt-"),
        Suite("rt-trixie", pahole="pahole", debian="trixie", flavour="rt-"),
        Suite("rt-sid", pahole="pahole", debian="sid", flavour="rt-"),
        # Not pahole: the headers of 12 have no vmlinux, module_build.py calls the machine's own.
        Suite("arm64", pahole="", debian="bookworm", arch="arm64"),
        Suite("arm64-trixie", pahole="pahole", debian="trixie", arch="arm64"),
        Suite("arm64-16k", pahole="pahole", debian="trixie", arch="arm64", flavour="-16k"),
    )
}


NEWEST_SUITE = "sid"
"""Whose kernel the everyday tests look at too; `make test-kernels` has the whole gallery of it."""


# Asked of every dump of a suite, and apt takes seconds to answer on a busy machine.
@lru_cache
def suite_kernel(cache: Path, suite: Suite) -> Kernel:
    """Name the kernel of `suite`; its package lists are fetched where that was not done yet."""
    apt = _Apt(_folder(cache, suite) / "apt")
    apt.prepare(suite)
    meta = suite.image
    named = f"{meta}:{suite.arch}"
    image = first_dependency(
        run(apt.command("apt-cache", "depends", named)), meta, f"{_IMAGE}[0-9]"
    )
    image = image.partition(":")[0]
    version = version_shown(run(apt.command("apt-cache", "show", f"{image}:{suite.arch}")), image)
    release = image.removeprefix(_IMAGE)
    root = _folder(cache, suite) / f"{release}_{version}"
    return Kernel(release, version, root, suite=suite.name, arch=suite.arch)


@lru_cache
def suite_source(cache: Path, suite: Suite) -> tuple[str, str]:
    """Name and version of the package with the kernel's source in `suite`."""
    apt = _Apt(_folder(cache, suite) / "apt")
    apt.prepare(suite)
    meta = "linux-source"
    package = first_dependency(run(apt.command("apt-cache", "depends", meta)), meta, f"{meta}-")
    return package, version_shown(run(apt.command("apt-cache", "show", package)), package)


def download_from(cache: Path, suite: Suite, package: str, into: Path) -> Path:
    """Fetch one package of `suite` into the folder `into`; returns the file."""
    return _Apt(_folder(cache, suite) / "apt").download(package, into)


def fetch_suite(cache: Path, kernel: Kernel) -> None:
    """Unpack `kernel`, its debug information and what compiles for it, unless they are there."""
    if kernel.root.is_dir():
        return
    suite = SUITES[kernel.suite]
    apt = _Apt(_folder(cache, suite) / "apt")
    image = f"{_IMAGE}{kernel.release}"
    headers = f"linux-headers-{kernel.release}"
    tools = [*BUILD_PACKAGES, *([suite.pahole] if suite.pahole else [])]
    with staged(kernel.root) as building:
        for folder in SHARED_FOLDERS:
            (building / "usr" / folder).mkdir(parents=True)
            (building / folder).symlink_to(f"usr/{folder}")
        if suite.arch == "amd64":
            packages = apt.download_with_dependencies([image, headers, *tools])
        else:
            packages = _cross_packages(apt, suite, image, headers, tools, building)
        for deb in packages:
            run(["dpkg-deb", "-x", deb, building], UNPACK_TIMEOUT)
            deb.unlink()
        for folder in ("tmp", "work", *HOST_FOLDERS):
            (building / folder).mkdir(exist_ok=True)
        _link_alternatives(building)
        # Not with the rest: it is 5 GB unpacked, of which one file is wanted.
        deb = apt.download(f"{image}-dbg:{suite.arch}", building)
        extract_vmlinux(deb, kernel.release, kernel.vmlinux_in(building))
        deb.unlink()


def _cross_packages(
    apt: _Apt, suite: Suite, image: str, headers: str, tools: Sequence[str], into: Path
) -> Iterator[Path]:
    """The kernel, its headers and the guest's busybox, and tools of this machine's architecture."""
    depends = run(apt.command("apt-cache", "depends", f"{headers}:{suite.arch}"))
    # "Depends: <linux-headers-6.1.0-50-common:arm64>", as there is no such package of arm64.
    common = _first_match(depends, r"linux-headers-[\w.+-]+-common")
    kbuild = _first_match(depends, r"linux-kbuild-[\w.+-]+")
    foreign = [*(f"{name}:{suite.arch}" for name in (image, headers)), common]
    for name in foreign:
        yield apt.download(name, into)
    _unpack_busybox(apt, suite, into)
    yield from apt.download_with_dependencies([*tools, ARM64_COMPILER, kbuild])


def fetch_busybox(cache: Path, suite: Suite, into: Path) -> None:
    """The guest's programs, of the architecture of `suite`, as ``busybox`` in the folder `into`."""
    _unpack_busybox(_Apt(_folder(cache, suite) / "apt"), suite, into)


def _unpack_busybox(apt: _Apt, suite: Suite, into: Path) -> None:
    package = apt.download(f"busybox-static:{suite.arch}", into)
    with TemporaryDirectory(dir=into) as folder:
        run(["dpkg-deb", "-x", package, folder], UNPACK_TIMEOUT)
        program = next(path for path in Path(folder).rglob("bin/busybox") if path.is_file())
        program.rename(into / "busybox")
    package.unlink()


def in_root(kernel: Kernel, command: Sequence[str], timeout: float) -> None:
    """Run `command` with the unpacked packages as its file system, and the machine's /dev.

    And its /proc: objtool of 7.x reads its limits there.
    """
    binds = " && ".join(f'mount --rbind /{name} "$0/{name}"' for name in HOST_FOLDERS)
    script = f'{binds} && exec chroot "$0" "$@"'
    # New namespaces: needs no root, and the mount goes with the process.
    isolated = ("unshare", "--map-root-user", "--mount", "sh", "-c", script)
    run([*isolated, str(kernel.root), *command], timeout)


def _first_match(text: str, pattern: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise LabError(f"apt names no {pattern} that the headers depend on")
    return found[0]


_IMAGE = "linux-image-"


def _folder(cache: Path, suite: Suite) -> Path:
    return cache / "suites" / suite.name


def _link_alternatives(root: Path) -> None:
    """The links that maintainer scripts would make, had the packages been installed."""
    for link, target in (("sh", "dash"), ("awk", "mawk")):
        path = root / "usr" / "bin" / link
        if not path.is_symlink() and not path.exists():
            path.symlink_to(target)


@dataclass(frozen=True)
class _Apt:
    """An apt of its own: sources, lists and cache in `folder`, and nothing installed."""

    folder: Path

    def command(self, program: str, *arguments: str) -> list[str]:
        """The command line that runs `program` of apt in this world."""
        return [program, "-c", str(self.folder / "apt.conf"), *arguments]

    def prepare(self, suite: Suite) -> None:
        """Fetch the lists of `suite`, unless that was done."""
        if self.folder.is_dir():
            return
        with staged(self.folder) as building:
            building.chmod(0o755)
            for folder in ("state/lists/partial", "cache/archives/partial"):
                (building / folder).mkdir(parents=True)
            (building / "status").touch()
            source = f"deb [signed-by={KEYRING}] {_mirror()} {suite.debian or suite.name} main\n"
            (building / "sources.list").write_text(source)
            _configure(building, suite.arch, at=building)
            run(_Apt(building).command("apt-get", "-q", "update"), UPDATE_TIMEOUT)
            _configure(building, suite.arch, at=self.folder)

    def download(self, package: str, into: Path) -> Path:
        """Fetch one package into the folder `into`; returns the file."""
        run(self.command("apt-get", "-q", "download", package), DOWNLOAD_TIMEOUT, into)
        (deb,) = into.glob(f"{package.partition(':')[0]}_*.deb")
        return deb

    def download_with_dependencies(self, packages: Iterable[str]) -> Iterator[Path]:
        """Fetch `packages` and all that they depend on; yields the files."""
        words = ("-q", "-y", "--download-only", "install")
        run(self.command("apt-get", *words, *packages), DOWNLOAD_TIMEOUT)
        yield from sorted((self.folder / "cache" / "archives").glob("*.deb"))


def _configure(folder: Path, arch: str, at: Path) -> None:
    """Write into `folder` the configuration of the apt that will be at `at`."""
    architectures = "; ".join(f'"{name}"' for name in dict.fromkeys(("amd64", arch)))
    (folder / "apt.conf").write_text(_CONFIGURATION.format(apt=at, architectures=architectures))


def _mirror() -> str:
    """Where the machine's own apt gets Debian from."""
    fields = "$(ORIGIN) $(LABEL) $(REPO_URI)"
    for line in run(["apt-get", "indextargets", "--format", fields]).splitlines():
        origin, label, uri = line.rsplit(" ", 2) if line.count(" ") == 2 else ("", "", "")
        if (origin, label) == ("Debian", "Debian"):
            return uri
    raise LabError("apt knows no mirror of Debian: run apt-get update")
