"""What was calibrated of a camera, as the line uses it: frames that it does not belong to are not judged by it.

    frame ── does the calibration fit it? ── is it a picture like the good ones? ── inspection
                  └ no: NOT_INSPECTED             └ no: an alarm; and what would be OK or REVIEW is NOT_INSPECTED

A network finds no defect where there is nothing to be seen, so an OK needs a picture that shows something.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from inspectd.calibrated import ImageCheck, ImageRecord, load_record
from inspectd.config import Camera
from inspectd.errors import ConfigError
from inspectd.frame import Frame
from inspectd.inspection import ImageHealth, Inspection, Verdict

__all__ = ["ImageWatch", "Optics", "load_optics"]

IN_A_ROW = 3
"""So many pictures in a row have to be bad, or good again, before an alarm says so."""
_log = logging.getLogger("inspectd.camera")


class Optics:
    """The calibrations of one camera; the judging thread's.

    Args:
        name: of the camera in the configuration.
        image: what good pictures look like; None where nobody knows.
        refuses: whether a part whose picture is none of those can be OK.
    """

    def __init__(self, name: str, *, image: ImageRecord | None, refuses: bool) -> None:
        self._name = name
        self._record = image
        self._check = None if image is None else ImageCheck.of(image)
        self._refuses = refuses
        self._fits: tuple[str, int, int] | None = None

    @classmethod
    def load(cls, name: str, camera: Camera) -> Optics | None:
        """The calibrations that a camera's settings name; None where they name none.

        Raises:
            ConfigError: one cannot be used.
        """
        if camera.image_health is None:
            return None
        return cls(name, image=load_record(camera.image_health, ImageRecord), refuses=camera.image_fault == "refuse")

    def hold_against(self, frame: Frame, serial: str) -> None:
        """Whether the calibrations belong to a frame.

        Args:
            frame: the frame.
            serial: of its camera, as that says itself; empty where it says none.

        Raises:
            ConfigError: they are of another camera, or of another resolution.
        """
        met = (serial, frame.width, frame.height)
        if met == self._fits or self._record is None:
            return
        doubts = self._record.check(serial=serial or None, width_px=frame.width, height_px=frame.height)
        for doubt in doubts:
            _log.warning("camera %r: %s", self._name, doubt)
        self._fits = met

    def look(self, frame: Frame) -> ImageHealth | None:
        """How good a picture is; None where nobody knows what good ones look like."""
        if self._check is None:
            return None
        numbers = self._check.measure(frame.pixels)
        return ImageHealth(numbers, self._check.faults(numbers))

    def conclude(self, inspection: Inspection, health: ImageHealth | None) -> Inspection:
        """The result of a part whose picture was looked at: a bad picture leaves an NG as it is, and nothing else."""
        if health is None:
            return inspection
        if not (health.faults and self._refuses and inspection.verdict in (Verdict.OK, Verdict.REVIEW)):
            return replace(inspection, image=health)
        return replace(
            inspection,
            verdict=Verdict.NOT_INSPECTED,
            defects=(),
            mask=None,
            reason=f"the picture is {'; '.join(health.faults)}",
            image=health,
        )


class ImageWatch:
    """Which cameras give bad pictures now."""

    def __init__(self) -> None:
        self._bad: dict[str, str] = {}
        self._rows: dict[str, tuple[bool, int]] = {}

    def note(self, camera: str, health: ImageHealth) -> None:
        """Take one picture into account."""
        is_bad = bool(health.faults)
        was_bad, row = self._rows.get(camera, (is_bad, 0))
        self._rows[camera] = is_bad, row + 1 if is_bad == was_bad else 1
        if self._rows[camera][1] < IN_A_ROW:
            return
        if is_bad:
            # One wording as long as it lasts: the numbers are another on each picture.
            self._bad.setdefault(camera, f"camera {camera!r}: pictures are {'; '.join(health.faults)}")
        else:
            self._bad.pop(camera, None)

    @property
    def bad(self) -> Mapping[str, str]:
        """What is the matter, by camera."""
        return self._bad


def load_optics(cameras: Mapping[str, Camera]) -> dict[str, Optics]:
    """The calibrations of all cameras that have any.

    Raises:
        ConfigError: some cannot be used; every fault, one a line.
    """
    found, faults = {}, []
    for name, camera in cameras.items():
        try:
            optics = Optics.load(name, camera)
        except ConfigError as error:  # noqa: PERF203 - all of them are told at once
            faults.append(f"cameras.{name}: {error}")
        else:
            if optics is not None:
                found[name] = optics
    if faults:
        raise ConfigError("\n".join(faults))
    return found
