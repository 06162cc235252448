"""The archive's process as the station sees it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys

from inspectd.config import Archive as ArchiveSettings
from inspectd.errors import ProtocolError
from inspectd.runtime.ending import kill_and_reap
from inspectd.runtime.signals import interrupts_held

from .beat import Beat

__all__ = ["ArchiveProcess", "archive_command"]

STOP_S = 12.0
"""So long is it waited for at its end; it ends by itself before."""


def archive_command(settings: ArchiveSettings, endpoint: str, life: int, tell: int) -> list[str]:
    """The command line of the process.

    Args:
        settings: the section `archive`.
        endpoint: `ipc://PATH`; the process binds it, `ArchiveSender` connects to it.
        life: descriptor, inherited: the process ends once its other end is closed. May be a pipe's or a socket's.
        tell: descriptor, inherited, that beats are written to; may be the same where it is a socket's.
    """
    return [
        sys.executable, "-m", "inspectd.runtime.archive", settings.model_dump_json(), endpoint, str(life), str(tell),
    ]  # fmt: skip


class ArchiveProcess:
    """A process that archives, from its start to its end; used from one thread.

    Args:
        settings: the section `archive`, with a path.
        endpoint: `ipc://PATH` where parts are handed over.

    Attributes:
        number: of the process.

    Raises:
        OSError: this machine has no room for one.
    """

    def __init__(self, settings: ArchiveSettings, endpoint: str) -> None:
        self._link, theirs = socket.socketpair()
        self._received = b""
        try:
            # Both may come to the whole group; the process ends once the line has.
            with interrupts_held(signal.SIGINT, signal.SIGTERM):
                self._process = subprocess.Popen(
                    archive_command(settings, endpoint, theirs.fileno(), theirs.fileno()),
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    # Modules of the folder that the line was started in are not its own.
                    env={**os.environ, "PYTHONSAFEPATH": "1"},
                )
        except OSError:
            self._link.close()
            raise
        finally:
            theirs.close()
        self.number = self._process.pid

    @property
    def status(self) -> int | None:
        """How it ended: its exit status, or minus the number of a signal; None while it runs."""
        return self._process.poll()

    def fileno(self) -> int:
        """Descriptor that can be read from when there is a beat, or when the process has ended."""
        return self._link.fileno()

    def hear(self, timeout_s: float) -> Beat | None:
        """The latest beat, None if none comes in time, or it has ended.

        Raises:
            ProtocolError: what it says is no beat.
        """
        waiting = select.poll()
        waiting.register(self._link, select.POLLIN)
        latest = None
        while waiting.poll(0 if latest is not None else max(0.0, timeout_s) * 1000):
            try:
                data = self._link.recv(65_536)
            except ConnectionResetError:
                break
            if not data:
                break
            *lines, self._received = (self._received + data).split(b"\n")
            for line in lines:
                latest = Beat.from_line(line)
        return latest

    def end(self, timeout_s: float = STOP_S) -> Beat | None:
        """Let it write what it has, and end; to be called once the sender is closed. May be called twice.

        Returns:
            Its last beat, if there was one that had not been heard.
        """
        if self._link.fileno() < 0:
            return None
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_WR)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            kill_and_reap(self._process, min(timeout_s, 1.0))
        latest = None
        with contextlib.suppress(OSError, ProtocolError):
            latest = self.hear(0)
        self._link.close()
        return latest
