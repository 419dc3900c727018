"""How the verdict's cost grows, 200,000 objects to 17 thousand million: ``python -m
tests.benchmarks.sizes [PLOT.svg]``.

Whole processes over the lab's `nodes` and `huge`, and over generated machines that are made in a
temporary folder (0.3 GB of disk each, given back at once). CPU seconds, and the most memory that
was resident; the plot is written where the argument says.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass, replace
from math import log10
from pathlib import Path

from tests.giant import SHAPES, make
from tests.lab import build, scenario

from .apart import run

MACHINES = ("nodes", "many", "huge", "64G", "ticket", "1T", "24T")
_WIDTH, _HEIGHT, _LEFT, _BASE = 640, 360, 60, 310
_TICKS = (1, 3, 10, 30, 100)


@dataclass(frozen=True)
class Run:
    """One verdict."""

    machine: str
    objects: int
    seconds: float
    peak: int
    told: str
    """The count with its interval, as it was printed."""


def verdict(machine: str, objects: int, core: Path, vmlinux: Path) -> Run:
    """Of a process of its own."""
    command = [sys.executable, "-m", "crashext", "leakscan", "-c", str(core), "-s", str(vmlinux)]
    took = run([*command, "--json"])
    document = json.loads(took.output)
    name = document["verdict"]["culprit"]["cache"]
    found = next(c for c in document["facts"]["caches"] if c["name"] == name)["unreachable"]
    told = f"{found['estimate']:,}"
    if found["low"] != found["high"]:
        told = f"~{told} ({found['low']:,} to {found['high']:,})"
    return Run(machine, objects, took.seconds, took.peak, told)


def measured(machine: str) -> Run:
    """Make the machine, if it is none of the lab's, and look at it."""
    if machine not in SHAPES:
        dump = build(scenario(machine))
        count = int(dump.truth()["parts"]["nodes"]["count"])
        return verdict(machine, count, dump.vmcore, dump.vmlinux)
    base = build(scenario("nodes"))
    with tempfile.TemporaryDirectory() as folder:
        core = Path(folder) / "vmcore"
        # Pages that share their bytes take no disk, and the verdict as long.
        truth = make(base, replace(SHAPES[machine], apart=False), core)
        return verdict(machine, truth["leak"]["objects"], core, base.vmlinux)


def plot(runs: list[Run]) -> str:
    """Both axes are logarithmic: a cost that grew with the objects would go up by 45 degrees."""
    low, high = 5.0, 10.5
    scale = (_WIDTH - _LEFT - 20) / (high - low)

    def x(objects: float) -> float:
        return _LEFT + (log10(objects) - low) * scale

    def y(seconds: float) -> float:
        return _BASE - log10(seconds) * scale

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="20">CPU seconds of a verdict, by leaked objects</text>',
    ]
    lines += [
        f'<path d="M{_LEFT} {y(tick):.0f}H{_WIDTH - 20}" stroke="#ddd"/>'
        f'<text x="{_LEFT - 8}" y="{y(tick) + 4:.0f}" text-anchor="end">{tick} s</text>'
        for tick in _TICKS
    ]
    lines += [
        f'<text x="{x(10**power):.0f}" y="{_BASE + 24}" text-anchor="middle">'
        f'10<tspan dy="-5" font-size="9">{power}</tspan></text>'
        for power in range(5, 11)
    ]
    steep = x(runs[0].objects), y(runs[0].seconds)
    far = (2 - log10(runs[0].seconds)) * scale
    lines.append(
        f'<path d="M{steep[0]:.0f} {steep[1]:.0f}l{far:.0f} {-far:.0f}" stroke="#999" '
        'stroke-dasharray="4"/>'
        f'<text x="{steep[0] + far + 6:.0f}" y="{steep[1] - far + 12:.0f}" fill="#666">'
        "in step with the objects</text>"
    )
    points = [(x(r.objects), y(r.seconds), r.machine) for r in runs]
    path = "L".join(f"{a:.0f} {b:.0f}" for a, b, _ in points)
    lines.append(f'<path d="M{path}" fill="none" stroke="#1f5fa8" stroke-width="2"/>')
    for a, b, machine in points:
        lines.append(
            f'<circle cx="{a:.0f}" cy="{b:.0f}" r="4" fill="#1f5fa8"/>'
            f'<text x="{a:.0f}" y="{b - 10:.0f}" text-anchor="middle">{machine}</text>'
        )
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    """Print the table, and write the plot."""
    print("| machine | leaked, truth | told | CPU time | peak memory |")
    print("|---|---|---|---|---|")
    runs = []
    for machine in MACHINES:
        found = measured(machine)
        runs.append(found)
        print(
            f"| {machine} | {found.objects:,} | {found.told} | {found.seconds:.1f} s "
            f"| {found.peak / 1e6:,.0f} MB |",
            flush=True,
        )
    runs.sort(key=lambda r: r.objects)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(plot(runs))


if __name__ == "__main__":
    main()
