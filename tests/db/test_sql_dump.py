"""pg_dump and restore: registry, triggers, indexes, searches and writes are there again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

import mrl_pg.psycopg as mrl
from mrl_pg import embedded
from mrl_pg.vectors import to_text
from tests.conftest import Conn, database, vectors
from tests.db.test_sql_install import HOSTILE, extension_dir, extension_server, fingerprint

__all__ = ["extension_dir", "extension_server"]  # fixtures of test_sql_install.py

ROWS = [to_text(row) for row in vectors(60, 32)]
REGISTRY = "SELECT p::text FROM mrl.prefixes p ORDER BY target, position"
COUNTS = "SELECT target::text, prefix, maintained, index::text, rows, missing, impossible FROM mrl.status ORDER BY 1, 2"


def run(pg: int, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a program of the server, which must have nothing to say."""
    done = subprocess.run([embedded.bin_dir(pg) / program, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done


def connect(dsn: str, schema: str = "public") -> Conn:
    """Returns a connection whose search_path has the schema of pgvector."""
    conn = psycopg.connect(dsn, autocommit=True)
    conn.execute(sql.SQL("SET search_path = public, {}").format(sql.Identifier(schema)))
    return conn


def make(conn: Conn) -> None:
    """Creates tables with whatever of ours can be in a dump."""
    conn.execute(
        "CREATE TABLE docs (id int PRIMARY KEY, title text, embedding vector(32), half halfvec(32));"
        'CREATE SCHEMA "we""ird";'
        'CREATE TABLE "we""ird"."do;cs" (id int, "em bed" vector(32), PRIMARY KEY (id)) PARTITION BY HASH (id);'
        'CREATE TABLE part PARTITION OF "we""ird"."do;cs" FOR VALUES WITH (MODULUS 1, REMAINDER 0)'
    )
    conn.execute("INSERT INTO docs (id, embedding) VALUES (0, %s)", [ROWS[59]])
    conn.execute("SELECT mrl.add_prefix('docs', 'embedding', 8, model => %s)", ['it\'s a \\000\\ "modèle"\nof ours'])
    conn.execute("SELECT mrl.add_prefix('docs', 'half', 4, 'inner_product')")
    conn.execute("SELECT mrl.add_prefix('docs', 'embedding', 16, 'l2')")
    conn.execute("SELECT mrl.add_prefix('docs', 'embedding', 8, options => '{\"layer_norm\": true}')")
    conn.execute("SELECT mrl.add_prefix(%s, 'em bed', 8)", ['"we""ird"."do;cs"'])
    conn.execute("SELECT mrl.create_prefix_index('docs', 'embedding_8', false, '{\"m\": 8}')")
    conn.execute("SELECT mrl.create_prefix_index(%s, 'em bed_8', false)", ['"we""ird"."do;cs"'])
    # Evaluated while data and indexes are restored, with an empty search_path.
    conn.execute(
        "ALTER TABLE docs ADD CHECK (embedding_8 IS NULL OR NOT mrl.is_stale(embedding_8, embedding, 8, 'cosine'));"
        "ALTER TABLE docs ADD CHECK "
        "(embedding_ln8 IS NULL OR NOT mrl.is_stale(embedding_ln8, mrl.layer_norm(embedding), 8, 'cosine'));"
        "ALTER TABLE docs ADD made halfvec(4) GENERATED ALWAYS AS (mrl.prefix(embedding, 4)) STORED;"
        "CREATE INDEX expression ON docs USING hnsw ((mrl.prefix(half, 4, 'l2')::halfvec(4)) halfvec_l2_ops);"
        "CREATE INDEX normed ON docs USING hnsw ((mrl.layer_norm(half)::vector(32)) vector_l2_ops)"
    )
    insert = "INSERT INTO docs (id, title, embedding, half) VALUES (%s, 'x', %s, %s)"
    conn.cursor().executemany(insert, [(n, ROWS[n], ROWS[n]) for n in range(1, 50)])
    conn.execute("INSERT INTO docs (id, embedding) SELECT 50, (array_fill(0, ARRAY[31]) || 1)::real[]::vector")
    insert = 'INSERT INTO "we""ird"."do;cs" VALUES (%s, %s)'
    conn.cursor().executemany(insert, list(enumerate(ROWS[:20])))
    conn.execute("ALTER TABLE docs DISABLE TRIGGER zz_mrl_embedding_16")
    assert mrl.rotate(conn, "docs", "half", dims=3) == "half_rot3_v1"
    mrl.add_prefix(conn, "docs", dims=32, kind="binary")
    mrl.add_prefix(conn, "docs", kind="half")
    mrl.watch(conn, "docs", vectors(3, 32), k=1, prefix="embedding_8")
    for record in (0, 1):
        mrl.search(conn, "docs", vectors(3, 32)[record], k=1, filter={"title": "x"}, record=record)
    conn.execute(
        "INSERT INTO mrl.operating_points (prefix_id, k, candidates, ef_search, target_recall, recall, recall_low, "
        "recall_high, p50_ms, p95_ms, rows, queries, source, versions) "
        "SELECT id, 1, 7, 9, 0.9, 0.95, 0.9, 1, 1, 2, 50, 10, 'recorded', 'x' "
        "FROM mrl.prefixes WHERE prefix = 'embedding_8'"
    )


def check(source: Conn, restored: Conn) -> None:
    """Compares what was restored with its source, then uses it."""
    recorded = mrl.recorded_queries(source, "docs", filtered=True).ids
    assert len(recorded) == 1
    for query in (
        REGISTRY,
        COUNTS,
        "SELECT b::text FROM mrl.bases b",
        "SELECT h::text FROM mrl.recall_history h",
        "SELECT o::text FROM mrl.operating_points o",
        "SELECT q::text FROM mrl.recorded_queries q",
        "SELECT d::text FROM docs d ORDER BY id",
        'SELECT d::text FROM "we""ird"."do;cs" d ORDER BY id',
    ):
        assert restored.execute(query).fetchall() == source.execute(query).fetchall()
    prefixes = {row[1]: row[2:] for row in restored.execute(COUNTS)}
    assert prefixes == {
        "embedding_8": (True, "docs_embedding_8_halfvec_cosine_ops_m8_idx", 51, 2, 1),
        "embedding_16": (False, None, 51, 1, 0),
        "half_4": (True, None, 49, 0, 0),
        "half_rot3_v1": (True, None, 49, 49, 0),
        "embedding_bit32": (True, None, 51, 51, 0),
        "embedding_half32": (True, None, 51, 51, 0),
        "embedding_ln8": (True, None, 51, 1, 0),
        "em bed_8": (True, '"we""ird"."do;cs_em bed_8_halfvec_cosine_ops_idx"', 20, 0, 0),
    }
    restored.execute("INSERT INTO docs (id, embedding, half) VALUES (51, %s, %s)", (ROWS[51], ROWS[51]))
    restored.execute("UPDATE docs SET embedding = %s WHERE id = 3", [ROWS[53]])
    restored.execute('INSERT INTO "we""ird"."do;cs" VALUES (51, %s)', [ROWS[51]])
    assert restored.execute(
        "SELECT count(*) FROM docs WHERE id IN (3, 51) AND embedding_8 IS NOT NULL AND made IS NOT NULL "
        "AND NOT mrl.is_stale(embedding_8, embedding, 8, 'cosine') "
        "AND NOT mrl.is_stale(embedding_ln8, mrl.layer_norm(embedding), 8, 'cosine') "
        "AND NOT mrl.is_stale(embedding_half32, embedding, 32, 'cosine')"
    ).fetchall() == [(2,)]
    for table in ("docs", '"we""ird"."do;cs"'):
        search = f"SELECT (hit).id FROM mrl.search(NULL::{table}, %s, k => 1)"
        assert restored.execute(search, [ROWS[51]]).fetchall() == [(51,)]
    assert [hit.key for hit in mrl.search(restored, "docs", vectors(60, 32)[53], k=1)] == [3]
    assert mrl.backfill(restored, "docs", prefix="embedding_8").filled == 1
    assert mrl.backfill(restored, "docs", prefix="half_rot3_v1").filled == 49
    assert mrl.backfill(restored, "docs", prefix="embedding_ln8").filled == 1
    mrl.create_index(restored, "docs", prefix="embedding_ln8")
    assert mrl.search(restored, "docs", vectors(60, 32)[7], k=1, prefix="embedding_ln8")[0].key == 7
    mrl.create_index(restored, "docs", prefix="half_rot3_v1")
    (nearest,) = mrl.search(restored, "docs", vectors(60, 32)[7], k=1, prefix="half_rot3_v1")
    assert nearest.key == 7
    assert mrl.search(restored, "docs", vectors(60, 32)[7], k=1, recall=0.95).requested == 7
    assert mrl.recorded_queries(restored, "docs", filtered=True).ids == recorded
    mrl.search(restored, "docs", vectors(60, 32)[7], record=1)
    assert len(mrl.recorded_queries(restored, "docs", filtered=True).ids) == 2
    mrl.drop_prefix(restored, "docs", "half_4")
    assert mrl.add_prefix(restored, "docs", "half", dims=2) == "half_2"


@pytest.fixture(params=["plain", "extension"])
def install(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def databases(install: str, request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Two empty databases on a server that has the extension or not: one to dump, one to restore."""
    server = request.getfixturevalue("server" if install == "plain" else "extension_server")
    with ExitStack() as stack:
        new = contextmanager(database)
        yield stack.enter_context(new(server, "template0")), stack.enter_context(new(server, "template0"))


@pytest.mark.parametrize("schema", ["public", HOSTILE], ids=["public", "elsewhere"])
@pytest.mark.parametrize("form", ["plain", "custom"])
def test_dump_and_restore(
    pg: int, databases: tuple[str, str], install: str, schema: str, form: str, tmp_path: Path
) -> None:
    dumped, empty = databases
    dump = tmp_path / "dump"
    with connect(dumped, schema) as source, connect(empty, schema) as restored:
        name = sql.Identifier(schema)
        source.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(name))
        source.execute(sql.SQL("CREATE EXTENSION vector SCHEMA {}").format(name))
        if install == "plain":
            mrl.install(source)
        else:
            source.execute("CREATE EXTENSION mrl_pg")
        make(source)
        before = fingerprint(source)
        run(pg, "pg_dump", "-d", dumped, f"--format={form}", "-f", dump)
        if form == "plain":
            run(pg, "psql", "-X", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "-d", empty, "-f", dump)
        else:
            run(pg, "pg_restore", "--exit-on-error", "--jobs=2", "-d", empty, dump)
        assert fingerprint(restored) == before
        extensions = "SELECT extname, extnamespace::regnamespace::text FROM pg_extension ORDER BY 1"
        assert restored.execute(extensions).fetchall() == source.execute(extensions).fetchall()
        check(source, restored)


def test_the_owner_of_a_database_restores(pg: int, dsn: str, conn: Conn, bare_dsn: str, tmp_path: Path) -> None:
    """No function has a setting that only a superuser may restore."""
    make(conn)
    run(pg, "pg_dump", "-d", dsn, "--no-owner", "--no-comments", "--format=custom", "-f", tmp_path / "dump")
    with psycopg.connect(bare_dsn, autocommit=True) as superuser:
        name = superuser.info.dbname
        superuser.execute(f"CREATE ROLE restorer_of_{name} LOGIN; ALTER DATABASE {name} OWNER TO restorer_of_{name}")
        superuser.execute("CREATE EXTENSION vector")
        theirs = make_conninfo(bare_dsn, user=f"restorer_of_{name}")
        run(pg, "pg_restore", "--exit-on-error", "--no-owner", "-d", theirs, tmp_path / "dump")
        with psycopg.connect(theirs, autocommit=True) as restored:
            check(conn, restored)
        superuser.execute(f"ALTER DATABASE {name} OWNER TO CURRENT_USER")


@pytest.mark.parametrize("form", ["whole", "data only"])
def test_one_table_into_a_database_that_has_ours(
    pg: int, dsn: str, conn: Conn, server: str, template: str, form: str, tmp_path: Path
) -> None:
    conn.execute("CREATE TABLE docs (id int PRIMARY KEY, embedding vector(32)); CREATE TABLE other (id int)")
    mrl.add_prefix(conn, "docs", dims=8, model="m")
    conn.execute("INSERT INTO docs VALUES (1, %s), (2, %s)", ROWS[:2])
    conn.execute("SELECT mrl.create_prefix_index('docs', 'embedding_8', false)")
    options = [] if form == "whole" else ["--data-only", "--column-inserts"]
    run(pg, "pg_dump", "-d", dsn, "-t", "docs", *options, "-f", tmp_path / "dump")
    with contextmanager(database)(server, template) as other, psycopg.connect(other, autocommit=True) as restored:
        if form == "data only":
            restored.execute("CREATE TABLE docs (id int PRIMARY KEY, embedding vector(32))")
            mrl.add_prefix(restored, "docs", dims=8, model="m")
            restored.execute("SELECT mrl.create_prefix_index('docs', 'embedding_8', false)")
        run(pg, "psql", "-X", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "-d", other, "-f", tmp_path / "dump")
        # An id is of the prefix that was added, here or there.
        registry = REGISTRY if form == "whole" else REGISTRY.replace("p::text", "(to_jsonb(p) - 'id')::text")
        for query in (registry, COUNTS, "SELECT d::text FROM docs d ORDER BY id"):
            assert restored.execute(query).fetchall() == conn.execute(query).fetchall()
        restored.execute("INSERT INTO docs VALUES (3, %s)", [ROWS[2]])
        assert [hit.key for hit in mrl.search(restored, "docs", vectors(60, 32)[2], k=1)] == [3]
        assert restored.execute("SELECT rows, missing FROM mrl.status").fetchall() == [(3, 0)]


def test_one_table_into_a_database_without_ours(pg: int, dsn: str, conn: Conn, bare_dsn: str, tmp_path: Path) -> None:
    """What cannot be made is the trigger alone: the rows are there, and add_prefix takes over."""
    conn.execute("CREATE TABLE docs (id int PRIMARY KEY, embedding vector(32))")
    mrl.add_prefix(conn, "docs", dims=8)
    conn.execute("INSERT INTO docs VALUES (1, %s)", [ROWS[0]])
    run(pg, "pg_dump", "-d", dsn, "-t", "docs", "-f", tmp_path / "dump")
    with psycopg.connect(bare_dsn, autocommit=True) as restored:
        restored.execute("CREATE EXTENSION vector")
        psql = map(str, (embedded.bin_dir(pg) / "psql", "-X", "-q", "-d", bare_dsn, "-f", tmp_path / "dump"))
        errors = subprocess.run([*psql], capture_output=True, text=True).stderr
        assert errors.count("ERROR:") == 1
        assert 'ERROR:  schema "mrl" does not exist' in errors
        mrl.install(restored)
        mrl.add_prefix(restored, "docs", dims=8)
        restored.execute("INSERT INTO docs VALUES (2, %s)", [ROWS[1]])
        assert restored.execute("SELECT rows, missing FROM mrl.status").fetchall() == [(2, 0)]
