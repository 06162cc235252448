"""Scenes at the network's size and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inspectd.simulation.coarse import Exemplar, paint, scene_of, soft
from inspectd.simulation.window import fit, put_back
from inspectd.training.style.transfernet import fuse, gaussian_mask
from inspectd.training.style.window import to_levels, to_tensor

from .test_style_coarse import placed


def scene_at(side, radius, channels=3, margin=6):
    rows, columns = np.mgrid[:side, :side]
    mask = np.hypot(rows - side / 2, columns - side / 2) <= radius
    image = np.random.default_rng(0).integers(60, 200, (side, side, channels)).astype(np.uint8)
    exemplar = Exemplar("r", "stain", image, mask)
    good = np.random.default_rng(1).integers(60, 200, (side, side, channels)).astype(np.uint8)
    scene = scene_of(good, exemplar, placed(), margin_px=margin, least_px=48)
    return scene, paint("cutpaste", scene, exemplar)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_scene_of_the_networks_size_passes_untouched(channels):
    scene, coarse = scene_at(80, 9, channels)
    fitted = fit(scene, coarse, 48)
    assert fitted.good.shape == fitted.coarse.shape == (48, 48, 3)
    assert np.array_equal(fitted.good[..., :channels], scene.good)
    assert np.array_equal(fitted.label, scene.label)


def test_what_the_network_paints_is_fused_as_it_was_trained():
    scene, coarse = scene_at(80, 9)
    fitted = fit(scene, coarse, 48)
    painted = torch.tanh(torch.randn(3, 48, 48, generator=torch.Generator().manual_seed(0)))
    result = put_back(scene.good, coarse, fitted, to_levels(painted), soft(scene.label, 1.5))
    share = gaussian_mask(torch.from_numpy(scene.label[None, None]), 1.5)
    expected = (fuse(painted[None], to_tensor(scene.good[None]), share)[0].permute(1, 2, 0).numpy() + 1) * 127.5
    assert np.abs(result - expected).max() <= 0.51


@pytest.mark.parametrize("side", [48, 80])
def test_the_identity_gives_the_coarse_defect(side):
    """Also where the scene was brought down: only what the network changes goes through the smaller size."""
    scene, coarse = scene_at(200, 60 if side == 80 else 9)
    fitted = fit(scene, coarse, side)
    painted = torch.from_numpy(fitted.coarse).permute(2, 0, 1) / 127.5 - 1
    result = put_back(scene.good, coarse, fitted, to_levels(painted), soft(scene.label, 0.0))
    assert np.abs(result.astype(int) - np.where(scene.label[..., None], coarse, scene.good)).max() <= 1


def test_a_thin_defect_is_not_lost_when_it_is_brought_down():
    scene, coarse = scene_at(256, 100)
    scene.label[:] = False
    scene.label[10:240, 100] = True
    assert fit(scene, coarse, 48).label.sum() >= 20


def test_a_small_picture_is_continued():
    scene, coarse = scene_at(40, 8)
    fitted = fit(scene, coarse, 64)
    assert fitted.size == (40, 40)
    assert fitted.good.shape == (64, 64, 3)
    assert not fitted.label[40:].any()
    painted = torch.zeros(3, 64, 64)
    assert put_back(scene.good, coarse, fitted, to_levels(painted), soft(scene.label, 1.0)).shape == scene.good.shape
