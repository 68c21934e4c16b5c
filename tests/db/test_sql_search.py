"""mrl.search() and mrl.search_sql(): the right rows, clear refusals, and nothing left behind."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb

import mrl_pg.psycopg as mrl
from mrl_pg import embedded
from mrl_pg.vectors import to_text
from tests.conftest import Conn, FloatArray, database, vectors
from tests.db.conftest import FULL_DIMS, Prepared, lognormal

QUERY = vectors(1, FULL_DIMS, seed=7)[0]
QUERY_TEXT = to_text(QUERY)
FULL = 32
ROWS = [to_text(row) for row in vectors(40, FULL)]


@pytest.fixture(scope="module")
def module_dsn(server: str, template: str) -> Iterator[str]:
    yield from database(server, template)


@pytest.fixture
def tx(module_dsn: str) -> Iterator[Conn]:
    """A transaction that is rolled back: much cheaper than a database of one's own."""
    with psycopg.connect(module_dsn, autocommit=True) as conn, conn.transaction(force_rollback=True):
        yield conn


def make(conn: Conn, columns: str = "id int PRIMARY KEY", rows: int = 40, dims: int = 8) -> None:
    """Creates docs with an indexed prefix; its rows have an id from 1, and the vectors of ROWS."""
    conn.execute(f"CREATE TABLE docs ({columns}, embedding vector({FULL}))")
    conn.execute("SELECT mrl.add_prefix('public.docs', 'embedding', %s)", [dims])
    conn.cursor().executemany("INSERT INTO docs (id, embedding) VALUES (%s, %s)", list(enumerate(ROWS[:rows], start=1)))
    conn.execute("SELECT mrl.create_prefix_index('public.docs', %s, false)", [f"embedding_{dims}"])


def fails(conn: Conn, query: str, *values: Any) -> tuple[str, str | None]:
    """Returns the message and the hint of a statement that must fail."""
    with pytest.raises(psycopg.Error) as raised, conn.transaction():
        conn.execute(query, values or None)
    return str(raised.value.diag.message_primary), raised.value.diag.message_hint


def call(function: str = "search", target: str = "docs", query: str = ROWS[0], **arguments: Any) -> str:
    """Returns mrl.search(…) or mrl.search_sql(…) with its values as literals."""
    values = [
        sql.SQL("{} => {}").format(sql.SQL(name), Jsonb(value) if isinstance(value, dict) else sql.Literal(value))
        for name, value in arguments.items()
    ]
    given = sql.SQL(", ").join([sql.SQL(f"NULL::{target}"), sql.Literal(query), *values])
    return f"mrl.{function}({given.as_string()})"


def ids(conn: Conn, **arguments: Any) -> list[int]:
    """Returns the ids found by mrl.search(), after comparing them with what the text of mrl.search_sql() finds."""
    rows = conn.execute(f"SELECT (hit).id, distance, received FROM {call(**arguments)}").fetchall()
    ((text,),) = conn.execute(f"SELECT {call('search_sql', **arguments)}").fetchall()
    again = conn.execute(text)
    names = [column.name for column in again.description or ()]
    assert names[-2:] == ["distance", "received"]
    shown = [(row[names.index("id")], row[-2], row[-1]) for row in again]
    assert shown == rows
    return [row[0] for row in rows]


# Right rows ---------------------------------------------------------------------------------------------

EVERY_100TH = slice(0, None, 100)
# Corpus, arguments, and which rows of the corpus can be found.
SEARCHES: dict[str, tuple[str, dict[str, Any], slice]] = {
    "plain": ("plain", {"candidates": 400}, slice(None)),
    "k of 300": ("plain", {"k": 300, "candidates": 400, "options": {"ef_search": 1000}}, slice(0)),
    "one percent": ("plain", {"filter": {"lang": "de"}}, EVERY_100TH),
    "half deleted": ("half deleted", {"candidates": 400}, slice(0, None, 2)),
    "row-level security": ("row-level security", {}, EVERY_100TH),
    "l2": ("l2", {"candidates": 600}, slice(None)),
    "inner_product": ("inner_product", {"candidates": 600}, slice(None)),
    "halfvec": ("halfvec", {"candidates": 400}, slice(None)),
    "exact": ("plain", {"filter": {"lang": ["de", "fr"]}, "options": {"exact": True}}, EVERY_100TH),
    "nothing": ("plain", {"filter": {"lang": "fr"}}, slice(0, 0)),
    "empty": ("empty", {}, slice(0, 0)),
}


