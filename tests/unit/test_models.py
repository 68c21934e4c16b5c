"""The table of models holds together, is found by the names users have, and warns of cuts nobody documents."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any
from urllib.parse import urlparse

import pytest

from mrl_pg import Matryoshka, SpecError
from mrl_pg.models import MODELS, Model, default_dims, find_model, prefix_advice
from mrl_pg.spec import MAX_FULL_DIMS, check_dims, check_distance

ASKED_FOR = {
    "text-embedding-3-small",
    "text-embedding-3-large",
    "text-embedding-ada-002",
    "nomic-embed-text-v1.5",
    "mxbai-embed-large-v1",
    "embed-english-v3.0",
    "embed-multilingual-v3.0",
    "embed-v4.0",
    "voyage-3-large",
    "voyage-3.5",
    "voyage-3.5-lite",
    "voyage-3",
    "voyage-code-3",
    "gemini-embedding-001",
    "Qwen3-Embedding-0.6B",
    "Qwen3-Embedding-4B",
    "Qwen3-Embedding-8B",
    "jina-embeddings-v3",
    "bge-m3",
    "all-MiniLM-L6-v2",
}

# Whose page a row may rest on: not a blog that repeats another.
PROVIDERS = {
    "ai.google.dev",
    "developers.openai.com",
    "docs.cohere.com",
    "docs.voyageai.com",
    "github.com",
    "huggingface.co",
    "jina.ai",
}


def test_the_table_has_the_models_users_have() -> None:
    assert set(MODELS) == ASKED_FOR


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_row_holds_together(name: str) -> None:
    model = MODELS[name]
    assert model.name == name
    assert 2 <= model.full_dims <= MAX_FULL_DIMS
    check_distance(model.distance)
    source = urlparse(model.source)
    assert (source.scheme, source.netloc in PROVIDERS) == ("https", True)
    assert list(model.trained_dims) == sorted(set(model.trained_dims))
    assert bool(model.trained_dims) == bool(model.matryoshka)
    if model.trained_dims:
        assert 1 <= model.trained_dims[0] < model.trained_dims[-1] == model.full_dims
    if not model.verified or model.matryoshka is not True:
        assert model.note, "an uncertain row says why"


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_can_always_be_declared(name: str) -> None:
    model = MODELS[name]
    dims = default_dims(model, model.full_dims)
    check_dims(dims)
    assert dims < model.full_dims
    assert (prefix_advice(model, dims) is None) == (model.matryoshka is True)
    assert prefix_advice(model, model.full_dims) is None, "nothing is cut"


def test_what_articles_get_wrong() -> None:
    undocumented = {name for name, model in MODELS.items() if model.matryoshka is None}
    assert undocumented == {"embed-english-v3.0", "embed-multilingual-v3.0", "voyage-3", "bge-m3"}
    assert {name for name, model in MODELS.items() if model.matryoshka is False} == {
        "text-embedding-ada-002",
        "all-MiniLM-L6-v2",
    }
    assert {name for name, model in MODELS.items() if model.layer_norm} == {"nomic-embed-text-v1.5"}


def test_rows_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        MODELS["bge-m3"].matryoshka = True  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("text-embedding-3-small", "text-embedding-3-small"),
        ("openai/text-embedding-3-small", "text-embedding-3-small"),
        ("BAAI/bge-m3", "bge-m3"),
        ("qwen/qwen3-embedding-0.6b", "Qwen3-Embedding-0.6B"),
        ("sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
        ("models/gemini-embedding-001", "gemini-embedding-001"),
        ("VOYAGE-3.5", "voyage-3.5"),
    ],
)
def test_names_users_have(name: str, found: str) -> None:
    assert find_model(name).name == found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "text-embedding-4",
            "unknown model 'text-embedding-4'. Near names: text-embedding-ada-002, text-embedding-3-small, "
            "text-embedding-3-large. "
            "Give full_dims yourself: Matryoshka(full_dims=..., dims=..., model='text-embedding-4').",
        ),
        (
            "acme/zzz",
            "unknown model 'acme/zzz'. Give full_dims yourself: Matryoshka(full_dims=..., dims=..., model='acme/zzz').",
        ),
        ("", "unknown model ''. Give full_dims yourself: Matryoshka(full_dims=..., dims=..., model='')."),
    ],
)
def test_an_unknown_model_is_refused(name: str, message: str) -> None:
    with pytest.raises(SpecError) as raised:
        find_model(name)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("name", "dims", "advice"),
    [
        ("text-embedding-3-small", 300, None),
        ("nomic-embed-text-v1.5", 256, None),
        (
            "nomic-embed-text-v1.5",
            300,
            "nomic-embed-text-v1.5 is documented to be cut at 64, 128, 256, 512 dimensions, not at 300. "
            "Use a documented length or learn a prefix from your rows (mrl-pg rotate), and measure (exact=True).",
        ),
        (
            "Qwen3-Embedding-8B",
            16,
            "Qwen3-Embedding-8B is documented to be cut at 32 to 4096 dimensions, not at 16. "
            "Use a documented length or learn a prefix from your rows (mrl-pg rotate), and measure (exact=True).",
        ),
        (
            "voyage-3.5",
            1536,
            "voyage-3.5 is documented to be cut at 256, 512, 1024 dimensions, not at 1536. "
            "Use a documented length or learn a prefix from your rows (mrl-pg rotate), and measure (exact=True).",
        ),
        (
            "all-MiniLM-L6-v2",
            128,
            "all-MiniLM-L6-v2 was not trained to be cut: its first 128 dimensions may find much less. "
            "Learn one from your rows instead (mrl-pg rotate), and measure recall on your data (exact=True).",
        ),
        (
            "bge-m3",
            256,
            "the documentation of bge-m3 does not say that it can be cut: its first 256 dimensions may find much less. "
            "Learn one from your rows instead (mrl-pg rotate), and measure recall on your data (exact=True).",
        ),
    ],
)
def test_advice(name: str, dims: int, advice: str | None) -> None:
    assert prefix_advice(MODELS[name], dims) == advice


@pytest.mark.parametrize(
    ("trained", "full_dims", "dims"),
    [
        (range(32, 1025), 1024, 256),
        (range(1, 3073), 128, 127),
        ((512, 1024), 1024, 512),
        ((128, 384, 1024), 1024, 128),
        ((256, 512, 1024), 256, 128),
        ((), 384, 192),
        ((), 1024, 256),
    ],
)
def test_default_dims(trained: tuple[int, ...] | range, full_dims: int, dims: int) -> None:
    model = Model(name="m", full_dims=1024, trained_dims=trained, matryoshka=True, source="https://example.org")
    assert default_dims(model, full_dims) == dims


def test_for_model_knows_the_rest() -> None:
    assert Matryoshka.for_model("openai/Text-Embedding-3-Large") == Matryoshka(
        full_dims=3072, dims=256, distance="cosine", model="text-embedding-3-large"
    )
    assert Matryoshka.for_model("gemini-embedding-001").dims == 768


def test_for_model_knows_the_transform() -> None:
    normed: dict[str, Any] = {"full_dims": 768, "model": "nomic-embed-text-v1.5"}
    assert Matryoshka.for_model("nomic-ai/nomic-embed-text-v1.5") == Matryoshka(dims=256, layer_norm=True, **normed)
    signs = Matryoshka.for_model("nomic-embed-text-v1.5", kind="binary")
    assert signs == Matryoshka(dims=768, kind="binary", layer_norm=True, **normed)
    # Neither cut nor reduced to its signs, the embedding needs none.
    assert Matryoshka.for_model("nomic-embed-text-v1.5", kind="half") == Matryoshka(kind="half", **normed)
    assert not Matryoshka.for_model("nomic-embed-text-v1.5", layer_norm=False).layer_norm
    assert Matryoshka.for_model("nomic-embed-text-v1.5", kind="half", layer_norm=True).layer_norm


def test_for_model_has_no_advice_for_halves() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        specs = [Matryoshka.for_model(name, kind="half") for name, model in MODELS.items() if model.full_dims <= 4_000]
    assert all(spec.dims == spec.full_dims for spec in specs)
    with pytest.raises(SpecError, match="dims must be between 1 and 4,000, not 4096"):
        Matryoshka.for_model("Qwen3-Embedding-8B", kind="half")


def test_for_model_takes_every_other_parameter() -> None:
    spec = Matryoshka.for_model(
        "voyage-3.5", dims=1024, full_dims=2048, distance="inner_product", column="body", embedding_type="halfvec", m=24
    )
    assert spec == Matryoshka(
        full_dims=2048,
        dims=1024,
        distance="inner_product",
        model="voyage-3.5",
        column="body",
        embedding_type="halfvec",
        m=24,
    )


def test_for_model_starts_below_an_embedding_stored_shortened() -> None:
    assert Matryoshka.for_model("nomic-embed-text-v1.5", full_dims=256).dims == 128


def test_for_model_warns_at_the_line_that_asked() -> None:
    with pytest.warns(UserWarning, match="not trained to be cut") as warned:
        spec = Matryoshka.for_model("text-embedding-ada-002", dims=128)
    assert spec.dims == 128
    assert [str(warning.message) for warning in warned] == [prefix_advice(MODELS["text-embedding-ada-002"], 128)]
    assert warned[0].filename == __file__


def test_for_model_refuses_without_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SpecError, match="dims must be below full_dims = 384, not 512"):
            Matryoshka.for_model("all-MiniLM-L6-v2", dims=512)
        with pytest.raises(SpecError, match="unknown model 'minilm'"):
            Matryoshka.for_model("minilm")
