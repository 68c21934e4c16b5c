"""Generated queries: the real SDK against a server that misbehaves, and a file that is whole whatever happens."""

from __future__ import annotations

import json
import logging
import re
import signal
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

import mrl_pg.psycopg as mrl
from mrl_pg import GenerateError, MrlError, SearchError
from mrl_pg.chat import Chat, Reply, openai_chat
from mrl_pg.generated import read_kept
from mrl_pg.prompt import INSTRUCTIONS, KINDS, MalformedError, ask_for_queries, read_answer
from mrl_pg.psycopg.queries import DEFAULT_MAX_CHARS, DEFAULT_QUERY_ROWS, MAX_FAILED_IN_A_ROW, GenerateProgress
from mrl_pg.queries import read_queries
from tests.cli.conftest import invoke, on_terminal, program
from tests.cli.test_help import help_of
from tests.conftest import Conn
from tests.embed.conftest import KEY, Answer, Api, completion, cut, documents, refuse

MODEL = "gpt-5-nano"
GOOD = '{"name": "a b", "description": "what it is", "vibe": "warm"}'


@pytest.fixture
def docs(conn: Conn, api: Api, monkeypatch: pytest.MonkeyPatch) -> Conn:
    """A connection to a database with 40 texts; the environment leads to the API."""
    documents(conn, 40)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", api.url)
    return conn


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "queries.jsonl"


def chat_of(api: Api, **options: Any) -> Chat:
    defaults: dict[str, Any] = {"base_url": api.url, "api_key": KEY, "max_retries": 3, "concurrency": 1}
    return openai_chat(MODEL, **(defaults | options))


def generate(conn: Conn, chat: Chat, out: Path, **options: Any) -> GenerateProgress:
    defaults: dict[str, Any] = {"text_column": "body", "rows": 12}
    return mrl.generate_queries(conn, "documents", chat, out, **(defaults | options))


def rows_of(out: Path) -> list[str]:
    """Returns the row of every line."""
    return [next(iter(json.loads(line)["relevant"])) for line in out.read_text().splitlines()]


# Prompt and answer --------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [GOOD, f"```json\n{GOOD}\n```", f"Here {{you}} are: {GOOD} Enjoy!", f"{{ {GOOD}"])
def test_what_stands_around_an_answer_does_not_matter(answer: str) -> None:
    assert read_answer(answer) == {"name": "a b", "description": "what it is", "vibe": "warm"}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "it is empty"),
        ("I cannot do that.", "it has no JSON object"),
        ("{" * 20_000, "it has no JSON object"),
        ('{"a":' * 20_000, "it has no JSON object"),
        ('["a", "b", "c"]', "it has no JSON object"),
        (GOOD[:-4], "it has no JSON object"),
        ('{"name": "a", "description": "b"}', "'vibe' is missing or no text"),
        ('{"name": " ", "description": "b", "vibe": "c"}', "'name' is missing or no text"),
        ('{"name": ["a"], "description": "b", "vibe": "c"}', "'name' is missing or no text"),
        ('{"name": "a", "description": "A", "vibe": "c"}', "two queries are the same"),
        (json.dumps(dict.fromkeys(KINDS, "x" * 501)), "'name' has 501 characters, expected 500 at most"),
    ],
)
def test_malformed_answers(answer: str, reason: str) -> None:
    with pytest.raises(MalformedError, match=rf"^{re.escape(reason)}$"):
        read_answer(answer)


def test_queries_are_one_line_each() -> None:
    assert read_answer('{"name": " a\\n b ", "description": "c\\td", "vibe": "é"}') == {
        "name": "a b",
        "description": "c d",
        "vibe": "é",
    }


def test_a_malformed_answer_is_asked_for_again_a_few_times() -> None:
    answers = ["no", GOOD]
    outcome = ask_for_queries(Chat(lambda *_: Reply(answers.pop(0), 10, 3), "m"), "text")
    assert outcome.queries == read_answer(GOOD)
    assert (outcome.tokens_in, outcome.tokens_out) == (20, 6)
    calls: list[str] = []

    def never(_: str, text: str) -> Reply:
        calls.append(text)
        return Reply("no", 1, 1)

    outcome = ask_for_queries(Chat(never, "m"), "text")
    assert (outcome.queries, outcome.reason, calls) == (None, "it has no JSON object", ["text"] * 3)


# The API ------------------------------------------------------------------------------------------------


