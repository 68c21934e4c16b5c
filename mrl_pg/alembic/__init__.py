"""Alembic: directives for prefixes, and autogenerate that knows them.

One line in env.py registers everything::

    import mrl_pg.alembic  # noqa: F401

Revisions then have ``op.mrl_install``, ``op.mrl_upgrade``, ``op.mrl_uninstall``, ``op.mrl_add_prefix``,
``op.mrl_rotate``, ``op.mrl_drop_prefix``, ``op.mrl_create_prefix_index`` and ``op.mrl_drop_prefix_index``.
Autogenerate writes them (but for rotations, which no model declares) from models with
:class:`mrl_pg.sqlalchemy.MatryoshkaMixin`, or tables given to :func:`mrl_pg.sqlalchemy.declare`:

- a new table gets its prefixes, triggers and indexes in the revision that creates it;
- a new prefix of a table that exists gets a revision with its column and trigger, and when that is applied
  (and ``mrl-pg backfill`` has run) another, with nothing but the index, built concurrently;
- what the models no longer declare stays, with a comment that says how to drop it.

No hook is needed. Where other extensions compare schemas too, or the log should be short, call ours in yours::

    def include_object(object, name, type_, reflected, compare_to):
        return mrl_pg.alembic.include_object(object, name, type_, reflected, compare_to) and ...

    context.configure(..., include_object=include_object, render_item=mrl_pg.alembic.render_item)
"""

from mrl_pg.alembic.autogenerate import include_object, render_item
from mrl_pg.alembic.index_operations import CreatePrefixIndexOp, DropPrefixIndexOp
from mrl_pg.alembic.operations import InstallOp, UninstallOp, UpgradeOp
from mrl_pg.alembic.prefix_operations import (
    AddPrefixOp,
    DropPrefixOp,
    RotateOp,
)

__all__ = [
    "AddPrefixOp",
    "CreatePrefixIndexOp",
    "DropPrefixIndexOp",
    "DropPrefixOp",
    "InstallOp",
    "RotateOp",
    "UninstallOp",
    "UpgradeOp",
    "include_object",
    "render_item",
]
