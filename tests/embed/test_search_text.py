"""A search by words is a search by their embedding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import mrl_pg.psycopg as mrl
from mrl_pg import DimensionError, EmbedError, SearchError, Stage
from mrl_pg.embed import Embedder
from tests.conftest import Conn
from tests.embed.conftest import MODEL, Api, documents, fake, vector_of

QUERY = "text 42"


@pytest.fixture
def filled(conn: Conn) -> Conn:
    documents(conn, 200)
    mrl.add_prefix(conn, "documents", dims=8, model=MODEL)
    mrl.embed(conn, "documents", Embedder(fake(), MODEL), text_column="body")
    mrl.create_index(conn, "documents")
    return conn


def test_finds_what_the_vector_finds(filled: Conn, api: Api) -> None:
    options: Any = {"k": 3, "columns": ["body"], "filter": {"touched": 0}, "candidates": 50}
    found = mrl.search_text(filled, "documents", QUERY, api.embedder(), **options)
    assert [*found] == [*mrl.search(filled, "documents", vector_of(QUERY), **options)]
    assert (found[0].key, found[0].row) == (42, {"body": QUERY})
    assert found[0].distance == pytest.approx(0, abs=1e-6)
    assert api.inputs == [[QUERY]]


def test_any_function_will_do(filled: Conn) -> None:
    assert mrl.search_text(filled, "documents", QUERY, fake(), k=1, exact=True)[0].key == 42


def test_stages_say_which_embedding_is_searched(filled: Conn) -> None:
    filled.execute("ALTER TABLE documents ADD title_embedding vector(32)")
    filled.execute("UPDATE documents SET title_embedding = embedding")
    mrl.add_prefix(filled, "documents", "title_embedding", dims=8, model="other")
    mrl.backfill(filled, "documents", prefix="title_embedding_8")
    mrl.create_index(filled, "documents", prefix="title_embedding_8")
    stages = [Stage("title_embedding_8", 100)]
    with pytest.raises(EmbedError, match=f"title_embedding .* holds embeddings of other, and those of {MODEL} "):
        mrl.search_text(filled, "documents", QUERY, Embedder(fake(), MODEL), stages=stages)
    assert mrl.search_text(filled, "documents", QUERY, Embedder(fake(), "other"), stages=stages)[0].key == 42


def test_a_prefix_that_names_no_model_is_of_the_model_of_the_others(filled: Conn) -> None:
    mrl.add_prefix(filled, "documents", dims=4)
    mrl.backfill(filled, "documents", prefix="embedding_4")
    mrl.create_index(filled, "documents", prefix="embedding_4")
    for exact in (False, True):
        with pytest.raises(SearchError, match=f"holds embeddings of {MODEL}, and a query of other does not compare"):
            mrl.search(filled, "documents", vector_of(QUERY), prefix="embedding_4", model="other", exact=exact)


def test_refusals(filled: Conn) -> None:
    with pytest.raises(EmbedError, match="the text is empty"):
        mrl.search_text(filled, "documents", "  ", fake())
    with pytest.raises(DimensionError, match="query has 16 dimensions, expected 32"):
        mrl.search_text(filled, "documents", QUERY, fake(dims=16))
    with pytest.raises(EmbedError, match=f"embedding of documents holds embeddings of {MODEL}, and those of other do "):
        mrl.search_text(filled, "documents", QUERY, Embedder(fake(), "other"))
    with pytest.raises(SearchError, match="dimensions of the query are zero"):
        mrl.search_text(filled, "documents", QUERY, lambda texts: np.zeros((1, 32)))
    with pytest.raises(EmbedError, match="does not take 1 of 1 texts"):
        mrl.search_text(filled, "documents", QUERY, lambda texts: [None])
    with pytest.raises(EmbedError, match="returned 2 vectors for 1 texts"):
        mrl.search_text(filled, "documents", QUERY, lambda texts: np.ones((2, 32)))
