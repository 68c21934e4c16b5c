"""The registry: what mrl.prefixes and mrl.status tell, and whatever a DBA may do to a table with prefixes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.types.json import Jsonb

import mrl_pg.psycopg as mrl
from mrl_pg import embedded, spec
from mrl_pg.vectors import to_text
from tests.conftest import Conn, database, vectors

FULL, DIMS = 32, 8
ROWS = [to_text(row) for row in vectors(4, FULL)]
INDEX = "docs_embedding_8_halfvec_cosine_ops_idx"
# On tables of users.
OURS = (
    "FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid "
    "WHERE NOT tgisinternal AND c.relnamespace <> 'mrl'::regnamespace"
)
REGISTRY = "SELECT target::text, embedding, prefix, index::text FROM mrl.prefixes ORDER BY 1, position"


@pytest.fixture(scope="module")
def module_dsn(server: str, template: str) -> Iterator[str]:
    yield from database(server, template)


@pytest.fixture
def tx(module_dsn: str) -> Iterator[Conn]:
    """A transaction that is rolled back: much cheaper than a database of one's own."""
    with psycopg.connect(module_dsn, autocommit=True) as conn, conn.transaction(force_rollback=True):
        yield conn


def make(conn: Conn, index: bool = True) -> None:
    """Creates docs with two rows and a prefix."""
    conn.execute(f"CREATE TABLE docs (id int PRIMARY KEY, title text, embedding vector({FULL}))")
    conn.execute("SELECT mrl.add_prefix('public.docs', 'embedding', %s)", [DIMS])
    conn.execute("INSERT INTO docs VALUES (1, 'a', %s), (2, 'b', %s)", ROWS[:2])
    if index:
        conn.execute("SELECT mrl.create_prefix_index('public.docs', 'embedding_8', false)")


def one(conn: Conn, query: str, *values: Any) -> tuple[Any, ...]:
    (row,) = conn.execute(query, values or None).fetchall()
    return tuple(row)


def fails(conn: Conn, query: str, *values: Any) -> tuple[str, str | None]:
    """Returns the message and the hint of a statement that must fail, and changes nothing."""
    with pytest.raises(psycopg.Error) as raised, conn.transaction():
        conn.execute(query, values or None)
    return str(raised.value.diag.message_primary), raised.value.diag.message_hint


# What is told -------------------------------------------------------------------------------------------


def test_several_embeddings_with_several_prefixes(tx: Conn) -> None:
    tx.execute(f"CREATE TABLE docs (id int PRIMARY KEY, title_vec halfvec({FULL}), body_vec vector)")
    tx.execute("INSERT INTO docs VALUES (1, %s, %s)", (ROWS[0], ROWS[1]))
    tx.execute("SELECT mrl.add_prefix('public.docs', 'body_vec', 16, 'l2', 'model b')")
    tx.execute("SELECT mrl.add_prefix('public.docs', 'title_vec', 8, 'inner_product', 'model a')")
    tx.execute("SELECT mrl.add_prefix('public.docs', 'body_vec', 4)")
    tx.execute("INSERT INTO docs VALUES (2, %s, %s), (3, NULL, '[1,2,3]'), (4, NULL, NULL)", (ROWS[0], ROWS[1]))
    tx.execute("SELECT mrl.create_prefix_index('public.docs', 'title_vec_8', false)")
    index = "docs_title_vec_8_halfvec_ip_ops_idx"
    columns = "prefix, embedding, kind, dims, distance, model, full_dims, embedding_type, index::text, maintained"
    told = [
        ("body_vec_16", "body_vec", "truncate", 16, "l2", "model b", None, "vector", None, True),
        ("title_vec_8", "title_vec", "truncate", 8, "inner_product", "model a", FULL, "halfvec", index, True),
        ("body_vec_4", "body_vec", "truncate", 4, "cosine", "model b", None, "vector", None, True),
    ]
    assert tx.execute(f"SELECT {columns} FROM mrl.prefixes ORDER BY position").fetchall() == told
    counts = f"SELECT {columns}, rows, missing, impossible, index_bytes IS NULL FROM mrl.status"
    assert sorted(tx.execute(counts).fetchall()) == sorted(
        row + count for row, count in zip(told, [(3, 2, 1, True), (2, 1, 0, False), (3, 2, 1, True)], strict=True)
    )


def test_status_looks_for_the_impossible_up_to_a_limit(tx: Conn) -> None:
    tx.execute("CREATE TABLE docs (id int PRIMARY KEY, embedding vector(4))")
    tx.execute("INSERT INTO docs SELECT n, CASE WHEN n % 2 = 0 THEN '[0,0,0,1]' ELSE '[1,0,0,0]' END::vector "
               "FROM generate_series(1, 10001) n")  # fmt: skip
    tx.execute("SELECT mrl.add_prefix('public.docs', 'embedding', 2)")
    counts = "SELECT rows, missing, impossible FROM mrl.status"
    assert one(tx, counts) == (10001, 10001, None)
    tx.execute("DELETE FROM docs WHERE id = 1")
    assert one(tx, counts) == (10000, 10000, 5000)


