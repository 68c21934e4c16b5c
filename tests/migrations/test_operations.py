"""The directives: online with several drivers, offline through psql, and what they refuse."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy.ext.asyncio import create_async_engine

import mrl_pg.alembic
from mrl_pg import MrlError, NotInstalledError, SchemaVersionError, SpecError, migrate
from mrl_pg.install import install_files
from mrl_pg.psycopg import backfill, install, search
from tests.migrations.project import Project, connect, described, everything, psql

TABLE = "op.create_table({name!r}, sa.Column('id', sa.Integer, primary_key=True), \
sa.Column({embedding!r}, pgvector.sqlalchemy.VECTOR(64)), schema={schema!r})"

SINES = (
    'op.execute("INSERT INTO documents SELECT n, ARRAY(SELECT sin(n * i) FROM generate_series(1, 64) i)::vector '
    'FROM generate_series(1, 50) n")'
)

# 63 bytes, and whatever a language between Python and the catalog could take for its own.
HOSTILE = [
    ("documents", "embedding", None),
    ('we"ird; drop table x', "it's", None),
    ("100% :x %s %(y)s", "a\\b:c%d", 'app"; drop schema public'),
    ("Ünï" + "c" * 58, "É" * 31, None),
    ("n" * 63, "e" * 63, "S" * 63),
]


def lifecycle(project: Project, name: str, embedding: str, schema: str | None) -> None:
    """Writes revisions that use every directive."""
    on = f"{name!r}, {embedding!r}, dims=16, schema={schema!r}"
    table = TABLE.format(name=name, embedding=embedding, schema=schema)
    if schema:
        table = f"op.execute(sa.schema.CreateSchema({schema!r}))\n" + table
    project.write("op.mrl_install()\n" + table, f"op.drop_table({name!r}, schema={schema!r})\nop.mrl_uninstall()")
    project.write(f"op.mrl_add_prefix({on}, distance='l2', model='it\\'s')", f"op.mrl_drop_prefix({on})")
    project.write(f"op.mrl_create_prefix_index({on})", f"op.mrl_drop_prefix_index({on})")
    project.write(
        f"op.mrl_create_prefix_index({on}, m=8, concurrently=True)",
        f"op.mrl_drop_prefix_index({on}, m=8, concurrently=True)",
    )


@pytest.mark.parametrize(("name", "embedding", "schema"), HOSTILE)
def test_online_and_offline_are_the_same(
    project: Project, dsn: str, pg: int, name: str, embedding: str, schema: str | None
) -> None:
    lifecycle(project, name, embedding, schema)
    states = []
    for n in range(1, 5):
        project.upgrade(f"{n:04}")
        states.append(everything(project.dsn))
    assert len(described(project.dsn, name, schema or "public")["indexes"]) == 3

    other = Project(project.path.parent / "other", dsn)
    with connect(dsn) as conn:
        conn.execute("DROP SCHEMA mrl CASCADE")
    lifecycle(other, name, embedding, schema)
    for n in range(1, 5):
        psql(pg, dsn, other.offline(f"{n - 1:04}:{n:04}" if n > 1 else "0001"))
        assert everything(dsn) == states[n - 1]
    for n in range(4, 1, -1):
        project.downgrade(f"{n - 1:04}")
        psql(pg, dsn, other.offline(f"{n:04}:{n - 1:04}", down=True))
        assert everything(project.dsn) == everything(dsn) == states[n - 2]
    project.downgrade()
    psql(pg, dsn, other.offline("0001:base", down=True))
    assert everything(project.dsn) == everything(dsn) == []


def test_offline_needs_no_literal_binds(project: Project) -> None:
    project.write("op.mrl_add_prefix('documents', 'embedding', dims=16)")
    env = project.path / "env.py"
    env.write_text(env.read_text().replace(", literal_binds=True", ""))
    assert "SELECT mrl.add_prefix(CAST('documents' AS REGCLASS), 'embedding', 16, 'cosine', NULL)" in project.offline()


def operate(dsn: str, *steps: Callable[[Operations], None]) -> None:
    """Runs directives in transactions that Alembic owns, as env.py does."""
    with migrate.engine(dsn).connect() as connection:
        for step in steps:
            context = MigrationContext.configure(connection)
            with context.begin_transaction():
                step(Operations(context))


def directive(name: str, *positional: str, **keywords: object) -> Callable[[Operations], None]:
    return lambda op: getattr(op, name)(*positional, **keywords)


@pytest.fixture
def table(dsn: str) -> str:
    """A database with a prefix without an index, and three rows: one of them cannot have a prefix."""
    with connect(dsn) as conn:
        conn.execute("CREATE TABLE documents (id int PRIMARY KEY, embedding vector(4))")
        conn.execute("INSERT INTO documents VALUES (1, '[1,2,3,4]'), (2, '[4,3,2,1]'), (3, '[0,0,1,1]'), (4, NULL)")
        conn.execute("SELECT mrl.add_prefix('documents', 'embedding', 2)")
    return dsn


create_index = partial(directive, "mrl_create_prefix_index", "documents", "embedding", dims=2)


@pytest.mark.parametrize("concurrently", [False, True])
def test_index_refuses_rows_without_prefix(table: str, concurrently: bool) -> None:
    with pytest.raises(MrlError) as error:
        operate(table, create_index(concurrently=concurrently))
    assert str(error.value) == (
        "2 of 3 rows of documents lack embedding_2, and filling it is slower with the index there. "
        "Run this, then upgrade again: mrl-pg backfill documents --prefix embedding_2"
    )
    assert len(described(table, "documents")["indexes"]) == 1
    operate(table, create_index(concurrently=concurrently, allow_missing=True))
    assert len(described(table, "documents")["indexes"]) == 2


@pytest.mark.parametrize("concurrently", [False, True])
def test_index_repairs_what_a_failed_build_left(table: str, concurrently: bool) -> None:
    build = create_index(concurrently=concurrently)
    with connect(table) as conn:
        conn.execute("UPDATE documents SET embedding = embedding")
        conn.execute("SET statement_timeout = 300")
        with connect(table) as other, other.transaction():
            other.execute("UPDATE documents SET id = id")
            statement = conn.execute("SELECT mrl.create_prefix_index('documents', 'embedding_2')").fetchone()
            assert statement is not None
            with pytest.raises(psycopg.errors.QueryCanceled):
                conn.execute(statement[0])
    assert [valid for _, valid in described(table, "documents")["indexes"]] == [False, True]
    operate(table, build, build)
    assert [valid for _, valid in described(table, "documents")["indexes"]] == [True, True]


def test_two_builds_at_a_time(table: str) -> None:
    """What looks INVALID may be unfinished: the second leaves it alone."""
    with connect(table) as conn:
        conn.execute("UPDATE documents SET embedding = embedding")
    build = create_index(concurrently=True)
    with connect(table) as other:
        other.execute("BEGIN; UPDATE documents SET id = id")
        first = threading.Thread(target=operate, args=(table, build))
        first.start()
        while first.is_alive() and len(described(table, "documents")["indexes"]) == 1:
            time.sleep(0.02)
        with pytest.raises(MrlError, match=r"^process \d+ is building an index of documents already\. Wait until"):
            operate(table, build)
        other.execute("COMMIT")
    first.join()
    assert [valid for _, valid in described(table, "documents")["indexes"]] == [True, True]
    operate(table, build)


def test_drop_index_does_nothing_twice(table: str) -> None:
    for concurrently in (False, True):
        drop = directive(
            "mrl_drop_prefix_index", "documents", "embedding", dims=2, m=4, ef_construction=8, concurrently=concurrently
        )
        operate(table, create_index(m=4, ef_construction=8, allow_missing=True), create_index(allow_missing=True))
        operate(table, drop, drop)
        names = [definition for definition, _ in described(table, "documents")["indexes"]]
        assert [name.split()[2] for name in names if "UNIQUE" not in name] == [
            "documents_embedding_2_halfvec_cosine_ops_idx"
        ]


@pytest.mark.parametrize("name", ["mrl_create_prefix_index", "mrl_drop_prefix_index"])
def test_concurrently_needs_a_transaction_of_alembic(table: str, name: str) -> None:
    with connect(table) as conn:
        conn.execute("UPDATE documents SET embedding = embedding")
    with migrate.engine(table).begin() as connection:
        op = Operations(MigrationContext.configure(connection))
        with pytest.raises(MrlError) as error:
            getattr(op, name)("documents", dims=2, concurrently=True)
        assert str(error.value) == (
            "an index is built or dropped concurrently outside a transaction, but env.py has begun one that Alembic "
            "does not own. In env.py, give context.configure() a connection that is not in a transaction, and run the "
            "migrations in `with context.begin_transaction():`; or pass concurrently=False."
        )
        getattr(op, name)("documents", dims=2)


def test_add_prefix_again(table: str) -> None:
    add = partial(directive, "mrl_add_prefix", "documents", "embedding", dims=2)
    before = everything(table)
    operate(table, add())
    assert everything(table) == before
    with pytest.raises(sa.exc.ProgrammingError, match="exists as 2 dims of embedding for cosine"):
        operate(table, add(distance="l2"))


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("mrl_add_prefix", {"dims": 0}, "dims must be between 1 and 4,000, not 0"),
        ("mrl_add_prefix", {}, "kind truncate needs dims"),
        ("mrl_drop_prefix", {"layer_norm": True}, "kind truncate needs dims"),
        ("mrl_add_prefix", {"dims": 2, "distance": "dot"}, "unknown distance 'dot'"),
        ("mrl_create_prefix_index", {"dims": 2, "m": 1}, "m must be between 2 and 100, not 1"),
        ("mrl_create_prefix_index", {"dims": 2, "m": 40}, r"ef_construction must be between 80 \(2 \* m\)"),
    ],
)
def test_bad_specs(table: str, name: str, keywords: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        operate(table, directive(name, "documents", "embedding", **keywords))


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("kind", ["half", "binary"])
def test_dims_are_looked_up(project: Project, dsn: str, pg: int, kind: str, layer_norm: bool) -> None:
    on = f"'documents', 'embedding', kind={kind!r}, layer_norm={layer_norm}"
    with connect(dsn) as conn:
        conn.execute("CREATE TABLE documents (id int PRIMARY KEY, embedding vector(4))")
    whole = {"kind": kind, "layer_norm": layer_norm}
    operate(dsn, directive("mrl_add_prefix", "documents", **whole))
    prefix = f"embedding_{'ln' if layer_norm else ''}{'bit' if kind == 'binary' else kind}4"
    build = directive("mrl_create_prefix_index", "documents", concurrently=True, **whole)
    operate(dsn, build, build)
    assert any(prefix in definition for definition, _ in described(dsn, "documents")["indexes"])
    operate(dsn, directive("mrl_drop_prefix_index", "documents", **whole))
    operate(dsn, directive("mrl_drop_prefix", "documents", **whole))
    assert described(dsn, "documents")["triggers"] == []

    # Offline the database adds it all the same, and what has to name the prefix asks for the length.
    project.write(f"op.mrl_add_prefix({on})")
    psql(pg, dsn, project.offline())
    assert prefix in {name for name, _, _ in described(dsn, "documents")["columns"]}
    for n, name in enumerate(("mrl_create_prefix_index", "mrl_drop_prefix_index", "mrl_drop_prefix"), start=2):
        project.write(f"op.{name}({on})")
        with pytest.raises(SpecError) as error:
            project.offline(f"{n - 1:04}:{n:04}")
        assert str(error.value) == (
            "offline, the length of embedding of documents cannot be looked up. "
            f"Write it into the revision: op.{name}(..., dims=...)"
        )


@pytest.mark.parametrize("column", ["embedding", "nothing"])
def test_dims_that_cannot_be_looked_up(dsn: str, column: str) -> None:
    with connect(dsn) as conn:
        conn.execute("CREATE TABLE documents (id int PRIMARY KEY, embedding vector)")
    with pytest.raises(MrlError) as error:
        operate(dsn, directive("mrl_drop_prefix", "documents", column, kind="half"))
    assert str(error.value) == (
        f"{column} of documents does not exist, or fixes no length. "
        "Name the embedding, or write its length: op.mrl_drop_prefix(..., dims=...)"
    )


@pytest.mark.parametrize(
    "name", ["mrl_add_prefix", "mrl_drop_prefix", "mrl_create_prefix_index", "mrl_drop_prefix_index"]
)
def test_without_mrl(bare_dsn: str, name: str) -> None:
    with pytest.raises(NotInstalledError, match=r"Put op.mrl_install\(\) into this revision or an earlier one\.$"):
        operate(bare_dsn, directive(name, "documents", "embedding", dims=2))


def test_install_and_uninstall(bare_dsn: str) -> None:
    install_, uninstall = directive("mrl_install"), directive("mrl_uninstall")
    operate(bare_dsn, install_)
    installed = everything(bare_dsn)
    operate(bare_dsn, install_)
    assert everything(bare_dsn) == installed
    with connect(bare_dsn) as conn:
        conn.execute("CREATE TABLE documents (id int PRIMARY KEY, embedding vector(4))")
    operate(bare_dsn, directive("mrl_add_prefix", "documents", dims=2))
    with pytest.raises(
        psycopg.errors.DependentObjectsStillExist, match=r"mrl-pg still keeps prefixes: documents\.embedding_2"
    ):
        operate(bare_dsn, uninstall)
    operate(bare_dsn, directive("mrl_uninstall", if_unused=True))
    assert described(bare_dsn, "documents")["triggers"]
    operate(bare_dsn, directive("mrl_drop_prefix", "documents", dims=2), directive("mrl_uninstall", if_unused=True))
    assert [row[1] for row in everything(bare_dsn)] == ["documents", "documents_pkey"]
    operate(bare_dsn, directive("mrl_uninstall", if_unused=True), install_, uninstall)
    assert [row[1] for row in everything(bare_dsn)] == ["documents", "documents_pkey"]


@pytest.fixture
def version_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with version 0.2 of the schema."""
    (tmp_path / "mrl_pg--0.1--0.2.sql").write_text(
        "CREATE OR REPLACE FUNCTION mrl.version() RETURNS text LANGUAGE sql IMMUTABLE RETURN '0.2'::text;"
    )
    implementation = "mrl_pg.alembic.implementation."
    monkeypatch.setattr(f"{implementation}SCHEMA_VERSION", "0.2")
    monkeypatch.setattr(f"{implementation}install_files", partial(install_files, wanted="0.2", directory=tmp_path))


