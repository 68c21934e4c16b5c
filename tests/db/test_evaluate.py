"""An evaluation of a table: figures as by hand, through the indexes as by search, and nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
import pytest
from psycopg.pq import TransactionStatus

import mrl_pg.psycopg as mrl
from mrl_pg import DimensionError, EmbedError, EvaluationError, MrlError, NotInstalledError, SearchError, SpecError
from mrl_pg.evaluate import Progress
from mrl_pg.evaluation import Evaluation, Point
from mrl_pg.psycopg import sample as sampling
from mrl_pg.queries import Queries
from mrl_pg.vectors import FloatArray, prefixes, to_text
from tests.conftest import Conn, vectors

ROWS, QUERIES, FULL, DIMS = 600, 20, 32, 8
CORPUS = vectors(ROWS, FULL)
ASKED = vectors(QUERIES, FULL, seed=1)
# A scan without indexes, quick.
SCAN: dict[str, Any] = {"k": 5, "dims": [DIMS], "kinds": ["truncate"], "candidates": [5, 20, 50], "indexes": False}


def make(conn: Conn, rows: FloatArray = CORPUS, kind: str = "vector", table: str = "docs") -> None:
    """Creates a table of rows, every fourth of them German."""
    conn.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, lang text, embedding {kind}({rows.shape[1]}))")
    with conn.cursor().copy(f"COPY {table} (id, lang, embedding) FROM STDIN") as copy:
        for n, row in enumerate(rows):
            copy.write_row((n, "en" if n % 4 else "de", to_text(row)))


@pytest.fixture
def docs(conn: Conn) -> Conn:
    make(conn)
    return conn


@pytest.fixture
def indexed(docs: Conn) -> Conn:
    """The same, with two prefixes that have an index and one that has none."""
    for dims in (DIMS, 16):
        mrl.add_prefix(docs, "docs", dims=dims)
        mrl.backfill(docs, "docs", prefix=f"embedding_{dims}")
        mrl.create_index(docs, "docs", prefix=f"embedding_{dims}")
    mrl.add_prefix(docs, "docs", dims=FULL, kind="binary")
    return docs


def order(queries: npt.NDArray[Any], rows: npt.NDArray[Any], distance: str = "cosine") -> npt.NDArray[np.int64]:
    """Returns the rows (q, n) by their distance, nearest first; a query does not find what it is itself."""
    a, b = queries.astype(np.float64), rows.astype(np.float64)
    if distance == "l2":
        far = np.linalg.norm(a[:, None] - b[None], axis=2)
    else:
        if distance == "cosine":
            a, b = a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b, axis=1, keepdims=True)
        far = -(a @ b.T)
    return np.argsort(far, axis=1, kind="stable")


def share(exact: npt.NDArray[np.int64], found: npt.NDArray[np.int64], k: int = 5) -> float:
    return float(np.mean([len(set(a[:k]) & set(b)) / k for a, b in zip(exact.tolist(), found.tolist(), strict=True)]))


def only(found: Evaluation) -> Point:
    (point,) = found.points
    return point


# Figures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", ["cosine", "l2", "inner_product"])
@pytest.mark.parametrize("kind", ["vector", "halfvec"])
def test_figures_are_those_of_a_search_by_hand(conn: Conn, kind: str, distance: Any) -> None:
    rows, asked = CORPUS, ASKED
    if distance != "cosine":
        lengths = np.random.default_rng(3).lognormal(0, 0.5, (ROWS + QUERIES, 1)).astype(np.float32)
        rows, asked = rows * lengths[:ROWS], asked * lengths[ROWS:]
    make(conn, rows, kind)
    found = mrl.evaluate(conn, "docs", asked, distance=distance, **SCAN)
    if kind == "halfvec":
        rows, asked = rows.astype(np.float16).astype(np.float32), asked.astype(np.float16).astype(np.float32)
    exact = order(asked, rows, distance)
    short = order(prefixes(asked, DIMS, distance), prefixes(rows, DIMS, distance), distance)
    point = only(found)
    assert point.recall.mean == pytest.approx(share(exact, short[:, :5]), abs=0.011)
    assert [one.recall.mean for one in point.reranked] == pytest.approx(
        [share(exact, short[:, :n]) for n in (5, 20, 50)], abs=0.011
    )
    assert (found.rows, found.table_rows, found.queries, found.full_dims) == (ROWS, ROWS, QUERIES, FULL)
    assert (found.distance, found.indexes, found.notes) == (distance, (), ())


def test_rows_as_queries_do_not_find_themselves(conn: Conn) -> None:
    rows = CORPUS[:60]
    make(conn, rows)
    found = mrl.evaluate(conn, "docs", sample=60, **SCAN)
    short = prefixes(rows, DIMS, "cosine").astype(np.float32)
    exact, near = order(rows, rows)[:, 1:], order(short, short)
    near = np.stack([line[line != n] for n, line in enumerate(near)])
    assert only(found).reranked[1].recall.mean == pytest.approx(share(exact, near[:, :20]))
    assert found.notes == (
        "The queries are 60 rows of the table, each searched for without itself. That is optimistic: real queries are "
        "less like the rows.",
    )


def test_without_queries_some_rows_are_queries(docs: Conn) -> None:
    found = mrl.evaluate(docs, "docs", **SCAN)
    assert found.queries == ROWS // 5
    assert found.as_dict() == mrl.evaluate(docs, "docs", **SCAN).as_dict()
    assert found.points != mrl.evaluate(docs, "docs", seed=1, **SCAN).points


def test_rows_without_an_embedding_and_zero_rows(docs: Conn) -> None:
    before = mrl.evaluate(docs, "docs", ASKED, **SCAN)
    docs.execute("INSERT INTO docs (id, lang) SELECT n, 'en' FROM generate_series(10000, 10100) n")
    docs.execute(f"INSERT INTO docs VALUES (9999, 'en', '{to_text(np.zeros(FULL))}')")
    found = mrl.evaluate(docs, "docs", ASKED, **SCAN)
    assert found.rows == before.rows + 1
    assert only(found).recall == only(before).recall
    # What is zero is near to nothing, so it makes no query.
    assert mrl.evaluate(docs, "docs", sample=ROWS, **SCAN).queries == ROWS


def test_a_sample_says_so(docs: Conn) -> None:
    found = mrl.evaluate(docs, "docs", ASKED, rows=200, **SCAN)
    assert 120 <= found.rows <= 280
    assert found.table_rows == only(found).footprint.rows == ROWS
    assert found.notes[0].startswith(f"Measured on {found.rows} of 600 rows.")
    assert mrl.evaluate(docs, "docs", ASKED, rows=200, **SCAN).points == found.points
    assert mrl.evaluate(docs, "docs", ASKED, rows=200, seed=1, **SCAN).points != found.points


def test_a_column_of_any_length(conn: Conn) -> None:
    make(conn)
    conn.execute("ALTER TABLE docs ALTER COLUMN embedding TYPE vector")
    assert mrl.evaluate(conn, "docs", ASKED, **SCAN).full_dims == FULL
    conn.execute("UPDATE docs SET embedding = '[1,2]' WHERE id = 3")
    with pytest.raises(MrlError, match="the vectors in embedding of docs differ in length"):
        mrl.evaluate(conn, "docs", ASKED, **SCAN)


# Queries and qrels --------------------------------------------------------------------------------------


def test_files_and_texts_give_what_arrays_give(docs: Conn, tmp_path: Path) -> None:
    expected = only(mrl.evaluate(docs, "docs", ASKED, **SCAN)).recall
    np.savez(tmp_path / "q.npz", queries=ASKED)
    lines = [json.dumps({"id": n, "embedding": row.tolist()}) for n, row in enumerate(ASKED)]
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    for name in ("q.npz", "q.jsonl"):
        assert only(mrl.evaluate(docs, "docs", tmp_path / name, **SCAN)).recall == expected
    texts = Queries(tuple(map(str, range(QUERIES))), None, tuple(f"text {n}" for n in range(QUERIES)))

    def embedder(asked: Any) -> list[FloatArray]:
        return [ASKED[int(text.split()[1])] for text in asked]

    assert only(mrl.evaluate(docs, "docs", texts, embedder=embedder, **SCAN)).recall == expected
    with pytest.raises(EvaluationError, match="the 20 queries are texts"):
        mrl.evaluate(docs, "docs", texts, **SCAN)


def test_generated_queries_are_called_so(docs: Conn) -> None:
    queries = Queries(tuple(map(str, range(len(ASKED)))), ASKED, source="generated")
    said = f"The queries are {len(ASKED)} generated ones, which a chat model wrote"
    assert any(note.startswith(said) for note in mrl.evaluate(docs, "docs", queries, **SCAN).notes)


@pytest.mark.parametrize("rows", [ROWS, 100])
def test_qrels_name_rows_by_their_key(docs: Conn, rows: int) -> None:
    nearest = order(ASKED, CORPUS)
    # Judged rows are read even where they are not in the sample.
    qrels = {str(n): {str(line[0]): 1.0} for n, line in enumerate(nearest)}
    found = mrl.evaluate(docs, "docs", ASKED, rows=rows, qrels=qrels, **SCAN)
    assert found.relevance is not None
    assert (found.relevance.ndcg_10.mean, found.relevance.recall.mean) == (1, 1)
    far = {query: {str(nearest[int(query)][-1]): 1.0} for query in qrels}
    worst = mrl.evaluate(docs, "docs", ASKED, rows=rows, qrels=far, **SCAN)
    assert worst.relevance is not None
    assert worst.relevance.ndcg_10.mean == 0


def test_qrels_of_a_composite_key_and_of_the_file(conn: Conn, tmp_path: Path) -> None:
    make(conn)
    conn.execute("ALTER TABLE docs DROP CONSTRAINT docs_pkey, ADD PRIMARY KEY (id, lang)")
    nearest = order(ASKED, CORPUS)[:, 0].tolist()
    lines = [
        json.dumps({"id": n, "embedding": row.tolist(), "relevant": [f"({near},{'en' if near % 4 else 'de'})"]})
        for n, (row, near) in enumerate(zip(ASKED, nearest, strict=True))
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    found = mrl.evaluate(conn, "docs", str(tmp_path / "q.jsonl"), **SCAN)
    assert found.relevance is not None
    assert found.relevance.ndcg_10.mean == 1


# Through the indexes ------------------------------------------------------------------------------------


def test_searches_through_indexes(indexed: Conn) -> None:
    options: dict[str, Any] = SCAN | {"indexes": True, "candidates": [3, 10, 50], "ef_search": [20, 60]}
    found = mrl.evaluate(indexed, "docs", ASKED, **options)
    exact = order(ASKED, CORPUS)
    settings = [(one.prefix, one.candidates, one.ef_search) for one in found.indexes]
    # Candidates below k are left out.
    assert settings == [(f"embedding_{dims}", n, ef) for dims in (8, 16) for n in (10, 50) for ef in (20, 60)]
    for one in found.indexes:
        hits = [
            mrl.search(
                indexed, "docs", query, k=5, candidates=one.candidates, ef_search=one.ef_search, prefix=one.prefix
            )
            for query in ASKED
        ]
        keys = np.array([[hit.key for hit in result] for result in hits])
        assert one.recall.mean == pytest.approx(share(exact, keys))
        assert one.received.mean == one.received.worst == one.candidates
        assert 0 < one.p50_ms <= one.p95_ms <= one.p99_ms
        assert (one.searches, one.clients, one.filter, one.selectivity) == (QUERIES, 1, None, 1)
        assert one.qps == pytest.approx(1000 / one.p50_ms, rel=0.9)
    assert found.notes == (
        "Without a valid index for cosine, and so not measured through one: embedding_bit32. Run: mrl-pg status docs",
    )


def test_under_a_filter_and_with_clients(indexed: Conn) -> None:
    options: dict[str, Any] = SCAN | {"indexes": True, "candidates": [20]}
    found = mrl.evaluate(indexed, "docs", ASKED, filter={"lang": "de"}, clients=3, **options)
    filtered = found.indexes[2:]
    assert [one.filter for one in found.indexes] == [None, None, {"lang": "de"}, {"lang": "de"}]
    assert [one.selectivity for one in filtered] == [0.25, 0.25]
    assert {(one.clients, one.searches) for one in found.indexes} == {(3, 3 * QUERIES)}
    german = np.arange(0, ROWS, 4)
    exact = german[order(ASKED, CORPUS[german])]
    for one in filtered:
        hits = [
            mrl.search(indexed, "docs", query, k=5, candidates=20, prefix=one.prefix, filter={"lang": "de"})
            for query in ASKED
        ]
        assert one.recall.mean == pytest.approx(share(exact, np.array([[hit.key for hit in each] for each in hits])))


@pytest.mark.parametrize("filter", [None, {"lang": ["de", None]}])
def test_a_sample_is_measured_against_the_whole_table(
    indexed: Conn, monkeypatch: pytest.MonkeyPatch, filter: dict[str, Any] | None
) -> None:
    indexed.execute("UPDATE docs SET lang = NULL WHERE id = 1")
    options: dict[str, Any] = SCAN | {"indexes": True, "candidates": [20], "filter": filter}
    whole = mrl.evaluate(indexed, "docs", ASKED, **options)
    part = mrl.evaluate(indexed, "docs", ASKED, rows=100, **options)
    assert part.rows < 200
    assert [one.recall for one in part.indexes] == [one.recall for one in whole.indexes]
    assert [one.selectivity for one in part.indexes][-1] == (1 if filter is None else pytest.approx(151 / 600))
    monkeypatch.setattr("mrl_pg.psycopg.measure.MAX_EXACT_SEARCHES", 7)
    fewer = mrl.evaluate(indexed, "docs", ASKED, rows=100, **options)
    assert {one.searches for one in fewer.indexes} == {7}
    assert any(note.startswith("Through indexes the first 7 queries were measured") for note in fewer.notes)


@pytest.mark.parametrize("rows", [ROWS, 300])
def test_rows_as_queries_do_not_count_through_an_index_either(indexed: Conn, rows: int) -> None:
    options: dict[str, Any] = SCAN | {"indexes": True, "candidates": [5, 400], "rows": rows, "filter": {"lang": "en"}}
    found = mrl.evaluate(indexed, "docs", sample=40, **options)
    # With most rows as candidates all that is near is found; five would leave no room for the row itself.
    assert [one.candidates for one in found.indexes] == [400] * 4
    assert [one.recall.mean for one in found.indexes] == pytest.approx([1] * 4, abs=0.006)


def test_clients_see_what_the_connection_sees(indexed: Conn) -> None:
    indexed.execute("CREATE SCHEMA app; ALTER TABLE docs SET SCHEMA app; CREATE ROLE reader")
    indexed.execute("GRANT USAGE ON SCHEMA app TO reader; GRANT SELECT ON app.docs TO reader")
    try:
        indexed.execute("SET search_path = app, public; SET ROLE reader")
        options: dict[str, Any] = SCAN | {"indexes": True, "candidates": [20]}
        assert len(mrl.evaluate(indexed, "docs", ASKED, **options).indexes) == 2
    finally:
        indexed.execute("RESET ROLE; DROP OWNED BY reader; DROP ROLE reader")


# What can go wrong --------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "missing table": ({"target": "nowhere"}, SearchError, "table nowhere does not exist"),
    "missing column": ({"embedding": "vec"}, MrlError, "column 'vec' of docs does not exist or is no vector"),
    "column of texts": ({"embedding": "lang"}, MrlError, "column 'lang' of docs does not exist or is no vector"),
    "wrong dims": ({"queries": np.ones((2, 5))}, DimensionError, "a query has 5 dimensions, expected 32"),
    "nan": ({"queries": np.full((3, FULL), np.nan)}, EvaluationError, "3 of 3 queries are zero or not finite"),
    "zero": ({"queries": np.zeros((1, FULL))}, EvaluationError, "1 of 1 queries are zero"),
    "one vector": ({"queries": np.ones(FULL)}, EvaluationError, r"queries have shape \(32,\)"),
    "words": ({"queries": [["a"]]}, EvaluationError, "queries are no array of numbers"),
    "no file": ({"queries": "nowhere.jsonl"}, FileNotFoundError, "nowhere.jsonl"),
    "both": ({"queries": ASKED, "sample": 5}, EvaluationError, "queries and sample = 5 were given. Give one"),
    "sample": ({"queries": None, "sample": 601}, EvaluationError, "sample must be between 1 and 600, .* not 601"),
    "no sample": ({"queries": None, "sample": 0}, EvaluationError, "sample must be between 1 and 600, .* not 0"),
    "k": ({"k": 601}, EvaluationError, "k must be between 1 and 600, the rows a query can find, not 601"),
    "k and itself": ({"queries": None, "k": 600}, EvaluationError, "k must be between 1 and 599, the rows"),
    "k above candidates": ({"k": 60}, EvaluationError, "candidates must be between k = 60 and 600, .* not 5, 20, 50"),
    "rows": ({"rows": 0}, EvaluationError, "rows and clients must be at least 1, not 0 and 1"),
    "clients": ({"clients": 0}, EvaluationError, "rows and clients must be at least 1, not 100000 and 0"),
    "kind": ({"kinds": ["pca"]}, SpecError, "unknown kind 'pca'"),
    "dims": ({"dims": [64]}, SpecError, "dims must be between 1 and full_dims = 32, not 64"),
    "distance": ({"distance": "manhattan"}, SpecError, "unknown distance 'manhattan'"),
    "ef_search": ({"ef_search": [2000]}, SearchError, "ef_search must be between 1 and 1000, not 2000"),
    "filter": ({"filter": {"lang": "de"}}, EvaluationError, "a filter is for searches through indexes"),
    "filter column": ({"filter": {"x": 1}, "indexes": True}, SearchError, "column 'x' of docs does not exist"),
    "narrow filter": (
        {"filter": {"id": [1, 2]}, "indexes": True},
        EvaluationError,
        "the filter keeps 2 of the 600 row",
    ),
    "qrels": (
        {"qrels": {"0": {"1": 1, "x": 1, "-5": 1}, "99": {"1": 1}}},
        EvaluationError,
        "1 of 2 queries in qrels are not there, id '99'; 2 of 3 rows in qrels are not there, ids 'x', '-5'",
    ),
    "no relevant row": ({"qrels": {"0": {"1": 0}}}, EvaluationError, "no query of the 1 in qrels has a relevant row"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused(docs: Conn, case: str) -> None:
    change, error, message = WRONG[case]
    options = {"queries": ASKED} | SCAN | change
    with pytest.raises(error, match=message):
        mrl.evaluate(docs, options.pop("target", "docs"), **options)
    assert docs.info.transaction_status == TransactionStatus.IDLE


def test_tables_that_cannot_be_measured(conn: Conn) -> None:
    make(conn, CORPUS[:3])
    with pytest.raises(EvaluationError, match="k must be between 1 and 3, the rows a query can find, not 5"):
        mrl.evaluate(conn, "docs", ASKED, **SCAN)
    make(conn, np.zeros((30, FULL), np.float32), table="zeros")
    with pytest.raises(EvaluationError, match="every embedding of zeros that was read is a zero vector"):
        mrl.evaluate(conn, "zeros", **SCAN)
    conn.execute("DELETE FROM docs")
    with pytest.raises(MrlError, match="no row of docs has an embedding, and there"):
        mrl.evaluate(conn, "docs", ASKED, **SCAN)
    conn.execute("ALTER TABLE docs DROP CONSTRAINT docs_pkey")
    with pytest.raises(SearchError, match=r"docs has no primary key. Run: ALTER TABLE docs ADD PRIMARY KEY"):
        mrl.evaluate(conn, "docs", ASKED, **SCAN)


def test_queries_of_another_model(docs: Conn) -> None:
    mrl.add_prefix(docs, "docs", dims=DIMS, model="text-embedding-3-small")
    for queries in (ASKED, Queries(("a",), None, ("a text",))):
        with pytest.raises(EmbedError, match="holds embeddings of text-embedding-3-small, and those of other do not"):
            mrl.evaluate(docs, "docs", queries, embedder=lambda _: ASKED[:1], model="other", **SCAN)
    assert mrl.evaluate(docs, "docs", ASKED, model="text-embedding-3-small", **SCAN).queries == QUERIES


def test_not_installed(bare_dsn: str) -> None:
    with psycopg.connect(bare_dsn, autocommit=True) as conn, pytest.raises(NotInstalledError):
        mrl.evaluate(conn, "docs", ASKED, **SCAN)


def test_not_in_a_transaction(dsn: str, docs: Conn) -> None:
    with docs.transaction(), pytest.raises(MrlError, match="an evaluation reads one snapshot, but the connection is"):
        mrl.evaluate(docs, "docs", ASKED, **SCAN)
    with psycopg.connect(dsn) as other:
        assert mrl.evaluate(other, "docs", ASKED, **SCAN).rows == ROWS
        assert other.info.transaction_status == TransactionStatus.IDLE


def when_reading(act: Callable[[], None]) -> Callable[[Progress], None]:
    """Returns what acts once the first rows are read."""
    seen: list[Progress] = []

    def on_progress(now: Progress) -> None:
        if now.what == "reading" and not seen:
            seen.append(now)
            act()

    return on_progress


def test_writes_meanwhile_do_not_show(dsn: str, docs: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = mrl.evaluate(docs, "docs", ASKED, **SCAN)
    monkeypatch.setattr(sampling, "_FETCHED", 50)

    def write() -> None:
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute("DELETE FROM docs WHERE id % 2 = 0")
            other.execute("UPDATE docs SET embedding = embedding + embedding * embedding WHERE id % 3 = 0")
            other.execute("VACUUM docs")

    found = mrl.evaluate(docs, "docs", ASKED, on_progress=when_reading(write), **SCAN)
    assert found == expected
    assert mrl.evaluate(docs, "docs", ASKED, **SCAN).rows == ROWS / 2


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ("DELETE FROM docs WHERE id < 30", 30),
        ("UPDATE docs SET embedding = embedding WHERE id < 20", 20),
        ("INSERT INTO docs (id, embedding) SELECT 9000 + id, embedding FROM docs WHERE id < 10", 10),
        ("UPDATE docs SET embedding = embedding WHERE id < 20; DELETE FROM docs WHERE id < 10", 20),
    ],
)
def test_writes_meanwhile_are_told_where_indexes_are_searched(
    dsn: str, indexed: Conn, change: str, changed: int
) -> None:
    def write() -> None:
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute(change.encode())

    options: Any = {**SCAN, "indexes": True}
    found = mrl.evaluate(indexed, "docs", ASKED, on_progress=when_reading(write), **options)
    told = f"At least {changed} of {ROWS:,} rows of docs were written or deleted while it was measured, "
    assert any(note.startswith(told) for note in found.notes)
    assert not any("were written or deleted" in note for note in mrl.evaluate(indexed, "docs", ASKED, **options).notes)


def test_interrupted_it_leaves_nothing(docs: Conn) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mrl.evaluate(docs, "docs", ASKED, on_progress=when_reading(stop), **SCAN)
    assert docs.info.transaction_status == TransactionStatus.IDLE
    assert mrl.evaluate(docs, "docs", ASKED, **SCAN).rows == ROWS


def test_progress_counts_to_the_end(indexed: Conn) -> None:
    seen: dict[tuple[int, str], list[Progress]] = {}
    mrl.evaluate(
        indexed,
        "docs",
        ASKED,
        on_progress=lambda now: seen.setdefault((now.total, now.unit), []).append(now),
        **SCAN | {"indexes": True, "candidates": [20]},
    )
    for (total, _), reports in seen.items():
        assert reports[-1].done == total
        assert [one.done for one in reports] == sorted(one.done for one in reports)
    assert {one.what for reports in seen.values() for one in reports} == {
        "reading", "exact", "truncate", "embedding_8, 20 candidates", "embedding_16, 20 candidates",
    }  # fmt: skip


def test_real_vectors(conn: Conn, shared_data: Path) -> None:
    data = np.load(shared_data / "te3small_1536.npz")
    make(conn, data["corpus"].astype(np.float32)[:3000])
    found = mrl.evaluate(conn, "docs", data["queries"].astype(np.float32)[:200], dims=[64, 128, 256], indexes=False)
    by = {(point.kind, point.dims): point.recall.mean for point in found.points}
    for dims in (64, 128, 256):
        assert by["rotate", dims] > by["truncate", dims] > by["random", dims] - 0.05
    # A rotation reaches with n dimensions what the first dims need 2n for.
    assert by["rotate", 128] > by["truncate", 256] - 0.02
