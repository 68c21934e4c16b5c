"""What policies gain (mrl_pg.policy): recalls by load against fixed ones, and whether a text tells how hard it is.

    python -m tests.bench.adaptive [--rows 50000] [--seconds 10] [--only load|text] [--json]

Load: one client, then eight, then one again; all search in threads of one process with one policy. The vectors are
simulated; half of the queries tune, half are searched for.

Text: paragraphs of the standard library's docstrings, which no embedding was made of, search for its summaries (LSA,
1024 dims, the first 256 as the prefix). Recall with few candidates, by length, negation and clauses of the text; then
more candidates for the half that each of them calls hard, against as many in the mean for all.
"""

from __future__ import annotations

import argparse
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import psycopg

import mrl_pg.psycopg as mrl
from mrl_pg import embedded
from mrl_pg.bench.build import load
from mrl_pg.bench.data import Data, simulate
from mrl_pg.bench.methods import TABLE, K
from mrl_pg.bench.truth import Nearest, nearest, recalls
from mrl_pg.demo import lsa
from mrl_pg.demo.corpus import read_stdlib
from mrl_pg.metrics import PerQuery, spearman, summarise
from mrl_pg.policy import by_load
from tests.bench.overhead import SETTINGS

DIMS = 256
RECALLS = (0.99, 0.97, 0.95)
CLIENTS = (1, 8, 1)
CHEAP, FEW, MANY = 30, 50, 100

# Yields the recall to aim at, and is told when the search is over.
Timed = Callable[[], Any]


def bench_load(rows: int, seconds: float, budget_ms: float | None) -> dict[str, Any]:
    """Returns the figures of each fixed recall and of by_load, with one client and with several."""
    data = simulate(rows)
    half = len(data.queries) // 2
    with embedded.server(settings=SETTINGS) as dsn, psycopg.connect(dsn, autocommit=True) as conn:
        mrl.install(conn)
        truth = load(conn, data)
        mrl.backfill(conn, TABLE, prefix=mrl.add_prefix(conn, TABLE, dims=DIMS))
        conn.execute(f"VACUUM ANALYZE {TABLE}")
        mrl.create_index(conn, TABLE)
        conn.execute("CHECKPOINT")
        tuning = mrl.tune(conn, TABLE, data.queries[:half], recall=RECALLS[0], also=RECALLS[1:])
        searched, known = data.queries[half:], truth.part(half, len(data.queries))

        def phase(timed: Timed, clients: int) -> dict[str, Any]:
            took, found, aims = _searches(dsn, searched, timed, clients, seconds)
            asked = [n for n, _ in found]
            shares = recalls(Nearest(known.rows[asked], known.similarities[asked]), [keys for _, keys in found], K)
            p50, p95 = np.percentile(took, [50, 95]) * 1e3
            return {
                "clients": clients,
                "searches/s": round(len(took) / seconds),
                "p50_ms": round(float(p50), 2),
                "p95_ms": round(float(p95), 2),
                "recall@10": round(float(shares.mean()), 4),
                "aims": {aim: round(float(np.mean(np.array(aims) == aim)), 2) for aim in sorted(set(aims))},
                "took_ms": took * 1e3,
            }

        ways = {f"fixed {recall}": [phase(_fixed(recall), n) for n in CLIENTS] for recall in RECALLS}
        if budget_ms is None:
            budget_ms = round(1.5 * ways[f"fixed {min(RECALLS)}"][1]["p95_ms"], 1)
        policy = by_load(budget_ms, RECALLS)
        ways["by_load"] = [phase(policy.timed, n) for n in CLIENTS]
    for phases in ways.values():
        for one in phases:
            one["over budget"] = round(float((one.pop("took_ms") > budget_ms).mean()), 4)
    points = [(one.candidates, one.ef_search, one.recall, round(one.p50_ms, 2)) for one in tuning.points]
    return {"rows": rows, "data": data.label, "budget_ms": budget_ms, "ways": ways, "points": points}


@contextmanager
def _fixed_for(recall: float) -> Iterator[float]:
    yield recall


def _fixed(recall: float) -> Timed:
    return lambda: _fixed_for(recall)


def _searches(
    dsn: str, queries: Any, timed: Timed, clients: int, seconds: float
) -> tuple[PerQuery, list[tuple[int, list[int]]], list[float]]:
    """Returns what each search took, the number of its query with the keys it found, and the recall it aimed at."""
    ready = threading.Barrier(clients)

    def client(number: int) -> list[tuple[float, tuple[int, list[int]], float]]:
        done = []
        with psycopg.connect(dsn, autocommit=True) as conn:
            for query in queries[:20]:
                for recall in RECALLS:
                    mrl.search(conn, TABLE, query, k=K, columns=(), recall=recall)
            ready.wait()
            until, n = time.perf_counter() + seconds, number * len(queries) // clients
            while (begun := time.perf_counter()) < until:
                n = (n + 1) % len(queries)
                with timed() as recall:
                    hits = mrl.search(conn, TABLE, queries[n], k=K, columns=(), recall=recall)
                done.append((time.perf_counter() - begun, (n, [hit.key for hit in hits]), recall))
        return done

    with ThreadPoolExecutor(clients) as pool:
        done = [one for of_client in pool.map(client, range(clients)) for one in of_client]
    took, found, aims = zip(*done, strict=True)
    return np.array(took), list(found), list(aims)


