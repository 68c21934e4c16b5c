"""Every block of the README runs, in its order, on one new database: shell, Python, and SQL through psql."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext

from mrl_pg import embedded
from tests.db.doors import engine

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^(?:<!-- (?P<note>.*?) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)

# What CI runs in its own way, or needs something that is not there. Everything else must run.
NOT_RUN = {
    "demo command",
    "test command",
    "not run: installs",
    "not run: needs a Docker engine",
    "not run: needs an API key",
    "not run: takes twenty minutes",
}


def blocks(path: Path) -> list[tuple[int, str | None, str, str]]:
    """Returns (line, note, language, text) of each fenced block."""
    text = path.read_text(encoding="utf-8")
    return [
        (text[: match.start("text")].count("\n") + 1, match["note"], match["language"], match["text"])
        for match in BLOCK.finditer(text)
    ]


def apply_revision(upgrade: Any, dsn: str) -> None:
    """Runs a revision as Alembic does."""
    with engine(dsn).connect() as connection:
        context = MigrationContext.configure(connection)
        with context.begin_transaction(), Operations.context(context):
            upgrade()


def test_every_block_runs(
    bare_dsn: str, pg: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MRL_PG_DSN", bare_dsn)
    environment = os.environ | {
        "PATH": os.pathsep.join([str(embedded.bin_dir(pg)), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
    }
    names: dict[str, object] = {"__name__": "readme"}
    ran = []
    for line, note, language, text in blocks(ROOT / "README.md"):
        if note in NOT_RUN or language in ("text", "toml", "mako"):
            continue
        assert note is None, f"README line {line}: unknown note {note!r}"
        if language == "python":
            # In this process, so that later blocks see the names of earlier ones.
            exec(compile("\n" * (line - 1) + text, "README.md", "exec", dont_inherit=True), names)
            if "upgrade" in names:
                apply_revision(names.pop("upgrade"), bare_dsn)
            ran.append(language)
            continue
        if language == "sql":
            command, stdin = ["psql", "-X", "-v", "ON_ERROR_STOP=1", "-d", bare_dsn], text
        else:
            assert language == "sh", f"README line {line}: nothing runs {language}"
            command, stdin = ["bash", "-euo", "pipefail", "-c", text], None
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == 0, f"README line {line}:\n{text}\n{done.stdout}\n{done.stderr}"
        ran.append(language)
    names["engine"].dispose()  # type: ignore[attr-defined]
    assert {"sh", "python", "sql"} <= set(ran)


def test_links_and_files_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://|#)([^)]+)\)", text):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("command", ["demo command", "test command"])
def test_the_two_commands_are_one_line_each(command: str) -> None:
    (text,) = [text for _, note, _, text in blocks(ROOT / "README.md") if note == command]
    assert text.count("\n") == 1
