"""Which searches are recorded, and how their filters are written down."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from enum import Enum
from random import SystemRandom
from typing import Any

from mrl_pg.errors import SearchError

# What an integer holds; nobody returns so many rows.
MAX_RECORDED_K = 2**31 - 1
# Neither seeded by the application nor copied into its forks.
_random = SystemRandom()


def draws(record: float, searches: int = 1) -> list[int]:
    """Returns which of some searches are recorded, each with that probability.

    :raises SearchError: for a probability that is none.
    """
    try:
        probability = float(record)
    except (TypeError, ValueError):
        probability = math.nan
    if not 0 <= probability <= 1:
        raise SearchError(
            f"record must be between 0 and 1, not {record!r}. It is the share of searches to record: "
            "0.01 is one in a hundred."
        )
    return [n for n in range(searches) if _random.random() < probability]


def recorded_filter(filter: Mapping[str, Any] | str | None) -> str | None:
    """Returns a filter as JSON; None for none.

    What JSON does not know (dates, uuids, decimals) becomes a string, which mrl.search() reads as its column's type; of
    bytes, which it does not read, what Python shows.
    """
    # Not as \\u00e9: a database may be in an encoding that cannot hold all there is.
    return json.dumps(_as_json(filter), ensure_ascii=False) if filter else None


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _as_json(part) for name, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_as_json(part) for part in value]
    if isinstance(value, Enum) and isinstance(value, str | int):
        value = value.value  # as a driver sends it
    # By the type itself: a class of the application's may be a str or int too.
    if value is None or type(value) in (bool, int) or (type(value) is float and math.isfinite(value)):
        return value
    return str(value).replace("\0", "")
