"""How the figures of a benchmark grow with the rows that are searched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mrl_pg.bench.report import Chosen, Grown, Growth, Law, MethodReport, Report

BY_TARGET = "p50_ms"
OF_METHOD = ("index_bytes", "build_seconds")


def power_law(rows: Sequence[int], values: Sequence[float]) -> Law | None:
    """Returns y = factor · rows ^ exponent by ordinary least squares on the logarithms of both, None from one point.

    With two points it is the curve through both. From three on the exponent has a standard error, with n - 2 degrees of
    freedom: that of three points is a rough one. The law describes what was measured, and is no model of what was not:
    a search of HNSW is expected to grow with the logarithm of the rows (Malkov and Yashunin, 2018,
    arXiv:1603.09320), which over a factor of ten or so looks like a power with a small exponent, and a table that
    outgrows the memory grows otherwise.
    """
    points = len(values)
    if len(set(rows)) < 2:
        return None
    x, y = np.log(np.asarray(rows, dtype=np.float64)), np.log(np.asarray(values, dtype=np.float64))
    from_mean = x - x.mean()
    spread = float(from_mean @ from_mean)
    exponent = float(from_mean @ y) / spread
    factor = float(np.exp(y.mean() - exponent * x.mean()))
    error = None
    if points > 2:
        left = y - y.mean() - exponent * from_mean
        error = float(np.sqrt(left @ left / (points - 2) / spread))
    return Law(factor=factor, exponent=exponent, error=error, points=points)


def growth(runs: Sequence[Report]) -> Growth:
    """Returns how the figures of the same methods grow with the rows, from runs with ascending numbers of them.

    A latency counts where its target was reached: others are latencies of finding less.
    """
    last = runs[-1]
    return Growth(
        smaller=list(runs[:-1]),
        laws=[
            *(_grown_latency(runs, one.method, one.target) for one in last.chosen),
            *(_grown(runs, one.name, figure) for figure in OF_METHOD for one in last.methods if one.index),
        ],
    )


def law_of(report: Report, method: str, figure: str, target: float | None = None) -> Law | None:
    """Returns how a figure of a method grows; None where that is not known."""
    laws = report.growth.laws if report.growth else []
    return next((one.law for one in laws if (one.method, one.figure, one.target) == (method, figure, target)), None)


def method_of(run: Report, method: str) -> MethodReport:
    """Returns what a run says of a method."""
    return next(one for one in run.methods if one.name == method)


def chosen_of(run: Report, method: str, target: float) -> Chosen:
    """Returns what a run chose of a method for a target."""
    return next(one for one in run.chosen if (one.method, one.target) == (method, target))


def _grown_latency(runs: Sequence[Report], method: str, target: float) -> Grown:
    found = [(run.rows, chosen_of(run, method, target)) for run in runs]
    points = [(rows, one.figures.p50_ms) for rows, one in found if one.reached]
    return Grown(method=method, figure=BY_TARGET, target=target, law=_law(points))


def _grown(runs: Sequence[Report], method: str, figure: str) -> Grown:
    points = [(run.rows, getattr(method_of(run, method), figure)) for run in runs]
    return Grown(method=method, figure=figure, target=None, law=_law(points))


def _law(points: Sequence[tuple[int, float]]) -> Law | None:
    return power_law([rows for rows, _ in points], [value for _, value in points])
