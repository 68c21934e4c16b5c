"""A scan in blocks finds what comparing everything at once finds."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import numpy.typing as npt
import pytest

from mrl_pg import scan as scan_module
from mrl_pg.basis import fit
from mrl_pg.errors import SearchError, SpecError
from mrl_pg.scan import Found, distances, scan
from mrl_pg.spec import Distance
from mrl_pg.vectors import FloatArray, bits, prefixes
from mrl_pg.views import DIMS, KINDS, View, comparable, make_views, squared_norms, turned, view_dims
from tests.conftest import vectors

DISTANCES: list[Distance] = ["cosine", "l2", "inner_product"]
NONE = np.empty((20, 0), dtype=np.int64)
NOT_THERE = np.full(20, -1, dtype=np.int64)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 64 rows: a few hundred rows make several, the last one shorter."""
    monkeypatch.setattr(scan_module, "_MIN_BLOCK", 64)
    monkeypatch.setattr(scan_module, "_MAX_BLOCK", 64)


def sample(n: int = 300, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Returns a corpus and 20 queries of vectors of differing norms."""
    rng = np.random.default_rng(seed)
    rows = vectors(n + 20, 48, seed) * rng.lognormal(0, 0.4, size=(n + 20, 1)).astype(np.float32)
    return rows[20:], rows[:20]


def all_distances(queries: npt.NDArray[np.float64], rows: npt.NDArray[np.float64], distance: Distance) -> FloatArray:
    """Returns distances (q, n) the slow way, in float64."""
    if distance == "l2":
        found = np.linalg.norm(queries[:, None] - rows[None], axis=2)
    elif distance == "inner_product":
        found = -(queries @ rows.T)
    else:
        norms = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(rows, axis=1)
        found = 1 - queries @ rows.T / norms
    return np.asarray(found)


def result(steps: Generator[int, None, list[Found]]) -> list[Found]:
    """Returns what a scan returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: list[Found] = end.value
            return found


def look(
    corpus: FloatArray,
    queries: FloatArray,
    view: View,
    distance: Distance = "cosine",
    *,
    depth: int = 30,
    itself: npt.NDArray[np.int64] = NOT_THERE,
    watched: npt.NDArray[np.int64] = NONE,
) -> list[Found]:
    return result(scan(corpus, queries, view, distance, depth=depth, itself=itself, watched=watched))


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_exact_scan_finds_the_nearest(distance: Distance) -> None:
    corpus, queries = sample()
    (found,) = look(corpus, queries, View("exact", (48,)), distance)
    expected = all_distances(queries.astype(np.float64), corpus.astype(np.float64), distance)
    assert np.array_equal(found.rows, np.argsort(expected, axis=1)[:, :30])
    assert found.kept == pytest.approx(1)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("kind", KINDS)
def test_prefixes_are_compared_as_they_are_stored(kind: str, distance: Distance) -> None:
    corpus, queries = sample()
    dims = view_dims([kind], [8, 20], 48)
    ((view,), _, _) = make_views(corpus, NOT_THERE, dims, distance, basis_rows=200, seed=0)
    watched = np.tile(np.array([0, 299, 63, -1, 64]), (20, 1))
    for length, found in zip((8, 20), look(corpus, queries, view, distance, watched=watched), strict=True):
        if kind == "binary":
            differing = bits(queries, length)[:, None] != bits(corpus, length)[None]
            expected = differing.sum(axis=2).astype(np.float32)
        else:
            a, b = (prefixes(turned(rows, view, distance), length, distance) for rows in (queries, corpus))
            expected = all_distances(a.astype(np.float64), b.astype(np.float64), distance)
        # Equal distances leave the choice of rows open, not how far they are.
        of_found = np.take_along_axis(expected, found.rows, axis=1)
        assert of_found == pytest.approx(np.sort(expected, axis=1)[:, :30], abs=1e-6)
        assert all(len(set(rows)) == 30 for rows in found.rows.tolist())
        # What is watched comes in the order of the distances.
        assert np.isinf(found.watched[:, 3]).all()
        there = found.watched[:, [0, 1, 2, 4]]
        order = np.argsort(there, axis=1)
        far = np.take_along_axis(expected[:, [0, 299, 63, 64]], order, axis=1)
        assert (np.diff(far, axis=1) >= -1e-6).all()


def test_ties_come_in_the_same_order_however_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, queries = sample()
    view = View("binary", (4,))
    (blocks,) = look(corpus, queries, view)
    monkeypatch.setattr(scan_module, "_MAX_BLOCK", 1_000)
    monkeypatch.setattr(scan_module, "_MIN_BLOCK", 1_000)
    (at_once,) = look(corpus, queries, view)
    assert np.array_equal(blocks.rows, at_once.rows)


def test_a_query_does_not_find_itself() -> None:
    corpus, _ = sample()
    own = np.arange(50, 70)
    queries = corpus[own]
    for view in (View("exact", (48,)), View("truncate", (8,)), View("binary", (48,))):
        (found,) = look(corpus, queries, view, itself=own)
        assert not (found.rows == own[:, None]).any()
        assert (found.rows >= 0).all()
    (found,) = look(corpus, queries, View("exact", (48,)), itself=NOT_THERE)
    assert (found.rows[:, 0] == own).all()


def test_rows_without_a_prefix_are_not_found() -> None:
    corpus, queries = sample(100)
    corpus[::2, :8] = 0
    for view in (View("truncate", (8,)), View("binary", (8,))):
        (found,) = look(corpus, queries, view, depth=80, watched=np.tile([0, 1], (20, 1)))
        assert (found.rows[:, :50] % 2 == 1).all()
        assert (found.rows[:, 50:] == -1).all()
        assert np.isinf(found.watched).tolist() == [[True, False]] * 20
    # For l2 a zero prefix is as good as any; one that is longer than the largest fp16 number is not, nor one that
    # holds a larger number.
    corpus[1::4, :2] = 60_000
    corpus[3::4, 0] = 70_000
    (found,) = look(corpus, queries, View("truncate", (8,)), "l2", depth=80)
    assert (found.rows[:, :50] % 2 == 0).all()
    assert (found.rows[:, 50:] == -1).all()


def test_a_query_without_a_prefix_finds_nothing() -> None:
    corpus, queries = sample()
    queries[3, :8] = 0
    (found,) = look(corpus, queries, View("truncate", (8,)))
    assert (found.rows[3] == -1).all()
    assert (np.delete(found.rows, 3, axis=0) >= 0).all()


def test_more_depth_than_rows() -> None:
    corpus, queries = sample(10)
    (found,) = look(corpus, queries, View("exact", (48,)), depth=30)
    assert [sorted(rows) for rows in found.rows.tolist()] == [list(range(10))] * 20


def test_far_from_the_origin_l2_is_still_exact() -> None:
    corpus, queries = sample()
    corpus, queries = corpus + np.float32(1_000), queries + np.float32(1_000)
    (found,) = look(corpus, queries, View("exact", (48,)), "l2", depth=10)
    expected = all_distances(queries.astype(np.float64), corpus.astype(np.float64), "l2")
    of_found = np.take_along_axis(expected, found.rows, axis=1)
    assert of_found == pytest.approx(np.sort(expected, axis=1)[:, :10], rel=1e-4)


def test_blocks_are_reported() -> None:
    corpus, queries = sample()
    steps = scan(corpus, queries, View("exact", (48,)), "cosine", depth=5, itself=NOT_THERE, watched=NONE)
    assert list(steps) == [64, 64, 64, 64, 44]


def test_an_embedding_that_is_not_finite_is_named() -> None:
    corpus, queries = sample()
    corpus[[70, 90], 3] = np.nan
    with pytest.raises(SearchError, match=r"2 of embeddings 64 to 127 .* number 70\. Check"):
        look(corpus, queries, View("exact", (48,)))


def test_half_precision_and_memory_maps_are_read(tmp_path: object) -> None:
    corpus, queries = sample()
    np.save(f"{tmp_path}/corpus.npy", corpus.astype(np.float16))
    mapped = np.load(f"{tmp_path}/corpus.npy", mmap_mode="r")
    (found,) = look(mapped, queries, View("exact", (48,)))
    (same,) = look(corpus.astype(np.float16).astype(np.float32), queries, View("exact", (48,)))
    assert np.array_equal(found.rows, same.rows)


@pytest.mark.parametrize("distance", DISTANCES)
def test_distances_are_those_of_pgvector(distance: Distance, monkeypatch: pytest.MonkeyPatch) -> None:
    # Three queries at a time, the last two alone.
    monkeypatch.setattr(scan_module, "_NUMBERS_AT_ONCE", 3 * 5 * 48)
    corpus, queries = sample()
    rows = np.random.default_rng(0).integers(0, 300, size=(20, 5))
    rows[4, 2] = -1
    found = distances(corpus, queries, rows, distance)
    expected = all_distances(queries.astype(np.float64), corpus.astype(np.float64), distance)
    expected = np.take_along_axis(expected, rows, axis=1)
    expected[4, 2] = np.inf
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_zero_row_has_no_cosine_distance() -> None:
    corpus, queries = sample()
    corpus[5] = 0
    assert np.isinf(distances(corpus, queries, np.full((20, 1), 5), "cosine")).all()


def test_kept_is_the_share_of_the_squared_norm() -> None:
    corpus, queries = sample()
    for distance in DISTANCES:
        weights = corpus / np.linalg.norm(corpus, axis=1, keepdims=True) if distance == "cosine" else corpus
        first, second = look(corpus, queries, View("truncate", (8, 20)), distance)
        assert first.kept == pytest.approx((weights[:, :8] ** 2).sum() / (weights**2).sum(), rel=1e-4)
        assert second.kept == pytest.approx((weights[:, :20] ** 2).sum() / (weights**2).sum(), rel=1e-4)
        basis = fit(corpus, 8, distance)
        (rotated,) = look(corpus, queries, View("rotate", (8,), basis=basis.rows), distance)
        assert rotated.kept == pytest.approx(basis.kept, rel=1e-4)
    (signs,) = look(corpus, queries, View("binary", (8,)))
    assert np.isnan(signs.kept)


def test_lengths_of_each_kind() -> None:
    assert view_dims(KINDS, None, 96) == {
        "truncate": (32, 64),
        "rotate": (32, 64),
        "binary": (32, 64, 96),
        "random": (32, 64),
    }
    assert view_dims(["random", "binary"], [16, 8, 8], 96) == {"binary": (8, 16), "random": (8, 16)}
    assert view_dims(["truncate", "binary"], [96], 96) == {"binary": (96,)}
    # HNSW takes 4,000 dims as halfvec, and more as bits.
    assert view_dims(["truncate", "binary"], [4_000, 5_000], 8_000) == {"truncate": (4_000,), "binary": (4_000, 5_000)}
    assert view_dims(["truncate"], None, 1_536)["truncate"] == DIMS


@pytest.mark.parametrize(
    ("kinds", "dims", "message"),
    [
        (["half"], None, "unknown kind 'half'. Use truncate, rotate, binary or random."),
        (["truncate"], [8, 97], "between 1 and full_dims = 96, not 97. "),
        (["truncate"], [0], "not 0. "),
        (["truncate"], [96], "dims are 96. Give dims below full_dims."),
        ([], [8], "kinds are none"),
        (["truncate"], [], "dims are none"),
    ],
)
def test_lengths_that_cannot_be(kinds: list[str], dims: list[int] | None, message: str) -> None:
    with pytest.raises(SpecError) as error:
        view_dims(kinds, dims, 96)
    assert message in str(error.value)


def test_the_rotation_has_not_seen_the_queries() -> None:
    corpus, _ = sample()
    own = np.arange(0, 20)
    corpus[own] *= 100
    ((view,), fitted, notes) = make_views(corpus, own, {"rotate": (4, 8)}, "l2", basis_rows=1_000, seed=0)
    assert fitted == 280
    assert notes == []
    assert view.basis is not None
    assert np.array_equal(view.basis, fit(corpus[20:], 8, "l2").rows)


def test_a_rotation_of_few_rows_is_noted() -> None:
    corpus, _ = sample()
    ((view,), fitted, notes) = make_views(corpus, NOT_THERE, {"rotate": (2, 8, 30)}, "cosine", basis_rows=20, seed=0)
    assert (view.dims, fitted) == ((2, 8), 20)
    assert notes[0].startswith("The rotation was fitted to 20 rows that are no queries, from 2 dims on fewer than 20 ")
    assert "it is left out from 30 dims on" in notes[0]
    views, fitted, notes = make_views(corpus[:1], NOT_THERE, {"rotate": (2,)}, "cosine", basis_rows=20, seed=0)
    assert (views, fitted, len(notes)) == ([], 0, 1)


def test_random_dims_are_nested_and_of_a_seed() -> None:
    corpus, _ = sample()
    columns = []
    for seed in (0, 0, 1):
        ((view,), _, _) = make_views(corpus, NOT_THERE, {"random": (8, 20)}, "cosine", basis_rows=1, seed=seed)
        assert view.columns is not None
        assert len(set(view.columns.tolist())) == 20
        columns.append(view.columns.tolist())
    assert columns[0] == columns[1] != columns[2]
    assert np.array_equal(turned(corpus, view, "cosine"), corpus[:, columns[2]])


def test_signs_multiply_to_the_hamming_distance() -> None:
    corpus, queries = sample()
    view = View("binary", (48,))
    (a, usable, bias), (b, _, _) = (comparable(rows, 48, view, "l2") for rows in (queries, corpus))
    differing = (bits(queries, 48)[:, None] != bits(corpus, 48)[None]).sum(axis=2)
    assert np.array_equal((48 - a @ b.T) / 2, differing)
    assert usable.all()
    assert not bias.any()


def test_squared_norms_leave_zero_rows_out() -> None:
    rows = np.zeros((3, 4), dtype=np.float32)
    rows[0], rows[1] = [3, 0, 4, 0], [0, 5, 0, 12]
    view = View("truncate", (1, 3))
    sums, whole = squared_norms(rows, rows, view, "cosine")
    assert sums == pytest.approx([9 / 25, 1 + 25 / 169])
    assert whole == 2
    sums, whole = squared_norms(rows, rows, view, "l2")
    assert sums.tolist() == [9, 50]
    assert whole == 194
