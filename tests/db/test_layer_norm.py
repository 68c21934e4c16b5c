"""The layer norm before the cut: as PyTorch has it, the same in SQL and numpy, kept, filled and never in the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from psycopg import sql

import mrl_pg.psycopg as mrl
from mrl_pg import SearchError
from mrl_pg.spec import DECLARED_KINDS, Distance, Kind, Prefix, prefix_name
from mrl_pg.vectors import layer_norm, prefixes_of, to_text
from tests.conftest import Conn, FloatArray, database, vectors

FULL, DIMS = 32, 8
COLUMN = f"embedding_ln{DIMS}"
ROWS = vectors(300, FULL) * 3 + np.float32(0.7)
CONSTANT = np.full(FULL, 0.1, np.float32)
# Kind, dims, column.
PREFIXES: list[tuple[Kind, int, str]] = [
    ("truncate", DIMS, COLUMN),
    ("binary", DIMS, f"embedding_lnbit{DIMS}"),
    ("half", FULL, f"embedding_lnhalf{FULL}"),
]


def reference(rows: FloatArray) -> npt.NDArray[np.float64]:
    """Returns what torch.nn.functional.layer_norm(rows, rows.shape[-1:]) documents, in float64."""
    rows64 = rows.astype(np.float64)
    mean = rows64.mean(axis=-1, keepdims=True)
    variance = ((rows64 - mean) ** 2).mean(axis=-1, keepdims=True)
    return np.asarray((rows64 - mean) / np.sqrt(variance + 1e-5))


def parsed(text: str) -> FloatArray:
    return np.array(json.loads(text), dtype=np.float32)


def in_sql(conn: Conn, rows: FloatArray, kind: str = "vector") -> list[FloatArray | None]:
    query = f"SELECT mrl.layer_norm(v::{kind})::text FROM unnest(%s::text[]) WITH ORDINALITY AS u (v, n) ORDER BY n"
    found = conn.execute(query, [[to_text(row) for row in rows]]).fetchall()
    return [None if text is None else parsed(text) for (text,) in found]


# The same everywhere ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def module_conn(server: str, template: str) -> Iterator[Conn]:
    for dsn in database(server, template):
        with psycopg.connect(dsn, autocommit=True) as conn:
            yield conn


@pytest.mark.parametrize("kind", ["vector", "halfvec"])
@pytest.mark.parametrize("dims", [2, 3, 768, 1536, 3072])
def test_sql_and_numpy_are_as_pytorch_has_it(module_conn: Conn, dims: int, kind: str) -> None:
    numbers = np.random.default_rng(dims)
    scales = [0.001, 1, 1_000] if kind == "halfvec" else [1e-20, 1e-3, 1, 1e5, 1e20]
    for scale in scales:
        for mean in (0, 0.1, 30):
            rows = ((numbers.standard_normal((20, dims)) + mean) * scale).astype(np.float32)
            if kind == "halfvec":
                rows = rows.astype(np.float16).astype(np.float32)
            expected = reference(rows)
            assert np.abs(layer_norm(rows) - expected).max() <= 1e-6 * np.abs(expected).max()
            for made, row in zip(in_sql(module_conn, rows, kind), expected, strict=True):
                assert made is not None
                # float32 has seven digits, and the mean may be thirty deviations away.
                assert np.abs(made - row).max() <= 1e-4 * np.abs(row).max()


def test_any_vector(module_conn: Conn) -> None:
    """Also the strangest has a layer norm, the same in SQL and numpy, or none in both; and nothing fails."""

    @settings(deadline=None, max_examples=1_000, database=None)
    @given(
        hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
    )
    @example(np.array([3e38, 3e38, -3e38], np.float32))
    @example(np.array([1e-45, 0, 0], np.float32))
    @example(np.array([1e-30, 1e-45, 0], np.float32))
    @example(np.array([1e20, -1e20, 1e-40], np.float32))
    @example(np.array([1e-3, -1e-3, 1e-45], np.float32))
    @example(np.array([1, 1.0000001, 1], np.float32))
    @example(np.array([1, 1.0001, 1], np.float32))
    @example(np.array([16777216, 1, 0], np.float32))
    @example(np.zeros(5, np.float32))
    @example(np.full(40, 0.1, np.float32))
    def same(row: FloatArray) -> None:
        (made,) = in_sql(module_conn, row[None])
        ours = layer_norm(row)
        assert (made is None) == (not ours.any())
        if made is not None:
            assert np.abs(made - ours).max() <= 1e-4 * np.abs(ours).max()
            assert np.abs(ours - reference(row)).max() <= 1e-6 * np.abs(ours).max()

    same()


def test_a_constant_is_known_in_spite_of_rounding(module_conn: Conn) -> None:
    rows = [
        np.full(dims, value, np.float32) for dims in (3, 768, 1536, 16_000) for value in (0.1, 1 / 3, -7.7, 1e-20, 9e9)
    ]
    for row in rows:
        assert in_sql(module_conn, row[None]) == [None]
        assert not layer_norm(row).any()
        # What stands out by a hundredth is no rounding.
        row[0] *= np.float32(1.01)
        (made,) = in_sql(module_conn, row[None])
        assert made is not None
        assert np.abs(made - reference(row)).max() <= 1e-3 * np.abs(reference(row)).max()


def test_names_are_those_of_python(module_conn: Conn) -> None:
    for embedding in ("embedding", "é" * 31, "x" * 63, 'we"ird'):
        for kind in DECLARED_KINDS:
            for normed in (True, False):
                (name,) = (
                    module_conn.execute(
                        "SELECT mrl.prefix_name(%s, %s, 256, NULL, %s)", (embedding, kind, normed)
                    ).fetchone()
                    or ()
                )
                assert name == prefix_name(embedding, 256, kind, layer_norm=normed)
    (name,) = module_conn.execute("SELECT mrl.prefix_name('embedding', 'rotate', 128, 3, false)").fetchone() or ()
    assert name == "embedding_rot128_v3"


# Kept -------------------------------------------------------------------------------------------------


def make(conn: Conn, embedding: str = f"vector({FULL})", **options: Any) -> None:
    conn.execute(f"CREATE TABLE docs (id int PRIMARY KEY, embedding {embedding})")
    for kind, dims, column in PREFIXES:
        assert mrl.add_prefix(conn, "docs", dims=dims, kind=kind, layer_norm=True, **options) == column


def copy_in(conn: Conn, rows: FloatArray) -> None:
    with conn.cursor().copy("COPY docs (id, embedding) FROM STDIN") as copy:
        for n, row in enumerate(rows):
            copy.write_row((n, to_text(row)))


def check(conn: Conn) -> list[int]:
    """Returns the ids of the rows without prefixes, after comparing those of the others with numpy's."""
    without = set()
    for prefix in mrl.describe(conn, "docs").prefixes:
        assert prefix.layer_norm
        query = sql.SQL("SELECT id, embedding::text, {}::text FROM docs").format(sql.Identifier(prefix.prefix))
        for key, embedding, stored in conn.execute(query).fetchall():
            if stored is None:
                without.add(key)
                continue
            row = parsed(embedding)
            made = prefixes_of(row, prefix)
            if prefix.kind == "binary":
                assert stored == to_text(made)
            else:
                kept = made.astype(np.float32)
                assert np.abs(parsed(stored) - kept).max() <= 1e-3 * max(1.0, float(np.abs(kept).max()))
                cut = reference(row)[: prefix.dims]
                directed = cut / np.linalg.norm(cut) if prefix.distance == "cosine" else cut
                assert np.abs(kept - directed).max() <= 1e-3 * max(1.0, float(np.abs(cut).max()))
    return sorted(without)


