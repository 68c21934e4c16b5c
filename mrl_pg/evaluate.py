"""Measuring what prefixes of an embedding find, by exact scans of a sample: no database, no index."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_pg.errors import DimensionError, EvaluationError
from mrl_pg.evaluation import Evaluation, Point, Reranked
from mrl_pg.footprint import MEASURED_RATE, BuildRate, Footprint, footprint
from mrl_pg.metrics import PerQuery, Summary, overlap, recall, spearman, summarise, tolerance
from mrl_pg.relevance import NDCG_AT, Judgements, Relevance, judgements, relevance
from mrl_pg.scan import Found, distances, scan
from mrl_pg.spec import DEFAULT_EF_CONSTRUCTION, DEFAULT_M, MAX_PREFIX_DIMS, Distance, check_distance, check_graph
from mrl_pg.vectors import FloatArray
from mrl_pg.views import KINDS, Embeddings, Rows, View, make_views, view_dims

CANDIDATES = (10, 20, 50, 100, 200)
TOP = 100
BASIS_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an evaluation has come.

    :ivar what: what is being done: ``exact`` or a kind is being scanned.
    :ivar done: rows compared so far, a row of the corpus once for each scan.
    :ivar total: rows to compare.
    :ivar unit: what is counted.
    """

    what: str
    done: int
    total: int
    unit: str = "rows"


@dataclass(frozen=True, slots=True)
class _Truth:
    """What prefixes are measured against.

    :ivar rows: what the exact search by the whole embedding found (q, n), nearest first.
    :ivar distances: their distances (q, n).
    :ivar tolerance: by how much (q,) a distance may miss the k-th for want of precision.
    :ivar judged: the qrels; None without.
    """

    rows: Rows
    distances: FloatArray
    tolerance: PerQuery
    judged: Judgements | None
    k: int
    seed: int


def evaluate(
    corpus: Embeddings,
    queries: Embeddings,
    *,
    distance: Distance = "cosine",
    itself: npt.NDArray[np.integer[Any]] | None = None,
    k: int = 10,
    kinds: Sequence[str] = KINDS,
    dims: Sequence[int] | None = None,
    candidates: Sequence[int] = CANDIDATES,
    top: int = TOP,
    qrels: Mapping[int, Mapping[int, float]] | None = None,
    table_rows: int | None = None,
    m: int = DEFAULT_M,
    rate: BuildRate = MEASURED_RATE,
    basis_rows: int = BASIS_ROWS,
    seed: int = 0,
    on_progress: Callable[[Progress], None] | None = None,
) -> Evaluation:
    """Returns what each prefix finds of the exact top k of a sample, alone and reranked, and what it costs.

    The corpus is read in blocks, once for the exact search and once for each kind, and never held twice.

    :param corpus: embeddings (n, full_dims) of any float type; may be a memory map.
    :param queries: embeddings (q, full_dims).
    :param itself: row of the corpus (q,) which each query is, and which does not count as found; -1 for none.
    :param kinds: ``truncate``, ``rotate``, ``binary``, and the control ``random``: dims chosen at random.
    :param dims: lengths of prefixes; default 32 to 1024 below full_dims, and for binary full_dims besides.
    :param candidates: sizes of stage one; those from k to n are used.
    :param top: how many of the exact nearest rows the rank correlation looks at, at least 2.
    :param qrels: grades of rows by position, {query: {row: grade}}; see :func:`mrl_pg.queries.positions`.
    :param table_rows: rows to project footprints for; n if left out.
    :param m: of the index to project.
    :param rate: a measured build, to project others from.
    :param basis_rows: at most how many rows to fit the rotation to, queries left out.
    :param seed: the same seed gives the same figures.
    :param on_progress: called after every block.
    :raises DimensionError: where queries are not as long as the embeddings.
    :raises SpecError: for kinds, dims, a distance or m that cannot be.
    :raises EvaluationError: for queries, qrels, k, candidates or top that do not fit.
    :raises SearchError: for embeddings that are not finite.
    """
    check_distance(distance)
    check_graph(m, max(DEFAULT_EF_CONSTRUCTION, 2 * m))
    n, full_dims = _shape(corpus, "corpus")
    asked = _asked(queries, full_dims, distance)
    q = len(asked)
    own = _itself(itself, q, n)
    others = n - int((own >= 0).any())
    sizes = sizes_of(k, candidates, others)
    if top < 2:
        raise EvaluationError(f"top must be at least 2, not {top}. Fewer rows have no order to compare.")
    top = min(top, others)
    judged = None if qrels is None else judgements(qrels, own, n)
    lengths = view_dims(kinds, dims, full_dims)
    views, fitted, notes = make_views(corpus, own, lengths, distance, basis_rows=basis_rows, seed=seed)
    table_rows = n if table_rows is None else table_rows
    if table_rows > n:
        notes.append(
            f"Measured on {n:,} of {table_rows:,} rows. Among more rows more are near: in the whole table the same "
            "number of candidates finds less."
        )

    def look(view: View, depth: int, watched: Rows, scans_done: int) -> list[Found]:
        steps = scan(corpus, asked, view, distance, depth=depth, itself=own, watched=watched)
        return run_scan(steps, Progress(view.kind, scans_done * n, (1 + len(views)) * n), on_progress)

    (exact,) = look(View("exact", (full_dims,)), max(k, top, NDCG_AT), np.empty((q, 0), dtype=np.int64), 0)
    rows, near = _nearest_first(exact.rows, distances(corpus, asked, exact.rows, distance))
    truth = _Truth(rows, near, tolerance(near[:, k - 1], distance), judged, k, seed)
    points = []
    for number, view in enumerate(views, 1):
        scanned = look(view, max(*sizes, NDCG_AT), rows[:, :top], number)
        for length, found in zip(view.dims, scanned, strict=True):
            far = distances(corpus, asked, found.rows, distance)
            cost = footprint(view.kind, length, table_rows, m=m, rate=rate)
            points.append(_point(view.kind, length, found, far, sizes, truth, cost))
    return Evaluation(
        rows=n,
        queries=q,
        table_rows=table_rows,
        full_dims=full_dims,
        distance=distance,
        k=k,
        top=top,
        seed=seed,
        basis_rows=fitted,
        points=tuple(points),
        footprint=footprint("exact", full_dims, table_rows, m=m, rate=rate) if full_dims <= MAX_PREFIX_DIMS else None,
        relevance=_relevance(rows, truth),
        notes=tuple(notes),
    )


