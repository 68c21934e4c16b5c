"""Every kind of prefix is searched through every door, and by its index."""

from __future__ import annotations

import numpy as np
import psycopg
import pytest
from psycopg import sql

import mrl_pg.psycopg as mrl
from mrl_pg.sqlalchemy.model import INFO_KEY
from mrl_pg.vectors import to_text
from tests.conftest import FloatArray, vectors
from tests.db.conftest import CORPORA, FULL_DIMS, Prepared
from tests.db.doors import DOORS, Door

KINDS = ["binary", "binary halfvec", "half", "half halfvec", "layer norm", "layer norm l2 halfvec", "layer norm binary"]
doors = pytest.mark.parametrize("door", DOORS.values(), ids=[name.replace(" ", "-") for name in DOORS])


@pytest.mark.parametrize("name", KINDS)
@doors
def test_finds_the_nearest_rows(prepared: Prepared, corpus: FloatArray, name: str, door: Door) -> None:
    table, made, _ = CORPORA[name]
    rows, (query,) = made(corpus), made(vectors(1, FULL_DIMS, seed=7))
    directions = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    distance = -(directions @ query) if table.info[INFO_KEY][0].distance == "cosine" else ((rows - query) ** 2).sum(1)
    nearest = set(np.argsort(distance)[:10].tolist())
    found = door(prepared(name), table, query, None, {"k": 10, "candidates": 1_000})
    assert len(nearest & set(found.keys)) >= 9
    assert found.distances == sorted(found.distances)
    assert found.received in (1_000, None)
    exact = door(prepared(name), table, query, None, {"k": 10, "exact": True})
    assert len(nearest & set(exact.keys)) >= 9  # halfvec may swap the last two


@pytest.mark.parametrize("name", ["half", "layer norm", "layer norm l2 halfvec"])
@doors
def test_the_query_is_made_as_the_prefixes_are(prepared: Prepared, corpus: FloatArray, name: str, door: Door) -> None:
    """A single candidate: a query without the layer norm would have another."""
    table, made, _ = CORPORA[name]
    found = [door(prepared(name), table, made(corpus)[n], None, {"k": 1, "candidates": 1}).keys for n in (17, 4_000)]
    assert found == [[17], [4_000]]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
def test_a_search_uses_the_index(prepared: Prepared, name: str, mode: str) -> None:
    table, made, _ = CORPORA[name]
    (query,) = made(vectors(1, FULL_DIMS, seed=7))
    with psycopg.connect(prepared(name), autocommit=True) as conn:
        conn.execute("SELECT set_config('plan_cache_mode', %s, false)", (mode,))
        (text,) = conn.execute("SELECT mrl.search_sql(NULL::documents, %s)", [to_text(query)]).fetchone() or ()
        for statement in (text, mrl.search_sql(conn, "documents", query)):
            prepare = sql.SQL("PREPARE searching AS {}").format(sql.SQL(statement))
            conn.execute(prepare)
            plan = "\n".join(row[0] for row in conn.execute("EXPLAIN EXECUTE searching"))
            conn.execute("DEALLOCATE searching")
            assert f"Index Scan using {table.info[INFO_KEY][0].index_name('documents')}" in plan
