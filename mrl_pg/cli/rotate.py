"""mrl-pg rotate."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from mrl_pg.cli.connection import connected, dsn_option
from mrl_pg.cli.prefixes import lock_timeout_option
from mrl_pg.cli.schema import distance_option, model_option

if TYPE_CHECKING:
    from mrl_pg.spec import Distance


@click.command(epilog="\b\nExample:\n  mrl-pg rotate documents --dims 128")
@click.argument("table")
@click.option("--dims", type=int, required=True, help="Length of the prefix.")
@click.option("--embedding", default="embedding", show_default=True, help="Column of the full embeddings.")
@click.option("--sample", type=int, help="About how many rows to learn from; 20,000 if left out.")
@click.option("--seed", type=int, default=0, show_default=True, help="For the same sample of the same rows.")
@distance_option
@model_option
@lock_timeout_option
@dsn_option
def rotate(
    table: str,
    dims: int,
    embedding: str,
    sample: int | None,
    seed: int,
    distance: Distance,
    model: str | None,
    lock_timeout: float,
    dsn: str,
) -> None:
    """Learn a prefix from the rows of a table, and add it.

    Finds the directions in which the embeddings differ most, and keeps the coordinates along the first dims of them: as
    good as about twice as many of the first dims, also for models that were not trained to be cut. Run again, it makes
    a new version in a column beside the old.
    """
    import mrl_pg.psycopg as mrl
    from mrl_pg import statements
    from mrl_pg.psycopg.run import execute
    from mrl_pg.registry import split_name

    given: dict[str, Any] = {} if sample is None else {"sample": sample}
    with connected(dsn) as conn:
        prefix = mrl.rotate(
            conn,
            table,
            embedding,
            dims=dims,
            seed=seed,
            distance=distance,
            model=model,
            lock_timeout=lock_timeout,
            **given,
        )
        name = statements.quoted(*split_name(table))
        ((full_dims, rows, kept),) = execute(conn, statements.FIT.bindparams(target=name, prefix=prefix))
    click.echo(f"Learnt from {rows:,} rows: {dims} of {full_dims} dimensions keep {kept:.1%} of the squared norm.")
    click.echo(f"Added {prefix} to {table}. Next: mrl-pg backfill {quote(table)} --prefix {quote(prefix)}")
