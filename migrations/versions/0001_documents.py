"""A table for documents and their embeddings, ready for search.

    alembic upgrade head
    alembic -x table=articles -x full_dims=3072 -x dims=512 upgrade head

The arguments count once; ``mrl-pg create-table`` makes further tables.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from alembic import context, op
from alembic.operations import ops

from mrl_pg import migrate
from mrl_pg.sqlalchemy.model import INFO_KEY

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# By this the downgrade knows the table, whatever it is called.
COMMENT = "documents and their embeddings (mrl-pg 0001)"


def upgrade() -> None:
    table = migrate.requested(context.get_x_argument(as_dictionary=True))
    table.comment = COMMENT
    (spec,) = table.info[INFO_KEY]
    op.mrl_install()
    op.invoke(ops.CreateTableOp.from_table(table))
    op.mrl_add_prefix(table.name, spec.column, dims=spec.dims, schema=table.schema)
    op.mrl_create_prefix_index(table.name, spec.column, dims=spec.dims, schema=table.schema)


def downgrade() -> None:
    op.execute(
        f"""
        DO $$
        DECLARE
            made regclass := (SELECT objoid FROM pg_catalog.pg_description
                              WHERE classoid = 'pg_class'::regclass AND objsubid = 0 AND description = '{COMMENT}');
        BEGIN
            IF made IS NOT NULL THEN
                EXECUTE 'DROP TABLE ' || made::text;
            END IF;
        END
        $$
        """  # noqa: S608
    )
    op.mrl_uninstall(if_unused=True)
