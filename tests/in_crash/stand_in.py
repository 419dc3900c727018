"""A stand-in for crash with PyKdump: the same bridge, over a lab dump opened with drgn.

`python stand_in.py CORE VMLINUX` reads command lines on stdin and runs each as crash would, in
this process: `leakscan kmalloc-32`, or `.fds`, which prints open descriptors, children, failed
reads, reads, and the bytes of them that are of the kernel's text. It implements what the bridge
uses of PyKdump's C module, with PyKdump's errors.
"""

from __future__ import annotations

import os
import shlex
import sys
import types
from pathlib import Path
from typing import Any

import drgn
from drgn.helpers.linux.kallsyms import load_module_kallsyms

from crashext.hosts.percpu import PERCPU_END

_PRIMITIVES = {drgn.TypeKind.STRUCT, drgn.TypeKind.UNION}


class CrashError(Exception):
    """`crash.error`"""


class StandIn:
    """The functions of PyKdump's module `crash`, over a drgn program."""

    def __init__(self, core: str, vmlinux: str) -> None:
        self.reads = self.failed_reads = 0
        self.program = drgn.Program()
        self.program.set_core_dump(core)
        self.program.load_debug_info([vmlinux], main=True)
        index = load_module_kallsyms(self.program)
        self.program.register_symbol_finder("module_kallsyms", index, enable_index=-1)
        self.core, self.vmlinux = core, vmlinux
        self.text_bytes, self._text = 0, range(self.sym2addr("_text"), self.sym2addr("_etext"))

    def readmem(self, address: int, size: int) -> bytes:
        self.reads += 1
        if address in self._text:
            self.text_bytes += min(size, self._text.stop - address)
        if not address:
            raise IndexError("NULL pointer")
        direct = address - int(self.program["page_offset_base"].value_())
        try:
            if 0 <= direct < 1 << 46:  # by arithmetic, as crash does it
                return bytes(self.program.read(direct, size, physical=True))
            return bytes(self.program.read(address, size))
        except drgn.FaultError as error:
            self.failed_reads += 1
            raise CrashError(f"read error at {address:#x}") from error

    def addr2sym(self, address: int, loose: int) -> tuple[str | None, int | None]:
        try:
            symbol = self.program.symbol(address)
        except LookupError:
            return None, None
        return symbol.name, address - symbol.address

    def sym2addr(self, name: str) -> int:
        try:
            return int(self.program.symbol(name).address)
        except LookupError:
            return 0

    def symbol_exists(self, name: str) -> int:
        return int(self.sym2addr(name) != 0)

    def gdb_typeinfo(self, name: str) -> dict[str, Any]:
        """Of a type, or of an expression: an enumerator has its enum's type."""
        try:
            found = self.program.type(name)
        except (LookupError, SyntaxError):
            try:
                found = self.program.constant(name).type_
            except LookupError as error:
                raise CrashError("PyKdump/GDB error") from error
            return {"typelength": 4, "edef": [[e.name, e.value] for e in found.enumerators or ()]}
        return {"typelength": found.size, "body": _body(found)}

    def exec_crash_command(self, line: str, quiet: int = 0) -> str:
        if line == "sys":
            release = self.program["UTS_RELEASE"].string_().decode()
            return (
                f"      KERNEL: {self.vmlinux}\n    DUMPFILE: {self.core}  [PARTIAL DUMP]\n"
                f"     RELEASE: {release}\n     MACHINE: x86_64  (2596 Mhz)\n"
            )
        if line == "mod":
            rows = [
                f"ffffffffc0000000  {m.name}  {m.address_ranges[0][0]:x}  "
                f"{m.address_ranges[0][1] - m.address_ranges[0][0]}  (not loaded)\n"
                for m in self.program.modules()
                if isinstance(m, drgn.RelocatableModule) and m.address_ranges
            ]
            return "".join(rows)
        if line == "sym -l":
            # What has an offset and no size is a number that assembler code has a name for.
            kinds = {True: "a", False: "d"}
            return "".join(
                f"{s.address:x} ({kinds[s.address < PERCPU_END and not s.size]}) {s.name}\n"
                for s in self.program.symbols()
            )
        raise CrashError(f"{line.split()[0]}: command not found: {line}")

    def get_epython_cmds(self) -> list[str]:
        return ["epython", "leakscan", "objsim"]


def _body(kind: drgn.Type) -> list[dict[str, Any]]:
    body = []
    for member in kind.members or ():
        inner, dims = member.type, []
        while inner.kind in (drgn.TypeKind.ARRAY, drgn.TypeKind.TYPEDEF):
            if inner.kind == drgn.TypeKind.ARRAY:
                dims.append(inner.length or 0)
            inner = inner.type
        entry: dict[str, Any] = {
            "fname": member.name or "",
            "bitoffset": member.bit_offset,
            "typelength": drgn.sizeof(inner) if inner.kind != drgn.TypeKind.FUNCTION else 1,
        }
        if dims:
            entry["dims"] = dims
        if member.bit_field_size:
            entry["bitsize"] = member.bit_field_size
        if inner.kind in _PRIMITIVES and not member.name:
            entry["body"] = _body(inner)
        body.append(entry)
    return body


def _children() -> int:
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return len(listed)


def main() -> None:
    """Serve command lines until stdin ends."""
    stand_in = StandIn(sys.argv[1], sys.argv[2])
    module: Any = types.ModuleType("crash")
    module.error = CrashError
    for name in dir(stand_in):
        if not name.startswith("_"):
            setattr(module, name, getattr(stand_in, name))
    sys.modules["crash"] = module
    sys.path.insert(0, os.environ["CRASHEXT_INCRASH"])
    import crashext_start

    for line in iter(sys.stdin.readline, ""):
        program, *arguments = shlex.split(line)
        if program == ".fds":
            counts = stand_in.failed_reads, stand_in.reads, stand_in.text_bytes
            print(len(os.listdir("/proc/self/fd")), _children(), *counts)
        else:
            crashext_start.start(program, arguments)
        print("crash>", flush=True)


if __name__ == "__main__":
    main()
