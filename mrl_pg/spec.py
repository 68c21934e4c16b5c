"""What a prefix is: its kind, dims and distance, and the names that follow from them."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from typing import Any, Literal, get_args

from mrl_pg.errors import SpecError
from mrl_pg.models import default_dims, find_model, prefix_advice

Distance = Literal["cosine", "l2", "inner_product"]
Kind = Literal["truncate", "binary", "half", "rotate"]
EmbeddingType = Literal["vector", "halfvec"]

# What a model or a migration can ask for; a rotation needs rows to learn from.
DECLARED_KINDS = ("truncate", "binary", "half")
# What takes the whole embedding where dims are left out, and what a kind adds to the name of its column.
WHOLE_KINDS = ("binary", "half")
_INFIXES = {"binary": "bit", "half": "half", "rotate": "rot"}

# What pgvector's HNSW can index as halfvec, and what a vector column can hold (as bits HNSW takes 64,000).
MAX_PREFIX_DIMS = 4_000
MAX_FULL_DIMS = 16_000

# pgvector's defaults; they are left out of index names and definitions.
DEFAULT_M = 16
DEFAULT_EF_CONSTRUCTION = 64

OPERATORS: dict[Distance, str] = {"cosine": "<=>", "l2": "<->", "inner_product": "<#>"}
OPERATOR_CLASSES: dict[Distance, str] = {
    "cosine": "halfvec_cosine_ops",
    "l2": "halfvec_l2_ops",
    "inner_product": "halfvec_ip_ops",
}
# Bits are compared by the Hamming distance, which approximates the angle; the rerank by the distance itself.
BIT_OPERATOR = "<~>"
BIT_OPERATOR_CLASS = "bit_hamming_ops"


def shorten(name: str) -> str:
    """Returns a name that fits PostgreSQL's 63 bytes: unchanged, or cut to 54 bytes and a hash.

    The same as mrl.shorten() in SQL.
    """
    encoded = name.encode()
    if len(encoded) <= 63:
        return name
    digest = hashlib.md5(encoded, usedforsecurity=False).hexdigest()[:8]
    return f"{encoded[:54].decode(errors='ignore')}_{digest}"


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prefix of an embedding as one table has it; what statements are made for.

    ``full_dims`` is None where the embedding column does not fix its length, ``index`` where no valid
    HNSW index covers the prefix.
    """

    embedding: str
    prefix: str
    dims: int
    distance: Distance
    full_dims: int | None
    embedding_type: EmbeddingType = "vector"
    kind: Kind = "truncate"
    model: str | None = None
    index: str | None = None
    maintained: bool = True
    basis: str | None = None
    layer_norm: bool = False

    @property
    def operator(self) -> str:
        """The operator that compares prefixes; embeddings are compared by that of the distance."""
        return BIT_OPERATOR if self.kind == "binary" else OPERATORS[self.distance]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matryoshka:
    """One embedding column and one prefix of it, as a model declares them.

    :param full_dims: length of the embedding.
    :param dims: length of the prefix, below ``full_dims`` and at most 4,000; of a binary one up to ``full_dims``,
        of kind half that alone. Both take all where it is left out.
    :param distance: ``cosine``, ``l2`` or ``inner_product``; smaller is nearer.
    :param model: name of the embedding model, kept in the registry.
    :param kind: ``truncate``, the first dims as halfvec, ``binary``, their sign bits, or ``half``, the whole embedding
        as halfvec.
    :param layer_norm: take the prefix from the layer norm of the embedding, for models that were trained behind one.
    :param column: column of the embedding.
    :param embedding_type: ``vector``, or ``halfvec`` for half the table and half the rerank reads.
    :param m: links per node of the HNSW graph, 2 to 100.
    :param ef_construction: candidates looked at per insert into the graph, 2 * m to 1000.
    :raises SpecError: for a value outside these bounds, with the value.
    """

    full_dims: int
    # None is how it is left out; what is declared has a number.
    dims: int = None  # type: ignore[assignment]
    distance: Distance = "cosine"
    model: str | None = None
    kind: Kind = "truncate"
    layer_norm: bool = False
    column: str = "embedding"
    embedding_type: EmbeddingType = "vector"
    m: int = DEFAULT_M
    ef_construction: int = DEFAULT_EF_CONSTRUCTION

    def __post_init__(self) -> None:
        if not 2 <= self.full_dims <= MAX_FULL_DIMS:
            raise SpecError(
                f"full_dims must be between 2 and {MAX_FULL_DIMS:,}, not {self.full_dims}. "
                "Give the length of the embeddings your model returns."
            )
        if self.dims is None and self.kind in WHOLE_KINDS:
            object.__setattr__(self, "dims", self.full_dims)
        check_dims(self.dims, self.kind)
        if self.kind == "half" and self.dims != self.full_dims:
            raise SpecError(
                f"dims must be full_dims = {self.full_dims}, not {self.dims}. "
                "Kind half keeps the whole embedding: leave dims out."
            )
        if self.kind == "binary" and self.dims > self.full_dims:
            raise SpecError(
                f"dims must be at most full_dims = {self.full_dims}, not {self.dims}. "
                "A binary prefix has the signs of some dimensions, or of all."
            )
        if self.kind == "truncate" and self.dims >= self.full_dims:
            raise SpecError(
                f"dims must be below full_dims = {self.full_dims}, not {self.dims}. "
                "A prefix is shorter than its embedding."
            )
        check_distance(self.distance)
        if self.embedding_type not in get_args(EmbeddingType):
            raise SpecError(f"unknown embedding_type {self.embedding_type!r}. Use vector or halfvec.")
        check_graph(self.m, self.ef_construction)

    @classmethod
    def for_model(cls, name: str, *, dims: int | None = None, **overrides: Any) -> Matryoshka:
        """Returns the declaration for an embedding model: its full_dims, distance, transform and name.

        Warns where the model is not documented to be cut at ``dims``, and says what to do instead.

        :param name: name of the model, as the API or the hub has it.
        :param dims: length of the prefix; default: the documented one nearest 256, for binary and half all.
        :param overrides: any other parameter of Matryoshka, ``full_dims`` for embeddings stored shortened.
        :raises SpecError: for a model that is not in ``mrl_pg.models.MODELS``.
        """
        model = find_model(name)
        given = {"full_dims": model.full_dims, "distance": model.distance, "model": model.name} | overrides
        # A layer norm makes ready for what kind half does not do: cutting, and taking signs.
        given.setdefault("layer_norm", model.layer_norm and given.get("kind") != "half")
        if dims is None and given.get("kind") not in WHOLE_KINDS:
            dims = default_dims(model, given["full_dims"])
        # Left out, dims are all, which mypy cannot know.
        spec = cls(dims=dims, **given)  # type: ignore[arg-type]
        if spec.dims < spec.full_dims and (advice := prefix_advice(model, spec.dims)):
            warnings.warn(advice, UserWarning, stacklevel=2)
        return spec

    @property
    def prefix(self) -> str:
        """The prefix column: ``embedding_256``, ``embedding_bit1536``."""
        return prefix_name(self.column, self.dims, self.kind, layer_norm=self.layer_norm)

    @property
    def operator_class(self) -> str:
        """The operator class of the prefix index: ``halfvec_cosine_ops``."""
        return operator_class(self.distance, self.kind)

    def index_name(self, table: str) -> str:
        """The prefix index of a table, which carries all that defines it."""
        return index_name(table, self.prefix, self.distance, self.kind, m=self.m, ef_construction=self.ef_construction)

    def as_prefix(self) -> Prefix:
        """The prefix as a table made from this declaration has it."""
        return Prefix(
            embedding=self.column,
            prefix=self.prefix,
            dims=self.dims,
            distance=self.distance,
            full_dims=self.full_dims,
            embedding_type=self.embedding_type,
            kind=self.kind,
            model=self.model,
            layer_norm=self.layer_norm,
        )


