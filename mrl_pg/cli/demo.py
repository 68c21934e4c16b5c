"""mrl-pg demo."""

from __future__ import annotations

import platform
import re
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mrl_pg.cli.output import shortened, size

if TYPE_CHECKING:
    from rich.console import Console

    from mrl_pg.demo.run import Embedder, Report

_WIDTH = 100


@click.command(epilog='\b\nExample:\n  mrl-pg demo "wait for several threads to finish"')
@click.argument("query", required=False)
@click.option("--fresh", is_flag=True, help="Start over instead of using what is there from the last time.")
@click.option(
    "--embedder",
    type=click.Choice(["lsa", "openai"]),
    default="lsa",
    show_default=True,
    help="What makes the embeddings: latent semantic analysis on this machine, or OpenAI with your OPENAI_API_KEY.",
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where server and model are kept; ~/.local/share/mrl-pg/demo if left out.",
)
def demo(query: str | None, fresh: bool, embedder: Embedder, directory: Path | None) -> None:
    """See it at work: search the documentation of Python in plain words.

    Starts a local PostgreSQL, runs the migration, stores every documented function and class of the standard library
    with its embedding, adds a second prefix, answers QUERY and a few others, and measures ways to search.
    """
    from rich.console import Console

    from mrl_pg.demo.run import demo as run
    from mrl_pg.embedded import data_home

    home = directory or data_home() / "demo"
    console = Console(highlight=False, markup=False, emoji=False)
    console.width = min(console.width, _WIDTH) if console.is_terminal else _WIDTH
    tick = "✓ " if console.is_terminal else ""
    console.print(f"Two-stage search over the documentation of Python {platform.python_version()}\n", style="bold")
    begun = time.monotonic()
    with console.status("") as spinner:

        def done(text: str) -> None:
            nonlocal begun
            _print_step(console, f"{tick}{text}", time.monotonic() - begun)
            begun = time.monotonic()

        report = run(
            query,
            directory=home,
            embedder=embedder,
            fresh=fresh,
            doing=lambda text: spinner.update(f"{text} …"),
            done=done,
        )
    _print_answers(console, report, query)
    _print_sql(console, report)
    _print_ways(console, report)
    _print_notes(console, report, embedder, home)


def _print_step(console: Console, text: str, seconds: float) -> None:
    from rich.table import Table

    line = Table.grid(expand=True, padding=(0, 1))
    line.add_column(ratio=1)
    line.add_column(justify="right", no_wrap=True, style="dim")
    line.add_row(text, f"{seconds:.1f} s")
    console.print(line)


def _print_answers(console: Console, report: Report, query: str | None) -> None:
    from rich.text import Text

    hits = dict.fromkeys((question for question, _ in report.answers), 2 if query else 3) | {query: 8}
    for question, result in report.answers:
        console.print(f"\n“{question}”", style="bold")
        for hit in result[: hits[question]]:
            summary = " ".join(hit.row["body"].split("\n\n")[0].split())
            line = Text.assemble(f"  {hit.distance:.3f}  ", (hit.row["title"], "cyan"), ("  " + summary, "dim"))
            console.print(line, overflow="ellipsis", no_wrap=True)


def _print_sql(console: Console, report: Report) -> None:
    from rich.syntax import Syntax

    question, _ = report.answers[0]
    console.print(f"\nThe statement for “{question}”; vectors and settings are cut short at …", style="bold")
    if console.is_terminal:
        console.print(Syntax(_laid_out(report.sql), "postgresql", theme="ansi_dark", background_color="default"))
    else:
        console.print(_laid_out(report.sql))


def _laid_out(statement: str) -> str:
    """Returns a search statement for reading: on the lines of its clauses, and without the rest of its settings."""
    text = shortened(" ".join(statement.split()))
    text = re.sub(r"(\('hnsw\.ef_search'.*? AS ef_search), .*? AS scan_mem_multiplier", r"\1, …", text)
    text = re.sub(r" AS MATERIALIZED \(", " AS MATERIALIZED (\n  ", text)
    text = re.sub(r"\), (mrl_\w+ AS)", r"),\n\1", text)
    text = re.sub(r"\) (SELECT stdlib)", r")\n\1", text)
    text = re.sub(r" (FROM (?!mrl_\w+\))|WHERE |ORDER BY |LIMIT )", r"\n  \1", text)
    lines = (textwrap.wrap(line, _WIDTH - 2, subsequent_indent="    ") for line in text.splitlines())
    return "\n".join(line for wrapped in lines for line in wrapped)


def _print_ways(console: Console, report: Report) -> None:
    from rich import box
    from rich.table import Table

    console.print(f"\nMeasured with {report.queries} other queries over {report.rows:,} rows", style="bold")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("")
    for column in ("recall@10", "p50", "index"):
        table.add_column(column, justify="right")
    for way in report.ways:
        table.add_row(
            way.name,
            f"{way.recall:.3f}",
            f"{way.seconds * 1000:.1f} ms",
            "–" if way.index_bytes is None else size(way.index_bytes),
        )
    console.print(table)


def _print_notes(console: Console, report: Report, embedder: Embedder, home: Path) -> None:
    exact, *_ = report.ways
    made = (
        "The embeddings are latent semantic analysis: TF-IDF and a truncated singular value decomposition. Their "
        f"{report.full_dims:,} dims come in the order of their singular values, so they truncate like those of a "
        "Matryoshka model; of language they know only which words keep company."
        if embedder == "lsa"
        else f"The embeddings are those of text-embedding-3-small, a Matryoshka model, at {report.full_dims:,} dims."
    )
    meant = (
        f"At {report.rows:,} rows none of this is needed: exact search takes {exact.seconds * 1000:.0f} ms and finds "
        "everything. A prefix pays where an index on whole embeddings no longer fits in memory, takes too long to "
        "build, or cannot be had; more candidates, or a longer prefix, buy recall."
    )
    for note in (made, meant):
        console.print(f"\n{textwrap.fill(note, console.width)}")
    console.print(f"\nLook around: mrl-pg status --dsn embedded:{home / embedder}", soft_wrap=True)
