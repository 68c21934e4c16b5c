"""A replay of queries: recall as by hand, kept over time, within its time, and nothing else changed."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus

import mrl_pg.psycopg as mrl
from mrl_pg import DimensionError, EmbedError, EvaluationError, MrlError, SearchError
from mrl_pg.evaluate import Progress
from mrl_pg.queries import Queries
from mrl_pg.vectors import FloatArray, prefixes, to_text
from mrl_pg.watch import Before, sample_queries
from tests.conftest import Conn, vectors

ROWS, QUERIES, FULL, DIMS = 600, 40, 32, 4
CORPUS = vectors(ROWS, FULL)
ASKED = vectors(QUERIES, FULL, seed=1)
# The name in the package is the verb's.
WATCHING = sys.modules["mrl_pg.psycopg.watch"]
HISTORY = "SELECT target, prefix, source, k, candidates, ef_search, queries, recall, low, high, worst, floor"


def make(conn: Conn, kind: str = "vector", distance: Any = "cosine", table: str = "docs") -> None:
    """Creates a table whose prefix is too short to find everything among few candidates."""
    conn.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, embedding {kind}({FULL}))")
    with conn.cursor().copy(f"COPY {table} (id, embedding) FROM STDIN") as copy:
        for n, row in enumerate(CORPUS):
            copy.write_row((n, to_text(row)))
    mrl.add_prefix(conn, table, dims=DIMS, distance=distance)
    mrl.backfill(conn, table)
    mrl.create_index(conn, table)


@pytest.fixture
def docs(conn: Conn) -> Conn:
    make(conn)
    return conn


def order(query: FloatArray, rows: FloatArray, distance: str) -> list[int]:
    """Returns the rows, nearest first; they have unit length, or are prefixes that were made for the distance."""
    far = np.linalg.norm(rows - query, axis=1) if distance == "l2" else -(rows @ query)
    found: list[int] = np.argsort(far, kind="stable").tolist()
    return found


def recalls(
    queries: FloatArray, k: int, candidates: int, distance: Any = "cosine", *, itself: bool = False
) -> list[float]:
    """Returns the recall of each query, by hand; as rows they do not find themselves."""
    short, shorts = (prefixes(rows, DIMS, distance).astype(np.float32) for rows in (CORPUS, queries))
    found = []
    for query, part in zip(queries, shorts, strict=True):
        exact = order(query, CORPUS, distance)[int(itself) :][:k]
        found.append(len(set(exact) & set(order(part, short, distance)[:candidates])) / k)
    return found


def test_recall_is_that_by_hand(docs: Conn) -> None:
    watched = mrl.watch(docs, "docs", ASKED, k=5, candidates=20, ef_search=400)
    expected = recalls(ASKED, 5, 20)
    assert watched.found.recall.mean == pytest.approx(np.mean(expected), abs=0.01)
    assert watched.found.recall.worst == min(expected)
    assert watched.found.recall.low < watched.found.recall.mean < watched.found.recall.high
    assert (watched.source, watched.sample, watched.found.searches, watched.found.received.mean) == (
        "queries", QUERIES, QUERIES, 20,
    )  # fmt: skip
    assert (watched.enough, watched.floor) == (False, 0.95)
    assert watched.found.p50_ms > 0
    assert mrl.watch(docs, "docs", ASKED, k=5, candidates=400, ef_search=800).enough


@pytest.mark.parametrize("distance", ["cosine", "l2", "inner_product"])
@pytest.mark.parametrize("kind", ["vector", "halfvec"])
def test_rows_do_not_find_themselves(conn: Conn, kind: str, distance: Any) -> None:
    make(conn, kind, distance)
    watched = mrl.watch(conn, "docs", sample=ROWS, k=5, candidates=20, ef_search=400)
    assert (watched.source, watched.found.recall.queries) == ("rows", ROWS)
    # The row itself is one of the candidates.
    expected = recalls(CORPUS, 5, 20, distance, itself=True)
    assert watched.found.recall.mean == pytest.approx(np.mean(expected), abs=0.01)
    assert mrl.watch(conn, "docs", sample=50, k=5, candidates=600, ef_search=800).found.recall.worst == 1


def test_by_recall_it_replays_what_applications_get(docs: Conn) -> None:
    docs.execute(
        "INSERT INTO mrl.operating_points (prefix_id, k, candidates, ef_search, target_recall, recall, recall_low, "
        "recall_high, p50_ms, p95_ms, rows, queries, source, versions) "
        "SELECT id, 5, 30, 70, 0.9, 0.9, 0.9, 1, 1, 9, 600, 40, 'queries', '' FROM mrl.prefixes"
    )
    watched = mrl.watch(docs, "docs", ASKED, k=5, recall=0.9)
    assert (watched.found.candidates, watched.found.ef_search) == (30, 70)
    assert watched.found.received.mean == 30
    with pytest.raises(SearchError, match=r"0\.95"):
        mrl.watch(docs, "docs", ASKED, k=5, recall=0.95)


def test_generated_queries_are_stored_as_such(docs: Conn) -> None:
    queries = Queries(tuple(map(str, range(QUERIES))), ASKED, source="generated")
    assert mrl.watch(docs, "docs", queries, k=5).source == "generated"
    assert docs.execute("SELECT source FROM mrl.recall_history").fetchall() == [("generated",)]


def test_stored_over_time(docs: Conn) -> None:
    first = mrl.watch(docs, "docs", ASKED, k=5, candidates=20)
    assert first.before is None
    assert first.stored is not None
    mrl.watch(docs, "docs", ASKED, k=5, candidates=20, store=False)
    mrl.watch(docs, "docs", ASKED, k=5, candidates=400)
    mrl.watch(docs, "docs", sample=20, k=5, candidates=19)
    second = mrl.watch(docs, "docs", ASKED, k=5, candidates=20, floor=0.5)
    recall = first.found.recall
    assert second.before == Before(recall.mean, recall.low, recall.high, first.stored)
    assert second.as_dict()["before"]["recall"] == recall.mean
    rows = docs.execute(f"{HISTORY} FROM mrl.recall_history ORDER BY measured_at").fetchall()
    assert len(rows) == 4
    same = ("public.docs", "embedding_4", "queries", 5, 20, 40, QUERIES, recall.mean, recall.low, recall.high)
    assert rows[0] == (*same, recall.worst, 0.95)
    assert rows[3] == (*same, recall.worst, 0.5)
    assert json.loads(json.dumps(second.as_dict(), default=str))["enough"] in (True, False)


def test_the_name_of_a_table_is_stored_as_sql_writes_it(conn: Conn) -> None:
    conn.execute('CREATE SCHEMA "Ä b"')
    make(conn)
    conn.execute('ALTER TABLE docs SET SCHEMA "Ä b"; ALTER TABLE "Ä b".docs RENAME TO "x""y%"')
    for _ in range(2):
        watched = mrl.watch(conn, ("Ä b", 'x"y%'), ASKED, k=5)
    assert watched.before is not None
    assert conn.execute("SELECT DISTINCT target FROM mrl.recall_history").fetchall() == [('"Ä b"."x""y%"',)]


def test_the_same_queries_on_every_run(docs: Conn, tmp_path: Path) -> None:
    def found(queries: Any = ASKED, **options: Any) -> Any:
        return mrl.watch(docs, "docs", queries, sample=10, k=5, candidates=10, **options).found.recall

    assert found() == found()
    assert found() != found(seed=1)
    np.savez(tmp_path / "q.npz", queries=ASKED)
    lines = [json.dumps({"id": n, "embedding": row.tolist(), "relevant": [1]}) for n, row in enumerate(ASKED)]
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    for name in ("q.npz", "q.jsonl"):
        assert found(tmp_path / name) == found()
    texts = Queries(tuple(map(str, range(QUERIES))), None, tuple(f"text {n}" for n in range(QUERIES)))
    calls: list[str] = []

    def embedder(asked: Any) -> list[FloatArray]:
        calls.extend(asked)
        return [ASKED[int(text.split()[1])] for text in asked]

    assert found(texts, embedder=embedder) == found()
    assert len(calls) == 10  # those that are replayed
    with pytest.raises(EvaluationError, match="the 10 queries are texts"):
        found(texts)
    assert found(None) == found(None)
    assert found(None) != found(None, seed=1)
    assert sample_queries(texts, 3, 0).ids == sample_queries(texts, 10, 0).ids[:3]


def test_within_a_budget(docs: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    compare = WATCHING._compare

    def slow(*arguments: Any) -> Any:
        time.sleep(0.1)
        return compare(*arguments)

    monkeypatch.setattr(WATCHING, "_compare", slow)
    steps: list[Progress] = []
    watched = mrl.watch(docs, "docs", ASKED, k=5, budget=0.5, on_progress=steps.append)
    assert 1 <= watched.found.recall.queries <= 5
    assert (watched.sample, len(steps)) == (QUERIES, watched.found.recall.queries)
    assert 0.3 < watched.seconds < 1.5
    assert steps[0] == Progress("replaying", 1, QUERIES, "queries")


def test_a_search_that_takes_longer_than_the_budget(docs: Conn, dsn: str) -> None:
    docs.execute(
        "CREATE FUNCTION slow() RETURNS boolean LANGUAGE sql VOLATILE AS 'SELECT pg_sleep(0.1) IS NOT NULL';"
        "CREATE ROLE slow_reader LOGIN; GRANT SELECT ON docs TO slow_reader;"
        "ALTER TABLE docs ENABLE ROW LEVEL SECURITY; CREATE POLICY slow ON docs USING (slow())"
    )
    try:
        with psycopg.connect(make_conninfo(dsn, user="slow_reader"), autocommit=True) as reader:
            began = time.monotonic()
            with pytest.raises(EvaluationError, match=r"^0\.5 s were over before one query was answered"):
                mrl.watch(reader, "docs", ASKED, k=5, budget=0.5, store=False)
            assert time.monotonic() - began < 5
            assert reader.execute("SHOW statement_timeout").fetchone() == ("0",)
            with pytest.raises(MrlError, match=r"^slow_reader may not store.* GRANT INSERT ON mrl\.recall_history TO"):
                mrl.watch(reader, "docs", ASKED, k=5)
            docs.execute("GRANT INSERT ON mrl.recall_history TO slow_reader; DROP POLICY slow ON docs")
            docs.execute("CREATE POLICY even ON docs USING (id % 2 = 0)")
            # Row-level security holds for both searches.
            assert mrl.watch(reader, "docs", ASKED, k=5, candidates=300).stored
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute("DELETE FROM mrl.recall_history")
    finally:
        docs.execute("DROP OWNED BY slow_reader; DROP ROLE slow_reader")


def test_cancelled_by_somebody_else(docs: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    def cancelled(*_: Any) -> Any:
        raise psycopg.errors.QueryCanceled

    monkeypatch.setattr(WATCHING, "_compare", cancelled)
    with pytest.raises(psycopg.errors.QueryCanceled):
        mrl.watch(docs, "docs", ASKED)


def test_a_table_that_is_written_meanwhile(docs: Conn, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both searches see one snapshot: rows that come between them are in neither."""
    search = WATCHING.search
    with psycopg.connect(dsn, autocommit=True) as writer:
        n = ROWS

        def between(*arguments: Any, **options: Any) -> Any:
            nonlocal n
            if not options.get("exact"):
                query = to_text(arguments[2])
                writer.execute("INSERT INTO docs SELECT %s + i, %s FROM generate_series(0, 4) i", (n, query))
                n += 5
            return search(*arguments, **options)

        monkeypatch.setattr(WATCHING, "search", between)
        watched = mrl.watch(docs, "docs", ASKED[:10], k=5, candidates=700, ef_search=1000)
    assert n == ROWS + 50
    assert watched.found.recall.mean == 1


