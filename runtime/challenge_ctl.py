"""`inspectd ctl challenge`: says which master part comes next, and how each came out."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from typing import Any

from rich.console import Console

from inspectd.errors import InspectdError, NotReached

from .messaging import Requester

__all__ = ["follow_challenge"]

_LOOK_S = 0.3


def follow_challenge(requester: Requester, console: Console, *, timeout_s: float) -> dict[str, Any]:
    """Begin a challenge, and tell of its parts until it is over; whatever ends the command before gives it up.

    Args:
        requester: to the station.
        console: where parts are asked for.
        timeout_s: of each question.

    Returns:
        What came of it, as `snapshot` tells it.

    Raises:
        InspectdError: it was not begun, or the station is gone.
    """
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(128 + signal.SIGHUP))  # the terminal was closed
    told = dict(requester.ask("challenge", timeout_s=timeout_s).result or {})
    begun, shown = told["begun"], 0
    try:
        _plain(console, f"challenge: put {told['count']} master parts through camera {told['camera']!r}, in this order")
        _ask_for(console, told)
        while True:
            for each in told["parts"][shown:]:
                shown += 1
                fault = f"NOT AS IT SHOULD BE: {each['why']}" if each["why"] else "as it should be"
                came_out = f"{each['verdict']}, {fault}"
                _plain(console, f"{shown:3} of {told['count']}: {each['name']}: {came_out} ({each['result_id']})")
                if shown == told["done"]:
                    _ask_for(console, told)
            if told["state"] != "running":
                return told
            time.sleep(_LOOK_S)
            told = (requester.ask("snapshot", timeout_s=timeout_s).result or {}).get("challenge") or {}
            if told.get("begun") != begun:
                raise NotReached(
                    "the station knows nothing of this challenge any more; it was started again. Begin anew"
                )
    except BaseException:
        # The next parts would be taken for master parts, with nobody to lay them in.
        with contextlib.suppress(InspectdError):
            requester.ask("challenge_cancel", timeout_s=timeout_s)
        raise


def _ask_for(console: Console, told: dict[str, Any]) -> None:
    if told["next"] is not None:
        part = told["next"]
        about = f"{part['defect']}, {part['size']}" if part["defect"] else "a good part"
        _plain(console, f"next: {part['name']} ({about})")


def _plain(console: Console, line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)
