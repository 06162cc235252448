"""The graph of a network that paints defects: windows of pictures in, painted ones out."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inspectd.bundle import ModelCard
from inspectd.dataset import open_dataset
from inspectd.simulation.painting import beneath, coarse_scene, needed_region
from inspectd.simulation.parts import Backgrounds, as_reference
from inspectd.simulation.planning import plan
from inspectd.simulation.window import coloured, fit
from inspectd.training.style.checkpoint import DstCheckpoint
from inspectd.training.style.painting import painted_by
from inspectd.training.style.transfernet import GaussianFusion

from .graph import exported

__all__ = ["PAINTER_INPUTS", "Painter", "Windows", "painter_to_onnx", "windows_of"]

PAINTER_INPUTS = ("beneath", "coarse", "mask")
_PICTURES = ("beneath", "coarse")


class Painter(nn.Module):
    """A transfer network and its fusion between uint8 pictures; the coarse defect is painted before, in NumPy."""

    def __init__(self, network: nn.Module, sigma_px: float, *, half: bool = False) -> None:
        """Take a copy of a network and the sigma of its fusion; in half precision but for norms, tanh and fusion."""
        super().__init__()
        network = copy.deepcopy(network).eval()
        self.half_precision = half
        self.network = network.half() if half else network
        self.fusion = GaussianFusion(sigma_px)

    def forward(self, beneath: Tensor, coarse: Tensor, mask: Tensor) -> Tensor:
        """Paint defects.

        Args:
            beneath: what the painting is fused with, uint8 [N, H, W, 3]: S, or y where it has an edge of its own.
            coarse: y, S with the coarse defect, uint8 [N, H, W, 3].
            mask: L, uint8 [N, H, W], 1 where the defect goes and 0 elsewhere.

        Returns:
            uint8 [N, H, W, 3], in grey levels as `window.put_back` gives them.
        """
        y = coarse.float().permute(0, 3, 1, 2) / 127.5 - 1.0  # [N, 3, H, W]
        under = beneath.float().permute(0, 3, 1, 2) / 127.5 - 1.0
        painted = self.network(y.half() if self.half_precision else y).float()
        fused = self.fusion(painted, under, mask.float().unsqueeze(1))
        levels: Tensor = ((fused + 1.0) * 127.5).round().clamp(0, 255)  # [N, 3, H, W]
        return levels.permute(0, 2, 3, 1).to(torch.uint8)


def painter_to_onnx(painter: Painter, card: ModelCard) -> bytes:
    """The graph as ONNX, with any number of windows of the card's size.

    Raises:
        BundleError: the exporter gave nothing.
        MissingDependencyError: onnx or onnxscript is missing.
    """
    size = card.preprocess.size
    inputs = {name: torch.zeros(2, *size, 3, dtype=torch.uint8) for name in _PICTURES}
    inputs["mask"] = torch.zeros(2, *size, dtype=torch.uint8)
    return exported(painter, inputs, ("painted",), card)


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Windows to compare on: the painter's inputs, S, and what `simulate` paints in those at their own scale."""

    inputs: Mapping[str, NDArray[np.uint8]]
    good: NDArray[np.uint8]
    own: tuple[NDArray[np.uint8] | None, ...]


def windows_of(checkpoint: DstCheckpoint, data: Path, side: int, count: int) -> Windows:
    """Windows around placements on the good parts of a dataset, with the network's own coarse defect.

    Args:
        checkpoint: the network with its reference.
        data: dataset with the role free.
        side: of the windows, px.
        count: how many.

    Raises:
        DatasetError: the data cannot be used, or holds no place for the defect.
    """
    settings = checkpoint.settings.model_copy(update={"window": side})
    exemplar = checkpoint.exemplar
    backgrounds = Backgrounds(open_dataset(data), bits=settings.bits)
    placements = plan([as_reference(exemplar)], backgrounds, count, settings.placement, settings.seed).placements
    inputs: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in PAINTER_INPUTS}
    own: list[NDArray[np.uint8] | None] = []
    goods: list[NDArray[np.uint8]] = []
    for placement in placements:
        good = backgrounds.picture(placement.background)
        region = needed_region(settings.coarse, exemplar, backgrounds, placement)
        scene, coarse = coarse_scene(good, exemplar, placement, settings.brush, region)
        fitted = fit(scene, coarse, side)
        goods.append(fitted.good)
        inputs["beneath"].append(beneath(settings.coarse, fitted.good, fitted.coarse))
        inputs["coarse"].append(fitted.coarse)
        inputs["mask"].append(fitted.label.astype(np.uint8))
        if fitted.size == scene.label.shape == (side, side):
            own.append(coloured(painted_by(checkpoint.network, settings, [(scene, coarse)])[0]))
        else:
            own.append(None)
    return Windows({name: np.stack(arrays) for name, arrays in inputs.items()}, np.stack(goods), tuple(own))
