"""Augmentation: torchvision's transforms v2 on picture and mask together.

Two of them do their arithmetic in OpenCV instead: on a CPU, torchvision's is a large part of an update's time
(`python -m benchmarks training` shows the feed's share). Parameters are drawn by torchvision's own code.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from .settings import SegmentSettings

__all__ = ["ColourJitter", "Moves", "augmentation"]

_LUMA = np.array([0.299, 0.587, 0.114])
# Luma, in-phase and quadrature of NTSC: hue is an angle in the plane of the last two.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def augmentation(settings: SegmentSettings) -> v2.Transform | None:
    """What `settings.augment` asks for; None for nothing."""
    if settings.augment == "none":
        return None
    flips = [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]
    if settings.augment == "flips":
        return v2.Compose(flips)
    moves = Moves(
        degrees=settings.rotation_deg,
        translate=(0.06, 0.06),
        scale=(0.85, 1.2),
        fill={tv_tensors.Image: settings.fill, tv_tensors.Mask: 0},
    )
    return v2.Compose([*flips, moves, ColourJitter(brightness=0.2, contrast=0.2, saturation=0.15, hue=0.02)])


class Moves(v2.RandomAffine):  # type: ignore[misc]  # torchvision has no types
    """Rotation, zoom and shift about the centre: linear for pictures, nearest pixel for masks; no shear."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:  # noqa: ANN401 - torchvision's signature
        """Move a picture or its mask, uint8."""
        height, width = inpt.shape[-2:]
        angle, zoom = math.radians(params["angle"]), params["scale"]
        cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
        x, y = (width - 1) / 2, (height - 1) / 2
        dx, dy = params["translate"]
        matrix = np.array([[cos, -sin, x + dx - cos * x + sin * y], [sin, cos, y + dy - sin * x - cos * y]])
        if isinstance(inpt, tv_tensors.Mask):
            moved = cv2.warpAffine(inpt.numpy(), matrix, (width, height), flags=cv2.INTER_NEAREST)
            return tv_tensors.wrap(torch.from_numpy(moved), like=inpt)
        border = (self.fill[tv_tensors.Image],) * inpt.shape[0]
        moved = cv2.warpAffine(_pixels(inpt), matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=border)
        return _picture(moved, inpt)


class ColourJitter(v2.ColorJitter):  # type: ignore[misc]  # torchvision has no types
    """Brightness, contrast, saturation and hue as one affine map of colours, rounded once at its end."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:  # noqa: ANN401 - torchvision's signature
        """Change the colours of a picture uint8 [3, H, W]; masks and grey pictures stay."""
        if not isinstance(inpt, tv_tensors.Image) or inpt.shape[0] != 3:
            return inpt
        pixels = _pixels(inpt)
        whole = np.eye(4)
        for number in params["fn_idx"].tolist():
            step = np.eye(4)
            if number == 0:
                step[:3, :3] *= params["brightness_factor"]
            elif number == 1:
                factor = params["contrast_factor"]
                mean = _LUMA @ (whole[:3, :3] @ np.asarray(cv2.mean(pixels)[:3]) + whole[:3, 3])
                step[:3, :3] *= factor
                step[:3, 3] = (1 - factor) * mean
            elif number == 2:
                factor = params["saturation_factor"]
                step[:3, :3] = factor * np.eye(3) + (1 - factor) * np.outer(np.ones(3), _LUMA)
            else:
                angle = 2 * math.pi * params["hue_factor"]
                turn = np.eye(3)
                turn[1:, 1:] = [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
                step[:3, :3] = np.linalg.inv(_YIQ) @ turn @ _YIQ
            whole = step @ whole
        return _picture(cv2.transform(pixels, whole[:3]), inpt)


def _pixels(image: Tensor) -> NDArray[np.uint8]:
    return np.ascontiguousarray(image.as_subclass(Tensor).permute(1, 2, 0).numpy())


def _picture(pixels: Any, like: Tensor) -> Any:  # noqa: ANN401 - as OpenCV and torchvision type it
    channels_last = torch.from_numpy(np.atleast_3d(pixels))
    return tv_tensors.wrap(channels_last.permute(2, 0, 1), like=like)
