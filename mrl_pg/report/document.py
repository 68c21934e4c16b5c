"""The report of an evaluation: what it says, its figures, and where to start."""

from __future__ import annotations

from collections.abc import Mapping

from mrl_pg.evaluation import Evaluation
from mrl_pg.metrics import RESAMPLES
from mrl_pg.report.chart import Cell, Table
from mrl_pg.report.choice import CONTROL, DEFAULT_TARGET, best, good_enough, usual_candidates
from mrl_pg.report.figures import figures
from mrl_pg.report.markup import tag
from mrl_pg.report.page import Section, figure_section, page_html, settings_section
from mrl_pg.report.table import html_table, to_csv
from mrl_pg.report.tasks import starting_points
from mrl_pg.report.units import figure, size
from mrl_pg.report.words import sentences

# Recalls to say the smallest index for, besides the one that is wanted.
_TARGETS = (0.9, 0.95, 0.98, 0.99)


def report_html(
    evaluation: Evaluation,
    *,
    table: str = "",
    target: float = DEFAULT_TARGET,
    settings: Mapping[str, object] | None = None,
) -> str:
    """Returns the report of an evaluation as HTML that loads nothing: charts, their tables, and what they say.

    :param table: what was evaluated, for the title.
    :param target: the recall that is wanted.
    :param settings: what else it takes to repeat it, by name: the command, the versions of server and pgvector, the
        model. Versions of Python and the like, and the machine, are those of now unless they are among them.
    """
    sections = [
        _words(evaluation, target),
        *(figure_section(one) for one in figures(evaluation, target=target)),
        *([_enough(evaluation, target)] if best(evaluation) else []),
        _tasks(evaluation, target),
        settings_section({**(settings or {}), **_settings(evaluation)}),
    ]
    title = f"Prefixes of {table}" if table else "Prefixes of an embedding"
    return page_html(title, _subtitle(evaluation), sections, csv=to_csv(evaluation))


def _subtitle(evaluation: Evaluation) -> str:
    of = f" of {evaluation.table_rows:,}" if evaluation.table_rows > evaluation.rows else ""
    return (
        f"{evaluation.rows:,}{of} rows, {evaluation.queries:,} queries, {evaluation.full_dims} dims, "
        f"{evaluation.distance} distance, k = {evaluation.k}"
    )


def _words(evaluation: Evaluation, target: float) -> Section:
    """Returns what the figures say, and what to know about them."""
    first, *others = sentences(evaluation, target)
    said = [tag("p", first, class_="verdict")]
    said += [tag("p", one, class_="soft" if one in evaluation.notes else None) for one in others]
    said.append(
        tag(
            "p",
            "Recall here is that of exact scans; an index finds a little less. Intervals say how far the mean may be "
            "off for other queries of the same sort, not for other sorts of queries.",
            class_="soft",
        )
    )
    return Section("words", "In words", tuple(said))


def _enough(evaluation: Evaluation, target: float) -> Section:
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
    return Section(
        "good-enough",
        "Good enough for which recall",
        (
            tag(
                "p",
                "The smallest index of each kind whose whole interval reaches the target, with the fewest candidates; "
                f"with more than {usual_candidates(evaluation)} only where it must be. A longer prefix needs "
                "fewer, which may be faster: searches through real indexes tell.",
                class_="soft",
            ),
            html_table(Table(columns, tuple(rows)), "Good enough for which recall"),
        ),
    )


def _tasks(evaluation: Evaluation, target: float) -> Section:
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
    return Section(
        "tasks",
        "Starting points by task",
        (
            tag(
                "p",
                "Starting points, not results: nothing below was measured on the task itself, but on the nearest rows "
                "of your queries, and the floors are ours. Evaluate with queries of the task, with qrels if you can.",
                class_="soft",
            ),
            tag("div", *cards, class_="tasks"),
        ),
    )


def _settings(evaluation: Evaluation) -> dict[str, object]:
    """Returns the settings that an evaluation knows."""
    points = evaluation.points
    return {
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
        "intervals": f"95 %, percentile bootstrap, {RESAMPLES:,} resamples",
    }
