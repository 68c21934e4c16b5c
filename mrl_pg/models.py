"""What embedding models are documented to do: full size, lengths they can be cut at, distance, transform, source.

Checked in 2026-11 against stored copies of the providers' own pages, model cards and repositories, not against live
pages. Where articles and providers disagree, the table follows the provider: Cohere's v3 models, voyage-3 and bge-m3
are often listed as Matryoshka models, and their documentation does not say so.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mrl_pg.errors import SpecError

if TYPE_CHECKING:
    from mrl_pg.spec import Distance

# Short enough for a small index, and the length most providers document; the default of Matryoshka.for_model().
USUAL_DIMS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """An embedding model, as its provider documents it.

    :param name: as it is passed to the API; for models of the Hugging Face hub without the organisation.
    :param full_dims: length of the embedding where the caller asks for no other.
    :param trained_dims: lengths the provider trained or documents it to be cut at, up to ``full_dims`` and including
        it; a range where any length between two bounds is documented; empty where none is.
    :param distance: what the provider recommends or normalises for.
    :param layer_norm: whether the embedding goes through a layer norm (no weights) before it is cut.
    :param matryoshka: whether it was trained to be cut; None where its documentation does not say.
    :param source: page of the provider that says so.
    :param note: what else to know, and what could not be read at the source.
    :param verified: whether the row was read in the provider's own words; else the note says what it rests on.
    """

    name: str
    full_dims: int
    trained_dims: tuple[int, ...] | range
    matryoshka: bool | None
    source: str
    distance: Distance = "cosine"
    layer_norm: bool = False
    note: str = ""
    verified: bool = True


def _any_dims(first: int, last: int) -> range:
    """Returns the marker of a model that may be cut anywhere between two lengths, both included."""
    return range(first, last + 1)


_OPENAI = "https://developers.openai.com/api/docs/guides/embeddings"
_COHERE = "https://docs.cohere.com/docs/cohere-embed"
_VOYAGE = "https://docs.voyageai.com/docs/embeddings"

_OPENAI_ANY = (
    "The API takes any dimensions from 1. OpenAI does not publish the lengths it trained at (articles name several, "
    "and contradict each other); its announcement reports results at "
)
_COHERE_V3 = (
    "One size only: output_dimension is for embed-v4 and newer. Articles call it a Matryoshka model; Cohere's "
    "documentation does not."
)
_VOYAGE_FLEXIBLE = "output_dimension=2048 returns more than the default: give full_dims=2048 for such a column."
_QWEN3 = (
    "The model card allows any length in this range; the authors trained at many lengths, do not publish which, and "
    "call 32 the shortest to recommend."
)

_TABLE = [
    Model(
        name="text-embedding-3-small",
        full_dims=1536,
        trained_dims=_any_dims(1, 1536),
        matryoshka=True,
        source=_OPENAI,
        note=_OPENAI_ANY + "512 and 1536.",
    ),
    Model(
        name="text-embedding-3-large",
        full_dims=3072,
        trained_dims=_any_dims(1, 3072),
        matryoshka=True,
        source=_OPENAI,
        note=_OPENAI_ANY + "256, 1024 and 3072.",
    ),
    Model(
        name="text-embedding-ada-002",
        full_dims=1536,
        trained_dims=(),
        matryoshka=False,
        source=_OPENAI,
        note="OpenAI documents shortening for text-embedding-3 and later only.",
    ),
    Model(
        name="nomic-embed-text-v1.5",
        full_dims=768,
        trained_dims=(64, 128, 256, 512, 768),
        matryoshka=True,
        source="https://huggingface.co/nomic-ai/nomic-embed-text-v1.5",
        layer_norm=True,
        note="Trained behind a layer norm without weights, to bear being reduced to signs (discussion 35 beside the "
        "card): apply it to the full embedding, then cut, then normalise.",
    ),
    Model(
        name="mxbai-embed-large-v1",
        full_dims=1024,
        trained_dims=(512, 1024),
        matryoshka=True,
        source="https://huggingface.co/mixedbread-ai/mxbai-embed-large-v1",
        note="The model card says Matryoshka and cuts at 512; it does not list the lengths of the training. Others "
        "quote results of Mixedbread's blog down to 64, with a steep loss below 512; the blog was not at hand.",
    ),
    Model(
        name="embed-english-v3.0",
        full_dims=1024,
        trained_dims=(),
        matryoshka=None,
        source=_COHERE,
        note=_COHERE_V3,
    ),
    Model(
        name="embed-multilingual-v3.0",
        full_dims=1024,
        trained_dims=(),
        matryoshka=None,
        source=_COHERE,
        note=_COHERE_V3,
    ),
    Model(
        name="embed-v4.0",
        full_dims=1536,
        trained_dims=(256, 512, 1024, 1536),
        matryoshka=True,
        source=_COHERE,
    ),
    Model(
        name="voyage-3-large",
        full_dims=1024,
        trained_dims=(256, 512, 1024),
        matryoshka=True,
        source=_VOYAGE,
        note=_VOYAGE_FLEXIBLE,
    ),
    Model(
        name="voyage-3.5",
        full_dims=1024,
        trained_dims=(256, 512, 1024),
        matryoshka=True,
        source=_VOYAGE,
        note=_VOYAGE_FLEXIBLE,
    ),
    Model(
        name="voyage-3.5-lite",
        full_dims=1024,
        trained_dims=(256, 512, 1024),
        matryoshka=True,
        source=_VOYAGE,
        note=_VOYAGE_FLEXIBLE,
    ),
    Model(
        name="voyage-3",
        full_dims=1024,
        trained_dims=(),
        matryoshka=None,
        source=_VOYAGE,
        note="Not among the models Voyage lists for output_dimension. Its size was read in Anthropic's documentation; "
        "the table of older models was missing from the copy of Voyage's page.",
        verified=False,
    ),
    Model(
        name="voyage-code-3",
        full_dims=1024,
        trained_dims=(256, 512, 1024),
        matryoshka=True,
        source=_VOYAGE,
        note=_VOYAGE_FLEXIBLE,
    ),
    Model(
        name="gemini-embedding-001",
        full_dims=3072,
        trained_dims=(768, 1536, 3072),
        matryoshka=True,
        source="https://ai.google.dev/gemini-api/docs/embeddings",
        note="The API takes 128 to 3072 and recommends these three, which its paper names as the lengths of the "
        "training. Shorter ones come without unit length: normalise them, as mrl-pg does with what it cuts for cosine.",
    ),
    Model(
        name="Qwen3-Embedding-0.6B",
        full_dims=1024,
        trained_dims=_any_dims(32, 1024),
        matryoshka=True,
        source="https://huggingface.co/Qwen/Qwen3-Embedding-0.6B",
        note=_QWEN3,
    ),
    Model(
        name="Qwen3-Embedding-4B",
        full_dims=2560,
        trained_dims=_any_dims(32, 2560),
        matryoshka=True,
        source="https://huggingface.co/Qwen/Qwen3-Embedding-4B",
        note=_QWEN3,
    ),
    Model(
        name="Qwen3-Embedding-8B",
        full_dims=4096,
        trained_dims=_any_dims(32, 4096),
        matryoshka=True,
        source="https://huggingface.co/Qwen/Qwen3-Embedding-8B",
        note=_QWEN3,
    ),
    Model(
        name="jina-embeddings-v3",
        full_dims=1024,
        trained_dims=(32, 64, 128, 256, 512, 768, 1024),
        matryoshka=True,
        source="https://jina.ai/models/jina-embeddings-v3/",
        note="The announcement speaks of any length down to 32; the model's page lists these.",
    ),
    Model(
        name="bge-m3",
        full_dims=1024,
        trained_dims=(),
        matryoshka=None,
        source="https://github.com/FlagOpen/FlagEmbedding/tree/master/research/BGE_M3",
        note="Articles call it a Matryoshka model; its README names one size and no shorter one.",
    ),
    Model(
        name="all-MiniLM-L6-v2",
        full_dims=384,
        trained_dims=(),
        matryoshka=False,
        source="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
        note="Its card describes a contrastive loss on the whole embedding; it is older than the Matryoshka paper.",
    ),
]

MODELS: dict[str, Model] = {model.name: model for model in _TABLE}

_BY_LOWER_NAME = {name.lower(): model for name, model in MODELS.items()}


def find_model(name: str) -> Model:
    """Returns the model of a name; case and what stands before the last slash do not count (``BAAI/bge-m3``).

    :raises SpecError: for a model that is not in the table, with the names that look like it.
    """
    short = name.rsplit("/", 1)[-1].lower()
    if model := _BY_LOWER_NAME.get(short):
        return model
    near = [_BY_LOWER_NAME[match].name for match in difflib.get_close_matches(short, _BY_LOWER_NAME)]
    hint = f" Near names: {', '.join(near)}." if near else ""
    raise SpecError(
        f"unknown model {name!r}.{hint} Give full_dims yourself: Matryoshka(full_dims=..., dims=..., model={name!r})."
    )


def default_dims(model: Model, full_dims: int) -> int:
    """Returns the prefix length to start with: the documented one below full_dims that is nearest 256."""
    shorter = [dims for dims in model.trained_dims if dims < full_dims]
    if not shorter:
        return min(USUAL_DIMS, full_dims // 2)
    return min(shorter, key=lambda dims: abs(dims - USUAL_DIMS))


def prefix_advice(model: Model, dims: int) -> str | None:
    """Returns a warning where the first dims dimensions are not a prefix the model is documented to have, else None.

    It is about prefixes that cut (truncate, binary): a rotated one needs no training.
    """
    if dims == model.full_dims or dims in model.trained_dims:
        return None
    if not model.matryoshka:
        reason = (
            f"{model.name} was not trained to be cut"
            if model.matryoshka is False
            else f"the documentation of {model.name} does not say that it can be cut"
        )
        return (
            f"{reason}: its first {dims} dimensions may find much less. "
            "Learn one from your rows instead (mrl-pg rotate), and measure recall on your data (exact=True)."
        )
    if isinstance(model.trained_dims, range):
        documented = f"{model.trained_dims[0]} to {model.trained_dims[-1]}"
    else:
        # Voyage returns 2048 on request: then its usual 1024 is a prefix too.
        longest = max(dims, model.full_dims)
        documented = ", ".join(str(trained) for trained in model.trained_dims if trained < longest)
    return (
        f"{model.name} is documented to be cut at {documented} dimensions, not at {dims}. "
        "Use a documented length or learn a prefix from your rows (mrl-pg rotate), and measure (exact=True)."
    )


def advice_of_name(name: str, dims: int | None, kind: str, *, layer_norm: bool) -> list[str]:
    """Returns the warnings for a prefix of the embeddings of a model, by its name; none for an unknown one.

    :param dims: length of the prefix; None for all.
    """
    if kind == "half":
        return []
    try:
        model = find_model(name)
    except SpecError:
        return []
    found = [prefix_advice(model, model.full_dims if dims is None else dims)]
    if model.layer_norm and not layer_norm:
        found.append(f"{model.name} is cut behind a layer norm of the whole embedding: add --layer-norm.")
    return [advice for advice in found if advice]
