"""What goes wrong is told in a line or two, with the next step, and never with a password or a traceback."""

from __future__ import annotations

import subprocess

import psycopg
import pytest
from click.testing import CliRunner, Result
from psycopg.conninfo import make_conninfo

from mrl_pg.cli import main
from tests.cli.conftest import Run, environment, invoke, program
from tests.conftest import Conn

UNREADABLE = (
    "Error: the DSN cannot be read. Write postgresql://user@host/database or 'host=… user=… dbname=…', with "
    "@ : / ? # and % of a password percent-encoded in the former and spaces quoted in the latter.\n"
)


def status(dsn: str) -> Result:
    return CliRunner().invoke(main, ["status", "--dsn", dsn])


@pytest.mark.parametrize("dsn", ["postgresql://u:geheim@127.0.0.1:1/x", "host=127.0.0.1 port=1 password=geheim"])
def test_unreachable_server(dsn: str) -> None:
    result = status(dsn)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        'Error: connection to server at "127.0.0.1", port 1 failed: Connection refused. '
        "Check --dsn, MRL_PG_DSN or the PG… variables, or try --dsn embedded.\n"
    )


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:ge@heim@127.0.0.1:1/x",
        "postgresql://u:ge/heim@127.0.0.1:1/x",
        "postgresql://u:ge?heim@127.0.0.1:1/x",
        "postgresql://u:ge#heim@127.0.0.1:1/x",
        "postgresql://u:ge%heim@127.0.0.1:1/x",
        "postgresql+psycopg://u:geheim@127.0.0.1:1/x",
        "host=127.0.0.1 port=1 password=ge heim",
        "geheim",
    ],
)
def test_a_password_never_shows(dsn: str) -> None:
    for command in (["status"], ["create-table", "t", "--full-dims", "8", "--dims", "4"], ["migrate"]):
        result = CliRunner().invoke(main, [*command, "--dsn", dsn])
        assert (result.exit_code, result.output) == (1, UNREADABLE)


def test_wrong_password_and_unknown_database(server: str) -> None:
    assert "does not exist" in status(make_conninfo(server, dbname="nowhere", password="geheim")).stderr
    assert "geheim" not in status(make_conninfo(server, user="nobody", password="geheim")).stderr


def test_dsn_option_comes_before_the_environment(dsn: str, bare_dsn: str) -> None:
    assert invoke(bare_dsn, "status").exit_code == 1
    assert invoke(bare_dsn, "status", "--dsn", dsn).exit_code == 0


def test_libpq_variables(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in psycopg.conninfo.conninfo_to_dict(dsn).items():
        monkeypatch.setenv({"dbname": "PGDATABASE"}.get(name, f"PG{name.upper()}"), str(value))
    assert CliRunner().invoke(main, ["status"]).exit_code == 0


def test_embedded_without_a_directory() -> None:
    assert status("embedded:").stderr == (
        "Error: 'embedded:' names no directory. Write --dsn embedded:DIR, or just --dsn embedded.\n"
    )


@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("add-prefix", "papers", "--dims", "8"),
        ("drop-prefix", "papers", "embedding_8"),
        ("backfill", "papers"),
        ("index", "papers"),
        ("index", "papers", "--sql"),
        ("search", "papers", "--vector-file", "-"),
    ],
)
def test_not_installed(bare_dsn: str, command: tuple[str, ...]) -> None:
    result = invoke(bare_dsn, *command, input="[1, 2]")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: mrl-pg is not installed in this database. Run: mrl-pg install\n"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("status", "nope"), 'relation "nope" does not exist'),
        (("add-prefix", "nope", "--dims", "8"), 'relation "nope" does not exist'),
        (("backfill", "nope"), "table nope does not exist. Check the name and the search_path, or run: "),
        (("add-prefix", "papers", "--dims", "0"), "dims must be between 1 and 4,000, not 0. "),
        (("add-prefix", "papers", "--dims", "0", "--sql"), "dims must be between 1 and 4,000, not 0. "),
        (("add-prefix", "papers", "--dims", "32"), "dims must be below the 32 dimensions of embedding, not 32\nHint: "),
        (("add-prefix", "papers", "--dims", "4", "--embedding", "title"), "column title of public.papers is text"),
        (
            ("add-prefix", "papers", "--dims", "8", "--kind", "half"),
            "dims must be the 32 dimensions of embedding, not 8\nHint: Kind half keeps the whole embedding: leave dims",
        ),
        (("drop-prefix", "papers", "nope"), "public.papers has no prefix nope\nHint: It has: embedding_8.\n"),
        (("backfill", "papers", "--batch-size", "0"), "batch_size must be at least 1, not 0. "),
        (("backfill", "papers", "--sleep", "-1"), "sleep must be at least 0 "),
        (("index", "papers", "--m", "1"), "m must be between 2 and 100, not 1. "),
        (("create-table", "x", "--full-dims", "8", "--dims", "8"), "dims must be below full_dims = 8, not 8. "),
        (
            ("create-table", "x", "--full-dims", "5000", "--kind", "half"),
            "dims must be between 1 and 4,000, not 5000. ",
        ),
    ],
)
def test_refusals(run: Run, papers: Conn, command: tuple[str, ...], message: str) -> None:
    result = run(*command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: {message}")


@pytest.mark.parametrize(
    "command",
    [
        ("nope",),
        ("index",),
        ("add-prefix", "papers"),
        ("add-prefix", "papers", "--kind", "truncate", "--layer-norm"),
        ("create-table", "x", "--full-dims", "8"),
        ("add-prefix", "papers", "--dims", "x"),
        ("search", "--nope"),
    ],
)
def test_usage(run: Run, command: tuple[str, ...]) -> None:
    result = run(*command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr


def test_permission_denied(run: Run, papers: Conn, dsn: str) -> None:
    papers.execute("DROP ROLE IF EXISTS stranger; CREATE ROLE stranger LOGIN")
    assert invoke(make_conninfo(dsn, user="stranger"), "index", "papers", "--allow-missing").stderr == (
        "Error: must be owner of table papers\n"
    )
    result = invoke(make_conninfo(dsn, user="stranger"), "backfill", "papers")
    assert (result.exit_code, result.stderr) == (1, "Error: permission denied for table papers\n")


def test_a_reader_that_leaves_is_no_error(dsn: str, papers: Conn) -> None:
    with program(dsn, "install", "--sql") as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        process.stdout = None
        assert "Traceback" not in process.stderr.read()


def test_a_program_ends_as_a_command_does(dsn: str) -> None:
    with program(dsn, "status", "nope") as process:
        out, err = process.communicate()
    assert (process.returncode, out, err) == (1, "", 'Error: relation "nope" does not exist\n')
    assert isinstance(process, subprocess.Popen)


def test_without_libpq(dsn: str) -> None:
    # In the tests' environment it is there; an implementation that is not stands in for none.
    with program(dsn, "status", env=environment(dsn) | {"PSYCOPG_IMPL": "c"}) as process:
        _, said = process.communicate()
    assert process.returncode == 1
    assert said.startswith("Error: couldn't import requested psycopg 'c' implementation: ")
    assert said.endswith("Run: pip install 'psycopg[binary]'\n")
    assert "Traceback" not in said
