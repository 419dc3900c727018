"""Pages that filesystems without a disk hold: tmpfs and its kin, and block devices' buffers.

Sources: include/linux/fs.h, shmem_fs.h, fs/mount.h, block/bdev.c nr_blockdev_pages() (3.10 to
6.12). Page counts are those of the page cache: what was swapped out is in `Tmpfs.used` only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from crashext.hosts.base import Host, Layout, ReadFault, UnknownLayout
from crashext.kernel.access import require, string, u64
from crashext.kernel.addresses import AddressSpace
from crashext.kernel.lacking import Lacking
from crashext.kernel.lists import entries
from crashext.kernel.pages.percpu import percpu_sum

_MAX_SUPERBLOCKS = 1 << 14
_MAX_INODES = 1 << 16
_MAX_DEPTH = 64
_NAME = 64
_LARGEST = 3
_MAX_MOUNTS = 64
_LAST_POINTER = (1 << 64) - 4096


@dataclass(frozen=True)
class ShmemFile:
    """A file that exists in memory only."""

    name: str
    """Path on its filesystem; "" where nothing names it any more (deleted, memfd, SysV)."""
    bytes: int


@dataclass(frozen=True)
class Tmpfs:
    """A mounted shmem filesystem: tmpfs, devtmpfs, an initramfs, or the kernel's own."""

    kind: str
    """Name of the filesystem type."""
    mounted: str
    """Where, as the first mount says; "" for the kernel's own (SysV, memfd, shared memory)."""
    bytes: int
    """In the page cache, by its files."""
    used: int | None
    """By its own counter, with what was swapped out; None where it has no limit to keep."""
    limit: int | None
    files: int
    complete: bool
    """Every file was looked at."""
    largest: tuple[ShmemFile, ...]


class _Inodes:
    """The inodes of superblocks, on this kernel."""

    def __init__(self, host: Host) -> None:
        """Raises `UnknownLayout`."""
        self.host = host
        self.inode = require(host, "struct inode", "i_sb_list", "i_data")
        self.block = require(host, "struct super_block", "s_inodes", "s_list", "s_op")
        self.mapping = require(host, "struct address_space", "nrpages")

    def pages(self, superblock: int, limit: int) -> list[tuple[int, int]]:
        """(inode, pages in its own mapping) of each inode."""
        at = self.inode["i_data"].offset + self.mapping["nrpages"].offset
        found = []
        head = superblock + self.block["s_inodes"].offset
        for inode in entries(self.host, head, self.inode["i_sb_list"].offset, limit):
            try:
                found.append((inode, u64(self.host, inode + at)))
            except ReadFault:
                continue
        return found

    def path(self, inode: int) -> str:
        """Path from the root of its filesystem; "" for one without a name. Raises
        `UnknownLayout`.
        """
        dentry = require(self.host, "struct dentry")
        # d_alias went into the union d_u: 946e51f2bf37 (3.19).
        alias = dentry.first_of("d_alias", "d_u")
        if alias is None:
            raise UnknownLayout("struct dentry has neither d_alias nor d_u in this kernel")
        try:
            node = u64(self.host, inode + self.inode["i_dentry"].offset)
            return "/".join(["", *self.names(node - alias.offset)]) if node else ""
        except ReadFault:
            return ""

    def names(self, dentry: int, stop: int = 0) -> list[str]:
        """Names from the root of a filesystem, or from `stop`, down to `dentry`. Raises
        `UnknownLayout`.
        """
        layout, name = require(self.host, "struct dentry"), require(self.host, "struct qstr")
        at = layout["d_name"].offset + name["name"].offset
        names: list[str] = []
        for _ in range(_MAX_DEPTH):
            parent = u64(self.host, dentry + layout["d_parent"].offset)
            if parent == dentry or dentry == stop:
                break
            names.append(string(self.host, u64(self.host, dentry + at), _NAME))
            dentry = parent
        return names[::-1]


def buffer_pages(host: Host) -> int | None:
    """Pages of block devices' own page cache: meminfo's Buffers."""
    symbol = host.address_of("blockdev_superblock")
    if symbol is None:
        return None
    try:
        return sum(n for _, n in _Inodes(host).pages(u64(host, symbol), _MAX_INODES))
    except (ReadFault, UnknownLayout):
        return None


