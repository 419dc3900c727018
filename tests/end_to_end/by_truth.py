"""The leaking function of each guilty part of the lab's guests, beside what the code alone says.

`python -m tests.end_to_end.by_truth GUEST …` prints a table: which function is first, whether it is
called likely, and whether the place in it is right.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from crashext.hosts.base import Host
from crashext.kernel.architecture import architecture
from crashext.kernel.origin.thunks import meant
from tests.conftest import ask, lab_dump, lab_host, on
from tests.end_to_end.guests import addresses
from tests.lab.functions import FUNCTIONS

_BEYOND = {"vmalloc": "vmalloc", "pages0": "pages"}
"""Of what is no slab object: the kind that `--orphans` gives it."""


@dataclass(frozen=True)
class Said:
    """What is said of one guilty part."""

    part: str
    function: str
    """Its own, by the module's source."""
    first: str
    """The function that comes first; "" for none."""
    probability: float
    clear: bool
    """It is called likely."""
    placed: bool
    """The place in it is one that calls what it is said to call."""

    @property
    def right(self) -> bool:
        """The true function is first, alone, at a call of an allocator."""
        mine = self.first.partition(".")[0] == self.function
        return mine and self.clear and self.placed


def said(name: str) -> Iterator[Said]:
    """Of each guilty part that the guest's module allocated."""
    for part, facts in lab_dump(name).truth()["parts"].items():
        if not facts["guilty"] or part not in FUNCTIONS:
            continue
        if part in _BEYOND:
            callers = _beyond(name, _BEYOND[part])
        elif facts["cache"]:
            callers = _of_objects(name, part, facts["cache"])
        else:
            continue
        if callers is None:
            yield Said(part, FUNCTIONS[part], "", 0.0, False, False)
            continue
        first = callers["sites"][0]
        yield Said(
            part,
            FUNCTIONS[part],
            first["site"]["function"],
            first["probability"],
            callers["clear"],
            placed(lab_host(name), first["site"]),
        )


def _of_objects(name: str, part: str, cache: str) -> dict[str, Any] | None:
    """Of the largest group of the part's objects."""
    mine = set(addresses(name, part).tolist())
    report = ask("leakscan", *on(name), cache, "--json").document
    for group in report["caches"][0]["groups"]:
        if int(group["exemplar"], 16) in mine:
            return dict(group["callers"]) if group["callers"] else None
    return None


def _beyond(name: str, kind: str) -> dict[str, Any] | None:
    report = ask("leakscan", *on(name), "--orphans", "--json").document
    found = (m["callers"] for m in report["memory"] if m["kind"] == kind and m["module"])
    return next(found, None)


def placed(host: Host, site: dict[str, Any]) -> bool:
    """Whether the instruction before the place is a call of what it is said to call."""
    at, length = int(site["address"], 16), architecture(host).call
    symbol = host.symbol_at(at)
    if symbol is None or symbol.address + site["offset"] != at + length:
        return False
    code = host.read(at, length)
    if length == 5:
        distance = int.from_bytes(code[1:], "little", signed=True) + length
    else:
        word = int.from_bytes(code, "little") & 0x3FFFFFF
        distance = 4 * (word - (word >> 25 << 26))
    called = host.symbol_at(meant(host, at + distance))
    return called is not None and called.name == site["calls"]


def main(names: list[str]) -> None:
    for name in names:
        for one in said(name):
            outcome = "right" if one.right else "NOT RIGHT"
            how = "likely" if one.clear else "not told"
            where = "" if one.placed else ", at no call of it"
            print(
                f"{name:22} {one.part:10} {outcome:10} {one.function}: "
                f"{one.first or 'nobody'} {one.probability:.3f} {how}{where}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
