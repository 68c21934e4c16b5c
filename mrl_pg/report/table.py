"""The numbers of an evaluation as tables: HTML to read, CSV to work with."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields

from markupsafe import Markup

from mrl_pg.evaluation import Evaluation
from mrl_pg.metrics import Summary
from mrl_pg.report.chart import Cell, Table
from mrl_pg.report.choice import IndexPoint, searches_of
from mrl_pg.report.markup import tag
from mrl_pg.report.units import count, share

# All there can be, in their order.
_COLUMNS = (
    *("source", "kind", "dims", "prefix", "candidates", "ef_search", "filter", "selectivity", "clients"),
    *(
        f"{name}_{field.name}"
        for name in ("recall", "overlap", "spearman", "ndcg_10", "relevant_recall")
        for field in fields(Summary)
    ),
    *("kept", "column_bytes", "index_bytes", "build_memory_bytes", "build_seconds"),
    *("received_mean", "p50_ms", "p95_ms", "p99_ms", "qps"),
)
_NOTHING = "–"


def html_table(table: Table, caption: str) -> Markup:
    """Returns a table that scrolls by itself, so that the page need not.

    :param caption: what it is, for those who do not see what stands around it.
    """
    texts = [[cell_text(cell) for cell in row] for row in table.rows]
    # Numbers end at the same place, whether they have a unit or not.
    numeric = [all(text == _NOTHING or text[:1].isdigit() for text in column) for column in zip(*texts, strict=True)]
    classes = ["number" if number else None for number in numeric]
    head = tag("tr", *(tag("th", c, scope="col", class_=k) for c, k in zip(table.columns, classes, strict=True)))
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row", class_=classes[0]),
            *(tag("td", text, class_=k) for text, k in zip(row[1:], classes[1:], strict=True)),
        )
        for row in texts
    ]
    whole = tag("table", tag("thead", head), tag("tbody", *body), aria_label=caption)
    return tag("div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption)


def cell_text(cell: Cell) -> str:
    """Returns what a cell says."""
    if cell is None:
        return _NOTHING
    if isinstance(cell, float):
        return share(cell)
    return count(cell) if isinstance(cell, int) else cell


def to_csv(evaluation: Evaluation, measured: Sequence[IndexPoint] | None = None) -> str:
    """Returns all figures as CSV, in full precision: a line for each prefix alone, each rerank and each index setting.

    ``source`` is ``scan`` or ``index``; what does not apply to a line is left empty. Costs are for ``table_rows``.

    :param measured: searches through real indexes; those of the evaluation if None.
    """
    lines: list[dict[str, object]] = []
    if evaluation.relevance:
        exact = evaluation.relevance
        lines.append(
            {
                "source": "scan",
                "kind": "exact",
                "dims": evaluation.full_dims,
                **_summary("ndcg_10", exact.ndcg_10),
                **_summary("relevant_recall", exact.recall),
            }
        )
    for point in evaluation.points:
        prefix = {"source": "scan", "kind": point.kind, "dims": point.dims}
        cost = {
            "column_bytes": point.footprint.column_bytes,
            "index_bytes": point.footprint.index_bytes,
            "build_memory_bytes": point.footprint.build_memory_bytes,
            "build_seconds": point.footprint.build_seconds,
        }
        lines.append(
            {
                **prefix,
                **_summary("recall", point.recall),
                **_summary("overlap", point.overlap),
                **_summary("spearman", point.spearman),
                **(_summary("ndcg_10", point.relevance.ndcg_10) if point.relevance else {}),
                **(_summary("relevant_recall", point.relevance.recall) if point.relevance else {}),
                "kept": point.kept,
                **cost,
            }
        )
        lines += [
            {
                **prefix,
                "candidates": reranked.candidates,
                **_summary("recall", reranked.recall),
                **(_summary("ndcg_10", reranked.relevance.ndcg_10) if reranked.relevance else {}),
                **(_summary("relevant_recall", reranked.relevance.recall) if reranked.relevance else {}),
                **cost,
            }
            for reranked in point.reranked
        ]
    lines += [
        {
            "source": "index",
            "prefix": point.prefix,
            "candidates": point.candidates,
            "ef_search": point.ef_search,
            "filter": None if point.filter is None else json.dumps(point.filter, ensure_ascii=False, default=str),
            "selectivity": point.selectivity,
            "clients": point.clients,
            **_summary("recall", point.recall),
            "received_mean": point.received.mean,
            "p50_ms": point.p50_ms,
            "p95_ms": point.p95_ms,
            "p99_ms": point.p99_ms,
            "qps": point.qps,
        }
        for point in (searches_of(evaluation) if measured is None else measured)
    ]
    known = {key for line in lines for key in line}
    written = io.StringIO()
    writer = csv.DictWriter(written, [column for column in _COLUMNS if column in known], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return written.getvalue()


def _summary(name: str, summary: Summary) -> dict[str, object]:
    return {f"{name}_{field}": value for field, value in asdict(summary).items()}
