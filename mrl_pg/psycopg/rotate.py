"""Fitting a rotation to the rows of a table."""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from mrl_pg import statements
from mrl_pg.basis import fit
from mrl_pg.errors import SpecError
from mrl_pg.psycopg.prefixes import DEFAULT_LOCK_TIMEOUT, waiting_no_longer
from mrl_pg.psycopg.run import check_installed, execute
from mrl_pg.psycopg.sample import embedding_column, read_sample, with_margin
from mrl_pg.psycopg.search import describe, forget
from mrl_pg.registry import TableName, split_name
from mrl_pg.spec import MAX_PREFIX_DIMS, Distance, check_distance
from mrl_pg.vectors import to_text

DEFAULT_SAMPLE = 20_000


def rotate(
    conn: Connection[Any],
    target: TableName,
    embedding: str = "embedding",
    *,
    dims: int,
    sample: int = DEFAULT_SAMPLE,
    seed: int = 0,
    distance: Distance = "cosine",
    model: str | None = None,
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
) -> str:
    """Returns the prefix column after fitting a basis to a sample of the rows, storing it and adding the prefix.

    The rows that are there wait for the backfill. Each call makes a new basis, with a column beside the others:
    fill and index it, then drop the old one.

    :param target: table as named in the catalog, with at least dims rows.
    :param embedding: column of the full embedding, vector or halfvec.
    :param dims: length of the prefix.
    :param sample: about how many rows to fit to, at random; all where there are fewer.
    :param seed: for the same sample of the same rows, and so the same basis.
    :param model: name of the embedding model, kept in the registry.
    :param lock_timeout: seconds to wait for the table: whoever comes later waits behind us.
    :raises MrlError: where the table could not be had in that time; nothing has changed then.
    :raises SpecError: for dims, a distance or a sample that cannot be.
    :raises NotInstalledError: where the schema mrl is missing.
    """
    check_distance(distance)
    if not 1 <= dims <= MAX_PREFIX_DIMS:
        raise SpecError(f"dims must be between 1 and {MAX_PREFIX_DIMS:,}, not {dims}. The usual ones are 128 and 256.")
    if sample < dims:
        raise SpecError(
            f"a sample of {sample:,} rows does not determine {dims} dimensions. "
            f"Take at least {dims:,}; the default is {DEFAULT_SAMPLE:,}."
        )
    check_installed(conn)
    with conn.transaction():
        known = describe(conn, target)
        column = embedding_column(conn, known, embedding)
        ((count, _),) = execute(conn, statements.count_embeddings(known, embedding))
        # Never so few that they do not determine dims.
        wanted = max(sample, with_margin(dims))
        found = read_sample(conn, known, column, wanted, seed=seed, count=count)
    # No transaction of ours is open for the seconds this takes.
    basis = fit(found.embeddings, dims, distance, seed=seed)
    rows = "{" + ",".join(f'"{to_text(row)}"' for row in basis.rows) + "}"
    values = {"rows": rows, "sample": basis.sample, "seed": seed, "kept": basis.kept}
    name = statements.quoted(*split_name(target))
    with waiting_no_longer(conn, target, lock_timeout):
        stored = execute(conn, statements.add_basis(name, embedding, distance, model), values)[0][0]
        add = statements.add_prefix(name, embedding, dims, distance, model, kind="rotate", basis=stored)
        prefix: str = execute(conn, add)[0][0]
    forget(conn, target)
    return prefix
