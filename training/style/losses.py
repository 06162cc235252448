"""Losses of the transfer network, equations (1) to (6), under masks.

Wei, Cao, Jiang, Zheng, Liu: "Defective samples simulation through Neural Style Transfer for automatic surface
defect segment". The histogram loss is that of Risser and others (2017).

All losses work alike. They take a batch, with a mask of its own for each picture. The features' masks are the
image's, pooled by `pool_mask`: a cell counts from 25 % coverage on, and where none has as much, the best covered
one counts. `H W` of the equations is the number of cells (in the image: of pixels) that count, picture by
picture; the loss of a batch is the mean over its pictures. Nothing outside the mask has any influence. A picture
whose mask is empty adds 0 to the sum, but is counted in the mean. Targets are held constant.

Everything is calculated in fp32 (in fp64 for fp64 features), under autocast too: sums over a Gram matrix or an
image need more digits than bf16 has, and more range than fp16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from inspectd.errors import DatasetError

from .features import STRIDES
from .histmatch import FeatureMethod, SortedReference, match_features
from .settings import TERMS, LossSettings, TermWeights

__all__ = [
    "COVERAGE",
    "LossValue",
    "Targets",
    "calibrate",
    "content_loss",
    "gram",
    "hist_loss",
    "histogram_references",
    "pool_mask",
    "pool_masks",
    "style_loss",
    "transfer_loss",
    "transfer_terms",
    "tv_loss",
]

COVERAGE = 0.25
"""Share of a cell's area that the mask has to cover for the cell to count."""


