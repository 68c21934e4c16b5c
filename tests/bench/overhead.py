"""What mrl-pg costs over the bare statements, in one run: backfill, search through each door, mrl.search.

    python -m tests.bench.overhead [--rows 100000] [--json]

Uses vectors grown from real ones where ../shared/data is present (simulated, see its README), and random vectors with
a falling spectrum elsewhere. Every search figure has its recall@10 beside it; figures are only comparable in a run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import sqlalchemy as sa
from sqlalchemy import orm

import mrl_pg.psycopg as mrl
from mrl_pg import Matryoshka, embedded
from mrl_pg.psycopg.run import Packed, PackedDumper
from mrl_pg.psycopg.search import _search_text
from mrl_pg.registry import choose_prefix
from mrl_pg.search import search_plan
from mrl_pg.sqlalchemy import MatryoshkaMixin, search, search_statement
from mrl_pg.vectors import prefixes, to_binary
from tests.conftest import FloatArray, vectors

DIMS, K, CANDIDATES = 256, 10, 100
MAKE_LARGE = Path(__file__).parents[3] / "shared" / "data" / "make_large.py"
SETTINGS = {"shared_buffers": "2GB", "maintenance_work_mem": "2GB", "max_wal_size": "16GB"}


def data(rows: int) -> tuple[str, FloatArray, FloatArray, Any]:
    """Returns (what it is, corpus (rows, 1536), queries (500, 1536), ids of the exact top 10 (500, 10))."""
    if MAKE_LARGE.exists():
        with tempfile.TemporaryDirectory() as directory:
            out = Path(directory) / "large.npz"
            subprocess.run([sys.executable, MAKE_LARGE, str(rows), out], check=True, stdout=subprocess.DEVNULL)
            made = np.load(out)
            return "simulated from text-embedding-3-small", made["corpus"], made["queries"], made["truth"][:, :K]
    corpus = vectors(rows + 500, 1536)
    corpus, queries = corpus[:rows], corpus[rows:]
    return "random, falling spectrum", corpus, queries, np.argsort(-(queries @ corpus.T), axis=1)[:, :K]


def load(conn: psycopg.Connection[Any], table: str, corpus: FloatArray) -> None:
    """Creates and fills a table, and adds the prefix, which no row has yet."""
    conn.execute(f"CREATE TABLE {table} (id bigint PRIMARY KEY, lang text, embedding vector(1536))")
    with conn.cursor().copy(f"COPY {table} (id, lang, embedding) FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["int8", "text", "bytea"])
        for n, row in enumerate(corpus):
            copy.write_row((n, "en", to_binary(row)))
    mrl.add_prefix(conn, table, dims=DIMS)
    conn.execute(f"VACUUM ANALYZE {table}")


def bench_backfill(conn: psycopg.Connection[Any], rows: int) -> dict[str, Any]:
    """Returns rows/s of one UPDATE and of the backfill, and the longest batch in ms."""
    conn.execute("CHECKPOINT")
    began = time.perf_counter()
    conn.execute("UPDATE one_update SET embedding_256 = mrl.prefix(embedding, 256, 'cosine')")
    one_update = rows / (time.perf_counter() - began)
    conn.execute("CHECKPOINT")
    ends: list[float] = []
    began = time.perf_counter()
    mrl.backfill(conn, "documents", on_progress=lambda _: ends.append(time.perf_counter()))
    batched = rows / (ends[-1] - began)
    return {
        "one_update_rows_per_s": round(one_update),
        "backfill_rows_per_s": round(batched),
        "ratio": round(batched / one_update, 2),
        "longest_batch_ms": round(max(np.diff(ends)) * 1e3, 1),
    }


def compare(
    queries: FloatArray, truth: Any, ways: dict[str, Callable[[FloatArray], list[int]]]
) -> list[dict[str, Any]]:
    """Returns p50 and p95 in ms and recall@10 of each way; the ways take turns on every query."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    hits = dict.fromkeys(ways, 0)
    for query in queries[:100]:
        for way in ways.values():
            way(query)
    for turn, (query, nearest) in enumerate(zip(queries, truth, strict=True)):
        order = list(ways) if turn % 2 else list(reversed(ways))
        for name in order:
            began = time.perf_counter()
            keys = ways[name](query)
            times[name].append(time.perf_counter() - began)
            hits[name] += len(set(keys) & set(nearest.tolist()))
    return [
        {
            "way": name,
            "p50_ms": round(statistics.median(times[name]) * 1e3, 3),
            "p95_ms": round(float(np.percentile(times[name], 95)) * 1e3, 3),
            "recall@10": round(hits[name] / truth.size, 4),
        }
        for name in ways
    ]


