"""A report holds the figures of its evaluation, says what they mean, and cannot be broken by what it shows."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mrl_pg.errors import MrlError
from mrl_pg.report import report_html, save_figures, to_csv
from mrl_pg.report.chart import Axis, log_axis, names_axis, nines_axis, share_axis, value_axis
from mrl_pg.report.choice import alike, best, fastest, frontier, good_enough, usual_candidates
from mrl_pg.report.figures import figures
from mrl_pg.report.looks import LOOKS
from mrl_pg.report.table import cell_text
from mrl_pg.report.tasks import starting_points
from mrl_pg.report.units import BYTE_UNITS, TIME_UNITS, duration, size
from mrl_pg.report.words import comparison, evidence, latency, verdict
from tests.unit.reports import NASTY, evaluation, search, searches, summary


class Page(HTMLParser):
    """What a page consists of."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.open: list[str] = []
        self._cell = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
        elif self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_is_whole_and_has_every_section() -> None:
    page = Page(report_html(evaluation(judged=True, measured=searches())))
    assert page.open == []
    sections = [section["id"] for section in page.all("section")]
    assert sections == [
        "words",
        "recall-by-dims",
        "recall-by-candidates",
        "recall-by-cost",
        "recall-by-latency",
        "ndcg-by-dims",
        "good-enough",
        "tasks",
        "settings",
    ]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert [link["href"] for link in page.all("a")][: len(sections)] == [f"#{name}" for name in sections]
    # A table for each figure, folded, and that of what is good enough.
    assert len(page.all("details")) == 5
    assert len(page.tables) == 6


def test_what_was_not_measured_is_left_out() -> None:
    page = Page(report_html(evaluation()))
    sections = {section["id"] for section in page.all("section")}
    assert not {"recall-by-latency", "ndcg-by-dims"} & sections
    assert "Through the index" not in page.text


def test_nothing_comes_from_elsewhere() -> None:
    html = report_html(evaluation(judged=True, measured=searches()))
    assert not re.search(r"https?:|//[a-z]|@import|url\(|\bfetch\b|XMLHttpRequest", html)
    page = Page(html)
    links = [attributes.get(name) for _, attributes in page.tags for name in ("src", "href") if name in attributes]
    assert links
    assert all(link and link.startswith(("#", "data:")) for link in links)
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv")]
    assert policy
    assert policy.startswith("default-src 'none'")
    assert len(html) < 300_000


def test_what_users_wrote_is_shown_as_it_is() -> None:
    measured = [replace(search, prefix=NASTY) for search in searches()]
    shown = replace(evaluation(measured=measured), notes=(NASTY,))
    html = report_html(shown, table=NASTY, settings={NASTY: NASTY})
    page = Page(html)
    assert page.open == []
    assert len(page.all("script")) == 1
    assert not page.all("b")
    # As title and heading, as a note, as name and value of a setting, in the legend.
    assert sum(NASTY in text for text in page.texts) >= 6
    assert any(NASTY in row for table in page.tables for row in table)
    assert "alert(" not in re.sub(r"&lt;script&gt;alert\(", "", html)


def test_tables_hold_the_figures() -> None:
    measured = searches()
    shown = evaluation(judged=True, measured=measured)
    alone, reranked, costs, index, judged, _ = Page(report_html(shown)).tables
    for point, row in zip(shown.points, alone[1:], strict=True):
        low, high = point.recall.low, point.recall.high
        assert row[:6] == [
            point.kind,
            str(point.dims),
            *(f"{point.recall.mean:.3f}", f"{low:.3f}–{high:.3f}", f"{point.recall.p5:.3f}"),
            f"{point.recall.worst:.3f}",
        ]
        assert (row[6], row[8]) == (f"{point.overlap.mean:.3f}", f"{point.spearman.mean:.3f}")
        assert row[10] == ("–" if point.kept is None else f"{point.kept:.3f}")
    found = [(p, r) for p in shown.points for r in p.reranked]
    for (point, one), row in zip(found, reranked[1:], strict=True):
        assert row[:4] == [point.kind, str(point.dims), str(one.candidates), f"{one.recall.mean:.3f}"]
    built = [point for point in shown.points if point.kind != "random"]
    for point, row in zip(built, costs[1:-1], strict=True):
        assert row[2:4] == [str(point.footprint.column_bytes), size(point.footprint.index_bytes)]
        assert row[6] == f"{point.reranked[-1].recall.mean:.3f}"
    assert shown.footprint
    assert costs[-1][:4] == ["whole embedding", "512", "1032", size(shown.footprint.index_bytes)]
    assert {(row[0], row[4], row[9]) for row in index[1:]} == {
        (one.prefix, f"{one.recall.mean:.3f}", f"{one.p50_ms:.2f}") for one in measured
    }
    for point, row in zip(shown.points, judged[1:-1], strict=True):
        assert point.relevance
        assert point.reranked[-1].relevance
        assert row[2] == f"{point.relevance.ndcg_10.mean:.3f}"
        assert row[6] == f"{point.reranked[-1].relevance.ndcg_10.mean:.3f}"


