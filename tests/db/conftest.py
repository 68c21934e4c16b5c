"""Databases with a corpus that tests only read, made once per server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa

from mrl_pg import Matryoshka
from mrl_pg.sqlalchemy import declare
from mrl_pg.vectors import to_text
from tests.conftest import FloatArray, database, vectors
from tests.db.doors import engine

ROWS, FULL_DIMS, DIMS = 6_000, 64, 16

Prepared = Callable[[str], str]


def documents(*others: dict[str, Any], **spec: Any) -> sa.Table:
    """Returns the table of these tests, with a prefix for each spec."""
    table = sa.Table(
        "documents",
        sa.MetaData(),
        sa.Column("id", sa.BigInteger, primary_key=True),
        sa.Column("lang", sa.Text),
    )
    declare(table, *(Matryoshka(**{"full_dims": FULL_DIMS, "dims": DIMS} | one) for one in (spec, *others)))
    return table


def fill(dsn: str, table: sa.Table, rows: FloatArray, then: str = "") -> None:
    """Creates the table with one row in a hundred in German, and runs a script."""
    table.create(engine(dsn))
    with psycopg.connect(dsn, autocommit=True) as conn:
        with conn.cursor().copy("COPY documents (id, lang, embedding) FROM STDIN") as copy:
            for n, row in enumerate(rows):
                copy.write_row((n, "de" if n % 100 == 0 else "en", to_text(row)))
        conn.execute("VACUUM ANALYZE documents")
        conn.execute(then)


def lognormal(rows: FloatArray) -> FloatArray:
    """Returns the rows with lengths that vary as those of unnormalised embeddings do."""
    return rows * np.random.default_rng(3).lognormal(0, 0.5, (len(rows), 1)).astype(np.float32)


def spread(rows: FloatArray) -> FloatArray:
    """Returns the rows turned, the same way always, so that every dimension holds as much; distances stay."""
    turn, _ = np.linalg.qr(np.random.default_rng(4).standard_normal((rows.shape[1], rows.shape[1])))
    return np.asarray(rows @ turn, dtype=np.float32)


def lifted(rows: FloatArray) -> FloatArray:
    """Returns the rows with a common mean, which a layer norm takes away again."""
    return np.asarray(rows + np.float32(0.5), dtype=np.float32)


# Name → (table, rows made from the corpus, script to run on the filled table).
CORPORA: dict[str, tuple[sa.Table, Callable[[FloatArray], FloatArray], str]] = {
    "plain": (documents(), lambda rows: rows, ""),
    "half deleted": (
        documents(),
        lambda rows: rows,
        "ALTER TABLE documents SET (autovacuum_enabled = false); DELETE FROM documents WHERE id % 2 = 1",
    ),
    "row-level security": (
        documents(),
        lambda rows: rows,
        "CREATE ROLE german_reader LOGIN; GRANT SELECT ON documents TO german_reader; "
        "ALTER TABLE documents ENABLE ROW LEVEL SECURITY; "
        "CREATE POLICY german ON documents USING (lang = 'de')",
    ),
    "l2": (documents(distance="l2"), lognormal, ""),
    "inner_product": (documents(distance="inner_product"), lognormal, ""),
    "halfvec": (documents(embedding_type="halfvec"), lambda rows: rows, ""),
    "binary": (documents(kind="binary", dims=FULL_DIMS), spread, ""),
    "binary halfvec": (documents(kind="binary", dims=50, embedding_type="halfvec"), spread, ""),
    "funnel": (documents({"dims": 2 * DIMS}, {"dims": FULL_DIMS, "kind": "binary"}), lambda rows: rows, ""),
    "half": (documents(kind="half", dims=None), spread, ""),
    "half halfvec": (documents(kind="half", dims=None, embedding_type="halfvec"), spread, ""),
    "layer norm": (documents(layer_norm=True), lifted, ""),
    "layer norm l2 halfvec": (documents(layer_norm=True, distance="l2", embedding_type="halfvec"), lifted, ""),
    "layer norm binary": (
        documents(layer_norm=True, kind="binary", dims=FULL_DIMS),
        lambda rows: lifted(spread(rows)),
        "",
    ),
    "seven rows": (documents(), lambda rows: rows[:7], ""),
    "empty": (documents(), lambda rows: rows[:0], ""),
}


@pytest.fixture(scope="session")
def corpus() -> FloatArray:
    return vectors(ROWS, FULL_DIMS)


@pytest.fixture(scope="session")
def prepared(server: str, template: str, corpus: FloatArray) -> Iterator[Callable[[str], str]]:
    """A function that returns a database with a corpus that tests only read; made once, by the name in CORPORA."""
    with ExitStack() as stack:

        @cache
        def dsn_of(name: str) -> str:
            table, rows, then = CORPORA[name]
            dsn = stack.enter_context(contextmanager(database)(server, template))
            fill(dsn, table, rows(corpus), then)
            return dsn

        yield dsn_of
