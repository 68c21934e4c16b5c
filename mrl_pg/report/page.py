"""The report: one HTML file that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import version
from importlib.resources import files

from markupsafe import Markup

from mrl_pg import __version__
from mrl_pg.evaluation import Evaluation
from mrl_pg.report.chart import Cell, Chart, Figure, Table
from mrl_pg.report.choice import CONTROL, DEFAULT_TARGET, IndexPoint, good_enough, searches_of
from mrl_pg.report.figures import figures
from mrl_pg.report.looks import LOOKS
from mrl_pg.report.markup import joined, tag
from mrl_pg.report.svg import chart_svg, legend
from mrl_pg.report.table import html_table, to_csv
from mrl_pg.report.tasks import starting_points
from mrl_pg.report.units import figure, size
from mrl_pg.report.words import comparison, evidence, latency, verdict

# Recalls to say the smallest index for, besides the one that is wanted.
_TARGETS = (0.9, 0.95, 0.98, 0.99)


def report_html(
    evaluation: Evaluation,
    *,
    table: str = "",
    target: float = DEFAULT_TARGET,
    measured: Sequence[IndexPoint] | None = None,
    settings: Mapping[str, object] | None = None,
) -> str:
    """Returns the report of an evaluation as HTML that loads nothing: charts, their tables, and what they say.

    :param table: what was evaluated, for the title.
    :param target: the recall that is wanted.
    :param measured: searches through real indexes; those of the evaluation if None, and no chart without any.
    :param settings: what else it takes to repeat it, by name: the command, the versions of server and pgvector, the
        model; shown beside what the evaluation knows. Versions and machine are those of :func:`environment` unless
        they are among them.
    """
    measured = searches_of(evaluation) if measured is None else measured
    shown = figures(evaluation, measured, target=target)
    script, style = _resource("report.js"), _resource("report.css") + _looks()
    title = f"Prefixes of {table}" if table else "Prefixes of an embedding"
    sections = [
        _summary(evaluation, target, measured),
        *(_figure(one) for one in shown),
        _enough(evaluation, target),
        _tasks(evaluation, target),
        _settings(evaluation, settings or {}),
    ]
    head = [
        tag("meta", charset="utf-8"),
        # Whatever is in here, browsers fetch nothing and run nothing but the script below.
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(script)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("link", rel="icon", href="data:,"),
        tag("title", f"{title} · mrl-pg"),
        # Ours, and escaped they would be broken.
        tag("style", Markup(style)),  # noqa: S704
    ]
    body = [
        tag("header", tag("h1", title), tag("p", _subtitle(evaluation), class_="soft"), _contents(shown)),
        tag("main", *sections),
        tag(
            "footer", "Made by mrl-pg. Nothing in this file is loaded from elsewhere.", _download(evaluation, measured)
        ),
        tag("script", Markup(script)),  # noqa: S704
    ]
    return f"<!doctype html>\n{tag('html', tag('head', joined(head)), tag('body', joined(body)), lang='en')}\n"


def environment() -> dict[str, str]:
    """Returns the versions and the machine of now, to show with figures that were measured here."""
    return {
        "mrl-pg": __version__,
        "Python": platform.python_version(),
        "NumPy": version("numpy"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "reported": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _subtitle(evaluation: Evaluation) -> str:
    of = f" of {evaluation.table_rows:,}" if evaluation.table_rows > evaluation.rows else ""
    return (
        f"{evaluation.rows:,}{of} rows, {evaluation.queries:,} queries, {evaluation.full_dims} dims, "
        f"{evaluation.distance} distance, k = {evaluation.k}"
    )


def _contents(shown: Sequence[Figure]) -> Markup:
    """Returns links to the sections."""
    links = [(one.name, one.title) for one in shown]
    links += [("good-enough", "Good enough"), ("tasks", "Starting points by task"), ("settings", "To repeat it")]
    items = [tag("li", tag("a", title, href=f"#{name}")) for name, title in links]
    return tag("nav", tag("ul", *items), aria_label="Contents")


def _summary(evaluation: Evaluation, target: float, measured: Sequence[IndexPoint]) -> Markup:
    """Returns what the figures say, and what to know about them."""
    said = [tag("p", verdict(evaluation, target), class_="verdict"), tag("p", evidence(evaluation, target))]
    if measured:
        said.append(tag("p", latency(evaluation, measured, target)))
    said += [tag("p", sentence) for sentence in comparison(evaluation)]
    said += [tag("p", note, class_="soft") for note in evaluation.notes]
    said.append(
        tag(
            "p",
            "Recall here is that of exact scans; an index finds a little less. Intervals say how far the mean may be "
            "off for other queries of the same sort, not for other sorts of queries.",
            class_="soft",
        )
    )
    return tag("section", tag("h2", "In words"), *said, class_="card", id="words")


def _figure(one: Figure) -> Markup:
    """Returns a figure with its legend, its charts and its table."""
    charts = len(one.charts)
    # With three in a row one would be left over.
    panels = {1: "panels one", 2: "panels two"}.get(charts, "panels four" if charts % 3 == 1 else "panels")
    return tag(
        "section",
        tag("h2", one.title),
        tag("p", one.about, class_="soft"),
        legend(one),
        tag("div", *(_panel(one, chart) for chart in one.charts), class_=panels),
        tag("details", tag("summary", "Show the numbers as a table"), html_table(one.table, one.title)),
        class_="card",
        id=one.name,
    )


def _panel(one: Figure, chart: Chart) -> Markup:
    names = ", ".join(series.name for series in chart.series)
    label = (
        f"{f'{one.title}, {chart.title}' if chart.title else one.title}: {chart.y.name} against {chart.x.name} for "
        f"{names}. The table below has the numbers; left and right arrow keys go through the marks."
    )
    tip = tag("div", class_="tip", role="status", hidden=True)
    plot = tag("div", chart_svg(chart, label=label), tip, class_="plot")
    return tag("figure", *([tag("figcaption", chart.title)] if chart.title else []), plot, class_="panel")


def _enough(evaluation: Evaluation, target: float) -> Markup:
    """Returns the smallest index of each kind for each of some recalls."""
    kinds = [kind for kind in dict.fromkeys(point.kind for point in evaluation.points) if kind != CONTROL]
    rows: list[tuple[Cell, ...]] = []
    for wanted in sorted({*_TARGETS, target}):
        for kind in kinds:
            choice = good_enough(evaluation, wanted, kind)
            if choice:
                found = (choice.point.dims, choice.reranked.candidates, figure(choice.reranked.recall))
                rows.append((f"{wanted:g}", kind, *found, size(choice.point.footprint.index_bytes)))
            else:
                rows.append((f"{wanted:g}", kind, None, None, "not reached", None))
    name = f"recall@{evaluation.k}"
    columns = ("target", "kind", "dims", "candidates", f"{name} (95 % interval)", "index")
    return tag(
        "section",
        tag("h2", "Good enough for which recall"),
        tag(
            "p",
            "The smallest index of each kind, and with it the fewest candidates, whose whole interval reaches the "
            "target. A larger prefix needs fewer candidates, which may be faster; only searches through real indexes "
            "tell.",
            class_="soft",
        ),
        html_table(Table(columns, tuple(rows)), "Good enough for which recall"),
        class_="card",
        id="good-enough",
    )


def _tasks(evaluation: Evaluation, target: float) -> Markup:
    """Returns the starting points by task."""
    cards = [
        tag(
            "div",
            tag("h3", start.task),
            tag("p", start.why, class_="soft"),
            tag("p", start.take, class_="take"),
            tag("p", start.measured),
            class_="task",
        )
        for start in starting_points(evaluation, target)
    ]
    return tag(
        "section",
        tag("h2", "Starting points by task"),
        tag(
            "p",
            "Starting points, not results: nothing below was measured on the task itself, but on the nearest rows of "
            "your queries, and the floors are ours. Evaluate with queries of the task, with qrels if you can.",
            class_="soft",
        ),
        tag("div", *cards, class_="tasks"),
        class_="card",
        id="tasks",
    )


def _settings(evaluation: Evaluation, settings: Mapping[str, object]) -> Markup:
    """Returns all it takes to repeat the evaluation."""
    points = evaluation.points
    known: dict[str, object] = {
        "rows compared": f"{evaluation.rows:,}",
        "rows of the table": f"{evaluation.table_rows:,}",
        "queries": f"{evaluation.queries:,}",
        "full_dims": evaluation.full_dims,
        "distance": evaluation.distance,
        "k": evaluation.k,
        "kinds": ", ".join(dict.fromkeys(point.kind for point in points)),
        "dims": ", ".join(map(str, sorted({point.dims for point in points}))),
        "candidates": ", ".join(map(str, sorted({r.candidates for point in points for r in point.reranked}))),
        "top, for Spearman": evaluation.top,
        "rows the rotation was fitted to": f"{evaluation.basis_rows:,}",
        "seed": evaluation.seed,
        "intervals": "95 %, percentile bootstrap, 1,000 resamples",
        **environment(),
        **settings,
    }
    pairs = [part for name, value in known.items() for part in (tag("dt", name), tag("dd", str(value)))]
    return tag("section", tag("h2", "To repeat it"), tag("dl", *pairs), class_="card", id="settings")


def _download(evaluation: Evaluation, measured: Sequence[IndexPoint]) -> Markup:
    """Returns a link to all figures as CSV, which is in the link."""
    coded = base64.b64encode(to_csv(evaluation, measured).encode()).decode()
    link = tag("a", "Save all figures as CSV", href=f"data:text/csv;base64,{coded}", download="evaluation.csv")
    return tag("p", link)


def _looks() -> str:
    """Returns the colours and dashes of all looks as CSS."""
    light = [
        f".look-{name} {{ --look: {look.light}; --dash: {' '.join(map(str, look.dash)) or 'none'}; }}"
        for name, look in LOOKS.items()
    ]
    dark = [f".look-{name} {{ --look: {look.dark}; }}" for name, look in LOOKS.items()]
    return "\n".join([*light, "@media (prefers-color-scheme: dark) {", *dark, "}\n"])


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


@cache
def _resource(name: str) -> str:
    return (files("mrl_pg.report") / name).read_text(encoding="utf-8")
