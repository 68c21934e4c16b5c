"""What can go wrong.

MrlError
├── SpecError              a prefix that cannot be            (also ValueError)
├── DimensionError         a vector of the wrong length       (also ValueError)
├── SearchError            a search that cannot be answered   (also ValueError)
├── NotInstalledError      the schema mrl or pgvector is missing
├── SchemaVersionError     the schema mrl is too old or too new for this package
├── EvaluationError        an evaluation that cannot be made  (also ValueError)
├── EmbedError             texts that could not be embedded; it can be run again
├── GenerateError          queries that could not be generated; it can be run again
└── BackfillError          a backfill that stopped; it can be run again

Messages carry the numbers, and their last sentence is the next command. Driver errors pass through untouched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class MrlError(Exception):
    """Anything that mrl-pg refuses or could not do."""


class SpecError(MrlError, ValueError):
    """A prefix that cannot be: its dims, distance, kind or names."""


class DimensionError(MrlError, ValueError):
    """A vector of the wrong length."""

    def __init__(self, expected: int, actual: int, what: str = "query", model: str | None = None) -> None:
        self.expected = expected
        self.actual = actual
        named = model or "the model of the table"
        super().__init__(f"{what} has {actual} dimensions, expected {expected}. Embed it with {named}, at full size.")


class SearchError(MrlError, ValueError):
    """A search that cannot be answered: its target, query, k, candidates, filter or prefix."""


class NotInstalledError(MrlError):
    """The schema mrl is missing in the database."""

    def __init__(self, message: str = "mrl-pg is not installed in this database. Run: mrl-pg install") -> None:
        super().__init__(message)


class SchemaVersionError(MrlError):
    """The schema mrl is too old or too new for this package."""

    def __init__(self, required: str, installed: str) -> None:
        self.required = required
        self.installed = installed
        newer = [int(n) for n in installed.split(".")] > [int(n) for n in required.split(".")]
        advice = "pip install --upgrade mrl-pg" if newer else "mrl-pg install"
        super().__init__(
            f"the database has version {installed} of schema mrl, this package needs {required}. Run: {advice}"
        )


class EvaluationError(MrlError, ValueError):
    """An evaluation that cannot be made: its queries, qrels, sample, k or candidates."""


class EmbedError(MrlError):
    """Texts that could not be embedded; what was written before stays, and a rerun goes on from there.

    :ivar refused: positions of the texts that the model does not take, where nothing else is wrong (too long).
    :ivar embeddings: the embeddings of all others then, in their order.
    """

    def __init__(self, message: str, *, refused: Sequence[int] = (), embeddings: Any = None) -> None:
        self.refused = refused
        self.embeddings = embeddings
        super().__init__(message)


class GenerateError(MrlError):
    """Queries that could not be generated; what is in their file stays, and a rerun goes on from there."""


class BackfillError(MrlError):
    """A backfill that stopped before its end; what it committed stays, and a rerun goes on from there."""

    def __init__(self, message: str, last_key: Any) -> None:
        self.last_key = last_key
        super().__init__(message)
