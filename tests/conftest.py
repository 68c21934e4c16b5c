"""Every test gets a database of its own, copied from a template made once per server."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from mrl_pg import embedded
from mrl_pg.psycopg import install

Conn = psycopg.Connection[tuple[Any, ...]]
FloatArray = npt.NDArray[np.float32]

_numbers = itertools.count()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--pg",
        default="18,16",
        help="major versions of PostgreSQL to test on, default 18,16; command line and README on the first",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "pg" in metafunc.fixturenames:
        versions = [int(version) for version in metafunc.config.getoption("--pg").split(",")]
        # What depends on the server is tested on all of them, the shells around that on the first.
        if metafunc.definition.path.parent.name in ("cli", "docs", "embed"):
            versions = versions[:1]
        metafunc.parametrize("pg", versions, scope="session", ids=[f"pg{version}" for version in versions])


@pytest.fixture(scope="session")
def server(pg: int) -> Iterator[str]:
    """A server without durability: tests do not pull plugs."""
    settings = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "60"}
    with embedded.server(postgres_version=pg, settings=settings) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def template(server: str) -> str:
    """A database with mrl-pg."""
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute("CREATE DATABASE template_mrl")
    with psycopg.connect(server, dbname="template_mrl", autocommit=True) as conn:
        install(conn)
    return "template_mrl"


@pytest.fixture
def dsn(server: str, template: str) -> Iterator[str]:
    """A database with mrl-pg for one test."""
    yield from database(server, template)


@pytest.fixture
def bare_dsn(server: str) -> Iterator[str]:
    """A database without pgvector for one test."""
    yield from database(server, "template0")


@pytest.fixture
def conn(dsn: str) -> Iterator[Conn]:
    """A connection in autocommit to a database with mrl-pg."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        yield conn


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real vectors that are not part of the project; tests that need them skip without."""
    path = Path(__file__).parents[2] / "shared" / "data"
    if not (path / "te3small_1536.npz").exists():
        pytest.skip("needs ../shared/data, which is not part of the project")
    return path


def vectors(n: int, dims: int, seed: int = 0) -> FloatArray:
    """Returns n random unit vectors whose first dimensions hold most of the energy, as a Matryoshka model's do."""
    rows = np.random.default_rng(seed).standard_normal((n, dims)) * np.exp(-8 * np.arange(dims) / dims)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def database(server: str, template: str) -> Iterator[str]:
    """Yields the connection string of a new database, which is dropped afterwards."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*map(sql.Identifier, (name, template))))
        yield make_conninfo(server, dbname=name)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
