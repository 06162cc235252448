"""How good a picture is, as a few numbers that a line can afford: focus, exposure, light, place of the part.

A network judges whatever it is given: a part behind a covered lens looks as free of defects as a good one. What is
asked here of each frame is whether it is a picture like those that the station was set up with.

focus        J. F. Brenner et al., "An automated microscope for cytologic research" (1976): the mean square of the
             difference of pixels two apart, here in both directions, over the variance of the picture, so that
             brightness and contrast drop out
shift        where the middle of the picture fits best into the mean of good frames, by normalised cross-correlation:
             J. P. Lewis, "Fast normalized cross-correlation" (1995). Phase correlation would follow the fine structure,
             which on wood and stone is another one on each part
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from inspectd.picture import grey

from .record import Part, Record

__all__ = [
    "CELLS",
    "NUMBERS",
    "THUMB",
    "ImageCheck",
    "ImageLimit",
    "ImageNumbers",
    "ImageRecord",
    "encode_reference",
    "thumbnail",
]

THUMB = 64
"""Side of the small picture that light and place are told from, px."""
_REACH = 8
"""So far is the middle of it looked for in each direction, px: an eighth of the picture."""
_FLAT = 0.5
"""A small picture whose grey values deviate by less shows nothing that could be looked for."""
CELLS = 8
"""So many cells a side light is told for."""
_STEP = 2
"""Of so many rows one is looked at: the ones between say little more, and cost as much."""
_SPARSE = 4
"""And of those, for its exposure."""
_CLIPPED, _BLACK = 255, 2


@dataclass(frozen=True, slots=True)
class ImageNumbers:
    """How good one picture is.

    Attributes:
        focus: mean square of differences of pixels two apart over the variance; higher is sharper.
        brightness: mean grey value, 0 to 255.
        contrast: standard deviation of the grey values.
        saturated: share of values at 255, of the channel that has most.
        black: share of grey values of at most 2.
        unevenness: highest departure of a cell's share of the light from the good frames' mean, as a share of that.
        shift: length of the displacement against the good frames' mean, as a share of the picture's side; 0 where
            nothing is to be seen.
        likeness: how well it fits there, -1 to 1; 1 for the good frames' mean itself, 0 where nothing is to be seen.
    """

    focus: float
    brightness: float
    contrast: float
    saturated: float
    black: float
    unevenness: float
    shift: float
    likeness: float


NUMBERS = tuple(each.name for each in fields(ImageNumbers))
"""Their names."""
_WORDS: Mapping[str, tuple[str, str]] = {
    "focus": ("blurred, or nearly empty", "sharper or noisier than any good one"),
    "brightness": ("too dark", "too bright"),
    "contrast": ("without contrast", "of too high contrast"),
    "saturated": ("", "saturated"),
    "black": ("", "black in too large a part"),
    "unevenness": ("", "lit unevenly, or partly covered"),
    "shift": ("", "displaced"),
    "likeness": ("unlike the good ones", ""),
}
"""What a picture is whose number is below or above its limit."""


class ImageLimit(Part):
    """Where a number of a good picture lies; None for no limit."""

    low: float | None = None
    """The lowest that is good."""
    high: float | None = None
    """The highest that is good."""

    @model_validator(mode="after")
    def _in_order(self) -> ImageLimit:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


class ImageRecord(Record):
    """What good frames of a station look like."""

    made_by = "`inspectd-calibrate image`"

    kind: Literal["image"] = "image"
    frames: int = Field(ge=1)
    """Good frames that it was learned from."""
    margin: float = Field(ge=0)
    """The limits lie so much further from the median than the farthest good frame: 0.5 is half as far again."""
    limits: dict[str, ImageLimit]
    """By the names of the numbers."""
    reference: str
    """Mean of the good frames' small pictures: PNG, grey, base64."""
    found: dict[str, float]
    """Share of the good frames in which each simulated fault is found."""

    @field_validator("limits")
    @classmethod
    def _known(cls, limits: dict[str, ImageLimit]) -> dict[str, ImageLimit]:
        if set(limits) != set(NUMBERS):
            raise ValueError(f"expected limits for {', '.join(NUMBERS)}")
        return limits

    @field_validator("reference")
    @classmethod
    def _readable(cls, reference: str) -> str:
        _decode(reference)
        return reference


