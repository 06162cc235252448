"""The windows that networks learn from, each a function of the seed and its number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inspectd.simulation.coarse import Exemplar
from inspectd.simulation.painting import coarse_scene, needed_region
from inspectd.simulation.parts import Backgrounds
from inspectd.simulation.placement import Placement
from inspectd.simulation.planning import plan
from inspectd.simulation.site import Reference
from inspectd.simulation.window import fit

from .dst import WindowSettings
from .window import to_tensor

__all__ = ["Windows", "WindowsBatch"]


@dataclass(frozen=True, slots=True, eq=False)
class WindowsBatch:
    """S and y, float [N, 3, side, side] in -1..1, and L, bool [N, side, side]."""

    good: Tensor
    coarse: Tensor
    label: Tensor

    def to(self, device: torch.device) -> WindowsBatch:
        """The same on another device."""
        return WindowsBatch(self.good.to(device), self.coarse.to(device), self.label.to(device))


class Windows:
    """Windows around placements of one reference."""

    def __init__(
        self, exemplar: Exemplar, reference: Reference, backgrounds: Backgrounds, settings: WindowSettings
    ) -> None:
        """Draw nothing yet.

        Args:
            exemplar: the reference.
            reference: the same, as placements see it.
            backgrounds: the good pictures.
            settings: of the network.
        """
        self._exemplar, self._reference = exemplar, reference
        self._backgrounds, self._settings = backgrounds, settings

    def batches(self, first: int) -> Iterator[tuple[int, WindowsBatch]]:
        """The updates from `first` on, with their batches."""
        size, per_epoch = self._settings.batch, self._settings.updates(len(self._backgrounds))
        for epoch in range(first // per_epoch, self._settings.epochs):
            placements = self._placements(epoch, per_epoch * size)
            for number in range(max(first, epoch * per_epoch), (epoch + 1) * per_epoch):
                start = (number - epoch * per_epoch) * size
                yield number, self._batch(placements[start : start + size])

    def _placements(self, epoch: int, count: int) -> tuple[Placement, ...]:
        settings = self._settings
        seed = int(np.random.SeedSequence([settings.seed, epoch]).generate_state(1)[0])
        single = settings.placement.model_copy(update={"per_image": (1, 1)})
        return plan([self._reference], self._backgrounds, count, single, seed).placements

    def _batch(self, placements: tuple[Placement, ...]) -> WindowsBatch:
        fitted = []
        for placement in placements:
            scene, coarse = coarse_scene(
                self._backgrounds.picture(placement.background),
                self._exemplar,
                placement,
                self._settings.brush,
                needed_region(self._settings.coarse, self._exemplar, self._backgrounds, placement),
            )
            fitted.append(fit(scene, coarse, self._settings.window))
        good, coarse_pixels = (
            to_tensor(np.stack([getattr(item, name) for item in fitted])) for name in ("good", "coarse")
        )
        return WindowsBatch(good, coarse_pixels, torch.from_numpy(np.stack([item.label for item in fitted])))
