"""Embeddings by a model of sentence-transformers, on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mrl_pg.embed import Embedder
from mrl_pg.errors import MrlError


def sentence_transformers_embedder(
    model: str,
    *,
    truncate_dim: int | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    batch_size: int = 32,
) -> Embedder:
    """Returns an embedder of a model by its name or directory, which is loaded here and now.

    Texts longer than the model takes are cut by the model. Many models want one prompt for what is stored and another
    for what is asked.

    :param truncate_dim: length to cut the embeddings to; full size if None.
    :param prompt: put before every text.
    :param prompt_name: the same, by its name in the model.
    :param batch_size: texts the model computes at a time.
    :raises MrlError: where sentence-transformers is not installed.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError as error:
        raise MrlError(
            f"sentence-transformers cannot be imported ({error}). Run: pip install 'mrl-pg[sentence-transformers]'"
        ) from error
    loaded = SentenceTransformer(model, truncate_dim=truncate_dim)

    def embed(texts: Sequence[str]) -> Any:
        return loaded.encode(
            list(texts), prompt=prompt, prompt_name=prompt_name, batch_size=batch_size, show_progress_bar=False
        )

    return Embedder(embed, model)
