"""Real text that is on every machine: the docstrings of Python's standard library, read and not imported."""

from __future__ import annotations

import ast
import os
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mrl_pg.errors import MrlError

Kind = Literal["function", "class", "method"]

# Directories of tests, of installed packages, and of programs that live beside the library's modules.
_SKIPPED = {"test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3", "turtledemo"}


@dataclass(frozen=True)
class Entry:
    """One documented function, class or method.

    ``module`` is the dotted name to import, ``name`` the name in it (``TextWrapper.wrap``), ``signature`` the
    parameters in parentheses (empty for a class) and ``doc`` the docstring, unindented.
    """

    module: str
    name: str
    kind: Kind
    signature: str
    doc: str

    @property
    def qualified_name(self) -> str:
        """``module.name``, unique among the entries."""
        return f"{self.module}.{self.name}"

    @property
    def text(self) -> str:
        """What the demo embeds: the qualified name and the first paragraph of ``doc``, its summary."""
        summary, *_ = self.doc.split("\n\n", 1)
        return f"{self.qualified_name}\n{summary}"


def read_stdlib() -> list[Entry]:
    """Every documented public function, class and method of the running Python's standard library, by name.

    About 5,300 on Python 3.11. Of definitions that share a qualified name (branches of an ``if``), the first
    that is documented. Files that cannot be parsed are skipped; what is written in C has no file at all.

    :raises MrlError: this Python came without the source of its library.
    """
    root = Path(sysconfig.get_path("stdlib"))
    entries: dict[str, Entry] = {}
    for path in _source_files(root):
        for entry in _read(path, root):
            entries.setdefault(entry.qualified_name, entry)
    if not entries:
        raise MrlError(
            f"{root} holds no source of the standard library. "
            "Run the demo with a Python that has it, such as one from python.org."
        )
    return [entries[name] for name in sorted(entries)]


def _source_files(root: Path) -> Iterator[Path]:
    """The files of public modules."""
    for directory, subdirectories, files in os.walk(root):
        subdirectories[:] = sorted(name for name in set(subdirectories) - _SKIPPED if _is_public(name))
        for path in (Path(directory, file) for file in sorted(files)):
            if path.suffix == ".py" and (path.stem == "__init__" or _is_public(path.stem)):
                yield path


def _is_public(name: str) -> bool:
    return name.isidentifier() and not name.startswith("_")


def _read(path: Path, root: Path) -> Iterator[Entry]:
    body = _parse(path)
    package = path.parent.relative_to(root).parts
    module = ".".join(package if path.stem == "__init__" else (*package, path.stem))
    yield from _documented(body, module)
    for node in _statements(body):
        if isinstance(node, ast.ImportFrom):
            yield from _handed_on(node, module, package, root)


def _handed_on(node: ast.ImportFrom, module: str, package: tuple[str, ...], root: Path) -> Iterator[Entry]:
    """What ``module`` makes public of a private one, as pathlib does of pathlib._local (from Python 3.13)."""
    named = tuple((node.module or "").split("."))
    source = package + named if node.level else named
    names = {alias.name for alias in node.names}
    # Single names from outside the package are those that the module merely uses.
    if source[-1].startswith("_") and (names == {"*"} or (package and package == source[:-1])):
        for entry in _documented(_parse(root.joinpath(*source).with_suffix(".py")), module):
            if names == {"*"} or entry.name.split(".")[0] in names:
                yield entry


def _parse(path: Path) -> list[ast.stmt]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # escapes that old modules spell wrongly
            return ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return []


def _documented(body: Iterable[ast.AST], module: str, prefix: str = "") -> Iterator[Entry]:
    for node in _statements(body):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        if not _is_public(node.name):
            continue
        doc = ast.get_docstring(node)
        name = prefix + node.name
        if isinstance(node, ast.ClassDef):
            if doc:
                yield Entry(module, name, "class", "", doc)
            yield from _documented(node.body, module, prefix=f"{name}.")
        elif doc:
            kind: Kind = "method" if prefix else "function"
            yield Entry(module, name, kind, f"({ast.unparse(node.args)})", doc)


def _statements(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """The statements of ``body``, with those in its branches."""
    for node in body:
        if isinstance(node, (ast.If, ast.Try, ast.ExceptHandler, ast.With)):
            yield from _statements(ast.iter_child_nodes(node))
        else:
            yield node
