"""Numbers as tables: HTML to read, CSV to work with."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from mrl_pg.evaluation import Evaluation
from mrl_pg.report.chart import Cell, Table
from mrl_pg.report.markup import tag
from mrl_pg.report.units import count, share

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


def to_csv(evaluation: Evaluation) -> str:
    """Returns the records of an evaluation as CSV, in full precision."""
    return records_csv(evaluation.records())


def records_csv(records: Sequence[Mapping[str, object]]) -> str:
    """Returns records as CSV, a line each; all have the same names."""
    written = io.StringIO()
    writer = csv.DictWriter(written, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return written.getvalue()
