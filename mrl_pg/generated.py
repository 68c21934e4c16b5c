"""The file of generated queries: the lines of a row are appended together, and what was torn off is repaired."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrl_pg.errors import GenerateError
from mrl_pg.prompt import KINDS

# What every line begins with.
_OURS = b'{"id": "'


@dataclass(frozen=True, slots=True)
class Kept:
    """What is in a file already.

    :ivar rows: ids of the rows that have their queries there.
    :ivar size: bytes up to the end of the last whole row; what comes after them was torn off.
    """

    rows: frozenset[str]
    size: int


def read_kept(path: Path, table: str) -> Kept:
    """Returns what a file holds; nothing where there is none. The file is not changed.

    :param table: its queries must be for.
    :raises GenerateError: for a file that is not ours, or another table's.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    torn = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
    rows = [_row(line, f"line {number} of {path}", table) for number, line in enumerate(lines, 1)]
    if torn:
        _check_torn(torn, f"line {len(lines) + 1} of {path}", table)
    # Only the last row can be incomplete; where lines of another are missing, somebody did not want them.
    rest = len(rows) - rows.index(rows[-1]) if rows else 0
    if 0 < rest < len(KINDS):
        lines, rows = lines[:-rest], rows[:-rest]
    return Kept(frozenset(rows), sum(map(len, lines)))


@contextmanager
def appending(path: Path, kept: Kept, table: str, model: str) -> Iterator[Callable[[str, Mapping[str, str]], None]]:
    """Yields a function that appends the queries of a row, by kind: on the disk when it returns, all or none.

    What was torn off the file before is cut away.
    """
    with path.open("r+b" if path.exists() else "x+b", buffering=0) as file:
        size = kept.size
        file.truncate(size)
        file.seek(size)

        def append(row: str, queries: Mapping[str, str]) -> None:
            nonlocal size
            lines = b"".join(_line(row, kind, text, table, model) for kind, text in queries.items())
            try:
                left = memoryview(lines)
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except BaseException:
                # Ctrl-C too, and a full disk.
                file.truncate(size)
                raise
            size += len(lines)

        yield append


def _line(row: str, kind: str, text: str, table: str, model: str) -> bytes:
    query = {
        "id": f"{row}/{kind}",
        "text": text,
        "kind": kind,
        "relevant": {row: 1},
        "generated": True,
        "model": model,
        "table": table,
    }
    return json.dumps(query, ensure_ascii=False).encode() + b"\n"


def _row(line: bytes, where: str, table: str) -> str:
    """Returns the id of the row that a line is for."""
    try:
        query: Any = json.loads(line)
        generated, of_table, (row,) = query["generated"], query["table"], query["relevant"]
    except (ValueError, TypeError, KeyError):
        raise _foreign(where) from None
    if generated is not True or not isinstance(row, str):
        raise _foreign(where)
    if of_table != table:
        raise GenerateError(f"{where} is a query for table {of_table}, not {table}. Name another file with --out.")
    return row


def _check_torn(line: bytes, where: str, table: str) -> None:
    """Returns nothing; raises where a line without its end is not the beginning of one of ours."""
    if not _OURS.startswith(line[: len(_OURS)]):
        raise _foreign(where)
    try:
        json.loads(line)
    except ValueError:
        return
    # Whole but for the end of the line, as some editors leave it: perhaps somebody else's.
    _row(line, where, table)


def _foreign(where: str) -> GenerateError:
    return GenerateError(f"{where} was not written by mrl-pg queries. Name another file with --out.")
