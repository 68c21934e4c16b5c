"""Operations on the index of a prefix; their work is in :mod:`mrl_pg.alembic.implementation`."""

# Annotations of the directives are evaluated by Alembic, which knows builtins only.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from alembic.operations import Operations

from mrl_pg.alembic.prefix_operations import PrefixOperation
from mrl_pg.spec import (
    DEFAULT_EF_CONSTRUCTION,
    DEFAULT_M,
    check_graph,
)


@dataclass
class PrefixIndexOperation(PrefixOperation):
    """What both operations on the index of a prefix have."""

    m: int = DEFAULT_M
    ef_construction: int = DEFAULT_EF_CONSTRUCTION
    concurrently: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_graph(self.m, self.ef_construction)

    def arguments(self) -> tuple[Sequence[str], dict[str, Any]]:
        positional, keywords = super().arguments()
        if (self.m, self.ef_construction) != (DEFAULT_M, DEFAULT_EF_CONSTRUCTION):
            keywords |= {"m": self.m, "ef_construction": self.ef_construction}
        return positional, {**keywords, "concurrently": self.concurrently}


@Operations.register_operation("mrl_create_prefix_index")
@dataclass
class CreatePrefixIndexOp(PrefixIndexOperation):
    """Builds the HNSW index of a prefix."""

    allow_missing: bool = False
    notes: Sequence[str] = ()
    directive: ClassVar[str] = "mrl_create_prefix_index"

    @classmethod
    def mrl_create_prefix_index(
        cls,
        operations: Operations,
        table: str,
        embedding: str = "embedding",
        *,
        dims: int | None = None,
        concurrently: bool = False,
        m: int = DEFAULT_M,
        ef_construction: int = DEFAULT_EF_CONSTRUCTION,
        allow_missing: bool = False,
        kind: str = "truncate",
        layer_norm: bool = False,
        version: int | None = None,
        schema: str | None = None,
    ) -> None:
        """Returns nothing; builds the HNSW index of a prefix, unless a valid one of this definition is there.

        What a failed build has left (an INVALID index) is dropped first.

        :param table: table as named in the catalog.
        :param dims, kind, layer_norm: as in ``mrl_add_prefix``; offline, dims must be written.
        :param concurrently: let writes go on meanwhile. It commits what the revision did before: give it one of
            its own. Offline it relies on psql's \\gexec.
        :param m: links per node of the graph, 2 to 100.
        :param ef_construction: candidates looked at per insert into the graph, 2 * m to 1000.
        :param allow_missing: build while rows lack their prefix; each of them is slower to backfill afterwards.
        :raises SpecError: for m or ef_construction out of bounds.
        :raises MrlError: while rows lack a prefix that they could have; with ``concurrently`` in a transaction that
            is not Alembic's own.
        """
        operations.invoke(
            cls(
                table,
                embedding,
                dims,
                schema=schema,
                kind=kind,
                layer_norm=layer_norm,
                version=version,
                m=m,
                ef_construction=ef_construction,
                concurrently=concurrently,
                allow_missing=allow_missing,
            )
        )

    def arguments(self) -> tuple[Sequence[str], dict[str, Any]]:
        positional, keywords = super().arguments()
        return positional, {**keywords, "allow_missing": self.allow_missing}

    def comments(self) -> Sequence[str]:
        return self.notes

    def reverse(self) -> DropPrefixIndexOp:
        return self.turned_into(DropPrefixIndexOp)


@Operations.register_operation("mrl_drop_prefix_index")
@dataclass
class DropPrefixIndexOp(PrefixIndexOperation):
    """Drops the HNSW index of a prefix."""

    directive: ClassVar[str] = "mrl_drop_prefix_index"

    @classmethod
    def mrl_drop_prefix_index(
        cls,
        operations: Operations,
        table: str,
        embedding: str = "embedding",
        *,
        dims: int | None = None,
        concurrently: bool = False,
        m: int = DEFAULT_M,
        ef_construction: int = DEFAULT_EF_CONSTRUCTION,
        kind: str = "truncate",
        layer_norm: bool = False,
        version: int | None = None,
        schema: str | None = None,
    ) -> None:
        """Returns nothing; drops the index of a prefix that has this m and ef_construction, whatever its name.

        Does nothing where there is none. Offline it relies on psql's \\gexec.

        :param table: table as named in the catalog.
        :param dims, kind, layer_norm: as in ``mrl_add_prefix``; offline, dims must be written.
        :param concurrently: without a lock that stops searches and writes; commits what the revision did before.
        :raises MrlError: with ``concurrently`` in a transaction that is not Alembic's own.
        """
        operations.invoke(
            cls(
                table,
                embedding,
                dims,
                schema=schema,
                kind=kind,
                layer_norm=layer_norm,
                version=version,
                m=m,
                ef_construction=ef_construction,
                concurrently=concurrently,
            )
        )

    def reverse(self) -> CreatePrefixIndexOp:
        return self.turned_into(CreatePrefixIndexOp)
