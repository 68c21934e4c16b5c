"""What a benchmark says, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from mrl_pg.bench.growth import BY_TARGET, chosen_of, law_of
from mrl_pg.bench.report import BASELINE, Chosen, Report
from mrl_pg.points import Figures
from mrl_pg.report.units import count, duration, size, with_interval

# Latencies nearer than this are much the same.
_ABOUT_AS_FAST = 1.05


def sentences(report: Report) -> list[str]:
    """Returns what was found, the fastest for each target first."""
    targets = report.environment["targets"]
    said = [_fastest(report, target) for target in targets]
    said += [_smallest(report, max(targets)), _missed(report)]
    if report.short_memory:
        said += [_short_memory(report, target) for target in targets]
    if report.growth:
        said += [_grown(report, target) for target in targets]
    return [sentence for sentence in said if sentence]


def caveats(report: Report) -> list[str]:
    """Returns what limits the figures."""
    said = [
        "Recipes run under settings made beforehand; mrl-pg is called as mrl_pg.psycopg.search, which sends its own. "
        "The table that is searched holds the columns of all methods, so its rows are wider than with one.",
    ]
    if report.growth is not None:
        said.append(
            "An exponent b says that a figure grew as rows ^ b: least squares on the logarithms, a line through both "
            "where there are two. ± is its standard error, a rough one of three points. A latency counts where its "
            "recall was reached. This describes the rows that were measured, and promises nothing beyond."
        )
    said += [scarce for run in report.runs if (scarce := _scarce(run))]
    if left := [
        f"{one.name} ({one.without_index} of {len(one.points)})" for one in report.methods if one.without_index
    ]:
        said.append(f"The planner did without the index at some settings: {', '.join(left)}. Try more --rows.")
    return said


def _scarce(run: Report) -> str | None:
    """That not all of a run was in memory, where it was not."""
    sizes, buffers = run.environment.get("bytes"), run.environment["settings"]["shared_buffers"]
    if not sizes or sum(sizes.values()) <= int(buffers.removesuffix("MB")) * 1024**2:
        return None
    return (
        f"With {run.rows:,} rows the table takes {size(sizes['table'])} and all indexes {size(sizes['indexes'])}, more "
        f"than shared_buffers ({buffers}): part of what was searched may have come from the system's cache, which is "
        "slower. Fewer methods in a run leave more room for each."
    )


def _fastest(report: Report, target: float) -> str:
    found = _first(report.chosen, target)
    if not found:
        return f"Nothing tried reaches recall@{report.k} of {target:g}."
    near = [
        one
        for one in report.chosen
        if one.reached and one.target == target and one is not found
        if one.figures.p50_ms <= _ABOUT_AS_FAST * found.figures.p50_ms
    ]
    told = any(one.method == BASELINE for one in near)
    return (
        f"For recall@{report.k} of {target:g}, {found.method} is the fastest: {_what(found.figures)}"
        f"{'' if told else _beside(report.chosen, found)}.{f' About as fast: {_each(near)}.' if near else ''}"
    )


def _smallest(report: Report, target: float) -> str:
    """The smallest index that reaches a target, and the one that is built first."""
    reached = {one.method: one.figures for one in report.chosen if one.reached and one.target == target}
    built = [one for one in report.methods if one.name in reached and one.index_bytes and one.build_seconds]
    if not built:
        return ""
    least = min(built, key=lambda one: one.index_bytes or 0)
    baseline = next((one for one in report.methods if one.name == BASELINE and one is not least), None)
    said = (
        f"The smallest index with which {target:g} is reached is that of {least.name}, {size(least.index_bytes or 0)}, "
        f"built in {duration(least.build_seconds or 0)}, with {_what(reached[least.name])}"
    )
    if baseline and baseline.index_bytes and baseline.build_seconds:
        took = duration(baseline.build_seconds)
        said += f"; that of the baseline {BASELINE} takes {size(baseline.index_bytes)} and {took}"
    return f"{said}."


def _missed(report: Report) -> str:
    last = max(report.environment["targets"])
    missed = [one for one in report.chosen if one.target == last and not one.reached]
    return f"No setting tried reaches {last:g} with these, whose best is: {_each(missed)}." if missed else ""


def _short_memory(report: Report, target: float) -> str:
    chosen, buffers = report.short_memory or [], report.environment["short_memory_settings"]["shared_buffers"]
    found = _first(chosen, target)
    if not found:
        return ""
    return (
        f"With {buffers} of buffers and no page cache the fastest of the settings for {target:g} is {found.method}: "
        f"{_what(found.figures)}{_beside(chosen, found)}."
    )


def _grown(report: Report, target: float) -> str:
    """How the latency of the fastest and of the baseline grew."""
    found, first = _first(report.chosen, target), report.runs[0]
    said = []
    for name in dict.fromkeys([found.method if found else BASELINE, BASELINE]):
        law = law_of(report, name, BY_TARGET, target)
        if law is None or not (before := chosen_of(first, name, target)).reached:
            continue
        after = chosen_of(report, name, target)
        then = f", {_what(before.figures)} became {_what(after.figures)}" if after.reached else ""
        said.append(f"that of {name} as rows ^ {law}{then}")
    if not said:
        return ""
    return (
        f"From {count(first.rows)} to {count(report.rows)} rows the median latency for {target:g} grew so: "
        f"{'; '.join(said)}."
    )


def _first(chosen: Sequence[Chosen], target: float) -> Chosen | None:
    """What reaches a target in the least time."""
    reaching = (one for one in chosen if one.reached and one.target == target)
    return min(reaching, key=lambda one: one.figures.p50_ms, default=None)


def _beside(chosen: Sequence[Chosen], found: Chosen) -> str:
    """The baseline beside it."""
    baseline = next((one for one in chosen if one.method == BASELINE and one.target == found.target), None)
    if not baseline or not baseline.reached or baseline is found:
        return ""
    return f"; the baseline {BASELINE}: {_what(baseline.figures)}"


def _what(found: Figures) -> str:
    return f"recall {with_interval(found.recall, found.low, found.high)} at a median of {found.p50_ms:.2f} ms"


def _each(chosen: Sequence[Chosen]) -> str:
    return "; ".join(f"{one.method}, {_what(one.figures)}" for one in chosen)
