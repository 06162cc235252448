"""Checkpoints: weights, card and golden inputs in one safetensors file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inspectd.bundle import ModelCard, is_bundle
from inspectd.errors import ConfigError, DatasetError
from inspectd.training.carded import read_carded, write_carded

from .networks import build_network

__all__ = ["Checkpoint", "load_checkpoint", "save_checkpoint"]

_GOLDEN = "golden.inputs"


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A trained network in evaluation mode, its card, and golden inputs uint8 [n, H, W, C] at its size."""

    network: nn.Module
    card: ModelCard
    golden: NDArray[np.uint8]


def save_checkpoint(path: Path, network: nn.Module, card: ModelCard, golden: NDArray[np.uint8]) -> None:
    """Write a checkpoint whole or not at all.

    Raises:
        ConfigError: it could not be written.
    """
    tensors: dict[str, Tensor] = {
        name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()
    }
    tensors[_GOLDEN] = torch.from_numpy(golden)
    write_carded(path, tensors, card)


def load_checkpoint(path: Path, *, own: str | None = None) -> Checkpoint:
    """Read a checkpoint of a segmentation network.

    Args:
        path: the .safetensors file, or the folder of a training that holds `checkpoint.safetensors`.
        own: the user's network (`module:function`) that it may be of; its code is run, which no file decides.

    Raises:
        DatasetError: there is none, it is damaged, or it is not a checkpoint of inspectd.
    """
    if is_bundle(path):
        raise DatasetError(
            f"{path}: is a bundle already, which inspectd run takes as it is; expected the folder of a training, or "
            f"its checkpoint.safetensors"
        )
    path, tensors, card = read_carded(path, "seg", "inspectd-train segment")
    golden = tensors.pop(_GOLDEN, torch.empty(0))
    if ":" in (architecture := str(card.network.get("architecture"))) and architecture != own:
        raise DatasetError(
            f"{path}: holds a network of the user's own, {architecture}, whose code is not run for a file's sake; only "
            "the experiment that trained it reads it"
        )
    try:
        kinds = str(card.network.get("architecture")), str(card.network.get("backbone"))
        network = build_network(*kinds, classes=len(card.classes))
        network.load_state_dict(tensors)
    except (ConfigError, RuntimeError) as error:
        raise DatasetError(f"{path}: the weights do not fit the card: {' '.join(str(error).split())[:300]}") from error
    return Checkpoint(network.eval(), card, golden.numpy())
