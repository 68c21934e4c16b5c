"""SIGTERM and SIGHUP as exceptions, so that what is held is given back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """A signal that ends the process, told as Ctrl-C is: what cleans up after one does after the other.

    :ivar number: that of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def raising(error: Callable[[int], BaseException]) -> Iterator[None]:
    """Yields while SIGTERM and SIGHUP raise what is made of their number; they would end the process at once."""
    # A closed terminal sends SIGHUP, which Windows does not have; under nohup it is ignored and stays so.
    names = ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    ours = [number for name in names if (number := getattr(signal, name, None)) is not None]
    ours = [number for number in ours if signal.getsignal(number) is signal.SIG_DFL]

    def handle(number: int, frame: FrameType | None) -> None:
        raise error(number)

    for number in ours:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
