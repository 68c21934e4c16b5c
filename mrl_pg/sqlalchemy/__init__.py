"""Models with prefixes, and search on SQLAlchemy's sessions and connections, sync and async."""

from mrl_pg.sqlalchemy.model import MatryoshkaMixin, declare
from mrl_pg.sqlalchemy.search import search, search_async, search_many, search_many_async, search_statement

__all__ = [
    "MatryoshkaMixin",
    "declare",
    "search",
    "search_async",
    "search_many",
    "search_many_async",
    "search_statement",
]
