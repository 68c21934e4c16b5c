"""mrl-pg search: what goes in, what comes out."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from mrl_pg.cli.search import read_filters
from tests.cli.conftest import FULL_DIMS, Run, insert, on_terminal
from tests.conftest import Conn, vectors


@pytest.fixture(autouse=True)
def _index(run: Run, papers: Conn) -> None:
    run("index", "papers")


def keys(output: str) -> list[int]:
    return [hit["key"] for hit in json.loads(output)["hits"]]


def test_finds_the_nearest(run: Run, query: str) -> None:
    found = json.loads(run("search", "papers", "--vector-file", query, "--json", "--k", "2").output)
    assert (found["requested"], found["received"]) == (100, 100)
    first, _ = found["hits"]
    assert first == {"key": 7, "distance": first["distance"], "row": {"id": 7, "title": "paper 7", "year": 2002}}
    assert first["distance"] < 1e-6


def test_reads_json_and_npy_from_files_and_standard_input(run: Run, query: str, tmp_path: Path) -> None:
    npy = tmp_path / "query.npy"
    np.save(npy, vectors(500, FULL_DIMS)[7].astype(np.float64))
    text = Path(query).read_text()
    for arguments, given in (
        (("--vector-file", query), None),
        (("--vector-file", str(npy)), None),
        (("--vector-file", "-"), text),
        (("--vector-file", "-"), npy.read_bytes()),
    ):
        assert keys(run("search", "papers", *arguments, "--json", input=given).output)[0] == 7


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        (
            b"",
            2,
            "Invalid value for --vector-file: neither JSON nor .npy (Expecting value: line 1 column 1 (char 0)).\n",
        ),
        (b"\xff\xfe\x00\x01", 2, "Invalid value for --vector-file: neither JSON nor .npy ("),
        (pickled(), 2, "Invalid value for --vector-file: neither JSON nor .npy ("),
        (b'{"a": 1}', 1, "query is not a vector of numbers"),
        (b"null", 1, "query "),
        (b'["a"]', 1, "query is not a vector of numbers"),
        (b"[[1, 2]]", 1, "query has shape (1, 2), expected one dimension."),
        (b"[1, 2]", 1, "query has 2 dimensions, expected 32. Embed it with the model of the table, at full size.\n"),
        (json.dumps([float("nan")] * 32).encode(), 1, "query[0] is nan."),
        (json.dumps([0.0] * 32).encode(), 1, "the first 8 dimensions of the query are zero,"),
    ],
)
def test_refuses_what_is_no_query(run: Run, given: bytes, code: int, message: str) -> None:
    result = run("search", "papers", "--vector-file", "-", input=given)
    assert result.exit_code == code
    assert f"Error: {message}" in result.stderr


def test_needs_a_query(run: Run, query: str) -> None:
    assert run("search", "papers").exit_code == 2
    assert run("search", "papers", "--vector-file", f"{query}.gone").exit_code == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--k", "0"), "k must be at least 1, not 0. k is the number of rows to return."),
        (("--k", "5", "--candidates", "4"), "candidates must be at least k = 5, not 4."),
        (("--ef-search", "1001"), "ef_search must be between 1 and 1000, not 1001."),
        (("--max-scan-tuples", "0"), "max_scan_tuples must be "),
        (("--filter", "nope=1"), "column 'nope' of papers does not exist or is a vector."),
        (("--columns", "id,embedding"), "column 'embedding' of papers does not exist or is a vector."),
        (("--prefix", "embedding_4"), "papers has no prefix 'embedding_4'. It has: embedding_8."),
    ],
)
def test_refuses_what_cannot_be(run: Run, query: str, options: tuple[str, ...], message: str) -> None:
    result = run("search", "papers", "--vector-file", query, *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: {message}")


@pytest.mark.parametrize(
    ("filters", "years"),
    [
        (("year=2001",), {2001}),
        (("year=2001", "year=2002"), {2001, 2002}),
        (('{"year": 2003}',), {2003}),
        (('{"year": [2003, null]}',), {2003, None}),
        (('{"year": null}',), {None}),
        (('{"year": null}', "year=2004"), {None, 2004}),
        (("year=2001", "title=paper 1"), {2001}),
    ],
)
def test_filters(run: Run, query: str, filters: tuple[str, ...], years: set[int | None]) -> None:
    arguments = [argument for text in filters for argument in ("--filter", text)]
    found = json.loads(run("search", "papers", "--vector-file", query, "--k", "50", "--json", *arguments).output)
    assert {hit["row"]["year"] for hit in found["hits"]} == years


def test_reads_filters_as_sql_does() -> None:
    assert read_filters(("lang=en", "path=a=b", "empty=")) == {"lang": "en", "path": "a=b", "empty": ""}
    assert read_filters(("lang=en", "lang=de", '{"lang": null}')) == {"lang": ["en", "de", None]}
    assert read_filters(('{"n": 7, "ok": true, "tags": {"a": [1]}, "x": [1.5, "b"]}',)) == {
        "n": "7",
        "ok": "true",
        "tags": '{"a": [1]}',
        "x": ["1.5", "b"],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lang", "'lang' is neither column=value nor a JSON object."),
        ('{"lang": ', '{"lang":  is not JSON: Expecting value: line 1 column 10 (char 9).'),
    ],
)
def test_refuses_what_is_no_filter(run: Run, query: str, text: str, message: str) -> None:
    result = run("search", "papers", "--vector-file", query, "--filter", text)
    assert result.exit_code == 2
    assert result.stderr.endswith(f"Error: Invalid value for --filter: {message}\n")


def test_a_value_that_its_column_cannot_hold(run: Run, query: str) -> None:
    result = run("search", "papers", "--vector-file", query, "--filter", "year=soon")
    assert (result.exit_code, result.stderr) == (1, 'Error: invalid input syntax for type integer: "soon"\n')


def test_writes_values_separated_by_tabs(run: Run, papers: Conn, query: str) -> None:
    papers.execute("UPDATE papers SET title = E'a\\tb\\nc\\\\d', year = NULL WHERE id = 7")
    lines = run("search", "papers", "--vector-file", query, "--k", "1", "--columns", "title,year").output.splitlines()
    assert lines[0] == "distance\tkey\ttitle\tyear"
    assert lines[1].split("\t")[1:] == ["7", r"a\tb\nc\\d", ""]


def test_draws_a_table_on_a_terminal(dsn: str, query: str) -> None:
    code, written = on_terminal(dsn, "search", "papers", "--vector-file", query, "--k", "3", "--columns", "title")
    assert code == 0
    assert "─" in written
    assert "paper 7" in written
    assert "3 hits, from 100 of 100 candidates." in written


def test_exact_is_the_ground_truth(run: Run, papers: Conn, query: str) -> None:
    truth = np.argsort(-(vectors(500, FULL_DIMS) @ vectors(500, FULL_DIMS)[7]))[:10].tolist()
    assert keys(run("search", "papers", "--vector-file", query, "--exact", "--json").output) == truth
    found = json.loads(run("search", "papers", "--vector-file", query, "--exact", "--json").output)
    assert (found["requested"], found["received"]) == (10, 10)


def test_sql_can_be_run_as_it_stands(run: Run, papers: Conn, query: str) -> None:
    arguments = ("search", "papers", "--vector-file", query, "--columns", "id", "--filter", "year=2001")
    found = keys(run(*arguments, "--json").output)
    printed = run(*arguments, "--sql").output
    assert [row[0] for row in papers.execute(printed.encode())] == found
    explained = papers.execute(run(*arguments, "--sql", "--explain").output.encode()).fetchall()
    assert any("actual time" in line for (line,) in explained)


def test_explain(run: Run, papers: Conn, query: str) -> None:
    insert(papers, vectors(2_000, FULL_DIMS, seed=1), first=500)
    papers.execute("ANALYZE papers")
    plan = run("search", "papers", "--vector-file", query, "--explain").output
    assert "Index Scan using papers_embedding_8_halfvec_cosine_ops_idx on papers" in plan
    assert "actual time" in plan
    assert "Buffers:" in plan
    assert max(map(len, plan.splitlines())) < 250  # a vector would be longer


def test_nothing_found(run: Run, query: str) -> None:
    result = run("search", "papers", "--vector-file", query, "--filter", "title=none")
    assert (result.exit_code, result.output) == (0, "distance\tkey\n")


def test_stages(run: Run, papers: Conn, query: str) -> None:
    papers.execute("SELECT mrl.add_prefix('papers', 'embedding', 4)")
    run("backfill", "papers", "--prefix", "embedding_4")
    (prefix,) = papers.execute("SELECT prefix FROM mrl.prefixes WHERE index IS NOT NULL").fetchone() or ()
    asked = (
        "search",
        "papers",
        "--vector-file",
        query,
        "--stage",
        f"{prefix}=50",
        "--stage",
        "embedding_4=20",
        "--json",
    )
    found = json.loads(run(*asked).output)
    assert (found["requested"], found["received"], len(found["hits"])) == (50, 50, 10)
    assert found["hits"][0]["key"] == 7
    sql = run(*asked[:-1], "--sql").output
    assert "mrl_stage_2" in sql
    assert [row[0] for row in papers.execute(sql)] == [hit["key"] for hit in found["hits"]]


@pytest.mark.parametrize("stage", ["embedding_4", "=4", "embedding_4=x", "embedding_4=-1", "embedding_4=²"])
def test_what_is_no_stage(run: Run, query: str, stage: str) -> None:
    result = run("search", "papers", "--vector-file", query, "--stage", stage)
    assert result.exit_code == 2
    assert f"Invalid value for --stage: '{stage}' is not PREFIX=CANDIDATES." in result.output


def test_without_a_rerank(run: Run, query: str) -> None:
    found = json.loads(run("search", "papers", "--vector-file", query, "--no-rerank", "--json").output)
    assert (found["requested"], found["received"], found["hits"][0]["key"]) == (10, 10, 7)


def test_a_query_of_another_model(run: Run, papers: Conn, query: str) -> None:
    asked = ("search", "papers", "--vector-file", query, "--prefix", "embedding_4", "--no-rerank", "--model")
    papers.execute("SELECT mrl.add_prefix('papers', 'embedding', 4, model => 'small-3')")
    run("backfill", "papers", "--prefix", "embedding_4")
    run("index", "papers", "--prefix", "embedding_4")
    assert run(*asked, "acme/small-3").exit_code == 0
    result = run(*asked, "large-3")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "embedding of papers holds embeddings of small-3, and a query of large-3 does not" in result.stderr
