"""Put a part, a defect and a camera together: the public functions of the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from inspectd.errors import ConfigError

from .defects import DEFECTS, UNSEEN, Flaw, make_flaw
from .fields import F32, U8, Window, as_f32, soften, stream
from .shading import WINDOW_STEP, Scene, expose, make_scene, sensor_noise, shade
from .surface import PRODUCTS, Layers, build

LINES: tuple[str, ...] = tuple(PRODUCTS)
"""The product lines, in order of class."""

_SMALLEST, _LARGEST, _STEP = 64, 1024, 16
_ATTEMPTS = 6
_VISIBLE = 14.0
"""Mean change of a defect's pixels, in display levels, below which it is drawn stronger or elsewhere."""
_CAMOUFLAGE = 0.4
"""Further change asked for, per level of standard deviation of the material's own texture there."""
_SEEN = 4.5
"""Change of a pixel, with its neighbours', in display levels, below which it is no part of the mask."""


@dataclass(frozen=True, slots=True, eq=False)
class Rendered:
    """One rendered part.

    `image` [H, W, 3] uint8 RGB; `mask` [H, W] uint8, 1 where the defect shows and 0 elsewhere; `twin` [H, W, 3] uint8
    RGB, the same part in the same pose, light, dust and noise without its defect, equal to
    `render(line, None, seed, size).image`. `line`, `defect` and `seed` are what it was made from.
    """

    image: U8
    mask: U8
    twin: U8
    line: str
    defect: str | None
    seed: int


