"""What is in the database: the schema mrl, and tables made with their prefixes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mrl_pg.cli.connection import connected, dsn_option, engine_on
from mrl_pg.cli.output import print_sql, sql_option
from mrl_pg.models import advice_of_name
from mrl_pg.spec import DECLARED_KINDS, DEFAULT_EF_CONSTRUCTION, DEFAULT_M, OPERATORS, WHOLE_KINDS, Matryoshka

if TYPE_CHECKING:
    from sqlalchemy import Engine


def _dims(ctx: click.Context, param: click.Parameter, value: int | None) -> int | None:
    if value is None and ctx.params["kind"] not in WHOLE_KINDS:
        raise click.MissingParameter(ctx=ctx, param=param)
    return value


dims_option = click.option(
    "--dims", type=int, callback=_dims, help="Length of the prefix; kinds binary and half take all if left out."
)
distance_option = click.option(
    "--distance",
    type=click.Choice(list(OPERATORS)),
    default="cosine",
    show_default=True,
    help="How far apart embeddings are; smaller is nearer.",
)
m_option = click.option("--m", type=int, default=DEFAULT_M, show_default=True, help="Links per node of the HNSW graph.")
ef_construction_option = click.option(
    "--ef-construction",
    type=int,
    default=DEFAULT_EF_CONSTRUCTION,
    show_default=True,
    help="Candidates looked at per insert into the graph.",
)
model_option = click.option("--model", help="Model that makes the embeddings, for the record.")
kind_option = click.option(
    "--kind",
    type=click.Choice(DECLARED_KINDS),
    default="truncate",
    show_default=True,
    is_eager=True,  # because --dims depends on it
    help="truncate: the first dims as halfvec. binary: their sign bits, of some dims or of all. "
    "half: the whole embedding as halfvec.",
)
layer_norm_option = click.option(
    "--layer-norm",
    is_flag=True,
    help="Take the prefix from the layer norm of the embedding, as nomic-embed-text-v1.5 wants it.",
)


def tell_advice(model: str | None, dims: int | None, kind: str, *, layer_norm: bool) -> None:
    """Prints what is known against such a prefix of the embeddings of a model, on stderr."""
    for advice in advice_of_name(model, dims, kind, layer_norm=layer_norm) if model else []:
        click.echo(f"Warning: {advice}", err=True)


@click.command(epilog="\b\nExample:\n  mrl-pg install --dsn postgresql://localhost/app")
@dsn_option
@sql_option
def install(dsn: str, show_sql: bool) -> None:
    """Install mrl-pg in a database, or upgrade it.

    Creates the schema mrl, and the extension vector where it is missing. Needs no superuser: the right to create a
    schema in the database will do, once pgvector is there.
    """
    from mrl_pg.install import SCHEMA_VERSION, install_files

    if show_sql:
        scripts = "\n".join(path.read_text(encoding="utf-8") for path in install_files(None))
        click.echo(f"BEGIN;\nCREATE EXTENSION IF NOT EXISTS vector;\n{scripts}\nCOMMIT;")
        return

    import mrl_pg.psycopg as mrl

    with connected(dsn) as conn:
        before = mrl.version(conn)
        mrl.install(conn)
    if before == SCHEMA_VERSION:
        click.echo(f"mrl-pg {SCHEMA_VERSION} is installed already.")
    else:
        click.echo(
            f"Installed mrl-pg {SCHEMA_VERSION}." if before is None else f"Upgraded {before} to {SCHEMA_VERSION}."
        )


@click.command(epilog="\b\nExample:\n  mrl-pg uninstall --dsn postgresql://localhost/app")
@dsn_option
@sql_option
def uninstall(dsn: str, show_sql: bool) -> None:
    """Remove mrl-pg from a database.

    Refuses while prefixes exist, and names them: drop-prefix comes first. The extension vector stays.
    """
    from mrl_pg.install import resource_dir

    if show_sql:
        click.echo((resource_dir("sql") / "uninstall.sql").read_text(encoding="utf-8"), nl=False)
        return

    import mrl_pg.psycopg as mrl

    with connected(dsn) as conn:
        if mrl.version(conn) is None:
            click.echo("mrl-pg is not installed.")
            return
        mrl.uninstall(conn)
    click.echo("Uninstalled mrl-pg.")


@click.command(epilog="\b\nExample:\n  mrl-pg create-table papers --full-dims 1536 --dims 256")
@click.argument("name")
@click.option("--full-dims", type=int, required=True, help="Length of the embeddings.")
@dims_option
@kind_option
@layer_norm_option
@distance_option
@m_option
@ef_construction_option
@model_option
@click.option(
    "--embedding-type",
    type=click.Choice(["vector", "halfvec"]),
    default="vector",
    show_default=True,
    help="halfvec takes half the room, and half the reads of a search.",
)
@dsn_option
@sql_option
def create_table(name: str, dsn: str, show_sql: bool, **spec: Any) -> None:
    """Create a table for documents with their embeddings, prefix and index.

    NAME may have a schema: app.papers. The table has the columns id, title, body, metadata, created_at, embedding and
    the prefix. Installs mrl-pg where it is missing.
    """
    from sqlalchemy.schema import CreateIndex, CreateTable
    from sqlalchemy.sql import ClauseElement

    from mrl_pg import statements
    from mrl_pg.documents import documents_table
    from mrl_pg.registry import split_name

    matryoshka = Matryoshka(**spec)
    schema, bare_name = split_name(name)
    table = documents_table(bare_name, matryoshka, schema=schema)
    if show_sql:
        add_prefix = statements.add_prefix(
            statements.quoted(schema, bare_name),
            matryoshka.column,
            matryoshka.dims,
            matryoshka.distance,
            matryoshka.model,
            kind=matryoshka.kind,
            layer_norm=matryoshka.layer_norm,
        )
        made: list[ClauseElement] = [CreateTable(table), *map(CreateIndex, table.indexes), add_prefix]
        for statement in made:
            print_sql(statement)
        return
    with connected(dsn) as conn, engine_on(conn).begin() as connection:
        table.create(connection)
    click.echo(f"Created {name} with {matryoshka.prefix} and its index.")
    tell_advice(matryoshka.model, matryoshka.dims, matryoshka.kind, layer_norm=matryoshka.layer_norm)


@click.command(epilog="\b\nExample:\n  mrl-pg migrate --table papers --full-dims 1536 --dims 256")
@click.option("--table", help="Table to make; documents if left out.")
@click.option("--full-dims", type=int, help="Length of the embeddings; 1536 if left out.")
@click.option("--dims", type=int, help="Length of their prefix; 256 if left out.")
@click.option("--downgrade", is_flag=True, help="Take the migrations back: drop the table with all its rows.")
@click.option("--yes", is_flag=True, help="Do not ask before dropping the table.")
@dsn_option
@sql_option
def migrate(
    table: str | None, full_dims: int | None, dims: int | None, downgrade: bool, yes: bool, dsn: str, show_sql: bool
) -> None:
    """Run the Alembic migrations that come with mrl-pg.

    They install it and make one table for documents with their embeddings, prefix and index. The options count once:
    further tables are made by create-table, further prefixes by add-prefix.
    """
    if downgrade and (table, full_dims, dims) != (None, None, None):
        raise click.UsageError("--downgrade knows the table that was made: leave out --table, --full-dims and --dims.")

    from mrl_pg import migrate as migrations
    from mrl_pg.registry import split_name

    schema, name = split_name(table) if table else (None, None)

    def run(target: str | Engine) -> None:
        if downgrade:
            migrations.downgrade(target, sql=show_sql)
        else:
            migrations.upgrade(target, table=name, full_dims=full_dims, dims=dims, schema=schema, sql=show_sql)

    if show_sql:
        run("")
        return
    if downgrade and not yes:
        click.confirm("This drops the table that the migrations made, with all its rows. Go on?", abort=True)
    with connected(dsn) as conn:
        run(engine_on(conn))
    click.echo("The migrations are taken back." if downgrade else "The migrations are applied.")
