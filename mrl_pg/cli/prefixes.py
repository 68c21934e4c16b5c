"""The life of a prefix: added, filled, indexed, looked at, dropped."""

from __future__ import annotations

import time
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from mrl_pg.cli.connection import connected, dsn_option
from mrl_pg.cli.errors import Stopped
from mrl_pg.cli.output import json_option, print_json, print_sql, print_table, progress, size, sql_option
from mrl_pg.cli.schema import dims_option, distance_option, kind_option, layer_norm_option, model_option, tell_advice
from mrl_pg.spec import Distance, Kind, check_dims

if TYPE_CHECKING:
    import psycopg

    from mrl_pg.backfill import BackfillProgress

lock_timeout_option = click.option(
    "--lock-timeout",
    type=float,
    default=2.0,
    show_default=True,
    help="Seconds to wait for the table: everyone who comes later waits behind this.",
)
prefix_option = click.option("--prefix", help="Prefix column; needed where the table has several.")


@click.command(epilog="\b\nExample:\n  mrl-pg add-prefix documents --dims 256")
@click.argument("table")
@dims_option
@click.option("--embedding", default="embedding", show_default=True, help="Column of the full embeddings.")
@kind_option
@layer_norm_option
@distance_option
@model_option
@lock_timeout_option
@dsn_option
@sql_option
def add_prefix(
    table: str,
    dims: int | None,
    embedding: str,
    kind: Kind,
    layer_norm: bool,
    distance: Distance,
    model: str | None,
    lock_timeout: float,
    dsn: str,
    show_sql: bool,
) -> None:
    """Add a prefix to a table.

    Adds a column and the trigger that keeps it. That is instant and rewrites nothing: new rows have their prefix from
    now on, those that are there wait for backfill.
    """
    import mrl_pg.psycopg as mrl
    from mrl_pg import statements
    from mrl_pg.registry import split_name

    if show_sql:
        check_dims(dims, kind)
        name = statements.quoted(*split_name(table))
        print_sql(statements.add_prefix(name, embedding, dims, distance, model, kind=kind, layer_norm=layer_norm))
        return
    with connected(dsn) as conn:
        prefix = mrl.add_prefix(
            conn,
            table,
            embedding,
            dims=dims,
            kind=kind,
            layer_norm=layer_norm,
            distance=distance,
            model=model,
            lock_timeout=lock_timeout,
        )
    click.echo(f"Added {prefix} to {table}. Next: mrl-pg backfill {quote(table)} --prefix {quote(prefix)}")
    tell_advice(model, dims, kind, layer_norm=layer_norm)


@click.command(epilog="\b\nExample:\n  mrl-pg drop-prefix documents embedding_256")
@click.argument("table")
@click.argument("prefix")
@lock_timeout_option
@dsn_option
@sql_option
def drop_prefix(table: str, prefix: str, lock_timeout: float, dsn: str, show_sql: bool) -> None:
    """Drop a prefix from a table.

    Drops its column, its trigger and its index. That is instant; the embeddings stay, so add-prefix and backfill bring
    it back.
    """
    import mrl_pg.psycopg as mrl
    from mrl_pg import statements
    from mrl_pg.registry import split_name

    if show_sql:
        print_sql(statements.drop_prefix(statements.quoted(*split_name(table)), prefix))
        return
    with connected(dsn) as conn:
        mrl.drop_prefix(conn, table, prefix, lock_timeout=lock_timeout)
    click.echo(f"Dropped {prefix} from {table}.")


@click.command(epilog="\b\nExample:\n  mrl-pg status documents")
@click.argument("table", required=False)
@dsn_option
@json_option
def status(table: str | None, dsn: str, as_json: bool) -> None:
    """Show the prefixes of a table, or of all tables.

    Counts their rows, those that lack the prefix, and of these the ones that cannot have one (zero, too short). On
    large databases name the table.
    """
    import sys

    import mrl_pg.psycopg as mrl
    from mrl_pg.statements import STATUS_COLUMNS

    with connected(dsn) as conn:
        rows = mrl.status(conn, table)
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo(f"No prefix yet. Next: mrl-pg add-prefix {table or 'TABLE'} --dims 256", err=True)
    elif not sys.stdout.isatty():
        print_table(STATUS_COLUMNS, [list(row.values()) for row in rows])
    else:
        columns = ("table", "prefix", "of", "distance", "model", "rows", "without", "index")
        print_table(columns, [_summary(row) for row in rows], whole=True)
        for row in rows:
            if advice := _advice(row):
                click.echo(advice)


def _summary(row: dict[str, Any]) -> list[str | None]:
    without = f"{row['missing']:,}" if row["missing"] is not None else None
    if row["impossible"]:
        without = f"{without} ({row['impossible']:,} cannot)"
    return [
        row["target"],
        row["prefix"],
        f"{row['embedding']} {row['embedding_type']}({row['full_dims'] or 'any'})",
        row["distance"],
        row["model"] or None,
        f"{row['rows']:,}" if row["rows"] is not None else None,
        without,
        size(row["index_bytes"]) if row["index"] else None,
    ]


