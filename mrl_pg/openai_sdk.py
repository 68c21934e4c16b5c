"""The SDK of OpenAI: a client for any server that speaks its API, and errors that never repeat the key."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mrl_pg.errors import MrlError

T = TypeVar("T")

# The request is at fault, perhaps by a single text; 413 and 422 are what other servers than OpenAI's answer.
UNFIT = (400, 413, 422)
CHECK_URL = "Check base_url, which usually ends in /v1."

_TIMEOUT = 120.0
_ADVICE = {
    401: "Check the API key (OPENAI_API_KEY).",
    403: "Check what the API key (OPENAI_API_KEY) may do.",
    404: "Check the model, and base_url, which usually ends in /v1.",
    429: "Check your quota, or wait and run it again.",
}


@dataclass(frozen=True, slots=True)
class Connection:
    """A client of the SDK, and what its errors become.

    :ivar failure: the error that users get.
    :ivar unfit: what to do about a request that is refused for what is in it.
    """

    client: Any = field(repr=False)
    key: str = field(repr=False)
    failure: type[MrlError]
    unfit: str

    def run(self, work: Callable[[], T]) -> T:
        """Returns what the work returns.

        :raises failure: for what the SDK raises; without the key.
        """
        import openai

        try:
            return work()
        except openai.OpenAIError as error:
            told = self._told(error)
        except json.JSONDecodeError as error:
            told = f"the server's answer is not JSON ({error}). {CHECK_URL}"
        # Raised out here, so that the SDK's error, in which a server may repeat the key, is not chained to ours. A
        # word that stands in for a key may be part of others.
        raise self.failure(told.replace(self.key, "…") if len(self.key) >= 8 else told)

    def _told(self, error: Any) -> str:
        """Returns what an error of the SDK says, and what to do."""
        status = getattr(error, "status_code", None)
        if status is None:
            cause = f": {error.__cause__}" if error.__cause__ else ""
            return f"the API cannot be reached ({error}{cause}). Check the network and base_url, and run it again."
        body = error.body if isinstance(error.body, dict) else {}
        said = " ".join(str(body.get("message", error.message)).split())
        advice = self.unfit if status in UNFIT else _ADVICE.get(status, "Run it again.")
        return f"the API refused the request (HTTP {status}): {said[:300]} {advice}"


def connect(
    base_url: str | None,
    api_key: str | None,
    *,
    concurrency: int,
    max_retries: int,
    failure: type[MrlError],
    unfit: str,
) -> Connection:
    """Returns a connection to OpenAI, or another server with the same API.

    The SDK tries again after errors of the server, too many requests and broken connections, and waits as long as the
    server says (Retry-After).

    :param base_url: where the API is; OPENAI_BASE_URL, or else OpenAI, if None.
    :param api_key: OPENAI_API_KEY if None.
    :param concurrency: requests that will be under way at a time.
    :param max_retries: how often a request is tried again.
    :raises failure: for options that cannot be, or where there is no key.
    """
    if concurrency < 1 or max_retries < 0:
        raise failure(
            f"concurrency must be at least 1 and max_retries at least 0, not {concurrency} and {max_retries}. "
            "The defaults are 4 and 6."
        )
    if base_url is not None and not base_url.startswith(("http://", "https://")):
        raise failure(f"base_url {base_url!r} is no URL. Write https://host/v1.")
    key = (os.environ.get("OPENAI_API_KEY", "") if api_key is None else api_key).strip()
    if not key:
        raise failure(
            "there is no API key: OPENAI_API_KEY is not set. Set it; for a server that asks for none any word will do."
        )
    # The HTTP library would repeat it in its error.
    if not key.isascii() or not key.isprintable():
        raise failure("the API key has characters that no key has. Check OPENAI_API_KEY.")

    import openai

    client = openai.OpenAI(api_key=key, base_url=base_url, max_retries=max_retries, timeout=_TIMEOUT)
    return Connection(client, key, failure, unfit)