def truth(corpus: FloatArray, name: str, only: slice) -> list[int]:
    """The ids of the ten rows nearest to QUERY, by numpy."""
    rows = lognormal(corpus) if name in ("l2", "inner_product") else corpus
    distances = np.linalg.norm(rows - QUERY, axis=1) if name == "l2" else -(rows @ QUERY)
    found = np.arange(len(corpus))[only]
    return [int(n) for n in found[np.argsort(distances[found])][:10]]


@pytest.mark.parametrize("name", SEARCHES)
def test_function_text_psql_and_python_agree(pg: int, prepared: Prepared, corpus: FloatArray, name: str) -> None:
    corpus_name, arguments, only = SEARCHES[name]
    user = "german_reader" if name == "row-level security" else "postgres"
    dsn = make_conninfo(prepared(corpus_name), user=user)
    given = {"target": "documents", "query": QUERY_TEXT} | arguments
    with psycopg.connect(dsn, autocommit=True) as conn:
        found = ids(conn, **given)
        options = {key: value for key, value in arguments.items() if key != "options"} | arguments.get("options", {})
        python = mrl.search(conn, "documents", QUERY, **options)
    script = f"SELECT {call('search_sql', **given)} \\gexec\n SELECT (hit).id, received FROM {call(**given)};\n"
    done = subprocess.run(
        [embedded.bin_dir(pg) / "psql", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", dsn],
        input=script, text=True, capture_output=True, check=True,
    )  # fmt: skip
    lines = [line.split("|") for line in done.stdout.splitlines()]
    text, function = lines[: len(found)], lines[len(found) :]
    assert [int(line[0]) for line in text] == [int(line[0]) for line in function] == found
    assert [hit.key for hit in python] == found
    assert {int(line[-1]) for line in lines} <= {python.received}
    if name == "k of 300":
        assert (len(found), python.received) == (300, 400)
    else:
        assert found == truth(corpus, name, only)


# Where a filter keeps one percent, the planner may rightly do without.
@pytest.mark.parametrize("name", ["plain", "k of 300", "half deleted", "l2", "inner_product", "halfvec", "exact"])
def test_plans_use_the_prefix_index(prepared: Prepared, name: str) -> None:
    corpus_name, arguments, _ = SEARCHES[name]
    given = {"target": "documents", "query": QUERY_TEXT} | arguments
    with psycopg.connect(prepared(corpus_name)) as conn:
        ((text, index),) = conn.execute(f"SELECT {call('search_sql', **given)}, index FROM mrl.prefixes").fetchall()
        plan = "\n".join(row[0] for row in conn.execute(f"EXPLAIN {text}"))
        assert (f"Index Scan using {index}" in plan) == (name != "exact")
        # mrl.search() has its values bound, so its plan is another.
        for scans in range(1, 4):
            conn.execute(f"SELECT FROM {call(**given)}")
            counted = conn.execute("SELECT pg_stat_get_xact_numscans(%s::regclass)", [index]).fetchall()
            assert counted == [(0 if name == "exact" else scans,)]


def test_any_number_of_candidates(tx: Conn) -> None:
    make(tx)
    largest = 2**31 - 1
    every: list[dict[str, Any]] = [
        {"k": largest},
        {"k": 300_000_000},
        {"candidates": largest},
        {"options": {"max_scan_tuples": largest}},
    ]
    for arguments in every:
        assert ids(tx, **arguments)[0] == 1
    assert len(ids(tx, k=largest, candidates=largest)) == 40
    assert len(ids(tx, k=40, candidates=40, options={"ef_search": 1})) == 40


@pytest.mark.parametrize(
    ("columns", "key"),
    [
        ("id int PRIMARY KEY", "id"),
        ("id bigint, lang text DEFAULT 'en', PRIMARY KEY (lang, id)", "lang, id"),
        ("id int, u uuid DEFAULT gen_random_uuid() PRIMARY KEY", "u"),
        ("id int, distance text DEFAULT gen_random_uuid() PRIMARY KEY", "distance"),
        ("id int, received int, hit int UNIQUE, PRIMARY KEY (id) INCLUDE (received)", "id"),
        ("gone int, id int, more text, PRIMARY KEY (id)", "id"),
    ],
)
def test_keys(tx: Conn, columns: str, key: str) -> None:
    make(tx, columns)
    if "gone" in columns:
        tx.execute("ALTER TABLE docs DROP gone")
    assert ids(tx, k=1) == [1]
    assert sorted(ids(tx, k=40)) == list(range(1, 41))
    ((text,),) = tx.execute(f"SELECT {call('search_sql')}").fetchall()
    assert f"SELECT {key}, embedding\n" in text


def test_a_search_for_each_row_of_a_query(tx: Conn) -> None:
    make(tx)
    query = (
        "SELECT d.id, array_agg((s.hit).id ORDER BY s.distance) "
        "FROM docs d, mrl.search(NULL::docs, d.embedding, k => 2) s WHERE d.id <= 3 GROUP BY 1 ORDER BY 1"
    )
    rows = tx.execute(query).fetchall()
    assert [found[0] for _, found in rows] == [1, 2, 3]
    assert all(len(found) == 2 for _, found in rows)


# Which prefix -------------------------------------------------------------------------------------------


def test_the_oldest_prefix_with_an_index_serves(tx: Conn) -> None:
    make(tx, rows=5)
    for dims in (16, 4, 2):
        tx.execute("SELECT mrl.add_prefix('public.docs', 'embedding', %s)", [dims])

    def serving(**arguments: Any) -> str:
        ((text,),) = tx.execute(f"SELECT {call('search_sql', **arguments)}").fetchall()
        return str(text).split("ORDER BY ")[1].split(" OPERATOR")[0]

    assert serving() == "embedding_8"
    tx.execute("DROP INDEX docs_embedding_8_halfvec_cosine_ops_idx")
    for dims in (2, 4, 16):
        hint = f"Run: SELECT mrl.create_prefix_index('public.docs', 'embedding_{8 if dims == 2 else dims}') \\gexec"
        arguments = {} if dims == 2 else {"prefix": f"embedding_{dims}"}
        message = f"prefix embedding_{8 if dims == 2 else dims} of public.docs has no valid index"
        assert fails(tx, f"SELECT {call('search_sql', **arguments)}") == (message, hint)
        tx.execute("SELECT mrl.create_prefix_index('public.docs', %s, false)", [f"embedding_{dims}"])
        assert serving() == f"embedding_{dims}"
    assert serving(prefix="embedding_2") == "embedding_2"
    assert ids(tx, prefix="embedding_8", options={"exact": True}, k=1) == [1]


# Filters ------------------------------------------------------------------------------------------------

FILTER_COLUMNS = """
    id int PRIMARY KEY, lang text, year int, big bigint, ok boolean, u uuid, day date, at timestamptz, mood mood,
    doc jsonb, j json, num numeric(9, 4), dom shout, tags text[], c char(3), v varchar(3), bits bit(3), raw bytea,
    r int4range, f real, "Wei""rd %s" text
"""
FILTER_ROWS = """
    INSERT INTO docs (id, embedding, lang, year, big, ok, u, day, at, mood, doc, j, num, dom, tags, c, v, bits, raw, r,
                      f, "Wei""rd %s")
    SELECT n, array_fill(n::real, ARRAY[32])::vector,
        (ARRAY['en', 'fr', NULL, 'a,b', '{c}', 'NULL', '"q"', '', 'x'' OR true --', '\\', '$1', '%s', 'new
line', 'größe'])[n % 14 + 1],
        (ARRAY[2023, 2024, NULL])[n % 3 + 1], 9007199254740992 + n, (ARRAY[true, false, NULL])[n % 3 + 1],
        ('00000000-0000-0000-0000-0000000000' || to_char(n, 'FM00'))::uuid, date '2024-02-27' + n,
        timestamptz '2024-02-28 23:00:00+00' + n * interval '1 hour', (ARRAY['sad', 'ok', NULL])[n % 3 + 1]::mood,
        (ARRAY['{"a": [1, {"b": null}]}', '5', '"text"', '{"a": 1}', 'null', NULL])[n % 6 + 1]::jsonb, '{}', n / 8.0,
        (ARRAY['LOUD', NULL, 'A,B'])[n % 3 + 1]::shout, (ARRAY['{a,b}', '{}', NULL])[n % 3 + 1]::text[],
        (ARRAY['a', 'abc'])[n % 2 + 1], (ARRAY['abc', 'ab'])[n % 2 + 1], (ARRAY['101', '000'])[n % 2 + 1]::bit(3),
        (ARRAY['\\x00ff', '\\x'])[n % 2 + 1]::bytea, int4range(1, n + 1), n / 10.0::real, (ARRAY['%', NULL])[n % 2 + 1]
    FROM generate_series(1, 28) n
"""
# Filter → the condition it means.
FILTERS: list[tuple[dict[str, Any], str]] = [
    ({}, "true"),
    ({"lang": "en"}, "lang = 'en'"),
    ({"lang": None}, "lang IS NULL"),
    ({"lang": ["en", "fr"]}, "lang IN ('en', 'fr')"),
    ({"lang": ["en", None]}, "lang = 'en' OR lang IS NULL"),
    ({"lang": [None]}, "lang IS NULL"),
    ({"lang": []}, "false"),
    ({"lang": ["a,b", "{c}", "NULL", '"q"', ""]}, "lang IN ('a,b', '{c}', 'NULL', '\"q\"', '')"),
    ({"lang": ["x' OR true --", "\\", "$1", "%s", "new\nline", "größe"]}, "id % 14 >= 8"),
    ({"lang": "x' OR true --"}, "id % 14 = 8"),
    ({"lang": "\\"}, "id % 14 = 9"),
    ({"lang": "$1"}, "id % 14 = 10"),
    ({"lang": "new\nline"}, "id % 14 = 12"),
    ({"lang": "en", "year": [2023, 2024], "ok": False}, "lang = 'en' AND year IN (2023, 2024) AND NOT ok"),
    ({"year": 2024}, "year = 2024"),
    ({"year": "2024"}, "year = 2024"),
    ({"year": [2024, None]}, "year = 2024 OR year IS NULL"),
    ({"big": 9007199254740993}, "id = 1"),
    ({"ok": False}, "NOT ok"),
    ({"ok": [True, None]}, "ok IS NOT FALSE"),
    ({"u": "00000000-0000-0000-0000-000000000007"}, "id = 7"),
    ({"u": ["00000000-0000-0000-0000-000000000007", "{00000000-0000-0000-0000-000000000008}"]}, "id IN (7, 8)"),
    ({"day": "2024-02-29"}, "id = 2"),
    ({"day": ["2024-02-29", "20240301"]}, "id IN (2, 3)"),
    ({"at": "2024-02-29T01:00:00Z"}, "id = 2"),
    ({"mood": "ok"}, "mood = 'ok'"),
    ({"mood": ["ok", "sad", None]}, "true"),
    ({"doc": {"a": [1, {"b": None}]}}, "id % 6 = 0"),
    ({"doc": 5}, "id % 6 = 1"),
    ({"doc": '"text"'}, "id % 6 = 2"),
    ({"doc": [{"a": 1}, 5]}, "id % 6 IN (1, 3)"),
    ({"doc": None}, "id % 6 = 5"),
    ({"num": 1.0}, "id = 8"),
    ({"num": [0.125, "1.000", 3]}, "id IN (1, 8, 24)"),
    ({"dom": "LOUD"}, "id % 3 = 0"),
    ({"dom": ["LOUD", "A,B"]}, "id % 3 <> 1"),
    ({"tags": "{a,b}"}, "id % 3 = 0"),
    ({"tags": None}, "id % 3 = 2"),
    ({"c": "a"}, "id % 2 = 0"),
    ({"c": ["abc", "x"]}, "id % 2 = 1"),
    ({"v": "abc"}, "id % 2 = 0"),
    ({"v": "abcd"}, "false"),
    ({"bits": "101"}, "id % 2 = 0"),
    ({"raw": "\\x00ff"}, "id % 2 = 0"),
    ({"r": "[1,4)"}, "id = 3"),
    ({"f": 0.5}, "id = 5"),
    ({'Wei"rd %s': "%"}, "id % 2 = 0"),
    ({'Wei"rd %s': ["%", None]}, "true"),
    ({"embedding": to_text(np.full(FULL, 3, dtype=np.float32))}, "id = 3"),
]  # fmt: skip


def make_filtered(conn: Conn) -> None:
    conn.execute("CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN shout AS text CHECK (value = upper(value))")
    make(conn, FILTER_COLUMNS, rows=0)
    conn.execute(FILTER_ROWS)


def test_filters_mean_equality_any_of_and_is_null(tx: Conn) -> None:
    make_filtered(tx)
    for only, condition in FILTERS:
        wanted = [row[0] for row in tx.execute(f"SELECT id FROM docs WHERE {condition} ORDER BY 1")]
        assert sorted(ids(tx, k=50, filter=only)) == wanted, only
        assert sorted(ids(tx, k=50, filter=only, options={"exact": True})) == wanted, only
        assert len(wanted) > 0 or condition == "false", only


COLUMNS_HINT = (
    "Filter by one of: id, lang, year, big, ok, u, day, at, mood, doc, j, num, dom, tags, c, v, bits, raw, r, f, "
    '"Wei""rd %s", embedding, embedding_8.'
)
OBJECT_HINT = 'For example: filter => \'{"lang": "en"}\'.'
NESTED_HINT = "A value means equality, an array any of its elements, null IS NULL."
ARRAY_HINT = 'Give one value as a string, as in \'{"tags": "{a,b}"}\'.'


@pytest.mark.parametrize("function", ["search", "search_sql"])
def test_filters_that_are_refused(tx: Conn, function: str) -> None:
    make_filtered(tx)
    for only, expected in {
        "[]": ("filter must be a JSON object, not array", OBJECT_HINT),
        "null": ("filter must be a JSON object, not null", OBJECT_HINT),
        '"lang = 1"': ("filter must be a JSON object, not string", OBJECT_HINT),
        '{"nothing": 1}': ("column nothing of public.docs does not exist", COLUMNS_HINT),
        '{"Lang": "en"}': ('column "Lang" of public.docs does not exist', COLUMNS_HINT),
        '{"ctid": "(0,1)"}': ("column ctid of public.docs does not exist", COLUMNS_HINT),
        '{"lang\' OR true": 1}': ('column "lang\' OR true" of public.docs does not exist', COLUMNS_HINT),
        '{"lang": {"eq": "en"}}': ("filter on lang holds an object or a nested array", NESTED_HINT),
        '{"lang": [["en"]]}': ("filter on lang holds an object or a nested array", NESTED_HINT),
        '{"lang": ["en", {}]}': ("filter on lang holds an object or a nested array", NESTED_HINT),
        '{"j": {}}': ("filter on j holds an object or a nested array", NESTED_HINT),
        '{"tags": ["a"]}': ("filter on tags is an array, but text[] has no arrays", ARRAY_HINT),
    }.items():
        assert fails(tx, f"SELECT {call(function)[:-1]}, filter => %s)", only) == expected


def test_filter_values_that_postgres_refuses(tx: Conn) -> None:
    make_filtered(tx)
    for only, message in {
        '{"year": 7.0}': 'invalid input syntax for type integer: "7.0"',
        '{"year": [2024, 7.5]}': 'invalid input syntax for type integer: "7.5"',
        '{"year": "x"}': 'invalid input syntax for type integer: "x"',
        '{"year": true}': 'invalid input syntax for type integer: "true"',
        '{"mood": "angry"}': 'invalid input value for enum public.mood: "angry"',
        '{"dom": "quiet"}': 'value for domain public.shout violates check constraint "shout_check"',
        '{"doc": "text"}': "invalid input syntax for type json",
        '{"j": 1}': "operator does not exist: json = json",
    }.items():
        assert fails(tx, f"SELECT {call()[:-1]}, filter => %s)", only)[0] == message


# Refusals -----------------------------------------------------------------------------------------------

K_HINT = "k is the number of rows to return."
CANDIDATES_HINT = "Leave candidates out for the larger of 100 and 10 * k."
EF_HINT = "It may be below candidates: the scan goes on in steps of ef_search."
FULL_SIZE = "Embed the query with the model of the table, at full size."
NO_PREFIX = "It is too short, zero there, or too long for fp16: check how it was made."
ZERO = to_text(np.array([0] * 8 + [1] * (FULL - 8), dtype=np.float32))


@pytest.mark.parametrize("function", ["search", "search_sql"])
def test_what_cannot_be_searched(tx: Conn, function: str) -> None:
    make(tx, rows=3)
    tx.execute(
        "CREATE TABLE loose (id int PRIMARY KEY, embedding vector); SELECT mrl.add_prefix('loose', 'embedding', 8)"
    )
    tx.execute("SELECT mrl.create_prefix_index('loose', 'embedding_8', false)")
    tx.execute(f"CREATE TABLE keyless (embedding vector({FULL})); SELECT mrl.add_prefix('keyless', 'embedding', 8)")
    tx.execute(
        "SELECT mrl.create_prefix_index('keyless', 'embedding_8', false); CREATE TABLE bare (id int PRIMARY KEY)"
    )
    tx.execute(
        "CREATE TABLE wide (id int PRIMARY KEY, embedding vector(32));"
        "SELECT mrl.add_prefix('wide', 'embedding', 8, 'l2')"
    )
    tx.execute("SELECT mrl.create_prefix_index('wide', 'embedding_8', false)")
    cases: list[tuple[dict[str, Any], str, str | None]] = [
        ({"k": 0}, "k must be at least 1, not 0", K_HINT),
        ({"k": -5}, "k must be at least 1, not -5", K_HINT),
        ({"k": None}, "k must be at least 1, not NULL", K_HINT),
        ({"k": 20, "candidates": 19}, "candidates must be at least k = 20, not 19", CANDIDATES_HINT),
        ({"candidates": -1}, "candidates must be at least k = 10, not -1", CANDIDATES_HINT),
        ({"options": {"ef_search": 0}}, "ef_search must be between 1 and 1000, not 0", EF_HINT),
        ({"options": {"ef_search": 1001}}, "ef_search must be between 1 and 1000, not 1001", EF_HINT),
        ({"options": {"ef_search": "x"}}, 'invalid input syntax for type integer: "x"', None),
        ({"options": {"max_scan_tuples": 0}}, "max_scan_tuples must be at least 1, not 0",
         "Leave it out for the default."),
        ({"options": {"exact": "maybe"}}, 'invalid input syntax for type boolean: "maybe"', None),
        ({"options": {"probes": 3}}, "unknown option 'probes'",
         "Options are ef_search, max_scan_tuples, exact, rerank, stages, model, recall, record."),
        ({"options": '["exact"]'}, "options must be a JSON object, not array", "Leave options out for the defaults."),
        ({"options": "7"}, "options must be a JSON object, not number", "Leave options out for the defaults."),
        ({"prefix": "embedding_4"}, "public.docs has no prefix embedding_4", "It has: embedding_8."),
        ({"query": None}, "query must not be NULL", "Give the full embedding, for example '[0.1, 0.2, ...]'."),
        ({"query": "[1,2]"}, "query has 2 dimensions, embedding of public.docs has 32", FULL_SIZE),
        ({"query": ZERO}, "query has no prefix of 8 dimensions for cosine", NO_PREFIX),
        ({"query": ROWS[0].replace("[", "[70000,", 1).rpartition(",")[0] + "]", "target": "wide"},
         "query has no prefix of 8 dimensions for l2", NO_PREFIX),
        ({"query": "[1,2]", "target": "loose"}, "query has no prefix of 8 dimensions for cosine", NO_PREFIX),
        ({"target": "keyless"}, "public.keyless has no primary key",
         "Run: ALTER TABLE public.keyless ADD PRIMARY KEY (...);"),
        ({"target": "bare"}, "public.bare has no prefix",
         "Run: SELECT mrl.add_prefix('public.bare', 'embedding', 256);"),
        ({"target": "int"}, "target must be a row of a table, not integer",
         "For example: SELECT (hit).id, distance FROM mrl.search(NULL::documents, ...);"),
    ]  # fmt: skip
    for arguments, message, hint in cases:
        assert fails(tx, f"SELECT {call(function, **arguments)}") == (message, hint), arguments


def test_null_filter_and_options_are_the_defaults(tx: Conn) -> None:
    make(tx)
    assert ids(tx, k=3, filter=None, options=None, prefix=None, candidates=None) == ids(tx, k=3)


# Nothing left behind ------------------------------------------------------------------------------------

SETTINGS = ("hnsw.ef_search", "hnsw.iterative_scan", "hnsw.max_scan_tuples", "hnsw.scan_mem_multiplier")
OWN = dict(zip(SETTINGS, ("77", "strict_order", "1234", "3"), strict=True))


def shown(conn: Conn) -> dict[str, Any]:
    return {name: conn.execute(f"SHOW {name}").fetchall()[0][0] for name in SETTINGS}


@pytest.mark.parametrize("own", ["default", "session", "local"])
def test_a_transaction_that_goes_on_keeps_its_settings(dsn: str, own: str) -> None:
    with psycopg.connect(dsn) as conn:
        make(conn, "id int PRIMARY KEY, lang text DEFAULT 'en'")
        conn.execute(f"CREATE TABLE nobody (id int PRIMARY KEY, embedding vector({FULL}))")
        conn.execute(
            "SELECT mrl.add_prefix('nobody', 'embedding', 8), mrl.create_prefix_index('nobody', 'embedding_8', false)"
        )
        # Fails in the middle of stage one, after the settings have been changed.
        conn.execute(
            "ALTER TABLE docs ENABLE ROW LEVEL SECURITY; CREATE POLICY broken ON docs USING (10 / (id - 5) < 100);"
            f"CREATE ROLE broken_{conn.info.dbname}; GRANT SELECT ON docs, nobody TO broken_{conn.info.dbname}"
        )
        conn.commit()
        session = shown(conn)
        if own != "default":
            for name, value in OWN.items():
                conn.execute(f"SET {'LOCAL ' if own == 'local' else ''}{name} = {value}")
        before = shown(conn)
        assert before == (session if own == "default" else OWN)
        for arguments in ({}, {"filter": {"lang": "fr"}}, {"target": "nobody"}, {"options": {"exact": True}}):
            function = f"SELECT (hit).id FROM {call(**arguments)}"
            ((text,),) = conn.execute(f"SELECT {call('search_sql', **arguments)}").fetchall()
            for statement in (function, text):
                conn.execute(statement)
                assert shown(conn) == before, (arguments, statement)
        ((text,),) = conn.execute(f"SELECT {call('search_sql')}").fetchall()
        conn.execute(f"DECLARE found CURSOR FOR {text}")
        conn.execute("FETCH 1 FROM found")
        assert shown(conn) == before, "a cursor that is not read to its end"
        conn.execute("CLOSE found")
        conn.execute(f"SET LOCAL ROLE broken_{conn.info.dbname}")
        for statement in (f"SELECT FROM {call()}", text):
            with pytest.raises(psycopg.errors.DivisionByZero), conn.transaction():
                conn.execute(statement)
            assert shown(conn) == before
        conn.commit()
        assert shown(conn) == (OWN if own == "session" else session)


@pytest.mark.parametrize("mode", ["READ ONLY", "ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE"])
def test_read_only_transactions(prepared: Prepared, mode: str) -> None:
    with psycopg.connect(prepared("plain")) as conn:
        conn.execute(f"SET TRANSACTION {mode}")
        assert len(ids(conn, target="documents", query=QUERY_TEXT)) == 10


def test_settings_of_a_session_that_had_not_loaded_pgvector(prepared: Prepared) -> None:
    with psycopg.connect(prepared("plain")) as conn:
        ((text,),) = conn.execute(
            f"SELECT {call('search_sql', target='documents', query=QUERY_TEXT, k=120)}"
        ).fetchall()
    with psycopg.connect(prepared("plain")) as conn:
        assert len(conn.execute(text).fetchall()) == 120
        here = shown(conn)
    with psycopg.connect(prepared("plain")) as conn:
        conn.execute("SELECT '[1]'::vector")
        assert here == shown(conn)
