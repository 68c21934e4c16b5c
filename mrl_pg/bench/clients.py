"""Several clients at a time, each a process with a connection of its own."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection as Pipe
from typing import NamedTuple, TypeAlias

import numpy as np
import psycopg

from mrl_pg.bench.methods import Built, search_at, use_binary
from mrl_pg.errors import MrlError
from mrl_pg.points import Point
from mrl_pg.vectors import FloatArray


class Task(NamedTuple):
    """What clients are to do together.

    :ivar warm_up: queries that each runs first.
    :ivar queries: queries that are counted.
    :ivar seconds: when to stop.
    :ivar again: each client runs all queries, over and over; otherwise each takes its share of them, once.
    """

    built: Built
    point: Point
    warm_up: FloatArray
    queries: FloatArray
    seconds: float
    again: bool


# Returns searches a second, of all clients together.
Rate: TypeAlias = Callable[[Task], float]


@contextmanager
def clients(dsn: str, count: int) -> Iterator[Rate]:
    """Yields a function that has so many clients search at the same time and returns how many searches/s they do."""
    # Processes: threads of one Python would wait for each other. Spawned, so that they inherit no connection.
    context = multiprocessing.get_context("spawn")
    started = []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_client, args=(theirs, dsn), daemon=True)
            process.start()
            theirs.close()
            started.append((process, ours))

        def rate(task: Task) -> float:
            pipes = [pipe for _, pipe in started]
            shares = np.array_split(task.queries, count)
            if task.again:
                # Each begins elsewhere, so that they do not ask the same at the same time.
                shares = [np.concatenate([*shares[n:], *shares[:n]]) for n in range(count)]
            for pipe, share in zip(pipes, shares, strict=True):
                pipe.send(task._replace(queries=share))
            for pipe in pipes:
                _answer(pipe)  # it is warm
            for pipe in pipes:
                pipe.send(None)
            return sum(_answer(pipe) for pipe in pipes)

        yield rate
    finally:
        for process, pipe in started:
            pipe.close()
            process.terminate()
        for process, _ in started:
            process.join()


def _answer(pipe: Pipe) -> float:
    try:
        answer: float | str = pipe.recv()
    except EOFError:
        answer = "it ended"
    if isinstance(answer, str):
        raise MrlError(f"a client process failed: {answer}. Run it again, perhaps with fewer --clients.")
    return answer


def _client(pipe: Pipe, dsn: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process, and the first ends the others
    try:
        with psycopg.connect(dsn, autocommit=True) as conn:
            use_binary(conn)
            while True:
                task: Task = pipe.recv()
                search = search_at(conn, task.built, task.point)
                for query in task.warm_up:
                    search(query)
                pipe.send(0.0)
                pipe.recv()
                begun = time.perf_counter()
                done = 0
                for query in itertools.cycle(task.queries) if task.again else task.queries:
                    if time.perf_counter() - begun > task.seconds:
                        break
                    search(query)
                    done += 1
                pipe.send(done / (time.perf_counter() - begun))
    except EOFError:
        pass  # the benchmark is over
    except Exception as error:
        pipe.send(str(error))
