"""All that decides an update, beside its data."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from inspectd.bundle import ModelCard
from inspectd.training.segmentation.settings import SegmentSettings

__all__ = ["UpdateSettings", "fine_tuning"]

_AS_BEFORE = (
    "network",
    "backbone",
    "classes",
    "height",
    "width",
    "fill",
    "bits",
    "window",
    "crop",
    "crop_bias",
    "defect_weight",
    "peak_weight",
    "weight_decay",
    "augment",
    "rotation_deg",
)
"""What a fine-tuning takes from the training that it goes on from."""


class UpdateSettings(BaseModel):
    """Settings of an update."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: Literal["dst", "histmatch", "histmatch-gauss", "cutpaste", "poisson", "relit"] = "dst"
    """How the marked defects are painted onto good parts."""
    vgg: str | None = None
    """VGG-19 for DST: a file; downloaded if not given."""
    dst_epochs: int | None = Field(None, ge=1)
    """Passes of the DST networks, if not their default."""
    dst_pictures: int | None = Field(None, ge=1)
    """Placements of a pass of the DST networks; else one for each good picture."""
    count: int = Field(600, ge=10)
    """Simulated pictures to learn from; a fifth as many are measured on."""
    steps: int = Field(800, ge=1)
    """Updates of the fine-tuning."""
    batch: int = Field(16, ge=2)
    """Windows of an update."""
    rate: float = Field(1e-3, gt=0)
    """Adam's highest rate, of a one-cycle schedule."""
    seed: int = Field(0, ge=0)
    """Of placements, networks and order."""


def fine_tuning(card: ModelCard, settings: UpdateSettings, start: Path) -> SegmentSettings:
    """The settings of a training that goes on from a bundle, as it was trained but for its schedule.

    Half of each batch shows defects, and half of those are simulated, so that neither the good parts nor the defects
    that are known already are forgotten over the new ones.
    """
    before: dict[str, Any] = card.provenance.get("settings", {})
    kept = {name: before[name] for name in _AS_BEFORE if name in before}
    return SegmentSettings(
        **kept
        | {
            "network": card.network.get("architecture", "buttonlab"),
            "backbone": card.network.get("backbone", "resnet50"),
            "height": card.preprocess.height,
            "width": card.preprocess.width,
            "fill": card.preprocess.fill,
        },
        start=str(start),
        batch=settings.batch,
        steps=settings.steps,
        rate=settings.rate,
        schedule="onecycle",
        defect_share=0.5,
        simulated_share=0.5,
        seed=settings.seed,
    )
