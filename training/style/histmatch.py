"""Histogram matching of masked features: R in eq. 4. Of pixels, and what the methods are: `simulation.histmatch`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from inspectd.errors import DatasetError
from inspectd.simulation.histmatch import check_choice

__all__ = ["FeatureMethod", "SortedReference", "match_features"]

FeatureMethod = Literal["quantile", "rank"]


@dataclass(frozen=True, slots=True, eq=False)
class SortedReference:
    """Reference features, sorted once, so that each training step sorts the picture's alone.

    Attributes:
        values: float32 or float64 [C, M], ascending along M; constant for the gradient.
    """

    values: Tensor

    @classmethod
    def of(cls, features: Tensor) -> SortedReference:
        """Sort features [C, M] (the masked cells of H, in any order); narrower types become float32.

        Raises:
            DatasetError: no channel or no cell, or values that are not finite.
        """
        if features.dim() != 2 or 0 in features.shape:
            raise DatasetError(
                f"reference features {tuple(features.shape)}: expected [channels, cells], at least one of each"
            )
        values = features.detach().to(torch.promote_types(features.dtype, torch.float32))
        if not values.isfinite().all():
            raise DatasetError(f"reference features {tuple(features.shape)}: some are not finite")
        return cls(values.sort(dim=1).values)

    def to(self, device: torch.device | str) -> SortedReference:
        """The same on another device."""
        return SortedReference(self.values.to(device))


def match_features(
    features: Tensor, mask: Tensor, reference: SortedReference, method: FeatureMethod = "quantile"
) -> Tensor:
    """Give each picture's masked cells, channel by channel, the distribution of the reference's (R in eq. 4).

    The result is a target: no gradient flows through it. It is computed in float32 (float64 for float64), also
    under autocast. Features that are not finite are not looked for; a loss that compares the result with them
    is not finite either.

    Args:
        features: floating point [N, C, H, W].
        mask: bool [N, H, W] or [N, 1, H, W]; the pictures may have different numbers of cells.
        reference: the sorted reference of C channels, on the same device.
        method: `quantile` or `rank`, see `simulation.histmatch`.

    Returns:
        [N, C, H, W] in the features' dtype and memory format. Cells outside the mask are unchanged, and so is a
        picture without a cell inside.

    Raises:
        ConfigError: an unknown method.
        ValueError: shapes or dtypes that do not fit together.
    """
    check_choice("method", method, FeatureMethod)
    _check_features(features, mask, reference)
    channels = features.shape[1]
    flat = features.detach().flatten(2)  # [N, C, H W]
    marked = mask.reshape(len(flat), flat.shape[2])
    counts = marked.sum(dim=1, keepdim=True)  # [N, 1]
    most = int(counts.max()) if len(flat) else 0
    if not most:
        return features.detach().clone()
    # Only masked cells are gathered, K to a picture; one with fewer repeats its last, which is written more than
    # once in the end, each time with the same value.
    slots = torch.arange(most, device=flat.device)  # [K]
    repeated = torch.minimum(slots, counts - 1).clamp(min=0)  # [N, K]
    found = marked.nonzero()[:, 1]
    cells = found[(counts.cumsum(dim=0) - counts + repeated).clamp(max=len(found) - 1)]  # [N, K]
    cells = cells[:, None].expand(-1, channels, -1)  # [N, C, K]
    values = flat.gather(2, cells)
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    padding = (slots >= counts)[:, None]  # [N, 1, K]
    keys, order = _sort(values.masked_fill(padding, torch.inf))
    twice = _twice_shared_ranks(keys) if method == "quantile" else 2 * slots + 1
    matched = _at_reference(reference.values, twice, counts[..., None]).to(values.dtype)
    matched = torch.empty_like(values).scatter_(2, order, matched.expand_as(order))
    matched = matched.gather(2, repeated[:, None].expand_as(order))
    matched = torch.where(counts[..., None] > 0, matched, values)
    return flat.clone().scatter_(2, cells, matched.to(flat.dtype)).view(features.shape)


def _check_features(features: Tensor, mask: Tensor, reference: SortedReference) -> None:
    if features.dim() != 4 or not features.is_floating_point():
        raise ValueError(f"features {features.dtype} {tuple(features.shape)}: expected floating point [N, C, H, W]")
    n, channels, height, width = features.shape
    if mask.dtype != torch.bool or tuple(mask.shape) not in {(n, height, width), (n, 1, height, width)}:
        raise ValueError(f"mask {mask.dtype} {tuple(mask.shape)}: expected bool {(n, height, width)}")
    if len(reference.values) != channels:
        raise ValueError(f"reference of {len(reference.values)} channels: expected the features' {channels}")


def _sort(values: Tensor) -> tuple[Tensor, Tensor]:
    """Sort along the last axis, stably: keys that are equal where the values are equal, and the order, int64."""
    if values.device.type != "cpu" or values.dtype != torch.float32:
        return torch.sort(values, dim=-1, stable=True)
    # NumPy sorts whole numbers of 64 bits with vector instructions, torch sorts floats on a CPU without.
    # So the value and its index share a number. The bits of a float order as those of an int, if the bits below
    # the sign are turned for negative ones; adding 0 makes -0 equal to 0.
    bits = (values + 0.0).view(torch.int32)
    packed = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(torch.int64)
    packed <<= 32
    packed |= torch.arange(values.shape[-1])
    packed.numpy().sort(axis=-1)
    return packed >> 32, packed & 0xFFFFFFFF


def _twice_shared_ranks(keys: Tensor) -> Tensor:
    """Twice (rank - 1/2) of sorted keys [.., K], int32, where equal ones share the mean of their ranks."""
    count = keys.shape[-1]
    differs = keys[..., 1:] != keys[..., :-1]
    index = torch.arange(count, dtype=torch.int32, device=keys.device)
    first = torch.where(F.pad(differs, (1, 0), value=True), index, 0).cummax(dim=-1).values
    last = torch.where(F.pad(differs, (0, 1), value=True), index, count).flip(-1).cummin(dim=-1).values.flip(-1)
    return first + last + 1


def _at_reference(ranked: Tensor, twice: Tensor, counts: Tensor) -> Tensor:
    """The reference's quantiles at twice / 2 counts.

    Args:
        ranked: [C, M], ascending.
        twice: whole numbers [N, C, K] or [K], the same for all channels.
        counts: int64 [N, 1, 1].

    Returns:
        [N, C, K] in the reference's dtype.
    """
    channels, m = ranked.shape
    # float64, since places in a large reference have too few bits left for the fraction in float32.
    places = (twice * float(m) / (2.0 * counts.clamp(min=1).double()) - 0.5).clamp_(0, m - 1)
    low = places.long()
    fraction = (places - low).to(ranked.dtype)
    shape = (len(low), channels, low.shape[2])
    table = ranked.expand(len(low), -1, -1)
    below = table.gather(2, low.expand(shape))
    above = table.gather(2, (low + 1).clamp_(max=m - 1).expand(shape))
    return below + fraction * (above - below)
