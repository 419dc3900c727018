"""The same questions to a dump with its vmlinux and without: their documents must be equal.

`python -m tests.no_debug_info [SCENARIO[@KERNEL]...]` asks all of each form of each dump, both ways
in one process a dump, and prints a table; the status is 1 where documents differ in more than file
and line.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

from crashext.commands import entry
from crashext.commands.opening import open_dump
from crashext.commands.place import Place
from crashext.hosts.base import Host
from crashext.hosts.keeping import Kept
from tests.lab import Dump, build, scenario

SCENARIOS = ("default", "healthy", "innocent")
KERNELS = ("", "@bullseye", "@trixie", "@sid", "@arm64", "@arm64-trixie", "@arm64-16k")
FORMS = ("vmcore", "vmcore.kdump", "vmcore.d31")
"""Those of a dump that are there are asked: a guest of arm64 has no `-d 31`."""
_ANYBODY = "kmalloc-128"
"""The cache where nothing was lost."""


def without_lines(document: Any) -> Any:
    """A document without file and line, which only debug files know."""
    if isinstance(document, dict):
        return {k: without_lines(v) for k, v in document.items() if k != "source"}
    if isinstance(document, str):
        return re.sub(r" \([\w./-]+\.[chS]:\d+\)|^[\w./-]+\.[chS]:\d+; ", "", document)
    return [without_lines(v) for v in document] if isinstance(document, list) else document


def differences(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Where two documents differ, and in what."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from differences(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for i, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{where}[{i}]")
    elif one != other:
        yield f"{where}: {one!r:.120} without, {other!r:.120} with vmlinux"


def alone(dump: Dump, form: str, folder: Path) -> Path:
    """A form of a dump under its own name in a folder where no vmlinux is."""
    path = folder / form
    path.symlink_to(dump.folder / form)
    return path


@dataclass(frozen=True)
class Asked:
    """What one way of opening a dump answered: a document by question, or what was said instead."""

    documents: dict[str, Any]
    said: str


def questions(dump: Dump) -> list[list[str]]:
    """All but objsim's, whose object is one that the cache's document names."""
    parts = dump.truth()["parts"]
    lost = next((parts[part]["cache"] for part in ("nodes",) if part in parts), _ANYBODY)
    return [[], ["--orphans"], [lost], ["--sites", lost]]


def ask_all(dump: Dump, core: Path, symbols: Sequence[Path]) -> Asked:
    """Every question to a dump that is opened once."""
    said = StringIO()
    with redirect_stderr(said):
        try:
            host = open_dump(core, symbols, debuginfod=False)
        except Exception as error:
            return Asked({}, str(error))
        documents = ask(host, dump)
    return Asked(documents, said.getvalue())


def ask(host: Host, dump: Dump) -> dict[str, Any]:
    """Every question to what is open: a document by question."""
    documents: dict[str, Any] = {}
    vars(host)["kept"] = Kept(lambda: 0)
    place = Place("drgn", lambda: host)
    for question in questions(dump):
        text = _printed(partial(entry.leakscan, [*question, "--json"], place))
        documents[" ".join(["leakscan", *question])] = text
        if not question or question[0].startswith("-"):
            continue
        members = re.findall(r'"address": "(0x[0-9a-f]+)"', json.dumps(text))
        if members:
            text = _printed(partial(entry.objsim, [members[0], "--json"], place))
            documents["objsim ADDR"] = text
    return documents


def _printed(command: Any) -> Any:
    out = StringIO()
    with redirect_stdout(out):
        status = command()
    return json.loads(out.getvalue()) if status == 0 else f"status {status}"


@dataclass(frozen=True)
class Row:
    """One form of one dump."""

    name: str
    form: str
    release: str
    wrong: dict[str, list[str]]
    """Differences by question."""
    said: str

    @property
    def cells(self) -> list[str]:
        answers = [str(len(found)) if found else "equal" for found in self.wrong.values()]
        return [self.release, self.name, self.form, *(answers or [self.said])]


def compare(name: str, form: str, dump: Dump) -> Row:
    """All questions to one form of one dump, both ways."""
    with TemporaryDirectory() as folder:
        bare = ask_all(dump, alone(dump, form, Path(folder)), ())
    if not bare.documents:
        return Row(name, form, "", {}, bare.said)
    release = bare.documents["leakscan"]["kernel"]["release"]
    told = ask_all(dump, dump.folder / form, (dump.vmlinux,))
    wrong = {}
    for question, ours in bare.documents.items():
        pair = without_lines(ours), without_lines(told.documents[question])
        wrong[question.split(" ")[-1] if "-" not in question else question] = [*differences(*pair)]
    return Row(name, form, release, wrong, bare.said)


def by_kernel(rows: Sequence[Row]) -> Iterator[list[str]]:
    """The same, a line a kernel: its guests and forms, and how many documents are equal."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.name.partition("@")[2], []).append(row)
    for group in groups.values():
        answers = [found for row in group for found in row.wrong.values()]
        equal = sum(not found for found in answers)
        releases = sorted({row.release for row in group})
        guests = dict.fromkeys(row.name.partition("@")[0] for row in group)
        forms = dict.fromkeys(row.form for row in group)
        outcome = f"{equal} of {len(answers)}" if answers else group[0].said
        yield [", ".join(releases) or group[0].name, ", ".join(guests), ", ".join(forms), outcome]


def main() -> int:
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    heads = ["kernel", "guest", "form", "verdict", "--orphans", "CACHE", "objsim", "--sites CACHE"]
    print("|", " | ".join(heads), "|\n|" + "---|" * len(heads))
    wrong, rows = 0, list[Row]()
    for name in sys.argv[1:] or [f"{s}{kernel}" for kernel in KERNELS for s in SCENARIOS]:
        dump = build(scenario(name))
        for form in FORMS:
            if not (dump.folder / form).exists():
                continue
            row = compare(name, form, dump)
            rows.append(row)
            print("|", " | ".join(row.cells), "|", flush=True)
            for question, found in row.wrong.items():
                wrong += bool(found)
                for difference in found[:20]:
                    print(f"{name} {form}, {question}: {difference}", file=sys.stderr, flush=True)
    print("\n| kernel | guests | forms | documents equal |\n|---|---|---|---|")
    for cells in by_kernel(rows):
        print("|", " | ".join(cells), "|")
    print(f"load after: {os.getloadavg()[0]:.1f}, CPU seconds: {process_time():.0f}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