def test_charts_hold_the_figures() -> None:
    shown = evaluation(judged=True, measured=searches())
    by_name = {one.name: one for one in figures(shown, target=0.95)}
    (chart,) = by_name["recall-by-dims"].charts
    drawn = {(series.look, mark.x, mark.y) for series in chart.series for mark in series.marks}
    assert drawn == {(point.kind, point.dims, point.recall.mean) for point in shown.points}
    charts = by_name["recall-by-candidates"].charts
    assert [chart.title for chart in charts] == ["64 dims", "256 dims", "512 dims"]
    drawn = {(series.look, mark.x, mark.y) for series in charts[1].series for mark in series.marks}
    assert drawn == {(p.kind, r.candidates, r.recall.mean) for p in shown.points if p.dims == 256 for r in p.reranked}
    for one in by_name.values():
        for chart in one.charts:
            for series in chart.series:
                assert series.look in LOOKS
                for mark in series.marks:
                    assert 0 <= chart.x.at(mark.x) <= 1
                    assert 0 <= chart.y.at(mark.y) <= 1
        # In black and white, too, one is not taken for another.
        seen = [(LOOKS[series.look].path, LOOKS[series.look].dash, series.dots) for series in one.legend]
        assert len(set(seen)) == len(one.legend)


def test_filters_are_reported_apart_and_the_fastest_is_marked() -> None:
    (figure,) = [
        one for one in figures(evaluation(measured=searches()), target=0.95) if one.name == "recall-by-latency"
    ]
    plain, filtered = figure.charts
    assert plain.title == "No filter"
    assert filtered.title.startswith("Filter {")
    assert filtered.title.endswith(", keeps 10 %")
    marked = {series.name: series.marks for series in plain.series}
    assert [mark.x for mark in marked["recommended"]] == [2.2]
    assert [mark.x for mark in marked["Pareto set"]] == [1.0, 2.2]
    assert "recommended" not in {series.name for series in filtered.series}
    assert [row[-1] for row in figure.table.rows] == ["", "Pareto set", "", "recommended", "Pareto set"]


def test_points_are_compared_with_their_like() -> None:
    many = [replace(search, clients=8, p50_ms=search.p50_ms / 4) for search in searches()]
    groups = alike([*many, *searches()])
    assert [(group[0].filter is None, group[0].clients) for group in groups] == [
        (True, 1),
        (True, 8),
        (False, 1),
        (False, 8),
    ]
    chosen = fastest([*many, *searches()], 0.95)
    assert chosen
    assert (chosen.p50_ms, chosen.clients) == (2.2, 1)
    assert fastest(searches(), 0.999) is None
    assert fastest([], 0.5) is None
    assert [point.recall.mean for point in frontier(searches())] == [0.85, 0.99]


def test_good_enough_is_what_reaches_the_target_with_its_interval() -> None:
    shown = evaluation()
    for target in (0.5, 0.8, 0.9, 0.95):
        choice = good_enough(shown, target)
        assert choice
        assert choice.reranked.recall.low >= target
        cheaper = [
            reranked
            for point in shown.points
            if point.kind != "random"
            for reranked in point.reranked
            if (point.footprint.index_bytes, reranked.candidates) < choice.cost
        ]
        assert all(reranked.recall.low < target for reranked in cheaper)
    assert good_enough(shown, 0.999) is None
    most = best(shown)
    assert most
    assert (most.point.kind, most.point.dims, most.reranked.candidates) == ("rotate", 256, 100)
    assert usual_candidates(shown) == 100
    assert usual_candidates(evaluation(candidates=(200, 400))) == 200


def test_more_candidates_than_usual_are_the_last_resort() -> None:
    shown = evaluation(candidates=(50, 100, 200))
    few, many = good_enough(shown, 0.95), good_enough(shown, 0.98)
    assert few
    assert many
    assert (few.point.kind, few.point.dims, few.reranked.candidates) == ("rotate", 256, 100)
    assert (many.point.kind, many.point.dims, many.reranked.candidates) == ("rotate", 256, 200)


