"""Every way to search returns the right rows, whatever the connection and whatever the table looks like."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa

import mrl_pg.psycopg as mrl
from mrl_pg import Matryoshka
from mrl_pg.sqlalchemy import declare
from tests.conftest import FloatArray, vectors
from tests.db.conftest import CORPORA, FULL_DIMS, Prepared, documents, fill, lognormal
from tests.db.doors import DOORS, Door


@pytest.fixture
def query() -> FloatArray:
    (row,) = vectors(1, FULL_DIMS, seed=7)
    return np.asarray(row)


def nearest(corpus: FloatArray, query: FloatArray, k: int, only: Any = slice(None)) -> list[int]:
    """Returns the ids of the k rows nearest by cosine, from numpy."""
    ids = np.arange(len(corpus))[only]
    order = np.argsort(-(corpus[ids] @ query), kind="stable")
    return [int(n) for n in ids[order][:k]]


@pytest.fixture(params=DOORS, ids=lambda name: name.replace(" ", "-"))
def door(request: pytest.FixtureRequest) -> Door:
    return DOORS[request.param]


def test_finds_the_nearest_rows(prepared: Prepared, corpus: FloatArray, query: FloatArray, door: Door) -> None:
    found = door(prepared("plain"), documents(), query, None, {"k": 10, "candidates": 400})
    assert found.keys == nearest(corpus, query, 10)
    assert found.distances == pytest.approx([1 - corpus[key] @ query for key in found.keys], abs=1e-5)
    assert found.received in (400, None)


def test_more_candidates_than_the_default_ef_search(prepared: Prepared, query: FloatArray, door: Door) -> None:
    found = door(prepared("plain"), documents(), query, None, {"k": 300, "candidates": 400})
    assert len(set(found.keys)) == 300
    assert found.distances == sorted(found.distances)


def test_more_candidates_than_pgvector_allows_for_ef_search(prepared: Prepared, query: FloatArray, door: Door) -> None:
    found = door(prepared("plain"), documents(), query, None, {"k": 1500, "candidates": 2500})
    assert len(set(found.keys)) == 1500


def test_exact_search_is_the_ground_truth(
    prepared: Prepared, corpus: FloatArray, query: FloatArray, door: Door
) -> None:
    found = door(prepared("plain"), documents(), query, "de", {"k": 20, "exact": True})
    assert found.keys == nearest(corpus, query, 20, slice(0, None, 100))
    assert found.received in (20, None)


def test_filter_that_keeps_one_percent(prepared: Prepared, corpus: FloatArray, query: FloatArray, door: Door) -> None:
    found = door(prepared("plain"), documents(), query, "de", {"k": 10})
    assert found.keys == nearest(corpus, query, 10, slice(0, None, 100))


def test_filter_that_keeps_nothing(prepared: Prepared, query: FloatArray, door: Door) -> None:
    found = door(prepared("plain"), documents(), query, "fr", {})
    assert found.keys == []
    assert found.received in (0, None)


def test_half_the_rows_deleted_and_not_vacuumed(
    prepared: Prepared, corpus: FloatArray, query: FloatArray, door: Door
) -> None:
    found = door(prepared("half deleted"), documents(), query, None, {"k": 10, "candidates": 400})
    assert found.keys == nearest(corpus, query, 10, slice(0, None, 2))
    assert found.received in (400, None)


def test_row_level_security_that_keeps_one_percent(
    prepared: Prepared, corpus: FloatArray, query: FloatArray, door: Door
) -> None:
    dsn = psycopg.conninfo.make_conninfo(prepared("row-level security"), user="german_reader")
    found = door(dsn, documents(), query, None, {"k": 10})
    assert found.keys == nearest(corpus, query, 10, slice(0, None, 100))


@pytest.mark.parametrize("distance", ["l2", "inner_product"])
def test_vectors_that_are_not_unit_length(
    prepared: Prepared, corpus: FloatArray, query: FloatArray, distance: str, door: Door
) -> None:
    rows, query = lognormal(corpus), query * np.float32(1.7)
    found = door(prepared(distance), CORPORA[distance][0], query, None, {"k": 10, "candidates": 600})
    truth = -(rows @ query) if distance == "inner_product" else np.linalg.norm(rows - query, axis=1)
    assert found.keys == [int(n) for n in np.argsort(truth)[:10]]
    assert found.distances == pytest.approx(np.sort(truth)[:10].tolist(), rel=1e-4)


def test_halfvec_embedding(prepared: Prepared, corpus: FloatArray, query: FloatArray, door: Door) -> None:
    found = door(prepared("halfvec"), CORPORA["halfvec"][0], query, None, {"k": 10, "candidates": 400})
    halved = [vectors.astype(np.float16).astype(np.float32) for vectors in (corpus, query)]
    assert set(found.keys) == set(nearest(halved[0], halved[1], 10))


def test_empty_table(prepared: Prepared, query: FloatArray, door: Door) -> None:
    assert door(prepared("empty"), documents(), query, None, {}).keys == []


def test_fewer_rows_than_k(prepared: Prepared, corpus: FloatArray, query: FloatArray, door: Door) -> None:
    found = door(prepared("seven rows"), documents(), query, None, {"k": 10})
    assert found.keys == nearest(corpus[:7], query, 10)
    assert found.received in (7, None)


def test_real_vectors(pg: int, dsn: str, shared_data: Any) -> None:
    data = np.load(shared_data / "te3small_1536.npz")
    corpus, queries = (data[name].astype(np.float32) for name in ("corpus", "queries"))
    corpus /= np.linalg.norm(corpus, axis=1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    truth = np.argsort(-(queries @ corpus.T), axis=1)[:, :10]
    table = sa.Table(
        "documents", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("lang", sa.Text)
    )
    declare(table, Matryoshka(full_dims=1536, dims=256, model="text-embedding-3-small"))
    fill(dsn, table, corpus)
    with psycopg.connect(dsn, autocommit=True) as conn:
        results = mrl.search_many(conn, "documents", queries, k=10, candidates=100)
    hits = sum(len({hit.key for hit in result} & set(row.tolist())) for result, row in zip(results, truth, strict=True))
    assert hits / truth.size >= 0.99
