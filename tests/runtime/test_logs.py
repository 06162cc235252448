"""Records of real processes in each format; the journal's protocol against a socket, and against a real journald."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from inspectd.runtime.logs import LOG_VARIABLE, JournalHandler

from .conftest import run_inspectd, summary_of

FOLDER = 'source = "folder"\npath = "pictures"'
JOURNALD = Path("/lib/systemd/systemd-journald")
SCRIPT = r"""
import logging, sys
from pathlib import Path
from inspectd.config import Log
from inspectd.runtime import logs
logs.JOURNAL = Path(sys.argv[3])
logs.set_up("core", Log(format=sys.argv[1], level=sys.argv[2]))
log = logging.getLogger("inspectd.line")
"""
ALL = r"""
log.debug("seen with DEBUG alone")
log.info("%s publishes", "\u00f6")
log.warning("two\nlines \x1b[31mred")
logging.getLogger("harvesters").info("not of a library")
import warnings
warnings.warn("old")
logs.fault("the end")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("bad")
"""
TEXT = re.compile(r"inspectd: \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR|CRITICAL) core: (.*)")


def logged(kind: str, body: str = ALL, *, level: str = "INFO", journal: object = "/no/journal") -> str:
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", SCRIPT + body, kind, level, str(journal)],
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    )
    assert done.stdout == ""
    return done.stderr


def test_text_is_for_people_and_a_terminal_obeys_none_of_it():
    lines = logged("text").splitlines()
    assert all(line.startswith("inspectd: ") for line in lines)
    found = [match.groups() for line in lines if (match := TEXT.fullmatch(line))]
    assert found[0] == ("INFO", "\\xf6 publishes")  # standard error is ASCII here
    assert found[1] == ("WARNING", "two")
    assert "inspectd:     lines \\x1b[31mred" in lines
    assert found[2][0] == "WARNING"
    assert "UserWarning: old" in found[2][1]
    assert lines[-1] == "inspectd:     ZeroDivisionError: division by zero"
    assert "inspectd: error: the end" in lines  # as commands tell errors


@pytest.mark.parametrize(("level", "first"), [("DEBUG", "seen with DEBUG alone"), ("INFO", "ö"), ("ERROR", "the end")])
def test_json_is_a_line_a_record_down_to_a_level(level, first):
    records = [json.loads(line) for line in logged("json", level=level).splitlines()]
    records = [record for record in records if record["logger"] != "py.warnings"]
    assert first in records[0]["message"]
    assert {record["process"] for record in records} == {"core"}
    assert all(
        set(record) - {"exception"} == {"time", "level", "process", "pid", "logger", "message"} for record in records
    )
    assert (records[-1]["message"], records[-1]["level"]) == ("bad", "ERROR")
    assert records[-1]["exception"].endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    "body", ["raise RuntimeError('why')", "import threading\nthreading.Thread(target=lambda: 1 / 0).start()"]
)
def test_what_nobody_foresaw_is_a_record_too(body):
    (record,) = [json.loads(line) for line in logged("json", body).splitlines()]
    assert record["level"] == "CRITICAL"
    assert "this is a defect of inspectd" in record["message"]
    assert "Traceback" in record["exception"]


def test_a_long_message_is_cut():
    (record,) = [json.loads(line) for line in logged("json", "log.error('x' * 10**6)").splitlines()]
    assert record["message"].endswith("... (1000000 characters)")
    assert len(record["message"]) < 40_000


def test_processes_that_it_starts_log_as_it_does_and_know_nothing_else_of_it():
    body = f"""
import os, subprocess
print(os.environ[{LOG_VARIABLE!r}], file=sys.stderr)
child = "import logging; from inspectd.runtime.logs import set_up_as_told; set_up_as_told('camera-cam1'); " \\
    "logging.getLogger('inspectd.camera').info('here')"
subprocess.run([sys.executable, "-c", child])
"""
    told, record = logged("json", body).splitlines()
    assert json.loads(told) == {"format": "json", "level": "INFO"}
    assert json.loads(record)["process"] == "camera-cam1"


@pytest.mark.parametrize("told", [None, "", "{}", "[]", '{"format": "json", "level": "LOUD"}'])
def test_a_process_of_no_station_logs_plainly(told):
    script = """
import logging
from inspectd.runtime.logs import set_up_as_told
set_up_as_told("camera-cam1")
logging.getLogger("inspectd.camera").info("not seen")
logging.getLogger("inspectd.camera").warning("seen")
"""
    environment = {**os.environ} if told is None else {**os.environ, LOG_VARIABLE: told}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.stderr == "inspectd: seen\n"


def test_a_line_logs_in_its_format_and_nothing_else(write_config, pictures):
    status, out, err = run_inspectd("run", write_config(FOLDER, '[log]\nformat = "json"'), "--frames", 2)
    assert status == 0
    assert summary_of(out)["verdicts"] == 2
    records = [json.loads(line) for line in err.splitlines()]
    assert any("publishes at" in record["message"] for record in records)
    status, _, err = run_inspectd("run", write_config(FOLDER, '[log]\nformat = "json"'), "--bundle", "/no/bundle")
    assert status == 2
    assert [json.loads(line)["level"] for line in err.splitlines()] == ["ERROR"]


# The journal


class Journal:
    """A journal's socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._end.bind(str(path))
        self._end.settimeout(5)

    def record(self) -> dict[str, str]:
        data, fields = self._end.recv(2**20), {}
        while data:
            line, _, data = data.partition(b"\n")
            name, equals, value = line.partition(b"=")
            if not equals:
                (length,) = struct.unpack_from("<Q", data)
                value, data = data[8 : 8 + length], data[9 + length :]
            assert re.fullmatch(rb"[A-Z][A-Z0-9_]*", name)
            fields[name.decode()] = value.decode()
        return fields

    def close(self) -> None:
        self._end.close()
        self.path.unlink()


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "journal")
    yield journal
    journal._end.close()


