"""The real SDK of OpenAI against a server that misbehaves: every vector belongs to its text, or there is an error."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrl_pg import EmbedError
from mrl_pg.embed.openai import MAX_REQUEST_BYTES, openai_embedder
from tests.embed.conftest import FULL_DIMS, KEY, MODEL, Answer, Api, cut, refuse, shuffled, vector_of, with_data

TEXTS = [f"words of text {n}" for n in range(10)]
RIGHT = np.stack([vector_of(text) for text in TEXTS])


def test_vectors_as_base64_in_one_request(api: Api) -> None:
    embedder = api.embedder()
    vectors = embedder(TEXTS)
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, RIGHT)
    (asked,) = api.asked
    assert asked == {"model": MODEL, "input": TEXTS, "encoding_format": "base64"}
    assert embedder.usage.tokens == 40
    assert embedder.usage.cost(1_000_000) == 0.02
    assert embedder([]).shape == (0, 0)
    assert len(api.asked) == 1


def test_a_server_that_sends_numbers_all_the_same(api: Api) -> None:
    def as_numbers(_: Any, answer: Answer) -> Answer:
        data = [item | {"embedding": vector_of(TEXTS[item["index"]]).tolist()} for item in answer["data"]]
        return answer | {"data": data, "usage": None}

    api.tricks = [as_numbers]
    assert np.array_equal(api.embedder()(TEXTS), RIGHT)


def test_dimensions(api: Api) -> None:
    assert api.embedder(dimensions=8)(TEXTS).shape == (10, 8)
    assert api.asked[0]["dimensions"] == 8


def test_base_url_and_key_of_the_environment(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", api.url)
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    assert np.array_equal(openai_embedder("m")(TEXTS), RIGHT)
    assert api.headers[0]["authorization"] == f"Bearer {KEY}"


def test_an_unknown_model_has_no_price() -> None:
    assert openai_embedder("my-own", api_key=KEY).usage.cost(10) is None


def test_order_is_that_of_the_index(api: Api) -> None:
    api.always = shuffled
    assert np.array_equal(api.embedder(batch_size=7)(TEXTS), RIGHT)


def test_many_requests_at_a_time(api: Api) -> None:
    def slow(_: Any, answer: Answer) -> Answer:
        time.sleep(0.5)
        return shuffled(_, answer)

    api.always = slow
    texts = [f"text {n}" for n in range(500)]
    embedder = api.embedder(batch_size=50, concurrency=10)
    begun = time.monotonic()
    vectors = embedder(texts)
    assert time.monotonic() - begun < 4  # one after the other they take 5 s
    assert np.array_equal(vectors, np.stack([vector_of(text) for text in texts]))
    assert sorted(map(len, api.inputs)) == [50] * 10
    assert embedder.usage.tokens == 1_000


def test_requests_stay_within_the_limits(api: Api) -> None:
    api.dims = 4
    texts = ["x " * 9_000 + str(n) for n in range(40)] + [f"é{n}" for n in range(3_000)] + ["y" * 30_000]
    assert len(api.embedder(batch_size=2_048)(texts)) == len(texts)
    assert all(len(texts) <= 2_048 for texts in api.inputs)
    assert all(sum(len(text.encode()) for text in texts) <= MAX_REQUEST_BYTES for texts in api.inputs)
    assert ["y" * 30_000] in api.inputs  # perhaps too long, so alone
    assert len(api.inputs) == 4


def test_too_many_requests_waits_as_told(api: Api) -> None:
    api.tricks = [refuse(429, headers={"Retry-After": "2"})]
    assert np.array_equal(api.embedder()(TEXTS), RIGHT)
    first, second = api.times
    assert 2.0 <= second - first < 4.0


def test_server_errors_and_cut_connections_are_tried_again(api: Api) -> None:
    api.tricks = [refuse(500), cut, refuse(503)]
    embedder = api.embedder()
    assert np.array_equal(embedder(TEXTS), RIGHT)
    assert len(api.asked) == 4
    assert embedder.usage.tokens == 40


@pytest.mark.parametrize(
    ("trick", "message"),
    [
        (refuse(429, "slow down"), r"refused the request \(HTTP 429\): slow down Check your quota, or wait"),
        (refuse(500, "oh"), r"refused the request \(HTTP 500\): oh Run it again\."),
        (cut, r"the API cannot be reached \(Connection error\..*\)\. Check the network"),
    ],
    ids=["429", "500", "cut"],
)
def test_gives_up_in_the_end(api: Api, trick: Any, message: str) -> None:
    api.always = trick
    with pytest.raises(EmbedError, match=message):
        api.embedder(max_retries=1)(TEXTS)
    assert len(api.asked) == 2


def test_nobody_there() -> None:
    with pytest.raises(EmbedError, match=r"the API cannot be reached \(Connection error\.: .*refused\)"):
        openai_embedder(MODEL, base_url="http://127.0.0.1:1/v1", api_key=KEY, max_retries=0)(TEXTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "returned 9 vectors with 9 different indexes for 10 texts"),
        (lambda data: data + data[:1], "returned 11 vectors with 10 different indexes for 10 texts"),
        (lambda data: data[:-1] + data[:1], "returned 10 vectors with 9 different indexes for 10 texts"),
        (lambda data: [item | {"index": item["index"] + 1} for item in data], "10 different indexes for 10 texts"),
        (lambda data: [], "returned 0 vectors with 0 different indexes for 10 texts"),
        (lambda data: [*data[:-1], data[-1] | {"embedding": [1.0, 2.0]}], r"of shape \(2,\), \(32,\)"),
        (lambda data: [*data[:-1], data[-1] | {"embedding": "AAA"}], "something else than a vector"),
        (lambda data: [*data[:-1], data[-1] | {"embedding": [float("nan")] * 32}], "returned nan at position 0 of "),
        (lambda data: [*data[:-1], data[-1] | {"embedding": None}], "something else than a vector|of shape"),
    ],
)
def test_wrong_answers(api: Api, change: Callable[[Any], Any], message: str) -> None:
    api.tricks = [with_data(change)]
    with pytest.raises(EmbedError, match=message):
        api.embedder()(TEXTS)


def test_one_wrong_answer_of_many(api: Api) -> None:
    api.tricks = [lambda _, answer: answer, with_data(lambda data: data[:-1])]
    with pytest.raises(EmbedError, match="returned 1 vectors with 1 different indexes for 2 texts"):
        api.embedder(batch_size=2)(TEXTS)


@pytest.mark.parametrize("content", [b"<html>", b'{"error": "no"}', b"[]", b""])
def test_answers_that_are_none(api: Api, content: bytes) -> None:
    api.always = lambda handler, _: handler.send(200, content)
    with pytest.raises(EmbedError, match=r"Check base_url, which usually ends in /v1\."):
        api.embedder()(TEXTS)


def test_wrong_path(api: Api) -> None:
    with pytest.raises(EmbedError, match=r"HTTP 404.*Check the model, and base_url"):
        api.embedder(base_url=api.url.removesuffix("/v1"))(TEXTS)


def test_texts_too_long_are_found_and_the_others_embedded(api: Api) -> None:
    api.max_chars = 10_000
    texts = [f"text {n}" for n in range(100)]
    for n in (3, 50, 99):
        texts[n] = "long " * 3_000
    texts[60] = "x" * 40_000
    embedder = api.embedder()
    with pytest.raises(EmbedError, match="does not take 4 of 100 texts, the first is text 3") as raised:
        embedder(texts)
    assert raised.value.refused == [3, 50, 60, 99]
    others = [text for text in texts if len(text) < 100]
    assert np.array_equal(raised.value.embeddings, np.stack([vector_of(text) for text in others]))
    assert embedder.usage.tokens == 2 * 96 + 4  # one to see, for each, whether it is the text


def test_a_request_refused_for_another_reason_is_no_text_too_long(api: Api) -> None:
    api.always = refuse(400, "This model does not support specifying dimensions.")
    with pytest.raises(
        EmbedError, match=r"HTTP 400.*specifying dimensions.*Check the model and the dimensions"
    ) as raised:
        api.embedder()([*TEXTS, "long " * 3_000])
    assert raised.value.refused == ()
    assert len(api.asked) < 10


def test_empty_texts_are_never_sent(api: Api) -> None:
    for text in ("", " \n\t", "\u2003"):
        with pytest.raises(EmbedError, match="text 1 of 3 is empty"):
            api.embedder()(["a", text, "b"])
    assert api.asked == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
def test_the_key_never_shows(api: Api, status: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    api.always = refuse(status, f"Incorrect API key provided: {KEY}.\nBearer {KEY}")
    embedder = api.embedder(max_retries=1)
    with pytest.raises(EmbedError) as raised:
        embedder(TEXTS)
    assert f"HTTP {status}" in str(raised.value)
    error: BaseException | None = raised.value
    while error:  # what a logger or a crash reporter would print
        assert KEY not in repr(error) + str(error)
        error = error.__cause__ or error.__context__
    assert KEY not in repr(embedder) + str(embedder) + caplog.text
    if status == 401:
        assert str(raised.value) == (
            "the API refused the request (HTTP 401): Incorrect API key provided: …. Bearer … "
            "Check the API key (OPENAI_API_KEY)."
        )
        assert len(api.asked) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"api_key": ""}, "there is no API key: OPENAI_API_KEY is not set"),
        ({"api_key": None}, "there is no API key: OPENAI_API_KEY is not set"),
        ({"api_key": "sk-Gehéimnis"}, r"^the API key has characters that no key has\. Check OPENAI_API_KEY\.$"),
        ({"api_key": "sk-Geheim\nnis"}, r"^the API key has characters that no key has\. Check OPENAI_API_KEY\.$"),
        ({"batch_size": 0}, "batch_size must be between 1 and 2,048, not 0"),
        ({"batch_size": 2_049}, "batch_size must be between 1 and 2,048, not 2049"),
        ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"max_retries": -1}, "max_retries at least 0"),
        ({"base_url": "localhost:8000/v1"}, r"base_url 'localhost:8000/v1' is no URL\. Write https://host/v1\."),
    ],
)
def test_bad_options(api: Api, options: dict[str, Any], message: str) -> None:
    with pytest.raises(EmbedError, match=message):
        api.embedder(**options)


def test_a_word_that_stands_in_for_a_key_is_no_secret(api: Api) -> None:
    api.always = refuse(400, "no such model")
    with pytest.raises(EmbedError, match="no such model"):
        api.embedder(api_key="no")(TEXTS)


def test_ctrl_c_does_not_wait_for_requests(api: Api) -> None:
    api.always = refuse(429, headers={"Retry-After": "60"})
    script = (
        "import sys\n"
        "from mrl_pg.embed.openai import openai_embedder\n"
        "embedder = openai_embedder('m', base_url=sys.argv[1], api_key='none', concurrency=2, batch_size=1)\n"
        "try:\n    embedder(['a', 'b', 'c', 'd'])\n"
        "except KeyboardInterrupt:\n    print('stopped')\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script, api.url], text=True, env=environment, **pipes) as process:
        while len(api.asked) < 2:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (out, err, process.returncode) == ("stopped\n", "", 0)


def test_full_dims(api: Api) -> None:
    assert api.embedder()(["one"]).shape == (1, FULL_DIMS)
