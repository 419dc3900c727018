"""Say anew in crashext/docs/tests.md what `leakscan` says of each guest of the gallery.

`python -m tests.record_guests`; it needs the lab's dumps. The table's rows are the guests of
`tests/end_to_end/test_gallery.py`, in their order.
"""

from __future__ import annotations

from typing import Any

from crashext.wording import size_text
from tests.end_to_end.test_gallery import GUILTY, INNOCENT, overview
from tests.papers import ROOT

PAGE = ROOT / "crashext" / "docs" / "tests.md"
_HEAD = "| guest | `leakscan` says |\n|---|---|\n"


def row(verdict: dict[str, Any]) -> str:
    """A verdict in a few words."""
    if verdict["class"] == "healthy":
        return "**healthy**"
    culprit = verdict["culprit"]
    named = [culprit[what] for what in ("cache", "caller", "process", "mount") if culprit[what]][:1]
    words = "".join(f" `{name}`" for name in named)
    if culprit["module"]:
        words += f" [{culprit['module']}]"
    where = f"{verdict['where']}:{words}" if words else verdict["where"]
    return f"**{verdict['class']}**, {where}, {size_text(verdict['bytes'])}"


def main() -> None:
    """Rewrite the second column."""
    before, table = PAGE.read_text().split(_HEAD)
    rows, _, after = table.partition("\n\n")
    said = []
    for line, guest in zip(rows.splitlines(), (*GUILTY, *INNOCENT), strict=True):
        verdicts = overview(guest)["verdicts"]
        what = line.split(" | ")[0]
        said.append(f"{what} | {'; '.join(row(v) for v in verdicts)} |")
    PAGE.write_text(before + _HEAD + "\n".join(said) + "\n\n" + after)


if __name__ == "__main__":
    main()
