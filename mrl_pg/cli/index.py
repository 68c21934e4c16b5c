"""mrl-pg index."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from mrl_pg.cli.connection import connected, dsn_option
from mrl_pg.cli.errors import Stopped
from mrl_pg.cli.output import print_sql, progress, sql_option
from mrl_pg.cli.prefixes import prefix_option
from mrl_pg.cli.schema import ef_construction_option, m_option

if TYPE_CHECKING:
    import psycopg


@click.command(epilog="\b\nExample:\n  mrl-pg index documents")
@click.argument("table")
@prefix_option
@m_option
@ef_construction_option
@click.option("--allow-missing", is_flag=True, help="Build while rows lack their prefix.")
@click.option("--no-concurrently", is_flag=True, help="Build faster, and let writes to the table wait.")
@dsn_option
@sql_option
def index(
    table: str,
    prefix: str | None,
    m: int,
    ef_construction: int,
    allow_missing: bool,
    no_concurrently: bool,
    dsn: str,
    show_sql: bool,
) -> None:
    """Build the index of a prefix.

    Builds it concurrently, so that writes go on, and puts right what a failed build has left. Refuses while rows lack
    their prefix: filling it is slower with the index there.
    """
    import mrl_pg.psycopg as mrl
    from mrl_pg import statements
    from mrl_pg.psycopg.index import ALREADY_BUILT, concurrent_statement
    from mrl_pg.registry import named_prefix, split_name

    with connected(dsn) as conn:
        if show_sql:
            name = named_prefix(mrl.describe(conn, table), prefix).prefix
            call = statements.create_prefix_index(
                statements.quoted(*split_name(table)),
                name,
                concurrently=not no_concurrently,
                m=m,
                ef_construction=ef_construction,
            )
            print_sql(call if no_concurrently else concurrent_statement(conn, call))
            return
        conn.add_notice_handler(_tell_notice)
        begun = time.monotonic()
        phase = ""
        try:
            with progress() as show:

                def watch(now: str, done: int, total: int) -> None:
                    nonlocal phase
                    phase = now
                    show(now, done, total, "")

                name = mrl.create_index(
                    conn,
                    table,
                    prefix=prefix,
                    concurrently=not no_concurrently,
                    allow_missing=allow_missing,
                    on_progress=watch,
                    m=m,
                    ef_construction=ef_construction,
                )
        except KeyboardInterrupt:
            raise Stopped("Stopped. To build it, run the same command again.") from None
    if phase == ALREADY_BUILT:
        click.echo(f"{name} is there already, and valid.")
    else:
        click.echo(f"Built {name} in {time.monotonic() - begun:,.1f} s.")


def _tell_notice(notice: psycopg.errors.Diagnostic) -> None:
    for line in (notice.message_primary, notice.message_detail, notice.message_hint):
        if line:
            click.echo(line, err=True)
