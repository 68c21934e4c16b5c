"""What a benchmark has to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mrl_pg.errors import MrlError
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
class Law:
    """A power law: y = factor · rows ^ exponent.

    :ivar error: standard error of the exponent; None with two points, through which the curve goes.
    :ivar points: how many numbers of rows it was fitted to.
    """

    factor: float
    exponent: float
    error: float | None
    points: int

    def __str__(self) -> str:
        """Returns the exponent with its standard error: ``0.31 ±0.04``."""
        return f"{self.exponent:.2f}" if self.error is None else f"{self.exponent:.2f} ±{self.error:.2f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """How one figure of a method grows with the rows.

    :ivar figure: ``p50_ms``, ``index_bytes`` or ``build_seconds``.
    :ivar target: that of a latency; None for what is the same for all targets.
    :ivar law: None where fewer than two numbers of rows have the figure, or reach the target.
    """

    method: str
    figure: str
    target: float | None
    law: Law | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How a benchmark goes on with more and more rows.

    :ivar smaller: what was measured with fewer rows than in the report that holds this, the fewest first.
    """

    smaller: list[Report]
    laws: list[Grown]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The whole of a benchmark.

    :ivar environment: versions, machine, data and settings: what it takes to repeat it.
    :ivar short_memory: None where it was not asked for.
    :ivar growth: None where one number of rows was measured; otherwise the other figures are those of the most rows.
    """

    environment: dict[str, Any]
    methods: list[MethodReport]
    chosen: list[Chosen]
    short_memory: list[ShortMemory] | None
    growth: Growth | None = None

    @property
    def rows(self) -> int:
        """How many rows were searched."""
        return int(self.environment["data"]["rows"])

    @property
    def k(self) -> int:
        """How many rows a search returned."""
        return int(self.environment["data"]["k"])

    @property
    def runs(self) -> list[Report]:
        """What was measured with each number of rows, the fewest first."""
        return [*(self.growth.smaller if self.growth else []), replace(self, growth=None)]

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Report:
        """Returns the report that was written as JSON.

        :raises MrlError: where it is something else.
        """
        try:
            return cls._read(told)
        except (KeyError, TypeError, AttributeError) as error:
            raise MrlError(
                f"these are not the figures of a benchmark ({error}). Write them with: mrl-pg bench --out"
            ) from error

    @classmethod
    def _read(cls, told: Mapping[str, Any]) -> Report:
        growth, short = told.get("growth"), told["short_memory"]
        return cls(
            environment={name: told["environment"][name] for name in _SHOWN} | told["environment"],
            methods=[
                MethodReport(**{**one, "points": [Figures(**p) for p in one["points"]]}) for one in told["methods"]
            ],
            chosen=[Chosen(**_with_figures(one)) for one in told["chosen"]],
            short_memory=None if short is None else [ShortMemory(**_with_figures(one)) for one in short],
            growth=growth
            and Growth(
                smaller=[cls._read(one) for one in growth["smaller"]],
                laws=[Grown(**{**one, "law": one["law"] and Law(**one["law"])}) for one in growth["laws"]],
            ),
        )


# Of the environment, what is shown.
_SHOWN = ("versions", "machine", "data", "targets", "clients", "settings", "short_memory_settings", "seconds")


def _with_figures(told: Mapping[str, Any]) -> dict[str, Any]:
    return {**told, "figures": Figures(**told["figures"])}


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