def test_the_verdict_names_the_choice_and_its_interval() -> None:
    shown = evaluation()
    assert verdict(shown, 0.95) == "Good enough for recall@10 of 0.95: rotate, 64 dims, 100 candidates."
    assert "0.975 (95 % interval 0.965–0.985, 200 queries)" in evidence(shown, 0.95)
    assert verdict(shown, 0.995).startswith("Nothing measured reaches recall@10 of 0.995 for sure. The best is rotate,")
    # 0.9927 is the mean of the best, 0.983 the lower end.
    assert "more queries may tell" in evidence(shown, 0.99)
    assert "Measure more candidates or more dims." in evidence(shown, 0.995)


def test_the_kinds_are_compared_in_words() -> None:
    said = " ".join(comparison(evaluation()))
    assert "With 256 dims the prefix alone finds this share of the exact top 10: rotate 0.883 (0.873–0.893)" in said
    assert "as many at random, the control: +0.060; the model puts more into its first dims" in said
    assert "finds with 64 dims at least what truncation finds with 256" in said
    assert "The signs of 512 dims (binary) take 69 bytes a row" in said


@pytest.mark.parametrize(
    ("truncate", "told"),
    [
        (0.549, "their intervals overlap"),
        (0.585, "counts for little here"),
        (0.4, "a worse choice than chance"),
        (0.7, "as a Matryoshka model should"),
    ],
)
def test_the_control_says_what_the_order_is_worth(truncate: float, told: str) -> None:
    said = comparison(evaluation({"truncate": {256: truncate}, "random": {256: 0.544}}))
    assert told in said[1]


@pytest.mark.parametrize(
    ("rotate", "told"),
    [
        (0.605, "not clearly better or worse"),
        (0.4, "not worth learning"),
        (0.7, "finds +0.100 at 256 dims"),
    ],
)
def test_a_rotation_is_said_to_be_worth_what_it_is(rotate: float, told: str) -> None:
    said = comparison(evaluation({"truncate": {256: 0.6}, "rotate": {256: rotate}}))
    assert told in said[1]


def test_a_single_kind_and_the_control_alone_can_be_reported() -> None:
    for recalls in ({"binary": {64: 0.3}}, {"random": {64: 0.3}}, {"truncate": {64: 0.0}}, {"truncate": {64: 1.0}}):
        shown = evaluation(recalls, candidates=(10,), judged=True)
        page = Page(report_html(replace(shown, footprint=None)))
        assert page.open == []
        assert all(one.charts for one in figures(shown, target=0.95))
    assert "Only the control was measured" in verdict(evaluation({"random": {64: 0.3}}), 0.9)
    assert comparison(evaluation({"random": {64: 0.3}})) == []


def test_latency_in_words_names_setting_and_interval() -> None:
    said = latency(searches(), 0.95)
    assert "embedding_rot256_v1 with 50 candidates and ef_search 50" in said
    assert "0.985 (0.975–0.995) at a median of 2.20 ms (p95 4.40 ms)" in said
    assert "nothing measured reaches 0.999 for sure; embedding_rot256_v1" in latency(searches(), 0.999)


def test_every_task_has_a_start_that_was_measured() -> None:
    starts = {start.task: start for start in starting_points(evaluation(), 0.95)}
    assert len(starts) == 5
    assert starts["Question answering and RAG"].take == "rotate, 64 dims, 100 candidates"
    assert "recall@10 0.975 (0.965–0.985)" in starts["Question answering and RAG"].measured
    assert starts["Clustering"].take == "nothing measured is enough: take the whole embedding"
    assert "rotate with 256 dims" in starts["Clustering"].measured
    assert starts["Classification by neighbours"].take == "rotate, 256 dims"
    assert starts["Several languages"].measured.startswith("Not measured by language")
    # nDCG of what is reranked is below that of the whole embedding, whatever its recall.
    judged = {start.task: start for start in starting_points(evaluation(judged=True), 0.95)}
    assert "99 % of the nDCG@10" in judged["Question answering and RAG"].measured


def test_settings_are_those_of_the_evaluation_and_the_callers() -> None:
    settings = {"command": "mrl-pg eval documents", "machine": "a laptop", "pgvector": "0.8.5"}
    text = Page(report_html(evaluation(), settings=settings)).text
    for shown in ("mrl-pg eval documents", "a laptop", "0.8.5", "20,000", "1,000,000", "64, 256, 512", "10, 50, 100"):
        assert shown in text
    assert text.count("machine") == 1


def test_csv_has_all_records_in_full() -> None:
    shown = evaluation(judged=True, measured=searches())
    lines = list(csv.DictReader(io.StringIO(to_csv(shown))))
    expected = shown.records()
    assert len(lines) == len(expected) == len(shown.points) * 4 + 5
    for line, record in zip(lines, expected, strict=True):
        assert line == {name: "" if value is None else str(value) for name, value in record.items()}


