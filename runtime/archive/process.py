"""The archive's process: takes parts from the line, writes them, keeps the limits, and says how it is.

    main thread    receive, encode, write; between two parts look through the archive and delete the oldest
    beat thread    a beat each half second, also while the disk hangs; hears when the station has ended

It ends when its lifeline is closed, by whatever ends the station: what has come by then is written first.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import cv2

from inspectd.config import Archive as ArchiveSettings
from inspectd.errors import ConfigError, ProtocolError

from .beat import BEAT_S, Beat
from .handover import ArchiveReceiver
from .keeping import GIB, Keeper, Kept
from .place import ArchiveFolder, why_not
from .writing import Encoded, encode, store

__all__ = ["Archivist", "main"]

NICENESS = 10
"""The line goes first."""
FINISH_S = 10.0
"""So long may it take to write what has come, once the station has ended."""
RETRY_S = 1.0
"""Between two attempts while nothing can be written."""
GIVE_UP_S = 10.0
"""A part that could not be written for so long gives way to the next one."""
SLOW_S = 5.0
"""A disk that has not answered for so long is a fault."""
_WAIT_S = 0.1
_LAST_S = 0.3
"""Nothing more comes once nothing has come for so long after the station's end."""
_NEVER = (errno.EFBIG, errno.ENAMETOOLONG, errno.EINVAL)
"""What no waiting helps against."""
_log = logging.getLogger("inspectd.archive")


def main(arguments: list[str] | None = None) -> None:
    """The process: the section `archive` as JSON, the endpoint, descriptors of the lifeline and for the beats."""
    settings, endpoint, life, tell = sys.argv[1:] if arguments is None else arguments
    # Both may come to the whole group or control group: it ends once the line has, which still has parts for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="inspectd: %(message)s")
    os.nice(NICENESS)
    cv2.setNumThreads(1)
    try:
        archivist = Archivist(ArchiveSettings.model_validate_json(settings), endpoint)
    except ConfigError as error:
        _log.error("%s", error)
        sys.exit(2)
    threading.Thread(target=_tell, args=(archivist, int(life), int(tell)), name="beat", daemon=True).start()
    archivist.run()
    with contextlib.suppress(OSError):
        os.write(int(tell), archivist.beat.to_line())


def _tell(archivist: Archivist, life: int, tell: int) -> None:
    """The beat thread."""
    os.set_blocking(tell, False)
    end = select.poll()
    end.register(life, select.POLLIN)
    while not (end.poll(BEAT_S * 1000) and _is_closed(life)):
        # A station that does not listen, or has ended, must not stop what is being written.
        with contextlib.suppress(OSError):
            os.write(tell, archivist.beat.to_line())
    archivist.stop()
    time.sleep(FINISH_S)
    _log.error("the archive could not write all that it had within %g s of the station's end", FINISH_S)
    os._exit(1)


def _is_closed(life: int) -> bool:
    try:
        return not os.read(life, 1024)
    except OSError:
        return True


