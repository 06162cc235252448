"""The challenge: master parts themselves, put through a camera one after the other, from the lens to the verdict.

    challenge ── the next results of the camera, in the order of the set ── each as it should be?

A stored picture is found whatever has become of lens, lamp or trigger. So somebody lays the parts in, and the next
results of the camera are theirs. They are judged, published and kept as all parts are. What came of a challenge, and
that one is due, outlives the process:

challenge.json     {"utc_ns": N, "missed": TEXT}
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta, timezone
from typing import Any

from inspectd.config import Config
from inspectd.durable import replace_file
from inspectd.errors import InspectdError, MasterPartsError, RequestError
from inspectd.inspection import AcceptanceRule, Inspection, Verdict
from inspectd.masters import MasterOutcome, MasterPart, Masters, MastersResult, fault_of, open_masters
from inspectd.wire import Header, Severity, State

from .alarms import Alarms
from .control import Outcome
from .journal import Entry
from .models import Models
from .states import EXECUTING

__all__ = ["Challenges", "check_challenge"]

LOOK_S = 0.25
_AHEAD = timedelta(hours=2)
"""A challenge that was passed later than this from now was so by a clock that has been set back since."""
_FOREVER_AGO = datetime.min
_log = logging.getLogger("inspectd.station")


@dataclass(slots=True, eq=False)
class _Run:
    """One challenge, from its first part to its last."""

    masters: Masters
    camera: str
    judges: tuple[str, AcceptanceRule]
    begun: str
    begun_ns: int
    heard_ns: int
    outcomes: list[MasterOutcome] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    """What the result of each part is called."""
    state: str = "running"
    why: str = ""
    """Why it was broken off."""

    @property
    def parts(self) -> tuple[MasterPart, ...]:
        return self.masters.record.parts

    @property
    def result(self) -> MastersResult:
        return MastersResult.of(self.masters.record, self.outcomes)

    @property
    def can_pass(self) -> bool:
        """Whether it does if everything that is still to come is as it should be."""
        rest = [MasterOutcome(part, Verdict[part.expected], "") for part in self.parts[len(self.outcomes) :]]
        return MastersResult.of(self.masters.record, [*self.outcomes, *rest]).passed

    def body(self) -> dict[str, Any]:
        """As JSON values."""
        done, parts = len(self.outcomes), self.parts
        return {
            "state": self.state,
            "camera": self.camera,
            "begun": self.begun,
            "digest": self.judges[0],
            "why": self.why,
            "done": done,
            "count": len(parts),
            "next": _asked(parts[done]) if self.state == "running" else None,
            "parts": [
                {**each.body(), "result_id": name} for each, name in zip(self.outcomes, self.results, strict=True)
            ],
            # Of a part of the set recall would say what nobody has seen.
            "masters": self.result.body() if done == len(parts) else None,
        }


def check_challenge(config: Config) -> Masters | None:
    """Open the set of a configuration; None where there is no challenge.

    Raises:
        ConfigError: it cannot be used.
    """
    return None if config.challenge.file is None else open_masters(config.challenge.file)


class Challenges:
    """The challenges of a station; the line's thread.

    Args:
        config: the configuration.
        models: what judges.
        alarms: of the station.
        state: what the station is doing.
        fail: leads the station to Error.
        keep: has something written to the journal.
        epoch: of this start.
        clock: ns, monotonic.
        utc: ns since the Unix epoch.
    """

    def __init__(
        self,
        config: Config,
        *,
        models: Models,
        alarms: Alarms,
        state: Callable[[], State],
        fail: Callable[[InspectdError], None],
        keep: Callable[[Entry], object],
        epoch: int,
        clock: Callable[[], int],
        utc: Callable[[], int],
    ) -> None:
        self._config, self._settings = config, config.challenge
        self._path = config.station.state_dir / "challenge.json"
        self._models = models
        self._alarms = alarms
        self._state = state
        self._fail = fail
        self._keep = keep
        self._epoch = epoch
        self._clock = clock
        self._utc = utc
        self._at = sorted(time.fromisoformat(each) for each in self._settings.at)
        self._kept: tuple[int, str] | None = None
        self._is_written, self._is_failing = True, False
        self._run: _Run | None = None
        self._next_look_ns = 0

    @property
    def body(self) -> dict[str, Any] | None:
        """How far the latest one of this start is; None where there was none."""
        return None if self._run is None else self._run.body()

    def take_up(self) -> None:
        """What came of the latest one before this start; what was missed then is missed still."""
        if self._settings.file is None:
            return
        try:
            value = json.loads(self._path.read_text(encoding="utf-8"))
            self._kept = int(value["utc_ns"]), str(value["missed"])
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("%s: is damaged (%s); the challenge counts as never passed", self._path, error)
        if self._kept is not None:
            self._alarms.show("challenge.missed", Severity.ERROR, self._kept[1])

    # What is asked for

    def begin(self, answer: Callable[[Outcome], None]) -> None:
        """The next parts of the camera are the master parts.

        Raises:
            RequestError: there are none, one is under way, or no part would be judged.
            ConfigError: the set cannot be used, or the model does not have its classes.
        """
        masters, model = check_challenge(self._config), self._models.current
        if masters is None:
            raise RequestError("challenge: no parts are configured; set challenge.file", code="refused")
        if self._is_running:
            raise RequestError(
                "challenge: one is under way; go on with it, or give it up (challenge_cancel)", code="busy"
            )
        if model is None or not self._is_judging:
            raise RequestError(
                f"challenge: the station judges no parts, it is {self._state().label}", code="wrong_state"
            )
        masters.hold_against(model.bundle.class_map)
        now_ns = self._clock()
        label = datetime.fromtimestamp(self._utc() // 10**9, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        judges = model.bundle.digest, model.rule
        self._run = _Run(masters, self._config.challenge_camera, judges, label, begun_ns=now_ns, heard_ns=now_ns)
        answer(self._run.body())

    def cancel(self, answer: Callable[[Outcome], None]) -> None:
        """Give up the one that is under way.

        Raises:
            RequestError: none is.
        """
        if self._run is None or not self._is_running:
            raise RequestError("challenge_cancel: none is under way", code="wrong_state")
        self._end(self._run, "it was given up")
        answer(self._run.body())

    # What happens

    def note(self, inspection: Inspection, header: Header) -> None:
        """A part has its verdict, which went out under this header."""
        run, frame = self._run, inspection.frame
        # What was exposed before it began is no master part.
        if run is None or run.state != "running" or frame.camera != run.camera or frame.received_ns < run.begun_ns:
            return
        self._end_if_over(run)
        if run.state != "running":
            return
        part = run.parts[len(run.outcomes)]
        # By hand it lies each time elsewhere.
        why = fault_of(inspection, expected=Verdict[part.expected], class_name=part.class_name, labels=None)
        run.outcomes.append(MasterOutcome(part, inspection.verdict, why))
        run.results.append(f"{header.epoch}-{header.stream}-{header.seq}")
        run.heard_ns = self._clock()
        told = run.outcomes[-1] if why else f"{part.name}: {inspection.verdict.name}"
        _log.log(
            logging.WARNING if why else logging.INFO, "challenge: %d of %d: %s", len(run.outcomes), len(run.parts), told
        )
        if len(run.outcomes) == len(run.parts):
            self._end(run)

    def look(self) -> None:
        """At every turn of the line: whether one is due, or has come to nothing."""
        now_ns = self._clock()
        if self._settings.file is None or now_ns < self._next_look_ns:
            return
        self._next_look_ns = now_ns + round(LOOK_S * 1e9)
        if self._run is not None and self._is_running:
            self._end_if_over(self._run)
        self._flush()
        self._alarms.show("challenge.due", Severity.WARNING, self._due())

    @property
    def _is_running(self) -> bool:
        return self._run is not None and self._run.state == "running"

    @property
    def _is_judging(self) -> bool:
        return self._state() in EXECUTING or self._state() is State.READY

    def _end_if_over(self, run: _Run) -> None:
        model = self._models.current
        wait_s = self._settings.wait_s
        if not self._is_judging:
            self._end(run, f"the station went to {self._state().label}")
        elif model is None or (model.bundle.digest, model.rule) != run.judges:
            self._end(run, "another model or rule judges")
        elif self._clock() - run.heard_ns > wait_s * 1e9:
            self._end(run, f"no part came within {wait_s:g} s")

    def _end(self, run: _Run, why: str = "") -> None:
        """All parts have come, or it is broken off."""
        run.why = why
        run.state = "broken off" if why else "passed" if run.result.passed else "missed"
        row = f"challenge-{self._epoch}-{run.begun_ns}"
        begun = ("station", row, self._utc(), self._epoch, "station", "operator", "challenge", "{}")
        self._keep(Entry(begun=begun, ended=("station", row, json.dumps({"ok": True, "result": run.body()}))))
        if why:
            _log.warning("challenge: broken off after %d of %d parts: %s", len(run.outcomes), len(run.parts), why)
        # Nobody gets rid of a part that was missed by breaking it off.
        if why and run.can_pass:
            return
        result = run.result
        passed, missed = not why and result.passed, result.told_missed()
        if missed:
            missed = f"master parts at camera {run.camera!r}: {missed}"
        self._alarms.show("challenge.missed", Severity.WARNING if passed else Severity.ERROR, missed)
        self._alarms.show("challenge.rejected", Severity.WARNING, result.told_rejected())
        self._kept, self._is_written = (self._utc(), "" if passed else missed), False
        self._flush()
        if not passed and self._settings.on_failure == "error" and self._is_judging:
            self._fail(MasterPartsError(missed))

    # What is due

    def _due(self) -> str:
        """Why one is, in words; empty where none is."""
        now = datetime.fromtimestamp(self._utc() / 1e9)
        done = _FOREVER_AGO if self._kept is None else datetime.fromtimestamp(self._kept[0] / 1e9)
        if done > now + _AHEAD:
            done = _FOREVER_AGO
        latest = [datetime.combine(now.date(), each) for each in self._at]
        due = max((each if each <= now else each - timedelta(days=1) for each in latest), default=_FOREVER_AGO)
        if done >= due:
            return ""
        return (
            f"since {due:%H:%M} the master parts have not been put through camera {self._config.challenge_camera!r}: "
            f"inspectd ctl challenge"
        )

    def _flush(self) -> None:
        if self._is_written or self._kept is None:
            return
        utc_ns, missed = self._kept
        try:
            replace_file(self._path, json.dumps({"utc_ns": utc_ns, "missed": missed}).encode())
        except OSError as error:
            if not self._is_failing:
                _log.warning("%s: cannot be written (%s); it is tried again", self._path, error.strerror)
            self._is_failing = True
        else:
            self._is_written, self._is_failing = True, False


def _asked(part: MasterPart) -> dict[str, str]:
    return {"name": part.name, "defect": part.defect, "size": part.size, "expected": part.expected}
