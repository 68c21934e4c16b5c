"""Autogenerate: what Alembic's own comparison makes of prefixes, put right.

Alembic compares tables, columns and indexes as it always does; the comparator here runs after it and rewrites the
operations it proposes. So nothing has to be configured, and the user's own hooks keep working.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import sqlalchemy as sa
from alembic import util
from alembic.autogenerate import comparators
from alembic.autogenerate.api import AutogenContext
from alembic.operations import MigrateOperation, ops

from mrl_pg import statements
from mrl_pg.alembic.implementation import has_valid_index, installed_version, is_partitioned
from mrl_pg.alembic.index_operations import CreatePrefixIndexOp, DropPrefixIndexOp
from mrl_pg.alembic.operations import InstallOp, UpgradeOp, call
from mrl_pg.alembic.prefix_operations import (
    AddPrefixOp,
    DropPrefixOp,
    PrefixOperation,
)
from mrl_pg.errors import MrlError
from mrl_pg.install import SCHEMA_VERSION, version_key
from mrl_pg.registry import read_prefix
from mrl_pg.spec import DEFAULT_EF_CONSTRUCTION, DEFAULT_M, Matryoshka, Prefix
from mrl_pg.sqlalchemy.model import INFO_KEY

# A child of Alembic's, so that its lines come where those about what was detected do.
log = logging.getLogger("alembic.autogenerate.mrl_pg")

SCHEMA = "mrl"

# Schema and name of a table; the schema is None where it is the default one.
Key: TypeAlias = tuple[str | None, str]


def include_object(object: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:
    """Returns whether to compare an object: False for what is in the schema mrl.

    A hook for ``context.configure(include_object=...)``; call it in yours. Autogenerate does without; other
    extensions, which compare views or functions, may not.
    """
    schema = getattr(object, "schema", None) or getattr(getattr(object, "table", None), "schema", None)
    return bool(schema != SCHEMA)


def render_item(type_: str, obj: Any, autogen_context: AutogenContext) -> str | Literal[False]:
    """Returns a pgvector type as Python, which the revision imports; False for anything else.

    A hook for ``context.configure(render_item=...)``; call it in yours. Autogenerate does so by itself.
    """
    if type_ == "type" and type(obj).__module__.startswith("pgvector."):
        autogen_context.imports.add("import pgvector.sqlalchemy")
        return f"pgvector.sqlalchemy.{obj!r}"
    return False


def compare_prefixes(context: AutogenContext, upgrade_ops: ops.UpgradeOps, schemas: Collection[str | None]) -> None:
    """Returns nothing; rewrites the proposed operations so that prefixes are migrated as prefixes.

    :raises MrlError: where a prefix in the database has another distance than the model declares.
    """
    connection = context.connection
    if connection is None or connection.dialect.name != "postgresql":
        return
    _render_our_types(context)
    installed = installed_version(connection)
    present = _present(connection) if installed else {}
    declared = {
        _key(connection, table.schema, table.name): table for table in context.sorted_tables if table.info.get(INFO_KEY)
    }
    rewritten, kept = _rewrite(connection, upgrade_ops.ops, declared, present)
    created = {_key(connection, o.schema, o.table_name) for o in rewritten if isinstance(o, ops.CreateTableOp)}

    indexes: list[MigrateOperation] = []
    for key, table in declared.items():
        there = present.get(key, {})
        if key not in created and not _compared(context, key, table, schemas):
            continue
        for spec in table.info[INFO_KEY]:
            if spec.prefix not in there:
                log.info("Detected added prefix '%s.%s'", table.name, spec.prefix)
                rewritten.append(_add_prefix(table, spec))
                if key in created:
                    rewritten.append(_create_index(table, spec))
                continue
            _check_same(table, spec, there[spec.prefix])
            index = _create_index(table, spec, notes=_notes(spec, kept[key]))
            if not has_valid_index(connection, index):
                log.info("Detected added index of prefix '%s.%s'", table.name, spec.prefix)
                indexes.append(replace(index, concurrently=not is_partitioned(connection, index)))

    if installed is None and any(isinstance(operation, AddPrefixOp) for operation in rewritten):
        rewritten.insert(0, InstallOp())
    if installed is not None and declared and version_key(installed) < version_key(SCHEMA_VERSION):
        rewritten.insert(0, UpgradeOp(installed))
    if rewritten and indexes:
        log.info("The index is left for a revision of its own, after this one")
    upgrade_ops.ops = rewritten or indexes


# After Alembic's own comparators; before 1.18 they run in the order of their registration.
if hasattr(util, "DispatchPriority"):
    comparators.dispatch_for("schema", priority=util.DispatchPriority.LAST)(compare_prefixes)
else:
    comparators.dispatch_for("schema")(compare_prefixes)


def _render_our_types(context: AutogenContext) -> None:
    theirs = context.opts.get("render_item")

    def render(type_: str, obj: Any, autogen_context: AutogenContext) -> str | Literal[False]:
        rendered: str | Literal[False] = theirs(type_, obj, autogen_context) if theirs else False
        return render_item(type_, obj, autogen_context) if rendered is False else rendered

    context.opts = {**context.opts, "render_item": render}


def _key(connection: sa.Connection, schema: str | None, name: str) -> Key:
    return (None if schema == connection.dialect.default_schema_name else schema, str(name))


def _present(connection: sa.Connection) -> dict[Key, dict[str, Prefix]]:
    """Returns the prefixes in the database, by table and by column."""
    present: dict[Key, dict[str, Prefix]] = defaultdict(dict)
    for schema, name, row in connection.execute(statements.PREFIXES):
        prefix = read_prefix(json.loads(row))
        present[_key(connection, schema, name)][prefix.prefix] = prefix
    return present


def _compared(context: AutogenContext, key: Key, table: sa.Table, schemas: Collection[str | None]) -> bool:
    """Returns whether a table that exists takes part, as the user's hooks say."""
    return key[0] in schemas and context.run_object_filters(table, table.name, "table", False, None)


