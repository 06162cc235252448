"""A network's way onto a good part, as far as it needs no network: window, coarse defect, and what it is fused with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from inspectd.bundle import ModelCard
from inspectd.errors import BundleError

from .coarse import EDGED, Coarse, Exemplar, Scene, paint, scene_of
from .histmatch import Method, Space
from .parts import Backgrounds
from .placement import Placement
from .region import BoolMask

Picture = TypeVar("Picture")

__all__ = ["Brush", "beneath", "coarse_scene", "needed_region"]


@dataclass(frozen=True, slots=True)
class Brush:
    """What decides the windows and the coarse defects that a network paints over.

    Attributes:
        coarse: how the coarse defect y is painted; none leaves y = S to the network.
        window: side of the windows, px.
        margin_px: good surface that a window shows around the defect.
        sigma_px: of the Gaussian mask that the painting is fused by.
        method: of histogram matching, where y is painted by it.
        space: of histogram matching, where y is painted by it.
    """

    coarse: Coarse | Literal["none"]
    window: int
    margin_px: int
    sigma_px: float
    method: Method = "quantile"
    space: Space = "rgb"

    @classmethod
    def of(cls, card: ModelCard) -> Brush:
        """That of a bundle of kind dst, with windows of the size that its graph takes.

        Raises:
            BundleError: its card does not say how it was trained.
        """
        told: Any = card.provenance.get("settings")
        try:
            return _BRUSH.validate_python(
                {
                    "window": card.preprocess.height,
                    **{name: told[name] for name in ("coarse", "margin_px", "sigma_px", "method", "space")},
                }
            )
        except (KeyError, TypeError, ValidationError) as error:
            raise BundleError(
                f"{card.name}: its card does not say how its coarse defects are painted ({error}); export it again "
                "from a checkpoint of this version"
            ) from error


_BRUSH = TypeAdapter(Brush)


def needed_region(
    way: Coarse | Literal["none"], exemplar: Exemplar, backgrounds: Backgrounds, placement: Placement
) -> BoolMask | None:
    """The part in a placement's background, where light is measured or a bite is opened: finding it takes time."""
    return backgrounds.region(placement.background) if way == "relit" or exemplar.bite else None


def coarse_scene(
    good: NDArray[np.uint8],
    exemplar: Exemplar,
    placement: Placement,
    brush: Brush,
    region: BoolMask | None = None,
) -> tuple[Scene, NDArray[np.uint8]]:
    """Where a network of these settings paints, and the coarse defect there: uint8 [h, w, C].

    Args:
        good: the placement's background, with the defects that were painted on it before.
        exemplar: the reference.
        placement: where and how.
        brush: of the network.
        region: the part in the picture, from `needed_region`.
    """
    scene = scene_of(good, exemplar, placement, margin_px=brush.margin_px, least_px=brush.window, region=region)
    if brush.coarse == "none":
        return scene, scene.good
    coarse = paint(
        brush.coarse,
        scene,
        exemplar,
        # The fusion blurs what has a hard edge, and two blurs would be one too many.
        sigma_px=0.0,
        method=brush.method,
        space=brush.space,
    )
    return scene, coarse


def beneath(way: Coarse | Literal["none"], good: Picture, coarse: Picture) -> Picture:
    """What a painting is fused with: S, or y where it has an edge of its own; arrays or tensors."""
    return coarse if way in EDGED else good
