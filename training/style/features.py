"""Features of VGG-19 on which the losses of the transfer are taken.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (2014),
configuration E, trained on ImageNet, with torchvision's tensor names and max-pooling. `reluN_M` is what the
M-th convolution of block N gives after its ReLU; block N works at 1 / 2**(N - 1) of the picture's size.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from http.client import HTTPException
from pathlib import Path
from types import MappingProxyType

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from inspectd.errors import ConfigError, DatasetError
from inspectd.training.weights import read_weights

__all__ = ["LAYERS", "STRIDES", "VGG19", "load_vgg19"]

# Convolutions and channels of each block.
_BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))

LAYERS: tuple[str, ...] = tuple(
    f"relu{block}_{number}" for block, (count, _) in enumerate(_BLOCKS, 1) for number in range(1, count + 1)
)
"""The activations that can be asked for, from the image on: relu1_1 .. relu5_4."""

STRIDES: Mapping[str, int] = MappingProxyType({layer: 2 ** (int(layer[4]) - 1) for layer in LAYERS})
"""Pixels of the image from one cell of a layer to the next: relu1 1, relu2 2, relu3 4, relu4 8, relu5 16."""


def _tensors() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the convolutions' tensors in torchvision's VGG-19, weight and bias of each layer in order."""
    shapes: dict[str, tuple[int, ...]] = {}
    index, channels_in = 0, 3
    for count, channels in _BLOCKS:
        for _ in range(count):
            shapes[f"features.{index}.weight"] = (channels, channels_in, 3, 3)
            shapes[f"features.{index}.bias"] = (channels,)
            index, channels_in = index + 2, channels  # the ReLU is numbered too
        index += 1  # and the pooling
    return shapes


_TENSORS = _tensors()


