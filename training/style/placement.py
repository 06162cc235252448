"""Where a new defect goes: a seeded list of placements, the same for every method that paints them.

A `Placement` is data. With the reference's mask it gives the label L on the background (`place_mask`), and it carries
the reference's pixels to where L is (`warp`), both by one map, affine and elastic:

    p                   a pixel of the background
    q = A⁻¹ (p - t)     `affine` is [A | t], reference px -> background px
    r = q + u(q)        the point of the reference that is seen at p

u is a cubic B-spline on the reference, its knots drawn evenly within ±`elastic_px`. It bends too little to fold.
A reference goes 1 px to 1 px onto a background of another size, but for the scale that is drawn.

`plan` draws the list. It is calculated in NumPy and fp64 from generators of (seed, sample), never from the
method that paints, and a longer list begins with the shorter one. `write_placements` keeps it for good.
Points are (x, y) in px, the centre of the upper left pixel being (0, 0).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from inspectd.errors import DatasetError

from .region import Background, Floats, Kind, Mask, Reference, Site, Subject, site_of, subject_of

__all__ = [
    "Background",
    "Kind",
    "Placement",
    "PlacementSettings",
    "Plan",
    "Reference",
    "place_mask",
    "plan",
    "read_placements",
    "warp",
    "write_placements",
]

_KNOTS = 32
"""Knots of the elastic displacement along each axis; it repeats after them."""
_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_DECIMALS = 6
"""Numbers of a placement are rounded to this, so that the last digit of a processor's cosine decides nothing."""
_LEAST_AREA = 0.8
"""A placed mask has at least this share of the area that its scale promises; less means pieces were lost."""
_CANDIDATES = 64
"""Places along the rim that one draw of a shape looks at, ..."""
_CHECKED = 6
"""... and how many of those that look free are calculated exactly."""
_HASTE = 0.05
"""Error allowed for shares that are taken from a mask's probes, without the elastic variant."""
_STRETCH = 2.0
"""A defect that spans the picture is stretched or compressed to another by this at most."""


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
    """Lowest and highest factor on the defect's severity, drawn evenly; what it means is the painting method's."""
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
        gain: factor on the severity.

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

    def __post_init__(self) -> None:
        if not self.scale > 0.0:
            raise ValueError(f"the affine map {self.affine} cannot be inverted")

    @property
    def scale(self) -> float:
        """Lengths on the background for 1 px of the reference; the geometric mean of the two axes."""
        a, b, _, d, e, _ = self.affine
        return math.sqrt(abs(a * e - b * d))


@dataclass(frozen=True, slots=True)
class Plan:
    """What `plan` found.

    Attributes:
        placements: in the order of the samples.
        skipped: (reference, background) pairs for which no place was found; another background took the defect.
        dropped: further defects of an image (`per_image`) for which there was no room beside the others.
    """

    placements: tuple[Placement, ...]
    skipped: tuple[tuple[str, str], ...]
    dropped: int


def place_mask(placement: Placement, mask: Mask, shape: tuple[int, int]) -> Mask:
    """The label L of a placement: bool [H, W].

    L has as many pixels as the scale promises: those that the carried mask covers most. Each connected piece of the
    reference's mask gives one piece of L at most, its largest; crumbs are left out. The frame cuts L.

    Args:
        placement: the placement.
        mask: the reference's mask, bool [h, w].
        shape: (height, width) of the background, px.
    """
    return _carry(placement, mask).on(shape)


def warp(
    placement: Placement,
    field: NDArray[np.uint8] | NDArray[np.float32] | Floats,
    shape: tuple[int, int],
    window: tuple[slice, slice] | None = None,
) -> NDArray[np.float32]:
    """The reference's pixels, or anything known at each of them, where the placement carries them.

    Bilinear; beyond the reference's frame its outermost pixels go on.

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
    at_x, at_y = _source(placement, x, y)
    return _bilinear(field, at_x, at_y).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Carried:
    """A mask on the background's grid, its upper left pixel at (left, top), inside the frame or not."""

    mask: Mask
    left: int
    top: int

    def on(self, shape: tuple[int, int]) -> Mask:
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
    knots = placement.elastic_px * (2.0 * _generator(placement.elastic_seed).random((2, _KNOTS, _KNOTS)) - 1.0)
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


