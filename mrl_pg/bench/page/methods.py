"""The figures that have a line for each method: searches a second, and what an index costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mrl_pg.bench.page.marks import indexed, latency, rate, recall_cells, setting, times, tip
from mrl_pg.bench.report import BASELINE, Chosen, MethodReport, Report, ShortMemory
from mrl_pg.report.chart import Cell, Chart, Figure, Mark, Rule, Series, Table, log_axis, names_axis
from mrl_pg.report.units import BYTE_UNITS, TIME_UNITS, duration, size, with_interval

# Of targets, and of the two times in a chart.
_LOOKS = ("truncate", "rotate", "binary", "more-1", "more-2", "more-3", "random")
_RATIO_UNITS = (1e-4,)


def searches(report: Report) -> Figure:
    """Returns how many searches a second each method does at its cheapest settings."""
    about = (
        f"At the cheapest settings of each method that reach a target, over {BASELINE} at its own; a method without a "
        "mark misses it at every setting tried. To the right is better. Exact search is in the table."
    )
    return _searches(report, "searches", "Searches a second", about, report.chosen)


def short_memory(report: Report, found: Sequence[ShortMemory]) -> Figure:
    """Returns the same with little memory for the data."""
    told = report.environment["short_memory_settings"]
    about = (
        f"The same settings on a server with {told['shared_buffers']} of buffers and no page cache, each method alone "
        "after a start of the server and no query asked twice, so the recall is that of other queries. Cold are the "
        "first queries after the start."
    )
    return _searches(report, "short-memory", "With little memory", about, found)


def indexes(report: Report) -> Figure:
    """Returns how large the index of each method is, and how long it is in the making."""
    methods, k = indexed(report), report.k
    y = names_axis([one.name for one in methods])

    def marks(of: Callable[[MethodReport], float | None], label: Callable[[float], str], what: str) -> tuple[Mark, ...]:
        return tuple(
            Mark(value, n, "\n".join([f"{one.name}: {what} {label(value)}", *_recalls(report, one.name)]))
            for n, one in enumerate(methods)
            if (value := of(one))
        )

    sizes = marks(lambda one: one.index_bytes, size, "index")
    builds = marks(lambda one: one.build_seconds, duration, "index built in")
    fills = marks(lambda one: one.fill_seconds, duration, "column added and filled in")
    spent = [mark.x for mark in (*builds, *fills)]
    times_axis = log_axis("time", spent, TIME_UNITS, duration)
    rows: list[tuple[Cell, ...]] = [
        (
            one.name,
            *((size(one.index_bytes), times(one.smaller)) if one.index_bytes else (None, None)),
            *(None if s is None else f"{s:,.1f}" for s in (one.fill_seconds, one.build_seconds)),
            times(one.faster),
            f"{one.inserts_per_s:,.0f}",
            *(cell for found in _chosen(report, one.name) for cell in recall_cells(found.figures)),
        )
        for one in report.methods
    ]
    targets = report.environment["targets"]
    recalls = [name for target in targets for name in (f"recall@{k} for {target:g}", "95 % interval")]
    columns = ("index", f"{BASELINE} over it", "fill s", "build s", f"{BASELINE} over it", "inserts/s", *recalls)
    return Figure(
        "indexes",
        "Size and build time of the index",
        f"Measured at {report.rows:,} rows. Recipes on an expression have no column to fill. Inserts/s in the table is "
        "one INSERT of up to 1,000 rows into a table of up to 10,000 with that index alone. To the left is better.",
        (
            Chart(
                "Size of the index",
                log_axis("index size", [mark.x for mark in sizes], BYTE_UNITS, size),
                y,
                (Series("index", _LOOKS[0], sizes, line=False),),
            ),
            Chart(
                "Time to make it",
                times_axis,
                y,
                (
                    Series("index", _LOOKS[0], builds, line=False),
                    *([Series("column of the prefix", _LOOKS[1], fills, line=False)] if fills else []),
                ),
            ),
        ),
        Table(("method", *columns), tuple(rows)),
    )


def _searches(report: Report, name: str, title: str, about: str, chosen: Sequence[Chosen]) -> Figure:
    k, clients, targets = report.k, report.environment["clients"], report.environment["targets"]
    shown = [one.name for one in indexed(report) if any(found.method == one.name for found in chosen)]
    reached = [one for one in chosen if one.reached and one.method in shown]
    compared = any(one.times is not None for one in reached)
    unit = f"times {BASELINE}" if compared else "searches/s"

    def chart(of_chart: str, of: Callable[[Chosen], float | None]) -> Chart | None:
        drawn = [(one, value) for one in reached if (value := of(one))]
        if not drawn:
            return None
        series = [
            Series(
                f"target {target:g}",
                _LOOKS[n % len(_LOOKS)],
                tuple(
                    Mark(v, shown.index(one.method), _tip(one, k, clients)) for one, v in drawn if one.target == target
                ),
                line=False,
            )
            for n, target in enumerate(targets)
        ]
        values = [value for _, value in drawn] + ([1.0] if compared else [])
        x = log_axis(unit, values, _RATIO_UNITS, lambda value: f"{value:.3g}{'×' if compared else ''}")
        rules = (Rule(BASELINE, 1.0, upright=True),) if compared else ()
        return Chart(of_chart, x, names_axis(shown), tuple(one for one in series if one.marks), rules)

    charts = [
        chart("One client", lambda one: one.times if compared else one.figures.qps),
        chart(f"{clients} clients at a time", lambda one: one.clients_times if compared else one.clients_qps),
    ]
    cold = any(isinstance(one, ShortMemory) for one in chosen)
    columns = (
        *("target", "method", "reached", "candidates/ef_search", f"recall@{k}", "95 % interval"),
        *("p50 ms", "p95 ms", "searches/s", f"over {BASELINE}", f"with {clients} clients", f"over {BASELINE}"),
        *(("cold ms", f"recall@{k}, cold") if cold else ()),
    )
    return Figure(name, title, about, tuple(c for c in charts if c), Table(columns, tuple(map(_row, chosen))))


def _row(one: Chosen) -> tuple[Cell, ...]:
    found = one.figures
    return (
        *(f"{one.target:g}", one.method, "yes" if one.reached else "no", setting(one, one.method)),
        *recall_cells(found),
        *(f"{found.p50_ms:.2f}", f"{found.p95_ms:.2f}", rate(found.qps), times(one.times)),
        None if one.clients_qps is None else rate(one.clients_qps),
        times(one.clients_times),
        *((f"{one.cold_ms:.1f}", one.cold_recall) if isinstance(one, ShortMemory) else ()),
    )


def _tip(one: Chosen, k: int, clients: int) -> str:
    several = [] if one.clients_qps is None else [f"{rate(one.clients_qps)} searches/s by {clients} clients"]
    over = [f"{one.times:.2f} and {one.clients_times:.2f} times {BASELINE}"] if one.times and one.clients_times else []
    return tip(one.method, k, one.figures, latency(one.figures), *several, *over)


def _chosen(report: Report, method: str) -> list[Chosen]:
    return [one for one in report.chosen if one.method == method]


def _recalls(report: Report, method: str) -> list[str]:
    """What a method finds with its index, for each target."""
    return [
        f"recall@{report.k} {with_interval(found.recall, found.low, found.high)} at p50 {found.p50_ms:.2f} ms"
        for one in _chosen(report, method)
        for found in [one.figures]
    ]
