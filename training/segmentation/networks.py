"""Which segmentation network is trained: Buttonlab, or one of those that it is compared with.

U-Net (Ronneberger, Fischer, Brox: "U-Net: convolutional networks for biomedical image segmentation", 2015) and
DeepLabv3+ (Chen and others: "Encoder-decoder with atrous separable convolution for semantic image segmentation", 2018)
are those of segmentation_models_pytorch, on the same ResNets, whose ImageNet weights fit all three, and on Buttonlab's
slim backbone at the widths that go with it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from inspectd.errors import ConfigError
from inspectd.optional import require

from .backbones import SLIM_WIDTHS, load_weights, slim
from .buttonlab import Buttonlab, Crop, check_size, cut
from .loss import segmentation_loss
from .settings import Architecture, SegmentSettings

__all__ = ["ARCHITECTURES", "Baseline", "build_network", "code_sha256", "try_network"]

ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)


class Baseline(nn.Module):
    """A network of others behind Buttonlab's interface; a crop is cut from its logits, since it has no branch."""

    def __init__(self, body: nn.Module) -> None:
        """Take the network: normalised float [N, 3, H, W], sides multiples of 16 -> logits [N, 1 + classes, H, W]."""
        super().__init__()
        self.body = body

    def forward(self, images: Tensor, crop: Crop | None = None) -> Tensor:
        """Logits of the whole picture, or of a crop of it; as `Buttonlab.forward`."""
        check_size(images.shape[-2], images.shape[-1])
        logits: Tensor = self.body(images)
        return logits if crop is None else cut(logits, crop, 1)

    def pretrained_parts(self) -> dict[str, nn.Module]:
        """The parts that ImageNet weights fit."""
        return {"backbone": self.body.get_submodule("encoder")}


def _published(architecture: str, backbone: str, classes: int) -> nn.Module:
    """U-Net or DeepLabv3+ of segmentation_models_pytorch, with random weights."""
    models = require("segmentation_models_pytorch", extra="baselines")
    width: dict[str, Any] = {}
    if backbone == "slim":
        # Under a name of ours in its list of encoders, as its manual says to add one.
        models.encoders.encoders[_SLIM] = {"encoder": _slim_encoder(), "params": {}, "pretrained_settings": {}}
        # Half of what goes with a ResNet, as the backbone is half of one or less.
        width = {"decoder_channels": (128, 64, 32, 16, 8) if architecture == "unet" else 128}
    common = {"encoder_weights": None, "classes": 1 + classes, **width}
    encoder = _SLIM if backbone == "slim" else backbone
    # Without dropout, which neither Buttonlab nor U-Net has.
    found: nn.Module = (
        models.Unet(encoder, **common)
        if architecture == "unet"
        else models.DeepLabV3Plus(encoder, encoder_output_stride=16, decoder_aspp_dropout=0.0, **common)
    )
    return found