def _carry(placement: Placement, mask: Mask) -> _Carried:
    """The label of `place_mask`, before the frame cuts it."""
    rows, columns = np.nonzero(mask)
    nothing = _Carried(np.zeros((0, 0), np.bool_), 0, 0)
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
    cover = np.round(_bilinear(framed.astype(np.float64)[..., None], at_x + 1.0, at_y + 1.0)[..., 0], _DECIMALS)
    wanted = max(1, round(rows.size * placement.scale**2))
    if wanted < cover.size:
        # Far from one half there is too much or too little of the mask here (its elastic variant), not a soft edge.
        threshold = min(max(float(np.partition(cover.ravel(), -wanted)[-wanted]), 0.25), 0.75)
    else:
        threshold = 0.5
    return _trim(_Carried(_without_crumbs(cover >= threshold, framed, at_x + 1.0, at_y + 1.0), left, top)) or nothing


def _without_crumbs(label: Mask, mask: Mask, x: Floats, y: Floats) -> Mask:
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


def _nearest_piece(mask: Mask) -> NDArray[np.int32]:
    """For each pixel, the number of the mask's connected piece that is nearest."""
    _, pieces = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    _, zones = cv2.distanceTransformWithLabels(
        (~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    owner = np.zeros(int(zones.max()) + 1, np.int32)
    owner[zones[mask]] = pieces[mask]
    return np.asarray(owner[zones], np.int32)


def _trim(carried: _Carried) -> _Carried | None:
    """Without empty rows and columns around it; None without a pixel."""
    rows, columns = np.nonzero(carried.mask)
    if not rows.size:
        return None
    top, left = int(rows.min()), int(columns.min())
    inner = carried.mask[top : int(rows.max()) + 1, left : int(columns.max()) + 1]
    return _Carried(inner, carried.left + left, carried.top + top)


def plan(
    references: Sequence[Reference],
    backgrounds: Sequence[Background],
    count: int,
    settings: PlacementSettings,
    seed: int,
) -> Plan:
    """Draw the placements of `count` simulated images.

    References and backgrounds are gone through in rounds, each in an order of its own: none is used twice before all
    others are used once. A face defect may go wherever it fits in the part, all places alike. A rim defect goes to any
    place of the outline, turned by the angle between the two normals (about the centre of a round part): it
    reaches as far over the edge as it did, to `rim_px`, and the same share of it lies outside the part, to
    `outside_tolerance`. A defect at the picture's edge touches the same edges again, turned by quarters, stretched
    along an axis that it spans. No defect touches a hole, a forbidden pixel, or another defect's margin.

    A background that has no room for a defect is passed over for the next one, and is the first choice for the next
    defect. Where not all defects of an image have room, it gets fewer.

    Args:
        references: the labelled defects; those of one type are used in turn like any others.
        backgrounds: the good pictures; any sequence, so that regions may be read when they are asked for.
        count: images to simulate.
        settings: how to draw.
        seed: of the whole list.

    Raises:
        DatasetError: no reference or background, two of one name, an unusable one, or a reference for which no
            background has a place.
    """
    if not references or not backgrounds:
        raise DatasetError(
            f"{len(references)} references and {len(backgrounds)} backgrounds: expected at least 1 of each"
        )
    if count < 0 or seed < 0:
        raise DatasetError(f"count is {count} and seed is {seed}: expected whole numbers from 0 on")
    subjects = [subject_of(reference, settings.rim_px, settings.min_px) for reference in references]
    names = [reference.name for reference in references]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DatasetError(f"two references are named {twice[0]!r}; a placement could not tell them apart")
    search = _Search(subjects, backgrounds, settings, seed)
    for sample in range(count):
        search.fill(sample)
    return Plan(tuple(search.placements), tuple(search.skipped), search.dropped)


class _Turns:
    """Numbers 0..n-1 in shuffled rounds; what is not taken stays in front."""

    def __init__(self, n: int, *key: int) -> None:
        self._n, self._key, self._rounds = n, key, 0
        self._waiting: list[int] = []

    def __iter__(self) -> Iterator[int]:
        """Each number once, in the order of their turn."""
        seen: set[int] = set()
        at = 0
        while len(seen) < self._n:
            if at == len(self._waiting):
                order = _generator(*self._key, self._rounds).permutation(self._n)
                self._waiting.extend(int(number) for number in order)
                self._rounds += 1
            if (number := self._waiting[at]) not in seen:
                seen.add(number)
                yield number
            at += 1

    def take(self, number: int) -> None:
        """Use up the first turn of a number."""
        self._waiting.remove(number)


@dataclass(frozen=True, slots=True, eq=False)
class _Draw:
    """One drawn shape that looks for its place."""

    draft: Placement
    """All but the affine map."""
    scale: float
    subject: Subject
    site: Site
    taken: Mask
    """The margins of the background's other defects, bool [H, W]."""
    settings: PlacementSettings
    rng: np.random.Generator

    def at(self, linear: Floats, shift: Floats) -> Placement:
        """The placement with the affine map of `linear` [2, 2] and `shift` [2]."""
        (a, b), (d, e) = ((round(float(value), _DECIMALS) for value in row) for row in linear)
        c, f = (round(float(value), _DECIMALS) for value in shift)
        return dataclasses.replace(self.draft, affine=(a, b, c, d, e, f))


class _Search:
    """The state of a plan: whose turn it is, and what was found so far."""

    def __init__(
        self, subjects: list[Subject], backgrounds: Sequence[Background], settings: PlacementSettings, seed: int
    ) -> None:
        self.placements: list[Placement] = []
        self.skipped: list[tuple[str, str]] = []
        self.dropped = 0
        self._subjects, self._backgrounds, self._settings, self._seed = subjects, backgrounds, settings, seed
        self._subject_turns = _Turns(len(subjects), seed, 1)
        self._background_turns = _Turns(len(backgrounds), seed, 2)
        self._refused: set[tuple[int, int]] = set()
        self._names: dict[str, int] = {}

    def fill(self, sample: int) -> None:
        """Place all defects of one image."""
        rng = _generator(self._seed, 0, sample)
        low, high = self._settings.per_image
        further = int(rng.integers(low, high + 1)) - 1
        site, mask = self._first(next(iter(self._subject_turns)), sample, rng)
        taken = _grow(mask, self._settings.margin_px)
        for _ in range(further):
            for number in self._subject_turns:
                if (found := self._place(number, site, taken, sample, rng)) is not None:
                    taken |= _grow(found, self._settings.margin_px)
                    break
            else:
                self.dropped += 1

    def _first(self, number: int, sample: int, rng: np.random.Generator) -> tuple[Site, Mask]:
        """Place the first defect of an image on the next background that has room: that background, and L.

        Raises:
            DatasetError: no background has room, or two have one name.
        """
        for turn in self._background_turns:
            if (number, turn) in self._refused:
                continue
            site = site_of(self._backgrounds[turn], self._settings.rim_px)
            if self._names.setdefault(site.background.name, turn) != turn:
                name = site.background.name
                raise DatasetError(f"two backgrounds are named {name!r}; a placement could not tell them apart")
            mask = self._place(number, site, np.zeros(site.shape, np.bool_), sample, rng)
            if mask is not None:
                self._background_turns.take(turn)
                return site, mask
            self._refused.add((number, turn))
            self.skipped.append((self._subjects[number].reference.name, site.background.name))
        raise DatasetError(self._no_room(self._subjects[number]))

    def _place(self, number: int, site: Site, taken: Mask, sample: int, rng: np.random.Generator) -> Mask | None:
        """Place one defect and keep it: its L, or None where there is no room."""
        settings, subject = self._settings, self._subjects[number]
        find = {"face": _on_face, "rim": _on_rim, "frame": _at_frame}[subject.kind]
        for _ in range(settings.tries):
            draft = Placement(
                sample=sample,
                background=site.background.name,
                reference=subject.reference.name,
                defect=subject.reference.defect,
                kind=subject.kind,
                seed=self._seed,
                affine=_IDENTITY,
                elastic_px=_between(rng, 0.0, settings.elastic_px),
                elastic_spacing_px=settings.elastic_spacing_px,
                elastic_seed=int(rng.integers(2**32)),
                gain=_between(rng, *settings.gain),
            )
            scale = round(math.exp(_between(rng, *(math.log(limit) for limit in settings.scale))), _DECIMALS)
            for placement in find(_Draw(draft, scale, subject, site, taken, settings, rng)):
                if (mask := _checked(placement, subject, site, taken, settings)) is not None:
                    self._subject_turns.take(number)
                    self.placements.append(placement)
                    return mask
        return None

    def _no_room(self, subject: Subject) -> str:
        """Why no background takes a reference, and what to do."""
        name = f"reference {subject.reference.name!r} ({subject.reference.defect})"
        count, low = len(self._backgrounds), self._settings.scale[0]
        sites = [site_of(background, self._settings.rim_px) for background in self._backgrounds]
        if subject.kind == "rim" and not any(len(site.edge.points) for site in sites):
            return (
                f"{name}: lies on the rim, but none of the {count} backgrounds shows an edge of the part; "
                "give the regions of the part as masks"
            )
        largest = max(int(site.inside.sum()) for site in sites)
        if subject.area * low**2 > largest:
            return (
                f"{name}: larger than the part: {round(subject.area * low**2)} px at the lowest scale {low}, and the "
                f"largest part has {largest} px; use pictures of one magnification, or lower the setting `scale`"
            )
        rows, columns = np.nonzero(subject.reference.mask)
        return (
            f"{name}: no place on any of {count} backgrounds for {np.ptp(columns) + 1} x {np.ptp(rows) + 1} px of "
            f"{subject.kind} defect at scales from {low} on: larger than the part between its holes and forbidden "
            "pixels, or too few tries; lower the setting `scale` or raise `tries`"
        )


def _on_face(draw: _Draw) -> Iterator[Placement]:
    """One of the places where the shape fits, all alike: blocked pixels are counted under it at every place."""
    rng, site = draw.rng, draw.site
    angle = math.radians(draw.settings.rotation_deg) * _between(rng, -1.0, 1.0)
    mirror = draw.settings.flips and rng.random() < 0.5
    cos, sin = draw.scale * math.cos(angle), draw.scale * math.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]]) * (-1.0 if mirror else 1.0, 1.0)
    shift, pick = rng.random(2), rng.random()
    shape = draw.at(linear, shift)
    carried = _carry(shape, draw.subject.reference.mask)
    (height, width), (rows, columns) = carried.mask.shape, site.shape
    if not height or height > rows or width > columns:
        return
    blocked = (~site.face | draw.taken).astype(np.float32)
    counts = cv2.filter2D(blocked, cv2.CV_32F, carried.mask.astype(np.float32), anchor=(0, 0))
    free_y, free_x = np.nonzero(counts[: rows - height + 1, : columns - width + 1] < 0.5)
    if free_y.size:
        chosen = int(pick * free_y.size)
        corner = np.array([free_x[chosen] - carried.left, free_y[chosen] - carried.top])
        yield draw.at(linear, shift + corner)


