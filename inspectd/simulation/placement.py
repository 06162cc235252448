"""Placements of new defects: the map that carries a reference to a background, and the list on the disk.

A `Placement` is data. With the reference's mask it gives the label L on the background (`place_mask`), and it carries
the reference's pixels to where L is (`warp`), both by one map, affine and elastic:

    p                   a pixel of the background
    q = A⁻¹ (p - t)     `affine` is [A | t], reference px -> background px
    r = q + u(q)        the point of the reference that is seen at p

u is a cubic B-spline on the reference, its knots drawn evenly within ±`elastic_px`. It bends too little to fold.
A reference goes 1 px to 1 px onto a background of another size, but for the scale that is drawn.

`planning.plan` draws the list, `write_placements` keeps it for good.
Points are (x, y) in px, the centre of the upper left pixel being (0, 0).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from inspectd.errors import DatasetError

from .region import BoolMask, Floats
from .site import Kind

__all__ = [
    "DECIMALS",
    "VARIED",
    "Carried",
    "Kind",
    "Placement",
    "PlacementSettings",
    "carry",
    "generator",
    "in_place",
    "place_mask",
    "read_placements",
    "warp",
    "write_placements",
]

_KNOTS = 32
"""Knots of the elastic displacement along each axis; it repeats after them."""
DECIMALS = 6
"""Numbers of a placement are rounded to this, so that the last digit of a processor's cosine decides nothing."""


class PlacementSettings(BaseModel):
    """How placements are drawn. Lengths are px of the pictures; the defaults are for 256 px."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rotation_deg: float = Field(180.0, ge=0, le=180)
    """Highest rotation, either way. On the rim the rotation is that of the outline between the two places."""
    scale: tuple[float, float] = (0.8, 1.25)
    """Lowest and highest scale; drawn evenly in its logarithm."""
    flips: bool = True
    """Mirror half of the defects."""
    elastic_px: float = Field(2.0, ge=0)
    """Highest displacement of the elastic variant; drawn evenly from 0 on. 0 is affine only."""
    elastic_spacing_px: float = Field(16.0, gt=0)
    """Distance of the elastic displacement's knots; at least 4 times `elastic_px`, so that nothing folds."""
    gain: tuple[float, float] = (1.0, 1.0)
    """Lowest and highest factor on the severity of a defect that one sees the surface through, drawn evenly."""
    hue_deg: float = Field(0.0, ge=0, le=180)
    """Highest turn of such a defect's colour about the axis of greys, either way."""
    per_image: tuple[int, int] = (1, 1)
    """Lowest and highest number of defects on one background."""
    margin_px: int = Field(4, ge=0)
    """Pixels that stay free between two defects of a background, along rows and columns."""
    rim_px: float = Field(3.0, ge=1)
    """A defect that comes so near to the part's edge is a rim defect; others stay farther away."""
    outside_tolerance: float = Field(0.1, ge=0, le=1)
    """How far the share of a rim defect outside the part may be from the reference's."""
    min_px: int = Field(12, ge=1)
    """Fewest pixels of a placed mask."""
    tries: int = Field(20, ge=1)
    """Shapes that are drawn before a background is given up; each looks for its place everywhere, or all along the
    rim."""

    @model_validator(mode="after")
    def _consistent(self) -> PlacementSettings:
        for name in ("scale", "gain", "per_image"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} is {low} to {high}: give the lowest first")
        if not 0.25 <= self.scale[0] <= self.scale[1] <= 4.0:
            raise ValueError(f"scale is {self.scale[0]} to {self.scale[1]}: expected numbers from 0.25 to 4")
        if self.gain[0] < 0.0:
            raise ValueError(f"gain is {self.gain[0]} to {self.gain[1]}: expected numbers from 0 on")
        if self.per_image[0] < 1:
            raise ValueError(f"per_image is {self.per_image[0]} to {self.per_image[1]}: expected at least 1 defect")
        if 4.0 * self.elastic_px > self.elastic_spacing_px:
            raise ValueError(
                f"elastic_px {self.elastic_px} folds the picture between knots {self.elastic_spacing_px} px apart; "
                f"the highest that does not: {self.elastic_spacing_px / 4.0}"
            )
        return self


