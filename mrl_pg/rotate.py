"""Learning a rotation from the rows of a table: the statements, and the fit between them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy.sql import ClauseElement

from mrl_pg import statements
from mrl_pg.basis import Basis, unpack
from mrl_pg.errors import MrlError, SpecError
from mrl_pg.registry import TableName, split_name
from mrl_pg.spec import MAX_PREFIX_DIMS, Distance, check_distance
from mrl_pg.vectors import to_text

DEFAULT_SAMPLE = 20_000

# A statement and its parameters go out, its rows come in.
Steps: TypeAlias = Generator[tuple[ClauseElement, dict[str, Any]], Sequence[Sequence[Any]], Any]


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation is asked for; made and checked by :func:`rotation`."""

    target: TableName
    embedding: str
    dims: int
    sample: int
    seed: int
    distance: Distance
    model: str | None


def rotation(
    target: TableName,
    embedding: str = "embedding",
    *,
    dims: int,
    sample: int = DEFAULT_SAMPLE,
    seed: int = 0,
    distance: Distance = "cosine",
    model: str | None = None,
) -> Rotation:
    """Returns what a rotation is asked for.

    :raises SpecError: for dims, a distance or a sample that cannot be.
    """
    check_distance(distance)
    if not 1 <= dims <= MAX_PREFIX_DIMS:
        raise SpecError(f"dims must be between 1 and {MAX_PREFIX_DIMS:,}, not {dims}. The usual ones are 128 and 256.")
    if sample < dims:
        raise SpecError(
            f"a sample of {sample:,} rows does not determine {dims} dimensions. "
            f"Take at least {dims:,}; the default is {DEFAULT_SAMPLE:,}."
        )
    return Rotation(target, embedding, dims, sample, seed, distance, model)


def read_sample(asked: Rotation) -> Steps:
    """Returns embeddings (n, full_dims) of a random sample of the rows.

    :raises MrlError: where there are none, or their lengths differ.
    """
    schema, name = split_name(asked.target)
    table = statements.embeddings_of(schema, name, asked.embedding)
    ((count,),) = yield statements.count_embeddings(table, asked.embedding), {}
    percent = 100 * asked.sample / count if count > asked.sample else None
    found = yield statements.sample(table, asked.embedding, percent, asked.seed), {}
    if not found:
        raise MrlError(
            f"no row of {name} has an {asked.embedding}, and a rotation is learnt from them. Insert rows first."
        )
    if len({len(packed) for packed, _ in found}) > 1:
        raise MrlError(
            f"the vectors in {asked.embedding} of {name} differ in length. Give the column a length: vector(n)."
        )
    embedding_type = found[0][1].rpartition(".")[2]  # pgvector may live in a schema off the search_path
    full_dims = (len(found[0][0]) - 4) // (2 if embedding_type == "halfvec" else 4)
    return unpack([packed for packed, _ in found], full_dims, embedding_type)


def add(asked: Rotation, basis: Basis) -> Steps:
    """Returns the prefix column after storing the basis and adding its prefix, which belong into one transaction."""
    rows = "{" + ",".join(f'"{to_text(row)}"' for row in basis.rows) + "}"
    name = statements.quoted(*split_name(asked.target))
    ((stored,),) = yield (
        statements.add_basis(name, asked.embedding, asked.distance, asked.model),
        {"rows": rows, "sample": basis.sample, "seed": asked.seed, "kept": basis.kept},
    )
    ((column,),) = yield (
        statements.add_prefix(
            name, asked.embedding, asked.dims, asked.distance, asked.model, kind="rotate", basis=stored
        ),
        {},
    )
    return column


def finished(steps: Steps, execute: Callable[[ClauseElement, dict[str, Any]], Sequence[Sequence[Any]]]) -> Any:
    """Returns what the steps return, their statements executed."""
    try:
        step = next(steps)
        while True:
            step = steps.send(execute(*step))
    except StopIteration as stop:
        return stop.value
