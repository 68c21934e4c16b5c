"""Queries and qrels from files: npz and jsonl, TREC and BEIR."""

from __future__ import annotations

import json
import math
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mrl_pg.errors import DimensionError, EvaluationError
from mrl_pg.operating import Source
from mrl_pg.vectors import FloatArray, VectorLike

# {id of a query: {id of a row: grade}}; a row that is not named is not relevant.
Qrels: TypeAlias = dict[str, dict[str, float]]

BEIR_HEADER = ["query-id", "corpus-id", "score"]
# How many ids a message names.
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Queries:
    """Queries of a file, each with an embedding or each with a text.

    :ivar ids: one a query, all different; their numbers from 0 where the file has none.
    :ivar embeddings: float32 (q, full_dims); None where there are texts.
    :ivar texts: to be embedded; None where there are embeddings.
    :ivar qrels: rows that the file calls relevant; empty where it does not say.
    :ivar source: where they are from.
    """

    ids: tuple[str, ...]
    embeddings: FloatArray | None
    texts: tuple[str, ...] | None = None
    qrels: Qrels = field(default_factory=dict)
    source: Source = "queries"


# Embeddings (q, full_dims), the queries of a file, or the file.
QueriesLike: TypeAlias = Queries | Sequence[VectorLike] | npt.NDArray[np.floating[Any]] | str | Path


def as_queries(queries: QueriesLike) -> Queries:
    """Returns queries in any form; those of an array have their numbers from 0 as ids.

    :raises EvaluationError: for what is no array of numbers of that shape; and as :func:`read_queries`.
    """
    if isinstance(queries, Queries):
        return queries
    if isinstance(queries, str | Path):
        return read_queries(queries)
    try:
        with np.errstate(over="ignore"):
            embeddings = np.asarray(queries).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise EvaluationError(f"queries are no array of numbers ({error}). Give one row each.") from None
    if embeddings.ndim != 2 or not embeddings.size:
        raise EvaluationError(
            f"queries have shape {embeddings.shape}, expected (queries, dimensions). Give one row each."
        )
    return Queries(tuple(map(str, range(len(embeddings)))), embeddings)


def read_queries(path: str | Path, *, full_dims: int | None = None) -> Queries:
    """Returns the queries of a file: npz where its name ends so, else jsonl.

    npz: an array ``queries`` (q, full_dims) and perhaps ``ids`` (q,). jsonl: a line for each query, an object with
    ``id``, with ``embedding`` (numbers) or ``text``, and perhaps ``relevant``: ids of rows, or {id: grade}.

    :param full_dims: length the embeddings must have; any if left out, but one.
    :raises DimensionError: where an embedding has another length.
    :raises EvaluationError: for a file that is none of these, or empty, with the line and what is wrong with it.
    """
    path = Path(path)
    queries = _read_npz(path) if path.suffix == ".npz" else _read_jsonl(path, full_dims)
    if not queries.ids:
        raise EvaluationError(f"{path} holds no queries. Give one at least.")
    if twice := [name for name, count in Counter(queries.ids).items() if count > 1]:
        raise EvaluationError(f"{path} has {_named(twice, 'id')} more than once. Give each query an id of its own.")
    if queries.embeddings is not None:
        if full_dims is not None and queries.embeddings.shape[1] != full_dims:
            raise DimensionError(full_dims, queries.embeddings.shape[1], f"a query of {path}")
        bad = np.flatnonzero(~np.isfinite(queries.embeddings).all(axis=1))
        if len(bad):
            raise EvaluationError(
                f"{len(bad):,} of {len(queries.ids):,} queries of {path} are not finite as float32: "
                f"{_named([queries.ids[i] for i in bad], 'id')}. Check how the embeddings were made."
            )
    return queries


