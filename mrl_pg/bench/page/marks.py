"""Methods in charts, and their figures said the same way everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mrl_pg.bench.report import BASELINE, Chosen, MethodReport, Report
from mrl_pg.points import Figures
from mrl_pg.report.chart import Cell
from mrl_pg.report.looks import MORE
from mrl_pg.report.units import share, with_interval

# The grey one; the others are for what is compared with it.
_BASELINE_LOOK = "random"
_LOOKS = tuple(look for look in MORE if look != _BASELINE_LOOK)


@dataclass(frozen=True, slots=True)
class Group:
    """Methods that are drawn in one chart, as many as can be told apart.

    :ivar suffix: of the names of figures; empty for the only group.
    :ivar title: what sets it apart; empty for the only group.
    :ivar looks: of each, by its name.
    """

    suffix: str
    title: str
    looks: dict[str, str]

    def titled(self, title: str) -> str:
        """Returns the title of a figure of this group."""
        return f"{title}: {self.title}" if self.title else title


def indexed(report: Report) -> list[MethodReport]:
    """Returns the methods that have an index: exact search is so slow that beside it all others would look the same."""
    return [one for one in report.methods if one.index is not None]


def groups(report: Report) -> list[Group]:
    """Returns all methods with an index in one group, or recipes and prefixes apart; the baseline is in each."""
    methods = indexed(report)
    baseline = [one.name for one in methods if one.name == BASELINE]
    others = [one for one in methods if one.name != BASELINE]
    if len(others) <= len(_LOOKS):
        return [_group("", "", baseline, [one.name for one in others])]
    found = []
    for suffix, title, prefixes in (("-prefixes", "prefixes of mrl-pg", True), ("-recipes", "recipes", False)):
        names = [one.name for one in others if (one.fill_seconds is not None) == prefixes]
        parts = [names[first : first + len(_LOOKS)] for first in range(0, len(names), len(_LOOKS))]
        for n, part in enumerate(parts, 1):
            several = len(parts) > 1
            found.append(
                _group(f"{suffix}-{n}" if several else suffix, f"{title}, {n}" if several else title, baseline, part)
            )
    return found


def setting(one: Chosen | Figures, method: str) -> str:
    """Returns candidates and ef_search, which exact search has none of: ``40/130``."""
    found = one.figures if isinstance(one, Chosen) else one
    return "–" if method == "exact" else f"{found.candidates}/{found.ef_search}"


def recall_cells(found: Figures) -> tuple[Cell, ...]:
    """Returns the cells of a recall and its interval."""
    return found.recall, f"{share(found.low)}–{share(found.high)}"


def tip(method: str, k: int, found: Figures, *more: str) -> str:
    """Returns what to say of a point where it is pointed at."""
    return "\n".join(
        [
            f"{method}, candidates/ef_search {setting(found, method)}",
            f"recall@{k} {with_interval(found.recall, found.low, found.high)}",
            *more,
        ]
    )


def latency(found: Figures) -> str:
    """Returns what a search takes, in words."""
    return f"p50 {found.p50_ms:.2f} ms, p95 {found.p95_ms:.2f} ms, {rate(found.qps)} searches/s"


def rate(per_second: float) -> str:
    """Returns searches a second, a decimal only where there are few."""
    return f"{per_second:,.{1 if per_second < 100 else 0}f}"


def times(ratio: float | None) -> str | None:
    """Returns a ratio to the baseline: ``2.2×``."""
    return None if ratio is None else f"{ratio:.2f}×"


def _group(suffix: str, title: str, baseline: Sequence[str], others: Sequence[str]) -> Group:
    looks = dict.fromkeys(baseline, _BASELINE_LOOK) | dict(zip(others, _LOOKS, strict=False))
    return Group(suffix, title, looks)
