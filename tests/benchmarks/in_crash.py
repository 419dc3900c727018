"""What commands cost inside crash: CPU seconds of crash and of its engine, in one session.

`CRASHEXT_PYKDUMP=…/mpykdump64.so python -m tests.benchmarks.in_crash [SCENARIO]`: first and second
time of each line, in fresh sessions; then, on the default dump, what follows a verdict. With
`mistakes` in place of a scenario: each of them, twice, as the first of a session.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import lab_dump
from tests.in_crash.test_crash import Crash
from tests.lab import read_addresses

_MISTAKES = (
    "leakscan --nonsense",
    "leakscan no-such",
    "leakscan kmalloc-32 no-such",
    "leakscan --sites no-such",
    "leakscan --sites",
    "leakscan --jobs 0",
    "leakscan kmalloc-32 --threshold 7",
    "leakscan --before /nonexistent",
    "leakscan --before garbage",
    "leakscan --before folder",
    "leakscan --trace /nonexistent",
    "leakscan --trace garbage",
    "leakscan --trace text",
    "leakscan --record /nowhere/x",
    "leakscan --html /nowhere/p.html",
    "leakscan --list x",
    "leakscan --live 3",
    "leakscan -c foo",
    "leakscan --json why",
    "leakscan why kmalloc-32",
    "leakscan growth",
    "objsim",
    "objsim no_such_symbol",
    "objsim ffff",
    "objsim ffff8881234567890123",
    "objsim --as no_such_struct linux_banner",
    "objsim --text nothere --size 8",
    "objsim --text garbage --size 8",
    "objsim --size 8 linux_banner",
    "objsim --list linux_banner linux_banner",
    "leakscan -h",
)
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu(process: int) -> float:
    """CPU seconds of a process and of its children that have ended."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / _TICKS


def spent(crash: Crash) -> tuple[float, float]:
    """CPU seconds so far of crash, and of its engine."""
    return cpu(crash.terminal.pid), sum(cpu(engine) for engine in crash.engines())


def measure(scenario: str, lines: tuple[str, ...]) -> None:
    """Print a row a line: what it cost in a session where those before it were typed."""
    with tempfile.TemporaryDirectory() as home:
        build = os.environ["CRASHEXT_PYKDUMP"].split(":")[0]
        for name, content in (("garbage", bytes(range(256)) * 16), ("text", b"text\n" * 50)):
            Path(home, name).write_bytes(content)
        Path(home, "folder").mkdir()
        crash = Crash(Path(home), build, "vmcore", scenario)
        for line in lines:
            before, begun = spent(crash), time.perf_counter()
            crash.ask(line)
            took, after = time.perf_counter() - begun, spent(crash)
            ours, engines = after[0] - before[0], after[1] - before[1]
            print(f"| `{line}` | {ours + engines:.2f} | {ours:.2f} | {engines:.2f} | {took:.2f} |")
        crash.quit()


def main() -> None:
    """Print the table for README.md of this folder."""
    scenario = sys.argv[1] if len(sys.argv) > 1 else "default"
    # As installed: our modules are compiled once, unless the environment forbids to keep that.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    print("| typed, in this order | CPU seconds | in crash | in the engine | elapsed |")
    print("|---|---|---|---|---|")
    if scenario == "mistakes":
        for line in _MISTAKES:
            measure("default", (line, line))
        return
    verdict = ("kmem -s", "leakscan", "leakscan")
    if scenario != "default":
        measure(scenario, verdict)
        return
    node = read_addresses(lab_dump("default").addresses("nodes"))[7]
    some = f"objsim {node:x}"
    measure("default", ("leakscan -h", "leakscan -h"))
    measure("default", ("leakscan --nonsense", "leakscan kmaloc-32", "leakscan kmaloc-32"))
    measure("default", ("kmem -s kmalloc-32", *["leakscan kmalloc-32"] * 2, some, some))
    measure("default", (*verdict, some, "leakscan kmalloc-32", "leakscan dentry", "leakscan -h"))


if __name__ == "__main__":
    main()
