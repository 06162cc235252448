"""`inspectd watch`: what a line publishes, as a live table, as JSON lines, or as overlay pictures."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from inspectd.errors import ConfigError, ProtocolError
from inspectd.inspection import Verdict
from inspectd.mask import Mask
from inspectd.wire import (
    AlarmBody,
    DeviceHealth,
    Flags,
    Header,
    HeartbeatBody,
    MaskBody,
    Message,
    MessageType,
    State,
    StateBody,
    VerdictBody,
    read_body,
    read_mask,
    read_preview,
)

from .access import ClientKeys
from .messaging import Silence, Subscriber

__all__ = ["overlay", "watch"]

_ROWS = 16
_REFRESH_S = 0.1
_POLL_S = 0.1
_COLOURS: dict[int, str] = {Verdict.OK: "bold green", Verdict.NG: "bold red", Verdict.REVIEW: "bold yellow"}
_GREEN = (0, 255, 0)
_NAME_BYTES = 100
"""Of a picture's name in the name of its overlay: a file system takes 255 for all of it."""
_STOPPED = (State.HALTED.label, State.ERROR.label)


@dataclass(frozen=True, slots=True)
class _Result:
    """What belongs to one part; mask and preview are None until they come, which they may not."""

    camera: str
    header: Header
    verdict: VerdictBody
    mask: Mask | None = None
    mask_encoding: str = ""
    preview: NDArray[np.uint8] | None = None

    @property
    def name(self) -> str:
        return Verdict(self.header.verdict).name if self.header.verdict else "UNDEFINED"


class _Assembler:
    """Puts the messages of a result together. A publisher sends them in a row: verdict, mask, preview."""

    def __init__(self, *, with_preview: bool) -> None:
        self._with_preview = with_preview
        self._group: dict[int, Message] = {}

    def feed(self, message: Message) -> list[dict[int, Message]]:
        """The groups that are complete now: messages of one result by their type, always with a verdict."""
        complete = []
        if self._group and _place(message.header) != _place(self._group[MessageType.VERDICT].header):
            complete.append(self._group)
            self._group = {}
        if self._group or message.header.msg_type == MessageType.VERDICT:
            self._group[message.header.msg_type] = message
            if self._is_complete():
                complete.append(self._group)
                self._group = {}
        return complete

    def _is_complete(self) -> bool:
        inspected = self._group[MessageType.VERDICT].header.verdict != Verdict.NOT_INSPECTED
        wanted = {MessageType.MASK: inspected, MessageType.PREVIEW: self._with_preview}
        return all(msg_type in self._group for msg_type, asked in wanted.items() if asked)


def watch(
    endpoint: str,
    *,
    json_lines: bool = False,
    save: Path | None = None,
    count: int | None = None,
    timeout_s: float = 10.0,
    keys: Path | None = None,
    console: Console | None = None,
    monotonic_s: Callable[[], float] = time.monotonic,
) -> int:
    """Follow a line until interrupted, or for `count` verdicts.

    Args:
        endpoint: where the line publishes, for instance `tcp://127.0.0.1:5560`.
        json_lines: write a JSON object per verdict to standard output instead of the table.
        save: folder for overlays, a `<camera>-<seq>-<verdict>.png` per part, with `-<picture>` before the ending where
            the picture is a file: the predicted mask in green on the preview, or on black where the line sends no
            previews.
        count: how many verdicts to wait for; None is without end.
        timeout_s: give up if nothing at all comes for so long: at the start, and later too if `count` is given.
        keys: file of a client's keys, for a station on another machine.
        console: where the table goes; standard output by default.
        monotonic_s: the clock.

    Returns:
        Exit status: 0 after `count` verdicts, an interrupt, or when the reader of standard output has gone;
        1 if it gave up.

    Raises:
        ConfigError: the endpoint is not one, or `save` cannot be written to.
    """
    subscriber = Subscriber(endpoint, secure=None if keys is None else ClientKeys.load(keys).apply)
    view = _JsonView(subscriber) if json_lines else _TableView(console or Console(), subscriber)
    try:
        if save is not None:
            _make_folder(save)
        with subscriber, view:
            complaint = _follow(subscriber, view, save=save, count=count, timeout_s=timeout_s, monotonic_s=monotonic_s)
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        # The reader (`head`, say) has what it wanted; without this Python complains once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if complaint:
        sys.stderr.write(f"inspectd watch: {complaint}\n")
    return 1 if complaint else 0


