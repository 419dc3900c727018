"""Write the reports of `sample_sessions/` as pages into gallery/, with a page that leads to them:
`python -m tests.record_gallery [FOLDER]`."""

from __future__ import annotations

import shlex
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from jinja2 import Environment

from crashext.commands.entry import leakscan
from tests.record_samples import FOLDER, SAMPLES, Sample

GALLERY = Path("gallery")
_INDEX = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>crashext: reports of the sample sessions</title>
<style>body { max-width: 50rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 sans-serif; }
dt { margin-top: 1rem; } dd { margin: 0; } code { font-size: .9rem; }</style>
<h1>Reports of the sample sessions</h1>
<dl>
{% for room in rooms %}
<dt><a href="{{ room.page }}">{{ room.name }}</a> <code>{{ room.command }}</code></dt>
<dd>{{ room.answer }}</dd>
{% endfor %}
</dl>
</html>
"""


@dataclass(frozen=True)
class Room:
    """One report of the gallery."""

    name: str
    page: str
    command: str
    answer: str
    """Its first line."""


def hung(sample: Sample, folder: Path) -> Room:
    """Write one report."""
    page = f"{sample.name}.html"
    session = f"sample_sessions/{sample.name}.session"
    asked = ["-r", str(FOLDER / f"{sample.name}.session"), *sample.question]
    said = StringIO()
    with redirect_stdout(said):
        status = leakscan([*asked, "--html", str(folder / page)])
    if status:
        raise SystemExit(status)
    command = shlex.join(["leakscan", "-r", session, *sample.question])
    answer = " ".join(said.getvalue().split("\n  ")[0].split())
    return Room(sample.name, page, command, answer)


def hang(folder: Path) -> tuple[Room, ...]:
    """Write all of them, and their index."""
    folder.mkdir(exist_ok=True)
    rooms = tuple(hung(sample, folder) for sample in SAMPLES)
    index = Environment(autoescape=True, trim_blocks=True).from_string(_INDEX)
    (folder / "index.html").write_text(index.render(rooms=rooms))
    return rooms


if __name__ == "__main__":
    gallery = Path(sys.argv[1]) if sys.argv[1:] else GALLERY
    for room in hang(gallery):
        print(f"{gallery / room.page}: {(gallery / room.page).stat().st_size:,} bytes")
    print(gallery / "index.html")
