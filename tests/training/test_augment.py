"""The augmentation that OpenCV computes is the one that torchvision describes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from inspectd.buttons import render
from inspectd.training.segmentation.augment import ColourJitter, Moves

FILL = {tv_tensors.Image: 0, tv_tensors.Mask: 0}
MOVES = {"degrees": 180, "translate": (0.06, 0.06), "scale": (0.85, 1.2), "fill": FILL}
COLOURS = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.15, "hue": 0.02}


@pytest.fixture(scope="module")
def pair():
    part = render("horn", "stain", 3, 128)
    return tv_tensors.Image(torch.from_numpy(part.image).permute(2, 0, 1)), tv_tensors.Mask(torch.from_numpy(part.mask))


def apart(ours, theirs, pair, seed):
    results = []
    for transform in (ours, theirs):
        torch.manual_seed(seed)
        image, mask = transform(*pair)
        results.append((image.as_subclass(Tensor).int(), mask.as_subclass(Tensor).int()))
    (image, mask), (expected, expected_mask) = results
    assert image.shape == expected.shape
    return float((image - expected).abs().float().mean()), int((mask != expected_mask).sum())


@pytest.mark.parametrize("seed", range(8))
def test_moves_are_torchvisions(pair, seed):
    theirs = v2.RandomAffine(**MOVES, interpolation=v2.InterpolationMode.BILINEAR)
    image, mask = apart(Moves(**MOVES), theirs, pair, seed)
    assert image < 1.0  # grey levels: OpenCV interpolates in steps of 1/32 px
    assert mask <= 4


@pytest.mark.parametrize("seed", range(8))
def test_colours_are_nearly_torchvisions(pair, seed):
    image, mask = apart(ColourJitter(**COLOURS), v2.ColorJitter(**COLOURS), pair, seed)
    assert image < 4.0  # grey levels: hue is turned in another plane, and values are clamped once
    assert mask == 0


def test_grey_pictures_are_moved_and_keep_their_colour():
    image = tv_tensors.Image(torch.full((1, 32, 32), 77, dtype=torch.uint8))
    assert torch.equal(ColourJitter(**COLOURS)(image), image)
    assert Moves(**MOVES)(image).shape == image.shape
