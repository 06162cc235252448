"""Which segmentation network is trained: Buttonlab, or one of those that it is compared with.

U-Net (Ronneberger, Fischer, Brox: "U-Net: convolutional networks for biomedical image segmentation", 2015) and
DeepLabv3+ (Chen and others: "Encoder-decoder with atrous separable convolution for semantic image segmentation", 2018)
are those of segmentation_models_pytorch, on the same ResNets, whose ImageNet weights fit all three.
"""

from __future__ import annotations

from typing import get_args

from torch import Tensor, nn

from inspectd.errors import ConfigError
from inspectd.optional import require

from .buttonlab import Buttonlab, Crop, check_size, cut
from .settings import Architecture

__all__ = ["ARCHITECTURES", "Baseline", "build_network"]

ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)


class Baseline(nn.Module):
    """A published network behind Buttonlab's interface; a crop is cut from its logits, since it has no branch."""

    def __init__(self, architecture: str, backbone: str, classes: int = 1) -> None:
        """Build it with random weights.

        Args:
            architecture: deeplabv3plus or unet.
            backbone: resnet50, resnet34 or resnet18.
            classes: number of defect classes; there is one logit more.

        Raises:
            MissingDependencyError: segmentation_models_pytorch is not installed.
            ConfigError: a backbone that only Buttonlab has.
        """
        super().__init__()
        if backbone == "slim":
            raise ConfigError(f"the slim backbone is Buttonlab's alone; for {architecture} use --backbone resnet18")
        models = require("segmentation_models_pytorch", extra="baselines")
        # Without dropout, which neither Buttonlab nor U-Net has.
        self.body: nn.Module = (
            models.Unet(backbone, encoder_weights=None, classes=1 + classes)
            if architecture == "unet"
            else models.DeepLabV3Plus(
                backbone, encoder_weights=None, encoder_output_stride=16, decoder_aspp_dropout=0.0, classes=1 + classes
            )
        )

    def forward(self, images: Tensor, crop: Crop | None = None) -> Tensor:
        """Logits of the whole picture, or of a crop of it; as `Buttonlab.forward`."""
        check_size(images.shape[-2], images.shape[-1])
        logits: Tensor = self.body(images)
        return logits if crop is None else cut(logits, crop, 1)

    def pretrained_parts(self) -> dict[str, nn.Module]:
        """The parts that ImageNet weights fit."""
        encoder = self.body.get_submodule("encoder")
        return {"backbone": encoder}


def build_network(architecture: str, backbone: str, classes: int = 1) -> Buttonlab | Baseline:
    """A network with random weights.

    Args:
        architecture: a name of `ARCHITECTURES`.
        backbone: a name of `backbones.BACKBONES`; slim is Buttonlab's alone.
        classes: number of defect classes.

    Raises:
        ConfigError: an unknown architecture or backbone, or one that does not go with the other.
        MissingDependencyError: a package for it is not installed.
    """
    if architecture == "buttonlab":
        return Buttonlab(backbone, classes=classes)
    if architecture not in ARCHITECTURES:
        raise ConfigError(f"network {architecture!r} is not one of {', '.join(ARCHITECTURES)}")
    return Baseline(architecture, backbone, classes)
