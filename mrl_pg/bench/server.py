"""Settings of the throw-away server: everything fits in memory, and nothing waits for a disk."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from mrl_pg.errors import MrlError

_MB = 1024**2


def settings(rows: int, dims: int, cpus: int, clients: int) -> dict[str, str]:
    """Returns what postgresql.conf needs for so many vectors on this machine."""
    available = memory()
    # Table and indexes take some four times what the vectors do; an HNSW graph in the making, as halfvec, half of it
    # and its links.
    table = rows * (14 * dims + 2_000)
    graph = round(1.2 * rows * (2 * dims + 1_500))
    build_memory = min(max(graph, 256 * _MB), available // 4)
    chosen = {
        "shared_buffers": _megabytes(min(max(table, 256 * _MB), available * 2 // 5)),
        "maintenance_work_mem": _megabytes(build_memory),
        # The process that builds an index takes part.
        "max_parallel_maintenance_workers": str(cpus - 1),
        "max_worker_processes": str(8 + cpus),
        "max_connections": str(100 + clients),
        "autovacuum": "off",
        "max_wal_size": "4GB",
        "checkpoint_timeout": "1h",
        "wal_level": "minimal",
        "max_wal_senders": "0",
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
    }
    shared = Path("/dev/shm")  # noqa: S108
    if shared.exists() and shutil.disk_usage(shared).free < build_memory:
        # A parallel build keeps its graph there, and containers have 64 MB.
        chosen["dynamic_shared_memory_type"] = "mmap"
    return chosen


def with_short_memory(settings: Mapping[str, str], buffers: str) -> dict[str, str]:
    """Returns the same settings with so little memory for the data, and no page cache of the system's."""
    return {**settings, "shared_buffers": buffers, "debug_io_direct": "data"}


def check_space(directory: Path, rows: int, dims: int) -> None:
    """Returns nothing; raises MrlError where the data would not fit on the disk."""
    needed = rows * (16 * dims + 8_000) + 1024 * _MB
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise MrlError(
            f"{rows:,} rows with {dims:,} dims take about {needed // _MB:,} MB in {directory}, where "
            f"{free // _MB:,} MB are free. Pass fewer --rows, or name another place: TMPDIR=/var/tmp mrl-pg bench"
        )


def memory() -> int:
    """Returns how many bytes of memory this machine has."""
    import psutil  # type: ignore[import-untyped]  # comes with the embedded server, which is optional

    return int(psutil.virtual_memory().total)


def _megabytes(n: int) -> str:
    return f"{n // _MB}MB"
