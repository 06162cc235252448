"""What a training of a painting network asks of the network's kind, and DST's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from inspectd.errors import DatasetError
from inspectd.simulation.coarse import Exemplar
from inspectd.simulation.painting import beneath

from .dst import DstSettings
from .features import load_vgg19
from .objective import Objective
from .settings import TERMS, LossSettings
from .transfernet import TransferNet, fuse, gaussian_mask
from .windows import WindowsBatch

__all__ = ["Learner", "TransferLearner", "require_finite"]


class Learner(Protocol):
    """One kind of network and how it is updated.

    Attributes:
        network: what paints, and is kept.
        fields: names of the figures that an update gives, the first of them the loss.
    """

    network: nn.Module
    fields: tuple[str, ...]

    def update(self, batch: WindowsBatch, number: int, steps: int) -> tuple[dict[str, float], Tensor]:
        """One update.

        Args:
            batch: on the device.
            number: of the update, from 0 on.
            steps: updates in all.

        Returns:
            The figures, and what is painted, float [N, 3, side, side] in -1..1.

        Raises:
            DatasetError: a figure is not finite; the weights that it would have changed are as before.
        """

    def state(self) -> dict[str, Any]:
        """All that the next updates depend on."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""

    def architecture(self) -> dict[str, Any]:
        """Of the network, for the model card."""

    def provenance(self) -> dict[str, Any]:
        """What else decided the weights, for the model card."""


def require_finite(figures: Mapping[str, float], name: str, number: int) -> None:
    """Refuse to go on where a loss is not finite.

    Args:
        figures: the terms.
        name: of the reference.
        number: of the update, from 0 on.

    Raises:
        DatasetError: one of them is not.
    """
    if not all(math.isfinite(figure) for figure in figures.values()):
        shown = ", ".join(f"{term} {figure:g}" for term, figure in figures.items())
        raise DatasetError(
            f"{name}: the loss is not finite at update {number + 1} ({shown}); lower --rate, or use --precision 32-true"
        )


class TransferLearner:
    """DST: equation (6) over the transfer network's paintings."""

    def __init__(self, fabric: Fabric, settings: DstSettings, exemplar: Exemplar) -> None:
        """Build the network with weights of the seed, and look at the reference.

        Raises:
            DatasetError: the weights of VGG-19 cannot be had.
        """
        self._fabric, self._settings, self._name = fabric, settings, exemplar.name
        vgg = load_vgg19(settings.loss.layers, settings.vgg).to(fabric.device)
        vgg = vgg.to(memory_format=torch.channels_last)
        torch.manual_seed(settings.seed)
        network = TransferNet(settings.channels, settings.head, settings.blocks)
        self.network: nn.Module = network.to(memory_format=torch.channels_last)
        self._module, self._optimiser = fabric.setup(
            self.network, torch.optim.Adam(self.network.parameters(), lr=settings.rate)
        )
        self._losses = Objective(fabric, vgg, settings, exemplar)
        self._replaced = dict(vgg.replaced)
        self.fields: tuple[str, ...] = ("loss", *(name for name in TERMS if getattr(settings.loss.weights, name)))

    def update(self, batch: WindowsBatch, number: int, steps: int) -> tuple[dict[str, float], Tensor]:  # noqa: ARG002
        """See `Learner`."""
        settings = self._settings
        mask = gaussian_mask(batch.label[:, None], settings.sigma_px)
        painted = fuse(self._module(batch.coarse), beneath(settings.coarse, batch.good, batch.coarse), mask)
        value = self._losses(painted, batch.good, batch.coarse, batch.label)
        figures = {"loss": float(value.total.detach())} | {name: float(term) for name, term in value.terms.items()}
        require_finite(figures, self._name, number)
        self._optimiser.zero_grad(set_to_none=True)
        self._fabric.backward(value.total)
        if settings.clip:
            self._fabric.clip_gradients(self._module, self._optimiser, max_norm=settings.clip)
        self._optimiser.step()
        return figures, painted

    def state(self) -> dict[str, Any]:
        """See `Learner`."""
        return {
            "network": self.network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "loss": self._losses.settings.model_dump(mode="json"),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """See `Learner`."""
        self.network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._losses.settings = LossSettings.model_validate(state["loss"])

    def architecture(self) -> dict[str, Any]:
        """See `Learner`."""
        settings = self._settings
        return {
            "architecture": "transfernet",
            "channels": settings.channels,
            "head": settings.head,
            "blocks": settings.blocks,
            "sigma_px": settings.sigma_px,
        }

    def provenance(self) -> dict[str, Any]:
        """See `Learner`."""
        return {
            "settings": self._settings.model_dump(mode="json") | {"vgg": Path(self._settings.vgg).name},
            "losses": self._losses.settings.model_dump(mode="json"),
            "layers_replaced": self._replaced,
        }
