"""Two-stage vector search for Postgres: candidates on a short prefix, reranked on the full embedding."""

from mrl_pg.errors import (
    BackfillError,
    DimensionError,
    EmbedError,
    EvaluationError,
    GenerateError,
    MrlError,
    NotInstalledError,
    SchemaVersionError,
    SearchError,
    SpecError,
)
from mrl_pg.search import Hit, SearchResult, Stage
from mrl_pg.spec import Matryoshka

__version__ = "0.1.0"

__all__ = [
    "BackfillError",
    "DimensionError",
    "EmbedError",
    "EvaluationError",
    "GenerateError",
    "Hit",
    "Matryoshka",
    "MrlError",
    "NotInstalledError",
    "SchemaVersionError",
    "SearchError",
    "SearchResult",
    "SpecError",
    "Stage",
]