def test_status_is_null_for_what_the_caller_may_not_read(dsn: str, conn: Conn) -> None:
    conn.execute("CREATE SCHEMA closed")
    for table in ("public.readable", "public.docs", "closed.docs", "public.half"):
        conn.execute(
            f"CREATE TABLE {table} (id int PRIMARY KEY, embedding vector(4));"
            f"INSERT INTO {table} VALUES (1, '[1,2,3,4]')"
        )
        conn.execute("SELECT mrl.add_prefix(%s, 'embedding', 2)", [table])
    role = f"reader_of_{conn.info.dbname}"
    conn.execute(
        f"CREATE ROLE {role}; GRANT SELECT ON readable, closed.docs TO {role};"
        f"GRANT SELECT (id, embedding) ON half TO {role}"
    )
    counts = "SELECT target::text, rows, missing FROM mrl.status ORDER BY 1"
    hidden = [("closed.docs", None, None), ("docs", None, None), ("half", None, None)]
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("CREATE TEMP TABLE mine (id int PRIMARY KEY, embedding vector(4))")
        other.execute("SELECT mrl.add_prefix('mine', 'embedding', 2)")
        other.execute("INSERT INTO mine VALUES (1, '[1,2,3,4]')")
        assert ("mine", 1, 0) in other.execute(counts).fetchall()
        # A superuser may read it all, but not the temporary table of another session.
        readable = {row[1:] for row in conn.execute(counts) if not row[0].startswith("pg_temp")}
        assert readable == {(1, 1)}
        assert one(conn, "SELECT rows FROM mrl.status WHERE target::text LIKE 'pg_temp%'") == (None,)
        conn.execute(f"SET ROLE {role}")
        seen = [row for row in conn.execute(counts).fetchall() if not row[0].startswith("pg_temp")]
        assert seen == [*hidden, ("readable", 1, 1)]


@pytest.mark.parametrize(
    ("ddl", "counts"),
    [
        ("CREATE INDEX made ON docs USING hnsw (embedding_8 halfvec_cosine_ops)", True),
        ("CREATE INDEX made ON docs USING hnsw (embedding_8 halfvec_cosine_ops) WITH (m = 4)", True),
        ("CREATE INDEX made ON docs USING hnsw (embedding_8 halfvec_l2_ops)", False),
        ("CREATE INDEX made ON docs USING hnsw (embedding_8 halfvec_cosine_ops) WHERE id > 1", False),
        ("CREATE INDEX made ON docs USING hnsw ((l2_normalize(embedding_8)::halfvec(8)) halfvec_cosine_ops)", False),
        ("CREATE INDEX made ON docs USING hnsw (embedding vector_cosine_ops)", False),
        ("CREATE INDEX made ON docs USING ivfflat (embedding_8 halfvec_cosine_ops) WITH (lists = 1)", False),
        ("CREATE INDEX made ON docs (embedding_8)", False),
    ],
)
def test_which_index_counts(tx: Conn, ddl: str, counts: bool) -> None:
    make(tx, index=False)
    tx.execute(ddl)
    assert one(tx, "SELECT index::text, index_bytes > 0 FROM mrl.status") == (
        ("made", True) if counts else (None, None)
    )
    search = "SELECT (hit).id FROM mrl.search(NULL::docs, %s, k => 1)"
    if counts:
        assert one(tx, search, ROWS[1]) == (2,)
    else:
        assert fails(tx, search, ROWS[1])[0] == "prefix embedding_8 of public.docs has no valid index"


def test_an_invalid_index_does_not_count(dsn: str, conn: Conn) -> None:
    make(conn, index=False)
    with psycopg.connect(dsn) as writer:
        writer.execute("INSERT INTO docs VALUES (3, 'c', NULL)")
        conn.execute("SET lock_timeout = '50ms'")
        (statement,) = one(conn, "SELECT mrl.create_prefix_index('public.docs', 'embedding_8')")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            conn.execute(statement)
    assert one(conn, "SELECT indisvalid FROM pg_index WHERE indexrelid = %s::regclass", INDEX) == (False,)
    assert one(conn, "SELECT index, index_bytes FROM mrl.status") == (None, None)
    conn.execute(f"DROP INDEX {INDEX}")
    conn.execute(statement)
    assert one(conn, "SELECT index::text FROM mrl.status") == (INDEX,)


STRANGE = "BEFORE UPDATE OF embedding, other ON strange FOR EACH ROW EXECUTE FUNCTION mrl.maintain_prefix"


