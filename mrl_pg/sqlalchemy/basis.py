"""Fetching the basis of a rotation, once a process."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from mrl_pg import statements
from mrl_pg.basis import cached, found_basis
from mrl_pg.search import SearchPlan
from mrl_pg.spec import Prefix
from mrl_pg.vectors import Bases, FloatArray


def bases_of(connection: sa.Connection, prefixes: Sequence[Prefix], plan: SearchPlan) -> Bases:
    """Returns what :func:`basis_of` returns for each prefix; nothing for an exact search, which uses none."""
    return [] if plan.exact else [basis_of(connection, prefix) for prefix in prefixes]


def basis_of(connection: sa.Connection, prefix: Prefix) -> FloatArray | None:
    """Returns the rows of the basis of a prefix; None where it is no rotation.

    :raises SearchError: where the basis is gone.
    """
    if prefix.basis is None:
        return None
    rows = cached(prefix.basis)
    if rows is None:
        found = connection.execute(statements.BASIS, {"id": prefix.basis}).all()
        rows = found_basis(prefix.basis, prefix.prefix, found)
    return rows
