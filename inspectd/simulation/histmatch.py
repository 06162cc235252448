"""Histogram matching of masked pixels, between sets of different size.

Wei, Cao, Jiang, Zheng, Liu: "Defective samples simulation through Neural Style Transfer for automatic surface
defect segment". `match_pixels` is step 1 of DST, y = histmatch(S[L], H[M]) inside L. (R in eq. 4, which matches
features, is `inspectd.training.style.histmatch`.) The paper says only that it goes by channel and through cumulative
histograms. The methods here:

- `quantile`: the k-th smallest of n source values stands at p = (k - 1/2) / n, where equal values share the mean
  of their ranks. It becomes the reference's quantile at p: the j-th smallest of m reference values stands at
  (j - 1/2) / m, with straight lines between and constant ends (Hazen 1914; method 5 of Hyndman and Fan 1996).
- `rank`: the same, but equal values keep distinct ranks, in the order in which they stand in the array. With
  equal counts the result is a permutation of the reference; equal pixels no longer stay equal.
- `cdf256`: the paper's. Cumulative histograms of the 256 levels of an 8-bit channel; level v becomes the lowest
  level z with G(z) >= F(v). All pixels of a level go where the last of them belongs, so the result is too bright,
  and about twice as far from the reference as that of `quantile` (less so where few pixels share a level).

With `quantile` and `rank` the cumulative distribution of the result differs from the reference's by at most
t / 2n + 1 / 2m, t being the largest number of equal source values (1 for `rank`). A reference of one value turns
everything into it. A source of one value becomes the reference's median (`cdf256`: its maximum).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.errors import ConfigError, DatasetError

__all__ = ["Method", "Space", "check_choice", "match_pixels", "match_values"]

Method = Literal["quantile", "rank", "cdf256"]
Space = Literal["rgb", "lab", "pca"]

# Coordinates of Lab and PCA are rounded to this fraction of a unit. A colour that is neutral along an axis, such as
# a grey along a and b, carries rounding noise there, and ranks made of noise would become coloured speckle.
_GRID = 1024

# Linear light of the 256 levels, IEC 61966-2-1. OpenCV's own step from sRGB to Lab interpolates in a coarse table:
# greys come out up to 0.12 off the grey axis, and one colour in fifty does not come back.
_LEVELS = np.arange(256) / 255
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4).astype(np.float32)


def match_values(source: NDArray[Any], reference: NDArray[Any], method: Method = "quantile") -> NDArray[np.float64]:
    """Give each channel of the source the distribution of the reference's.

    Args:
        source: real numbers [N, C].
        reference: real numbers [M, C].
        method: see the module; `cdf256` takes whole numbers from 0 to 255 alone.

    Returns:
        float64 [N, C], in the source's order; not rounded.

    Raises:
        ConfigError: an unknown method, or `cdf256` for values that are not of 8 bits.
        DatasetError: no values, different channels, or values that are not finite.
    """
    check_choice("method", method, Method)
    for name, values in (("source", source), ("reference", reference)):
        if values.ndim != 2 or 0 in values.shape:
            raise DatasetError(f"{name} values {values.shape}: expected [count, channels], at least one of each")
        if not np.isfinite(values).all():
            raise DatasetError(f"{name} values: {np.count_nonzero(~np.isfinite(values))} of them are not finite")
    if source.shape[1] != reference.shape[1]:
        raise DatasetError(f"source of {source.shape[1]} channels, reference of {reference.shape[1]}: expected as many")
    match_channel = _look_up if method == "cdf256" else partial(_at_quantiles, share_ties=method == "quantile")
    columns = [
        match_channel(values, target)
        for values, target in zip(source.T.astype(np.float64), reference.T.astype(np.float64), strict=True)
    ]
    return np.stack(columns, axis=1)


def match_pixels(
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    reference: NDArray[np.uint8],
    reference_mask: NDArray[np.bool_],
    *,
    method: Method = "quantile",
    space: Space = "rgb",
) -> NDArray[np.uint8]:
    """Give an image's masked pixels the distribution of a reference's (the coarse step of DST, algorithm 2).

    Matching goes by channel, and what a channel is follows from the space:

    - `rgb`: the image's own channels. False colours may appear where the reference is strongly coloured.
    - `lab`: CIE L*a*b* (D65) in float32, so that lightness and the two colour contrasts are matched.
    - `pca`: the principal axes of the reference's masked pixels, for both sets. A coordinate has to mean the same
      colour contrast in both, and axes of the source would do so only up to sign and order. The reference's are
      also the same for all images that get this defect, and its channels are uncorrelated along them. Where it
      does not vary (one colour, one grey axis) any direction serves: there everything becomes its one value.

    Colours that leave the 8-bit range are clipped. An image of one channel is matched as in `rgb` in every space.

    Args:
        image: uint8 [H, W, C], RGB or one channel.
        mask: bool [H, W], the pixels to match (L).
        reference: uint8 [h, w, C], of the same channels; sizes may differ.
        reference_mask: bool [h, w], the pixels to match them to (M).
        method: see the module. `rank` breaks ties in reading order, which shows as a gradient in flat areas.
        space: the channels to match in; `cdf256` needs the 256 levels of `rgb`.

    Returns:
        uint8 [H, W, C], a copy; outside the mask it is the image byte for byte.

    Raises:
        ConfigError: an unknown method or space, or `cdf256` in another space than `rgb`.
        DatasetError: an empty mask, a mask that does not fit its image, or different channels.
    """
    check_choice("method", method, Method)
    check_choice("space", space, Space)
    if method == "cdf256" and space != "rgb":
        raise ConfigError(
            f"histogram matching cdf256 in space {space}: it works on the 256 levels of 8-bit channels, which {space} "
            "has not; use the space rgb, or the method quantile or rank"
        )
    _check_picture("image", image, mask)
    _check_picture("reference", reference, reference_mask)
    if image.shape[2] != reference.shape[2]:
        raise DatasetError(f"image of {image.shape[2]} channels, reference of {reference.shape[2]}: expected as many")
    source, target = image[mask], reference[reference_mask]  # [N, C], [M, C]
    if space == "rgb" or image.shape[2] == 1:
        matched = match_values(source, target, method)
    else:
        to_space, to_rgb = (_to_lab, _lab_to_rgb) if space == "lab" else _principal(target)
        matched = to_rgb(match_values(_convert(source, to_space), _convert(target, to_space), method))
    result = image.copy()
    result[mask] = np.clip(np.rint(matched), 0, 255).astype(np.uint8)
    return result


def check_choice(name: str, value: str, choices: Any) -> None:  # noqa: ANN401, a Literal has no type of its own
    """Refuse a name that is not one of a Literal's.

    Raises:
        ConfigError: it is none of them.
    """
    if value not in get_args(choices):
        raise ConfigError(f"histogram matching {name} {value!r} is not one of {', '.join(get_args(choices))}")


def _check_picture(name: str, image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in {1, 3}:
        raise DatasetError(f"{name} {image.dtype} {image.shape}: expected uint8 [height, width, 1 or 3]")
    if mask.dtype != np.bool_ or mask.shape != image.shape[:2]:
        raise DatasetError(f"mask of the {name} {mask.dtype} {mask.shape}: expected bool {image.shape[:2]}")
    if not mask.any():
        raise DatasetError(f"mask of the {name} {mask.shape} is empty: histogram matching needs at least one pixel")


def _at_quantiles(
    source: NDArray[np.float64], reference: NDArray[np.float64], *, share_ties: bool
) -> NDArray[np.float64]:
    """`quantile` (ties shared) or `rank` of one channel: [N], [M] -> [N]. In integers no place is rounded."""
    n, m = source.size, reference.size
    if share_ties:
        ranked = np.sort(source)
        twice = np.searchsorted(ranked, source, "left") + np.searchsorted(ranked, source, "right")
    else:
        twice = np.empty(n, np.int64)
        twice[np.argsort(source, kind="stable")] = 2 * np.arange(n) + 1
    # p = twice / 2n; the place among the reference's sorted values, counted from 0, is p m - 1/2.
    places = np.clip(twice * m - n, 0, 2 * n * (m - 1))
    low, rest = np.divmod(places, 2 * n)
    ranked = np.sort(reference)
    below, above = ranked[low], ranked[np.minimum(low + 1, m - 1)]
    matched: NDArray[np.float64] = below + rest / (2 * n) * (above - below)
    return matched


def _look_up(source: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """`cdf256` of one channel: [N], [M] -> [N]. Counts are compared, since shares would be rounded."""
    for values in (source, reference):
        if values.min() < 0 or values.max() > 255 or (values != np.rint(values)).any():
            raise ConfigError(
                "histogram matching cdf256: expected the whole numbers 0 to 255 of an 8-bit channel, got values from "
                f"{values.min():g} to {values.max():g}; use the method quantile or rank"
            )
    levels = source.astype(np.int64)
    up_to = np.cumsum(np.bincount(levels, minlength=256))
    reference_up_to = np.cumsum(np.bincount(reference.astype(np.int64), minlength=256))
    table = np.searchsorted(reference_up_to * source.size, up_to * reference.size, "left")
    return table[levels].astype(np.float64)


_Transform = Callable[[NDArray[Any]], NDArray[np.float64]]


def _convert(pixels: NDArray[np.uint8], transform: _Transform) -> NDArray[np.float64]:
    """Pixels [N, 3] in another space, on the grid; equal pixels stay equal.

    Each colour is converted once: OpenCV rounds differently at the end of an array than in its midst.
    """
    codes = pixels.astype(np.int64) @ np.array([65536, 256, 1])
    distinct, inverse = np.unique(codes, return_inverse=True)
    colours = np.stack([distinct >> 16, distinct >> 8 & 255, distinct & 255], axis=1)
    rounded: NDArray[np.float64] = np.rint(transform(colours) * _GRID) / _GRID
    return rounded[inverse]


def _to_lab(colours: NDArray[np.int64]) -> NDArray[np.float64]:
    """RGB levels [K, 3] -> L* in 0..100, a*, b*."""
    lab: NDArray[np.float64] = cv2.cvtColor(_LINEAR[colours][None], cv2.COLOR_LRGB2LAB)[0].astype(np.float64)
    return lab


def _lab_to_rgb(lab: NDArray[np.float64]) -> NDArray[np.float64]:
    """L*, a*, b* [K, 3] -> RGB in 0..255, not rounded; colours out of gamut are clipped."""
    linear = cv2.cvtColor(lab[None].astype(np.float32), cv2.COLOR_LAB2LRGB)[0].astype(np.float64).clip(0, 1)
    rgb: NDArray[np.float64] = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return rgb


def _principal(pixels: NDArray[np.uint8]) -> tuple[_Transform, _Transform]:
    """To the principal axes of pixels [M, 3], and back."""
    centred = pixels - pixels.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred / len(pixels))
    # An axis has no direction of its own; one rule for it keeps the ties of `rank` the same everywhere.
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), range(3)] < 0, -1.0, 1.0)
    return (lambda colours: colours @ axes), (lambda coordinates: coordinates @ axes.T)
