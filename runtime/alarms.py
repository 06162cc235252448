"""Alarms: what somebody has to know, until it is over and somebody has acknowledged it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone

from pydantic import ValidationError

from inspectd.errors import RequestError
from inspectd.wire import AlarmBody, Severity

__all__ = ["MOST_OPEN", "Alarms", "Lasting"]

MOST_OPEN = 200
"""So many are kept at most; the oldest that are over give way, unacknowledged."""
_EPOCH_1970 = datetime(1970, 1, 1, tzinfo=timezone.utc)
_log = logging.getLogger("inspectd.alarm")


class Alarms:
    """The alarms of a station; one thread's.

    An alarm has a code, and is raised and cleared by it. It is *open* while what it tells of is so, and after that
    until somebody has acknowledged it. Raised again while it is active, it stays the same one.

    Args:
        station: name of the station.
        epoch: of this start.
        publish: told of each change.
        utc: ns since the Unix epoch.
    """

    def __init__(
        self,
        station: str,
        *,
        epoch: int,
        publish: Callable[[AlarmBody], None],
        utc: Callable[[], int] = time.time_ns,
    ) -> None:
        self._station = station
        self._epoch = epoch
        self._publish = publish
        self._utc = utc
        self._count = 0
        self._open: dict[str, AlarmBody] = {}

    @property
    def open(self) -> list[AlarmBody]:
        """Those that are not done with, oldest first."""
        return list(self._open.values())

    @property
    def active(self) -> list[AlarmBody]:
        """Those that tell of what is so now."""
        return [alarm for alarm in self._open.values() if alarm.active]

    def is_active(self, code: str) -> bool:
        """Whether what a code stands for is so now."""
        return self._of(code) is not None

    def restore(self, bodies: Iterable[str]) -> None:
        """Take up those that were open when the station ended; what they tell of has to be found anew."""
        for text in bodies:
            try:
                alarm = AlarmBody.model_validate_json(text)
            except ValidationError:
                continue  # of another version; its time is over
            self._change(alarm.model_copy(update={"active": False}))

    def set(self, code: str, severity: Severity, message: str) -> None:
        """What the code stands for is so."""
        found = self._of(code)
        if found is not None:
            if (found.severity, found.message) != (severity, message):
                self._change(found.model_copy(update={"severity": severity, "message": message}))
            return
        self._make_room()
        self._count += 1
        now = _EPOCH_1970 + timedelta(microseconds=self._utc() // 1000)
        level = logging.ERROR if severity is Severity.ERROR else logging.WARNING
        _log.log(level, "alarm %s: %s", code, message)
        self._change(
            AlarmBody(
                station=self._station,
                alarm_id=f"{self._epoch}-{self._count}",
                code=code,
                severity=severity,
                message=message,
                active=True,
                acked=False,
                raised_time=now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            )
        )

    def clear(self, code: str) -> None:
        """It is so no more."""
        found = self._of(code)
        if found is not None:
            _log.warning("alarm %s is over", code)
            self._change(found.model_copy(update={"active": False}))

    def tell(self, code: str, severity: Severity, message: str) -> None:
        """Something happened, and is over already."""
        self.set(code, severity, message)
        self.clear(code)

    def show(self, code: str, severity: Severity, message: str) -> None:
        """Set it while there is a message, and clear it once there is none."""
        if message:
            self.set(code, severity, message)
        else:
            self.clear(code)

    def hold(self, wanted: dict[str, tuple[Severity, str]], *, prefix: str) -> None:
        """Set those that are wanted, and clear all others whose code begins like this."""
        for code, (severity, message) in wanted.items():
            self.set(code, severity, message)
        for alarm in self.active:
            if alarm.code.startswith(prefix) and alarm.code not in wanted:
                self.clear(alarm.code)

    def acknowledge(self, alarm_id: str, who: str) -> None:
        """Somebody has seen it.

        Raises:
            RequestError: there is no such open alarm.
        """
        found = self._open.get(alarm_id)
        if found is None:
            raise RequestError(f"alarm {alarm_id!r}: none that is open", code="not_found", field="alarmId")
        if not found.acked:
            self._change(found.model_copy(update={"acked": True, "acked_by": who}))

    def _of(self, code: str) -> AlarmBody | None:
        return next((alarm for alarm in self._open.values() if alarm.code == code and alarm.active), None)

    def _change(self, alarm: AlarmBody) -> None:
        if alarm.active or not alarm.acked:
            self._open[alarm.alarm_id] = alarm
        else:
            self._open.pop(alarm.alarm_id, None)
        self._publish(alarm)

    def _make_room(self) -> None:
        over = [alarm for alarm in self._open.values() if not alarm.active]
        if len(self._open) >= MOST_OPEN and over:
            self._change(over[0].model_copy(update={"acked": True, "acked_by": "nobody: too many were open"}))


class Lasting:
    """An alarm for what happens now and then: one as long as it goes on, and for a while after the last time.

    Args:
        alarms: of the station.
        code: of the alarm.
        severity: how bad it is.
        lasts_s: how long it stays after the last time.
    """

    def __init__(
        self, alarms: Alarms, code: str, severity: Severity = Severity.WARNING, *, lasts_s: float = 10.0
    ) -> None:
        self._alarms = alarms
        self._code = code
        self._severity = severity
        self._lasts_ns = round(lasts_s * 1e9)
        self._until_ns = 0

    def look(self, now_ns: int, happened: str) -> None:
        """Say what has happened since the last look; empty if nothing has."""
        if happened:
            self._until_ns = now_ns + self._lasts_ns
            # The words stay those of its first time: an alarm for each would be a way to flood the station.
            if not self._alarms.is_active(self._code):
                self._alarms.set(self._code, self._severity, happened)
        elif now_ns > self._until_ns:
            self._alarms.clear(self._code)
