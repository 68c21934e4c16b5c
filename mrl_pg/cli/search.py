"""mrl-pg search."""

from __future__ import annotations

import io
import json
from typing import IO, TYPE_CHECKING, Any

import click

from mrl_pg.cli.connection import connected, dsn_option
from mrl_pg.cli.embed import base_url_option, dimensions_option, query_embedder
from mrl_pg.cli.output import json_option, print_json, print_sql, print_table, shortened, sql_option

if TYPE_CHECKING:
    from psycopg import Connection

    from mrl_pg.vectors import FloatArray


@click.command(
    epilog="""\b
Examples:
  mrl-pg search documents --vector-file query.json --filter lang=en --filter lang=de
  mrl-pg search documents --vector-file - --columns title --k 5 < query.npy
  mrl-pg search documents --vector-file q.npy --stage embedding_rot64_v1=1000 --stage embedding_512=100
  mrl-pg search documents --text "how to sort a list" --model text-embedding-3-large"""
)
@click.argument("table")
@click.option(
    "--vector-file",
    type=click.File("rb"),
    help="The query: a full embedding as a JSON array or in numpy's .npy format; - reads it from standard input.",
)
@click.option("--text", help="The query in words, which are embedded by OpenAI or a server with the same API.")
@click.option("--model", help="Model of the query, checked against the table's; for --text the table's if left out.")
@base_url_option
@dimensions_option
@click.option("--k", type=int, help="Rows to return; 10 if left out.")
@click.option("--candidates", type=int, help="Rows to rerank; the larger of 100 and 10 times k if left out.")
@click.option("--ef-search", type=int, help="Size of the HNSW candidate list, 1 to 1000; candidates if left out.")
@click.option("--max-scan-tuples", type=int, help="Rows to look at before a filtered search gives up.")
@click.option("--recall", type=float, help="Instead: the cheapest settings that reached this recall in mrl-pg tune.")
@click.option("--prefix", help="Prefix column to use; the oldest with a valid index if left out.")
@click.option(
    "--stage",
    "stages",
    multiple=True,
    metavar="PREFIX=CANDIDATES",
    help="A stage of a funnel: the rows that this prefix hands to the next one. Give it once for each.",
)
@click.option("--no-rerank", is_flag=True, help="Rank by the prefix alone: one stage, with its distances.")
@click.option("--columns", help="Columns to show, separated by commas; all but the vectors if left out.")
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="COLUMN=VALUE",
    help="Only rows where this holds. The same column again means any of its values; a JSON object such as "
    """'{"deleted_at": null}' is read as in SQL.""",
)
@click.option("--exact", is_flag=True, help="Compare every row and use no index: the ground truth.")
@click.option("--explain", is_flag=True, help="Show the plan of the search, measured, instead of its rows.")
@dsn_option
@json_option
@sql_option
def search(
    table: str,
    vector_file: IO[bytes] | None,
    text: str | None,
    model: str | None,
    base_url: str | None,
    dimensions: int | None,
    columns: str | None,
    filters: tuple[str, ...],
    prefix: str | None,
    stages: tuple[str, ...],
    no_rerank: bool,
    exact: bool,
    explain: bool,
    dsn: str,
    as_json: bool,
    show_sql: bool,
    **options: Any,
) -> None:
    """Find the rows of a table nearest to a query.

    Candidates are found by the prefix and reranked by the full embedding. Shows distances, smaller is nearer (for
    inner_product the negated product).
    """
    import sys

    import mrl_pg.psycopg as mrl

    asked: dict[str, Any] = {
        "columns": columns.split(",") if columns else None,
        "filter": read_filters(filters),
        "prefix": prefix,
        "exact": exact,
        "rerank": not no_rerank,
        "stages": [_read_stage(stage) for stage in stages],
        "model": model,
        **{name: value for name, value in options.items() if value is not None},
    }
    if (text is None) == (vector_file is None):
        raise click.UsageError("Give the query either by --text or by --vector-file.")
    query: Any = _read_vector(vector_file) if vector_file else None
    with connected(dsn) as conn:
        if text is not None:
            aimed = {"prefix": prefix, "stages": asked["stages"]}
            query = _embed(conn, table, text, model, aimed, base_url=base_url, dimensions=dimensions)
        if show_sql or explain:
            statement = mrl.search_sql(conn, table, query, **asked)
            if explain:
                statement = f"EXPLAIN (ANALYZE, BUFFERS)\n{statement}"
            if show_sql:
                print_sql(statement)
                return
            for (line,) in conn.execute(statement):
                click.echo(shortened(line))
            return
        result = mrl.search(conn, table, query, **asked)
        key = mrl.describe(conn, table).key
    if as_json:
        hits = [{"key": hit.key, "distance": hit.distance, "row": hit.row} for hit in result]
        print_json({"requested": result.requested, "received": result.received, "hits": hits})
        return
    shown = columns.split(",") if columns else list(result[0].row) if result else []
    # Without the columns of the key a row could not be told.
    keys = [] if set(key) <= set(shown) else ["key"]
    rows = [[hit.distance, *([hit.key] if keys else []), *(hit.row[name] for name in shown)] for hit in result]
    print_table(["distance", *keys, *shown], rows)
    if sys.stdout.isatty():
        click.echo(f"{len(result)} hits, from {result.received:,} of {result.requested:,} candidates.")


def _read_stage(text: str) -> tuple[str, int]:
    prefix, _, candidates = text.rpartition("=")
    if not prefix or not candidates.isascii() or not candidates.isdigit():
        raise click.BadParameter(f"{text!r} is not PREFIX=CANDIDATES.", param_hint="--stage")
    return prefix, int(candidates)


def read_filters(filters: tuple[str, ...]) -> dict[str, Any]:
    """Returns one filter of all that are given; a column that is given several times is any of its values."""
    found: dict[str, Any] = {}
    for text in filters:
        if text.lstrip().startswith("{"):
            try:
                pairs = json.loads(text)
            except ValueError as error:
                raise click.BadParameter(f"{text} is not JSON: {error}.", param_hint="--filter") from None
            given = {column: _as_text(value) for column, value in pairs.items()}
        else:
            column, equals, value = text.partition("=")
            if not equals:
                raise click.BadParameter(f"{text!r} is neither column=value nor a JSON object.", param_hint="--filter")
            given = {column: value}
        for column, value in given.items():
            found[column] = [*_listed(found[column]), *_listed(value)] if column in found else value
    return found


def _as_text(value: Any) -> Any:
    """Returns a JSON value as PostgreSQL reads it into the type of the column; as mrl.filter_values() in SQL."""
    if isinstance(value, list):
        return [_as_text(element) for element in value]
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _embed(
    conn: Connection[Any], table: str, text: str, model: str | None, aimed: dict[str, Any], **options: Any
) -> FloatArray:
    import mrl_pg.psycopg as mrl
    from mrl_pg.psycopg.embed import embed_query
    from mrl_pg.registry import known_model, searched_embedding

    known = mrl.describe(conn, table)
    model = model or known_model(known, searched_embedding(known, **aimed))
    return embed_query(conn, table, text, query_embedder(table, model, **options), **aimed)


def _read_vector(file: IO[bytes]) -> Any:
    content = file.read()
    try:
        if not content.startswith(b"\x93NUMPY"):
            return json.loads(content)
        import numpy as np

        return np.load(io.BytesIO(content), allow_pickle=False)
    except ValueError as error:
        raise click.BadParameter(f"neither JSON nor .npy ({error}).", param_hint="--vector-file") from None
