"""The demo on a part of the standard library, on a server of its own: from nothing, again, and afresh."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import psycopg
import pytest
from click.testing import CliRunner, Result
from psycopg import sql

from mrl_pg import embedded
from mrl_pg.cli import main
from mrl_pg.demo.corpus import Entry, read_stdlib

QUERY = "compute the median of numbers"


def demo(*arguments: str) -> Result:
    result = CliRunner(env={"COLUMNS": None}).invoke(main, ["demo", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def part() -> list[Entry]:
    """As many entries as 1,024 dims need, with those that the built-in queries are after."""
    wanted = {"base64", "bz2", "gzip", "lzma", "statistics", "subprocess", "threading"}
    return sorted(read_stdlib(), key=lambda entry: entry.module not in wanted)[:1400]


@pytest.fixture(autouse=True)
def _part_of_the_library(monkeypatch: pytest.MonkeyPatch, part: list[Entry]) -> None:
    monkeypatch.setattr("mrl_pg.demo.run.read_stdlib", lambda: part)


def test_from_nothing(directory: Path) -> None:
    result = demo("--dir", str(directory))
    assert result.exit_code == 0
    steps, searches = result.stdout.split("\n\n“compress bytes”\n")
    assert "documented functions, classes and methods read" in steps
    assert "Migrated: table stdlib" in steps
    assert re.search(r"embedding_512 added, backfilled \([\d,]+ rows/s\), indexed", steps)
    assert re.match(r"  0\.\d{3}  (bz2|gzip|lzma)\.compress  Compress ", searches)
    for title in ("base64.b64encode", "threading.Thread.join", "subprocess.check_output", "statistics.median"):
        assert f"  {title}  " in searches
    assert "mrl_candidates AS MATERIALIZED (\n" in searches
    assert re.search(r"<=> \(SELECT .*?\[0\.\d+,-?0\.\d+,-?0\.\d+,…\]", searches, re.DOTALL)
    ways = re.findall(r"^(.*?)  +([01]\.\d{3}) +([\d.]+) ms +([\d.,]+ [kM]B|–)$", searches, re.MULTILINE)
    names, recalls, _, _ = zip(*ways, strict=True)
    assert names == (
        "exact, without an index",
        "one stage: all 1,024 dims, ef_search 100",
        "two stages: first 512, 100 candidates",
        "two stages: first 256, 100 candidates",
        "two stages: first 256, 300 candidates",
    )
    exact, one_stage, longer, _, more = map(float, recalls)
    assert exact == 1
    assert one_stage >= 0.95
    assert longer >= 0.95
    assert more >= 0.9
    assert "latent semantic analysis" in searches
    assert "none of this is needed" in searches
    assert max(map(len, result.stdout.splitlines()[:-1])) <= 100


def test_again(directory: Path) -> None:
    result = demo("--dir", str(directory), QUERY)
    assert "Everything is there from the last time" in result.stdout
    assert "Migrated" not in result.stdout
    assert result.stdout.count(f"“{QUERY}”\n") == 1
    assert result.stdout.index(f"“{QUERY}”") < result.stdout.index("“compress bytes”")


def test_what_it_leaves_is_open_to_the_other_commands(directory: Path) -> None:
    status = CliRunner().invoke(main, ["status", "--json", "--dsn", f"embedded:{directory / 'lsa'}"])
    assert [(row["prefix"], row["missing"], bool(row["index"])) for row in json.loads(status.output)] == [
        ("embedding_256", 0, True),
        ("embedding_512", 0, True),
    ]


def test_a_query_of_unknown_words(directory: Path) -> None:
    result = demo("--dir", str(directory), "xyzzyq")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: none of the words of 'xyzzyq' occurs in the standard library's documentation, so nothing is near it. "
        "Try others: mrl-pg demo 'compress bytes'\n"
    )


@pytest.mark.parametrize("change", ["stopped", "other SQL", "model lost", "--fresh"])
def test_starts_over(directory: Path, change: str) -> None:
    if change == "stopped":
        with embedded.server(directory / "lsa") as dsn, psycopg.connect(dsn) as conn:
            conn.execute("DROP INDEX stdlib_full_idx")
    elif change == "other SQL":
        with embedded.server(directory / "lsa") as dsn, psycopg.connect(dsn) as conn:
            ((mark,),) = conn.execute("SELECT obj_description('stdlib_full_idx'::regclass, 'pg_class')").fetchall()
            assert re.search(r", SQL [0-9a-f]{8}$", mark)
            conn.execute(sql.SQL("COMMENT ON INDEX stdlib_full_idx IS {}").format(mark[:-8] + 8 * "0"))
    elif change == "model lost":
        (directory / "lsa.npz").unlink()
    arguments = ["--fresh"] if change == "--fresh" else []
    result = demo("--dir", str(directory), *arguments)
    assert result.exit_code == 0
    assert "Migrated: table stdlib" in result.stdout


def test_the_data_of_a_server_is_no_place(directory: Path) -> None:
    result = demo("--dir", str(directory / "lsa"))
    assert result.stderr == (
        f"Error: {directory / 'lsa'} is the data of a server. Name the directory above it: --dir {directory}\n"
    )


def test_openai_needs_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    result = demo("--dir", str(tmp_path / "new"), "--embedder", "openai")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: --embedder openai needs a key, and OPENAI_API_KEY is not set. "
        "Set it, or run without a key: mrl-pg demo --embedder lsa\n",
    )
    assert not (tmp_path / "new").exists()


class _OpenAI(BaseHTTPRequestHandler):
    """Answers as OpenAI does, with random embeddings whose first dimensions hold most of the energy."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        refused = self.headers["Authorization"] != "Bearer right"
        self.send_response(401 if refused else 200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        embeddings = np.random.default_rng(len(asked["input"][0])).standard_normal((len(asked["input"]), 1536))
        embeddings *= np.exp(-8 * np.arange(1536) / 1536)
        data = [{"object": "embedding", "index": n, "embedding": e.tolist()} for n, e in enumerate(embeddings)]
        answer = {
            "object": "list",
            "model": asked["model"],
            "data": data,
            "usage": {"prompt_tokens": 0, "total_tokens": 0},
        }
        self.wfile.write(json.dumps({"error": {"message": "wrong key"}} if refused else answer).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def _openai(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _OpenAI) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
        yield
        server.shutdown()


@pytest.mark.usefixtures("_openai")
def test_openai(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: list[Entry]) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "right")
    monkeypatch.setattr("mrl_pg.demo.run.read_stdlib", lambda: part[:400])
    result = demo("--dir", str(tmp_path), "--embedder", "openai")
    assert result.exit_code == 0
    assert "one stage: all 1,536 dims" in result.stdout
    assert "those of text-embedding-3-small" in result.stdout


@pytest.mark.usefixtures("_openai")
def test_openai_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    result = demo("--dir", str(tmp_path), "--embedder", "openai")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: OpenAI did not embed the texts: Error code: 401")
    assert result.stderr.endswith("or run: mrl-pg demo --embedder lsa\n")
