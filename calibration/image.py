"""What good pictures of a station look like: the limits of `inspectd.calibrated.ImageCheck`, learned from good frames.

A limit lies beyond every good frame, by half of the distance that the farthest of them has from the median (`margin`).
By the order statistics alone (S. S. Wilks, 1941) a further good frame lies within the extremes of n, for each number,
with a probability of at least 0.05^(1/n) at 95 % confidence; the margin is on top of that. What such limits find is
tried: good frames are blurred, darkened, covered and so on, and the shares that are found are part of the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.calibrated import NUMBERS, ImageCheck, ImageLimit, ImageNumbers, thumbnail
from inspectd.errors import ConfigError

__all__ = ["FAULTS", "FEWEST_FRAMES", "MARGIN", "Fault", "ImageFit", "learn_image"]

FEWEST_FRAMES = 20
"""Of fewer the extremes say nothing: of 20, one good frame in seven lies beyond them."""
MARGIN = 0.5
_TRIED = 40
"""Frames that each fault is simulated on, at most."""
_ODD = 12.0
"""A good frame that lies so many robust standard deviations away is looked at by a person."""

_LIMITED: Mapping[str, tuple[bool, bool, float]] = {
    "focus": (True, True, 0.0),
    "brightness": (True, True, 2.0),
    "contrast": (True, True, 1.0),
    "saturated": (False, True, 0.001),
    "black": (False, True, 0.001),
    "unevenness": (False, True, 0.02),
    "shift": (False, True, 0.01),
    "likeness": (True, False, 0.02),
}
"""Whether a number has a limit below and above, and how far from the good frames it lies at the least."""
_POSSIBLE: Mapping[str, tuple[float, float]] = {
    "focus": (0.0, np.inf),
    "brightness": (0.0, 255.0),
    "contrast": (0.0, 127.5),
    "unevenness": (0.0, np.inf),
    "shift": (0.0, np.inf),
    "likeness": (-1.0, 1.0),
}
"""The least and the most that a number can be, where that is not 0 and 1."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of the picture, simulated: `apply` makes it of uint8 [H, W, C], with a generator for its noise."""

    name: str
    words: str
    apply: Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]


def _covered(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    return np.clip(rng.normal(3.0, 2.0, pixels.shape), 0, 255).astype(np.uint8)


def _defocused(pixels: NDArray[np.uint8], _rng: np.random.Generator) -> NDArray[np.uint8]:
    sigma = max(1.5, 0.004 * min(pixels.shape[:2]))
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma), np.uint8).reshape(pixels.shape)


def _times(factor: float) -> Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]:
    def apply(pixels: NDArray[np.uint8], _rng: np.random.Generator) -> NDArray[np.uint8]:
        return np.asarray(cv2.convertScaleAbs(pixels, alpha=factor), np.uint8).reshape(pixels.shape)

    return apply


def _one_lamp(pixels: NDArray[np.uint8], _rng: np.random.Generator) -> NDArray[np.uint8]:
    fall = np.linspace(1.0, 0.4, pixels.shape[1], dtype=np.float32)[None, :, None]
    return (pixels * fall).astype(np.uint8)


