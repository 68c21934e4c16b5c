"""Asking a chat model: OpenAI's, or one on any server that speaks its /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mrl_pg.errors import GenerateError
from mrl_pg.openai_sdk import CHECK_URL, UNFIT, connect

# US dollars per million tokens, in and out, as published in 2026. What a model thinks before it answers counts as out.
PRICES = {
    "gpt-4o-mini": (0.15, 0.60),
    "gpt-4.1-mini": (0.40, 1.60),
    "gpt-4.1-nano": (0.10, 0.40),
    "gpt-5-mini": (0.25, 2.00),
    "gpt-5-nano": (0.05, 0.40),
    "gpt-5.4-nano": (0.20, 1.25),
}

_HARMLESS = "A short note on apples, which keep through the winter in a cool cellar."


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model has answered.

    :ivar text: empty where it said nothing; None where it does not take the text it was asked about.
    :ivar tokens_in: tokens of what it read, as it counted them.
    :ivar tokens_out: tokens of what it wrote.
    """

    text: str | None
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(frozen=True, slots=True)
class Chat:
    """Instructions and a text in, a reply out.

    :ivar function: may be called by several threads at a time.
    :ivar prices: US dollars per million tokens, in and out; None where they are not known.
    :ivar concurrency: requests under way at a time.
    """

    function: Callable[[str, str], Reply] = field(repr=False)
    model: str
    prices: tuple[float, float] | None = None
    concurrency: int = 4

    def cost(self, tokens_in: int, tokens_out: int) -> float | None:
        """Returns the price of so many tokens in US dollars."""
        return self.prices and (tokens_in * self.prices[0] + tokens_out * self.prices[1]) / 1e6


def openai_chat(
    model: str,
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    prices: tuple[float, float] | None = None,
    concurrency: int = 4,
    max_retries: int = 6,
) -> Chat:
    """Returns a chat with a model of OpenAI, or of another server with the same API.

    :param model: name of the model, as the server knows it.
    :param base_url: where the API is; OPENAI_BASE_URL, or else OpenAI, if None.
    :param api_key: OPENAI_API_KEY if None.
    :param prices: US dollars per million tokens, in and out; those of some models are known.
    :param concurrency: requests under way at a time.
    :param max_retries: how often a request is tried again after errors of the server and of the network.
    :raises GenerateError: where there is no key, and on a call for whatever goes wrong; no message repeats the key.
    """
    connection = connect(
        base_url,
        api_key,
        concurrency=concurrency,
        max_retries=max_retries,
        failure=GenerateError,
        unfit="Check the model.",
    )

    import openai

    def send(instructions: str, text: str) -> Reply:
        messages = [{"role": "system", "content": instructions}, {"role": "user", "content": text}]
        # Nothing else: temperature, response_format and limits are refused by one model or another.
        return _read(connection.client.chat.completions.create(model=model, messages=messages))

    def ask(instructions: str, text: str) -> Reply:
        try:
            return send(instructions, text)
        except openai.APIStatusError as error:
            if error.status_code not in UNFIT:
                raise
        # Is it this text, or anything we could ask? The latter raises here.
        other = send(instructions, _HARMLESS)
        return Reply(None, other.tokens_in, other.tokens_out)

    def guarded(instructions: str, text: str) -> Reply:
        return connection.run(lambda: ask(instructions, text))

    return Chat(guarded, model, prices or PRICES.get(model), concurrency)


def _read(answer: Any) -> Reply:
    choices = getattr(answer, "choices", None)
    if not isinstance(choices, list):
        raise GenerateError(f"the server answered, but not with a chat completion. {CHECK_URL}")
    text = getattr(getattr(choices[0], "message", None), "content", None) if choices else None
    usage = getattr(answer, "usage", None)
    tokens_in, tokens_out = (getattr(usage, name, None) or 0 for name in ("prompt_tokens", "completion_tokens"))
    return Reply(text if isinstance(text, str) else "", tokens_in, tokens_out)
