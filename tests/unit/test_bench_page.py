"""How a benchmark grows with the rows, and its page: it holds the figures, and cannot be broken by what it shows."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest

from mrl_pg.bench.growth import power_law
from mrl_pg.bench.page import bench_html
from mrl_pg.bench.page.document import figures
from mrl_pg.bench.report import Report
from mrl_pg.bench.words import caveats, sentences
from mrl_pg.errors import MrlError
from mrl_pg.report.looks import LOOKS
from tests.unit.benchmarks import METHODS, TARGETS, benchmark, grown
from tests.unit.reports import NASTY
from tests.unit.test_report import Page

ROWS = (10_000, 100_000, 1_000_000)


def test_a_power_law_is_found() -> None:
    rows = [1_000, 10_000, 50_000, 1_000_000]
    law = power_law(rows, [3 * n**0.4 for n in rows])
    assert law
    assert [law.factor, law.exponent, law.error] == pytest.approx([3, 0.4, 0])
    assert law.points == 4
    through_both = power_law([10, 1_000], [2, 20])
    assert through_both
    assert [through_both.factor, through_both.exponent] == pytest.approx([2 / 10**0.5, 0.5])
    assert (through_both.error, through_both.points) == (None, 2)
    assert power_law([10], [2]) is power_law([], []) is power_law([10, 10], [2, 3]) is None


def test_the_standard_error_of_an_exponent_is_that_of_a_regression() -> None:
    rows, values = [1_000, 3_000, 10_000, 100_000], [2.0, 3.1, 3.9, 9.0]
    law = power_law(rows, values)
    (slope, _), covariance = np.polyfit(np.log(rows), np.log(values), 1, cov=True)
    assert law
    assert law.exponent == pytest.approx(slope)
    assert law.error == pytest.approx(covariance[0, 0] ** 0.5)


def test_what_misses_its_target_has_no_part_in_the_growth() -> None:
    report = grown(ROWS)
    assert report.growth
    assert [run.rows for run in report.runs] == list(ROWS)
    laws = {(one.method, one.figure, one.target): one.law for one in report.growth.laws}
    assert len(laws) == len(METHODS) * len(TARGETS) + 2 * (len(METHODS) - 1)
    for (method, figure, target), law in laws.items():
        missed = (method, target) == ("binary-1536", 0.98)
        assert law
        assert law.points == (2 if missed else 3)
        assert (law.error is None) == missed
        assert law.exponent == pytest.approx(0.5 if figure == "p50_ms" else 1)


def test_json_holds_a_whole_report() -> None:
    for report in (grown(ROWS), benchmark(), replace(benchmark(), short_memory=None)):
        assert Report.from_dict(json.loads(json.dumps(asdict(report)))) == report
    with pytest.raises(MrlError, match="these are not the figures of a benchmark"):
        Report.from_dict({"methods": []})


def test_the_page_is_whole_and_loads_nothing() -> None:
    html = bench_html(grown(ROWS))
    page = Page(html)
    assert page.open == []
    names = [
        "words", "recall-by-latency", "searches", "indexes", "short-memory", "growth", "every-setting", "methods",
        "statements", "settings",
    ]  # fmt: skip
    assert [section["id"] for section in page.all("section")] == names
    assert len(page.all("details")) == 6
    assert not re.search(r"https?:|//[a-z]|@import|url\(|\bfetch\b|XMLHttpRequest", html)
    # What was not measured is left out, down to a benchmark that has no index at all.
    alone = Page(bench_html(replace(benchmark(methods=("exact",)), short_memory=None)))
    assert [section["id"] for section in alone.all("section")] == ["words", "methods", "statements", "settings"]
    assert Page(bench_html(benchmark(methods=("rotate-128",)))).open == []


def test_no_figure_is_without_its_recall_and_interval() -> None:
    report = grown(ROWS)
    for one in figures(report):
        columns = [name for name in one.table.columns if name.startswith("recall@10")]
        assert columns, one.name
        at = one.table.columns.index(columns[0])
        assert all(re.fullmatch(r"0\.\d{3}–[01]\.\d{3}", str(row[at + 1])) for row in one.table.rows if row[at]), (
            one.name
        )
        for chart in one.charts:
            for series in chart.series:
                for mark in series.marks:
                    # What an index takes grows whatever it finds; how much that is stands with its latency.
                    if "grows" not in mark.tip or "ms" in mark.tip:
                        assert re.search(r"recall@10 0\.\d{3} \(0\.\d{3}–[01]\.\d{3}\)", mark.tip), mark.tip


def test_charts_and_tables_hold_the_figures() -> None:
    report = grown(ROWS)
    found = {one.name: one for one in figures(report)}
    growth = found["growth"]
    assert [chart.title for chart in growth.charts] == [
        "p50, recall ≥ 0.9", "p50, recall ≥ 0.98", "Size of the index", "Time to build it",
    ]  # fmt: skip
    assert {(s.name, mark.x, mark.y) for s in growth.charts[1].series for mark in s.marks} == {
        (one.method, run.rows, one.figures.p50_ms)
        for run in report.runs
        for one in run.chosen
        if one.target == 0.98 and one.reached and one.method != "exact"
    }
    exponents = {row[0]: row for row in growth.table.rows if row[1] == "exponent"}
    assert exponents["half"] == (
        *("half", "exponent", "1.00 ±0.00", "1.00 ±0.00"),
        *(None, None, None, "0.50 ±0.00", None, None, None, "0.50 ±0.00"),
    )
    assert exponents["binary-1536"][-1] == "0.50"
    tried = {(row[0], row[3]) for row in found["every-setting"].table.rows}
    assert tried == {(one.name, point.recall) for one in report.methods for point in one.points}
    single = found["searches"].charts[0]
    assert [tick.text for tick in single.y.ticks] == list(METHODS[1:])
    assert {(series.name, METHODS[1:][int(mark.y)], mark.x) for series in single.series for mark in series.marks} == {
        (f"target {one.target:g}", one.method, one.times)
        for one in report.chosen
        if one.reached and one.method != "exact"
    }
    for one in found.values():
        for chart in one.charts:
            for mark in (mark for series in chart.series for mark in series.marks):
                assert 0 <= chart.x.at(mark.x) <= 1
                assert 0 <= chart.y.at(mark.y) <= 1


def test_however_many_methods_each_can_be_told_apart() -> None:
    recipes = [f"subvector-{n}" for n in range(4)]
    many = ("exact", "half", *recipes, *(f"rotate-{n}" for n in range(8)))
    report = grown(ROWS, many)
    found = figures(report)
    latency = [one for one in found if one.name.startswith("recall-by-latency")]
    assert [one.title for one in latency] == [
        "Recall and latency: prefixes of mrl-pg, 1",
        "Recall and latency: prefixes of mrl-pg, 2",
        "Recall and latency: recipes",
    ]
    assert {series.name for one in latency for series in one.legend} == {*many[1:], "cheapest for a target"}
    assert all("half" in {series.name for series in one.legend} for one in latency)
    for one in found:
        seen = [(LOOKS[series.look].path, LOOKS[series.look].dash, series.dots) for series in one.legend]
        assert len(set(seen)) == len(one.legend), one.name
    assert len({one.name for one in found}) == len(found)


def test_in_words() -> None:
    said = " ".join(sentences(grown(ROWS)))
    assert (
        "For recall@10 of 0.98, exact is the fastest: recall 0.985 (0.975–0.995) at a median of 6.32 ms. "
        "About as fast: half, recall 0.986 (0.976–0.996) at a median of 6.64 ms."
    ) in said
    assert "The smallest index with which 0.98 is reached is that of half, 954 MB, built in 1.7 min" in said
    assert "No setting tried reaches 0.98 with these, whose best is: binary-1536, recall 0.955" in said
    assert "With 40MB of buffers and no page cache the fastest of the settings for 0.9 is half" in said
    assert "From 10,000 to 1,000,000 rows the median latency for 0.98 grew so: that of exact as rows ^ 0.50" in said
    # 13 kB a row are more than 256 MB.
    assert "With 100,000 rows the table takes 763 MB and all indexes 477 MB" in " ".join(caveats(grown(ROWS)))
    assert "the table takes" not in " ".join(caveats(benchmark(10_000)))


def test_settings_say_what_it_takes_to_repeat_it() -> None:
    text = Page(bench_html(grown(ROWS))).text
    for shown in (
        "mrl-pg bench --rows=10000 --rows=100000 --rows=1000000 --data=FILE.npz '--label=made up' --method=exact",
        "--recall=0.9 --recall=0.98 --clients=2 --short-memory --buffers=40MB",
        *("18.4", "0.8.5", "256MB", "fsync", "shared_buffers, little memory", "40MB", "24 GB of memory"),
        *("76.3 MB (10,000 rows), 763 MB (100,000 rows), 7.5 GB (1,000,000 rows)", "percentile bootstrap"),
    ):
        assert shown in text


def test_csv_has_every_figure() -> None:
    report = grown(ROWS)
    (save,) = [link["href"] for link in Page(bench_html(report)).all("a") if "download" in link]
    assert save
    lines = list(csv.DictReader(io.StringIO(base64.b64decode(save.partition(",")[2]).decode())))
    assert len(lines) == sum(
        sum(len(one.points) for one in run.methods) + len(run.chosen) + len(run.short_memory or [])
        for run in report.runs
    )
    assert {(line["rows"], line["measured"]) for line in lines} == {
        (str(rows), what) for rows in ROWS for what in ("tried", "chosen", "short memory")
    }


def test_what_users_wrote_is_shown_as_it_is() -> None:
    page = Page(bench_html(benchmark(label=NASTY)))
    assert page.open == []
    assert len(page.all("script")) == 1
    assert not page.all("b")
    assert NASTY in page.text