def test_what_is_sent(api: Api) -> None:
    assert json.loads(chat_of(api).function(INSTRUCTIONS, "one").text or "") == {
        "name": "one name",
        "description": "what one is about",
        "vibe": "feels like one",
    }
    assert api.asked == [
        {
            "model": MODEL,
            "messages": [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": "one"}],
        }
    ]


def test_too_many_requests_waits_as_told(api: Api) -> None:
    api.tricks = [refuse(429, headers={"Retry-After": "2"})]
    assert chat_of(api).function("i", "x").text
    first, second = api.times
    assert 2.0 <= second - first < 4.0


def test_server_errors_and_cut_connections_are_tried_again(api: Api) -> None:
    api.tricks = [refuse(500), cut, refuse(503)]
    assert chat_of(api).function("i", "x").text
    assert len(api.asked) == 4


@pytest.mark.parametrize(
    ("trick", "message"),
    [
        (refuse(429, "slow down"), r"refused the request \(HTTP 429\): slow down Check your quota, or wait"),
        (refuse(500, "oh"), r"refused the request \(HTTP 500\): oh Run it again\."),
        (refuse(400, "no such model"), r"refused the request \(HTTP 400\): no such model Check the model\."),
        (cut, r"the API cannot be reached \(Connection error\..*\)\. Check the network"),
        (lambda handler, _: handler.send(200, b"<html>"), r"Check base_url, which usually ends in /v1\."),
        (lambda handler, _: handler.send(200, b"[]"), r"Check base_url, which usually ends in /v1\."),
        (lambda handler, _: handler.send(200, {"error": "no"}), r"not with a chat completion\. Check base_url"),
    ],
)
def test_gives_up_in_the_end(api: Api, trick: Any, message: str) -> None:
    api.always = trick
    with pytest.raises(GenerateError, match=message):
        chat_of(api, max_retries=1).function("i", "x")
    assert len(api.asked) <= 2


@pytest.mark.parametrize(
    "answer", [completion(None), completion("") | {"choices": []}, completion("") | {"usage": None}]
)
def test_a_model_that_says_nothing(api: Api, answer: Answer) -> None:
    api.always = lambda *_: answer
    assert chat_of(api).function("i", "x").text == ""


def test_a_text_that_is_refused_is_no_request_that_is_wrong(api: Api) -> None:
    api.max_chars = 200
    assert chat_of(api).function("i", "x" * 300) == Reply(None, 300, 40)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
def test_the_key_never_shows(api: Api, docs: Conn, out: Path, status: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    api.always = refuse(status, f"Incorrect API key provided: {KEY}.\nBearer {KEY}")
    chat = chat_of(api, max_retries=0)
    with pytest.raises(GenerateError, match=f"HTTP {status}") as raised:
        generate(docs, chat, out)
    error: BaseException | None = raised.value
    while error:
        assert KEY not in repr(error) + str(error)
        error = error.__cause__ or error.__context__
    assert KEY not in repr(chat) + str(chat) + caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"api_key": ""}, "there is no API key: OPENAI_API_KEY is not set"),
        ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"base_url": "localhost:8000/v1"}, r"base_url 'localhost:8000/v1' is no URL\. Write https://host/v1\."),
    ],
)
def test_bad_options(api: Api, options: dict[str, Any], message: str) -> None:
    with pytest.raises(GenerateError, match=message):
        chat_of(api, **options)


# The file -----------------------------------------------------------------------------------------------


def test_a_file_for_eval(docs: Conn, api: Api, out: Path) -> None:
    found = generate(docs, chat_of(api), out)
    assert (found.there, found.total, found.written, found.empty, found.failed) == (0, 12, 12, [], {})
    assert (found.tokens_in, found.tokens_out) == (12 * 300, 12 * 40)
    assert found.cost == pytest.approx((12 * 300 * 0.05 + 12 * 40 * 0.4) / 1e6)
    queries = read_queries(out)
    assert len(queries.ids) == len(queries.texts or ()) == len(queries.qrels) == 36
    (row, *_) = rows_of(out)
    assert [json.loads(line) for line in out.read_text().splitlines()[:3]] == [
        {"id": f"{row}/{kind}", "text": text, "kind": kind, "relevant": {row: 1}, "generated": True, "model": MODEL,
         "table": "documents"}
        for kind, text in {"name": f"text {row} name", "description": f"what text {row} is about",
                           "vibe": f"feels like text {row}"}.items()
    ]  # fmt: skip
    assert queries.qrels[f"{row}/vibe"] == {row: 1.0}
    assert docs.info.transaction_status == TransactionStatus.IDLE


