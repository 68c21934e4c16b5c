"""mrl-pg tune."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mrl_pg.cli.connection import connected, dsn_option
from mrl_pg.cli.embed import base_url_option, dimensions_option, query_embedder
from mrl_pg.cli.errors import Stopped
from mrl_pg.cli.eval import QUERIES_FILE, read_numbers
from mrl_pg.cli.figures import print_tuning
from mrl_pg.cli.output import json_option, print_json, progress
from mrl_pg.cli.prefixes import lock_timeout_option
from mrl_pg.spec import OPERATORS

if TYPE_CHECKING:
    from mrl_pg.evaluate import Progress


def read_recalls(ctx: click.Context, parameter: click.Parameter, value: str | None) -> list[float] | None:
    """Returns numbers that are separated by commas."""
    if value is None:
        return None
    try:
        return [float(number) for number in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r} is not recalls separated by commas, such as 0.97,0.95.") from None


@click.command(
    epilog="""\b
Examples:
  mrl-pg tune documents --recall 0.98
  mrl-pg tune documents --recall 0.98 --recorded
  mrl-pg tune documents --recall 0.99 --also 0.97,0.95
  mrl-pg tune documents --recall 0.95 --latency-ms 5 --queries queries.npz
  mrl-pg tune documents --recall 0.98 --build --kinds truncate,rotate --dims 128,256,512"""
)
@click.argument("table")
@click.option("--recall", type=float, required=True, help="The mean recall@k to reach, above 0 and at most 1.")
@click.option(
    "--also", callback=read_recalls, help="Other recalls to store settings for, separated by commas: for policies."
)
@click.option("--k", type=int, help="Rows a search returns; 10 if left out.")
@click.option("--latency-ms", type=float, help="What 95 % of the searches may take; any time if left out.")
@click.option("--build", is_flag=True, help="Build the promising prefixes, and drop all but the recommended again.")
@click.option("--kinds", help="Kinds to build, separated by commas: truncate, rotate, binary; all if left out.")
@click.option("--dims", callback=read_numbers, help="Lengths to build, separated by commas; 32 to 1024 if left out.")
@click.option("--sample", type=int, help="Take so many rows as queries; 500, or a fifth of fewer rows, if left out.")
@click.option(
    "--queries",
    type=QUERIES_FILE,
    help="The queries: npz with an array queries, or jsonl with a line {id, embedding or text} each.",
)
@click.option(
    "--recorded",
    is_flag=True,
    help="Take queries that searches without a filter recorded; --sample of them, or 500.",
)
@click.option("--embedding", default="embedding", show_default=True, help="Column of the full embeddings.")
@click.option("--model", help="Model of the queries, checked against the table's; for texts the table's if left out.")
@base_url_option
@dimensions_option
@click.option("--distance", type=click.Choice(list(OPERATORS)), help="That of the prefixes, or cosine, if left out.")
@click.option("--rows", type=int, help="Read a random sample where there are more rows; 100,000 if left out.")
@click.option("--no-store", is_flag=True, help="Do not store what was measured for searches with --recall.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sample, and of which queries confirm.")
@lock_timeout_option
@dsn_option
@json_option
def tune(
    table: str,
    queries: str | None,
    recorded: bool,
    embedding: str,
    model: str | None,
    base_url: str | None,
    dimensions: int | None,
    kinds: str | None,
    no_store: bool,
    dsn: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the cheapest settings that reach a recall.

    Measures the prefixes that have an index: half of the queries choose candidates and ef_search, the other half tell
    what they find and take. Stores the figures, and from then on search --recall uses them. With --build prefixes that
    promise to be good are built on the table first; each rewrites the rows once. Without --queries or --recorded rows
    of the table are searched for, which is optimistic.
    """
    import mrl_pg.psycopg as mrl
    from mrl_pg.psycopg.material import DEFAULT_SAMPLE
    from mrl_pg.queries import read_queries
    from mrl_pg.registry import known_model

    given: dict[str, Any] = {"kinds": kinds.split(",") if kinds else None, **options}
    given = {name: value for name, value in given.items() if value is not None}
    if queries and recorded:
        raise click.UsageError("Give the queries either by --queries or by --recorded.")
    asked = read_queries(queries) if queries else None
    with connected(dsn) as conn:
        if recorded:
            size = given.pop("sample", DEFAULT_SAMPLE)
            asked = mrl.recorded_queries(conn, table, embedding=embedding, sample=size, seed=given["seed"])
        if asked and asked.texts:
            of_table = known_model(mrl.describe(conn, table), embedding)
            given["embedder"] = query_embedder(table, model or of_table, base_url=base_url, dimensions=dimensions)
        try:
            with progress() as show:

                def watch(now: Progress) -> None:
                    show(now.what, now.done, now.total, now.unit)

                found = mrl.tune(
                    conn,
                    table,
                    asked,
                    embedding=embedding,
                    model=model,
                    store=not no_store,
                    on_progress=watch,
                    **given,
                )
        except KeyboardInterrupt:
            raise Stopped("Stopped. Nothing was stored, and what was built is dropped again.") from None
    if as_json:
        print_json(found.as_dict())
        return
    print_tuning(found)
