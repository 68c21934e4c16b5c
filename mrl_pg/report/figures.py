"""The figures of an evaluation: which charts there are, and the tables with their numbers."""

from __future__ import annotations

from collections.abc import Sequence

from mrl_pg.evaluation import Evaluation, Point
from mrl_pg.metrics import Summary
from mrl_pg.relevance import NDCG_AT
from mrl_pg.report.chart import Cell, Chart, Figure, Mark, Rule, Series, Table, log_axis, share_axis, value_axis
from mrl_pg.report.choice import CONTROL, IndexPoint, at, fastest, frontier, usual_candidates
from mrl_pg.report.looks import MORE
from mrl_pg.report.units import (
    BYTE_UNITS,
    MS_UNITS,
    TIME_UNITS,
    duration,
    figure,
    interval,
    milliseconds,
    share,
    size,
)

NAMES = {CONTROL: "random (control)"}
_SUMMARY = ("95 % interval", "5th percentile", "worst query")


def figures(evaluation: Evaluation, measured: Sequence[IndexPoint] = (), *, target: float) -> list[Figure]:
    """Returns all figures that there are numbers for.

    :param measured: searches through real indexes.
    :param target: the recall that is wanted.
    """
    found = [recall_by_dims(evaluation), recall_by_candidates(evaluation), recall_by_cost(evaluation)]
    return [
        *(one for one in found if one.charts),
        *([recall_by_latency(evaluation, measured, target)] if measured else []),
        *([relevance_by_dims(evaluation)] if evaluation.relevance else []),
    ]


def recall_by_dims(evaluation: Evaluation) -> Figure:
    """Returns the recall of prefixes alone."""
    points = evaluation.points
    y = share_axis(f"recall@{evaluation.k}", [point.recall.low for point in points])
    x = value_axis("dims", [point.dims for point in points])
    series = tuple(
        Series(
            NAMES.get(kind, kind),
            kind,
            tuple(_mark(p.dims, p.recall, f"{_prefix(p)}: recall@{evaluation.k}") for p in _of(points, kind)),
        )
        for kind in _kinds(points)
    )
    rows = tuple(
        (p.kind, p.dims, *_row(p.recall), p.overlap.mean, interval(p.overlap), p.spearman.mean, interval(p.spearman))
        + (p.kept,)
        for p in points
    )
    columns = ("kind", "dims", f"recall@{evaluation.k}", *_SUMMARY, f"overlap@{evaluation.k}", "95 % interval")
    return Figure(
        "recall-by-dims",
        "Recall of the prefix alone",
        f"Share of the exact top {evaluation.k} among the first {evaluation.k} by the prefix, nothing reranked. Bands "
        "are 95 % confidence intervals. The control takes as many dims at random: what stands above it, a kind owes to "
        "its choice of dims.",
        (Chart("", x, y, series),),
        Table(
            (*columns, f"Spearman over top {evaluation.top}", "95 % interval", "squared norm kept"),
            rows,
        ),
    )


def recall_by_candidates(evaluation: Evaluation) -> Figure:
    """Returns the recall after candidates are reranked, a chart for each length."""
    points = evaluation.points
    found = [(point, reranked) for point in points for reranked in point.reranked]
    y = share_axis(f"recall@{evaluation.k}", [reranked.recall.low for _, reranked in found])
    x = value_axis("candidates", [reranked.candidates for _, reranked in found])
    charts = []
    for dims in sorted({point.dims for point in points}):
        series = tuple(
            Series(
                NAMES.get(point.kind, point.kind),
                point.kind,
                tuple(
                    _mark(r.candidates, r.recall, f"{_prefix(point)}, {r.candidates} candidates: recall@{evaluation.k}")
                    for r in point.reranked
                ),
            )
            for point in points
            if point.dims == dims
        )
        charts.append(Chart(f"{dims} dims", x, y, series))
    return Figure(
        "recall-by-candidates",
        "Recall after the rerank",
        f"The prefix hands over candidates, the whole embedding picks the {evaluation.k} nearest of them. This is what "
        "a two-stage search finds.",
        tuple(charts),
        Table(
            ("kind", "dims", "candidates", f"recall@{evaluation.k}", *_SUMMARY),
            tuple((p.kind, p.dims, r.candidates, *_row(r.recall)) for p, r in found),
        ),
    )


