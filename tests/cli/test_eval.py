"""mrl-pg eval: figures as of the verb, in tables, CSV and JSON, and the next command."""

from __future__ import annotations

import csv
import json
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

import mrl_pg.psycopg as mrl
from mrl_pg.evaluate import CANDIDATES
from mrl_pg.psycopg.material import DEFAULT_ROWS, DEFAULT_SAMPLE
from mrl_pg.queries import read_queries
from mrl_pg.views import DIMS as DEFAULT_DIMS
from tests.cli.conftest import FULL_DIMS, Run, on_terminal, program
from tests.cli.test_help import help_of
from tests.cli.test_signals import wait_for
from tests.conftest import Conn, FloatArray, vectors

COMMAND = ("eval", "papers", "--dims", "4,8", "--candidates", "10,50")


@pytest.fixture
def asked() -> FloatArray:
    return vectors(20, FULL_DIMS, seed=1)


@pytest.fixture
def queries(tmp_path: Path, asked: FloatArray) -> str:
    """A file of queries, whose nearest papers it does not name."""
    path = tmp_path / "queries.npz"
    np.savez(path, queries=asked)
    return str(path)


def test_json_is_what_the_verb_returns(run: Run, papers: Conn, queries: str) -> None:
    printed = json.loads(run(*COMMAND, "--queries", queries, "--k", "5", "--json").output)
    found = mrl.evaluate(papers, "papers", read_queries(queries), k=5, dims=[4, 8], candidates=[10, 50])
    expected: dict[str, Any] = {"table": "papers"} | json.loads(json.dumps(found.as_dict()))
    assert json.dumps(printed) == json.dumps(expected)  # nan, of binary, is not equal to itself


def test_tables_in_a_pipe(run: Run, papers: Conn, queries: str) -> None:
    result = run(*COMMAND, "--queries", queries, "--no-index")
    lines = result.output.splitlines()
    assert lines[0] == "Exact scans of 500 rows of 32 dimensions for 20 queries (cosine)."
    assert lines[3] == "kind\tdims\talone\tn = 50"
    shares = {tuple(line.split("\t")[:2]): line.split("\t")[2:] for line in lines[4:12]}
    found = mrl.evaluate(papers, "papers", queries, dims=[4, 8], candidates=[10, 50], indexes=False)
    for point in found.points:
        figures = [point.recall, point.reranked[1].recall]
        assert [float(cell.split(" ±")[0]) for cell in shares[point.kind, str(point.dims)]] == pytest.approx(
            [figure.mean for figure in figures], abs=0.0006
        )
    assert "Through the index" not in result.output
    assert result.stderr == ""


def test_csv_has_all_figures(run: Run, papers: Conn, queries: str, tmp_path: Path) -> None:
    mrl.create_index(papers, "papers")
    path = tmp_path / "figures.csv"
    arguments = ("--queries", queries, "--ef-search", "20,40", "--clients", "2", "--filter", "year=2001")
    result = run(*COMMAND, *arguments, "--csv", str(path))
    assert result.exit_code == 0
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    scans, indexes = ([row for row in rows if row["measured"] == what] for what in ("scan", "index"))
    # Alone and with 10 and 50 candidates, for four kinds of two lengths.
    assert len(scans) == 3 * 8
    assert [(row["prefix"], row["candidates"], row["ef_search"], row["selectivity"]) for row in indexes] == [
        ("embedding_8", n, ef, share) for share in ("1.0", "0.2") for n in ("10", "50") for ef in ("20", "40")
    ]
    assert all(0 <= float(row["recall_low"]) <= float(row["recall"]) <= float(row["recall_high"]) <= 1 for row in rows)
    assert all(float(row["p99_ms"]) > 0 and row["clients"] == "2" for row in indexes)
    assert "Searches through the indexes, warm, 2 clients at a time" in result.output
    assert "embedding_8, under the filter, which keeps 20.00% of the rows:" in result.output


