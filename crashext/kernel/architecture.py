"""What differs between processors, and no debug info tells: one table, asked by name.

Where memory is mapped is in addresses.py, what page tables look like in pages/pagetables.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from crashext.hosts.arm64 import ARCH as ARM64_NAME
from crashext.hosts.base import Host
from crashext.kernel.access import UnknownLayout


@dataclass(frozen=True)
class Architecture:
    """One processor's ways."""

    name: str
    stack_pointer: int
    """Its number among the registers that a dump notes of each CPU."""
    saved_stack_pointer: tuple[tuple[str, str], ...]
    """(structure, member) on the way from a task_struct to the one of a task that does not run."""
    call: int
    """Bytes of a call instruction."""
    page_sizes: tuple[int, ...]
    section_bits: int
    """SECTION_SIZE_BITS of kernels that do not tell, before 5.14: asm/sparsemem.h."""


X86_64 = Architecture(
    "x86_64",
    19,  # rsp of struct user_regs_struct, arch/x86/include/asm/user_64.h
    (("struct task_struct", "thread"), ("struct thread_struct", "sp")),
    5,
    (4096,),
    27,
)
ARM64 = Architecture(
    ARM64_NAME,
    31,  # sp of struct user_pt_regs, arch/arm64/include/uapi/asm/ptrace.h
    (
        ("struct task_struct", "thread"),
        ("struct thread_struct", "cpu_context"),
        ("struct cpu_context", "sp"),
    ),
    4,
    (4096, 16384, 65536),
    30,
)


def architecture(host: Host) -> Architecture:
    """That of the kernel; raises `UnknownLayout` where it is none of these."""
    info = host.info()
    for known in (X86_64, ARM64):
        if info.arch == known.name:
            if info.page_size not in known.page_sizes:
                raise UnknownLayout(f"pages of {info.page_size:,} bytes are not {info.arch}'s")
            return known
    raise UnknownLayout(f"only x86-64 and arm64 kernels are understood so far, not {info.arch}")
