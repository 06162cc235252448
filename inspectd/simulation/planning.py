"""Where new defects go: a seeded list of placements, the same for every method that paints them.

It is calculated in NumPy and fp64 from generators of (seed, sample), never from the method that paints, and a longer
list begins with the shorter one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from inspectd.errors import DatasetError

from .placement import DECIMALS, Placement, PlacementSettings, carry, generator
from .region import BoolMask, Floats, grown
from .site import Background, Reference, Site, Subject, site_of, subject_of

__all__ = ["Plan", "plan"]

_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
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


def plan(
    references: Sequence[Reference],
    backgrounds: Sequence[Background],
    count: int,
    settings: PlacementSettings,
    seed: int,
    *,
    progress: Callable[[int, int], None] | None = None,
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
        progress: called with (images placed, images in all).

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
        if progress is not None:
            progress(sample + 1, count)
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
                order = generator(*self._key, self._rounds).permutation(self._n)
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
    taken: BoolMask
    """The margins of the background's other defects, bool [H, W]."""
    settings: PlacementSettings
    rng: np.random.Generator

    def at(self, linear: Floats, shift: Floats) -> Placement:
        """The placement with the affine map of `linear` [2, 2] and `shift` [2]."""
        (a, b), (d, e) = ((round(float(value), DECIMALS) for value in row) for row in linear)
        c, f = (round(float(value), DECIMALS) for value in shift)
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
        rng = generator(self._seed, 0, sample)
        low, high = self._settings.per_image
        further = int(rng.integers(low, high + 1)) - 1
        site, mask = self._first(next(iter(self._subject_turns)), sample, rng)
        taken = grown(mask, self._settings.margin_px)
        for _ in range(further):
            for number in self._subject_turns:
                if (found := self._place(number, site, taken, sample, rng)) is not None:
                    taken |= grown(found, self._settings.margin_px)
                    break
            else:
                self.dropped += 1

    def _first(self, number: int, sample: int, rng: np.random.Generator) -> tuple[Site, BoolMask]:
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

    def _place(
        self, number: int, site: Site, taken: BoolMask, sample: int, rng: np.random.Generator
    ) -> BoolMask | None:
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
            # From a generator of its own: the places stay where they are without it.
            hue = generator(draft.elastic_seed, 1)
            draft = dataclasses.replace(draft, hue_deg=_between(hue, -settings.hue_deg, settings.hue_deg))
            scale = round(math.exp(_between(rng, *(math.log(limit) for limit in settings.scale))), DECIMALS)
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
    carried = carry(shape, draw.subject.reference.mask)
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
    placement: Placement, subject: Subject, site: Site, taken: BoolMask, settings: PlacementSettings
) -> BoolMask | None:
    """L where it is as promised, else None."""
    carried = carry(placement, subject.reference.mask)
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


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between two, rounded; drawn also where both are the same, so that later draws do not move."""
    return round(low + (high - low) * rng.random(), DECIMALS)
