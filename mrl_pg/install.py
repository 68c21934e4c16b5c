"""The SQL files: where they are, and which of them bring a database to this version."""

from __future__ import annotations

from pathlib import Path

from mrl_pg.errors import SchemaVersionError

# Version of the schema mrl that this package works with.
SCHEMA_VERSION = "0.1"


def resource_dir(name: str) -> Path:
    """Returns the directory ``sql`` or ``migrations``: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    for directory in (package / name, package.parent / name):
        if directory.is_dir():
            return directory
    raise FileNotFoundError(f"{name}/ is neither in {package} nor beside it. Run: pip install --force-reinstall mrl-pg")


def install_files(installed: str | None, wanted: str = SCHEMA_VERSION, *, directory: Path | None = None) -> list[Path]:
    """Returns the files to run, in order, from the installed version (None: nothing) to the wanted one.

    A fresh database takes the newest full script and the steps after it; steps are adjacent, so there is one path.

    :raises SchemaVersionError: where no steps lead there (the database is newer than this package).
    """
    directory = directory or resource_dir("sql")
    scripts: dict[str, Path] = {}
    steps: dict[str, tuple[str, Path]] = {}
    for path in directory.glob("mrl_pg--*.sql"):
        match path.stem.split("--")[1:]:
            case [version]:
                scripts[version] = path
            case [start, end]:
                steps[start] = (end, path)
    files: list[Path] = []
    if installed is None:
        installed = max(scripts, key=version_key)
        files.append(scripts[installed])
    at = installed
    while at != wanted:
        if at not in steps or version_key(at) > version_key(wanted):
            raise SchemaVersionError(wanted, installed)
        at, path = steps[at]
        files.append(path)
    return files


def check_version(installed: str) -> None:
    """Returns nothing; raises SchemaVersionError for a schema that is older, or newer by a major version.

    A newer minor version is fine: the database is upgraded first, and applications follow.
    """
    have, need = version_key(installed), version_key(SCHEMA_VERSION)
    if have < need or have[0] > need[0]:
        raise SchemaVersionError(SCHEMA_VERSION, installed)


def version_key(version: str) -> tuple[int, ...]:
    """Returns a version as numbers, for ordering."""
    return tuple(int(part) for part in version.split("."))
