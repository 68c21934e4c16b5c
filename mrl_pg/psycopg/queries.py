"""Generating queries for rows of a table, on a psycopg Connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

from psycopg import Connection
from psycopg.pq import TransactionStatus

from mrl_pg import statements
from mrl_pg.chat import Chat
from mrl_pg.embed import estimate_tokens
from mrl_pg.errors import GenerateError, MrlError
from mrl_pg.generated import Kept, appending, read_kept
from mrl_pg.prompt import ANSWER_TOKENS, ATTEMPTS, INSTRUCTIONS, ask_for_queries
from mrl_pg.psycopg.run import execute
from mrl_pg.psycopg.search import describe, forget
from mrl_pg.registry import TableName

DEFAULT_QUERY_ROWS = 150
DEFAULT_MAX_CHARS = 4_000
# A model that fails so many rows one after the other does not do what it is asked for, and each costs money.
MAX_FAILED_IN_A_ROW = 10


@dataclass
class GenerateProgress:
    """How far the generation of queries has come.

    :ivar there: rows of the sample that had their queries in the file before.
    :ivar total: rows to ask for, at most ``limit``.
    :ivar written: rows whose queries are in the file since.
    :ivar empty: ids of rows that are passed over: their text is blank.
    :ivar failed: what was wrong with the last answer, by the id of the row; they are asked for again by the next run.
    :ivar tokens_in: tokens sent; for a dry run those expected, and so ``tokens_out`` of the answers.
    :ivar cost: their price in US dollars; None where it is not known.
    """

    there: int = 0
    total: int = 0
    written: int = 0
    empty: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = None

    @property
    def done(self) -> int:
        """Rows asked for."""
        return self.written + len(self.failed)


def generate_queries(
    conn: Connection[Any],
    target: TableName,
    chat: Chat,
    out: str | Path,
    *,
    text_column: str,
    rows: int = DEFAULT_QUERY_ROWS,
    seed: int = 0,
    limit: int | None = None,
    max_chars: int = DEFAULT_MAX_CHARS,
    attempts: int = ATTEMPTS,
    dry_run: bool = False,
    on_progress: Callable[[GenerateProgress], None] | None = None,
) -> GenerateProgress:
    """Returns how many rows of a sample have got queries of three kinds, each with its row as the relevant one.

    They are appended to a file that :func:`mrl_pg.queries.read_queries` reads, row by row in the order of the sample,
    marked as generated and with the model's name. Rows that are in the file already are passed over, so what was
    stopped anywhere goes on when it is run again. No transaction is open while the model works.

    :param conn: a connection outside a transaction.
    :param chat: from :func:`mrl_pg.chat.openai_chat`.
    :param out: file of the queries, jsonl.
    :param text_column: column of what a row says.
    :param rows: rows of the sample; the same ones for the same seed, and the first of a larger one.
    :param limit: ask for at most so many rows now.
    :param max_chars: characters of a text that are sent; what comes after them is left out.
    :param attempts: how often a row is asked for, before its answers are counted as malformed.
    :param dry_run: count only: rows, tokens and cost.
    :param on_progress: called after each row.
    :raises GenerateError: for what the API refuses, a model that never answers as asked, or a file that is not ours.
    :raises SearchError: for a table or column that does not exist, or a table without a primary key.
    """
    if conn.info.transaction_status != TransactionStatus.IDLE:
        raise MrlError(
            "generating queries takes minutes, but the connection is in a transaction. "
            "Commit or roll back first, or use a connection in autocommit."
        )
    if min(rows, max_chars, attempts, 1 if limit is None else limit) < 1:
        raise GenerateError(
            f"rows, max_chars, attempts and limit must be at least 1, not {rows}, {max_chars}, {attempts} and {limit}. "
            f"Leave them out for {DEFAULT_QUERY_ROWS}, {DEFAULT_MAX_CHARS:,}, {ATTEMPTS} and no limit."
        )
    with conn.transaction():
        forget(conn, target)
        known = describe(conn, target)
        statements.table(known)  # raises where there is no primary key
        known.column_type(text_column)
        sample = execute(conn, statements.texts(known, text_column, rows, seed=seed, max_chars=max_chars))
    kept = read_kept(Path(out), str(known))
    waiting = [(row, text) for row, text in sample if text.strip() and row not in kept.rows][:limit]
    progress = GenerateProgress(
        there=sum(row in kept.rows for row, _ in sample),
        total=len(waiting),
        empty=[row for row, text in sample if not text.strip()],
    )
    if dry_run:
        asked = len(INSTRUCTIONS.encode()) * len(waiting) + sum(len(text.encode()) for _, text in waiting)
        _spend(progress, chat, estimate_tokens(asked), ANSWER_TOKENS * len(waiting))
        return progress
    if waiting:
        _generate(chat, waiting, Path(out), kept, str(known), attempts, progress, on_progress)
    return progress


def _generate(
    chat: Chat,
    waiting: Sequence[tuple[str, str]],
    out: Path,
    kept: Kept,
    table: str,
    attempts: int,
    progress: GenerateProgress,
    on_progress: Callable[[GenerateProgress], None] | None,
) -> None:
    """Returns nothing; asks for several rows at a time, writes them in their order and keeps ``progress``."""
    failed_in_a_row = 0
    # Its threads are daemons, so that Ctrl-C does not wait for the requests that are under way.
    with (
        appending(out, kept, table, chat.model) as append,
        ThreadPool(min(chat.concurrency, len(waiting))) as pool,
    ):
        outcomes = pool.imap(lambda one: ask_for_queries(chat, one[1], attempts=attempts), waiting)
        for row, _ in waiting:
            try:
                outcome = next(outcomes)
            except GenerateError as error:
                if not progress.written:
                    raise
                raise GenerateError(
                    f"the queries of {progress.written:,} rows are in {out} and stay so, but then: {error}"
                ) from error
            _spend(progress, chat, outcome.tokens_in, outcome.tokens_out)
            if outcome.queries is None:
                progress.failed[row] = outcome.reason
                failed_in_a_row += 1
            else:
                append(row, outcome.queries)
                progress.written += 1
                failed_in_a_row = 0
            if on_progress:
                on_progress(progress)
            if failed_in_a_row == MAX_FAILED_IN_A_ROW:
                raise GenerateError(
                    f"{chat.model} failed {failed_in_a_row} rows one after the other, in the end row {row}: "
                    f"{outcome.reason}. {progress.written:,} rows are written, {progress.tokens_in:,} tokens "
                    "were sent. Name another model."
                )


def _spend(progress: GenerateProgress, chat: Chat, tokens_in: int, tokens_out: int) -> None:
    progress.tokens_in += tokens_in
    progress.tokens_out += tokens_out
    progress.cost = chat.cost(progress.tokens_in, progress.tokens_out)