@pytest.mark.parametrize("distance", get_args(Distance))
@pytest.mark.parametrize("kind", ["vector", "halfvec"])
def test_trigger_and_backfill_and_numpy_agree(conn: Conn, kind: str, distance: Any) -> None:
    conn.execute(f"CREATE TABLE docs (id int PRIMARY KEY, embedding {kind}({FULL}))")
    rows = np.concatenate([ROWS, [CONSTANT, np.zeros(FULL, np.float32)]])
    copy_in(conn, rows)
    for kind_, dims, _ in PREFIXES:
        mrl.add_prefix(conn, "docs", dims=dims, kind=kind_, layer_norm=True, distance=distance)
    for _, _, column in PREFIXES:
        progress = mrl.backfill(conn, "docs", prefix=column, batch_size=70)
        assert (progress.total, progress.filled, progress.impossible_keys) == (302, 300, [300, 301])
    assert check(conn) == [300, 301]
    filled = conn.execute("SELECT d::text FROM docs d ORDER BY id").fetchall()
    columns = ", ".join(f"{column} = NULL" for _, _, column in PREFIXES)
    conn.execute(
        f"ALTER TABLE docs DISABLE TRIGGER USER; UPDATE docs SET {columns}; ALTER TABLE docs ENABLE TRIGGER USER"
    )
    conn.execute("UPDATE docs SET embedding = embedding")
    assert conn.execute("SELECT d::text FROM docs d ORDER BY id").fetchall() == filled


