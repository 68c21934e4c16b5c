"""An evaluation in a notebook: the report in a frame of its own, whose styles and script touch nothing else there."""

from __future__ import annotations

from mrl_pg.evaluation import Evaluation
from mrl_pg.report.choice import DEFAULT_TARGET
from mrl_pg.report.document import report_html
from mrl_pg.report.markup import tag
from mrl_pg.report.words import verdict


def notebook_html(evaluation: Evaluation, *, target: float = DEFAULT_TARGET) -> str:
    """Returns what a notebook shows of an evaluation.

    The verdict stands before the frame: notebooks that are not trusted, and viewers on the web, leave frames out.
    """
    style = "width: 100%; height: 720px; border: 1px solid #8884; border-radius: 8px; resize: vertical"
    frame = tag("iframe", srcdoc=report_html(evaluation, target=target), title="Report", style=style)
    return str(tag("div", tag("p", verdict(evaluation, target)), frame))