def test_figures_are_saved_for_a_paper(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    measured = [search for search in searches("$a$ $b") if search.filter is None]
    shown, directory = evaluation(judged=True, measured=measured), tmp_path / "new" / "figures"
    saved = save_figures(shown, directory, formats=["svg"])
    names = ["recall-by-dims", "recall-by-candidates", "recall-by-cost", "recall-by-latency", "ndcg-by-dims"]
    assert saved == [directory / f"{name}.svg" for name in names]
    for path in saved:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    first = saved[0].read_text()
    assert "random (control)" in first
    assert "$a$ $b" in saved[3].read_text()
    save_figures(shown, directory, formats=["svg"])
    assert saved[0].read_text() == first
    (png,) = [path for path in save_figures(evaluation(), tmp_path, formats=["png"]) if "dims" in path.name]
    assert png.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MrlError, match=r"pip install 'mrl-pg\[report\]'"):
        save_figures(evaluation(), tmp_path)


def test_a_notebook_shows_the_verdict_and_the_report_in_a_frame() -> None:
    shown = evaluation()
    page = Page(shown._repr_html_())
    assert page.open == []
    assert verdict(shown, 0.98) in page.text
    (frame,) = page.all("iframe")
    inner = frame["srcdoc"]
    assert inner
    assert Page(inner).all("section")


def test_evaluations_are_imported_without_the_report() -> None:
    code = "import sys, mrl_pg.evaluation; print([m for m in sys.modules if 'report' in m or 'markupsafe' in m])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def ticks(axis: Axis) -> list[str]:
    return [tick.text for tick in axis.ticks]


def test_axes_have_round_ticks() -> None:
    assert ticks(share_axis("", [0.281, 0.9])) == ["0.2", "0.4", "0.6", "0.8", "1.0"]
    assert ticks(share_axis("", [0.4])) == ["0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1.0"]
    assert ticks(share_axis("", [0.93])) == ["0.92", "0.94", "0.96", "0.98", "1.00"]
    assert ticks(share_axis("", [1.0])) == ["0.98", "0.99", "1.00"]
    assert ticks(share_axis("", [0.33, 0.36], whole=False)) == ["0.33", "0.34", "0.35", "0.36"]
    assert ticks(share_axis("", [-0.2, 0.9]))[0] == "-0.2"
    assert ticks(nines_axis("", [0.3])) == ["0", "0.5", "0.8", "0.9", "0.95", "0.98", "0.99", "1"]
    assert ticks(nines_axis("", [0.999])) == ["0.95", "0.98", "0.99", "1"]
    sizes = [300 * 1024**2, 4 * 1024**3]
    assert ticks(log_axis("", sizes, BYTE_UNITS, size)) == ["300 MB", "1 GB", "3 GB"]
    assert ticks(log_axis("", [100, 400], TIME_UNITS, duration)) == ["1.5 min", "2 min", "3 min", "5 min", "7 min"]
    assert len(ticks(log_axis("", [1.01, 1.02], (1.0,), str))) >= 2
    assert ticks(value_axis("", [256])) == ["256"]
    assert ticks(value_axis("", [1e5, 1e6], "{:,.0f}".format)) == ["100,000", "1,000,000"]
    names = names_axis(["first", "second"])
    assert ticks(names) == ["first", "second"]
    assert [names.at(n) for n in (0, 1)] == [0.75, 0.25]
    crowded = value_axis("", [32, 64, 512, 1000, 1024, 1536])
    assert [(tick.text, tick.wide) for tick in crowded.ticks] == [
        ("32", False),
        ("64", False),
        ("512", False),
        ("1024", True),
        ("1536", False),
    ]


def test_numbers_are_written_for_people() -> None:
    assert [size(n) for n in (69, 2048, 1536 * 1024, 391 * 1024**2, 1024**4)] == [
        "69 bytes",
        "2 kB",
        "1.5 MB",
        "391 MB",
        "1 TB",
    ]
    assert [duration(n) for n in (0.0049, 0.5, 1, 47.4, 90, 3600, 36_000)] == [
        "4.9 ms",
        "500 ms",
        "1 s",
        "47 s",
        "1.5 min",
        "1 h",
        "10 h",
    ]
    assert [cell_text(cell) for cell in (None, 1536, 20_000, 0.12345, "x")] == ["–", "1536", "20,000", "0.123", "x"]


def test_one_search_makes_a_chart() -> None:
    one = search("embedding_64", 10, 10, summary(1.0, 0), 0.3)
    page = Page(report_html(evaluation(measured=[one])))
    assert page.open == []