@pytest.mark.parametrize(
    "trigger",
    [
        "BEFORE INSERT ON strange FOR EACH ROW EXECUTE FUNCTION mrl.maintain_prefix()",
        f"{STRANGE}('a')",
        f"{STRANGE}('truncate', 'dims', 'cosine', '')",
        f"{STRANGE}('truncate', '4', 'cosine', '')",
        f"{STRANGE}('truncate', '4', 'cosine', '', '')",
        f"{STRANGE}('truncate', '4', 'cosine', '', '', '')",
        f"{STRANGE}('half', '4', 'cosine', '', '', 'layer_norm')",
        f"{STRANGE}('quarter', '4', 'cosine', '', '', '')",
        f"{STRANGE}('binary', '4', 'cosine', '', '', '')",
        f"{STRANGE}('truncate', '4', 'cosine', '', '', '', 'no id')",
        f"{STRANGE}('half', '4', 'cosine', '', '', 'layer_norm', '9b2f8a52-6f0d-4a0e-8f5e-0d7a3c9d1e11')",
        f"{STRANGE}('quarter', '4', 'cosine', '', '', '', '9b2f8a52-6f0d-4a0e-8f5e-0d7a3c9d1e11')",
        f"{STRANGE}('binary', '4', 'cosine', '', '', '', '9b2f8a52-6f0d-4a0e-8f5e-0d7a3c9d1e11')",
    ],
)
def test_a_trigger_written_by_hand_breaks_the_registry_for_nobody(tx: Conn, trigger: str) -> None:
    """Nor does it make others run a function of its author, here as a cast to vector."""
    make(tx)
    tx.execute(
        "CREATE TYPE trap AS (a int);"
        "CREATE FUNCTION spring(trap) RETURNS vector LANGUAGE plpgsql AS $$ BEGIN RAISE 'it runs as you'; END $$;"
        "CREATE CAST (trap AS vector) WITH FUNCTION spring(trap) AS IMPLICIT;"
        "CREATE TABLE strange (embedding trap, other trap); INSERT INTO strange VALUES (ROW(1), NULL);"
        f"CREATE TRIGGER strange {trigger}"
    )
    assert tx.execute("SELECT target::text, rows, missing, dims FROM mrl.status").fetchall() == [("docs", 2, 0, DIMS)]
    tx.execute("DROP TABLE strange; CREATE TABLE strange (embedding vector(32), other halfvec(4))")
    tx.execute(f"CREATE TRIGGER strange {trigger}")
    assert one(tx, "SELECT rows, missing, dims FROM mrl.status WHERE target = 'docs'::regclass") == (2, 0, DIMS)
    assert tx.execute("SELECT * FROM mrl.status").fetchall()


def test_row_level_security_hides_counts_and_is_not_run_for_them(tx: Conn) -> None:
    make(tx)
    tx.execute(
        "CREATE FUNCTION spring() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'it runs as you'; END $$;"
        "ALTER TABLE docs ENABLE ROW LEVEL SECURITY; CREATE POLICY trap ON docs USING (spring());"
        "CREATE ROLE watcher; GRANT SELECT ON docs TO watcher"
    )
    assert one(tx, "SELECT rows, missing FROM mrl.status") == (2, 0)
    tx.execute("SET LOCAL ROLE watcher")
    assert one(tx, "SELECT prefix, rows, missing FROM mrl.status") == ("embedding_8", None, None)


# PostgreSQL text holds anything but the zero character.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


def test_any_model_name(tx: Conn) -> None:
    make(tx, index=False)

    @settings(deadline=None, max_examples=60, database=None)
    @given(TEXT)
    @example('it\'s "quoted"')
    @example("back\\slash\\")
    @example("a\\000b\\\\000\\134")
    @example("new\nline\ttab\r")
    @example("größe 模型 🙂")
    @example("\x01\x7f")
    @example("")
    def round_trip(model: str) -> None:
        with tx.transaction(force_rollback=True):
            for _ in range(2):
                assert one(tx, "SELECT mrl.add_prefix('public.docs', 'embedding', 4, 'l2', %s)", model) == (
                    "embedding_4",
                )
            assert one(tx, "SELECT model FROM mrl.prefixes WHERE dims = 4") == (model,)

    round_trip()


def test_a_database_in_another_encoding(server: str, bare_dsn: str) -> None:
    name = sql.Identifier(f"{psycopg.conninfo.conninfo_to_dict(bare_dsn)['dbname']}_latin1")
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING latin1 LOCALE 'C'").format(name))
        with psycopg.connect(server, dbname=name.as_string().strip('"'), autocommit=True) as conn:
            mrl.install(conn)
            conn.execute(f'CREATE TABLE docs (id int PRIMARY KEY, "größe" vector({FULL}))')
            mrl.add_prefix(conn, "docs", "größe", dims=DIMS, model="modèle \\000")
            assert one(conn, "SELECT prefix, model FROM mrl.prefixes") == ("größe_8", "modèle \\000")
            assert one(conn, "SELECT mrl.shorten(%s)", "é" * 70) == (spec.shorten("é" * 70),)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


# Names --------------------------------------------------------------------------------------------------

