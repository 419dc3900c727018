"""A guest that carries Python and crashext, leaks, and looks at itself while it does.

The Python is the one that runs this, with the packages that crashext needs and the libraries that
both are linked with, copied to a disk image under their own paths; beside it the kernel's debug
information.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path
from re import findall
from tempfile import TemporaryDirectory

from .build import READY, cache_folder
from .errors import LabError, MissingToolsError
from .initramfs import Archive, add_modules
from .module_build import build_module
from .packages import fetch, newest_kernel, require_tools
from .qemu import Machine, booted
from .run import run
from .truth import unpack_disk

LIVE = Path(__file__).parent / "guest" / "live"
MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")
NODES = 50_000
LEAK = {"nodes": NODES, "leases": 300_000, "packets": 50}
"""Leases are granted 100 a second at most: for an hour, as a busy host takes to answer."""
TIMEOUT = 1800.0

_SITE, _SOURCE = "crashext-lab/packages", "crashext-lab/source"
_SKIPPED = ("site-packages", "test", "tests", "idlelib", "tkinter", "ensurepip", "lib2to3")
_OUT_BYTES = 64 << 20
_RUN = (
    f"import sys; sys.path[:0] = ['/{_SOURCE}', '/{_SITE}']; "
    "from crashext.commands.entry import leakscan; sys.exit(leakscan(sys.argv[1:]))"
)


def run_live(into: Path) -> Path:
    """Boot the guest and wait for it; returns the folder with what it wrote, in `into`."""
    if shutil.which("mke2fs") is None:
        raise MissingToolsError("missing Debian packages: apt-get install e2fsprogs")
    cache = cache_folder()
    kernel = newest_kernel(cache)
    require_tools(kernel)
    fetch(kernel)
    module = build_module(cache, kernel)
    with TemporaryDirectory(prefix="live-", dir=cache) as folder:
        work = Path(folder)
        out = work / "out.img"
        out.touch()
        with out.open("r+b") as file:
            file.truncate(_OUT_BYTES)
        archive = Archive()
        for name in ("bin", "lab", "lab/modules"):
            archive.folder(name)
        busybox = shutil.which("busybox")
        assert busybox is not None
        archive.file("bin/busybox", Path(busybox).read_bytes(), executable=True)
        archive.file("init", LIVE.read_bytes(), executable=True)
        archive.file("lab/leaklab.ko", module.read_bytes())
        add_modules(archive, kernel, MODULES)
        settings = {
            "PYTHON": sys.executable,
            "RUN": _RUN,
            "LEAKLAB": " ".join(f"{k}={v}" for k, v in LEAK.items()),
        }
        settings["PYTHON"] = str(Path(sys.executable).resolve())
        lines = (f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
        archive.file("lab/settings", "".join(lines).encode())
        (work / "initramfs").write_bytes(archive.finish())
        machine = Machine(
            image=kernel.image,
            initramfs=work / "initramfs",
            memory="2G",
            append="",
            disks=(out, _image(work, kernel.vmlinux)),
            console=into / "console.log",
            # numpy's wheels need x86-64-v2; the kernel's debug tools know four levels of pages.
            # With QEMU 7.2's AVX2 numpy.argsort() gives a wrong order: see reach/selfcheck.py.
            cpu="max,la57=off,avx2=off",
        )
        booted(machine, lambda guest: guest.wait_for(READY, TIMEOUT))
        unpack_disk(out, into / "out")
    return into / "out"


def _image(work: Path, vmlinux: Path) -> Path:
    """A disk with Python, its packages, crashext and the kernel's debug information."""
    stage = work / "stage"
    for name in ("proc", "sys", "dev", "tmp"):
        (stage / name).mkdir(parents=True)
    shutil.copyfile(vmlinux, stage / "vmlinux")
    here = Path(__file__).parents[2]
    shutil.copytree(here / "crashext", stage / _SOURCE / "crashext")
    python = Path(sys.executable).resolve()
    library = Path(sysconfig.get_path("stdlib")).resolve()
    ignored = shutil.ignore_patterns(*_SKIPPED, "config-*")
    shutil.copytree(library, _inside(stage, library), ignore=ignored)
    _copy(python, _inside(stage, python))
    project = tomllib.loads((here / "pyproject.toml").read_text())["project"]
    for package in _with_requirements(_names(project["dependencies"])):
        for file in metadata.files(package) or ():
            source = Path(str(file.locate()))
            if ".." not in file.parts and source.is_file():
                _copy(source, stage / _SITE / str(file))
    for shared in _libraries(stage, python):
        _copy(shared, _inside(stage, shared))
    image = work / "image.ext4"
    used = sum(p.stat().st_size for p in stage.rglob("*") if p.is_file())
    # Plain, so that a guest mounts it that has not seen it before, and read-only.
    plain = ("-O", "^metadata_csum,^has_journal", "-d", str(stage))
    size = f"{(used * 5 // 4 >> 20) + 64}M"
    run(["mke2fs", "-q", "-t", "ext4", *plain, str(image), size], 300.0)
    shutil.rmtree(stage)
    return image


def _inside(stage: Path, path: Path) -> Path:
    return stage / str(path).lstrip("/")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755)


def _names(requirements: list[str]) -> list[str]:
    """Of packages; extras are left out."""
    return [findall(r"^[\w.-]+", r)[0] for r in requirements if "extra ==" not in r]


def _with_requirements(names: list[str]) -> list[str]:
    """Packages and what they need, however deep."""
    found: list[str] = []
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            needed = _names(metadata.requires(name) or [])
        except metadata.PackageNotFoundError:
            if name in names:
                raise LabError(f"this Python has no {name}") from None
            continue  # of another platform or Python
        found.append(name)
        waiting += needed
    return found


def _libraries(stage: Path, python: Path) -> list[Path]:
    """Shared libraries that anything in `stage` is linked with, and that are not in it."""
    objects = [p for p in stage.rglob("*") if p.suffix == ".so" or ".so." in p.name]
    said = run(["ldd", str(python), *map(str, objects)], 300.0)
    # "libz.so.1 => /lib/libz.so.1 (0x7f...)"; the loader itself has no arrow.
    paths = {Path(name) for name in findall(r"(/\S+) \(0x", said)}
    return sorted(p for p in paths if p.is_file() and stage not in p.parents)
