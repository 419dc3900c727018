"""What it costs to open a dump with its debug files, and without.

`python -m tests.benchmarks.opening`: each in a process of its own, imports included; then a type, a
symbol and the module list are asked for. The best of three for time, the worst for memory.
"""

from __future__ import annotations

import os
import sys

from tests.lab import Dump, build, scenario

from .scan import measure

CODE = (
    "import sys; from pathlib import Path; import crashext.commands.running; "
    "from crashext.commands.opening import open_dump; "
    "host = open_dump(Path(sys.argv[1]), [Path(a) for a in sys.argv[2:]]); "
    "host.layout('struct page'); host.modules(); host.symbol_at(host.address_of('vfs_read'))"
)


def opened(dump: Dump, form: str, *symbols: object) -> str:
    command = [sys.executable, "-c", CODE, str(dump.folder / form), *map(str, symbols)]
    runs = [measure(command) for _ in range(3)]
    return f"{min(r.seconds for r in runs):.1f} s | {max(r.peak_mib for r in runs):.0f} MiB"


def main() -> None:
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    print("| dump | debug files | time | peak memory |\n|---|---|---|---|")
    for name, form in (("default", "vmcore"), ("default", "vmcore.d31"), ("huge", "vmcore")):
        dump = build(scenario(name))
        print(f"| {name}, {form} | none | {opened(dump, form)} |")
        print(f"| {name}, {form} | vmlinux | {opened(dump, form, dump.vmlinux)} |")


if __name__ == "__main__":
    main()
