"""What goes wrong, told in the words of whoever noticed it."""

from __future__ import annotations

import signal

import click

from mrl_pg.errors import MrlError
from mrl_pg.signals import Terminated


class Stopped(click.ClickException):
    """Ctrl-C, SIGTERM or SIGHUP; its message says how to go on."""

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        """128 and the number of the signal, as shells have it."""
        return 128 + (self.__context__.number if isinstance(self.__context__, Terminated) else signal.SIGINT)

    def show(self, file: object = None) -> None:
        click.echo(f"\n{self.message}", err=True)


def explain(error: Exception) -> str | None:
    """Returns what to tell the user of an error; None for one that is not theirs to mend."""
    if isinstance(error, MrlError):
        return str(error)
    if isinstance(error, ImportError) and "psycopg" in str(error):
        # psycopg is there and finds no libpq, which pip brings on demand only.
        return f"{str(error).splitlines()[0].rstrip('.')}. Run: pip install 'psycopg[binary]'"
    # Whoever raised it has imported it already.
    import psycopg
    from alembic.util import CommandError
    from sqlalchemy.exc import DBAPIError

    if isinstance(error, DBAPIError) and isinstance(error.orig, psycopg.Error):
        error = error.orig
    if isinstance(error, psycopg.Error):
        parts = [error.diag.message_primary or str(error).strip(), error.diag.message_detail]
        return "\n".join([*filter(None, parts), *(f"Hint: {hint}" for hint in [error.diag.message_hint] if hint)])
    if isinstance(error, CommandError):
        return str(error)
    # click itself deals with a reader of our output that has left.
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        return f"{error.strerror}: {error.filename}" if error.filename else str(error)
    return None
