"""Tables without borders."""

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