class VGG19(nn.Module):
    """Frozen VGG-19 down to the deepest layer that is asked for.

    Gradients go to the images, never to the weights, and `train()` changes nothing. Under autocast the
    normalisation stays in fp32; the convolutions follow it.

    Attributes:
        used: for each layer asked for, the one that is given instead: itself, or the deepest `reluN_1` of
            weights that end before it.
    """

    used: Mapping[str, str]
    mean: Tensor
    std: Tensor

    def __init__(self, layers: Iterable[str], tensors: Mapping[str, Tensor], source: str) -> None:
        """Take the weights over; `load_vgg19` reads them from a file.

        Args:
            layers: names of `LAYERS`, in any order.
            tensors: weights by torchvision's names; the last layers may be missing, `classifier.*` is ignored.
            source: what error messages call the weights.

        Raises:
            ConfigError: no layer, or one that VGG-19 does not have.
            DatasetError: the weights are not those of a VGG-19, have a gap, or are not finite.
        """
        super().__init__()
        asked = tuple(layers)
        if not asked:
            raise ConfigError("no layer of VGG-19 is asked for; expected at least one, such as relu4_1")
        if unknown := [layer for layer in asked if layer not in LAYERS]:
            raise ConfigError(f"layer {unknown[0]!r} is not one of VGG-19's: {', '.join(LAYERS)}")
        held = LAYERS[: _depth(tensors, source)]
        stand_in = [layer for layer in held if layer.endswith("_1")][-1]
        self.used = MappingProxyType({layer: layer if layer in held else stand_in for layer in asked})
        self.layers = tuple(layer for layer in LAYERS if layer in self.used.values())
        needed = LAYERS[: LAYERS.index(self.layers[-1]) + 1]
        names = list(_TENSORS)
        self.convolutions = nn.ModuleDict(
            {
                layer: _convolution(*(tensors[name] for name in names[2 * i : 2 * i + 2]))
                for i, layer in enumerate(needed)
            }
        )
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)

    @property
    def replaced(self) -> dict[str, str]:
        """The layers asked for that the weights lack, and which one stands in for each; empty with whole weights."""
        return {asked: used for asked, used in self.used.items() if asked != used}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The activations by name, under the names of the layers that are really used, the shallowest first.

        Args:
            images: float [N, 3, H, W], RGB in 0..1; H and W at least the deepest layer's stride.

        Returns:
            float [N, C, H // stride, W // stride] each; C is 64, 128, 256, 512, 512 in the blocks 1 to 5.

        Raises:
            ValueError: images of another shape or type.
        """
        stride = STRIDES[self.layers[-1]]
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < stride or not images.is_floating_point():
            raise ValueError(
                f"images {list(images.shape)} of {images.dtype}: expected float [N, 3, H, W] in 0..1, "
                f"H and W at least {stride} for {self.layers[-1]}"
            )
        x = (images - self.mean) / self.std
        found = {}
        for layer, convolution in self.convolutions.items():
            if layer.endswith("_1") and layer != "relu1_1":
                x = F.max_pool2d(x, 2)  # [N, C, H / 2, W / 2]
            # In place: a frozen convolution needs neither its input nor its output for the gradient.
            x = torch.relu_(convolution(x))
            if layer in self.layers:
                found[layer] = x
        return found


def load_vgg19(layers: Iterable[str], weights: str = "imagenet") -> VGG19:
    """VGG-19 with pretrained weights.

    Args:
        layers: names of `LAYERS`, in any order.
        weights: `imagenet` (torchvision's IMAGENET1K_V1, downloaded once), or a safetensors or .pth file with
            torchvision's names. A file may end early: `VGG19.used` says what stands in for the layers it lacks.

    Raises:
        ConfigError: no layer, or one that VGG-19 does not have.
        DatasetError: the weights cannot be downloaded or read, or are not those of a VGG-19.
    """
    return VGG19(layers, _download() if weights == "imagenet" else read_weights(Path(weights)), weights)


def _convolution(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    channels, channels_in = weight.shape[:2]
    # Without initial values: drawing them would be slow and would move the global random state.
    with torch.device("meta"):
        convolution = nn.Conv2d(channels_in, channels, 3, padding=1)
    convolution.load_state_dict({"weight": weight.float(), "bias": bias.float()}, assign=True)
    convolution.requires_grad_(requires_grad=False)
    return convolution


def _depth(tensors: Mapping[str, Tensor], source: str) -> int:
    """How many convolutions the weights hold, from the first on.

    Raises:
        DatasetError: none, a tensor of another shape or type, one of another network, or one behind a gap.
    """
    names = list(_TENSORS)
    held = {name: tensor for name, tensor in tensors.items() if name.startswith("features.")}
    if names[0] not in held:
        raise DatasetError(
            f"{source}: holds no VGG-19; expected torchvision's names, from {names[0]} {list(_TENSORS[names[0]])} on"
        )
    for name, tensor in held.items():
        if name not in _TENSORS:
            raise DatasetError(
                f"{source}: {name} is no tensor of VGG-19 (configuration E without batch normalisation); "
                "expected torchvision's vgg19, whole or cut off behind a convolution"
            )
        if tuple(tensor.shape) != _TENSORS[name] or not tensor.is_floating_point():
            raise DatasetError(
                f"{source}: {name} is {tensor.dtype} {list(tensor.shape)}, VGG-19 has float {list(_TENSORS[name])}"
            )
        if not torch.isfinite(tensor).all():
            raise DatasetError(f"{source}: {name} is not finite; the file is damaged, fetch it again")
    missing = [name for name in names if name not in held]
    count = names.index(missing[0]) if missing else len(names)
    if len(held) > count or count % 2:
        raise DatasetError(
            f"{source}: lacks {missing[0]}, but holds what comes with or behind it; "
            "expected VGG-19 whole or cut off behind a convolution"
        )
    return count // 2


def _download() -> Mapping[str, Tensor]:
    """The weights of torchvision, from its cache where it has them.

    Raises:
        DatasetError: there is no network, or the file arrived damaged.
    """
    try:
        state: Mapping[str, Tensor] = torchvision.models.VGG19_Weights.IMAGENET1K_V1.get_state_dict(
            map_location="cpu", progress=True, check_hash=True, weights_only=True
        )
    except (OSError, HTTPException, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        # The hub lays them into its cache and does not look at them again.
        cache = Path(torch.hub.get_dir(), "checkpoints")
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DatasetError(
            f"ImageNet weights of VGG-19 could not be downloaded, or their copy in {cache} is damaged ({reason}); "
            "give a local file with --vgg-weights FILE"
        ) from error
    return state