NAMES = [
    'we"ird; drop table x',
    "Mixed Case",
    "select",
    "new",
    "größe 模型",
    "%s %1$I",
    "it's",
    "back\\slash",
    "a.b",
    "$1",
    "x" * 63,
    "é" * 31,
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_all_kinds(pg: int, dsn: str, conn: Conn, name: str) -> None:
    """As schema, table, embedding and key at once."""
    identifier = sql.Identifier(name)
    prefix = spec.prefix_name(name, DIMS)
    statement = sql.SQL(
        "CREATE SCHEMA {0};"
        f"CREATE TABLE {{0}}.{{0}} (id int, {{1}} text, {{0}} vector({FULL}), PRIMARY KEY (id, {{1}}))"
    )
    conn.execute(statement.format(identifier, sql.Identifier(f"k{name[1:]}")))
    target = one(conn, "SELECT format('%%I.%%I', %s::text, %s::text)", name, name)[0]
    assert one(conn, "SELECT mrl.add_prefix(%s, %s, %s)", target, name, DIMS) == (prefix,)
    insert = sql.SQL("INSERT INTO {0}.{0} VALUES (1, 'a', {1}), (2, 'b', {2})")
    conn.execute(insert.format(identifier, *ROWS[:2]))
    gexec = sql.SQL("SELECT mrl.create_prefix_index({}, {}) \\gexec\n").format(target, prefix).as_string(conn)
    done = subprocess.run(
        [embedded.bin_dir(pg) / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", dsn],
        input=gexec,
        text=True,
        capture_output=True,
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == (
        "NOTICE:  to be run outside a transaction\nHINT:  In psql, end the call with \\gexec instead of a semicolon.\n"
    )
    assert one(conn, "SELECT relname FROM mrl.prefixes JOIN pg_class c ON c.oid = index") == (
        spec.index_name(name, prefix, "cosine"),
    )
    search = sql.SQL("SELECT (hit).id FROM mrl.search(NULL::{0}.{0}, {1}, k => 1, filter => {2})")
    only = Jsonb({f"k{name[1:]}": ["b", name]})
    assert conn.execute(search.format(identifier, ROWS[1], only)).fetchall() == [(2,)]
    assert [hit.key for hit in mrl.search(conn, (name, name), vectors(4, FULL)[0], k=1)] == [(1, "a")]
    mrl.drop_prefix(conn, (name, name), prefix)
    columns = "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
    assert [row[0] for row in conn.execute(columns, [target])] == ["id", f"k{name[1:]}", name]
    assert one(conn, f"SELECT count(*) {OURS}") == (0,)


def test_names_are_cut_as_in_python(tx: Conn) -> None:
    @settings(deadline=None, max_examples=300, database=None)
    @given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=90))
    @example("a" * 63)
    @example("a" * 64)
    @example("é" * 32)
    @example("a" + "é" * 40)
    @example("🙂" * 20)
    def same(name: str) -> None:
        (short,) = one(tx, "SELECT mrl.shorten(%s)", name)
        assert short == spec.shorten(name)
        assert len(short.encode()) <= 63

    same()


@pytest.mark.parametrize("concurrently", [True, False])
@pytest.mark.parametrize(("m", "ef_construction"), [(None, None), (8, None), (None, 100), (16, 64), (24, 200)])
def test_an_index_is_named_after_what_it_is(
    tx: Conn, m: int | None, ef_construction: int | None, concurrently: bool
) -> None:
    make(tx, index=False)
    options = {key: value for key, value in (("m", m), ("ef_construction", ef_construction)) if value is not None}
    call = "SELECT mrl.create_prefix_index('public.docs', 'embedding_8', %s, %s)"
    (statement,) = one(tx, call, concurrently, Jsonb(options))
    name = spec.index_name("docs", "embedding_8", "cosine", m=m or 16, ef_construction=ef_construction or 64)
    storage = f" WITH (m = {m or 16}, ef_construction = {ef_construction or 64})" if name != INDEX else ""
    assert statement == (
        f"CREATE INDEX {'CONCURRENTLY ' if concurrently else ''}{name} ON public.docs "
        f"USING hnsw (embedding_8 public.halfvec_cosine_ops){storage}"
    )
    assert one(tx, "SELECT index::text FROM mrl.prefixes") == (None if concurrently else name,)


# Adding and dropping ------------------------------------------------------------------------------------


def test_adding_again_changes_nothing(tx: Conn) -> None:
    make(tx)
    ours = f"SELECT t.xmin, tgname {OURS}"
    before = one(tx, ours)
    assert one(tx, "SELECT mrl.add_prefix('public.docs', 'embedding', 8, model => '')") == ("embedding_8",)
    assert one(tx, ours) == before


def test_the_model_is_that_of_the_other_prefixes_of_the_embedding(tx: Conn) -> None:
    tx.execute("CREATE TABLE docs (id int PRIMARY KEY, embedding vector(32), other vector(32))")
    add = "SELECT mrl.add_prefix('public.docs', {}, {}, model => {})"
    models = "SELECT json_object_agg(prefix, model) FROM mrl.prefixes"
    tx.execute(add.format("'embedding'", 4, "NULL"))
    tx.execute(add.format("'embedding'", 8, "'acme/m'"))
    for model in ("NULL", "''", "'m'"):
        dims = 16 if model == "'m'" else 12
        for _ in range(2):
            assert one(tx, add.format("'embedding'", dims, model)) == (f"embedding_{dims}",)
    tx.execute(add.format("'other'", 8, "NULL"))
    # What is there stays as it is, added again with the model or without.
    for dims in (4, 8):
        assert one(tx, add.format("'embedding'", dims, "NULL")) == (f"embedding_{dims}",)
    told = {"embedding_4": "", "embedding_8": "acme/m", "embedding_12": "acme/m", "embedding_16": "m", "other_8": ""}
    assert one(tx, models) == (told,)
    tx.execute("SELECT mrl.drop_prefix('public.docs', 'embedding_8')")
    message, _ = fails(tx, add.format("'embedding'", 20, "'n'"))
    assert message == "embedding of public.docs holds embeddings of acme/m, and those of n do not compare with them"


NAME_IT = "Name the column that holds the full embeddings."
EXISTS = "prefix embedding_8 of public.docs exists as 8 dims of embedding for cosine (model 'm''1')"
BOUNDS = "HNSW takes at most 4,000 halfvec dimensions."
BINARY = '\'{"kind": "binary"}\''
HALF = '\'{"kind": "half"}\''
LEAVE_OUT = "Kind half keeps the whole embedding: leave dims out (NULL)."
NO_LENGTH = "column free of public.docs fixes no length, so dims must be given"
GIVE = "Give dims as the length of the embeddings."
UNLESS = "Leave it out unless the documentation of the model asks for it."
RENAME = "Rename or drop it first."
DEFAULTS = "Leave options out for the defaults."
REPLACE = "To change it, run: SELECT mrl.drop_prefix('public.docs', 'embedding_8');"


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ("'embedding', 8, 'l2'", EXISTS, REPLACE),
        ("'embedding', 8, model => 'm2'", EXISTS, REPLACE),
        ("'nothing', 8", "column nothing of public.docs does not exist", NAME_IT),
        ("'Nothing', 8", 'column "Nothing" of public.docs does not exist', NAME_IT),
        ("'gone', 8", "column gone of public.docs does not exist", NAME_IT),
        ("'ctid', 8", "column ctid of public.docs does not exist", NAME_IT),
        ("NULL, 8", "column <NULL> of public.docs does not exist", NAME_IT),
        ("'title', 8", "column title of public.docs is text, not vector or halfvec", NAME_IT),
        ("'sparse', 8", "column sparse of public.docs is sparsevec, not vector or halfvec", NAME_IT),
        ("'own', 8", "column own of public.docs is own_vector, not vector or halfvec", NAME_IT),
        ("'embedding', 0", "dims must be between 1 and 4000, not 0", BOUNDS),
        ("'embedding', -8", "dims must be between 1 and 4000, not -8", BOUNDS),
        ("'embedding', NULL", "dims must be between 1 and 4000, not NULL", BOUNDS),
        ("'free', 4001", "dims must be between 1 and 4000, not 4001", BOUNDS),
        ("'embedding', 32", "dims must be below the 32 dimensions of embedding, not 32",
         "A prefix is shorter than its embedding."),
        ("'embedding', 4, 'manhattan'", "unknown distance 'manhattan'", "Use cosine, l2 or inner_product."),
        ("'embedding', 4, NULL", "unknown distance NULL", "Use cosine, l2 or inner_product."),
        ("'embedding', 4, options => '{\"z\": 1, \"a''b\": 1}'", "unknown option 'a''b'",
         "Options are kind, basis, layer_norm."),
        ("'embedding', 4, options => '{\"kind\": \"x\"}'", "unknown kind 'x'", "Use truncate, binary, half or rotate."),
        (f"'embedding', 8, options => {HALF}", "dims must be the 32 dimensions of embedding, not 8", LEAVE_OUT),
        (f"'embedding', 33, options => {HALF}", "dims must be the 32 dimensions of embedding, not 33", LEAVE_OUT),
        (f"'large', options => {HALF}", "dims must be between 1 and 4000, not 4001", BOUNDS),
        (f"'free', 4001, options => {HALF}", "dims must be between 1 and 4000, not 4001", BOUNDS),
        (f"'free', options => {HALF}", NO_LENGTH, GIVE),
        (f"'free', NULL, options => {BINARY}", NO_LENGTH, GIVE),
        ("'embedding', options => '{\"layer_norm\": true}'", "dims must be between 1 and 4000, not NULL", BOUNDS),
        ("'embedding', 4, options => '{\"layer_norm\": \"x\"}'", 'layer_norm must be true or false, not "x"', UNLESS),
        ("'embedding', 4, options => '{\"layer_norm\": 1}'", "layer_norm must be true or false, not 1", UNLESS),
        ("'embedding', 4, options => '{\"layer_norm\": null}'", "layer_norm must be true or false, not null", UNLESS),
        ("'embedding', 4, options => '{\"kind\": \"rotate\", \"layer_norm\": true}'",
         "kind rotate takes no layer_norm: a rotation keeps the distances of the full vectors, there is nothing to cut",
         "Leave layer_norm out."),
        (f"'embedding', 33, options => {BINARY}", "dims must be at most the 32 dimensions of embedding, not 33",
         "A binary prefix has the signs of some dimensions, or of all."),
        (f"'free', 16001, options => {BINARY}", "dims must be between 1 and 16000, not 16001",
         "A vector has at most 16,000 dimensions."),
        (f"'embedding', 9, options => {BINARY}", "column embedding_bit9 of public.docs exists as bit(8), not bit(9)",
          RENAME),
        ("'embedding', 4, options => '[]'", "options must be a JSON object, not array", DEFAULTS),
        ("'embedding', 5", "column embedding_5 of public.docs exists as text, not public.halfvec(5)",
          RENAME),
        ("'embedding', 6", "column embedding_6 of public.docs exists as public.halfvec(7), not public.halfvec(6)",
          RENAME),
        ("'embedding', 7", "column embedding_7 of public.docs exists as public.vector(7), not public.halfvec(7)",
          RENAME),
    ],
)  # fmt: skip
def test_what_cannot_be_added(tx: Conn, arguments: str, message: str, hint: str) -> None:
    tx.execute(
        "CREATE DOMAIN own_vector AS vector(32);"
        "CREATE TABLE docs (id int, title text, gone vector(32), free vector, large vector(4001), "
        "sparse sparsevec(32), own own_vector, embedding vector(32), embedding_5 text, embedding_6 halfvec(7), "
        "embedding_7 vector(7), embedding_bit9 bit(8));"
        "ALTER TABLE docs DROP gone; SELECT mrl.add_prefix('public.docs', 'embedding', 8, model => 'm''1')"
    )
    assert fails(tx, f"SELECT mrl.add_prefix('public.docs', {arguments})") == (message, hint)
    assert one(tx, "SELECT prefix FROM mrl.prefixes") == ("embedding_8",)


