"""A server that speaks OpenAI's API, and vectors that tell which text they were made from."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from mrl_pg.embed import Embedder
from mrl_pg.embed.openai import openai_embedder
from tests.conftest import Conn, FloatArray

FULL_DIMS = 32
KEY = "sk-test-Geheimnis-0123456789"
MODEL = "text-embedding-3-small"

Answer = dict[str, Any]
# Does something with a good answer, or sends one of its own and returns None.
Trick = Callable[["_Handler", Answer], Answer | None]


def vector_of(text: str, dims: int = FULL_DIMS) -> FloatArray:
    """Returns the one vector that belongs to a text."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).standard_normal(dims).astype(np.float32)


@dataclass
class Api:
    """The server: what it was asked, and what it does to its next answers."""

    url: str = ""
    dims: int = FULL_DIMS
    max_chars: int | None = None
    tricks: list[Trick] = field(default_factory=list)
    always: Trick | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def embedder(self, **options: Any) -> Embedder:
        defaults: dict[str, Any] = {"base_url": self.url, "api_key": KEY, "max_retries": 3}
        return openai_embedder(MODEL, **(defaults | options))

    @property
    def inputs(self) -> list[list[str]]:
        return [body["input"] for body in self.asked]


class _Handler(BaseHTTPRequestHandler):
    api: Api
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.api.lock:
            self.api.asked.append(body)
            self.api.times.append(time.monotonic())
            self.api.headers.append({name.lower(): value for name, value in self.headers.items()})
            trick = self.api.tricks.pop(0) if self.api.tricks else self.api.always
        good = {"/v1/embeddings": self.embeddings, "/v1/chat/completions": self.chat}.get(self.path)
        if good is None:
            self.send(404, {"error": {"message": f"no such path {self.path}"}})
            return
        texts = body.get("input") or [message["content"] for message in body["messages"]]
        if self.api.max_chars and any(len(text) > self.api.max_chars for text in texts):
            self.send(400, {"error": {"message": "This model's maximum context length is 8192 tokens."}})
            return
        answer: Answer | None = good(body)
        if trick:
            answer = trick(self, answer or {})
        if answer is not None:
            self.send(200, answer)

    def chat(self, body: dict[str, Any]) -> Answer:
        text = body["messages"][-1]["content"][:50]
        queries = {"name": f"{text} name", "description": f"what {text} is about", "vibe": f"feels like {text}"}
        return completion(json.dumps(queries))

    def embeddings(self, body: dict[str, Any]) -> Answer:
        vectors = [vector_of(text, body.get("dimensions", self.api.dims)) for text in body["input"]]
        encoded = [
            base64.b64encode(vector.tobytes()).decode() if body.get("encoding_format") == "base64" else vector.tolist()
            for vector in vectors
        ]
        tokens = sum(len(text.split()) for text in body["input"])
        return {
            "object": "list",
            "model": body["model"],
            "data": [{"object": "embedding", "index": n, "embedding": value} for n, value in enumerate(encoded)],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }

    def send(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in (
            {"Content-Type": "application/json", "Content-Length": str(len(content))} | (headers or {})
        ).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def completion(content: str | None) -> Answer:
    """Returns a good answer of a chat model, which says so."""
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}],
        "usage": {"prompt_tokens": 300, "completion_tokens": 40, "total_tokens": 340},
    }


def refuse(status: int, message: str = "no", headers: dict[str, str] | None = None) -> Trick:
    """Returns a trick that answers with an error."""
    return lambda handler, _: handler.send(status, {"error": {"message": message, "type": "x"}}, headers)


def cut(handler: _Handler, answer: Answer) -> None:
    """Closes the connection in the middle of the answer."""
    content = json.dumps(answer).encode()
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])
    handler.close_connection = True


def shuffled(_: _Handler, answer: Answer) -> Answer:
    """Sends the vectors in another order; their index tells."""
    return answer | {"data": answer["data"][1::2] + answer["data"][::2][::-1]}


def with_data(change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Trick:
    """Returns a trick that changes the list of vectors."""
    return lambda _, answer: answer | {"data": change(answer["data"])}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """A server on this machine; nothing of the environment leads anywhere else."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    api = Api()
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": api})) as server:
        server.daemon_threads = True
        api.url = f"http://127.0.0.1:{server.server_port}/v1"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield api
        server.shutdown()


def fake(*, dims: int = FULL_DIMS, calls: list[list[str]] | None = None) -> Callable[[Any], list[FloatArray]]:
    """Returns an embedder without a server, which notes what it is asked."""

    def embed(texts: Any) -> list[FloatArray]:
        if calls is not None:
            calls.append(list(texts))
        return [vector_of(text, dims) for text in texts]

    return embed


def documents(
    conn: Conn, rows: int, key: str = "id bigint PRIMARY KEY", embedding: str = f"vector({FULL_DIMS})"
) -> None:
    """Creates a table with texts, and without embeddings."""
    conn.execute(f"CREATE TABLE documents ({key}, body text, touched int DEFAULT 0, embedding {embedding})")
    with conn.cursor().copy("COPY documents (id, body) FROM STDIN") as copy:
        for n in range(rows):
            copy.write_row((n, f"text {n}"))