@pytest.fixture
def handler(journal):
    handler = JournalHandler("core", journal.path)
    yield handler
    handler.close()


def emit(handler: logging.Handler, message: str, level: int = logging.INFO) -> None:
    handler.handle(logging.LogRecord("inspectd.line", level, "/line.py", 7, message, (), None, "run"))


def test_the_journal_gets_fields(journal):
    assert logged("journald", journal=journal.path) == ""
    first, second = journal.record(), journal.record()
    assert (first["MESSAGE"], first["PRIORITY"], first["CODE_FUNC"]) == ("ö publishes", "6", "<module>")
    assert (first["SYSLOG_IDENTIFIER"], first["INSPECTD_PROCESS"], first["LOGGER"]) == (
        "inspectd",
        "core",
        "inspectd.line",
    )
    assert (second["MESSAGE"], second["PRIORITY"]) == ("two\nlines \\x1b[31mred", "4")
    assert "UserWarning: old" in journal.record()["MESSAGE"]
    assert (journal.record()["MESSAGE"]) == "the end"
    assert journal.record()["MESSAGE"].startswith("bad\nTraceback")


@pytest.mark.parametrize(
    "message", ["", "=", "\n", "a\n", "A=b\nPRIORITY=0", "\nMESSAGE\n", "\udcff", "\x00", "x" * 32_000, "ä" * 32_000]
)
def test_no_message_can_be_taken_for_another_field(journal, handler, message):
    emit(handler, message, logging.ERROR)
    got = journal.record()
    assert got["MESSAGE"] == message.replace("\udcff", "\\udcff").replace("\x00", "\\x00")
    assert got["PRIORITY"] == "3"
    assert len(got) == 8


def test_levels_are_priorities(journal, handler):
    for level, priority in ((10, "7"), (20, "6"), (30, "4"), (40, "3"), (50, "2"), (25, "6")):
        emit(handler, "x", level)
        assert journal.record()["PRIORITY"] == priority


def test_a_journal_that_stands_still_does_not_hold_the_line_and_what_is_lost_is_counted(journal, handler):
    for number in range(2000):
        emit(handler, str(number))
    kept = 0
    journal._end.settimeout(0.1)
    with contextlib.suppress(TimeoutError):
        while journal.record():
            kept += 1
    assert 0 < kept < 2000
    emit(handler, "again")
    assert journal.record()["MESSAGE"] == (
        f"again\n({2000 - kept} records before this one were lost: the journal did not take them)"
    )


def test_a_journal_that_was_started_again_is_heard_and_without_one_it_is_text(journal, handler, capsys, tmp_path):
    journal.close()
    emit(handler, "nobody")
    assert TEXT.fullmatch(capsys.readouterr().err.rstrip()).groups() == ("INFO", "nobody")
    again = Journal(tmp_path / "journal")
    emit(handler, "again")
    assert again.record()["MESSAGE"] == "again"
    again.close()
    journal.path.touch()


def test_without_a_journal_it_is_text_with_a_warning():
    first, second, *_ = logged("journald").splitlines()
    assert "WARNING core: log.format: there is no /no/journal on this machine, so this is text" in first
    assert TEXT.fullmatch(second)


def test_a_real_journald_keeps_what_was_sent(tmp_path):
    needed = {"unshare": shutil.which("unshare"), "journalctl": shutil.which("journalctl"), "root": os.geteuid() == 0}
    missing = [name for name, there in {**needed, "systemd-journald": JOURNALD.exists()}.items() if not there]
    if missing:
        pytest.skip(f"not here: {', '.join(missing)}; install systemd and run as root to have a journald of one's own")
    (tmp_path / "log.py").write_text(SCRIPT + ALL)
    # In a mount namespace of its own, so that the machine's journal stays as it is.
    script = f"""
mount -t tmpfs tmpfs /run || exit 77
mkdir -p /run/systemd/journal /run/log/journal
{JOURNALD} >{tmp_path}/journald.log 2>&1 &
for _ in $(seq 50); do test -S /run/systemd/journal/socket && break; sleep 0.1; done
test -S /run/systemd/journal/socket || exit 77
{sys.executable} {tmp_path}/log.py journald INFO /run/systemd/journal/socket
for _ in $(seq 50); do
    journalctl -D /run/log/journal -o json --no-pager SYSLOG_IDENTIFIER=inspectd INSPECTD_PROCESS=core >{tmp_path}/out
    grep -q Traceback {tmp_path}/out && break
    sleep 0.1
done
kill %1; wait
"""
    done = subprocess.run(["unshare", "--mount", "bash", "-c", script], capture_output=True, text=True, timeout=60)
    if done.returncode == 77 or "Operation not permitted" in done.stderr:
        pytest.skip(f"no journald can be run here: {done.stderr.strip()}")
    records = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [(record["MESSAGE"].partition("\n")[0], record["PRIORITY"]) for record in records[:2]] == [
        ("ö publishes", "6"),
        ("two", "4"),
    ]
    assert records[-1]["MESSAGE"].endswith("ZeroDivisionError: division by zero")