def test_a_column_of_the_right_type_is_taken_over(tx: Conn) -> None:
    tx.execute(f"CREATE TABLE docs (id int PRIMARY KEY, embedding vector({FULL}), embedding_8 halfvec(8))")
    tx.execute("INSERT INTO docs VALUES (1, %s)", [ROWS[0]])
    tx.execute("SELECT mrl.add_prefix('public.docs', 'embedding', 8)")
    tx.execute("INSERT INTO docs VALUES (2, %s)", [ROWS[0]])
    assert one(tx, "SELECT rows, missing FROM mrl.status") == (2, 1)


def test_what_is_no_table_is_refused(tx: Conn) -> None:
    make(tx)
    tx.execute("CREATE VIEW seen AS SELECT * FROM docs; CREATE MATERIALIZED VIEW kept AS SELECT * FROM docs")
    for target in ("seen", "kept"):
        assert "cannot be performed on relation" in fails(tx, "SELECT mrl.add_prefix(%s, 'embedding', 4)", target)[0]
    assert fails(tx, "SELECT mrl.add_prefix('nowhere', 'embedding', 4)")[0] == 'relation "nowhere" does not exist'


def test_dropping_takes_one_prefix_and_its_index(tx: Conn) -> None:
    make(tx)
    tx.execute("SELECT mrl.add_prefix('public.docs', 'embedding', 4)")
    tx.execute("SELECT mrl.create_prefix_index('public.docs', 'embedding_4', false)")
    tx.execute("ALTER TABLE docs RENAME embedding_4 TO short")
    tx.execute("SELECT mrl.drop_prefix('public.docs', 'short')")
    assert tx.execute(REGISTRY).fetchall() == [("docs", "embedding", "embedding_8", INDEX)]
    assert one(tx, "SELECT to_regclass('docs_embedding_4_halfvec_cosine_ops_idx')") == (None,)
    tx.execute("INSERT INTO docs VALUES (3, 'c', %s)", [ROWS[2]])
    assert one(tx, "SELECT mrl.add_prefix('public.docs', 'embedding', 4)") == ("embedding_4",)


