"""The journal as a table: CSV, lines of JSON, Parquet."""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

from inspectd.errors import ConfigError
from inspectd.inspection import Verdict
from inspectd.optional import require
from inspectd.wire import AlarmBody, Flags, Message, MessageType, StateBody, VerdictBody, read_body

from .reader import JournalReader

__all__ = ["TABLES", "Format", "Table", "export"]

Table = Literal["results", "states", "alarms", "requests"]
Format = Literal["csv", "jsonl", "parquet"]

_PIECE_ROWS = 1000

TABLES: Mapping[Table, tuple[str, ...]] = {
    "results": (
        *("result_id", "written", "epoch", "stream", "camera", "seq", "verdict", "reason", "defect_count"),
        *("worst_class", "worst_score", "trigger_id", "frame_id", "t_acq_ns", "latency_us", "time_synced", "simulated"),
        *("recipe_no", "job_id", "internal_recipe_id", "external_recipe_id", "model_digest", "source"),
        *("acquire_ms", "pre_ms", "infer_ms", "post_ms", "defects"),
    ),
    "states": ("written", "epoch", "seq", "state", "previous", "reason"),
    "alarms": (
        *(
            "written",
            "epoch",
            "seq",
            "alarm_id",
            "code",
            "severity",
            "active",
            "acked",
            "acked_by",
            "raised",
            "message",
        ),
    ),
    "requests": ("written", "epoch", "client", "name", "role", "request_id", "op", "args", "answer"),
}
"""The columns of each table, in their order. Times are UTC; `defects` is JSON, as in the body of the verdict."""


class _Sink(Protocol):
    def write(self, rows: list[dict[str, Any]]) -> None: ...
    def close(self) -> None: ...


def export(
    reader: JournalReader,
    target: Path,
    *,
    table: Table = "results",
    form: Format,
    since_ns: int = 0,
    told: Callable[[int], None] = lambda _rows: None,
) -> int:
    """Write a table of the journal into a file; the file appears when it is whole.

    Args:
        reader: of the journal, also of a station that runs.
        target: the file; one that is there is replaced.
        table: which.
        form: of the file.
        since_ns: what was written before is left out, UTC ns.
        told: the rows that were written so far.

    Returns:
        How many rows.

    Raises:
        ConfigError: the journal cannot be read, or the file cannot be written.
        MissingDependencyError: Parquet, without its extra.
    """
    temporary = target.with_name(f".{target.name}.part")
    count = 0
    try:
        with _Closing(_sink(form, temporary, TABLES[table])) as sink:
            for piece in _pieces(_rows(reader, table, since_ns)):
                sink.write(piece)
                count += len(piece)
                told(count)
        os.replace(temporary, target)  # noqa: PTH105
    except OSError as error:
        raise ConfigError(f"{target}: cannot be written ({error.strerror}); make room, or name another file") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return count


def _rows(reader: JournalReader, table: Table, since_ns: int) -> Iterator[dict[str, Any]]:
    if table == "requests":
        for past in reader.requests():
            if past.utc_ns >= since_ns:
                values = {name: getattr(past, name) for name in TABLES["requests"] if name != "written"}
                yield {"written": _time(past.utc_ns), **values, "answer": past.answer or ""}
        return
    kinds = {"results": MessageType.VERDICT, "states": MessageType.STATE, "alarms": MessageType.ALARM}
    describe = {"results": _result, "states": _state, "alarms": _alarm}[table]
    for utc_ns, message in reader.all_messages(kinds=(kinds[table],), since_ns=since_ns):
        yield {"written": _time(utc_ns), "epoch": message.header.epoch, "seq": message.header.seq, **describe(message)}


def _result(message: Message) -> dict[str, Any]:
    header, body = message.header, read_body(message, VerdictBody)
    worst = body.defects[0] if body.defects else None
    times = body.processing_times_ms
    return {
        "result_id": body.result_id,
        "stream": header.stream,
        "camera": message.camera,
        "verdict": Verdict(header.verdict).name,
        "reason": body.reason,
        "defect_count": header.defect_count,
        "worst_class": "" if worst is None else worst.class_name,
        "worst_score": header.worst_score_e4 / 10_000,
        "trigger_id": header.trigger_id,
        "frame_id": header.frame_id,
        "t_acq_ns": header.t_acq_ns,
        "latency_us": header.latency_us,
        "time_synced": Flags.TIME_SYNCED in header.flags,
        "simulated": body.is_simulated,
        "recipe_no": header.recipe_no,
        "job_id": body.job_id,
        "internal_recipe_id": body.internal_recipe_id,
        "external_recipe_id": body.external_recipe_id,
        "model_digest": body.model_digest,
        "source": body.source or "",
        "acquire_ms": times.acquire,
        "pre_ms": times.pre,
        "infer_ms": times.infer,
        "post_ms": times.post,
        "defects": json.dumps([defect.model_dump(by_alias=True, exclude_none=True) for defect in body.defects]),
    }


def _state(message: Message) -> dict[str, Any]:
    return read_body(message, StateBody).model_dump(include={"state", "previous", "reason"})


def _alarm(message: Message) -> dict[str, Any]:
    body = read_body(message, AlarmBody)
    return {
        "alarm_id": body.alarm_id,
        "code": body.code,
        "severity": body.severity.value,
        "active": body.active,
        "acked": body.acked,
        "acked_by": body.acked_by,
        "raised": body.raised_time,
        "message": body.message,
    }


def _time(utc_ns: int) -> str:
    moment = datetime.fromtimestamp(utc_ns // 1_000_000_000, timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{utc_ns // 1000 % 1_000_000:06d}Z"


def _pieces(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    piece: list[dict[str, Any]] = []
    for row in rows:
        piece.append(row)
        if len(piece) == _PIECE_ROWS:
            yield piece
            piece = []
    if piece:
        yield piece


class _Closing:
    def __init__(self, sink: _Sink) -> None:
        self._sink = sink

    def __enter__(self) -> _Sink:
        return self._sink

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sink.close()


def _sink(form: Format, path: Path, columns: tuple[str, ...]) -> _Sink:
    kinds: Mapping[Format, Callable[[Path, tuple[str, ...]], _Sink]] = {
        "csv": _Csv,
        "jsonl": _JsonLines,
        "parquet": _Parquet,
    }
    return kinds[form](path, columns)


class _Csv:
    """RFC 4180, with a line of headings; UTF-8."""

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, columns)
        self._writer.writeheader()

    def write(self, rows: list[dict[str, Any]]) -> None:
        self._writer.writerows(rows)

    def close(self) -> None:
        self._file.close()


class _JsonLines:
    """An object a line; defects as a list."""

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._columns = columns

    def write(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            values = {name: row[name] for name in self._columns}
            if "defects" in values:
                values["defects"] = json.loads(values["defects"])
            self._file.write(json.dumps(values, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._file.close()


class _Parquet:
    """By pyarrow; a row group for each piece."""

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self._arrow = require("pyarrow", extra="parquet")
        self._parquet = require("pyarrow.parquet", extra="parquet")
        self._path = path
        self._columns = columns
        self._writer: Any = None

    def write(self, rows: list[dict[str, Any]]) -> None:
        table = self._arrow.table({name: [row[name] for row in rows] for name in self._columns})
        if self._writer is None:
            self._writer = self._parquet.ParquetWriter(self._path, table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        if self._writer is None:  # a table without rows
            empty = self._arrow.table({name: self._arrow.array([], self._arrow.string()) for name in self._columns})
            self._writer = self._parquet.ParquetWriter(self._path, empty.schema)
        self._writer.close()
