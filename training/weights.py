"""Files of pretrained weights."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from inspectd.errors import DatasetError

__all__ = ["read_weights"]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name, of a safetensors file or of a dictionary that torch.save has written.

    Raises:
        DatasetError: the file cannot be read, or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, SafetensorError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        # PyTorch's own words advise to let the file run code.
        reason = "neither safetensors nor tensors of torch.save"
        if isinstance(error, OSError):
            # Those of safetensors lack the system's words.
            reason = error.strerror or str(error)
        raise DatasetError(f"{path}: cannot be read as weights: {reason}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DatasetError(f"{path}: expected a dictionary of tensors with torchvision's names")
    return state
