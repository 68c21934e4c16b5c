"""Numbers as people read them."""

from __future__ import annotations

from mrl_pg.metrics import Summary

_BYTES = ("bytes", "kB", "MB", "GB", "TB")
BYTE_UNITS = tuple(1024.0**n for n in range(len(_BYTES)))
TIME_UNITS = (0.001, 1.0, 60.0, 3_600.0)
MS_UNITS = (0.01,)


def size(number: float) -> str:
    """Returns bytes with a unit of 1,024, as pg_size_pretty() counts: ``391 MB``."""
    power = next((n for n in range(len(_BYTES) - 1, 0, -1) if number >= BYTE_UNITS[n]), 0)
    scaled = number / BYTE_UNITS[power]
    return f"{scaled:.{0 if scaled >= 100 or scaled == int(scaled) else 1}f} {_BYTES[power]}"


def duration(seconds: float) -> str:
    """Returns a time with its unit: ``47 s``, ``2.6 min``."""
    for unit, name in ((3_600.0, "h"), (60.0, "min"), (1.0, "s")):
        if seconds >= unit:
            return f"{_short(seconds / unit)} {name}"
    return f"{_short(seconds * 1_000)} ms"


def milliseconds(number: float) -> str:
    """Returns a latency without its unit, which the axis says."""
    return f"{number:.3g}"


def count(number: int) -> str:
    """Returns a whole number; four digits are read without a comma."""
    return f"{number:,}" if number >= 10_000 else str(number)


def percent(share: float) -> str:
    """Returns a share in percent, without decimals."""
    return f"{share * 100:.0f} %"


def share(number: float) -> str:
    """Returns a share with three decimals."""
    return f"{number:.3f}"


def interval(summary: Summary) -> str:
    """Returns the ends of the 95 % confidence interval."""
    return f"{share(summary.low)}–{share(summary.high)}"


def figure(summary: Summary) -> str:
    """Returns a mean with its interval: ``0.981 (0.975–0.987)``."""
    return with_interval(summary.mean, summary.low, summary.high)


def with_interval(mean: float, low: float, high: float) -> str:
    """Returns a share with the ends of its interval: ``0.981 (0.975–0.987)``."""
    return f"{share(mean)} ({share(low)}–{share(high)})"


def listed(names: list[str]) -> str:
    """Returns names as a sentence lists them."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"
