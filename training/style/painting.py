"""What a trained network paints over coarse defects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from inspectd.simulation.coarse import Scene, soft
from inspectd.simulation.painting import beneath
from inspectd.simulation.window import fit, put_back

from .dst import WindowSettings
from .window import to_levels, to_tensor

__all__ = ["painted_by"]


def painted_by(
    network: nn.Module, settings: WindowSettings, scenes: Sequence[tuple[Scene, NDArray[np.uint8]]], device: str = "cpu"
) -> list[NDArray[np.uint8]]:
    """Scenes with their coarse defects, painted over by a network in one batch: uint8 [h, w, C] each."""
    fitted = [fit(scene, coarse, settings.window) for scene, coarse in scenes]
    with torch.inference_mode():
        painted = network(to_tensor(np.stack([item.coarse for item in fitted]), device))
    return [
        put_back(
            beneath(settings.coarse, scene.good, coarse),
            coarse,
            item,
            to_levels(picture),
            soft(scene.label, settings.sigma_px),
        )
        for (scene, coarse), item, picture in zip(scenes, fitted, painted, strict=True)
    ]
