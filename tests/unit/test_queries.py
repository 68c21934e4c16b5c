"""Queries and qrels are read from files, and what is wrong with a file is said with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrl_pg.errors import DimensionError, EvaluationError
from mrl_pg.queries import positions, read_qrels, read_queries


def written(path: Path, *lines: object) -> Path:
    """Returns the file, with a line for each string, and each other object as JSON."""
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_npz(tmp_path: Path) -> None:
    embeddings = np.arange(6, dtype=np.float16).reshape(2, 3)
    queries = read_queries(npz(tmp_path / "q.npz", queries=embeddings, ids=["a", "b"]), full_dims=3)
    assert queries.ids == ("a", "b")
    assert queries.embeddings is not None
    assert queries.embeddings.dtype == np.float32
    assert np.array_equal(queries.embeddings, embeddings)
    assert read_queries(npz(tmp_path / "n.npz", queries=embeddings)).ids == ("0", "1")
    assert read_queries(npz(tmp_path / "i.npz", queries=embeddings, ids=[7, 9])).ids == ("7", "9")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"corpus": np.ones((2, 3))}, "has no array 'queries', only: corpus. "),
        ({"queries": np.ones(3)}, "is float64 of shape (3,), expected"),
        ({"queries": np.array([["a"]])}, "is <U1 of shape (1, 1), expected"),
        ({"queries": np.ones((2, 3)), "ids": ["a"]}, "'ids' of {path} has shape (1,), expected (2,). "),
        ({"queries": np.ones((3, 3)), "ids": ["a", "b", "a"]}, "has id 'a' more than once. "),
        ({"queries": np.ones((0, 3))}, "holds no queries. "),
        ({"queries": np.array([[1.0], [np.nan], [1e300]])}, "2 of 3 queries of {path} are not finite as float32: ids "),
        ({"queries": np.array([[{}]])}, "is not an npz file of numbers (Object arrays cannot be loaded"),
    ],
)
def test_an_npz_that_is_not_right(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = npz(tmp_path / "q.npz", **arrays)
    with pytest.raises(EvaluationError) as error:
        read_queries(path)
    assert message.replace("{path}", str(path)) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b"PK\x03\x04 and no more"])
def test_a_file_that_only_ends_in_npz(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "q.npz"
    path.write_bytes(content)
    with pytest.raises(EvaluationError, match=r"is not an npz file of numbers .* numpy\.savez\."):
        read_queries(path)
    np.save(tmp_path / "array.npy", np.ones((2, 2)))
    (tmp_path / "array.npy").rename(path)
    with pytest.raises(EvaluationError, match="is not an npz file of numbers"):
        read_queries(path)


def test_jsonl_of_embeddings(tmp_path: Path) -> None:
    path = written(
        tmp_path / "q.jsonl",
        {"id": "a", "embedding": [1, 2.5], "relevant": {"r1": 2, "r2": 0}},
        "",
        {"id": 7, "embedding": [3, 4], "relevant": ["r1", 5]},
        {"id": "c", "embedding": [5, 6]},
    )
    queries = read_queries(path, full_dims=2)
    assert queries.ids == ("a", "7", "c")
    assert queries.embeddings is not None
    assert queries.embeddings.tolist() == [[1, 2.5], [3, 4], [5, 6]]
    assert queries.embeddings.dtype == np.float32
    assert queries.texts is None
    assert queries.qrels == {"a": {"r1": 2.0, "r2": 0.0}, "7": {"r1": 1.0, "5": 1.0}}


def test_generated_queries_are_told_from_others(tmp_path: Path) -> None:
    ours = {"id": "a", "text": "x"}
    assert read_queries(written(tmp_path / "q.jsonl", ours)).source == "queries"
    assert (
        read_queries(written(tmp_path / "q.jsonl", ours, {"id": "b", "text": "y", "generated": True})).source
        == "generated"
    )


def test_jsonl_of_texts(tmp_path: Path) -> None:
    queries = read_queries(written(tmp_path / "q.jsonl", {"id": "a", "text": "mörk"}, {"id": "b", "text": "two"}))
    assert (queries.embeddings, queries.texts, queries.qrels) == (None, ("mörk", "two"), {})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 3 of {path} is not JSON ("),
        ([1, 2], "line 3 of {path} is not an object: '[1, 2]'. "),
        ({"embedding": [1, 2]}, "line 3 of {path} has the id None, "),
        ({"id": True, "embedding": [1, 2]}, "has the id True, "),
        ({"id": "x"}, "line 3 of {path} needs either 'embedding' or 'text', not both. "),
        ({"id": "x", "text": "x", "embedding": [1, 2]}, "needs either"),
        ({"id": "x", "text": " "}, "has the text ' '. "),
        ({"id": "x", "text": "words"}, "line 3 of {path} has a text, those before do not. "),
        ({"id": "x", "embedding": "words"}, "line 3 of {path}: 'embedding' is not a list of numbers ("),
        ({"id": "x", "embedding": [[1, 2]]}, "'embedding' has shape (1, 2), "),
        ({"id": "x", "embedding": []}, "'embedding' has shape (0,), "),
        ({"id": "x", "embedding": [1, None]}, "1 of 2 queries of {path} are not finite as float32: id 'x'. "),
        ('{"id": "x", "embedding": [1, NaN]}', "1 of 2 queries of {path} are not finite as float32: id 'x'. "),
        ({"id": "x", "embedding": [1, 2], "relevant": "r"}, "line 3 of {path}: 'relevant' is 'r', expected a list"),
        ({"id": "x", "embedding": [1, 2], "relevant": {"r": "1"}}, "grades row 'r' '1', expected a number. "),
        ({"id": "x", "embedding": [1, 2], "relevant": [None]}, "has the id None, "),
        ({"id": "a", "embedding": [1, 2]}, "has id 'a' more than once. "),
    ],
)
def test_a_line_that_is_not_right(tmp_path: Path, line: object, message: str) -> None:
    path = written(tmp_path / "q.jsonl", {"id": "a", "embedding": [1, 2]}, "", line)
    with pytest.raises(EvaluationError) as error:
        read_queries(path)
    assert message.replace("{path}", str(path)) in str(error.value)


def test_lengths_are_checked(tmp_path: Path) -> None:
    path = written(tmp_path / "q.jsonl", {"id": "a", "embedding": [1, 2]}, {"id": "b", "embedding": [1, 2, 3]})
    with pytest.raises(DimensionError, match=r"the query in line 2 of .* has 3 dimensions, expected 2\."):
        read_queries(path)
    with pytest.raises(DimensionError, match=r"the query in line 1 of .* has 2 dimensions, expected 3\."):
        read_queries(path, full_dims=3)
    with pytest.raises(DimensionError, match=r"a query of .* has 4 dimensions, expected 3\."):
        read_queries(npz(tmp_path / "q.npz", queries=np.ones((2, 4))), full_dims=3)


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_anything(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(EvaluationError, match="holds no queries"):
        read_queries(path)
    with pytest.raises(EvaluationError, match="holds no qrels"):
        read_qrels(path)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EvaluationError, match=r"is not UTF-8 .* \.npz\."):
        read_queries(path)


def test_trec(tmp_path: Path) -> None:
    path = written(tmp_path / "qrels", "q1 0 d1 2", "q1\t0\td2\t0", "", "q2 Q0 d1 -1")
    assert read_qrels(path) == {"q1": {"d1": 2.0, "d2": 0.0}, "q2": {"d1": -1.0}}


def test_beir(tmp_path: Path) -> None:
    path = tmp_path / "test.tsv"
    path.write_bytes(b"\xef\xbb\xbfquery-id\tcorpus-id\tscore\r\nq 1\td 1\t1\r\nq 1\td2\t0.5\r\n")
    assert read_qrels(path) == {"q 1": {"d 1": 1.0, "d2": 0.5}}
    with pytest.raises(EvaluationError, match="holds no qrels"):
        read_qrels(written(path, "query-id\tcorpus-id\tscore"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["q1 0 d1 1", "q1 0 d2"], "line 2 of {path} is 'q1 0 d2', expected query, 0, row and a number. "),
        (["q1"], "line 1 of {path} is 'q1', "),
        (["q1 0 d1 1 5"], "line 1 of {path} is "),
        (["q1 0 d1 much"], "line 1 of {path} is "),
        (["q1 0 d1 nan"], "line 1 of {path} is "),
        (["query-id\tcorpus-id\tscore", "q1 d1 1"], "line 2 of {path} is 'q1 d1 1', expected query, row and a numeric"),
        (["q1 0 d1 1", "q2 0 d1 1", "q1 0 d1 2"], "line 3 of {path} grades row 'd1' of query 'q1' 2, "),
    ],
)
def test_qrels_that_are_not_right(tmp_path: Path, lines: list[str], message: str) -> None:
    path = written(tmp_path / "qrels", *lines)
    with pytest.raises(EvaluationError) as error:
        read_qrels(path)
    assert message.replace("{path}", str(path)) in str(error.value)


def test_the_same_grade_twice_is_no_error(tmp_path: Path) -> None:
    assert read_qrels(written(tmp_path / "qrels", "q1 0 d1 1", "q1 0 d1 1")) == {"q1": {"d1": 1.0}}


def test_positions() -> None:
    qrels = {"b": {"12": 1.0, "10": 0.0}, "a": {"11": 2.0}}
    assert positions(qrels, ["a", "b", "c"], [10, 11, 12]) == {1: {2: 1.0, 0: 0.0}, 0: {1: 2.0}}


def test_unknown_ids_are_named_and_counted() -> None:
    qrels = {"a": {"1": 1.0, "7": 1.0}, "x": {"8": 1.0}, "y": {"9": 1.0, "6": 1.0, "7": 1.0}}
    with pytest.raises(EvaluationError) as error:
        positions(qrels, ["a"], [1, 2])
    assert str(error.value).startswith(
        "2 of 3 queries in qrels are not there, ids 'x', 'y'; "
        "4 of 5 rows in qrels are not there, ids '7', '8', '9' and 1 more. "
    )
    assert positions(qrels, ["a"], [1, 2], ignore_unknown=True) == {0: {0: 1.0}}
    with pytest.raises(EvaluationError, match=r"^1 of 1 rows in qrels are not there, id '3'\. "):
        positions({"a": {"3": 1.0}}, ["a"], [1, 2])
