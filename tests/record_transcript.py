"""Record what sample_sessions/ shows of a crash session:

`CRASHEXT_PYKDUMP=…/mpykdump64.so python -m tests.record_transcript`, after the session beside it
(`python -m tests.record_samples unlinked-nodes`): both are of one dump.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from tests.in_crash.test_crash import Crash
from tests.record_samples import FOLDER

LINES = (
    "extend leakscan.py",
    "kmem -S kmalloc-32 | tail -4",
    "leakscan",
    "leakscan kmalloc-32 | head -13",
    "leakscan --orphans | head -9",
    "leakscan kmaloc-32",
)


def main() -> None:
    """Write the transcript."""
    with tempfile.TemporaryDirectory() as home:
        build = os.environ["CRASHEXT_PYKDUMP"].split(":")[0]
        crash = Crash(Path(home), build, "vmcore", "nodes", window=(24, 80))
        said = "\n".join(f"crash> {line}\n{_still(crash.ask(line))}\n" for line in LINES)
        crash.quit()
    (FOLDER / "unlinked-nodes.crash.txt").write_text(said)


def _still(text: str) -> str:
    """Without the progress bar, which erases itself on a terminal."""
    return re.sub(
        r"^.*[━╸╺](?: +[0-9]+%)?(?: +[0-9]+ (?:s|min) left)?", "", text, flags=re.MULTILINE
    ).strip("\n")


if __name__ == "__main__":
    main()