def _on_rim(draw: _Draw) -> Iterator[Placement]:
    """Places along the outline that look free at the probes: there the two contacts' normals are one."""
    subject, site = draw.subject, draw.site
    mirror = -1.0 if draw.settings.flips and draw.rng.random() < 0.5 else 1.0
    picks = (draw.rng.random(_CANDIDATES) * len(site.edge.points)).astype(np.int64)
    if not len(site.edge.points):
        return
    points, normals = site.edge.points[picks], site.edge.normals[picks]
    # Some slack: a cosine of -1 may come out as a little more.
    near = normals @ subject.normal >= math.cos(math.radians(draw.settings.rotation_deg)) - 1e-9
    points, normals = points[near], normals[near]
    tangents = np.stack((-normals[:, 1], normals[:, 0]), axis=1)

    # The probes in the contact's own axes, outwards and along, then in those of each place: [places, probes, 2].
    along = np.array([-subject.normal[1], subject.normal[0]])
    offsets = draw.scale * (subject.probes - subject.contact)
    out, side = (offsets @ subject.normal)[None, :, None], mirror * (offsets @ along)[None, :, None]
    at = np.rint(points[:, None] + out * normals[:, None] + side * tangents[:, None]).astype(np.int64)
    height, width = site.shape
    within = ((at >= 0) & (at < (width, height))).all(axis=(1, 2))
    x, y = np.clip(at[..., 0], 0, width - 1), np.clip(at[..., 1], 0, height - 1)
    free = ~(site.barred[y, x] | draw.taken[y, x]).any(axis=1)
    # The probes are some of the pixels and know no elastic variant: what looks close may do.
    outside = 1.0 - site.inside[y, x].mean(axis=1)
    close = np.abs(outside - subject.outside) <= draw.settings.outside_tolerance + _HASTE
    for number in np.flatnonzero(within & free & close)[:_CHECKED]:
        turn = np.outer(normals[number], subject.normal) + mirror * np.outer(tangents[number], along)
        linear = draw.scale * turn
        yield draw.at(linear, points[number] - linear @ subject.contact)


