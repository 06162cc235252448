"""The challenge: master parts themselves, put through a camera one after the other, from the lens to the verdict.

    challenge ── the next results of the camera, in the order of the set ── each as it should be?

A stored picture is found whatever has become of lens, lamp or trigger. So somebody lays the parts in, and the next
results of the camera are theirs. They are judged, published and kept as all parts are. When a challenge was done, and
what it missed, outlives the process; a part that was missed is written down at once, whatever becomes of the rest:

challenge.json     {"set": SHA256, "camera": NAME, "done_utc_ns": N, "missed": TEXT, "is_enough": BOOL}
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta, timezone
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from inspectd.config import Config
from inspectd.durable import replace_file
from inspectd.errors import InspectdError, MasterPartsError, RequestError
from inspectd.inspection import AcceptanceRule, Inspection, Verdict
from inspectd.masters import MasterOutcome, MasterPart, Masters, MastersResult, fault_of, open_masters
from inspectd.wire import Header, Severity, State

from .alarms import Alarms
from .control import Outcome
from .journal import Entry
from .models import Model, Models
from .state_file import StateFile
from .states import PREPARED

__all__ = ["Challenges", "check_challenge"]

LOOK_S = 0.25
_AHEAD_NS = 2 * 3600 * 10**9
"""A challenge that was done later than this from now was so by a clock that has been set back since."""
_log = logging.getLogger("inspectd.station")


class _Kept(BaseModel):
    """What the file says. A challenge of another set or camera was none of this one."""

    model_config = ConfigDict(frozen=True, strict=True)

    set_sha256: str = Field("", alias="set")
    camera: str = ""
    done_utc_ns: int = Field(0, ge=0, lt=2**63)
    """When all parts of a challenge had come; 0 for never."""
    missed: str = ""
    """What was missed, in words."""
    is_enough: bool = True
    """Whether as many were found as have to be."""

    @classmethod
    def read(cls, path: Path) -> _Kept:
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except (OSError, ValidationError) as error:
            _log.warning("%s: is damaged: %s", path, error)
            return cls(missed=f"{path}: is damaged; nobody knows what the latest challenge came to", is_enough=False)

    @property
    def severity(self) -> Severity:
        return Severity.WARNING if self.is_enough else Severity.ERROR


@dataclass(slots=True, eq=False)
class _Run:
    """One challenge, from its first part to its last."""

    masters: Masters
    camera: str
    judges: tuple[str, AcceptanceRule]
    begun: str
    begun_ns: int
    begun_utc_ns: int
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
    def is_complete(self) -> bool:
        return len(self.outcomes) == len(self.parts)

    @property
    def at_best(self) -> MastersResult:
        """What comes of it if everything that is still to come is as it should be."""
        rest = [MasterOutcome(part, Verdict[part.expected], "") for part in self.parts[len(self.outcomes) :]]
        return MastersResult.of(self.masters.record, [*self.outcomes, *rest])

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
            "masters": self.at_best.body() if self.is_complete else None,
        }


def check_challenge(config: Config) -> Masters | None:
    """Open the set of a configuration; None where there is no challenge.

    Raises:
        ConfigError: it cannot be used.
    """
    return None if config.challenge.file is None else open_masters(config.challenge.file)


class Challenges:
    """The challenges of a station; the line's thread, but for `refuse`.

    Args:
        config: the configuration.
        masters: the parts that are put through; None where the configuration names none.
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
        masters: Masters | None,
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
        self._masters = masters
        self._settings, self._camera = config.challenge, config.challenge_camera
        self._path = config.station.state_dir / "challenge.json"
        self._models = models
        self._alarms = alarms
        self._state = state
        self._fail = fail
        self._keep = keep
        self._epoch = epoch
        self._clock = clock
        self._utc = utc
        self._at = [time.fromisoformat(each) for each in self._settings.at]
        self._kept = _Kept()
        self._file = self._file_that_says(self._kept)
        self._run: _Run | None = None
        self._next_look_ns = 0

    @property
    def body(self) -> dict[str, Any] | None:
        """How far the latest one of this start is; None where there was none."""
        return None if self._run is None else self._run.body()

    def take_up(self) -> None:
        """What came of the latest one before this start; what was missed then is missed still."""
        if self._masters is None:
            return
        self._kept = _Kept.read(self._path)
        self._file = self._file_that_says(self._kept)
        self._tell_missed()

    def close(self) -> None:
        """The station ends, and with it a challenge that is under way."""
        if self._run is not None and self._run.state == "running":
            self._end(self._run, "the station ended")
        if not self._file.close(self._kept):
            # The next start will not know of it; whoever watches, and the journal, do.
            self._tell_not_kept(self._file.failure or "the disk did not answer in time", "the station ends")

    def refuse(self, model: Model) -> None:
        """Hold a model that may judge later against the set; from any thread.

        Raises:
            ConfigError: it does not have its classes.
        """
        if self._masters is not None:
            self._masters.hold_against(model.bundle.class_map)

    # What is asked for

    def begin(self, answer: Callable[[Outcome], None]) -> None:
        """The next parts of the camera are the master parts.

        Raises:
            RequestError: there are none, one is under way, or nobody knows which part comes next.
            ConfigError: the model does not have their classes.
        """
        masters, model = self._masters, self._models.current
        if masters is None:
            raise RequestError("challenge: no parts are configured; set challenge.file", code="refused")
        if self._run is not None and self._run.state == "running":
            raise RequestError(
                "challenge: one is under way; go on with it, or give it up (challenge_cancel)", code="busy"
            )
        # While a single job is executed its part is under way.
        if model is None or not self._is_judging or self._state() is State.SINGLE_EXECUTION:
            raise RequestError(
                f"challenge: the station has to be Ready or to run, and is {self._state().label}", code="wrong_state"
            )
        self.refuse(model)
        now_ns, utc_ns = self._clock(), self._utc()
        begun = datetime.fromtimestamp(utc_ns // 10**9, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        judges = model.bundle.digest, model.rule
        self._run = _Run(masters, self._camera, judges, begun, now_ns, utc_ns, heard_ns=now_ns)
        answer(self._run.body())

    def cancel(self, answer: Callable[[Outcome], None]) -> None:
        """Give up the one that is under way.

        Raises:
            RequestError: none is.
        """
        if self._run is None or self._run.state != "running":
            raise RequestError("challenge_cancel: none is under way", code="wrong_state")
        self._end(self._run, "it was given up")
        answer(self._run.body())

    # What happens

    def note(self, inspection: Inspection, header: Header) -> None:
        """A part has its verdict, which went out under this header."""
        run, frame = self._run, inspection.frame
        if run is None or run.state != "running" or frame.camera != run.camera:
            return
        # What was exposed or had come before it began is no master part.
        if frame.received_ns < run.begun_ns or frame.acquired_ns < run.begun_utc_ns:
            return
        if why := self._over(run, inspection):
            self._end(run, why)
            return
        part = run.parts[len(run.outcomes)]
        # By hand it lies each time elsewhere.
        fault = fault_of(inspection, expected=Verdict[part.expected], class_name=part.class_name, labels=None)
        run.outcomes.append(MasterOutcome(part, inspection.verdict, fault))
        run.results.append(f"{header.epoch}-{header.stream}-{header.seq}")
        run.heard_ns = self._clock()
        told = run.outcomes[-1] if fault else f"{part.name}: {inspection.verdict.name}"
        level = logging.WARNING if fault else logging.INFO
        _log.log(level, "challenge: %d of %d: %s", len(run.outcomes), len(run.parts), told)
        if fault:
            self._tell_faults(run)
        if run.is_complete:
            self._end(run)

    def look(self) -> None:
        """At every turn of the line: whether one is due, or has come to nothing."""
        now_ns = self._clock()
        if self._masters is None or now_ns < self._next_look_ns:
            return
        self._next_look_ns = now_ns + round(LOOK_S * 1e9)
        if self._run is not None and self._run.state == "running" and (why := self._over(self._run)):
            self._end(self._run, why)
        self._file.keep(self._kept)
        self._tell_not_kept(self._file.failure, "it is tried again")
        self._alarms.show("challenge.due", Severity.WARNING, self._due())

    @property
    def _is_judging(self) -> bool:
        return self._state() in PREPARED

    def _over(self, run: _Run, inspection: Inspection | None = None) -> str:
        """Why it cannot go on; empty where it can."""
        model, wait_s = self._models.current, self._settings.wait_s
        is_judged = inspection is not None and inspection.mask is not None
        if not self._is_judging:
            return f"the station went to {self._state().label}"
        if model is None or (model.bundle.digest, model.rule) != run.judges:
            return "another model or rule judges"
        if inspection is not None and is_judged and inspection.bundle_digest != run.judges[0]:
            return "another model has judged in between"
        if self._clock() - run.heard_ns > wait_s * 1e9:
            return f"no part came within {wait_s:g} s"
        return ""

    def _tell_faults(self, run: _Run) -> None:
        """A part did not come out as it should: nobody gets rid of that by breaking off, or by a restart."""
        result = run.at_best
        self._alarms.show("challenge.rejected", Severity.WARNING, result.told_rejected())
        if missed := result.told_missed():
            # What an earlier one missed is not made good by this one before its end.
            is_enough = result.passed and self._kept.is_enough
            self._keep_in_mind(missed=f"master parts at camera {run.camera!r}: {missed}", is_enough=is_enough)

    def _end(self, run: _Run, why: str = "") -> None:
        """All parts have come, or it is broken off."""
        result = run.at_best
        run.why = why
        run.state = "broken off" if why else "passed" if result.passed else "missed"
        row = f"challenge-{self._epoch}-{run.begun_ns}"
        begun = ("station", row, self._utc(), self._epoch, "station", "operator", "challenge", "{}")
        self._keep(Entry(begun=begun, ended=("station", row, json.dumps({"ok": True, "result": run.body()}))))
        if why:
            _log.warning("challenge: broken off after %d of %d parts: %s", len(run.outcomes), len(run.parts), why)
        else:
            found = f"{result.known - len(result.missed)} of {result.known} known defects found"
            _log.log(logging.INFO if result.passed else logging.ERROR, "challenge: %s: %s", run.state, found)
            done = {"set_sha256": run.masters.record.sha256, "camera": run.camera, "done_utc_ns": self._utc()}
            missed = self._kept.missed if result.missed else ""
            self._keep_in_mind(**done, missed=missed, is_enough=result.passed)
            self._alarms.show("challenge.rejected", Severity.WARNING, result.told_rejected())
        if not result.passed and self._settings.on_failure == "error" and self._is_judging:
            self._fail(MasterPartsError(self._kept.missed))

    def _keep_in_mind(self, **changes: Any) -> None:  # noqa: ANN401 - fields of _Kept
        self._kept = self._kept.model_copy(update=changes)
        self._tell_missed()
        self._file.keep(self._kept)

    def _tell_missed(self) -> None:
        self._alarms.show("challenge.missed", self._kept.severity, self._kept.missed)

    # What is due

    def _due(self) -> str:
        """Why one is, in words; empty where none is."""
        kept, now_ns = self._kept, self._utc()
        is_known = self._masters is not None and kept.set_sha256 == self._masters.record.sha256
        is_ours = is_known and kept.camera == self._camera and kept.done_utc_ns <= now_ns + _AHEAD_NS
        done_s, now_s = kept.done_utc_ns / 1e9 if is_ours else 0.0, now_ns / 1e9
        today = datetime.fromtimestamp(now_s).date()
        # Instants: local time goes back in autumn. The day before yesterday, for a clock that leaves an hour out.
        days = (today - timedelta(days=back) for back in range(3))
        times = (datetime.combine(day, each).timestamp() for day in days for each in self._at)
        due_s = max((each for each in times if each <= now_s), default=0.0)
        if done_s >= due_s:
            return ""
        return (
            f"since {datetime.fromtimestamp(due_s):%Y-%m-%d %H:%M} the master parts have not been put through camera "
            f"{self._camera!r}: inspectd ctl challenge"
        )

    # On the disk

    def _file_that_says(self, kept: _Kept) -> StateFile[_Kept]:
        def write(what: _Kept) -> None:
            replace_file(self._path, what.model_dump_json(by_alias=True).encode())

        return StateFile(write, name="challenge", written=kept)

    def _tell_not_kept(self, why: str, then: str) -> None:
        told = f"{self._path}: what came of a challenge cannot be kept ({why}); {then}" if why else ""
        self._alarms.show("challenge.not_kept", Severity.ERROR, told)


def _asked(part: MasterPart) -> dict[str, str]:
    return {"name": part.name, "defect": part.defect, "size": part.size, "expected": part.expected}
