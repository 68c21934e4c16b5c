"""The page of a benchmark: what it says, its figures, and what it takes to run it again."""

from __future__ import annotations

import shlex
from dataclasses import asdict

from mrl_pg.bench.data import SIMULATED
from mrl_pg.bench.page.growth import growth
from mrl_pg.bench.page.latency import every_setting, recall_by_latency
from mrl_pg.bench.page.methods import indexes, searches, short_memory
from mrl_pg.bench.report import Report, ShortMemory
from mrl_pg.bench.words import caveats, sentences
from mrl_pg.metrics import RESAMPLES
from mrl_pg.points import Figures
from mrl_pg.report.chart import Figure, Table
from mrl_pg.report.markup import tag
from mrl_pg.report.page import Section, figure_section, page_html, settings_section
from mrl_pg.report.table import html_table, records_csv
from mrl_pg.report.units import duration, listed, size


def bench_html(report: Report) -> str:
    """Returns a benchmark as HTML that loads nothing: charts, their tables, and what they say."""
    sections = [
        _words(report),
        *(figure_section(one) for one in figures(report)),
        _methods(report),
        _statements(report),
        settings_section(_settings(report)),
    ]
    data = report.environment["data"]
    title = f"Ways to search {data['rows']:,} vectors"
    return page_html(title, _subtitle(report), sections, csv=records_csv(_records(report)))


def figures(report: Report) -> list[Figure]:
    """Returns all figures that there are numbers for; none of indexes where only exact search was measured."""
    if all(one.index is None for one in report.methods):
        return []
    return [
        *recall_by_latency(report),
        searches(report),
        indexes(report),
        *([short_memory(report, report.short_memory)] if report.short_memory else []),
        *(growth(report) if report.growth else []),
        every_setting(report),
    ]


def _subtitle(report: Report) -> str:
    told = report.environment
    versions, data = told["versions"], told["data"]
    return (
        f"{listed([f'{run.rows:,}' for run in report.runs])} rows × {data['dims']:,} dims ({data['label']}), "
        f"{data['queries']} queries, k = {data['k']}; PostgreSQL {versions['PostgreSQL']}, pgvector "
        f"{versions['pgvector']}, {told['machine']['cpus']} CPUs"
    )


def _words(report: Report) -> Section:
    first, *others = sentences(report)
    said = [tag("p", first, class_="verdict"), *(tag("p", one) for one in others)]
    return Section("words", "In words", (*said, *(tag("p", one, class_="soft") for one in caveats(report))))


def _methods(report: Report) -> Section:
    """Returns what each method is, with its index."""
    rows = tuple((one.name, one.about, one.definition) for one in report.methods)
    table = html_table(Table(("method", "what it is", "index"), rows), "Methods")
    about = "What the index leaves out is pgvector's default: m = 16, ef_construction = 64."
    return Section("methods", "Methods", (tag("p", about, class_="soft"), table))


def _statements(report: Report) -> Section:
    """Returns what was run at the chosen settings."""
    rows = tuple((f"{run.rows:,}", f"{c.target:g}", c.method, c.statement) for run in report.runs for c in run.chosen)
    table = html_table(Table(("rows", "target", "method", "what was run"), rows), "Searches")
    about = "The searches at the cheapest settings; where a target is missed, at the best."
    return Section("statements", "Searches, to run them again", (tag("p", about, class_="soft"), table))


def _settings(report: Report) -> dict[str, object]:
    """Returns all that a benchmark knows of its making."""
    told, runs = report.environment, report.runs
    versions, machine = told["versions"], told["machine"]
    machine_text = f"{machine['platform']}, {machine['cpus']} CPUs, {size(machine['memory_bytes'])} of memory"
    named = {"numpy": "NumPy"}
    settings: dict[str, object] = {
        "command": _command(report),
        **{named.get(name, name): version for name, version in versions.items()},
        "machine": machine_text,
        "data": f"{told['data']['label']}, {told['data']['dims']:,} dims, {told['data']['queries']} queries",
        "took": _by_rows(report, [duration(run.environment["seconds"]) for run in runs]),
        "intervals": f"95 %, percentile bootstrap, {RESAMPLES:,} resamples",
    }
    if all("bytes" in run.environment for run in runs):
        for name, of in (("table", "table"), ("all indexes", "indexes")):
            settings[name] = _by_rows(report, [size(run.environment["bytes"][of]) for run in runs])
    for name in told["settings"]:
        settings[name] = _by_rows(report, [run.environment["settings"].get(name, "–") for run in runs])
    for name, value in (told["short_memory_settings"] or {}).items():
        if value != told["settings"].get(name):
            settings[f"{name}, little memory"] = value
    return settings


def _by_rows(report: Report, values: list[str]) -> str:
    """What is said of each number of rows, once where it is the same."""
    if len(set(values)) == 1:
        return values[0]
    return ", ".join(f"{value} ({run.rows:,} rows)" for run, value in zip(report.runs, values, strict=True))


def _command(report: Report) -> str:
    """The command that measures this again."""
    told, data = report.environment, report.environment["data"]
    simulated = data["label"] == SIMULATED
    words = ["mrl-pg", "bench", *(f"--rows={run.rows}" for run in report.runs)]
    words += [f"--dims={data['dims']}"] if simulated else ["--data=FILE.npz", f"--label={data['label']}"]
    words += [f"--method={one.name}" for one in report.methods]
    words += [f"--recall={target:g}" for target in told["targets"]]
    words += [f"--clients={told['clients']}"]
    if scarce := told["short_memory_settings"]:
        words += ["--short-memory", f"--buffers={scarce['shared_buffers']}"]
    return shlex.join(words)


def _records(report: Report) -> list[dict[str, object]]:
    """All figures, a record for each point and each choice."""
    found = []
    for run in report.runs:
        for one in run.methods:
            built = {
                "rows": run.rows,
                "method": one.name,
                "index_bytes": one.index_bytes,
                "fill_seconds": one.fill_seconds,
                "build_seconds": one.build_seconds,
                "inserts_per_s": one.inserts_per_s,
            }
            found += [{**built, **_record("tried", point)} for point in one.points]
            for chosen in (c for c in [*run.chosen, *(run.short_memory or [])] if c.method == one.name):
                what = "short memory" if isinstance(chosen, ShortMemory) else "chosen"
                found.append({**built, **_record(what, chosen.figures, chosen.target, chosen.clients_qps)})
    return found


def _record(
    what: str, figures: Figures, target: float | None = None, clients_qps: float | None = None
) -> dict[str, object]:
    return {"measured": what, "target": target, **asdict(figures), "clients_qps": clients_qps}