def version(dsn: str) -> object:
    with connect(dsn) as conn:
        row = conn.execute("SELECT mrl.version()").fetchone()
        return row and row[0]


@pytest.mark.usefixtures("version_2")
@pytest.mark.parametrize("name", ["mrl_install", "mrl_upgrade"])
def test_upgrade(dsn: str, name: str) -> None:
    operate(dsn, directive(name))
    assert version(dsn) == "0.2"
    operate(dsn, directive(name))


@pytest.mark.usefixtures("version_2")
def test_upgrade_offline(project: Project, pg: int) -> None:
    with connect(project.dsn) as conn:
        install(conn)
    project.write("op.mrl_upgrade(start='0.1')")
    psql(pg, project.dsn, project.offline())
    assert version(project.dsn) == "0.2"
    project.write("op.mrl_upgrade()")
    with pytest.raises(MrlError, match=r"Write the one the script starts from: op\.mrl_upgrade\(start='0\.2'\)"):
        project.offline()


def test_upgrade_of_nothing(bare_dsn: str) -> None:
    with pytest.raises(NotInstalledError, match=r"Use op\.mrl_install\(\) in this revision\."):
        operate(bare_dsn, directive("mrl_upgrade"))


@pytest.mark.parametrize("name", ["mrl_install", "mrl_upgrade"])
def test_a_newer_schema(dsn: str, name: str) -> None:
    with connect(dsn) as conn:
        change = "CREATE OR REPLACE FUNCTION mrl.version() RETURNS text LANGUAGE sql IMMUTABLE RETURN '{}'::text"
        conn.execute(change.format("0.9"))
        operate(dsn, directive(name))  # is fine: the database is upgraded first
        conn.execute(change.format("1.0"))
        with pytest.raises(SchemaVersionError, match=r"has version 1\.0 of schema mrl, this package needs 0\.1"):
            operate(dsn, directive(name))


