"""The figures of growth with the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mrl_pg.bench.growth import BY_TARGET, OF_METHOD, chosen_of, law_of, method_of
from mrl_pg.bench.page.marks import Group, groups, recall_cells, setting, tip
from mrl_pg.bench.report import Chosen, MethodReport, Report
from mrl_pg.report.chart import Axis, Cell, Chart, Figure, Mark, Series, Table, log_axis, value_axis
from mrl_pg.report.units import BYTE_UNITS, MS_UNITS, TIME_UNITS, count, duration, milliseconds, size


def growth(report: Report) -> list[Figure]:
    """Returns how latency, size and build time grow, a figure for as many methods as can be told apart."""
    return [_figure(report, group) for group in groups(report)]


def _figure(report: Report, group: Group) -> Figure:
    k, runs = report.k, report.runs
    targets: Sequence[float] = report.environment["targets"]
    x = value_axis("rows", [run.rows for run in runs], lambda rows: count(int(rows)))

    def latencies(target: float) -> Chart | None:
        found = {
            name: [(run.rows, one) for run in runs if (one := chosen_of(run, name, target)).reached]
            for name in group.looks
        }
        known = [one.figures.p50_ms for points in found.values() for _, one in points]
        if not known:
            return None

        def marks(name: str) -> tuple[Mark, ...]:
            grows = f"p50 grows as rows ^ {_exponent(report, name, BY_TARGET, target)}"
            return tuple(Mark(rows, one.figures.p50_ms, _tip(rows, one, k, grows)) for rows, one in found[name])

        y = log_axis("p50, ms", known, MS_UNITS, milliseconds)
        return Chart(f"p50, recall ≥ {target:g}", x, y, _series(group, marks))

    def costs(title: str, y_name: str, figure: str, units: Sequence[float], label: Callable[[float], str]) -> Chart:
        def value(one: MethodReport) -> float:
            return float(getattr(one, figure))

        def marks(name: str) -> tuple[Mark, ...]:
            grows = f"grows as rows ^ {_exponent(report, name, figure)}"
            return tuple(
                Mark(
                    run.rows,
                    value(method_of(run, name)),
                    f"{name}, {count(run.rows)} rows\n{y_name} {label(value(method_of(run, name)))}\n{grows}",
                )
                for run in runs
            )

        known = [value(method_of(run, name)) for run in runs for name in group.looks]
        y: Axis = log_axis(y_name, known, units, label)
        return Chart(title, x, y, _series(group, marks))

    charts = [
        *map(latencies, targets),
        costs("Size of the index", "index", "index_bytes", BYTE_UNITS, size),
        costs("Time to build it", "build", "build_seconds", TIME_UNITS, duration),
    ]
    return Figure(
        f"growth{group.suffix}",
        group.titled("Growth with rows"),
        "The cheapest settings that reach a target, found anew for each number of rows. With both axes logarithmic a "
        "power law is a straight line, and its exponent the slope. Where a mark is missing the target was not reached.",
        tuple(chart for chart in charts if chart),
        Table(_columns(k, targets), tuple(_rows(report, group))),
    )


def _exponent(report: Report, *law: Any) -> str:
    return str(law_of(report, *law) or "–")


def _series(group: Group, marks: Callable[[str], tuple[Mark, ...]]) -> tuple[Series, ...]:
    return tuple(Series(name, look, found) for name, look in group.looks.items() if (found := marks(name)))


def _tip(rows: int, one: Chosen, k: int, grows: str) -> str:
    return tip(one.method, k, one.figures, f"{count(rows)} rows: p50 {one.figures.p50_ms:.2f} ms", grows)


def _columns(k: int, targets: Sequence[float]) -> tuple[str, ...]:
    of_targets = [
        name
        for target in targets
        for name in (f"recall@{k} for {target:g}", "95 % interval", "candidates/ef_search", "p50 ms")
    ]
    return ("method", "rows", "index", "build s", *of_targets)


def _rows(report: Report, group: Group) -> list[tuple[Cell, ...]]:
    """The figures with each number of rows, and under those of a method the exponents."""
    targets = report.environment["targets"]
    rows: list[tuple[Cell, ...]] = []
    for name in group.looks:
        for run in report.runs:
            built = method_of(run, name)
            row: list[Cell] = [name, run.rows, size(built.index_bytes or 0), f"{built.build_seconds:,.1f}"]
            for target in targets:
                one = chosen_of(run, name, target)
                missed = "" if one.reached else ", missed"
                row += [*recall_cells(one.figures), setting(one, name), f"{one.figures.p50_ms:.2f}{missed}"]
            rows.append(tuple(row))
        row = [name, "exponent", *(_exponent(report, name, figure) for figure in OF_METHOD)]
        for target in targets:
            row += [None, None, None, _exponent(report, name, BY_TARGET, target)]
        rows.append(tuple(row))
    return rows
