"""A database from nothing to search and back, command by command, with the words it is told in."""

from __future__ import annotations

import json
import re

import psycopg
import pytest

from mrl_pg.vectors import to_text
from tests.cli.conftest import INDEX, Run, invoke, missing, without_prefix
from tests.conftest import Conn, vectors


def test_a_binary_prefix(run: Run, papers: Conn, query: str) -> None:
    without_prefix(papers)
    assert (
        'CAST(\'{"kind": "binary"}\' AS JSONB)'
        in run("add-prefix", "papers", "--dims", "32", "--kind", "binary", "--sql").output
    )
    assert run("add-prefix", "papers", "--dims", "32", "--kind", "binary").output == (
        "Added embedding_bit32 to papers. Next: mrl-pg backfill papers --prefix embedding_bit32\n"
    )
    assert "mrl.bits(" in run("backfill", "papers", "--prefix", "embedding_bit32", "--sql").output
    assert run("backfill", "papers", "--prefix", "embedding_bit32").output.startswith("Filled embedding_bit32 of 500")
    assert run("index", "papers", "--prefix", "embedding_bit32").output.startswith(
        "Built papers_embedding_bit32_bit_hamming_ops_idx"
    )
    hits = json.loads(run("search", "papers", "--vector-file", query, "--k", "1", "--json").output)["hits"]
    assert [hit["key"] for hit in hits] == [7]


def test_a_half_prefix(run: Run, papers: Conn, query: str) -> None:
    without_prefix(papers)
    adding = ("add-prefix", "papers", "--kind", "half")
    assert "NULL, 'cosine', NULL, CAST('{\"kind\": \"half\"}' AS JSONB)" in run(*adding, "--sql").output
    assert run(*adding).output == (
        "Added embedding_half32 to papers. Next: mrl-pg backfill papers --prefix embedding_half32\n"
    )
    assert run("backfill", "papers", "--prefix", "embedding_half32").output.startswith("Filled embedding_half32 of 500")
    assert run("index", "papers", "--prefix", "embedding_half32").output.startswith(
        "Built papers_embedding_half32_halfvec_cosine_ops_idx"
    )
    hits = json.loads(run("search", "papers", "--vector-file", query, "--k", "1", "--json").output)["hits"]
    assert [hit["key"] for hit in hits] == [7]
    assert run("create-table", "others", "--full-dims", "32", "--kind", "half").output == (
        "Created others with embedding_half32 and its index.\n"
    )


def test_a_layer_norm(run: Run, papers: Conn, query: str) -> None:
    without_prefix(papers)
    adding = ("add-prefix", "papers", "--dims", "8", "--layer-norm")
    assert "CAST('{\"layer_norm\": true}' AS JSONB)" in run(*adding, "--sql").output
    assert run(*adding).output == (
        "Added embedding_ln8 to papers. Next: mrl-pg backfill papers --prefix embedding_ln8\n"
    )
    filling = ("backfill", "papers", "--prefix", "embedding_ln8")
    assert "mrl.prefix(mrl.layer_norm(papers.embedding), 8, 'cosine')" in run(*filling, "--sql").output
    assert run(*filling).output.startswith("Filled embedding_ln8 of 500")
    assert run("index", "papers", "--prefix", "embedding_ln8").exit_code == 0
    hits = json.loads(run("search", "papers", "--vector-file", query, "--k", "1", "--json").output)["hits"]
    assert [hit["key"] for hit in hits] == [7]
    made = ("create-table", "others", "--full-dims", "32", "--kind", "binary", "--layer-norm")
    assert '{"kind": "binary", "layer_norm": true}' in run(*made, "--sql").output
    assert run(*made).output == "Created others with embedding_lnbit32 and its index.\n"
    (row,) = json.loads(run("status", "others", "--json").output)
    assert (row["kind"], row["layer_norm"]) == ("binary", True)


