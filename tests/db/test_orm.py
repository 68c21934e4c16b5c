"""Search through models: what SQLAlchemy applies to an entity applies to the candidates."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Mapped, mapped_column, relationship

from mrl_pg import Matryoshka, SearchError
from mrl_pg.sqlalchemy import MatryoshkaMixin, search, search_many, search_statement
from tests.conftest import vectors
from tests.db.doors import engine

FULL_DIMS, DIMS, ROWS = 32, 8, 400
CORPUS = vectors(ROWS, FULL_DIMS)
QUERY = vectors(1, FULL_DIMS, seed=5)[0]


class Base(orm.DeclarativeBase):
    pass


class Document(MatryoshkaMixin, Base):
    __tablename__ = "documents"
    __matryoshka__ = (Matryoshka(full_dims=FULL_DIMS, dims=DIMS),)
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "document"}  # noqa: RUF012
    id: Mapped[int] = mapped_column("Document Id", primary_key=True, key="id")
    kind: Mapped[str]
    n: Mapped[int]
    deleted: Mapped[bool] = mapped_column(default=False)
    tags: Mapped[list[Tag]] = relationship(lazy="joined")


class Letter(Document):
    __mapper_args__ = {"polymorphic_identity": "letter"}  # noqa: RUF012


class Tag(Base):
    __tablename__ = "tags"
    id: Mapped[int] = mapped_column(primary_key=True)
    document_id: Mapped[int] = mapped_column(sa.ForeignKey("documents.id"))


@pytest.fixture
def session(dsn: str) -> Iterator[orm.Session]:
    """One letter in forty, every other document deleted, two tags each."""
    pool = engine(dsn)
    Base.metadata.create_all(pool)
    with orm.Session(pool) as session:
        for n, row in enumerate(CORPUS):
            model = Letter if n % 40 == 0 else Document
            session.add(model(n=n, deleted=bool(n % 2), embedding=row, tags=[Tag(), Tag()]))
        session.commit()
        yield session


def nearest(only: Any = slice(None)) -> list[int]:
    """Returns the n of rows in the order of their cosine distance."""
    numbers = list(range(ROWS))[only]
    return sorted(numbers, key=lambda n: -float(CORPUS[n] @ QUERY))


def test_a_condition_without_a_list_counts(session: orm.Session) -> None:
    assert [hit.row.n for hit in search(session, Document, QUERY, filter=Document.n == 7)] == [7]
    assert [hit.row.n for hit in search_many(session, Document, [QUERY], filter=Document.n == 7)[0]] == [7]
    assert [
        row[0].n for row in session.execute(search_statement(Document, QUERY, filter=Document.n == 7)).unique()
    ] == [7]
    assert all(hit.row.n > 390 for hit in search(session, Document, QUERY, filter=Document.n > 390))


@pytest.mark.parametrize("wrong", ["n = 7", {"n": 7}, ["n = 7"]])
def test_what_is_no_condition_is_refused(session: orm.Session, wrong: Any) -> None:
    with pytest.raises(SearchError, match=r"filter must be conditions on the target.*Pass \["):
        search(session, Document, QUERY, filter=wrong)


def test_single_table_inheritance(session: orm.Session) -> None:
    found = search(session, Letter, QUERY, k=5)
    assert [hit.row.n for hit in found] == nearest(slice(0, None, 40))[:5]
    assert [row[0].n for row in session.execute(search_statement(Letter, QUERY, k=5)).unique()] == [
        hit.row.n for hit in found
    ]


def test_loader_criteria(session: orm.Session) -> None:
    @sa.event.listens_for(session, "do_orm_execute")
    def hide_deleted(state: orm.ORMExecuteState) -> None:
        state.statement = state.statement.options(
            orm.with_loader_criteria(Document, lambda model: model.deleted.is_(False), include_aliases=True)
        )

    assert [hit.row.n for hit in search(session, Document, QUERY, k=20)] == nearest(slice(0, None, 2))[:20]


def test_joined_collections(session: orm.Session) -> None:
    found = search(session, Document, QUERY, k=5)
    assert [hit.row.n for hit in found] == nearest()[:5]
    assert all(len(hit.row.tags) == 2 for hit in found)


def test_scoped_session(session: orm.Session) -> None:
    scoped = orm.scoped_session(orm.sessionmaker(session.get_bind()))
    assert len(search(scoped, Document, QUERY)) == 10
    scoped.remove()


def test_what_cannot_be_searched(session: orm.Session) -> None:
    for target in (orm.aliased(Document), "documents", sa.text("x")):
        with pytest.raises(SearchError, match=r"cannot search .* Pass a mapped class or a Table\."):
            search(session, target, QUERY)  # type: ignore[arg-type]


def test_get_bind_routes_every_statement(dsn: str, bare_dsn: str, session: orm.Session) -> None:
    class Routing(orm.Session):
        def get_bind(self, mapper: Any = None, **_: Any) -> Any:
            return engine(dsn) if mapper is not None else engine(bare_dsn)

    with Routing() as routed:
        assert len(search(routed, Document, QUERY)) == 10


def test_schema_translate_map(dsn: str, session: orm.Session) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "CREATE SCHEMA tenant; ALTER TABLE documents SET SCHEMA tenant; ALTER TABLE tags SET SCHEMA tenant"
        )
    pool = engine(dsn).execution_options(schema_translate_map={None: "tenant"})
    with orm.Session(pool) as tenant:
        assert [hit.row.n for hit in search(tenant, Document, QUERY, k=3)] == nearest()[:3]


def test_threads_share_an_engine(dsn: str, session: orm.Session) -> None:
    pool = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), pool_size=4)
    results: list[int] = []

    def work() -> None:
        for _ in range(20):
            with orm.Session(pool) as own:
                results.append(len(search(own, Document, QUERY)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pool.dispose()
    assert results == [10] * 80
