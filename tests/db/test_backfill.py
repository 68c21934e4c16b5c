"""The backfill fills every row, loses none, and can be stopped anywhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from pgvector.psycopg import register_vector

import mrl_pg.psycopg as mrl
from mrl_pg import BackfillError, MrlError
from mrl_pg.backfill import BackfillProgress
from mrl_pg.vectors import prefixes, to_text
from tests.conftest import Conn, FloatArray, vectors

FULL_DIMS, DIMS = 32, 8


def fill(conn: Conn, rows: FloatArray, key: str = "id bigint") -> None:
    """Creates and fills documents, then adds the prefix: no row has one."""
    conn.execute(
        f"CREATE TABLE documents ({key} PRIMARY KEY, touched int DEFAULT 0, embedding vector({rows.shape[1]}))"
    )
    with conn.cursor().copy("COPY documents (id, embedding) FROM STDIN") as copy:
        for n, row in enumerate(rows):
            copy.write_row((n, to_text(row)))
    mrl.add_prefix(conn, "documents", dims=DIMS)


def differences(conn: Conn) -> FloatArray:
    """Returns how far each stored prefix is from numpy's, the largest per row; inf where it is missing."""
    register_vector(conn)
    rows = conn.execute("SELECT embedding, embedding_8 FROM documents ORDER BY id").fetchall()
    made = prefixes(np.stack([row[0].to_numpy() for row in rows]), DIMS, "cosine").astype(np.float32)
    stored = np.stack([np.full(DIMS, np.inf) if row[1] is None else row[1].to_numpy() for row in rows])
    return np.asarray(np.abs(made - stored).max(axis=1), dtype=np.float32)


def test_fills_every_row(conn: Conn) -> None:
    fill(conn, vectors(2_500, FULL_DIMS))
    seen: list[int] = []
    progress = mrl.backfill(conn, "documents", batch_size=1_000, on_progress=lambda p: seen.append(p.done))
    assert seen == sorted(seen)
    assert seen[-1] == 2_500
    assert (progress.total, progress.filled, progress.impossible) == (2_500, 2_500, 0)
    assert differences(conn).max() <= 1e-3
    assert mrl.backfill(conn, "documents").total == 0


@pytest.mark.parametrize("rows", [0, 999, 1_000, 1_001])
def test_batches_end_where_the_rows_do(conn: Conn, rows: int) -> None:
    fill(conn, vectors(rows, FULL_DIMS) if rows else np.empty((0, FULL_DIMS), np.float32))
    assert mrl.backfill(conn, "documents", batch_size=500).filled == rows


def test_rows_without_a_possible_prefix_are_named_and_stop_nothing(conn: Conn) -> None:
    rows = vectors(100, FULL_DIMS)
    rows[7:30, :DIMS] = 0
    fill(conn, rows)
    conn.execute("UPDATE documents SET embedding = NULL WHERE id = 50")
    progress = mrl.backfill(conn, "documents", batch_size=10)
    assert (progress.filled, progress.impossible) == (76, 23)
    assert progress.impossible_keys == list(range(7, 27))
    (status,) = mrl.status(conn, "documents")
    assert (status["rows"], status["missing"], status["impossible"]) == (99, 23, 23)


def test_embeddings_that_are_too_short(conn: Conn) -> None:
    conn.execute("CREATE TABLE documents (id bigint PRIMARY KEY, embedding vector)")
    conn.execute("INSERT INTO documents VALUES (1, '[1,2,3]'), (2, '[1,2,3,4,5,6,7,8,9]')")
    mrl.add_prefix(conn, "documents", dims=DIMS)
    progress = mrl.backfill(conn, "documents")
    assert (progress.filled, progress.impossible_keys) == (1, [1])


def test_dry_run_and_max_rows(conn: Conn) -> None:
    fill(conn, vectors(300, FULL_DIMS))
    assert mrl.backfill(conn, "documents", dry_run=True).total == 300
    assert mrl.backfill(conn, "documents", max_rows=120, batch_size=50).filled == 120
    assert mrl.backfill(conn, "documents").filled == 180


