"""What judges: the models of a station, the rule that they judge by, and how both are changed while it runs.

All of it is the line's thread, between two frames, but for what takes long: that is done beside it and posted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from inspectd.calibrated import Scale
from inspectd.calibrated.threshold import ThresholdRecord
from inspectd.config import Acceptance, Config
from inspectd.errors import BundleError, ConfigError, InspectdError, RequestError
from inspectd.inspection import ClassRule
from inspectd.wire import Severity

from .active_model import ActiveModel
from .alarms import Alarms
from .control import Outcome
from .engine import self_test
from .models import LoadedBundle, Model, Models, rule_for, thresholds_of
from .state_file import StateFile

__all__ = ["Answering", "Judging", "OpenBundle"]

Answering = Callable[[Outcome], None]
OpenBundle = Callable[[Path, Config], LoadedBundle]
_DISK_S = 5.0
"""Whoever changes the model waits so long for the disk; below the patience of clients."""
_log = logging.getLogger("inspectd.station")


@dataclass(frozen=True, slots=True, eq=False)
class _Wait:
    """Somebody who waits until the disk has answered; told why it is not waited for any longer, or nothing."""

    since_ns: int
    told: Callable[[str], None]


class Judging:
    """What judges.

    Args:
        config: the configuration.
        loaded: what judges at the start; or why nothing can.
        open_bundle: opens a bundle by its path, as the configuration says.
        active: which model was activated.
        scales: what measures each camera's pictures in mm; None where it is not known.
        alarms: of the station.
        post: has something done in the line's thread; from any thread.
        clock: ns, monotonic.

    Attributes:
        models: the models.
        unusable: why nothing can judge; None where something can.
        prove: raises an InspectdError for a model that must not judge; from the thread that loads it.
    """

    def __init__(
        self,
        config: Config,
        loaded: LoadedBundle | InspectdError,
        *,
        open_bundle: OpenBundle,
        active: ActiveModel,
        scales: Mapping[str, Scale | None],
        alarms: Alarms,
        post: Callable[[Callable[[], None]], None],
        clock: Callable[[], int],
    ) -> None:
        self._config = config
        self._open_bundle = open_bundle
        self._active = active
        self._alarms = alarms
        self._post = post
        self._clock = clock
        self._base = config.acceptance
        self._thresholds: ThresholdRecord | None = None
        self._set: dict[str, ClassRule] = {}
        self._scales = scales
        self._loading = False
        self._file = StateFile(
            active.write, name="model", written=active.written, answered=lambda: self._post(self._keep)
        )
        self._waits: list[_Wait] = []
        self._call_off: Callable[[str], None] | None = None
        self.prove: Callable[[Model], None] = lambda _model: None
        self.unusable = loaded if isinstance(loaded, InspectdError) else None
        model = None
        if isinstance(loaded, LoadedBundle):
            try:
                self._thresholds = thresholds_of(self._base)
                model = self._model(loaded)
            except ConfigError as error:
                loaded.engine.close()
                self.unusable = error
        self.models = Models(model, watch_frames=config.model.watch_frames)

    # From the start to the end

    def take_up(self) -> None:
        """Begin with the model that was activated last, or say why not."""
        if self._active.why:
            self._alarms.set("model.rolled_back", Severity.ERROR, self._active.why)
        if self._active.is_on_trial:
            self.models.watch()
        self._keep()

    def look(self) -> None:
        """Several times a second: how the model that judges is."""
        # One that has not begun to judge has passed nothing.
        if self._call_off is None and self._active.is_on_trial and not self.models.is_on_trial:
            self._active.passed()
        self._file.keep(self._active.wanted)  # also what the disk has refused
        self._keep()
        model = self.models.current
        why = "" if model is None else model.engine.failure or ""
        told = f"the engine failed: {why}; nothing is inspected until the start" if why else ""
        self._alarms.show("model.engine", Severity.ERROR, told)
        self._alarms.show("model.fallback", Severity.WARNING, self.fallback)
        self._alarms.show("model.thresholds", Severity.WARNING, self._unpromised)

    def close(self, *, in_order: bool) -> None:
        """Close all; `in_order` if the station was told to end, and nothing is the matter."""
        if self._call_off is not None:
            self._call_off("the station ends")
        if in_order:
            self._active.pause()
        is_kept = self._file.close(self._active.wanted)
        why = "" if is_kept else self._file.failure or "the disk does not answer"
        self._tell_not_kept(why)
        self._answer_waits(lambda _wait: why)
        self.models.close()

    @property
    def fallback(self) -> str:
        """Why the engine is not the one that is configured; empty where it is."""
        model = self.models.current
        return "" if model is None else model.fallback

    @property
    def _unpromised(self) -> str:
        """Why what was promised of the thresholds does not hold now; empty where it does, or nothing was."""
        model, record = self.models.current, self._thresholds
        if model is None or record is None:
            return ""
        try:
            record.hold_against(model.bundle.digest, model.rule)
        except ConfigError as error:
            return str(error)
        return record.doubts(model.engine.name, self._scales)

    def usable(self) -> Model:
        """The model that judges.

        Raises:
            InspectdError: why there is none.
        """
        if self.models.current is None:
            raise self.unusable or BundleError("the station has no model")
        return self.models.current

    def open_again(self) -> LoadedBundle:
        """Open what should judge; to build an engine takes minutes."""
        return self._open_bundle(Path(self._active.bundle or self._config.model.bundle), self._config)

    def use(self, loaded: LoadedBundle) -> None:
        """Judge by what `open_again` has opened.

        Raises:
            ConfigError: the rule does not fit it.
        """
        self.models.current = self._model(loaded)
        self.unusable = None

    def _model(self, loaded: LoadedBundle) -> Model:
        """With the rule that holds now: the configuration's, and what was set of the classes that it has.

        Raises:
            ConfigError: the rule does not fit it, or was calibrated for another.
        """
        if self._thresholds is not None:
            # Scores of another network may let everything pass. What a client sets is told by an alarm instead.
            self._thresholds.hold_against(loaded.bundle.digest, rule_for(loaded.bundle, self._base))
        known = loaded.bundle.card.classes
        ours = {name: rule for name, rule in self._set.items() if name in known}
        acceptance = self._base.model_copy(update={"classes": {**self._base.classes, **ours}})
        return Model.make(loaded, acceptance, scales=self._scales, clock=self._clock)

    def _again(self, model: Model | None) -> Model | None:
        """A model with the rule that holds now.

        Raises:
            ConfigError: that does not fit it.
        """
        return None if model is None else self._model_again(model)

    def _model_again(self, model: Model) -> Model:
        return self._model(LoadedBundle(model.bundle, model.engine, model.fallback))

    def _current(self, op: str) -> Model:
        if self.models.current is None:
            raise RequestError(f"{op}: the station has no model", code="wrong_state")
        return self.models.current

    # The rule

    def set_threshold(self, args: dict[str, Any]) -> dict[str, Any]:
        """Change the rule of one class; the rule as it is then.

        Raises:
            RequestError: no such class, or no such rule.
        """
        model = self._current("set_threshold")
        name = args.pop("class_name")
        if name not in model.bundle.card.classes:
            raise RequestError(
                f"set_threshold: no class {name!r}; there are {', '.join(model.bundle.card.classes)}",
                code="not_found",
                field="class",
            )
        changes = {key: value for key, value in args.items() if value is not None}
        # Of what holds now only what somebody has set: a score of the bundle's is no score for the next bundle.
        own = self._set.get(name) or self._base.classes.get(name) or ClassRule()
        try:
            changed = ClassRule.model_validate({**own.model_dump(exclude_unset=True), **changes})
        except ValidationError as error:
            raise RequestError(f"set_threshold: {error.errors()[0]['msg']}", code="bad_request") from None
        before, self._set = self._set, {**self._set, name: changed}
        try:
            self._renew_rules()
        except ConfigError as error:
            self._set = before
            raise RequestError(f"set_threshold: {error}", code="bad_request") from error
        return {name: self._current("set_threshold").rule.rule(name).model_dump()}

    def judge_by(self, acceptance: Acceptance) -> list[str]:
        """Judge by another rule of the configuration from the next frame; the classes whose set rules that undoes.

        Raises:
            RequestError: it does not fit the model that judges, or what it was calibrated by.
        """
        before = self._base, self._set, self._thresholds
        try:
            self._base, self._set, self._thresholds = acceptance, {}, thresholds_of(acceptance)
            self._renew_rules()
        except ConfigError as error:
            self._base, self._set, self._thresholds = before
            raise RequestError(str(error)) from error
        return sorted(before[1])

    def _renew_rules(self) -> None:
        models = self.models
        models.current = self._again(models.current)
        # The one that may judge again too, so that there is no frame between a roll-back and its rule.
        with contextlib.suppress(ConfigError):
            models.previous = self._again(models.previous)

    # Another model

    def load(self, name: str, answer: Answering) -> None:
        """Open a bundle of the models' folder beside the one that judges.

        Raises:
            RequestError: one is being loaded.
        """
        if self._loading:
            raise RequestError("load_model: another model is being loaded", code="busy")
        self._loading = True

        def load() -> None:
            outcome = self._tested(name)
            self._post(lambda: loaded(outcome))

        def loaded(outcome: LoadedBundle | InspectdError) -> None:
            self._loading = False
            if isinstance(outcome, InspectdError):
                answer(outcome if isinstance(outcome, RequestError) else RequestError(f"load_model: {outcome}"))
                return
            if self._call_off is not None:
                # It would take the place of the one that waits there to be activated.
                self._wait(lambda _why: loaded(outcome))
                return
            try:
                model = self._model(outcome)
            except ConfigError as error:
                outcome.engine.close()
                answer(RequestError(f"load_model: {error}"))
                return
            self.models.load(model)
            answer(model.named)

        threading.Thread(target=load, name="load-model", daemon=True).start()

    def _tested(self, name: str) -> LoadedBundle | InspectdError:
        try:
            loaded = self._open_bundle(self._find(name), self._config)
            try:
                self_test(loaded.engine, loaded.bundle)
                # By the rule of now; by one that is set later it is tested once it judges.
                self.prove(self._model(loaded))
            except InspectdError:
                loaded.engine.close()
                raise
        except InspectdError as error:
            return error
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a bundle, the line goes on with its own
            return BundleError(f"{type(error).__name__}: {error}")
        return loaded

    def _find(self, name: str) -> Path:
        folder = self._folder()
        path = folder / name
        if os.path.exists(path):  # noqa: PTH110 - it says False of what may not be looked at, and raises nothing
            return path
        found = (
            ", ".join(sorted(each.name for each in folder.iterdir()))
            if os.access(folder, os.R_OK | os.X_OK)
            else "it cannot be read"
        )
        raise RequestError(f"load_model: no {name!r} in {folder}: {found}", code="not_found", field="bundle")

    def _folder(self) -> Path:
        configured = self._config.model
        if configured.models_dir is not None:
            return configured.models_dir
        if configured.bundle == "demo":
            return self._config.station.state_dir / "models"
        return Path(configured.bundle).parent

    def activate(self, answer: Answering) -> None:
        """Let the one that was loaded judge, on trial, from the next frame after the disk knows of it.

        For that frame may be the end of the process. A disk that refuses it changes nothing of that, and is told by an
        alarm; one that does not answer leaves the one before at work.

        Raises:
            RequestError: none was loaded, or the rule does not fit it.
        """
        self._refuse_meanwhile("activate")
        before, wanted = self.models.current, self._active.wanted
        try:
            self.models.standby = self._model_again(self.models.loaded)
        except ConfigError as error:
            raise RequestError(f"activate: {error}") from error
        path = self.models.loaded.bundle.path

        def call_off(why: str) -> None:
            self._call_off = None
            self._active.take_back(wanted)
            told = f"activate: not done, {why}; the model of before goes on judging"
            answer(RequestError(told, code="failed"))

        def told(why: str) -> None:
            if self._call_off is not call_off:
                return  # it was called off
            if why:
                call_off(why)
                return
            try:
                # The rule may have been changed since.
                self.models.standby = self._model_again(self.models.loaded)
            except ConfigError as error:
                call_off(str(error))
                return
            self._call_off = None
            answer(self._swapped(self.models.activate()))

        self._call_off = call_off
        self._active.activate(path, None if before is None else before.bundle.path)
        self._wait(told)
        self._keep()

    def roll_back(self, answer: Answering) -> None:
        """Let the one before judge again from the next frame; answered once the disk knows of it.

        Raises:
            RequestError: there is none.
        """
        self._refuse_meanwhile("rollback")
        model = self.models.roll_back()
        named = self._swapped(model)

        def told(why: str) -> None:
            failed = f"rollback: {model.bundle.card.name!r} judges again, but after a restart another one may: {why}"
            answer(RequestError(failed, code="failed") if why else named)

        self._wait(told)
        self._went_back(model)

    def _refuse_meanwhile(self, op: str) -> None:
        if self._call_off is not None:
            raise RequestError(f"{op}: a model is being activated, and waits for the disk", code="busy")

    def note_failed_swap(self, why: str) -> None:
        """The one that was activated has failed, and the one before judges again."""
        model = self.models.current
        name = "" if model is None else model.bundle.card.name
        self._alarms.set(
            "model.rolled_back",
            Severity.ERROR,
            f"the model that was activated failed ({why}); {name!r}, the one before, judges again",
        )
        if model is not None:
            self._went_back(model)

    def _went_back(self, model: Model) -> None:
        if self._call_off is not None:
            # What was loaded has given way to the model that failed.
            self._call_off("the model that judged has failed meanwhile; load it again")
        self._active.roll_back(model.bundle.path)
        if self._active.is_on_trial:
            self.models.watch()
        self._keep()

    def _swapped(self, model: Model) -> dict[str, Any]:
        self.unusable = None
        for code in ("model.rolled_back", "model.self_test"):
            self._alarms.clear(code)
        _log.warning("model %r (%s) judges from now on", model.bundle.card.name, model.bundle.digest[:12])
        return model.named

    def _keep(self) -> None:
        """Bring what should judge after a restart to the disk, and tell who waits for that."""
        is_settled = self._file.is_settled(self._active.wanted)
        if not is_settled:
            self._file.keep(self._active.wanted)
        self._tell_not_kept(self._file.failure)
        if is_settled:
            self._answer_waits(lambda _wait: "")
        else:
            latest_ns = self._clock() - round(_DISK_S * 1e9)
            self._answer_waits(lambda wait: "the disk does not answer" if wait.since_ns < latest_ns else None)

    def _tell_not_kept(self, why: str) -> None:
        told = f"which model judges could not be kept ({why}); after a restart it may be another one" if why else ""
        self._alarms.show("model.not_kept", Severity.WARNING, told)

    def _wait(self, told: Callable[[str], None]) -> None:
        self._waits.append(_Wait(self._clock(), told))

    def _answer_waits(self, what: Callable[[_Wait], str | None]) -> None:
        """Tell each that waits for the disk; those for whom there is nothing to tell go on waiting."""
        waits, self._waits = self._waits, []
        for wait in waits:
            if (told := what(wait)) is None:
                self._waits.append(wait)
            else:
                wait.told(told)
