"""Write README's table of kernels from a run of the tests on them: `make test-kernels`.

`python -m tests.record_support REPORT.xml`, which pytest wrote with `--junit-xml`. A kernel's row
is what the tests noted of it (`record_property`), all of which must have passed; rows of kernels
that this run did not test stay as they are.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- kernels: written by make test-kernels -->\n", "<!-- kernels: end -->\n"
HEAD = (
    "| kernel | built for | objects equal to drgn's | leaks found | innocents accused "
    "| right verdicts | forms of a dump | tested |\n|---|---|---|---|---|---|---|---|\n"
)
_NAME = re.compile(r"\[(?:[\w-]+-)?([\w-]+)(?:@([\w-]+))?\]$")


@dataclass
class Tested:
    """What the tests noted of one kernel."""

    wrong: list[str] = field(default_factory=list)
    """Tests that did not pass."""
    passed: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Tests that did, by function."""
    noted: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def total(self, name: str) -> int:
        return sum(map(int, self.noted[name]))

    def count(self, name: str) -> str:
        """The sum; "" where no test noted any."""
        return f"{self.total(name):,}" if self.noted[name] else ""

    def row(self, today: date) -> str:
        """Its row of the table."""
        lost = self.total("lost")
        found = f"{100 * self.total('found') / lost:.1f} % of {lost:,}" if lost else ""
        cells = [
            self.noted["release"][0],
            ", ".join(dict.fromkeys(self.noted["built for"])),
            f"{self.total('objects'):,} in {self.total('caches'):,} caches",
            found,
            self.count("innocents"),
            self.count("verdicts"),
            ", ".join(dict.fromkeys(self.noted["form"])),
            ", ".join([today.isoformat(), *dict.fromkeys(self.noted["tested"])]),
        ]
        return f"| {' | '.join(cells)} |"


def read(report: Path) -> dict[str, Tested]:
    """By the kernel's name in the lab; tests of no kernel, and skipped ones, are left out."""
    kernels: dict[str, Tested] = defaultdict(Tested)
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("name", "")
        match = _NAME.search(name)
        if match is None or case.find("skipped") is not None:
            continue
        kernel = kernels[match[2] or "bookworm"]
        if case.find("failure") is not None or case.find("error") is not None:
            kernel.wrong.append(name)
            continue
        kernel.passed[name.split("[")[0]] += 1
        for noted in case.iter("property"):
            kernel.noted[noted.get("name", "")].append(noted.get("value", ""))
    return dict(kernels)


def table(before: str, kernels: dict[str, Tested], today: date) -> str:
    """The table's rows, those of `before` that are not of `kernels` among them, newest first."""
    rows = {_release(row): row for row in before.splitlines() if row.startswith("| ")}
    rows.pop("kernel", None)
    for kernel in kernels.values():
        if kernel.noted["release"]:
            row = kernel.row(today)
            rows[_release(row)] = row
    return HEAD + "".join(f"{rows[r]}\n" for r in sorted(rows, key=_version, reverse=True))


def _release(row: str) -> str:
    return row.split("|")[1].strip()


def _version(release: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", release)]


def write(kernels: dict[str, Tested], page: Path, today: date) -> None:
    """Put the table into `page`."""
    text = page.read_text()
    head, rest = text.split(BEGIN)
    before, tail = rest.split(END)
    page.write_text(head + BEGIN + table(before, kernels, today) + END + tail)


def main(arguments: Iterable[str]) -> int:
    (report,) = arguments
    kernels = read(Path(report))
    wrong = [name for kernel in kernels.values() for name in kernel.wrong]
    if wrong:
        print(f"the table stays as it is: {len(wrong)} tests did not pass", file=sys.stderr)
        return 1
    write(kernels, README, date.today())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