@pytest.mark.parametrize(
    ("key", "make"),
    [
        ("id uuid", lambda n: uuid.UUID(int=n * 7919)),
        ("id text", lambda n: f"row-{n:05d}'\"%s"),
        ("id timestamptz", lambda n: f"2026-01-01T00:00:00.{n:06d}Z"),
        ("id numeric", lambda n: n / 7),
    ],
    ids=["uuid", "text", "timestamptz", "numeric"],
)
def test_keys_of_any_type(conn: Conn, key: str, make: Any) -> None:
    conn.execute(f"CREATE TABLE documents ({key} PRIMARY KEY, embedding vector({FULL_DIMS}))")
    rows = vectors(250, FULL_DIMS)
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO documents VALUES (%s, %s)", [(make(n), to_text(row)) for n, row in enumerate(rows)]
        )
    mrl.add_prefix(conn, "documents", dims=DIMS)
    assert mrl.backfill(conn, "documents", batch_size=100).filled == 250
    conn.execute("SELECT mrl.create_prefix_index('documents', 'embedding_8', concurrently => false)")
    keys = {hit.key for hit in mrl.search(conn, "documents", rows[0], k=3)}
    stored = {row[0] for row in conn.execute("SELECT id FROM documents")}
    assert len(keys) == 3
    assert keys <= stored


