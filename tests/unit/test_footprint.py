"""Projected sizes and times meet those that were measured."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from mrl_pg.footprint import BuildRate, build_memory_bytes, build_seconds, column_bytes, footprint, index_bytes

MB = 2**20


@pytest.mark.parametrize(
    ("kind", "dims", "megabytes", "seconds"),
    [
        ("truncate", 1536, 1172, 114),
        ("truncate", 512, 391, 64),
        ("truncate", 256, 238, 47),
        ("rotate", 128, 163, 38),
        ("binary", 1536, 144, 36),
    ],
)
def test_indexes_of_300_000_rows(kind: str, dims: int, megabytes: int, seconds: int) -> None:
    """Measured with pgvector 0.8.5, m=16, ef_construction=64."""
    cost = footprint(kind, dims, 300_000)
    assert cost.index_bytes / MB == pytest.approx(megabytes, rel=0.01)
    assert cost.build_seconds == pytest.approx(seconds, rel=0.1)


@pytest.mark.parametrize(
    ("kind", "dims", "column", "pages", "memory"),
    [
        ("truncate", 32, 69, 902, 778.8),
        ("truncate", 128, 264, 1394, 971.5),
        ("truncate", 256, 520, 2031, 1226.2),
        ("truncate", 512, 1032, 3336, 1739.2),
        ("binary", 256, 37, 818, 746.9),
        ("binary", 1536, 200, 1228, 907.2),
    ],
)
def test_sizes_of_20_000_rows(kind: str, dims: int, column: int, pages: int, memory: float) -> None:
    """Measured with pgvector 0.8.5 on PostgreSQL 18: pg_column_size, pg_relation_size, and maintenance_work_mem over
    the tuples after which the graph no longer fits."""
    assert column_bytes(kind, dims) == column
    assert index_bytes(kind, dims, 20_000) / 8_192 == pytest.approx(pages, rel=0.005)
    assert build_memory_bytes(kind, dims, 20_000) / 20_000 == pytest.approx(memory, rel=0.005)


def test_short_values_have_a_short_length() -> None:
    """As pg_column_size() has them, at the edge."""
    assert [column_bytes("truncate", dims) for dims in (61, 62)] == [127, 132]
    assert [column_bytes("binary", dims) for dims in (1, 976, 977)] == [6, 127, 131]


def test_vectors_that_leave_no_room_for_neighbours_take_two_pages() -> None:
    assert index_bytes("truncate", 3_072, 1_000) / 8_192 == pytest.approx(1_001)
    assert index_bytes("truncate", 4_000, 1_000) / 8_192 == pytest.approx(2_001)


def test_more_links_make_a_larger_index() -> None:
    sizes = [index_bytes("truncate", 128, 100_000, m=m) for m in (8, 16, 32, 64)]
    assert sizes == sorted(set(sizes))
    # 64 links: a ground layer of 772 bytes beside 340 of the element, seven on a page; a few have a layer more.
    assert sizes[-1] / 8_192 == pytest.approx(100_000 / 7, rel=0.02)
    assert build_memory_bytes("truncate", 128, 1_000, m=32) > build_memory_bytes("truncate", 128, 1_000)


def test_build_time_follows_the_measured_rate() -> None:
    rate = BuildRate(rows_per_second=1_000, dims=256)
    assert build_seconds("truncate", 256, 5_000, rate=rate) == pytest.approx(5)
    assert build_seconds("truncate", 512, 5_000, rate=rate) > 5 > build_seconds("binary", 512, 5_000, rate=rate)
    bits = BuildRate(rows_per_second=1_000, dims=512, kind="binary")
    assert build_seconds("binary", 512, 5_000, rate=bits) == pytest.approx(5)


def test_the_footprint_is_of_all_rows() -> None:
    assert asdict(footprint("truncate", 256, 0)) == {
        "rows": 0,
        "column_bytes": 520,
        "index_bytes": 8_192,
        "build_memory_bytes": 0,
        "build_seconds": 0,
    }
