"""What it costs to open a dump with its debug files, and without: CPU seconds, and memory.

`python -m tests.benchmarks.opening [SCENARIO...]`: each in a process of its own; a type, a symbol
and the module list are asked for, too. The best of three for time, the worst for memory.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.lab import build, scenario
from tests.no_debug_info import alone

from .scan import measure

_IMPORTS = "import sys; from pathlib import Path; import crashext.commands.running; import drgn; "
_OPENED = (
    "from crashext.commands.opening import open_dump; "
    "host = open_dump(Path(sys.argv[1]), [Path(a) for a in sys.argv[2:]]); "
    "host.layout('struct page'); host.modules(); host.symbol_at(host.address_of('vfs_read'))"
)
_FORMS = ("vmcore", "vmcore.kdump", "vmcore.d31")


def _cost(code: str, *arguments: Path) -> tuple[float, float]:
    """(CPU seconds, MiB)"""
    runs = [measure([sys.executable, "-c", code, *map(str, arguments)]) for _ in range(3)]
    return min(run.cpu for run in runs), max(run.peak_mib for run in runs)


def main() -> None:
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    imports, memory = _cost(_IMPORTS)
    print("| dump | debug files | CPU seconds | of them opening | peak memory |")
    print("|---|---|---|---|---|")
    print(f"| imports alone | | {imports:.2f} | | {memory:.0f} MiB |")
    for name in sys.argv[1:] or ["default", "default@bullseye", "huge"]:
        dump = build(scenario(name))
        for form in _FORMS:
            for files in ((), (dump.vmlinux,)):
                with TemporaryDirectory() as folder:  # where no vmlinux lies beside it
                    core = alone(dump, form, Path(folder))
                    cpu, memory = _cost(_IMPORTS + _OPENED, core, *files)
                cells = (
                    f"{name}, {form}",
                    "vmlinux" if files else "none",
                    f"{cpu:.2f}",
                    f"{cpu - imports:.2f}",
                    f"{memory:.0f} MiB",
                )
                print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
