"""mrl-pg watch: what cron and CI see."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest

import mrl_pg.psycopg as mrl
from mrl_pg.psycopg.watch import DEFAULT_BUDGET, DEFAULT_FLOOR, DEFAULT_REPLAYED
from mrl_pg.vectors import FloatArray
from tests.cli.conftest import FULL_DIMS, Run, on_terminal, program
from tests.cli.test_help import help_of
from tests.cli.test_signals import wait_for
from tests.conftest import Conn, vectors


@pytest.fixture
def indexed(papers: Conn) -> Conn:
    mrl.create_index(papers, "papers")
    return papers


@pytest.fixture
def asked(tmp_path: Path) -> FloatArray:
    queries = vectors(30, FULL_DIMS, seed=1)
    np.savez(tmp_path / "my queries.npz", queries=queries)
    return queries


def stored(conn: Conn) -> int:
    ((count,),) = conn.execute("SELECT count(*) FROM mrl.recall_history")
    return int(count)


def test_enough(run: Run, indexed: Conn, asked: FloatArray, tmp_path: Path) -> None:
    file = str(tmp_path / "my queries.npz")
    result = run("watch", "papers", "--queries", file, "--candidates", "500", "--ef-search", "1000")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(
        "recall@10 of papers through embedding_8 is 1.000 (95 %: 1.000 to 1.000), the worst query 1.00; 30 queries, "
        "500 candidates, ef_search 1000, p50 "
    )
    assert result.stdout.count("\n") == 1
    again = run("watch", "papers", "--queries", file, "--candidates", "500", "--ef-search", "1000")
    assert "\nBefore it was 1.000 (1.000 to 1.000), measured 2" in again.stdout
    assert stored(indexed) == 2


def test_under_the_floor(run: Run, indexed: Conn, asked: FloatArray, tmp_path: Path) -> None:
    file = str(tmp_path / "my queries.npz")
    command = ("watch", "papers", "--queries", file, "--candidates", "10", "--floor", "0.99")
    result = run(*command)
    assert result.exit_code == 1
    assert result.stdout.startswith("recall@10 of papers through embedding_8 is 0.")
    shown = result.stdout.split(" is ")[1].split(" ")[0]
    assert result.stderr == (
        f"Error: recall@10 of papers is {shown}, under the floor of 0.99. "
        f"See what more candidates would find: mrl-pg eval papers --queries '{file}'\n"
    )
    assert stored(indexed) == 1
    result = run(*command, "--json", "--no-store")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert (found["enough"], found["stored"], found["floor"], found["queries"]) == (False, None, 0.99, 30)
    assert f"{found['recall']:.3f}" == shown
    assert f"{found['before']['recall']:.3f}" == shown
    assert found["low"] <= found["recall"] <= found["high"]
    assert stored(indexed) == 1


def test_rows_of_the_table(run: Run, indexed: Conn) -> None:
    result = run("watch", "papers", "--sample", "20", "--floor", "0.5")
    assert result.exit_code == 0
    assert "; 20 rows, each searched for without itself, 100 candidates" in result.stdout


def test_recorded_queries(run: Run, indexed: Conn) -> None:
    result = run("watch", "papers", "--recorded")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no recorded query of embedding of papers to use" in result.stderr
    mrl.search_many(indexed, "papers", vectors(30, FULL_DIMS, seed=1), record=1)
    result = run("watch", "papers", "--sample", "20", "--candidates", "10", "--floor", "0.99")
    assert "; 20 recorded queries, 10 candidates" in result.stdout
    assert result.stderr.endswith("mrl-pg eval papers --recorded\n")
    assert json.loads(run("watch", "papers", "--floor", "0", "--json").stdout)["source"] == "recorded"
    assert run("watch", "papers", "--recorded", "--queries", __file__).exit_code == 2
    result = run("watch", "papers", "--no-recorded", "--sample", "20", "--floor", "0")
    assert "; 20 rows, each searched for without itself" in result.stdout


def test_texts_need_a_model(run: Run, indexed: Conn, tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"id": 1, "text": "a"}\n')
    result = run("watch", "papers", "--queries", str(tmp_path / "texts.jsonl"))
    assert result.exit_code == 2
    assert "papers does not know the model of its embeddings. Name it with --model." in result.stderr


def test_no_index(run: Run, papers: Conn) -> None:
    result = run("watch", "papers")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: prefix embedding_8 of papers has no valid index. Run: mrl-pg index papers --prefix embedding_8\n"
    )


def test_stopped(dsn: str, indexed: Conn) -> None:
    # Nobody gets past the first exact search.
    with indexed.transaction(), program(dsn, "watch", "papers", "--budget", "30") as process:
        indexed.execute("LOCK TABLE papers IN ACCESS EXCLUSIVE MODE")
        wait_for(lambda: indexed.execute("SELECT FROM pg_locks WHERE NOT granted").rowcount == 1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    assert err == "\nStopped. Nothing was stored; with fewer --sample or a --budget it ends sooner.\n"
    assert stored(indexed) == 0


def test_progress_on_a_terminal(dsn: str, indexed: Conn) -> None:
    code, written = on_terminal(dsn, "watch", "papers", "--floor", "0")
    assert code == 0
    assert "of 100 queries" in written
    assert "recall@10 of papers" in written


def test_defaults_are_those_of_the_verb() -> None:
    text = help_of("watch")
    assert f"Replay so many queries; {DEFAULT_REPLAYED} if left out." in text
    assert f"where recall is under it; {DEFAULT_FLOOR:g} if left out." in text
    assert f"Seconds for the searches; {DEFAULT_BUDGET:g} if left out." in text
