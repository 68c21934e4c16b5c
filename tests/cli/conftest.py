"""The command line: in this process, and as a program in a pipe and on a terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

import mrl_pg.psycopg as mrl
from mrl_pg.cli import main
from mrl_pg.vectors import to_text
from tests.conftest import Conn, FloatArray, vectors

FULL_DIMS, DIMS = 32, 8
INDEX = "papers_embedding_8_halfvec_cosine_ops_idx"

Run = Callable[..., Result]


@pytest.fixture
def run(dsn: str) -> Run:
    """A function that runs a command on a database with mrl-pg."""
    return lambda *arguments, **options: invoke(dsn, *arguments, **options)


def invoke(dsn: str, *arguments: str, **options: Any) -> Result:
    """Returns how a command ended; what click does not catch is a traceback, and raised."""
    result = CliRunner(env={"MRL_PG_DSN": dsn}).invoke(main, arguments, prog_name="mrl-pg", **options)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def program(dsn: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Returns mrl-pg as a program of its own, its output in pipes."""
    usual: dict[str, Any] = {
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE},
        "env": environment(dsn),
    }
    return subprocess.Popen([sys.executable, "-m", "mrl_pg", *arguments], text=True, **(usual | options))


def environment(dsn: str) -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return os.environ | {"MRL_PG_DSN": dsn, "PYTHONPATH": root, "TERM": "xterm", "COLUMNS": "100", "LINES": "50"}


def on_terminal(dsn: str, *arguments: str) -> tuple[int, str]:
    """Returns the exit code of a program that has a terminal, and what is written there."""
    ours, theirs = pty.openpty()
    with program(dsn, *arguments, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux's way to say that nobody is left to write
                break
            if not part:
                break
            written += part
    os.close(ours)
    return process.returncode, written.decode()


@pytest.fixture
def papers(conn: Conn) -> Conn:
    """A connection to a database with 500 papers that have their prefix, and no index yet."""
    conn.execute("CREATE TABLE papers (id bigint PRIMARY KEY, title text, year int, embedding vector(32))")
    mrl.add_prefix(conn, "papers", dims=DIMS)
    insert(conn, vectors(500, FULL_DIMS))
    return conn


def insert(conn: Conn, rows: FloatArray, first: int = 0) -> None:
    with conn.cursor().copy("COPY papers (id, title, year, embedding) FROM STDIN") as copy:
        for n, row in enumerate(rows, first):
            copy.write_row((n, f"paper {n}", 2000 + n % 5 if n % 10 else None, to_text(row)))


def without_prefix(conn: Conn) -> None:
    """Takes the papers back to before the prefix."""
    conn.execute("ALTER TABLE papers DISABLE TRIGGER USER")
    conn.execute("UPDATE papers SET embedding_8 = NULL")
    conn.execute("ALTER TABLE papers ENABLE TRIGGER USER")


def missing(conn: psycopg.Connection[Any]) -> int:
    return int(mrl.status(conn, "papers")[0]["missing"])


@pytest.fixture
def query(tmp_path: Path) -> str:
    """A file with the embedding of paper 7."""
    path = tmp_path / "query.json"
    path.write_text(json.dumps(vectors(500, FULL_DIMS)[7].tolist()))
    return str(path)
