"""Checkpoints: tensors in one safetensors file with the card of their network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from inspectd.bundle import ModelCard, explain
from inspectd.errors import DatasetError

from .files import written_whole

__all__ = ["CHECKPOINT", "card_of", "kind_of", "read_carded", "write_carded"]

CHECKPOINT = "checkpoint.safetensors"
_CARD = "inspectd"


def write_carded(path: Path, tensors: Mapping[str, Tensor], card: ModelCard) -> None:
    """Write a checkpoint whole or not at all.

    Raises:
        ConfigError: it could not be written.
    """
    with written_whole(path) as draft:
        save_file(dict(tensors), draft, metadata={_CARD: card.model_dump_json()})


def kind_of(path: Path) -> Literal["seg", "dst"] | None:
    """Kind of network that a checkpoint holds; None where it is none, which reading it will tell."""
    card = card_of(path)
    return None if card is None else card.kind


def card_of(path: Path) -> ModelCard | None:
    """The card of a checkpoint, without its weights; None where it is none, which reading it will tell."""
    file_path = path / CHECKPOINT if path.is_dir() else path
    try:
        with safe_open(file_path, framework="pt") as file:
            return ModelCard.model_validate_json((file.metadata() or {}).get(_CARD, ""))
    except (SafetensorError, OSError, ValueError):
        return None


def read_carded(path: Path, kind: Literal["seg", "dst"], command: str) -> tuple[Path, dict[str, Tensor], ModelCard]:
    """Read a checkpoint of a kind.

    Args:
        path: the .safetensors file, or the folder of a training that holds `checkpoint.safetensors`.
        kind: of network.
        command: that makes such a checkpoint, for the errors.

    Returns:
        The file, its tensors by name, and the card.

    Raises:
        DatasetError: there is none, it is damaged, it is not a checkpoint of inspectd, or of another kind.
    """
    file_path = path / CHECKPOINT if path.is_dir() else path
    if not file_path.is_file():
        raise DatasetError(f"{file_path}: no such checkpoint; make one with {command} DATA --out FOLDER")
    try:
        with safe_open(file_path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise DatasetError(f"{file_path}: cannot be read as safetensors: {error}") from error
    if _CARD not in metadata:
        raise DatasetError(f"{file_path}: has no model card, so it is not a checkpoint of inspectd-train")
    try:
        card = ModelCard.model_validate_json(metadata[_CARD])
    except ValidationError as error:
        raise DatasetError(f"{file_path}: its model card is not valid: {explain(error)}") from error
    if card.kind != kind:
        raise DatasetError(f"{file_path}: holds a network of kind {card.kind!r}; expected one of {command}")
    return file_path, tensors, card
