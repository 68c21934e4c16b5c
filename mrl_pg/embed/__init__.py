"""Embedding text: whatever takes texts and returns their vectors, its results checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from mrl_pg.errors import EmbedError
from mrl_pg.vectors import FloatArray

# What an embedder is made of: n texts in, n rows of numbers out (lists, arrays, tensors) in the order of the texts,
# None for a text that the model does not take.
TextFunction: TypeAlias = Callable[[Sequence[str]], Any]

# English has more than 4 bytes of UTF-8 a token of OpenAI's models, code and German about 3.5, Chinese 2.5 to 3.
BYTES_PER_TOKEN = 3

_EXPECTED = "Check the embedder: it must return one vector for each text, all of one length."


@dataclass
class Usage:
    """What an embedder has used up so far.

    :ivar tokens: as the model counted them.
    :ivar price: US dollars per million tokens; None where it is not known.
    """

    tokens: int = 0
    price: float | None = None

    def cost(self, tokens: int) -> float | None:
        """Returns the price of so many tokens in US dollars."""
        return None if self.price is None else tokens * self.price / 1e6


@dataclass(frozen=True, slots=True)
class Embedder:
    """Texts in, float32 (n, dims) out: a function whose every result is checked.

    :ivar model: name of the model; a table that knows the model of its embeddings takes no other.
    :ivar usage: counts on with every call.
    """

    function: TextFunction = field(repr=False)
    model: str | None = None
    usage: Usage = field(default_factory=Usage)

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        """Returns the embeddings (n, dims) of n texts, in their order.

        :raises EmbedError: where they are not n vectors of one length and of finite numbers.
        """
        if not texts:
            return np.empty((0, 0), np.float32)
        vectors = _listed(self.function(texts), len(texts))
        refused = [n for n, vector in enumerate(vectors) if vector is None]
        embeddings = _checked([vector for vector in vectors if vector is not None])
        if refused:
            raise EmbedError(
                f"the model does not take {len(refused):,} of {len(texts):,} texts, the first is text {refused[0]}. "
                "Shorten it: too long is the usual reason.",
                refused=refused,
                embeddings=embeddings,
            )
        return embeddings


def as_embedder(function: TextFunction, *, model: str | None = None) -> Embedder:
    """Returns an embedder of any function from n texts to n vectors; an embedder is returned as it is."""
    return function if isinstance(function, Embedder) else Embedder(function, model)


def embed_one(text: str, embedder: TextFunction) -> FloatArray:
    """Returns the embedding (dims,) of one text.

    :raises EmbedError: for a text without a word, and as the embedder does.
    """
    if not text.strip():
        raise EmbedError("the text is empty, and nothing is near to nothing. Pass some words.")
    vector: FloatArray = as_embedder(embedder)([text])[0]
    return vector


def estimate_tokens(n: int) -> int:
    """Returns about how many tokens n bytes of UTF-8 are: rather too many than too few."""
    return -(-n // BYTES_PER_TOKEN)


def _listed(vectors: Any, expected: int) -> list[Any]:
    try:
        rows = list(vectors)
    except TypeError as error:
        raise EmbedError(f"the embedder returned no vectors ({error}). {_EXPECTED}") from error
    if len(rows) != expected:
        raise EmbedError(f"the embedder returned {len(rows):,} vectors for {expected:,} texts. {_EXPECTED}")
    return rows


def _checked(vectors: list[Any]) -> FloatArray:
    """Returns the vectors as float32 (n, dims); EmbedError where their lengths differ or a number is not finite."""
    if not vectors:
        return np.empty((0, 0), np.float32)
    try:
        # float64 numbers beyond float32 become infinite here, and are reported as such.
        with np.errstate(over="ignore"):
            rows = [np.asarray(vector, dtype=np.float32) for vector in vectors]
    except (TypeError, ValueError) as error:
        raise EmbedError(f"the embedder returned something else than numbers ({error}). {_EXPECTED}") from error
    shapes = sorted({row.shape for row in rows})
    if len(shapes) > 1 or len(shapes[0]) != 1 or shapes[0] == (0,):
        shown = ", ".join(map(str, shapes))
        raise EmbedError(f"the embedder returned vectors of shape {shown}, expected (dims,) for all. {_EXPECTED}")
    array = np.stack(rows)
    if not np.isfinite(array).all():
        row, position = np.argwhere(~np.isfinite(array))[0]
        raise EmbedError(
            f"the embedder returned {array[row, position]} at position {position} of vector {row}, and every number "
            f"must be finite as float32. {_EXPECTED}"
        )
    return array
