"""A report in a real browser: drawn, legible on a phone, in light and dark, and silent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import pytest

from mrl_pg.bench.page import bench_html
from mrl_pg.report import report_html
from tests.unit.benchmarks import grown
from tests.unit.reports import NASTY, evaluation, searches

pytest.importorskip("playwright")
from playwright.sync_api import Browser, Error, Page, sync_playwright

Scheme: TypeAlias = Literal["light", "dark"]
PHONE, DESKTOP = (375, 780), (1200, 900)


@dataclass
class Opened:
    """A page, and what it said and asked for since it was opened."""

    page: Page
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium: the one of ``CHROMIUM``, of this machine, or of playwright."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as running:
        try:
            # Root, as in containers, has no sandbox.
            launched = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except Error as error:
            pytest.skip(f"no Chromium here, apt-get install chromium or playwright install: {error}")
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    settings = {"command": f"mrl-pg eval {'long ' * 30}{'x' * 200}"}
    html = report_html(evaluation(judged=True, measured=searches()), table=NASTY, settings=settings)
    path.write_text(html, encoding="utf-8")
    return path


def opened(browser: Browser, path: Path, size: tuple[int, int], scheme: Scheme = "light") -> Opened:
    """Returns the report in a window."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page = context.new_page()
    seen = Opened(page)
    page.on("console", lambda message: seen.console.append(message.text))
    page.on("pageerror", lambda error: seen.console.append(str(error)))
    page.on("dialog", lambda dialog: seen.console.append(dialog.message))
    page.on("request", lambda request: seen.requests.append(request.url))
    page.goto(path.as_uri())
    return seen


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_charts_are_drawn_and_nothing_scrolls_sideways(
    browser: Browser, report: Path, size: tuple[int, int], scheme: Scheme
) -> None:
    seen = opened(browser, report, size, scheme)
    page = seen.page
    for chart in page.locator(".plot > svg").all():
        assert chart.locator(".mark path").count() > 0
        box = chart.bounding_box()
        assert box
        assert box["width"] > 150
        assert box["height"] > 150
        assert box["x"] + box["width"] <= size[0]
    assert page.locator("path.line").count() > 10
    for folded in page.locator("details").all():
        folded.locator("summary").click()
        assert folded.locator("tbody tr").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    # Ticks do not run into each other.
    assert page.evaluate(OVERLAPS) == []
    assert seen.console == []
    assert seen.requests == [report.as_uri()]


# Pairs of texts of an axis that lie on each other.
OVERLAPS = """() => {
  const found = [];
  for (const grid of document.querySelectorAll(".plot .grid")) {
    const texts = [...grid.querySelectorAll("text:not(.ruled)")].filter((text) => text.getClientRects().length);
    const boxes = texts.map((text) => [text.textContent, text.getBoundingClientRect()]);
    boxes.forEach(([one, a], n) => boxes.slice(n + 1).forEach(([other, b]) => {
      const apart = a.right <= b.left || b.right <= a.left || a.bottom <= b.top + 2 || b.bottom <= a.top + 2;
      if (!apart) found.push([one, other]);
    }));
  }
  return found;
}"""


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_pointing_at_a_mark_shows_its_numbers(browser: Browser, report: Path, size: tuple[int, int]) -> None:
    seen = opened(browser, report, size)
    page = seen.page
    plot = page.locator("#recall-by-dims .plot")
    tip = plot.locator(".tip")
    assert not tip.is_visible()
    mark = plot.locator(".look-rotate .mark").last
    mark.scroll_into_view_if_needed()
    box = mark.locator("path").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2 + 3, box["y"] + box["height"] / 2 - 2)
    assert tip.is_visible()
    told = ["rotate 256", "recall@10 0.883 (0.873–0.893)", "5th percentile 0.706, worst query 0.530"]
    assert tip.inner_text().splitlines() == told
    shown = tip.bounding_box()
    assert shown
    assert shown["x"] >= 0
    assert shown["x"] + shown["width"] <= size[0]
    page.mouse.move(1, 1)
    assert not tip.is_visible()
    assert seen.console == []


