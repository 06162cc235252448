"""The runbook has a remedy for every alarm that the station can raise, and for no other; its backups are whole."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from inspectd.runtime.core import _FAULTS
from inspectd.runtime.epoch import EpochCounter
from inspectd.runtime.journal import Entry, Journal, JournalFault, JournalReader

CHECKOUT = Path(__file__).parents[2]
CODE = re.compile(r"[a-z]+\.[a-z_]+(\.NAME)?")
RAISING = {"set", "tell", "show", "Alarm", "Lasting"}
"""What is called with a code; `hold` is called with a table of them."""


def text_of(node: ast.AST) -> str:
    """A string, with NAME for what is filled in; empty if it is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "NAME" for part in node.values)
    return ""


def written(tree: ast.AST) -> Iterator[str]:
    """Codes that a module names where it raises alarms."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in RAISING:
                yield from map(text_of, (*node.args[:2], *(word.value for word in node.keywords if word.arg == "code")))
        # A table for `hold`.
        if isinstance(node, (ast.Dict, ast.DictComp)):
            keys = node.keys if isinstance(node, ast.Dict) else [node.key]
            yield from (text for text in map(text_of, filter(None, keys)) if text.endswith(".NAME"))


def raised() -> set[str]:
    found = set(_FAULTS.values()) | {fault.value for fault in JournalFault if fault.value} | {"station.fault"}
    for file in (CHECKOUT / "runtime").rglob("*.py"):
        found.update(text for text in written(ast.parse(file.read_text())) if CODE.fullmatch(text))
    return found


def test_codes_are_found_however_they_are_raised():
    assert {
        "journal.damaged",  # tell
        "model.engine",  # show
        "model.rolled_back",  # set
        "line.overdue",  # Lasting
        "camera.away.NAME",  # hold
        "process.failing.NAME",  # Alarm, of the supervisor
        "journal.slow",  # a table
    } <= raised()


def test_every_code_has_a_cause_and_a_remedy():
    page = (CHECKOUT / "docs" / "runbook.md").read_text()
    section = page.partition("\n## Alarms\n")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if line[:3] == "| `"
    ]
    codes = [row[0].strip("`") for row in rows]
    assert len(codes) == len(set(codes))
    # The archive's process is one of those that have a name.
    assert set(codes) == raised() - {"process.restarted.archive"}
    assert all(len(row) == 3 and all(len(cell) > 10 for cell in row[1:]) for row in rows)


def test_the_journal_s_backup_is_whole_while_the_line_writes(tmp_path):
    page = (CHECKOUT / "docs" / "runbook.md").read_text()
    (script,) = re.findall(r"-c '(import sqlite3.*?)'", page, re.DOTALL)
    journal = Journal(tmp_path / "journal.db", epoch=7)
    journal.open()
    now_ns = time.time_ns()
    requests = [("plc", str(n), now_ns, 7, "plc", "operator", "stop", "{}") for n in range(50)]
    tickets = [journal.submit(Entry(begun=request)) for request in requests]
    while not all(ticket.answered for ticket in tickets):
        time.sleep(0.01)
    # A copy of the file alone would lack what is in the log.
    assert (tmp_path / "journal.db-wal").stat().st_size > 0
    copy = tmp_path / "backup.db"
    subprocess.run([sys.executable, "-c", script, journal.path, copy], check=True)
    with JournalReader(copy) as reader:
        assert len(list(reader.requests())) == 50
    assert journal.fault[0] is JournalFault.NONE
    journal.close()


def test_the_epoch_of_a_restored_station_is_above_those_that_clients_saw(tmp_path):
    page = (CHECKOUT / "docs" / "runbook.md").read_text()
    (line,) = re.findall(r"echo '(epoch \d+)' \| sudo", page)
    (tmp_path / "epoch").write_text(f"{line}\n")
    assert EpochCounter(tmp_path / "epoch").next() == int(line.split()[1]) + 1
