"""Flat field: every pixel's own offset and gain, and the pixels that are of no use.

    corrected = (seen - offset) * gain

One file holds the record and the arrays, so that they cannot be mixed up. Training and line apply it by the same
`FlatField.apply`; it looks at no picture's values, so that a dark part stays dark.

Source: EMVA Standard 1288, release 4.0, section 8 (offset and gain from dark and bright frames).
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import ClassVar, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from inspectd.durable import ZIP_DAMAGE
from inspectd.errors import ConfigError

from .record import Record, parse_record

__all__ = ["GAIN_UNIT", "OFFSET_UNIT", "FlatField", "FlatFieldRecord", "arrays_sha256", "load_flat_field"]

GAIN_UNIT = 1 / 4096
"""Gains are stored as whole numbers of this: 0.06 of a grey value at 255, up to a gain of 16."""
OFFSET_UNIT = 1 / 256
"""Offsets are stored as whole numbers of this, in grey values."""
_ARRAYS = ("gain", "offset", "defects")
# AttributeError and TypeError: np.load gives an array for a lone .npy, and bytes for what is no array in a .npz.
_ZIP = b"PK"
"""What an .npz begins with."""
_DAMAGE = (*ZIP_DAMAGE, AttributeError, TypeError)


class FlatFieldRecord(Record):
    """What `inspectd-calibrate flat-field` found out, beside the arrays."""

    made_by: ClassVar[str] = "inspectd-calibrate flat-field"

    kind: Literal["flat_field"] = "flat_field"
    width_px: int = Field(ge=1)
    """Width of the camera's pictures."""
    height_px: int = Field(ge=1)
    """Height of the camera's pictures."""
    channels: Literal[1, 3]
    """1 for grey, 3 for RGB."""
    flat_frames: int = Field(ge=1)
    """Pictures of the bright target."""
    dark_frames: int = Field(ge=0)
    """Pictures without light; 0 where none were taken, and all offsets are 0."""
    mean_grey: float = Field(ge=0, le=255)
    """Of the bright target."""
    noise_grey: float = Field(ge=0)
    """Standard deviation of a pixel from frame to frame, median over the picture, grey values."""
    shading_before: float = Field(ge=0, le=1)
    """By how much the darkest part of the target was darker than the brightest, as a share; vignetting and light."""
    shading_after: float = Field(ge=0, le=1)
    """The same after the correction, on frames that it was not made from."""
    pattern_before: float = Field(ge=0)
    """Standard deviation of the pixels' own gains, as a share (PRNU)."""
    pattern_kept: float = Field(ge=0, le=1)
    """Share of each pixel's own deviation that is corrected; the rest would be noise of the calibration."""
    gain_min: float = Field(gt=0)
    """The smallest gain."""
    gain_max: float = Field(gt=0)
    """The largest gain."""
    hot_pixels: int = Field(ge=0)
    """Pixels that are bright without light."""
    dead_pixels: int = Field(ge=0)
    """Pixels that do not answer to light as their neighbours do."""
    arrays_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Digest of gain, offset and defects."""


class FlatField:
    """A correction, ready to be applied.

    Attributes:
        record: where it comes from.
        gain: uint16 [H, W, C], in `GAIN_UNIT`.
        offset: uint16 [H, W, C], in `OFFSET_UNIT`.
        defects: int32 [K, 2], (row, column) of the pixels that take their neighbours' median.

    Raises:
        ValueError: arrays of other types or sizes than the record says, or a defect outside the picture.
    """

    def __init__(
        self,
        record: FlatFieldRecord,
        gain: NDArray[np.uint16],
        offset: NDArray[np.uint16],
        defects: NDArray[np.int32],
    ) -> None:
        self.record, self.gain, self.offset, self.defects = record, gain, offset, defects
        self.shape = (record.height_px, record.width_px, record.channels)
        for name, array in (("gain", gain), ("offset", offset)):
            if array.shape != self.shape or array.dtype != np.uint16:
                raise ValueError(f"{name}: expected uint16 {list(self.shape)}, got {array.dtype} {list(array.shape)}")
        if defects.dtype != np.int32 or defects.ndim != 2 or defects.shape[1] != 2:
            raise ValueError(f"defects: expected int32 [K, 2], got {defects.dtype} {list(defects.shape)}")
        if defects.size and (defects.min() < 0 or np.any(defects.max(axis=0) >= self.shape[:2])):
            raise ValueError(f"defects: one lies outside {list(self.shape[:2])} px")
        if arrays_sha256(gain, offset, defects) != record.arrays_sha256:
            raise ValueError("the arrays are not those of the record")
        self._gain = gain.astype(np.float32) * np.float32(GAIN_UNIT)
        # seen * gain - bias: one step less for every frame.
        self._bias = offset.astype(np.float32) * np.float32(OFFSET_UNIT) * self._gain if offset.any() else None
        self._at, self._beside = _neighbours(defects, self.shape[:2])

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Correct a frame: uint8 [H, W, C] -> uint8 [H, W, C], a new array.

        Values are rounded and clipped to 0..255. A pixel that was saturated stays so: to make it darker would hide that
        its value is not known. Defective pixels take the median of their sound neighbours, after the correction.

        Raises:
            ValueError: a frame of another size or type.
        """
        if pixels.shape != self.shape or pixels.dtype != np.uint8:
            raise ValueError(
                f"this flat field is for uint8 {list(self.shape)}, got {pixels.dtype} {list(pixels.shape)}"
            )
        # OpenCV takes the last axis for channels, and gives none back where there is one.
        seen, gain = pixels.reshape(self.shape[0], -1), self._gain.reshape(self.shape[0], -1)
        if self._bias is None:
            corrected = cv2.multiply(seen, gain, dtype=cv2.CV_8U)
        else:
            bright = cv2.multiply(seen, gain, dtype=cv2.CV_32F)
            corrected = cv2.subtract(bright, self._bias.reshape(self.shape[0], -1), dtype=cv2.CV_8U)
        # 255 where it was saturated, else 0.
        cv2.max(corrected, cv2.threshold(seen, 254, 255, cv2.THRESH_BINARY)[1], dst=corrected)
        out = np.asarray(corrected, np.uint8).reshape(self.shape)
        if self._at.size:
            flat = out.reshape(-1, self.shape[2])
            # Eight values each: the mean of the two in the middle, rounded up.
            ordered = np.sort(flat[self._beside], axis=1).astype(np.uint16)
            flat[self._at] = ((ordered[:, 3] + ordered[:, 4] + 1) // 2).astype(np.uint8)
        return out

    def save(self) -> bytes:
        """The file's contents: a .npz without pickles."""
        text = np.frombuffer(self.record.text().encode(), np.uint8)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, record=text, gain=self.gain, offset=self.offset, defects=self.defects)
        return buffer.getvalue()