def test_composite_keys(conn: Conn) -> None:
    conn.execute(f"CREATE TABLE documents (tenant text, n int, embedding vector({FULL_DIMS}), PRIMARY KEY (tenant, n))")
    rows = vectors(300, FULL_DIMS)
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO documents VALUES (%s, %s, %s)",
            [(f"t{n % 7}", n // 7, to_text(row)) for n, row in enumerate(rows)],
        )
    mrl.add_prefix(conn, "documents", dims=DIMS)
    progress = mrl.backfill(conn, "documents", batch_size=64)
    assert (progress.filled, progress.last_key) == (300, ("t6", 41))
    conn.execute("SELECT mrl.create_prefix_index('documents', 'embedding_8', concurrently => false)")
    hits = mrl.search(conn, "documents", rows[100], k=1)
    assert hits[0].key == ("t2", 14)


def test_several_prefixes_ask_for_one(conn: Conn) -> None:
    fill(conn, vectors(20, FULL_DIMS))
    mrl.add_prefix(conn, "documents", dims=16)
    with pytest.raises(MrlError, match=r"has several prefixes: embedding_8, embedding_16\. Name one with prefix="):
        mrl.backfill(conn, "documents")
    assert mrl.backfill(conn, "documents", prefix="embedding_16").filled == 20


def test_a_connection_in_a_transaction_is_refused(dsn: str, conn: Conn) -> None:
    fill(conn, vectors(20, FULL_DIMS))
    with psycopg.connect(dsn) as other:
        other.execute("SELECT 1")
        with pytest.raises(MrlError, match="the connection is in a transaction"):
            mrl.backfill(other, "documents")
        other.rollback()
        assert mrl.backfill(other, "documents").filled == 20
    assert conn.execute("SELECT count(embedding_8) FROM documents").fetchone() == (20,)


def test_waits_for_rows_that_others_hold(dsn: str, conn: Conn) -> None:
    fill(conn, vectors(200, FULL_DIMS))
    with psycopg.connect(dsn) as other:
        other.execute("SELECT FROM documents WHERE id = 150 FOR UPDATE")
        threading.Timer(0.5, other.rollback).start()
        progress = mrl.backfill(conn, "documents", batch_size=50, lock_timeout=0.05)
    assert progress.filled == 200


def test_gives_up_on_rows_that_stay_locked(dsn: str, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mrl.backfill.__globals__["random"], "uniform", lambda low, high: 0.0)
    fill(conn, vectors(200, FULL_DIMS))
    with psycopg.connect(dsn) as other:
        other.execute("SELECT FROM documents WHERE id = 150 FOR UPDATE")
        with pytest.raises(BackfillError, match=r"rows after key 149 stayed locked .* 150 rows are filled") as raised:
            mrl.backfill(conn, "documents", batch_size=50, lock_timeout=0.01)
        assert raised.value.last_key == 149
    assert mrl.backfill(conn, "documents").filled == 50


def test_a_server_that_goes_away(dsn: str, conn: Conn) -> None:
    fill(conn, vectors(200, FULL_DIMS))
    with psycopg.connect(dsn, autocommit=True) as other:

        def cut(progress: BackfillProgress) -> None:
            if progress.done == 100:
                conn.execute("SELECT pg_terminate_backend(%s)", (other.info.backend_pid,))

        with pytest.raises(
            BackfillError, match=r"the connection failed after key 99 .*Run the backfill again\."
        ) as raised:
            mrl.backfill(other, "documents", batch_size=50, on_progress=cut)
        assert raised.value.last_key == 99
    assert mrl.backfill(conn, "documents").filled == 100


def test_an_update_between_reading_and_writing_is_not_overwritten(dsn: str, conn: Conn) -> None:
    """The batch finds row 1 locked by an update that then commits: it must take the new embedding."""
    fill(conn, vectors(3, FULL_DIMS))
    conn.execute("ALTER TABLE documents DISABLE TRIGGER USER")  # so that only the backfill writes the prefix
    with psycopg.connect(dsn) as other:
        other.execute("UPDATE documents SET embedding = %s WHERE id = 1", (to_text(vectors(1, FULL_DIMS, seed=9)[0]),))
        threading.Timer(0.3, other.commit).start()
        assert mrl.backfill(conn, "documents", lock_timeout=5).filled == 3
    assert differences(conn).max() <= 1e-3


WRITER = """
import sys, random, psycopg
from mrl_pg.vectors import to_text
dsn, seed, rows, full_dims = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
random.seed(seed)
conn = psycopg.connect(dsn, autocommit=True)
def vector():
    return "[" + ",".join(f"{random.gauss(0, 1):.6f}" for _ in range(full_dims)) + "]"
n = 0
try:
    while True:
        id = random.randrange(rows // 4) * 4 + seed  # each writer has rows of its own, and knows what it wrote
        conn.execute("UPDATE documents SET embedding = %s, touched = touched + 1 WHERE id = %s", (vector(), id))
        conn.execute("INSERT INTO documents (id, embedding) VALUES (%s, %s)", (rows + 4 * n + seed, vector()))
        if n % 10 == 0:
            conn.execute("DELETE FROM documents WHERE id = %s", (rows + 4 * n + seed,))
        n += 1
        print(n, flush=True)
except psycopg.Error:
    pass
"""


@pytest.mark.parametrize("rows", [20_000])
def test_killed_and_run_again_beside_four_writers(dsn: str, conn: Conn, rows: int) -> None:
    fill(conn, vectors(rows, FULL_DIMS))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    backfill = [sys.executable, "-m", "mrl_pg", "backfill", "documents", "--dsn", dsn, "--batch-size", "200"]
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, dsn, str(seed), str(rows), str(FULL_DIMS)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for seed in range(4)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "1\n"
        first = subprocess.Popen([*backfill, "--sleep", "0.02"], env=environment)
        while True:
            count = conn.execute("SELECT count(embedding_8) FROM documents WHERE id < %s", (rows,)).fetchone()
            assert count is not None
            if count[0] > rows / 2:
                break
            assert first.poll() is None, "the backfill ended before it could be killed"
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        first.wait()
        subprocess.run(backfill, env=environment, check=True)
    finally:
        for writer in writers:
            writer.terminate()
    written = [len(writer.communicate()[0].split()) + 1 for writer in writers]  # with the line that was read above
    assert (differences(conn) > 1e-3).sum() == 0
    (touched, inserted) = conn.execute(
        "SELECT sum(touched), count(*) FILTER (WHERE id >= %s) FROM documents", (rows,)
    ).fetchone() or (0, 0)
    # A writer may be stopped between a statement and its report.
    assert 0 <= touched - sum(written) <= 4
    assert abs(inserted - sum(n - (n + 9) // 10 for n in written)) <= 8
    assert conn.execute("SELECT count(*) FROM documents WHERE id < %s", (rows,)).fetchone() == (rows,)
