"""One frame, from pixels to verdict."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

import numpy as np

from inspectd.bundle import Bundle
from inspectd.calibrated import Scale
from inspectd.defect import find_defects
from inspectd.errors import InspectdError
from inspectd.frame import Frame
from inspectd.inspection import AcceptanceRule, Inspection, Timings, Verdict
from inspectd.mask import Mask

from .engine import Engine

__all__ = ["Inspector"]

_log = logging.getLogger("inspectd.line")


class Inspector:
    """Judges frames with one bundle and one rule; whatever goes wrong gives NOT_INSPECTED.

    Args:
        bundle: the bundle.
        engine: what runs it.
        rule: the rule, with a threshold for each class (`inspectd.config.effective_rule`).
        scales: what measures each camera's pictures in mm; None where it is not known.
        clock: ns, monotonic.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        rule: AcceptanceRule,
        *,
        scales: Mapping[str, Scale | None],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._bundle = bundle
        self._engine = engine
        self._rule = rule
        self._thresholds = np.asarray(rule.thresholds(bundle.class_map), np.float32)
        self._scales = dict(scales)
        self._clock = clock

    def inspect(self, frame: Frame, *, begun_ns: int | None = None) -> Inspection:
        """The verdict on a frame. Raises nothing.

        Args:
            frame: the frame.
            begun_ns: when work on it began, where something was done before; by the clock.
        """
        try:
            return self._inspect(frame, self._clock() if begun_ns is None else begun_ns)
        except InspectdError as error:
            return self.refuse(frame, str(error) or type(error).__name__)
        except Exception as error:  # noqa: BLE001 - see below
            # Whatever it is, the part was not inspected, and the next one may be.
            _log.exception("camera %r: frame %d: unexpected failure", frame.camera, frame.frame_id)
            return self.refuse(frame, f"{type(error).__name__}: {error}")

    def refuse(self, frame: Frame, reason: str) -> Inspection:
        """The verdict on a frame that could not be inspected."""
        return Inspection(
            frame=frame,
            verdict=Verdict.NOT_INSPECTED,
            defects=(),
            mask=None,
            bundle_digest=self._bundle.digest,
            reason=reason,
        )

    def _inspect(self, frame: Frame, started: int) -> Inspection:
        preprocess, classes = self._bundle.card.preprocess, self._bundle.class_map
        picture = preprocess.image(frame.pixels)
        prepared = self._clock()
        result = self._engine.infer(picture[None], self._thresholds)
        inferred = self._clock()
        letterbox = preprocess.letterbox((frame.height, frame.width))
        mask = Mask(letterbox.restore(result.labels[0]), classes)
        confidence = letterbox.restore(result.confidence[0])
        found = find_defects(mask, confidence, scale=self._scales[frame.camera])
        defects = self._rule.relevant(found)
        verdict = self._rule.judge(defects)
        return Inspection(
            frame=frame,
            verdict=verdict,
            defects=defects,
            mask=mask,
            bundle_digest=self._bundle.digest,
            timings=Timings(
                wait_ms=max(0, started - frame.received_ns) / 1e6,
                pre_ms=(prepared - started) / 1e6,
                infer_ms=(inferred - prepared) / 1e6,
                post_ms=(self._clock() - inferred) / 1e6,
            ),
        )