def recall_by_cost(evaluation: Evaluation) -> Figure:
    """Returns the recall after the usual rerank beside what prefixes cost; no charts where there is but the control."""
    candidates = usual_candidates(evaluation)
    points = [point for point in evaluation.points if point.kind != CONTROL]
    whole = evaluation.footprint
    recalls = [at(point, candidates).recall for point in points]
    charts: tuple[Chart, ...] = ()
    if points:
        y = share_axis(f"recall@{evaluation.k}, {candidates} candidates", [recall.low for recall in recalls])
        sizes = [p.footprint.index_bytes for p in points]
        times = [p.footprint.build_seconds for p in points]
        name = "whole embedding, halfvec"
        charts = (
            Chart(
                "Size of the index",
                log_axis("index size", [*sizes, *([whole.index_bytes] if whole else [])], BYTE_UNITS, size),
                y,
                _cost_series(evaluation, points, sizes, candidates),
                (Rule(name, whole.index_bytes, upright=True),) if whole else (),
            ),
            Chart(
                "Time to build it",
                log_axis("build time", [*times, *([whole.build_seconds] if whole else [])], TIME_UNITS, duration),
                y,
                _cost_series(evaluation, points, times, candidates),
                (Rule(name, whole.build_seconds, upright=True),) if whole else (),
            ),
        )
    rows: list[tuple[Cell, ...]] = [
        (p.kind, p.dims, p.footprint.column_bytes, size(p.footprint.index_bytes), size(p.footprint.build_memory_bytes))
        + (duration(p.footprint.build_seconds), recall.mean, interval(recall))
        for p, recall in zip(points, recalls, strict=True)
    ]
    if whole:
        rows.append(
            ("whole embedding", evaluation.full_dims, whole.column_bytes, size(whole.index_bytes))
            + (size(whole.build_memory_bytes), duration(whole.build_seconds), None, None)
        )
    return Figure(
        "recall-by-cost",
        "What it costs",
        f"Projected for {evaluation.table_rows:,} rows: sizes from the layout of pgvector's pages, times from one "
        f"measured build (m = 16, ef_construction = 64, in memory). Recall is that after reranking {candidates} "
        "candidates. Up and to the left is better.",
        charts,
        Table(
            ("kind", "dims", "bytes a row", "index", "memory to build", "time to build")
            + (f"recall@{evaluation.k}, {candidates} candidates", "95 % interval"),
            tuple(rows),
        ),
    )


def recall_by_latency(evaluation: Evaluation, measured: Sequence[IndexPoint], target: float) -> Figure:
    """Returns the recall of searches through real indexes beside their latency."""
    y = share_axis(f"recall@{evaluation.k}", [min(point.recall.low, target) for point in measured])
    x = log_axis("median latency, ms", [point.p50_ms for point in measured], MS_UNITS, milliseconds)

    def mark(point: IndexPoint) -> Mark:
        return Mark(point.p50_ms, point.recall.mean, _measured_tip(point, evaluation.k))

    prefixes = list(dict.fromkeys(point.prefix for point in measured))
    series = [
        Series(prefix, MORE[n % len(MORE)], tuple(mark(p) for p in measured if p.prefix == prefix), line=False)
        for n, prefix in enumerate(prefixes)
    ]
    optimal = tuple(Mark(point.p50_ms, point.recall.mean) for point in frontier(measured))
    series.insert(0, Series("Pareto set", "frontier", optimal, dots=False))
    chosen = fastest(measured, target)
    if chosen:
        series.append(Series("recommended", "pick", (mark(chosen),), line=False))
    on_frontier = {id(point) for point in frontier(measured)}
    rows = tuple(
        (p.prefix, p.candidates, p.ef_search, p.recall.mean, interval(p.recall), p.recall.p5, p.recall.worst)
        + (f"{p.p50_ms:.2f}", f"{p.p95_ms:.2f}", f"{p.p99_ms:.2f}", f"{p.qps:,.0f}")
        + ("recommended" if p is chosen else "Pareto" if id(p) in on_frontier else "",)
        for p in measured
    )
    return Figure(
        "recall-by-latency",
        "Recall and latency through the index",
        "Searches on the real table, each setting of candidates and ef_search a mark. Nothing else found more in less "
        "time than the Pareto set. Up and to the left is better.",
        (Chart("", x, y, tuple(series), (Rule(f"target {target:g}", target),)),),
        Table(
            ("prefix", "candidates", "ef_search", f"recall@{evaluation.k}", *_SUMMARY)
            + ("p50 ms", "p95 ms", "p99 ms", "searches/s", "choice"),
            rows,
        ),
    )


