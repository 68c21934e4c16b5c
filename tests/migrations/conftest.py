from __future__ import annotations

from pathlib import Path

import pytest

from tests.migrations.project import Project


@pytest.fixture
def project(tmp_path: Path, bare_dsn: str) -> Project:
    """An Alembic project on a database without pgvector."""
    return Project(tmp_path / "project", bare_dsn)