class Archivist:
    """Writes what comes; `run` in one thread, `beat` and `stop` from any.

    Args:
        settings: the section `archive`, with a path.
        endpoint: where the line hands over.
        clock: s, monotonic.
        utc: ns since 1970.

    Raises:
        ConfigError: the settings name no folder.
    """

    def __init__(
        self,
        settings: ArchiveSettings,
        endpoint: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        utc: Callable[[], int] = time.time_ns,
    ) -> None:
        if settings.path is None:
            raise ConfigError("archive.path: missing; without it there is nothing to archive to")
        self._root = settings.path
        self._settings = settings
        self._endpoint = endpoint
        self._clock = clock
        self._utc = utc
        self._folder = ArchiveFolder(settings.path)
        self._keeper = Keeper(settings.path, settings, clock=clock, utc=utc)
        self._receiver: ArchiveReceiver | None = None
        self._stopping = threading.Event()
        self._written = self._refused = 0
        self._fault = self._keeping_fault = ""
        self._lacking = 0  # bytes that did not fit
        self._checked_s = float("-inf")
        self._busy_since_s: float | None = None

    @property
    def beat(self) -> Beat:
        """How it is now."""
        fault, since_s = self._fault or self._keeping_fault, self._busy_since_s
        if not fault and since_s is not None and (taken_s := self._clock() - since_s) > SLOW_S:
            fault = f"archive {self._root}: its disk has not answered for {taken_s:.0f} s; see whether it fails"
        return Beat(self._written, self._refused, self._keeper.deleted, self._keeper.bytes, fault)

    def stop(self) -> None:
        """Write what has come, and end."""
        self._stopping.set()

    def run(self) -> None:
        """Until `stop`."""
        try:
            while not self._stopping.is_set():
                if self._is_ready():
                    self._step(_WAIT_S)
                else:
                    self._stopping.wait(RETRY_S)
            while self._step(_LAST_S):
                pass
        finally:
            if self._receiver is not None:
                self._receiver.close()
            self._folder.close()

    @contextlib.contextmanager
    def _busy(self) -> Iterator[None]:
        """While the disk has something to do: the beat thread tells if that takes long."""
        self._busy_since_s = self._clock()
        try:
            yield
        finally:
            self._busy_since_s = None

    def _is_ready(self) -> bool:
        """Hold the folder, and listen to the line only while it is held: parts wait there meanwhile."""
        if self._receiver is not None and self._clock() - self._checked_s < RETRY_S:
            return True
        self._checked_s = self._clock()
        try:
            with self._busy():
                if not self._folder.is_held:
                    if self._receiver is not None:
                        _log.warning("archive %s: was deleted or moved away; it is made anew", self._root)
                    self._folder.open()
                    self._keeper.look_again()
                if self._fault:
                    self._look_whether_over()
            if self._receiver is None:
                self._receiver = ArchiveReceiver(self._endpoint)
        except ConfigError as error:
            self._complain(str(error))
            return False
        return True

    def _look_whether_over(self) -> None:
        """A fault that is over while no part comes is over all the same."""
        try:
            self._keeper.check_floor()
            self._keeper.make_room(self._lacking)
            if not self._keeper.lacks_room(self._lacking):
                self._folder.try_room(self._lacking)
                self._recovered()
        except OSError as error:
            self._complain(why_not(self._root, error))

    def _step(self, timeout_s: float) -> bool:
        """Take a part if one comes, and keep the limits; whether one came."""
        if self._receiver is None:
            return False
        more = not self._stopping.is_set() and self._keep()
        try:
            part = self._receiver.receive(0 if more else timeout_s)
            if part is None:
                return False
        except ProtocolError as error:
            self._refuse(str(error))
            return True
        try:
            with self._busy():
                written = self._write(encode(part, self._settings))
        except (ProtocolError, MemoryError) as error:
            self._refuse(str(error) or f"archive {self._root}: there is no memory for a part")
            written = False
        self._receiver.answer(part, written=written)
        return True

    def _keep(self) -> bool:
        """Whether there is more to do at once."""
        fault, more = "", False
        try:
            with self._busy():
                self._keeper.check_floor()
                more = self._keeper.step()
        except ConfigError as error:
            fault = str(error)
        except OSError as error:
            fault = why_not(self._root, error, doing=f"{error.filename or 'it'} cannot be looked through or deleted")
        if fault and fault != self._keeping_fault:
            _log.error("%s", fault)
        self._keeping_fault = fault
        return more

    def _write(self, encoded: Encoded) -> bool:
        """Write a part, trying again for a while where that fails; whether it is written.

        Raises:
            ProtocolError: the verdict is none of a part.
        """
        # At the end what could not be written before will not be now.
        patience_s = GIVE_UP_S if not self._stopping.is_set() else 0.0 if self._fault else RETRY_S
        until_s = self._clock() + patience_s
        while True:
            try:
                self._try(encoded)
            except ConfigError as error:
                self._complain(str(error))
            except OSError as error:
                if error.errno in _NEVER:
                    self._refuse(f"archive {self._root}: a part cannot be written: {error.strerror}")
                    return False
                self._complain(why_not(self._root, error))
            else:
                self._recovered()
                return True
            if self._clock() >= until_s:
                self._refused += 1
                return False
            if not self._stopping.is_set() and self._stopping.wait(RETRY_S):
                until_s = min(until_s, self._clock() + RETRY_S)
            elif self._stopping.is_set():
                time.sleep(_WAIT_S)

    def _try(self, encoded: Encoded) -> None:
        """One attempt.

        Raises:
            ConfigError: there is no room, or the folder is not ours any more.
            ProtocolError: the verdict is none of a part.
            OSError: it cannot be written.
        """
        size = self._lacking = encoded.size
        if not self._folder.is_held:
            self._folder.open()
            self._keeper.look_again()
        self._keeper.check_floor()
        while self._keeper.lacks_room(size):
            self._look_through()
            if not self._keeper.make_room(size):
                raise ConfigError(
                    f"archive {self._root}: {self._keeper.free / GIB:.2f} GiB are free on its disk, of which "
                    f"{self._settings.keep_free_gib:g} are to stay free, and there is nothing left to delete; nothing "
                    f"is archived until there is room: make some, or lower archive.keep_free_gib"
                )
        try:
            self._store(encoded)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._look_through()
            if not self._keeper.give_way(size):
                raise
            self._store(encoded)

    def _look_through(self) -> None:
        """At once, because nothing can be written before: only what is known can be deleted."""
        while self._keeper.is_looking:
            self._keeper.step()

    def _store(self, encoded: Encoded) -> None:
        stamp_ns = self._keeper.stamp()
        folder, name, size = store(self._root, encoded, now_ns=self._utc(), stamp_ns=stamp_ns)
        self._written += 1
        self._keeper.add(Kept(stamp_ns, name, folder, size))

    def _recovered(self) -> None:
        if self._fault:
            _log.warning("archive %s: pictures are written again", self._root)
        self._fault, self._lacking = "", 0

    def _complain(self, fault: str) -> None:
        if fault != self._fault:
            _log.error("%s", fault)
        self._fault = fault

    def _refuse(self, why: str) -> None:
        _log.error("%s", why)
        self._refused += 1
