"""What the figures of an evaluation come to: which prefixes are good enough, and how the kinds compare."""

from __future__ import annotations

from collections.abc import Sequence

from mrl_pg.evaluation import Evaluation, Point, Reranked
from mrl_pg.metrics import Summary

GOOD_RECALL = 0.98
GOOD_CANDIDATES = 100
# Within so much of the control the first dims are as good as any, beyond the other clearly better.
_ALIKE, _CLEARLY = 0.02, 0.15


def judged_candidates(evaluation: Evaluation) -> int:
    """Returns how many candidates prefixes are judged with: 100, or the next fewer that was measured, or the fewest."""
    sizes = [one.candidates for one in evaluation.points[0].reranked] if evaluation.points else [GOOD_CANDIDATES]
    return max((size for size in sizes if size <= GOOD_CANDIDATES), default=sizes[0])


def reranked(point: Point, candidates: int) -> Reranked:
    """Returns what a prefix finds with so many candidates, which were measured."""
    return next(one for one in point.reranked if one.candidates == candidates)


def good_enough(evaluation: Evaluation) -> list[Point]:
    """Returns the shortest prefix of each kind that is good enough, the smallest index first; the control never is."""
    candidates = judged_candidates(evaluation)
    found: dict[str, Point] = {}
    for point in evaluation.points:
        if point.kind != "random" and reranked(point, candidates).recall.mean >= GOOD_RECALL:
            found.setdefault(point.kind, point)
    return sorted(found.values(), key=lambda point: point.footprint.index_bytes)


def sentences(evaluation: Evaluation) -> list[str]:
    """Returns what to make of the figures, in words."""
    return [*_good(evaluation), *_compared(evaluation), *_measured(evaluation)]


def _good(evaluation: Evaluation) -> list[str]:
    candidates = judged_candidates(evaluation)
    wanted = f"a recall@{evaluation.k} of {GOOD_RECALL} after a rerank of {candidates} candidates"
    points = [point for point in evaluation.points if point.kind != "random"]
    if not points:
        return []
    found = [
        f"{_named(point)}, {_interval(reranked(point, candidates).recall)}, {_megabytes(point)}"
        for point in good_enough(evaluation)
    ]
    if not found:
        best = max(points, key=lambda point: reranked(point, candidates).recall.mean)
        return [
            f"No prefix reaches {wanted}. The best is {_named(best)} with "
            f"{_interval(reranked(best, candidates).recall)}: measure more dims, or more candidates."
        ]
    others = [f"The shortest of the other kinds: {'; '.join(found[1:])}."] if found[1:] else []
    return [f"Good enough is {wanted}. The smallest index that does: {found[0]}.", *others]


def _measured(evaluation: Evaluation) -> list[str]:
    """Returns the fastest search through an index that is good enough, filtered ones aside."""
    plain = [one for one in evaluation.indexes if one.filter is None]
    if not plain:
        return []
    found = [one for one in plain if one.recall.mean >= GOOD_RECALL]
    best = min(found, key=lambda one: one.p50_ms) if found else max(plain, key=lambda one: one.recall.mean)
    which = "the fastest with that recall" if found else f"none has a recall@{evaluation.k} of {GOOD_RECALL}; the best"
    return [
        f"Of the searches through indexes {which} is {best.prefix} with {best.candidates} candidates and ef_search "
        f"{best.ef_search}: {_interval(best.recall)}, half of them within {best.p50_ms:.1f} ms."
    ]


def _compared(evaluation: Evaluation) -> list[str]:
    by_kind: dict[str, dict[int, Point]] = {}
    for point in evaluation.points:
        by_kind.setdefault(point.kind, {})[point.dims] = point
    common = sorted(set.intersection(*map(set, by_kind.values()))) if by_kind else []
    if len(by_kind) < 2 or not common:
        return []
    dims = common[len(common) // 2]
    shares = [f"{kind} {points[dims].recall.mean:.3f}" for kind, points in by_kind.items()]
    found = [f"Alone, without a rerank, {dims} dims find of the exact top {evaluation.k}: {_listed(shares)}."]
    truncate, rotate, random = (by_kind.get(kind) for kind in ("truncate", "rotate", "random"))
    if truncate and random:
        found.append(_against_control(truncate[dims].recall, random[dims].recall))
    if truncate and rotate:
        found.append(_against_truncate(rotate, truncate[dims]))
    return found


def _against_control(truncate: Summary, random: Summary) -> str:
    gap = truncate.mean - random.mean
    if gap <= _ALIKE:
        return "The first dims are no better than dims chosen at random (the control): the length matters, not which."
    much = "much better than" if gap > _CLEARLY else "a little better than"
    return f"The first dims are {much} dims chosen at random (the control), by {gap:.2f}."


def _against_truncate(rotate: dict[int, Point], truncate: Point) -> str:
    """Returns how a learnt rotation compares with the first dims of one length."""
    enough = [dims for dims, point in rotate.items() if point.recall.mean >= truncate.recall.mean]
    if not enough:
        return f"A rotation learnt from the rows is not better than the first {truncate.dims} dims here."
    if min(enough) >= truncate.dims:
        return f"A rotation learnt from the rows needs as many dims as the first ones, {truncate.dims}, or more."
    return (
        f"A rotation learnt from the rows finds with {min(enough)} dims at least what the first dims find with "
        f"{truncate.dims}."
    )


def _named(point: Point) -> str:
    return f"{point.kind} {point.dims}"


def _interval(figure: Summary) -> str:
    return f"{figure.mean:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def _megabytes(point: Point) -> str:
    return f"{point.footprint.index_bytes / 1024**2:,.1f} MB"


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