def test_what_is_known_against_a_prefix_of_a_model(run: Run, papers: Conn) -> None:
    def told(model: str) -> list[str]:
        papers.execute("SELECT mrl.drop_prefix('papers', 'embedding_8')")
        return run("add-prefix", "papers", "--dims", "8", "--model", model).stderr.splitlines()

    assert told("mine") == []
    (untrained,) = told("text-embedding-ada-002")
    assert untrained.startswith(
        "Warning: text-embedding-ada-002 was not trained to be cut: its first 8 dimensions may "
    )
    cut, normed = told("nomic-embed-text-v1.5")
    assert cut.startswith("Warning: nomic-embed-text-v1.5 is documented to be cut at ")
    assert normed.endswith(" is cut behind a layer norm of the whole embedding: add --layer-norm.")
    made = run("create-table", "others", "--full-dims", "384", "--dims", "64", "--model", "all-MiniLM-L6-v2")
    assert made.stderr.startswith("Warning: all-MiniLM-L6-v2 was not trained to be cut")


def test_a_learnt_prefix(run: Run, papers: Conn, query: str) -> None:
    learnt, added = run("rotate", "papers", "--dims", "8", "--sample", "400").output.splitlines()
    assert re.fullmatch(r"Learnt from \d{3} rows: 8 of 32 dimensions keep \d\d\.\d% of the squared norm\.", learnt)
    assert added == "Added embedding_rot8_v1 to papers. Next: mrl-pg backfill papers --prefix embedding_rot8_v1"
    filling = ("backfill", "papers", "--prefix", "embedding_rot8_v1")
    assert "SET embedding=papers.embedding WHERE" in " ".join(run(*filling, "--sql").output.split())
    assert run(*filling).output.startswith("Filled embedding_rot8_v1 of 500")
    assert run("index", "papers", "--prefix", "embedding_rot8_v1").exit_code == 0
    hits = json.loads(run("search", "papers", "--vector-file", query, "--k", "1", "--json").output)["hits"]
    assert [hit["key"] for hit in hits] == [7]
    refused = run("rotate", "papers", "--dims", "32").stderr
    assert refused.startswith("Error: dims must be between 1 and 31 to rotate 32 dimensions, not 32. ")


def test_install_and_uninstall(bare_dsn: str) -> None:
    assert invoke(bare_dsn, "install").output == "Installed mrl-pg 0.1.\n"
    assert invoke(bare_dsn, "install").output == "mrl-pg 0.1 is installed already.\n"
    assert invoke(bare_dsn, "uninstall").output == "Uninstalled mrl-pg.\n"
    assert invoke(bare_dsn, "uninstall").output == "mrl-pg is not installed.\n"


def test_what_install_and_uninstall_print_does_it(bare_dsn: str) -> None:
    with psycopg.connect(bare_dsn, autocommit=True) as conn:
        conn.execute(invoke("", "install", "--sql").output.encode())
        assert invoke(bare_dsn, "install").output == "mrl-pg 0.1 is installed already.\n"
        conn.execute(invoke("", "uninstall", "--sql").output.encode())
    assert invoke(bare_dsn, "uninstall").output == "mrl-pg is not installed.\n"


def test_uninstall_refuses_while_there_are_prefixes(run: Run, papers: Conn) -> None:
    result = run("uninstall")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: mrl-pg still keeps prefixes: papers.embedding_8\nHint: ")


def test_from_a_table_to_its_searches_and_back(run: Run, conn: Conn, query: str) -> None:
    conn.execute("CREATE TABLE papers (id bigint PRIMARY KEY, embedding vector(32))")
    for n, row in enumerate(vectors(500, 32)):
        conn.execute("INSERT INTO papers VALUES (%s, %s)", (n, to_text(row)))

    assert run("status").stderr == "No prefix yet. Next: mrl-pg add-prefix TABLE --dims 256\n"
    assert run("add-prefix", "papers", "--dims", "8").output == (
        "Added embedding_8 to papers. Next: mrl-pg backfill papers --prefix embedding_8\n"
    )
    assert run("index", "papers").stderr == (
        "Error: 500 of 500 rows of papers lack embedding_8, and filling it is slower with the index there. "
        "Run: mrl-pg backfill papers --prefix embedding_8\n"
    )
    assert run("backfill", "papers", "--dry-run").output == "500 rows of papers lack embedding_8.\n"
    filled, following = run("backfill", "papers").output.splitlines()
    assert re.fullmatch(r"Filled embedding_8 of 500 rows in 0\.\d s \([\d,]+ rows/s\)\.", filled)
    assert following == "Next: mrl-pg index papers --prefix embedding_8"
    assert run("search", "papers", "--vector-file", query).stderr == (
        "Error: prefix embedding_8 of papers has no valid index. Run: mrl-pg index papers --prefix embedding_8\n"
    )
    assert re.fullmatch(rf"Built {INDEX} in [\d.]+ s\.\n", run("index", "papers").output)
    assert run("index", "papers").output == f"{INDEX} is there already, and valid.\n"
    assert run("backfill", "papers").output == "No row of papers lacks embedding_8.\n"
    header, first, *_ = run("search", "papers", "--vector-file", query, "--k", "1").output.splitlines()
    assert (header, first.split("\t")[1]) == ("distance\tid", "7")
    assert run("drop-prefix", "papers", "embedding_8").output == "Dropped embedding_8 from papers.\n"
    assert json.loads(run("status", "--json").output) == []


