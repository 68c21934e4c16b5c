"""Embeddings by OpenAI, or by any server that speaks its /v1/embeddings."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from multiprocessing.pool import ThreadPool
from typing import Any

import numpy as np

from mrl_pg.embed import Embedder, Usage, estimate_tokens
from mrl_pg.errors import EmbedError
from mrl_pg.openai_sdk import CHECK_URL, UNFIT, connect
from mrl_pg.vectors import FloatArray

# US dollars per million tokens, as published in May 2026.
PRICES = {"text-embedding-3-small": 0.02, "text-embedding-3-large": 0.13, "text-embedding-ada-002": 0.10}

# The API's limits. Nearly all that people write has more than two bytes a token, so 600,000 bytes are no more than the
# 300,000 tokens that a request may have.
MAX_INPUTS = 2_048
MAX_REQUEST_BYTES = 600_000
MAX_INPUT_TOKENS = 8_191


def openai_embedder(
    model: str,
    *,
    dimensions: int | None = None,
    base_url: str | None = None,
    api_key: str | None = None,
    batch_size: int = 256,
    concurrency: int = 4,
    max_retries: int = 6,
) -> Embedder:
    """Returns an embedder that asks OpenAI, or another server with the same API.

    The SDK tries again after errors of the server, too many requests and broken connections, and waits as long as the
    server says (Retry-After). A request that is refused for what is in it is sent again in halves, down to the texts
    that the model does not take.

    :param model: name of the model, as the server knows it.
    :param dimensions: length of the embeddings, where the model can shorten them; full size if None.
    :param base_url: where the API is; OPENAI_BASE_URL, or else OpenAI, if None.
    :param api_key: OPENAI_API_KEY if None.
    :param batch_size: texts a request, at most 2,048; a request has at most 600,000 bytes as well.
    :param concurrency: requests under way at a time.
    :param max_retries: how often a request is tried again.
    :raises EmbedError: where there is no key, and on a call for whatever goes wrong; no message repeats the key.
    """
    if not 1 <= batch_size <= MAX_INPUTS:
        raise EmbedError(f"batch_size must be between 1 and {MAX_INPUTS:,}, not {batch_size}. The default is 256.")
    connection = connect(
        base_url,
        api_key,
        concurrency=concurrency,
        max_retries=max_retries,
        failure=EmbedError,
        unfit="Check the model and the dimensions.",
    )
    usage = Usage(price=PRICES.get(model))

    import openai

    shape: dict[str, Any] = {} if dimensions is None else {"dimensions": dimensions}

    def ask(texts: list[str]) -> Any:
        return connection.client.embeddings.create(model=model, input=texts, encoding_format="base64", **shape)

    def send(texts: list[str]) -> tuple[list[FloatArray | None], int]:
        """Returns a vector for each text, or None where the model does not take it, and the tokens used."""
        try:
            return _read(ask(texts), len(texts))
        except openai.APIStatusError as error:
            if error.status_code not in UNFIT:
                raise
        if len(texts) == 1:
            # Is it this text, or anything we could ask? The latter raises here.
            return [None], _read(ask(["a"]), 1)[1]
        half = len(texts) // 2
        (vectors, tokens), (more_vectors, more_tokens) = send(texts[:half]), send(texts[half:])
        return vectors + more_vectors, tokens + more_tokens

    def embed(texts: Sequence[str]) -> list[FloatArray | None]:
        empty = [n for n, text in enumerate(texts) if not text.strip()]
        if empty:
            raise EmbedError(f"text {empty[0]} of {len(texts):,} is empty, which the API refuses. Leave it out.")
        requests = list(_requests(texts, batch_size))
        found: dict[int, FloatArray | None] = {}

        def send_all() -> None:
            # Its threads are daemons, so that Ctrl-C does not wait for the requests that are under way.
            with ThreadPool(min(concurrency, len(requests))) as pool:
                answers = pool.imap(send, [[texts[n] for n in request] for request in requests])
                for request, (vectors, tokens) in zip(requests, answers, strict=True):
                    usage.tokens += tokens
                    found.update(zip(request, vectors, strict=True))

        connection.run(send_all)
        return [found[n] for n in range(len(texts))]

    return Embedder(embed, model, usage)


def _requests(texts: Sequence[str], batch_size: int) -> Iterator[list[int]]:
    """Yields the positions of the texts of each request; a text that may be too long is alone in its request."""
    request: list[int] = []
    total = 0
    for n, text in enumerate(texts):
        size = _size(text)
        if estimate_tokens(size) > MAX_INPUT_TOKENS:
            yield [n]
            continue
        if request and (len(request) == batch_size or total + size > MAX_REQUEST_BYTES):
            yield request
            request, total = [], 0
        request.append(n)
        total += size
    if request:
        yield request


def _size(text: str) -> int:
    return len(text.encode())


def _read(answer: Any, texts: int) -> tuple[list[FloatArray | None], int]:
    """Returns the vectors of an answer in the order of the texts, whatever order they came in, and the tokens used."""
    data = getattr(answer, "data", None)
    if not isinstance(data, list):
        raise EmbedError(f"the server answered, but not with embeddings. {CHECK_URL}")
    vectors = {item.index: item.embedding for item in data}
    if len(data) != texts or vectors.keys() != set(range(texts)):
        raise EmbedError(
            f"the API returned {len(data):,} vectors with {len(vectors):,} different indexes for {texts:,} texts. "
            "Run it again."
        )
    return [_decoded(vectors[n]) for n in range(texts)], getattr(answer.usage, "total_tokens", None) or 0


def _decoded(vector: Any) -> FloatArray:
    """Returns a vector, which a server may send as numbers although it was asked for base64."""
    try:
        if isinstance(vector, str):
            return np.frombuffer(base64.b64decode(vector, validate=True), dtype="<f4")
        return np.asarray(vector, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise EmbedError(f"the API returned something else than a vector ({error}). {CHECK_URL}") from error
