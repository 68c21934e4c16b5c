"""mrl-pg embed, and mrl-pg search --text."""

from __future__ import annotations

import json
import re
import signal
import time
from typing import Any

import pytest
from click.testing import Result

import mrl_pg.psycopg as mrl
from mrl_pg.embedding import DEFAULT_BATCH_SIZE
from tests.cli.conftest import invoke, on_terminal, program
from tests.cli.test_help import help_of
from tests.conftest import Conn
from tests.embed.conftest import KEY, MODEL, Answer, Api, documents, refuse

COMMAND = ("embed", "documents", "--text-column", "body", "--model", MODEL)


@pytest.fixture
def filled(conn: Conn, api: Api, monkeypatch: pytest.MonkeyPatch) -> Conn:
    """A connection to a database with 100 texts; the environment leads to the API."""
    documents(conn, 100)
    mrl.add_prefix(conn, "documents", dims=8, model=MODEL)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", api.url)
    return conn


def embedded(conn: Conn) -> int:
    ((count,),) = conn.execute("SELECT count(embedding) FROM documents")
    return int(count)


def embed(dsn: str, *arguments: str) -> Result:
    return invoke(dsn, *COMMAND, *arguments)


def test_from_texts_to_a_search_by_words(dsn: str, filled: Conn, api: Api) -> None:
    result = embed(dsn)
    assert result.exit_code == 0
    assert re.fullmatch(
        r"Embedded 100 rows in [\d.]+ s \([\d,]+ rows/s\): 200 tokens, under \$0\.01\.\n", result.output
    )
    assert embed(dsn).output == "No row of documents waits for embedding.\n"
    assert invoke(dsn, "index", "documents").exit_code == 0
    search = ("search", "documents", "--text", "text 42", "--k", "1", "--columns", "body")
    for model in ((), ("--model", MODEL)):
        assert invoke(dsn, *search, *model).stdout.splitlines()[1].endswith("\t42\ttext 42")
    assert invoke(dsn, *search, "--sql").output.startswith("WITH mrl_before AS MATERIALIZED")
    assert "mrl_candidates" in invoke(dsn, *search, "--explain").output
    assert invoke(dsn, *search, "--dimensions", "16").stderr == (
        f"Error: query has 16 dimensions, expected 32. Embed it with {MODEL}, at full size.\n"
    )
    assert "holds embeddings of text-embedding-3-small, and those of x do not" in (
        invoke(dsn, *search, "--model", "x").stderr
    )


def test_json(dsn: str, filled: Conn) -> None:
    filled.execute("UPDATE documents SET body = '' WHERE id = 5")
    found = json.loads(embed(dsn, "--json", "--batch-size", "30", "--limit", "50").output)
    assert found.pop("seconds") > 0
    assert found == {
        "embedding": "embedding",
        "total": 50,
        "embedded": 50,
        "skipped": 1,
        "skipped_keys": [5],
        "missed": 0,
        "foreign": 0,
        "tokens": 100,
        "cost": 100 * 0.02 / 1e6,
        "last_key": 50,
        "dry_run": False,
    }


def test_dry_run_needs_no_key(dsn: str, filled: Conn, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    result = embed(dsn, "--dry-run")
    assert result.output == "100 rows of documents wait for embedding: about 230 tokens, under $0.01.\n"
    assert api.asked == []
    assert embedded(filled) == 0


def test_what_is_left_is_told(dsn: str, filled: Conn) -> None:
    filled.execute("UPDATE documents SET embedding = %s WHERE id = 0", (str([1.0] * 32),))
    filled.execute("UPDATE documents SET body = ' ' WHERE id BETWEEN 1 AND 30")
    lines = embed(dsn, "--limit", "60").output.splitlines()
    keys = ", ".join(map(str, range(1, 21)))
    assert lines[1:] == [
        f"30 rows are passed over: empty, or too long for the model. Their keys: {keys}…",
        "1 rows have an embedding from elsewhere and are left alone, also if their text changes. "
        "To have one made anew, set its embedding to NULL.",
        "Stopped at the limit. Next: the same command again",
    ]


@pytest.mark.parametrize("command", [COMMAND, ("search", "documents", "--text", "x")])
def test_no_key(dsn: str, filled: Conn, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    result = invoke(dsn, *command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "Error: there is no API key: OPENAI_API_KEY is not set. Set it; for a server that asks for none any word will "
        "do.\n"
    )


def test_a_bad_key_is_told_and_not_shown(dsn: str, filled: Conn, api: Api) -> None:
    api.always = refuse(401, f"Incorrect API key provided: {KEY}.")
    with program(dsn, *COMMAND) as process:
        out, err = process.communicate()
    assert (process.returncode, out) == (1, "")
    assert err == (
        "Error: the API refused the request (HTTP 401): Incorrect API key provided: …. "
        "Check the API key (OPENAI_API_KEY).\n"
    )


def test_stopped_and_run_again(dsn: str, filled: Conn, api: Api) -> None:
    def slow(_: Any, answer: Answer) -> Answer:
        time.sleep(0.1)
        return answer

    api.always = slow
    with program(dsn, *COMMAND, "--batch-size", "10") as process:
        until = time.monotonic() + 20
        while embedded(filled) < 30 and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    done = embedded(filled)
    assert 30 <= done < 100
    assert (process.returncode, out) == (130, "")
    assert err == f"\nStopped after {done} rows, which stay embedded. To go on, run the same command again.\n"
    assert embed(dsn).output.startswith(f"Embedded {100 - done} rows")
    assert embedded(filled) == 100


def test_progress_on_a_terminal(dsn: str, filled: Conn, api: Api) -> None:
    def slow(_: Any, answer: Answer) -> Answer:
        time.sleep(0.2)
        return answer

    api.always = slow
    code, written = on_terminal(dsn, *COMMAND, "--batch-size", "20")
    assert code == 0
    for shown in ("40 tokens, under $0.01", "of 100 rows, ", "rows/s", "left", "Embedded 100 rows"):
        assert shown in written


@pytest.mark.parametrize("query", [(), ("--text", "x", "--vector-file", "-")])
def test_one_query(dsn: str, filled: Conn, query: tuple[str, ...]) -> None:
    result = invoke(dsn, "search", "documents", *query, input="[1]")
    assert result.exit_code == 2
    assert "Error: Give the query either by --text or by --vector-file.\n" in result.stderr


def test_no_model(dsn: str, conn: Conn) -> None:
    documents(conn, 1)
    mrl.add_prefix(conn, "documents", dims=8)
    result = invoke(dsn, "search", "documents", "--text", "x")
    assert result.exit_code == 2
    assert "documents does not know the model of its embeddings. Name it with --model." in result.stderr


def test_defaults_are_those_of_the_verb() -> None:
    assert f"Rows a transaction; {DEFAULT_BATCH_SIZE:,} if left out." in help_of("embed")
