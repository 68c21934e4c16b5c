"""Benchmarks for the tests of their pages: figures made up, so that each can be told from the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mrl_pg.bench.growth import growth
from mrl_pg.bench.report import Chosen, MethodReport, Report, ShortMemory, compared
from mrl_pg.points import Figures

METHODS = ("exact", "half", "truncate-256", "rotate-128", "binary-1536")
TARGETS = (0.9, 0.98)


def figures(candidates: int, recall: float, p50_ms: float) -> Figures:
    """Returns what was measured at a point."""
    return Figures(
        candidates=candidates,
        ef_search=2 * candidates,
        queries=500,
        recall=recall,
        low=recall - 0.01,
        high=min(1, recall + 0.01),
        p50_ms=p50_ms,
        p95_ms=2 * p50_ms,
        qps=900 / p50_ms,
    )


def grown(rows: Sequence[int], methods: Sequence[str] = METHODS) -> Report:
    """Returns a benchmark of several numbers of rows."""
    runs = [benchmark(n, methods) for n in rows]
    return benchmark(rows[-1], methods, runs[:-1])


def benchmark(
    rows: int = 100_000, methods: Sequence[str] = METHODS, smaller: Sequence[Report] = (), *, label: str = "made up"
) -> Report:
    """Returns a benchmark: latencies grow as the square root of the rows, indexes as the rows.

    The last method misses the second target with more than 100,000 rows, and the first has no index where it is exact.
    """
    of_method = {name: _points(rows, n) for n, name in enumerate(methods)}
    chosen = [
        _chosen(name, target, points[n], missed=rows > 100_000 and n == 1 and name == methods[-1])
        for n, target in enumerate(TARGETS)
        for name, points in of_method.items()
    ]
    settings = {"shared_buffers": "256MB", "fsync": "off"}
    report = Report(
        environment={
            "versions": {"mrl-pg": "0.1.0", "PostgreSQL": "18.4", "pgvector": "0.8.5", "Python": "3.11", "numpy": "2"},
            "machine": {"cpus": 2, "memory_bytes": 24 * 1024**3, "platform": "Linux"},
            "data": {"label": label, "rows": rows, "dims": 1536, "queries": 500, "k": 10},
            "bytes": {"table": rows * 8_000, "indexes": rows * 5_000},
            "targets": list(TARGETS),
            "clients": 2,
            "settings": settings,
            "short_memory_settings": {**settings, "shared_buffers": "40MB"},
            "seconds": 90,
        },
        methods=[_method(name, rows, n, of_method[name]) for n, name in enumerate(methods)],
        chosen=compared(chosen),
        short_memory=compared([_short(one) for one in chosen if one.reached and one.method != "exact"]),
    )
    if not smaller:
        return report
    return replace(report, growth=growth([*smaller, report]))


def _points(rows: int, n: int) -> list[Figures]:
    slow = (rows / 100_000) ** 0.5
    return [figures(20, 0.93 + n / 1000, (1 + n / 10) * slow), figures(40, 0.985 + n / 1000, (2 + n / 10) * slow)]


def _chosen(method: str, target: float, found: Figures, *, missed: bool) -> Chosen:
    found = figures(found.candidates, 0.955, found.p50_ms) if missed else found
    clients_qps = None if method == "exact" else 2 * found.qps
    return Chosen(
        method=method, target=target, reached=not missed, statement="SELECT", figures=found, clients_qps=clients_qps
    )


def _short(one: Chosen) -> ShortMemory:
    return ShortMemory(
        method=one.method,
        target=one.target,
        reached=True,
        statement=one.statement,
        figures=figures(one.figures.candidates, one.figures.recall - 0.005, 10 * one.figures.p50_ms),
        clients_qps=7.0,
        cold_queries=20,
        cold_ms=77.0,
        cold_recall=0.951,
    )


def _method(name: str, rows: int, n: int, points: list[Figures]) -> MethodReport:
    exact = name == "exact"
    return MethodReport(
        name=name,
        about=f"what {name} is",
        index=None if exact else f"{name}_idx",
        definition=None if exact else f"CREATE INDEX {name}_idx",
        index_bytes=None if exact else rows * 1000 * max(n, 1),
        smaller=None if exact else 1 / max(n, 1),
        fill_seconds=rows / 1e4 if name.startswith(("truncate", "rotate", "binary")) else None,
        build_seconds=None if exact else rows / 1e4 * max(n, 1),
        faster=None if exact else 1 / max(n, 1),
        inserts_per_s=1234.0,
        without_index=0,
        points=points,
    )
