"""Specs are checked where they are written, and names follow from them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrl_pg import Matryoshka, SpecError
from mrl_pg.spec import Kind, index_name, shorten

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "full_dims = 1": (
        {"full_dims": 1},
        "full_dims must be between 2 and 16,000, not 1. Give the length of the embeddings your model returns.",
    ),
    "dims = 0": ({"dims": 0}, "dims must be between 1 and 4,000, not 0. HNSW takes at most 4,000 halfvec dimensions."),
    "dims = full_dims": (
        {"dims": 1536},
        "dims must be below full_dims = 1536, not 1536. A prefix is shorter than its embedding.",
    ),
    "binary dims > full_dims": (
        {"dims": 1537, "kind": "binary"},
        "dims must be at most full_dims = 1536, not 1537. A binary prefix has the signs of some dimensions, or of all.",
    ),
    "half dims < full_dims": (
        {"kind": "half"},
        "dims must be full_dims = 1536, not 256. Kind half keeps the whole embedding: leave dims out.",
    ),
    "half of too many": (
        {"dims": None, "full_dims": 4001, "kind": "half"},
        "dims must be between 1 and 4,000, not 4001. HNSW takes at most 4,000 halfvec dimensions.",
    ),
    "no dims": (
        {"dims": None},
        "kind truncate needs dims, the length of the prefix. Give dims=256, for example.",
    ),
    "rotate": (
        {"kind": "rotate", "dims": None, "layer_norm": True},
        "a rotation is learnt from rows that are there, and not declared. Run: mrl-pg rotate TABLE --dims 128",
    ),
    "kind": ({"kind": "quarter"}, "unknown kind 'quarter'. Use truncate, binary or half."),
    "distance": ({"distance": "dot"}, "unknown distance 'dot'. Use cosine, l2 or inner_product."),
    "type": ({"embedding_type": "bit"}, "unknown embedding_type 'bit'. Use vector or halfvec."),
    "m = 1": ({"m": 1}, "m must be between 2 and 100, not 1. The default is 16."),
    "ef_construction < 2 * m": (
        {"m": 40},
        "ef_construction must be between 80 (2 * m) and 1000, not 64. The default is 64.",
    ),
}


NORMED: list[tuple[Kind, Any]] = [("truncate", 256), ("binary", None), ("half", None)]


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_refused(case: str) -> None:
    change, message = WRONG[case]
    with pytest.raises(SpecError) as raised:
        Matryoshka(**{"full_dims": 1536, "dims": 256} | change)
    assert str(raised.value) == message


def test_names() -> None:
    spec = Matryoshka(full_dims=1536, dims=256)
    assert spec.prefix == "embedding_256"
    assert spec.index_name("documents") == "documents_embedding_256_halfvec_cosine_ops_idx"
    bits = Matryoshka(full_dims=1536, dims=1536, kind="binary")
    assert bits.prefix == "embedding_bit1536"
    assert bits.index_name("documents") == "documents_embedding_bit1536_bit_hamming_ops_idx"
    assert Matryoshka.for_model("text-embedding-3-small", kind="binary") == Matryoshka(
        full_dims=1536, dims=1536, kind="binary", model="text-embedding-3-small"
    )
    assert Matryoshka(full_dims=1536, kind="binary") == Matryoshka(full_dims=1536, dims=1536, kind="binary")
    half = Matryoshka(full_dims=1536, kind="half", distance="l2")
    assert (half.dims, half.prefix) == (1536, "embedding_half1536")
    assert half.index_name("documents") == "documents_embedding_half1536_halfvec_l2_ops_idx"
    kinds = {kind: Matryoshka(full_dims=768, dims=dims, kind=kind, layer_norm=True).prefix for kind, dims in NORMED}
    assert kinds == {"truncate": "embedding_ln256", "binary": "embedding_lnbit768", "half": "embedding_lnhalf768"}
    graph = Matryoshka(full_dims=8, dims=4, distance="l2", m=24, ef_construction=128, column="summary")
    assert graph.index_name("d") == "d_summary_4_halfvec_l2_ops_m24_ef128_idx"


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_shortened_names_fit_and_differ(name: str) -> None:
    short = shorten(name)
    assert len(short.encode()) <= 63
    assert (short == name) == (len(name.encode()) <= 63)
    assert shorten(name * 40 + "a") != shorten(name * 40 + "b") or len((name * 40).encode()) <= 54


def test_a_long_table_keeps_its_indexes_apart() -> None:
    names = {index_name("t" * 63, f"embedding_{dims}", "cosine", m=m) for dims in (64, 128) for m in (16, 24)}
    assert len(names) == 4
