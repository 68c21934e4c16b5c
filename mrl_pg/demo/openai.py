"""Embeddings by OpenAI, for a demo with a real Matryoshka model."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mrl_pg.errors import MrlError

MODEL = "text-embedding-3-small"
DIMS = 1536

_BATCH = 256


def check_key() -> None:
    """Returns nothing; raises MrlError where the environment has no key."""
    if not os.environ.get("OPENAI_API_KEY"):
        raise MrlError(
            "--embedder openai needs a key, and OPENAI_API_KEY is not set. "
            "Set it, or run without a key: mrl-pg demo --embedder lsa"
        )


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """The embeddings of ``texts``, (len(texts), 1536), each of unit length.

    :raises MrlError: there is no key, or OpenAI does not answer.
    """
    check_key()
    import openai

    embeddings = np.empty((len(texts), DIMS), np.float32)
    try:
        client = openai.OpenAI()
        for start in range(0, len(texts), _BATCH):
            answer = client.embeddings.create(model=MODEL, input=list(texts[start : start + _BATCH]))
            for item in answer.data:
                embeddings[start + item.index] = item.embedding
    except openai.OpenAIError as failure:
        raise MrlError(
            f"OpenAI did not embed the texts: {failure} Put that right, or run: mrl-pg demo --embedder lsa"
        ) from failure
    return embeddings
