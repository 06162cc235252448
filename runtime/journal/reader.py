"""Reading the journal, also beside the line that writes it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from inspectd.errors import ConfigError, ProtocolError
from inspectd.wire import Header, Message, MessageType

from .store import SCHEMA_VERSION, is_corrupt

__all__ = ["Held", "JournalReader", "PastRequest"]

_PIECE_ROWS = 500


@dataclass(frozen=True, slots=True)
class Held:
    """What is held of one stream of one epoch: the lowest and the highest seq."""

    epoch: int
    stream: int
    oldest: int
    last: int


@dataclass(frozen=True, slots=True)
class PastRequest:
    """A request that was made, and its answer, None if the station ended before it had one."""

    client: str
    request_id: str
    utc_ns: int
    epoch: int
    name: str
    role: str
    op: str
    args: str
    answer: str | None


class JournalReader:
    """A connection that can only read; for one thread. What it reads of is whole even while the line writes.

    Args:
        path: of the database.

    Raises:
        ConfigError: there is no journal, or it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise ConfigError(f"{path}: there is no journal; expected the journal.db of a station's state folder")
        try:
            self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=2.0)
            self._db.execute("PRAGMA query_only = 1")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
        except sqlite3.Error as error:
            raise self._refused(error) from error
        if version != SCHEMA_VERSION:
            self._db.close()
            remedy = (
                "it is of a later version of inspectd: use that one"
                if version > SCHEMA_VERSION
                else "it is of an earlier version of inspectd: the station brings it up to date when it starts"
            )
            raise ConfigError(f"{path}: expected a journal of schema {SCHEMA_VERSION}, got {version}; {remedy}")

    def close(self) -> None:
        """Let go."""
        self._db.close()

    def __enter__(self) -> JournalReader:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _refused(self, error: sqlite3.Error) -> ConfigError:
        remedy = (
            "it is damaged; the line sets it aside at its next start" if is_corrupt(error) else "look after the disk"
        )
        return ConfigError(f"{self.path}: the journal cannot be read ({error}); {remedy}")

    def _rows(self, query: str, values: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
        try:
            yield from self._db.execute(query, values)
        except sqlite3.Error as error:
            raise self._refused(error) from error

    def held(self, epoch: int | None = None, *, most_epochs: int = 50) -> list[Held]:
        """What is held of each stream, of one epoch or of the latest ones; the latest epoch first."""
        wanted = [int(str(row[0])) for row in self._epochs(most_epochs)] if epoch is None else [epoch]
        found = []
        for number in wanted:
            # By the index from one stream to the next: grouping would go through every row of an epoch.
            stream = -1
            while True:
                row = next(
                    self._rows(
                        "SELECT stream, min(seq), "
                        "(SELECT max(seq) FROM messages WHERE epoch = ?1 AND stream = m.stream) "
                        "FROM messages m WHERE epoch = ?1 AND stream = "
                        "(SELECT min(stream) FROM messages WHERE epoch = ?1 AND stream > ?2)",
                        (number, stream),
                    )
                )
                if row[0] is None:
                    break
                stream = int(str(row[0]))
                found.append(Held(number, stream, int(str(row[1])), int(str(row[2]))))
        return found

    def _epochs(self, most: int) -> Iterator[tuple[object, ...]]:
        epoch: int | None = 2**32
        for _ in range(most):
            row = next(self._rows("SELECT max(epoch) FROM messages WHERE epoch < ?", (epoch,)))
            if row[0] is None:
                return
            epoch = int(str(row[0]))
            yield row

    def messages(
        self, *, epoch: int, stream: int, first: int, last: int, masks: bool = False, most: int = -1
    ) -> Iterator[Message]:
        """Messages of one stream by their numbers, each result's verdict before its mask.

        Raises:
            ConfigError: the journal cannot be read.
            ProtocolError: a row is not what was written.
        """
        kinds = () if masks else (int(MessageType.MASK),)
        without = "AND type != ?" if kinds else ""
        rows = self._rows(
            "SELECT topic, header, body, payload FROM messages "  # noqa: S608 - fixed words
            f"WHERE epoch = ? AND stream = ? AND seq BETWEEN ? AND ? {without} ORDER BY seq, type LIMIT ?",
            (epoch, stream, first, last, *kinds, most),
        )
        yield from map(_message, rows)

    def all_messages(self, *, kinds: tuple[MessageType, ...], since_ns: int = 0) -> Iterator[tuple[int, Message]]:
        """Every message of some types in the order in which they were written, with the time of that, UTC ns."""
        marks = ", ".join("?" * len(kinds))
        last = 0
        while True:
            # In pieces: as long as one query is read from, the line's log could not be brought into the database.
            rows = list(
                self._rows(
                    f"SELECT id, utc_ns, topic, header, body, payload FROM messages "  # noqa: S608 - question marks alone
                    f"WHERE id > ? AND type IN ({marks}) AND utc_ns >= ? ORDER BY id LIMIT {_PIECE_ROWS}",
                    (last, *map(int, kinds), since_ns),
                )
            )
            if not rows:
                return
            for number, utc_ns, *row in rows:
                last = int(str(number))
                yield int(str(utc_ns)), _message(tuple(row))

    def request(self, client: str, request_id: str) -> PastRequest | None:
        """A request of before."""
        rows = self._rows("SELECT * FROM requests WHERE client = ? AND request_id = ?", (client, request_id))
        row = next(rows, None)
        return None if row is None else PastRequest(*row)  # type: ignore[arg-type]

    def requests(self) -> Iterator[PastRequest]:
        """All that changed something or tried to: the audit trail, in its order."""
        for row in self._rows("SELECT * FROM requests ORDER BY utc_ns, rowid"):
            yield PastRequest(*row)  # type: ignore[arg-type]


def _message(row: tuple[object, ...]) -> Message:
    topic, header, body, payload = row
    if not (isinstance(topic, str) and isinstance(header, bytes) and isinstance(body, bytes)):
        raise ProtocolError("journal: a row is not what was written")
    return Message(topic, Header.unpack(header), body, payload if isinstance(payload, bytes) else b"")
