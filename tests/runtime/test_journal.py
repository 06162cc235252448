"""The journal: what was published survives, whatever happens to the process and the disk."""

from __future__ import annotations

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow.parquet
import pytest

from inspectd.errors import ConfigError
from inspectd.runtime.journal import Entry, Journal, JournalFault, JournalReader, OpenAlarm, store
from inspectd.runtime.journal.export import TABLES, export
from inspectd.wire import (
    MaskEncoding,
    Message,
    MessageType,
    Origin,
    State,
    mask_message,
    state_message,
    verdict_message,
)

from .test_messaging import inspection

GOLDEN = Path(__file__).parents[1] / "golden" / "journal"


def result(seq: int, *, epoch: int = 1, stream: int = 0, mask: bool = True) -> list[Message]:
    origin = Origin(epoch=epoch, stream=stream, seq=seq, state=State.CONTINUOUS_EXECUTION)
    part = inspection(seq)
    messages = [verdict_message(part, origin, created_ns=0)]
    return [*messages, mask_message(part, origin, encoding=MaskEncoding.RLE8)] if mask else messages


def settled(ticket, timeout_s: float = 10.0):
    deadline = time.monotonic() + timeout_s
    while not ticket.answered:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return ticket


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "journal.db"


def opened(path: Path, **options) -> Journal:
    journal = Journal(path, **{"epoch": 1, **options})
    journal.open()
    return journal


def test_what_was_committed_is_read_beside_the_writer_and_after_it(path):
    journal = opened(path)
    sent = [message for seq in range(1, 21) for message in result(seq)]
    tickets = [journal.submit(Entry(messages=result(seq))) for seq in range(1, 21)]
    assert all(settled(ticket).durable for ticket in tickets)
    with JournalReader(path) as reader:
        assert list(reader.messages(epoch=1, stream=0, first=1, last=99, masks=True)) == sent
        only = list(reader.messages(epoch=1, stream=0, first=5, last=6))
        assert [message.header.seq for message in only] == [5, 6]
        (held,) = reader.held()
        assert (held.epoch, held.stream, held.oldest, held.last) == (1, 0, 1, 20)
    assert (journal.rows, journal.oldest(0), journal.oldest(7), journal.lag) == (40, 1, None, 0)
    assert journal.close()
    assert not path.with_name("journal.db-wal").exists()
    with JournalReader(path) as reader:
        assert len(list(reader.all_messages(kinds=(MessageType.VERDICT,)))) == 20


def test_epochs_and_streams_are_told_apart(path):
    journal = opened(path, epoch=7)
    for epoch, stream, last in ((5, 0, 3), (5, 1, 2), (7, 0, 1)):
        for seq in range(1, last + 1):
            settled(journal.submit(Entry(messages=result(seq, epoch=epoch, stream=stream, mask=False))))
    change = state_message("s", State.READY, State.HALTED, epoch=7, seq=1)
    settled(journal.submit(Entry(messages=[change])))
    journal.close()
    with JournalReader(path) as reader:
        found = [(held.epoch, held.stream, held.oldest, held.last) for held in reader.held()]
        assert found == [(7, 0, 1, 1), (7, 65535, 1, 1), (5, 0, 1, 3), (5, 1, 1, 2)]
        assert list(reader.messages(epoch=7, stream=65535, first=1, last=9)) == [change]
        assert reader.held(6) == []
    assert Journal.last_epoch(path) == 7


def test_an_entry_is_kept_wholly_or_not_at_all(path):
    journal = opened(path)
    settled(journal.submit(Entry(messages=result(1))))
    # The second message has a number that is taken: the alarm in the same entry must not be kept either.
    twice = Entry(messages=[*result(2), *result(1)], alarm=OpenAlarm("a", "{}"))
    assert settled(journal.submit(twice)).failed
    assert journal.fault[0] is JournalFault.FAILING
    time.sleep(1.1)
    assert settled(journal.submit(Entry(messages=result(3)))).durable
    assert journal.fault[0] is JournalFault.NONE
    journal.close()
    with JournalReader(path) as reader:
        assert [message.header.seq for message in reader.messages(epoch=1, stream=0, first=1, last=9)] == [1, 3]
    assert Journal(path, epoch=2).open() == []


