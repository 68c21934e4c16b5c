"""What the directives do: on a connection, or offline as text for psql."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, cast

import psycopg
import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy.sql import ClauseElement

from mrl_pg import statements
from mrl_pg.alembic.index_operations import CreatePrefixIndexOp, DropPrefixIndexOp, PrefixIndexOperation
from mrl_pg.alembic.operations import InstallOp, UninstallOp, UpgradeOp
from mrl_pg.alembic.prefix_operations import (
    AddPrefixOp,
    DropPrefixOp,
    Operation,
    PrefixOperation,
    RotateOp,
)
from mrl_pg.errors import MrlError, NotInstalledError
from mrl_pg.install import SCHEMA_VERSION, check_version, install_files, resource_dir, version_key
from mrl_pg.psycopg import rotate
from mrl_pg.spec import Distance
from mrl_pg.sqlalchemy.model import install, run_script

_EXECUTE_RESULT = r" \gexec"


@Operations.implementation_for(InstallOp)
def _install(operations: Operations, _: InstallOp) -> None:
    context = operations.get_context()
    if context.as_sql:
        context.impl.static_output("CREATE EXTENSION IF NOT EXISTS vector;")
        for path in install_files(None):
            context.impl.static_output(path.read_text(encoding="utf-8"))
        return
    installed = installed_version(operations.get_bind())
    if installed is None:
        install(operations.get_bind())
    else:
        _upgrade_from(operations, installed)


@Operations.implementation_for(UninstallOp)
def _uninstall(operations: Operations, operation: UninstallOp) -> None:
    context = operations.get_context()
    script = resource_dir("sql") / "uninstall.sql"
    text = script.read_text(encoding="utf-8")
    if operation.if_unused:
        text = statements.UNINSTALL_IF_UNUSED.format(script=text)
    if context.as_sql:
        context.impl.static_output(text)
    elif operation.if_unused:
        operations.execute(_verbatim(text))
    elif operations.get_bind().scalar(statements.IS_EXTENSION):
        operations.execute("DROP EXTENSION mrl_pg")
    else:
        run_script(operations.get_bind(), script)


@Operations.implementation_for(UpgradeOp)
def _upgrade(operations: Operations, operation: UpgradeOp) -> None:
    context = operations.get_context()
    if context.as_sql:
        if operation.start is None:
            raise MrlError(
                "offline, the installed version of schema mrl cannot be looked up. "
                f"Write the one the script starts from: op.mrl_upgrade(start={SCHEMA_VERSION!r})"
            )
        for path in install_files(operation.start):
            context.impl.static_output(path.read_text(encoding="utf-8"))
        return
    installed = installed_version(operations.get_bind())
    if installed is None:
        raise NotInstalledError("mrl-pg is not installed in this database. Use op.mrl_install() in this revision.")
    _upgrade_from(operations, installed)


@Operations.implementation_for(AddPrefixOp)
def _add_prefix(operations: Operations, operation: AddPrefixOp) -> None:
    _require_installed(operations)
    _add(operations, operation)


@Operations.implementation_for(RotateOp)
def _rotate(operations: Operations, operation: RotateOp) -> None:
    if operations.get_context().as_sql:
        raise MrlError(
            "a rotation is learnt from rows, and a script has none. Run this revision online, or leave it to: "
            f"mrl-pg rotate {shlex.quote(_shown(operation))} --dims {operation.dims}"
        )
    _require_installed(operations)
    connection = operations.get_bind()
    there = connection.execute(
        statements.ROTATION,
        {
            "target": operation.target,
            "prefix": operation.prefix,
            "embedding": operation.embedding,
            "version": operation.version,
        },
    ).first()
    if there is not None:
        _add_rotation(operations, operation, *there)
        return
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise MrlError(
            f"op.mrl_rotate reads the rows through psycopg, not {connection.dialect.driver}. "
            "Run the migration with a postgresql+psycopg:// URL."
        )
    # In the transaction of the migration, on its connection.
    prefix = rotate(
        driver,
        (operation.schema, operation.table),
        operation.embedding,
        dims=operation.dims or 0,
        sample=operation.sample,
        seed=operation.seed,
        distance=cast("Distance", operation.distance),
        model=operation.model,
    )
    if prefix != operation.prefix:
        # Raised, the migration takes it back.
        raise MrlError(
            f"the next rotation of {operation.embedding} of {_shown(operation)} is {prefix}, not {operation.prefix}. "
            f"Write the version that {prefix} ends in."
        )


def _add_rotation(operations: Operations, operation: RotateOp, basis: str | None, dims: int, distance: str) -> None:
    """Adds the prefix of a basis that is there, unless it is another rotation than the operation's.

    :param basis: None where the prefix is there too.
    """
    if (dims, distance) != (operation.dims, operation.distance):
        raise MrlError(
            f"version {operation.version} of the rotations of {operation.embedding} of {_shown(operation)} is of "
            f"{dims} dims for {distance}, not of {operation.dims} for {operation.distance}. A basis never changes: "
            "write the next version."
        )
    if basis is None:
        return
    # As it was before a downgrade, so that what was filled and measured with it holds.
    _add(operations, operation, basis)


@Operations.implementation_for(DropPrefixOp)
def _drop_prefix(operations: Operations, operation: DropPrefixOp) -> None:
    _require_installed(operations)
    operation = _with_dims(operations, operation)
    _execute(operations, statements.drop_prefix(operation.target, operation.prefix))


@Operations.implementation_for(CreatePrefixIndexOp)
def _create_prefix_index(operations: Operations, operation: CreatePrefixIndexOp) -> None:
    _require_installed(operations)
    operation = _with_dims(operations, operation)
    concurrently = operation.concurrently
    build = statements.create_prefix_index(
        operation.target,
        operation.prefix,
        concurrently=concurrently,
        m=operation.m,
        ef_construction=operation.ef_construction,
    )
    remains = _drop_statements(operation, only_invalid=True)
    if not operations.get_context().as_sql:
        connection = operations.get_bind()
        if has_valid_index(connection, operation):
            return
        _refuse_unfinished(connection, operation)
        if not operation.allow_missing:
            _refuse_missing(connection, operation)
    with _outside_transaction(operations.get_context(), concurrently):
        _execute_result(operations, remains)
        if concurrently:
            _execute_result(operations, build)
        else:
            _execute(operations, build)


@Operations.implementation_for(DropPrefixIndexOp)
def _drop_prefix_index(operations: Operations, operation: DropPrefixIndexOp) -> None:
    _require_installed(operations)
    operation = _with_dims(operations, operation)
    with _outside_transaction(operations.get_context(), operation.concurrently):
        _execute_result(operations, _drop_statements(operation, only_invalid=False))


def installed_version(connection: sa.Connection) -> str | None:
    """Returns the version of the schema mrl, None where it is not installed."""
    return connection.scalar(statements.VERSION) if connection.scalar(statements.PROBE) else None


def has_valid_index(connection: sa.Connection, operation: PrefixIndexOperation) -> bool:
    """Returns whether the index of an operation is there and complete, whatever its name."""
    indexes = statements.PREFIX_INDEXES.bindparams(
        target=operation.target, prefix=operation.prefix, m=operation.m, ef_construction=operation.ef_construction
    )
    return any(valid for _, _, valid in connection.execute(indexes))


def is_partitioned(connection: sa.Connection, operation: PrefixOperation) -> bool:
    """Returns whether the table of an operation is partitioned: no index of it is built or dropped concurrently."""
    return bool(connection.scalar(statements.IS_PARTITIONED.bindparams(target=operation.target)))


def _add(operations: Operations, operation: PrefixOperation, basis: str | None = None) -> None:
    _execute(
        operations,
        statements.add_prefix(
            operation.target,
            operation.embedding,
            operation.dims,
            operation.distance,
            operation.model,
            kind=operation.kind,
            layer_norm=operation.layer_norm,
            basis=basis,
        ),
    )


def _with_dims(operations: Operations, operation: Operation) -> Operation:
    """Returns an operation with its dims, which are those of the embedding where they were left out."""
    if operation.dims is not None or operations.get_context().as_sql:
        return operation
    full_dims = statements.FULL_DIMS.bindparams(target=operation.target, embedding=operation.embedding)
    dims = operations.get_bind().scalar(full_dims)
    if dims is None:
        raise MrlError(
            f"{operation.embedding} of {operation.table} does not exist, or fixes no length. "
            f"Name the embedding, or write its length: op.{operation.directive}(..., dims=...)"
        )
    return replace(operation, dims=dims)


def _drop_statements(operation: PrefixIndexOperation, *, only_invalid: bool) -> sa.Select[Any]:
    return statements.drop_prefix_index(
        operation.target,
        operation.prefix,
        concurrently=operation.concurrently,
        m=operation.m,
        ef_construction=operation.ef_construction,
        only_invalid=only_invalid,
    )


def _upgrade_from(operations: Operations, installed: str) -> None:
    if version_key(installed) >= version_key(SCHEMA_VERSION):
        check_version(installed)
    elif operations.get_bind().scalar(statements.IS_EXTENSION):
        operations.execute(f"ALTER EXTENSION mrl_pg UPDATE TO '{SCHEMA_VERSION}'")
    else:
        for path in install_files(installed):
            run_script(operations.get_bind(), path)


def _require_installed(operations: Operations) -> None:
    if not operations.get_context().as_sql and not operations.get_bind().scalar(statements.PROBE):
        raise NotInstalledError(
            "mrl-pg is not installed in this database. Put op.mrl_install() into this revision or an earlier one."
        )


def _refuse_unfinished(connection: sa.Connection, operation: CreatePrefixIndexOp) -> None:
    # What is INVALID is one that failed, unless somebody is at it. To wait for a lock on the table could deadlock
    # with a concurrent build, which waits for the snapshots of all other transactions.
    builder = connection.scalar(statements.INDEX_BUILDERS.bindparams(target=operation.target))
    if builder is not None:
        raise MrlError(
            f"process {builder} is building an index of {_shown(operation)} already. "
            "Wait until it has finished, then upgrade again."
        )


def _refuse_missing(connection: sa.Connection, operation: CreatePrefixIndexOp) -> None:
    rows = connection.execute(statements.status(operation.target)).mappings()
    counted = next((row for row in rows if row["prefix"] == operation.prefix), None)
    lacking = (counted["missing"] or 0) - (counted["impossible"] or 0) if counted else 0
    if counted and lacking:
        table = _shown(operation)
        raise MrlError(
            f"{lacking:,} of {counted['rows']:,} rows of {table} lack {operation.prefix}, and filling it is slower "
            "with the index there. Run this, then upgrade again: "
            f"mrl-pg backfill {shlex.quote(table)} --prefix {shlex.quote(operation.prefix)}"
        )


def _shown(operation: PrefixOperation) -> str:
    """Returns the name of a table as the command line takes it."""
    return f"{operation.schema}.{operation.table}" if operation.schema else operation.table


@contextmanager
def _outside_transaction(context: MigrationContext, concurrently: bool) -> Iterator[None]:
    with ExitStack() as stack:
        if concurrently:
            try:
                stack.enter_context(context.autocommit_block())
            except AssertionError:
                raise MrlError(
                    "an index is built or dropped concurrently outside a transaction, but env.py has begun one that "
                    "Alembic does not own. In env.py, give context.configure() a connection that is not in a "
                    "transaction, and run the migrations in `with context.begin_transaction():`; "
                    "or pass concurrently=False."
                ) from None
        yield


def _execute(operations: Operations, statement: ClauseElement) -> None:
    if operations.get_context().as_sql:
        operations.get_context().impl.static_output(statements.literal(statement) + ";")
    else:
        operations.get_bind().execute(statement)  # type: ignore[call-overload]


def _execute_result(operations: Operations, query: sa.Select[Any]) -> None:
    """Executes the statements that a query returns."""
    if operations.get_context().as_sql:
        operations.get_context().impl.static_output(statements.literal(query) + _EXECUTE_RESULT)
        return
    for statement in operations.get_bind().scalars(query).all():
        operations.execute(_verbatim(statement))


def _verbatim(statement: str) -> sa.DDL:
    # Not text(), to which a colon in a name is a parameter.
    return sa.DDL(statement.replace("%", "%%"))  # type: ignore[no-untyped-call]