def render(line: str, defect: str | None, seed: int, size: int = 256) -> Rendered:
    """Render one part of `line` with `defect`, of `DEFECTS` or `UNSEEN`, or a flawless one where that is None.

    The part, its pose, light, dust and noise follow from `line` and `seed` alone, the defect from these and its type.
    `size` is the picture's height and width in pixels, a multiple of 16 from 64 to 1024. Geometry scales with it, but
    below 256 px defects are enlarged (by a third at 128 px) so that they stay resolved.

    Raises:
        ConfigError: an unknown line or defect, a negative seed, or a size that is not to be had.
    """
    _check(line, defect, seed, size)
    product = PRODUCTS[line]
    supersample = 1 if size >= 512 else 2
    key = (seed, LINES.index(line))
    scene = make_scene(product, key, size * supersample)
    layers = build(product, stream(*key, 0), scene.plane)
    whole = Window(0, size * supersample, 0, size * supersample)
    flawless = shade(scene, layers, whole, supersample)
    noise = sensor_noise(scene, key, size)
    shown = expose(scene, flawless)
    twin = _quantise(shown, noise)
    if defect is None:
        return Rendered(twin, np.zeros((size, size), np.uint8), twin.copy(), line, None, seed)

    enlarge = max(1.0, (256.0 / size) ** 0.43)
    best_contrast, image, mask = -1.0, twin, np.zeros((size, size), np.uint8)
    for attempt in range(_ATTEMPTS):
        # Each place is tried as drawn, then stronger; then another place.
        rng = stream(*key, 6, (*DEFECTS, *UNSEEN).index(defect), attempt // 2)
        flaw = make_flaw(defect, rng, scene, layers, enlarge=enlarge, strength=1.0 + 0.6 * (attempt % 2))
        changed = expose(scene, _with_flaw(scene, layers, flaw, flawless, supersample))
        visible, contrast = _mask(flaw, shown, changed, supersample)
        if contrast > best_contrast:
            best_contrast, image, mask = contrast, _quantise(changed, noise), visible
        if contrast >= 1.0:
            break
    return Rendered(image, mask, twin, line, defect, seed)


def line_part(index: int, seed: int, defect_rate: float, lines: Sequence[str] = LINES, size: int = 256) -> Rendered:
    """Render the `index`-th part (from 0) of the endless production line `seed`, the same whenever it is asked for.

    A part is of one of `lines` and has a defect with probability `defect_rate`, one of `DEFECTS`, all equally likely.

    Raises:
        ConfigError: as `render`, and for a negative index, a rate outside 0 to 1 or no lines.
    """
    if index < 0:
        raise ConfigError(f"index is {index}: parts are counted from 0; give a whole number of at least 0")
    if seed < 0:
        raise ConfigError(f"seed is {seed}: give a whole number of at least 0")
    if not 0.0 <= defect_rate <= 1.0:
        raise ConfigError(f"defect_rate is {defect_rate}: it is a share of parts; give a number from 0 to 1")
    if not lines:
        raise ConfigError(f"lines is empty: give at least one of {', '.join(LINES)}")
    rng = stream(seed, index, 7)
    line = lines[int(rng.integers(len(lines)))]
    kind = DEFECTS[int(rng.integers(len(DEFECTS)))]
    defect = kind if rng.random() < defect_rate else None
    return render(line, defect, int(rng.integers(2**63)), size)


def _check(line: str, defect: str | None, seed: int, size: int) -> None:
    if line not in LINES:
        raise ConfigError(f"line is {line!r}: no such product line; give one of {', '.join(LINES)}")
    if defect is not None and defect not in (*DEFECTS, *UNSEEN):
        raise ConfigError(f"defect is {defect!r}: no such defect; give None or one of {', '.join((*DEFECTS, *UNSEEN))}")
    if seed < 0:
        raise ConfigError(f"seed is {seed}: give a whole number of at least 0")
    if size % _STEP or not _SMALLEST <= size <= _LARGEST:
        nearest = min(max(round(size / _STEP) * _STEP, _SMALLEST), _LARGEST)
        raise ConfigError(
            f"size is {size} px: buttons are rendered at multiples of {_STEP} from {_SMALLEST} to {_LARGEST}; "
            f"the nearest is {nearest}"
        )


def _with_flaw(scene: Scene, layers: Layers, flaw: Flaw, flawless: F32, supersample: int) -> F32:
    """Light the surroundings of a flaw anew; the rest is the flawless picture's."""
    limit = scene.backdrop.shape[0]
    # An outline moves its cast shadow, other changes only the nearest occlusion and shade; beyond a second such
    # margin, the window's own edges cannot be felt.
    reach = round((0.20 if flaw.outline else 0.14) * scene.plane.unit) + WINDOW_STEP
    changed = flaw.window.grown(reach, limit, WINDOW_STEP)
    lit = flaw.window.grown(2 * reach, limit, WINDOW_STEP)
    part = layers.crop(*lit.slices)
    flaw.apply(part, *flaw.window.inside(lit))
    fresh = shade(scene, part, lit, supersample)
    picture = flawless.copy()
    to_rows, to_cols = _reduced(changed.slices, supersample)
    from_rows, from_cols = _reduced(changed.inside(lit), supersample)
    picture[to_rows, to_cols] = fresh[from_rows, from_cols]
    return picture


def _reduced(slices: tuple[slice, slice], factor: int) -> tuple[slice, slice]:
    rows, cols = slices
    return slice(rows.start // factor, rows.stop // factor), slice(cols.start // factor, cols.stop // factor)


def _mask(flaw: Flaw, shown: F32, changed: F32, supersample: int) -> tuple[U8, float]:
    """The flaw's visible footprint [H, W], and its contrast: 1 is what a careful eye needs on this texture."""
    size = shown.shape[0]
    cover = np.zeros((size * supersample, size * supersample), dtype=np.float32)
    cover[flaw.window.slices] = flaw.cover
    cover = as_f32(cv2.resize(cover, (size, size), interpolation=cv2.INTER_AREA))
    change = as_f32(np.abs(changed - shown).max(axis=2))
    seen = soften(change, 1.5 * size / 256.0) >= _SEEN
    mask = ((cover >= 0.5) & seen).astype(np.uint8)
    count = int(mask.sum())
    if count < 14 * (size / 256.0) ** 1.2:
        return mask, 0.0
    rows, cols = _reduced(flaw.window.slices, supersample)
    camouflage = float(shown[rows, cols, 1].std())
    return mask, float(change[mask > 0].mean()) / (_VISIBLE + _CAMOUFLAGE * camouflage)


def _quantise(shown: F32, noise: F32) -> U8:
    return np.asarray(np.clip(np.rint(shown + noise), 0, 255), dtype=np.uint8)
