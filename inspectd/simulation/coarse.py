"""Step 1 of DST, the coarse defect, and the simpler ways to paint one that DST is measured against.

Wei, Cao, Jiang, Zheng, Liu: "Defective samples simulation through Neural Style Transfer for automatic surface
defect segment", algorithm 2. All ways take the same placement, hence the same L, and paint on a window around it:

- `histmatch`: the paper's coarse step, S's own pixels in H[M]'s colours.
- `histmatch-gauss`: the same, fused with S by a Gaussian mask.
- `cutpaste`: H's pixels, carried by the placement.
- `poisson`: H's gradients between S's colours along the edge of L (Perez, Gangnet, Blake: "Poisson image editing",
  2003).
- `relit`: the defect without its surface, as opaque as the reference shows it along its edge, and as much brighter or
  darker as the part is around L than around M. What one sees the surface through, a stain, is painted as a colour over
  S (see `matte`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.errors import DatasetError

from .bite import is_bite, opened
from .histmatch import Method, Space, match_pixels
from .matte import EDGE_PX, Matte, matte_of
from .membrane import membrane
from .placement import Placement, place_mask, warp
from .region import BoolMask, grown

__all__ = [
    "COARSE",
    "EDGED",
    "Coarse",
    "Exemplar",
    "Light",
    "Scene",
    "blur_reach",
    "paint",
    "scene_of",
    "soft",
    "with_gain",
]

Coarse = Literal["histmatch", "histmatch-gauss", "cutpaste", "poisson", "relit"]
COARSE: tuple[Coarse, ...] = get_args(Coarse)
EDGED: frozenset[Coarse] = frozenset({"relit"})
"""Ways that pass into S as the reference's defect passes into its surface: a network's painting is fused with y itself,
of which the mask would take half of a thin line away."""

_DARK = np.float32(16.0)
"""Levels added before dividing: in the dark a ratio would be one of noise."""
_MAD_TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
_AROUND_PX = 16
"""How far around a defect the light is measured."""


@dataclass(frozen=True, eq=False)
class Exemplar:
    """A labelled defect to paint from: `image` uint8 [h, w, 3 or 1], `mask` bool [h, w].

    `name` is unique among references; `sample` is the name of the picture in its dataset, which may show several;
    `region` is the part in it before the defect, bool [h, w], where that is known: only there the light is measured.

    Raises:
        DatasetError: an empty mask, one of another size, or one that leaves nothing of the good surface.
    """

    name: str
    defect: str
    image: NDArray[np.uint8]
    mask: BoolMask
    sample: str = ""
    region: BoolMask | None = None

    def __post_init__(self) -> None:
        if self.mask.shape != self.image.shape[:2]:
            raise DatasetError(
                f"reference {self.name!r}: its mask is {self.mask.shape[1]} x {self.mask.shape[0]} px and its picture "
                f"{self.image.shape[1]} x {self.image.shape[0]} px (width x height); expected the same size"
            )
        if not self.mask.any():
            raise DatasetError(f"reference {self.name!r}: its mask is empty; label the defect's pixels")
        if self.mask.all():
            raise DatasetError(f"reference {self.name!r}: its mask covers the whole picture; leave some good surface")

    @cached_property
    def matte(self) -> Matte | None:
        """The defect without its surface; None where it leaves the part."""
        return matte_of(self.image, self.mask, self.region)

    @property
    def veil(self) -> bool:
        """Whether the surface is seen through the defect."""
        return self.matte is not None and self.matte.veil

    @cached_property
    def bite(self) -> bool:
        """Whether it is missing at the part's edge."""
        return self.region is not None and is_bite(self.image, self.mask, self.region)

    @cached_property
    def light(self) -> Light:
        """Of the good surface around M."""
        return _light(self.image, self.mask, self.region)


