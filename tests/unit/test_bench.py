"""The pure parts of the benchmark: what is measured next, what is chosen, the truth, the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from mrl_pg.bench.build import packed
from mrl_pg.bench.data import read, simulate
from mrl_pg.bench.methods import default_methods, parse_method
from mrl_pg.bench.report import Chosen, compared
from mrl_pg.bench.server import settings, with_short_memory
from mrl_pg.bench.truth import nearest, recalls
from mrl_pg.errors import DimensionError, MrlError
from mrl_pg.points import (
    Figures,
    Grid,
    Point,
    best,
    cheapest,
    figures,
    is_clear,
    next_point,
    ratio,
)
from tests.conftest import FloatArray, vectors

GRID = Grid((15, 20, 30, 40, 60, 80, 120, 200, 400), (40, 60, 80, 100, 130, 160, 200, 250, 300, 400, 600))


def at(point: Point, recall: float, p50_ms: float) -> Figures:
    return Figures(
        candidates=point.candidates,
        ef_search=point.ef_search,
        queries=100,
        recall=recall,
        low=recall - 0.01,
        high=recall + 0.01,
        p50_ms=p50_ms,
        p95_ms=2 * p50_ms,
        qps=1000 / p50_ms,
    )


def model(reach: float, effort: float) -> Callable[[Point], Figures]:
    """A method whose stage one finds more with ef_search, and whose candidates hold more of the answers."""

    def measure(point: Point) -> Figures:
        recall = (1 - math.exp(-point.candidates / reach)) * (1 - math.exp(-point.ef_search / effort))
        return at(point, recall, 0.3 + 0.0123 * point.candidates + 0.008 * point.ef_search)

    return measure


def walk(grid: Grid, targets: list[float], measure: Callable[[Point], Figures]) -> dict[Point, Figures]:
    seen: dict[Point, Figures] = {}
    while (point := next_point(grid, targets, seen)) is not None:
        assert point not in seen
        seen[point] = measure(point)
    return seen


@pytest.mark.parametrize("reach", [5, 20, 60])
@pytest.mark.parametrize("effort", [10, 40, 90])
@pytest.mark.parametrize("target", [0.9, 0.965, 0.985])
def test_the_walk_finds_the_cheapest_of_the_whole_grid(reach: float, effort: float, target: float) -> None:
    measure = model(reach, effort)
    seen = walk(GRID, [target], measure)
    everything = [measure(Point(c, e)) for c in GRID.candidates for e in GRID.ef_search]
    assert len(seen) <= len(GRID.candidates) + len(GRID.ef_search)
    assert cheapest(list(seen.values()), target) == cheapest(everything, target)


def test_a_second_target_costs_only_the_points_that_differ() -> None:
    measure = model(20, 40)
    assert walk(GRID, [0.965, 0.985], measure).keys() == (
        walk(GRID, [0.965], measure).keys() | walk(GRID, [0.985], measure).keys()
    )


def test_a_target_out_of_reach_ends_with_the_grid() -> None:
    seen = walk(GRID, [0.99], lambda point: at(point, 0.5, 1.0))
    assert list(seen) == [Point(400, ef_search) for ef_search in GRID.ef_search]


def test_a_walk_ends_where_it_costs_too_much() -> None:
    def measure(point: Point) -> Figures:
        return at(point, 0.97 if point.candidates >= 60 else 0.9, point.ef_search / 40)

    seen = walk(GRID, [0.965], measure)
    assert [point for point in seen if point.candidates < 60] == [Point(40, 40), Point(40, 60), Point(40, 80)]


def test_cheapest_is_by_latency_among_those_that_reach() -> None:
    points = [at(Point(10, 40), 0.95, 1.0), at(Point(20, 40), 0.97, 3.0), at(Point(30, 80), 0.97, 2.0)]
    assert cheapest(points, 0.965) == points[2]
    assert cheapest(points, 0.95) == points[0]
    assert cheapest(points, 0.98) is None
    assert best(points) == points[2]


def test_ratio() -> None:
    assert ratio(6, 3) == 2
    assert ratio(None, 3) is None
    assert ratio(6, None) is None


def chosen(method: str, target: float, reached: bool, p50_ms: float, clients_qps: float | None) -> Chosen:
    found = at(Point(10, 40), 0.97, p50_ms)
    return Chosen(method=method, target=target, reached=reached, statement="", figures=found, clients_qps=clients_qps)


def test_methods_are_compared_at_the_same_target_where_both_reach_it() -> None:
    found = compared(
        [
            chosen("half", 0.9, True, 2.0, 900),
            chosen("rotate-128", 0.9, True, 1.0, 1800),
            chosen("exact", 0.9, True, 20.0, None),
            chosen("truncate-64", 0.9, False, 1.0, 1800),
            chosen("half", 0.99, False, 4.0, 500),
            chosen("rotate-128", 0.99, True, 2.0, 900),
        ]
    )
    assert [one.times for one in found] == [1.0, 2.0, 0.1, None, None, None]
    assert [one.clients_times for one in found] == [1.0, 2.0, None, None, None, None]


def test_figures() -> None:
    found = figures(Point(20, 40), np.array([1.0, 0.8, 0.9, 0.9]), np.array([0.001, 0.002, 0.003, 0.004]))
    assert found.point == Point(20, 40)
    assert (found.queries, found.recall, found.p50_ms, found.qps) == pytest.approx((4, 0.9, 2.5, 400))
    assert found.low <= found.recall <= found.high


@pytest.mark.parametrize(
    ("recall", "queries", "clear"), [(1.0, 99, False), (1.0, 100, True), (0.5, 100, True), (0.96, 100, False)]
)
def test_is_clear(recall: float, queries: int, clear: bool) -> None:
    found = np.random.default_rng(0).binomial(10, recall, size=queries) / 10
    assert is_clear(found, [0.965, 0.985]) is clear


def truth_by_sorting(corpus: FloatArray, queries: FloatArray, k: int) -> list[set[int]]:
    exact = corpus.astype(np.float64) / np.linalg.norm(corpus.astype(np.float64), axis=1, keepdims=True)
    return [set(np.argsort(-(exact @ query))[:k].tolist()) for query in queries.astype(np.float64)]


@pytest.mark.parametrize("block", [30, 137, 500])
def test_truth_in_blocks_is_that_of_a_sort(block: int) -> None:
    rows = vectors(520, 24) * np.linspace(0.5, 2, 520, dtype=np.float32)[:, None]  # cosine does not mind the length
    corpus, queries = rows[:500], rows[500:]
    truth = None
    for first in range(0, 500, block):
        truth = nearest(queries, corpus[first : first + block], first, truth)
    assert truth is not None
    assert [set(found[:10].tolist()) for found in truth.rows] == truth_by_sorting(corpus, queries, 10)
    assert (np.diff(truth.similarities, axis=1) <= 0).all()
    assert recalls(truth, [found[:10].tolist() for found in truth.rows], 10).tolist() == [1.0] * 20
    halves = recalls(truth, [found[5:15].tolist() for found in truth.rows], 10)
    assert halves.tolist() == [0.5] * 20
    assert recalls(truth.part(3, 5), [[], [int(truth.rows[4, 0])]], 10).tolist() == [0.0, 0.1]


def test_rows_as_near_as_the_kth_count_whichever_is_named() -> None:
    corpus = np.repeat(np.eye(4, dtype=np.float32), 5, axis=0)
    truth = nearest(corpus[:1], corpus, 0)
    assert recalls(truth, [[2, 3, 4]], 3).tolist() == [1.0]
    assert recalls(truth, [[0, 7, 8]], 3).tolist() == [1 / 3]
    assert recalls(truth, [[0, 1, 2, 3, 4]], 3).tolist() == [1.0]


def test_packed_is_the_binary_form_of_copy() -> None:
    rows = packed(np.array([[1, 2], [3, 4]], dtype=np.float32), 7)
    one = b"\x00\x02" + b"\x00\x00\x00\x08" + (7).to_bytes(8, "big") + b"\x00\x00\x00\x0c" + b"\x00\x02\x00\x00"
    assert rows[: len(one)] == one
    assert rows[len(one) : len(one) + 8] == np.array([1, 2], ">f4").tobytes()
    assert len(rows) == 2 * (len(one) + 8)


def test_simulated_data_is_the_same_every_time_and_in_every_size() -> None:
    small, large = simulate(100, 96), simulate(20_100, 96)
    (block,) = small.blocks()
    blocks = list(large.blocks())
    assert [len(b) for b in blocks] == [20_000, 100]
    assert block.shape == (100, 96)
    assert block.dtype == np.float32
    assert np.allclose(np.linalg.norm(block, axis=1), 1, atol=1e-5)
    assert small.queries.shape == (500, 96)
    assert (small.queries == large.queries).all()
    assert (next(large.blocks()) == blocks[0]).all()
    assert "not real" in small.label


def test_a_rotation_of_simulated_data_keeps_what_a_prefix_loses() -> None:
    data = simulate(10_000, 192)
    (corpus,) = data.blocks()
    rotation = np.linalg.eigh(corpus.T @ corpus)[1][:, ::-1][:, :32]
    queries = data.queries[:100]
    truth = nearest(queries, corpus, 0)

    def kept(short: FloatArray, short_queries: FloatArray) -> float:
        found = nearest(short_queries, short, 0).rows[:, :30]
        return float(recalls(truth, found.tolist(), 10).mean())

    by_prefix = kept(corpus[:, :32], queries[:, :32])
    by_rotation = kept(corpus @ rotation, queries @ rotation)
    assert 0.3 < by_prefix < by_rotation - 0.1


def test_read_takes_the_first_rows_and_queries(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    rows = vectors(700, 8).astype(np.float16)
    np.savez(path, corpus=rows[:100], queries=rows[100:])
    data = read(path, 30)
    assert (data.label, data.rows, data.dims, data.queries.shape) == ("some.npz", 30, 8, (500, 8))
    assert (np.concatenate(list(data.blocks())) == rows[:30].astype(np.float32)).all()
    assert read(path, label="real").label == "real"
    assert read(path).rows == 100


@pytest.mark.parametrize("order", ["C", "F"])
def test_read_is_by_blocks_however_the_file_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: Literal["C", "F"]
) -> None:
    monkeypatch.setattr("mrl_pg.bench.data.BLOCK_ROWS", 30)
    path = tmp_path / "some.npz"
    rows = vectors(120, 8)
    np.savez_compressed(path, corpus=np.asarray(rows[:100], ">f8", order=order), queries=rows[100:])
    blocks = list(read(path, 70).blocks())
    assert [len(block) for block in blocks] == [30, 30, 10]
    assert (np.concatenate(blocks) == rows[:70]).all()


def test_read_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    good = vectors(20, 8)  # as many queries as there must be

    def refused(kind: type[MrlError] = MrlError, rows: int | None = None, **arrays: object) -> str:
        np.savez(path, **arrays)  # type: ignore[arg-type]
        with pytest.raises(kind) as error:
            list(read(path, rows).blocks())
        return str(error.value)

    assert "does not hold the arrays corpus and queries" in refused(corpus=good)
    assert "float32 of shape (8,)" in refused(corpus=good[0], queries=good)
    assert "int64 of shape (2, 2)" in refused(corpus=np.ones((2, 2), np.int64), queries=good)
    assert refused(DimensionError, corpus=good, queries=good[:, :6])
    assert "19 queries" in refused(corpus=good, queries=good[:19])
    assert "20 rows, not 21" in refused(rows=21, corpus=good, queries=good)
    assert "row 3 of corpus is zero" in refused(corpus=np.where(np.arange(20)[:, None] == 3, 0, good), queries=good)
    assert "row 1 of queries" in refused(corpus=good, queries=np.where(np.arange(20)[:, None] == 1, np.nan, good))
    path.write_bytes(b"no archive")
    with pytest.raises(MrlError, match="does not hold the arrays"):
        read(path)
    np.save(tmp_path / "one.npy", good)
    with pytest.raises(MrlError, match="does not hold the arrays"):
        read(tmp_path / "one.npy")


def test_methods_by_name() -> None:
    names = [method.name for method in default_methods(1536)]
    assert names == [
        "exact", "half", "subvector-512@40", "subvector-512", "function-512@40", "function-512", "quantize",
        "truncate-256", "truncate-512", "rotate-128", "rotate-256", "rotate-256+ef200", "binary-1536",
    ]  # fmt: skip
    assert [parse_method(name, 1536).name for name in names] == names
    assert all(method.about for method in default_methods(1536))


def test_methods_whose_index_cannot_be_had_are_left_out() -> None:
    assert "half" not in [method.name for method in default_methods(4096)]
    assert [method.name for method in default_methods(2)] != []


def test_methods_that_do_the_same_share_an_index() -> None:
    keys = [
        parse_method(name, 64).index_key for name in ("subvector-16", "subvector-16@40", "function-16", "subvector-8")
    ]
    assert len(set(keys)) == 2


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hnsw", "unknown method 'hnsw'"),
        ("truncate", "unknown method 'truncate'"),
        ("half-32", "unknown method 'half-32'"),
        ("truncate-16@40", "unknown method 'truncate-16@40'"),
        ("truncate-64", "truncate-64 has 64 dims, but must have 1 to 63 of vectors with 64"),
        ("rotate-65", "1 to 64"),
        ("subvector-0", "1 to 63"),
    ],
)
def test_other_names_are_refused(name: str, says: str) -> None:
    with pytest.raises(MrlError) as error:
        parse_method(name, 64)
    assert says in str(error.value)


def test_settings_grow_with_the_data_and_stay_within_the_machine() -> None:
    pytest.importorskip("psutil")
    small, large = settings(1_000, 64, 2, 2), settings(100_000_000, 1536, 2, 2)
    megabytes = [int(chosen["shared_buffers"].removesuffix("MB")) for chosen in (small, large)]
    assert 128 < megabytes[0] < megabytes[1]
    short = with_short_memory(small, "64MB")
    assert (short["shared_buffers"], short["debug_io_direct"]) == ("64MB", "data")
    assert small.items() - short.items() == {("shared_buffers", small["shared_buffers"])}