def test_a_report_stands_for_itself(run: Run, papers: Conn, dsn: str, queries: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    arguments = [*COMMAND, "--queries", queries, "--no-index", "--recall", "0.5", "--report", str(path)]
    result = run(*arguments, "--dsn", f"{dsn} password=secret")
    assert result.output.splitlines()[-1] == f"Wrote {path}."
    page = path.read_text(encoding="utf-8")
    assert "Prefixes of papers" in page
    assert "recall@10 of 0.5" in page
    assert "recall@10 of 0.5" in result.output
    ((version,),) = papers.execute("SELECT current_setting('server_version')").fetchall()
    assert version in page
    assert re.search(r"mrl-pg eval papers [^<]*--dims 4,8", page)
    assert "secret" not in page
    assert run(*COMMAND, "--report", "nowhere/report.html").exit_code == 2
    assert run(*COMMAND, "--recall", "nan").exit_code == 2


def test_says_what_to_do_next(run: Run, papers: Conn, queries: str) -> None:
    def last(*arguments: str) -> str:
        result = run(*COMMAND, "--queries", queries, "--no-index", "--kinds", "truncate", *arguments)
        return result.output.splitlines()[-1]

    assert last("--dims", "16") == "Next: mrl-pg add-prefix papers --dims 16"
    assert last("--kinds", "rotate", "--dims", "16") == "Next: mrl-pg rotate papers --dims 16"
    assert last("--kinds", "binary", "--dims", "32", "--candidates", "490") == (
        "Next: mrl-pg add-prefix papers --dims 32 --kind binary"
    )
    mrl.add_prefix(papers, "papers", dims=16)
    assert last("--dims", "16") == (
        "Next: mrl-pg backfill papers --prefix embedding_16 && mrl-pg index papers --prefix embedding_16"
    )
    mrl.backfill(papers, "papers", prefix="embedding_16")
    mrl.create_index(papers, "papers", prefix="embedding_16")
    assert last("--dims", "16") == "papers has that prefix, with its index: embedding_16."
    papers.execute('ALTER TABLE papers ADD "vec" vector(32)')
    papers.execute("UPDATE papers SET vec = embedding")
    assert last("--embedding", "vec", "--distance", "l2", "--dims", "16") == (
        "Next: mrl-pg add-prefix papers --dims 16 --distance l2 --embedding vec"
    )


def test_what_to_do_next_measures_the_same_with_more_candidates(run: Run, papers: Conn, queries: str) -> None:
    papers.execute("ALTER TABLE papers ADD vec vector(32)")
    papers.execute("UPDATE papers SET vec = embedding")
    given = "--embedding vec --k 5 --dims 2 --kinds truncate --filter year=2001 --seed 7"
    prefix = mrl.add_prefix(papers, "papers", "vec", dims=4)
    mrl.backfill(papers, "papers", prefix=prefix)
    mrl.create_index(papers, "papers", prefix=prefix)
    result = run("eval", "papers", "--queries", queries, *given.split(), "--candidates", "10,150", "--recall", "0.99")
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == (
        f"Next: mrl-pg eval papers --queries {queries} --embedding vec --k 5 --dims 2 --kinds truncate "
        "--filter year=2001 --seed 7 --recall 0.99 --candidates 300,499"
    )


def test_qrels(run: Run, papers: Conn, queries: str, asked: FloatArray, tmp_path: Path) -> None:
    nearest = (asked @ vectors(500, FULL_DIMS).T).argmax(axis=1)
    trec = tmp_path / "qrels.txt"
    trec.write_text("".join(f"{n} 0 {row} 1\n" for n, row in enumerate(nearest)))
    output = run(*COMMAND, "--queries", queries, "--qrels", str(trec), "--no-index").output
    assert "By the qrels nDCG@10 and the share of relevant rows in the first 10" in output
    assert "whole\t32\t1.000 ±.000\t1.000 ±.000" in output
    trec.write_text("0 0 501 1\n")
    result = run(*COMMAND, "--queries", queries, "--qrels", str(trec))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "Error: 1 of 1 rows in qrels are not there, id '501'. Check that the ids are those of the table and of the "
        "queries.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--k", "501"), 1, "k must be between 1 and 499, the rows a query can find, not 501"),
        (("--k", "60"), 1, "candidates must be between k = 60 and 499"),
        (("--sample", "501"), 1, "sample must be between 1 and 500"),
        (("--dims", "64"), 1, "dims must be between 1 and full_dims = 32, not 64"),
        (("--dims", "64;128"), 2, "'64;128' is not whole numbers separated by commas, such as 64,128."),
        (("--kinds", "pca"), 1, "unknown kind 'pca'. Use truncate, rotate, binary or random."),
        (("--queries", "nowhere.npz"), 2, "File 'nowhere.npz' does not exist."),
        (("--csv", "nowhere/figures.csv"), 2, "there is no directory for nowhere/figures.csv."),
        (("--filter", "lang"), 2, "'lang' is neither column=value nor a JSON object."),
        (("--filter", "year=2001", "--no-index"), 1, "a filter is for searches through indexes."),
    ],
)
def test_wrong_input(run: Run, papers: Conn, arguments: tuple[str, ...], code: int, message: str) -> None:
    result = run(*COMMAND, *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr


def test_an_empty_table_and_none(run: Run, papers: Conn) -> None:
    papers.execute("DELETE FROM papers")
    assert "no row of papers has an embedding" in run(*COMMAND).stderr
    assert "table nowhere does not exist" in run("eval", "nowhere").stderr


def test_texts_need_a_model(run: Run, papers: Conn, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"id": 1, "text": "a paper"}')
    result = run("eval", "papers", "--queries", str(path))
    assert result.exit_code == 2
    assert "papers does not know the model of its embeddings. Name it with --model." in result.stderr


def test_on_a_terminal(dsn: str, papers: Conn, queries: str) -> None:
    mrl.create_index(papers, "papers")
    code, written = on_terminal(dsn, *COMMAND, "--queries", queries)
    assert code == 0
    assert re.search(r"truncate +4 +\.\d{3} ±\.\d{3}", written)
    assert "embedding_8:" in written
    assert "recall@10 of 0.98" in written
    assert "rows/s" in written
    assert "…" not in written


def test_stopped(dsn: str, papers: Conn) -> None:
    def waits() -> bool:
        return papers.execute("SELECT FROM pg_locks WHERE NOT granted").rowcount > 0

    with psycopg.connect(dsn) as other, program(dsn, *COMMAND) as process:
        other.execute("LOCK TABLE papers")
        wait_for(waits)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert err == "\nStopped. Nothing was changed; with fewer --rows or --dims it takes less time.\n"


def test_defaults_in_the_help_are_those_of_the_verb() -> None:
    text = help_of("eval")
    assert f"Take so many rows as queries; {DEFAULT_SAMPLE}, or a fifth of fewer rows, if left out." in text
    assert f"where there are more rows; {DEFAULT_ROWS:,} if left out." in text
    assert f"Rows to rerank; {','.join(map(str, CANDIDATES))} if left out." in text
    assert f"separated by commas; {DEFAULT_DIMS[0]} to {DEFAULT_DIMS[-1]} if left out." in text