def test_the_sample_is_the_same_and_the_first_of_a_larger_one(docs: Conn, api: Api, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b", "c", "d")]
    for path, options in zip(paths, ({}, {"concurrency": 4}, {"rows": 20}, {"seed": 1}), strict=True):
        concurrency = options.pop("concurrency", 1)
        docs.execute("UPDATE documents SET touched = touched + 1")
        generate(docs, chat_of(api, concurrency=concurrency), path, **options)
    a, b, c, d = (path.read_text() for path in paths)
    assert a == b
    assert c.startswith(a)
    assert len(c) > len(a)
    assert a != d
    assert sorted(set(rows_of(paths[0])), key=int) != rows_of(paths[0])[::3]


def test_a_composite_key_and_a_name_of_its_own(conn: Conn, api: Api, out: Path) -> None:
    conn.execute('CREATE SCHEMA "Ä b"; CREATE TABLE "Ä b"."x""y" (a int, b text, "Te xt" text, PRIMARY KEY (a, b))')
    conn.execute("""INSERT INTO "Ä b"."x""y" VALUES (1, 'e"n', 'hello'), (2, 'de', 'salü')""")
    mrl.generate_queries(conn, ("Ä b", 'x"y'), chat_of(api), out, text_column="Te xt")
    assert set(rows_of(out)) == {'(1,"e""n")', "(2,de)"}
    assert "salü name" in (read_queries(out).texts or ())


def test_rows_that_no_search_finds_and_blank_ones(docs: Conn, api: Api, out: Path) -> None:
    mrl.add_prefix(docs, "documents", dims=8)
    docs.execute("UPDATE documents SET embedding = array_fill(1, ARRAY[32])::vector WHERE id < 6")
    docs.execute("UPDATE documents SET body = NULL WHERE id = 1; UPDATE documents SET body = '' WHERE id = 2")
    docs.execute("UPDATE documents SET body = E' \\n\\u2003' WHERE id = 3")
    found = generate(docs, chat_of(api), out)
    assert set(rows_of(out)) == {"0", "4", "5"}
    assert (found.written, found.empty) == (3, ["3"])


def test_texts_are_cut(docs: Conn, api: Api, out: Path) -> None:
    docs.execute("UPDATE documents SET body = repeat('ü', 5000)")
    generate(docs, chat_of(api), out, rows=1)
    generate(docs, chat_of(api), out, rows=2, max_chars=10)
    assert [body["messages"][1]["content"] for body in api.asked] == ["ü" * 4000, "ü" * 10]


def test_a_rerun_asks_for_what_is_missing_only(docs: Conn, api: Api, out: Path) -> None:
    first = generate(docs, chat_of(api), out, limit=5)
    assert (first.total, first.written, len(api.asked)) == (5, 5, 5)
    whole = out.read_bytes()
    again = generate(docs, chat_of(api), out)
    assert (again.there, again.total, again.written, len(api.asked)) == (5, 7, 7, 12)
    assert out.read_bytes().startswith(whole)
    assert generate(docs, chat_of(api), out).total == 0
    assert len(api.asked) == 12
    assert len(read_queries(out).ids) == 36


def test_whatever_is_torn_off_is_repaired(docs: Conn, api: Api, out: Path) -> None:
    generate(docs, chat_of(api), out, rows=3)
    whole = out.read_bytes()
    second = len(b"".join(whole.splitlines(keepends=True)[:6]))
    for size in [*range(1, 12), *range(second + 1, len(whole), 7), len(whole) - 1]:
        out.write_bytes(whole[:size])
        kept = read_kept(out, "documents")
        assert kept.size == (0 if size < 12 else second)
        assert len(kept.rows) == (0 if size < 12 else 2)
        assert out.read_bytes() == whole[:size]  # read only
        if size % 50 < 7:
            generate(docs, chat_of(api), out, rows=3)
            assert out.read_bytes() == whole


def test_lines_that_were_deleted_by_hand_stay_deleted(docs: Conn, api: Api, out: Path) -> None:
    generate(docs, chat_of(api), out, rows=3)
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:1] + lines[3:]))
    assert generate(docs, chat_of(api), out, rows=3).total == 0


