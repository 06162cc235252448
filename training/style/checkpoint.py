"""Checkpoints of networks that paint defects: weights, card and the reference in one safetensors file.

The reference travels with the network, since the coarse step needs it: a checkpoint and good pictures are all that
simulating takes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import nn

from inspectd.bundle import ModelCard, explain
from inspectd.errors import ConfigError, DatasetError
from inspectd.simulation.coarse import Exemplar
from inspectd.training.carded import read_carded, write_carded

from .cyclegan import CycleGanSettings, Generator
from .dst import DstSettings
from .transfernet import TransferNet

__all__ = ["DstCheckpoint", "load_dst", "save_dst"]

_IMAGE, _MASK, _REGION = "reference.image", "reference.mask", "reference.region"


@dataclass(frozen=True, slots=True, eq=False)
class DstCheckpoint:
    """A trained network in evaluation mode with its reference.

    Attributes:
        network: what paints: a transfer network, or a generator of CycleGAN.
        settings: it was trained with.
        card: of kind dst.
        exemplar: the reference, with its region.
        digest: sha256 of the file.
    """

    network: nn.Module
    settings: DstSettings | CycleGanSettings
    card: ModelCard
    exemplar: Exemplar
    digest: str


def save_dst(path: Path, network: nn.Module, card: ModelCard, exemplar: Exemplar) -> None:
    """Write a checkpoint whole or not at all.

    Args:
        path: the file.
        network: the trained network.
        card: of kind dst, with the settings in its provenance.
        exemplar: the reference, with its region.

    Raises:
        ConfigError: it could not be written.
        ValueError: the exemplar has no region.
    """
    if exemplar.region is None:
        raise ValueError(f"reference {exemplar.name!r} has no region; expected one of `parts.located`")
    tensors = {f"network.{name}": value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    tensors[_IMAGE] = torch.from_numpy(exemplar.image.copy())
    tensors[_MASK] = torch.from_numpy(exemplar.mask.copy())
    tensors[_REGION] = torch.from_numpy(exemplar.region.copy())
    write_carded(path, tensors, card)


def load_dst(path: Path) -> DstCheckpoint:
    """Read a checkpoint.

    Args:
        path: the .safetensors file, or the folder of a training that holds it.

    Raises:
        DatasetError: there is none, it is damaged, or it is not a checkpoint of DST.
    """
    file_path, tensors, card = read_carded(path, "dst", "inspectd-train dst")
    stored = card.provenance.get("settings")
    if not isinstance(stored, dict):
        raise DatasetError(f"{file_path}: its model card names no settings; train it again")
    # Today's default is not what an earlier version did.
    kind: type[DstSettings] | type[CycleGanSettings] = DstSettings
    if card.network.get("architecture") == "cyclegan":
        kind = CycleGanSettings
    if unlike := kind.model_fields.keys() ^ stored.keys():
        raise DatasetError(
            f"{file_path}: was trained by another version, which differs in {', '.join(sorted(unlike))}; train it again"
        )
    try:
        settings = kind.model_validate(stored)
    except ValidationError as error:
        raise DatasetError(f"{file_path}: its model card is not valid: {explain(error)}") from error
    try:
        image, mask, region = (tensors.pop(name) for name in (_IMAGE, _MASK, _REGION))
        network: nn.Module = (
            TransferNet(settings.channels, settings.head, settings.blocks)
            if isinstance(settings, DstSettings)
            else Generator(settings.channels, settings.blocks)
        )
        network.load_state_dict({name.removeprefix("network."): value for name, value in tensors.items()})
    except (KeyError, ConfigError, RuntimeError) as error:
        raise DatasetError(f"{file_path}: does not fit its card: {' '.join(str(error).split())[:300]}") from error
    exemplar = Exemplar(card.name, card.classes[0], image.numpy(), mask.numpy(), region=region.numpy())
    digest = hashlib.sha256(file_path.read_bytes()).hexdigest()
    return DstCheckpoint(network.eval(), settings, card, exemplar, digest)
