"""What an evaluation says, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from mrl_pg.evaluation import Evaluation, Measured, Point
from mrl_pg.metrics import Summary
from mrl_pg.report.choice import CONTROL, Choice, alike, at, best, fastest, good_enough, usual_candidates
from mrl_pg.report.units import duration, figure, interval, listed, percent, share, size

# Dims at which kinds are compared, where they were measured: long enough to be used, short enough to differ.
_COMPARED_AT = 256
# Recalls nearer than this are much the same, to whoever has to choose.
_SMALL = 0.05


def sentences(evaluation: Evaluation, target: float) -> list[str]:
    """Returns all that is to be said, the verdict first and what limits it last."""
    said = [verdict(evaluation, target), evidence(evaluation, target)]
    if evaluation.indexes:
        said.append(latency(evaluation.indexes, target))
    return [sentence for sentence in (*said, *comparison(evaluation), *evaluation.notes) if sentence]


def verdict(evaluation: Evaluation, target: float) -> str:
    """Returns which prefix is good enough for a recall, in one sentence."""
    choice, most = good_enough(evaluation, target), best(evaluation)
    if choice:
        return f"Good enough for recall@{evaluation.k} of {target:g}: {choice}."
    if most:
        return f"Nothing measured reaches recall@{evaluation.k} of {target:g} for sure. The best is {most}."
    return "Only the control was measured, random dims, which says nothing on what to build."


def evidence(evaluation: Evaluation, target: float) -> str:
    """Returns how sure the verdict is, and what it costs; empty where there is none."""
    k, enough = evaluation.k, good_enough(evaluation, target)
    choice = enough or best(evaluation)
    if not choice:
        return ""
    recall = choice.reranked.recall
    found = (
        f"Of the exact top {k} among the {evaluation.rows:,} rows compared it finds {share(recall.mean)} (95 % "
        f"interval {interval(recall)}, {recall.queries:,} queries); one query in twenty finds {share(recall.p5)} or "
        f"less, the worst {share(recall.worst)}. Its index takes {_cost(evaluation, choice)}."
    )
    if enough:
        return found
    if recall.mean >= target:
        return f"{found} The mean reaches the target, the interval does not: more queries may tell."
    return f"{found} Measure more candidates or more dims."


def comparison(evaluation: Evaluation) -> list[str]:
    """Returns how the kinds compare, a sentence or two each."""
    points = _compared(evaluation)
    if len(points) < 2:
        return []
    candidates = usual_candidates(evaluation)
    dims = next(iter(points.values())).dims
    ordered = sorted(points.values(), key=lambda point: -point.recall.mean)
    alone = listed([f"{_name(point)} {figure(point.recall)}" for point in ordered])
    reranked = listed([f"{_name(point)} {figure(at(point, candidates).recall)}" for point in ordered])
    said = [
        f"With {dims} dims the prefix alone finds this share of the exact top {evaluation.k}: {alone}. "
        f"Reranking {candidates} candidates leaves {reranked}."
    ]
    truncate, rotate, control = points.get("truncate"), points.get("rotate"), points.get(CONTROL)
    if truncate and control:
        said.append(_against_control(truncate, control))
    if rotate and truncate:
        said.append(_rotation(evaluation, rotate, truncate))
    if any(point.kind == "binary" for point in evaluation.points):
        said.append(_binary(evaluation, candidates))
    return said


def latency(measured: Sequence[Measured], target: float) -> str:
    """Returns which setting through a real index to take."""
    chosen = fastest(measured, target)
    if chosen:
        return (
            f"Through the index, {chosen.prefix} with {chosen.candidates} candidates and ef_search {chosen.ef_search} "
            f"is the fastest measured that reaches {target:g}: {figure(chosen.recall)} at a median of "
            f"{chosen.p50_ms:.2f} ms (p95 {chosen.p95_ms:.2f} ms)."
        )
    most = max(alike(measured)[0], key=lambda point: (point.recall.mean, -point.p50_ms))
    return (
        f"Through the index nothing measured reaches {target:g} for sure; {most.prefix} with {most.candidates} "
        f"candidates and ef_search {most.ef_search} finds most: {figure(most.recall)} at {most.p50_ms:.2f} ms."
    )


def overlaps(one: Summary, other: Summary) -> bool:
    """Returns whether two intervals have anything in common.

    Then one may still be the better one: for being asked of both, the same queries tell more than intervals show.
    """
    return one.low <= other.high and other.low <= one.high


def _against_control(truncate: Point, control: Point) -> str:
    """Returns what the order of the dims is worth."""
    gain = truncate.recall.mean - control.recall.mean
    if overlaps(truncate.recall, control.recall):
        told = "their intervals overlap, so the order of the dims counts for little or nothing here"
    elif gain < 0:
        told = "the first dims are a worse choice than chance here"
    elif gain < _SMALL:
        told = "the order of the dims counts for little here"
    else:
        told = "the model puts more into its first dims, as a Matryoshka model should"
    kept = "" if truncate.kept is None else f"; they hold {percent(truncate.kept)} of the squared norm"
    return (
        f"The first {truncate.dims} dims (truncate) against as many at random, the control: "
        f"{truncate.recall.mean - control.recall.mean:+.3f}; {told}{kept}."
    )


def _rotation(evaluation: Evaluation, rotate: Point, truncate: Point) -> str:
    """Returns what a rotation is worth in dims."""
    sample = f"A rotation fitted to {evaluation.basis_rows:,} rows (PCA)"
    if overlaps(rotate.recall, truncate.recall):
        return f"{sample} is not clearly better or worse than truncation at {truncate.dims} dims: intervals overlap."
    if rotate.recall.mean < truncate.recall.mean:
        return f"{sample} finds less than plain truncation at {truncate.dims} dims, so it is not worth learning."
    enough = min(p.dims for p in evaluation.points if p.kind == "rotate" and p.recall.mean >= truncate.recall.mean)
    kept = "" if rotate.kept is None else f" It holds {percent(rotate.kept)} of the squared norm in {rotate.dims} dims."
    if enough < truncate.dims:
        return f"{sample} finds with {enough} dims at least what truncation finds with {truncate.dims}.{kept}"
    return f"{sample} finds {rotate.recall.mean - truncate.recall.mean:+.3f} at {truncate.dims} dims.{kept}"


def _binary(evaluation: Evaluation, candidates: int) -> str:
    """Returns what the longest binary prefix finds for its bytes."""
    point = max((point for point in evaluation.points if point.kind == "binary"), key=lambda point: point.dims)
    stored = point.footprint.column_bytes
    return (
        f"The signs of {point.dims} dims (binary) take {stored} bytes a row, as much as about "
        f"{max(stored - 8, 2) // 2} dims as halfvec, and find {figure(point.recall)} alone, "
        f"{figure(at(point, candidates).recall)} after reranking {candidates} candidates."
    )


def _compared(evaluation: Evaluation) -> dict[str, Point]:
    """Returns the points to compare by kind, all of one length that most kinds share."""
    by_dims: dict[int, dict[str, Point]] = {}
    for point in evaluation.points:
        by_dims.setdefault(point.dims, {})[point.kind] = point
    return max(by_dims.values(), key=lambda points: (len(points), -_far(next(iter(points.values())).dims)))


def _far(dims: int) -> float:
    return max(dims / _COMPARED_AT, _COMPARED_AT / dims)


def _cost(evaluation: Evaluation, choice: Choice) -> str:
    cost, whole = choice.point.footprint, evaluation.footprint
    beside = f", where one on the whole embedding as halfvec takes {size(whole.index_bytes)}" if whole else ""
    return (
        f"{size(cost.index_bytes)} for {evaluation.table_rows:,} rows{beside}, and is built in about "
        f"{duration(cost.build_seconds)}"
    )


def _name(point: Point) -> str:
    return "random (the control)" if point.kind == CONTROL else point.kind
