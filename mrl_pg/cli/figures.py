"""The figures of an evaluation as tables, CSV and words."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from mrl_pg.cli.output import print_table, size

if TYPE_CHECKING:
    from mrl_pg.evaluation import Evaluation, Point
    from mrl_pg.metrics import Summary
    from mrl_pg.operating import OperatingPoint
    from mrl_pg.registry import Target
    from mrl_pg.tune import Tuning


def print_evaluation(found: Evaluation, target: float) -> None:
    """Prints tables of all figures, and what they come to in words for a recall that is wanted."""
    from mrl_pg.report.choice import usual_candidates
    from mrl_pg.report.words import sentences

    candidates = usual_candidates(found) if found.points else 0
    whole = "" if found.rows == found.table_rows else f" of {found.table_rows:,}"
    click.echo(
        f"Exact scans of {found.rows:,}{whole} rows of {found.full_dims} dimensions for {found.queries:,} queries "
        f"({found.distance})."
    )
    click.echo(f"\nrecall@{found.k} of the prefix alone, and after a rerank of n candidates; ± 95 % interval:")
    sizes = [one.candidates for one in found.points[0].reranked if one.candidates > found.k] if found.points else []
    print_table(
        ["kind", "dims", "alone", *(f"n = {n:,}" for n in sizes)],
        [
            [p.kind, p.dims, _figure(p.recall), *(_figure(r.recall) for r in p.reranked if r.candidates > found.k)]
            for p in found.points
        ],
        right=2,
        dense=True,
    )
    click.echo(
        f"\nThe 5th percentile and the worst query with {candidates:,} candidates; of the prefix alone "
        f"overlap@{found.k}, the correlation\nof ranks in the top {found.top} and the share of the squared norm kept; "
        f"bytes in a row, and the index of {found.table_rows:,} rows:"
    )
    columns = ["kind", "dims", "p5", "worst", "overlap", "ranks", "kept", "bytes", "index", "memory", "build"]
    print_table(columns, [_costs(point, candidates) for point in found.points], right=2, dense=True)
    if found.relevance:
        _print_relevance(found, candidates)
    if found.indexes:
        _print_indexes(found)
    if found.cold:
        _print_cold(found)
    click.echo()
    for sentence in sentences(found, target):
        click.echo(sentence)


def print_tuning(found: Tuning) -> None:
    """Prints what was measured, marked, and the recommendation in words."""
    from mrl_pg.operating import SOURCES
    from mrl_pg.tune import sentences

    if found.scanned:
        click.echo("Promising in an exact scan, the cheapest to search first, with the candidates they need:")
        print_table(["kind", "dims", "candidates"], [[one.kind, one.dims, one.candidates] for one in found.scanned])
        click.echo()
    marks: dict[OperatingPoint, str] = dict.fromkeys(found.pareto, "Pareto")
    marks |= dict.fromkeys(found.runner_ups, "runner-up")
    marks |= {found.best: "cheapest"} if found.best else {}
    click.echo(
        f"{len(found.points)} settings of {found.chosen_by} {SOURCES[found.source]}, measured again with "
        f"{found.confirmed_by} others; ± is the 95 % interval:"
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


def next_step(table: str, known: Target, embedding: str, found: Evaluation, target: float, again: str) -> str:
    """Returns the command that makes the smallest prefix that is good enough, or brings it on; or what else to do.

    :param again: the command that measures the same once more, without its candidates.
    """
    from mrl_pg.report.choice import good_enough

    choice = good_enough(found, target)
    if not choice:
        return f"Next: {again} --candidates {','.join(map(str, _more_candidates(found)))}"
    best = choice.point
    wanted = (embedding, best.kind, best.dims, found.distance, False)
    for prefix in known.prefixes:
        if (prefix.embedding, prefix.kind, prefix.dims, prefix.distance, prefix.layer_norm) == wanted:
            if prefix.index:
                return f"{table} has that prefix, with its index: {prefix.prefix}."
            it = f"{quote(table)} --prefix {quote(prefix.prefix)}"
            return f"Next: mrl-pg backfill {it} && mrl-pg index {it}"
    command = "rotate" if best.kind == "rotate" else "add-prefix"
    options = [
        f"--dims {best.dims}",
        *(["--kind binary"] if best.kind == "binary" else []),
        *([f"--distance {found.distance}"] if found.distance != "cosine" else []),
        *([f"--embedding {quote(embedding)}"] if embedding != "embedding" else []),
    ]
    return f"Next: mrl-pg {command} {quote(table)} {' '.join(options)}"


def _more_candidates(found: Evaluation) -> list[int]:
    """Returns more candidates than were measured, as far as there are rows."""
    most = max((one.candidates for point in found.points for one in point.reranked), default=found.k)
    # A row that is a query does not find itself.
    room = max(found.rows - 1, most)
    return sorted({min(most * factor, room) for factor in (2, 4)})


def write_csv(path: str, found: Evaluation) -> None:
    """Returns nothing; writes the figures, a line each."""
    from mrl_pg.report import to_csv

    Path(path).write_text(to_csv(found), encoding="utf-8")


def _costs(point: Point, candidates: int) -> list[Any]:
    from mrl_pg.report.choice import at

    recall, cost = at(point, candidates).recall, point.footprint
    return [
        point.kind,
        point.dims,
        f"{recall.p5:.2f}",
        f"{recall.worst:.2f}",
        f"{point.overlap.mean:.3f}",
        f"{point.spearman.mean:.3f}",
        None if point.kept is None else f"{point.kept:.1%}",
        f"{cost.column_bytes:,}",
        size(cost.index_bytes),
        size(cost.build_memory_bytes),
        f"{cost.build_seconds:,.0f} s",
    ]


def _print_relevance(found: Evaluation, candidates: int) -> None:
    from mrl_pg.report.choice import at

    click.echo(f"\nBy the qrels nDCG@10 and the share of relevant rows in the first {found.k}, ± 95 % interval:")
    rows = [["whole", found.full_dims, *_relevance(found.relevance), None, None]]
    rows += [[p.kind, p.dims, *_relevance(p.relevance), *_relevance(at(p, candidates).relevance)] for p in found.points]
    then = f"from {candidates:,} candidates"
    print_table(
        ["kind", "dims", "nDCG@10", "relevant", f"nDCG@10 {then}", f"relevant {then}"], rows, right=2, dense=True
    )


def _relevance(found: Any) -> list[str | None]:
    return [None, None] if found is None else [_figure(found.ndcg_10), _figure(found.recall)]


def _print_indexes(found: Evaluation) -> None:
    clients = found.indexes[0].clients
    who = f"{clients} clients at a time" if clients > 1 else "one client"
    click.echo(f"\nSearches through the indexes, warm, {who}; p50 to p99 in milliseconds, with the way there and back.")
    columns = ["candidates", "ef_search", f"recall@{found.k}", "p5", "worst", "received", "p50", "p95", "p99", "QPS"]
    for (prefix, filtered), group in groupby(found.indexes, lambda one: (one.prefix, one.filter is not None)):
        figures = list(group)
        under = f", under the filter, which keeps {figures[0].selectivity:.2%} of the rows" if filtered else ""
        click.echo(f"{prefix}{under}:")
        rows = [
            [
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
        print_table(columns, rows, right=2, dense=True)


def _print_cold(found: Evaluation) -> None:
    warm = {(one.prefix, one.candidates, one.ef_search): one for one in reversed(found.indexes) if not one.filter}
    click.echo(
        f"\nThe first {found.cold[0].searches} searches after the caches were emptied, one client, in milliseconds;\n"
        "the first of all looks up besides what a new connection needs:"
    )
    clients = found.indexes[0].clients
    warm_figures = [f"warm {name}{f', {clients} clients' if clients > 1 else ''}" for name in ("p50", "p95")]
    columns = ["prefix", "candidates", "ef_search", f"recall@{found.k}", "first", "p50", "p95", *warm_figures]
    rows = []
    for one in found.cold:
        same = warm[one.prefix, one.candidates, one.ef_search]
        times = (one.first_ms, one.p50_ms, one.p95_ms, same.p50_ms, same.p95_ms)
        rows.append([one.prefix, one.candidates, one.ef_search, _figure(one.recall), *(f"{ms:.2f}" for ms in times)])
    print_table(columns, rows, right=1, dense=True)


def _figure(figure: Summary) -> str:
    """Returns a share with half of its interval: ``.943 ±.006``."""
    return _share(figure.mean, figure.low, figure.high)


def _share(mean: float, low: float, high: float) -> str:
    return f"{mean:.3f}".removeprefix("0") + " ±" + f"{(high - low) / 2:.3f}".removeprefix("0")
