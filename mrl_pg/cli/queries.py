"""mrl-pg queries."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from mrl_pg.cli.connection import connected, dsn_option
from mrl_pg.cli.embed import base_url_option
from mrl_pg.cli.errors import Stopped
from mrl_pg.cli.output import json_option, print_json, progress, spent

if TYPE_CHECKING:
    from mrl_pg.psycopg.queries import GenerateProgress

# How many failed or empty rows are named.
_NAMED = 20


@click.command(
    epilog="""\b
Examples:
  mrl-pg queries documents --text-column body --model gpt-5-nano --out queries.jsonl --dry-run
  mrl-pg queries documents --text-column body --model gpt-5-nano --rows 150 --out queries.jsonl"""
)
@click.argument("table")
@click.option("--text-column", required=True, help="Column of what a row says.")
@click.option("--out", type=click.Path(dir_okay=False), required=True, help="File to append the queries to, jsonl.")
@click.option("--model", required=True, help="Name of the chat model, as the server knows it.")
@base_url_option
@click.option("--rows", type=int, help="Rows to ask for, three queries each; 150 if left out.")
@click.option("--limit", type=int, help="Ask for at most so many rows now.")
@click.option("--max-chars", type=int, help="Characters of each text that are sent; 4,000 if left out.")
@click.option("--seed", type=int, default=0, show_default=True, help="For the same sample of the same rows.")
@click.option(
    "--price",
    type=(float, float),
    metavar="IN OUT",
    help="US dollars per million tokens, where mrl-pg does not know those of the model.",
)
@click.option("--dry-run", is_flag=True, help="Count rows and estimate tokens and cost; send and write nothing.")
@dsn_option
@json_option
def queries(
    table: str,
    out: str,
    model: str,
    base_url: str | None,
    price: tuple[float, float] | None,
    dry_run: bool,
    dsn: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Have a chat model write queries to measure a table with.

    Asks for three queries for each row of a sample: a rough name, a description without the name, and a vibe. The row
    is the relevant one, so the file serves mrl-pg eval and mrl-pg watch as queries and qrels; its lines are marked as
    generated. The texts go to the model, cut to --max-chars. Needs OPENAI_API_KEY. Stopped anywhere, it goes on when it
    is run again.
    """
    import dataclasses

    import mrl_pg.psycopg as mrl
    from mrl_pg.chat import openai_chat

    if not Path(out).absolute().parent.is_dir():
        raise click.BadParameter(f"there is no directory for {out}.", param_hint="--out")
    given = {name: value for name, value in options.items() if value is not None}
    # A dry run sends nothing, so it needs no key.
    chat = openai_chat(model, base_url=base_url, api_key="none" if dry_run else None, prices=price)
    latest: GenerateProgress | None = None
    with connected(dsn) as conn:
        try:
            with progress() as show:

                def watch(now: GenerateProgress) -> None:
                    nonlocal latest
                    latest = now
                    show(_spent(now), now.done, now.total, "rows")

                found = mrl.generate_queries(conn, table, chat, out, dry_run=dry_run, on_progress=watch, **given)
        except KeyboardInterrupt:
            so_far = f" after {latest.written:,} rows, whose queries stay in {out}" if latest else ""
            raise Stopped(f"Stopped{so_far}. To go on, run the same command again.") from None
    if as_json:
        print_json(dataclasses.asdict(found) | {"dry_run": dry_run})
        return
    there = f" {found.there:,} rows are in {out} already." if found.there else ""
    if dry_run:
        click.echo(f"{found.total:,} rows of {table} wait for their queries: about {_spent(found)}.{there}")
    elif not found.total:
        click.echo(f"No row of the sample waits for its queries.{there}")
    else:
        click.echo(f"Wrote queries for {found.written:,} rows to {out}: {_spent(found)}.{there}")
    _tell_rest(found)
    if not dry_run and found.written + found.there:
        click.echo(f"Next: mrl-pg eval {quote(table)} --queries {quote(out)}")


def _spent(found: GenerateProgress) -> str:
    """Returns tokens and cost: ``12,345 tokens in, 6,789 out, $0.16``."""
    return spent(f"{found.tokens_in:,} tokens in, {found.tokens_out:,} out", found.cost)


def _tell_rest(found: GenerateProgress) -> None:
    """Prints which rows have no queries, and why."""
    if found.empty:
        click.echo(f"{len(found.empty):,} rows are passed over, their text is blank: {_named(found.empty)}")
    if found.failed:
        told = [f"{row} ({reason})" for row, reason in found.failed.items()]
        click.echo(f"{len(found.failed):,} rows got no answer that holds three queries: {_named(told)}")
        click.echo("To ask for them again, run the same command again.")


def _named(rows: list[str]) -> str:
    return ", ".join(rows[:_NAMED]) + ("…" if len(rows) > _NAMED else "")
