"""CycleGAN, a baseline for DST: defects that a generator invents inside L, learnt from the same reference.

Zhu, Park, Isola, Efros: "Unpaired image-to-image translation using cycle-consistent adversarial networks" (2017). A is
the good surface, windows around placements; B the defect, windows of the reference turned, scaled and mirrored. Least
squares adversarial losses, cycle consistency (10), identity (5) and a pool of 50 earlier paintings, as there;
generators are the ResNets of its appendix, discriminators PatchGANs with one layer less, whose patches of 34 px fit
into windows of 64.

What a generator paints is fused with S inside L by the same Gaussian mask as DST's. It sees no L, only that defects of
B lie in the middle of their windows, where L is too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from inspectd.simulation.coarse import Exemplar
from inspectd.simulation.window import coloured

from .dst import WindowSettings
from .learner import require_finite
from .transfernet import InstanceNorm, ResidualBlock, conv_block, fuse, gaussian_mask
from .window import to_tensor
from .windows import WindowsBatch

__all__ = ["CycleGanLearner", "CycleGanSettings", "Discriminator", "Generator", "ImagePool", "defect_windows"]

CYCLE, IDENTITY = 10.0, 5.0
"""Weights of the two losses beside the adversarial one: lambda, and half of it."""
POOL = 50
"""Paintings that a discriminator is shown again."""


class CycleGanSettings(WindowSettings):
    """Settings of one CycleGAN; both domains are windows of the same size, and y = S."""

    channels: int = Field(32, ge=1)
    """Channels of the first convolutions of generators and discriminators; the paper's are 64."""
    blocks: int = Field(6, ge=0)
    """Residual blocks; the paper's 6 are for pictures of 128 px."""
    rate: float = Field(2e-4, gt=0)
    """Adam's rate, its first beta being 0.5; from half of the training on it falls to 0."""


class Generator(nn.Module):
    """c7s1-64, d128, d256, R256 x blocks, u128, u64, c7s1-3 (appendix 7.2), with `channels` for 64."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        up = [
            layer
            for wide in (4 * channels, 2 * channels)
            for layer in (
                nn.ConvTranspose2d(wide, wide // 2, 3, 2, 1, output_padding=1, bias=False),
                InstanceNorm(wide // 2),
                nn.ReLU(inplace=True),
            )
        ]
        self.body = nn.Sequential(
            conv_block(3, channels, 7),  # [N, channels, H, W]
            conv_block(channels, 2 * channels, 3, stride=2),  # [N, 2 channels, H/2, W/2]
            conv_block(2 * channels, 4 * channels, 3, stride=2),  # [N, 4 channels, H/4, W/4]
            *(ResidualBlock(4 * channels) for _ in range(blocks)),
            *up,  # [N, channels, H, W]
            nn.ReflectionPad2d(3),
            nn.Conv2d(channels, 3, 7),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Float [N, 3, H, W] in -1..1, sides multiples of 4 -> float32 of the same shape and range."""
        return torch.tanh(self.body(images).float())


class Discriminator(nn.Module):
    """PatchGAN: C64, C128, C256 and a score for each patch of 34 px (appendix 7.2 with one layer less)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        for wide, stride in ((channels, 2), (2 * channels, 1)):
            layers += [
                nn.Conv2d(wide, 2 * wide, 4, stride, 1, bias=False),
                InstanceNorm(2 * wide),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        self.body = nn.Sequential(*layers, nn.Conv2d(4 * channels, 1, 4, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Float [N, 3, H, W] in -1..1 -> scores float32 [N, 1, h, w]."""
        scores: Tensor = self.body(images).float()
        return scores


class ImagePool:
    """Earlier paintings: half of the time a discriminator sees one of them instead of the newest (section 4).

    Attributes:
        kept: the pictures, float [3, H, W].
    """

    def __init__(self, size: int = POOL) -> None:
        self._size, self.kept = size, list[Tensor]()

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """As many pictures [N, 3, H, W] as are given, new or old."""
        shown = []
        for image in images.detach():
            if len(self.kept) < self._size:
                self.kept.append(image)
                shown.append(image)
            elif rng.random() < 0.5:
                number = int(rng.integers(self._size))
                shown.append(self.kept[number])
                self.kept[number] = image
            else:
                shown.append(image)
        return torch.stack(shown)