def _own(name: str, classes: int) -> nn.Module:
    """What the function `module:function` of the user makes of the number of logits.

    Raises:
        ConfigError: there is no such function, or it gives something else.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)(1 + classes)
    except Exception as error:
        # Code of others: whatever it raises, its name and cause are told.
        raise ConfigError(
            f"network {name!r}: {type(error).__name__}: {error}; expected a function of the number of logits in a "
            "module that Python finds (PYTHONPATH)"
        ) from error
    if not isinstance(found, nn.Module):
        raise ConfigError(f"network {name!r}: gives a {type(found).__name__}, expected a torch.nn.Module")
    return found


_SLIM = "inspectd-slim"


@functools.cache
def _slim_encoder() -> type[nn.Module]:
    """The slim backbone as an encoder of segmentation_models_pytorch, which is not there without the extra."""
    base = require("segmentation_models_pytorch.encoders._base", extra="baselines").EncoderMixin

    class SlimEncoder(base, nn.Module):  # type: ignore[misc,valid-type]  # known when it is installed
        """[N, 3, H, W] -> six maps, at 1/1 (the picture itself) to 1/32."""

        def __init__(self, depth: int = 5, output_stride: int = 32) -> None:
            nn.Module.__init__(self)
            self._in_channels, self._depth, self._output_stride = 3, depth, output_stride
            self._out_channels = [3, *SLIM_WIDTHS]
            network = slim()
            self.conv1, self.bn1, self.maxpool = network.conv1, network.bn1, nn.MaxPool2d(3, 2, 1)
            self.layer1, self.layer2 = network.layer1, network.layer2
            self.layer3, self.layer4 = network.layer3, network.layer4

        def get_stages(self) -> dict[int, list[nn.Module]]:
            """The stages whose stride may be turned into dilation."""
            return {16: [self.layer3], 32: [self.layer4]}

        def forward(self, x: Tensor) -> list[Tensor]:
            """See the class."""
            maps = [x, torch.relu(self.bn1(self.conv1(x)))]
            maps.append(self.layer1(self.maxpool(maps[-1])))
            for layer in (self.layer2, self.layer3, self.layer4):
                maps.append(layer(maps[-1]))
            return maps

    return SlimEncoder


def build_network(architecture: str, backbone: str, classes: int = 1) -> Buttonlab | Baseline:
    """A network with random weights.

    Args:
        architecture: a name of `ARCHITECTURES`, or `module:function` of the user, which is imported and called.
        backbone: a name of `backbones.BACKBONES`; a user's network has its own.
        classes: number of defect classes.

    Raises:
        ConfigError: an unknown architecture or backbone.
        MissingDependencyError: a package for it is not installed.
    """
    if architecture == "buttonlab":
        return Buttonlab(backbone, classes=classes)
    if ":" in architecture:
        return Baseline(_own(architecture, classes))
    if architecture not in ARCHITECTURES:
        raise ConfigError(f"network {architecture!r} is not one of {', '.join(ARCHITECTURES)}")
    return Baseline(_published(architecture, backbone, classes))


def try_network(settings: SegmentSettings) -> None:
    """Build the network of a training, start it and let pictures through, there and back.

    So no fault waits for the first update.

    Raises:
        ConfigError: it cannot be built, has no such weights, does not give logits of the picture's size, or cannot be
            trained with such batches.
        DatasetError: the weights cannot be read, or fit nothing.
        MissingDependencyError: a package for it is not installed.
    """
    network = build_network(settings.network, settings.backbone)
    if settings.weights != "none":
        load_weights(network.pretrained_parts(), settings.backbone, settings.weights)
    height, width = settings.window_size
    try:
        with torch.inference_mode():
            found = network.eval()(torch.zeros(1, 3, height, width))
        shape = tuple(found.shape)
    except Exception as error:
        # As in `_own`.
        raise ConfigError(f"network {settings.network!r}: {type(error).__name__}: {error}") from error
    if shape != (1, 2, height, width):
        raise ConfigError(
            f"network {settings.network!r}: gives {list(shape)} for a picture [1, 3, {height}, {width}], expected "
            f"logits [1, 2, {height}, {width}]"
        )
    # In training other code runs: statistics of a batch, dropout, crops, gradients. Two pictures stand for a batch.
    count = min(2, settings.batch)
    crop = Crop(settings.crop_size, ((0, 0),) * count)
    try:
        logits = network.train()(torch.zeros(count, 3, height, width), crop)
        labels = torch.zeros(count, *settings.crop_size, dtype=torch.int64)
        torch.autograd.backward(segmentation_loss(logits, labels, settings.defect_weight, settings.peak_weight))
    except Exception as error:
        raise ConfigError(f"network {settings.network!r}, in training: {type(error).__name__}: {error}") from error


def code_sha256(name: str) -> str:
    """Digest of the file of a user's network, `module:function`; empty where it is in none."""
    spec = importlib.util.find_spec(name.partition(":")[0])
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return ""
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()
