"""Record `sample_sessions/` anew from lab dumps: `python -m tests.record_samples`."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from crashext.commands.entry import leakscan
from tests.lab import build, scenario

FOLDER = Path(__file__).parent.parent / "sample_sessions"


@dataclass(frozen=True)
class Sample:
    """One session: a lab scenario and what was asked of it."""

    name: str
    scenario: str
    question: tuple[str, ...]


SAMPLES = (
    Sample("many-leaks", "default", ()),
    Sample("orphans", "default", ("--orphans",)),
    Sample("unlinked-nodes", "nodes", ("kmalloc-32",)),
    Sample("two-leaks", "twin", ("kmalloc-64",)),
    Sample("living-list", "innocent", ("kmalloc-32", "leaklab_freed", "dentry")),
    Sample("healthy", "healthy", ("kmalloc-32", "kmalloc-64", "dentry", "inode_cache", "filp")),
)


def record(sample: Sample) -> None:
    """Build the dump if need be and record the session with its ground truth."""
    dump = build(scenario(sample.scenario))
    session = FOLDER / f"{sample.name}.session"
    options = ["-c", str(dump.vmcore), "-s", str(dump.vmlinux), "--record", str(session)]
    if leakscan([*options, *sample.question]):
        raise SystemExit(f"recording {sample.name} failed")
    shutil.copyfile(dump.folder / "truth.json", FOLDER / f"{sample.name}.truth.json")


if __name__ == "__main__":
    chosen = sys.argv[1:]
    for each in SAMPLES:
        if not chosen or each.name in chosen:
            record(each)
