"""The first stages that are compared: recipes as people find them, and the prefixes of mrl-pg."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from psycopg import Connection, sql
from typing_extensions import LiteralString

import mrl_pg.psycopg as mrl
from mrl_pg.errors import MrlError
from mrl_pg.points import Grid, Point
from mrl_pg.psycopg.run import PackedDumper
from mrl_pg.spec import DEFAULT_EF_CONSTRUCTION
from mrl_pg.turns import Search
from mrl_pg.vectors import FloatArray, Packed, to_binary

K = 10
TABLE = "documents"

# What k × 8 candidates come to in the function recipe.
_FUNCTION_FACTOR = 8
_DEFAULT_EF_SEARCH = 40
_CANDIDATES = (15, 20, 25, 30, 40, 60, 80, 120, 200, 400)
_EF_SEARCH = (20, 30, 40, 50, 60, 70, 80, 90, 100, 115, 130, 145, 160, 180, 200, 225, 250, 300, 350, 400, 500, 600)


@dataclass(frozen=True, slots=True)
class _Recipe:
    """A way to search without mrl-pg; in its SQL {dims} and the like stand for the numbers of a method.

    :ivar index: what CREATE INDEX … USING hnsw takes.
    :ivar halved: the query is sent as halfvec.
    :ivar max_dims: the most that HNSW takes of the type it indexes.
    :ivar candidates: what candidates may be, where the recipe fixes them.
    :ivar before: what must be there for the search to run.
    """

    about: str
    index: LiteralString
    search: LiteralString
    max_dims: int
    halved: bool = False
    candidates: tuple[int, ...] = _CANDIDATES
    before: LiteralString | None = None


_SUBVECTOR = "(subvector(embedding, 1, {dims})::vector({dims})) vector_cosine_ops"

_RECIPES = {
    "half": _Recipe(
        "one stage: the whole vector as halfvec, as pgvector documents it",
        index="(embedding::halfvec({full_dims})) halfvec_cosine_ops",
        search="SELECT id FROM {table} ORDER BY embedding::halfvec({full_dims}) <=> %(query)s::halfvec({full_dims}) "
        "LIMIT {k}",
        max_dims=4_000,
        halved=True,
        candidates=(K,),
    ),
    "subvector": _Recipe(
        "the first dims by an expression index and rerank, as pgvector documents it",
        index=_SUBVECTOR,
        search="SELECT id FROM (SELECT id, embedding FROM {table} "
        "ORDER BY subvector(embedding, 1, {dims})::vector({dims}) <=> "
        "subvector(%(query)s::vector({full_dims}), 1, {dims})::vector({dims}) LIMIT {candidates}) AS candidates "
        "ORDER BY embedding <=> %(query)s::vector({full_dims}) LIMIT {k}",
        max_dims=2_000,
    ),
    "function": _Recipe(
        "an SQL function that reranks k × 8 candidates by the first dims, as articles have it",
        index=_SUBVECTOR,
        search="SELECT id FROM {function}(%(query)s::vector({full_dims}), {k}) AS id",
        max_dims=2_000,
        candidates=(_FUNCTION_FACTOR * K,),
        before="CREATE OR REPLACE FUNCTION {function}(query vector({full_dims}), match_count int) RETURNS SETOF bigint "
        "LANGUAGE sql AS $$ "
        "WITH shortlist AS (SELECT id, embedding FROM {table} "
        "ORDER BY subvector(embedding, 1, {dims})::vector({dims}) <=> subvector(query, 1, {dims})::vector({dims}) "
        "LIMIT match_count * {factor}) "
        "SELECT id FROM shortlist ORDER BY embedding <=> query LIMIT match_count $$",
    ),
    "quantize": _Recipe(
        "the sign bits by an expression index and rerank, as pgvector documents it",
        index="(binary_quantize(embedding)::bit({full_dims})) bit_hamming_ops",
        search="SELECT id FROM (SELECT id, embedding FROM {table} "
        "ORDER BY binary_quantize(embedding)::bit({full_dims}) <~> "
        "binary_quantize(%(query)s::vector({full_dims}))::bit({full_dims}) LIMIT {candidates}) AS candidates "
        "ORDER BY embedding <=> %(query)s::vector({full_dims}) LIMIT {k}",
        max_dims=64_000,
    ),
}

# A new kind of prefix is a line in each: how to add it, and what it is.
_ADD: dict[str, Callable[[Connection[Any], str, int], str]] = {
    "truncate": lambda conn, table, dims: mrl.add_prefix(conn, table, dims=dims),
    "rotate": lambda conn, table, dims: mrl.rotate(conn, table, dims=dims),
    "binary": lambda conn, table, dims: mrl.add_prefix(conn, table, dims=dims, kind="binary"),
}
_ABOUT = {
    "truncate": "mrl-pg: the first dims as halfvec and rerank",
    "rotate": "mrl-pg: dims of a learnt rotation as halfvec and rerank",
    "binary": "mrl-pg: the sign bits of the first dims and rerank",
}
_WHOLE = ("exact", "half", "quantize")


@dataclass(frozen=True, slots=True)
class Method:
    """A way to search.

    :ivar kind: ``exact``, a recipe (half, subvector, function, quantize) or a kind of prefix.
    :ivar full_dims: length of the embeddings.
    :ivar dims: what stage one compares of them.
    :ivar as_copied: the recipe under pgvector's default ef_search, 40, without iterative scans.
    :ivar ef_construction: of the index of a prefix: being small, it can be built with more care than a large one.
    """

    kind: str
    full_dims: int
    dims: int
    as_copied: bool = False
    ef_construction: int = DEFAULT_EF_CONSTRUCTION

    @property
    def name(self) -> str:
        """What it is called: half, truncate-256, rotate-256+ef200, subvector-512@40."""
        dims = "" if self.kind in _WHOLE else f"-{self.dims}"
        care = "" if self.ef_construction == DEFAULT_EF_CONSTRUCTION else f"+ef{self.ef_construction}"
        return f"{self.kind}{dims}{care}{f'@{_DEFAULT_EF_SEARCH}' if self.as_copied else ''}"

    @property
    def about(self) -> str:
        """What it does, for people."""
        if self.kind == "exact":
            return "mrl-pg: every row compared, no index"
        about = _RECIPES[self.kind].about if self.kind in _RECIPES else _ABOUT[self.kind]
        if self.ef_construction != DEFAULT_EF_CONSTRUCTION:
            about = f"{about}, ef_construction {self.ef_construction}"
        return f"{about}; under the default ef_search" if self.as_copied else about

    @property
    def grid(self) -> Grid:
        """The points it is tried at; exact search has one, whose numbers mean nothing."""
        if self.kind == "exact":
            return Grid((K,), (0,))
        candidates = _RECIPES[self.kind].candidates if self.kind in _RECIPES else _CANDIDATES
        if self.as_copied:
            # Who copies a recipe asks for some number of candidates: the 100 that are mrl-pg's default too.
            return Grid(candidates if len(candidates) == 1 else (100,), (_DEFAULT_EF_SEARCH,))
        return Grid(candidates, _EF_SEARCH)

    @property
    def index_key(self) -> tuple[str, int, int]:
        """Equal for methods that search by the same index."""
        return ("subvector" if self.kind == "function" else self.kind), self.dims, self.ef_construction


@dataclass(frozen=True, slots=True)
class Built:
    """A method with what it needs in the database.

    :ivar prefix: its prefix column, where it has one.
    :ivar index: name of its index, None for exact search; ``definition`` is what created it.
    :ivar fill_seconds: what adding and backfilling the prefix took, for a rotation also learning it.
    """

    method: Method
    prefix: str | None
    index: str | None
    definition: str | None
    index_bytes: int | None
    fill_seconds: float | None
    build_seconds: float | None


def default_methods(full_dims: int) -> list[Method]:
    """Returns the methods that are compared unless some are named, those left out whose index cannot be had.

    With 1536 dims they are the ones of 512, 256 and 128; with others the ones of as large a share.
    """
    short, medium, longer = (max(1, full_dims // share) for share in (12, 6, 3))
    names = [
        *("exact", "half", f"subvector-{longer}@40", f"subvector-{longer}", f"function-{longer}@40"),
        *(f"function-{longer}", "quantize", f"truncate-{medium}", f"truncate-{longer}"),
        *(f"rotate-{short}", f"rotate-{medium}", f"rotate-{medium}+ef200", f"binary-{full_dims}"),
    ]
    return [method for method in (_parsed(name, full_dims) for name in names) if method.dims <= _max_dims(method)]


def parse_method(name: str, full_dims: int) -> Method:
    """Returns the method of a name: half, truncate-256, subvector-512@40.

    :raises MrlError: for a name that is none, and for dims that cannot be.
    """
    method = _parsed(name, full_dims)
    most = min(_max_dims(method), full_dims if method.kind in (*_WHOLE, "binary", "rotate") else full_dims - 1)
    if not 1 <= method.dims <= most:
        raise MrlError(
            f"{name} has {method.dims:,} dims, but must have 1 to {most:,} of vectors with {full_dims:,}. "
            "Name another --method, or leave it out for those that suit."
        )
    return method


def fill(conn: Connection[Any], table: str, method: Method) -> str | None:
    """Returns the prefix column after adding and filling it; None for what is no prefix."""
    if method.kind not in _ADD:
        return None
    prefix = _ADD[method.kind](conn, table, method.dims)
    mrl.backfill(conn, table, prefix=prefix)
    return prefix


def build(conn: Connection[Any], table: str, method: Method, prefix: str | None) -> str | None:
    """Returns the name of the index after building it, None for exact search."""
    if prefix is not None:
        return mrl.create_index(conn, table, prefix=prefix, concurrently=False, ef_construction=method.ef_construction)
    if method.kind == "exact":
        return None
    name = "_".join([table, *map(str, method.index_key[:2]), "idx"])
    indexed = _formatted(_RECIPES[method.kind].index, method)
    statement = sql.SQL("CREATE INDEX {} ON {} USING hnsw ({})")
    conn.execute(statement.format(sql.Identifier(name), sql.Identifier(table), indexed))
    return name


def prepare(conn: Connection[Any], method: Method) -> None:
    """Returns nothing; makes what the searches of a method need besides their index."""
    if method.kind in _RECIPES and (before := _RECIPES[method.kind].before):
        conn.execute(_formatted(before, method))


def use_binary(conn: Connection[Any]) -> None:
    """Returns nothing; lets the recipes send their vectors as mrl.search does."""
    conn.adapters.register_dumper(Packed, PackedDumper)


def search_at(conn: Connection[Any], built: Built, point: Point) -> Search:
    """Returns a function from a query to the keys found, nearest first.

    Every one of them sends one statement, prepared after its first runs, with the vector in binary. For a recipe the
    settings are made here, once, as an application might for its connections; mrl.search sends them each time.
    """
    method = built.method
    if method.kind not in _RECIPES:
        options: Any = (
            {"exact": True}
            if built.prefix is None
            else {"prefix": built.prefix, "candidates": point.candidates, "ef_search": point.ef_search}
        )
        return lambda query: [hit.key for hit in mrl.search(conn, TABLE, query, k=K, columns=(), **options)]
    conn.execute(_settings(method, point))
    recipe = _RECIPES[method.kind]
    text = _formatted(recipe.search, method, point).as_string(conn)

    def search(query: FloatArray) -> list[int]:
        packed = Packed(to_binary(query.astype(np.float16) if recipe.halved else query))
        return [key for (key,) in conn.execute(text, {"query": packed})]

    return search


def statement(built: Built, point: Point) -> str:
    """Returns what is run at a point, for those who want to run it again."""
    method = built.method
    if method.kind in _RECIPES:
        recipe = _RECIPES[method.kind]
        parts = [*([recipe.before] if recipe.before else []), recipe.search]
        return "; ".join([_settings(method, point), *(_formatted(p, method, point).as_string(None) for p in parts)])
    if built.prefix is None:
        return f"mrl.search(conn, {TABLE!r}, query, k={K}, columns=(), exact=True)"
    return (
        f"mrl.search(conn, {TABLE!r}, query, k={K}, columns=(), prefix={built.prefix!r}, "
        f"candidates={point.candidates}, ef_search={point.ef_search})"
    )


def _settings(method: Method, point: Point) -> str:
    scan = "off" if method.as_copied else "relaxed_order"
    return f"SET hnsw.ef_search = {int(point.ef_search)}; SET hnsw.iterative_scan = {scan}"


def _parsed(name: str, full_dims: int) -> Method:
    found = re.fullmatch(r"([a-z]+)(?:-(\d+))?(?:\+ef(\d+))?(@40)?", name)
    kind, dims, ef_construction, as_copied = found.groups() if found else ("", None, None, None)
    known = kind in _ADD or kind in _RECIPES or kind == "exact"
    if (
        not known
        or (kind in _WHOLE) != (dims is None)
        or (as_copied and kind not in _RECIPES)
        or (ef_construction and kind not in _ADD)
    ):
        names = [*_WHOLE, *(f"{kind}-DIMS" for kind in (*_RECIPES, *_ADD) if kind not in _WHOLE)]
        raise MrlError(
            f"unknown method {name!r}. Write one of {', '.join(names)}; @40 after a recipe leaves it the default "
            "ef_search, as in subvector-512@40, and +ef200 after a prefix gives its index that ef_construction."
        )
    care = DEFAULT_EF_CONSTRUCTION if ef_construction is None else int(ef_construction)
    return Method(kind, full_dims, full_dims if dims is None else int(dims), bool(as_copied), care)


def _max_dims(method: Method) -> int:
    if method.kind in _RECIPES:
        return _RECIPES[method.kind].max_dims
    return {"exact": 16_000, "binary": 64_000}.get(method.kind, 4_000)


def _formatted(text: LiteralString, method: Method, point: Point | None = None) -> sql.Composed:
    return sql.SQL(text).format(
        table=sql.Identifier(TABLE),
        function=sql.Identifier(f"nearest_{method.dims}"),
        dims=method.dims,
        full_dims=method.full_dims,
        k=K,
        factor=_FUNCTION_FACTOR,
        candidates=point.candidates if point else 0,
    )
