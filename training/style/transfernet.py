"""TransferNet: the network that harmonises a coarse defect, and the fusion that lays it over the good part.

Wei, Cao, Jiang, Zheng, Liu: "Defective samples simulation through Neural Style Transfer for automatic surface
defect segment", algorithm 2: ŷ = S outside L, TransferNet(y) inside L, fused by a Gaussian mask. A U-Net in the
manner of Johnson, Alahi, Fei-Fei: "Perceptual losses for real-time style transfer and super-resolution" (2016).

    y 1 ─ c9s1-32 ─┬───────────────────────────────────────────┬─ cat ─ 3x3, 3x3 ─ head ─ T(y) 1
       1/2 ─ d64 ──┼──┬──────────────────────────┬─ cat ─ up32 ┘
       1/4 ─ d128 ─┴──┴─ R128 R128 R128 R128 ─ up64

Readings where the paper is silent: "three down-sampling" counts c9s1-32, so that the coarsest grid is 1/4; "up" is
nearest up-sampling followed by a 3x3 convolution; the last of the two 3x3 convolutions is the network's output and
has no norm; residual blocks are Johnson's, without ReLU after the sum.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inspectd.errors import ConfigError
from inspectd.simulation.coarse import blur_reach

__all__ = [
    "SIZE_STEP",
    "DefectTransfer",
    "GaussianFusion",
    "InstanceNorm",
    "ResidualBlock",
    "TransferNet",
    "check_size",
    "conv_block",
    "fuse",
    "gaussian_mask",
    "gaussian_taps",
]

SIZE_STEP = 4
"""Sides are multiples of this: the coarsest features have 1/4 of the resolution."""

_SMALLEST = 2 * SIZE_STEP  # reflection by one pixel needs two pixels at 1/4

_CLAMP = 1.0 - 0.5 / 255.0
"""Largest value that the residual head takes: a quarter of an 8-bit level from black and from white. A picture still
comes back to the level, and the tangent keeps 1/256 of its slope there; atanh(1) is infinite."""

_STEP = 0.1
"""Share of the network's output that the residual head adds before the tanh."""


def check_size(height: int, width: int) -> None:
    """Refuse a size that the network cannot take, naming the nearest that it can.

    Raises:
        ConfigError: a side is not a multiple of 4, or below 8.
    """
    if height % SIZE_STEP or width % SIZE_STEP or min(height, width) < _SMALLEST:
        raise ConfigError(
            f"size {height}x{width}: both sides must be multiples of {SIZE_STEP} from {_SMALLEST} px on; "
            f"the nearest that are: {_nearest(height)}x{_nearest(width)}"
        )


def _nearest(side: int) -> int:
    return max(_SMALLEST, round(side / SIZE_STEP) * SIZE_STEP)


class InstanceNorm(nn.Module):
    """Instance normalisation with scale and shift per channel, statistics in fp32 whatever the features are.

    Calculated as group normalisation with one channel a group, which is the same and keeps `channels_last`; the
    graph of an export has one `InstanceNormalization` node instead.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise: [N, C, H, W] -> the same shape and dtype; a constant channel becomes its shift."""
        wide, weight, bias = x.float(), self.weight.float(), self.bias.float()
        if torch.compiler.is_exporting():
            return F.instance_norm(wide, weight=weight, bias=bias).to(x.dtype)
        return F.group_norm(wide, weight.shape[0], weight, bias).to(x.dtype)


