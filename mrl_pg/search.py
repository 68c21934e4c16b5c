"""What a search is asked for and what it returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar, overload

from mrl_pg.errors import SearchError

Row = TypeVar("Row")

# pgvector's bounds and its default for hnsw.ef_search.
MAX_EF_SEARCH = 1000
DEFAULT_EF_SEARCH = 40
# Where the index scan gives up: filters that keep 0.5 % or more are served in full, up to what takes some 220 MB
# (220 bytes a tuple).
SCAN_TUPLES_PER_CANDIDATE = 200
MIN_SCAN_TUPLES = 20_000
MAX_DEFAULT_SCAN_TUPLES = 1_000_000


class Stage(NamedTuple):
    """One stage of a funnel: the prefix column that orders the rows, and how many of them it hands over."""

    prefix: str
    candidates: int


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """How much a search looks at; made and checked by :func:`search_plan`.

    :ivar candidates: rows that the first stage hands over.
    :ivar stages: all stages before the rerank, where the caller named them.
    :ivar model: model that made the query, where the caller named it.
    :ivar recall: to be reached by a stored operating point; None once :func:`plan_at` has its numbers, or without one.
        Until then candidates and ef_search mean nothing, and max_scan_tuples is 0 where it follows from candidates.
    """

    k: int
    candidates: int
    ef_search: int
    max_scan_tuples: int
    exact: bool
    rerank: bool
    stages: tuple[Stage, ...]
    model: str | None
    recall: float | None = None


class SearchOptions(TypedDict, total=False):
    """The keywords that every search verb takes.

    :param k: rows to return; 10.
    :param candidates: rows stage one hands over, at least k; the larger of 100 and 10 * k.
    :param ef_search: size of the HNSW candidate list, 1 to 1000; ``candidates`` within 40 and 1000. It may be
        below ``candidates``: the scan goes on in steps of ef_search.
    :param max_scan_tuples: where the index scan gives up; 200 * candidates within 20,000 and 1,000,000.
    :param exact: compare every row and use no index: the ground truth.
    :param rerank: if False, the k rows and their distances come from the prefix alone and no full embedding is read:
        one-stage search. ``candidates`` is k then. The distance of a binary prefix is the Hamming distance.
    :param stages: a funnel instead of ``prefix`` and ``candidates``: ``[Stage("embedding_rot64_v1", 1000),
        Stage("embedding_512", 100)]`` finds 1,000 rows by the index of the first, hands the best 100 of them by the
        second to the rerank. Only the first needs an index.
    :param model: the model that made the query; refused where the table knows that another made its embeddings.
    :param recall: instead of ``candidates`` and ``ef_search``: the cheapest settings that reached this recall when
        ``mrl-pg tune`` measured them, by the prefix that is named or by any with an index. Above 0, at most 1.
    """

    k: int
    candidates: int | None
    ef_search: int | None
    max_scan_tuples: int | None
    exact: bool
    rerank: bool
    stages: Sequence[Stage | tuple[str, int]]
    model: str | None
    recall: float | None


def search_plan(
    *,
    k: int = 10,
    candidates: int | None = None,
    ef_search: int | None = None,
    max_scan_tuples: int | None = None,
    exact: bool = False,
    rerank: bool = True,
    stages: Sequence[Stage | tuple[str, int]] = (),
    model: str | None = None,
    recall: float | None = None,
) -> SearchPlan:
    """Returns a checked plan from :class:`SearchOptions`.

    :raises SearchError: for a value outside its bounds, with the value.
    """
    k = _whole("k", k)
    if k < 1:
        raise SearchError(f"k must be at least 1, not {k}. k is the number of rows to return.")
    if recall is not None:
        recall = _recall(
            recall, candidates=candidates, ef_search=ef_search, stages=stages, exact=exact, no_rerank=not rerank
        )
    if exact and (stages or not rerank):
        raise SearchError("an exact search has neither stages nor a rerank. Leave stages and rerank out.")
    if stages and candidates is not None:
        raise SearchError(
            f"candidates = {candidates} and stages were given. Each stage has its own number: give stages."
        )
    funnel = _funnel(stages, k)
    if funnel:
        candidates = funnel[0].candidates
    elif candidates is None:
        candidates = max(100, 10 * k) if rerank else k
    candidates = _whole("candidates", candidates)
    if candidates < k:
        raise SearchError(
            f"candidates must be at least k = {k}, not {candidates}. "
            "Leave candidates out for the larger of 100 and 10 * k."
        )
    if ef_search is None:
        ef_search = min(max(candidates, DEFAULT_EF_SEARCH), MAX_EF_SEARCH)
    ef_search = _whole("ef_search", ef_search)
    if not 1 <= ef_search <= MAX_EF_SEARCH:
        raise SearchError(
            f"ef_search must be between 1 and {MAX_EF_SEARCH}, not {ef_search}. "
            "It may be below candidates: the scan goes on in steps of ef_search."
        )
    if max_scan_tuples is None:
        max_scan_tuples = 0 if recall is not None else _scan_tuples(candidates)
    elif _whole("max_scan_tuples", max_scan_tuples) < 1:
        raise SearchError(f"max_scan_tuples must be at least 1, not {max_scan_tuples}. Leave it out for the default.")
    max_scan_tuples = min(_whole("max_scan_tuples", max_scan_tuples), 2**31 - 1)
    return SearchPlan(k, candidates, ef_search, max_scan_tuples, exact, rerank, funnel, model, recall)


def plan_at(plan: SearchPlan, candidates: int, ef_search: int) -> SearchPlan:
    """Returns the plan of a search by recall with the numbers of the operating point that serves it."""
    tuples = plan.max_scan_tuples or min(_scan_tuples(candidates), 2**31 - 1)
    return replace(plan, candidates=candidates, ef_search=ef_search, max_scan_tuples=tuples, recall=None)


def _scan_tuples(candidates: int) -> int:
    tuples = min(SCAN_TUPLES_PER_CANDIDATE * candidates, MAX_DEFAULT_SCAN_TUPLES)
    return max(tuples, MIN_SCAN_TUPLES, 2 * candidates)


def check_recall(recall: Any) -> float:
    """Returns a recall to reach; SearchError where it is none."""
    try:
        number = float(recall)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 < number <= 1:
        raise SearchError(f"recall must be above 0 and at most 1, not {recall!r}. The usual one is 0.98.")
    return number


def _recall(recall: Any, **others: Any) -> float:
    """Returns the recall to reach, after checking that nothing else says how much to look at."""
    if given := [name for name, value in others.items() if value]:
        raise SearchError(
            f"recall = {recall} and {given[0]} were given. A recall chooses candidates and ef_search itself: "
            "give one or the other."
        )
    return check_recall(recall)


def _funnel(stages: Sequence[Stage | tuple[str, int]], k: int) -> tuple[Stage, ...]:
    try:
        funnel = tuple(Stage(str(prefix), _whole("candidates", candidates)) for prefix, candidates in stages)
    except (TypeError, ValueError):
        raise SearchError(
            f"stages must be pairs of prefix and candidates, not {stages!r}. Pass [Stage('embedding_256', 100)]."
        ) from None
    counts = [*(stage.candidates for stage in funnel), k]
    if counts != sorted(counts, reverse=True):
        raise SearchError(
            f"the stages hand over {', '.join(map(str, counts[:-1]))} rows for k = {k}: each must hand over at most as "
            "many as it gets, and the last at least k. Give fewer to the later stages."
        )
    return funnel


# (column, comparison), comparison being "equal", "any", "any or null" or "null".
FilterShape = tuple[tuple[str, str], ...]


def read_filter(filter: Mapping[str, Any] | None) -> tuple[FilterShape, dict[str, Any]]:
    """Returns the shape of a filter, which the statement is made for, and its values as parameters.

    A value means equality, a list or other sequence any of its elements, None IS NULL; as in mrl.search() in SQL.
    """
    if filter is not None and not isinstance(filter, Mapping):
        raise SearchError(f"filter must be a mapping of columns, not {filter!r}. Pass {{'lang': 'en'}}.")
    shape: list[tuple[str, str]] = []
    values: dict[str, Any] = {}
    for n, (column, value) in enumerate((filter or {}).items()):
        if value is None:
            shape.append((column, "null"))
        elif isinstance(value, list | tuple | set | frozenset):
            values[f"filter_{n}"] = [element for element in value if element is not None]
            shape.append((column, "any or null" if None in value else "any"))
        else:
            values[f"filter_{n}"] = value
            shape.append((column, "equal"))
    return tuple(shape), values


def _whole(name: str, value: Any) -> int:
    """Returns a whole number of any integer type; these numbers become literals in the statement."""
    try:
        return int(value.__index__())
    except (AttributeError, TypeError):
        raise SearchError(f"{name} must be a whole number, not {value!r}. Pass an int.") from None


@dataclass(frozen=True, slots=True)
class Hit(Generic[Row]):
    """One row found.

    :ivar key: its primary key: the value of a single-column key, a tuple of a composite one.
    :ivar distance: from the query by the full embedding, smaller is nearer (inner_product: negated).
    :ivar row: what was asked for: a model instance, or a mapping of columns.
    """

    key: Any
    distance: float
    row: Row


class SearchResult(Sequence[Hit[Row]]):
    """The hits of one search, nearest first.

    :ivar requested: candidates asked of stage one (k for an exact search).
    :ivar received: candidates that came. Fewer than requested: no more rows qualify, or the index scan
        gave up at max_scan_tuples, or rows still lack their prefix.
    """

    __slots__ = ("_hits", "received", "requested")

    def __init__(self, hits: Iterable[Hit[Row]], *, requested: int, received: int) -> None:
        self._hits = tuple(hits)
        self.requested = requested
        self.received = received

    @overload
    def __getitem__(self, index: int) -> Hit[Row]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Hit[Row], ...]: ...
    def __getitem__(self, index: int | slice) -> Hit[Row] | tuple[Hit[Row], ...]:
        return self._hits[index]

    def __len__(self) -> int:
        return len(self._hits)

    def __repr__(self) -> str:
        return f"<SearchResult: {len(self)} hits, {self.received} of {self.requested} candidates>"
