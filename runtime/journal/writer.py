"""The journal as the line sees it: entries in, tickets that say whether they are on the disk."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from inspectd.errors import ConfigError
from inspectd.wire import Message

from .store import LATER_VERSION, OpenAlarm, Store, is_corrupt, is_full

__all__ = ["Entry", "Journal", "JournalFault", "Ticket"]

MOST_WAITING = 2000
"""So many entries may wait for the disk; what comes then is not kept."""
RETRY_S = 1.0
"""Between two attempts to write to a disk that fails."""
PURGE_EVERY_S = 10.0
CLOSE_S = 5.0
_NS = 1_000_000_000
_DAY_NS = 86_400 * _NS
_log = logging.getLogger("inspectd.journal")


class JournalFault(str, Enum):
    """What is wrong with the journal; the value is the code of its alarm."""

    NONE = ""
    FULL = "journal.full"
    FAILING = "journal.failing"
    SLOW = "journal.slow"


class Ticket:
    """Whether an entry is on the disk."""

    __slots__ = ("committed_ns", "durable", "failed", "submitted_ns")

    def __init__(self, submitted_ns: int) -> None:
        self.submitted_ns = submitted_ns
        self.committed_ns = 0
        self.durable = False
        self.failed = False

    @property
    def answered(self) -> bool:
        """Whether it is known."""
        return self.durable or self.failed


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept in one transaction, wholly or not at all.

    Attributes:
        messages: as they are published.
        alarm: how an alarm stands with them.
        begun: a request that is about to be done: client, request_id, utc_ns, epoch, name, role, op, args.
        ended: what a request was answered: client, request_id, answer.
    """

    messages: Sequence[Message] = ()
    alarm: OpenAlarm | None = None
    begun: tuple[str, str, int, int, str, str, str, str] | None = None
    ended: tuple[str, str, str] | None = None