@dataclass(frozen=True, slots=True)
class Light:
    """How bright a surface is: `level`, the median of its logarithm, and `spread`, what its texture varies by."""

    level: float
    spread: float

    def brought_to(self, other: Light) -> float:
        """The factor that takes what is seen in this light into the other.

        The difference of the levels counts as light as far as it stands out from the texture (Wiener's weight): between
        two evenly lit pieces of wood, one of which has a dark vein beside the defect, there is none.
        """
        difference = other.level - self.level
        noise = self.spread**2 + other.spread**2
        return math.exp(difference**3 / (difference**2 + noise)) if difference else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A place on a good picture where a defect is to be painted.

    Attributes:
        good: S in the window, uint8 [h, w, C].
        label: L in the window, bool [h, w].
        rows: of the picture, which the window covers.
        columns: of the picture.
        placement: how the reference gets there.
        shape: (height, width) of the picture.
        light: of the good surface around L.
    """

    good: NDArray[np.uint8]
    label: BoolMask
    rows: slice
    columns: slice
    placement: Placement
    shape: tuple[int, int]
    light: Light

    def carried(self, field: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        """What is known at the reference's pixels [H, W, C], where the placement carries it: float32 [h, w, C]."""
        return warp(self.placement, field, self.shape, (self.rows, self.columns))


def scene_of(
    good: NDArray[np.uint8],
    exemplar: Exemplar,
    placement: Placement,
    *,
    margin_px: int,
    least_px: int = 1,
    region: BoolMask | None = None,
) -> Scene:
    """The window of a picture around a placement's label.

    Args:
        good: S, uint8 [H, W, C], of as many channels as the exemplar.
        exemplar: the reference that the placement names.
        placement: where and how.
        margin_px: pixels around L that are wanted, where the picture has them.
        least_px: sides of the window are at least this, where the picture is large enough.
        region: the part in the picture, bool [H, W], where that is known: only there the light is measured, and a bite
            is opened to its edge.

    Raises:
        DatasetError: nothing of the label lies in the picture, or the channels differ.
    """
    if good.shape[2] != exemplar.image.shape[2]:
        raise DatasetError(
            f"background {placement.background!r} has {good.shape[2]} channels and reference {exemplar.name!r} has "
            f"{exemplar.image.shape[2]}; use colour pictures or grey ones, not both"
        )
    height, width = good.shape[:2]
    label = place_mask(placement, exemplar.mask, (height, width))
    if not label.any():
        raise DatasetError(
            f"reference {exemplar.name!r} on {placement.background!r}: its placement lies outside the picture; "
            "draw the placements for these pictures"
        )
    if region is not None and exemplar.bite:
        label = opened(label, region)
    light = _light(good, label, region)
    rows, columns = (_span(*box, margin_px, least_px) for box in _boxes(label))
    return Scene(good[rows, columns], label[rows, columns], rows, columns, placement, (height, width), light)


def _boxes(mask: BoolMask) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """For rows and columns: the first of the mask, the one after its last, and how many the picture has."""
    rows, columns = np.nonzero(mask)
    height, width = mask.shape
    return (int(rows.min()), int(rows.max()) + 1, height), (int(columns.min()), int(columns.max()) + 1, width)


