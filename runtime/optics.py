"""What was calibrated of a camera, as the line uses it: frames that it does not belong to are not judged by it.

    frame ── do the calibrations fit it? ── flat field ── is it a picture like the good ones? ── inspection, in mm
                  └ no: NOT_INSPECTED                        └ no: an alarm; what would be OK or REVIEW is NOT_INSPECTED

The flat field comes before all else: the look at the picture, the network, previews and the archive have the corrected
frame. A network finds no defect where there is nothing to be seen, so an OK needs a picture that shows something.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from inspectd.calibrated import (
    EvenScale,
    FlatField,
    ImageCheck,
    ImageRecord,
    Plane,
    Record,
    Scale,
    ScaleRecord,
    load_flat_field,
    load_record,
)
from inspectd.config import Camera
from inspectd.errors import ConfigError
from inspectd.frame import Frame
from inspectd.inspection import ImageHealth, Inspection, Verdict

__all__ = ["ImageWatch", "Optics", "load_optics", "scales_of"]

IN_A_ROW = 3
"""So many pictures in a row have to be bad, or good again, before an alarm says so."""
_Loaded = TypeVar("_Loaded")
_log = logging.getLogger("inspectd.camera")


class Optics:
    """The calibrations of one camera; the judging thread's, but for what it tells.

    Args:
        name: of the camera in the configuration.
        flat_field: what its frames are corrected by; None for nothing.
        scale: how large its pixels are; None where that is not calibrated.
        scale_mm_per_px: side of a pixel where one figure has to do for all of them, mm.
        image: what good pictures look like; None where nobody knows.
        refuses: whether a part whose picture is none of those can be OK.

    Attributes:
        records: the calibrations.
        scale: what measures its pictures in mm; None where the scale is not known.
        scale_mm_per_px: side of a mean pixel, mm; None where it is not known.
        misfit: why the latest frame could not be judged by them; empty where it could. May be read by any thread.

    Raises:
        ConfigError: the scale gives some pixel no size.
    """

    def __init__(
        self,
        name: str,
        *,
        flat_field: FlatField | None = None,
        scale: ScaleRecord | None = None,
        scale_mm_per_px: float | None = None,
        image: ImageRecord | None = None,
        refuses: bool = True,
    ) -> None:
        self._name = name
        self._flat_field = flat_field
        self._check = None if image is None else ImageCheck.of(image)
        self._refuses = refuses
        self._fits: tuple[str, int, int, int] | None = None
        found = (None if flat_field is None else flat_field.record, scale, image)
        self.records: tuple[Record, ...] = tuple(record for record in found if record is not None)
        self._used = {record.kind: record.sha256 for record in self.records}
        self.scale: Scale | None = None if scale_mm_per_px is None else EvenScale(scale_mm_per_px)
        self.scale_mm_per_px = scale_mm_per_px
        if scale is not None:
            self.scale, self.scale_mm_per_px = _plane(scale), scale.scale_mm_per_px
        self.misfit = ""

    @classmethod
    def load(cls, name: str, camera: Camera) -> Optics:
        """The calibrations that a camera's settings name.

        Raises:
            ConfigError: some cannot be used; every fault, one a line, with its setting.
        """
        faults: list[str] = []

        def loaded(setting: str, path: Path | None, load: Callable[[Path], _Loaded]) -> _Loaded | None:
            try:
                return None if path is None else load(path)
            except ConfigError as error:
                faults.append(f"cameras.{name}.{setting}: {error}")
                return None

        flat_field = loaded("flat_field", camera.flat_field, load_flat_field)
        scale = loaded("scale", camera.scale, lambda path: load_record(path, ScaleRecord))
        image = loaded("image_health", camera.image_health, lambda path: load_record(path, ImageRecord))
        try:
            optics = cls(
                name,
                flat_field=flat_field,
                scale=scale,
                scale_mm_per_px=camera.scale_mm_per_px,
                image=image,
                refuses=camera.image_fault == "refuse",
            )
        except ConfigError as error:
            faults.append(f"cameras.{name}.scale: {camera.scale}: {error}")
        if faults:
            raise ConfigError("\n".join(faults))
        return optics

    def prepare(self, frame: Frame, *, is_corrected: bool = False) -> tuple[Frame, ImageHealth | None]:
        """What comes before the inspection of a frame.

        Args:
            frame: as it came from its camera.
            is_corrected: it is one that was corrected then, and must not be corrected twice.

        Returns:
            The frame to inspect, and how good its picture is; None where nobody knows what good ones look like.

        Raises:
            ConfigError: the calibrations are of another camera, of another resolution, or of grey and not of colour.
        """
        try:
            self._hold_against(frame)
            if self._flat_field is not None and not is_corrected:
                frame = replace(frame, pixels=self._flat_field.apply(frame.pixels))
        except ConfigError as error:
            self.misfit = str(error)
            raise
        self.misfit = ""
        if self._check is None:
            return frame, None
        numbers = self._check.measure(frame.pixels)
        return frame, ImageHealth(numbers, self._check.faults(numbers))

    def conclude(self, inspection: Inspection, health: ImageHealth | None) -> Inspection:
        """The result of a part that was prepared: a bad picture leaves an NG as it is, and nothing else."""
        inspection = replace(inspection, image=health, calibration=self._used)
        if health is None or not (health.faults and self._refuses):
            return inspection
        if inspection.verdict not in (Verdict.OK, Verdict.REVIEW):
            return inspection
        return replace(
            inspection,
            verdict=Verdict.NOT_INSPECTED,
            defects=(),
            mask=None,
            reason=f"the picture is {'; '.join(health.faults)}",
        )

    def words(self) -> str:
        """What there is, for people; empty where nothing is."""
        return ", ".join(
            f"{record.kind} of {record.made:%Y-%m-%d} ({self._used[record.kind][:12]})" for record in self.records
        )

    def _hold_against(self, frame: Frame) -> None:
        channels = frame.pixels.shape[2]
        met = (frame.serial, frame.width, frame.height, channels)
        if met == self._fits:
            return
        # All of them first: what does not fit is met again with each frame, and doubts are told once.
        doubts = [
            doubt
            for record in self.records
            for doubt in record.check(
                serial=frame.serial or None, width_px=frame.width, height_px=frame.height, channels=channels
            )
        ]
        for doubt in doubts:
            _log.warning("camera %r: %s", self._name, doubt)
        self._fits = met


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
    """The calibrations of all cameras; one without any has empty ones.

    Raises:
        ConfigError: some cannot be used; every fault, one a line.
    """
    found, faults = {}, []
    for name, camera in cameras.items():
        try:
            found[name] = Optics.load(name, camera)
        except ConfigError as error:  # noqa: PERF203 - all of them are told at once
            faults.append(str(error))
    if faults:
        raise ConfigError("\n".join(faults))
    return found


def scales_of(optics: Mapping[str, Optics]) -> dict[str, Scale | None]:
    """What measures in mm, by camera."""
    return {name: each.scale for name, each in optics.items()}


def _plane(scale: ScaleRecord) -> Plane:
    """The plane, with the sizes of its pixels: they take a second where a picture is large, and no part has to wait.

    Raises:
        ConfigError: some pixel has none.
    """
    try:
        plane = scale.plane()
        _ = plane.pixel_area_mm2
    except ValueError as error:
        raise ConfigError(f"gives some pixel no size ({error}); make it anew by {scale.made_by}") from error
    return plane