def read_qrels(path: str | Path) -> Qrels:
    """Returns the qrels of a file of lines: TREC's ``query 0 row grade``, or BEIR's tab-separated with its header.

    :raises EvaluationError: for a line that is neither, with its number, or a file without any.
    """
    qrels: Qrels = {}
    beir = False
    for number, line in _lines(Path(path)):
        columns = line.split("\t")
        if not qrels and not beir and columns == BEIR_HEADER:
            beir = True
            continue
        columns = columns if beir else line.split()
        try:
            query, row, text = columns if beir else (columns[0], *columns[2:])
            grade = float(text)
        except ValueError:
            grade = math.nan
        if not math.isfinite(grade):
            expected = "query, row and a numeric score, separated by tabs" if beir else "query, 0, row and a number"
            raise EvaluationError(
                f"line {number} of {path} is {_shown(line)}, expected {expected}. Use TREC's format, or BEIR's with "
                f"its header {' '.join(BEIR_HEADER)}."
            )
        if qrels.setdefault(query, {}).setdefault(row, grade) != grade:
            raise EvaluationError(
                f"line {number} of {path} grades row {row!r} of query {query!r} {grade:g}, an earlier line "
                f"{qrels[query][row]:g}. Leave one."
            )
    if not qrels:
        raise EvaluationError(f"{path} holds no qrels. Give one at least.")
    return qrels


def positions(
    qrels: Mapping[str, Mapping[str, float]],
    query_ids: Sequence[Any],
    row_ids: Iterable[Any],
    *,
    ignore_unknown: bool = False,
) -> dict[int, dict[int, float]]:
    """Returns qrels by position, as :func:`mrl_pg.evaluate.evaluate` takes them.

    :param query_ids: ids of the queries in their order; compared as text, as are those of rows.
    :param row_ids: ids of the rows of the corpus in their order.
    :param ignore_unknown: leave out what is not there, which a sample of a table needs: recall by relevance is then
        of the relevant rows of the sample.
    :raises EvaluationError: for ids that are not there, with their number and the first ones.
    """
    queries = {str(query): position for position, query in enumerate(query_ids)}
    rows = {str(row): position for position, row in enumerate(row_ids)}
    unknown_queries = [query for query in qrels if query not in queries]
    judged = dict.fromkeys(row for grades in qrels.values() for row in grades)
    unknown_rows = [row for row in judged if row not in rows]
    if not ignore_unknown and (unknown_queries or unknown_rows):
        wrong = [
            f"{len(unknown):,} of {total:,} {what} in qrels are not there, {_named(unknown, 'id')}"
            for what, unknown, total in (("queries", unknown_queries, len(qrels)), ("rows", unknown_rows, len(judged)))
            if unknown
        ]
        raise EvaluationError(f"{'; '.join(wrong)}. Check that the ids are those of the table and of the queries.")
    return {
        queries[query]: {rows[row]: grade for row, grade in grades.items() if row in rows}
        for query, grades in qrels.items()
        if query in queries
    }