class Journal:
    """The journal; `submit` may be called from any thread and never waits for the disk.

    Args:
        path: of the database.
        epoch: of this start.
        retention_days: older messages are deleted.
        max_mib: above this size the oldest are deleted.
        commit_timeout_s: a transaction that takes longer means that the disk is slow.
        committed: called from the journal's thread after each transaction; it must not block.
        clock: ns, monotonic.
        utc: ns since the Unix epoch.
    """

    def __init__(
        self,
        path: Path,
        *,
        epoch: int,
        retention_days: float = 30.0,
        max_mib: int = 2048,
        commit_timeout_s: float = 0.2,
        committed: Callable[[], None] = lambda: None,
        clock: Callable[[], int] = time.monotonic_ns,
        utc: Callable[[], int] = time.time_ns,
    ) -> None:
        self.path = path
        self.epoch = epoch
        self.committed = committed
        self._retention_ns = round(retention_days * _DAY_NS)
        self._max_bytes = max_mib * 2**20
        self._commit_timeout_ns = round(commit_timeout_s * _NS)
        self._clock = clock
        self._utc = utc
        self._waiting: deque[tuple[Entry, Ticket]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._writing_since_ns = 0
        self._fault = JournalFault.NONE
        self._why = ""
        self._set_aside = ""
        self._begun_anew = 0
        self._damage = ""
        self._retry_ns = 0
        self._store: Store | None = None
        self._oldest: dict[int, int] = {}
        self._rows = self._bytes = 0
        self._alarms: list[str] = []
        self._opened = threading.Event()
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)

    @staticmethod
    def last_epoch(path: Path) -> int:
        """The highest epoch that a journal has messages of; 0 if there is none, or it cannot be read.

        Raises:
            ConfigError: it is of a later version.
        """
        if not path.exists():
            return 0
        try:
            store = Store(path)
        except ValueError as error:
            raise ConfigError(f"{error}; go back to that version, or set another journal.path") from None
        except sqlite3.Error:
            return 0
        try:
            return store.last_epoch()
        except sqlite3.Error:
            return 0
        finally:
            store.close()

    def open(self) -> list[str]:
        """Start the thread, and wait until the database is open or known not to be.

        Returns:
            The bodies of alarms that were open when the station ended.
        """
        self._thread.start()
        self._opened.wait()
        return self._alarms

    def submit(self, entry: Entry) -> Ticket:
        """Have something written. The ticket says when it is; where the journal fails it says so at once."""
        ticket = Ticket(self._clock())
        with self._changed:
            if self._closing or len(self._waiting) >= MOST_WAITING or (self._broken and self._clock() < self._retry_ns):
                ticket.failed = True
                return ticket
            self._waiting.append((entry, ticket))
            self._changed.notify()
        return ticket

    @property
    def _broken(self) -> bool:
        return self._fault in (JournalFault.FULL, JournalFault.FAILING)

    @property
    def fault(self) -> tuple[JournalFault, str]:
        """What is wrong with it now, and in words."""
        if self._fault is JournalFault.NONE and self.is_slow:
            return JournalFault.SLOW, f"{self.path}: the disk has not answered for {self._writing_s:.1f} s"
        return self._fault, self._why

    def take_damage(self) -> str:
        """Why a database was set aside since this was last asked, in words; empty if none was."""
        damage, self._damage = self._damage, ""
        return damage

    @property
    def is_slow(self) -> bool:
        """Whether the transaction that is under way takes longer than it may."""
        since_ns = self._writing_since_ns
        return since_ns != 0 and self._clock() - since_ns > self._commit_timeout_ns

    @property
    def _writing_s(self) -> float:
        since_ns = self._writing_since_ns
        return (self._clock() - since_ns) / _NS if since_ns else 0.0

    @property
    def lag(self) -> int:
        """Entries that wait."""
        return len(self._waiting)

    @property
    def rows(self) -> int:
        """Messages that are held."""
        return self._rows

    @property
    def used_bytes(self) -> int:
        """Size."""
        return self._bytes

    def oldest(self, stream: int) -> int | None:
        """The lowest seq that is held of a stream in this epoch, None where none is."""
        return self._oldest.get(stream)

    def close(self, timeout_s: float = CLOSE_S) -> bool:
        """Write what waits, and let go. May be called twice.

        Returns:
            False if the disk did not take it in time.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # The thread

    def _write(self) -> None:
        try:
            self._reopen()
        finally:
            self._opened.set()
        checker = threading.Thread(target=self._check, name="journal-check", daemon=True)
        checker.start()
        next_purge_ns = self._clock()
        while True:
            batch = self._next_batch()
            if batch is None:
                break
            if self._set_aside:
                self._start_anew(self._set_aside)
                self._set_aside = ""
            if batch:
                self._commit(batch)
            if self._clock() >= next_purge_ns:
                more = self._purge()
                next_purge_ns = self._clock() + (0 if more else round(PURGE_EVERY_S * _NS))
        if self._store is not None:
            self._store.close()
            self._store = None

    def _next_batch(self) -> list[tuple[Entry, Ticket]] | None:
        """All that waits; empty after a while without any; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing, RETRY_S)
            if not self._waiting and self._closing:
                return None
            batch = list(self._waiting)
            self._waiting.clear()
            return batch

    def _commit(self, batch: Sequence[tuple[Entry, Ticket]]) -> None:
        self._writing_since_ns = self._clock()
        try:
            self._put(batch)
        except (sqlite3.Error, OSError, ValueError) as error:
            if is_corrupt(error):
                self._start_anew(str(error))
                with contextlib.suppress(sqlite3.Error, OSError, ValueError):
                    self._put(batch)
                    self._note_committed(batch)
                    return
            self._fail(error)
            for _, ticket in batch:
                ticket.failed = True
            self.committed()
        else:
            self._note_committed(batch)
        finally:
            self._writing_since_ns = 0

    def _put(self, batch: Sequence[tuple[Entry, Ticket]]) -> None:
        if self._store is None:
            self._store = Store(self.path)
        store, utc_ns = self._store, self._utc()
        try:
            store.begin()
            for entry, _ in batch:
                store.add_messages(entry.messages, utc_ns)
                if entry.alarm is not None:
                    store.keep_alarm(entry.alarm)
                if entry.begun is not None:
                    store.begin_request(entry.begun)
                if entry.ended is not None:
                    store.end_request(*entry.ended)
            store.commit()
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                store.roll_back()
            raise

    def _note_committed(self, batch: Sequence[tuple[Entry, Ticket]]) -> None:
        now_ns = self._clock()
        if self._fault is not JournalFault.NONE:
            _log.warning("journal %s: is written again", self.path)
        self._fault, self._why = JournalFault.NONE, ""
        for entry, ticket in batch:
            for message in entry.messages:
                self._oldest.setdefault(message.header.stream, message.header.seq)
            self._rows += len(entry.messages)
            ticket.committed_ns = now_ns
            ticket.durable = True
        self.committed()

    def _fail(self, error: BaseException) -> None:
        fault = JournalFault.FULL if is_full(error) else JournalFault.FAILING
        what = "the disk is full" if fault is JournalFault.FULL else self._cause(error)
        why = (
            f"journal {self.path}: cannot be written ({what}); parts are inspected all the same, and their results are "
            f"not kept. Make room or mend the disk: it is tried again by itself"
        )
        if fault is not self._fault:
            _log.error("%s", why)
        self._fault, self._why = fault, why
        self._retry_ns = self._clock() + round(RETRY_S * _NS)
        # A disk that was away and came back, or was mounted anew, needs a new connection.
        if fault is JournalFault.FAILING and self._store is not None:
            with contextlib.suppress(sqlite3.Error):
                self._store.close()
            self._store = None

    def _cause(self, error: BaseException) -> str:
        """SQLite says of a disk that is read-only that it is unable to open the file."""
        try:
            is_read_only = bool(os.statvfs(self.path.parent).f_flag & os.ST_RDONLY)
        except OSError:
            is_read_only = False
        return "the disk is read-only" if is_read_only else str(error)

    def _reopen(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._store = Store(self.path)
            self._load()
        except (sqlite3.Error, OSError, ValueError) as error:
            if is_corrupt(error):
                self._start_anew(str(error))
            else:
                self._fail(error)

    def _load(self) -> None:
        store = self._store
        if store is None:
            return
        self._alarms = self._alarms or store.alarms()
        self._oldest = store.oldest(self.epoch)
        self._rows, self._bytes = store.rows, store.used_bytes

    def _start_anew(self, why: str) -> None:
        """Set a damaged database aside, with all that belongs to it, and begin a new one."""
        if self._store is not None:
            with contextlib.suppress(sqlite3.Error):
                self._store.close()
            self._store = None
        if LATER_VERSION in why:
            return
        self._begun_anew += 1
        kept = self.path.with_name(f"{self.path.name}.damaged-{self._utc() // _NS}")
        try:
            for ending in ("", "-wal", "-shm"):
                part = self.path.with_name(self.path.name + ending)
                if part.exists():
                    part.rename(kept.with_name(kept.name + ending))
            self._store = Store(self.path)
            self._oldest = {}
            self._load()
        except (sqlite3.Error, OSError, ValueError) as error:
            self._fail(error)
        self._damage = (
            f"journal {self.path}: was damaged ({why}); it is kept as {kept.name}, and a new one was begun. Results of "
            f"before cannot be asked for any more; look after the disk"
        )
        _log.error("%s", self._damage)

    def _check(self) -> None:
        """Read the whole database once, beside the line: it may take a minute."""
        try:
            reader = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=1.0)
        except sqlite3.Error:
            return
        begun_anew = self._begun_anew
        damage = ""
        try:
            reader.execute("PRAGMA query_only = 1")
            (found,) = reader.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                damage = str(found)
        except sqlite3.Error as error:
            if is_corrupt(error):
                damage = str(error)
        finally:
            reader.close()
        # It may have been noticed and set aside by then: the new one has done nothing.
        if damage and begun_anew == self._begun_anew:
            self._set_aside = damage

    def _purge(self) -> bool:
        """Delete what is too old or too much.

        Returns:
            Whether there may be more.
        """
        store = self._store
        if store is None:
            return False
        now_ns = self._utc()
        try:
            store.begin()
            deleted = store.purge(before_ns=now_ns - self._retention_ns, max_bytes=self._max_bytes)
            store.purge_requests(now_ns - self._retention_ns)
            store.commit()
            if deleted:
                self._oldest = store.oldest(self.epoch)
            self._rows, self._bytes = store.rows, store.used_bytes
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                store.roll_back()
            if is_corrupt(error):
                self._start_anew(str(error))
            return False
        return deleted > 0
