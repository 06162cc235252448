"""Backbones of Buttonlab: ResNets with output stride 16, and a slim one for boxes without a GPU.

ResNets: He and others, "Deep Residual Learning for Image Recognition" (2015), as torchvision builds them
and with its tensor names, so that its weights load. Output stride 16 by dilation instead of the last
stride: Chen and others, "Encoder-Decoder with Atrous Separable Convolution" (DeepLabv3+, 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torchvision
from torch import Tensor, nn

from inspectd.errors import ConfigError, DatasetError
from inspectd.training.weights import read_weights

__all__ = [
    "BACKBONES",
    "SLIM_WIDTHS",
    "Backbone",
    "BackboneSpec",
    "Branch",
    "ResNetLike",
    "build",
    "load_weights",
    "slim",
]


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """What the decoder has to know of a backbone.

    Attributes:
        low: channels at 1/4.
        high: channels at 1/16.
        branch: channels of the branch at 1/2.
        decoder: channels of the decoder at 1/4 and at 1/2.
        skips: channels that the low-level features and the branch are brought to before they are merged.
    """

    low: int
    high: int
    branch: int
    decoder: tuple[int, int] = (256, 128)
    skips: tuple[int, int] = (48, 48)


BACKBONES: Mapping[str, BackboneSpec] = {
    "resnet50": BackboneSpec(low=256, high=2048, branch=256),
    "resnet34": BackboneSpec(low=64, high=512, branch=64),
    "resnet18": BackboneSpec(low=64, high=512, branch=64),
    # 1.9 M parameters with its decoder; about a tenth of ResNet-50's arithmetic at the same size.
    "slim": BackboneSpec(low=32, high=192, branch=24, decoder=(64, 32), skips=(24, 16)),
}


class _Block(nn.Module):
    """Two 3x3 convolutions around a shortcut: [N, in, H, W] -> [N, out, H / stride, W / stride]."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNetLike(Protocol):
    """The parts of a ResNet that are taken over, by torchvision's names."""

    conv1: nn.Conv2d
    bn1: nn.BatchNorm2d
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential


class _Slim(nn.Module):
    """A ResNet-18 at half its width or less, with ResNet's names: the parts that `Backbone` and `Branch` take."""

    def __init__(self, stem: int, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = nn.Sequential(_Block(stem, widths[0]), _Block(widths[0], widths[0]))
        self.layer2 = nn.Sequential(_Block(widths[0], widths[1], 2), _Block(widths[1], widths[1]))
        self.layer3 = nn.Sequential(_Block(widths[1], widths[2], 2), _Block(widths[2], widths[2]))
        self.layer4 = nn.Sequential(_Block(widths[2], widths[3], 2), _Block(widths[3], widths[3]))


SLIM_WIDTHS = (32, 32, 64, 128, 192)
"""Channels of the slim backbone's stem and of its four stages."""


def slim() -> ResNetLike:
    """The slim backbone with random weights."""
    return _Slim(SLIM_WIDTHS[0], SLIM_WIDTHS[1:])


_NETWORKS: Mapping[str, Callable[[], ResNetLike]] = {
    "resnet50": torchvision.models.resnet50,
    "resnet34": torchvision.models.resnet34,
    "resnet18": torchvision.models.resnet18,
    "slim": slim,
}


class Backbone(nn.Module):
    """The whole picture at 1/4 and 1/16: [N, 3, H, W] -> ([N, low, H/4, W/4], [N, high, H/16, W/16])."""

    def __init__(self, network: ResNetLike) -> None:
        super().__init__()
        self.conv1, self.bn1 = network.conv1, network.bn1
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4
        _dilate(self.layer4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        x = torch.relu(self.bn1(self.conv1(x)))  # [N, stem, H/2, W/2]
        low: Tensor = self.layer1(self.maxpool(x))  # [N, low, H/4, W/4]
        x = self.layer2(low)  # [N, ., H/8, W/8]
        x = self.layer3(x)  # [N, ., H/16, W/16]
        return low, self.layer4(x)  # [N, high, H/16, W/16]


class Branch(nn.Module):
    """7x7 convolution and the first residual stage without the max-pool: [N, 3, h, w] -> [N, branch, h/2, w/2]."""

    def __init__(self, network: ResNetLike) -> None:
        super().__init__()
        self.conv1, self.bn1, self.layer1 = network.conv1, network.bn1, network.layer1

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = torch.relu(self.bn1(self.conv1(x)))  # [N, stem, h/2, w/2]
        out: Tensor = self.layer1(x)  # [N, branch, h/2, w/2]
        return out


def _dilate(layer: nn.Module) -> None:
    """Take a residual stage's stride away and widen the convolutions after it, as torchvision does for Bottleneck."""
    for module in layer.modules():
        if not isinstance(module, nn.Conv2d):
            continue
        if module.stride == (2, 2):
            module.stride = (1, 1)
        elif module.kernel_size == (3, 3):
            module.dilation = module.padding = (2, 2)


def build(name: str) -> tuple[Backbone, Branch]:
    """The backbone and the branch of a name of `BACKBONES`, with random weights."""
    network = _NETWORKS[name]()
    branch = _Slim(24, (24, 8, 8, 8)) if name == "slim" else _NETWORKS[name]()
    return Backbone(network), Branch(branch)


def load_weights(modules: Mapping[str, nn.Module], backbone: str, source: str) -> dict[str, int]:
    """Load ImageNet weights into the backbone and the branch; layers that the source lacks keep theirs.

    Args:
        modules: a name for each module that takes torchvision's tensor names.
        backbone: a name of `BACKBONES`.
        source: `imagenet` (torchvision's, downloaded once) or a safetensors or .pth file with torchvision's names.

    Returns:
        How many tensors each module took.

    Raises:
        ConfigError: there are no such weights for this backbone.
        DatasetError: the file cannot be read, fits nothing, or a tensor has another shape.
    """
    if source == "imagenet":
        if backbone == "slim":
            raise ConfigError("there are no ImageNet weights for the slim backbone; use --weights none")
        try:
            state = torchvision.models.get_model_weights(backbone).DEFAULT.get_state_dict(progress=True)
        except (OSError, RuntimeError) as error:  # no network; a download that was cut off
            raise DatasetError(
                f"ImageNet weights of {backbone} could not be downloaded ({error}); "
                "give a local file with --weights FILE"
            ) from error
    else:
        state = read_weights(Path(source))
    taken = {}
    for name, module in modules.items():
        own = module.state_dict()
        fitting = {key: value for key, value in state.items() if key in own}
        for key, value in fitting.items():
            if value.shape != own[key].shape:
                raise DatasetError(
                    f"{source}: {key} is {list(value.shape)}, the {backbone} {name} has {list(own[key].shape)}"
                )
        module.load_state_dict(fitting, strict=False)
        taken[name] = len(fitting)
    if not any(taken.values()):
        raise DatasetError(
            f"{source}: holds no tensor of {backbone}; expected torchvision's names, such as conv1.weight"
        )
    return taken