def test_what_depends_on_the_prefix_stops_its_removal(tx: Conn) -> None:
    make(tx)
    tx.execute("CREATE VIEW seen AS SELECT embedding_8 FROM docs")
    message = "cannot drop column embedding_8 of table public.docs because other objects depend on it"
    assert fails(tx, "SELECT mrl.drop_prefix('public.docs', 'embedding_8')")[0] == message
    assert tx.execute(REGISTRY).fetchall() == [("docs", "embedding", "embedding_8", INDEX)]


CREATE = "mrl.create_prefix_index('public.docs', 'embedding_8'"
NULL_PREFIX = ("prefix must not be NULL", "Name the column: SELECT target, prefix FROM mrl.prefixes;")


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("mrl.drop_prefix('public.docs', 'embedding')",
         ("public.docs has no prefix embedding", "It has: embedding_8.")),
        ("mrl.drop_prefix('public.docs', NULL)", NULL_PREFIX),
        ("mrl.drop_prefix('public.bare', 'x')",
         ("public.bare has no prefix", "Run: SELECT mrl.add_prefix('public.bare', 'embedding', 256);")),
        ("mrl.create_prefix_index('public.docs', 'x')", ("public.docs has no prefix x", "It has: embedding_8.")),
        ("mrl.create_prefix_index('public.docs', NULL)", NULL_PREFIX),
        (f"{CREATE}, options => '{{\"lists\": 1}}')", ("unknown option 'lists'", "Options are m, ef_construction.")),
        (f"{CREATE}, options => '7')", ("options must be a JSON object, not number", DEFAULTS)),
        (f"{CREATE}, options => '{{\"m\": 1.5}}')", ('invalid input syntax for type integer: "1.5"', None)),
        (f"{CREATE}, false, '{{\"m\": 1}}')", ('value 1 out of bounds for option "m"', None)),
        (f"{CREATE}, false)", (f'relation "{INDEX}" already exists', None)),
        ("mrl.create_prefix_index('public.parts', 'embedding_8')", (
            "PostgreSQL cannot build an index on partitioned table public.parts concurrently",
            "Writes wait while this runs: SELECT mrl.create_prefix_index('public.parts', 'embedding_8', false);",
        )),
    ],
)  # fmt: skip
def test_what_cannot_be_dropped_or_indexed(tx: Conn, call: str, expected: tuple[str, str | None]) -> None:
    make(tx)
    tx.execute("CREATE TABLE bare (id int); CREATE TABLE parts (id int, embedding vector(32)) PARTITION BY HASH (id)")
    tx.execute("SELECT mrl.add_prefix('public.parts', 'embedding', 8)")
    before = tx.execute(REGISTRY).fetchall()
    assert fails(tx, f"SELECT {call}") == expected
    assert tx.execute(REGISTRY).fetchall() == before


