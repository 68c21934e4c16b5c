"""The table that the shipped migration and ``mrl-pg create-table`` make."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from mrl_pg.spec import Matryoshka
from mrl_pg.sqlalchemy.model import declare


def documents_table(name: str, spec: Matryoshka, *, schema: str | None = None) -> sa.Table:
    """Returns a Table for documents with their embeddings; ``create()`` makes it with trigger and index.

    Columns: id, title, body, metadata, created_at, and the embedding and prefix of the spec.
    """
    table = sa.Table(
        name,
        sa.MetaData(),
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("title", sa.Text),
        sa.Column("body", sa.Text),
        sa.Column("metadata", JSONB, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        schema=schema,
    )
    declare(table, spec)
    return table