def _half_hidden(pixels: NDArray[np.uint8], _rng: np.random.Generator) -> NDArray[np.uint8]:
    hidden = pixels.copy()
    hidden[:, : pixels.shape[1] // 3] = 60
    return hidden


def _moved(pixels: NDArray[np.uint8], _rng: np.random.Generator) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    move = np.array([[1, 0, 0.15 * width], [0, 1, 0.1 * height]], np.float32)
    moved = cv2.warpAffine(pixels, move, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.uint8).reshape(pixels.shape)


FAULTS = (
    Fault("covered", "the lens is covered", _covered),
    Fault("defocus", "out of focus by 0.4 % of the picture's side", _defocused),
    Fault("dark", "half of the light or of the exposure", _times(0.5)),
    Fault("bright", "1.8 times the light or the exposure", _times(1.8)),
    Fault("one_lamp", "light falls to 40 % across the picture", _one_lamp),
    Fault("hidden", "a third of the picture is hidden", _half_hidden),
    Fault("moved", "displaced by 15 % to the right and 10 % down", _moved),
)


@dataclass(frozen=True, slots=True, eq=False)
class ImageFit:
    """What was learned.

    Attributes:
        reference: float32 [THUMB, THUMB], mean of the good frames' small pictures.
        numbers: of each frame.
        limits: by the names of the numbers.
        found: share of the frames in which each simulated fault is found.
        odd: (index of a frame, what is odd about it), for frames far from all others.
    """

    reference: NDArray[np.float32]
    numbers: tuple[ImageNumbers, ...]
    limits: Mapping[str, ImageLimit]
    found: Mapping[str, float]
    odd: tuple[tuple[int, str], ...]

    @property
    def check(self) -> ImageCheck:
        """What a line looks by."""
        return ImageCheck(self.reference, self.limits)


def learn_image(
    frames: Sequence[NDArray[np.uint8]],
    *,
    margin: float = MARGIN,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> ImageFit:
    """Learn what good pictures look like.

    Args:
        frames: good ones, uint8 [H, W, 1 or 3], all of one size.
        margin: the limits lie so much further from the median than the farthest frame.
        seed: of the simulated faults' noise.
        progress: told steps done and steps in all.

    Raises:
        ConfigError: too few frames, or such that even a covered lens would not be found.
    """
    if len(frames) < FEWEST_FRAMES:
        raise ConfigError(
            f"{len(frames)} good pictures are too few to know what good ones look like; "
            f"give at least {FEWEST_FRAMES}, better 200, of different parts"
        )
    tried = frames[:: -(-len(frames) // _TRIED)]
    steps, done = 2 * len(frames) + len(FAULTS) * len(tried), 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(done, steps)

    total = np.zeros_like(thumbnail(frames[0]))
    for frame in frames:
        total += thumbnail(frame)
        step()
    reference = np.rint(total / len(frames)).astype(np.float32)  # as a record holds it
    bare = ImageCheck(reference, {})
    numbers = []
    for frame in frames:
        numbers.append(bare.measure(frame))
        step()
    limits = {name: _limit(name, [getattr(each, name) for each in numbers], margin) for name in NUMBERS}
    check = ImageCheck(reference, limits)
    rng = np.random.default_rng(seed)
    found = {}
    for fault in FAULTS:
        hits = 0
        for frame in tried:
            hits += bool(check.faults(check.measure(fault.apply(frame, rng))))
            step()
        found[fault.name] = hits / len(tried)
    if found["covered"] < 1:
        raise ConfigError(
            "the pictures differ so much that a covered lens would not be told from a good part; are there black or "
            "empty ones among them? Take them out"
        )
    return ImageFit(reference, tuple(numbers), limits, found, _odd(numbers))


def _limit(name: str, values: Sequence[float], margin: float) -> ImageLimit:
    has_low, has_high, least = _LIMITED[name]
    lowest, middle, highest = min(values), float(np.median(values)), max(values)
    low = lowest - max(margin * (middle - lowest), least)
    high = highest + max(margin * (highest - middle), least)
    if name == "focus":
        # It lives on a scale of ratios: half as sharp as the least sharp good one is never good.
        low, high = max(low, lowest / 2), max(high, 1.25 * highest)
    least_possible, most_possible = _POSSIBLE.get(name, (0.0, 1.0))
    # A limit that no picture can reach is none, and would be read as one.
    has_low, has_high = has_low and low > least_possible, has_high and high < most_possible
    return ImageLimit(low=low if has_low else None, high=high if has_high else None)


def _odd(numbers: Sequence[ImageNumbers]) -> tuple[tuple[int, str], ...]:
    """Frames that lie far from all others: perhaps no good ones."""
    odd: list[tuple[int, str]] = []
    for name in NUMBERS:
        values = np.asarray([getattr(each, name) for each in numbers])
        middle = np.median(values)
        # 1.4826: the median of absolute deviations of a normal distribution is that much below its sigma.
        spread = max(1.4826 * float(np.median(np.abs(values - middle))), _LIMITED[name][2], 0.01 * abs(middle), 1e-9)
        odd += [
            (int(index), f"{name} {values[index]:.4g}, where the median is {middle:.4g}")
            for index in np.flatnonzero(np.abs(values - middle) > _ODD * spread)
        ]
    return tuple(odd)