def test_every_write_leaves_the_right_prefixes(conn: Conn) -> None:
    make(conn)
    insert = "INSERT INTO docs (id, embedding) VALUES (%s, %s)"
    for n, row in enumerate([*ROWS[:4], CONSTANT, np.zeros(FULL, np.float32)]):
        conn.execute(insert, (n, to_text(row)))
    conn.execute("INSERT INTO docs VALUES (6, NULL)")
    conn.execute(
        f"INSERT INTO docs (id, embedding, {COLUMN}) VALUES (7, %s, %s), (8, %s, %s)",
        (to_text(ROWS[7]), to_text(ROWS[7][:DIMS]), to_text(CONSTANT), to_text(ROWS[7][:DIMS])),
    )
    assert check(conn) == [4, 5, 6, 8]
    conn.execute("UPDATE docs SET embedding = %s WHERE id IN (0, 4)", [to_text(ROWS[8])])
    conn.execute("UPDATE docs SET embedding = %s WHERE id = 1", [to_text(CONSTANT)])
    conn.execute(f"UPDATE docs SET {COLUMN} = NULL WHERE id = 2")
    conn.execute("UPDATE docs SET embedding = NULL WHERE id = 3")
    assert check(conn) == [1, 3, 5, 6, 8]
    for status in mrl.status(conn):
        assert [status[name] for name in ("layer_norm", "rows", "missing", "impossible")] == [True, 7, 3, 3]


def test_a_right_prefix_costs_no_call_of_the_trigger(conn: Conn) -> None:
    conn.execute(f"CREATE TABLE docs (id int PRIMARY KEY, embedding vector({FULL}))")
    conn.execute("INSERT INTO docs VALUES (1, %s)", [to_text(ROWS[0])])
    for kind, dims, _ in PREFIXES:
        mrl.add_prefix(conn, "docs", dims=dims, kind=kind, layer_norm=True)
    conn.execute(
        "CREATE OR REPLACE FUNCTION mrl.maintain_prefix() RETURNS trigger LANGUAGE plpgsql "
        "AS $$ BEGIN RAISE 'called'; END $$"
    )
    for _, _, column in PREFIXES:
        assert mrl.backfill(conn, "docs", prefix=column).filled == 1
    conn.execute("UPDATE docs SET embedding = embedding")
    conn.execute("INSERT INTO docs VALUES (2, NULL)")
    with pytest.raises(psycopg.errors.RaiseException, match="called"):
        conn.execute("INSERT INTO docs VALUES (3, %s)", [to_text(ROWS[1])])
    with pytest.raises(psycopg.errors.RaiseException, match="called"):
        conn.execute("UPDATE docs SET embedding = %s", [to_text(ROWS[1])])


def test_no_write_fails(conn: Conn) -> None:
    make(conn, "vector", distance="l2")
    strange = np.array([[3e38, 3e38, -3e38], [1e20, -1e20, 1e-40], [1e-3, -1e-3, 1e-45], [1e-45, 0, 0]], np.float32)
    for n, row in enumerate(strange):
        conn.execute("INSERT INTO docs VALUES (%s, %s)", (n, to_text(np.resize(row, FULL))))
        conn.execute("INSERT INTO docs VALUES (%s, %s)", (n + 10, to_text(row)))
        conn.execute("UPDATE docs SET embedding = %s WHERE id = %s", (to_text(np.resize(row[::-1], FULL)), n))
    there = conn.execute(f"SELECT id, {COLUMN} IS NOT NULL FROM docs WHERE id < 10 ORDER BY id").fetchall()
    assert there == [(0, False), (1, True), (2, True), (3, False)]
    assert conn.execute(f"SELECT count({COLUMN}) FROM docs WHERE id >= 10").fetchall() == [(0,)]


def test_roles_and_pgvector_out_of_sight(bare_dsn: str) -> None:
    """Who writes needs rights on the table alone, and not even USAGE on the schema of pgvector."""
    with psycopg.connect(bare_dsn, autocommit=True) as conn:
        conn.execute("CREATE SCHEMA hidden; CREATE EXTENSION vector SCHEMA hidden; SET search_path = public, hidden")
        mrl.install(conn)
        make(conn)
        copy_in(conn, ROWS[:20])
        mrl.create_index(conn, "docs", prefix=COLUMN)
        role = sql.Identifier(f"writer_of_{conn.info.dbname}")
        conn.execute(sql.SQL("CREATE ROLE {0}; GRANT SELECT, INSERT, UPDATE ON docs TO {0}; SET ROLE {0}").format(role))
        conn.execute("SET search_path = public")
        conn.execute("INSERT INTO docs (id, embedding) SELECT 1000, embedding FROM docs WHERE id = 1")
        conn.execute("UPDATE docs SET embedding = (SELECT embedding FROM docs WHERE id = 2) WHERE id = 1000")
        conn.execute("RESET ROLE; SET search_path = public, hidden")
        assert check(conn) == []
        conn.execute(sql.SQL("GRANT USAGE ON SCHEMA hidden TO {0}; SET ROLE {0}").format(role))
        assert {hit.key for hit in mrl.search(conn, "docs", ROWS[2], k=2)} == {2, 1000}
        found = "SELECT (hit).id FROM mrl.search(NULL::docs, %s, k => 2)"
        assert {row[0] for row in conn.execute(found, [to_text(ROWS[2])])} == {2, 1000}


