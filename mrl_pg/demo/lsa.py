"""Embeddings without a model or a key: latent semantic analysis of the texts at hand.

TF-IDF over words and their four-letter pieces, then a truncated singular value decomposition. Its coordinates
come in the order of their singular values, so that a prefix of an embedding is the best embedding of its
length: it truncates like that of a Matryoshka model. Of language it knows only which words keep company.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from mrl_pg.errors import MrlError

_MAX_TERMS = 20_000
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")  # TextWrapper and text_wrapper have two words each


@dataclass(frozen=True, eq=False)
class Lsa:
    """A fitted model: the terms it knows, and what each adds to the embedding of a text that holds it."""

    vocabulary: dict[str, int]
    """Term to its row in ``projection``, in the order of the rows."""
    projection: NDArray[np.float32]
    """(terms, dims), the most telling dimension first."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The embeddings of ``texts``, (len(texts), dims), each of unit length.

        A text that holds no known term has the zero vector, which is near to nothing: the caller refuses it.
        """
        embeddings = np.zeros((len(texts), self.projection.shape[1]), np.float32)
        for row, text in zip(embeddings, texts, strict=True):
            counts = Counter(self.vocabulary[term] for term in _terms(text) if term in self.vocabulary)
            weights = 1 + np.log(np.array(list(counts.values()), np.float32))
            row += weights @ self.projection[list(counts)]
            row /= np.linalg.norm(row) or 1
        return embeddings

    def save(self, path: str | Path) -> None:
        """Write the model to ``path``, entirely or not at all: a .npz of plain arrays, nothing pickled."""
        unfinished = Path(f"{path}.unfinished")
        with unfinished.open("wb") as file:
            terms = np.array(list(self.vocabulary))
            np.savez(file, terms=terms, projection=self.projection.astype(np.float16))
        unfinished.replace(path)


def load(path: str | Path) -> Lsa:
    """The model that :meth:`Lsa.save` wrote to ``path``; it embeds exactly as it did then.

    :raises FileNotFoundError: there is no such file.
    :raises MrlError: the file holds something else.
    """
    try:
        with Path(path).open("rb") as file, np.load(file) as arrays:
            terms, projection = arrays["terms"].tolist(), arrays["projection"].astype(np.float32)
    except (KeyError, TypeError, ValueError, EOFError, BadZipFile) as failure:
        raise MrlError(f"{path} does not hold a saved model. Run: mrl-pg demo --fresh") from failure
    return Lsa(_numbered(terms), projection)


def fit(texts: Sequence[str], dims: int = 1024, seed: int = 0) -> Lsa:
    """A model of ``texts`` whose embeddings have ``dims`` dimensions: 3 s for 5,300 summaries and 1024 dims.

    :param seed: of the random start of the decomposition; the same texts and seed give the same model.
    :raises MrlError: scikit-learn is missing, or the texts are too few or too unlike for ``dims``.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.utils.extmath import randomized_svd
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
    except ImportError as missing:
        raise MrlError(
            "The demo's embeddings need the package scikit-learn, which is not installed. "
            "Run: pip install 'mrl-pg[demo]'"
        ) from missing

    vectorizer = TfidfVectorizer(
        analyzer=_terms, sublinear_tf=True, min_df=2, max_features=_MAX_TERMS, dtype=np.float32
    )
    tfidf = vectorizer.fit_transform(texts)
    if min(tfidf.shape) < dims:
        raise MrlError(
            f"{tfidf.shape[0]} texts with {tfidf.shape[1]} terms that occur twice give no {dims} dims. "
            f"Bring more texts, or ask for dims={min(tfidf.shape)}."
        )
    # One thread: two are no faster on two cores, and ten times slower where another program has one of them.
    # Two iterations, not scikit-learn's four: the neighbours are the same.
    with threadpool_limits(1):
        _, _, components = randomized_svd(tfidf, dims, n_iter=2, random_state=seed)
    # Coordinates are TF-IDF times the components, and the IDF of a term is the same for every text.
    projection = vectorizer.idf_[:, None] * components.T
    # As precise as it is saved, so that a model embeds alike before and after.
    terms = vectorizer.get_feature_names_out().tolist()
    return Lsa(_numbered(terms), projection.astype(np.float16).astype(np.float32))


def _numbered(terms: Iterable[str]) -> dict[str, int]:
    return {term: row for row, term in enumerate(terms)}


def _terms(text: str) -> Iterator[str]:
    """The words of two letters or more, each with its four-letter pieces (one of ``rmtree`` is ``tree``)."""
    for word in _WORD.findall(text):
        if len(word) > 1:
            yield word.lower()
            padded = f" {word.lower()} "
            yield from (padded[start : start + 4] for start in range(len(padded) - 3))
