"""Operations on prefixes and their indexes; their work is in :mod:`mrl_pg.alembic.implementation`."""

# Annotations of the directives are evaluated by Alembic, which knows builtins only.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

from alembic.operations import Operations

from mrl_pg import statements
from mrl_pg.alembic.operations import MrlOperation
from mrl_pg.errors import SpecError
from mrl_pg.psycopg.rotate import DEFAULT_SAMPLE
from mrl_pg.spec import (
    check_dims,
    check_distance,
    prefix_name,
)

Operation = TypeVar("Operation", bound="PrefixOperation")


@dataclass
class PrefixOperation(MrlOperation):
    """What all operations on a prefix have. Table and column are names as in the catalog, without quotes.

    Dims may be left out where a kind takes the whole embedding; online they are looked up.
    """

    table: str
    embedding: str
    dims: int | None
    distance: str = "cosine"
    model: str | None = None
    schema: str | None = None
    kind: str = "truncate"
    layer_norm: bool = False
    version: int | None = None

    def __post_init__(self) -> None:
        if (self.kind == "rotate") != (self.version is not None):
            raise SpecError(
                f"kind {self.kind} {'needs a' if self.kind == 'rotate' else 'has no'} version. "
                f"A rotation is dims=128, kind='rotate', version=1, as in {self.embedding}_rot128_v1."
            )
        if self.kind != "rotate":
            check_dims(self.dims, self.kind)
        check_distance(self.distance)

    @property
    def prefix(self) -> str:
        """The prefix column.

        :raises SpecError: where dims were left out, and not looked up since.
        """
        if self.dims is None:
            raise SpecError(
                f"offline, the length of {self.embedding} of {self.table} cannot be looked up. "
                f"Write it into the revision: op.{self.directive}(..., dims=...)"
            )
        return prefix_name(self.embedding, self.dims, self.kind, layer_norm=self.layer_norm, version=self.version)

    @property
    def target(self) -> str:
        """The table as SQL writes it."""
        return statements.quoted(self.schema, self.table)

    def turned_into(self, kind: type[Operation]) -> Operation:
        """Returns an operation of another kind on the same thing: its reverse."""
        return kind(**{f.name: getattr(self, f.name) for f in fields(kind) if hasattr(self, f.name)})

    def arguments(self) -> tuple[Sequence[str], dict[str, Any]]:
        kind = self.kind if self.kind != "truncate" else None
        return (self.table, self.embedding), {
            "dims": self.dims,
            "kind": kind,
            "layer_norm": self.layer_norm,
            "version": self.version,
            "schema": self.schema and str(self.schema),
        }


@Operations.register_operation("mrl_add_prefix")
@dataclass
class AddPrefixOp(PrefixOperation):
    """Adds a prefix: its column and the trigger that keeps it."""

    directive: ClassVar[str] = "mrl_add_prefix"

    @classmethod
    def mrl_add_prefix(
        cls,
        operations: Operations,
        table: str,
        embedding: str = "embedding",
        *,
        dims: int | None = None,
        distance: str = "cosine",
        model: str | None = None,
        kind: str = "truncate",
        layer_norm: bool = False,
        schema: str | None = None,
    ) -> None:
        """Returns nothing; adds a prefix: its column and the trigger that keeps it. Instant, no rewrite.

        Rows that exist wait for ``mrl-pg backfill``, which comes before the index. A prefix that is there already
        with the same spec is left alone.

        :param table: table as named in the catalog.
        :param embedding: column of the full embedding, vector or halfvec.
        :param dims: length of the prefix; left out, kinds binary and half take all.
        :param distance: cosine, l2 or inner_product.
        :param model: name of the embedding model, kept in the registry.
        :param kind: truncate, the first dims as halfvec, binary, their sign bits, or half, the whole embedding as
            halfvec.
        :param layer_norm: take the prefix from the layer norm of the embedding, for models trained behind one.
        :raises SpecError: for dims, a distance or a kind that cannot be.
        """
        operations.invoke(cls(table, embedding, dims, distance, model, schema, kind, layer_norm))

    def arguments(self) -> tuple[Sequence[str], dict[str, Any]]:
        positional, keywords = super().arguments()
        distance = self.distance if self.distance != "cosine" else None
        return positional, {**keywords, "distance": distance, "model": self.model}

    def reverse(self) -> DropPrefixOp:
        return self.turned_into(DropPrefixOp)


