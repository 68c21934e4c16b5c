"""HTML that cannot be broken by what it shows."""

from __future__ import annotations

from markupsafe import Markup, escape

# Those that have no end.
_VOID = {"meta", "link"}


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """Returns an element; text of children and attributes is escaped, Markup is taken as it is.

    :param attributes: a trailing underscore is dropped and others become hyphens (``class_``, ``aria_label``); None is
        left out, True is written without a value.
    """
    written = Markup("").join(
        Markup(" {}").format(_name(key)) if value is True else Markup(' {}="{}"').format(_name(key), value)
        for key, value in attributes.items()
        if value is not None
    )
    opened = Markup("<{}{}>").format(name, written)
    if name in _VOID:
        return opened
    return opened + Markup("").join(map(escape, children)) + Markup("</{}>").format(name)


def joined(parts: list[Markup]) -> Markup:
    """Returns elements one after the other, a line each."""
    return Markup("\n").join(parts)


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")