def test_asyncpg(bare_dsn: str) -> None:
    parameters = psycopg.conninfo.conninfo_to_dict(bare_dsn)
    url = sa.URL.create("postgresql+asyncpg", username="postgres", database=str(parameters["dbname"]))
    steps = [
        directive("mrl_install"),
        lambda op: op.execute("CREATE TABLE documents (id int PRIMARY KEY, embedding vector(4))"),
        directive("mrl_add_prefix", "documents", dims=2),
        directive("mrl_create_prefix_index", "documents", dims=2),
        directive("mrl_create_prefix_index", "documents", dims=2, m=4, concurrently=True),
        directive("mrl_drop_prefix_index", "documents", dims=2, m=4, concurrently=True),
    ]
    back = [
        directive("mrl_drop_prefix", "documents", dims=2),
        directive("mrl_uninstall"),
        directive("mrl_uninstall", if_unused=True),
    ]

    async def migrated(steps: list[Callable[[Operations], None]]) -> None:
        engine = create_async_engine(url, connect_args={"host": parameters["host"]}, poolclass=sa.NullPool)
        async with engine.connect() as connection:
            for step in steps:
                await connection.run_sync(run, step)

    def run(connection: sa.Connection, step: Callable[[Operations], None]) -> None:
        context = MigrationContext.configure(connection)
        with context.begin_transaction():
            step(Operations(context))

    asyncio.run(migrated(steps))
    there = described(bare_dsn, "documents")
    assert (len(there["triggers"]), len(there["indexes"])) == (1, 2)
    asyncio.run(migrated(back))
    assert [row[1] for row in everything(bare_dsn)] == ["documents", "documents_pkey"]


