"""The figure of searches through real indexes."""

from __future__ import annotations

import json
from collections.abc import Sequence

from mrl_pg.evaluation import Cold, Measured
from mrl_pg.report.chart import Axis, Cell, Chart, Figure, Mark, Rule, Series, Table, log_axis, nines_axis
from mrl_pg.report.choice import alike, fastest, frontier
from mrl_pg.report.looks import MORE
from mrl_pg.report.marks import SPREAD, spread
from mrl_pg.report.units import MS_UNITS, figure, milliseconds, percent

# A filter that is longer than this is cut in titles.
_MAX_FILTER = 60


def recall_by_latency(measured: Sequence[Measured], k: int, target: float, cold: Sequence[Cold] = ()) -> Figure:
    """Returns the recall of searches through real indexes beside their latency, a chart for each filter.

    :param measured: at least one.
    :param target: the recall that is wanted.
    :param cold: the first searches after the caches were emptied, for the table.
    """
    y = nines_axis(f"recall@{k}", [min(point.recall.low, target) for point in measured])
    x = log_axis("median latency, ms", [point.p50_ms for point in measured], MS_UNITS, milliseconds)
    # A prefix looks the same in every chart.
    looks = {prefix: MORE[n % len(MORE)] for n, prefix in enumerate(dict.fromkeys(p.prefix for p in measured))}
    groups = alike(measured)
    chosen = fastest(measured, target)
    optimal = {id(point) for group in groups for point in frontier(group)}
    filtered, clients = any(point.filter is not None for point in measured), len({p.clients for p in measured}) > 1
    titles = [_title(group[0], clients) if len(groups) > 1 else "" for group in groups]
    rows: list[tuple[Cell, ...]] = [
        (
            point.prefix,
            *([_filter(point)] if filtered else []),
            *([point.clients] if clients else []),
            *(point.candidates, point.ef_search, *spread(point.recall), f"{point.received.mean:.0f}"),
            *(f"{point.p50_ms:.2f}", f"{point.p95_ms:.2f}", f"{point.p99_ms:.2f}", f"{point.qps:,.0f}"),
            "recommended" if point is chosen else "Pareto set" if id(point) in optimal else "",
        )
        for group in groups
        for point in group
    ]
    rows += [
        (
            one.prefix,
            *(["–"] if filtered else []),
            *([1] if clients else []),
            *(one.candidates, one.ef_search, *spread(one.recall), None),
            *(f"{one.p50_ms:.2f}", f"{one.p95_ms:.2f}", None, None),
            f"cold: the first {one.searches}, the first of all {one.first_ms:.1f} ms",
        )
        for one in cold
    ]
    columns = (
        *("prefix", *(["filter"] if filtered else []), *(["clients"] if clients else [])),
        *("candidates", "ef_search", f"recall@{k}", *SPREAD, "received"),
        *("p50 ms", "p95 ms", "p99 ms", "searches/s", "choice"),
    )
    return Figure(
        "recall-by-latency",
        "Recall and latency through the index",
        "Searches on the real table, a mark for each setting of candidates and ef_search. Nothing measured found more "
        "in less time than the Pareto set. Up and to the left is better.",
        tuple(
            _chart(title, group, chosen, x, y, k, target, looks) for title, group in zip(titles, groups, strict=True)
        ),
        Table(columns, tuple(rows)),
    )


def _chart(
    title: str,
    points: Sequence[Measured],
    chosen: Measured | None,
    x: Axis,
    y: Axis,
    k: int,
    target: float,
    looks: dict[str, str],
) -> Chart:
    """Returns the chart of points that are alike."""

    def mark(point: Measured) -> Mark:
        return Mark(point.p50_ms, point.recall.mean, _tip(point, k))

    optimal = tuple(Mark(point.p50_ms, point.recall.mean) for point in frontier(points))
    series = [Series("Pareto set", "frontier", optimal, dots=False)]
    for prefix, look in looks.items():
        of_prefix = tuple(mark(point) for point in points if point.prefix == prefix)
        if of_prefix:
            series.append(Series(prefix, look, of_prefix, line=False))
    if any(point is chosen for point in points) and chosen:
        series.append(Series("recommended", "pick", (mark(chosen),), line=False))
    return Chart(title, x, y, tuple(series), (Rule(f"target {target:g}", target),))


def _title(point: Measured, with_clients: bool) -> str:
    """Returns what sets a group of points apart."""
    kept = f", keeps {percent(point.selectivity)}" if point.filter is not None else ""
    clients = f", {point.clients} client{'s' if point.clients > 1 else ''}" if with_clients else ""
    return f"{f'Filter {_filter(point)}' if point.filter is not None else 'No filter'}{kept}{clients}"


def _filter(point: Measured) -> str:
    if point.filter is None:
        return "–"
    text = json.dumps(point.filter, ensure_ascii=False, default=str)
    return text if len(text) <= _MAX_FILTER else f"{text[: _MAX_FILTER - 1]}…"


def _tip(point: Measured, k: int) -> str:
    return (
        f"{point.prefix}\n{point.candidates} candidates, ef_search {point.ef_search}\n"
        f"recall@{k} {figure(point.recall)}\n"
        f"p50 {point.p50_ms:.2f} ms, p95 {point.p95_ms:.2f} ms, {point.qps:,.0f} searches/s"
    )