def test_create_table(run: Run, conn: Conn) -> None:
    arguments = ("create-table", "app.papers", "--full-dims", "32", "--dims", "8", "--model", "m", "--embedding-type")
    conn.execute("CREATE SCHEMA app")
    assert run(*arguments, "halfvec").output == "Created app.papers with embedding_8 and its index.\n"
    (row,) = json.loads(run("status", "app.papers", "--json").output)
    assert row | {"index_bytes": 0} == {
        "target": "app.papers",
        "embedding": "embedding",
        "prefix": "embedding_8",
        "kind": "truncate",
        "dims": 8,
        "distance": "cosine",
        "model": "m",
        "full_dims": 32,
        "embedding_type": "halfvec",
        "maintained": True,
        "index": f"app.{INDEX}",
        "index_bytes": 0,
        "rows": 0,
        "missing": 0,
        "impossible": 0,
        "layer_norm": False,
    }
    assert run(*arguments, "halfvec").stderr == 'Error: relation "papers" already exists\n'
    made = ("create-table", "careful", "--full-dims", "32", "--dims", "8", "--m", "8", "--ef-construction", "40")
    assert "WITH (m = 8, ef_construction = 40)" in run(*made, "--sql").output
    assert run(*made).exit_code == 0
    (row,) = json.loads(run("status", "careful", "--json").output)
    assert row["index"] == "careful_embedding_8_halfvec_cosine_ops_m8_ef40_idx"


def test_create_table_installs_what_is_missing(bare_dsn: str) -> None:
    assert invoke(bare_dsn, "create-table", "papers", "--full-dims", "32", "--dims", "8").exit_code == 0
    assert invoke(bare_dsn, "install").output == "mrl-pg 0.1 is installed already.\n"


def test_migrate(bare_dsn: str) -> None:
    sized = ("--table", "papers", "--full-dims", "32", "--dims", "8")
    assert invoke(bare_dsn, "migrate", *sized).output == "The migrations are applied.\n"
    assert invoke(bare_dsn, "migrate", *sized).output == "The migrations are applied.\n"
    (row,) = json.loads(invoke(bare_dsn, "status", "--json").output)
    assert (row["target"], row["prefix"], row["index"]) == ("papers", "embedding_8", INDEX)
    again = invoke(bare_dsn, "migrate", "--table", "articles")
    assert again.exit_code == 1
    assert again.stderr.endswith("Run: mrl-pg create-table articles --full-dims 1536 --dims 256\n")
    assert invoke(bare_dsn, "migrate", "--downgrade", "--table", "papers").exit_code == 2
    asked = invoke(bare_dsn, "migrate", "--downgrade", input="n\n")
    assert (asked.exit_code, "with all its rows. Go on?" in asked.output) == (1, True)
    assert invoke(bare_dsn, "migrate", "--downgrade", "--yes").output == "The migrations are taken back.\n"
    assert invoke(bare_dsn, "status").stderr == (
        "Error: mrl-pg is not installed in this database. Run: mrl-pg install\n"
    )


def test_migrate_prints_its_sql(bare_dsn: str) -> None:
    printed = invoke("", "migrate", "--full-dims", "32", "--dims", "8", "--sql").output
    assert "CREATE TABLE documents" in printed
    assert "mrl.add_prefix" in printed
    assert "DROP TABLE" in invoke("", "migrate", "--downgrade", "--sql").output


