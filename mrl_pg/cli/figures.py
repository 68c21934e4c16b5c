"""The figures of an evaluation as tables, CSV and words."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from mrl_pg.cli.output import print_table, size

if TYPE_CHECKING:
    from mrl_pg.evaluation import Evaluation, Measured, Point
    from mrl_pg.metrics import Summary
    from mrl_pg.operating import OperatingPoint
    from mrl_pg.registry import Target
    from mrl_pg.tune import Tuning


def print_evaluation(found: Evaluation) -> None:
    """Prints tables of all figures, and what they come to in words."""
    from mrl_pg.verdict import judged_candidates, sentences

    candidates = judged_candidates(found)
    whole = "" if found.rows == found.table_rows else f" of {found.table_rows:,}"
    click.echo(
        f"Exact scans of {found.rows:,}{whole} rows of {found.full_dims} dimensions for {found.queries:,} queries "
        f"({found.distance})."
    )
    click.echo(f"\nrecall@{found.k} of the prefix alone, and after a rerank of its nearest rows, ± 95 % interval:")
    sizes = [one.candidates for one in found.points[0].reranked if one.candidates > found.k] if found.points else []
    print_table(
        ["kind", "dims", "alone", *(f"{n:,} candidates" for n in sizes)],
        [
            [p.kind, p.dims, _figure(p.recall), *(_figure(r.recall) for r in p.reranked if r.candidates > found.k)]
            for p in found.points
        ],
        whole=True,
    )
    click.echo(
        f"\nThe 5th percentile and the worst query with {candidates:,} candidates; of the prefix alone "
        f"overlap@{found.k}, the correlation\nof ranks in the top {found.top} and the share of the squared norm; what "
        f"it costs {found.table_rows:,} rows:"
    )
    columns = ["kind", "dims", "p5", "worst", "overlap", "ranks", "kept", "a row", "index", "memory", "build"]
    print_table(columns, [_costs(point, candidates) for point in found.points], whole=True)
    if found.relevance:
        _print_relevance(found, candidates)
    if found.indexes:
        _print_indexes(found)
    click.echo()
    for sentence in (*found.notes, *sentences(found)):
        click.echo(sentence)


def print_tuning(found: Tuning) -> None:
    """Prints what was measured, marked, and the recommendation in words."""
    from mrl_pg.tune import sentences

    if found.scanned:
        click.echo("Promising in an exact scan, the cheapest to search first, with the candidates they need:")
        print_table(["kind", "dims", "candidates"], [[one.kind, one.dims, one.candidates] for one in found.scanned])
        click.echo()
    marks: dict[OperatingPoint, str] = dict.fromkeys(found.pareto, "Pareto")
    marks |= dict.fromkeys(found.runner_ups, "runner-up")
    marks |= {found.best: "cheapest"} if found.best else {}
    click.echo(
        f"{len(found.points)} settings of {found.chosen_by} queries, measured again with {found.confirmed_by} others; "
        "± is the 95 % interval:"
    )
    print_table(
        ["prefix", "candidates", "ef_search", f"recall@{found.k}", "p50 ms", "p95 ms", ""],
        [
            [
                one.prefix,
                one.candidates,
                one.ef_search,
                _share(one.recall, one.recall_low, one.recall_high),
                f"{one.p50_ms:.2f}",
                f"{one.p95_ms:.2f}",
                marks.get(one, ""),
            ]
            for one in found.points
        ],
        whole=True,
    )
    click.echo()
    for sentence in sentences(found):
        click.echo(sentence)
    if found.dropped:
        click.echo(f"Built to be measured and dropped again: {', '.join(found.dropped)}.")
    if kept := [name for name in found.built if name not in found.dropped]:
        click.echo(f"Built and kept: {', '.join(kept)}.")


def next_step(table: str, known: Target, embedding: str, found: Evaluation) -> str:
    """Returns the command that makes the smallest prefix that is good enough, or brings it on; or what else to do."""
    from mrl_pg.verdict import good_enough

    good = good_enough(found)
    if not good:
        return f"Next: mrl-pg eval {quote(table)} --candidates 100,200,400"
    best = good[0]
    for prefix in known.prefixes:
        if (prefix.embedding, prefix.kind, prefix.dims, prefix.distance) == (
            embedding,
            best.kind,
            best.dims,
            found.distance,
        ):
            if prefix.index:
                return f"{table} has that prefix, with its index: {prefix.prefix}."
            return f"Next: mrl-pg backfill {quote(table)} --prefix {quote(prefix.prefix)}"
    command = "rotate" if best.kind == "rotate" else "add-prefix"
    options = [
        f"--dims {best.dims}",
        *(["--kind binary"] if best.kind == "binary" else []),
        *([f"--distance {found.distance}"] if found.distance != "cosine" else []),
        *([f"--embedding {quote(embedding)}"] if embedding != "embedding" else []),
    ]
    return f"Next: mrl-pg {command} {quote(table)} {' '.join(options)}"


def write_csv(path: str, found: Evaluation) -> None:
    """Returns nothing; writes the figures, a line each."""
    from mrl_pg.report import to_csv

    Path(path).write_text(to_csv(found), encoding="utf-8")


def _costs(point: Point, candidates: int) -> list[Any]:
    from mrl_pg.verdict import reranked

    recall, cost = reranked(point, candidates).recall, point.footprint
    return [
        point.kind,
        point.dims,
        f"{recall.p5:.2f}",
        f"{recall.worst:.2f}",
        f"{point.overlap.mean:.3f}",
        f"{point.spearman.mean:.3f}",
        None if point.kept is None else f"{point.kept:.1%}",
        f"{cost.column_bytes:,} B",
        size(cost.index_bytes),
        size(cost.build_memory_bytes),
        f"{cost.build_seconds:,.0f} s",
    ]


def _print_relevance(found: Evaluation, candidates: int) -> None:
    from mrl_pg.verdict import reranked

    click.echo(f"\nBy the qrels nDCG@10 and the share of relevant rows in the first {found.k}, ± 95 % interval:")
    rows = [["whole", found.full_dims, *_relevance(found.relevance), None, None]]
    rows += [
        [p.kind, p.dims, *_relevance(p.relevance), *_relevance(reranked(p, candidates).relevance)] for p in found.points
    ]
    then = f"from {candidates:,} candidates"
    print_table(["kind", "dims", "nDCG@10", "relevant", f"nDCG@10 {then}", f"relevant {then}"], rows, whole=True)


def _relevance(found: Any) -> list[str | None]:
    return [None, None] if found is None else [_figure(found.ndcg_10), _figure(found.recall)]


def _print_indexes(found: Evaluation) -> None:
    plain = [one for one in found.indexes if one.filter is None]
    filtered = [one for one in found.indexes if one.filter is not None]
    clients = f"{plain[0].clients} client{'s' if plain[0].clients > 1 else ''}"
    click.echo(f"\nSearches through the indexes, warm, {clients}; milliseconds with the way there and back:")
    _print_measured(found.k, plain)
    if filtered:
        click.echo(f"\nThe same under the filter, which keeps {filtered[0].selectivity:.2%} of the rows:")
        _print_measured(found.k, filtered)


def _print_measured(k: int, figures: list[Measured]) -> None:
    columns = ["prefix", "candidates", "ef_search", f"recall@{k}", "p5", "worst", "received"]
    rows = [
        [
            one.prefix,
            one.candidates,
            one.ef_search,
            _figure(one.recall),
            f"{one.recall.p5:.2f}",
            f"{one.recall.worst:.2f}",
            f"{one.received.mean:,.1f}",
            f"{one.p50_ms:.2f}",
            f"{one.p95_ms:.2f}",
            f"{one.p99_ms:.2f}",
            f"{one.qps:,.0f}",
        ]
        for one in figures
    ]
    print_table([*columns, "p50 ms", "p95 ms", "p99 ms", "a second"], rows, whole=True)


def _figure(figure: Summary) -> str:
    """Returns a share with half of its interval: ``.943 ±.006``."""
    return _share(figure.mean, figure.low, figure.high)


def _share(mean: float, low: float, high: float) -> str:
    return f"{mean:.3f}".removeprefix("0") + " ±" + f"{(high - low) / 2:.3f}".removeprefix("0")
