"""Fetching the basis of a rotation, once a process."""

from __future__ import annotations

from collections.abc import Sequence

from mrl_pg import statements
from mrl_pg.basis import cached, found_basis
from mrl_pg.psycopg.run import Steps, compiled
from mrl_pg.search import SearchPlan
from mrl_pg.spec import Prefix


def bases_of(prefixes: Sequence[Prefix], plan: SearchPlan) -> Steps:
    """Returns what :func:`basis_of` returns for each prefix; for an exact search, which uses none, no list entry."""
    bases = []
    for prefix in prefixes if not plan.exact else ():
        bases.append((yield from basis_of(prefix)))
    return bases


def basis_of(prefix: Prefix) -> Steps:
    """Returns the rows of the basis of a prefix; None where it is no rotation.

    :raises SearchError: where the basis is gone.
    """
    if prefix.basis is None:
        return None
    rows = cached(prefix.basis)
    if rows is None:
        rows = found_basis(prefix.basis, prefix.prefix, (yield compiled(statements.BASIS), {"id": prefix.basis}))
    return rows
