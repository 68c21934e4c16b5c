"""Every row gets the embedding of its own text: none is lost, doubled or paired with the vector of another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from pgvector.psycopg import register_vector
from psycopg import ClientCursor, sql

import mrl_pg.psycopg as mrl
from mrl_pg import DimensionError, EmbedError, MrlError, SearchError
from mrl_pg.embed import Embedder, Usage
from mrl_pg.embedding import EmbedProgress
from mrl_pg.psycopg.run import compiled
from mrl_pg.statements.embedding import Task, batch, write
from mrl_pg.vectors import prefixes, to_text
from tests.conftest import Conn, FloatArray
from tests.embed.conftest import FULL_DIMS, MODEL, Api, documents, fake, refuse, vector_of

DIMS = 8


def embed(conn: Conn, embedder: Any = None, **options: Any) -> EmbedProgress:
    return mrl.embed(conn, "documents", embedder or fake(), **({"text_column": "body"} | options))


def check(conn: Conn, *, embedded: int, prefix: bool = False) -> None:
    """Asserts that so many rows have an embedding, each that of its text, with its hash and prefix."""
    register_vector(conn)
    columns = "body, embedding, embedding_hash" + (", embedding_8" if prefix else "")
    rows = conn.execute(f"SELECT {columns} FROM documents WHERE embedding IS NOT NULL".encode()).fetchall()
    assert len(rows) == embedded
    for body, embedding, hashed, *rest in rows:
        vector = vector_of(body)
        assert np.array_equal(embedding.to_numpy(), vector), f"{body!r} has the vector of another text"
        assert hashed is not None
        if prefix:
            made = prefixes(vector, DIMS, "cosine").astype(np.float32)
            assert np.abs(rest[0].to_numpy().astype(np.float32) - made).max() <= 1e-3


def test_every_row_once(conn: Conn) -> None:
    documents(conn, 1_000)
    mrl.add_prefix(conn, "documents", dims=DIMS)
    calls: list[list[str]] = []
    seen: list[int] = []
    progress = embed(conn, fake(calls=calls), batch_size=300, on_progress=lambda p: seen.append(p.done))
    assert (progress.total, progress.embedded, progress.last_key) == (1_000, 1_000, 999)
    assert seen == [300, 600, 900, 1_000]
    assert calls[3] == [f"text {n}" for n in range(900, 1_000)]
    check(conn, embedded=1_000, prefix=True)
    assert mrl.status(conn, "documents")[0]["missing"] == 0
    again = embed(conn, fake(calls=calls))
    assert (again.total, again.embedded) == (0, 0)
    assert len(calls) == 4


@pytest.mark.parametrize("rows", [0, 1, 99, 100, 101])
def test_batches_end_where_the_rows_do(conn: Conn, rows: int) -> None:
    documents(conn, rows)
    assert embed(conn, batch_size=50).embedded == rows
    check(conn, embedded=rows)


def test_through_the_api(conn: Conn, api: Api) -> None:
    documents(conn, 500)
    api.tricks = [refuse(500)] * 2
    progress = embed(conn, api.embedder(batch_size=64), batch_size=200)
    assert (progress.embedded, progress.tokens) == (500, 1_000)
    assert progress.cost == pytest.approx(1_000 * 0.02 / 1e6)
    check(conn, embedded=500)
    answered = [text for body in api.asked[2:] for text in body["input"]]
    assert len(set(answered)) == 500


def test_only_changed_texts_again(conn: Conn) -> None:
    documents(conn, 100)
    embed(conn)
    conn.execute("UPDATE documents SET body = 'new ' || id WHERE id IN (3, 77)")
    conn.execute("UPDATE documents SET touched = 1, body = body WHERE id = 50")
    conn.execute("UPDATE documents SET embedding = NULL WHERE id = 60")
    calls: list[list[str]] = []
    assert embed(conn, fake(calls=calls)).embedded == 3
    assert calls == [["new 3", "text 60", "new 77"]]
    check(conn, embedded=100)


def test_rows_changed_while_the_model_works(dsn: str, conn: Conn) -> None:
    """Between reading and writing, rows change, go and come; only what still fits is written."""
    documents(conn, 10)
    mrl.add_prefix(conn, "documents", dims=DIMS)
    with psycopg.connect(dsn, autocommit=True) as other:

        def meanwhile(texts: Sequence[str]) -> list[FloatArray]:
            if "text 2" in texts:
                other.execute("UPDATE documents SET body = 'changed' WHERE id = 2")
                other.execute("UPDATE documents SET body = NULL WHERE id = 3")
                other.execute("UPDATE documents SET touched = touched + 1 WHERE id = 4")
                other.execute("UPDATE documents SET id = 40 WHERE id = 5")
                other.execute("DELETE FROM documents WHERE id = 6")
                other.execute("DELETE FROM documents WHERE id = 7")
                other.execute("INSERT INTO documents (id, body) VALUES (7, 'another'), (41, 'late')")
                other.execute("UPDATE documents SET embedding = %s WHERE id = 8", (to_text(vector_of("text 8")),))
            return fake()(texts)

        progress = embed(conn, meanwhile, batch_size=10)
    assert (progress.embedded, progress.missed) == (6, 6)  # 0, 1, 4, 9, and in a second batch 40, 41
    assert progress.total == 10
    rows = conn.execute("SELECT id FROM documents WHERE embedding IS NULL ORDER BY id").fetchall()
    assert [row[0] for row in rows] == [2, 3, 7]
    conn.execute("UPDATE documents SET embedding = NULL WHERE id = 8")  # for check()
    assert embed(conn).embedded == 3
    check(conn, embedded=9, prefix=True)
    assert conn.execute("SELECT touched FROM documents WHERE id = 4").fetchone() == (1,)


@pytest.mark.parametrize("change", ["body = 'changed'", "touched = 1"])
@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_rows_that_others_hold_are_not_waited_for(dsn: str, conn: Conn, change: str, isolation: str) -> None:
    documents(conn, 10)
    conn.execute(f"SET default_transaction_isolation = '{isolation}'".encode())
    with psycopg.connect(dsn) as other:

        def meanwhile(texts: Sequence[str]) -> list[FloatArray]:
            other.execute(f"UPDATE documents SET {change} WHERE id = 5".encode())
            return fake()(texts)

        begun = time.monotonic()
        progress = embed(conn, meanwhile)
        assert time.monotonic() - begun < 2
        assert (progress.embedded, progress.missed) == (9, 1)
        other.commit()
    assert embed(conn).embedded == 1
    check(conn, embedded=10)


@pytest.mark.parametrize("change", ["body = 'changed'", "touched = 1"])
@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_rows_changed_while_others_of_their_batch_are_written(
    dsn: str, conn: Conn, change: str, isolation: str
) -> None:
    documents(conn, 10)
    conn.execute(f"SET default_transaction_isolation = '{isolation}'".encode())
    conn.execute(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1); RETURN NEW; END';"
        "CREATE TRIGGER wait BEFORE UPDATE ON documents FOR EACH ROW WHEN (NEW.id = 0) EXECUTE FUNCTION wait()"
    )
    with psycopg.connect(dsn, autocommit=True) as other:

        def meanwhile(texts: Sequence[str]) -> list[FloatArray]:
            timer.start()
            return fake()(texts)

        update = f"UPDATE documents SET {change} WHERE id = 5".encode()
        timer = threading.Timer(0.5, other.execute, (update,))
        progress = embed(conn, meanwhile)
        timer.join()
    assert (progress.embedded, progress.missed) == ((9, 1) if "body" in change else (10, 0))
    check(conn, embedded=progress.embedded)


def test_a_reference_to_a_row_is_no_obstacle(dsn: str, conn: Conn) -> None:
    documents(conn, 3)
    conn.execute("CREATE TABLE notes (document bigint REFERENCES documents)")
    conn.execute("ALTER TABLE documents ADD embedding_hash uuid")
    with psycopg.connect(dsn) as other:
        other.execute("INSERT INTO notes VALUES (1)")
        assert embed(conn).embedded == 3


def test_two_at_a_time(dsn: str, conn: Conn) -> None:
    documents(conn, 300)
    found: list[EmbedProgress] = []

    def slowly(texts: Sequence[str]) -> list[FloatArray]:
        time.sleep(0.02)
        return fake()(texts)

    def work() -> None:
        with psycopg.connect(dsn, autocommit=True) as own:
            found.append(embed(own, slowly, batch_size=20))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(progress.embedded for progress in found) == 300
    check(conn, embedded=300)


def test_empty_texts_are_passed_over_and_named(conn: Conn) -> None:
    documents(conn, 50)
    conn.execute("UPDATE documents SET body = (ARRAY['', ' ', E'\\n\\t', U&'\\2003'])[id % 4 + 1] WHERE id < 30")
    conn.execute("UPDATE documents SET body = NULL WHERE id = 40")
    calls: list[list[str]] = []
    progress = embed(conn, fake(calls=calls), batch_size=7)
    assert (progress.total, progress.embedded, progress.skipped) == (49, 19, 30)
    assert progress.skipped_keys == list(range(20))
    assert sum(map(len, calls)) == 19
    check(conn, embedded=19)
    conn.execute("UPDATE documents SET body = ' ' WHERE id = 45")
    progress = embed(conn, fake(calls=[]))
    assert (progress.embedded, progress.skipped) == (0, 31)
    assert progress.skipped_keys == list(range(20))


def test_texts_too_long_are_passed_over_and_named(conn: Conn, api: Api) -> None:
    documents(conn, 20)
    conn.execute("UPDATE documents SET body = repeat('long ', 100) WHERE id IN (7, 13)")
    api.max_chars = 400
    progress = embed(conn, api.embedder())
    assert (progress.embedded, progress.skipped, progress.skipped_keys) == (18, 2, [7, 13])
    check(conn, embedded=18)
    conn.execute("UPDATE documents SET body = 'short' WHERE id = 7")
    progress = embed(conn, api.embedder())
    assert (progress.embedded, progress.skipped_keys) == (1, [13])
    assert progress.tokens == 2


def test_limit(conn: Conn) -> None:
    documents(conn, 100)
    conn.execute("UPDATE documents SET body = '' WHERE id = 1")
    progress = embed(conn, limit=30, batch_size=20)
    assert (progress.total, progress.embedded, progress.skipped, progress.last_key) == (30, 30, 1, 30)
    conn.execute("UPDATE documents SET body = '' WHERE id BETWEEN 31 AND 60")
    assert embed(conn, limit=5).last_key == 65
    check(conn, embedded=35)
    assert embed(conn).embedded == 34


def test_dry_run_changes_and_sends_nothing(conn: Conn) -> None:
    documents(conn, 100)

    def never(texts: Sequence[str]) -> Any:
        raise AssertionError

    embedder = Embedder(never, MODEL, Usage(price=0.02))
    progress = embed(conn, embedder, dry_run=True)
    texts = sum(len(f"text {n}") for n in range(100))
    assert (progress.total, progress.embedded, progress.tokens) == (100, 0, -(-texts // 3))
    assert progress.cost == progress.tokens * 0.02 / 1e6
    assert embed(conn, embedder, dry_run=True, limit=10).tokens == 20
    assert "embedding_hash" not in dict(mrl.describe(conn, "documents").columns)
    embed(conn, model=MODEL)
    assert embed(conn, embedder, dry_run=True).total == 0


def test_embeddings_from_elsewhere_are_left_alone(conn: Conn) -> None:
    documents(conn, 5)
    conn.execute("UPDATE documents SET embedding = %s WHERE id < 2", (to_text(vector_of("elsewhere")),))
    assert embed(conn, dry_run=True).foreign == 2
    progress = embed(conn)
    assert (progress.embedded, progress.foreign) == (3, 2)
    conn.execute("UPDATE documents SET body = 'new', embedding = NULL WHERE id = 0")
    progress = embed(conn)
    assert (progress.embedded, progress.foreign) == (1, 1)


@pytest.mark.parametrize(
    ("key", "make"),
    [
        ("uuid", lambda n: uuid.UUID(int=n * 7919)),
        ("text", lambda n: f"row-{n:05d}'\"%s"),
        ("timestamptz", lambda n: f"2026-01-01T00:00:00.{n:06d}Z"),
        ("numeric", lambda n: n / 7),
        ("bytea", lambda n: bytes([n, 0, 255])),
    ],
    ids=["uuid", "text", "timestamptz", "numeric", "bytea"],
)
def test_keys_of_any_type(conn: Conn, key: str, make: Any) -> None:
    documents(conn, 0, f"id {key} PRIMARY KEY")
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO documents (id, body) VALUES (%s, %s)", [(make(n), f"text {n}") for n in range(250)]
        )
    assert embed(conn, batch_size=60).embedded == 250
    check(conn, embedded=250)


def test_composite_keys(conn: Conn) -> None:
    documents(conn, 0, "tenant text, id int, PRIMARY KEY (tenant, id)")
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO documents (tenant, id, body) VALUES (%s, %s, %s)",
            [(f"t{n % 7}", n // 7, f"text {n}" if n else "") for n in range(300)],
        )
    progress = embed(conn, batch_size=64)
    assert (progress.embedded, progress.skipped_keys, progress.last_key) == (299, [("t0", 0)], ("t6", 41))
    check(conn, embedded=299)


@pytest.mark.parametrize(
    ("key", "body", "embedding"),
    [("key_0", "mrl_text %(x)s :y", 'em"bed %s'), ("mrl_key_0", "mrl_embedding", "mrl_hash"), ("select", "id", "hash")],
)
def test_hostile_names(conn: Conn, key: str, body: str, embedding: str) -> None:
    schema, table = "s.%s", 'docs "2024" %'
    names = map(sql.Identifier, (schema, schema, table, key, body, embedding))
    conn.execute(
        sql.SQL("CREATE SCHEMA {}; CREATE TABLE {}.{} ({} int PRIMARY KEY, {} text, {} vector(32))").format(*names)
    )
    where = sql.SQL("{}.{}").format(sql.Identifier(schema), sql.Identifier(table))
    conn.execute(sql.SQL("INSERT INTO {} VALUES (1, 'a %s'), (2, 'b '' \" :x')").format(where))
    mrl.add_prefix(conn, (schema, table), embedding, dims=DIMS, model="m%s")
    options: dict[str, Any] = {"text_column": body, "embedding": embedding, "model": "m%s"}
    assert mrl.embed(conn, (schema, table), fake(), batch_size=1, **options).embedded == 2
    register_vector(conn)
    rows = conn.execute(sql.SQL("SELECT * FROM {} ORDER BY 1").format(where)).fetchall()
    assert [np.array_equal(row[2].to_numpy(), vector_of(row[1])) for row in rows] == [True, True]
    assert mrl.embed(conn, (schema, table), fake(), **options).total == 0


def test_hash_name_is_shortened_with_the_embedding(conn: Conn) -> None:
    name = "e" * 63
    conn.execute(f"CREATE TABLE documents (id int PRIMARY KEY, body text, {name} vector(32))".encode())
    conn.execute("INSERT INTO documents VALUES (1, 'a')")
    assert embed(conn, embedding=name).embedded == 1
    assert embed(conn, embedding=name).total == 0


@pytest.mark.parametrize("embedding", ["halfvec(32)", "vector", "halfvec"])
def test_columns_of_other_types(conn: Conn, embedding: str) -> None:
    documents(conn, 20, embedding=embedding)
    assert embed(conn, batch_size=6).embedded == 20
    register_vector(conn)
    rows = conn.execute("SELECT body, embedding FROM documents").fetchall()
    assert all(np.allclose(embedding.to_numpy(), vector_of(body), atol=2e-3) for body, embedding in rows)


def test_wrong_dims(conn: Conn) -> None:
    documents(conn, 20)
    with pytest.raises(DimensionError, match="an embedding of big has 48 dimensions, expected 32") as raised:
        embed(conn, Embedder(fake(dims=48), "big"))
    assert (raised.value.expected, raised.value.actual) == (32, 48)
    check(conn, embedded=0)


def test_a_column_of_any_length_takes_one_length_a_run(conn: Conn) -> None:
    documents(conn, 20, embedding="vector")
    with pytest.raises(DimensionError, match="an embedding has 16 dimensions, expected 32"):
        embed(conn, lambda texts: fake(dims=32 if "text 0" in texts else 16)(texts), batch_size=10)
    check(conn, embedded=10)


def test_too_large_for_halfvec(conn: Conn) -> None:
    documents(conn, 2, embedding="halfvec(32)")
    with pytest.raises(EmbedError, match="an embedding reaches 100,000, beyond 65,504, the largest halfvec number"):
        embed(conn, lambda texts: [[1e5] * 32] * len(texts))


def test_another_model_than_the_tables(conn: Conn) -> None:
    documents(conn, 5)
    mrl.add_prefix(conn, "documents", dims=DIMS, model="text-embedding-3-large")
    with pytest.raises(
        EmbedError,
        match=r"embedding of documents holds embeddings of text-embedding-3-large, and those of small do not",
    ):
        embed(conn, Embedder(fake(), "small"))
    assert embed(conn, Embedder(fake(), "openai/text-embedding-3-large"), limit=2).embedded == 2
    assert embed(conn, Embedder(fake(), "my-deployment"), model="openai/text-embedding-3-large").embedded == 3
    assert embed(conn).embedded == 5  # who says nothing of the model is believed, and is not taken for the same
    check(conn, embedded=5)


def test_another_model_than_before_embeds_all_again(conn: Conn) -> None:
    """No table of two models, also where the registry knows none."""
    documents(conn, 5)
    assert embed(conn, model="a").embedded == 5
    assert embed(conn, model="a").embedded == 0
    assert embed(conn, model="b").embedded == 5


def test_no_transaction_while_the_model_works(dsn: str, conn: Conn) -> None:
    documents(conn, 20)
    for autocommit in (True, False):
        with psycopg.connect(dsn, autocommit=autocommit) as own:

            def idle(texts: Sequence[str], own: Conn = own) -> Any:
                assert own.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
                return fake()(texts)

            assert embed(own, idle, limit=10).embedded == 10
            assert own.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    check(conn, embedded=20)


def test_a_connection_in_a_transaction_is_refused(dsn: str, conn: Conn) -> None:
    documents(conn, 1)
    with psycopg.connect(dsn) as other:
        other.execute("SELECT 1")
        with pytest.raises(MrlError, match="the connection is in a transaction"):
            embed(other)


def test_a_batch_that_fails_keeps_what_was_done(conn: Conn, api: Api) -> None:
    documents(conn, 100)
    api.tricks = [lambda _, answer: answer] * 2 + [refuse(401, "bad key")]
    with pytest.raises(EmbedError, match=r"^40 rows are embedded and stay so, but then: .*HTTP 401.*Check the API key"):
        embed(conn, api.embedder(), batch_size=20)
    check(conn, embedded=40)
    assert embed(conn, api.embedder()).embedded == 60
    check(conn, embedded=100)


def test_a_short_batch_writes_nothing_of_it(conn: Conn, api: Api) -> None:
    documents(conn, 40)
    api.tricks = [lambda _, answer: answer | {"data": answer["data"][1:]}]
    with pytest.raises(EmbedError, match="returned 39 vectors with 39 different indexes for 40 texts"):
        embed(conn, api.embedder())
    check(conn, embedded=0)


def test_errors_of_the_embedder_pass(conn: Conn) -> None:
    documents(conn, 1)

    def broken(texts: Sequence[str]) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        embed(conn, broken)


def test_a_server_that_goes_away(dsn: str, conn: Conn) -> None:
    documents(conn, 100)
    with psycopg.connect(dsn, autocommit=True) as other:

        def cut(texts: Sequence[str]) -> Any:
            if "text 40" in texts:
                conn.execute("SELECT pg_terminate_backend(%s)", (other.info.backend_pid,))
            return fake()(texts)

        with pytest.raises(
            EmbedError, match=r"failed after key 39 .*40 rows are embedded and stay so\. Run it again\.$"
        ):
            embed(other, cut, batch_size=20)
    check(conn, embedded=40)
    assert embed(conn).embedded == 60


def test_the_hash_column_does_not_wait_for_ever(dsn: str, conn: Conn) -> None:
    documents(conn, 1)
    with psycopg.connect(dsn) as other:
        other.execute("SELECT FROM documents")
        with pytest.raises(EmbedError, match=r"column embedding_hash could not be added in 3s: others hold documents"):
            embed(conn)
    assert embed(conn).embedded == 1


@pytest.mark.parametrize(
    ("script", "options", "error", "message"),
    [
        ("", {"text_column": "nope"}, SearchError, "column 'nope' of documents does not exist"),
        ("", {"embedding": "nope"}, EmbedError, "column 'nope' of documents does not exist or is no vector"),
        ("", {"embedding": "body"}, EmbedError, "column 'body' of documents does not exist or is no vector"),
        ("", {"batch_size": 0}, MrlError, "batch_size and limit must be at least 1, not 0 and None"),
        ("", {"limit": 0}, MrlError, "batch_size and limit must be at least 1, not 1024 and 0"),
        ("ALTER TABLE documents DROP COLUMN id", {}, SearchError, "documents has no primary key"),
        (
            "ALTER TABLE documents ADD embedding_hash text",
            {},
            EmbedError,
            "column 'embedding_hash' of documents is text",
        ),
        ("DROP TABLE documents", {}, SearchError, "table documents does not exist"),
    ],
)
def test_bad_input(conn: Conn, script: str, options: dict[str, Any], error: type[Exception], message: str) -> None:
    documents(conn, 1)
    conn.execute(script.encode())
    with pytest.raises(error, match=message):
        embed(conn, **options)


def test_statements_use_the_index_of_the_key(conn: Conn) -> None:
    documents(conn, 20_000)
    embed(conn, limit=1)
    conn.execute("ANALYZE documents")
    known = mrl.describe(conn, "documents")
    task = Task(known, "body", "embedding", FULL_DIMS, "vector", None, hashed=True)
    cursor = ClientCursor(conn)

    def plan(statement: Any, **values: Any) -> str:
        ready = statement.compile(dialect=compiled.__globals__["_dialect"])
        text = cursor.mogrify(str(ready), {**ready.params, **values})
        return "\n".join(row[0] for row in conn.execute(f"EXPLAIN {text}".encode()))

    values = {"mrl_key_0": 5, "mrl_hash": uuid.uuid4(), "mrl_embedding": None}
    written = plan(write(task), **values)
    assert "Seq Scan" not in written
    assert written.count("Index Scan using documents_pkey") == 2
    assert "LockRows" in written
    for last in ((), (7_000,)):
        assert "Index Scan using documents_pkey" in plan(batch(task, 100, last))


WRITER = """
import sys, random, psycopg
dsn, seed, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
random.seed(seed)
conn = psycopg.connect(dsn, autocommit=True)
n = 0
try:
    while True:
        id = random.randrange(rows)
        conn.execute("UPDATE documents SET body = %s WHERE id = %s", (f"{seed} {n} {random.random()}", id))
        conn.execute("UPDATE documents SET touched = touched + 1 WHERE id = %s", (random.randrange(rows),))
        conn.execute("INSERT INTO documents (id, body) VALUES (%s, %s)", (rows + 3 * n + seed, f"new {seed} {n}"))
        if n % 5 == 0:
            conn.execute("DELETE FROM documents WHERE id = %s", (rows + 3 * n + seed,))
        n += 1
        print(n, flush=True)