def test_every_directive_has_a_reverse() -> None:
    add = mrl_pg.alembic.AddPrefixOp("documents", "embedding", 16, "l2", "small", "app")
    create = mrl_pg.alembic.CreatePrefixIndexOp("documents", "embedding", 16, m=8, schema="app", concurrently=True)
    assert add.reverse().reverse() == add
    assert create.reverse().reverse() == create
    assert isinstance(mrl_pg.alembic.InstallOp().reverse().reverse(), mrl_pg.alembic.InstallOp)


def test_a_rotation(project: Project) -> None:
    on = "'documents', dims=8"
    table = TABLE.format(name="documents", embedding="embedding", schema=None)
    project.write("op.mrl_install()\n" + table + "\n" + SINES, "op.drop_table('documents')\nop.mrl_uninstall()")
    project.write(f"op.mrl_rotate({on}, model='small-3')", f"op.mrl_drop_prefix({on}, kind='rotate', version=1)")
    index = f"{on}, kind='rotate', version=1, concurrently=True"
    project.write(f"op.mrl_create_prefix_index({index})", f"op.mrl_drop_prefix_index({index})")
    project.upgrade("0002")
    with pytest.raises(MrlError, match=r"50 of 50 rows of documents lack embedding_rot8_v1"):
        project.upgrade()
    with connect(project.dsn) as conn:
        assert conn.execute("SELECT prefix, model FROM mrl.prefixes").fetchall() == [("embedding_rot8_v1", "small-3")]
        backfill(conn, "documents")
    project.upgrade()
    with connect(project.dsn) as conn:
        assert [hit.key for hit in search(conn, "documents", [np.sin(7 * i) for i in range(1, 65)], k=1)] == [7]
    project.write(f"op.mrl_rotate({on})\nop.mrl_rotate({on}, version=3)")
    with pytest.raises(MrlError, match=r"the next rotation of embedding of documents is embedding_rot8_v2, not emb"):
        project.upgrade()
    with connect(project.dsn) as conn:
        assert conn.execute("SELECT count(*) FROM mrl.bases").fetchall() == [(1,)]
    with pytest.raises(MrlError, match=r"learnt from rows, and a script has none.*mrl-pg rotate documents --dims 8"):
        project.offline("0001:0002")
    project.downgrade("0001")
    with connect(project.dsn) as conn:
        assert conn.execute("SELECT count(*) FROM mrl.prefixes").fetchall() == [(0,)]