def _at_frame(draw: _Draw) -> Iterator[Placement]:
    """A place where what was at the picture's edge is so again: turned by quarters, mirrored, shifted along it."""
    settings, rng, mask = draw.settings, draw.rng, draw.subject.reference.mask
    quarters = [number for number in range(4) if min(number, 4 - number) * 90 <= settings.rotation_deg]
    quarter = quarters[int(rng.random() * len(quarters))]
    mirrors = ((1, 1), (-1, 1), (1, -1)) if settings.flips else ((1, 1),)
    mirror = mirrors[int(rng.random() * len(mirrors))]
    turned = np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), quarter) * mirror
    spots = rng.random(2)
    ends = [(float(at.min()) - 0.5, float(at.max()) + 0.5) for at in np.nonzero(mask)[::-1]]

    linear, shift = np.zeros((2, 2)), np.zeros(2)
    for axis, side in enumerate(draw.site.shape[::-1]):
        # The reference's axis that becomes this one, and its direction.
        source = int(np.abs(turned[axis]).argmax())
        sign = int(turned[axis, source])
        low, high = draw.subject.sides[2 * source : 2 * source + 2][::sign]
        # The elastic variant must not draw the defect away from the edge: it reaches over by as much.
        over = draw.draft.elastic_px
        whole = mask.shape[1 - source] - 2.0 * over
        factor = draw.scale
        if low and high:
            if not side / _STRETCH <= whole <= side * _STRETCH:
                return
            factor = side / whole
        linear[axis, source] = sign * factor
        start, end = sorted(sign * factor * end for end in ends[source])
        if low:
            shift[axis] = -0.5 - start - factor * over
        elif high:
            shift[axis] = side - 0.5 - end + factor * over
        else:
            room = side - 2.0 - (end - start) - 2.0 * factor * over
            if room < 0.0:
                return
            shift[axis] = 0.5 - start + factor * over + room * spots[axis]
    at = draw.subject.probes @ linear.T + shift
    height, width = draw.site.shape
    within = ((at > -0.5) & (at < (width - 0.5, height - 0.5))).all(axis=1).mean()
    if within >= 1.0 - settings.outside_tolerance - _HASTE:
        yield draw.at(linear, shift)


