"""One HTML file that needs nothing but itself: its frame, and the sections that every report has."""

from __future__ import annotations

import base64
import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import version
from importlib.resources import files

from markupsafe import Markup

from mrl_pg import __version__
from mrl_pg.report.chart import Chart, Figure
from mrl_pg.report.looks import LOOKS
from mrl_pg.report.markup import joined, tag
from mrl_pg.report.svg import chart_svg, legend
from mrl_pg.report.table import html_table


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page.

    :ivar name: its anchor.
    :ivar parts: what stands below its title.
    """

    name: str
    title: str
    parts: tuple[Markup, ...]


def page_html(title: str, subtitle: str, sections: Sequence[Section], *, csv: str) -> str:
    """Returns a page that loads nothing, in the colours that its reader prefers.

    :param csv: all its numbers, to be saved from it.
    """
    script, style = _resource("report.js"), _resource("report.css") + _looks()
    head = [
        tag("meta", charset="utf-8"),
        # Whatever is in here, browsers fetch nothing and run nothing but the script below.
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(script)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("link", rel="icon", href="data:,"),
        tag("title", f"{title} · mrl-pg"),
        # Ours, and escaped they would be broken.
        tag("style", Markup(style)),  # noqa: S704
    ]
    links = [tag("li", tag("a", section.title, href=f"#{section.name}")) for section in sections]
    contents = tag("nav", tag("ul", *links), aria_label="Contents")
    coded = base64.b64encode(csv.encode()).decode()
    save = tag("a", "Save all figures as CSV", href=f"data:text/csv;base64,{coded}", download="figures.csv")
    body = [
        tag("header", tag("h1", title), tag("p", subtitle, class_="soft"), contents),
        tag("main", *map(_section, sections)),
        tag("footer", tag("p", "Made by mrl-pg. This file loads nothing from elsewhere. ", save)),
        tag("script", Markup(script)),  # noqa: S704
    ]
    return f"<!doctype html>\n{tag('html', tag('head', joined(head)), tag('body', joined(body)), lang='en')}\n"


def figure_section(one: Figure) -> Section:
    """Returns a figure with its legend, its charts and its table."""
    charts = len(one.charts)
    # With three in a row one would be left over.
    panels = {1: "panels one", 2: "panels two"}.get(charts, "panels four" if charts % 3 == 1 else "panels")
    return Section(
        one.name,
        one.title,
        (
            tag("p", one.about, class_="soft"),
            legend(one),
            tag("div", *(_panel(one, chart) for chart in one.charts), class_=panels),
            tag("details", tag("summary", "Show the numbers as a table"), html_table(one.table, one.title)),
        ),
    )


def settings_section(settings: Mapping[str, object]) -> Section:
    """Returns what it takes to repeat the figures: what is given, and versions and machine where they are not in it."""
    known = {**settings, **{name: value for name, value in environment().items() if name not in settings}}
    pairs = [part for name, value in known.items() for part in (tag("dt", name), tag("dd", str(value)))]
    return Section("settings", "To repeat it", (tag("dl", *pairs),))


def environment() -> dict[str, str]:
    """Returns the versions and the machine of now, to show with figures that were measured here."""
    return {
        "mrl-pg": __version__,
        "Python": platform.python_version(),
        "NumPy": version("numpy"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "reported": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _section(section: Section) -> Markup:
    return tag("section", tag("h2", section.title), *section.parts, class_="card", id=section.name)


def _panel(one: Figure, chart: Chart) -> Markup:
    names = ", ".join(series.name for series in chart.series)
    label = (
        f"{f'{one.title}, {chart.title}' if chart.title else one.title}: {_axes(chart)} for "
        f"{names}. The table below has the numbers; left and right arrow keys go through the marks."
    )
    tip = tag("div", class_="tip", role="status", hidden=True)
    plot = tag("div", chart_svg(chart, label=label), tip, **_room(chart))
    return tag("figure", *([tag("figcaption", chart.title)] if chart.title else []), plot, class_="panel")


def _axes(chart: Chart) -> str:
    return f"{chart.x.name} by name" if chart.y.scale == "names" else f"{chart.y.name} against {chart.x.name}"


def _room(chart: Chart) -> dict[str, object]:
    """Returns attributes of a plot: names on an axis need a line each, and room beside it."""
    if chart.y.scale != "names":
        return {"class_": "plot"}
    longest = max(len(tick.text) for tick in chart.y.ticks)
    return {"class_": "plot named", "style": f"--names: {len(chart.y.ticks)}; --longest: {longest}"}


def _looks() -> str:
    """Returns the colours and dashes of all looks as CSS."""
    light = [
        f".look-{name} {{ --look: {look.light}; --dash: {' '.join(map(str, look.dash)) or 'none'}; }}"
        for name, look in LOOKS.items()
    ]
    dark = [f".look-{name} {{ --look: {look.dark}; }}" for name, look in LOOKS.items()]
    return "\n".join([*light, "@media (prefers-color-scheme: dark) {", *dark, "}\n"])


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


@cache
def _resource(name: str) -> str:
    return (files("mrl_pg.report") / name).read_text(encoding="utf-8")