VARIED = PlacementSettings(gain=(0.5, 1.2), hue_deg=180.0)
"""Strength and hue as simulated datasets have them: one reference shows one of each, the line will show others."""


@dataclass(frozen=True, slots=True)
class Placement:
    """One defect of one simulated image, before anything is painted.

    Attributes:
        sample: index of the simulated image; several defects of an image share it.
        background: name of the good image.
        reference: name of the reference.
        defect: its type.
        kind: where it lies on the reference, and was therefore put.
        seed: of the list that it is from.
        affine: (a, b, c, d, e, f): reference (x, y) -> background (a x + b y + c, d x + e y + f).
        elastic_px: highest displacement of the elastic map, px of the reference.
        elastic_spacing_px: distance of its knots, px of the reference.
        elastic_seed: what its knots are drawn from.
        gain: factor on the severity of a defect that one sees the surface through.
        hue_deg: turn of its colour.

    Raises:
        ValueError: an affine map that cannot be inverted.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    sample: int
    background: str
    reference: str
    defect: str
    kind: Kind
    seed: int
    affine: tuple[float, float, float, float, float, float]
    elastic_px: float
    elastic_spacing_px: float
    elastic_seed: int
    gain: float
    hue_deg: float = 0.0

    def __post_init__(self) -> None:
        if not self.scale > 0.0:
            raise ValueError(f"the affine map {self.affine} cannot be inverted")

    @property
    def scale(self) -> float:
        """Lengths on the background for 1 px of the reference; the geometric mean of the two axes."""
        a, b, _, d, e, _ = self.affine
        return math.sqrt(abs(a * e - b * d))


def in_place(reference: str, defect: str, background: str) -> Placement:
    """A defect carried pixel for pixel to where it is on its reference."""
    return Placement(
        sample=0,
        background=background,
        reference=reference,
        defect=defect,
        kind="face",
        seed=0,
        affine=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        elastic_px=0.0,
        elastic_spacing_px=16.0,
        elastic_seed=0,
        gain=1.0,
    )


def place_mask(placement: Placement, mask: BoolMask, shape: tuple[int, int]) -> BoolMask:
    """The label L of a placement: bool [H, W].

    L has as many pixels as the scale promises: those that the carried mask covers most. Each connected piece of the
    reference's mask gives one piece of L at most, its largest; crumbs are left out. The frame cuts L.

    Args:
        placement: the placement.
        mask: the reference's mask, bool [h, w].
        shape: (height, width) of the background, px.
    """
    return carry(placement, mask).on(shape)


def warp(
    placement: Placement,
    field: NDArray[np.uint8] | NDArray[np.float32] | Floats,
    shape: tuple[int, int],
    window: tuple[slice, slice] | None = None,
) -> NDArray[np.float32]:
    """The reference's pixels, or anything known at each of them, where the placement carries them.

    Bicubic: bilinear would blur a thin defect. Beyond the reference's frame its outermost pixels go on.

    Args:
        placement: the placement.
        field: [h, w, C] on the reference.
        shape: (height, width) of the background, px.
        window: rows and columns of the background that are wanted; None for all.

    Returns:
        float32 [H, W, C] in the field's units, or the window's part of it.

    Raises:
        ValueError: a field without channels.
    """
    if field.ndim != 3:
        raise ValueError(f"expected a field [h, w, C], got one of shape {list(field.shape)}")
    rows, columns = window or (slice(None), slice(None))
    y, x = np.arange(shape[0])[rows], np.arange(shape[1])[columns]
    at_x, at_y = (np.asarray(at, np.float32) for at in _source(placement, x, y))
    values = cv2.remap(field.astype(np.float32), at_x, at_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(values, np.float32).reshape(*at_x.shape, field.shape[2])


@dataclass(frozen=True, slots=True, eq=False)
class Carried:
    """A mask on the background's grid, its upper left pixel at (left, top), inside the frame or not."""

    mask: BoolMask
    left: int
    top: int

    def on(self, shape: tuple[int, int]) -> BoolMask:
        """The part of it in a frame: bool [H, W]."""
        out = np.zeros(shape, np.bool_)
        top, left = max(self.top, 0), max(self.left, 0)
        bottom, right = (
            min(start + side, limit)
            for start, side, limit in zip((self.top, self.left), self.mask.shape, shape, strict=True)
        )
        if top < bottom and left < right:
            out[top:bottom, left:right] = self.mask[
                top - self.top : bottom - self.top, left - self.left : right - self.left
            ]
        return out


