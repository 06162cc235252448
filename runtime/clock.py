"""Whether this machine's clock follows a reference: then times of results can be compared with those of others."""

from __future__ import annotations

import ctypes
from pathlib import Path

__all__ = ["is_synchronised", "kernel_clock"]

_TIME_ERROR = 5  # of adjtimex: the clock is not synchronised
_TIMESYNCD = Path("/run/systemd/timesync/synchronized")
"""Exists once systemd-timesyncd has set the clock."""


def kernel_clock() -> bool | None:
    """What the kernel says; None where it may not be asked, as in a service that is shut off from the clock."""
    try:
        # A struct timex of zeros asks and changes nothing; its 208 bytes with room to spare.
        answer = int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)))
    except (OSError, AttributeError):
        return None
    return None if answer < 0 else answer != _TIME_ERROR


def is_synchronised() -> bool:
    """What can be told without starting a program."""
    told = kernel_clock()
    return _TIMESYNCD.exists() if told is None else told