def _checked(
    placement: Placement, subject: Subject, site: Site, taken: Mask, settings: PlacementSettings
) -> Mask | None:
    """L where it is as promised, else None."""
    carried = _carry(placement, subject.reference.mask)
    mask = carried.on(site.shape)
    area, whole = int(mask.sum()), int(carried.mask.sum())
    if area < settings.min_px or whole < _LEAST_AREA * subject.area * placement.scale**2:
        return None
    if (mask & (taken | site.barred)).any():
        return None
    if subject.kind == "face":
        return mask if area == whole and not (mask & ~site.face).any() else None
    outside = 1.0 - float(site.inside[mask].mean())
    if subject.kind == "frame":
        touched = (mask[:, 0].any(), mask[:, -1].any(), mask[0].any(), mask[-1].any())
        beyond = max(outside, 1.0 - area / whole)
        return mask if sum(touched) == sum(subject.sides) and beyond <= settings.outside_tolerance else None
    if area < whole or abs(outside - subject.outside) > settings.outside_tolerance:
        return None
    reach = float(site.depth[mask].min())
    wanted = min(subject.reach, subject.reach * placement.scale)
    return mask if reach <= settings.rim_px and abs(reach - wanted) <= settings.rim_px else None


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


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between two, rounded; drawn also where both are the same, so that later draws do not move."""
    return round(low + (high - low) * rng.random(), _DECIMALS)


def _grow(mask: Mask, margin: int) -> Mask:
    side = 2 * margin + 1
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0)


def _generator(*key: int) -> np.random.Generator:
    """The generator of a key of whole numbers from 0 on."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(key))))
