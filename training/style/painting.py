"""A trained network's way onto a good part: window, coarse defect, painting, and back into the picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from .coarse import Exemplar, Scene, paint, scene_of
from .dst import DstSettings
from .placement import Placement
from .transfernet import TransferNet
from .window import fit, put_back, to_tensor

__all__ = ["coarse_scene", "painted_by", "window_of"]


def window_of(settings: DstSettings) -> int:
    """Side of the windows that a network of these settings paints, px.

    Raises:
        ValueError: the settings leave it open; `settings_for` chooses it for a reference.
    """
    if settings.window is None:
        raise ValueError("the window is open; expected settings of settings_for, or of a checkpoint")
    return settings.window


def coarse_scene(
    good: NDArray[np.uint8], exemplar: Exemplar, placement: Placement, settings: DstSettings
) -> tuple[Scene, NDArray[np.uint8]]:
    """Where a network of these settings paints, and the coarse defect there: uint8 [h, w, C]."""
    scene = scene_of(good, exemplar, placement, margin_px=settings.margin_px, least_px=window_of(settings))
    coarse = paint(
        # Without an edge of its own: the network's fusion gives it one, and two would halve a thin defect.
        settings.coarse,
        scene,
        exemplar,
        sigma_px=0.0,
        method=settings.method,
        space=settings.space,
    )
    return scene, coarse


def painted_by(
    network: TransferNet, settings: DstSettings, scenes: Sequence[tuple[Scene, NDArray[np.uint8]]], device: str = "cpu"
) -> list[NDArray[np.uint8]]:
    """Scenes with their coarse defects, painted over by a network in one batch: uint8 [h, w, C] each."""
    fitted = [fit(scene, coarse, window_of(settings)) for scene, coarse in scenes]
    with torch.inference_mode():
        painted = network(to_tensor(np.stack([item.coarse for item in fitted]), device))
    return [
        put_back(scene, coarse, item, picture, settings.sigma_px)
        for (scene, coarse), item, picture in zip(scenes, fitted, painted, strict=True)
    ]
