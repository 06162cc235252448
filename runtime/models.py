"""The networks of a station: the one that judges, one that is loaded beside it, and the one before.

    load ── standby ── activate ── current ── roll_back ── current
                                      └── previous ──┘

A swap is one assignment between two frames: whoever judges asks for `current` before each. An engine that nobody needs
any more is closed by the thread that judges, between frames.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from inspectd.bundle import Bundle
from inspectd.calibrated import Scale, load_record
from inspectd.calibrated.threshold import ThresholdRecord
from inspectd.config import Acceptance, effective_rule
from inspectd.errors import ConfigError, RequestError
from inspectd.inspection import AcceptanceRule

from .engine import Engine
from .inspector import Inspector

__all__ = ["LoadedBundle", "Model", "Models", "rule_for", "thresholds_of"]


@dataclass(frozen=True, slots=True)
class LoadedBundle:
    """A bundle and the engine that was opened for it; `fallback` says why it is not the one that is configured."""

    bundle: Bundle
    engine: Engine
    fallback: str = ""

    def __post_init__(self) -> None:
        """Reads here, by whoever loads it, what the line's thread asks for: that one waits for no disk."""
        _ = self.bundle.is_in_colour


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A bundle with the engine that runs it, and the rule that it judges by."""

    bundle: Bundle
    engine: Engine
    rule: AcceptanceRule
    inspector: Inspector
    fallback: str = ""
    """Why its engine is not the one that is configured; empty where it is."""

    @classmethod
    def make(
        cls,
        loaded: LoadedBundle,
        acceptance: AcceptanceRule,
        *,
        scales: Mapping[str, Scale | None],
        clock: Callable[[], int],
    ) -> Model:
        """Put one together.

        Raises:
            ConfigError: the acceptance rule does not fit the bundle.
        """
        bundle, engine = loaded.bundle, loaded.engine
        rule = rule_for(bundle, acceptance)
        return cls(bundle, engine, rule, Inspector(bundle, engine, rule, scales=scales, clock=clock), loaded.fallback)

    @property
    def named(self) -> dict[str, Any]:
        """What clients are told of it."""
        return {"name": self.bundle.card.name, "digest": self.bundle.digest}


def thresholds_of(acceptance: Acceptance) -> ThresholdRecord | None:
    """The calibration that a rule comes from; None where none is named.

    Raises:
        ConfigError: it cannot be used.
    """
    if acceptance.record is None:
        return None
    try:
        return load_record(acceptance.record, ThresholdRecord)
    except ConfigError as error:
        raise ConfigError(f"acceptance.record: {error}") from error


def rule_for(bundle: Bundle, acceptance: AcceptanceRule) -> AcceptanceRule:
    """The rule that a bundle judges by: thresholds that are not set are its own.

    Raises:
        ConfigError: it names classes that the bundle does not have.
    """
    thresholds = dict(zip(bundle.card.classes, bundle.card.thresholds, strict=True))
    return effective_rule(acceptance, bundle.class_map, thresholds)


class Models:
    """The networks of a station. `current` may be read from any thread; all else is the main thread's.

    Args:
        model: the one that judges; None where the station has none that works.
        watch_frames: so many frames after a swap a failure of the engine brings the one before back.
    """

    def __init__(self, model: Model | None, *, watch_frames: int = 50) -> None:
        self.current = model
        self.standby: Model | None = None
        self.previous: Model | None = None
        self._watch_frames = watch_frames
        self._watched = 0
        self._retired: deque[Model] = deque()
        self._lock = threading.Lock()

    def load(self, model: Model) -> None:
        """Keep a tested model beside the one that judges, in place of any that was kept there."""
        before, self.standby = self.standby, model
        self._retire(before)

    @property
    def loaded(self) -> Model:
        """The one that was loaded.

        Raises:
            RequestError: none was.
        """
        if self.standby is None:
            raise RequestError("activate: no model is loaded; load one with load_model", code="wrong_state")
        return self.standby

    def activate(self) -> Model:
        """Let the one that was loaded judge from the next frame.

        Raises:
            RequestError: none was loaded.
        """
        before, self.previous, self.current, self.standby = self.previous, self.current, self.loaded, None
        self._retire(before)
        self.watch()
        return self.current

    def roll_back(self) -> Model:
        """Let the one before judge again.

        Raises:
            RequestError: there is none.
        """
        if self.previous is None:
            raise RequestError("rollback: there is no model before this one", code="wrong_state")
        before, self.standby, self.current, self.previous = self.standby, self.current, self.previous, None
        self._retire(before)
        self._watched = 0
        return self.current

    def replace_rule(self, model: Model) -> None:
        """The same network with another rule; its engine stays."""
        self.current = model

    def passed(self) -> None:
        """A frame was judged without the engine failing."""
        self._watched = max(0, self._watched - 1)

    def watch(self) -> None:
        """Watch the one that judges, as after a swap."""
        self._watched = self._watch_frames

    @property
    def is_on_trial(self) -> bool:
        """Whether the one that judges has not yet judged as many frames as it is watched for."""
        return self._watched > 0

    @property
    def is_watched(self) -> bool:
        """Whether a failure now speaks against the swap."""
        return self.is_on_trial and self.previous is not None

    def _retire(self, model: Model | None) -> None:
        if model is not None:
            with self._lock:
                self._retired.append(model)

    def close_retired(self) -> None:
        """Close the engines that nobody needs any more; from the thread that judges, or where none does."""
        while True:
            with self._lock:
                if not self._retired:
                    return
                model = self._retired.popleft()
            kept = {id(each.engine) for each in (self.current, self.standby, self.previous) if each is not None}
            if id(model.engine) not in kept:
                model.engine.close()

    def close(self) -> None:
        """Close all."""
        for model in (self.current, self.standby, self.previous):
            self._retire(model)
        self.current = self.standby = self.previous = None
        self.close_retired()