def _advice(row: dict[str, Any]) -> str | None:
    which = f"{row['target']} --prefix {row['prefix']}"
    if not row["maintained"]:
        return (
            f"{row['prefix']} is not kept: its trigger is disabled. Next: ALTER TABLE {row['target']} ENABLE TRIGGER …"
        )
    if (row["missing"] or 0) > (row["impossible"] or 0):
        return f"Rows lack {row['prefix']}. Next: mrl-pg backfill {which}"
    if not row["index"]:
        return f"{row['prefix']} has no valid index. Next: mrl-pg index {which}"
    return None


@click.command(epilog="\b\nExample:\n  mrl-pg backfill documents --batch-size 500 --sleep 0.1")
@click.argument("table")
@prefix_option
@click.option(
    "--batch-size",
    type=int,
    help="Most rows a transaction; 2,000 if left out, and fewer where they would take over some 50 ms.",
)
@click.option("--sleep", type=float, help="Seconds between batches, for the sake of other traffic; none if left out.")
@click.option("--max-rows", type=int, help="Stop after so many rows.")
@click.option("--lock-timeout", type=float, help="Seconds to wait for rows that others hold; 1 if left out.")
@click.option("--dry-run", is_flag=True, help="Count the rows that lack their prefix, and change nothing.")
@dsn_option
@json_option
@sql_option
def backfill(
    table: str, prefix: str | None, dry_run: bool, dsn: str, as_json: bool, show_sql: bool, **options: Any
) -> None:
    """Give the rows that lack their prefix one.

    Works inside the database in batches, each a short transaction, beside all other traffic. Stopped anywhere, it goes
    on when it is run again.
    """
    import dataclasses

    import mrl_pg.psycopg as mrl
    from mrl_pg.backfill import FIRST_BATCH_SIZE

    given = {name: value for name, value in options.items() if value is not None}
    latest: BackfillProgress | None = None
    with connected(dsn) as conn:
        if show_sql:
            _print_batch(conn, table, prefix, given.get("batch_size", FIRST_BATCH_SIZE))
            return
        begun = time.monotonic()
        try:
            with progress() as show:

                def watch(now: BackfillProgress) -> None:
                    nonlocal latest
                    latest = now
                    show(now.prefix, now.done, now.total, "rows")

                found = mrl.backfill(conn, table, prefix=prefix, dry_run=dry_run, on_progress=watch, **given)
            seconds = time.monotonic() - begun
        except KeyboardInterrupt:
            so_far = f" after {latest.filled:,} rows, which stay filled" if latest else ""
            raise Stopped(f"Stopped{so_far}. To go on, run the same command again.") from None
        indexed = any(p.prefix == found.prefix and p.index for p in mrl.describe(conn, table).prefixes)
    if as_json:
        print_json(dataclasses.asdict(found) | {"seconds": round(seconds, 3), "dry_run": dry_run})
        return
    if dry_run:
        click.echo(f"{found.total:,} rows of {table} lack {found.prefix}.")
        return
    if not found.total:
        click.echo(f"No row of {table} lacks {found.prefix}.")
        return
    click.echo(
        f"Filled {found.prefix} of {found.filled:,} rows in {seconds:,.1f} s ({found.filled / seconds:,.0f} rows/s)."
    )
    if found.impossible:
        keys = ", ".join(map(str, found.impossible_keys)) + (
            "…" if found.impossible > len(found.impossible_keys) else ""
        )
        click.echo(f"{found.impossible:,} rows cannot have a prefix (zero, or too short). Their keys: {keys}")
    which = f"{quote(table)} --prefix {quote(found.prefix)}"
    # Without a limit, rows that were not met have been filled or deleted by others meanwhile.
    if "max_rows" in given and found.done < found.total:
        click.echo(f"{found.total - found.done:,} rows are left. Next: mrl-pg backfill {which}")
    elif not indexed:
        click.echo(f"Next: mrl-pg index {which}")


def _print_batch(conn: psycopg.Connection[Any], table: str, prefix: str | None, batch_size: int) -> None:
    """Prints the first batch: the statement that finds its last row, and the one that fills it."""
    from psycopg import ClientCursor

    import mrl_pg.psycopg as mrl
    from mrl_pg import statements
    from mrl_pg.backfill import BackfillProgress, batches
    from mrl_pg.psycopg.run import compiled
    from mrl_pg.registry import named_prefix

    known = mrl.describe(conn, table)
    chosen = named_prefix(known, prefix)
    if chosen.kind == "rotate":
        # Between its statements numpy works; what follows is slower, and comes to the same.
        click.echo("-- Done in batches, by numpy. The same by the trigger, in one statement:")
        print_sql(statements.touch(statements.table(known)[0], chosen))
        return
    steps = batches(
        known, chosen, BackfillProgress(chosen.prefix, 0), batch_size=lambda: batch_size, on_batch=lambda _: None
    )
    cursor = ClientCursor(conn)
    find = next(steps)
    print_sql(cursor.mogrify(compiled(find.statement), find.values))
    try:
        fill = steps.send(cursor.execute(compiled(find.statement), find.values).fetchall())
    except StopIteration:
        return
    print_sql(cursor.mogrify(compiled(fill.statement), fill.values))