def test_nothing_else_is_changed(docs: Conn) -> None:
    docs.execute("SET hnsw.ef_search = 77; SET statement_timeout = '1h'")
    mrl.watch(docs, "docs", ASKED, sample=3, k=5)
    for setting, value in (("hnsw.ef_search", "77"), ("statement_timeout", "1h")):
        assert docs.execute(f"SHOW {setting}").fetchone() == (value,)
    assert docs.info.transaction_status == TransactionStatus.IDLE


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sample": 0}, EvaluationError, "sample must be at least 1, .* not 0, 60 and 0.95"),
        ({"budget": 0}, EvaluationError, "budget above 0"),
        ({"budget": float("nan")}, EvaluationError, "budget above 0"),
        ({"floor": 95}, EvaluationError, "floor between 0 and 1, not 100, 60 and 95"),
        ({"k": 0}, SearchError, "k must be at least 1"),
        ({"k": 601}, EvaluationError, r"finds 600 rows, too few for k = 601\. Lower k\."),
        ({"candidates": 9}, SearchError, "candidates must be at least k = 10, not 9"),
        ({"prefix": "nothing"}, SearchError, "docs has no prefix 'nothing'"),
        ({"queries": ASKED[:, :8]}, DimensionError, "8 dimensions, expected 32"),
        ({"queries": "nowhere.npz"}, OSError, "nowhere"),
    ],
)
def test_bad_input(docs: Conn, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mrl.watch(docs, "docs", **({"queries": ASKED} | options))
    assert docs.execute("SELECT count(*) FROM mrl.recall_history").fetchone() == (0,)


def test_bad_tables(docs: Conn, dsn: str) -> None:
    with pytest.raises(SearchError, match="table nothing does not exist"):
        mrl.watch(docs, "nothing", ASKED)
    docs.execute("DROP INDEX docs_embedding_4_halfvec_cosine_ops_idx")
    with pytest.raises(SearchError, match=r"no valid index\. Run: mrl-pg index docs"):
        mrl.watch(docs, "docs", ASKED)
    mrl.create_index(docs, "docs")
    docs.execute("TRUNCATE docs")
    with pytest.raises(EvaluationError, match="finds 0 rows, too few for k = 10"):
        mrl.watch(docs, "docs", ASKED)
    with pytest.raises(MrlError, match="no row of docs has an embedding"):
        mrl.watch(docs, "docs")
    docs.execute("INSERT INTO docs SELECT n, array_fill(0, ARRAY[32])::vector FROM generate_series(1, 20) n")
    with pytest.raises(EvaluationError, match="every embedding of docs is zero"):
        mrl.watch(docs, "docs")
    with psycopg.connect(dsn) as other:
        other.execute("SELECT 1")
        with pytest.raises(MrlError, match="the connection is in a transaction"):
            mrl.watch(other, "docs", ASKED)


def test_queries_of_another_model(conn: Conn) -> None:
    conn.execute(f"CREATE TABLE docs (id int PRIMARY KEY, embedding vector({FULL}))")
    mrl.add_prefix(conn, "docs", dims=DIMS, model="one")
    mrl.create_index(conn, "docs")
    with pytest.raises(EmbedError, match="one"):
        mrl.watch(conn, "docs", ASKED, model="other")