def _rewrite(
    connection: sa.Connection,
    proposed: Sequence[MigrateOperation],
    declared: Mapping[Key, sa.Table],
    present: Mapping[Key, Mapping[str, Prefix]],
) -> tuple[list[MigrateOperation], Mapping[Key, Sequence[PrefixOperation]]]:
    """Returns what Alembic proposes without prefixes and the schema mrl, and the drops that nobody asked for."""
    dropped = {_key(connection, o.schema, o.table_name) for o in proposed if isinstance(o, ops.DropTableOp)}
    rewritten: list[MigrateOperation] = []
    kept: dict[Key, list[PrefixOperation]] = defaultdict(list)
    for operation in proposed:
        if not isinstance(operation, ops.CreateTableOp | ops.DropTableOp | ops.ModifyTableOps):
            rewritten.append(operation)
            continue
        if operation.schema == SCHEMA:
            continue
        key = _key(connection, operation.schema, operation.table_name)
        specs: Sequence[Matryoshka] = declared[key].info[INFO_KEY] if key in declared else ()
        there = present.get(key, {})
        if isinstance(operation, ops.CreateTableOp):
            # op.mrl_add_prefix makes the columns, and a revision cannot write out our specs.
            columns = {spec.prefix for spec in specs}
            operation.columns = [c for c in operation.columns if getattr(c, "name", None) not in columns]
            operation.info = {name: value for name, value in operation.info.items() if name != INFO_KEY}
        elif isinstance(operation, ops.DropTableOp):
            # So that the downgrade, which is the reverse, adds them again.
            rewritten += [_drop_prefix(operation, prefix) for prefix in there.values() if prefix.kind != "rotate"]
        else:
            gone = {o.column_name for o in operation.ops if isinstance(o, ops.DropColumnOp)}
            others, drops = _split(operation, specs, there)
            asked = [drop for drop in drops if key in dropped or drop.embedding in gone]
            kept[key] += _worth_telling(connection, [drop for drop in drops if drop not in asked], specs)
            operation.ops = [*asked, *others]
            if operation.is_empty():
                continue
        rewritten.append(operation)
    for drop in (drop for drops in kept.values() for drop in drops):
        log.info("Kept what the models no longer declare; to drop it: %s", call(drop))
    return rewritten, kept


def _split(
    modify: ops.ModifyTableOps, specs: Sequence[Matryoshka], present: Mapping[str, Prefix]
) -> tuple[list[MigrateOperation], list[PrefixOperation]]:
    """Returns the operations on a table that do not concern prefixes, and ours for those that drop some."""
    others: list[MigrateOperation] = []
    indexes: list[PrefixOperation] = []
    columns: set[str] = set()
    for operation in modify.ops:
        match operation:
            case ops.AddColumnOp() if operation.column.name in {spec.prefix for spec in specs}:
                pass
            case ops.CreateIndexOp() if operation.index_name in {spec.index_name(modify.table_name) for spec in specs}:
                pass
            case ops.DropColumnOp() if operation.column_name in present:
                columns.add(operation.column_name)
            case ops.DropIndexOp() if prefix := _indexed(operation, present):
                indexes += _drop_index(modify, prefix, operation)
            case _:
                others.append(operation)
    # Models do not declare rotations, so nothing follows from their absence there.
    dropped = [p for name, p in present.items() if name in columns and p.kind != "rotate"]
    return others, [*indexes, *(_drop_prefix(modify, prefix) for prefix in dropped)]