def pool_mask(mask: Tensor, stride: int) -> Tensor:
    """The cells of a layer that count under a mask of the image.

    A cell's coverage is the mask's share of its `stride` x `stride` pixels. Cells of 25 % and more count; where a
    picture has none, its best covered cell does (the first of equals, row by row).

    Args:
        mask: bool [N, H, W].
        stride: of `STRIDES`.

    Returns:
        bool [N, H / stride, W / stride]; all false where the picture's mask is empty.

    Raises:
        ValueError: H or W is not a multiple of the stride, or the mask is not bool [N, H, W].
    """
    if mask.dtype != torch.bool or mask.ndim != 3:
        raise ValueError(f"mask {list(mask.shape)} of {mask.dtype}: expected bool [N, H, W]")
    if mask.shape[1] % stride or mask.shape[2] % stride:
        raise ValueError(f"mask {list(mask.shape)}: expected sides that are multiples of {stride}")
    coverage = F.avg_pool2d(mask[:, None].float(), stride).flatten(1)  # [N, H/stride * W/stride]
    counts = coverage >= COVERAGE
    best = torch.zeros_like(counts).scatter_(1, coverage.argmax(dim=1, keepdim=True), True)
    counts = counts | (best & (coverage > 0) & ~counts.any(dim=1, keepdim=True))
    return counts.view(-1, mask.shape[1] // stride, mask.shape[2] // stride)


def pool_masks(mask: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
    """`pool_mask` for several layers: bool [N, H / stride, W / stride] of each; layers of one block share it."""
    asked = tuple(layers)
    pooled = {stride: pool_mask(mask, stride) for stride in {STRIDES[layer] for layer in asked}}
    return {layer: pooled[STRIDES[layer]] for layer in asked}


def content_loss(output: Tensor, target: Tensor, cells: Tensor) -> Tensor:
    """Equation (1): the mean squared difference of the features.

    Args:
        output: float [N, C, H, W], features of the output.
        target: float [N, C, H, W], features of the coarse step's picture y.
        cells: bool [N, H, W], cells that count.

    Returns:
        A scalar: the batch's mean of `sum (output - target)² / (C cells)`.
    """
    with _full(output):
        return (_squares(_wide(output) - _wide(target).detach(), cells) / _size(output, cells)).mean()


def gram(features: Tensor, cells: Tensor) -> Tensor:
    """The Gram matrix of equation (2) over the cells that count, divided by channels times cells.

    Args:
        features: float [N, C, H, W].
        cells: bool [N, H, W].

    Returns:
        fp32 (or fp64) [N, C, C]; zero where no cell counts.
    """
    with _full(features):
        psi = _inside(_wide(features), cells).flatten(2)  # [N, C, H W]
        return torch.bmm(psi, psi.transpose(1, 2)) / _size(features, cells)[:, None, None]


def style_loss(output: Tensor, cells: Tensor, target: Tensor, target_cells: Tensor, *, summed: bool = False) -> Tensor:
    """Equation (2): the squared distance of the Gram matrices, each over the cells of its own mask.

    Args:
        output: float [N, C, H, W], features of the output.
        cells: bool [N, H, W], cells of it that count.
        target: float [N or 1, C, H', W'], features that have the style.
        target_cells: bool [N or 1, H', W'], cells of it that count.
        summed: do not divide the Gram matrices by channels times cells. The target's is then brought to the output's
            number of cells, since sums over masks of different sizes could not be compared.

    Returns:
        A scalar: the batch's mean of `||G(output) - G(target)||²_F`. A picture with nothing to compare adds 0: one
        whose mask or whose target's is empty.
    """
    with _full(output):
        distance = gram(output, cells) - gram(target, target_cells).detach()  # [N, C, C]
        squares = distance.square().sum(dim=(1, 2)) * target_cells.flatten(1).any(dim=1)  # [N]
        squares = squares * cells.flatten(1).any(dim=1)
        return (squares * _size(output, cells).square() if summed else squares).mean()


def hist_loss(
    output: Tensor,
    cells: Tensor,
    reference: SortedReference,
    *,
    summed: bool = False,
    method: FeatureMethod = "quantile",
) -> Tensor:
    """Equation (4): the squared distance of the features to themselves after histogram matching.

    The matched features are held constant, as if they had been a given target.

    Args:
        output: float [N, C, H, W], features of the output.
        cells: bool [N, H, W], cells that count.
        reference: the features [C, M] of the reference defect's cells, sorted; on the output's device.
        summed: do not divide by channels times cells.
        method: of `match_features`.

    Returns:
        A scalar: the batch's mean of `sum (output - matched)² / (C cells)`.
    """
    with _full(output):
        features = _wide(output)
        matched = match_features(features, cells, reference, method)  # constant
        squares = _squares(features - matched, cells)
        return (squares if summed else squares / _size(output, cells)).mean()


def tv_loss(images: Tensor, mask: Tensor, *, summed: bool = False, white: float = 1.0) -> Tensor:
    """Equation (5): the squared differences of neighbours, to the right and below, that both lie in the mask.

    Args:
        images: float [N, C, H, W] in 0..1. Give them in fp32: bf16 has steps of 1/256 and coarser.
        mask: bool [N, H, W].
        summed: do not divide by channels times pixels of the mask.
        white: what the value 1 is worth.

    Returns:
        A scalar: the batch's mean of `sum (difference white)² / (C pixels)`.
    """
    with _full(images):
        pixels = _wide(images) * white
        rightwards = _squares(pixels.diff(dim=3), mask[:, :, 1:] & mask[:, :, :-1])
        downwards = _squares(pixels.diff(dim=2), mask[:, 1:] & mask[:, :-1])
        squares = rightwards + downwards  # [N]
        return (squares if summed else squares / _size(images, mask)).mean()


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What a batch is drawn towards; the mappings need the layers of terms that have a weight.

    Attributes:
        content: features [N, C, h, w] of the coarse step's picture y.
        style: features [N or 1, C, h', w'] of the pictures that have the style.
        style_mask: bool [N or 1, H', W'], where in those pictures, px: L for the background under the new defect.
        hist: the reference defect's features, from `histogram_references`.
    """

    content: Mapping[str, Tensor]
    style: Mapping[str, Tensor]
    style_mask: Tensor
    hist: Mapping[str, SortedReference]


class LossValue(NamedTuple):
    """The loss of a batch.

    Attributes:
        total: scalar, equation (6), with its gradient.
        terms: each term's value before it is weighed, a scalar on the device without gradient.
    """

    total: Tensor
    terms: dict[str, Tensor]


def histogram_references(
    features: Mapping[str, Tensor], mask: Tensor, layers: Iterable[str]
) -> dict[str, SortedReference]:
    """The features of the reference defect, as `hist_loss` takes them: those of all cells that count.

    Args:
        features: float [N, C, h, w] by layer; usually N = 1.
        mask: bool [N, H, W], the defect, px.
        layers: those wanted.

    Raises:
        DatasetError: the mask is empty.
    """
    if not mask.any():
        raise DatasetError("the reference defect's mask is empty; expected a labelled defect inside the picture")
    return {
        layer: SortedReference.of(_wide(features[layer]).detach().movedim(1, 0)[:, cells])  # [C, M]
        for layer, cells in pool_masks(mask, layers).items()
    }


def transfer_terms(
    settings: LossSettings, images: Tensor, features: Mapping[str, Tensor], mask: Tensor, targets: Targets
) -> dict[str, Tensor]:
    """Every term of equation (6) that has a weight, by name, with its gradient and not weighed.

    Args:
        settings: the layers are those that VGG-19 really gives (see `LossSettings.replacing`).
        images: float [N, 3, H, W] in 0..1, the output.
        features: its activations by layer, [N, C, h, w]; `settings.layers` are needed.
        mask: bool [N, H, W], where the new defect is (L), px; H and W multiples of the strides.
        targets: what the batch is drawn towards.

    Returns:
        Scalars, in the order of `TERMS`.
    """
    weights, terms = settings.weights, {}
    cells = pool_masks(mask, settings.layers)
    if weights.content:
        terms["content"] = _total(
            content_loss(features[j], targets.content[j], cells[j]) for j in settings.content_layers
        )
    if weights.style:
        there, summed = pool_masks(targets.style_mask, settings.style_layers), settings.gram == "sum"
        terms["style"] = _total(
            style_loss(features[j], cells[j], targets.style[j], there[j], summed=summed) for j in settings.style_layers
        )
    if weights.hist:
        summed, method = settings.hist == "sum", settings.hist_method
        terms["hist"] = _total(
            hist_loss(features[j], cells[j], targets.hist[j], summed=summed, method=method)
            for j in settings.hist_layers
        )
    if weights.tv:
        terms["tv"] = tv_loss(images, mask, summed=settings.tv == "sum", white=settings.white)
    return terms


def transfer_loss(
    settings: LossSettings, images: Tensor, features: Mapping[str, Tensor], mask: Tensor, targets: Targets
) -> LossValue:
    """Equation (6): the weighted sum of `transfer_terms`, which has the arguments.

    Raises:
        ValueError: the settings hold shares of gradients; calibrate them first.
    """
    if settings.balance != "fixed":
        raise ValueError("the weights are shares of gradients; expected settings.calibrated(calibrate(...))")
    terms = transfer_terms(settings, images, features, mask, targets)
    total = _total(value * getattr(settings.weights, name) for name, value in terms.items())
    return LossValue(total, {name: value.detach() for name, value in terms.items()})


def calibrate(images: Tensor, terms: Callable[[Tensor], Mapping[str, Tensor]], shares: TermWeights) -> TermWeights:
    """Weights under which each term's gradient at the output has its share as its norm.

    The gradient is that of the batch's loss by the batch's images, its norm the Euclidean one over all of them.
    Call it once, with one batch for all devices, and keep the weights with the network.

    A term without a gradient gets weight 0. Content has none where the output is its target: a network that
    starts as the identity has to be calibrated with other content targets, such as the background's features,
    whose distance from y is what the coarse step has changed. The same holds where the gradient is only nearly 0,
    as under a soft mask: the weight would be enormous.

    Args:
        images: float [N, 3, H, W], an output of the network.
        terms: gives the terms' values (scalars, not weighed) at such images: `transfer_terms` on their features.
        shares: the norms that the weighted gradients shall have; a share of 0 gives weight 0.

    Raises:
        DatasetError: a term or its gradient is not finite, or no term has a gradient.
        KeyError: a term that has a share is not among those that `terms` gives.
    """
    weights = dict.fromkeys(TERMS, 0.0)
    leaf = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        values = terms(leaf)
    for name in TERMS:
        share = getattr(shares, name)
        if not share:
            continue
        value, norm = float(values[name].detach()), _gradient_norm(values[name], leaf)
        if not math.isfinite(value) or not math.isfinite(norm):
            raise DatasetError(
                f"the {name} loss of the first output is {value:g}, its gradient's norm {norm:g}; expected finite "
                "numbers: look at the reference, the backgrounds and the weights of VGG-19"
            )
        weight = share / norm if norm else 0.0
        weights[name] = weight if weight <= torch.finfo(torch.float32).max else 0.0
    if not any(weights.values()):
        raise DatasetError("no loss has a gradient at the first output; expected a mask with at least one pixel")
    return TermWeights(**weights)


def _gradient_norm(value: Tensor, leaf: Tensor) -> float:
    if not value.requires_grad:
        return 0.0
    (gradient,) = torch.autograd.grad(value, leaf, retain_graph=True, allow_unused=True)
    # In fp64: squares of what the summed losses give may leave fp32.
    return 0.0 if gradient is None else float(torch.linalg.vector_norm(gradient.cpu().double()))


def _total(scalars: Iterable[Tensor]) -> Tensor:
    return torch.stack(tuple(scalars)).sum()


def _full(x: Tensor) -> torch.autocast:
    """Autocast switched off: it would take the matrix products back to bf16."""
    return torch.autocast(x.device.type, enabled=False)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _inside(x: Tensor, cells: Tensor) -> Tensor:
    """[N, C, H, W], 0 outside the cells [N, H, W]; filled, since a product would keep infinities and NaN."""
    return x.masked_fill(~cells[:, None], 0)


def _squares(x: Tensor, cells: Tensor) -> Tensor:
    """Sum of squares [N] over channels and cells that count."""
    return _inside(x, cells).square().sum(dim=(1, 2, 3))


def _size(x: Tensor, cells: Tensor) -> Tensor:
    """Channels times cells that count, of each picture: [N]; that of one cell where none counts."""
    return x.shape[1] * cells.sum(dim=(1, 2)).clamp(min=1)
