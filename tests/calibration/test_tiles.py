"""Real photographs where everything else is rendered: what a flat field must not take, and good pictures that differ.

The pictures are not ours to redistribute: they are read where they lie, and the test is skipped where they do not.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from inspectd.calibration.flat import Stack, fit_flat_field
from inspectd.calibration.image import learn_image
from inspectd.dataset import open_dataset, read_image
from inspectd.errors import ConfigError

from .test_threshold_tiles import TILES, pytestmark  # noqa: F401 - marks this file too

MIDDLE = 120
"""Photographs have sizes of their own, and all have so many pixels in their middle but a few."""


def middles(role):
    for sample in open_dataset(TILES).select(role):
        pixels = read_image(sample.image)[..., :1]
        top, left = ((side - MIDDLE) // 2 for side in pixels.shape[:2])
        if min(top, left) >= 0:
            yield np.ascontiguousarray(pixels[top : top + MIDDLE, left : left + MIDDLE])


def test_no_surface_is_taken_for_an_even_target():
    """Not even the middle of the most even tile, as bright as a target has to be."""
    rng, refused = np.random.default_rng(0), 0
    for pixels in middles("ok_test"):
        bright = cv2.convertScaleAbs(pixels, alpha=170 / max(1.0, float(pixels.mean())))[..., None]
        stack = Stack()
        for number in range(8):
            frame = np.rint(bright + rng.normal(0, 1.2, bright.shape))
            stack.add(str(number), np.clip(frame, 0, 255).astype(np.uint8))
        with pytest.raises(ConfigError):
            fit_flat_field(stack)
        refused += 1
    assert refused > 100


def test_good_pictures_of_other_tiles_are_good():
    """The limits are learned from 236 photographs, whose tiles are not among the others."""
    check = learn_image(list(middles("free"))).check
    others = [*middles("ok_calibration"), *middles("ok_test")]
    refused = sum(bool(check.faults(check.measure(pixels))) for pixels in others)
    # Of eight numbers each lies within the extremes of 236 good ones with 98.7 % at the least, without the margin.
    assert len(others) > 300
    assert refused <= 0.03 * len(others)
    covered = np.full((MIDDLE, MIDDLE, 1), 3, np.uint8)
    assert check.faults(check.measure(covered))
