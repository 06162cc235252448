"""All that decides the losses of the transfer network; the equations are the paper's, as `losses` takes them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .features import LAYERS
from .histmatch import FeatureMethod

__all__ = ["PRESETS", "TERMS", "LossSettings", "TermWeights"]

TERMS = ("content", "style", "hist", "tv")
"""Names of the terms of equation (6)."""


class TermWeights(BaseModel):
    """A factor for each term of equation (6); 0 leaves the term out, and it is not calculated."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    content: float = Field(1.0, ge=0)
    style: float = Field(1.0, ge=0)
    hist: float = Field(1.0, ge=0)
    tv: float = Field(0.1, ge=0)


class LossSettings(BaseModel):
    """Which losses are taken on which layers, and how they are weighed. The defaults are the preset `auto`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    balance: Literal["gradients", "fixed"] = "gradients"
    """What `weights` are: the shares that the terms' gradients get at the first output (see `calibrate`), or the
    factors of equation (6) themselves."""
    weights: TermWeights = TermWeights()
    """Of content, style, histogram and total variation; 0 leaves one out."""
    content_layers: tuple[str, ...] = ("relu4_1",)
    """Layers of equation (1), summed."""
    style_layers: tuple[str, ...] = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
    """Layers of equation (2), summed."""
    hist_layers: tuple[str, ...] = ("relu1_1", "relu4_1")
    """Layers of equation (4), summed."""
    gram: Literal["mean", "sum"] = "mean"
    """The Gram matrix divided by channels times cells, as equation (2) has it, or not divided."""
    hist: Literal["mean", "sum"] = "mean"
    """The histogram loss divided by channels times cells, as equation (4) has it, or not divided."""
    hist_method: FeatureMethod = "quantile"
    """How features are matched to the reference's: equal values share their rank, or keep distinct ones."""
    tv: Literal["mean", "sum"] = "mean"
    """The total variation divided by channels times pixels, or not divided, as equation (5) has it."""
    white: float = Field(1.0, gt=0, allow_inf_nan=False)
    """What the brightest pixel is worth in the total variation: 1, or 255 for 8-bit values."""

    @field_validator("content_layers", "style_layers", "hist_layers")
    @classmethod
    def _known(cls, layers: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [layer for layer in layers if layer not in LAYERS]:
            raise ValueError(f"layer {unknown[0]!r} is not one of VGG-19's: {', '.join(LAYERS)}")
        if len(set(layers)) < len(layers):
            raise ValueError(f"a layer is named twice: {', '.join(layers)}")
        return layers

    @model_validator(mode="after")
    def _consistent(self) -> LossSettings:
        if not any(getattr(self.weights, term) for term in TERMS):
            raise ValueError("all terms have weight 0; at least one must have more")
        for term in ("content", "style", "hist"):
            if getattr(self.weights, term) and not getattr(self, f"{term}_layers"):
                raise ValueError(f"{term} has no layer; name one, or set its weight to 0")
        return self

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that the terms with a weight need, the shallowest first; what VGG-19 is to be asked for."""
        needed = {
            layer
            for term in ("content", "style", "hist")
            if getattr(self.weights, term)
            for layer in getattr(self, f"{term}_layers")
        }
        return tuple(layer for layer in LAYERS if layer in needed)

    def replacing(self, used: Mapping[str, str]) -> LossSettings:
        """The settings on the layers that the weights really have: `VGG19.used`, from asked to used.

        A layer that stands in for another one of the same term is taken once.
        """
        changed = {
            name: tuple(dict.fromkeys(used.get(layer, layer) for layer in getattr(self, name)))
            for name in ("content_layers", "style_layers", "hist_layers")
        }
        return self.model_copy(update=changed)

    def calibrated(self, weights: TermWeights) -> LossSettings:
        """The settings with weights that `calibrate` has found; they are used as they stand."""
        return self.model_copy(update={"balance": "fixed", "weights": weights})


_PRINTED = TermWeights(content=1e5, style=2.5e-4, hist=10.0, tv=1.0)

PRESETS: Mapping[str, LossSettings] = MappingProxyType(
    {
        "auto": LossSettings(),
        # As printed, which does not balance: content is then 10³ to 10⁷ times the rest.
        "literal": LossSettings(balance="fixed", weights=_PRINTED, tv="sum"),
        # The scaling that the printed weights come nearest to; on VGG-19 in Caffe's scaling they do not balance either.
        "paper_sum": LossSettings(balance="fixed", weights=_PRINTED, gram="sum", hist="sum", tv="sum", white=255.0),
    }
)
"""`auto`: gradients at the first output 1 : 1 : 1 : 0.1. `literal`: weights and losses as the paper prints them.
`paper_sum`: the printed weights; content as printed, Gram, histogram and total variation not divided, pixels 0..255.
One with changes: `LossSettings(**(PRESETS[name].model_dump() | changes))`."""