def test_open_alarms_and_requests_survive(path):
    journal = opened(path)
    settled(journal.submit(Entry(alarm=OpenAlarm("1-1", '{"a": 1}'))))
    settled(journal.submit(Entry(alarm=OpenAlarm("1-2", '{"a": 2}'))))
    settled(journal.submit(Entry(alarm=OpenAlarm("1-1", ""))))
    row = ("client", str(2**64 - 1), time.time_ns(), 1, "anna", "engineer", "stop", "{}")
    settled(journal.submit(Entry(begun=row)))
    settled(journal.submit(Entry(begun=("client", "2", time.time_ns(), 1, "anna", "engineer", "halt", "{}"))))
    settled(journal.submit(Entry(ended=("client", str(2**64 - 1), '{"ok": true}'))))
    journal.close()
    again = Journal(path, epoch=2)
    assert again.open() == ['{"a": 2}']
    again.close()
    with JournalReader(path) as reader:
        past = reader.request("client", str(2**64 - 1))
        assert past is not None
        assert (past.op, past.name, past.answer) == ("stop", "anna", '{"ok": true}')
        assert [(each.op, each.answer is None) for each in reader.requests()] == [("stop", False), ("halt", True)]
        assert reader.request("other", "1") is None


WRITER = """
import sys
from pathlib import Path
from inspectd.runtime.journal import Entry, Journal
from tests.runtime.test_journal import result, settled
journal = Journal(Path(sys.argv[1]), epoch=int(sys.argv[2]))
journal.open()
for seq in range(1, 100_000):
    settled(journal.submit(Entry(messages=result(seq, epoch=int(sys.argv[2])))))
    print(seq, flush=True)
"""


def test_what_was_called_durable_survives_kill_9(path):
    root = Path(__file__).parents[2]
    for epoch in range(1, 6):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, path, str(epoch)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        told = 0
        for line in process.stdout:
            told = int(line)
            if told == 40 + epoch:
                process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with JournalReader(path) as reader:
            (held,) = reader.held(epoch)
            assert held.oldest == 1
            assert held.last >= told
            numbers = [m.header.seq for m in reader.messages(epoch=epoch, stream=0, first=1, last=10**6)]
            assert numbers == list(range(1, held.last + 1))


def test_the_oldest_give_way_by_age_and_by_size(path, monkeypatch):
    monkeypatch.setattr("inspectd.runtime.journal.writer.PURGE_EVERY_S", 0.0)
    utc = [1_000_000_000_000_000_000]
    journal = opened(path, retention_days=1.0, utc=lambda: utc[0])
    for seq in range(1, 11):
        settled(journal.submit(Entry(messages=result(seq))))
    utc[0] += 2 * 86_400 * 1_000_000_000
    settled(journal.submit(Entry(messages=result(11))))
    deadline = time.monotonic() + 10
    while journal.oldest(0) != 11:
        assert time.monotonic() < deadline
        settled(journal.submit(Entry()))
    journal.close()
    with JournalReader(path) as reader:
        (held,) = reader.held()
        assert (held.oldest, held.last) == (11, 11)


def test_it_stays_below_its_size(path, monkeypatch):
    monkeypatch.setattr("inspectd.runtime.journal.writer.PURGE_EVERY_S", 0.0)
    journal = opened(path)
    journal._max_bytes = 2**20
    for seq in range(1, 1501):
        ticket = journal.submit(Entry(messages=result(seq)))
        if seq % 50 == 0:
            settled(ticket)
    settled(ticket)
    deadline = time.monotonic() + 20
    while journal.used_bytes > 2**20:
        assert time.monotonic() < deadline
        settled(journal.submit(Entry()))
    assert (journal.oldest(0) or 0) > 1
    journal.close()
    with JournalReader(path) as reader:
        (held,) = reader.held()
        assert held.last == 1500


