"""What the package promises to everyone who imports it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import mrl_pg
from mrl_pg.errors import MrlError, SchemaVersionError
from mrl_pg.install import SCHEMA_VERSION, resource_dir

PACKAGE = Path(mrl_pg.__file__).parent

# A module may import those to its right, and not the other way round: the core never sees a connection.
LAYERS = [
    ["cli"],
    ["bench", "demo"],
    ["migrate", "alembic"],
    ["documents"],
    ["sqlalchemy", "psycopg"],
    ["measure", "tune", "watch"],
    ["backfill", "embedding", "evaluate"],
    ["evaluation", "report"],  # in a notebook an evaluation shows itself as its report
    ["generated"],
    ["prompt"],
    ["statements", "embed", "chat", "queries", "relevance", "scan"],
    ["footprint", "points", "turns", "views"],
    ["metrics"],
    ["registry", "vectors"],
    ["policy"],
    ["install", "search", "basis", "recording"],
    ["operating", "spec"],
    ["openai_sdk"],
    ["errors"],
]


def test_public_names_are_sorted_and_exist() -> None:
    assert mrl_pg.__all__ == sorted(mrl_pg.__all__)
    assert all(hasattr(mrl_pg, name) for name in mrl_pg.__all__)


def test_errors_are_one_tree() -> None:
    errors = [getattr(mrl_pg, name) for name in mrl_pg.__all__ if name.endswith("Error")]
    assert all(issubclass(error, MrlError) for error in errors)


def test_a_newer_schema_asks_for_a_newer_package() -> None:
    assert "pip install --upgrade" in str(SchemaVersionError(required="0.9", installed="0.10"))
    assert "mrl-pg install" in str(SchemaVersionError(required="0.10", installed="0.9"))


def test_sql_and_package_agree_on_the_version() -> None:
    control = (resource_dir("sql") / "mrl_pg.control").read_text()
    assert f"default_version = '{SCHEMA_VERSION}'" in control
    assert (resource_dir("sql") / f"mrl_pg--{SCHEMA_VERSION}.sql").exists()


def test_imports_point_one_way() -> None:
    level = {module: n for n, layer in enumerate(LAYERS) for module in layer}
    for path in PACKAGE.rglob("*.py"):
        module = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if module not in level:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if isinstance(node, ast.ImportFrom) and node.module
                else [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else []
            )
            for name in names:
                parts = name.split(".")
                if parts[0] == "mrl_pg" and parts[1] in level and parts[1] != module:
                    assert level[parts[1]] >= level[module], f"{path.name} imports {name}"


def test_the_import_is_light() -> None:
    code = "import sys, mrl_pg; print(sorted({'numpy', 'sqlalchemy', 'psycopg', 'openai', 'click'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