def _span(start: int, stop: int, side: int, margin: int, least: int) -> slice:
    """`start` to `stop` with a margin, at least `least` long, as far as the picture's `side` allows."""
    length = min(max(stop - start + 2 * margin, least), side)
    begin = min(max((start + stop - length) // 2, 0), side - length)
    return slice(begin, begin + length)


def _light(image: NDArray[np.uint8], mask: BoolMask, region: BoolMask | None) -> Light:
    """Of the part around a mask; of all around it where there is nothing of the part, or it is not known."""
    near = tuple(_span(*box, _AROUND_PX, 1) for box in _boxes(mask))
    image, mask = image[near], mask[near]
    around = ~grown(mask, EDGE_PX)
    choices = [around, ~mask, np.ones_like(mask)]
    if region is not None:
        choices.insert(0, around & region[near])
    chosen = next(choice for choice in choices if choice.any())
    values = np.log(image[chosen].mean(axis=1) + _DARK)
    level = float(np.median(values))
    return Light(level, _MAD_TO_SIGMA * float(np.median(np.abs(values - level))))


def paint(
    way: Coarse,
    scene: Scene,
    exemplar: Exemplar,
    *,
    sigma_px: float = 2.0,
    method: Method = "quantile",
    space: Space = "rgb",
) -> NDArray[np.uint8]:
    """The window with its coarse defect; the placement's gain is not in it (see `with_gain`).

    Args:
        way: see the module.
        scene: where.
        exemplar: the reference.
        sigma_px: of the Gaussian mask of `histmatch-gauss`.
        method: of histogram matching.
        space: of histogram matching.

    Returns:
        uint8 [h, w, C]; S itself outside L, but for some pixels around it with `histmatch-gauss` and `relit`.
    """
    good, label = scene.good, scene.label
    if way == "histmatch":
        return match_pixels(good, label, exemplar.image, exemplar.mask, method=method, space=space)
    if way == "histmatch-gauss":
        matched = match_pixels(good, label, exemplar.image, exemplar.mask, method=method, space=space)
        return _levels(good + soft(label, sigma_px)[..., None] * (matched.astype(np.float32) - good))
    if way == "relit":
        pure, opacity = _without_surface(scene, exemplar)
        lit = (pure + _DARK) * np.float32(exemplar.light.brought_to(scene.light)) - _DARK
        return _levels(good + opacity * (lit - good))
    pasted = scene.carried(exemplar.image)
    if way == "poisson":
        difference = good.astype(np.float64) - pasted
        pasted = pasted + membrane(difference, label).astype(np.float32)
    return _levels(np.where(label[..., None], pasted, good))


def _without_surface(scene: Scene, exemplar: Exemplar) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The defect on the window, float32 [h, w, C], levels, and how opaque it is, [h, w, 1]."""
    matte = exemplar.matte
    if matte is None:
        # The label grown by a pixel and blurred by one: hardly less than 1 on its edge, of which a chip has much.
        opacity = np.maximum(soft(scene.label, 1.0, 1), scene.label)
        return scene.carried(exemplar.image), opacity[..., None]
    pure, opacity = matte.read(scene.carried(matte.field))
    # Beyond the reference's frame the field goes on as at its edge, and L leaves crumbs of it out.
    opacity = opacity * grown(scene.label, math.ceil(EDGE_PX * max(1.0, scene.placement.scale)))[..., None]
    if matte.veil and scene.placement.hue_deg and pure.shape[2] == 3:
        pure = _turned(pure, scene.placement.hue_deg)
    return pure, opacity


def _turned(colours: NDArray[np.float32], degrees: float) -> NDArray[np.float32]:
    """Colours [..., 3] turned about the axis of greys: as bright and as strong as before, of another hue."""
    rotation, _ = cv2.Rodrigues(np.full(3, math.radians(degrees) / math.sqrt(3.0)))
    return np.asarray(colours @ rotation.T, np.float32)


def with_gain(painted: NDArray[np.uint8], good: NDArray[np.uint8], gain: float) -> NDArray[np.uint8]:
    """A painted defect made fainter (gain below 1) or stronger: S + gain (painted - S), uint8 like both."""
    if gain == 1.0:
        return painted
    return _levels(good + np.float32(gain) * (painted.astype(np.float32) - good))


def blur_reach(sigma_px: float) -> int:
    """How far a blurred mask reaches beyond the mask along rows and columns, px: 3 sigma, rounded up."""
    return math.ceil(3.0 * sigma_px)


def soft(mask: BoolMask, sigma_px: float, grow_px: int = 0) -> NDArray[np.float32]:
    """The mask, grown by some pixels, blurred as `transfernet.gaussian_mask` does it: float32 [h, w], 0..1."""
    mask = grown(mask, grow_px) if grow_px else mask
    if not sigma_px:
        return mask.astype(np.float32)
    size = 2 * blur_reach(sigma_px) + 1
    blurred = cv2.GaussianBlur(mask.astype(np.float32), (size, size), sigma_px, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(blurred, np.float32)


def _levels(values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)