def bench_search(dsn: str, queries: FloatArray, truth: Any) -> dict[str, list[dict[str, Any]]]:
    """Returns the comparisons of each door with the same statement sent bare."""
    conn, bare = (psycopg.connect(dsn, autocommit=True) for _ in range(2))
    known = mrl.describe(conn, "documents")
    plan = search_plan(k=K, candidates=CANDIDATES)
    text = _search_text(known, (choose_prefix(known, None),), plan, ("lang",), ())

    def values(query: FloatArray) -> dict[str, Packed]:
        short = prefixes(query, DIMS, "cosine")
        return {"query": Packed(to_binary(query)), "prefix_0": Packed(to_binary(short))}

    bare.adapters.register_dumper(Packed, PackedDumper)
    compared = {
        "psycopg": compare(
            queries,
            truth,
            {
                "bare": lambda query: [row[3] for row in bare.execute(text, values(query)).fetchall()],
                "helper": lambda query: [hit.key for hit in mrl.search(conn, "documents", query, columns=["lang"])],
            },
        )
    }

    loop = asyncio.new_event_loop()
    run: Callable[[Awaitable[Any]], Any] = loop.run_until_complete
    aconn, abare = (run(psycopg.AsyncConnection.connect(dsn, autocommit=True)) for _ in range(2))
    abare.adapters.register_dumper(Packed, PackedDumper)

    async def bare_async(query: FloatArray) -> list[int]:
        cursor = await abare.execute(text, values(query))
        return [row[3] for row in await cursor.fetchall()]

    async def helper_async(query: FloatArray) -> list[int]:
        return [hit.key for hit in await mrl.search_async(aconn, "documents", query, columns=["lang"])]

    ways = {"bare": lambda query: run(bare_async(query)), "helper": lambda query: run(helper_async(query))}
    compared["psycopg async"] = compare(queries, truth, ways)
    for connection in (aconn, abare):
        run(connection.close())
    loop.close()

    class Document(MatryoshkaMixin, orm.declarative_base(metadata=sa.MetaData())):  # type: ignore[misc]
        __tablename__ = "documents"
        __matryoshka__ = (Matryoshka(full_dims=1536, dims=DIMS),)
        id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
        lang: orm.Mapped[str]

    pool = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    with orm.Session(pool) as one, orm.Session(pool) as other:
        ways = {
            "Select run bare": lambda query: [row[0].id for row in one.execute(search_statement(Document, query))],
            "search": lambda query: [hit.key for hit in search(other, Document, query)],
        }
        compared["SQLAlchemy session"] = compare(queries, truth, ways)

    compared["mrl.search"] = compare(
        queries,
        truth,
        {
            "bare": lambda query: [row[3] for row in bare.execute(text, values(query)).fetchall()],
            "mrl.search": lambda query: [
                row[0]
                for row in bare.execute(
                    "SELECT (hit).id, distance FROM mrl.search(NULL::documents, %s::vector)",
                    (Packed(to_binary(query)),),
                ).fetchall()
            ],
        },
    )
    return compared


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    kind, corpus, queries, truth = data(arguments.rows)
    with embedded.server(settings=SETTINGS) as dsn, psycopg.connect(dsn, autocommit=True) as conn:
        mrl.install(conn)
        for table in ("one_update", "documents"):
            load(conn, table, corpus)
        backfill = bench_backfill(conn, arguments.rows)
        conn.execute("DROP TABLE one_update")
        conn.execute("VACUUM ANALYZE documents")
        mrl.create_index(conn, "documents")
        compared = bench_search(dsn, queries, truth)
    if arguments.json:
        print(json.dumps({"rows": arguments.rows, "data": kind, "backfill": backfill, "search": compared}, indent=2))
        return
    print(f"{arguments.rows:,} rows × 1536 ({kind}), prefix {DIMS}, k {K}, candidates {CANDIDATES}\n")
    print("backfill")
    for name, value in backfill.items():
        print(f"  {name:<24}{value:>12,}")
    for door, ways in compared.items():
        print(f"\n{door}\n  {'':<18}{'p50 ms':>9}{'p95 ms':>9}{'recall@10':>11}{'over bare':>11}")
        for way in ways:
            over = way["p50_ms"] - ways[0]["p50_ms"]
            print(
                f"  {way['way']:<18}{way['p50_ms']:>9.3f}{way['p95_ms']:>9.3f}{way['recall@10']:>11.4f}{over:>+8.3f} ms"
            )


if __name__ == "__main__":
    main()
