"""Policies: which recall a search is to aim at, by what is known of its query or by how long searches take.

A policy is any function of these keywords, and what it returns is what ``search(..., recall=)`` takes. Searches know
nothing of policies, and without one nothing changes. The recalls must have been measured: ``mrl-pg tune --also``.

None goes by the text: neither length nor negation nor the number of clauses told how hard a search was, and candidates
chosen by them found no more than as many for all (tests/bench/adaptive.py).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Protocol

from mrl_pg.errors import SearchError
from mrl_pg.search import check_recall

# By default a step down follows the sixth of the last hundred searches that takes longer than the budget, and a step
# up a hundred of which all but five take less than half of it: the next recall may cost twice as much and still fit.
DEFAULT_WINDOW, DEFAULT_ROOM = 100, 0.5
_SLOW_SHARE = 0.05
# A recall that proved too dear is tried again after twice as many searches each time, up to so many windows.
_MAX_PATIENCE = 16


class Policy(Protocol):
    """A choice of the recall to aim at; write your own as a function of these keywords."""

    def __call__(self, *, text: str | None = None, hint: str | None = None) -> float:
        """Returns the recall to aim at.

        :param text: of the query, where the caller has it.
        :param hint: what the caller says of the search.
        """
        ...


def by_hint(recalls: Mapping[str, float | Policy], *, default: float | Policy) -> Policy:
    """Returns a policy that goes by what the caller says of a search.

    :param recalls: ``{"autocomplete": 0.9, "agent": 0.99}``: the recall for each hint, or a policy to ask.
    :param default: without a hint.
    :raises SearchError: for a recall that cannot be; the policy raises it for a hint that is not among them.
    """
    known = dict(recalls)
    for one in (*known.values(), default):
        if not callable(one):
            check_recall(one)

    def policy(*, text: str | None = None, hint: str | None = None) -> float:
        if hint is not None and hint not in known:
            raise SearchError(f"hint {hint!r} is unknown. Use one of: {', '.join(known)}; or none.")
        one = default if hint is None else known[hint]
        return one(text=text, hint=hint) if callable(one) else one

    return policy


class by_load:  # noqa: N801 (called like the function beside it; a class, because it is told what searches take)
    """A policy that lowers the recall while searches take too long, and raises it again when there is room.

    Time each search with :meth:`timed`, from any thread, also around ``await``::

        with load.timed() as recall:
            result = search(conn, "documents", vector, recall=recall)

    It keeps one number for each of the last searches, and each process has its own. It takes a step down as soon as so
    many of them have exceeded the budget that their 95th percentile must, and a step up when the 95th percentile of a
    full window leaves room. Where a step up had to be taken back, the next try waits longer.
    """

    def __init__(
        self, budget_ms: float, recalls: Sequence[float], *, window: int = DEFAULT_WINDOW, room: float = DEFAULT_ROOM
    ) -> None:
        """Returns a policy that starts with the highest recall.

        :param budget_ms: what 95 % of the searches may take.
        :param recalls: to choose from, in any order; operating points are needed for all.
        :param window: searches to judge by, at least 20.
        :param room: share of the budget that the 95th percentile must stay under for a step up.
        :raises SearchError: for a value out of bounds.
        """
        self._recalls = sorted({check_recall(one) for one in recalls}, reverse=True)
        if not budget_ms > 0 or not self._recalls or window < 20 or not 0 < room < 1:
            raise SearchError(
                "budget_ms must be above 0, recalls at least one, window at least 20 and room between 0 and 1, not "
                f"{budget_ms}, {recalls}, {window} and {room}. The usual window is {DEFAULT_WINDOW}, the usual room "
                f"{DEFAULT_ROOM}."
            )
        self._budget, self._room = budget_ms / 1e3, room * budget_ms / 1e3
        self._window = window
        self._lock = Lock()
        self._level = 0
        self._recent: deque[float] = deque(maxlen=window)
        self._since_step, self._tried, self._patience = 0, False, 1

    def __call__(self, *, text: str | None = None, hint: str | None = None) -> float:
        """Returns the recall that the load allows now."""
        return self._recalls[self._level]

    @contextmanager
    def timed(self) -> Iterator[float]:
        """Yields the recall to aim at, and records how long the block takes.

        A block that fails counts where it took longer than the budget, as a search that was cancelled does.
        """
        recall, begun = self(), time.perf_counter()
        try:
            yield recall
        except BaseException:
            if (seconds := time.perf_counter() - begun) > self._budget:
                self.record(seconds, recall)
            raise
        self.record(time.perf_counter() - begun, recall)

    def record(self, seconds: float, recall: float | None = None) -> None:
        """Returns nothing; takes notice of a search.

        :param recall: which it aimed at, if known: searches that began before the last step say nothing of this one.
        """
        with self._lock:
            if recall is not None and recall != self._recalls[self._level]:
                return
            self._recent.append(seconds)
            self._since_step += 1
            last = self._level + 1 == len(self._recalls)
            if not last and self._slower_than(self._budget):
                # A step up that does not hold for a window was one too many.
                failed = self._tried and self._since_step <= self._window
                self._patience = min(2 * self._patience, _MAX_PATIENCE) if failed else 1
                self._step(1)
            elif (
                self._level and self._since_step >= self._patience * self._window and not self._slower_than(self._room)
            ):
                self._step(-1)

    def _slower_than(self, seconds: float) -> bool:
        """Returns whether the 95th percentile of a window is above some seconds, whatever has yet to come of it."""
        return sum(one > seconds for one in self._recent) > _SLOW_SHARE * self._window

    def _step(self, levels: int) -> None:
        self._level += levels
        self._tried = levels < 0
        self._since_step = 0
        self._recent.clear()
