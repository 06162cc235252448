"""Buttonlab: a segmentation network for small defects.

Wei, Cao, Jiang, Zheng, Liu: "Defective samples simulation through Neural Style Transfer for automatic
surface defect segment", section on Buttonlab. DeepLabv3+ on a ResNet with output stride 16, without ASPP,
plus a branch that keeps half the resolution. In training the backbone sees the whole picture, the branch
a crop of it, and the decoder works inside the crop alone; in use both see the whole picture.

    picture 1 ── backbone ──┬─ 1/16 ─ 1x1 ─ up x4 ─┐
                            └─ 1/4 ── 1x1 ─────────┴─ crop ─ 3x3, 3x3 ─ up x2 ─┐
    crop of it ── branch ───── 1/2 ── 1x1 ─────────────────────────────────────┴─ 3x3 ─ 1x1 ─ up x2 ── logits

Readings where the paper is silent: the branch is the 7x7 convolution and the first residual stage without
the max-pool (so that 1/2 remains); 1x1 stands in ASPP's place; both skips are brought to 48 channels, as
DeepLabv3+ does; the crop is cut after up-sampling, at offsets that are multiples of 4.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inspectd.errors import ConfigError
from inspectd.preprocess import SIZE_STEP, nearest_size

from .backbones import BACKBONES, build

__all__ = ["CROP_STEP", "Buttonlab", "Crop", "check_size", "cut"]

# The coarsest grid on which features are cropped is 1/4.
CROP_STEP = 4


class Crop(NamedTuple):
    """The same size of window for a batch, at a place of its own in each picture; px, multiples of 4."""

    size: tuple[int, int]
    offsets: tuple[tuple[int, int], ...]


def cut(x: Tensor, crop: Crop, stride: int) -> Tensor:
    """The crop's window of features at 1/stride: [N, C, H/stride, W/stride] -> [N, C, h/stride, w/stride].

    Raises:
        ValueError: a window that is off the grid of 4 px, or leaves its picture.
    """
    height, width = crop.size[0] // stride, crop.size[1] // stride
    windows = []
    for picture, (top, left) in zip(x, crop.offsets, strict=True):
        if any(number < 0 or number % CROP_STEP for number in (*crop.size, top, left)) or 0 in crop.size:
            raise ValueError(f"crop {crop.size} at {(top, left)}: expected multiples of {CROP_STEP} px")
        y0, x0 = top // stride, left // stride
        if y0 + height > picture.shape[1] or x0 + width > picture.shape[2]:
            raise ValueError(f"crop {crop.size} at {(top, left)} leaves its picture")
        windows.append(picture[:, y0 : y0 + height, x0 : x0 + width])
    return torch.stack(windows)


def _conv(channels_in: int, channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


class Buttonlab(nn.Module):
    """The network. `forward` takes normalised pictures and gives logits; label 0 is the good surface."""

    def __init__(self, backbone: str = "resnet50", classes: int = 1) -> None:
        """Build it with random weights.

        Args:
            backbone: a name of `BACKBONES`.
            classes: number of defect classes; there is one logit more.

        Raises:
            ConfigError: an unknown backbone, or no class.
        """
        super().__init__()
        if backbone not in BACKBONES:
            raise ConfigError(f"backbone {backbone!r} is not one of {', '.join(BACKBONES)}")
        if classes < 1:
            raise ConfigError(f"expected at least 1 defect class, got {classes}")
        spec = BACKBONES[backbone]
        self.backbone, self.branch = build(backbone)
        quarter, half = spec.decoder
        self.high = _conv(spec.high, quarter, 1)
        self.low = _conv(spec.low, spec.skips[0], 1)
        self.merge_quarter = nn.Sequential(_conv(quarter + spec.skips[0], quarter, 3), _conv(quarter, quarter, 3))
        self.fine = _conv(spec.branch, spec.skips[1], 1)
        self.merge_half = _conv(quarter + spec.skips[1], half, 3)
        self.classify = nn.Conv2d(half, 1 + classes, 1)

    def forward(self, images: Tensor, crop: Crop | None = None) -> Tensor:
        """Logits of the whole picture, or of a crop of it.

        Args:
            images: float [N, 3, H, W], normalised; H and W multiples of 16.
            crop: the window that branch and decoder work on (the paper's training strategy).

        Returns:
            float [N, 1 + classes, H, W], or [N, 1 + classes, *crop.size].

        Raises:
            ConfigError: H or W is not a multiple of 16.
        """
        check_size(images.shape[-2], images.shape[-1])
        low, high = self.backbone(images)  # [N, low, H/4, W/4], [N, high, H/16, W/16]
        high = F.interpolate(self.high(high), scale_factor=4.0, mode="bilinear")  # [N, quarter, H/4, W/4]
        x = torch.cat((high, self.low(low)), dim=1)  # [N, quarter + skip, H/4, W/4]
        if crop is not None:
            x = cut(x, crop, 4)  # [N, quarter + skip, h/4, w/4]
            images = cut(images, crop, 1)  # [N, 3, h, w]
        x = F.interpolate(self.merge_quarter(x), scale_factor=2.0, mode="bilinear")  # [N, quarter, h/2, w/2]
        fine = self.fine(self.branch(images))  # [N, skip, h/2, w/2]
        x = self.merge_half(torch.cat((x, fine), dim=1))  # [N, half, h/2, w/2]
        return F.interpolate(self.classify(x), scale_factor=2.0, mode="bilinear")  # [N, 1 + classes, h, w]

    def pretrained_parts(self) -> dict[str, nn.Module]:
        """The parts that ImageNet weights fit."""
        return {"backbone": self.backbone, "branch": self.branch}


def check_size(height: int, width: int) -> None:
    """Refuse a size that the network cannot take, naming the nearest that it can.

    Raises:
        ConfigError: a side is not a multiple of 16.
    """
    if height % SIZE_STEP or width % SIZE_STEP or height < SIZE_STEP or width < SIZE_STEP:
        raise ConfigError(
            f"size {height}x{width}: both sides must be multiples of {SIZE_STEP}; "
            f"the nearest that are: {nearest_size(height)}x{nearest_size(width)}"
        )
