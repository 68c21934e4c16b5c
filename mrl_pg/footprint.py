"""What a prefix costs a table: bytes in a row, bytes of its HNSW index, memory and time to build it.

Sizes follow the layout of PostgreSQL and pgvector on 64-bit machines (hnsw.h and hnswbuild.c of 0.8), so they are
computed and not measured. The time is an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

from mrl_pg.spec import DEFAULT_M

# PostgreSQL's pages: a header, a line pointer for each tuple, and at the end what HNSW keeps there.
_PAGE, _PAGE_HEADER, _LINE_POINTER, _PAGE_TAIL = 8_192, 24, 4, 8
_PAGE_ROOM = _PAGE - _PAGE_HEADER - _PAGE_TAIL
# In a row the length of a value takes one byte instead of four where that makes at most 127 bytes together.
_LENGTH, _SHORT_LENGTH, _MAX_SHORT = 4, 1, 127
# An element's tuple before its value: flags, ten row pointers, that of the neighbours.
_ELEMENT_HEAD = 72
# A tuple of neighbours: head, and a pointer for each.
_NEIGHBOURS_HEAD, _POINTER = 4, 6
# In memory: an element, an address, a list of neighbours before its entries, an entry, what precedes an allocation.
_ELEMENT_IN_MEMORY, _ADDRESS, _LIST_HEAD, _CANDIDATE, _ALLOCATION = 128, 8, 8, 16, 8

# How much longer an insert takes for each byte of the value, as a share of what it takes without. Fitted to builds of
# 300,000 rows: 1536 (114 s), 512 (64 s), 256 (47 s) and 128 (38 s) dims as halfvec, 1536 bits (36 s); within 8 %.
_COST_PER_BYTE = 1 / 1_250


@dataclass(frozen=True, slots=True)
class BuildRate:
    """How fast an HNSW index was built once, to estimate others from.

    :ivar rows_per_second: rows over the seconds of CREATE INDEX.
    :ivar dims: of the column.
    :ivar kind: of the prefix.
    """

    rows_per_second: float
    dims: int
    kind: str = "truncate"


# 300,000 rows in 47 s on two cores: pgvector 0.8.5, m=16, ef_construction=64, the graph in memory.
MEASURED_RATE = BuildRate(rows_per_second=300_000 / 47, dims=256)


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a prefix costs a table of so many rows.

    :ivar rows: of the table.
    :ivar column_bytes: of the prefix in one row, padding aside.
    :ivar index_bytes: of a freshly built index.
    :ivar build_memory_bytes: what maintenance_work_mem must hold for the build to stay in memory.
    :ivar build_seconds: estimated from one measured build; for m=16, ef_construction=64 and a build in memory.
    """

    rows: int
    column_bytes: int
    index_bytes: int
    build_memory_bytes: int
    build_seconds: float


def footprint(kind: str, dims: int, rows: int, *, m: int = DEFAULT_M, rate: BuildRate = MEASURED_RATE) -> Footprint:
    """Returns what a prefix of a kind costs a table of so many rows.

    :param kind: ``binary`` is stored as bit, any other as halfvec; ``dims`` may be those of the whole embedding.
    """
    return Footprint(
        rows=rows,
        column_bytes=column_bytes(kind, dims),
        index_bytes=index_bytes(kind, dims, rows, m=m),
        build_memory_bytes=build_memory_bytes(kind, dims, rows, m=m),
        build_seconds=build_seconds(kind, dims, rows, rate=rate),
    )


def column_bytes(kind: str, dims: int) -> int:
    """Returns the bytes of a prefix in a row, as pg_column_size() has it; alignment may add up to three.

    halfvec: 8 + 2 * dims (length, dims, numbers); bit: 8 + dims / 8 (length, number of bits, bits), rounded up. Either
    is three bytes shorter where a length of one byte will do: up to 61 dims, or up to 976 bits.
    """
    size = _value_bytes(kind, dims)
    short = size - _LENGTH + _SHORT_LENGTH
    return short if short <= _MAX_SHORT else size


def index_bytes(kind: str, dims: int, rows: int, *, m: int = DEFAULT_M) -> int:
    """Returns the expected bytes of a freshly built HNSW index, as pg_relation_size() has it.

    Every row has an element with its value and a tuple of neighbours, on one page where they fit; rows that share one
    value (up to ten do) need less.
    """
    # Where both do not fit on a page, each has its own.
    per_page = _elements_per_page(kind, dims, m) or 0.5
    return round(1 + rows / per_page) * _PAGE


def build_memory_bytes(kind: str, dims: int, rows: int, *, m: int = DEFAULT_M) -> int:
    """Returns the expected bytes of the graph in memory, the maintenance_work_mem beyond which a build slows down.

    The formula of pgvector's issue 769, and what a build by one process adds for each allocation.
    """
    upper = _upper_layers(m)
    element = _ELEMENT_IN_MEMORY + _ALLOCATION
    value = _aligned(_value_bytes(kind, dims)) + _ALLOCATION
    lists = _ADDRESS * (1 + upper) + _ALLOCATION
    ground = _LIST_HEAD + _CANDIDATE * 2 * m + _ALLOCATION
    above = _LIST_HEAD + _CANDIDATE * m + _ALLOCATION
    return round(rows * (element + value + lists + ground + upper * above))


def build_seconds(kind: str, dims: int, rows: int, *, rate: BuildRate = MEASURED_RATE) -> float:
    """Returns an estimate of the seconds a build takes, from one that was measured.

    Proportional to the rows, and for each to a constant and the bytes of its value. A real build slows down a little as
    the graph grows, and a lot where it does not fit into maintenance_work_mem.
    """
    cost = 1 + _COST_PER_BYTE * _value_bytes(kind, dims)
    measured = 1 + _COST_PER_BYTE * _value_bytes(rate.kind, rate.dims)
    return rows / rate.rows_per_second * cost / measured


def _value_bytes(kind: str, dims: int) -> int:
    """Returns the bytes of a value in memory and in the index, where its length always takes four."""
    return 8 + (-(-dims // 8) if kind == "binary" else 2 * dims)


def _elements_per_page(kind: str, dims: int, m: int) -> float:
    """Returns how many elements with their neighbours a page holds on average.

    All have the ground layer; one in m has one layer more, one in m² two and so on, each with m neighbours more. With n
    elements on a page their upper layers follow the negative binomial distribution.
    """
    element = _aligned(_ELEMENT_HEAD + _value_bytes(kind, dims)) + _LINE_POINTER
    ground = element + _aligned(_NEIGHBOURS_HEAD + _POINTER * 2 * m) + _LINE_POINTER
    layer = _POINTER * m
    expected = 0.0
    for n in range(1, _PAGE_ROOM // ground + 1):
        layers = (_PAGE_ROOM - n * ground) // layer
        expected += sum(comb(n + t - 1, t) * (1 - 1 / m) ** n / m**t for t in range(layers + 1))
    return expected


def _upper_layers(m: int) -> float:
    """Returns how many layers above the ground an element has on average: the sum of m^-1, m^-2 and so on."""
    return 1 / (m - 1)


def _aligned(size: int) -> int:
    return -(-size // 8) * 8