def conv_block(channels_in: int, channels: int, kernel: int, stride: int = 1, relu: bool = True) -> nn.Sequential:
    """Reflection padding, convolution, norm, ReLU; without a bias, which the norm would take away again."""
    layers: list[nn.Module] = [
        nn.ReflectionPad2d(kernel // 2),
        nn.Conv2d(channels_in, channels, kernel, stride, bias=False),
        InstanceNorm(channels),
    ]
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class ResidualBlock(nn.Module):
    """R: two 3x3 convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_block(channels, channels, 3), conv_block(channels, channels, 3, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        y: Tensor = x + self.body(x)
        return y


class TransferNet(nn.Module):
    """The network. `forward` takes the coarse picture y and gives T(y), both in -1..1.

    Heads, f being the last convolution's output:

    - `residual`: tanh(atanh(y) + 0.1 f), y clamped to a quarter of a level from black and white, and f zero at the
      start: the network starts as the identity.
    - `plain`: tanh(f), Johnson's.
    """

    def __init__(self, width: int = 32, head: Literal["residual", "plain"] = "residual", blocks: int = 4) -> None:
        """Build it with random weights (PyTorch's default initialisation).

        Args:
            width: channels of the first convolution; the coarser grids have 2 and 4 times as many.
            head: how the last convolution becomes a picture.
            blocks: residual blocks at 1/4.

        Raises:
            ConfigError: an unknown head, a width below 1, or a negative number of blocks.
        """
        super().__init__()
        if head not in ("residual", "plain"):
            raise ConfigError(f"head {head!r} is not one of residual, plain")
        if width < 1 or blocks < 0:
            raise ConfigError(f"expected a width of at least 1 and no negative blocks, got {width} and {blocks}")
        self.head = head
        self.full = conv_block(3, width, 9)
        self.down_half = conv_block(width, 2 * width, 3, stride=2)
        self.down_quarter = conv_block(2 * width, 4 * width, 3, stride=2)
        self.residuals = nn.Sequential(*(ResidualBlock(4 * width) for _ in range(blocks)))
        self.up_half = conv_block(4 * width, 2 * width, 3)
        self.up_full = conv_block(4 * width, width, 3)
        self.merge = conv_block(2 * width, width, 3)
        self.out = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(width, 3, 3))
        if head == "residual":
            for parameter in self.out.parameters():
                nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        """Repaint pictures.

        Args:
            images: float [N, 3, H, W] in -1..1; H and W multiples of 4, at least 8.

        Returns:
            float32 [N, 3, H, W] in -1..1.

        Raises:
            ConfigError: H or W is not a multiple of 4, or below 8.
        """
        check_size(images.shape[-2], images.shape[-1])
        full = self.full(images)  # [N, width, H, W]
        half = self.down_half(full)  # [N, 2 width, H/2, W/2]
        x = self.down_quarter(half)  # [N, 4 width, H/4, W/4]
        x = self.residuals(x)  # [N, 4 width, H/4, W/4]
        x = self.up_half(_twice(x))  # [N, 2 width, H/2, W/2]
        x = self.up_full(_twice(torch.cat((x, half), dim=1)))  # [N, 4 width, H/2, W/2] -> [N, width, H, W]
        x = self.merge(torch.cat((x, full), dim=1))  # [N, 2 width, H, W] -> [N, width, H, W]
        f = self.out(x).float()  # [N, 3, H, W]
        if self.head == "plain":
            return torch.tanh(f)
        return torch.tanh(torch.atanh(images.float().clamp(-_CLAMP, _CLAMP)) + _STEP * f)


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def gaussian_taps(sigma_px: float) -> tuple[float, ...]:
    """Weights of a Gaussian at the whole pixels -r..r, r = `blur_reach(sigma_px)`; their sum is 1.

    Raises:
        ConfigError: a sigma that is negative or not finite.
    """
    if not (math.isfinite(sigma_px) and sigma_px >= 0.0):
        raise ConfigError(f"sigma is {sigma_px} px: expected a finite number from 0 (no blur) on")
    if sigma_px == 0.0:
        return (1.0,)
    reach = blur_reach(sigma_px)
    # Beyond 40 sigma a weight is zero in any case; a tiny sigma must not overflow the square.
    weights = [math.exp(-0.5 * min(abs(step) / sigma_px, 40.0) ** 2) for step in range(-reach, reach + 1)]
    return tuple(weight / math.fsum(weights) for weight in weights)


def gaussian_mask(mask: Tensor, sigma_px: float) -> Tensor:
    """The share g = blur(L) that the painted picture has at each pixel.

    Of the mask that is blurred, g is 1 deeper inside than the reach, about one half on a straight edge, and exactly 0
    farther away than `blur_reach(sigma_px)` rows or columns. In between the picture changes outside of its label too:
    beside a straight edge by some 16 % of the painting at one sigma and 2 % at two. Beyond the frame L goes on as at
    the frame's edge.

    Args:
        mask: L, bool or 0..1, [N, 1, H, W].
        sigma_px: standard deviation, px of this picture; the paper's looks like 1 px at 128. 0 leaves L as it is.

    Returns:
        float32 [N, 1, H, W], 0..1.

    Raises:
        ConfigError: an impossible sigma.
    """
    taps = torch.tensor(gaussian_taps(sigma_px), dtype=torch.float32, device=mask.device)
    return _blur(mask, taps)


def fuse(painted: Tensor, good: Tensor, share: Tensor) -> Tensor:
    """ŷ = g T(y) + (1 - g) S, exactly S where g is 0 and exactly T(y) where g is 1.

    Args:
        painted: T(y), float [N, 3, H, W].
        good: S, float [N, 3, H, W]; y itself where it has an edge of its own.
        share: g, float32 [N, 1, H, W], 0..1.

    Returns:
        float32 [N, 3, H, W].
    """
    return share * painted.float() + (1.0 - share) * good.float()


class GaussianFusion(nn.Module):
    """`fuse` with `gaussian_mask` of one sigma, the filter kept as a buffer that is no part of the weights."""

    taps: Tensor

    def __init__(self, sigma_px: float = 2.0) -> None:
        """Take what `gaussian_mask` takes, px of the pictures that are fused; the default sigma is for 256 px.

        Raises:
            ConfigError: an impossible sigma.
        """
        super().__init__()
        self.sigma_px = sigma_px
        self.register_buffer("taps", torch.tensor(gaussian_taps(sigma_px), dtype=torch.float32), persistent=False)

    def forward(self, painted: Tensor, good: Tensor, mask: Tensor) -> Tensor:
        """T(y), S [N, 3, H, W] and L [N, 1, H, W], bool or 0..1 -> ŷ float32 [N, 3, H, W]."""
        return fuse(painted, good, _blur(mask, self.taps))


class DefectTransfer(nn.Module):
    """Step 2 of the paper's simulation as one graph: TransferNet and the fusion. This is what is exported."""

    def __init__(self, network: TransferNet, sigma_px: float = 2.0) -> None:
        """Put a network and a fusion (see `GaussianFusion`) together.

        Raises:
            ConfigError: an impossible sigma.
        """
        super().__init__()
        self.network = network
        self.fusion = GaussianFusion(sigma_px)

    def forward(self, coarse: Tensor, good: Tensor, mask: Tensor) -> Tensor:
        """Paint the defect.

        Args:
            coarse: y, the good part with the coarse defect, float [N, 3, H, W] in -1..1; H and W multiples of 4.
            good: S, the good part, the same; y again where it has an edge of its own (`coarse.EDGED`).
            mask: L, bool or 0..1, [N, 1, H, W].

        Returns:
            ŷ, float32 [N, 3, H, W]: `good` itself farther from L than `blur_reach(sigma_px)`.

        Raises:
            ConfigError: H or W is not a multiple of 4, or below 8.
        """
        fused: Tensor = self.fusion(self.network(coarse), good, mask)
        return fused


def _blur(mask: Tensor, taps: Tensor) -> Tensor:
    """Filter rows, then columns, with taps [2r + 1]: [N, 1, H, W] -> float32 [N, 1, H, W]."""
    reach = taps.shape[0] // 2
    # Autocast would calculate the convolutions in 16 bits.
    with torch.autocast(mask.device.type, enabled=False):
        x = F.pad(mask.float(), (reach, reach, reach, reach), mode="replicate")  # [N, 1, H + 2r, W + 2r]
        x = F.conv2d(x, taps.float().reshape(1, 1, 1, -1))  # [N, 1, H + 2r, W]
        x = F.conv2d(x, taps.float().reshape(1, 1, -1, 1))  # [N, 1, H, W]
    return x.clamp(0.0, 1.0)
