"""The ground truth of a dump: what the guest logged and handed out, checked, as plain JSON."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from array import array
from pathlib import Path
from typing import Any

from .errors import LabError
from .functions import FUNCTIONS
from .scenarios import Scenario
from .verdicts import verdicts

VERSION = 2
ADDRESS_MASK = 0xA5C35A3C96690FF0
"""Of ``module/table.c``: the guest's memory must not hold the table of addresses in plain."""

_LINE = re.compile(r"leaklab: (\w+=\S+(?: \w+=\S+)*)$", re.MULTILINE)
_MEMINFO = re.compile(r"^lab: meminfo\n((?:[\w()]+: +\d+(?: kB)?\n)+)lab: ready$", re.MULTILINE)
_CHUNK = 1 << 20


def unpack_disk(disk: Path, into: Path) -> None:
    """Unpack the tar archive that the guest wrote to a raw disk."""
    try:
        with tarfile.open(disk, "r:") as archive:
            for member in archive:
                _unpack_file(archive, member, into)
    except tarfile.TarError as error:
        raise LabError(f"the guest left no archive on {disk.name}: {error}") from None


def _unpack_file(archive: tarfile.TarFile, member: tarfile.TarInfo, into: Path) -> None:
    # By hand: Debian 12's Python is too old for extractall(filter="data").
    source = archive.extractfile(member) if member.isfile() else None
    if source is None:
        return
    target = into / member.name
    if not target.resolve().is_relative_to(into.resolve()):
        raise LabError(f"the guest's archive leaves its folder: {member.name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as out:
        shutil.copyfileobj(source, out, _CHUNK)


def unmask(folder: Path) -> None:
    """Take the mask off every table of addresses in `folder`."""
    for path in folder.glob("*.bin"):
        plain = path.with_suffix(".plain")
        with path.open("rb") as source, plain.open("wb") as target:
            while chunk := source.read(_CHUNK):
                # One number of a million bytes: much faster than a million numbers.
                mask = ADDRESS_MASK.to_bytes(8, "little") * (len(chunk) // 8)
                number = int.from_bytes(chunk, "little") ^ int.from_bytes(mask, "little")
                target.write(number.to_bytes(len(chunk), "little"))
        plain.rename(path)


def read_addresses(path: Path) -> array[int]:
    """The addresses of one part, in the order in which they were allocated."""
    addresses = array("Q")
    addresses.frombytes(path.read_bytes())
    return addresses


def meminfo(console: str) -> str:
    """The guest's /proc/meminfo as it printed it on its console, the last time it did."""
    printed = _MEMINFO.findall(console.replace("\r", ""))
    if not printed:
        raise LabError("the guest printed no /proc/meminfo, or something in between")
    return str(printed[-1])


def collect(scenario: Scenario, out: Path, addresses: Path) -> dict[str, Any]:
    """Make the truth out of the guest's files in `out` and the tables in `addresses`."""
    slots = _slot_sizes((out / "proc" / "slabinfo").read_text())
    parts: dict[str, dict[str, Any]] = {}
    for line in _LINE.findall((out / "dmesg").read_text()):
        values = dict(word.split("=", 1) for word in line.split(" "))
        if "pointer" in values:
            parts[values["part"]]["pointers"][values["pointer"]] = values["address"]
        elif "part" in values:
            parts[values["part"]] = _part(values, addresses, slots)
        elif values.get("done", "0") != "0":
            raise LabError(f"the leak module failed with error {values['done']}")
    _check_counts(scenario, parts)
    _check_files(scenario, (out / "dmesg").read_text())
    processes = _processes(out)
    worst, *also = verdicts(scenario.parameters, parts, processes, slots)
    return {
        "version": VERSION,
        "kernel": (out / "release").read_text().strip(),
        "scenario": scenario.name,
        "parameters": dict(scenario.parameters),
        "cmdline": (out / "cmdline").read_text().strip(),
        "memory": scenario.memory,
        "module": _module(out),
        "verdict": worst.as_json(),
        "also": [verdict.as_json() for verdict in also],
        "parts": parts,
    }


def write(path: Path, truth: dict[str, Any]) -> None:
    """Write `truth` to `path`."""
    path.write_text(json.dumps(truth, indent=1) + "\n")


def _part(values: dict[str, str], folder: Path, slots: dict[str, int]) -> dict[str, Any]:
    name, count = values["part"], int(values["count"])
    file = folder / f"{name}.bin"
    addresses = read_addresses(file) if file.is_file() else array("Q")
    ends = [f"0x{address:016x}" for address in (addresses[0], addresses[-1])] if addresses else []
    if len(addresses) != count or ends != [values["first"], values["last"]]:
        raise LabError(f"{file} does not agree with what the guest logged of {name}")
    caches = [] if values["cache"] == "-" else values["cache"].split(",")
    caches = list(dict.fromkeys(_present(cache, slots) for cache in caches))
    cache = caches[0] if len(caches) == 1 else None
    return {
        "guilty": values["guilty"] == "1",
        "count": count,
        # 0: objects of the allocator's own size, or of many sizes.
        "size": int(values["size"]) or (slots.get(cache) if cache else None),
        "cache": cache,
        "caches": caches,
        "first": values["first"],
        "last": values["last"],
        "pointers": {},
        "addresses": f"addresses/{name}.bin",
        "function": FUNCTIONS.get(name),
    }


def _present(cache: str, slots: dict[str, int]) -> str:
    """The smallest kmalloc cache that is there and large enough.

    DMA may forbid small ones, and SLAB of 3.10 names two after its own array caches and nodes.
    """
    if cache in slots or not cache.startswith("kmalloc-"):
        return cache
    size = int(cache.removeprefix("kmalloc-"))
    larger = {int(m[1]): name for name in slots if (m := re.fullmatch(r"kmalloc-(\d+)", name))}
    larger |= {slots[name]: name for name in ("kmalloc-ac", "kmalloc-node") if name in slots}
    return larger[min(n for n in larger if n >= size)]


def _check_counts(scenario: Scenario, parts: dict[str, dict[str, Any]]) -> None:
    """Every part that the scenario asked for must be there, as large as asked for."""
    asked = scenario.parameters
    expected = {
        name: asked[name]
        for name in (
            *("nodes", "nodes_later", "private", "tasks", "messages", "sessions", "requests"),
            *("living", "leases", "rcu_calls", "rcu_frees"),
        )
        if asked.get(name)
    }
    if asked.get("leases"):
        expected["clients"] = asked["leases"]
    if asked.get("pools"):
        expected |= dict.fromkeys(("pool_listed", "pool_ring", "vmaps"), asked["pools"])
    if asked.get("chains"):
        expected["chain"] = asked["chains"] * asked.get("chain_length", 200)
    if asked.get("vmallocs"):
        expected["vmalloc"] = asked["vmallocs"]
    for order in range(4 if asked.get("pages") else 0):
        expected[f"pages{order}"] = asked["pages"]
    for name, count in expected.items():
        got = parts[name]["count"] if name in parts else 0
        if got != count:
            raise LabError(f"the guest made {got} of {count} {name}")
    freed = sum(parts[name]["count"] for name in ("freed", "freed_kept") if name in parts)
    if freed != asked.get("freed", 0):
        raise LabError(f"the guest made {freed} of {asked['freed']} freed objects")


def _check_files(scenario: Scenario, dmesg: str) -> None:
    """The module that loses files says how many."""
    asked = scenario.parameters.get("lost_files", 0)
    if asked and f"lostfiles: {asked} files\n" not in dmesg:
        raise LabError(f"the guest did not lose {asked} files")


def _processes(out: Path) -> dict[str, tuple[int, str]]:
    """PID and comm of the processes that hold something, by what they hold."""
    listed = out / "processes"
    if not listed.is_file():
        return {}
    found = {}
    for line in listed.read_text().splitlines():
        what, pid, comm = re.split("[= ]", line, maxsplit=2)
        found[what] = (int(pid), comm)
    return found


def _slot_sizes(slabinfo: str) -> dict[str, int]:
    """Cache name -> bytes from one object to the next (metadata of the cache included)."""
    rows = (line.split() for line in slabinfo.splitlines()[2:])
    return {row[0]: int(row[3]) for row in rows}


def _module(out: Path) -> dict[str, Any] | None:
    """Where the leak module was loaded; None when it was not."""
    for line in (out / "proc" / "modules").read_text().splitlines():
        name, size, *_, address = line.split(" (")[0].split()
        if name == "leaklab":
            sections = (out / "sections").read_text().splitlines()
            return {
                "name": name,
                "base": address,
                "size": int(size),
                "sections": dict(section.split(" ", 1) for section in sections),
            }
    return None
