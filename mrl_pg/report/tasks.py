"""Starting points by task: which of the figures a task depends on, and the smallest prefix that was measured to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mrl_pg.evaluation import Evaluation, Point
from mrl_pg.metrics import Summary
from mrl_pg.report.choice import CONTROL, Choice, choices
from mrl_pg.report.units import figure, percent, share

# What has to be reached to be a start. Chosen by us, from what each task can live without; not measured on any task.
_WORST_5_PERCENT, _NEIGHBOURS, _RANKS, _OF_WHOLE = 0.9, 0.8, 0.9, 0.99


@dataclass(frozen=True, slots=True)
class Start:
    """Where to start with a task.

    :ivar why: what matters to it.
    :ivar take: the prefix to try first; that none was good enough, where none was.
    :ivar measured: the figure that says so, a sentence.
    """

    task: str
    why: str
    take: str
    measured: str


def starting_points(evaluation: Evaluation, target: float) -> list[Start]:
    """Returns where to start with each task.

    :param target: the recall that is wanted.
    """
    k = evaluation.k
    answering = _answering(evaluation, target)
    return [
        Start("Question answering and RAG", "A passage that is not retrieved cannot be quoted.", *answering),
        Start(
            "Deduplication",
            "A missed pair stays a duplicate, so the unlucky query counts and not the mean. Set the threshold on "
            "distances after the rerank: they are exact.",
            *_reranked(
                evaluation,
                lambda choice: choice.reranked.recall.p5 >= _WORST_5_PERCENT,
                lambda choice: (
                    f"19 queries in 20 find {share(choice.reranked.recall.p5)} of the exact top {k} or more, "
                    f"the worst {share(choice.reranked.recall.worst)}"
                ),
                f"5th percentile ≥ {_WORST_5_PERCENT}",
            ),
        ),
        Start(
            "Clustering",
            "Distances between prefixes are used as they are, nothing is reranked: their order has to agree.",
            *_alone(evaluation, lambda p: p.spearman, f"Spearman over the top {evaluation.top}", _RANKS),
        ),
        Start(
            "Classification by neighbours",
            "The labels of the neighbours vote, so some of them may be wrong ones, if they are near.",
            *_alone(evaluation, lambda p: p.recall, f"recall@{k} of the prefix alone", _NEIGHBOURS),
        ),
        Start(
            "Several languages",
            "Languages may differ in what a prefix keeps of them, and a mean hides it.",
            answering[0],
            "Not measured by language: evaluate with the queries of one language at a time, and take what the one that "
            "needs most needs.",
        ),
    ]


def _answering(evaluation: Evaluation, target: float) -> tuple[str, str]:
    """Returns the smallest index with which retrieval is as good as the exact one, by qrels where there are some."""
    exact = evaluation.relevance
    if not exact:
        return _reranked(
            evaluation,
            lambda choice: choice.reranked.recall.low >= target,
            lambda choice: f"recall@{evaluation.k} {figure(choice.reranked.recall)}",
            f"recall@{evaluation.k} ≥ {target:g} with its whole interval",
        )

    def ndcg(choice: Choice) -> float:
        return choice.reranked.relevance.ndcg_10.mean if choice.reranked.relevance else 0.0

    return _reranked(
        evaluation,
        lambda choice: choice.reranked.recall.low >= target and ndcg(choice) >= _OF_WHOLE * exact.ndcg_10.mean,
        lambda choice: (
            f"recall@{evaluation.k} {figure(choice.reranked.recall)}; nDCG@10 {share(ndcg(choice))}, the whole "
            f"embedding {figure(exact.ndcg_10)}"
        ),
        f"recall@{evaluation.k} ≥ {target:g} with its whole interval and {percent(_OF_WHOLE)} of the nDCG@10",
    )


def _reranked(
    evaluation: Evaluation, enough: Callable[[Choice], bool], says: Callable[[Choice], str], floor: str
) -> tuple[str, str]:
    """Returns the cheapest that is enough, and the figure that says so."""
    choice = next(filter(enough, choices(evaluation)), None)
    if not choice:
        return "nothing measured is enough", f"None reaches {floor}."
    return str(choice), f"Measured: {says(choice)}."


def _alone(evaluation: Evaluation, summary: Callable[[Point], Summary], name: str, floor: float) -> tuple[str, str]:
    """Returns the smallest prefix that is enough without a rerank, and its figure."""
    points = sorted(
        (point for point in evaluation.points if point.kind != CONTROL), key=lambda point: point.footprint.index_bytes
    )
    point = next((point for point in points if summary(point).low >= floor), None)
    if point:
        return f"{point.kind}, {point.dims} dims", f"Measured: {name} {figure(summary(point))}."
    if not points:
        return "nothing measured is enough", "Only the control was measured."
    most = max(points, key=lambda point: summary(point).mean)
    return (
        "nothing measured is enough: take the whole embedding",
        f"The best {name} is {figure(summary(most))}, of {most.kind} with {most.dims} dims; wanted is {floor}.",
    )
