"""Coarse defects: what each way keeps, and what it changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspectd.errors import DatasetError
from inspectd.simulation.coarse import COARSE, Exemplar, Light, paint, scene_of, soft, with_gain
from inspectd.simulation.membrane import membrane
from inspectd.simulation.placement import Placement

ROWS, COLUMNS = np.mgrid[:64, :64]
MASK = np.hypot(ROWS - 30, COLUMNS - 34) <= 8


def placed(dx=0.0, dy=0.0, gain=1.0):
    return Placement(
        sample=0,
        background="b",
        reference="r",
        defect="stain",
        kind="face",
        seed=0,
        affine=(1.0, 0.0, dx, 0.0, 1.0, dy),
        elastic_px=0.0,
        elastic_spacing_px=16.0,
        elastic_seed=0,
        gain=gain,
    )


def picture(level, channels=3, seed=0):
    noise = np.random.default_rng(seed).normal(0, 4, (64, 64, channels))
    return np.clip(level + noise, 0, 255).astype(np.uint8)


def exemplar(surface=160, defect=60, channels=3):
    image = picture(surface, channels)
    image[MASK] = picture(defect, channels, seed=1)[MASK]
    return Exemplar("r", "stain", image, MASK)


def painted(way, good, source, *, dx=5.0, dy=-3.0):
    scene = scene_of(good, source, placed(dx, dy), margin_px=8)
    whole = good.copy()
    whole[scene.rows, scene.columns] = paint(way, scene, source)
    label = np.zeros(good.shape[:2], bool)
    label[scene.rows, scene.columns] = scene.label
    return whole, label


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("way", COARSE)
def test_only_the_label_and_its_edge_change(way, channels):
    good = picture(150, channels, seed=5)
    whole, label = painted(way, good, exemplar(channels=channels))
    reach = 0 if way in {"histmatch", "cutpaste", "poisson"} else 7
    near = np.hypot(ROWS - 27, COLUMNS - 39) <= 9 + reach
    assert np.array_equal(whole[~near], good[~near])
    assert label.sum() == MASK.sum()
    assert whole.dtype == np.uint8
    assert abs(whole[label].mean() - 60) < 25, "the defect must look like its reference's on an equal surface"


def test_a_defect_is_as_dark_relative_to_a_dark_part():
    for level in (60, 100, 150):
        whole, label = painted("relit", picture(level, seed=5), exemplar(surface=160, defect=80))
        core = np.hypot(ROWS - 27, COLUMNS - 39) <= 4
        assert label[core].all()
        assert whole[core].mean() == pytest.approx((level + 16) * 96 / 176 - 16, abs=5)


def test_a_thin_line_keeps_its_strength():
    line = np.zeros((64, 64), bool)
    line[30:32, 10:54] = True
    image = picture(160)
    image[line] = 60
    whole, label = painted("relit", picture(160, seed=5), Exemplar("r", "crack", image, line))
    assert whole[label].mean() == pytest.approx(60, abs=4)


def test_light_is_measured_on_the_part_alone():
    """Of a defect at the rim, most of what is around it is backdrop, here on one side and there on the other."""
    part = COLUMNS < 30
    image = np.where(part[..., None], picture(160), picture(60, seed=1)).astype(np.uint8)
    image[MASK] = 90
    good = np.where((COLUMNS < 42)[..., None], picture(80, seed=2), picture(60, seed=3)).astype(np.uint8)
    source = Exemplar("r", "chip", image, MASK, region=part)
    scene = scene_of(good, source, placed(), margin_px=8, region=COLUMNS < 42)
    core = scene.label & (np.hypot(*np.mgrid[-22:42, -26:38]) <= 4)[scene.rows, scene.columns]
    found = paint("relit", scene, source)[core].mean()
    assert found == pytest.approx((90 + 16) * 96 / 176 - 16, abs=4)


def test_a_texture_is_no_light():
    dim, bright = Light(level=4.0, spread=0.02), Light(level=4.7, spread=0.02)
    assert dim.brought_to(bright) == pytest.approx(np.exp(0.7), rel=0.01)
    assert bright.brought_to(dim) == pytest.approx(np.exp(-0.7), rel=0.01)
    vein, grain = Light(level=4.0, spread=0.3), Light(level=4.15, spread=0.3)
    assert vein.brought_to(grain) == pytest.approx(1.0, abs=0.03)
    assert dim.brought_to(dim) == 1.0


def test_cutpaste_is_the_reference_to_the_level():
    source = exemplar()
    whole, label = painted("cutpaste", picture(90), source)
    assert np.array_equal(whole[label], source.image[source.mask])


def test_poisson_keeps_gradients_and_meets_the_surface():
    ramp = (100 + (ROWS + COLUMNS) // 2).astype(np.uint8)
    source = Exemplar("r", "stain", np.repeat(ramp[..., None], 3, axis=2), MASK)
    flat = np.full((64, 64, 3), 90, np.uint8)
    whole, label = painted("poisson", flat, source, dx=0, dy=0)
    inner = np.hypot(ROWS - 30, COLUMNS - 34) <= 3
    assert np.abs(whole[label].astype(int) - 90).max() < 12
    along = whole[inner].astype(float) - source.image[inner]
    assert along.std() < 3, "inside, it differs from the reference by a smooth offset"


@settings(max_examples=20, deadline=None)
@given(a=st.floats(-2, 2), b=st.floats(-2, 2), seed=st.integers(0, 99))
def test_a_membrane_through_a_plane_is_the_plane(a, b, seed):
    """A linear function solves the Laplace equation, with unknown pixels anywhere inside the picture."""
    values = (a * ROWS + b * COLUMNS)[..., None].astype(float)
    unknown = np.random.default_rng(seed).random((64, 64)) < 0.4
    unknown[[0, -1]] = unknown[:, [0, -1]] = False
    assert np.allclose(membrane(np.where(unknown[..., None], 999.0, values), unknown), values, atol=1e-8)


def test_a_membrane_keeps_within_its_boundary_also_at_the_frame():
    values = np.random.default_rng(0).uniform(10, 20, (32, 32, 2))
    unknown = np.zeros((32, 32), bool)
    unknown[:12, 5:20] = True
    found = membrane(values, unknown)
    assert np.array_equal(found[~unknown], values[~unknown])
    assert 10 <= found[unknown].min() <= found[unknown].max() <= 20
    assert np.array_equal(membrane(values, np.zeros((32, 32), bool)), values)
    with pytest.raises(ValueError, match="no pixel is known"):
        membrane(values, np.ones((32, 32), bool))


def test_gain_scales_what_was_painted():
    good, strong = np.full((4, 4, 1), 100, np.uint8), np.full((4, 4, 1), 60, np.uint8)
    assert with_gain(strong, good, 1.0) is strong
    assert (with_gain(strong, good, 0.5) == 80).all()
    assert (with_gain(strong, good, 0.0) == 100).all()
    assert (with_gain(strong, good, 9.0) == 0).all()


def test_the_soft_mask_is_the_networks():
    torch = pytest.importorskip("torch")
    from inspectd.training.style.transfernet import gaussian_mask

    expected = gaussian_mask(torch.from_numpy(MASK[None, None]), 1.7)[0, 0].numpy()
    assert np.allclose(soft(MASK, 1.7), expected, atol=1e-4)
    assert np.array_equal(soft(MASK, 0.0), MASK.astype(np.float32))
    assert soft(MASK, 1.0, 2)[MASK].min() > 0.9


def test_windows_hold_the_label_and_have_the_size_asked_for():
    scene = scene_of(picture(100), exemplar(), placed(20.0, 20.0), margin_px=8, least_px=48)
    assert scene.label.shape == (48, 48)
    assert scene.label.sum() == MASK.sum()
    wide = scene_of(picture(100), exemplar(), placed(), margin_px=8, least_px=200)
    assert wide.label.shape == (64, 64)


def test_unusable_references_are_refused():
    image = picture(100)
    with pytest.raises(DatasetError, match="its mask is empty"):
        Exemplar("r", "stain", image, np.zeros((64, 64), bool))
    with pytest.raises(DatasetError, match=r"mask is 32 x 64 px and its picture 64 x 64"):
        Exemplar("r", "stain", image, np.ones((64, 32), bool))
    with pytest.raises(DatasetError, match="covers the whole picture"):
        Exemplar("r", "stain", image, np.ones((64, 64), bool))
    with pytest.raises(DatasetError, match="colour pictures or grey ones"):
        scene_of(picture(100, 1), exemplar(), placed(), margin_px=4)
    with pytest.raises(DatasetError, match="lies outside the picture"):
        scene_of(image, exemplar(), placed(500.0), margin_px=4)