def _point(
    kind: str, dims: int, found: Found, far: FloatArray, sizes: list[int], truth: _Truth, cost: Footprint
) -> Point:
    """Returns what a prefix found.

    :param far: distances (q, n) of the rows it found, by the whole embedding.
    """
    watched = found.watched
    return Point(
        kind=kind,
        dims=dims,
        recall=_recall(far[:, : truth.k], truth),
        overlap=summarise(overlap(truth.rows, found.rows, truth.k), seed=truth.seed),
        spearman=summarise(spearman(truth.distances[:, : watched.shape[1]], watched), seed=truth.seed),
        kept=None if kind == "binary" else found.kept,
        reranked=tuple(
            Reranked(
                size,
                _recall(far[:, :size], truth),
                _relevance(_nearest_first(found.rows[:, :size], far[:, :size])[0], truth),
            )
            for size in sizes
        ),
        footprint=cost,
        relevance=_relevance(found.rows, truth),
    )


def _recall(far: FloatArray, truth: _Truth) -> Summary:
    return summarise(recall(truth.distances, far, truth.k, tolerance=truth.tolerance), seed=truth.seed)


def _relevance(rows: Rows, truth: _Truth) -> Relevance | None:
    return None if truth.judged is None else relevance(truth.judged, rows, truth.k, seed=truth.seed)


def _nearest_first(rows: Rows, far: FloatArray) -> tuple[Rows, FloatArray]:
    """Returns rows and distances (q, n) in the order of the distances."""
    order = np.argsort(far, axis=1, kind="stable")
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(far, order, axis=1)


def run_scan(
    steps: Generator[int, None, list[Found]], progress: Progress, on_progress: Callable[[Progress], None] | None
) -> list[Found]:
    """Returns what a scan returns, and reports what it yields."""
    while True:
        try:
            rows = next(steps)
        except StopIteration as end:
            found: list[Found] = end.value
            return found
        progress = replace(progress, done=progress.done + rows)
        if on_progress:
            on_progress(progress)


def _shape(embeddings: Embeddings, what: str) -> tuple[int, int]:
    """Returns how many embeddings there are and how long they are."""
    if embeddings.ndim != 2 or not embeddings.size:
        raise EvaluationError(f"{what} has shape {embeddings.shape}, expected (rows, dimensions). Give one row each.")
    return embeddings.shape[0], embeddings.shape[1]


def _asked(queries: Embeddings, full_dims: int, distance: Distance) -> FloatArray:
    """Returns the queries (q, full_dims) as float32."""
    _, dims = _shape(queries, "queries")
    if dims != full_dims:
        raise DimensionError(full_dims, dims, "a query")
    with np.errstate(over="ignore"):
        asked = queries.astype(np.float32)
    wrong = ~np.isfinite(asked).all(axis=1)
    if distance == "cosine":
        wrong |= ~asked.any(axis=1)
    if wrong.any():
        raise EvaluationError(
            f"{wrong.sum():,} of {len(asked):,} queries are zero or not finite, the first is number "
            f"{np.flatnonzero(wrong)[0]:,}. Check how they were made."
        )
    return asked


def _itself(itself: npt.NDArray[np.integer[Any]] | None, q: int, n: int) -> Rows:
    """Returns the row (q,) of each query, -1 for none."""
    if itself is None:
        return np.full(q, -1, dtype=np.int64)
    if itself.shape != (q,) or not ((itself >= -1) & (itself < n)).all():
        raise EvaluationError(
            f"itself must hold a row from 0 to {n - 1:,}, or -1, for each of the {q:,} queries; it has shape "
            f"{itself.shape}. Give the position of each query in the corpus."
        )
    return itself.astype(np.int64)


def sizes_of(k: int, candidates: Sequence[int], others: int) -> list[int]:
    """Returns the candidates to rerank, ascending.

    :param others: rows that a query can find.
    :raises EvaluationError: where k or all candidates are out of bounds.
    """
    if not 1 <= k <= others:
        raise EvaluationError(
            f"k must be between 1 and {others:,}, the rows a query can find, not {k}. Give more rows."
        )
    sizes = sorted({size for size in candidates if k <= size <= others})
    if not sizes:
        raise EvaluationError(
            f"candidates must be between k = {k} and {others:,}, the rows a query can find, not "
            f"{', '.join(map(str, candidates)) or 'none'}. Give at least one."
        )
    return sizes