def defect_windows(exemplar: Exemplar, settings: WindowSettings, seeds: Sequence[int]) -> NDArray[np.uint8]:
    """Windows of the reference with its defect in the middle, turned, scaled and mirrored: uint8 [N, side, side, 3].

    Args:
        exemplar: the reference.
        settings: window, margin, and of the placement rotation, scale and flips.
        seeds: of one window each.
    """
    rows, columns = np.nonzero(exemplar.mask)
    points = np.stack([columns, rows]).astype(np.float64)
    side, drawn = settings.window, settings.placement
    found = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        angle = math.radians(rng.uniform(-drawn.rotation_deg, drawn.rotation_deg))
        low, high = (math.log(scale) for scale in drawn.scale)
        zoom = math.exp(rng.uniform(low, high))
        mirror = -1.0 if drawn.flips and rng.random() < 0.5 else 1.0
        turn = zoom * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        turn[:, 0] *= mirror
        turned = turn @ points
        # As `fit` does it with what is larger than a window.
        turn *= (factor := min(1.0, side / (float(np.ptp(turned, axis=1).max()) + 1.0 + 2.0 * settings.margin_px)))
        middle = factor * (turned.min(axis=1) + turned.max(axis=1)) / 2.0
        matrix = np.hstack([turn, ((side - 1) / 2.0 - middle)[:, None]])
        # Reflection would show the defect a second time.
        window = cv2.warpAffine(
            exemplar.image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        found.append(coloured(np.atleast_3d(np.asarray(window, np.uint8))))
    return np.stack(found)


class CycleGanLearner:
    """Both generators and discriminators; the one that paints is kept."""

    fields: tuple[str, ...] = ("loss", "adversarial", "cycle", "identity", "judges")

    def __init__(self, fabric: Fabric, settings: CycleGanSettings, exemplar: Exemplar) -> None:
        """Build the four with weights of the seed."""
        self._fabric, self._settings, self._exemplar = fabric, settings, exemplar
        torch.manual_seed(settings.seed)
        self.network: nn.Module = Generator(settings.channels, settings.blocks)
        self._all = nn.ModuleDict(
            {
                "generator": self.network,
                "inverse": Generator(settings.channels, settings.blocks),
                "discriminator_good": Discriminator(settings.channels),
                "discriminator_defect": Discriminator(settings.channels),
            }
        )
        self._all.apply(_initialise)
        self._all.to(memory_format=torch.channels_last)
        self._generator, self._inverse, self._discriminator_good, self._discriminator_defect = (
            fabric.setup_module(module) for module in self._all.values()
        )
        of_generators = itertools.chain(self._generator.parameters(), self._inverse.parameters())
        of_discriminators = itertools.chain(
            self._discriminator_good.parameters(), self._discriminator_defect.parameters()
        )
        # Any: Fabric types one optimiser as one or several.
        self._generating: Any = fabric.setup_optimizers(_adam(of_generators, settings.rate))
        self._discriminating: Any = fabric.setup_optimizers(_adam(of_discriminators, settings.rate))
        self._pools = {"good": ImagePool(), "defect": ImagePool()}

    def update(self, batch: WindowsBatch, number: int, steps: int) -> tuple[dict[str, float], Tensor]:
        """See `Learner`: the generators first, then the discriminators."""
        settings, discriminators = self._settings, (self._discriminator_good, self._discriminator_defect)
        # Constant for half of the training, then linearly to 0 (section 4 and appendix 7.1).
        rate = settings.rate * min(1.0, 2.0 * (1.0 - number / steps))
        for group in (*self._generating.param_groups, *self._discriminating.param_groups):
            group["lr"] = rate
        rng = np.random.default_rng([settings.seed, number])
        seeds = [int(seed) for seed in rng.integers(1 << 32, size=len(batch.label))]
        good = batch.good
        defect = to_tensor(defect_windows(self._exemplar, settings, seeds), good.device)
        painted, cleaned = self._generator(good), self._inverse(defect)
        for discriminator in discriminators:
            discriminator.requires_grad_(False)
        adversarial = _squares(self._discriminator_defect(painted), 1.0) + _squares(
            self._discriminator_good(cleaned), 1.0
        )
        cycle = F.l1_loss(self._inverse(painted), good) + F.l1_loss(self._generator(cleaned), defect)
        identity = F.l1_loss(self._generator(defect), defect) + F.l1_loss(self._inverse(good), good)
        loss = adversarial + CYCLE * cycle + IDENTITY * identity
        terms = {"loss": loss, "adversarial": adversarial, "cycle": cycle, "identity": identity}
        figures = {name: float(value.detach()) for name, value in terms.items()}
        require_finite(figures, self._exemplar.name, number)
        self._generating.zero_grad(set_to_none=True)
        self._fabric.backward(loss)
        self._generating.step()
        for discriminator in discriminators:
            discriminator.requires_grad_(True)
        shown = {"good": self._pools["good"](cleaned, rng), "defect": self._pools["defect"](painted, rng)}
        judged = 0.5 * (
            _squares(self._discriminator_good(good), 1.0)
            + _squares(self._discriminator_good(shown["good"]), 0.0)
            + _squares(self._discriminator_defect(defect), 1.0)
            + _squares(self._discriminator_defect(shown["defect"]), 0.0)
        )
        figures["judges"] = float(judged.detach())
        require_finite(figures, self._exemplar.name, number)
        self._discriminating.zero_grad(set_to_none=True)
        self._fabric.backward(judged)
        self._discriminating.step()
        fused = fuse(painted.detach(), good, gaussian_mask(batch.label[:, None], settings.sigma_px))
        return figures, fused

    def state(self) -> dict[str, Any]:
        """See `Learner`."""
        return {
            "network": self._all.state_dict(),
            "generating": self._generating.state_dict(),
            "discriminating": self._discriminating.state_dict(),
            "pools": {name: list(pool.kept) for name, pool in self._pools.items()},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """See `Learner`."""
        self._all.load_state_dict(state["network"])
        self._generating.load_state_dict(state["generating"])
        self._discriminating.load_state_dict(state["discriminating"])
        for name, pool in self._pools.items():
            pool.kept = [image.to(self._fabric.device) for image in state["pools"][name]]

    def architecture(self) -> dict[str, Any]:
        """See `Learner`."""
        return {
            "architecture": "cyclegan",
            "channels": self._settings.channels,
            "blocks": self._settings.blocks,
            "sigma_px": self._settings.sigma_px,
        }

    def provenance(self) -> dict[str, Any]:
        """See `Learner`."""
        return {"settings": self._settings.model_dump(mode="json")}


def _adam(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Adam:
    """With the betas of appendix 7.1."""
    return torch.optim.Adam(parameters, lr=rate, betas=(0.5, 0.999))


def _squares(scores: Tensor, wanted: float) -> Tensor:
    """Least squares loss of scores that should all be `wanted`."""
    return F.mse_loss(scores, torch.full_like(scores, wanted))


def _initialise(module: nn.Module) -> None:
    """Weights from N(0, 0.02), as in the paper's appendix."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
