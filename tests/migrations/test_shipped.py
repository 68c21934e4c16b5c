"""The shipped migration: as the alembic command runs it in a checkout, and as a function."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import alembic
import psycopg
import pytest
import sqlalchemy as sa

from mrl_pg import MrlError, SpecError, migrate
from tests.migrations.project import Project, connect, described, everything, psql

ROOT = Path(__file__).parents[2]
READS_PYPROJECT = tuple(map(int, alembic.__version__.split(".")[:2])) >= (1, 16)


def run(dsn: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the alembic command in the root of the checkout."""
    configuration = [] if READS_PYPROJECT else ["-c", "migrations/alembic.ini"]
    return subprocess.run(
        [sys.executable, "-m", "alembic", *configuration, *arguments],
        cwd=ROOT,
        env={**os.environ, "MRL_PG_DSN": dsn},
        capture_output=True,
        text=True,
        check=False,
    )


def columns(dsn: str, table: str = "documents", schema: str = "public") -> dict[str, str]:
    return {name: kind for name, kind, _ in described(dsn, table, schema)["columns"]}


def test_the_command(bare_dsn: str) -> None:
    assert run(bare_dsn, "upgrade", "head").returncode == 0
    assert columns(bare_dsn) == {
        "id": "bigint",
        "title": "text",
        "body": "text",
        "metadata": "jsonb",
        "created_at": "timestamp with time zone",
        "embedding": "vector(1536)",
        "embedding_256": "halfvec(256)",
    }
    there = described(bare_dsn, "documents")
    assert (len(there["triggers"]), len(there["indexes"])) == (1, 2)
    with connect(bare_dsn) as conn:
        assert conn.execute("SELECT version_num FROM mrl_pg_version").fetchone() == ("0001",)
    assert run(bare_dsn, "upgrade", "head").returncode == 0
    assert run(bare_dsn, "downgrade", "base").returncode == 0
    assert [row[1] for row in everything(bare_dsn)] == ["mrl_pg_version", "mrl_pg_version_pkc"]


def test_arguments_of_the_command(bare_dsn: str) -> None:
    given = ("-x", 'table=we"ird; drop table x', "-x", "full_dims=3072", "-x", "dims=512")
    assert run(bare_dsn, *given, "upgrade", "head").returncode == 0
    found = columns(bare_dsn, 'we"ird; drop table x')
    assert (found["embedding"], found["embedding_512"]) == ("vector(3072)", "halfvec(512)")
    again = run(bare_dsn, *given, "upgrade", "head")
    assert again.returncode == 0
    other = run(bare_dsn, "-x", "table=articles", "upgrade", "head")
    assert other.returncode != 0
    assert "Traceback" not in other.stderr
    assert "Run: mrl-pg create-table articles --full-dims 1536 --dims 256" in other.stdout + other.stderr
    assert run(bare_dsn, "downgrade", "base").returncode == 0
    assert columns(bare_dsn, 'we"ird; drop table x') == {}


@pytest.mark.parametrize("dsn_of", [str, lambda dsn: psycopg.conninfo.make_conninfo(dsn, application_name="a b")])
def test_configuration_file_and_forms_of_dsn(bare_dsn: str, dsn_of: type[str]) -> None:
    assert run(dsn_of(bare_dsn), "-c", "migrations/alembic.ini", "upgrade", "head").returncode == 0
    assert "embedding_256" in columns(bare_dsn)


