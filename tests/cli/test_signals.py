"""Stopped at any moment, a command says how to go on, and goes on when it is run again."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import psycopg
import pytest

from tests.cli.conftest import INDEX, invoke, missing, on_terminal, program, without_prefix
from tests.conftest import Conn


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_backfill(dsn: str, papers: Conn, number: signal.Signals) -> None:
    without_prefix(papers)
    with program(dsn, "backfill", "papers", "--batch-size", "10", "--sleep", "0.1") as process:
        wait_for(lambda: missing(papers) < 480)
        process.send_signal(number)
        out, err = process.communicate()
    left = missing(papers)
    assert 0 < left < 480
    assert out == ""
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert err == f"\nStopped after {500 - left} rows, which stay filled. To go on, run the same command again.\n"
    assert invoke(dsn, "backfill", "papers").output.startswith(f"Filled embedding_8 of {left} rows")
    assert missing(papers) == 0


def test_index(dsn: str, papers: Conn) -> None:
    def waits() -> bool:
        return papers.execute("SELECT FROM pg_stat_progress_create_index WHERE current_locker_pid > 0").rowcount == 1

    with psycopg.connect(dsn) as writer, program(dsn, "index", "papers") as process:
        writer.execute("UPDATE papers SET id = id WHERE id = 0")
        # A build that began before is too quick to be stopped.
        wait_for(waits)
        process.send_signal(signal.SIGINT)
        wait_for(lambda: not waits())
        writer.commit()
        out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert err == "\nStopped. To build it, run the same command again.\n"
    assert papers.execute("SELECT to_regclass(%s)", (INDEX,)).fetchone() == (None,)
    assert invoke(dsn, "index", "papers").output.startswith(f"Built {INDEX}")


def test_server_gone_in_the_middle_of_a_backfill(dsn: str, papers: Conn) -> None:
    without_prefix(papers)
    with program(dsn, "backfill", "papers", "--batch-size", "10", "--sleep", "0.1") as process:
        wait_for(lambda: missing(papers) < 480)
        papers.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'mrl-pg' AND datname = current_database()"
        )
        out, err = process.communicate()
    assert (process.returncode, out) == (1, "")
    assert err.startswith("Error: the connection failed after key ")
    assert err.endswith("Run the backfill again.\n")


def test_progress_on_a_terminal(dsn: str, papers: Conn) -> None:
    without_prefix(papers)
    code, written = on_terminal(dsn, "backfill", "papers", "--batch-size", "20", "--sleep", "0.05")
    assert code == 0
    assert "of 500 rows, " in written
    assert "rows/s" in written
    assert "left" in written
    assert "Filled embedding_8 of 500 rows" in written
    code, written = on_terminal(dsn, "status")
    assert code == 0
    assert "embedding vector(32)" in written
    assert "embedding_8 has no valid index. Next: mrl-pg index papers --prefix embedding_8" in written
    code, written = on_terminal(dsn, "index", "papers")
    assert code == 0
    assert f"Built {INDEX}" in written
