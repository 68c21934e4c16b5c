"""The demo: from an empty directory to measured searches, on the embedded server.

All of it goes through the public verbs. Only the one-stage search, which it is compared with, is SQL of its own.
"""

from __future__ import annotations

import platform
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal, TypeAlias

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector import HalfVector
from pgvector.psycopg import register_vector
from psycopg import sql
from psycopg.types.json import Jsonb
from typing_extensions import LiteralString

import mrl_pg.psycopg as mrl
from mrl_pg import SearchResult, __version__, embedded, migrate
from mrl_pg.demo import lsa, openai
from mrl_pg.demo.corpus import Entry, read_stdlib
from mrl_pg.errors import MrlError
from mrl_pg.install import install_files

Embedder = Literal["lsa", "openai"]
Conn: TypeAlias = psycopg.Connection[tuple[Any, ...]]
Search: TypeAlias = Callable[[NDArray[np.float32]], list[Any]]
Embed: TypeAlias = Callable[[Sequence[str]], NDArray[np.float32]]

TABLE = "stdlib"
FULL_DIMS: dict[Embedder, int] = {"lsa": 1024, "openai": openai.DIMS}
# The first comes with the migration, the second is added while the table is in use.
DIMS, MORE_DIMS = 256, 512
K, CANDIDATES, MORE_CANDIDATES = 10, 100, 300

BUILT_IN_QUERIES = (
    "compress bytes",
    "encode bytes as base64 text",
    "wait for several threads to finish",
    "run a command and capture its output",
    "compute the median of numbers",
)
MEASURED_QUERIES = 100

_FULL_INDEX = "stdlib_full_idx"
_READ_MARK = "SELECT obj_description(to_regclass(%s), 'pg_class')"
# One demo at a time sets up a directory.
_LOCK = 0x6D726C


@dataclass(frozen=True)
class Way:
    """A way to search and what it costs: recall@k of the exact answer, median seconds, bytes of its index."""

    name: str
    recall: float
    seconds: float
    index_bytes: int | None


@dataclass(frozen=True)
class Report:
    """What the demo has to show."""

    rows: int
    full_dims: int
    answers: list[tuple[str, SearchResult[dict[str, Any]]]]
    sql: str
    queries: int
    ways: list[Way]


def demo(
    query: str | None,
    *,
    directory: Path,
    embedder: Embedder = "lsa",
    fresh: bool = False,
    doing: Callable[[str], None] = lambda text: None,
    done: Callable[[str], None] = lambda text: None,
) -> Report:
    """Returns the answers to a query and the built-in ones, and what the ways to search cost.

    :param query: a question in plain words.
    :param directory: where server and model are kept for the next time.
    :param fresh: start over.
    :param doing: told what begins.
    :param done: told what was done.
    :raises MrlError: where a package or a key is missing, or no word of the query is known.
    """
    if embedder == "openai":
        openai.check_key()
    if (directory / "PG_VERSION").exists():
        raise MrlError(f"{directory} is the data of a server. Name the directory above it: --dir {directory.parent}")
    model = directory / "lsa.npz"
    doing("Starting PostgreSQL")
    with embedded.server(directory / embedder) as dsn, psycopg.connect(dsn, autocommit=True) as conn:
        done(f"PostgreSQL {_server_version(conn)} with pgvector, in {directory / embedder}")
        conn.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        # The last thing that the set-up leaves, so one that was stopped is done again.
        # The SQL is in it because it changes in a checkout, whose version stays.
        files = zlib.crc32(b"".join(path.read_bytes() for path in install_files(None)))
        mark = f"Standard library of Python {platform.python_version()}, mrl-pg {__version__}, SQL {files:08x}"
        if not fresh and _value(conn, _READ_MARK, _FULL_INDEX) == mark and (embedder == "openai" or model.exists()):
            done("Everything is there from the last time (--fresh starts over)")
        else:
            _set_up(conn, dsn, embedder, model, doing, done)
            conn.execute(sql.SQL("COMMENT ON INDEX {} IS {}").format(sql.Identifier(_FULL_INDEX), mark))
        conn.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))
        embed = openai.embed if embedder == "openai" else lsa.load(model).embed
        doing("Searching")
        register_vector(conn)
        return _report(conn, query, embed, FULL_DIMS[embedder], doing)


def _set_up(
    conn: Conn,
    dsn: str,
    embedder: Embedder,
    model: Path,
    doing: Callable[[str], None],
    done: Callable[[str], None],
) -> None:
    full_dims = FULL_DIMS[embedder]
    conn.execute("DROP SCHEMA IF EXISTS mrl CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public")

    doing("Reading the standard library")
    entries = read_stdlib()
    texts = [entry.text for entry in entries]
    done(f"{len(entries):,} documented functions, classes and methods read from the source of Python")

    doing("Embedding them")
    if embedder == "lsa":
        fitted = lsa.fit(texts, full_dims)
        fitted.save(model)
        embeddings = fitted.embed(texts)
    else:
        embeddings = openai.embed(texts)
    done(f"Embedded, {full_dims:,} dims each")

    doing("Migrating")
    migrate.upgrade(dsn, table=TABLE, full_dims=full_dims, dims=DIMS)
    done(f"Migrated: table {TABLE}, its prefix embedding_{DIMS}, the trigger that keeps it, the index")

    doing("Storing")
    register_vector(conn)
    _store(conn, entries, embeddings)
    done(f"Stored with COPY; the trigger has filled embedding_{DIMS}")

    doing("Adding a second prefix")
    prefix = mrl.add_prefix(conn, TABLE, dims=MORE_DIMS)
    begun = time.monotonic()
    filled = mrl.backfill(conn, TABLE, prefix=prefix).filled
    rate = filled / (time.monotonic() - begun)
    mrl.create_index(conn, TABLE, prefix=prefix)
    done(f"A second prefix, as on a table in use: {prefix} added, backfilled ({rate:,.0f} rows/s), indexed")

    doing("Building an index on whole embeddings")
    # As halfvec: half the size of an index on vector, and as good.
    conn.execute(
        sql.SQL("CREATE INDEX {} ON {} USING hnsw ((embedding::halfvec({})) halfvec_cosine_ops)").format(
            sql.Identifier(_FULL_INDEX), sql.Identifier(TABLE), full_dims
        )
    )
    conn.execute("VACUUM ANALYZE")
    done(f"For comparison, an index on all {full_dims:,} dims")


