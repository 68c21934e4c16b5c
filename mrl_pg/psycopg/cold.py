"""The first searches after the caches were emptied by a command of the user's."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import psycopg
from psycopg import Connection
from psycopg.conninfo import make_conninfo

from mrl_pg.errors import EvaluationError
from mrl_pg.evaluate import Progress
from mrl_pg.evaluation import Cold
from mrl_pg.measure import Truth, recalls
from mrl_pg.metrics import summarise
from mrl_pg.psycopg.measure import Asked, Known, OnProgress, ask
from mrl_pg.psycopg.session import Session, clients_of
from mrl_pg.search import SearchPlan, search_plan
from mrl_pg.spec import Prefix

COLD_SEARCHES = 100
# How long a server may take to start, and how often it is asked.
SERVER_SECONDS, _RETRY_SECONDS = 60.0, 0.2
# How long one try may take: a machine that restarts answers nothing.
_CONNECT_SECONDS = 5
# Of what a command says, the end.
_MAX_SAID = 1_000


def measure_cold(
    session: Session,
    known: Known,
    grid: Sequence[SearchPlan],
    command: str,
    *,
    seed: int,
    on_progress: OnProgress | None,
) -> list[Cold]:
    """Returns what the first searches through each index take and find, the caches emptied before each.

    :param command: for the shell; what it ends, such as the connections of a server that it restarts, is made again.
    :raises EvaluationError: where the command fails, or the server does not come back.
    """
    if not known.asked or not grid:
        return []
    asked, truth = known.asked[0]
    plan = usual_plan(grid)
    total = len(known.prefixes)
    found = []
    for n, prefix in enumerate(known.prefixes):
        if on_progress:
            on_progress(Progress(f"{prefix.prefix}, cold", n, total, "prefixes"))
        run_command(command)
        with _again(session, command) as conn:
            found.append(_first_searches(conn, asked, prefix, plan, truth, seed))
    return found


def usual_plan(grid: Sequence[SearchPlan]) -> SearchPlan:
    """Returns the setting of a grid that comes nearest to what a search chooses by itself."""
    usual = search_plan(k=grid[0].k)
    return min(grid, key=lambda plan: (abs(plan.candidates - usual.candidates), abs(plan.ef_search - usual.ef_search)))


def run_command(command: str) -> None:
    """Returns nothing, once the command of the user's has ended well."""
    # A file and no pipe: a server that the command starts would keep a pipe open.
    with tempfile.TemporaryFile() as said:
        code = subprocess.run(command, shell=True, stdout=said, stderr=said, check=False).returncode  # noqa: S602
        if code:
            said.seek(0)
            words = said.read().decode(errors="replace").strip()[-_MAX_SAID:]
            raise EvaluationError(
                f"the command {command!r} failed with exit code {code}{f': {words}' if words else ', and said nothing'}"
                f"{'' if words.endswith('.') else '.'} Try it in a shell, or leave it out (--cold)."
            )


@contextmanager
def _again(session: Session, command: str) -> Iterator[Connection[Any]]:
    """Yields a new connection, as soon as the server lets one in."""
    until = time.monotonic() + SERVER_SECONDS
    session = session._replace(conninfo=make_conninfo(session.conninfo, connect_timeout=_CONNECT_SECONDS))
    with ExitStack() as stack:
        while True:
            try:
                (conn,) = stack.enter_context(clients_of(session, 1))
                break
            except psycopg.OperationalError as error:
                if time.monotonic() > until:
                    reason = str(error).strip().splitlines()[0].removeprefix("connection failed: ")
                    raise EvaluationError(
                        f"the server lets nobody in {SERVER_SECONDS:g} s after {command!r}: {reason}. "
                        "Look into its log, and see that the command starts it again."
                    ) from error
                time.sleep(_RETRY_SECONDS)
        yield conn


def _first_searches(
    conn: Connection[Any], asked: Asked, prefix: Prefix, plan: SearchPlan, truth: Truth, seed: int
) -> Cold:
    """Returns the figures of one search for each of the first queries."""
    q = min(len(asked.queries), COLD_SEARCHES)
    far = np.full((q, truth.asked), np.inf, dtype=np.float32)
    seconds = np.zeros(q)
    for n in range(q):
        began = time.perf_counter()
        result = ask(conn, asked, n, prefix, plan, truth)
        seconds[n] = time.perf_counter() - began
        far[n, : len(result)] = [hit.distance for hit in result]
    p50, p95 = np.percentile(seconds, [50, 95]) * 1e3
    return Cold(
        prefix=prefix.prefix,
        candidates=plan.candidates,
        ef_search=plan.ef_search,
        searches=q,
        recall=summarise(recalls(truth, far), seed=seed),
        first_ms=float(seconds[0] * 1e3),
        p50_ms=float(p50),
        p95_ms=float(p95),
    )
