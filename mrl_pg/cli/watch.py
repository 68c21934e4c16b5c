"""mrl-pg watch."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from mrl_pg.cli.connection import connected, dsn_option
from mrl_pg.cli.embed import base_url_option, dimensions_option, query_embedder
from mrl_pg.cli.errors import Stopped
from mrl_pg.cli.output import json_option, print_json, progress
from mrl_pg.errors import MrlError
from mrl_pg.operating import SOURCES

if TYPE_CHECKING:
    from mrl_pg.evaluate import Progress
    from mrl_pg.watch import Watched


@click.command(
    epilog="""\b
Examples:
  mrl-pg watch documents --queries queries.jsonl --model text-embedding-3-small --floor 0.98
  mrl-pg watch documents --sample 50 --budget 30 --json"""
)
@click.argument("table")
@click.option(
    "--queries",
    "file",
    type=click.Path(exists=True, dir_okay=False, readable=True),
    help="The queries: npz with an array queries, or jsonl with a line {id, embedding or text} each; recorded "
    "ones, or where there are fewer than 20 rows of the table, if left out.",
)
@click.option(
    "--recorded/--no-recorded",
    default=None,
    help="Replay queries that searches without a filter have recorded, and no others; or rows though there are such.",
)
@click.option("--sample", type=int, help="Replay so many queries; 100 if left out.")
@click.option("--floor", type=float, help="Exit with 1 where recall is under it; 0.95 if left out.")
@click.option("--budget", type=float, help="Seconds for the searches; 60 if left out.")
@click.option("--k", type=int, help="Rows a search returns; 10 if left out.")
@click.option("--prefix", help="Prefix column to use; the oldest with an index if left out.")
@click.option("--candidates", type=int, help="Rows to rerank, as in mrl-pg search.")
@click.option("--ef-search", type=int, help="Size of the HNSW candidate list, as in mrl-pg search.")
@click.option(
    "--recall", type=float, help="Instead: the settings that applications get by this recall, see mrl-pg tune."
)
@click.option("--model", help="Model of the queries, checked against the table's; for texts the table's if left out.")
@base_url_option
@dimensions_option
@click.option("--seed", type=int, default=0, show_default=True, help="For the same queries on every run.")
@click.option("--no-store", is_flag=True, help="Keep nothing in mrl.recall_history.")
@dsn_option
@json_option
def watch(
    table: str,
    file: str | None,
    model: str | None,
    base_url: str | None,
    dimensions: int | None,
    no_store: bool,
    dsn: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Replay queries against exact search, and fail where recall is under a floor.

    For cron and CI. Each query is answered by comparing every row and by the search as applications send it; the recall
    is printed with its 95 % interval and stored in mrl.recall_history. Texts are embedded first, which needs
    OPENAI_API_KEY. Without --queries those are replayed that searches without a filter have recorded (record=), and
    where there are fewer than 20 rows of the table, which is optimistic.
    """
    import mrl_pg.psycopg as mrl
    from mrl_pg.queries import read_queries
    from mrl_pg.registry import choose_prefix, known_model

    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if file and given.get("recorded"):
        raise click.UsageError("Give the queries either by --queries or by --recorded.")
    given |= {"model": model, "store": not no_store}
    asked = read_queries(file) if file else None
    with connected(dsn) as conn:
        if asked and asked.texts:
            known = mrl.describe(conn, table)
            of_table = known_model(known, choose_prefix(known, given.get("prefix")).embedding)
            given["embedder"] = query_embedder(table, model or of_table, base_url=base_url, dimensions=dimensions)
        try:
            with progress() as show:

                def on_progress(now: Progress) -> None:
                    show(now.what, now.done, now.total, now.unit)

                watched = mrl.watch(conn, table, asked, on_progress=on_progress, **given)
        except KeyboardInterrupt:
            raise Stopped("Stopped. Nothing was stored; with fewer --sample or a --budget it ends sooner.") from None
    if as_json:
        print_json({"table": table} | watched.as_dict())
    else:
        _tell(table, watched)
    if not watched.enough:
        raise MrlError(
            f"recall@{watched.k} of {table} is {watched.found.recall.mean:.3f}, under the floor of {watched.floor:g}. "
            f"See what more candidates would find: mrl-pg eval {quote(table)}"
            + (f" --queries {quote(file)}" if file else " --recorded" if watched.source == "recorded" else "")
        )


def _tell(table: str, watched: Watched) -> None:
    """Prints the recall with its interval, and what it was before."""
    found = watched.found
    recall = found.recall
    what = "rows, each searched for without itself" if watched.source == "rows" else SOURCES[watched.source]
    click.echo(
        f"recall@{watched.k} of {table} through {found.prefix} is {recall.mean:.3f} (95 %: {recall.low:.3f} to "
        f"{recall.high:.3f}), the worst query {recall.worst:.2f}; {recall.queries:,} {what}, {found.candidates:,} "
        f"candidates, ef_search {found.ef_search}, p50 {found.p50_ms:.2f} ms."
    )
    if recall.queries < watched.sample:
        click.echo(
            f"The time was over after {recall.queries:,} of {watched.sample:,} queries. For all of them raise --budget."
        )
    if before := watched.before:
        click.echo(
            f"Before it was {before.recall:.3f} ({before.low:.3f} to {before.high:.3f}), measured "
            f"{before.measured_at:%Y-%m-%d %H:%M}."
        )
