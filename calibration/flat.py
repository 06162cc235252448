"""A flat field from frames of an even target, and everything that would make it a wrong one.

What is corrected is the camera and its light, and it is seen only through a target; whatever is on the target would be
corrected away for ever after, defects at that place with it. So a target that is not even, moves, or is lit by a light
that flickers is refused.

A pixel's own gain is measured with the noise of the frames left in it. Correcting all of it would print that noise,
always the same, onto every picture from then on. So the smooth part (vignetting and light, known from thousands of
pixels each) is corrected whole, and of each pixel's own deviation the share that is really its own: Wiener's, the
variance of the deviations without the noise's over the variance with it.

Source: EMVA Standard 1288, release 4.0, sections 6 (noise), 8 (non-uniformity) and 9 (defect pixels).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.calibrated.flat import GAIN_UNIT, OFFSET_UNIT
from inspectd.errors import ConfigError

__all__ = ["FEWEST_DARK", "FEWEST_FLAT", "FlatFit", "Stack", "fit_flat_field"]

FEWEST_FLAT, FEWEST_DARK = 8, 4
"""Frames that are needed: their noise is to be told from the pixels' own deviations."""
DARKEST_MEAN, DARKEST_CORNER = 60.0, 25.0
"""A target below these grey values, on average and at its darkest block, is measured in too few steps."""
SATURATED_SHARE = 0.001
"""Share of pixels at 250 or above: a clipped pixel tells nothing of its gain."""
BRIGHTEST_DARK = 24.0
"""Grey value that frames without light may have."""
STEEPEST_SHADING = 0.55
"""A target that loses more towards its darkest place would have its noise raised more than twofold there."""
FLICKER_SHARE = 0.03
"""Difference of the brightness of two frames."""
LOCAL_CONTRAST = 0.015
"""A block of 8 px that is so much brighter or darker than its surroundings is something on the target."""
BAND_CONTRAST = 0.004
"""Bands across the whole picture are seen far below what one block shows."""
MOVING_SHARE = 0.01
"""A block of 16 px that changes so much from frame to frame, beyond its noise."""
HOT_GREY = 12.0
"""A pixel that is so much brighter than the picture's median without light."""
DEAD_SHARE = 0.25
"""A pixel whose answer to light differs so much from its neighbours'."""
MOST_DEFECTS = 0.002
"""Share of the pixels that may be defective."""
LARGEST_CLUSTER = 12
"""Defective pixels side by side; a larger spot is dust."""

_Floats = NDArray[np.float32]