@pytest.mark.parametrize(
    "content",
    [
        '{"id": 1, "text": "by hand"}\n',
        '{"id": 1, "text": "by hand"}',
        '{"id": "1", "text": "by hand"}',
        "not JSON\n",
        "no",
        "\n",
        '{"id": "1/name", "text": "a", "generated": false, "table": "documents", "relevant": {"1": 1}}\n',
        '{"id": "1/name", "text": "a", "generated": true, "table": "documents", "relevant": {}}\n',
        '{"id": "1/name", "text": "a", "generated": true, "table": "documents", "relevant": [1]}\n',
    ],
)
def test_a_file_of_somebody_else_is_left_alone(docs: Conn, api: Api, out: Path, content: str) -> None:
    out.write_text(content)
    with pytest.raises(GenerateError, match=r"^line 1 of .* was not written by mrl-pg queries\. Name another file"):
        generate(docs, chat_of(api), out)
    assert out.read_text() == content
    assert api.asked == []


def test_a_file_for_another_table_is_left_alone(docs: Conn, api: Api, out: Path) -> None:
    generate(docs, chat_of(api), out, rows=1)
    docs.execute("ALTER TABLE documents RENAME TO others")
    with pytest.raises(GenerateError, match=r"line 1 of .* is a query for table documents, not others"):
        mrl.generate_queries(docs, "others", chat_of(api), out, text_column="body")


def test_malformed_answers_are_counted_and_named(docs: Conn, api: Api, out: Path) -> None:
    api.tricks = [lambda *_: completion("no")] * 3
    found = generate(docs, chat_of(api), out)
    (failed,) = found.failed.items()
    assert failed[1] == "it has no JSON object"
    assert (found.written, found.done, len(api.asked)) == (11, 12, 14)
    assert found.tokens_in == 14 * 300
    assert failed[0] not in rows_of(out)
    again = generate(docs, chat_of(api), out)
    assert (again.written, again.failed) == (1, {})
    assert rows_of(out)[-1] == failed[0]


def test_a_model_that_never_answers_as_asked_is_stopped(docs: Conn, api: Api, out: Path) -> None:
    api.tricks = [lambda _, answer: answer] * 2
    api.always = lambda *_: completion("{}")
    with pytest.raises(
        GenerateError, match=r"failed 10 rows .*'name' is missing or no text\. 2 rows are written, 9,600"
    ):
        generate(docs, chat_of(api), out, rows=40)
    assert len(read_queries(out).ids) == 6
    # Those that are under way meanwhile are asked for to no end, but not many.
    assert len(api.asked) <= 2 + 3 * MAX_FAILED_IN_A_ROW + 3


def test_what_was_written_before_an_error_stays(docs: Conn, api: Api, out: Path) -> None:
    api.tricks = [lambda _, answer: answer] * 3
    api.always = refuse(500, "oh")
    with pytest.raises(GenerateError, match=r"^the queries of 3 rows are in .* and stay so, but then: the API refused"):
        generate(docs, chat_of(api, max_retries=0), out)
    api.always = None
    assert (generate(docs, chat_of(api), out).there, len(read_queries(out).ids)) == (3, 36)


