"""What a person sees: tables and lines through rich, and what is plain when no terminal is there."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def console() -> Any:
    """Standard output as a rich console; as wide as its content when it is a file or a pipe."""
    from rich.console import Console

    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=120)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table whose first column is on the left and whose others are on the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    _print_titled(title, table)


def print_facts(title: str, facts: dict[str, object]) -> None:
    """Names and values, one pair a line."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    for name, value in facts.items():
        table.add_row(Text(name, style="dim"), Text(str(value), overflow="fold"))
    _print_titled(title, table)


def _print_titled(title: str, table: Any) -> None:
    from rich.text import Text

    out = console()
    out.print(Text(title, style="bold"), soft_wrap=True)
    out.print(table)


def print_json(value: Any) -> None:
    """JSON on standard output, and nothing beside it; NaN, which JSON cannot say, is null."""
    sys.stdout.write(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and value - value != 0:
        return None
    return value
