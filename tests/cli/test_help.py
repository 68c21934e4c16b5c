"""What the help says is true, and it is there at once."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import mrl_pg
from mrl_pg.backfill import DEFAULT_BATCH_SIZE
from mrl_pg.cli import main
from mrl_pg.psycopg.backfill import DEFAULT_LOCK_TIMEOUT
from mrl_pg.search import search_plan

COMMANDS = sorted(main.commands)


def help_of(*command: str) -> str:
    result = CliRunner().invoke(main, [*command, "--help"], prog_name="mrl-pg", terminal_width=1000)
    assert result.exit_code == 0
    return result.output


def test_has_every_command() -> None:
    listed = [line.split()[0] for line in help_of().split("Commands:\n")[1].splitlines() if line.strip()]
    assert listed[:12] == [
        "demo", "install", "migrate", "create-table", "add-prefix", "rotate", "backfill", "index", "search",
        "status", "drop-prefix", "uninstall",
    ]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_ends_with_an_example_that_can_be_parsed(command: str) -> None:
    example = help_of(command).splitlines()[-1].strip()
    assert example.startswith(f"mrl-pg {command}")
    program, name, *arguments = shlex.split(example.split(" < ")[0])
    arguments = ["-" if argument == "query.json" else argument for argument in arguments]
    assert (program, name) == ("mrl-pg", command)
    main.commands[command].make_context(command, arguments)


@pytest.mark.parametrize("command", COMMANDS)
def test_explains_every_option(command: str) -> None:
    options = [parameter for parameter in main.commands[command].params if isinstance(parameter, click.Option)]
    assert all(option.help and option.help.endswith((".", "?")) for option in options)
    assert "\x08" not in help_of(command)


def test_defaults_are_those_of_the_verbs() -> None:
    assert f"Most rows a transaction; {DEFAULT_BATCH_SIZE:,} if left out" in help_of("backfill")
    assert f"Seconds to wait for rows that others hold; {DEFAULT_LOCK_TIMEOUT:g} if left out." in help_of("backfill")
    plan = search_plan()
    assert f"Rows to return; {plan.k} if left out." in help_of("search")
    assert plan.candidates == max(100, 10 * plan.k)
    assert plan.ef_search == plan.candidates


def test_version() -> None:
    assert CliRunner().invoke(main, ["--version"]).output == f"mrl-pg, version {mrl_pg.__version__}\n"


@pytest.mark.parametrize(
    "statement",
    ["import mrl_pg", "from mrl_pg.cli import main; main(['search', '--help'], 'x', standalone_mode=False)"],
)
def test_imports_nothing_that_takes_time(statement: str) -> None:
    heavy = {"alembic", "numpy", "openai", "pgvector", "psycopg", "rich", "sklearn", "sqlalchemy"}
    script = f"import sys\n{statement}\nassert not {heavy!r} & set(sys.modules), {heavy!r} & set(sys.modules)"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True, stdout=subprocess.DEVNULL)
