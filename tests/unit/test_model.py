"""The mixin works with every way to declare models."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Mapped, mapped_column

from mrl_pg import Matryoshka
from mrl_pg.sqlalchemy import MatryoshkaMixin
from mrl_pg.sqlalchemy.model import INFO_KEY

SPEC = Matryoshka(full_dims=1536, dims=256)


def declarative_base() -> Any:
    class Base(orm.DeclarativeBase):
        pass

    return Base


def dataclass_base() -> Any:
    class Base(orm.MappedAsDataclass, orm.DeclarativeBase):
        pass

    return Base


@pytest.mark.parametrize("make", [declarative_base, dataclass_base, orm.declarative_base])
@pytest.mark.parametrize("mixin_first", [True, False])
def test_every_declarative_base(make: Any, mixin_first: bool) -> None:
    bases = (MatryoshkaMixin, make()) if mixin_first else (make(), MatryoshkaMixin)

    class Document(*bases):  # type: ignore[misc]
        __tablename__ = "documents"
        __matryoshka__ = (SPEC,)
        id: Mapped[int] = mapped_column(primary_key=True)
        body: Mapped[str]

    table = Document.__table__
    assert {"id", "body", "embedding", "embedding_256"} == set(table.c.keys())
    assert table.info[INFO_KEY] == [SPEC]
    assert [index.name for index in table.indexes] == ["documents_embedding_256_halfvec_cosine_ops_idx"]
    assert "embedding" not in str(sa.select(Document))  # deferred


def test_an_embedding_column_of_ones_own_is_kept() -> None:
    from pgvector.sqlalchemy import VECTOR

    class Document(MatryoshkaMixin, declarative_base()):  # type: ignore[misc]
        __tablename__ = "documents"
        __matryoshka__ = (SPEC,)
        id: Mapped[int] = mapped_column(primary_key=True)
        embedding: Mapped[Any] = mapped_column(VECTOR(1536), nullable=False)

    assert not Document.__table__.c.embedding.nullable
    assert "documents.embedding" in str(sa.select(Document))


def test_inheritance() -> None:
    class Document(MatryoshkaMixin, declarative_base()):  # type: ignore[misc]
        __tablename__ = "documents"
        __matryoshka__ = (SPEC,)
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "document"}  # noqa: RUF012
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]

    class Letter(Document):
        __tablename__ = "letters"
        __mapper_args__ = {"polymorphic_identity": "letter"}  # noqa: RUF012
        id: Mapped[int] = mapped_column(sa.ForeignKey("documents.id"), primary_key=True)

    class Note(Document):
        __mapper_args__ = {"polymorphic_identity": "note"}  # noqa: RUF012

    assert len(Document.__table__.indexes) == 1
    assert Letter.__table__.info.get(INFO_KEY, []) == []


def test_abstract_base_gives_specs_to_every_table() -> None:
    class Embedded(MatryoshkaMixin, declarative_base()):  # type: ignore[misc]
        __abstract__ = True
        __matryoshka__ = (SPEC,)
        id: Mapped[int] = mapped_column(primary_key=True)

    class One(Embedded):
        __tablename__ = "one"

    class Two(Embedded):
        __tablename__ = "two"

    assert [One.__table__.info[INFO_KEY], Two.__table__.info[INFO_KEY]] == [[SPEC], [SPEC]]
    assert {index.name for index in Two.__table__.indexes} == {"two_embedding_256_halfvec_cosine_ops_idx"}
