"""A bundle as the start of a training: its network with batch normalisation in its place again.

The export folds every batch normalisation into the convolution before it. What the network computes stays in
the graph, what a training normalises by does not: mean and deviation of each channel are measured again, and
scale and shift chosen so that the outputs are those of the graph.
"""

from __future__ import annotations

import io
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inspectd.bundle import MODEL, Bundle
from inspectd.errors import ConfigError, DatasetError
from inspectd.optional import require

from .buttonlab import Buttonlab
from .feed import normalise

__all__ = ["unfold"]

# Names in a convolution's module, and those of the normalisation after it.
_FOLLOWED_BY = {"conv1": "bn1", "conv2": "bn2", "conv3": "bn3", "0": "1"}
_BATCH = 8
# A channel that never varies keeps its value, and must not be divided by nothing.
_LEAST_VARIANCE = 1e-6


def unfold(bundle: Bundle, images: NDArray[np.uint8]) -> Buttonlab:
    """The trained network of a bundle, ready to be trained on.

    Args:
        bundle: of a Buttonlab, as export-trt writes it.
        images: pictures uint8 [N, H, W, C] to measure on, such as the training will show; sides multiples of 16.

    Returns:
        The network in training mode; in evaluation mode it gives the graph's logits up to rounding.

    Raises:
        BundleError: the bundle has no graph, or it is damaged.
        DatasetError: the graph's weights are not those of its card's network.
        MissingDependencyError: onnx is not installed.
    """
    folded = _weights(bundle)
    try:
        network = Buttonlab(str(bundle.card.network.get("backbone")), classes=len(bundle.card.classes)).eval()
    except ConfigError as error:
        raise DatasetError(f"{bundle.path}: {error}") from error
    modules = dict(network.named_modules())
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d, Tensor]] = []
    for name, module in modules.items():
        if not isinstance(module, nn.Conv2d):
            continue
        _take(bundle, module.weight, folded.get(f"network.{name}.weight"), name)
        if module.bias is not None:
            _take(bundle, module.bias, folded.get(f"network.{name}.bias"), name)
            continue
        parent, _, last = name.rpartition(".")
        after = modules[f"{parent}.{_FOLLOWED_BY[last]}"]
        if not isinstance(after, nn.BatchNorm2d):
            raise TypeError(f"{name}: expected a batch normalisation after it")
        # A new one scales by 1 around 0: so it is the identity but for the shift, while the statistics are measured.
        after.running_var = torch.full_like(after.bias, 1 - after.eps)
        _take(bundle, after.bias, folded.get(f"network.{name}.weight_bias"), name)
        pairs.append((module, after, after.bias.detach().clone()))
    for (_, after, shift), (mean, variance) in zip(pairs, _statistics(network, pairs, bundle, images), strict=True):
        after.running_mean, after.running_var = mean.float(), variance.float()
        with torch.no_grad():
            after.weight.copy_((variance + after.eps).sqrt())
            after.bias.copy_(shift + mean)
    return network.train()


def _weights(bundle: Bundle) -> dict[str, Tensor]:
    """The tensors of a bundle's graph by name."""
    require("onnx", extra="export")
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(io.BytesIO(bundle.read(MODEL))).graph
    return {entry.name: torch.from_numpy(numpy_helper.to_array(entry).copy()) for entry in graph.initializer}


def _take(bundle: Bundle, own: Tensor, found: Tensor | None, name: str) -> None:
    if found is None or found.shape != own.shape:
        shape = "none" if found is None else str(list(found.shape))
        raise DatasetError(
            f"{bundle.path}: {MODEL} holds {shape} for {name}, expected {list(own.shape)}; "
            "start from the checkpoint that it was made of"
        )
    with torch.no_grad():
        own.copy_(found)


def _statistics(
    network: Buttonlab,
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d, Tensor]],
    bundle: Bundle,
    images: NDArray[np.uint8],
) -> list[tuple[Tensor, Tensor]]:
    """Mean and variance float64 [C] of what each convolution gives."""
    sums = [torch.zeros(3, convolution.out_channels, dtype=torch.float64) for convolution, _, _ in pairs]

    def note(total: Tensor, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        values = output.double()
        total[0] += values[:, 0].numel()
        total[1] += values.sum((0, 2, 3))
        total[2] += values.square().sum((0, 2, 3))

    hooks = [pair[0].register_forward_hook(partial(note, total)) for pair, total in zip(pairs, sums, strict=True)]
    with torch.no_grad():
        for first in range(0, len(images), _BATCH):
            pixels = torch.from_numpy(images[first : first + _BATCH]).permute(0, 3, 1, 2)
            network(normalise(pixels, bundle.card.preprocess).expand(-1, 3, -1, -1))
    for hook in hooks:
        hook.remove()
    return [
        (total / count, (squares / count - (total / count).square()).clamp_min(_LEAST_VARIANCE))
        for count, total, squares in sums
    ]
