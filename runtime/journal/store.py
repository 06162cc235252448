"""The database behind the journal: its schema, and what is done within a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from inspectd.wire import Message

__all__ = ["LATER_VERSION", "SCHEMA_VERSION", "OpenAlarm", "Store", "is_corrupt", "is_full"]

LATER_VERSION = "is of a later version of inspectd"
_APPLICATION_ID = 0x494E5331  # "INS1"
_PAGE_BYTES = 4096
_WAL_LIMIT_BYTES = 16 * 2**20
_PURGE_ROWS = 200
"""So many messages are deleted in one transaction: more would hold up those that wait to be written."""

_MOST_REQUESTS = 10_000
"""Of each operation."""

# Steps that were released are never changed: journals look like that. A change of the schema is one step more.
# "If not exists": what wrote schema 1 gave the number after the tables, and some of its journals have the index.
_STEPS = (
    """
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    type INTEGER NOT NULL,
    utc_ns INTEGER NOT NULL,
    topic TEXT NOT NULL,
    header BLOB NOT NULL,
    body BLOB NOT NULL,
    payload BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS message_numbers ON messages (epoch, stream, seq, type);
CREATE TABLE IF NOT EXISTS alarms (alarm_id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS requests (
    client TEXT NOT NULL,
    request_id TEXT NOT NULL,
    utc_ns INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    op TEXT NOT NULL,
    args TEXT NOT NULL,
    answer TEXT,
    PRIMARY KEY (client, request_id)
);
""",
    "CREATE INDEX IF NOT EXISTS request_times ON requests (utc_ns);",
)
"""Step n makes of a journal of schema n one of schema n + 1; that of schema 0 is empty."""
SCHEMA_VERSION = len(_STEPS)


# Primary result codes; the constants of the module begin with Python 3.11.
_FULL = 13
_CORRUPT = 11
_NOT_A_DATABASE = 26
_MESSAGES = {_FULL: "full", _CORRUPT: "malformed", _NOT_A_DATABASE: "not a database"}


@dataclass(frozen=True, slots=True)
class OpenAlarm:
    """An alarm that is not done with; `body` is its JSON, empty once it is."""

    alarm_id: str
    body: str


def is_full(error: BaseException) -> bool:
    """Whether SQLite says that the disk, or the database's own limit, is full."""
    return isinstance(error, sqlite3.Error) and _code(error) == _FULL


def is_corrupt(error: BaseException) -> bool:
    """Whether SQLite says that the file is damaged or is no database."""
    return isinstance(error, sqlite3.Error) and _code(error) in (_CORRUPT, _NOT_A_DATABASE)


def _code(error: sqlite3.Error) -> int:
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return int(code) & 0xFF
    return next((number for number, words in _MESSAGES.items() if words in str(error)), 0)


class Store:
    """The connection that writes; for one thread alone.

    A journal of an earlier version becomes one of this version.

    Args:
        path: of the database; made where there is none.

    Raises:
        sqlite3.Error: it cannot be opened, or is damaged.
        ValueError: it is of a later version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = sqlite3.connect(path, isolation_level=None, timeout=1.0)
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        execute = self._db.execute
        (version,) = execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise ValueError(f"{self.path}: {LATER_VERSION} (schema {version}, this one knows {SCHEMA_VERSION})")
        execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        (mode,) = execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise sqlite3.OperationalError(f"cannot be kept in WAL mode on this file system (got {mode!r})")
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA mmap_size = 0")
        execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
        if version < SCHEMA_VERSION:
            # In one transaction, the number with it: a power cut leaves the journal as it was.
            self._db.executescript(
                f"BEGIN IMMEDIATE;{''.join(_STEPS[version:])}PRAGMA application_id = {_APPLICATION_ID};"
                f"PRAGMA user_version = {SCHEMA_VERSION};COMMIT;"
            )

    def close(self) -> None:
        """Bring everything into the database itself, and let go."""
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error:
            pass  # the next start reads the log
        finally:
            self._db.close()

    def begin(self) -> None:
        """Begin a transaction."""
        self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """End it: on the disk when this returns."""
        self._db.execute("COMMIT")

    def roll_back(self) -> None:
        """Forget it, if there is one."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def add_messages(self, messages: Iterable[Message], utc_ns: int) -> None:
        """Keep messages; the number of each must be new."""
        self._db.executemany(
            "INSERT INTO messages (epoch, stream, seq, type, utc_ns, topic, header, body, payload) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    message.header.epoch,
                    message.header.stream,
                    message.header.seq,
                    message.header.msg_type,
                    utc_ns,
                    message.topic,
                    message.header.pack(),
                    message.body,
                    message.payload,
                )
                for message in messages
            ],
        )

    def keep_alarm(self, alarm: OpenAlarm) -> None:
        """Keep how an alarm stands; forget it once it is done with."""
        if alarm.body:
            self._db.execute("INSERT OR REPLACE INTO alarms VALUES (?, ?)", (alarm.alarm_id, alarm.body))
        else:
            self._db.execute("DELETE FROM alarms WHERE alarm_id = ?", (alarm.alarm_id,))

    def alarms(self) -> list[str]:
        """The bodies of alarms that are not done with, oldest first."""
        return [body for (body,) in self._db.execute("SELECT body FROM alarms ORDER BY rowid")]

    def begin_request(self, values: tuple[str, str, int, int, str, str, str, str]) -> None:
        """Keep that a request was begun: client, request_id, utc_ns, epoch, name, role, op, args."""
        self._db.execute("INSERT OR IGNORE INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)", values)

    def end_request(self, client: str, request_id: str, answer: str) -> None:
        """Keep what it was answered."""
        self._db.execute(
            "UPDATE requests SET answer = ? WHERE client = ? AND request_id = ?", (answer, client, request_id)
        )

    def last_epoch(self) -> int:
        """The highest epoch of any message, 0 if there is none."""
        (epoch,) = self._db.execute("SELECT max(epoch) FROM messages").fetchone()
        return epoch or 0

    def oldest(self, epoch: int) -> dict[int, int]:
        """The lowest seq that is held of each stream of an epoch."""
        found: dict[int, int] = {}
        stream = -1
        # Two steps in the index for each stream: to group by it would go through the whole epoch.
        while True:
            following = self._db.execute(
                "SELECT stream, seq FROM messages WHERE epoch = ? AND stream > ? ORDER BY stream, seq LIMIT 1",
                (epoch, stream),
            ).fetchone()
            if following is None:
                return found
            stream, seq = following
            found[stream] = seq

    @property
    def rows(self) -> int:
        """Messages that are held, by their first and last number: counting would read them all."""
        first, last = self._db.execute("SELECT min(id), max(id) FROM messages").fetchone()
        return 0 if first is None else int(last - first + 1)

    @property
    def used_bytes(self) -> int:
        """What is used of the file."""
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        return int(pages - free) * _PAGE_BYTES

    def purge(self, *, before_ns: int, max_bytes: int) -> int:
        """Delete a few of the oldest messages if they are older than `before_ns`, or the file is above its size.

        Returns:
            How many were deleted; ask again while it is above 0.
        """
        if self.used_bytes > max_bytes:
            before_ns = 2**63 - 1
        return self._db.execute(
            "DELETE FROM messages WHERE id IN "
            "(SELECT id FROM (SELECT id, utc_ns FROM messages ORDER BY id LIMIT ?) WHERE utc_ns < ?)",
            (_PURGE_ROWS, before_ns),
        ).rowcount

    def purge_requests(self, before_ns: int) -> None:
        """Forget old requests, and what they were answered; and the oldest where there are too many."""
        self._db.execute("DELETE FROM requests WHERE utc_ns < ?", (before_ns,))
        # Clients choose how many there are, and results would give way to them.
        self._db.execute("DELETE FROM requests WHERE rowid <= (SELECT max(rowid) FROM requests) - ?", (_MOST_REQUESTS,))
