"""The statements of embedding.

What a row's embedding was made from is told by a hash beside it: half the SHA-256 of the model and the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import ExecutableDDLElement
from sqlalchemy.sql import ColumnElement
from sqlalchemy.types import NULLTYPE

from mrl_pg.registry import Target
from mrl_pg.spec import EmbeddingType, shorten
from mrl_pg.statements.parts import number, text

# A vector column; no row where there is none of that name.
VECTOR_COLUMN = sa.text("""
SELECT t.typname::text, nullif(a.atttypmod, -1)
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = to_regclass(CAST(:target AS text)) AND a.attname = :embedding AND NOT a.attisdropped
  AND t.typname IN ('vector', 'halfvec')
""")


@dataclass(frozen=True, slots=True)
class Task:
    """What is embedded, and where to: columns of a table.

    ``full_dims`` is None where the embedding column does not fix its length, ``model`` where nobody names it.
    ``hashed`` is whether the table has the column of the hashes already.
    """

    target: Target
    text: str
    embedding: str
    full_dims: int | None
    embedding_type: EmbeddingType
    model: str | None
    hashed: bool

    @property
    def hash(self) -> str:
        """The column beside the embedding that holds the hash of its model and text: ``embedding_hash``."""
        return hash_name(self.embedding)


def hash_name(embedding: str) -> str:
    """Returns the column of the hashes beside an embedding: ``embedding_hash``."""
    return shorten(f"{embedding}_hash")


class AddHashColumn(ExecutableDDLElement):
    """ALTER TABLE that adds the column of the hashes where it is missing; instant."""

    def __init__(self, task: Task) -> None:
        self.task = task


@compiles(AddHashColumn)
def _add_hash_column(element: AddHashColumn, compiler: Any, **_: Any) -> str:
    prepare = compiler.preparer
    name = prepare.format_table(_table(element.task))
    return f"ALTER TABLE {name} ADD COLUMN IF NOT EXISTS {prepare.quote(element.task.hash)} uuid"


def waiting(task: Task, limit: int | None) -> sa.Select[Any]:
    """Returns the count of rows that wait for their embedding, and the bytes of their texts; at most ``limit`` rows."""
    table = _table(task)
    rows = sa.select(sa.func.octet_length(_text(task, table)).label("size")).where(_waits(task, table))
    if limit is not None:
        rows = rows.order_by(*_key(task, table)).limit(number(limit))
    found = rows.subquery("mrl_waiting")
    return sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(found.c.size), 0)).select_from(found)


def foreign(task: Task) -> sa.Select[Any]:
    """Returns the count of rows whose embedding has no hash."""
    table = _table(task)
    unhashed = [table.c[task.hash].is_(None)] if task.hashed else []
    return sa.select(sa.func.count()).select_from(table).where(table.c[task.embedding].is_not(None), *unhashed)


def batch(task: Task, size: int, last: Sequence[Any]) -> sa.Select[Any]:
    """Returns the next rows that wait for their embedding: (key…, text, hash).

    :param last: the key of the last row before them; empty for the first.
    """
    table = _table(task)
    key = _key(task, table)
    after = [sa.tuple_(*key) > sa.tuple_(*(sa.bindparam(None, part, type_=NULLTYPE) for part in last))] if last else []
    rows = sa.select(*key, _text(task, table).label("mrl_text"), _hash(task, table).label("mrl_hash"))
    return rows.where(_waits(task, table), *after).order_by(*key).limit(number(size))


def write(task: Task) -> sa.Update:
    """Returns the statement that writes one embedding: parameters ``mrl_key_0``, …, ``mrl_hash``, ``mrl_embedding``.

    It changes nothing where the text is no longer the one that was embedded, and waits for nobody: a row that others
    hold is left to the next run. FOR NO KEY UPDATE reads the row as it is when the lock is had (at READ COMMITTED).
    """
    table = _table(task)
    row = table.alias("mrl_row")
    made_of = sa.bindparam("mrl_hash", type_=sa.Uuid)
    free = (
        sa.select(sa.true())
        .select_from(row)
        .where(*_is(_key(task, row)), _waits(task, row), _hash(task, row) == made_of)
        .with_for_update(key_share=True, skip_locked=True)
        .scalar_subquery()
    )
    # Without a type of its own the parameter takes that of the column, so it can go in binary.
    values = {task.embedding: sa.bindparam("mrl_embedding", type_=NULLTYPE), task.hash: made_of}
    return sa.update(table).values(values).where(*_is(_key(task, table)), free)


def _table(task: Task) -> sa.TableClause:
    names = dict.fromkeys([*task.target.key, task.text, task.embedding, task.hash])
    return sa.table(task.target.name, *(sa.column(name) for name in names), schema=task.target.schema)


def _key(task: Task, table: sa.FromClause) -> list[ColumnElement[Any]]:
    return [table.c[name] for name in task.target.key]


def _is(key: Sequence[ColumnElement[Any]]) -> list[ColumnElement[bool]]:
    return [column == sa.bindparam(f"mrl_key_{n}", type_=NULLTYPE) for n, column in enumerate(key)]


def _text(task: Task, table: sa.FromClause) -> ColumnElement[str]:
    return sa.cast(table.c[task.text], sa.Text)


def _waits(task: Task, table: sa.FromClause) -> ColumnElement[bool]:
    """Whether a row has a text, but no embedding or one of another text or model; one without a hash is not ours."""
    embedding = table.c[task.embedding]
    stale = [table.c[task.hash] != _hash(task, table)] if task.hashed else []
    return sa.and_(table.c[task.text].is_not(None), sa.or_(embedding.is_(None), *stale))


def _hash(task: Task, table: sa.FromClause) -> ColumnElement[Any]:
    """The first half of the SHA-256 of the model, a newline and the text. Not MD5: servers in FIPS mode refuse it."""
    made_of = sa.literal(f"{task.model or ''}\n", sa.Text).concat(_text(task, table))
    digest = sa.func.sha256(sa.func.convert_to(made_of, text("UTF8")))
    half = sa.func.left(sa.func.encode(digest, text("hex")), number(32))
    return sa.cast(half, sa.Uuid)
