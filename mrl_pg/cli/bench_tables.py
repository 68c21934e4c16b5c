"""The figures of a benchmark as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from mrl_pg.cli.output import print_table, size

if TYPE_CHECKING:
    from mrl_pg.bench.report import Chosen, Law, Report


def print_report(report: Report) -> None:
    """Prints tables of what was chosen, of the most rows and how it grows, and what a reader must know."""
    from mrl_pg.bench.words import caveats

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
    if report.growth is not None:
        click.echo(f"\nGrowth from {report.runs[0].rows:,} to {report.rows:,} rows\n")
        _print_growth(report)
    for note in [*_notes(report), *caveats(report)]:
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
            _point(one),
            _recall(one),
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


def _print_growth(report: Report) -> None:
    """Prints the figures with each number of rows, and under those of a method the exponents."""
    from mrl_pg.bench.growth import BY_TARGET, OF_METHOD, chosen_of, law_of, method_of

    targets = report.environment["targets"]
    columns = ["method", "rows", "index", "build s"]
    columns += [name for target in targets for name in (f"recall ≥ {target:g}", "cand/ef", "p50 ms")]
    rows: list[list[str | None]] = []
    for name in (one.name for one in report.methods):
        for run in report.runs:
            built = method_of(run, name)
            row = [name, f"{run.rows:,}", size(built.index_bytes) if built.index_bytes else None]
            row.append(_number(built.build_seconds, 1))
            for target in targets:
                one = chosen_of(run, name, target)
                row += [_recall(one), _point(one), _number(one.figures.p50_ms, 2)]
            rows.append(row)
        row = [name, "exponent"]
        row += [_exponent(law_of(report, name, figure)) for figure in OF_METHOD]
        for target in targets:
            row += [None, None, _exponent(law_of(report, name, BY_TARGET, target))]
        rows.append(row)
    print_table(columns, rows, right=1, whole=True)


def _exponent(law: Law | None) -> str | None:
    return None if law is None else str(law)


def _recall(one: Chosen) -> str:
    found = one.figures
    return f"{found.recall:.4f}{'' if one.reached else '*'} ±{(found.high - found.low) / 2:.3f}"


def _point(one: Chosen) -> str | None:
    return None if one.method == "exact" else f"{one.figures.candidates}/{one.figures.ef_search}"


def _notes(report: Report) -> list[str]:
    """What a reader must know to read the tables."""
    from mrl_pg.bench.report import BASELINE

    said = [
        "Each line is the setting (candidates/ef_search) with the lowest p50 among those tried that reach the recall, "
        "measured again. ± is half the 95 % bootstrap interval of the recall, QPS the queries/s of one client and of "
        f"several, ×{BASELINE} what they are over the baseline's.",
        "fill s is for adding and backfilling a column; an index on an expression has none. inserts/s is one INSERT of "
        "up to 1,000 rows into a table of up to 10,000 with that index alone.",
    ]
    if report.short_memory is not None:
        said.append("cold ms is the mean of the first 20 queries after the start of the server, at their recall.")
    if any(not one.reached for run in report.runs for one in run.chosen):
        said.append("* does not reach the recall with any setting tried; this is the best it does.")
    return said


def _rate(value: float | None) -> str | None:
    return _number(value, 1 if value is not None and value < 100 else 0)


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:,.{digits}f}"