class Stack:
    """Frames added up one by one, so that hundreds need the memory of a few.

    Attributes:
        shape: (H, W, C) of the frames; None before the first.
        means: grey value of each frame.
        blocks: of each frame float32 [h, w], the means of blocks of 16 px.
        rows: of each frame float32 [H], the means of its rows.
        columns: of each frame float32 [W], the means of its columns.
    """

    def __init__(self) -> None:
        self.shape: tuple[int, ...] | None = None
        self.means: list[float] = []
        self.blocks: list[_Floats] = []
        self.rows: list[_Floats] = []
        self.columns: list[_Floats] = []
        self.saturated = 0.0
        self._halves: list[_Floats] = []
        self._squares: _Floats = np.zeros(0, np.float32)
        self._first = ""

    def add(self, name: str, pixels: NDArray[np.uint8]) -> None:
        """Take a frame uint8 [H, W, C].

        Raises:
            ConfigError: it is of another size or type than the first one.
        """
        if self.shape is None:
            self.shape, self._first = pixels.shape, name
            self._halves = [np.zeros(pixels.shape, np.float32) for _ in range(2)]
            self._squares = np.zeros(pixels.shape, np.float32)
        if pixels.shape != self.shape:
            raise ConfigError(
                f"{name} is {_kind(pixels.shape)}, and {self._first} is {_kind(self.shape)}; all frames have to come "
                "from one camera with the same settings"
            )
        frame = pixels.astype(np.float32)
        # Even and odd frames apart: what is found in one half is tried on the other one.
        self._halves[len(self.means) % 2] += frame
        # About the first frame's mean, so that float32 keeps its digits.
        origin = self.means[0] if self.means else float(frame.mean())
        self._squares += (frame - np.float32(origin)) ** 2
        grey = frame.mean(axis=2)
        self.means.append(float(grey.mean()))
        self.blocks.append(_blocks(grey, 16))
        self.rows.append(grey.mean(axis=1))
        self.columns.append(grey.mean(axis=0))
        self.saturated = max(self.saturated, float((pixels >= 250).mean()))

    def __len__(self) -> int:
        return len(self.means)

    @property
    def mean(self) -> _Floats:
        """Of all frames, float32 [H, W, C]."""
        return np.asarray((self._halves[0] + self._halves[1]) / len(self), np.float32)

    def half(self, which: int) -> _Floats:
        """Mean of the frames with even (0) or odd (1) numbers, float32 [H, W, C]."""
        return np.asarray(self._halves[which] / ((len(self) + 1 - which) // 2), np.float32)

    @property
    def variance(self) -> _Floats:
        """Of each pixel from frame to frame, float32 [H, W, C], with the changes of the light in it."""
        spread = self._squares / len(self) - (self.mean - np.float32(self.means[0])) ** 2
        return np.asarray(np.maximum(spread, 0) * (len(self) / max(1, len(self) - 1)), np.float32)


@dataclass(frozen=True, slots=True)
class FlatFit:
    """What was found.

    Attributes:
        gain: uint16 [H, W, C], in `GAIN_UNIT`.
        offset: uint16 [H, W, C], in `OFFSET_UNIT`.
        hot: int32 [K, 2], (row, column) of pixels that are bright without light.
        dead: int32 [K, 2], of pixels that do not answer to light; none is in both.
        mean_grey: of the target.
        noise_grey: of a pixel from frame to frame, median.
        smooth: float32 [H, W], the smooth part of the target's brightness, 1 at its mean.
        residual: float32 [H, W], the pixels' own deviations, as shares.
        shading_before: 1 - darkest / brightest, over blocks.
        shading_after: the same after the correction found on the other half of the frames.
        pattern: standard deviation of the pixels' own deviations without noise, as a share.
        kept: share of each deviation that is corrected.
    """

    gain: NDArray[np.uint16]
    offset: NDArray[np.uint16]
    hot: NDArray[np.int32]
    dead: NDArray[np.int32]
    mean_grey: float
    noise_grey: float
    smooth: _Floats
    residual: _Floats
    shading_before: float
    shading_after: float
    pattern: float
    kept: float

    @property
    def defects(self) -> NDArray[np.int32]:
        """Hot and dead pixels together."""
        return np.concatenate([self.hot, self.dead])


def fit_flat_field(flat: Stack, dark: Stack | None = None) -> FlatFit:
    """Calculate gain and offset.

    Args:
        flat: frames of an even, bright target.
        dark: frames without light; None takes all offsets for 0.

    Raises:
        ConfigError: too few frames, or frames that would give a wrong correction; the reason and what to do.
    """
    _refuse_counts(flat, dark)
    seen, without = flat.mean, np.zeros_like(flat.mean) if dark is None else dark.mean
    noise = float(np.sqrt(np.median(flat.variance)))
    _refuse_light(flat, dark, noise)
    hot = np.zeros(seen.shape[:2], bool) if dark is None else _hot(without)
    offset = np.zeros_like(without)
    if dark is not None:
        offset = np.maximum(_steadied(without, hot, _mean_variance(dark), whole=float(without.mean()))[0], 0)
    signal = seen - offset
    bad = hot | _dead(signal, flat, noise)
    _refuse_defects(bad)
    smooth = _smooth(signal, bad)
    _refuse_structure(signal, smooth, bad, noise / float(signal.mean()) / np.sqrt(len(flat)))
    response, kept, pattern = _response(signal, smooth, bad, _mean_variance(flat))
    gain = _gain(response, bad)
    # Found on one half of the frames and tried on the other one.
    even = flat.half(0) - offset
    tried = _gain(_response(even, _smooth(even, bad), bad, 2 * _mean_variance(flat))[0], bad)
    corrected = (flat.half(1) - offset) * tried
    own = np.asarray(np.median(signal / np.maximum(smooth, 1e-3) - 1, axis=2), np.float32)
    fixed = np.rint(gain / GAIN_UNIT)
    if fixed.max() > 65535:
        raise ConfigError("a gain of more than 16 would be needed; light the target more evenly")
    return FlatFit(
        gain=np.maximum(fixed, 1).astype(np.uint16),
        offset=np.clip(np.rint(offset / OFFSET_UNIT), 0, 65535).astype(np.uint16),
        hot=_places(hot),
        dead=_places(bad & ~hot),
        mean_grey=float(seen.mean()),
        noise_grey=noise,
        smooth=np.asarray((smooth / smooth.mean(axis=(0, 1))).mean(axis=2), np.float32),
        residual=np.where(bad, 0, own).astype(np.float32),
        shading_before=_shading(signal.mean(axis=2), bad),
        shading_after=_shading(corrected.mean(axis=2), bad),
        pattern=pattern,
        kept=kept,
    )


def _refuse_counts(flat: Stack, dark: Stack | None) -> None:
    if len(flat) < FEWEST_FLAT:
        raise ConfigError(f"{len(flat)} frames of the target, at least {FEWEST_FLAT} are needed; 32 are good")
    if dark is None:
        return
    if len(dark) < FEWEST_DARK:
        raise ConfigError(f"{len(dark)} dark frames, at least {FEWEST_DARK} are needed; 16 are good")
    if dark.shape != flat.shape:
        raise ConfigError(
            f"the dark frames are {_kind(dark.shape or ())}, and those of the target {_kind(flat.shape or ())}; "
            "take both by one camera with the same settings"
        )


def _refuse_light(flat: Stack, dark: Stack | None, noise: float) -> None:
    means = np.array(flat.means)
    if dark is not None and (brightest := max(dark.means)) > BRIGHTEST_DARK:
        raise ConfigError(
            f"the dark frames have a grey value of {brightest:.0f}, at most {BRIGHTEST_DARK:g} is taken; cover the "
            "lens or switch the light off, and lower the camera's BlackLevel if it stays"
        )
    if flat.saturated > SATURATED_SHARE:
        raise ConfigError(
            f"{flat.saturated:.1%} of the target's pixels are at 250 or above, at most {SATURATED_SHARE:.1%} is taken; "
            "shorten ExposureTime so that the brightest part is at some 200"
        )
    darkest = float(np.mean(flat.blocks, axis=0).min())
    if means.mean() < DARKEST_MEAN or darkest < DARKEST_CORNER:
        raise ConfigError(
            f"the target is too dark: grey value {means.mean():.0f} on average, {darkest:.0f} at its darkest; expected "
            f"{DARKEST_MEAN:g} and {DARKEST_CORNER:g} at least: lengthen ExposureTime so that the brightest part is at "
            "some 200"
        )
    flicker = float(np.ptp(means) / means.mean())
    if flicker > FLICKER_SHARE:
        raise ConfigError(
            f"the light is not steady: the frames' brightness differs by {flicker:.1%}, at most {FLICKER_SHARE:.0%} is "
            "taken; keep daylight and lamps at mains frequency out, and let the light warm up"
        )
    _refuse_changes(flat, noise)


def _refuse_changes(flat: Stack, noise: float) -> None:
    """Something that moves, or light that flickers within a frame: blocks and rows that change beyond their noise."""
    means = np.array(flat.means)
    for what, parts, samples in (
        ("row", np.array(flat.rows), len(flat.columns[0])),
        ("column", np.array(flat.columns), len(flat.rows[0])),
    ):
        steady = parts / means[:, None]
        change = np.abs(steady - steady.mean(axis=0))
        # Bands are some rows wide.
        wide = np.array([np.convolve(one, np.ones(8) / 8, "valid") for one in steady - steady.mean(axis=0)])
        limit = BAND_CONTRAST + 6 * noise / means.mean() / np.sqrt(8 * samples)
        if np.abs(wide).max() > limit and _banded(change, samples, noise / float(means.mean())):
            raise ConfigError(
                f"bands run through the frames and change from one to the next ({np.abs(wide).max():.1%} in a {what}); "
                "the light flickers within the exposure: light it by direct current, or expose for whole periods of it"
            )
    blocks = np.array(flat.blocks) / means[:, None, None]
    change = np.abs(blocks - np.median(blocks, axis=0))
    limit = MOVING_SHARE + 6 * noise / float(means.mean()) / 16
    if change.max() > limit:
        frame, row, column = np.unravel_index(int(change.argmax()), change.shape)
        raise ConfigError(
            f"the target moves, or something does over it: frame {frame + 1} differs by {change.max():.1%} at row "
            f"{16 * row + 8}, column {16 * column + 8}; hold everything still"
        )


def _banded(change: _Floats, samples: int, noise: float) -> bool:
    """Whether a good part of all rows changes, as by flicker; a thing that moves changes a few."""
    return float((change > 4 * noise / np.sqrt(samples)).mean()) > 0.3


def _refuse_structure(signal: _Floats, smooth: _Floats, bad: NDArray[np.bool_], noise: float) -> None:
    ratio = _filled((signal / smooth).mean(axis=2), bad)
    low = float(_blocks(smooth.mean(axis=2), 16).min() / _blocks(smooth.mean(axis=2), 16).max())
    if 1 - low > STEEPEST_SHADING:
        raise ConfigError(
            f"the gradient is too steep: the darkest part of the target has {low:.0%} of the brightest, at least "
            f"{1 - STEEPEST_SHADING:.0%} is needed; light it more evenly, or close the aperture by a stop"
        )
    blocks = _blocks(ratio, 8)
    local = blocks - _local_median(blocks)
    if np.abs(local).max() > LOCAL_CONTRAST + 6 * noise / 8:
        row, column = np.unravel_index(int(np.abs(local).argmax()), local.shape)
        share = float((np.abs(local) > LOCAL_CONTRAST).mean())
        what = "dust, or a spot" if share < 0.003 else "a part, an edge or a texture"
        raise ConfigError(
            f"the target is not even: {np.abs(local).max():.1%} of contrast at row {8 * row + 4}, column "
            f"{8 * column + 4} ({what}); clean target and lens, leave nothing on it, and put it out of focus"
        )
    for what, axis in (("rows", 1), ("columns", 0)):
        profile = ratio.mean(axis=axis)
        bands = np.convolve(profile - _median_profile(profile), np.ones(4) / 4, "same")[4:-4]
        if bands.size and np.abs(bands).max() > BAND_CONTRAST + 6 * noise / np.sqrt(4 * ratio.shape[axis]):
            raise ConfigError(
                f"the target has bands along its {what}, {np.abs(bands).max():.1%} deep; take an even one (opal glass, "
                "or white paper out of focus), and see that the light does not flicker"
            )


def _hot(dark: _Floats) -> NDArray[np.bool_]:
    return np.asarray((dark - np.median(dark, axis=(0, 1)) > HOT_GREY).any(axis=2))


def _dead(signal: _Floats, flat: Stack, noise: float) -> NDArray[np.bool_]:
    """Pixels that answer to light unlike their neighbours, or that have no noise while all others have."""
    dead = np.zeros(signal.shape[:2], bool)
    for channel in range(signal.shape[2]):
        around = cv2.medianBlur(np.ascontiguousarray(signal[..., channel]), 5)
        dead |= np.abs(signal[..., channel] - around) > DEAD_SHARE * np.maximum(around, 1)
        if noise > 1 and len(flat) >= 8:
            dead |= flat.variance[..., channel] == 0
    return dead


def _refuse_defects(bad: NDArray[np.bool_]) -> None:
    if bad.mean() > MOST_DEFECTS:
        raise ConfigError(
            f"{bad.mean():.2%} of the pixels are hot or dead, at most {MOST_DEFECTS:.1%} are taken; the target has a "
            "texture, or the sensor is worn out or too warm"
        )
    _, _, stats, _ = cv2.connectedComponentsWithStats(bad.astype(np.uint8), connectivity=8)
    largest = stats[1:, cv2.CC_STAT_AREA].max(initial=0)
    if largest > LARGEST_CLUSTER:
        x, y = stats[1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()), :2]
        raise ConfigError(
            f"a spot of {largest} pixels at row {y}, column {x} differs by more than {DEAD_SHARE:.0%}: dust on the "
            "target, the lens or the sensor; clean them"
        )


def _smooth(signal: _Floats, bad: NDArray[np.bool_]) -> _Floats:
    """Vignetting and light: a polynomial of the fourth degree, and what a wide blur finds beside it.

    The polynomial follows cos^4 up to the rim, where a blur alone would flatten it; the blur follows the lamps.
    """
    height, width, channels = signal.shape
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in (height, width))
    powers = [(i, j) for i in range(5) for j in range(5 - i)]
    smooth = np.empty_like(signal)
    rows, columns = np.arange(4, height, 8), np.arange(4, width, 8)
    base = np.stack([np.outer(y[rows] ** i, x[columns] ** j).ravel() for i, j in powers], axis=1)
    sigma = max(8.0, min(height, width) / 24)
    for channel in range(channels):
        filled = _filled(signal[..., channel], bad)
        fine = cv2.blur(filled, (9, 9))[np.ix_(rows, columns)].ravel()
        weights = np.linalg.lstsq(base.astype(np.float64), fine.astype(np.float64), rcond=None)[0]
        shape = sum(np.float32(weight) * np.outer(y**i, x**j) for weight, (i, j) in zip(weights, powers, strict=True))
        shape = np.maximum(np.asarray(shape, np.float32), 1.0)
        smooth[..., channel] = shape * cv2.GaussianBlur(
            filled / shape, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101
        )
    return smooth


