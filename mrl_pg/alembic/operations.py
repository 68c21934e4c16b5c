"""What ``op.mrl_...`` is: operations, their reverses, how a revision spells them; those on the schema mrl.

Their work, online and offline, is in :mod:`mrl_pg.alembic.implementation`.
"""

# Annotations of the directives are evaluated by Alembic, which knows builtins only.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from alembic.autogenerate import renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations import MigrateOperation, Operations
from alembic.operations.ops import ModifyTableOps


class MrlOperation(MigrateOperation):
    """An operation of ours: what a revision calls ``op.<directive>(...)``."""

    directive: ClassVar[str]

    def arguments(self) -> tuple[Sequence[str], dict[str, Any]]:
        """Returns positional and keyword arguments of the directive; keywords that are None or False are left out."""
        return (), {}

    def comments(self) -> Sequence[str]:
        """Returns lines to put below the directive."""
        return ()

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Returns what ``alembic check`` shows."""
        positional, keywords = self.arguments()
        return (self.directive, *positional, {k: v for k, v in keywords.items() if v})


@renderers.dispatch_for(MrlOperation)
def render(context: AutogenContext, operation: MrlOperation) -> list[str]:
    """Returns the lines of an operation in a revision."""
    return [call(operation, context.opts["alembic_module_prefix"] or ""), *operation.comments()]


def call(operation: MrlOperation, module: str = "op.") -> str:
    """Returns an operation as Python: ``op.mrl_add_prefix('documents', 'embedding', dims=256)``."""
    positional, keywords = operation.arguments()
    # str() because Alembic may hand over quoted_name, whose repr is its own.
    written = [repr(str(value)) for value in positional]
    written += [f"{name}={value!r}" for name, value in keywords.items() if value]
    return f"{module}{operation.directive}({', '.join(written)})"


@Operations.register_operation("mrl_install")
class InstallOp(MrlOperation):
    """Installs the schema mrl."""

    directive = "mrl_install"

    @classmethod
    def mrl_install(cls, operations: Operations) -> None:
        """Returns nothing; installs the schema mrl, and pgvector where it is missing.

        Does nothing where it is there, older versions are upgraded. Offline it writes out the SQL file.

        :raises SchemaVersionError: where the database is newer than this package can work with.
        """
        operations.invoke(cls())

    def reverse(self) -> UninstallOp:
        """Returns the removal, which leaves the schema to whoever else has prefixes: this may not have made it."""
        return UninstallOp(if_unused=True)


@Operations.register_operation("mrl_uninstall")
@dataclass
class UninstallOp(MrlOperation):
    """Removes the schema mrl."""

    if_unused: bool = False
    directive: ClassVar[str] = "mrl_uninstall"

    @classmethod
    def mrl_uninstall(cls, operations: Operations, *, if_unused: bool = False) -> None:
        """Returns nothing; removes the schema mrl, and refuses while prefixes exist (the error names them).

        :param if_unused: do nothing while prefixes exist.
        """
        operations.invoke(cls(if_unused))

    def arguments(self) -> tuple[Sequence[str], dict[str, Any]]:
        return (), {"if_unused": self.if_unused}

    def reverse(self) -> InstallOp:
        return InstallOp()


@Operations.register_operation("mrl_upgrade")
@dataclass
class UpgradeOp(MrlOperation):
    """Upgrades the schema mrl to the version of this package."""

    start: str | None = None
    directive: ClassVar[str] = "mrl_upgrade"

    @classmethod
    def mrl_upgrade(cls, operations: Operations, start: str | None = None) -> None:
        """Returns nothing; upgrades the schema mrl to the version of this package.

        Does nothing where it is there or beyond. There is no way back, and no need: a database may be newer than
        its applications.

        :param start: version to upgrade from; only offline (``--sql``), where it cannot be looked up.
        :raises NotInstalledError: where there is nothing to upgrade.
        :raises SchemaVersionError: where the database is newer than this package can work with.
        """
        operations.invoke(cls(start))

    def arguments(self) -> tuple[Sequence[str], dict[str, Any]]:
        return (), {"start": self.start}

    def reverse(self) -> ModifyTableOps:
        """Returns nothing to do."""
        return ModifyTableOps("mrl", [])
