"""mrl-pg embed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from mrl_pg.cli.connection import connected, dsn_option
from mrl_pg.cli.errors import Stopped
from mrl_pg.cli.output import json_option, print_json, progress, spent

if TYPE_CHECKING:
    from mrl_pg.embed import Embedder
    from mrl_pg.embedding import EmbedProgress

base_url_option = click.option(
    "--base-url", help="Where the model is: any server with OpenAI's API; OPENAI_BASE_URL, or else OpenAI, if left out."
)
dimensions_option = click.option(
    "--dimensions", type=int, help="Length of the embeddings, where the model can shorten them; full size if left out."
)


def query_embedder(table: str, model: str | None, **options: Any) -> Embedder:
    """Returns the embedder of queries.

    :param model: None where neither the command nor the table names it.
    """
    from mrl_pg.embed.openai import openai_embedder

    if model is None:
        raise click.UsageError(f"{table} does not know the model of its embeddings. Name it with --model.")
    return openai_embedder(model, **options)


@click.command(epilog="\b\nExample:\n  mrl-pg embed documents --text-column body --model text-embedding-3-large")
@click.argument("table")
@click.option("--text-column", required=True, help="Column of what to embed.")
@click.option("--model", required=True, help="Name of the model, as the server knows it.")
@click.option("--embedding", default="embedding", show_default=True, help="Column of the embeddings.")
@base_url_option
@dimensions_option
@click.option("--batch-size", type=int, help="Rows a transaction; 1,024 if left out.")
@click.option("--limit", type=int, help="Embed at most so many rows.")
@click.option("--dry-run", is_flag=True, help="Count rows and estimate tokens and cost; send and change nothing.")
@dsn_option
@json_option
def embed(
    table: str,
    model: str,
    base_url: str | None,
    dimensions: int | None,
    dry_run: bool,
    dsn: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Embed the texts of a table, by OpenAI or a server with the same API.

    Embeds the rows that have no embedding, or one of another text or model; the column EMBEDDING_hash, which is added
    where it is missing, tells. Needs OPENAI_API_KEY. Stopped anywhere, it goes on when it is run again.
    """
    import dataclasses

    import mrl_pg.psycopg as mrl
    from mrl_pg.embed.openai import openai_embedder

    given = {name: value for name, value in options.items() if value is not None}
    # A dry run sends nothing, so it needs no key.
    key = "none" if dry_run else None
    embedder = openai_embedder(model, dimensions=dimensions, base_url=base_url, api_key=key)
    latest: EmbedProgress | None = None
    with connected(dsn) as conn:
        begun = time.monotonic()
        try:
            with progress() as show:

                def watch(now: EmbedProgress) -> None:
                    nonlocal latest
                    latest = now
                    show(_spent(now), now.done, now.total, "rows")

                found = mrl.embed(conn, table, embedder, dry_run=dry_run, on_progress=watch, **given)
        except KeyboardInterrupt:
            so_far = f" after {latest.embedded:,} rows, which stay embedded" if latest else ""
            raise Stopped(f"Stopped{so_far}. To go on, run the same command again.") from None
        seconds = time.monotonic() - begun
    if as_json:
        print_json(dataclasses.asdict(found) | {"seconds": round(seconds, 3), "dry_run": dry_run})
        return
    if dry_run:
        click.echo(f"{found.total:,} rows of {table} wait for {found.embedding}: about {_spent(found)}.")
    elif not found.total:
        click.echo(f"No row of {table} waits for {found.embedding}.")
    else:
        rate = f"{found.embedded / seconds:,.0f} rows/s"
        click.echo(f"Embedded {found.embedded:,} rows in {seconds:,.1f} s ({rate}): {_spent(found)}.")
    _tell_rest(found, options["limit"])


def _spent(found: EmbedProgress) -> str:
    """Returns tokens and cost: ``1,234,567 tokens, $0.16``."""
    return spent(f"{found.tokens:,} tokens", found.cost)


def _tell_rest(found: EmbedProgress, limit: int | None) -> None:
    """Prints what was not embedded, and why."""
    if found.skipped:
        keys = ", ".join(map(str, found.skipped_keys)) + ("…" if found.skipped > len(found.skipped_keys) else "")
        click.echo(f"{found.skipped:,} rows are passed over: empty, or too long for the model. Their keys: {keys}")
    if found.missed:
        click.echo(f"{found.missed:,} rows changed or were held by others meanwhile. Next: the same command again")
    if found.foreign:
        click.echo(
            f"{found.foreign:,} rows have an embedding from elsewhere and are left alone, also if their text changes. "
            f"To have one made anew, set its {found.embedding} to NULL."
        )
    if limit and found.tried >= limit:
        click.echo("Stopped at the limit. Next: the same command again")
