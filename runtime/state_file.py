"""A small file that says how something stands, written by a thread of its own: the line waits for no disk.

What comes while something is being written waits, and the latest of it alone is written next.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["LAST_WRITE_S", "StateFile"]

LAST_WRITE_S = 3.0
"""So long the disk is waited for at the end."""
_SLOW_S = 2.0
"""A disk that takes longer does not answer."""
_State = TypeVar("_State")
_log = logging.getLogger("inspectd.disk")


class StateFile(Generic[_State]):
    """Brings the latest state to the disk; used from one thread.

    Args:
        write: has the file say a state, on the disk when it returns, or raises OSError; called by the thread.
        name: of the thread.
        written: what the file says; None where nobody knows.
        answered: told by the thread that a write has ended, well or not.
    """

    def __init__(
        self,
        write: Callable[[_State], None],
        *,
        name: str,
        written: _State | None = None,
        answered: Callable[[], None] = lambda: None,
    ) -> None:
        self._write = write
        self._name = name
        self._written = written
        self._answered = answered
        self._tried: _State | None = None
        self._since_s: float | None = None
        self._error = ""
        self._thread: threading.Thread | None = None

    def keep(self, state: _State) -> None:
        """Have the file say this, unless it does, or something is being written: asked several times a second."""
        if self._since_s is not None or self._written == state:
            return
        self._since_s, self._tried = time.monotonic(), None
        self._thread = threading.Thread(target=self._bring, args=(state,), name=self._name, daemon=True)
        self._thread.start()

    def _bring(self, state: _State) -> None:
        try:
            self._write(state)
        except OSError as error:
            # It may have failed with the new file in place already.
            self._written, self._error = None, error.strerror or str(error)
        except Exception as error:  # noqa: BLE001 - else nothing would ever be written again, and the disk be blamed
            fault = f"{type(error).__name__}: {error}"
            if fault != self._error:  # else its trace would be told several times a second
                _log.exception("%s: an unexpected failure", self._name)
            self._written, self._error = None, fault
        else:
            self._written, self._error = state, ""
        self._tried, self._since_s = state, None
        self._answered()

    def is_settled(self, state: _State) -> bool:
        """Whether the disk has answered to this: it has it, or has refused it."""
        return self._since_s is None and state in (self._written, self._tried)

    @property
    def failure(self) -> str:
        """Why the file does not say what it should; empty where it does, or will in a moment."""
        since_s = self._since_s
        is_slow = since_s is not None and time.monotonic() - since_s > _SLOW_S
        return self._error or ("the disk does not answer" if is_slow else "")

    def close(self, state: _State) -> bool:
        """Wait for the disk, at most `LAST_WRITE_S`; whether the file says this then."""
        deadline_s = time.monotonic() + LAST_WRITE_S
        for _ in range(2):  # what is being written, and this
            self.keep(state)
            if self._thread is not None:
                self._thread.join(max(0.0, deadline_s - time.monotonic()))
        return self._since_s is None and self._written == state
