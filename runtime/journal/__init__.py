"""The journal: everything that was published and must not be lost, in an SQLite database.

    line ── entries ── writer's thread ── journal.db (WAL, FULL) ── readers, each with a connection of its own

Exactly one connection writes, and it alone checkpoints: before SQLite 3.51.3 two that do can damage a database in WAL
mode. It lives in one thread, which commits all that waits in one transaction.
"""

from .reader import Held, JournalReader
from .store import OpenAlarm
from .writer import Entry, Journal, JournalFault, Ticket

__all__ = ["Entry", "Held", "Journal", "JournalFault", "JournalReader", "OpenAlarm", "Ticket"]
