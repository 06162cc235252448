"""How a station is, as its supervisor tells it: what `/status` answers with, and what follows from it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, computed_field

from inspectd.wire import DeviceHealth, State

from .beats import Alarm, Beat, ProcessStatus
from .states import PREPARED

__all__ = ["FRESH_S", "Report"]

FRESH_S = 5.0
"""What is older tells nothing of now: a beat, or a turn of the supervisor's loop."""
_READY = tuple(state.label for state in State if state in PREPARED)


class Report(BaseModel):
    """Everything that a supervisor knows; also as JSON."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    version: str
    station: str
    uptime_s: float
    """Since the supervisor was started."""
    loop_age_s: float
    """Since the supervisor last looked at its processes."""
    stopping: bool = False
    """Whether it was asked to end."""
    processes: dict[str, ProcessStatus]
    alarms: tuple[Alarm, ...] = ()
    """Those of the supervisor itself that are active."""

    @property
    def core(self) -> ProcessStatus | None:
        """The process that the station is."""
        return next((each for each in self.processes.values() if each.essential), None)

    @property
    def fresh_beat(self) -> Beat | None:
        """What the core says of itself now; None where it says nothing."""
        core = self.core
        if core is None or core.beat_age_s is None or core.beat_age_s > FRESH_S:
            return None
        return core.beat

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ready(self) -> bool:
        """Whether parts would be judged now."""
        return not self.unready()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def reason(self) -> str:
        """Why not, for people."""
        return self.unready()

    def unhealthy(self) -> str:
        """Why the supervisor or the core does not work as it should; empty where both do."""
        if self.loop_age_s > FRESH_S:
            return f"the supervisor has not looked at its processes for {self.loop_age_s:.1f} s"
        core = self.core
        if core is None:
            return "the station has no core"
        if core.pid is None:
            return f"the core does not run: {core.last_end or 'it was not started yet'}"
        if core.beat_age_s is None:
            return f"the core was started {core.running_s:.1f} s ago and has not said anything yet"
        if self.fresh_beat is None:
            return f"nothing was heard of the core for {core.beat_age_s:.1f} s"
        return ""

    def unready(self) -> str:
        """Why no part would be judged now; empty where parts would be."""
        if why := self.unhealthy():
            return why
        beat = self.fresh_beat
        if beat is None or not beat.ready:
            return f"the core is starting: {beat.status if beat else 'nothing was heard of it'}"
        if beat.health is DeviceHealth.FAILURE:
            return f"deviceHealth is FAILURE: {beat.reason}"
        if beat.state not in _READY:
            return f"the station is in {beat.state}; expected one of {', '.join(_READY)}"
        return ""
