"""Tables for people and for programs, JSON, SQL and progress."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import click

if TYPE_CHECKING:
    from sqlalchemy.sql import ClauseElement

# show(what, done, total, unit): unit names what is counted a second, "" for nothing worth counting.
Show: TypeAlias = Callable[[str, int, int, str], None]

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
sql_option = click.option("--sql", "show_sql", is_flag=True, help="Print the SQL instead of running it.")

_LONG_VECTOR = re.compile(r"\[((?:[^\],\[\s]+,){3})(?:[^\],\[\s]+,){4,}[^\],\[\s]+\]")


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    whole: bool = False,
    right: int | None = None,
    dense: bool = False,
) -> None:
    """Prints a table: drawn on a terminal, tab-separated values with a header in a pipe.

    :param whole: where the terminal is too narrow, print the rows one below the other instead of cutting values.
    :param right: from this column on all are flush right, as columns of numbers are anyway.
    :param dense: leave out lines and put columns closer together, for many of both.
    """
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            click.echo("\t".join(map(_tsv, row)))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False, emoji=False)
    cells = [columns, *([*map(_cell, row)] for row in rows)]
    if whole and sum(max(map(len, column)) + 3 for column in zip(*cells, strict=True)) > console.width:
        for row in cells[1:]:
            for name, cell in zip(columns, row, strict=True):
                click.echo(f"{name:>{max(map(len, columns))}}  {cell}")
            click.echo()
        return
    table = Table(box=None if dense else box.SIMPLE_HEAD, pad_edge=False, header_style="bold", collapse_padding=dense)
    for n, column in enumerate(columns):
        numeric = all(isinstance(row[n], int | float) for row in rows) and bool(rows)
        numeric = numeric or (right is not None and n >= right)
        table.add_column(column, justify="right" if numeric else "left", no_wrap=True, overflow="ellipsis")
    for row in cells[1:]:
        table.add_row(*row)
    console.print(table)


def print_json(value: Any) -> None:
    """Prints a value as JSON; what JSON has no word for (uuid, timestamp, numeric) as text."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_sql(statement: ClauseElement | str) -> None:
    """Prints a statement that can be run as it stands, its values as literals."""
    from mrl_pg.statements import literal

    click.echo(f"{statement if isinstance(statement, str) else literal(statement)};")


def shortened(text: str) -> str:
    """Returns text with its vectors cut to their first three numbers."""
    return _LONG_VECTOR.sub(r"[\1…]", text)


def size(n: int) -> str:
    """Returns a number of bytes for people: ``12.3 MB``."""
    return f"{n / 1024:,.0f} kB" if n < 1024**2 else f"{n / 1024**2:,.1f} MB"


def spent(tokens: str, cost: float | None) -> str:
    """Returns tokens and what they cost, where that is known: ``1,234,567 tokens, $0.16``."""
    if cost is None:
        return tokens
    return f"{tokens}, ${cost:,.2f}" if cost >= 0.01 else f"{tokens}, under $0.01"


@contextmanager
def progress() -> Iterator[Show]:
    """Yields a function that shows how far something is: a bar on a terminal, nothing in a pipe."""
    if not sys.stderr.isatty():
        yield lambda what, done, total, unit: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=Console(stderr=True),
        transient=True,
    )
    task = bar.add_task("", total=1, rate="", visible=False)
    begun, counted = time.monotonic(), (0, "")

    def show(what: str, done: int, total: int, unit: str) -> None:
        nonlocal begun, counted
        # What is counted next has a rate of its own.
        if counted != (total, unit):
            begun, counted = time.monotonic(), (total, unit)
            bar.reset(task)
        rate = f" {unit}, {done / (time.monotonic() - begun):,.0f} {unit}/s" if unit else ""
        bar.update(task, description=what, completed=done, total=total, rate=rate, visible=True)

    with bar:
        yield show


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}"
    return " ".join(str(value).split())


def _tsv(value: Any) -> str:
    """Returns a value as COPY writes it, but NULL as nothing."""
    if value is None:
        return ""
    return str(value).replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
