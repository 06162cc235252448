"""How the processes of a station log: all in one format, each with its name.

    text      inspectd: 2026-03-01T08:15:30.250Z WARNING core: camera 'cam1': ...
    json      a line of JSON a record: time, level, process, pid, logger, message, and exception where there is one
    journald  to the system's journal in its own protocol, with PRIORITY and INSPECTD_PROCESS to search for

Processes that a process starts log as it does: the settings are in their environment. Commands that are no part of a
station say `inspectd: ...` and nothing more. What is logged is what happened; configurations, environments and keys are
not. Only the standard library is imported, for `inspectd doctor` logs before it has tried anything else.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inspectd.config import Log

__all__ = ["LOG_VARIABLE", "JournalHandler", "fault", "set_up", "set_up_as_told", "set_up_plainly"]

LOG_VARIABLE = "INSPECTD_LOG"
"""Environment variable with the settings, for processes that a process of the station starts."""
JOURNAL = Path("/run/systemd/journal/socket")
_MOST_SIGNS = 32_768
"""Of a message; a datagram has its limit, and so has anybody's patience."""
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY = 7
_OBEYED = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in {0x09, 0x0A}}
"""Characters that a terminal would obey, and for which journalctl hides a message; a camera's answer may have some."""

_log = logging.getLogger("inspectd.logs")
_told_by_log = False


def set_up(process: str, log: Log) -> None:
    """Log as a configuration says, in this process and in those that it starts.

    Args:
        process: its name, such as `core`; a field of each record.
        log: the settings.
    """
    os.environ[LOG_VARIABLE] = json.dumps({"format": log.format, "level": log.level})
    _set_up(process, log.format, log.level)


def set_up_as_told(process: str) -> None:
    """Log as the process that started this one, or plainly where that is no part of a station.

    Args:
        process: its name.
    """
    try:
        told = json.loads(os.environ[LOG_VARIABLE])
        kind, level = str(told["format"]), str(told["level"])
        logging.Handler().setLevel(level)  # whether there is such a level
    except (KeyError, TypeError, ValueError):
        set_up_plainly()
        return
    _set_up(process, kind, level)


def set_up_plainly() -> None:
    """Log as a command does that is no part of a station: warnings, on standard error."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="inspectd: %(message)s")


def fault(text: str) -> None:
    """Tell of an error that ends the process, where everything else is told."""
    if _told_by_log:
        logging.getLogger("inspectd").error("%s", text)
    else:
        sys.stderr.write(f"inspectd: error: {text}\n")


def _set_up(process: str, kind: str, level: str) -> None:
    global _told_by_log  # noqa: PLW0603 - there is one standard error
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(process) if kind == "json" else _Text(process))
    is_missing = kind == "journald" and not JOURNAL.is_socket()
    if kind == "journald" and not is_missing:
        handler = JournalHandler(process, JOURNAL)
    _told_by_log = kind == "json" or isinstance(handler, JournalHandler)
    # Libraries are heard where something is wrong.
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("inspectd").setLevel(level)
    logging.captureWarnings(capture=True)
    sys.excepthook = _tell_unforeseen
    threading.excepthook = _tell_unforeseen_of_thread
    if is_missing:
        _log.warning("log.format: there is no %s on this machine, so this is text; expected a running systemd", JOURNAL)


def _tell_unforeseen(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A record like any other, for who reads the log by a program."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("inspectd").critical("this is a defect of inspectd: %r", error, exc_info=(kind, error, trace))


def _tell_unforeseen_of_thread(told: threading.ExceptHookArgs) -> None:
    if told.exc_value is not None and not isinstance(told.exc_value, SystemExit):
        _tell_unforeseen(told.exc_type, told.exc_value, told.exc_traceback)


class _Records(logging.Formatter):
    """What the formats have in common.

    Args:
        process: name of this process.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self.process = process

    def message(self, record: logging.LogRecord) -> str:
        """What a record says, not too long."""
        text = record.getMessage().translate(_OBEYED)
        return text if len(text) <= _MOST_SIGNS else f"{text[:_MOST_SIGNS]} ... ({len(text)} characters)"

    def exception(self, record: logging.LogRecord) -> str:
        """The traceback of a record, its end if it is long; empty where there is none."""
        text = self.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else ""
        return text[-_MOST_SIGNS:].translate(_OBEYED)

    @staticmethod
    def time(record: logging.LogRecord) -> str:
        """UTC, ms."""
        return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


class _Text(_Records):
    def format(self, record: logging.LogRecord) -> str:
        """Lines for people; of one record all begin alike, so that each can be found."""
        text = "\n".join(filter(None, (self.message(record), self.exception(record))))
        first, *more = text.split("\n")
        lines = [f"inspectd: {self.time(record)} {record.levelname} {self.process}: {first}"]
        return "\n".join(lines + [f"inspectd:     {line}" for line in more])


class _Json(_Records):
    def format(self, record: logging.LogRecord) -> str:
        """One line, in ASCII: standard error may be unable to write anything else."""
        facts: dict[str, object] = {
            "time": self.time(record),
            "level": record.levelname,
            "process": self.process,
            "pid": record.process,
            "logger": record.name,
            "message": self.message(record),
        }
        if exception := self.exception(record):
            facts["exception"] = exception
        return json.dumps(facts)


class JournalHandler(logging.Handler):
    """Sends records to journald: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/.

    Never waits: records that a journal which stands still does not take are counted, and the next one tells how many.

    Args:
        process: name of this process.
        path: of the journal's socket.
    """

    def __init__(self, process: str, path: Path) -> None:
        super().__init__()
        self._records = _Records(process)
        self._path = str(path)
        self._end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record; where there is no journal any more, write it as text."""
        try:
            content = self._fields(record)
            # Unconnected, so that a journal that was started again hears it.
            self._end.sendto(content, self._path)
            self._lost = 0
        except BlockingIOError:
            self._lost += 1
        except OSError:
            sys.stderr.write(_Text(self._records.process).format(record) + "\n")
        except Exception:  # noqa: BLE001 - as all handlers do: a record that cannot be written must not end a line
            self.handleError(record)

    def close(self) -> None:
        """Hang up."""
        self._end.close()
        super().close()

    def _fields(self, record: logging.LogRecord) -> bytes:
        lost = (
            f"\n({self._lost} records before this one were lost: the journal did not take them)" if self._lost else ""
        )
        text = "\n".join(filter(None, (self._records.message(record), self._records.exception(record))))
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), _DEBUG_PRIORITY)
        fields = {
            "MESSAGE": text + lost,
            "PRIORITY": str(priority),
            "SYSLOG_IDENTIFIER": "inspectd",
            "INSPECTD_PROCESS": self._records.process,
            "LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName,
        }
        return b"".join(_field(name, value) for name, value in fields.items())


def _field(name: str, value: str) -> bytes:
    """A field; one with line breaks has its length before it."""
    content = value.encode(errors="backslashreplace")
    if b"\n" not in content:
        return name.encode() + b"=" + content + b"\n"
    return name.encode() + b"\n" + struct.pack("<Q", len(content)) + content + b"\n"
