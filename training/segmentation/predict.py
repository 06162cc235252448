"""Predictions of a trained network in the camera's pixels, in torch; what evaluation measures."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from inspectd.bundle import ModelCard
from inspectd.errors import ConfigError

from .feed import normalise

__all__ = ["TorchPredictor"]


class TorchPredictor:
    """Probabilities of the defect classes for pictures of any size."""

    def __init__(self, network: nn.Module, card: ModelCard, *, device: str = "cpu") -> None:
        """Take a network in evaluation mode and its card.

        Raises:
            ConfigError: this machine has no such device.
        """
        try:
            self._network = network.eval().to(device).to(memory_format=torch.channels_last)
        except (AssertionError, RuntimeError) as error:
            raise ConfigError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
        self._preprocess = card.preprocess
        self._device = device

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [h, w, 1 or 3] -> float32 [C, h, w], restored by nearest pixel as the line does."""
        image = torch.from_numpy(self._preprocess.image(pixels)).to(self._device).permute(2, 0, 1)[None]
        normalised = normalise(image, self._preprocess).expand(-1, 3, -1, -1)
        logits = self._network(normalised.contiguous(memory_format=torch.channels_last))
        probabilities = torch.softmax(logits.float(), dim=1)[0, 1:].cpu().numpy()
        letterbox = self._preprocess.letterbox(pixels.shape[:2])
        return np.stack([letterbox.restore(channel) for channel in probabilities])
