"""A Debian of the kernel's own suite as a disk image, to boot in a guest.

It is made by mmdebstrap of what the machine's own apt offers, with the modules of the kernel that
will boot it, and kept below the cache folder. Guests get copies of it. Nothing is installed on
the machine, and root is not needed: mmdebstrap and fakeroot pretend.
"""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from .errors import LabError, MissingToolsError
from .packages import Kernel
from .run import run

DISTRIBUTION_PACKAGES = {
    "mmdebstrap": "mmdebstrap",
    "fakeroot": "fakeroot",
    "mke2fs": "e2fsprogs",
    "depmod": "kmod",
}
"""Program looked for on PATH -> Debian package; needed beyond `APT_PACKAGES`."""

INSTALLED = (
    *("systemd-sysv", "systemd-container", "dbus", "udev", "kmod", "procps", "iproute2"),
    *("iputils-ping", "nftables", "wireguard-tools", "curl", "apache2-utils", "nginx-light"),
    *("postgresql", "postgresql-contrib", "stress-ng", "e2fsprogs", "xfsprogs", "btrfs-progs"),
    *("dosfstools", "nfs-kernel-server", "nfs-common", "dmsetup", "mdadm", "drbd-utils"),
    *("cryptsetup-bin", "fdisk"),
)
"""What Debian is made of in the guest, beside its essential packages."""

IMAGE_MIB = 4096
"""Size of the disk; the file is sparse, with 1 GB in it."""

_WITHOUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*")
_BOOTSTRAP_TIMEOUT = 1200.0
_IMAGE_TIMEOUT = 600.0

# $0: the tarball, $1: the kernel's modules, $2: its release, $3: the image, $4: its MiB.
_MAKE_IMAGE = """
set -e
mkdir root
tar -xf "$0" -C root
mkdir -p "root/usr/lib/modules/$2" root/lab
cp -r "$1/." "root/usr/lib/modules/$2"
depmod -b root/usr "$2" 2>/dev/null || depmod -b root "$2"
mke2fs -q -t ext4 -d root "$3" "$4M"
"""


def require_tools() -> None:
    """Raise `MissingToolsError` unless the programs are on PATH that make an image."""
    missing = {pkg for tool, pkg in DISTRIBUTION_PACKAGES.items() if shutil.which(tool) is None}
    if missing:
        raise MissingToolsError(
            "missing Debian packages: apt-get install " + " ".join(sorted(missing))
        )


def image_of(cache: Path, kernel: Kernel) -> Path:
    """Where the image that boots with `kernel` is, or will be."""
    inputs = json.dumps([INSTALLED, IMAGE_MIB, _MAKE_IMAGE, kernel.version])
    digest = sha256(inputs.encode()).hexdigest()[:10]
    return cache / "images" / f"debian-{kernel.release}-{digest}.ext4"


def build_image(cache: Path, kernel: Kernel) -> Path:
    """Return the disk image, made now unless it is in the cache. The caller holds the lock."""
    image = image_of(cache, kernel)
    if image.is_file():
        return image
    require_tools()
    image.parent.mkdir(parents=True, exist_ok=True)
    for stale in image.parent.glob(".*"):
        shutil.rmtree(stale)
    with TemporaryDirectory(prefix=".building-", dir=image.parent) as folder:
        work = Path(folder)
        suite, sources = _sources()
        (work / "sources.list").write_text(sources)
        _bootstrap(work, suite)
        making = ("fakeroot", "sh", "-c", _MAKE_IMAGE, "root.tar", kernel.modules, kernel.release)
        run([*making, "image", str(IMAGE_MIB)], _IMAGE_TIMEOUT, cwd=work)
        (work / "image").rename(image)
    return image


def _bootstrap(work: Path, suite: str) -> None:
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--skip=output/dev"]
    command.append('--aptopt=APT::Install-Recommends "false"')
    command += [f"--dpkgopt=path-exclude={path}" for path in _WITHOUT]
    command.append(f"--include={','.join(INSTALLED)}")
    run([*command, suite, "root.tar", "sources.list"], _BOOTSTRAP_TIMEOUT, cwd=work)


def _sources() -> tuple[str, str]:
    """The machine's suite of Debian, and the lines of a sources.list with that and its updates."""
    fields = "$(ORIGIN) $(CREATED_BY) $(REPO_URI) $(RELEASE) $(COMPONENT)"
    lines, suites = [], []
    for line in run(["apt-get", "indextargets", "--format", fields]).splitlines():
        origin, kind, uri, suite, component = (*line.split(" "), *("",) * 5)[:5]
        if (origin, kind) == ("Debian", "Packages"):
            lines.append(f"deb {uri} {suite} {component}\n")
            suites.append(suite)
    if not lines:
        raise LabError("apt knows no mirror of Debian: run apt-get update")
    return min(suites, key=len), "".join(lines)