def _follow(
    subscriber: Subscriber,
    view: _JsonView | _TableView,
    *,
    save: Path | None,
    count: int | None,
    timeout_s: float,
    monotonic_s: Callable[[], float],
) -> str:
    """Show results until there were `count`; the complaint if they stay away, else ""."""
    assembler = _Assembler(with_preview=save is not None)
    seen = 0
    heard_anything = False
    heard_s = monotonic_s()
    while count is None or seen < count:
        groups: list[dict[int, Message]] = []
        try:
            message = subscriber.receive(min(_POLL_S, timeout_s))
            silent = isinstance(message, Silence)
            if isinstance(message, Message):
                view.heard(message, monotonic_s())
                groups = assembler.feed(message)
        except ProtocolError as error:
            view.fault(str(error))
            silent = False
        now_s = monotonic_s()
        if not silent:
            heard_anything, heard_s = True, now_s
        elif now_s - heard_s >= timeout_s:
            if not heard_anything:
                return (
                    f"nothing came from {subscriber.endpoint} within {timeout_s:g} s, not even a heartbeat: check "
                    f"that the line runs, that its publish.endpoint is this one, and that no firewall is between"
                )
            if count is not None:
                return f"{subscriber.endpoint} has been silent for {timeout_s:g} s, after {seen} of {count} verdicts"
        for group in groups if count is None else groups[: count - seen]:
            try:
                result = _read(group, view)
            except ProtocolError as error:
                view.fault(str(error))
                continue
            seen += 1
            if save is not None:
                _save_overlay(save, result)
            view.show(result)
        view.refresh(now_s)
    return ""


def _read(group: dict[int, Message], view: _JsonView | _TableView) -> _Result:
    """A result without its mask or preview where those are damaged.

    Raises:
        ProtocolError: the verdict itself is damaged.
    """
    message = group[MessageType.VERDICT]
    result = _Result(message.camera, message.header, read_body(message, VerdictBody))
    if message.header.verdict != Verdict.NOT_INSPECTED and MessageType.MASK not in group:
        view.fault(f"{message.topic} {message.header.seq}: its mask was lost")
    if (mask := group.get(MessageType.MASK)) is not None:
        try:
            result = replace(result, mask=read_mask(mask), mask_encoding=read_body(mask, MaskBody).encoding.value)
        except ProtocolError as error:
            view.fault(str(error))
    if (preview := group.get(MessageType.PREVIEW)) is not None:
        try:
            result = replace(result, preview=read_preview(preview))
        except ProtocolError as error:
            view.fault(str(error))
    return result


