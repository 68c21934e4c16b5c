"""The figures of an evaluation: which charts there are, and the tables with their numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mrl_pg.evaluation import Evaluation, Point
from mrl_pg.footprint import Footprint
from mrl_pg.relevance import NDCG_AT, Relevance
from mrl_pg.report.chart import (
    Axis,
    Cell,
    Chart,
    Figure,
    Mark,
    Rule,
    Table,
    log_axis,
    nines_axis,
    share_axis,
    value_axis,
)
from mrl_pg.report.choice import CONTROL, at, usual_candidates
from mrl_pg.report.indexes import recall_by_latency
from mrl_pg.report.marks import SPREAD, by_kind, mean, prefix_name, spread, summary_mark
from mrl_pg.report.units import BYTE_UNITS, TIME_UNITS, duration, figure, size


def figures(evaluation: Evaluation, *, target: float) -> list[Figure]:
    """Returns all figures that there are numbers for.

    :param target: the recall that is wanted.
    """
    found = [recall_by_dims(evaluation), recall_by_candidates(evaluation)]
    if any(point.kind != CONTROL for point in evaluation.points):
        found.append(recall_by_cost(evaluation))
    if evaluation.indexes:
        found.append(recall_by_latency(evaluation.indexes, evaluation.k, target, evaluation.cold))
    if evaluation.relevance:
        found.append(relevance_by_dims(evaluation, evaluation.relevance))
    return found


def recall_by_dims(evaluation: Evaluation) -> Figure:
    """Returns the recall of prefixes alone."""
    k, points = evaluation.k, evaluation.points
    y = share_axis(f"recall@{k}", [point.recall.low for point in points])
    x = value_axis("dims", [point.dims for point in points])
    series = by_kind(points, lambda p: [summary_mark(p.dims, p.recall, prefix_name(p), f"recall@{k}")])
    compared = (f"overlap@{k}", "95 % interval", f"Spearman over top {evaluation.top}", "95 % interval")
    return Figure(
        "recall-by-dims",
        "Recall of the prefix alone",
        f"Share of the exact top {k} among the first {k} by the prefix, nothing reranked. Bands are 95 % confidence "
        "intervals. The control takes as many dims at random.",
        (Chart("", x, y, series),),
        Table(
            ("kind", "dims", f"recall@{k}", *SPREAD, *compared, "squared norm kept"),
            tuple((p.kind, p.dims, *spread(p.recall), *mean(p.overlap), *mean(p.spearman), p.kept) for p in points),
        ),
    )


def recall_by_candidates(evaluation: Evaluation) -> Figure:
    """Returns the recall after candidates are reranked, a chart for each length."""
    k, points = evaluation.k, evaluation.points
    found = [(point, reranked) for point in points for reranked in point.reranked]
    y = nines_axis(f"recall@{k}", [reranked.recall.low for _, reranked in found])
    x = value_axis("candidates", [reranked.candidates for _, reranked in found])

    def marks(point: Point) -> list[Mark]:
        return [
            summary_mark(r.candidates, r.recall, f"{prefix_name(point)}, {r.candidates} candidates", f"recall@{k}")
            for r in point.reranked
        ]

    charts = [
        Chart(f"{dims} dims", x, y, by_kind([point for point in points if point.dims == dims], marks))
        for dims in sorted({point.dims for point in points})
    ]
    return Figure(
        "recall-by-candidates",
        "Recall after the rerank",
        f"The prefix hands over candidates, the whole embedding picks the {k} nearest of them: what a two-stage search "
        "finds. The scale widens towards 1, where choices are made.",
        tuple(charts),
        Table(
            ("kind", "dims", "candidates", f"recall@{k}", *SPREAD),
            tuple((p.kind, p.dims, r.candidates, *spread(r.recall)) for p, r in found),
        ),
    )


def recall_by_cost(evaluation: Evaluation) -> Figure:
    """Returns the recall after the usual rerank beside what prefixes cost, the control left out."""
    k, candidates, whole = evaluation.k, usual_candidates(evaluation), evaluation.footprint
    points = [point for point in evaluation.points if point.kind != CONTROL]
    y = nines_axis(f"recall@{k}, {candidates} candidates", [at(point, candidates).recall.low for point in points])
    known = [point.footprint for point in points] + ([whole] if whole else [])

    def chart(title: str, x: Axis, cost: Callable[[Footprint], float]) -> Chart:
        def marks(point: Point) -> list[Mark]:
            recall = at(point, candidates).recall
            costs = f"{size(point.footprint.index_bytes)}, built in {duration(point.footprint.build_seconds)}"
            tip = f"{prefix_name(point)}\nindex {costs}\nrecall@{k} {figure(recall)}"
            return [Mark(cost(point.footprint), recall.mean, tip, recall.low, recall.high)]

        rules = (Rule("whole embedding, halfvec", cost(whole), upright=True),) if whole else ()
        return Chart(title, x, y, by_kind(points, marks), rules)

    sizes = log_axis("index size", [cost.index_bytes for cost in known], BYTE_UNITS, size)
    times = log_axis("build time", [cost.build_seconds for cost in known], TIME_UNITS, duration)
    rows: list[tuple[Cell, ...]] = [
        (point.kind, point.dims, *_costs(point.footprint), *mean(at(point, candidates).recall)) for point in points
    ]
    if whole:
        rows.append(("whole embedding", evaluation.full_dims, *_costs(whole), None, None))
    return Figure(
        "recall-by-cost",
        "What it costs",
        f"Projected for {evaluation.table_rows:,} rows: sizes from the layout of pgvector's pages, times from one "
        f"measured build (m = 16, ef_construction = 64, in memory). Recall is that after reranking {candidates} "
        "candidates. Up and to the left is better.",
        (
            chart("Size of the index", sizes, lambda cost: cost.index_bytes),
            chart("Time to build it", times, lambda cost: cost.build_seconds),
        ),
        Table(
            ("kind", "dims", "bytes a row", "index", "memory to build", "time to build", y.name, "95 % interval"),
            tuple(rows),
        ),
    )


def relevance_by_dims(evaluation: Evaluation, exact: Relevance) -> Figure:
    """Returns how well prefixes find what people judged relevant.

    :param exact: what the exact search by the whole embedding finds.
    """
    points, candidates, name = evaluation.points, usual_candidates(evaluation), f"nDCG@{NDCG_AT}"
    alone = {id(point): point.relevance or exact for point in points}
    reranked = {id(point): at(point, candidates).relevance or exact for point in points}
    known = [one.ndcg_10 for one in (*alone.values(), *reranked.values(), exact)]
    y = share_axis(name, [end for one in known for end in (one.low, one.high)], whole=False)
    x = value_axis("dims", [point.dims for point in points])

    def chart(title: str, found: Mapping[int, Relevance]) -> Chart:
        def marks(point: Point) -> list[Mark]:
            return [summary_mark(point.dims, found[id(point)].ndcg_10, prefix_name(point), name)]

        return Chart(title, x, y, by_kind(points, marks), (Rule("whole embedding", exact.ndcg_10.mean),))

    rows: list[tuple[Cell, ...]] = [
        (point.kind, point.dims, *_judged(alone[id(point)]), *_judged(reranked[id(point)])) for point in points
    ]
    rows.append(("whole embedding", evaluation.full_dims, *_judged(exact), *_judged(exact)))
    columns = [
        part
        for how in ("alone", "reranked")
        for what in (name, f"relevant in top {evaluation.k}")
        for part in (f"{what}, {how}", "95 % interval")
    ]
    return Figure(
        "ndcg-by-dims",
        "Relevance as people judged it",
        f"{name} against the qrels, over the {exact.ndcg_10.queries:,} queries that have a relevant row. The line is "
        "what the exact search by the whole embedding reaches.",
        (chart("Prefix alone", alone), chart(f"{candidates} candidates reranked", reranked)),
        Table(("kind", "dims", *columns), tuple(rows)),
    )


def _costs(cost: Footprint) -> tuple[Cell, ...]:
    """Returns the cells of what a prefix costs."""
    return cost.column_bytes, size(cost.index_bytes), size(cost.build_memory_bytes), duration(cost.build_seconds)


def _judged(relevance: Relevance) -> tuple[Cell, ...]:
    return *mean(relevance.ndcg_10), *mean(relevance.recall)