def test_arrow_keys_go_through_the_marks(browser: Browser, report: Path) -> None:
    page = opened(browser, report, DESKTOP).page
    plot = page.locator("#recall-by-latency .plot").first
    plot.locator("> svg").focus()
    page.keyboard.press("ArrowRight")
    assert "recall@10 0.850" in plot.locator(".tip").inner_text()
    page.keyboard.press("ArrowLeft")
    assert "recall@10 0.975" in plot.locator(".tip").inner_text()
    page.keyboard.press("Escape")
    assert not plot.locator(".tip").is_visible()


def test_dark_is_dark_and_both_are_legible(browser: Browser, report: Path) -> None:
    schemes: tuple[Scheme, ...] = ("light", "dark")
    for scheme in schemes:
        page = opened(browser, report, DESKTOP, scheme).page
        assert page.evaluate(CONTRAST) == []
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(int(n) for n in background[4:-1].split(",")) < 200) == (scheme == "dark")


# Texts below 4.5 to 1 and marks below 3 to 1 against the card (WCAG 2, 1.4.3 and 1.4.11).
CONTRAST = """() => {
  const light = (colour) => {
    const part = (n) => (n / 255 <= 0.04045 ? n / 255 / 12.92 : ((n / 255 + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = colour.match(/[\\d.]+/g).map(Number);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
  const card = getComputedStyle(document.querySelector(".card")).backgroundColor;
  const found = [];
  for (const node of document.querySelectorAll(".card p, .card h2, .card td, .card dt, .card summary")) {
    if (ratio(getComputedStyle(node).color, card) < 4.5) found.push(node.outerHTML.slice(0, 80));
  }
  for (const node of document.querySelectorAll(".plot text, .mark path")) {
    const least = node.tagName === "text" ? 4.5 : 3;
    if (ratio(getComputedStyle(node).fill, card) < least) found.push(node.parentNode.outerHTML.slice(0, 80));
  }
  return found;
}"""


def test_without_scripts_the_charts_are_there(browser: Browser, report: Path) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(report.as_uri())
    assert page.locator(".plot .mark title").count() > 50


def test_a_benchmark_fits_a_phone_in_the_dark(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "bench.html"
    methods = ("exact", "half", "subvector-512@40", "rotate-256+ef200", "truncate-256")
    path.write_text(bench_html(grown((10_000, 100_000, 1_000_000), methods)), encoding="utf-8")
    seen = opened(browser, path, PHONE, "dark")
    page = seen.page
    for chart in page.locator(".plot > svg").all():
        assert chart.locator(".mark path").count() > 0
        box = chart.bounding_box()
        assert box
        assert box["width"] > 150
    for folded in page.locator("details").all():
        folded.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    assert page.evaluate(OVERLAPS) == page.evaluate(CONTRAST) == page.evaluate(OUTSIDE) == []
    page.locator("#indexes .plot > svg").first.focus()
    page.keyboard.press("ArrowRight")
    assert "recall@10" in page.locator("#indexes .tip").first.inner_text()
    assert (seen.console, seen.requests) == ([], [path.as_uri()])


# Texts that begin before the window does.
OUTSIDE = """() => [...document.querySelectorAll(".plot text")]
  .filter((text) => text.getClientRects().length && text.getBoundingClientRect().left < 0)
  .map((text) => text.textContent)"""


def test_in_a_notebook_the_frame_is_drawn(browser: Browser, tmp_path: Path) -> None:
    notebook = tmp_path / "notebook.html"
    notebook.write_text(f"<!doctype html><meta charset=utf-8>{evaluation()._repr_html_()}", encoding="utf-8")
    seen = opened(browser, notebook, DESKTOP)
    frame = seen.page.frame_locator("iframe")
    assert frame.locator("h1").inner_text() == "Prefixes of an embedding"
    frame.locator("#recall-by-dims .plot > svg").focus()
    seen.page.keyboard.press("ArrowRight")
    assert "recall@10" in frame.locator("#recall-by-dims .tip").inner_text()
    assert seen.console == []