@pytest.mark.parametrize("name", ["papers", 'we"ird; drop table x', "a 100% b", "x" * 63])
def test_what_is_printed_does_what_the_command_does(bare_dsn: str, name: str) -> None:
    """Every statement printed by --sql, run one after the other."""
    statements = [
        *invoke("", "create-table", name, "--full-dims", "32", "--dims", "8", "--sql").output.split(";\n"),
        invoke("", "add-prefix", name, "--dims", "4", "--model", "50% off", "--sql").output,
    ]
    with psycopg.connect(bare_dsn, autocommit=True) as conn:
        invoke(bare_dsn, "install")
        for statement in statements:
            conn.execute(statement.encode())
        prefixes = ("embedding_8", "embedding_4")
        rows = json.loads(invoke(bare_dsn, "status", "--json").output)
        assert {row["prefix"]: (row["model"], bool(row["index"])) for row in rows} == {
            "embedding_8": ("", True),
            "embedding_4": ("50% off", False),
        }
        conn.execute(invoke(bare_dsn, "index", name, "--prefix", "embedding_4", "--sql").output.encode())
        assert invoke(bare_dsn, "index", name, "--prefix", "embedding_4").output.endswith("already, and valid.\n")
        conn.execute("DO $$ BEGIN EXECUTE (SELECT 'DROP INDEX ' || index FROM mrl.prefixes WHERE dims = 4); END $$")
        without_concurrency = ("index", name, "--prefix", "embedding_4", "--no-concurrently", "--sql")
        conn.execute(invoke(bare_dsn, *without_concurrency).output.encode())
        assert invoke(bare_dsn, "index", name, "--prefix", "embedding_4").output.endswith("already, and valid.\n")
        for prefix in prefixes:
            conn.execute(invoke(bare_dsn, "drop-prefix", name, prefix, "--sql").output.encode())
        assert json.loads(invoke(bare_dsn, "status", "--json").output) == []


def test_backfill_prints_its_first_batch(run: Run, papers: Conn) -> None:
    assert run("backfill", "papers", "--sql").output.count(";") == 1  # there is none
    without_prefix(papers)
    for statement in run("backfill", "papers", "--batch-size", "100", "--sql").output.split(";\n"):
        papers.execute(statement.encode())
    assert missing(papers) == 400


def test_backfill_tells_what_cannot_be_filled(run: Run, papers: Conn) -> None:
    without_prefix(papers)
    papers.execute("UPDATE papers SET embedding = array_fill(0, ARRAY[32])::vector WHERE id IN (3, 5)")
    lines = run("backfill", "papers").output.splitlines()
    assert lines[0].startswith("Filled embedding_8 of 498 rows in ")
    assert lines[1] == "2 rows cannot have a prefix (zero, or too short). Their keys: 3, 5"
    assert json.loads(run("backfill", "papers", "--json").output) | {"seconds": 0} == {
        "prefix": "embedding_8",
        "total": 2,
        "filled": 0,
        "impossible": 2,
        "impossible_keys": [3, 5],
        "last_key": 5,
        "seconds": 0,
        "dry_run": False,
    }


def test_backfill_tells_what_is_left(run: Run, papers: Conn) -> None:
    without_prefix(papers)
    lines = run("backfill", "papers", "--max-rows", "300").output.splitlines()
    assert lines[-1] == "200 rows are left. Next: mrl-pg backfill papers --prefix embedding_8"
    assert missing(papers) == 200


def test_index_takes_the_graph(run: Run, papers: Conn) -> None:
    output = run("index", "papers", "--m", "8", "--ef-construction", "40", "--no-concurrently").output
    assert output.startswith("Built papers_embedding_8_halfvec_cosine_ops_m8_ef40_idx in ")


def test_index_tells_what_postgres_has_to_say(run: Run, papers: Conn) -> None:
    papers.execute("ALTER ROLE postgres SET maintenance_work_mem = '1MB'")
    try:
        result = run("index", "papers", "--m", "100", "--ef-construction", "200")
    finally:
        papers.execute("ALTER ROLE postgres RESET maintenance_work_mem")
    assert "hnsw graph no longer fits into maintenance_work_mem" in result.stderr
    assert "Increase maintenance_work_mem" in result.stderr
    assert "outside a transaction" not in result.stderr


def test_allow_missing(run: Run, papers: Conn) -> None:
    without_prefix(papers)
    assert run("index", "papers").exit_code == 1
    assert run("index", "papers", "--allow-missing").exit_code == 0
