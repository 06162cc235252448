"""All that decides a defect style transfer network; written into the card of its checkpoint."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from inspectd.simulation.coarse import Coarse
from inspectd.simulation.histmatch import Method, Space
from inspectd.simulation.painting import Brush
from inspectd.simulation.placement import PlacementSettings
from inspectd.training.devices import Precision

from .settings import PRESETS as LOSS_PRESETS
from .settings import LossSettings, TermWeights

__all__ = ["DST_PRESETS", "DstSettings", "WindowSettings"]


class WindowSettings(BaseModel):
    """What all networks have that paint defects on windows around placements. Lengths are px of the pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    coarse: Coarse | Literal["none"] = "none"
    """How the coarse defect y is painted; none leaves y = S to the network."""
    sigma_px: float = Field(1.0, ge=0)
    """Of the Gaussian mask g: the defect is g T(y) + (1 - g) S, or (1 - g) y where y has an edge of its own."""
    window: int = Field(64, ge=32, le=512, multiple_of=16)
    """Side of the windows that the network sees; a larger defect is brought down to it, and what the network changed up
    again."""
    margin_px: int = Field(8, ge=0)
    """Good surface that a window shows around the defect."""
    epochs: int = Field(10, ge=1)
    """Passes; the paper's 10."""
    pictures: int | None = Field(None, ge=1)
    """Placements of one pass; None is one for each background (the paper's 238)."""
    batch: int = Field(4, ge=1)
    """Windows of one update."""
    rate: float = Field(1e-3, gt=0)
    """Adam's rate."""
    placement: PlacementSettings = PlacementSettings()
    """Where defects are put while training."""
    bits: int = Field(16, ge=9, le=16)
    """Bits that 16-bit files really use."""
    precision: Literal["auto"] | Precision = "auto"
    """Arithmetic of the networks; the losses stay in fp32."""
    seed: int = Field(0, ge=0)
    """Of weights, placements and order."""

    @property
    def brush(self) -> Brush:
        """What decides its windows and coarse defects."""
        return Brush(self.coarse, self.window, self.margin_px, self.sigma_px)

    def updates(self, backgrounds: int) -> int:
        """Updates of one pass over so many backgrounds."""
        return math.ceil((self.pictures or backgrounds) / self.batch)


class DstSettings(WindowSettings):
    """Settings of one DST network; the defaults are the preset `default`."""

    coarse: Coarse = "relit"
    """How the coarse defect y is painted; the paper's is histmatch."""
    method: Method = "quantile"
    """Of histogram matching, where y is painted by it."""
    space: Space = "rgb"
    """Of histogram matching, where y is painted by it."""
    loss: LossSettings = LOSS_PRESETS["auto"].model_copy(
        update={"weights": TermWeights(content=3.0, style=1.0, hist=1.0, tv=0.0)}
    )
    """Losses and their weights; the paper's total variation would blur what the coarse defect carries."""
    style_target: Literal["background", "ring", "reference"] = "reference"
    """Whose style the painting gets: S inside L (the paper's, as it is read here), S around L, or H inside M."""
    head: Literal["residual", "plain"] = "residual"
    """How the network's last convolution becomes a picture."""
    channels: int = Field(16, ge=1)
    """Channels of the network's first convolution; the paper's are 32."""
    blocks: int = Field(4, ge=0)
    """Residual blocks."""
    clip: float = Field(0.0, ge=0)
    """Longest gradient of an update, Euclidean norm over all weights; 0 leaves it."""
    vgg: str = "imagenet"
    """Weights of VGG-19: imagenet (torchvision's, downloaded once), or a file with torchvision's names."""

    @property
    def brush(self) -> Brush:
        """What decides its windows and coarse defects."""
        return dataclasses.replace(super().brush, method=self.method, space=self.space)

    @model_validator(mode="after")
    def _consistent(self) -> DstSettings:
        if self.method == "cdf256" and self.space != "rgb":
            raise ValueError(f"method cdf256 works on 8-bit channels, which the space {self.space} has not; use rgb")
        return self


DST_PRESETS: Mapping[str, DstSettings] = MappingProxyType(
    {
        "default": DstSettings(),
        # The paper's steps; its printed weights do not balance (see settings.PRESETS), so `auto` stays.
        "paper": DstSettings(
            coarse="histmatch",
            method="cdf256",
            loss=LOSS_PRESETS["auto"],
            style_target="background",
            channels=32,
            sigma_px=2.0,
        ),
    }
)
"""`default`, and `paper`: histogram matching by 256 levels and nothing else in the coarse step. One with changes:
`DST_PRESETS[name].model_copy(update=...)`, or `DstSettings(**(DST_PRESETS[name].model_dump() | changes))`."""