def _read_npz(path: Path) -> Queries:
    try:
        # numpy leaves a file that it cannot read open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in ("queries", "ids") if name in arrays}
            names = ", ".join(arrays.files) or "none"
    except (ValueError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise EvaluationError(f"{path} is not an npz file of numbers ({error}). Write it with numpy.savez.") from None
    if "queries" not in found:
        raise EvaluationError(f"{path} has no array 'queries', only: {names}. Name the embeddings so.")
    embeddings = found["queries"]
    if embeddings.ndim != 2 or embeddings.dtype.kind not in "fiu":
        raise EvaluationError(
            f"array 'queries' of {path} is {embeddings.dtype} of shape {embeddings.shape}, expected numbers of shape "
            "(queries, dimensions). Give one row each."
        )
    ids = found.get("ids", np.arange(len(embeddings)))
    if ids.shape != (len(embeddings),):
        raise EvaluationError(
            f"array 'ids' of {path} has shape {ids.shape}, expected ({len(embeddings)},). Give an id for each query."
        )
    with np.errstate(over="ignore"):
        return Queries(tuple(map(str, ids.tolist())), embeddings.astype(np.float32))


def _read_jsonl(path: Path, full_dims: int | None) -> Queries:
    ids, embeddings, texts = [], [], []
    qrels: Qrels = {}
    generated = False
    for number, line in _lines(path):
        where = f"line {number} of {path}"
        query = _json_object(line, where)
        # As mrl-pg queries marks them; one among others makes the figures no longer those of users.
        generated = generated or query.get("generated") is True
        ids.append(_id(query.get("id"), where))
        if ("embedding" in query) == ("text" in query):
            raise EvaluationError(f"{where} needs either 'embedding' or 'text', not both. Mend the line.")
        if "text" in query:
            if not isinstance(query["text"], str) or not query["text"].strip():
                raise EvaluationError(f"{where} has the text {_shown(query['text'])}. Give some words.")
            texts.append(query["text"])
        else:
            embeddings.append(_embedding(query["embedding"], where))
            expected = full_dims or len(embeddings[0])
            if len(embeddings[-1]) != expected:
                raise DimensionError(expected, len(embeddings[-1]), f"the query in {where}")
        if embeddings and texts:
            raise EvaluationError(
                f"{where} has {'a text' if 'text' in query else 'an embedding'}, those before do not. "
                "Embed all queries, or none."
            )
        if "relevant" in query:
            qrels[ids[-1]] = _grades(query["relevant"], where)
    return Queries(
        tuple(ids),
        np.array(embeddings) if embeddings else None,
        tuple(texts) or None,
        qrels,
        "generated" if generated else "queries",
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields the number and text of each line that is not blank; what starts a file on Windows is left out."""
    with path.open(encoding="utf-8-sig") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise EvaluationError(f"{path} is not UTF-8 ({error}). Convert it; numpy's files end in .npz.") from None


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise EvaluationError(f"{where} is not JSON ({error}): {_shown(line)}. Write one object a line.") from None
    if not isinstance(found, dict):
        raise EvaluationError(f"{where} is not an object: {_shown(line)}. Write one object a line.")
    return found


def _id(id: Any, where: str) -> str:
    if isinstance(id, bool) or not isinstance(id, str | int):
        raise EvaluationError(f"{where} has the id {_shown(id)}, expected a string or a whole number. Give one.")
    return str(id)


def _embedding(embedding: Any, where: str) -> FloatArray:
    try:
        with np.errstate(over="ignore"):
            found = np.asarray(embedding, dtype=np.float64).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise EvaluationError(f"{where}: 'embedding' is not a list of numbers ({error}). Mend the line.") from None
    if found.ndim != 1 or not len(found):
        raise EvaluationError(
            f"{where}: 'embedding' has shape {found.shape}, expected a list of numbers. Mend the line."
        )
    return found


def _grades(relevant: Any, where: str) -> dict[str, float]:
    """Returns the grades of rows: those of an object, or 1 for each of a list."""
    if isinstance(relevant, list):
        relevant = {_id(row, where): 1 for row in relevant}
    if not isinstance(relevant, dict):
        raise EvaluationError(
            f"{where}: 'relevant' is {_shown(relevant)}, expected a list of ids or {{id: grade}}. Mend the line."
        )
    for row, grade in relevant.items():
        if isinstance(grade, bool) or not isinstance(grade, int | float) or not math.isfinite(grade):
            raise EvaluationError(f"{where} grades row {row!r} {_shown(grade)}, expected a number. Mend the line.")
    return {row: float(grade) for row, grade in relevant.items()}


def _named(ids: Sequence[str], what: str) -> str:
    """Returns some ids as a message names them: ``id 'a'``, ``ids 'a', 'b', 'c' and 4 more``."""
    more = f" and {len(ids) - _NAMED:,} more" if len(ids) > _NAMED else ""
    return f"{what}{'s' if len(ids) > 1 else ''} {', '.join(map(repr, ids[:_NAMED]))}{more}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
