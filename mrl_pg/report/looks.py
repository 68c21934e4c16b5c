"""How series look: colours of Okabe and Ito (2008), which the colour-blind can tell apart, each with its own marker.

Nothing is told by colour alone: markers differ, and lines by their dashes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Look:
    """A colour, a dash and a marker.

    :ivar light: colour on white.
    :ivar dark: colour on black.
    :ivar dash: lengths of strokes and gaps in pixels; empty for a solid line.
    :ivar path: the marker as an SVG path around 0, 0.
    :ivar marker: the same one as matplotlib calls it.
    """

    light: str
    dark: str
    dash: tuple[int, ...]
    path: str
    marker: str


_CIRCLE = "M-4.5,0a4.5,4.5 0 1 0 9,0a4.5,4.5 0 1 0 -9,0z"
_DIAMOND = "M0,-6L6,0L0,6L-6,0z"
_TRIANGLE = "M0,-5.5L5.5,4.5H-5.5z"
_SQUARE = "M-4,-4H4V4H-4z"
_CROSS = "M-5,-3L-3,-5L0,-2L3,-5L5,-3L2,0L5,3L3,5L0,2L-3,5L-5,3L-2,0z"
_PLUS = "M-1.6,-5.5H1.6V-1.6H5.5V1.6H1.6V5.5H-1.6V1.6H-5.5V-1.6H-1.6z"
_DOWN = "M0,5.5L5.5,-4.5H-5.5z"
_RING = "M-9,0a9,9 0 1 0 18,0a9,9 0 1 0 -18,0zM-7,0a7,7 0 1 1 14,0a7,7 0 1 1 -14,0z"

LOOKS = {
    "truncate": Look("#0072b2", "#56b4e9", (), _CIRCLE, "o"),
    "rotate": Look("#d55e00", "#f28e2b", (9, 3), _DIAMOND, "D"),
    "binary": Look("#009e73", "#2fc79b", (2, 3), _TRIANGLE, "^"),
    "random": Look("#6b7280", "#a3abb8", (5, 4), _CROSS, "X"),
    "more-1": Look("#aa4586", "#e39ac6", (9, 3, 2, 3), _SQUARE, "s"),
    "more-2": Look("#8a6d00", "#f0e442", (12, 4), _PLUS, "P"),
    "more-3": Look("#1f6f8b", "#7fd3ea", (4, 2), _DOWN, "v"),
    "frontier": Look("#8b93a1", "#7d8695", (), _CIRCLE, "o"),
    "pick": Look("#1f2430", "#e6e8ec", (), _RING, "o"),
}
MORE = ("truncate", "rotate", "binary", "more-1", "more-2", "more-3", "random")
