"""mrl-pg bench."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mrl_pg.cli.bench_tables import print_report
from mrl_pg.cli.output import json_option, print_json
from mrl_pg.cli.types import Share
from mrl_pg.errors import MrlError

if TYPE_CHECKING:
    from mrl_pg.bench.build import Doing
    from mrl_pg.bench.report import Report


def _check_buffers(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"[1-9]\d*(kB|MB|GB)", value):
        raise click.BadParameter(f"{value!r} is no size. Write 400MB, for example.")
    return value


@click.command(
    epilog="""\b
Examples:
  mrl-pg bench --data embeddings.npz --recall 0.95 --method half --method rotate-256
  mrl-pg bench --rows 300000 --short-memory --out bench.json
  mrl-pg bench --rows 100000 --rows 300000 --rows 1000000 --report growth.html
  mrl-pg bench --saved bench.json --report bench.html
  mrl-pg bench --rows 20000"""
)
@click.option(
    "--rows",
    "sizes",
    type=click.IntRange(min=1),
    multiple=True,
    help="Rows to search; 100,000, or all of --data, if left out. Repeat it to see how the figures grow with them.",
)
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
    type=Share(min_open=True),
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
    help="Write all figures there as JSON, besides printing the tables; after each of several --rows those so far.",
)
@click.option(
    "--report",
    "page",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write a page with charts there: one HTML file.",
)
@click.option(
    "--saved",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Show the figures that --out wrote there, instead of measuring.",
)
@json_option
@click.pass_context
def bench(
    context: click.Context,
    sizes: Sequence[int],
    dims: int | None,
    path: Path | None,
    label: str | None,
    names: Sequence[str],
    targets: Sequence[float],
    clients: int | None,
    short_memory: bool,
    buffers: str,
    out: Path | None,
    page: Path | None,
    saved: Path | None,
    as_json: bool,
) -> None:
    """Compare ways to search, on a server of its own.

    Starts a local PostgreSQL, loads vectors, builds every index, and looks for the cheapest settings with which each
    way reaches a recall. Nothing stays behind. At 300,000 rows with 1,536 dims this takes about half an hour, and 12 GB
    of disk; TMPDIR says where. With several --rows each has a server of its own, one after the other.
    """
    if path is None and label is not None:
        raise click.UsageError("--label is for --data; simulated vectors are called that.")
    if path is not None and dims is not None:
        raise click.UsageError("--dims is for simulated vectors; those of --data have their own.")
    for option, file in (("--out", out), ("--report", page)):
        if file is not None and not file.absolute().parent.is_dir():
            raise click.UsageError(f"{option} {file}: there is no directory {file.parent}. Make it first.")
        if file is not None and not os.access(file if file.exists() else file.absolute().parent, os.W_OK):
            raise click.UsageError(f"{option} {file} cannot be written. Name another file.")
    if saved is not None:
        _only_shown(context)
        reports = iter([_saved(saved)])
    else:
        reports = _measured(
            path,
            sorted(set(sizes)),
            dims,
            label,
            names,
            targets=targets,
            client_count=clients,
            short_buffers=buffers if short_memory else None,
        )
    for report in reports:
        if out is not None:
            text = json.dumps(asdict(report), indent=2, ensure_ascii=False)
            out.write_text(f"{text}\n", encoding="utf-8")
    if page is not None:
        from mrl_pg.bench.page import bench_html

        page.write_text(bench_html(report), encoding="utf-8")
    if as_json:
        print_json(asdict(report))
        return
    print_report(report)
    for file in filter(None, (out, page)):
        click.echo(f"\nWrote {file}.")


def _measured(
    path: Path | None, sizes: Sequence[int], dims: int | None, label: str | None, names: Sequence[str], **options: Any
) -> Iterator[Report]:
    """Yields what is known after each number of rows."""
    from mrl_pg.bench.data import DEFAULT_DIMS, DEFAULT_ROWS, read, simulate
    from mrl_pg.bench.methods import default_methods, parse_method
    from mrl_pg.bench.run import bench_growth

    with _working() as doing:
        doing("Reading", str(path or "nothing, vectors are simulated"))
        if path is None:
            data = [simulate(rows, dims or DEFAULT_DIMS) for rows in sizes or [DEFAULT_ROWS]]
        else:
            data = [read(path, rows, label=label) for rows in sizes] or [read(path, label=label)]
        full_dims = data[0].dims
        methods = [parse_method(name, full_dims) for name in dict.fromkeys(names)] or default_methods(full_dims)
        yield from bench_growth(data, methods, doing=doing, **options)


def _saved(path: Path) -> Report:
    from mrl_pg.bench.report import Report

    try:
        return Report.from_dict(json.loads(path.read_bytes()))
    except ValueError as error:
        raise MrlError(f"{path} is no JSON ({error}). Write it with: mrl-pg bench --out {path}") from error
    except MrlError as error:
        raise MrlError(f"{path}: {error}") from error


def _only_shown(context: click.Context) -> None:
    """Returns nothing; refuses options of what is measured beside figures that are."""
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        and parameter.name not in ("saved", "out", "page", "as_json")
    ]
    if given:
        raise click.UsageError(f"--saved shows what was measured, so {', '.join(given)} cannot go with it.")


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
