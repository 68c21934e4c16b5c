"""What the demo searches: the documentation of the standard library, and embeddings of it."""

from __future__ import annotations

import inspect
import re
import sys
import sysconfig
import textwrap
from pathlib import Path

import numpy as np
import pytest

from mrl_pg.demo import lsa
from mrl_pg.demo.corpus import Entry, read_stdlib
from mrl_pg.errors import MrlError


@pytest.fixture(scope="module")
def stdlib() -> list[Entry]:
    return read_stdlib()


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory in the place of the standard library."""
    monkeypatch.setattr(sysconfig, "get_path", {"stdlib": str(tmp_path)}.__getitem__)
    return tmp_path


def test_the_standard_library_is_read_as_documented(stdlib: list[Entry]) -> None:
    assert 4_000 < len(stdlib) < 8_000
    names = [entry.qualified_name for entry in stdlib]
    assert names == sorted(set(names))
    assert {entry.kind for entry in stdlib} == {"function", "class", "method"}
    assert all(entry.doc.strip() and entry.text for entry in stdlib)
    by_name = dict(zip(names, stdlib, strict=True))
    wrap = by_name["textwrap.TextWrapper.wrap"]
    assert (wrap.name, wrap.kind, wrap.signature) == ("TextWrapper.wrap", "method", "(self, text)")
    assert wrap.doc == inspect.getdoc(textwrap.TextWrapper.wrap)
    assert by_name["shutil.rmtree"].text.startswith("shutil.rmtree\nRecursively delete a directory tree.")
    # Defined in a private file: datetime from Python 3.12, Path from 3.13, Future always.
    assert set(names) >= {"datetime.date.fromisoformat", "pathlib.Path.mkdir", "concurrent.futures.Future"}


def test_nothing_private_and_no_test_is_read(stdlib: list[Entry]) -> None:
    parts = {part for entry in stdlib for part in entry.qualified_name.split(".")}
    assert not [part for part in parts if part.startswith("_") or not part.isidentifier()]
    modules = {part for entry in stdlib for part in entry.module.split(".")}
    assert not modules & {"test", "tests", "idlelib", "lib2to3", "numpy", "pytest"}


def test_reading_imports_nothing(library: Path) -> None:
    (library / "untouched.py").write_text("def function():\n    'Documented.'\nraise SystemExit\n")
    assert [entry.qualified_name for entry in read_stdlib()] == ["untouched.function"]
    assert "untouched" not in sys.modules


def test_which_definitions_count(library: Path) -> None:
    (library / "shapes.py").write_text(
        textwrap.dedent('''
            try:
                import fast
            except ImportError:
                async def area(shape, *, unit="m", **rest):
                    """Area.

                    In square units.
                    """
            else:
                def area(shape):
                    """The second of the name."""
            class Circle:
                """A circle."""
                def grow(self): "Larger."
                def _hidden(self): "Private."
                def bare(self): pass
                class Arc: "A part."
            class _Hidden:
                def shown(self): "Private with its class."
            def outer():
                def inner(): "Local."
        ''')
    )
    (library / "_shapes.py").write_text("def private(): 'Private.'\n")
    (library / "broken.py").write_text("def broken(:\n")
    (library / "nulls.py").write_bytes(b"\0")
    (library / "latin.py").write_bytes(b"# coding: latin-1\ndef cafe(): 'Caf\xe9.'\n")
    (library / "tests").mkdir()
    (library / "tests" / "test_shapes.py").write_text("def test(): 'A test.'\n")
    assert read_stdlib() == [
        Entry("latin", "cafe", "function", "()", "Café."),
        Entry("shapes", "Circle", "class", "", "A circle."),
        Entry("shapes", "Circle.Arc", "class", "", "A part."),
        Entry("shapes", "Circle.grow", "method", "(self)", "Larger."),
        Entry("shapes", "area", "function", "(shape, *, unit='m', **rest)", "Area.\n\nIn square units."),
    ]


def test_what_a_module_hands_on_from_a_private_one_is_its_own(library: Path) -> None:
    package = library / "package"
    package.mkdir()
    (package / "__init__.py").write_text("from ._inner import shown\nfrom _twin import *\nfrom _other import used\n")
    (package / "_inner.py").write_text("def shown(): 'Shown.'\ndef kept(): 'Kept.'\n")
    (library / "_twin.py").write_text("def every(): 'Every.'\n")
    (library / "_other.py").write_text("def used(): 'Used.'\n")
    assert [entry.qualified_name for entry in read_stdlib()] == ["package.every", "package.shown"]


def test_a_python_without_its_source_is_refused(library: Path) -> None:
    expected = (
        f"{library} holds no source of the standard library. "
        "Run the demo with a Python that has it, such as one from python.org."
    )
    with pytest.raises(MrlError, match=f"^{re.escape(expected)}$"):
        read_stdlib()


@pytest.fixture(scope="module")
def texts(stdlib: list[Entry]) -> list[str]:
    modules = {"shutil", "statistics", "textwrap", "smtplib", "base64", "random", "tempfile"}
    return [entry.text for entry in stdlib if entry.module in modules]


@pytest.fixture(scope="module")
def model(texts: list[str]) -> lsa.Lsa:
    pytest.importorskip("sklearn")
    return lsa.fit(texts, dims=96)


def test_embeddings_find_what_was_asked_for(model: lsa.Lsa, texts: list[str]) -> None:
    embeddings = model.embed(texts)
    assert embeddings.shape == (len(texts), 96)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    for query, module in {
        "remove a directory tree": "shutil",
        "the median of numbers": "statistics",
        "encode bytes as base64": "base64",
        "send a mail message": "smtplib",
    }.items():
        (vector,) = model.embed([query])
        assert texts[int(np.argmax(embeddings @ vector))].startswith(module), query


def test_dimensions_come_in_the_order_of_their_weight(model: lsa.Lsa, texts: list[str]) -> None:
    weights = (model.embed(texts) ** 2).sum(axis=0)
    assert weights[:24].sum() > weights[24:48].sum() > weights[48:72].sum() > weights[72:].sum()


def test_embeddings_are_tf_idf_in_singular_coordinates(texts: list[str]) -> None:
    """Against the textbook: a full decomposition of scikit-learn's own TF-IDF."""
    text = pytest.importorskip("sklearn.feature_extraction.text")
    few = texts[:40]
    tfidf = text.TfidfVectorizer(analyzer=lsa._terms, sublinear_tf=True, min_df=2).fit_transform(few).toarray()
    left, singular_values, _ = np.linalg.svd(tfidf, full_matrices=False)
    expected = left * singular_values
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    actual = lsa.fit(few, dims=40).embed(few)
    np.testing.assert_allclose(actual @ actual.T, expected @ expected.T, atol=2e-3)


