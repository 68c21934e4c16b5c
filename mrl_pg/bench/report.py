"""What a benchmark has to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mrl_pg.points import Figures, ratio

BASELINE = "half"


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodReport:
    """A method, its index, and every point that was measured on the way to its cheapest.

    :ivar definition: what created the index.
    :ivar smaller: bytes of the baseline's index over those of this one.
    :ivar fill_seconds: what adding and backfilling the prefix took, for a rotation also learning it.
    :ivar faster: seconds in which the baseline's index was built over those of this one.
    :ivar inserts_per_s: rows/s of an INSERT into a small table that has this index alone.
    :ivar without_index: at how many of the points the planner left the index aside.
    """

    name: str
    about: str
    index: str | None
    definition: str | None
    index_bytes: int | None
    smaller: float | None
    fill_seconds: float | None
    build_seconds: float | None
    faster: float | None
    inserts_per_s: float
    without_index: int
    points: Sequence[Figures]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The cheapest point of a method that reaches a target, measured again; its best point where none does.

    :ivar statement: what was run.
    :ivar clients_qps: searches/s of several clients at a time.
    :ivar times: ``figures.qps`` over that of the baseline, where both reach the target.
    :ivar clients_times: the same of ``clients_qps``.
    """

    method: str
    target: float
    reached: bool
    statement: str
    figures: Figures
    clients_qps: float | None
    times: float | None = None
    clients_times: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortMemory(Chosen):
    """A chosen point on a server with little memory and no page cache.

    :ivar cold_queries: the first ones after the start of the server.
    :ivar cold_ms: their mean.
    :ivar cold_recall: their recall.
    """

    cold_queries: int
    cold_ms: float
    cold_recall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The whole of a benchmark.

    :ivar environment: versions, machine, data and settings: what it takes to repeat it.
    :ivar short_memory: None where it was not asked for.
    """

    environment: dict[str, Any]
    methods: list[MethodReport]
    chosen: list[Chosen]
    short_memory: list[ShortMemory] | None


Found = TypeVar("Found", bound=Chosen)


def compared(chosen: Sequence[Found]) -> list[Found]:
    """Returns the same with their ratios to the baseline."""
    baselines = {one.target: one for one in chosen if one.method == BASELINE and one.reached}
    return [_compared(one, baselines.get(one.target) if one.reached else None) for one in chosen]


def _compared(one: Found, baseline: Found | None) -> Found:
    if baseline is None:
        return one
    return replace(
        one,
        times=ratio(one.figures.qps, baseline.figures.qps),
        clients_times=ratio(one.clients_qps, baseline.clients_qps),
    )