def check_dims(dims: int | None, kind: str = "truncate") -> None:
    """Returns nothing; raises SpecError for a kind that is not one of ours, or a prefix that HNSW cannot index."""
    if kind == "rotate":
        raise SpecError(
            "a rotation is learnt from rows that are there, and not declared. "
            f"Run: mrl-pg rotate TABLE --dims {dims or 128}"
        )
    if kind not in DECLARED_KINDS:
        raise SpecError(f"unknown kind {kind!r}. Use truncate, binary or half.")
    if dims is None:
        if kind in WHOLE_KINDS:
            return
        raise SpecError(f"kind {kind} needs dims, the length of the prefix. Give dims=256, for example.")
    if kind == "binary" and not 1 <= dims <= MAX_FULL_DIMS:
        raise SpecError(
            f"dims must be between 1 and {MAX_FULL_DIMS:,}, not {dims}. A vector has at most 16,000 dimensions."
        )
    if kind != "binary" and not 1 <= dims <= MAX_PREFIX_DIMS:
        raise SpecError(
            f"dims must be between 1 and {MAX_PREFIX_DIMS:,}, not {dims}. "
            f"HNSW takes at most {MAX_PREFIX_DIMS:,} halfvec dimensions."
        )


def check_distance(distance: str) -> None:
    """Returns nothing; raises SpecError for a distance that is not one of ours."""
    if distance not in OPERATORS:
        raise SpecError(f"unknown distance {distance!r}. Use cosine, l2 or inner_product.")


def check_graph(m: int, ef_construction: int) -> None:
    """Returns nothing; raises SpecError for an HNSW graph that pgvector refuses."""
    if not 2 <= m <= 100:
        raise SpecError(f"m must be between 2 and 100, not {m}. The default is {DEFAULT_M}.")
    if not max(4, 2 * m) <= ef_construction <= 1000:
        raise SpecError(
            f"ef_construction must be between {max(4, 2 * m)} (2 * m) and 1000, not {ef_construction}. "
            f"The default is {DEFAULT_EF_CONSTRUCTION}."
        )


def prefix_name(
    embedding: str, dims: int, kind: str = "truncate", *, layer_norm: bool = False, version: int | None = None
) -> str:
    """Returns the column of a prefix: ``embedding_256``, ``embedding_ln256``, ``embedding_rot128_v1``.

    The same as mrl.prefix_name() in SQL.

    :param version: of the basis of a rotation.
    """
    infix = ("ln" if layer_norm else "") + _INFIXES.get(kind, "")
    return shorten(f"{embedding}_{infix}{dims}{'' if version is None else f'_v{version}'}")


def operator_class(distance: Distance, kind: str = "truncate") -> str:
    """Returns the operator class of a prefix index; as mrl.operator_class() in SQL."""
    return BIT_OPERATOR_CLASS if kind == "binary" else OPERATOR_CLASSES[distance]


def index_name(
    table: str,
    prefix: str,
    distance: Distance,
    kind: str = "truncate",
    *,
    m: int = DEFAULT_M,
    ef_construction: int = DEFAULT_EF_CONSTRUCTION,
) -> str:
    """Returns the index of a prefix; whatever is not the default stands in the name."""
    graph = (f"_m{m}" if m != DEFAULT_M else "") + (
        f"_ef{ef_construction}" if ef_construction != DEFAULT_EF_CONSTRUCTION else ""
    )
    return shorten(f"{table}_{prefix}_{operator_class(distance, kind)}{graph}_idx")