@pytest.mark.parametrize("damage", ["header", "middle", "text"])
def test_a_damaged_journal_is_set_aside_and_a_new_one_begun(path, damage):
    journal = opened(path)
    for seq in range(1, 300):
        ticket = journal.submit(Entry(messages=result(seq)))
    settled(ticket)
    journal.close()
    data = bytearray(path.read_bytes())
    if damage == "header":
        data[:100] = bytes(100)
    elif damage == "middle":
        for page in range(2, len(data) // 4096):
            data[page * 4096 : page * 4096 + 512] = b"\xa5" * 512
    else:
        data = bytearray(b"this is no database at all\n" * 500)
    path.write_bytes(data)
    journal = Journal(path, epoch=2)
    journal.open()
    told, seq, deadline = "", 0, time.monotonic() + 15
    while not told:
        assert time.monotonic() < deadline, "the damage was never found"
        seq += 1
        settled(journal.submit(Entry(messages=result(seq, epoch=2, mask=False))))
        told = journal.take_damage()
    assert "was damaged" in told
    (kept,) = [
        each for each in path.parent.iterdir() if "damaged" in each.name and each.name[-4:] not in ("-wal", "-shm")
    ]
    assert kept.stat().st_size > 0
    assert settled(journal.submit(Entry(messages=result(5, epoch=3)))).durable
    journal.close()
    with JournalReader(path) as reader:
        assert next(iter(reader.held())).epoch == 3


def test_requests_give_way_by_age_and_by_number(path, monkeypatch):
    monkeypatch.setattr("inspectd.runtime.journal.store._MOST_REQUESTS", 20)
    journal = opened(path, retention_days=1.0)
    day_ns = 86_400 * 10**9
    for number in range(50):
        utc_ns = time.time_ns() - (2 * day_ns if number == 40 else 0)
        begun = ("anna", f"{number:03}", utc_ns, 1, "anna", "engineer", "stop", "{}")
        settled(journal.submit(Entry(begun=begun, ended=("anna", f"{number:03}", "{}"))))
    journal.close()
    journal = opened(path, retention_days=1.0)  # what is too much goes at the start, and then every few seconds
    settled(journal.submit(Entry()))
    journal.close()
    with JournalReader(path) as reader:
        kept = [each.request_id for each in reader.requests()]
    assert kept == [f"{number:03}" for number in range(30, 50) if number != 40]


def test_a_full_disk_is_told_and_recovered_from(path):
    journal = opened(path)
    settled(journal.submit(Entry(messages=result(1))))
    # SQLite's own limit on the file gives the very error that a full disk gives.
    done = threading.Event()
    limit(journal, 8, done)
    seq, ticket = 1, None
    while ticket is None or not ticket.failed:
        seq += 1
        ticket = settled(journal.submit(Entry(messages=result(seq))))
        assert seq < 2000
    fault, why = journal.fault
    assert fault is JournalFault.FULL
    assert "the disk is full" in why
    # Until it is tried again nothing waits for the disk.
    assert journal.submit(Entry(messages=result(seq + 1))).failed
    limit(journal, 2**30, done)
    deadline = time.monotonic() + 10
    while not settled(journal.submit(Entry(messages=result(seq + 2)))).durable:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert journal.fault[0] is JournalFault.NONE
    journal.close()


def limit(journal: Journal, pages: int, done: threading.Event) -> None:
    """Set the size of the file from the journal's own thread, which alone has the connection."""

    put = journal._put

    def once(batch):
        journal._put = put
        journal._store._db.execute(f"PRAGMA max_page_count = {pages}")
        done.set()
        put(batch)

    journal._put = once
    deadline = time.monotonic() + 10
    while not done.wait(0.1):
        assert time.monotonic() < deadline
        journal.submit(Entry())
    done.clear()


def test_a_slow_disk_is_told_while_it_is_slow(path):
    journal = opened(path, commit_timeout_s=0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # somebody holds the lock: a commit waits for it
    ticket = journal.submit(Entry(messages=result(1)))
    time.sleep(0.2)
    assert not ticket.answered
    assert journal.is_slow
    assert journal.fault[0] is JournalFault.SLOW
    other.execute("ROLLBACK")
    assert settled(ticket).durable
    assert journal.fault[0] is JournalFault.NONE
    other.close()
    journal.close()


def test_a_journal_of_a_later_version_is_refused_and_left_alone(path):
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(ConfigError, match="later version"):
        Journal.last_epoch(path)
    with pytest.raises(ConfigError, match="schema 2, got 99; it is of a later version"):
        JournalReader(path)


@pytest.fixture
def of_schema_1(path):
    """A journal that the version before wrote."""
    with sqlite3.connect(path) as db:
        db.executescript((GOLDEN / "schema-1.sql").read_text())
    db.close()
    return path


def schema(path: Path) -> tuple[int, set[str]]:
    """Its number, and the names of tables and indices."""
    with sqlite3.connect(path) as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    db.close()
    return version, names


def test_a_journal_of_the_version_before_goes_on(of_schema_1, tmp_path):
    assert schema(of_schema_1)[0] == 1
    with pytest.raises(ConfigError, match="the station brings it up to date when it starts"):
        JournalReader(of_schema_1)
    assert Journal.last_epoch(of_schema_1) == 3
    journal = Journal(of_schema_1, epoch=4, retention_days=1e5)
    (alarm,) = journal.open()
    assert json.loads(alarm)["code"] == "camera.away.cam1"
    assert settled(journal.submit(Entry(messages=result(1, epoch=4)))).durable
    journal.close()
    new = Journal(tmp_path / "new.db", epoch=1)
    new.open()
    new.close()
    assert schema(of_schema_1) == schema(tmp_path / "new.db")
    with JournalReader(of_schema_1) as reader:
        assert [(held.epoch, held.last) for held in reader.held()] == [(4, 1), (3, 3)]
        kept = list(reader.messages(epoch=3, stream=0, first=1, last=3, masks=True))
        assert kept == [message for seq in (1, 2, 3) for message in result(seq, epoch=3)]
        assert [past.op for past in reader.requests()] == ["stop"]


def test_an_upgrade_that_is_interrupted_leaves_the_journal_as_it_was(of_schema_1, monkeypatch):
    before = schema(of_schema_1)
    monkeypatch.setattr(store, "_STEPS", (store._STEPS[0], store._STEPS[1] + "SELECT power_cut();"))
    with pytest.raises(sqlite3.OperationalError, match="power_cut"):
        store.Store(of_schema_1)
    assert schema(of_schema_1) == before


def test_a_folder_that_cannot_be_written_fails_and_says_so(tmp_path):
    (tmp_path / "file").write_text("no folder")
    journal = Journal(tmp_path / "file" / "journal.db", epoch=1)
    assert journal.open() == []
    assert journal.fault[0] is JournalFault.FAILING
    assert journal.submit(Entry(messages=result(1))).failed
    journal.close()
    with pytest.raises(ConfigError, match="no journal"):
        JournalReader(tmp_path / "nothing.db")


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_every_form_of_export_holds_the_same(path, tmp_path, form):
    journal = opened(path)
    for seq in range(1, 1203):
        ticket = journal.submit(Entry(messages=result(seq)))
        if seq % 500 == 0:
            settled(ticket)
    settled(ticket)
    journal.close()
    target = tmp_path / f"results.{form}"
    with JournalReader(path) as reader:
        assert export(reader, target, form=form) == 1202
        assert export(reader, tmp_path / "later", form=form, since_ns=time.time_ns()) == 0
    if form == "csv":
        with target.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    elif form == "jsonl":
        rows = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    else:
        rows = pyarrow.parquet.read_table(target).to_pylist()
    assert [int(row["seq"]) for row in rows] == list(range(1, 1203))
    assert tuple(rows[0]) == TABLES["results"]
    assert (rows[4]["result_id"], rows[4]["verdict"], rows[4]["camera"]) == ("1-0-5", "OK", "cam1")
    assert not list(tmp_path.glob(".*"))


def test_a_file_that_cannot_be_written_is_told_and_nothing_is_left(path, tmp_path):
    opened(path).close()
    with JournalReader(path) as reader, pytest.raises(ConfigError, match="cannot be written"):
        export(reader, tmp_path / "missing" / "results.csv", form="csv")
