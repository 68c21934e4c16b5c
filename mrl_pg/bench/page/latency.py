"""The figures of recall and latency."""

from __future__ import annotations

from collections.abc import Container, Sequence

from mrl_pg.bench.page.marks import Group, groups, indexed, latency, recall_cells, setting, tip
from mrl_pg.bench.report import BASELINE, MethodReport, Report
from mrl_pg.points import Figures, pareto
from mrl_pg.report.chart import Axis, Cell, Chart, Figure, Mark, Rule, Series, Table, log_axis, nines_axis
from mrl_pg.report.units import MS_UNITS, milliseconds

_COLUMNS = ("p50 ms", "p95 ms", "searches/s", "choice")


def recall_by_latency(report: Report) -> list[Figure]:
    """Returns the best of each method, side by side, a figure for as many methods as can be told apart."""
    return [_side_by_side(report, group) for group in groups(report)]


def every_setting(report: Report) -> Figure:
    """Returns all that was measured, a chart for each method."""
    k, methods = report.k, indexed(report)
    x, y = _axes(report, [point for one in methods for point in one.points])
    baseline = next((pareto(one.points) for one in methods if one.name == BASELINE), [])

    def chart(one: MethodReport) -> Chart:
        series = [Series(f"{BASELINE}, the best of it", "frontier", _marks(BASELINE, baseline, k), dots=False)]
        series = series if one.name != BASELINE and baseline else []
        series.append(Series("setting tried", "truncate", _marks(one.name, one.points, k), line=False))
        return Chart(one.name, x, y, (*series, _picked(report, [one.name])), _rules(report, ""))

    rows: list[tuple[Cell, ...]] = [
        (one.name, *_cells(one.name, point, "Pareto set" if point in best else ""))
        for one in report.methods
        for best in [pareto(one.points)]
        for point in one.points
    ]
    return Figure(
        "every-setting",
        "Every setting that was tried",
        "A mark for each setting of candidates and ef_search. A setting that clearly reaches or misses every target is "
        "measured with fewer queries; the cheapest ones, ringed, with all of them and again.",
        tuple(map(chart, methods)),
        Table(("method", "candidates/ef_search", "queries", f"recall@{k}", "95 % interval", *_COLUMNS), tuple(rows)),
    )


def _side_by_side(report: Report, group: Group) -> Figure:
    k = report.k
    methods = [one for one in report.methods if one.name in group.looks]
    best = {one.name: pareto(one.points) for one in methods}
    x, y = _axes(report, [point for points in best.values() for point in points])
    series = [Series(name, group.looks[name], _marks(name, points, k)) for name, points in best.items()]
    rows: list[tuple[Cell, ...]] = [
        (name, *_cells(name, point, "Pareto set")) for name, points in best.items() for point in points
    ]
    rows += [
        (one.method, *_cells(one.method, one.figures, f"cheapest for {one.target:g}"))
        for one in report.chosen
        if one.method in best and one.reached
    ]
    return Figure(
        f"recall-by-latency{group.suffix}",
        group.titled("Recall and latency"),
        "The Pareto set of each method: of its settings those than which none found more in less time, one client at a "
        "time. Rings are the cheapest that reach a target, measured again. Up and to the left is better; the scale "
        "widens towards 1.",
        (Chart("", x, y, (*series, _picked(report, best)), _rules(report)),),
        Table(("method", "candidates/ef_search", "queries", f"recall@{k}", "95 % interval", *_COLUMNS), tuple(rows)),
    )


def _axes(report: Report, points: list[Figures]) -> tuple[Axis, Axis]:
    drawn = points + [one.figures for one in report.chosen if one.method != "exact"]
    x = log_axis("median latency, ms", [point.p50_ms for point in drawn], MS_UNITS, milliseconds)
    y = nines_axis(f"recall@{report.k}", [*(point.recall for point in drawn), *report.environment["targets"]])
    return x, y


def _marks(method: str, points: Sequence[Figures], k: int) -> tuple[Mark, ...]:
    return tuple(Mark(p.p50_ms, p.recall, tip(method, k, p, latency(p))) for p in points)


def _picked(report: Report, methods: Container[str]) -> Series:
    found = [one for one in report.chosen if one.reached and one.method in methods]
    marks = [
        Mark(
            one.figures.p50_ms,
            one.figures.recall,
            tip(one.method, report.k, one.figures, latency(one.figures), f"cheapest for {one.target:g}"),
        )
        for one in found
    ]
    return Series("cheapest for a target", "pick", tuple(marks), line=False)


def _rules(report: Report, name: str = "target ") -> tuple[Rule, ...]:
    return tuple(Rule(f"{name}{target:g}", target) for target in report.environment["targets"])


def _cells(method: str, found: Figures, choice: str) -> tuple[Cell, ...]:
    return (
        setting(found, method),
        found.queries,
        *recall_cells(found),
        *(f"{found.p50_ms:.2f}", f"{found.p95_ms:.2f}", f"{found.qps:,.1f}"),
        choice,
    )