except psycopg.Error:
    pass
"""

EMBED = """
import sys, psycopg
import mrl_pg.psycopg as mrl
from tests.embed.conftest import fake
with psycopg.connect(sys.argv[1], autocommit=True) as conn:
    mrl.embed(conn, "documents", fake(), text_column="body", batch_size=50)
"""


def test_killed_and_run_again_beside_three_writers(dsn: str, conn: Conn) -> None:
    rows = 5_000
    documents(conn, rows)
    mrl.add_prefix(conn, "documents", dims=DIMS)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, dsn, str(seed), str(rows)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for seed in range(3)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "1\n"
        first = subprocess.Popen([sys.executable, "-c", EMBED, dsn], env=environment)
        while True:
            count = conn.execute("SELECT count(embedding) FROM documents").fetchone()
            assert count is not None
            if count[0] > rows / 4:
                break
            assert first.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
        first.wait()
        subprocess.run([sys.executable, "-c", EMBED, dsn], env=environment, check=True)
    finally:
        for writer in writers:
            writer.terminate()
            writer.communicate()
    # What the writers changed behind the second run is left to a third: nothing else is, and nothing has gone.
    progress = embed(conn)
    assert progress.embedded == progress.total
    total = conn.execute("SELECT count(*), count(*) FILTER (WHERE id < %s) FROM documents", (rows,)).fetchone()
    assert total is not None
    assert total[1] == rows
    check(conn, embedded=total[0], prefix=True)
    assert mrl.status(conn, "documents")[0]["missing"] == 0