def read_tmpfs(host: Host, space: AddressSpace, lacking: Lacking) -> tuple[Tmpfs, ...]:
    """Every shmem filesystem, the largest first."""
    head, operations = host.address_of("super_blocks"), host.address_of("shmem_ops")
    found: list[Tmpfs] = []
    if head is None or operations is None:
        return ()
    with lacking.leaves_out("tmpfs and its kin are not found"):
        inodes = _Inodes(host)
        block, left = inodes.block, _MAX_INODES
        for superblock in entries(host, head, block["s_list"].offset, _MAX_SUPERBLOCKS):
            try:
                if u64(host, superblock + block["s_op"].offset) != operations:
                    continue
                files = inodes.pages(superblock, left)
                complete = len(files) < left
                left -= len(files)
                found.append(_describe(space, inodes, superblock, files, complete, lacking))
            except ReadFault:
                continue
            if left <= 0:
                break
    return tuple(sorted(found, key=lambda t: (-t.bytes, t.mounted)))


def _describe(
    space: AddressSpace,
    inodes: _Inodes,
    superblock: int,
    files: list[tuple[int, int]],
    complete: bool,
    lacking: Lacking,
) -> Tmpfs:
    """What cannot be told of it costs nothing else of it."""
    host, block = inodes.host, inodes.block
    kind = mounted = ""
    used: int | None = None
    limit: int | None = None
    with lacking.leaves_out("kinds of tmpfs are not known"):
        types = require(host, "struct file_system_type")
        pointer = u64(host, superblock + block["s_type"].offset)
        kind = string(host, u64(host, pointer + types["name"].offset), _NAME)
    with lacking.leaves_out("limits of tmpfs are not known"):
        used, limit = _blocks(host, space, u64(host, superblock + block["s_fs_info"].offset))
    with lacking.leaves_out("where tmpfs are mounted is not known"):
        mounted = _mounted(host, inodes, superblock)
    largest = sorted((f for f in files if f[1]), key=lambda f: -f[1])[:_LARGEST]
    names = [""] * len(largest)
    with lacking.leaves_out("files of tmpfs are shown without names"):
        names = [inodes.path(inode) for inode, _ in largest]
    return Tmpfs(
        kind=kind,
        mounted=mounted,
        bytes=sum(n for _, n in files) * space.page_size,
        used=None if used is None else used * space.page_size,
        limit=None if limit is None else limit * space.page_size,
        files=len(files),
        complete=complete,
        largest=tuple(
            ShmemFile(name, n * space.page_size)
            for name, (_, n) in zip(names, largest, strict=True)
        ),
    )


def _blocks(host: Host, space: AddressSpace, info: int) -> tuple[int | None, int | None]:
    """(pages used, pages at most): counted only where there is a limit, shmem_inode_acct_block.
    Raises `UnknownLayout`.
    """
    layout = require(host, "struct shmem_sb_info", "used_blocks", "max_blocks")
    if not info:
        return None, None
    try:
        limit = u64(host, info + layout["max_blocks"].offset)
    except ReadFault:
        return None, None
    if not limit:
        return None, None
    used = percpu_sum(host, space, info + layout["used_blocks"].offset)
    return None if used is None else max(0, used), limit


def _mounted(host: Host, inodes: _Inodes, superblock: int) -> str:
    """Path of the first mount that is in a namespace, as seen from that namespace's root. Raises
    `UnknownLayout`.
    """
    mount, vfs = require(host, "struct mount"), require(host, "struct vfsmount")
    block = inodes.block
    root_at = mount["mnt"].offset + vfs["mnt_root"].offset
    for at in _mounts(host, mount, superblock + block["s_mounts"].offset):
        # NULL and MNT_NS_INTERNAL, an error pointer, are the kernel's own mounts.
        namespace = u64(host, at + mount["mnt_ns"].offset)
        if not namespace or namespace > _LAST_POINTER:
            continue
        names: list[str] = []
        for _ in range(_MAX_DEPTH):
            parent = u64(host, at + mount["mnt_parent"].offset)
            if parent == at:
                return "/" + "/".join(names)
            point = u64(host, at + mount["mnt_mountpoint"].offset)
            names = inodes.names(point, u64(host, parent + root_at)) + names
            at = parent
    return ""


def _mounts(host: Host, mount: Layout, head: int) -> Iterator[int]:
    """The mounts of a superblock: a list, since 6.18 a chain of plain pointers."""
    if "mnt_instance" in mount:
        yield from entries(host, head, mount["mnt_instance"].offset, _MAX_MOUNTS)
    elif "mnt_next_for_sb" in mount:
        at, seen = u64(host, head), set[int]()
        while at and at not in seen and len(seen) < _MAX_MOUNTS:
            seen.add(at)
            yield at
            at = u64(host, at + mount["mnt_next_for_sb"].offset)
    else:
        raise UnknownLayout("struct mount is in no list of its superblock in this kernel")