def test_the_same_texts_and_seed_give_the_same_model(model: lsa.Lsa, texts: list[str]) -> None:
    np.testing.assert_array_equal(lsa.fit(texts, dims=96).projection, model.projection)


def test_a_saved_model_embeds_as_before(model: lsa.Lsa, texts: list[str], tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    loaded = lsa.load(tmp_path / "model")
    assert loaded.vocabulary == model.vocabulary
    np.testing.assert_array_equal(loaded.embed(texts), model.embed(texts))


def test_a_text_without_known_terms_is_the_zero_vector(model: lsa.Lsa) -> None:
    assert not model.embed(["", "日本語", "q ! 7"]).any()


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    for name, content in {"text": b"no model", "empty": b"", "zip": b"PK\3\4"}.items():
        path = tmp_path / name
        path.write_bytes(content)
        expected = f"{path} does not hold a saved model. Run: mrl-pg demo --fresh"
        with pytest.raises(MrlError, match=f"^{re.escape(expected)}$"):
            lsa.load(path)
    with pytest.raises(FileNotFoundError):
        lsa.load(tmp_path / "missing")


def test_too_many_dims_are_refused(texts: list[str]) -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(MrlError, match=r"^12 texts with \d+ terms that occur twice give no 13 dims\. .*dims=12\.$"):
        lsa.fit(texts[:12], dims=13)


def test_missing_scikit_learn_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(MrlError, match=r"Run: pip install 'mrl-pg\[demo\]'$"):
        lsa.fit(["a text"], dims=1)