def relevance_by_dims(evaluation: Evaluation) -> Figure:
    """Returns how well prefixes find what people judged relevant."""
    candidates = usual_candidates(evaluation)
    name = f"nDCG@{NDCG_AT}"
    alone = [(p, p.relevance) for p in evaluation.points if p.relevance]
    reranked = [(p, relevance) for p in evaluation.points if (relevance := at(p, candidates).relevance)]
    exact = evaluation.relevance
    known = [relevance.ndcg_10 for _, relevance in (*alone, *reranked)] + ([exact.ndcg_10] if exact else [])
    y = share_axis(name, [end for one in known for end in (one.low, one.high)], whole=False)
    x = value_axis("dims", [point.dims for point in evaluation.points])
    charts = [
        Chart(
            title,
            x,
            y,
            tuple(
                Series(
                    NAMES.get(kind, kind),
                    kind,
                    tuple(
                        _mark(p.dims, relevance.ndcg_10, f"{_prefix(p)}: {name}")
                        for p, relevance in found
                        if p.kind == kind
                    ),
                )
                for kind in _kinds([p for p, _ in found])
            ),
            (Rule("whole embedding", exact.ndcg_10.mean),) if exact else (),
        )
        for title, found in (("Prefix alone", alone), (f"{candidates} candidates reranked", reranked))
    ]
    rows: list[tuple[Cell, ...]] = [
        (p.kind, p.dims, one.ndcg_10.mean, interval(one.ndcg_10), one.recall.mean, interval(one.recall))
        + (two.ndcg_10.mean, interval(two.ndcg_10), two.recall.mean, interval(two.recall))
        for (p, one), (_, two) in zip(alone, reranked, strict=True)
    ]
    if exact:
        whole = (exact.ndcg_10.mean, interval(exact.ndcg_10), exact.recall.mean, interval(exact.recall))
        rows.append(("whole embedding", evaluation.full_dims, *whole, *whole))
    found_share = f"relevant in top {evaluation.k}"
    return Figure(
        "ndcg-by-dims",
        "Relevance as people judged it",
        f"{name} against the qrels, over the {known[0].queries:,} queries that have a relevant row. The line is what the "
        "exact search by the whole embedding reaches: the most that a prefix can be expected to.",
        tuple(charts),
        Table(
            ("kind", "dims", f"{name}, alone", "95 % interval", f"{found_share}, alone", "95 % interval")
            + (f"{name}, reranked", "95 % interval", f"{found_share}, reranked", "95 % interval"),
            tuple(rows),
        ),
    )


def _cost_series(
    evaluation: Evaluation, points: Sequence[Point], costs: Sequence[float], candidates: int
) -> tuple[Series, ...]:
    """Returns the recall after the rerank against a cost of each point."""
    marks = {
        (point.kind, point.dims): Mark(
            cost,
            (recall := at(point, candidates).recall).mean,
            f"{_prefix(point)}: index {size(point.footprint.index_bytes)}, built in "
            f"{duration(point.footprint.build_seconds)}\nrecall@{evaluation.k} {figure(recall)}",
            recall.low,
            recall.high,
        )
        for point, cost in zip(points, costs, strict=True)
    }
    return tuple(
        Series(kind, kind, tuple(mark for (of, _), mark in marks.items() if of == kind)) for kind in _kinds(points)
    )


def _measured_tip(point: IndexPoint, k: int) -> str:
    return (
        f"{point.prefix}: {point.candidates} candidates, ef_search {point.ef_search}\n"
        f"recall@{k} {figure(point.recall)}\n"
        f"p50 {point.p50_ms:.2f} ms, p95 {point.p95_ms:.2f} ms, {point.qps:,.0f} searches/s"
    )


def _mark(x: float, summary: Summary, what: str) -> Mark:
    tip = f"{what} {figure(summary)}\n5th percentile {share(summary.p5)}, worst query {share(summary.worst)}"
    return Mark(x, summary.mean, tip, summary.low, summary.high)


def _row(summary: Summary) -> tuple[Cell, ...]:
    return summary.mean, interval(summary), summary.p5, summary.worst


def _prefix(point: Point) -> str:
    return f"{point.kind} {point.dims}"


def _kinds(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(point.kind for point in points))


def _of(points: Sequence[Point], kind: str) -> list[Point]:
    return [point for point in points if point.kind == kind]
