"""Small numeric tools of the button renderer: seeded streams, coordinates, noise fields and drawn shapes.

Everything is float32 and planar. Lengths are in units of the button's radius, so a picture keeps its geometry at any
size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

F32: TypeAlias = npt.NDArray[np.float32]
U8: TypeAlias = npt.NDArray[np.uint8]
Polygon: TypeAlias = npt.NDArray[np.float64]

_SUBPIXEL_BITS = 6
_NOISE_REACH = 1.35
"""Half the side of a noise field, in radii: the part and its domain warping lie within."""


def stream(*key: int) -> np.random.Generator:
    """Give the random stream of a key: equal keys give equal streams, and no draw moves another stream."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(key))))


def as_f32(values: npt.ArrayLike) -> F32:
    """Pin the type of what an OpenCV call returns."""
    return np.asarray(values, dtype=np.float32)


def smoothstep(low: float, high: float, values: F32) -> F32:
    """Rise from 0 at `low` to 1 at `high` (or fall, where `low` is above `high`) with flat ends."""
    t = np.clip((values - np.float32(low)) * np.float32(1.0 / (high - low)), 0.0, 1.0)
    return as_f32(t * t * (3.0 - 2.0 * t))


def linear(*srgb: float) -> F32:
    """Turn display values (0 to 255) into linear light (0 to 1) with the renderer's gamma of 2."""
    return as_f32((np.asarray(srgb, dtype=np.float32) / 255.0) ** 2)


def mix(first: F32, second: F32, amount: F32) -> F32:
    """Blend two sets of planes ([3, 1, 1] or [3, H, W]) by `amount` [H, W]."""
    return as_f32(first + (second - first) * amount)


def plane(colour: F32) -> F32:
    """Shape a colour [3] so that it spreads over planes [3, H, W]."""
    return colour.reshape(3, 1, 1)


