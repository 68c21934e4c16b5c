"""mrl-pg bench."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mrl_pg.cli.output import json_option, print_json, print_table, size

if TYPE_CHECKING:
    from mrl_pg.bench.build import Doing
    from mrl_pg.bench.report import Chosen, Report


def _check_buffers(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"[1-9]\d*(kB|MB|GB)", value):
        raise click.BadParameter(f"{value!r} is no size. Write 400MB, for example.")
    return value


@click.command(
    epilog="""\b
Examples:
  mrl-pg bench --data embeddings.npz --recall 0.95 --method half --method rotate-256
  mrl-pg bench --rows 300000 --short-memory --out bench.json
  mrl-pg bench --rows 20000"""
)
@click.option("--rows", type=click.IntRange(min=1), help="Rows to search; 100,000, or all of --data, if left out.")
@click.option("--dims", type=click.IntRange(2, 16_000), help="Length of simulated vectors; 1,536 if left out.")
@click.option(
    "--data",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A .npz file with the arrays corpus (rows, dims) and queries (n, dims), instead of simulated vectors.",
)
@click.option("--label", help="What the vectors of --data are, to be shown with the figures; its name if left out.")
@click.option(
    "--method",
    "names",
    multiple=True,
    help="What to compare: exact, half, quantize, or subvector, function, truncate, rotate and binary with their dims, "
    "such as rotate-256 (or rotate-256+ef200, its ef_construction). Repeat it for several; all of them if left out.",
)
@click.option(
    "--recall",
    "targets",
    type=click.FloatRange(0, 1, min_open=True),
    multiple=True,
    default=(0.965, 0.985),
    show_default=True,
    help="A recall@10 to reach. Repeat it for several.",
)
@click.option("--clients", type=click.IntRange(1, 64), help="Clients that search at a time; one a CPU if left out.")
@click.option(
    "--short-memory", is_flag=True, help="Measure again with little memory for the data: --buffers and no page cache."
)
@click.option(
    "--buffers",
    default="400MB",
    show_default=True,
    callback=_check_buffers,
    help="What --short-memory leaves, as shared_buffers.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write all figures there as JSON, besides printing the tables.",
)
@json_option
def bench(
    rows: int | None,
    dims: int | None,
    path: Path | None,
    label: str | None,
    names: Sequence[str],
    targets: Sequence[float],
    clients: int | None,
    short_memory: bool,
    buffers: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Compare ways to search, on a server of its own.

    Starts a local PostgreSQL, loads vectors, builds every index, and looks for the cheapest settings with which each
    way reaches a recall. Nothing stays behind. At 300,000 rows with 1,536 dims this takes about half an hour, and 12 GB
    of disk; TMPDIR says where.
    """
    if path is None and label is not None:
        raise click.UsageError("--label is for --data; simulated vectors are called that.")
    if path is not None and dims is not None:
        raise click.UsageError("--dims is for simulated vectors; those of --data have their own.")

    if out is not None and not out.parent.is_dir():
        raise click.UsageError(f"--out {out}: there is no directory {out.parent}. Make it first.")

    from mrl_pg.bench.data import DEFAULT_DIMS, DEFAULT_ROWS, read, simulate
    from mrl_pg.bench.methods import default_methods, parse_method
    from mrl_pg.bench.run import bench as run

    with _working() as doing:
        doing("Reading", str(path or "nothing, vectors are simulated"))
        data = simulate(rows or DEFAULT_ROWS, dims or DEFAULT_DIMS) if path is None else read(path, rows, label=label)
        methods = [parse_method(name, data.dims) for name in dict.fromkeys(names)] or default_methods(data.dims)
        report = run(
            data,
            methods,
            targets=targets,
            client_count=clients,
            short_buffers=buffers if short_memory else None,
            doing=doing,
        )
    if out is not None:
        out.write_text(json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if as_json:
        print_json(asdict(report))
    else:
        _print(report)


@contextmanager
def _working() -> Iterator[Doing]:
    """Yields a function that shows what is being done and for how long; in a pipe it shows nothing."""
    if not sys.stderr.isatty():
        yield lambda step, detail: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    before, begun = "", time.monotonic()

    def doing(step: str, detail: str) -> None:
        nonlocal before, begun
        if step != before:
            if before:
                console.print(f"{before}: {time.monotonic() - begun:.1f} s", style="dim")
            before, begun = step, time.monotonic()
        progress.update(task, description=f"{step}: {detail}")

    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("")
        yield doing


def _print(report: Report) -> None:
    told = report.environment
    versions, data = told["versions"], told["data"]
    click.echo(
        f"{data['rows']:,} rows × {data['dims']:,} dims ({data['label']}), {data['queries']} queries, k = {data['k']}; "
        f"PostgreSQL {versions['PostgreSQL']}, pgvector {versions['pgvector']}, {told['machine']['cpus']} CPUs, "
        f"shared_buffers {told['settings']['shared_buffers']}\n"
    )
    _print_indexes(report)
    for target in told["targets"]:
        click.echo(f"\nThe cheapest settings that reach recall@{data['k']} {target:g}\n")
        _print_chosen([one for one in report.chosen if one.target == target], told["clients"])
    if report.short_memory is not None:
        for target in told["targets"]:
            click.echo(
                f"\nThe settings for {target:g} with {told['short_memory_settings']['shared_buffers']} of buffers and "
                "no page cache, each alone and each query new\n"
            )
            _print_chosen([one for one in report.short_memory if one.target == target], told["clients"])
    for note in _notes(report):
        click.echo(f"\n{note}")


def _print_indexes(report: Report) -> None:
    from mrl_pg.bench.report import BASELINE

    print_table(
        ["method", "index", f"{BASELINE}/it", "fill s", "build s", f"{BASELINE}/it", "inserts/s"],
        [
            [
                one.name,
                size(one.index_bytes) if one.index_bytes else None,
                _number(one.smaller, 2),
                _number(one.fill_seconds, 1),
                _number(one.build_seconds, 1),
                _number(one.faster, 2),
                _number(one.inserts_per_s, 0),
            ]
            for one in report.methods
        ],
        right=1,
    )


def _print_chosen(chosen: Sequence[Chosen], clients: int) -> None:
    from mrl_pg.bench.report import BASELINE, ShortMemory

    short = bool(chosen) and isinstance(chosen[0], ShortMemory)
    columns = ["method", "cand/ef", "recall", "p50 ms", *([] if short else ["p95 ms"]), "QPS", f"×{BASELINE}"]
    columns += [f"QPS {clients}", f"×{BASELINE}", *(["cold ms"] if short else [])]
    rows = []
    for one in chosen:
        found = one.figures
        row = [
            one.method,
            None if one.method == "exact" else f"{found.candidates}/{found.ef_search}",
            f"{found.recall:.4f}{'' if one.reached else '*'} ±{(found.high - found.low) / 2:.3f}",
            _number(found.p50_ms, 2),
            *([] if short else [_number(found.p95_ms, 2)]),
            _rate(found.qps),
            _number(one.times, 2),
            _rate(one.clients_qps),
            _number(one.clients_times, 2),
        ]
        if isinstance(one, ShortMemory):
            row.append(f"{one.cold_ms:.1f} at {one.cold_recall:.3f}")
        rows.append(row)
    print_table(columns, rows, right=1, whole=True)


def _notes(report: Report) -> list[str]:
    """What a reader must know to read the tables."""
    from mrl_pg.bench.report import BASELINE

    notes = [
        "Each line is the setting (candidates/ef_search) with the lowest p50 among those tried that reach the recall, "
        "measured again. ± is half the 95 % bootstrap interval of the recall, QPS the queries/s of one client and of "
        f"several, ×{BASELINE} what they are over the baseline's. Recipes run under settings made beforehand; mrl-pg "
        "is called as mrl_pg.psycopg.search, which sends its own.",
        "fill s is for adding and backfilling a column; an index on an expression has none. inserts/s is one INSERT of "
        "up to 1,000 rows into a table of up to 10,000 with that index alone. The table that is searched holds the "
        "columns of all methods, so its rows are wider than with one.",
    ]
    if report.short_memory is not None:
        notes.append("cold ms is the mean of the first 20 queries after the start of the server, at their recall.")
    if any(not one.reached for one in report.chosen):
        notes.append("* does not reach the recall with any setting tried; this is the best it does.")
    if left := [
        f"{one.name} ({one.without_index} of {len(one.points)})" for one in report.methods if one.without_index
    ]:
        notes.append(f"The planner did without the index at some settings: {', '.join(left)}. Try more --rows.")
    return notes


def _rate(value: float | None) -> str | None:
    return _number(value, 1 if value is not None and value < 100 else 0)


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:,.{digits}f}"
