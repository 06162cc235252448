"""What a transfer network is trained for: equation (6) for one reference, with its targets."""

from __future__ import annotations

import torch
from lightning.fabric import Fabric
from torch import Tensor

from inspectd.simulation.coarse import Exemplar, scene_of
from inspectd.simulation.placement import in_place
from inspectd.simulation.window import Fitted, fit

from .dst import DstSettings
from .features import VGG19
from .losses import LossValue, Targets, calibrate, histogram_references, transfer_loss, transfer_terms
from .window import to_tensor

__all__ = ["Objective"]

_RING_PX = 6
"""Width of the ring of good surface around L, the style target `ring`."""


class Objective:
    """Equation (6) for a reference.

    Attributes:
        settings: losses and weights; with balance `gradients` they are calibrated by the first batch, and fixed then.
    """

    def __init__(self, fabric: Fabric, vgg: VGG19, settings: DstSettings, exemplar: Exemplar) -> None:
        """Look at the reference.

        Args:
            fabric: its device and precision.
            vgg: on that device, with the layers that the losses need.
            settings: of the network.
            exemplar: the reference.
        """
        self._fabric, self._vgg, self._target = fabric, vgg, settings.style_target
        self.settings = settings.loss.replacing(vgg.used)
        window = _reference_window(exemplar, settings.window, settings.margin_px)
        picture = to_tensor(window.good[None], fabric.device)
        self._mask = torch.from_numpy(window.label[None]).to(fabric.device)
        self._features = self._look(picture)
        self._hist = (
            histogram_references(self._features, self._mask, self.settings.hist_layers)
            if self.settings.weights.hist
            else {}
        )

    def __call__(self, painted: Tensor, good: Tensor, coarse: Tensor, label: Tensor) -> LossValue:
        """The loss of a batch: ŷ with its gradient, S and y in -1..1, and L."""
        content = self._look(coarse)
        style, style_mask = self._features, self._mask
        if self._target != "reference":
            style, style_mask = self._look(good), _ring(label) if self._target == "ring" else label
        targets = Targets(content, style, style_mask, self._hist)
        if self.settings.balance != "fixed":
            # A network that starts as the identity has no content gradient yet: the distance that the coarse step has
            # covered stands for it.
            first = Targets(self._look(good), style, style_mask, self._hist)
            start = (coarse + 1.0) / 2.0
            weights = calibrate(
                start,
                lambda images: transfer_terms(self.settings, images, self._look01(images), label, first),
                self.settings.weights,
            )
            self.settings = self.settings.calibrated(weights)
        images = (painted + 1.0) / 2.0
        return transfer_loss(self.settings, images, self._look01(images), label, targets)

    def _look(self, images: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            return self._look01((images + 1.0) / 2.0)

    def _look01(self, images: Tensor) -> dict[str, Tensor]:
        with self._fabric.autocast():
            features: dict[str, Tensor] = self._vgg(images.contiguous(memory_format=torch.channels_last))
        return features


def _reference_window(exemplar: Exemplar, side: int, margin_px: int) -> Fitted:
    """H around M as a network sees it."""
    still = in_place(exemplar.name, exemplar.defect, exemplar.name)
    scene = scene_of(exemplar.image, exemplar, still, margin_px=margin_px, least_px=side)
    return fit(scene, scene.good, side)


def _ring(label: Tensor) -> Tensor:
    """The good surface around L, bool [N, H, W]."""
    wide = torch.nn.functional.max_pool2d(label[:, None].float(), 2 * _RING_PX + 1, 1, _RING_PX)[:, 0] > 0
    return wide & ~label
