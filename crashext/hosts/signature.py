"""What the first bytes of a file tell: that it is no dump, or no debug file. Imports nothing."""

from __future__ import annotations

from typing import Literal

ELF = b"\x7fELF"
KDUMP = b"KDUMP   "
FLATTENED = b"makedumpfile\0\0\0\0"
SESSION = b"CRASHEXT-SESSION"
TRACES = (b"\x17\x08\x44tracing", b"PERFILE2", b"2ELIFREP")
"""trace.dat, and perf.data in either byte order."""
COMPRESSED = {b"\x1f\x8b": "gzip", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2"}
OTHERS = (b"DISKDUMP",)
"""diskdump, which netdump-era kernels wrote."""
LENGTH = 18
_ET_CORE = 4


def no_dump(path: object, head: bytes) -> str:
    """Why a file that begins with `head` cannot be a dump; "" where it may be one."""
    if head.startswith(ELF) and len(head) == LENGTH and _type(head) != _ET_CORE:
        return f"{path} is an ELF file but no core dump; -s is for vmlinux, -c a dump"
    if not head.startswith((ELF, KDUMP, FLATTENED, *OTHERS)):
        return f"{path} is not a kernel dump (neither ELF core nor compressed kdump)"
    return ""


def no_debug_file(path: object, head: bytes) -> str:
    """Why a file that begins with `head` cannot be a debug file; "" where it may be one."""
    if not head.startswith(ELF):
        return f"{path} is not an ELF debug file"
    if _type(head) == _ET_CORE:
        return f"{path} is a core dump, no debug file: -c is for dumps, -s for vmlinux"
    return ""


def _type(head: bytes) -> int:
    """e_type, in the order of the header's own EI_DATA."""
    order: Literal["big", "little"] = "big" if head[5:6] == b"\2" else "little"
    return int.from_bytes(head[16:18], order)
