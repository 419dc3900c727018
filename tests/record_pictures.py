"""Take README's two pictures of pages anew, in Chromium: `python -m tests.record_pictures`."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from crashext.commands.entry import leakscan
from tests.end_to_end.browser import Browser
from tests.papers import ROOT

FOLDER = ROOT / "crashext" / "docs"
_WIDTH = 860
PICTURES = {
    "report-verdict": ("many-leaks", (), "header", 880),
    "report-group": ("unlinked-nodes", ("kmalloc-32",), "article", 880),
}
"""Name -> session, what is asked of it, the element that the picture begins with, its height."""


def main() -> None:
    with TemporaryDirectory() as folder:
        browser = Browser(Path(folder) / "profile")
        browser.window(_WIDTH, 640)
        for name, (session, asked, first, height) in PICTURES.items():
            page = Path(folder) / f"{name}.html"
            source = str(ROOT / "sample_sessions" / f"{session}.session")
            with redirect_stdout(StringIO()):
                assert leakscan(["-r", source, *asked, "--html", str(page)]) == 0
            browser.open(page)
            top = browser.evaluate(f"document.querySelector('{first}').getBoundingClientRect().y")
            picture = browser.picture(max(0, top - 12), height)
            (FOLDER / f"{name}.png").write_bytes(picture)
            print(f"{name}: {len(picture):,} bytes")
        browser.close()


if __name__ == "__main__":
    main()
