"""SIGINT and SIGTERM, from the first instruction of a line's process to its last.

start     nothing is under way: `Stopped` unwinds what was begun, and the process ends with status 0
line      the first one lets it end in good order, with status 0; a second one ends the process at once
after     the process ends at once
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stopped", "interrupts_held", "stopped_starting", "stopping", "while_starting"]

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
_asked: list[int] = []
"""What came during the start. An exception alone can get lost: Python drops those raised in some callbacks, and
libraries that are being loaded turn them into their own."""


class Stopped(BaseException):
    """A signal came before the line had started. No `Exception`, so that nothing takes it for a fault."""


def while_starting() -> None:
    """From now on a signal raises `Stopped`; only for the main thread of a process that will run a line."""
    for number in _NUMBERS:
        signal.signal(number, _stop_starting)


def stopped_starting() -> bool:
    """Whether a signal has come during the start and no line has answered it: then any error follows from it."""
    return bool(_asked)


@contextmanager
def interrupts_held(*numbers: signal.Signals) -> Iterator[None]:
    """A process that is started meanwhile never hears these signals: its parent ends it. The parent hears them later.

    Args:
        numbers: of the signals; SIGINT, which comes to the whole group, if none are given.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers or (signal.SIGINT,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[None]:
    """The first signal calls `stop`, a second one ends the process at once.

    Args:
        stop: called in a signal handler; it must take no lock.
    """
    previous = {number: signal.getsignal(number) for number in _NUMBERS}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, _end_at_once if handler is _stop_starting else handler)

    def first(_number: int, _frame: FrameType | None) -> None:
        restore()
        stop()

    for number in _NUMBERS:
        signal.signal(number, first)
    if _asked:
        _asked.clear()
        stop()
    try:
        yield
    finally:
        restore()


def _stop_starting(number: int, _frame: FrameType | None) -> None:
    _asked.append(number)
    for each in _NUMBERS:
        signal.signal(each, _end_at_once)
    raise Stopped


def _end_at_once(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