def test_functions(bare_dsn: str) -> None:
    with connect(bare_dsn) as conn:
        conn.execute("CREATE SCHEMA app")
    migrate.upgrade(bare_dsn, table="articles", full_dims=64, dims=16, schema="app")
    assert columns(bare_dsn, "articles", "app")["embedding_16"] == "halfvec(16)"
    migrate.upgrade(bare_dsn)
    migrate.upgrade(bare_dsn, table="articles", dims=16, schema="app")
    migrate.downgrade(migrate.engine(bare_dsn))
    assert columns(bare_dsn, "articles", "app") == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"table": "it's"},
            "There is no table it's. Run: mrl-pg create-table 'it'\"'\"'s' --full-dims 1536 --dims 256",
        ),
        (
            {"full_dims": 3072},
            "documents has 1536 dimensions, not 3072. Choose a name for another table and run: "
            "mrl-pg create-table NAME --full-dims 3072 --dims 256",
        ),
        (
            {"full_dims": 1536, "dims": 512},
            "documents has embedding_256, none of 512 dimensions. Run: mrl-pg add-prefix documents --dims 512",
        ),
    ],
)
def test_other_arguments_the_second_time(bare_dsn: str, given: dict[str, str], message: str) -> None:
    migrate.upgrade(bare_dsn)
    before = everything(bare_dsn)
    with pytest.raises(MrlError) as error:
        migrate.upgrade(bare_dsn, **given)  # type: ignore[arg-type]
    assert str(error.value) == f"The migration has been applied, and its -x arguments count once. {message}"
    assert everything(bare_dsn) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-x", "dim=512"), "unknown argument -x dim=512. Use one of: table, full_dims, dims, schema."),
        (("-x", "dims=2e2"), "-x dims must be a whole number, not '2e2'. For example: -x dims=256"),
        (("-x", "dims=1536"), "dims must be below full_dims = 1536, not 1536. A prefix is shorter than its embedding."),
    ],
)
def test_bad_arguments(bare_dsn: str, arguments: tuple[str, ...], message: str) -> None:
    refused = run(bare_dsn, *arguments, "upgrade", "head")
    assert refused.returncode != 0
    assert message in " ".join((refused.stdout + refused.stderr).split())
    assert "Traceback" not in refused.stderr
    assert everything(bare_dsn) == []


def test_bad_dims_of_the_function(bare_dsn: str) -> None:
    with pytest.raises(SpecError, match="dims must be below full_dims = 64, not 128"):
        migrate.upgrade(bare_dsn, full_dims=64, dims=128)


def test_downgrade_leaves_what_others_use(bare_dsn: str) -> None:
    migrate.upgrade(bare_dsn, table="articles", full_dims=64, dims=16)
    with connect(bare_dsn) as conn:
        conn.execute("ALTER TABLE articles RENAME TO papers")
        conn.execute("CREATE TABLE documents (id int PRIMARY KEY, embedding vector(64))")
        conn.execute("SELECT mrl.add_prefix('documents', 'embedding', 16)")
    migrate.downgrade(bare_dsn)
    assert columns(bare_dsn, "papers") == {}
    assert described(bare_dsn, "documents")["triggers"]


def test_beside_the_migrations_of_an_application(project: Project) -> None:
    project.write("op.mrl_install()")
    project.upgrade()
    migrate.upgrade(project.dsn)
    project.downgrade()
    assert described(project.dsn, "documents")["triggers"]
    migrate.downgrade(project.dsn)
    assert not any(row[0] == "mrl" for row in everything(project.dsn))


def test_offline(bare_dsn: str, dsn: str, pg: int, capsys: pytest.CaptureFixture[str]) -> None:
    with connect(dsn) as conn:
        conn.execute("DROP SCHEMA mrl CASCADE")
    migrate.upgrade(bare_dsn, full_dims=64, dims=16)
    migrate.upgrade("", full_dims=64, dims=16, sql=True)
    psql(pg, dsn, capsys.readouterr().out)
    assert everything(dsn) == everything(bare_dsn)
    migrate.downgrade(bare_dsn)
    migrate.downgrade("", sql=True)
    psql(pg, dsn, capsys.readouterr().out)
    assert [row for row in everything(dsn) if "version" not in row[1]] == []


def test_no_server() -> None:
    with pytest.raises(sa.exc.OperationalError):
        migrate.upgrade("host=/nowhere")