class ImageCheck:
    """Looks at frames; for one thread.

    Args:
        reference: float32 [THUMB, THUMB], mean of the good frames' small pictures.
        limits: by the names of the numbers.
    """

    def __init__(self, reference: NDArray[np.float32], limits: Mapping[str, ImageLimit]) -> None:
        self._reference = reference
        self._light = _light(reference)
        self._limits = dict(limits)
        self._room: dict[tuple[int, ...], NDArray[np.uint8]] = {}

    @classmethod
    def of(cls, record: ImageRecord) -> ImageCheck:
        """By a calibration."""
        return cls(_decode(record.reference), record.limits)

    def measure(self, pixels: NDArray[np.uint8]) -> ImageNumbers:
        """The numbers of one picture: uint8 [H, W, 1 or 3]."""
        values = grey(pixels[::_STEP])
        small = _small(values)
        mean, deviation = (float(each[0, 0]) for each in cv2.meanStdDev(values))
        light = _light(small)
        shift, likeness = self._place(small)
        rows = pixels[:: _SPARSE * _STEP]
        return ImageNumbers(
            focus=self._brenner(values) / max(deviation**2, 1.0),
            brightness=mean,
            contrast=deviation,
            saturated=max(_share(rows, channel, _CLIPPED, 256) for channel in range(pixels.shape[2])),
            black=_share(values[::_SPARSE, :, None], 0, 0, _BLACK + 1),
            unevenness=float(np.abs(light / self._light - 1).max()),
            shift=shift,
            likeness=likeness,
        )

    def _place(self, small: NDArray[np.float32]) -> tuple[float, float]:
        """Shift and likeness."""
        middle = small[_REACH:-_REACH, _REACH:-_REACH]
        if float(middle.std()) < _FLAT:
            return 0.0, 0.0
        fits = np.asarray(cv2.matchTemplate(self._reference, middle, cv2.TM_CCOEFF_NORMED), np.float32)
        row, column = (int(each) for each in np.unravel_index(int(fits.argmax()), fits.shape))
        down = row + _vertex(fits[max(0, row - 1) : row + 2, column]) - _REACH
        across = column + _vertex(fits[row, max(0, column - 1) : column + 2]) - _REACH
        return float(np.hypot(down, across)) / THUMB, float(fits[row, column])

    def _brenner(self, values: NDArray[np.uint8]) -> float:
        """Mean square of the differences of pixels two apart, along rows and along columns of every second row."""
        total, count = 0.0, 0
        for first, second in ((values[:, :-2], values[:, 2:]), (values[:-1], values[1:])):
            if first.size:
                # Into the same memory each time: to have the system give and take some is half of the cost.
                if first.shape not in self._room:
                    self._room[first.shape] = np.empty(first.shape, np.uint8)
                total += cv2.norm(cv2.absdiff(first, second, self._room[first.shape]), cv2.NORM_L2SQR)
                count += first.size
        return total / max(count, 1)

    def faults(self, numbers: ImageNumbers) -> tuple[str, ...]:
        """What is the matter with a picture, in words with the number and its limit; empty if nothing is."""
        told = []
        for name, limit in self._limits.items():
            value: float = getattr(numbers, name)
            below, above = _WORDS[name]
            if limit.low is not None and value < limit.low:
                told.append(f"{below} ({name} {value:.4g}, good from {limit.low:.4g})")
            elif limit.high is not None and value > limit.high:
                told.append(f"{above} ({name} {value:.4g}, good up to {limit.high:.4g})")
        return tuple(told)


def thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The small grey picture of one: uint8 [H, W, 1 or 3] -> float32 [THUMB, THUMB]."""
    return _small(grey(pixels[::_STEP]))


def _small(values: NDArray[np.uint8]) -> NDArray[np.float32]:
    height, width = values.shape
    down, across = max(1, height // THUMB), max(1, width // THUMB)
    if max(down, across) > 1:
        # By whole factors first: area averaging by any other takes six times as long.
        height, width = height // down, width // across
        whole = values[: height * down, : width * across]
        values = np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.resize(values, (THUMB, THUMB), interpolation=cv2.INTER_LINEAR), np.float32)


def encode_reference(reference: NDArray[np.float32]) -> str:
    """As a record holds it."""
    _, data = cv2.imencode(".png", np.clip(np.rint(reference), 0, 255).astype(np.uint8))
    return base64.b64encode(data.tobytes()).decode()


def _decode(reference: str) -> NDArray[np.float32]:
    try:
        data = np.frombuffer(base64.b64decode(reference, validate=True), np.uint8)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"reference: not base64 ({error})") from None
    picture = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if data.size else None
    if picture is None or picture.shape != (THUMB, THUMB):
        raise ValueError(f"reference: expected a picture of {THUMB} by {THUMB} px")
    return picture.astype(np.float32)


def _share(pixels: NDArray[np.uint8], channel: int, low: int, below: int) -> float:
    """Share of a channel's values from `low` on and below `below`."""
    counts = cv2.calcHist([pixels], [channel], None, [256], [0, 256])
    return float(counts[low:below].sum() / (pixels.shape[0] * pixels.shape[1]))


def _vertex(values: NDArray[np.float32]) -> float:
    """Where the parabola through three values, the highest in the middle, has its vertex; 0 at a border."""
    if len(values) < 3 or (bend := float(values[0] - 2 * values[1] + values[2])) == 0:
        return 0.0
    return float(values[0] - values[2]) / (2 * bend)


def _light(small: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each cell's share of the light, 1 on average: float32 [CELLS, CELLS]."""
    cells = np.asarray(cv2.resize(small, (CELLS, CELLS), interpolation=cv2.INTER_AREA), np.float32) + 1.0
    return cells / float(cells.mean())
