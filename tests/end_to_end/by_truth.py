"""The function that allocated each part of the lab's guests, beside what the code alone says.

`python -m tests.end_to_end.by_truth GUEST …` prints a table: which function is first, whether it is
called likely, and whether the place in it and its line of source are right. test_by_truth.py asks
the same.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from crashext.analysis.origin.places import source_of
from crashext.hosts.base import Host
from crashext.kernel.architecture import architecture
from crashext.kernel.origin.thunks import meant
from tests.conftest import ask, lab_dump, lab_host, on, opened
from tests.end_to_end.guests import addresses, census

_BEYOND = {"vmalloc": "vmalloc", "pages0": "pages"}
"""Of what is no slab object: the kind that `--orphans` gives it."""
_SAME = ("pages1", "pages2", "pages3", "nodes_later")
"""Parts that are one group with another: pages of all orders, and nodes that were lost later."""
_GONE = ("freed",)
"""Of freed objects nothing is asked."""
_HELD = ("messages", "rcu_calls", "rcu_frees")
"""Of what is no orphan: a list or RCU holds them."""
_SOURCES = Path(__file__).parents[1] / "lab" / "module"
_ASKS = re.compile(r"\b(k[mz]alloc|kmem_cache_z?alloc|v[mz]?alloc|alloc_page|__get_free_page)\w*\(")
_BEGINS = re.compile(r"\w[^=;]*?\b(\w+)\(.*(?<!;)")


@dataclass(frozen=True)
class Said:
    """What is said of one part: of the largest group of its objects."""

    part: str
    guilty: bool
    function: str
    """Its own, by the module's source."""
    first: str
    """The function that comes first; "" for none."""
    probability: float
    clear: bool
    """It is called likely."""
    placed: bool
    """The place in it is one that calls what it is said to call."""
    address: int
    """Of that call; 0 for none."""
    known: str
    """The line of source that the report has, without the module's debug info."""
    others: tuple[str, ...]
    """Functions that are called likely for other groups of the part."""

    @property
    def right(self) -> bool:
        """The true function is first, alone, at a call of an allocator, and no other is named."""
        mine = named(self.first) == self.function
        return mine and self.clear and self.placed and {*self.others} <= {self.function}

    def line(self, name: str) -> str:
        """The line of source on a guest, with the module's debug info."""
        dump = lab_dump(name)
        debug = dump.vmlinux, dump.vmcore.with_name("leaklab.ko")
        return source_of(opened(dump.vmcore, debug), self.address)

    def line_is_right(self, name: str) -> bool:
        """It asks for memory, in the function, by the text of the source."""
        path, _, number = self.line(name).partition(":")
        # Built in a folder of another name for another suite's kernel.
        source = _SOURCES / PurePath(path).name
        if not number or not source.is_file():
            return False
        lines = source.read_text().splitlines()[: int(number)]
        begun = [m[1] for line in lines if (m := _BEGINS.fullmatch(line))]
        return begun[-1:] == [self.function] and _ASKS.search(lines[-1]) is not None


def named(function: str) -> str:
    """By its source: ``leak_session.isra.0`` is a clone that the compiler made."""
    return function.partition(".")[0]


def said(name: str, guilty: bool = True, only: str = "") -> Iterator[Said]:
    """Of each part that the guest's module allocated, or `only` of one; with `guilty` False, of
    those that nobody lost."""
    for part, facts in lab_dump(name).truth()["parts"].items():
        asked = facts["guilty"] is guilty and facts["function"] and only in ("", part)
        if not asked or part in (*_SAME, *_GONE):
            continue
        if part in _BEYOND:
            callers = _beyond(name, _BEYOND[part])
        elif facts["caches"]:
            callers = _of_objects(name, facts, guilty and part not in _HELD)
        else:
            continue
        yield _said(name, part, facts, callers)


def _said(name: str, part: str, facts: dict[str, Any], callers: list[dict[str, Any]]) -> Said:
    about = part, facts["guilty"], facts["function"]
    if not callers:
        return Said(*about, "", 0.0, False, False, 0, "", ())
    first, *others = callers
    best = first["sites"][0]
    return Said(
        *about,
        best["site"]["function"],
        best["probability"],
        first["clear"],
        placed(lab_host(name), best["site"]),
        int(best["site"]["address"], 16),
        best["site"]["source"],
        tuple(named(c["sites"][0]["site"]["function"]) for c in others if c["clear"]),
    )


def _of_objects(name: str, facts: dict[str, Any], lost: bool) -> list[dict[str, Any]]:
    """Of the groups of the part's objects, the largest first; a function's parts are one."""
    parts = lab_dump(name).truth()["parts"].items()
    same = [part for part, others in parts if others["function"] == facts["function"]]
    mine = {address for part in same for address in addresses(name, part).tolist()}
    if lost:
        groups = sorted(_of(census(name)["orphans"], mine), key=lambda g: -int(g["objects"]))
    else:
        report = ask("leakscan", *on(name), *facts["caches"], "--json").document
        groups = _of([g for c in report["caches"] for g in c["groups"]], mine)
    return [g["callers"] for g in groups if g["callers"]]


def _of(groups: list[dict[str, Any]], mine: set[int]) -> list[dict[str, Any]]:
    return [g for g in groups if int(g["exemplar"], 16) in mine]


def _beyond(name: str, kind: str) -> list[dict[str, Any]]:
    memory = census(name)["memory"]
    return [m["callers"] for m in memory if m["kind"] == kind and m["module"] and m["callers"]]


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
        for one in [*said(name), *said(name, guilty=False)]:
            outcome = "right" if one.right else "NOT RIGHT"
            how = "likely" if one.clear else "not told"
            where = "" if one.placed else ", at no call of it"
            line = "" if one.line_is_right(name) else " WRONG LINE"
            others = f" others: {one.others}" if one.others else ""
            print(
                f"{name:22} {'guilty' if one.guilty else 'innocent':8} {one.part:10} {outcome:10} "
                f"{one.function}: {one.first or 'nobody'} {one.probability:.3f} {how}{where}; "
                f"{one.line(name) or 'no source'}{line}{others}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
