"""mrl-pg eval --cold: a command that restarts the server, one that fails, and one that the server does not survive."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import psycopg
import pytest

import mrl_pg.psycopg as mrl
from mrl_pg import embedded
from mrl_pg.psycopg import cold
from mrl_pg.search import search_plan
from tests.cli.conftest import FULL_DIMS, Run, insert, invoke
from tests.conftest import Conn, vectors

COMMAND = ("eval", "papers", "--dims", "8", "--kinds", "truncate", "--sample", "120", "--cold")


@pytest.fixture
def own_server() -> Iterator[str]:
    """A server that only one test restarts, with papers and two indexes."""
    with embedded.server(settings={"fsync": "off"}) as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            mrl.install(conn)
            conn.execute("CREATE TABLE papers (id bigint PRIMARY KEY, title text, year int, embedding vector(32))")
            for dims in (4, 8):
                mrl.add_prefix(conn, "papers", dims=dims)
            insert(conn, vectors(500, FULL_DIMS))
            for dims in (4, 8):
                mrl.create_index(conn, "papers", prefix=f"embedding_{dims}")
        yield dsn


def restart(dsn: str) -> str:
    """Returns the command that restarts a server, which keeps the output that it is given."""
    with psycopg.connect(dsn) as conn:
        ((directory, number),) = conn.execute(
            "SELECT current_setting('data_directory'), current_setting('server_version_num')::int / 10000"
        ).fetchall()
    user = "runuser -u pgserver -- " if os.geteuid() == 0 else ""
    return f"{user}{embedded.bin_dir(number)}/pg_ctl restart -m fast -w -D {directory}"


def test_the_first_searches_after_a_restart(own_server: str) -> None:
    def started(dsn: str) -> object:
        with psycopg.connect(dsn) as conn:
            return conn.execute("SELECT pg_postmaster_start_time()").fetchone()

    before = started(own_server)
    settings = ("--candidates", "20,100,200", "--ef-search", "60,120")
    found = json.loads(invoke(own_server, *COMMAND, restart(own_server), *settings, "--json").output)
    assert started(own_server) != before
    assert [(one["prefix"], one["candidates"], one["ef_search"], one["searches"]) for one in found["cold"]] == [
        (prefix, 100, 120, 100) for prefix in ("embedding_4", "embedding_8")
    ]
    warm = {(one["prefix"], one["candidates"], one["ef_search"]): one for one in found["indexes"]}
    assert len(warm) == 12
    for one in found["cold"]:
        # The first looks up tables and prefixes, and loads pgvector.
        assert one["first_ms"] > one["p50_ms"] > 0
        same = warm[one["prefix"], one["candidates"], one["ef_search"]]
        assert one["recall"]["mean"] == pytest.approx(same["recall"]["mean"], abs=0.05)


def test_figures_are_told_beside_the_warm_ones(run: Run, papers: Conn, tmp_path: object) -> None:
    mrl.create_index(papers, "papers")
    report, figures = (f"{tmp_path}/{name}" for name in ("report.html", "figures.csv"))
    result = run(*COMMAND, "true", "--report", report, "--csv", figures)
    lines = result.output.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("The first 100 searches after the caches were"))
    assert lines[at + 2].split("\t")[4:] == ["first", "p50", "p95", "warm p50", "warm p95"]
    assert lines[at + 3].startswith("embedding_8\t100\t100\t")
    with open(report, encoding="utf-8") as page, open(figures, encoding="utf-8") as csv:
        assert "cold: the first 100, the first of all" in page.read()
        assert sum(line.startswith("cold,") for line in csv) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("echo no disk >&2; exit 3",), "the command 'echo no disk >&2; exit 3' failed with exit code 3: no disk. Try"),
        (("false",), "the command 'false' failed with exit code 1, and said nothing. Try it in a shell,"),
        (("true", "--no-index"), "cold = 'true' is a command before searches through indexes."),
    ],
)
def test_a_command_that_fails(run: Run, papers: Conn, arguments: tuple[str, ...], message: str) -> None:
    mrl.create_index(papers, "papers")
    result = run(*COMMAND, *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr


def test_a_server_that_does_not_come_back(run: Run, papers: Conn, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mrl.create_index(papers, "papers")
    monkeypatch.setattr(cold, "SERVER_SECONDS", 0.5)
    psql = f"{embedded.bin_dir()}/psql -q '{server}'"
    command = f"{psql} -c 'ALTER DATABASE {papers.info.dbname} ALLOW_CONNECTIONS false'"
    result = run(*COMMAND, command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "the server lets nobody in 0.5 s after" in result.stderr
    assert f'database "{papers.info.dbname}" is not currently accepting connections' in result.stderr


def test_the_setting_is_that_of_a_search_or_the_nearest_measured() -> None:
    def plans(*settings: tuple[int, int]) -> tuple[int, int]:
        usual = cold.usual_plan([search_plan(candidates=n, ef_search=ef) for n, ef in settings])
        return usual.candidates, usual.ef_search

    assert plans((20, 20), (100, 40), (100, 100), (200, 100)) == (100, 100)
    assert plans((20, 40), (50, 40), (50, 400)) == (50, 40)
