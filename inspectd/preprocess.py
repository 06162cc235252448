"""The one specification of what happens to a picture before the network sees it.

Training, export and runtime all use `Preprocess`. Its geometric half (`Letterbox`) runs on the CPU in
uint8; its arithmetic half (`scale`, `mean`, `std`) is part of the exported graph. Nothing here looks at
the values of a picture: a dark frame is treated like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "SIZE_LIMIT", "SIZE_STEP", "Letterbox", "Preprocess", "nearest_size"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_Value = TypeVar("_Value", np.uint8, np.float32)

# The backbone's output stride: sides that it does not divide would shift the skips by part of a pixel.
SIZE_STEP = 16
# More than any camera gives; a slip of the finger must not ask for all memory.
SIZE_LIMIT = 8192


def nearest_size(side: int) -> int:
    """The side in px nearest to `side` that the networks take."""
    return max(SIZE_STEP, round(side / SIZE_STEP) * SIZE_STEP)


@dataclass(frozen=True, slots=True)
class Letterbox:
    """How a picture of one size is fitted into another without distortion; all sizes are (height, width) in px.

    Points follow the pixel-centre convention: the centre of the upper left pixel is (0, 0).

    Raises:
        ValueError: a side below 1.
    """

    source: tuple[int, int]
    target: tuple[int, int]

    def __post_init__(self) -> None:
        if min(*self.source, *self.target) < 1:
            raise ValueError(f"cannot fit {self.source} into {self.target}: a side is below 1 px")

    @property
    def resized(self) -> tuple[int, int]:
        """Size of the picture inside the target; at least 1 px a side."""
        scale = min(self.target[0] / self.source[0], self.target[1] / self.source[1])
        height, width = (
            min(max(1, round(side * scale)), limit) for side, limit in zip(self.source, self.target, strict=True)
        )
        return height, width

    @property
    def offset(self) -> tuple[int, int]:
        """(top, left) of the picture inside the target."""
        height, width = self.resized
        return (self.target[0] - height) // 2, (self.target[1] - width) // 2

    @property
    def _inside(self) -> tuple[slice, slice]:
        (top, left), (height, width) = self.offset, self.resized
        return slice(top, top + height), slice(left, left + width)

    def _check(self, array: NDArray[np.uint8] | NDArray[np.float32], expected: tuple[int, int]) -> None:
        if array.shape[:2] != expected:
            raise ValueError(f"this letterbox is for {expected}, got {array.shape[:2]} (height, width)")

    def apply(self, pixels: NDArray[np.uint8], fill: int) -> NDArray[np.uint8]:
        """Fit a picture: uint8 [h, w, C] -> uint8 [H, W, C], `fill` around it."""
        self._check(pixels, self.source)
        if self.source == self.target:
            return pixels
        resized = _resize(pixels, self.resized)
        if self.resized == self.target:
            return resized
        out = np.full((*self.target, pixels.shape[2]), fill, np.uint8)
        out[self._inside] = resized
        return out

    def apply_mask(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Fit a mask: uint8 [h, w] -> uint8 [H, W], label 0 around it.

        When it shrinks, a pixel takes the label that covers most of it, and any defect that covers a
        quarter of it wins over the good surface: hairline cracks would vanish at one half.
        """
        self._check(labels, self.source)
        if self.source == self.target:
            return labels
        height, width = self.resized
        if height >= self.source[0]:
            resized = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        else:
            resized = np.zeros((height, width), np.uint8)
            best = np.full((height, width), 0.25, np.float32)
            for label in np.unique(labels[labels > 0]):
                share = cv2.resize((labels == label).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
                resized[share >= best] = label
                best = np.maximum(best, share)
        out = np.zeros(self.target, np.uint8)
        out[self._inside] = resized
        return out

    def restore(self, array: NDArray[_Value]) -> NDArray[_Value]:
        """Bring a mask or a map of the network back: [H, W] -> [h, w] of the same type.

        Where the source is larger, each of its pixels takes the nearest of the target. Where it is smaller, each
        takes the highest value of the target's pixels that fall to it: a defect of one pixel must not vanish.
        """
        self._check(array, self.target)
        if self.source == self.target:
            return array
        inside = array[self._inside]
        for axis, (side, wanted) in enumerate(zip(self.resized, self.source, strict=True)):
            if wanted >= side:
                # The centre of pixel i lies at (i + 1/2) side / wanted of the other grid.
                inside = inside.take((np.arange(wanted) * 2 + 1) * side // (2 * wanted), axis=axis)
            else:
                inside = np.maximum.reduceat(inside, -(-np.arange(wanted) * side // wanted), axis=axis)
        return np.ascontiguousarray(inside)

    def to_target(self, x: float, y: float) -> tuple[float, float]:
        """A point of the source, in the target."""
        (top, left), (height, width) = self.offset, self.resized
        return (x + 0.5) * width / self.source[1] - 0.5 + left, (y + 0.5) * height / self.source[0] - 0.5 + top

    def to_source(self, x: float, y: float) -> tuple[float, float]:
        """A point of the target, in the source."""
        (top, left), (height, width) = self.offset, self.resized
        return (x - left + 0.5) * self.source[1] / width - 0.5, (y - top + 0.5) * self.source[0] / height - 0.5

    def box_to_source(self, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """The smallest box (x, y, width, height) of whole source pixels around a box of the target."""
        x, y, width, height = box
        left, top = self.to_source(x - 0.5, y - 0.5)
        right, bottom = self.to_source(x + width - 0.5, y + height - 0.5)
        # 1e-6 px: what the two divisions round must not cost a whole pixel.
        x0, y0 = max(0, int(np.floor(left + 0.5 + 1e-6))), max(0, int(np.floor(top + 0.5 + 1e-6)))
        x1 = min(self.source[1], int(np.ceil(right + 0.5 - 1e-6)))
        y1 = min(self.source[0], int(np.ceil(bottom + 0.5 - 1e-6)))
        return x0, y0, max(1, x1 - x0), max(1, y1 - y0)


def _resize(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    height, width = size
    method = cv2.INTER_AREA if height < pixels.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=method), np.uint8).reshape(height, width, -1)


class Preprocess(BaseModel):
    """What a picture goes through: colour order, letterbox, then `(value * scale - mean) / std` per channel."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    colour: Literal["rgb", "bgr", "grey"] = "rgb"
    """Order of the channels that the network takes; frames are RGB or grey and are converted."""
    height: int = Field(256, ge=SIZE_STEP, le=SIZE_LIMIT)
    """Rows of the network's input, px."""
    width: int = Field(256, ge=SIZE_STEP, le=SIZE_LIMIT)
    """Columns of the network's input, px."""
    fill: int = Field(0, ge=0, le=255)
    """Grey value around a letterboxed picture."""
    scale: float = Field(1 / 255, gt=0)
    """Factor on the 8-bit values."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Subtracted after scaling, one a channel."""
    std: tuple[float, ...] = IMAGENET_STD
    """Divided by after that, one a channel."""

    @model_validator(mode="after")
    def _consistent(self) -> Preprocess:
        for name in ("height", "width"):
            if (side := getattr(self, name)) % SIZE_STEP:
                raise ValueError(
                    f"{name} {side} is not a multiple of {SIZE_STEP}; the nearest that is: {nearest_size(side)}"
                )
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"{self.colour} takes {self.channels} values of mean and std")
        if min(self.std) <= 0:
            raise ValueError("std must be above 0")
        return self

    @property
    def channels(self) -> int:
        """Channels of the network's input: 3, or 1 for grey."""
        return 1 if self.colour == "grey" else 3

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the network's input, px."""
        return self.height, self.width

    def letterbox(self, source: tuple[int, int]) -> Letterbox:
        """The geometry for pictures of (height, width) px."""
        return Letterbox(source, self.size)

    def image(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The network's input for one picture: uint8 [h, w, 1 or 3] RGB or grey -> uint8 [height, width, channels]."""
        return self.letterbox((pixels.shape[0], pixels.shape[1])).apply(self._convert(pixels), self.fill)

    def _convert(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        grey = pixels.shape[2] == 1
        if self.colour == "grey":
            return pixels if grey else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)[..., None]
        if grey:
            return np.repeat(pixels, 3, axis=2)
        return pixels if self.colour == "rgb" else np.ascontiguousarray(pixels[..., ::-1])