# Told and refused -------------------------------------------------------------------------------------


def test_the_registry_tells(conn: Conn) -> None:
    make(conn, model="nomic-embed-text-v1.5")
    mrl.add_prefix(conn, "docs", dims=DIMS)
    arguments = "SELECT tgargs, p.id::text FROM pg_trigger JOIN mrl.prefixes p ON p.prefix = %s WHERE tgname = %s"
    ((given, identity),) = conn.execute(arguments, [COLUMN, f"zz_mrl_{COLUMN}"]).fetchall()
    assert given == f"truncate\0008\0cosine\0nomic-embed-text-v1.5\0\0layer_norm\0{identity}\0".encode()
    told = conn.execute("SELECT prefix, kind, layer_norm FROM mrl.prefixes ORDER BY position").fetchall()
    assert told == [(column, kind, True) for kind, _, column in PREFIXES] + [(f"embedding_{DIMS}", "truncate", False)]
    # Of a later version, say.
    conn.execute(
        f"CREATE TRIGGER zz_other BEFORE INSERT OR UPDATE OF embedding, embedding_{DIMS} ON docs FOR EACH ROW "
        "EXECUTE FUNCTION mrl.maintain_prefix('truncate', '8', 'cosine', '', '', 'upside_down', "
        "'9b2f8a52-6f0d-4a0e-8f5e-0d7a3c9d1e11')"
    )
    assert conn.execute("SELECT count(*) FROM mrl.prefixes").fetchall() == [(4,)]
    # The name is not what is believed.
    conn.execute(
        f"ALTER TABLE docs RENAME embedding_{DIMS} TO plain; ALTER TABLE docs RENAME {COLUMN} TO embedding_{DIMS}"
    )
    with pytest.raises(psycopg.errors.DuplicateObject, match="exists as 8 dims of embedding for cosine"):
        mrl.add_prefix(conn, "docs", dims=DIMS, model="nomic-embed-text-v1.5")


def test_queries_without_a_layer_norm(conn: Conn) -> None:
    make(conn)
    copy_in(conn, ROWS[:20])
    mrl.create_index(conn, "docs", prefix=COLUMN)
    with pytest.raises(SearchError, match="has no layer norm: its 32 dimensions are all the same, or out of range"):
        mrl.search(conn, "docs", CONSTANT, prefix=COLUMN)
    even = np.zeros(FULL)
    even[-2:] = 1, -1
    with pytest.raises(
        SearchError, match="the first 8 dimensions of the layer norm of the query are zero, and cosine has"
    ):
        mrl.search(conn, "docs", even, prefix=COLUMN)
    for query in (CONSTANT, even):
        with pytest.raises(
            psycopg.errors.InvalidParameterValue, match="query has no prefix of 8 dimensions for cosine"
        ):
            conn.execute("SELECT * FROM mrl.search(NULL::docs, %s, prefix => %s)", [to_text(query), COLUMN])


def test_rotations_have_none(conn: Conn) -> None:
    conn.execute(f"CREATE TABLE docs (id int PRIMARY KEY, embedding vector({FULL}))")
    copy_in(conn, ROWS)
    mrl.rotate(conn, "docs", dims=DIMS)
    (prefix,) = mrl.describe(conn, "docs").prefixes
    assert prefix == Prefix(
        embedding="embedding", prefix="embedding_rot8_v1", dims=DIMS, distance="cosine", full_dims=FULL, kind="rotate",
        basis=prefix.basis,
    )  # fmt: skip
    options = json.dumps({"kind": "rotate", "basis": prefix.basis, "layer_norm": True})
    with pytest.raises(
        psycopg.errors.InvalidParameterValue, match="a rotation keeps the distances of the full vectors"
    ):
        conn.execute("SELECT mrl.add_prefix('docs', 'embedding', %s, options => %s)", [DIMS, options])
