"""A trained network's way onto a good part: window, coarse defect, painting, and back into the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .coarse import EDGED, Coarse, Exemplar, Scene, paint, scene_of, soft
from .dst import DstSettings, WindowSettings
from .parts import Backgrounds
from .placement import Placement
from .region import BoolMask
from .window import fit, put_back, to_tensor

Picture = TypeVar("Picture", NDArray[np.uint8], Tensor)

__all__ = ["beneath", "coarse_scene", "needed_region", "painted_by"]


def needed_region(
    way: Coarse | Literal["none"], exemplar: Exemplar, backgrounds: Backgrounds, placement: Placement
) -> BoolMask | None:
    """The part in a placement's background, where light is measured or a bite is opened: finding it takes time."""
    return backgrounds.region(placement.background) if way == "relit" or exemplar.bite else None


def coarse_scene(
    good: NDArray[np.uint8],
    exemplar: Exemplar,
    placement: Placement,
    settings: WindowSettings,
    region: BoolMask | None = None,
) -> tuple[Scene, NDArray[np.uint8]]:
    """Where a network of these settings paints, and the coarse defect there: uint8 [h, w, C].

    Args:
        good: the placement's background, with the defects that were painted on it before.
        exemplar: the reference.
        placement: where and how.
        settings: of the network.
        region: the part in the picture, from `needed_region`.
    """
    side = settings.window
    scene = scene_of(good, exemplar, placement, margin_px=settings.margin_px, least_px=side, region=region)
    if not isinstance(settings, DstSettings):
        return scene, scene.good
    coarse = paint(
        settings.coarse,
        scene,
        exemplar,
        # The fusion blurs what has a hard edge, and two blurs would be one too many.
        sigma_px=0.0,
        method=settings.method,
        space=settings.space,
    )
    return scene, coarse


def beneath(settings: WindowSettings, good: Picture, coarse: Picture) -> Picture:
    """What a painting is fused with: S, or y where it has an edge of its own; arrays or tensors."""
    return coarse if settings.coarse in EDGED else good


def painted_by(
    network: nn.Module, settings: WindowSettings, scenes: Sequence[tuple[Scene, NDArray[np.uint8]]], device: str = "cpu"
) -> list[NDArray[np.uint8]]:
    """Scenes with their coarse defects, painted over by a network in one batch: uint8 [h, w, C] each."""
    fitted = [fit(scene, coarse, settings.window) for scene, coarse in scenes]
    with torch.inference_mode():
        painted = network(to_tensor(np.stack([item.coarse for item in fitted]), device))
    return [
        put_back(beneath(settings, scene.good, coarse), coarse, item, picture, soft(scene.label, settings.sigma_px))
        for (scene, coarse), item, picture in zip(scenes, fitted, painted, strict=True)
    ]
