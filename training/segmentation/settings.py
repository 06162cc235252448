"""All that decides a training of a segmentation network; written into the card of its checkpoint."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from inspectd.dataset import TRAINING_ROLES
from inspectd.preprocess import SIZE_LIMIT, SIZE_STEP, nearest_size

__all__ = ["OWN_NETWORK", "Architecture", "SegmentSettings"]

Architecture = Literal["buttonlab", "deeplabv3plus", "unet"]
"""Buttonlab, and the published networks that it is compared with."""

OWN_NETWORK = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
"""A network of the user's own: `module:function`."""


class SegmentSettings(BaseModel):
    """Settings of one training. The defaults are the paper's where it states them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: Architecture | Annotated[str, Field(pattern=OWN_NETWORK)] = "buttonlab"
    """The others are there to compare with, and cannot be exported. `module:function` is one of the user's own: the
    function takes the number of logits and gives a module with random weights, [N, 3, H, W] -> [N, logits, H, W]."""
    backbone: Literal["resnet50", "resnet34", "resnet18", "slim"] = "resnet50"
    """The paper's is resnet50; slim is for stations without a GPU."""
    weights: str = "none"
    """Start of backbone and branch: none (random), imagenet (torchvision's), or a file with torchvision's names."""
    start: str | None = None
    """A checkpoint or bundle of the same network to go on from, not `weights`; other sizes and data are welcome."""
    classes: Literal["binary", "types"] = "binary"
    """One class for every defect, or one for each defect type."""
    height: int = Field(256, ge=SIZE_STEP, le=SIZE_LIMIT)
    """Rows of the network's input, px."""
    width: int = Field(256, ge=SIZE_STEP, le=SIZE_LIMIT)
    """Columns of the network's input, px."""
    fill: int = Field(0, ge=0, le=255)
    """Grey value around letterboxed pictures."""
    bits: int = Field(16, ge=9, le=16)
    """Bits that 16-bit files really use."""
    roles: tuple[str, ...] = ("ref", "extra", "free", "simulated")
    """Roles of the dataset that are trained on."""
    real: int | None = Field(None, ge=1)
    """How many of the real defective pictures are trained on: the references first, then others as the seed draws them,
    so that more hold those that fewer held. None takes all."""
    batch: int = Field(8, ge=1)
    """Pictures of one update on one device."""
    epochs: int = Field(120, ge=1)
    """Passes over the pictures, where `steps` says nothing."""
    steps: int | None = Field(None, ge=1)
    """Updates, instead of `epochs`."""
    rate: float = Field(2e-3, gt=0)
    """Adam's rate; the highest one with the one-cycle schedule."""
    schedule: Literal["constant", "onecycle"] = "constant"
    """How the rate goes."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay (AdamW); 0 is plain Adam."""
    window: float = Field(1.0, gt=0, le=1)
    """Side of the window of the picture that is trained on, as a share of the picture's; 1 is the whole picture."""
    crop: float = Field(0.5, gt=0, le=1)
    """Side of the crop that branch and decoder work on, as a share of the window's; 1 sees all."""
    crop_bias: float = Field(0.0, ge=0, le=1)
    """How often window and crop of a defective picture are laid over its defect; else they fall anywhere."""
    defect_share: float | None = Field(None, gt=0, lt=1)
    """Share of each batch that shows a defect; None takes the pictures as often as they occur."""
    simulated_share: float | None = Field(None, gt=0, lt=1)
    """Share of the defective pictures of each batch that are simulated, the rest being real; None takes the pictures as
    often as they occur. Needs `defect_share`; where one of the two kinds is missing, the other fills the batch."""
    replacement: bool = False
    """Whether pictures are drawn with replacement, each by itself; else they come in turn, each once in a pass."""
    defect_weight: float = Field(1.0, gt=0)
    """Weight of the defect classes in the cross-entropy; the good surface has 1."""
    peak_weight: float = Field(0.0, ge=0)
    """Weight of the windows' peaks beside the cross-entropy: of the pixels that decide on a part."""
    hard: str | None = None
    """File of `inspectd-train mine`: which training pictures are hard, and where."""
    hard_share: float = Field(0.5, gt=0, le=1)
    """Share of each batch that is drawn by hardness and cut out over the hardest place; the rest comes in turn."""
    augment: Literal["none", "flips", "full"] = "full"
    """flips; or flips, rotation, shift, zoom, brightness, contrast and colour."""
    rotation_deg: float = Field(180.0, ge=0, le=180)
    """Highest rotation of `full`, either way."""
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    """Arithmetic of the network; losses and statistics stay in fp32. auto is bf16-mixed where the device has it, else
    32-true; the card has what it was."""
    seed: int = Field(0, ge=0)
    """Of the initial weights, the order of pictures, the crops and the augmentation."""

    @model_validator(mode="after")
    def _consistent(self) -> SegmentSettings:
        if ":" in self.network and self.weights != "none":
            raise ValueError(f"{self.network} begins as it makes itself; leave weights out")
        if self.start is not None and self.weights != "none":
            raise ValueError("start and weights are two beginnings; leave one of them out")
        for name in ("height", "width"):
            if (side := getattr(self, name)) % SIZE_STEP:
                raise ValueError(
                    f"{name} {side} is not a multiple of {SIZE_STEP}; the nearest that is: {nearest_size(side)}"
                )
        if held_out := [role for role in self.roles if role not in TRAINING_ROLES]:
            raise ValueError(f"role {held_out[0]!r} is not for training; those that are: {', '.join(TRAINING_ROLES)}")
        if self.defect_share is not None and self.batch < 2:
            raise ValueError("a share of defects needs a batch of 2 pictures or more")
        if self.simulated_share is not None and self.defect_share is None:
            raise ValueError("a share of simulated defects needs a share of defects (defect_share)")
        if self.replacement and self.steps is None:
            raise ValueError("with replacement there are no passes to count (epochs); say how many updates (steps)")
        height, width = self.window_size
        if self.batch * height * width == SIZE_STEP**2:
            raise ValueError(f"batch normalisation needs more than one picture of {SIZE_STEP}x{SIZE_STEP} px")
        return self

    @property
    def window_size(self) -> tuple[int, int]:
        """Height and width of the window, px: the share asked for, to the nearest size that the network takes."""
        return nearest_size(round(self.height * self.window)), nearest_size(round(self.width * self.window))

    @property
    def crop_size(self) -> tuple[int, int]:
        """Height and width of the crop, px: its share of the window, to the nearest multiple of 8."""
        height, width = (max(8, round(side * self.crop / 8) * 8) for side in self.window_size)
        return height, width
