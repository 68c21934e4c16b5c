"""The directives where mrl-pg was installed with CREATE EXTENSION."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from mrl_pg.install import SCHEMA_VERSION
from tests.db.test_sql_install import NEXT, extension_dir, extension_dsn, extension_server  # noqa: F401 (fixtures)
from tests.migrations.project import connect, everything
from tests.migrations.test_operations import directive, operate, version


def test_lifecycle(extension_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    with connect(extension_dsn) as conn:
        conn.execute("CREATE EXTENSION mrl_pg CASCADE")
        conn.execute("CREATE TABLE documents (id int PRIMARY KEY, embedding vector(4))")
    operate(extension_dsn, directive("mrl_install"), directive("mrl_add_prefix", "documents", dims=2))
    assert version(extension_dsn) == SCHEMA_VERSION

    monkeypatch.setattr("mrl_pg.alembic.implementation.SCHEMA_VERSION", NEXT)
    operate(extension_dsn, directive("mrl_upgrade"))
    assert version(extension_dsn) == NEXT

    operate(extension_dsn, directive("mrl_uninstall", if_unused=True))
    with pytest.raises(sa.exc.InternalError, match="cannot drop extension mrl_pg because other objects depend on it"):
        operate(extension_dsn, directive("mrl_uninstall"))
    assert version(extension_dsn) == NEXT
    operate(
        extension_dsn, directive("mrl_drop_prefix", "documents", dims=2), directive("mrl_uninstall", if_unused=True)
    )
    assert [row[1] for row in everything(extension_dsn)] == ["documents", "documents_pkey"]
    with connect(extension_dsn) as conn:
        conn.execute("CREATE EXTENSION mrl_pg")
    operate(extension_dsn, directive("mrl_uninstall"))
    assert [row[1] for row in everything(extension_dsn)] == ["documents", "documents_pkey"]
