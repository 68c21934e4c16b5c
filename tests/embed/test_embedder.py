"""Any function can be an embedder, and none is believed."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mrl_pg import EmbedError, MrlError
from mrl_pg.embed import Embedder, Usage, as_embedder, embed_one, estimate_tokens
from mrl_pg.embed.sentence_transformers import sentence_transformers_embedder


@pytest.mark.parametrize(
    "vectors",
    [
        [[1, 2, 3], [4, 5, 6]],
        ([1.0, 2.0, 3.0], (4.0, 5.0, 6.0)),
        np.array([[1, 2, 3], [4, 5, 6]], np.float64),
        np.array([[1, 2, 3], [4, 5, 6]], np.float16),
        [np.array([1, 2, 3]), np.array([4, 5, 6])],
        (row for row in ([1, 2, 3], [4, 5, 6])),
    ],
)
def test_takes_vectors_of_any_kind(vectors: Any) -> None:
    made = as_embedder(lambda texts: vectors)(["a", "b"])
    assert made.dtype == np.float32
    assert made.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([[1, 2]], "returned 1 vectors for 2 texts"),
        ([[1, 2]] * 3, "returned 3 vectors for 2 texts"),
        (np.ones((2, 3)).ravel(), "returned 6 vectors for 2 texts"),
        ([[1, 2], [1, 2, 3]], r"vectors of shape \(2,\), \(3,\), expected \(dims,\) for all"),
        ([1.0, 2.0], r"vectors of shape \(\), expected \(dims,\) for all"),
        (np.ones((2, 3, 1)), r"vectors of shape \(3, 1\), expected \(dims,\) for all"),
        ([[], []], r"vectors of shape \(0,\)"),
        ([[1, 2], [1, float("nan")]], "returned nan at position 1 of vector 1"),
        ([[1, float("inf")], [1, 2]], "returned inf at position 1 of vector 0"),
        ([[1, 1e300], [1, 2]], "returned inf at position 1 of vector 0"),
        ([["x"], ["y"]], "returned something else than numbers"),
        (None, "returned no vectors"),
    ],
)
def test_refuses_what_are_no_vectors(vectors: Any, message: str) -> None:
    with pytest.raises(EmbedError, match=message) as raised:
        as_embedder(lambda texts: vectors)(["a", "b"])
    assert str(raised.value).endswith("Check the embedder: it must return one vector for each text, all of one length.")
    assert raised.value.refused == ()


def test_none_is_a_text_the_model_does_not_take() -> None:
    with pytest.raises(EmbedError, match=r"does not take 2 of 3 texts, the first is text 0\. Shorten it") as raised:
        as_embedder(lambda texts: [None, [1, 2], None])(["a", "b", "c"])
    assert raised.value.refused == [0, 2]
    assert raised.value.embeddings.tolist() == [[1, 2]]
    with pytest.raises(EmbedError) as raised:
        as_embedder(lambda texts: [None])(["a"])
    assert raised.value.refused == [0]


def test_errors_of_the_function_pass() -> None:
    def broken(texts: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        as_embedder(broken)(["a"])


def test_an_embedder_stays_what_it_is() -> None:
    embedder = as_embedder(lambda texts: [[1.0]] * len(texts), model="m")
    assert as_embedder(embedder) is embedder
    assert (embedder.model, repr(embedder)) == ("m", "Embedder(model='m', usage=Usage(tokens=0, price=None))")
    assert embedder([]).shape == (0, 0)


def test_one_text() -> None:
    assert embed_one("a", lambda texts: [[1, 2]]).tolist() == [1, 2]
    for text in ("", " \n"):
        with pytest.raises(EmbedError, match="the text is empty"):
            embed_one(text, lambda texts: [[1, 2]])


def test_estimates() -> None:
    assert [estimate_tokens(n) for n in (0, 1, 3, 4, 3_000)] == [0, 1, 1, 2, 1_000]
    assert Usage(price=0.13).cost(2_000_000) == 0.26
    assert Usage().cost(10) is None


def test_sentence_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class SentenceTransformer:
        def __init__(self, name: str, truncate_dim: int | None) -> None:
            asked.update(name=name, truncate_dim=truncate_dim)

        def encode(self, sentences: list[str], **options: Any) -> Any:
            asked.update(options, sentences=sentences)
            return np.ones((len(sentences), 3), np.float32)

    module = SimpleNamespace(SentenceTransformer=SentenceTransformer)
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    embedder = sentence_transformers_embedder("some/model", truncate_dim=3, prompt_name="document")
    assert isinstance(embedder, Embedder)
    assert embedder.model == "some/model"
    assert embedder(("a", "b")).shape == (2, 3)
    assert asked == {
        "name": "some/model",
        "truncate_dim": 3,
        "sentences": ["a", "b"],
        "prompt": None,
        "prompt_name": "document",
        "batch_size": 32,
        "show_progress_bar": False,
    }


def test_sentence_transformers_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MrlError, match=r"cannot be imported .* Run: pip install 'mrl-pg\[sentence-transformers\]'$"):
        sentence_transformers_embedder("some/model")
