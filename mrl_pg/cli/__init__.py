"""The command mrl-pg: parse, call, print.

What takes long to import (psycopg, SQLAlchemy, numpy, rich) is imported inside the commands, so that --help answers at
once.
"""

from __future__ import annotations

from typing import Any

import click

from mrl_pg import __version__
from mrl_pg.cli.bench import bench
from mrl_pg.cli.demo import demo
from mrl_pg.cli.embed import embed
from mrl_pg.cli.errors import Stopped, explain
from mrl_pg.cli.eval import evaluate
from mrl_pg.cli.index import index
from mrl_pg.cli.prefixes import add_prefix, backfill, drop_prefix, status
from mrl_pg.cli.queries import queries
from mrl_pg.cli.rotate import rotate
from mrl_pg.cli.schema import create_table, install, migrate, uninstall
from mrl_pg.cli.search import search
from mrl_pg.cli.tune import tune
from mrl_pg.cli.watch import watch
from mrl_pg.signals import Terminated, raising

__all__ = ["main"]


class _Commands(click.Group):
    """Commands in the order of their use, whose errors are told and not traced."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with raising(Terminated):
                return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Stopped("Stopped.") from None
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            message = explain(error)
            if message is None:
                raise
            raise click.ClickException(message) from error


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExample:\n  mrl-pg demo",
)
@click.version_option(__version__, prog_name="mrl-pg")
def main() -> None:
    """Two-stage vector search for Postgres.

    Candidates are found on a short prefix of an embedding and reranked on the full one. Prefixes are columns, kept by
    triggers and indexed by pgvector.

    On a table that holds rows: install, add-prefix, backfill, index, search. To see it at work first: demo.
    """


for command in (
    demo,
    install,
    migrate,
    create_table,
    add_prefix,
    rotate,
    backfill,
    index,
    search,
    status,
    drop_prefix,
    uninstall,
    embed,
    queries,
    evaluate,
    tune,
    watch,
    bench,
):
    main.add_command(command)
