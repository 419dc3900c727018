"""Tables without borders, and numbers in them."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table


def new_table(*columns: str) -> Table:
    table = Table.grid(padding=(0, 2))
    for side in columns:
        table.add_column(justify="right" if side == "right" else "left", overflow="fold")
    return table


def show_table(console: Console, table: Table) -> None:
    console.print(Padding(table, (0, 0, 0, 4)))


def signed(n: int) -> str:
    return f"+{size(n)}" if n >= 0 else size(n)


def size(n: int) -> str:
    """Bytes for a reader; negative ones with their sign."""
    value = float(abs(n))
    sign = "-" if n < 0 else ""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{sign}{abs(n):,} bytes" if unit == "bytes" else f"{sign}{value:,.1f} {unit}"


def duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