class _JsonView:
    """A JSON object per verdict on standard output; faults and losses on standard error."""

    def __init__(self, subscriber: Subscriber) -> None:
        self._subscriber = subscriber
        self._lost = 0

    def __enter__(self) -> _JsonView:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def heard(self, message: Message, now_s: float) -> None:  # noqa: ARG002 - the table wants to know
        if (lost := self._subscriber.lost.total()) > self._lost:
            self.fault(f"{lost - self._lost} messages were lost before {message.topic} {message.header.seq}")
            self._lost = lost
        if message.header.msg_type == MessageType.ALARM:
            self.fault(_in_words(read_body(message, AlarmBody)))

    def show(self, result: _Result) -> None:
        sys.stdout.write(json.dumps(_as_json(result), ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def fault(self, text: str) -> None:
        sys.stderr.write(f"inspectd watch: {text}\n")

    def refresh(self, now_s: float) -> None:
        pass


class _TableView:
    """The latest results, and under them how the line is."""

    def __init__(self, console: Console, subscriber: Subscriber) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._subscriber = subscriber
        self._rows: deque[tuple[Text, ...]] = deque(maxlen=_ROWS)
        self._station = ""
        self._state = ""
        self._health = ""
        self._uptime_s = 0.0
        self._heartbeat_s: float | None = None
        self._now_s = 0.0
        self._drawn_s = float("-inf")
        self._faults = 0
        self._fault = ""
        self._alarms: dict[str, str] = {}
        self._results = 0

    def __enter__(self) -> _TableView:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._draw()
        self._live.stop()
        if not self._console.is_terminal:
            # Off a terminal rich leaves the last line open, and a complaint would follow on it.
            self._console.line()

    def heard(self, message: Message, now_s: float) -> None:
        match message.header.msg_type:
            case MessageType.HEARTBEAT:
                beat = read_body(message, HeartbeatBody)
                self._station, self._state, self._uptime_s = beat.station, beat.state, beat.uptime_s
                healthy = beat.device_health is DeviceHealth.NORMAL
                self._health = "" if healthy else f"{beat.device_health.value}: {beat.health_reason}"
                self._heartbeat_s = now_s
            case MessageType.STATE:
                # The last word of a line that stops: no heartbeat need follow it.
                change = read_body(message, StateBody)
                self._station, self._state = change.station, change.state
            case MessageType.ALARM:
                alarm = read_body(message, AlarmBody)
                self._alarms.pop(alarm.alarm_id, None)
                if alarm.active:
                    self._alarms[alarm.alarm_id] = _in_words(alarm)

    def show(self, result: _Result) -> None:
        header = result.header
        self._results += 1
        worst = f" worst {header.worst_score_e4 / 10_000:.2f}" if header.defect_count else ""
        names = ", ".join(sorted({defect.class_name for defect in result.verdict.defects}))
        self._rows.append(
            (
                Text(result.name, style=_COLOURS.get(header.verdict, "bold magenta")),
                Text(str(header.seq)),
                Text(str(header.frame_id)),
                _plain(f"{result.camera} {result.verdict.source or ''}".strip()),
                _plain(result.verdict.reason or f"{header.defect_count} {names}{worst}".strip()),
                Text(f"{header.latency_us / 1000:.1f} ms"),
            )
        )

    def fault(self, text: str) -> None:
        self._faults += 1
        self._fault = text

    def refresh(self, now_s: float) -> None:
        self._now_s = now_s
        if now_s - self._drawn_s >= _REFRESH_S:
            self._drawn_s = now_s
            self._draw()

    def _draw(self) -> None:
        table = Table(title=_plain(f"inspectd at {self._subscriber.endpoint}"), caption=self._caption(), expand=True)
        for column, right in (
            ("verdict", False),
            ("seq", True),
            ("frame", True),
            ("camera", False),
            ("defects", False),
            ("latency", True),
        ):
            table.add_column(column, justify="right" if right else "left", ratio=3 if column == "defects" else None)
        for row in self._rows:
            table.add_row(*row)
        self._live.update(table, refresh=True)

    def _caption(self) -> Text:
        caption = _plain(f"{self._station}: {self._state}, " if self._state else "")
        if self._heartbeat_s is None:
            caption.append("no heartbeat yet")
            caption.stylize("yellow")
        else:
            age_s = max(0.0, self._now_s - self._heartbeat_s)
            caption.append(f"heartbeat {age_s:.1f} s ago")
            caption.stylize("green" if age_s < 1.0 and self._state not in _STOPPED else "bold red")
            caption.append(f", up {self._uptime_s:.0f} s, epoch {self._subscriber.epoch}", style="default")
        lost = self._subscriber.lost.total()
        caption.append(f" · {self._results} results · ", style="default")
        caption.append(f"{lost} lost", style="bold red" if lost else "default")
        if self._health:
            caption.append_text(_plain(f"\n{self._health}", style="bold red"))
        for alarm in self._alarms.values():
            caption.append_text(_plain(f"\n{alarm}", style="bold red"))
        if self._fault:
            caption.append_text(_plain(f"\n{self._faults} refused, the latest: {self._fault}", style="red"))
        return caption


def _as_json(result: _Result) -> dict[str, object]:
    header = result.header
    mask: dict[str, object] | None = None
    if result.mask is not None:
        height, width = result.mask.labels.shape
        names = result.mask.classes.names
        pixels = np.bincount(result.mask.labels.reshape(-1), minlength=len(names) + 1)[1:].tolist()
        mask = {
            "width": width,
            "height": height,
            "encoding": result.mask_encoding,
            "defect_px": {name: number for name, number in zip(names, pixels, strict=True) if number},
        }
    return {
        "camera": result.camera,
        "verdict": result.name,
        "epoch": header.epoch,
        "stream": header.stream,
        "seq": header.seq,
        "frame_id": header.frame_id,
        "trigger_id": header.trigger_id,
        "state": header.state.label,
        "flags": [flag.name.lower() for flag in Flags if flag.name and flag & header.flags],
        "t_acq_ns": header.t_acq_ns,
        "latency_us": header.latency_us,
        "defect_count": header.defect_count,
        "worst_class": header.worst_class,
        "worst_score": header.worst_score_e4 / 10_000,
        "recipe_no": header.recipe_no,
        "result": result.verdict.model_dump(mode="json", by_alias=True, exclude_none=True),
        "mask": mask,
    }


def overlay(mask: Mask | None, preview: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
    """The predicted mask in green: half over the preview, or full on black where there is none.

    Args:
        mask: classes [H, W]; None leaves the preview as it is.
        preview: uint8 [h, w, 3] (RGB), brought to the size of the mask.

    Returns:
        uint8 [H, W, 3] (RGB), or None where there is neither.
    """
    if mask is None:
        return preview
    height, width = mask.labels.shape
    defect = mask.labels > 0
    if preview is None:
        picture = np.zeros((height, width, 3), np.uint8)
        picture[defect] = _GREEN
        return picture
    picture = cv2.resize(preview, (width, height)).astype(np.uint8) if preview.shape[:2] != defect.shape else preview
    mixed = picture.copy()
    mixed[defect] = picture[defect] // 2 + np.array(_GREEN, np.uint8) // 2
    return mixed


def _save_overlay(folder: Path, result: _Result) -> None:
    picture = overlay(result.mask, result.preview)
    if picture is None:
        return
    path = folder / f"{result.camera}-{result.header.seq:06d}-{result.name}{_file_part(result.verdict.source)}.png"
    done, data = cv2.imencode(".png", np.ascontiguousarray(picture[:, :, ::-1]))
    if not done:
        raise ConfigError(f"{path}: the picture of {list(picture.shape)} could not be coded as PNG")
    temporary = path.with_suffix(".part")
    try:
        temporary.write_bytes(data.tobytes())
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); choose another folder for --save") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _file_part(source: str | None) -> str:
    """`-part7` for the picture `lot 3/part7.jpg`: what a file name can hold of it. It came over the wire."""
    safe = re.sub(r"[^\w.-]+", "_", Path(source or "").stem)
    return f"-{safe.encode()[:_NAME_BYTES].decode(errors='ignore')}" if safe else ""


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made ({error.strerror}); choose another folder for --save") from error


def _in_words(alarm: AlarmBody) -> str:
    so = "" if alarm.active else " is over"
    acked = f" (acknowledged by {alarm.acked_by})" if alarm.acked else ""
    return f"alarm {alarm.code}{so}{acked}: {alarm.message}"


def _plain(text: str, style: str = "") -> Text:
    """Text that came from elsewhere, without markup and without characters that a terminal would obey."""
    return Text("".join(sign if sign.isprintable() or sign == "\n" else "?" for sign in text), style=style)


def _place(header: Header) -> tuple[int, int, int]:
    return header.epoch, header.stream, header.seq
