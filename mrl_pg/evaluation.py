"""The figures of an evaluation: each prefix, alone and reranked, beside the whole embedding."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mrl_pg.footprint import Footprint
from mrl_pg.metrics import Summary
from mrl_pg.relevance import Relevance
from mrl_pg.spec import Distance


@dataclass(frozen=True, slots=True)
class Reranked:
    """A two-stage search: the candidates nearest by the prefix, reranked by the whole embedding.

    :ivar candidates: rows stage one hands over.
    :ivar recall: recall@k, judged by distance.
    :ivar relevance: of the first rows after the rerank; None without qrels.
    """

    candidates: int
    recall: Summary
    relevance: Relevance | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """One prefix: what it finds in an exact scan, and what it costs.

    :ivar kind: ``truncate``, ``rotate``, ``binary`` or ``random``, the control.
    :ivar dims: its length.
    :ivar recall: recall@k of the prefix alone, judged by distance.
    :ivar overlap: overlap@k of the prefix alone, judged by row.
    :ivar spearman: rank correlation of its distances with the exact ones, over the exact top rows.
    :ivar kept: share of the squared norm of the embeddings that it holds; None for binary.
    :ivar reranked: recall left with that many candidates, ascending.
    :ivar footprint: for the whole table.
    :ivar relevance: of the prefix alone; None without qrels.
    """

    kind: str
    dims: int
    recall: Summary
    overlap: Summary
    spearman: Summary
    kept: float | None
    reranked: tuple[Reranked, ...]
    footprint: Footprint
    relevance: Relevance | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What prefixes of an embedding find, measured by exact scans of a sample; an index finds a little less.

    :ivar rows: embeddings in the sample.
    :ivar queries: queries asked.
    :ivar table_rows: rows of the table that footprints are for.
    :ivar full_dims: length of the embedding.
    :ivar k: of recall@k and overlap@k.
    :ivar top: rows that the rank correlation looks at.
    :ivar seed: of the random dims, the sample of the rotation and the intervals.
    :ivar basis_rows: embeddings the rotation was fitted to, none of them a query; 0 without one.
    :ivar points: by kind, then by dims.
    :ivar footprint: of the whole embedding as halfvec; None where it is too long for an index.
    :ivar relevance: of the exact search by the whole embedding; None without qrels.
    :ivar notes: what to know about these figures, a sentence or two each.
    """

    rows: int
    queries: int
    table_rows: int
    full_dims: int
    distance: Distance
    k: int
    top: int
    seed: int
    basis_rows: int
    points: tuple[Point, ...]
    footprint: Footprint | None
    relevance: Relevance | None
    notes: tuple[str, ...]

    def _repr_html_(self) -> str:
        """Returns the report, for notebooks."""
        from mrl_pg.report.notebook import notebook_html

        return notebook_html(self)

    def as_dict(self) -> dict[str, Any]:
        """Returns all of it as dictionaries, tuples, numbers and strings, as JSON wants it."""
        return asdict(self)
