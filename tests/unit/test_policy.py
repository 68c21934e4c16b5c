"""Policies: the recall that each hint, and the load, lead to."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mrl_pg.errors import SearchError
from mrl_pg.policy import by_hint, by_load

FAST, SLOW, BETWEEN = 0.002, 0.020, 0.008  # of a budget of 10 ms


def load(*recalls: float, **options: Any) -> by_load:
    return by_load(10, recalls or (0.95, 0.99, 0.97), **options)


def search(policy: by_load, seconds: float, times: int = 1) -> float:
    """Returns the recall after so many searches, each at the recall of its time."""
    for _ in range(times):
        policy.record(seconds, policy())
    return policy()


def test_a_hint_names_a_recall_or_a_policy() -> None:
    def agent(*, text: str | None = None, hint: str | None = None) -> float:
        return 0.8 if text else 0.7

    policy = by_hint({"autocomplete": 0.9, "agent": agent}, default=0.95)
    assert [policy(), policy(hint="autocomplete"), policy(text="a", hint="agent")] == [0.95, 0.9, 0.8]
    with pytest.raises(SearchError, match=r"hint 'Agent' is unknown\. Use one of: autocomplete, agent; or none\."):
        policy(hint="Agent")
    with pytest.raises(SearchError, match="recall must be above 0 and at most 1, not 90"):
        by_hint({"autocomplete": 90}, default=0.95)


def test_load_starts_at_the_highest_and_steps_down_once_the_percentile_is_lost() -> None:
    policy = load()
    assert search(policy, FAST, 1000) == 0.99
    assert search(policy, SLOW, 5) == 0.99  # five of a hundred may be
    assert search(policy, SLOW) == 0.97
    assert search(policy, SLOW, 5) == 0.97  # what was slow before says nothing of this recall
    assert search(policy, SLOW) == 0.95
    assert search(policy, SLOW, 1000) == 0.95


def test_load_steps_up_where_there_is_room() -> None:
    policy = load(0.99, 0.95)
    search(policy, SLOW, 6)
    assert search(policy, BETWEEN, 1000) == 0.95  # within the budget, without room
    assert search(policy, FAST, 94) == 0.95
    assert search(policy, FAST) == 0.99


def test_a_recall_that_proved_too_dear_waits_longer() -> None:
    policy = load(0.99, 0.95)
    search(policy, SLOW, 6)
    waits = []
    for _ in range(7):
        waits.append(next(n for n in range(1, 5000) if search(policy, FAST) == 0.99))
        search(policy, SLOW, 6)
    assert waits == [100, 200, 400, 800, 1600, 1600, 1600]
    search(policy, FAST, 1600)
    assert search(policy, FAST, 101) == 0.99  # it has held
    search(policy, SLOW, 6)
    assert search(policy, FAST, 100) == 0.99


def test_searches_of_another_recall_are_ignored() -> None:
    policy = load()
    for _ in range(8):
        policy.record(SLOW, 0.99)  # eight had begun before the first was over
    assert policy() == 0.97
    for _ in range(8):
        policy.record(SLOW)
    assert policy() == 0.95


def test_timed_yields_the_recall_and_counts_failures_that_took_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("mrl_pg.policy.time.perf_counter", lambda: now)
    policy = load()

    def fail(seconds: float) -> None:
        nonlocal now
        with policy.timed() as recall:
            now += seconds
            assert recall == policy()
            raise TimeoutError

    for seconds, expected in ((SLOW, 0.97), (FAST, 0.97)):
        for _ in range(6):
            with pytest.raises(TimeoutError):
                fail(seconds)
        assert policy() == expected
    for _ in range(6):
        with policy.timed():
            now += SLOW
    assert policy() == 0.95


def test_many_threads_may_tell() -> None:
    policy = load(0.99, 0.95)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: search(policy, FAST if n % 2 else SLOW), range(5000)))
    assert policy() == 0.95


@pytest.mark.parametrize("wrong", [{"budget_ms": 0}, {"recalls": []}, {"window": 19}, {"room": 1}, {"recalls": [95]}])
def test_bounds(wrong: dict[str, Any]) -> None:
    with pytest.raises(SearchError, match="must be"):
        by_load(**dict[str, Any](budget_ms=10, recalls=[0.95]) | wrong)
