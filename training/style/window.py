"""Windows of pictures as tensors, and back; how scenes become windows: `simulation.window`."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["to_levels", "to_tensor"]


def to_tensor(images: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in -1..1, channels last."""
    moved = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2)
    return (moved.float() / 127.5 - 1.0).contiguous(memory_format=torch.channels_last)


def to_levels(painted: Tensor) -> NDArray[np.float32]:
    """Float [3, H, W] in -1..1 -> grey levels, float32 [H, W, 3], not rounded."""
    return np.asarray((painted.float().cpu().permute(1, 2, 0).numpy() + 1.0) * 127.5, np.float32)
