"""The SQL files: installed in every way they can be, upgraded, and removed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

import mrl_pg.psycopg as mrl
from mrl_pg import embedded
from mrl_pg.errors import SchemaVersionError
from mrl_pg.install import SCHEMA_VERSION, install_files, resource_dir
from mrl_pg.vectors import to_text
from tests.conftest import Conn, database, vectors

SQL = resource_dir("sql")
SCRIPT = SQL / f"mrl_pg--{SCHEMA_VERSION}.sql"
HOSTILE = 'we"ird, x'

# Two releases to come. The first is also a full script, as a release that is worth one brings.
NEXT, NEWEST = (f"{SCHEMA_VERSION.split('.')[0]}.{minor}" for minor in (71, 72))
STEPS = {
    f"{SCHEMA_VERSION}--{NEXT}": f"""
        CREATE OR REPLACE FUNCTION mrl.version() RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
        RETURN '{NEXT}'::text;
        CREATE FUNCTION mrl.added() RETURNS text LANGUAGE plpgsql SET search_path = mrl, pg_temp
        AS $$ BEGIN RETURN 'here'; END $$;
        COMMENT ON FUNCTION mrl.added() IS 'added by the first step';
    """,
    f"{NEXT}--{NEWEST}": f"""
        CREATE OR REPLACE FUNCTION mrl.version() RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
        RETURN '{NEWEST}'::text;
        CREATE VIEW mrl.more AS SELECT mrl.added() AS added;
        COMMENT ON VIEW mrl.more IS 'added by the second step';
        GRANT SELECT ON mrl.more TO PUBLIC;
    """,
}

# All there is in schema mrl. pg_get_functiondef tells body, volatility, settings and whose rights it runs with.
FINGERPRINT = {
    "schema": "SELECT nspowner::regrole::text, nspacl::text, obj_description(oid, 'pg_namespace') "
    "FROM pg_namespace WHERE nspname = 'mrl'",
    "objects": "SELECT pg_describe_object(classid, objid, objsubid) FROM pg_depend "
    "WHERE refclassid = 'pg_namespace'::regclass AND refobjid = 'mrl'::regnamespace",
    "functions": "SELECT oid::regprocedure::text, pg_get_functiondef(oid), proowner::regrole::text, "
    "coalesce(proacl, acldefault('f', proowner))::text, obj_description(oid, 'pg_proc') "
    "FROM pg_proc WHERE pronamespace = 'mrl'::regnamespace",
    "views": "SELECT oid::regclass::text, relkind, pg_get_viewdef(oid), relowner::regrole::text, relacl::text, "
    "reloptions::text, obj_description(oid, 'pg_class') FROM pg_class WHERE relnamespace = 'mrl'::regnamespace",
    "columns": "SELECT attrelid::regclass::text, attnum, attname, format_type(atttypid, atttypmod), "
    "col_description(attrelid, attnum) FROM pg_attribute JOIN pg_class c ON c.oid = attrelid "
    "WHERE relnamespace = 'mrl'::regnamespace AND relkind <> 'i' AND attnum > 0",
    "constraints": "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
    "WHERE connamespace = 'mrl'::regnamespace",
    "triggers": "SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
    "WHERE relnamespace = 'mrl'::regnamespace",
}

Fingerprint = dict[str, list[tuple[Any, ...]]]


def fingerprint(conn: Conn) -> Fingerprint:
    found = {name: sorted(conn.execute(query).fetchall(), key=repr) for name, query in FINGERPRINT.items()}
    assert all(found.values()), f"nothing found of {[name for name, rows in found.items() if not rows]}"
    return found


def is_installed(conn: Conn) -> bool:
    return conn.execute("SELECT FROM pg_namespace WHERE nspname = 'mrl'").fetchone() is not None


def psql(pg: int, dsn: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = embedded.bin_dir(pg) / "psql"
    return subprocess.run([program, "-X", "-q", "-d", dsn, *arguments], capture_output=True, text=True)


def use_everything(conn: Conn) -> None:
    """Adds, writes, fills, indexes, searches, counts and drops, in SQL and in Python; leaves nothing."""
    rows = vectors(60, 32)
    conn.execute("CREATE TABLE docs (id int PRIMARY KEY, embedding vector(32))")
    insert = "INSERT INTO docs VALUES (%s, %s)"
    conn.cursor().executemany(insert, [(n, to_text(row)) for n, row in enumerate(rows[:30])])
    assert mrl.add_prefix(conn, "docs", dims=8) == "embedding_8"
    assert mrl.backfill(conn, "docs").filled == 30
    conn.cursor().executemany(insert, [(n, to_text(row)) for n, row in enumerate(rows[30:], start=30)])
    conn.execute("SELECT mrl.create_prefix_index('docs', 'embedding_8', false)")
    found = conn.execute("SELECT (hit).id FROM mrl.search(NULL::docs, %s, k => 1)", [to_text(rows[44])]).fetchall()
    assert found == [(44,)]
    assert [hit.key for hit in mrl.search(conn, "docs", rows[3], k=1)] == [3]
    (status,) = mrl.status(conn, "docs")
    assert (status["rows"], status["missing"], status["impossible"]) == (60, 0, 0)
    assert status["index_bytes"] > 0
    mrl.drop_prefix(conn, "docs", "embedding_8")
    conn.execute("DROP TABLE docs")


@pytest.fixture(scope="session")
def extension_dir() -> Iterator[Path]:
    """A directory for extension_control_path: the real files and the releases to come."""
    # Not tmp_path: pytest's directories are closed to the user that the server of root runs as.
    with tempfile.TemporaryDirectory(prefix="mrl-pg-test-") as parent:
        Path(parent).chmod(0o755)
        directory = Path(parent, "extension")
        directory.mkdir()
        for path in [*SQL.glob("mrl_pg--*.sql"), SQL / "mrl_pg.control"]:
            shutil.copy(path, directory)
        for versions, text in STEPS.items():
            (directory / f"mrl_pg--{versions}.sql").write_text(text)
        full = SCRIPT.read_text() + STEPS[f"{SCHEMA_VERSION}--{NEXT}"]
        (directory / f"mrl_pg--{NEXT}.sql").write_text(full)
        yield directory


@pytest.fixture(scope="session")
def extension_server(pg: int, extension_dir: Path) -> Iterator[str]:
    if pg < 18:
        pytest.skip("extension_control_path came with PostgreSQL 18")
    settings = {"fsync": "off", "extension_control_path": f"$system:{extension_dir.parent}"}
    with embedded.server(postgres_version=pg, settings=settings) as dsn:
        yield dsn


@pytest.fixture
def extension_dsn(extension_server: str) -> Iterator[str]:
    """A database without pgvector, where CREATE EXTENSION mrl_pg works."""
    yield from database(extension_server, "template0")


@pytest.fixture
def bare(bare_dsn: str) -> Iterator[Conn]:
    """A connection in autocommit to a database without pgvector."""
    with psycopg.connect(bare_dsn, autocommit=True) as conn:
        yield conn


# Installing ---------------------------------------------------------------------------------------------


def test_versions_agree(conn: Conn) -> None:
    control = (SQL / "mrl_pg.control").read_text()
    assert re.findall(r"^default_version = '(.*)'$", control, re.MULTILINE) == [SCHEMA_VERSION]
    assert mrl.version(conn) == SCHEMA_VERSION


def test_psql_installs_the_same_as_python_and_fails_cleanly_again(
    pg: int, bare_dsn: str, bare: Conn, conn: Conn
) -> None:
    done = psql(pg, bare_dsn, "-f", SQL / "plain.sql")
    assert (done.returncode, done.stderr) == (0, "")
    installed = fingerprint(bare)
    assert installed == fingerprint(conn)
    again = psql(pg, bare_dsn, "-f", SQL / "plain.sql")
    assert again.returncode == 3
    assert 'ERROR:  schema "mrl" already exists\n' in again.stderr
    assert fingerprint(bare) == installed
    use_everything(bare)


def test_the_extension_is_the_plain_installation(extension_dsn: str, conn: Conn) -> None:
    with psycopg.connect(extension_dsn, autocommit=True) as extension:
        extension.execute("CREATE EXTENSION mrl_pg CASCADE")
        assert fingerprint(extension) == fingerprint(conn)
        use_everything(extension)
        assert mrl.install(extension) == SCHEMA_VERSION, "nothing to do"
        with pytest.raises(psycopg.errors.DependentObjectsStillExist, match="extension mrl_pg requires it"):
            extension.execute((SQL / "uninstall.sql").read_text())
        mrl.uninstall(extension)
        assert not is_installed(extension)


def test_make_installs_the_extension_files(pg: int) -> None:
    if not shutil.which("make"):
        pytest.skip("needs make")
    with tempfile.TemporaryDirectory() as root:
        pg_config = embedded.bin_dir(pg) / "pg_config"
        subprocess.run(
            ["make", "-C", SQL, "install", f"PG_CONFIG={pg_config}", f"DESTDIR={root}"], check=True, capture_output=True
        )
        installed = {path.name for path in Path(root).rglob("extension/*")}
    assert installed == {"mrl_pg.control"} | {path.name for path in SQL.glob("mrl_pg--*.sql")}


def test_the_file_alone_needs_a_transaction(pg: int, bare_dsn: str, bare: Conn) -> None:
    """Statement by statement its search_path would be gone before the functions that pin it are made."""
    bare.execute("CREATE EXTENSION vector")
    loose = psql(pg, bare_dsn, "-f", SCRIPT)
    assert "ERROR:  mrl-pg must be installed in one transaction\nHINT:  Run: psql -f sql/plain.sql\n" in loose.stderr
    assert not is_installed(bare)
    assert psql(pg, bare_dsn, "-1", "-f", SCRIPT).returncode == 0
    use_everything(bare)


@pytest.mark.parametrize(
    ("extversion", "error"),
    [
        (None, "pgvector is not installed in this database\nHINT:  Run: CREATE EXTENSION vector;"),
        (
            "0.7.4",
            "pgvector 0.7.4 is installed, mrl-pg needs 0.8 or later\nHINT:  Run: ALTER EXTENSION vector UPDATE;",
        ),
        ("0.10.0", None),
        ("1.0", None),
    ],
)
def test_needs_pgvector(pg: int, bare_dsn: str, bare: Conn, extversion: str | None, error: str | None) -> None:
    if extversion is not None:
        bare.execute("CREATE EXTENSION vector")
        bare.execute("UPDATE pg_extension SET extversion = %s WHERE extname = 'vector'", [extversion])
    done = psql(pg, bare_dsn, "-1", "-v", "ON_ERROR_STOP=1", "-f", SCRIPT)
    assert is_installed(bare) == (error is None)
    assert done.returncode == (0 if error is None else 3)
    assert (error or "") in done.stderr


@pytest.mark.parametrize("path", ['"$user", public', "", '"we""ird, x"', "pg_catalog"])
def test_gives_the_search_path_back(bare: Conn, path: str) -> None:
    bare.execute("CREATE EXTENSION vector")
    bare.execute("SET search_path = 'of the session'")
    with bare.transaction():
        bare.execute("SELECT set_config('search_path', %s, true)", [path])
        mrl.install(bare)
        assert bare.execute("SHOW search_path").fetchall() == [(path,)]
    assert bare.execute("SHOW search_path").fetchall() == [('"of the session"',)]


@pytest.mark.parametrize("schema", ["public", "ext", HOSTILE])
def test_pgvector_may_live_in_any_schema(bare: Conn, schema: str) -> None:
    name = sql.Identifier(schema)
    bare.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(name))
    bare.execute(sql.SQL("CREATE EXTENSION vector SCHEMA {}").format(name))
    mrl.install(bare)
    bare.execute(sql.SQL("SET search_path = public, {}").format(name))
    use_everything(bare)
    bare.execute("SET search_path = ''")
    prefix = sql.SQL("SELECT mrl.prefix('[3,4]'::{}.vector, 1)::text").format(name)
    assert bare.execute(prefix).fetchall() == [("[1]",)]


@pytest.fixture
def owner(bare_dsn: str, bare: Conn) -> Iterator[Conn]:
    """The owner of a database with pgvector, who is no superuser."""
    yield from _owner(bare_dsn, bare)


def _owner(dsn: str, superuser: Conn) -> Iterator[Conn]:
    name = superuser.info.dbname
    role, db = sql.Identifier(f"owner_of_{name}"), sql.Identifier(name)
    superuser.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
    superuser.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(db, role))
    # Whether pgvector is a trusted extension is for the packager to say; here it is not.
    superuser.execute("CREATE EXTENSION vector")
    with psycopg.connect(make_conninfo(dsn, user=f"owner_of_{name}"), autocommit=True) as conn:
        assert conn.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchall() == [(False,)]
        yield conn
    superuser.execute(sql.SQL("ALTER DATABASE {} OWNER TO CURRENT_USER").format(db))


def test_the_owner_of_a_database_installs_and_uses_everything(owner: Conn, conn: Conn) -> None:
    mrl.install(owner)
    use_everything(owner)
    role = str(owner.info.user)
    theirs = {
        name: [tuple(str(value).replace(role, "postgres") for value in row) for row in rows]
        for name, rows in fingerprint(owner).items()
    }
    ours = {name: [tuple(map(str, row)) for row in rows] for name, rows in fingerprint(conn).items()}
    assert theirs == ours
    mrl.uninstall(owner)
    assert not is_installed(owner)


def test_the_owner_of_a_database_creates_the_extension(extension_dsn: str) -> None:
    with psycopg.connect(extension_dsn, autocommit=True) as superuser:
        for owner in _owner(extension_dsn, superuser):
            owner.execute("CREATE EXTENSION mrl_pg")
            use_everything(owner)
            mrl.uninstall(owner)
            assert not is_installed(owner)


def test_where_functions_are_not_for_everyone_by_default(bare: Conn) -> None:
    bare.execute("CREATE EXTENSION vector; ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
    mrl.install(bare)
    bare.execute("CREATE TABLE docs (id int PRIMARY KEY, embedding vector(32))")
    mrl.add_prefix(bare, "docs", dims=8)
    bare.execute("SELECT mrl.create_prefix_index('docs', 'embedding_8', false)")
    role = sql.Identifier(f"writer_of_{bare.info.dbname}")
    bare.execute(sql.SQL("CREATE ROLE {0}; GRANT SELECT, INSERT ON docs TO {0}; SET ROLE {0}").format(role))
    bare.execute("INSERT INTO docs VALUES (1, %s)", [to_text(vectors(1, 32)[0])])
    assert [hit.key for hit in mrl.search(bare, "docs", vectors(1, 32)[0])] == [1]
    search = "SELECT (hit).id FROM mrl.search(NULL::docs, %s)"
    assert bare.execute(search, [to_text(vectors(1, 32)[0])]).fetchall() == [(1,)]


# What is installed --------------------------------------------------------------------------------------


def test_everything_has_a_comment(conn: Conn) -> None:
    found = fingerprint(conn)
    relations = [row for row in found["views"] if row[1] != "i"]
    described = [*found["schema"], *found["functions"], *relations, *found["columns"]]
    assert [row for row in described if not row[-1]] == []


def test_functions_run_as_the_caller_with_a_pinned_search_path(conn: Conn) -> None:
    functions = conn.execute(
        "SELECT p.oid::regprocedure::text, l.lanname, p.prosecdef, p.proconfig, p.prosqlbody IS NOT NULL "
        "FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE p.pronamespace = 'mrl'::regnamespace"
    ).fetchall()
    # hnsw.* there could be restored from a dump by a superuser only.
    assert {language for _, language, *_ in functions} == {"plpgsql", "sql"}
    for name, language, as_owner, settings, parsed in functions:
        # But for one trigger function, or who records queries would need the right to read and delete them.
        assert as_owner == (name == "mrl.keep_newest_queries()"), name
        if language == "sql":
            assert (settings, parsed) == (None, True), name
        else:
            # Not even the schema of pgvector: where others may create in it, their overloads would be called.
            assert settings == ["search_path=pg_catalog, pg_temp"], name


# Upgrading ----------------------------------------------------------------------------------------------


@pytest.fixture
def newest(monkeypatch: pytest.MonkeyPatch, extension_dir: Path) -> str:
    """Makes mrl.install() that of a release to come; the version it installs."""
    module = sys.modules["mrl_pg.psycopg.install"]
    monkeypatch.setattr(module, "SCHEMA_VERSION", NEWEST)
    monkeypatch.setattr(module, "install_files", partial(install_files, wanted=NEWEST, directory=extension_dir))
    return NEWEST


def test_plans_adjacent_steps(extension_dir: Path) -> None:
    def names(installed: str | None, wanted: str) -> list[str]:
        return [
            path.stem.removeprefix("mrl_pg--") for path in install_files(installed, wanted, directory=extension_dir)
        ]

    assert names(SCHEMA_VERSION, NEWEST) == [f"{SCHEMA_VERSION}--{NEXT}", f"{NEXT}--{NEWEST}"]
    assert names(NEXT, NEWEST) == [f"{NEXT}--{NEWEST}"]
    assert names(NEWEST, NEWEST) == []
    assert names(None, NEWEST) == [NEXT, f"{NEXT}--{NEWEST}"]
    for installed, wanted in ((NEWEST, NEXT), ("0.0", NEWEST), (SCHEMA_VERSION, "9.9")):
        with pytest.raises(SchemaVersionError) as raised:
            names(installed, wanted)
        assert (raised.value.installed, raised.value.required) == (installed, wanted)


def test_fresh_equals_upgraded(bare: Conn, conn: Conn, newest: str) -> None:
    conn.execute("CREATE TABLE kept (id int PRIMARY KEY, embedding vector(32))")
    mrl.add_prefix(conn, "kept", dims=8)
    assert mrl.version(conn) == SCHEMA_VERSION
    assert mrl.install(conn) == newest
    assert mrl.version(conn) == newest
    assert mrl.install(bare) == newest
    assert fingerprint(bare) == fingerprint(conn)
    conn.execute("INSERT INTO kept VALUES (1, %s)", [to_text(vectors(1, 32)[0])])
    assert [(p["rows"], p["missing"]) for p in mrl.status(conn)] == [(1, 0)]


def test_an_extension_is_upgraded_as_one(extension_dsn: str, conn: Conn, newest: str) -> None:
    with psycopg.connect(extension_dsn, autocommit=True) as extension:
        extension.execute("CREATE EXTENSION mrl_pg CASCADE")
        mrl.install(extension)
        version = "SELECT extversion, mrl.version() FROM pg_extension WHERE extname = 'mrl_pg'"
        assert extension.execute(version).fetchall() == [(newest, newest)]
        mrl.install(conn)
        assert fingerprint(extension) == fingerprint(conn)
        use_everything(extension)


@pytest.mark.parametrize(("installed", "advice"), [("0.0", "mrl-pg install"), ("9.0", "pip install --upgrade mrl-pg")])
def test_another_version_is_refused(conn: Conn, installed: str, advice: str) -> None:
    conn.execute("CREATE TABLE docs (id int PRIMARY KEY, embedding vector(32))")
    mrl.add_prefix(conn, "docs", dims=8)
    conn.execute(f"CREATE OR REPLACE FUNCTION mrl.version() RETURNS text LANGUAGE sql RETURN '{installed}'::text")
    before = fingerprint(conn)
    message = f"the database has version {installed} of schema mrl, this package needs {SCHEMA_VERSION}. Run: {advice}"
    with pytest.raises(SchemaVersionError, match=f"^{re.escape(message)}$"):
        mrl.install(conn)
    with pytest.raises(SchemaVersionError, match=f"^{re.escape(message)}$"):
        mrl.search(conn, "docs", vectors(1, 32)[0])
    assert fingerprint(conn) == before


# Removing -----------------------------------------------------------------------------------------------


def test_removal_refuses_while_prefixes_exist_and_names_them(pg: int, dsn: str, conn: Conn) -> None:
    conn.execute('CREATE SCHEMA app; CREATE TABLE app."Docs" (id int PRIMARY KEY, embedding vector(32), b vector(16))')
    conn.execute("CREATE TABLE docs (id int, embedding vector(32), PRIMARY KEY (id)) PARTITION BY HASH (id)")
    conn.execute("CREATE TABLE docs_0 PARTITION OF docs FOR VALUES WITH (MODULUS 1, REMAINDER 0)")
    for table, column, dims in (('app."Docs"', "embedding", 8), ('app."Docs"', "b", 4), ("docs", "embedding", 8)):
        conn.execute("SELECT mrl.add_prefix(%s, %s, %s)", [table, column, dims])
    before = fingerprint(conn)
    done = psql(pg, dsn, "-v", "ON_ERROR_STOP=1", "-f", SQL / "uninstall.sql")
    assert done.returncode == 3
    assert 'mrl-pg still keeps prefixes: app."Docs".embedding_8, app."Docs".b_4, docs.embedding_8\n' in done.stderr
    assert fingerprint(conn) == before
    # What the hint says is what helps.
    conn.execute(re.findall(r"HINT:  Run: (.*)\n", done.stderr)[0])
    columns = "SELECT attname FROM pg_attribute WHERE attrelid IN ('docs'::regclass, 'docs_0'::regclass) AND attnum > 0"
    assert conn.execute(f"{columns} AND NOT attisdropped ORDER BY 1").fetchall() == [
        ("embedding",),
        ("embedding",),
        ("id",),
        ("id",),
    ]
    assert psql(pg, dsn, "-v", "ON_ERROR_STOP=1", "-f", SQL / "uninstall.sql").returncode == 0
    assert not is_installed(conn)
    mrl.install(conn)
    assert fingerprint(conn) == before
    conn.execute("DROP TABLE docs")
    use_everything(conn)


@pytest.mark.parametrize(
    "ddl",
    [
        "ALTER TABLE docs ADD made halfvec(8) GENERATED ALWAYS AS (mrl.prefix(embedding, 8)) STORED",
        "CREATE INDEX made ON docs USING hnsw ((mrl.prefix(embedding, 8)::halfvec(8)) halfvec_cosine_ops)",
        "CREATE VIEW made AS SELECT * FROM mrl.status",
        "CREATE TABLE mrl.made (id int)",
    ],
)
def test_removal_takes_nothing_of_the_users_along(conn: Conn, ddl: str) -> None:
    conn.execute("CREATE TABLE docs (id int PRIMARY KEY, embedding vector(32))")
    conn.execute(ddl)
    before = fingerprint(conn)
    with pytest.raises(psycopg.errors.DependentObjectsStillExist, match=r"made|mrl"):
        mrl.uninstall(conn)
    assert fingerprint(conn) == before


def test_an_extension_is_not_dropped_while_prefixes_exist(extension_dsn: str) -> None:
    with psycopg.connect(extension_dsn, autocommit=True) as extension:
        extension.execute("CREATE EXTENSION mrl_pg CASCADE")
        extension.execute("CREATE TABLE docs (id int PRIMARY KEY, embedding vector(32))")
        mrl.add_prefix(extension, "docs", dims=8)
        for statement in ("DROP EXTENSION mrl_pg", "DROP EXTENSION vector"):
            with pytest.raises(psycopg.errors.DependentObjectsStillExist) as raised:
                extension.execute(statement)
            assert re.search(
                r"trigger zz_mrl_embedding_8 on table docs|extension mrl_pg", str(raised.value.diag.message_detail)
            )
        mrl.drop_prefix(extension, "docs", "embedding_8")
        mrl.uninstall(extension)
        assert not is_installed(extension)
        mrl.install(extension)
        extension.execute("DROP TABLE docs")
        use_everything(extension)