def _response(
    signal: _Floats, smooth: _Floats, bad: NDArray[np.bool_], noise_variance: float
) -> tuple[_Floats, float, float]:
    """Each pixel's answer to light, the share of its own deviation in it, and how large those are without noise."""
    own = signal / smooth - 1
    sound = own[~bad]
    total = float(np.square(sound - sound.mean()).mean())
    noise = float(noise_variance * np.square(1 / smooth).mean())
    true = max(0.0, total - noise)
    kept = true / total if total else 0.0
    return np.asarray(smooth * (1 + kept * own), np.float32), kept, float(np.sqrt(true))


def _steadied(mean: _Floats, bad: NDArray[np.bool_], noise_variance: float, *, whole: float) -> tuple[_Floats, float]:
    """A dark frame with each pixel's own offset in so far as it is no noise; hot pixels take the whole picture's."""
    own = mean - np.float32(whole)
    total = float(np.square(own[~bad]).mean()) if (~bad).any() else 0.0
    kept = max(0.0, total - noise_variance) / total if total else 0.0
    return np.where(bad[..., None], np.float32(whole), np.float32(whole) + np.float32(kept) * own), kept


def _gain(response: _Floats, bad: NDArray[np.bool_]) -> _Floats:
    """What makes every pixel answer like the mean one of its channel; 1 where a pixel is replaced anyway."""
    level = response[~bad].mean(axis=0)
    return np.asarray(np.where(bad[..., None], 1, level / np.maximum(response, 1e-3)), np.float32)


