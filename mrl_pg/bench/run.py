"""The benchmark: from an empty directory to a report, on a server of its own that leaves nothing behind."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from psycopg import Connection

import mrl_pg.psycopg as mrl
from mrl_pg import __version__, embedded
from mrl_pg.bench.build import Doing, build_all, insert_rates, load
from mrl_pg.bench.data import Data
from mrl_pg.bench.explore import Explored, choose, confirm, connected, explore
from mrl_pg.bench.growth import growth
from mrl_pg.bench.methods import TABLE, Built, K, Method
from mrl_pg.bench.report import BASELINE, MethodReport, Report
from mrl_pg.bench.server import check_space, memory, settings, with_short_memory
from mrl_pg.bench.short_memory import measure_short
from mrl_pg.errors import MrlError
from mrl_pg.points import ratio
from mrl_pg.psycopg.run import server_versions

DEFAULT_TARGETS = (0.965, 0.985)


def bench(
    data: Data,
    methods: Sequence[Method],
    *,
    targets: Sequence[float] = DEFAULT_TARGETS,
    client_count: int | None = None,
    short_buffers: str | None = None,
    doing: Doing = lambda step, detail: None,
) -> Report:
    """Returns what each method costs at its cheapest settings that reach each recall.

    :param targets: recalls to reach.
    :param client_count: how many clients search at a time, besides one alone; as many as there are CPUs if None.
    :param short_buffers: shared_buffers of a second measurement, which has no page cache; None for no such.
    :param doing: told what begins.
    :raises MrlError: for too little data, or such as cannot be searched; a disk that is too small; no server.
    """
    _check(data, methods)
    begun = time.monotonic()
    targets = sorted(set(targets))
    client_count = client_count or cpus()
    ample = settings(data.rows, data.dims, cpus(), client_count)
    scarce = with_short_memory(ample, short_buffers) if short_buffers else None
    directory = Path(tempfile.mkdtemp(prefix="mrl-pg-bench-"))
    try:
        doing("Starting", f"PostgreSQL for {data.rows:,} rows")
        if scarce:
            # A setting that this machine refuses shows now and not at the end.
            with embedded.server(directory, settings=scarce):
                pass
        with embedded.server(directory, settings=ample) as dsn:
            with connected(dsn) as conn:
                mrl.install(conn)
                versions = _versions(conn)
                doing("Loading", f"{data.rows:,} rows")
                truth = load(conn, data)
                built = build_all(conn, methods, doing)
                inserts = insert_rates(conn, built, data, doing)
                ((table_bytes,),) = conn.execute("SELECT pg_table_size(%s::regclass)", (TABLE,))
                conn.execute("CHECKPOINT")  # now, so that it does not run beside the searches
            explored, without_index = explore(dsn, built, data.queries, truth, targets, doing)
            explored = confirm(dsn, explored, data.queries, truth, targets, doing)
            chosen = choose(dsn, explored, data.queries, truth, targets, client_count, doing)
        short = measure_short(directory, scarce, built, chosen, data, truth, client_count, doing) if scarce else None
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    environment = {
        "versions": versions,
        "machine": _machine(),
        "data": {"label": data.label, "rows": data.rows, "dims": data.dims, "queries": len(data.queries), "k": K},
        # Methods may share an index.
        "bytes": {"table": table_bytes, "indexes": sum({one.index: one.index_bytes or 0 for one in built}.values())},
        "targets": targets,
        "clients": client_count,
        "settings": ample,
        "short_memory_settings": scarce,
        "seconds": round(time.monotonic() - begun),
    }
    reports = _method_reports(explored, without_index, inserts)
    return Report(environment=environment, methods=reports, chosen=chosen, short_memory=short)


def bench_growth(sizes: Sequence[Data], methods: Sequence[Method], **options: Any) -> Iterator[Report]:
    """Yields all that is known after each number of rows, the fewest first; the last report is the whole.

    Each number of rows has a server of its own, and the disk of the one before is free again.

    :param sizes: vectors of one origin, so many of them as are to be searched each time.
    :param options: those of :func:`bench`.
    :raises MrlError: as :func:`bench`, before anything is measured.
    """
    sizes = sorted(sizes, key=lambda data: data.rows)
    for data in sizes:
        _check(data, methods)
    runs: list[Report] = []
    for data in sizes:
        runs.append(bench(data, methods, **options))
        yield replace(runs[-1], growth=growth(runs) if len(runs) > 1 else None)


def cpus() -> int:
    """Returns how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check(data: Data, methods: Sequence[Method]) -> None:
    """Returns nothing; raises MrlError for too little data, a disk that is too small, or no server."""
    if data.rows < K:
        raise MrlError(f"{data.rows} rows are fewer than k = {K}: there is nothing to be missed. Pass more --rows.")
    for method in methods:
        if method.kind == "rotate" and data.rows < 2 * method.dims:
            raise MrlError(
                f"{data.rows:,} rows are too few for {method.name}, which is learnt from them. "
                f"Pass --rows {2 * method.dims} or more, or each --method that you want."
            )
    embedded.bin_dir()  # raises where the server is not installed
    check_space(Path(tempfile.gettempdir()), data.rows, data.dims)


def _method_reports(
    explored: Explored, without_index: Mapping[Built, int], inserts: Mapping[Built, float]
) -> list[MethodReport]:
    baseline = next((one for one in explored if one.method.name == BASELINE), None)
    return [
        MethodReport(
            name=one.method.name,
            about=one.method.about,
            index=one.index,
            definition=one.definition,
            index_bytes=one.index_bytes,
            smaller=ratio(baseline.index_bytes if baseline else None, one.index_bytes),
            fill_seconds=one.fill_seconds,
            build_seconds=one.build_seconds,
            faster=ratio(baseline.build_seconds if baseline else None, one.build_seconds),
            inserts_per_s=inserts[one],
            without_index=without_index[one],
            points=list(points.values()),
        )
        for one, points in explored.items()
    ]


def _versions(conn: Connection[Any]) -> dict[str, str]:
    return {
        "mrl-pg": __version__,
        **server_versions(conn),
        "Python": platform.python_version(),
        "psycopg": psycopg.__version__,
        "numpy": np.__version__,
    }


def _machine() -> dict[str, Any]:
    return {"cpus": cpus(), "memory_bytes": memory(), "platform": platform.platform()}