# What a DBA may do to the table -------------------------------------------------------------------------

# DDL → what the registry tells of docs; None where it must forget it.
CHANGES: dict[str, tuple[str, str, str, str | None] | None] = {
    "ALTER TABLE docs RENAME TO papers": ("papers", "embedding", "embedding_8", INDEX),
    "CREATE SCHEMA app; ALTER TABLE docs SET SCHEMA app": ("app.docs", "embedding", "embedding_8", f"app.{INDEX}"),
    'CREATE SCHEMA app; ALTER TABLE docs SET SCHEMA app; ALTER SCHEMA app RENAME TO "a.b"': (
        '"a.b".docs', "embedding", "embedding_8", f'"a.b".{INDEX}'
    ),
    "ALTER TABLE docs RENAME embedding TO vec": ("docs", "vec", "embedding_8", INDEX),
    "ALTER TABLE docs RENAME embedding_8 TO short": ("docs", "embedding", "short", INDEX),
    "ALTER TABLE docs RENAME embedding TO swap; ALTER TABLE docs RENAME embedding_8 TO embedding; "
    "ALTER TABLE docs RENAME swap TO embedding_8": ("docs", "embedding_8", "embedding", INDEX),
    f"ALTER INDEX {INDEX} RENAME TO renamed": ("docs", "embedding", "embedding_8", "renamed"),
    "ALTER TRIGGER zz_mrl_embedding_8 ON docs RENAME TO zzz": ("docs", "embedding", "embedding_8", INDEX),
    "ALTER TABLE docs DROP title": ("docs", "embedding", "embedding_8", INDEX),
    "ALTER TABLE docs ADD more text DEFAULT 'x', DROP title": ("docs", "embedding", "embedding_8", INDEX),
    "ALTER TABLE docs ALTER id TYPE bigint, ALTER title TYPE varchar(9)": ("docs", "embedding", "embedding_8", INDEX),
    "ALTER TABLE docs ALTER embedding SET STORAGE PLAIN, ALTER embedding_8 SET NOT NULL": (
        "docs", "embedding", "embedding_8", INDEX
    ),
    "CREATE ROLE app_owner; GRANT CREATE ON SCHEMA public TO app_owner; ALTER TABLE docs OWNER TO app_owner": (
        "docs", "embedding", "embedding_8", INDEX
    ),
    "ALTER TABLE docs SET UNLOGGED": ("docs", "embedding", "embedding_8", INDEX),
    "CLUSTER docs USING docs_pkey": ("docs", "embedding", "embedding_8", INDEX),
    "TRUNCATE docs": ("docs", "embedding", "embedding_8", INDEX),
    "ALTER TABLE docs ADD CONSTRAINT same CHECK (mrl.is_stale(embedding_8, embedding, 8, 'cosine') = false)": (
        "docs", "embedding", "embedding_8", INDEX
    ),
    f"DROP INDEX {INDEX}": ("docs", "embedding", "embedding_8", None),
    "ALTER TABLE docs DROP embedding CASCADE": None,
    "ALTER TABLE docs DROP embedding_8 CASCADE": None,
    "ALTER TABLE docs DROP embedding CASCADE, DROP embedding_8 CASCADE": None,
    "DROP TRIGGER zz_mrl_embedding_8 ON docs": None,
}  # fmt: skip


@pytest.mark.parametrize("ddl", CHANGES)
def test_writes_go_on_and_the_registry_follows(tx: Conn, ddl: str) -> None:
    make(tx)
    oid = one(tx, "SELECT 'docs'::regclass::oid")[0]
    tx.execute(ddl)
    told = CHANGES[ddl]
    assert tx.execute(REGISTRY).fetchall() == ([] if told is None else [told])
    table = one(tx, "SELECT %s::regclass::text", oid)[0]
    columns = [row[0] for row in tx.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped", [oid]
    )]  # fmt: skip
    embedding = told[1] if told else "embedding"
    if embedding in columns:
        tx.execute(f"INSERT INTO {table} (id, {embedding}) VALUES (3, %s)", [ROWS[2]])
        tx.execute(f"UPDATE {table} SET {embedding} = %s WHERE id = 1", [ROWS[3]])
    else:
        tx.execute(f"INSERT INTO {table} (id) VALUES (3)")
    if "title" in columns:
        tx.execute(f"UPDATE {table} SET title = 'new'")
    tx.execute(f"DELETE FROM {table} WHERE id = 2")
    if told is None:
        return
    assert one(tx, f"SELECT count(*) FROM {table} WHERE mrl.is_stale({told[2]}, {embedding}, {DIMS}, 'cosine')") == (0,)
    search = f"SELECT (hit).id FROM mrl.search(NULL::{table}, %s, k => 1)"
    if told[3] is None:
        assert fails(tx, search, ROWS[2])[0] == "prefix embedding_8 of public.docs has no valid index"
        tx.execute("SELECT mrl.create_prefix_index('public.docs', 'embedding_8', false)")
    assert one(tx, search, ROWS[2]) == (3,)