def _source(placement: Placement, x: NDArray[np.int64], y: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """The points of the reference seen at columns `x` [w] and rows `y` [h]: their x and y, [h, w] each."""
    a, b, c, d, e, f = placement.affine
    determinant = a * e - b * d
    right, down = (x - c)[None, :], (y - f)[:, None]
    at_x, at_y = (e * right - b * down) / determinant, (a * down - d * right) / determinant
    if placement.elastic_px == 0.0:
        return at_x, at_y
    knots = placement.elastic_px * (2.0 * generator(placement.elastic_seed).random((2, _KNOTS, _KNOTS)) - 1.0)
    shift_x, shift_y = _spline(knots, at_x / placement.elastic_spacing_px, at_y / placement.elastic_spacing_px)
    return at_x + shift_x, at_y + shift_y


def _spline(knots: Floats, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """A uniform cubic B-spline with knots [2, n, n] that repeat, at (x, y) [h, w] in knots: two of [h, w]."""
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    across, down = _basis(x - column), _basis(y - row)
    columns = [(column + step) % _KNOTS for step in range(4)]
    out_x, out_y = np.zeros_like(x), np.zeros_like(y)
    for step, weight_y in enumerate(down):
        start = (row + step) % _KNOTS * _KNOTS
        for weight_x, place in zip(across, columns, strict=True):
            weight, knot = weight_y * weight_x, start + place
            out_x += weight * knots[0].take(knot)
            out_y += weight * knots[1].take(knot)
    return out_x, out_y


def _basis(t: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """The four weights of a cubic B-spline between two knots; none is negative, and their sum is 1."""
    back = 1.0 - t
    return (
        back**3 / 6.0,
        (3.0 * t**3 - 6.0 * t**2 + 4.0) / 6.0,
        (3.0 * back**3 - 6.0 * back**2 + 4.0) / 6.0,
        t**3 / 6.0,
    )


def _bilinear(field: NDArray[np.uint8] | NDArray[np.float32] | Floats, x: Floats, y: Floats) -> Floats:
    """Values of [h, w, C] at points (x, y), any shape: [..., C]; the outermost pixels go on."""
    height, width = field.shape[:2]
    x, y = np.clip(x, 0.0, width - 1.0), np.clip(y, 0.0, height - 1.0)
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    u, v = (x - left)[..., None], (y - top)[..., None]
    upper = field[top, left] * (1.0 - u) + field[top, right] * u
    lower = field[bottom, left] * (1.0 - u) + field[bottom, right] * u
    return np.asarray(upper * (1.0 - v) + lower * v, np.float64)


def carry(placement: Placement, mask: BoolMask) -> Carried:
    """The label of `place_mask`, before the frame cuts it."""
    rows, columns = np.nonzero(mask)
    nothing = Carried(np.zeros((0, 0), np.bool_), 0, 0)
    if not rows.size:
        return nothing
    # The box of the mask with room for the displacement, its corners carried to the background.
    room = placement.elastic_px + 1.0
    x = np.array([columns.min() - room, columns.max() + room])
    y = np.array([rows.min() - room, rows.max() + room])
    a, b, c, d, e, f = placement.affine
    at_x, at_y = np.add.outer(a * x, b * y) + c, np.add.outer(d * x, e * y) + f
    left, top = math.floor(at_x.min()), math.floor(at_y.min())
    x_px, y_px = np.arange(left, math.ceil(at_x.max()) + 1), np.arange(top, math.ceil(at_y.max()) + 1)

    # A pixel around the mask keeps a defect at its frame from going on beyond it.
    framed = np.pad(mask, 1)
    at_x, at_y = _source(placement, x_px, y_px)
    cover = np.round(_bilinear(framed.astype(np.float64)[..., None], at_x + 1.0, at_y + 1.0)[..., 0], DECIMALS)
    wanted = max(1, round(rows.size * placement.scale**2))
    if wanted < cover.size:
        # Far from one half there is too much or too little of the mask here (its elastic variant), not a soft edge.
        threshold = min(max(float(np.partition(cover.ravel(), -wanted)[-wanted]), 0.25), 0.75)
    else:
        threshold = 0.5
    return _trim(Carried(_without_crumbs(cover >= threshold, framed, at_x + 1.0, at_y + 1.0), left, top)) or nothing


def _without_crumbs(label: BoolMask, mask: BoolMask, x: Floats, y: Floats) -> BoolMask:
    """The label with one piece, the largest, for each piece of the mask; (x, y) is where its pixels are from."""
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(label.astype(np.uint8), connectivity=8)
    if count <= 2:
        return label
    nearest = _nearest_piece(mask)
    rows = np.clip(np.rint(y), 0, mask.shape[0] - 1).astype(np.int64)
    columns = np.clip(np.rint(x), 0, mask.shape[1] - 1).astype(np.int64)
    origin = nearest[rows, columns]
    kept: dict[int, int] = {}
    for piece in sorted(range(1, count), key=lambda piece: (-int(stats[piece, cv2.CC_STAT_AREA]), piece)):
        kept.setdefault(int(np.bincount(origin[pieces == piece]).argmax()), piece)
    return np.isin(pieces, list(kept.values()))


def _nearest_piece(mask: BoolMask) -> NDArray[np.int32]:
    """For each pixel, the number of the mask's connected piece that is nearest."""
    _, pieces = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    _, zones = cv2.distanceTransformWithLabels(
        (~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    owner = np.zeros(int(zones.max()) + 1, np.int32)
    owner[zones[mask]] = pieces[mask]
    return np.asarray(owner[zones], np.int32)


def _trim(carried: Carried) -> Carried | None:
    """Without empty rows and columns around it; None without a pixel."""
    rows, columns = np.nonzero(carried.mask)
    if not rows.size:
        return None
    top, left = int(rows.min()), int(columns.min())
    inner = carried.mask[top : int(rows.max()) + 1, left : int(columns.max()) + 1]
    return Carried(inner, carried.left + left, carried.top + top)


def write_placements(path: Path, placements: Iterable[Placement]) -> None:
    """Write a list as JSON lines, whole or not at all; reading gives it back exactly."""
    lines = [json.dumps(dataclasses.asdict(placement), allow_nan=False) + "\n" for placement in placements]
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(lines), encoding="utf-8", newline="\n")
    partial.replace(path)


def read_placements(path: Path) -> tuple[Placement, ...]:
    """Read a list that `write_placements` wrote.

    Raises:
        DatasetError: the file cannot be read, or a line is no placement.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as a list of placements: {error}") from None
    adapter = TypeAdapter(Placement)
    placements = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            placements.append(adapter.validate_json(line, strict=True))
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(str(part) for part in fault["loc"]) or "the line"
            raise DatasetError(
                f"{path} line {number}: no placement: {where}: {fault['msg']}; "
                "expected a file that `write_placements` wrote"
            ) from None
    return tuple(placements)


def generator(*key: int) -> np.random.Generator:
    """The generator of a key of whole numbers from 0 on."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(key))))