def test_a_rotation_that_comes_back_has_its_basis(project: Project) -> None:
    table = TABLE.format(name="documents", embedding="embedding", schema=None)
    project.write("op.mrl_install()\n" + table + "\n" + SINES)
    on = "'documents', dims=8"
    project.write(f"op.mrl_rotate({on}, model='m')", f"op.mrl_drop_prefix({on}, kind='rotate', version=1)")
    known = "SELECT prefix, basis, model FROM mrl.prefixes"
    project.upgrade()
    with connect(project.dsn) as conn:
        before = conn.execute(known).fetchall()
        project.downgrade("0001")
        assert conn.execute(known).fetchall() == []
        project.upgrade()
        assert conn.execute(known).fetchall() == before
        assert conn.execute("SELECT count(*) FROM mrl.bases").fetchall() == [(1,)]


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("other", ["dims=8, distance='l2'", "dims=4"])
def test_a_rotation_that_is_there_is_another(project: Project, dropped: bool, other: str) -> None:
    table = TABLE.format(name="documents", embedding="embedding", schema=None)
    project.write("op.mrl_install()\n" + table + "\n" + SINES)
    drop = "\nop.mrl_drop_prefix('documents', dims=8, kind='rotate', version=1)" if dropped else ""
    project.write("op.mrl_rotate('documents', dims=8)" + drop)
    project.upgrade()
    project.write(f"op.mrl_rotate('documents', {other})")
    message = rf"version 1 of the rotations of embedding of documents is of 8 dims for cosine, not of {other[5]} for "
    if other == "dims=4" and not dropped:
        message = "the next rotation of embedding of documents is embedding_rot4_v2, not embedding_rot4_v1"
    with pytest.raises(MrlError, match=message):
        project.upgrade()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("mrl_add_prefix('documents', dims=8, kind='rotate')", "kind rotate needs a version"),
        ("mrl_drop_prefix('documents', dims=8, kind='rotate')", "kind rotate needs a version"),
        ("mrl_drop_prefix('documents', dims=8, version=1)", "kind truncate has no version"),
        ("mrl_rotate('documents', dims=0)", "dims must be between 1 and 4,000, not 0"),
        ("mrl_rotate('documents', dims=128, sample=9)", "a sample of 9 rows does not determine 128"),
        ("mrl_rotate('documents', dims=8)", "no row of documents has an embedding"),
    ],
)
def test_rotations_that_cannot_be(project: Project, call: str, message: str) -> None:
    table = TABLE.format(name="documents", embedding="embedding", schema=None)
    project.write("op.mrl_install()\n" + table)
    project.write(f"op.{call}")
    with pytest.raises(MrlError, match=message):
        project.upgrade()
