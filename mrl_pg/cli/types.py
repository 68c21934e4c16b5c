"""Types of options."""

from __future__ import annotations

import math
from typing import Any

import click


class Share(click.FloatRange):
    """A number between 0 and 1; nan, which no comparison holds off, is none."""

    def __init__(self, *, min_open: bool = False) -> None:
        super().__init__(0, 1, min_open=min_open)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the number; a usage error for another."""
        found = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value!r} is no number between 0 and 1.", param, ctx)
        return found