def test_a_full_disk_leaves_whole_rows(docs: Conn, api: Api, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def fsync(_: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("mrl_pg.generated.os.fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        generate(docs, chat_of(api), out)
    assert len(rows_of(out)) == 9
    assert generate(docs, chat_of(api), out).written == 9


@pytest.mark.parametrize("options", [{"rows": 0}, {"limit": 0}, {"max_chars": 0}, {"attempts": 0}])
def test_bad_numbers(docs: Conn, api: Api, out: Path, options: dict[str, int]) -> None:
    with pytest.raises(GenerateError, match="must be at least 1, not"):
        generate(docs, chat_of(api), out, **options)
    assert not out.exists()


def test_bad_targets(docs: Conn, dsn: str, api: Api, out: Path) -> None:
    for target, column, message in (
        ("nothing", "body", "table nothing does not exist"),
        ("documents", "nothing", "column 'nothing' of documents does not exist"),
        ("documents", "embedding", "column 'embedding' of documents does not exist or is a vector"),
        ("keyless", "body", "keyless has no primary key"),
    ):
        docs.execute("CREATE TABLE IF NOT EXISTS keyless (body text)")
        with pytest.raises(SearchError, match=message):
            mrl.generate_queries(docs, target, chat_of(api), out, text_column=column)
    with psycopg.connect(dsn) as other:
        other.execute("SELECT 1")
        with pytest.raises(MrlError, match="the connection is in a transaction"):
            generate(other, chat_of(api), out)
    assert not out.exists()


# The command --------------------------------------------------------------------------------------------

COMMAND = ("queries", "documents", "--text-column", "body", "--model", MODEL, "--rows", "12")


def test_the_command(dsn: str, docs: Conn, api: Api, out: Path) -> None:
    docs.execute("UPDATE documents SET body = ' ' WHERE id = 3")
    estimate = invoke(dsn, *COMMAND, "--rows", "40", "--out", str(out), "--dry-run").output
    assert re.match(
        r"39 rows of documents wait for their queries: about [\d,]+ tokens in, 5,850 out, under \$0\.01\.\n", estimate
    )
    assert (api.asked, out.exists()) == ([], False)
    result = invoke(dsn, *COMMAND, "--rows", "40", "--limit", "30", "--out", str(out))
    assert result.output.splitlines() == [
        f"Wrote queries for 30 rows to {out}: 9,000 tokens in, 1,200 out, under $0.01.",
        "1 rows are passed over, their text is blank: 3",
        f"Next: mrl-pg eval documents --queries {out}",
    ]
    api.tricks = [lambda *_: completion("no")] * 3
    lines = invoke(dsn, *COMMAND, "--rows", "40", "--out", str(out)).output.splitlines()
    assert lines[0].endswith(f" 30 rows are in {out} already.")
    assert json.loads(invoke(dsn, *COMMAND, "--out", str(out), "--json").output)["there"] >= 11


def test_failed_rows_are_named(dsn: str, docs: Conn, api: Api, out: Path) -> None:
    docs.execute("DELETE FROM documents WHERE id > 1")
    api.always = lambda handler, answer: completion("no") if "text 1" in str(api.asked[-1]["messages"][1]) else answer
    lines = invoke(dsn, *COMMAND, "--out", str(out)).output.splitlines()
    assert lines[1:3] == [
        "1 rows got no answer that holds three queries: 1 (it has no JSON object)",
        "To ask for them again, run the same command again.",
    ]


def test_prices_that_are_not_known(dsn: str, docs: Conn, out: Path) -> None:
    command = (*COMMAND[:4], "--model", "mine", "--out", str(out), "--dry-run")
    assert "$" not in invoke(dsn, *command).output
    assert invoke(dsn, *command, "--price", "1000", "2000").output.count("$") == 1


def test_a_bad_key_is_told_and_not_shown(dsn: str, docs: Conn, api: Api, out: Path) -> None:
    api.always = refuse(401, f"Incorrect API key provided: {KEY}.")
    with program(dsn, *COMMAND, "--out", str(out)) as process:
        stdout, stderr = process.communicate()
    assert (process.returncode, stdout) == (1, "")
    assert stderr == (
        "Error: the API refused the request (HTTP 401): Incorrect API key provided: …. "
        "Check the API key (OPENAI_API_KEY).\n"
    )


def test_no_key_no_directory(dsn: str, docs: Conn, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoke(dsn, *COMMAND, "--out", str(out / "x" / "y")).exit_code == 2
    monkeypatch.delenv("OPENAI_API_KEY")
    result = invoke(dsn, *COMMAND, "--out", str(out))
    assert result.exit_code == 1
    assert "there is no API key" in result.stderr
    assert invoke(dsn, *COMMAND, "--out", str(out), "--dry-run").exit_code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_and_run_again(dsn: str, docs: Conn, api: Api, out: Path, number: signal.Signals) -> None:
    def slow(_: Any, answer: Answer) -> Answer:
        time.sleep(0.3)
        return answer

    api.always = slow
    with program(dsn, *COMMAND, "--rows", "40", "--out", str(out)) as process:
        until = time.monotonic() + 20
        while not (out.exists() and len(rows_of(out)) >= 12) and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(number)
        stdout, stderr = process.communicate()
    written = len(read_queries(out).ids) // 3
    assert 4 <= written < 40
    assert stdout == ""
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert stderr == (
            f"\nStopped after {written} rows, whose queries stay in {out}. To go on, run the same command again.\n"
        )
    api.always = None
    assert invoke(dsn, *COMMAND, "--rows", "40", "--out", str(out)).output.startswith(
        f"Wrote queries for {40 - written} rows"
    )
    assert len(read_queries(out).ids) == 120


def test_progress_on_a_terminal(dsn: str, docs: Conn, api: Api, out: Path) -> None:
    def slow(_: Any, answer: Answer) -> Answer:
        time.sleep(0.3)
        return answer

    api.always = slow
    code, written = on_terminal(dsn, *COMMAND, "--out", str(out))
    assert code == 0
    for shown in ("tokens in", "of 12 rows", "Wrote queries for 12 rows"):
        assert shown in written


def test_defaults_are_those_of_the_verb() -> None:
    assert f"three queries each; {DEFAULT_QUERY_ROWS} if left out." in help_of("queries")
    assert f"that are sent; {DEFAULT_MAX_CHARS:,} if left out." in help_of("queries")