BECAUSE = "because other objects depend on it"
ALTER_TYPE = "cannot alter type of a column used in a trigger definition"


@pytest.mark.parametrize(
    ("ddl", "message"),
    [
        ("ALTER TABLE docs DROP embedding", f"cannot drop column embedding of table docs {BECAUSE}"),
        ("ALTER TABLE docs DROP embedding_8", f"cannot drop column embedding_8 of table docs {BECAUSE}"),
        ("ALTER TABLE docs ALTER embedding TYPE halfvec(32)", ALTER_TYPE),
        ("ALTER TABLE docs ALTER embedding_8 TYPE halfvec(4)", ALTER_TYPE),
        ("DROP FUNCTION mrl.maintain_prefix()", f"cannot drop function mrl.maintain_prefix() {BECAUSE}"),
        ("DROP FUNCTION mrl.prefix(vector, int, text)",
         f"cannot drop function mrl.prefix(vector,integer,text) {BECAUSE}"),
    ],
)  # fmt: skip
def test_what_postgres_refuses_for_the_sake_of_the_trigger(tx: Conn, ddl: str, message: str) -> None:
    make(tx)
    assert fails(tx, ddl)[0] == message
    tx.execute("INSERT INTO docs VALUES (3, 'c', %s)", [ROWS[2]])
    assert one(tx, "SELECT rows, missing FROM mrl.status") == (3, 0)


def test_from_vector_to_halfvec(conn: Conn) -> None:
    """The prefix is dropped first, and comes back by a backfill."""
    make(conn)
    mrl.drop_prefix(conn, "docs", "embedding_8")
    conn.execute(f"ALTER TABLE docs ALTER embedding TYPE halfvec({FULL})")
    mrl.add_prefix(conn, "docs", dims=DIMS)
    assert mrl.backfill(conn, "docs").filled == 2
    conn.execute("SELECT mrl.create_prefix_index('public.docs', 'embedding_8', false)")
    assert one(conn, "SELECT embedding_type, full_dims FROM mrl.prefixes") == ("halfvec", FULL)
    assert one(conn, "SELECT (hit).id FROM mrl.search(NULL::docs, %s, k => 1)", ROWS[1]) == (2,)


def test_a_copy_of_the_table_is_none_of_ours_until_it_is_added(tx: Conn) -> None:
    make(tx)
    tx.execute("CREATE TABLE copied (LIKE docs INCLUDING ALL); CREATE TABLE selected AS SELECT * FROM docs")
    tx.execute("INSERT INTO copied (id, embedding) VALUES (7, %s)", [ROWS[0]])
    tx.execute("INSERT INTO selected (id, embedding) VALUES (7, %s)", [ROWS[0]])
    assert [row[0] for row in tx.execute(REGISTRY)] == ["docs"]
    tx.execute("SELECT mrl.add_prefix('copied', 'embedding', 8)")
    tx.execute("INSERT INTO copied (id, embedding) VALUES (8, %s)", [ROWS[1]])
    index = one(tx, "SELECT index::text FROM mrl.prefixes WHERE target = 'copied'::regclass")[0]
    assert index == "copied_embedding_8_idx", "that of LIKE serves"
    assert one(tx, "SELECT rows, missing FROM mrl.status WHERE target = 'copied'::regclass") == (2, 1)
    assert one(tx, "SELECT (hit).id FROM mrl.search(NULL::copied, %s, k => 1)", ROWS[1]) == (8,)


def test_dropping_the_table_leaves_nothing(tx: Conn) -> None:
    make(tx)
    tx.execute("DROP TABLE docs")
    assert tx.execute("SELECT * FROM mrl.status").fetchall() == []


def test_everything_goes_on_after_pgvector_has_moved(conn: Conn) -> None:
    make(conn)
    conn.execute("CREATE SCHEMA ext; ALTER EXTENSION vector SET SCHEMA ext; SET search_path = public, ext")
    conn.execute("INSERT INTO docs VALUES (3, 'c', %s)", [ROWS[2]])
    assert one(conn, "SELECT rows, missing FROM mrl.status") == (3, 0)
    assert one(conn, "SELECT (hit).id FROM mrl.search(NULL::docs, %s, k => 1)", ROWS[2]) == (3,)
    assert one(conn, "SELECT mrl.add_prefix('public.docs', 'embedding', 4)") == ("embedding_4",)