@Operations.register_operation("mrl_rotate")
@dataclass
class RotateOp(PrefixOperation):
    """Learns a rotation from the rows of a table, and adds its prefix."""

    kind: str = "rotate"
    version: int | None = 1
    sample: int = DEFAULT_SAMPLE
    seed: int = 0
    directive: ClassVar[str] = "mrl_rotate"

    @classmethod
    def mrl_rotate(
        cls,
        operations: Operations,
        table: str,
        embedding: str = "embedding",
        *,
        dims: int,
        version: int = 1,
        sample: int = DEFAULT_SAMPLE,
        seed: int = 0,
        distance: str = "cosine",
        model: str | None = None,
        schema: str | None = None,
    ) -> None:
        """Returns nothing; learns a rotation from the rows of a table, and adds its prefix.

        Rows that exist wait for ``mrl-pg backfill``. Online only: a script has no rows to learn from. A version that
        is there already is left alone. One whose prefix was dropped, as by a downgrade, is added again with the basis
        it had: nothing is learnt then, and sample and seed are not used.

        :param table: table as named in the catalog, with at least dims rows.
        :param dims: length of the prefix.
        :param version: of the basis: the next one of this embedding, 1 for its first.
        :param sample: about how many rows to learn from.
        :param seed: for the same sample of the same rows.
        :raises SpecError: for dims, a distance or a sample that cannot be.
        :raises MrlError: where the next version is another, where the version is there with other dims or for another
            distance, where there are no rows, or offline.
        """
        operations.invoke(
            cls(table, embedding, dims, distance, model, schema, version=version, sample=sample, seed=seed)
        )

    def arguments(self) -> tuple[Sequence[str], dict[str, Any]]:
        positional, keywords = super().arguments()
        return positional, {
            "dims": self.dims,
            "version": self.version,
            "sample": self.sample if self.sample != DEFAULT_SAMPLE else None,
            "seed": self.seed,
            "distance": self.distance if self.distance != "cosine" else None,
            "model": self.model,
            "schema": keywords["schema"],
        }

    def reverse(self) -> DropPrefixOp:
        return self.turned_into(DropPrefixOp)


@Operations.register_operation("mrl_drop_prefix")
@dataclass
class DropPrefixOp(PrefixOperation):
    """Drops a prefix: its trigger, column and index."""

    directive: ClassVar[str] = "mrl_drop_prefix"

    @classmethod
    def mrl_drop_prefix(
        cls,
        operations: Operations,
        table: str,
        embedding: str = "embedding",
        *,
        dims: int | None = None,
        kind: str = "truncate",
        layer_norm: bool = False,
        version: int | None = None,
        schema: str | None = None,
    ) -> None:
        """Returns nothing; drops a prefix: its trigger, column and index. Instant.

        :param table: table as named in the catalog.
        :param dims, kind, layer_norm: as in ``mrl_add_prefix``; offline, dims must be written.
        :param version: of the basis of a rotation (kind ``rotate``).
        :raises SpecError: for dims that cannot be.
        :raises MrlError: where dims are left out and the column fixes no length.
        """
        operations.invoke(cls(table, embedding, dims, schema=schema, kind=kind, layer_norm=layer_norm, version=version))

    def reverse(self) -> AddPrefixOp | RotateOp:
        return self.turned_into(RotateOp) if self.kind == "rotate" else self.turned_into(AddPrefixOp)
