"""mrl-pg tune, and search --recall."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest

import mrl_pg.psycopg as mrl
from tests.cli.conftest import FULL_DIMS, Run, on_terminal, program
from tests.cli.test_signals import wait_for
from tests.conftest import Conn, vectors


@pytest.fixture
def indexed(papers: Conn) -> Conn:
    mrl.create_index(papers, "papers")
    return papers


@pytest.fixture
def queries(tmp_path: Path) -> str:
    path = tmp_path / "queries.npz"
    np.savez(path, queries=vectors(60, FULL_DIMS, seed=1))
    return str(path)


def test_tells_and_stores(run: Run, indexed: Conn, queries: str, query: str) -> None:
    result = run("tune", "papers", "--recall", "0.9", "--queries", queries)
    assert result.exit_code == 0
    assert "settings of 30 queries, measured again with 30 others; ± is the 95 % interval:" in result.output
    assert re.search(r"embedding_8\t\d+\t\d+\t\S+ ±\S+\t[\d.]+\t[\d.]+\tcheapest", result.output)
    assert "ms (p95 " in result.output
    assert run("search", "papers", "--vector-file", query, "--recall", "0.9", "--k", "3").output.count("paper") == 3
    text = run("search", "papers", "--vector-file", query, "--recall", "0.9", "--sql").output
    assert "embedding_8" in text
    result = run("search", "papers", "--vector-file", query, "--recall", "0.9", "--candidates", "50")
    assert (result.exit_code, result.output) == (
        1,
        "Error: recall = 0.9 and candidates were given. A recall chooses candidates and ef_search itself: give one or "
        "the other.\n",
    )


def test_recorded_queries(run: Run, indexed: Conn, queries: str) -> None:
    result = run("tune", "papers", "--recall", "0.9", "--recorded")
    assert (result.exit_code, result.output) == (
        1,
        "Error: there is no recorded query of embedding of papers to use: 0 recorded, 0 of them under a filter; "
        "those of another model or length are left out. Record some: search without a filter with record=0.01, and "
        "commit.\n",
    )
    mrl.search_many(indexed, "papers", vectors(40, FULL_DIMS, seed=2), record=1)
    result = run("tune", "papers", "--recall", "0.9", "--recorded", "--sample", "30")
    assert "settings of 15 recorded queries, measured again with 15 others;" in result.output
    assert json.loads(run("tune", "papers", "--recall", "0.9", "--recorded", "--json").output)["source"] == "recorded"
    result = run("eval", "papers", "--recorded", "--dims", "8", "--candidates", "20")
    assert "for 40 queries (cosine)." in result.output
    assert "The queries are 40 recorded ones." in result.output
    for command in (("tune", "papers", "--recall", "0.9"), ("eval", "papers")):
        result = run(*command, "--recorded", "--queries", queries)
        assert result.exit_code == 2
        assert "Give the queries either by --queries or by --recorded." in result.output


def test_json(run: Run, indexed: Conn, queries: str) -> None:
    arguments = ("--recall", "0.9", "--also", "0.8,0.7", "--queries", queries, "--json")
    found = json.loads(run("tune", "papers", *arguments).output)
    assert [recall for recall, _ in found["also"]] == [0.8, 0.7]
    assert all(point["recall"] >= recall for recall, point in found["also"])
    assert run("tune", "papers", "--recall", "0.9", "--also", "0.8;0.7").exit_code == 2
    assert found["best"]["recall"] >= 0.9
    assert found["best"] in found["points"]
    assert found["pareto"]
    assert found["stored"] == len(found["pareto"])


def test_never_measured(run: Run, indexed: Conn, query: str) -> None:
    result = run("search", "papers", "--vector-file", query, "--recall", "0.9")
    assert (result.exit_code, result.output) == (
        1,
        "Error: no operating point of papers reaches recall 0.9 for k = 10; measured: nothing. "
        "Run: mrl-pg tune papers --recall 0.9 --k 10\n",
    )


def test_progress_on_a_terminal(dsn: str, indexed: Conn) -> None:
    code, written = on_terminal(dsn, "tune", "papers", "--recall", "0.9", "--sample", "40")
    assert code == 0
    assert "settings of 20 rows as queries" in written
    assert "That is optimistic" in written


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_leave_nothing(dsn: str, indexed: Conn, number: signal.Signals) -> None:
    def built() -> bool:
        return indexed.execute("SELECT FROM mrl.prefixes").rowcount > 1

    with program(dsn, "tune", "papers", "--recall", "0.9", "--build", "--dims", "16,24") as process:
        wait_for(built)
        process.send_signal(number)
        out, err = process.communicate()
    if "Exception ignored in: <weakref callback" in err or "Exception ignored in: <function" in err:
        pytest.skip("CPython ignored the exception of the signal, which came inside a callback of its own")
    assert (err, out) == ("\nStopped. Nothing was stored, and what was built is dropped again.\n", "")
    assert process.returncode == 128 + number
    assert indexed.execute("SELECT prefix FROM mrl.prefixes").fetchall() == [("embedding_8",)]
    counts = "SELECT (SELECT count(*) FROM mrl.bases), (SELECT count(*) FROM mrl.operating_points)"
    assert indexed.execute(counts).fetchall() == [(0, 0)]