def load_flat_field(path: Path) -> FlatField:
    """Read and check a flat field.

    Raises:
        ConfigError: missing, damaged, changed, or of another format or kind.
    """
    again = f"copy it again, or make it anew by {FlatFieldRecord.made_by}"
    try:
        data = path.read_bytes()
        if not data.startswith(_ZIP):
            # Of anything else numpy would say how to load it unsafely.
            raise ConfigError(f"{path}: damaged, or no flat field (it is no .npz); {again}")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            text = arrays["record"].tobytes().decode("utf-8")
            gain, offset, defects = (arrays[name] for name in _ARRAYS)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such flat field; make one by {FlatFieldRecord.made_by}") from None
    except _DAMAGE as error:
        raise ConfigError(f"{path}: damaged, or no flat field ({error}); {again}") from error
    record = parse_record(text, path, FlatFieldRecord)
    try:
        return FlatField(record, gain, offset, defects)
    except ValueError as error:
        raise ConfigError(f"{path}: damaged: {error}; {again}") from error


def arrays_sha256(gain: NDArray[np.uint16], offset: NDArray[np.uint16], defects: NDArray[np.int32]) -> str:
    """Digest of the three arrays, little-endian, one after the other."""
    digest = hashlib.sha256()
    for array in (gain, offset, defects):
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def _neighbours(defects: NDArray[np.int32], shape: tuple[int, int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Flat places [K] of the defects, and of eight sound pixels beside each [K, 8]; fewer are repeated.

    The nearest ring is taken that has a sound pixel: in a cluster the first one may have none.
    """
    width = shape[1]
    bad = np.zeros(shape, bool)
    bad[defects[:, 0], defects[:, 1]] = True
    beside = []
    for row, column in defects:
        found: NDArray[np.intp] = np.zeros(0, np.intp)
        for reach in range(1, max(shape)):
            top, left = max(0, row - reach), max(0, column - reach)
            window = ~bad[top : row + reach + 1, left : column + reach + 1]
            if window.any():
                rows, columns = np.nonzero(window)
                found = (rows + top) * width + columns + left
                break
        if not found.size:
            raise ValueError("defects: no pixel is sound")
        # Spread evenly over what there is.
        beside.append(found[np.arange(8) * found.size // 8])
    at = defects[:, 0].astype(np.intp) * width + defects[:, 1]
    return at, np.array(beside, np.intp).reshape(-1, 8)
