"""mrl-pg eval."""

from __future__ import annotations

import shlex
from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mrl_pg.cli.connection import connected, dsn_option
from mrl_pg.cli.embed import base_url_option, dimensions_option, query_embedder
from mrl_pg.cli.errors import Stopped
from mrl_pg.cli.figures import next_step, print_evaluation, write_csv
from mrl_pg.cli.output import json_option, print_json, progress
from mrl_pg.cli.search import read_filters
from mrl_pg.cli.types import Share
from mrl_pg.spec import OPERATORS

if TYPE_CHECKING:
    from mrl_pg.evaluate import Progress
    from mrl_pg.spec import Distance

QUERIES_FILE = click.Path(exists=True, dir_okay=False, readable=True)


def read_numbers(ctx: click.Context, parameter: click.Parameter, value: str | None) -> list[int] | None:
    """Returns whole numbers that are separated by commas."""
    if value is None:
        return None
    try:
        return [int(number) for number in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r} is not whole numbers separated by commas, such as 64,128.") from None


@click.command(
    "eval",
    epilog="""\b
Examples:
  mrl-pg eval documents
  mrl-pg eval documents --queries queries.npz --dims 64,128,256 --kinds truncate,rotate
  mrl-pg eval documents --recorded --sample 1000
  mrl-pg eval documents --queries texts.jsonl --model text-embedding-3-large --qrels qrels.tsv
  mrl-pg eval documents --sample 200 --ef-search 40,100,200 --clients 4 --filter lang=en
  mrl-pg eval documents --cold 'sudo systemctl restart postgresql'
  mrl-pg eval documents --recall 0.95 --report prefixes.html""",
)
@click.argument("table")
@click.option("--sample", type=int, help="Take so many rows as queries; 500, or a fifth of fewer rows, if left out.")
@click.option(
    "--queries",
    type=QUERIES_FILE,
    help="The queries: npz with an array queries, or jsonl with a line {id, embedding or text, relevant} each.",
)
@click.option(
    "--recorded",
    is_flag=True,
    help="Take queries that searches without a filter recorded; --sample of them, or 500.",
)
@click.option("--qrels", type=QUERIES_FILE, help="Which rows are relevant, by their keys, as TREC or BEIR write it.")
@click.option("--embedding", default="embedding", show_default=True, help="Column of the full embeddings.")
@click.option("--model", help="Model of the queries, checked against the table's; for texts the table's if left out.")
@base_url_option
@dimensions_option
@click.option("--k", type=int, help="Rows a search returns; 10 if left out.")
@click.option("--dims", callback=read_numbers, help="Lengths of prefixes, separated by commas; 32 to 1024 if left out.")
@click.option("--kinds", help="Kinds of prefixes, separated by commas: truncate, rotate, binary, random (the control).")
@click.option("--candidates", callback=read_numbers, help="Rows to rerank; 10,20,50,100,200 if left out.")
@click.option(
    "--ef-search",
    callback=read_numbers,
    help="Sizes of the HNSW candidate list for each number of candidates; what a search chooses if left out.",
)
@click.option("--distance", type=click.Choice(list(OPERATORS)), help="That of the prefixes, or cosine, if left out.")
@click.option("--rows", type=int, help="Read a random sample where there are more rows; 100,000 if left out.")
@click.option("--clients", type=int, help="Connections that search at a time; 1 if left out.")
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="COLUMN=VALUE",
    help="Measure searches under a filter besides, as in mrl-pg search.",
)
@click.option(
    "--cold",
    metavar="COMMAND",
    help="Empties caches: run in a shell here before the first 100 searches through each index, which are told apart.",
)
@click.option("--no-index", is_flag=True, help="Scan only: no searches through the indexes there are.")
@click.option("--seed", type=int, default=0, show_default=True, help="For the same sample of the same rows.")
@click.option("--recall", "target", type=Share(), default=0.98, show_default=True, help="The recall you want.")
@click.option("--report", type=click.Path(dir_okay=False), help="Write a page with charts there: one HTML file.")
@click.option("--csv", "csv_file", type=click.Path(dir_okay=False), help="Write all figures there, a line each.")
@dsn_option
@json_option
def evaluate(
    table: str,
    queries: str | None,
    recorded: bool,
    qrels: str | None,
    embedding: str,
    model: str | None,
    base_url: str | None,
    dimensions: int | None,
    kinds: str | None,
    distance: Distance | None,
    filters: tuple[str, ...],
    no_index: bool,
    target: float,
    report: str | None,
    csv_file: str | None,
    dsn: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure which prefix of a table is good enough.

    Reads the embeddings, or a sample, and compares them all: what prefixes of each kind and length would find of the
    exact top k, alone and after a rerank, and what they would cost. Nothing is built or changed. Then searches through
    the indexes there are, timed. Without --queries or --recorded rows of the table are searched for, which is
    optimistic.
    """
    import mrl_pg.psycopg as mrl
    from mrl_pg.psycopg.material import DEFAULT_SAMPLE
    from mrl_pg.psycopg.run import server_versions
    from mrl_pg.queries import read_qrels, read_queries
    from mrl_pg.registry import known_model

    for option, path in (("--csv", csv_file), ("--report", report)):
        if path and not Path(path).absolute().parent.is_dir():
            raise click.BadParameter(f"there is no directory for {path}.", param_hint=option)
    given: dict[str, Any] = {
        "kinds": kinds.split(",") if kinds else None,
        "filter": read_filters(filters) or None,
        "qrels": read_qrels(qrels) if qrels else None,
        **options,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if queries and recorded:
        raise click.UsageError("Give the queries either by --queries or by --recorded.")
    asked = read_queries(queries) if queries else None
    with connected(dsn) as conn:
        known = mrl.describe(conn, table)
        versions = server_versions(conn)  # now: --cold may end the connection
        if recorded:
            size = given.pop("sample", DEFAULT_SAMPLE)
            asked = mrl.recorded_queries(conn, table, embedding=embedding, sample=size, seed=given["seed"])
        if asked and asked.texts:
            of_table = known_model(known, embedding)
            given["embedder"] = query_embedder(table, model or of_table, base_url=base_url, dimensions=dimensions)
        try:
            with progress() as show:

                def watch(now: Progress) -> None:
                    show(now.what, now.done, now.total, now.unit)

                found = mrl.evaluate(
                    conn,
                    table,
                    asked,
                    embedding=embedding,
                    model=model,
                    distance=distance,
                    indexes=not no_index,
                    on_progress=watch,
                    **given,
                )
        except KeyboardInterrupt:
            raise Stopped("Stopped. Nothing was changed; with fewer --rows or --dims it takes less time.") from None
    if csv_file:
        write_csv(csv_file, found)
    if report:
        from mrl_pg.report import report_html

        page = report_html(found, table=table, target=target, settings={"command": _command(_SECRET)} | versions)
        Path(report).write_text(page, encoding="utf-8")
    if as_json:
        print_json({"table": table} | found.as_dict())
        return
    print_evaluation(found, target)
    click.echo(next_step(table, known, embedding, found, target, _command(_NOT_AGAIN)))
    for path in filter(None, (csv_file, report)):
        click.echo(f"Wrote {path}.")


# What may hold a password; and what the next run chooses anew, or would write over.
_SECRET = {"dsn", "cold"}
_NOT_AGAIN = {*_SECRET, "candidates", "report", "csv_file", "as_json"}


def _command(without: Set[str]) -> str:
    """Returns the command with the options it was given, in the order of the help, without some of them."""
    context = click.get_current_context()
    words = []
    for parameter in context.command.params:
        name = str(parameter.name)
        if name in without or context.get_parameter_source(name) != ParameterSource.COMMANDLINE:
            continue
        value = context.params[name]
        if isinstance(parameter, click.Argument):
            words.append(value)
        elif isinstance(parameter, click.Option) and parameter.is_flag:
            words.append(parameter.opts[0])
        elif parameter.multiple:
            words += [word for one in value for word in (parameter.opts[0], one)]
        else:
            words += [parameter.opts[0], ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return shlex.join(["mrl-pg", "eval", *words])
