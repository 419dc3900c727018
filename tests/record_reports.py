"""Write `sample_sessions/` as pages into reports/: `python -m tests.record_reports`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from crashext.commands.entry import leakscan
from tests.record_samples import FOLDER, SAMPLES

REPORTS = Path("reports")


def main() -> int:
    """The first status that is not 0."""
    REPORTS.mkdir(exist_ok=True)
    for sample in SAMPLES:
        page = REPORTS / f"{sample.name}.html"
        session = str(FOLDER / f"{sample.name}.session")
        with redirect_stdout(StringIO()):
            status = leakscan(["-r", session, *sample.question, "--html", str(page)])
        if status:
            return status
        print(f"{page}: {page.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