def _store(conn: Conn, entries: Iterable[Entry], embeddings: NDArray[np.float32]) -> None:
    copy_in = sql.SQL("COPY {} (title, body, metadata, embedding) FROM STDIN (FORMAT BINARY)")
    with conn.cursor().copy(copy_in.format(sql.Identifier(TABLE))) as copy:
        copy.set_types(["text", "text", "jsonb", "vector"])
        for entry, embedding in zip(entries, embeddings, strict=True):
            metadata = {"module": entry.module, "kind": entry.kind, "signature": entry.signature}
            copy.write_row((entry.qualified_name, entry.doc, Jsonb(metadata), embedding))


def _report(conn: Conn, query: str | None, embed: Embed, full_dims: int, doing: Callable[[str], None]) -> Report:
    questions = list(dict.fromkeys([*([query] if query else []), *BUILT_IN_QUERIES]))
    embedded_questions = embed(questions)
    if not embedded_questions[0].any():
        raise MrlError(
            f"none of the words of {query!r} occurs in the standard library's documentation, so nothing is near it. "
            f"Try others: mrl-pg demo {BUILT_IN_QUERIES[0]!r}"
        )
    answers = [
        (question, mrl.search(conn, TABLE, vector, k=K, columns=["title", "body"]))
        for question, vector in zip(questions, embedded_questions, strict=True)
    ]
    statement = mrl.search_sql(conn, TABLE, embedded_questions[0], k=K, columns=["title", "body"])

    doing(f"Measuring {MEASURED_QUERIES} searches four ways")
    # Paragraphs that the embeddings have not seen: they are made of names and summaries.
    paragraphs = conn.execute(
        "SELECT paragraph FROM stdlib, split_part(body, E'\\n\\n', 2) AS paragraph "
        "WHERE length(paragraph) BETWEEN 40 AND 400 ORDER BY md5(title) LIMIT %s",
        (MEASURED_QUERIES,),
    )
    vectors = embed([paragraph for (paragraph,) in paragraphs])
    vectors = vectors[vectors.any(axis=1)]
    sizes = {row["prefix"]: row["index_bytes"] for row in mrl.status(conn, TABLE)}
    full_size = _value(conn, "SELECT pg_relation_size(%s::regclass)", _FULL_INDEX)

    def two_stage(**options: Any) -> Search:
        return lambda vector: [hit.key for hit in mrl.search(conn, TABLE, vector, k=K, columns=["title"], **options)]

    conn.execute(sql.SQL("SET hnsw.ef_search = {}").format(CANDIDATES))
    one_stage_sql = sql.SQL(
        "SELECT id, title FROM {} ORDER BY embedding::halfvec({dims}) <=> %s::halfvec({dims}) LIMIT {k}"
    ).format(sql.Identifier(TABLE), dims=full_dims, k=K)

    def one_stage(vector: NDArray[np.float32]) -> list[Any]:
        return [key for key, _ in conn.execute(one_stage_sql, (HalfVector(vector),))]

    def by_prefix(dims: int, candidates: int) -> tuple[str, Search, int]:
        prefix = f"embedding_{dims}"
        name = f"two stages: first {dims}, {candidates} candidates"
        return name, two_stage(prefix=prefix, candidates=candidates), sizes[prefix]

    truth, exact_seconds = _measured(two_stage(exact=True), vectors)
    ways = [Way("exact, without an index", 1.0, exact_seconds, None)]
    for name, search, index_bytes in (
        (f"one stage: all {full_dims:,} dims, ef_search {CANDIDATES}", one_stage, full_size),
        by_prefix(MORE_DIMS, CANDIDATES),
        by_prefix(DIMS, CANDIDATES),
        by_prefix(DIMS, MORE_CANDIDATES),
    ):
        found, seconds = _measured(search, vectors)
        recall = fmean(len(set(a) & set(b)) / K for a, b in zip(truth, found, strict=True))
        ways.append(Way(name, recall, seconds, index_bytes))
    return Report(_value(conn, "SELECT count(*) FROM stdlib"), full_dims, answers, statement, len(vectors), ways)


def _measured(search: Search, vectors: NDArray[np.float32]) -> tuple[list[list[Any]], float]:
    """The keys that each search finds, and the median of the seconds they take."""
    found, seconds = [], []
    for vector in vectors:
        begun = time.perf_counter()
        found.append(search(vector))
        seconds.append(time.perf_counter() - begun)
    return found, median(seconds)


def _value(conn: Conn, statement: LiteralString, *values: str) -> Any:
    return (conn.execute(statement, values).fetchone() or [None])[0]


def _server_version(conn: Conn) -> str:
    version = conn.info.server_version
    return f"{version // 10_000}.{version % 10_000}"