def _worth_telling(
    connection: sa.Connection, drops: Sequence[PrefixOperation], specs: Sequence[Matryoshka]
) -> Iterator[PrefixOperation]:
    """Yields the drops without those of indexes that go with their prefix, or are declared under another name."""
    dropped = {drop.prefix for drop in drops if isinstance(drop, DropPrefixOp)}
    declared = {(spec.prefix, spec.m, spec.ef_construction) for spec in specs}
    for drop in drops:
        if isinstance(drop, DropPrefixOp):
            yield drop
        elif isinstance(drop, DropPrefixIndexOp):
            graph = (drop.prefix, drop.m, drop.ef_construction)
            if drop.prefix not in dropped and graph not in declared:
                yield replace(drop, concurrently=not is_partitioned(connection, drop))


def _indexed(drop: ops.DropIndexOp, present: Mapping[str, Prefix]) -> Prefix | None:
    """Returns the prefix that an index is on."""
    return next((present[column.name] for column in drop.to_index().columns if column.name in present), None)


def _drop_index(table: ops.ModifyTableOps, prefix: Prefix, drop: ops.DropIndexOp) -> Iterator[DropPrefixIndexOp]:
    """Yields the operation for an index of ours; one of the user's own on a prefix is none of our business."""
    index = drop.to_index().dialect_kwargs
    if prefix.kind != "rotate" and index.get("postgresql_using") == "hnsw" and index.get("postgresql_where") is None:
        graph = index.get("postgresql_with") or {}
        yield DropPrefixIndexOp(
            table.table_name,
            prefix.embedding,
            prefix.dims,
            schema=table.schema,
            kind=prefix.kind,
            layer_norm=prefix.layer_norm,
            m=int(graph.get("m", DEFAULT_M)),
            ef_construction=int(graph.get("ef_construction", DEFAULT_EF_CONSTRUCTION)),
        )


def _drop_prefix(table: ops.ModifyTableOps | ops.DropTableOp, prefix: Prefix) -> DropPrefixOp:
    return DropPrefixOp(
        table.table_name,
        prefix.embedding,
        prefix.dims,
        prefix.distance,
        prefix.model,
        schema=table.schema,
        kind=prefix.kind,
        layer_norm=prefix.layer_norm,
    )


def _add_prefix(table: sa.Table, spec: Matryoshka) -> AddPrefixOp:
    return AddPrefixOp(
        table.name,
        spec.column,
        spec.dims,
        spec.distance,
        spec.model,
        schema=table.schema,
        kind=spec.kind,
        layer_norm=spec.layer_norm,
    )


def _create_index(table: sa.Table, spec: Matryoshka, *, notes: Sequence[str] = ()) -> CreatePrefixIndexOp:
    return CreatePrefixIndexOp(
        table.name,
        spec.column,
        spec.dims,
        schema=table.schema,
        kind=spec.kind,
        layer_norm=spec.layer_norm,
        m=spec.m,
        ef_construction=spec.ef_construction,
        notes=notes,
    )


def _notes(spec: Matryoshka, kept: Sequence[PrefixOperation]) -> list[str]:
    """Returns comments that say how to drop what a new index may replace."""
    drops = [f"# {call(drop)}" for drop in kept if drop.embedding == spec.column]
    return ["# Still there, to be dropped in a later revision:", *drops] if drops else []


def _check_same(table: sa.Table, spec: Matryoshka, present: Prefix) -> None:
    declared, there = (spec.column, spec.distance), (present.embedding, present.distance)
    if declared != there:
        raise MrlError(
            f"prefix {spec.prefix} of {table.name} is of {there[0]} for {there[1]}, and the model declares it of "
            f"{declared[0]} for {declared[1]}. A prefix does not change in place: declare other dims, or first write a "
            f"revision with {call(_add_prefix(table, spec).reverse())}"
        )
    # Where none is declared, the prefix has that of another one.
    if spec.model and spec.model != present.model:
        log.warning(
            "prefix %s of %s is recorded for model %r, and the model declares %r",
            spec.prefix,
            table.name,
            present.model,
            spec.model,
        )
