"""When a process that has failed is started again."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BackOff", "History"]


@dataclass(frozen=True, slots=True)
class History:
    """A process's failures since it was last in health.

    Attributes:
        attempts: how many there were.
        recent_s: when the latest of them were, as far as they count; s, of the supervisor's clock.
        failing: whether there were so many that it is tried at long intervals only.
    """

    attempts: int = 0
    recent_s: tuple[float, ...] = ()
    failing: bool = False


@dataclass(frozen=True, slots=True)
class BackOff:
    """The rule: soon at first, then less often; and where that does not help, at long intervals.

    Attributes:
        delays_s: between a failure and the next try; the last one goes on.
        many: so many failures ...
        window_s: ... within so long are too many:
        patient_s: then it is tried after so long.
        healthy_s: after so long in health all is forgotten.
    """

    delays_s: tuple[float, ...] = (0.5, 1.0, 2.0, 5.0)
    many: int = 5
    window_s: float = 60.0
    patient_s: float = 30.0
    healthy_s: float = 60.0

    def after_failure(self, history: History, now_s: float) -> tuple[History, float]:
        """What is known after a failure, and how long to wait before the next try, s."""
        recent_s = tuple(each for each in (*history.recent_s, now_s) if now_s - each < self.window_s)
        failing = history.failing or len(recent_s) >= self.many
        delay_s = self.patient_s if failing else self.delays_s[min(history.attempts, len(self.delays_s) - 1)]
        return History(history.attempts + 1, recent_s[-self.many :], failing), delay_s

    def after_health(self, history: History, healthy_s: float) -> History:
        """What is known of a process that has been in health for so long."""
        return History() if healthy_s >= self.healthy_s else history
