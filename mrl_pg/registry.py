"""What a database knows of a table: its key, its columns and its prefixes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

from mrl_pg.errors import SearchError
from mrl_pg.install import check_version
from mrl_pg.operating import OperatingPoint, choose_point, read_point
from mrl_pg.search import SearchPlan, Stage, plan_at
from mrl_pg.spec import Prefix

# How long a connection trusts what it knows of a table. What makes a search fail is looked at again at once.
TARGET_SECONDS = 60.0

# A table as it is named in the catalog, without quotes: "documents", "app.documents" or ("app", "docs.2024").
TableName = str | tuple[str | None, str]


@dataclass(frozen=True, slots=True)
class Target:
    """A table with its prefixes, oldest first; ``schema`` is None where the search_path finds it.

    ``columns`` maps names to SQL types and leaves the vectors out.
    """

    schema: str | None
    name: str
    key: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    prefixes: tuple[Prefix, ...]
    points: tuple[OperatingPoint, ...] = ()

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}" if self.schema else self.name

    def column_type(self, column: str) -> str:
        """Returns the SQL type of a column; SearchError names the columns there are."""
        types = dict(self.columns)
        if column not in types:
            raise SearchError(
                f"column {column!r} of {self} does not exist or is a vector. Use one of: {', '.join(types)}."
            )
        return types[column]


def split_name(table: TableName) -> tuple[str | None, str]:
    """Returns (schema, name): a string is split at its first dot, a tuple is taken as it is."""
    if isinstance(table, tuple):
        return table
    schema, dot, name = table.partition(".")
    return (schema, name) if dot else (None, table)


def read_target(table: TableName, rows: Sequence[Sequence[Any]]) -> Target:
    """Returns the target from the rows of ``statements.DESCRIBE``.

    :raises SearchError: where there is no such table.
    :raises SchemaVersionError: where the schema mrl does not suit this package.
    """
    schema, name = split_name(table)
    version, exists, key, columns, prefixes, points = rows[0]
    check_version(version)
    shown = f"{schema}.{name}" if schema else name
    if not exists:
        raise SearchError(
            f"table {shown} does not exist. Check the name and the search_path, or run: "
            f"mrl-pg create-table {quote(shown)} --full-dims 1536 --dims 256"
        )
    return Target(
        schema=schema,
        name=name,
        key=tuple(key),
        columns=tuple((column["name"], column["type"]) for column in json.loads(columns)),
        prefixes=tuple(map(read_prefix, json.loads(prefixes))),
        points=tuple(map(read_point, json.loads(points))),
    )


def read_prefix(row: Mapping[str, Any]) -> Prefix:
    """Returns a prefix from a row of the view mrl.prefixes."""
    return Prefix(
        embedding=row["embedding"],
        prefix=row["prefix"],
        kind=row["kind"],
        dims=row["dims"],
        distance=row["distance"],
        model=row["model"] or None,
        full_dims=row["full_dims"],
        embedding_type=row["embedding_type"],
        index=row["index"],
        maintained=row["maintained"],
        basis=row["basis"],
        layer_norm=row["layer_norm"],
    )


def named_prefix(target: Target, prefix: str | None) -> Prefix:
    """Returns the prefix that is named, or the only one there is: work on a prefix never guesses which.

    :raises SearchError: where there is none of that name, or several and none is named.
    """
    if prefix is None and len(target.prefixes) > 1:
        names = ", ".join(p.prefix for p in target.prefixes)
        raise SearchError(f"{target} has several prefixes: {names}. Name one with prefix= (--prefix).")
    return choose_prefix(target, prefix, exact=True)


def settle(target: Target, prefix: str | None, plan: SearchPlan) -> tuple[tuple[Prefix, ...], SearchPlan]:
    """Returns the prefixes that serve a search, one a stage, and the plan with its numbers.

    A search by recall takes both from the cheapest operating point that reaches it: of the prefix that is named, or of
    any with an index; those of other embeddings or distances would answer another question.

    :raises SearchError: as :func:`choose_prefixes` and :func:`mrl_pg.operating.choose_point`.
    """
    if plan.recall is not None:
        first = choose_prefix(target, prefix)
        usable = [p for p in target.prefixes if p.index and prefix in (None, p.prefix)]
        names = [p.prefix for p in usable if (p.embedding, p.distance) == (first.embedding, first.distance)]
        point = choose_point(str(target), target.points, names, k=plan.k, recall=plan.recall)
        prefix, plan = point.prefix, plan_at(plan, point.candidates, point.ef_search)
    return choose_prefixes(target, prefix, plan), plan


def choose_prefixes(target: Target, prefix: str | None, plan: SearchPlan) -> tuple[Prefix, ...]:
    """Returns the prefixes that serve a search, one a stage.

    :raises SearchError: as :func:`choose_prefix`; for stages beside a named prefix or over several embeddings; where
        the table knows another model than the one that made the query.
    """
    if plan.stages and prefix is not None:
        raise SearchError(f"prefix = {prefix!r} and stages were given. Each stage names its own: leave prefix out.")
    first = choose_prefix(target, plan.stages[0].prefix if plan.stages else prefix, exact=plan.exact)
    # Later stages order rows that are there already, and need no index.
    chosen = (first, *(choose_prefix(target, stage.prefix, exact=True) for stage in plan.stages[1:]))
    for other in chosen:
        if other.embedding != first.embedding:
            raise SearchError(
                f"{first.prefix} of {target} is a prefix of {first.embedding}, {other.prefix} of {other.embedding}. "
                "Take all stages from one embedding."
            )
    model = first.model or known_model(target, first.embedding)
    if model and plan.model and not same_model(model, plan.model):
        raise SearchError(
            f"{first.embedding} of {target} holds embeddings of {model}, and a query of {plan.model} does not "
            f"compare with them. Embed the query with {model}."
        )
    return chosen


def searched_embedding(target: Target, prefix: str | None, stages: Sequence[Stage]) -> str:
    """Returns the embedding column that a search by a prefix, or by stages, compares its query with.

    :raises SearchError: as :func:`choose_prefix`.
    """
    return choose_prefix(target, stages[0].prefix if stages else prefix, exact=True).embedding


def uses_basis(chosen: Sequence[Prefix], plan: SearchPlan) -> bool:
    """Returns whether a search projects its query: by a rotated prefix, and not by exact search."""
    return not plan.exact and any(prefix.basis for prefix in chosen)


def known_model(target: Target, embedding: str) -> str | None:
    """Returns the model that made the embeddings of a column, where one of its prefixes knows it."""
    return next((p.model for p in target.prefixes if p.embedding == embedding and p.model), None)


def same_model(one: str, other: str) -> bool:
    """Returns whether two names mean one model: models of a hub are known with their organisation and without."""
    return one.rpartition("/")[2] == other.rpartition("/")[2]


def choose_prefix(target: Target, prefix: str | None, *, exact: bool = False) -> Prefix:
    """Returns the prefix that serves a search: the one named, else the oldest with a valid index.

    :raises SearchError: where there is none, or it has no valid index (an exact search needs none).
    """
    if not target.prefixes:
        # Neither the length nor the name of its embeddings is known here.
        raise SearchError(
            f"{target} has no prefix. Run: mrl-pg add-prefix {quote(str(target))} --dims DIMS "
            "(256 and 512 are the usual ones)"
        )
    if prefix is not None:
        named = [p for p in target.prefixes if p.prefix == prefix]
        if not named:
            there = ", ".join(p.prefix for p in target.prefixes)
            raise SearchError(f"{target} has no prefix {prefix!r}. It has: {there}.")
        chosen = named[0]
    else:
        chosen = next((p for p in target.prefixes if p.index), target.prefixes[0])
    if not exact and chosen.index is None:
        raise SearchError(
            f"prefix {chosen.prefix} of {target} has no valid index. "
            f"Run: mrl-pg index {quote(str(target))} --prefix {quote(chosen.prefix)}"
        )
    return chosen