_NEGATION = re.compile(r"\b(not|no|never|without|except|cannot|neither|nor|\w+n't)\b", re.IGNORECASE)
_CLAUSE = re.compile(r"[,;:.]\s|\b(and|or|but|if|when|that|which|because|while|unless)\b", re.IGNORECASE)

# What a policy could go by.
SIGNALS: dict[str, Callable[[str], int]] = {
    "length in words": lambda text: len(text.split()),
    "negations": lambda text: len(_NEGATION.findall(text)),
    "clauses": lambda text: len(_CLAUSE.findall(text)),
}


def bench_text() -> dict[str, Any]:
    """Returns what each signal tells of the recall of a query, and what choosing the candidates by it gains."""
    entries = read_stdlib()
    model = lsa.fit([entry.text for entry in entries])
    corpus = model.embed([entry.text for entry in entries])
    texts = list(dict.fromkeys(" ".join(part.split()) for one in entries for part in one.doc.split("\n\n")[1:]))
    texts = [text for text in texts if 20 <= len(text) <= 600]
    queries = model.embed(texts)
    known = np.flatnonzero(queries.any(axis=1))
    texts, queries = [texts[n] for n in known], queries[known]
    truth = nearest(queries, corpus, 0)
    with embedded.server(settings=SETTINGS) as dsn, psycopg.connect(dsn, autocommit=True) as conn:
        mrl.install(conn)
        load(conn, Data("", len(corpus), corpus.shape[1], queries[:1], lambda: iter([corpus])))
        mrl.backfill(conn, TABLE, prefix=mrl.add_prefix(conn, TABLE, dims=DIMS))
        mrl.create_index(conn, TABLE)

        def measured(candidates: int) -> PerQuery:
            hits = (
                mrl.search(conn, TABLE, query, k=K, columns=(), candidates=candidates, ef_search=200)
                for query in queries
            )
            return recalls(truth, [[hit.key for hit in one] for one in hits], K)

        cheap, few, many, between = (measured(n) for n in (CHEAP, FEW, MANY, (FEW + MANY) // 2))
    told = {
        name: _told(np.array([signal(text) for text in texts]), cheap, few, many) for name, signal in SIGNALS.items()
    }
    told["(its own recall, which nobody knows)"] = _told(-cheap, cheap, few, many)
    return {
        "rows": len(corpus),
        "queries": len(texts),
        "recall@10 at 30 candidates": round(float(cheap.mean()), 4),
        "recall@10 at 75 candidates for all": _interval(between),
        "signals": told,
    }


def _told(signal: Any, cheap: PerQuery, few: PerQuery, many: PerQuery) -> dict[str, Any]:
    """Returns how a signal goes with the recall, and what half of the queries find that get more by it.

    Whether more of it means harder is learnt of one half of the queries, and used for the other.
    """
    rank = float(spearman(signal[None].astype(float), cheap[None])[0])
    turn = np.random.default_rng(0).permutation(len(signal))
    learn, use = turn[::2], turn[1::2]
    harder = float(spearman(signal[None, learn].astype(float), cheap[None, learn])[0]) < 0
    noise = np.random.default_rng(1).random(len(signal))  # ties, of which there are many, fall anywhere
    order = np.lexsort((noise[use], signal[use] if harder else -signal[use]))
    hard = use[order[len(use) // 2 :]]
    chosen = few.copy()
    chosen[hard] = many[hard]
    low, high = np.quantile(signal, [0.25, 0.75])
    return {
        "spearman with recall": round(rank, 3),
        "recall of the low quarter": round(float(cheap[signal <= low].mean()), 4),
        "recall of the high quarter": round(float(cheap[signal >= high].mean()), 4),
        "recall@10 at 50 or 100 by it": _interval(chosen[use]),
    }


def _interval(values: PerQuery) -> list[float]:
    figure = summarise(values)
    return [round(one, 4) for one in (figure.mean, figure.low, figure.high)]


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--budget-ms", type=float, help="1.5 times the p95 of the cheapest with all clients")
    parser.add_argument("--only", choices=["load", "text"])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    if arguments.only != "text":
        found["load"] = bench_load(arguments.rows, arguments.seconds, arguments.budget_ms)
    if arguments.only != "load":
        found["text"] = bench_text()
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    if by := found.get("load"):
        print(f"{by['rows']:,} rows × 1536 ({by['data']}), prefix {DIMS}, budget {by['budget_ms']} ms\n")
        names = ["clients", "searches/s", "p50_ms", "p95_ms", "over budget", "recall@10"]
        print(" " * 12 + "".join(f"{name:>13}" for name in names) + "   aimed at")
        for way, phases in by["ways"].items():
            for one in phases:
                aims = ", ".join(f"{aim} {share:.0%}" for aim, share in one["aims"].items())
                print(f"{way:<12}" + "".join(f"{one[name]:>13}" for name in names) + f"   {aims}")
        print(f"\npoints (candidates, ef_search, recall, p50): {by['points']}")
    if by := found.get("text"):
        print(f"\n{json.dumps(by, indent=2)}")


if __name__ == "__main__":
    main()