def _mean_variance(stack: Stack) -> float:
    """Noise variance of the frames' mean. The mean and not the median: single pixels may be noisier."""
    return float(np.median(stack.variance)) / len(stack)


def _shading(grey: _Floats, bad: NDArray[np.bool_]) -> float:
    blocks = _blocks(_filled(np.asarray(grey, np.float32), bad), 16)
    return float(np.clip(1 - blocks.min() / blocks.max(), 0, 1))


def _blocks(grey: _Floats, side: int) -> _Floats:
    """Means of blocks [h, w]; what is left over at the right and below counts to none."""
    height, width = max(1, grey.shape[0] // side), max(1, grey.shape[1] // side)
    inside = np.asarray(grey[: height * side, : width * side], np.float32)
    return np.asarray(cv2.resize(inside, (width, height), interpolation=cv2.INTER_AREA), np.float32).reshape(
        height, width
    )


def _filled(grey: _Floats, bad: NDArray[np.bool_]) -> _Floats:
    """With the neighbours' median where a pixel is defective."""
    grey = np.ascontiguousarray(grey, np.float32)
    return np.where(bad, cv2.medianBlur(grey, 5), grey).astype(np.float32) if bad.any() else grey


def _local_median(blocks: _Floats) -> _Floats:
    """The surroundings of each block: the median of some 11 by 11."""
    reach = 5
    padded = np.pad(blocks, reach, mode="reflect" if min(blocks.shape) > reach else "edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1, 2 * reach + 1))
    return np.asarray(np.median(windows, axis=(2, 3)), np.float32)


def _median_profile(profile: _Floats) -> _Floats:
    reach = max(8, profile.size // 16)
    padded = np.pad(profile, reach, mode="reflect")
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1), axis=1), np.float32)


def _places(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    return np.argwhere(mask).astype(np.int32)


def _kind(shape: Sequence[int]) -> str:
    if len(shape) != 3:
        return "empty"
    return f"{shape[1]} by {shape[0]} px, {'grey' if shape[2] == 1 else 'RGB'}"