def soften(values: F32, sigma_px: float) -> F32:
    """Gaussian blur, in pixels of the buffer."""
    return as_f32(cv2.GaussianBlur(values, (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT_101))


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of the buffer: rows `top` to `bottom`, columns `left` to `right`, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """The rectangle as an index of the last two axes."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def grown(self, margin: int, limit: int, step: int) -> Window:
        """Grow by `margin` on all sides, then outward to multiples of `step`, within 0 to `limit`."""

        def down(value: int) -> int:
            return max(0, (value - margin) // step * step)

        def up(value: int) -> int:
            return min(limit, -(-(value + margin) // step) * step)

        return Window(down(self.top), up(self.bottom), down(self.left), up(self.right))

    def inside(self, outer: Window) -> tuple[slice, slice]:
        """The rectangle as an index into an array that covers `outer`."""
        return (
            slice(self.top - outer.top, self.bottom - outer.top),
            slice(self.left - outer.left, self.right - outer.left),
        )


@dataclass(frozen=True, slots=True)
class Plane:
    """Coordinates of (a window of) the buffer, in radii from the button's centre.

    `x` (right) and `y` (down) are the camera's axes, `p` and `q` the same turned with the button, all [H, W].
    `unit` is the radius and `origin` the centre in pixels of this buffer.
    """

    x: F32
    y: F32
    p: F32
    q: F32
    unit: float
    origin: tuple[float, float]

    def crop(self, window: Window) -> Plane:
        """The same coordinates within a window."""
        rows, cols = window.slices
        origin = (self.origin[0] - window.left, self.origin[1] - window.top)
        return Plane(self.x[rows, cols], self.y[rows, cols], self.p[rows, cols], self.q[rows, cols], self.unit, origin)

    def window_about(self, points: Polygon, margin: float) -> Window:
        """The smallest window of the buffer that holds `points` [n, 2] (x, y) and `margin` radii around them."""
        height, width = self.x.shape
        low = (points.min(axis=0) - margin) * self.unit + self.origin
        high = (points.max(axis=0) + margin) * self.unit + self.origin
        return Window(
            top=int(np.clip(np.floor(low[1]), 0, height - 2)),
            bottom=int(np.clip(np.ceil(high[1]), 2, height)),
            left=int(np.clip(np.floor(low[0]), 0, width - 2)),
            right=int(np.clip(np.ceil(high[0]), 2, width)),
        )

    def draw(self, polygons: Sequence[Polygon]) -> F32:
        """Coverage [H, W], 0 to 1, of the union of filled polygons, each [n, 2] (x, y) in radii."""
        canvas: U8 = np.zeros(self.x.shape, dtype=np.uint8)
        for polygon in polygons:
            # A pixel's centre, not its corner, is OpenCV's whole number.
            corners = np.rint((polygon * self.unit + self.origin - 0.5) * 2**_SUBPIXEL_BITS).astype(np.int32)
            cv2.fillPoly(canvas, [corners], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
        return as_f32(canvas) * np.float32(1.0 / 255.0)


def make_plane(size: int, radius: float, centre: tuple[float, float], turn: float) -> Plane:
    """Lay coordinates over a buffer of `size` pixels for a button of `radius` pixels turned by `turn` radians."""
    steps = np.arange(size, dtype=np.float32) + 0.5
    across = as_f32((steps - centre[0]) / radius)[None, :]
    down = as_f32((steps - centre[1]) / radius)[:, None]
    x, y = np.broadcast_arrays(across, down)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    return Plane(as_f32(x), as_f32(y), as_f32(x * cos + y * sin), as_f32(y * cos - x * sin), radius, centre)


def noise(rng: np.random.Generator, u: F32, v: F32, frequency: tuple[float, float], angle: float = 0.0) -> F32:
    """Smooth noise over coordinates `u`, `v` [H, W], zero mean, deviation about 0.6, mostly within -1.5 to 1.5.

    `frequency` is in cells per radius along and across `angle`; the field repeats mirrored beyond the part.
    A small random grid is enlarged, so low frequencies cost as little as they hold.
    """
    along, across = frequency
    columns, rows = (int(np.ceil(2.0 * _NOISE_REACH * f)) + 5 for f in frequency)
    enlarge = 8 if max(columns, rows) <= 100 else 3
    grid = rng.standard_normal((rows, columns), dtype=np.float32)
    # Enlarging in exact arithmetic first keeps remap's 1/32-pixel steps below what shading can show.
    fine = cv2.resize(grid, (columns * enlarge, rows * enlarge), interpolation=cv2.INTER_CUBIC)
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    offset = (enlarge - 1) / 2.0
    map_x = u * np.float32(cos * along * enlarge) + v * np.float32(sin * along * enlarge)
    map_y = v * np.float32(cos * across * enlarge) - u * np.float32(sin * across * enlarge)
    map_x += np.float32((columns - 1) / 2.0 * enlarge + offset)
    map_y += np.float32((rows - 1) / 2.0 * enlarge + offset)
    return as_f32(cv2.remap(fine, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101))


def blob(rng: np.random.Generator, radius: float, uneven: float, elongation: float = 1.0, points: int = 72) -> Polygon:
    """Outline [points, 2] of an irregular blob about the origin, turned at random."""
    theta = np.linspace(0.0, 2.0 * np.pi, points, endpoint=False)
    outline = np.ones(points)
    for order in range(2, 7):
        outline += uneven / order * rng.normal() * np.cos(order * theta + rng.uniform(0.0, 2.0 * np.pi))
    outline = np.maximum(outline, 0.35) * radius
    stretch = np.sqrt(elongation)
    shape = np.stack([outline * np.cos(theta) * stretch, outline * np.sin(theta) / stretch], axis=1)
    return turned(shape, rng.uniform(0.0, 2.0 * np.pi))


def turned(points: Polygon, angle: float) -> Polygon:
    """Turn points [n, 2] about the origin."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.asarray(points @ np.array([[cos, sin], [-sin, cos]]), dtype=np.float64)


def ribbon(path: Polygon, half_width: npt.NDArray[np.float64]) -> Polygon:
    """Outline of a line along `path` [n, 2] whose half width [n] changes on the way."""
    direction = np.gradient(path, axis=0)
    direction /= np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-9)
    side = np.stack([-direction[:, 1], direction[:, 0]], axis=1) * half_width[:, None]
    return np.concatenate([path + side, (path - side)[::-1]])
