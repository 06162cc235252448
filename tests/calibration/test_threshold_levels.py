"""The map of levels against the real pipeline at every threshold: what the line rejects, the map says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inspectd.bundle import load_bundle
from inspectd.calibrated import EvenScale
from inspectd.calibration.threshold_levels import Levels, counting, labelled_areas, largest_region, reached
from inspectd.errors import ConfigError
from inspectd.frame import Frame
from inspectd.inspection import AcceptanceRule, ClassRule, Verdict
from inspectd.mask import ClassMap, Mask
from inspectd.runtime.engine import open_engine
from inspectd.runtime.inspector import Inspector
from tests.runtime.test_optics import scale

from .toy_bundle import write_toy_bundle

NAMES = ("dent", "crack", "stain")


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """By the number of classes, a bundle and its engine."""
    folder = tmp_path_factory.mktemp("toys")
    bundles = {count: load_bundle(write_toy_bundle(folder / str(count), NAMES[:count])) for count in (1, 3)}
    return {count: (bundle, open_engine(bundle, threads=1)) for count, bundle in bundles.items()}


def painted(seed, height, width):
    """Smooth hills of all heights, so that regions grow and merge as the threshold falls."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    pixels = np.zeros((height, width, 3))
    for _ in range(6):
        top, left, spread = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(1, 6)
        hill = np.exp(-((y - top) ** 2 + (x - left) ** 2) / (2 * spread**2)) * rng.choice([60, 140, 230, 255])
        pixels[..., rng.integers(0, 3)] += hill
    return np.clip(pixels + rng.uniform(0, 4, pixels.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("count", [1, 3])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), shape=st.sampled_from([(32, 32), (64, 48), (20, 27)]), data=st.data())
def test_the_line_rejects_nothing_that_the_map_lets_pass(opened, count, seed, shape, data):
    bundle, engine = opened[count]
    pixels = painted(seed, *shape)
    levels = Levels.of(count)
    seen = levels.map(engine, bundle.card.preprocess, pixels, count)
    assert seen.dtype == np.uint8
    assert seen.shape == (count, *shape)
    places = st.integers(0, len(levels) - 1) | st.integers(len(levels) - 6, len(levels) - 1)
    chosen = data.draw(st.lists(places, min_size=count, max_size=count))
    areas = data.draw(st.lists(st.sampled_from([1, 2, 5, 20]), min_size=count, max_size=count))
    rule = AcceptanceRule(
        classes={
            name: ClassRule(score=levels.thresholds[level], minimum_area_px=area)
            for name, level, area in zip(NAMES, chosen, areas, strict=False)
        }
    )
    inspector = Inspector(bundle, engine, rule, scales={"camera": None})
    inspection = inspector.inspect(Frame("camera", 0, pixels, acquired_ns=0))
    for index, (level, area) in enumerate(zip(chosen, areas, strict=True)):
        marked = inspection.mask.labels == index + 1
        assert (seen[index][marked] > level).all()
        # Where no label of another class was in the way, it is the same set.
        if shape == (32, 32):
            assert ((seen[index] > level) == marked).mean() > 0.99
        assert (reached(seen[index], [area])[0] > level) >= (largest_region(marked) >= area)
    rejected = inspection.verdict is not Verdict.OK
    assert inspection.verdict in (Verdict.OK, Verdict.NG)
    expected = any(reached(own, [area])[0] > level for own, level, area in zip(seen, chosen, areas, strict=True))
    assert rejected <= expected
    if shape == (32, 32):
        assert rejected == expected


@pytest.mark.parametrize("measure", ["one figure", "each pixel's"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), data=st.data())
def test_in_mm2_the_line_rejects_what_the_map_says(opened, measure, seed, data):
    """Each pixel has its own size, and the area is taken from a region of the picture: ties are met exactly."""
    bundle, engine = opened[1]
    pixels = painted(seed, 32, 32)
    size = EvenScale(0.1) if measure == "one figure" else scale(width_px=32, height_px=32).plane()
    levels = Levels.of(1)
    seen = levels.map(engine, bundle.card.preprocess, pixels, 1)[0]
    level = data.draw(st.integers(0, len(levels) - 1))

    def line(area_mm2):
        rule = ClassRule(score=levels.thresholds[level], minimum_area_mm2=area_mm2)
        inspector = Inspector(bundle, engine, AcceptanceRule(classes={"dent": rule}), scales={"camera": size})
        return inspector.inspect(Frame("camera", 0, pixels, acquired_ns=0))

    found = [defect.area_mm2 for defect in line(1e-9).defects]
    for area in (max(found, default=0.02), 0.5 * max(found, default=0.02), 1.01 * max(found, default=0.02)):
        assert (line(area).verdict is not Verdict.OK) == (reached(seen, [area], size)[0] > level)


def test_scores_fall_as_the_minimum_area_rises_and_regions_merge():
    levels = np.zeros((5, 9), np.uint8)
    levels[2, 1:4] = 9
    levels[2, 5:8] = 7
    levels[2, 4] = 3
    assert reached(levels, [1, 3, 4, 7, 8]) == (9, 9, 3, 3, 0)
    assert reached(np.zeros((3, 3), np.uint8), [1]) == (0,)


def test_neighbours_over_corners_are_one_region():
    assert largest_region(np.eye(4, dtype=np.bool_)) == 4
    assert largest_region(np.zeros((2, 2), np.bool_)) == 0
    assert sorted(labelled_areas(np.array([[1, 0, 2], [0, 0, 2]], np.uint8))) == [1, 2]


def test_what_counts_are_regions_of_the_minimum_area_of_their_class():
    mask = Mask(np.array([[1, 1, 0, 2], [0, 0, 0, 0], [1, 0, 2, 2]], np.uint8), ClassMap(NAMES[:2]))
    assert counting(mask, (2, 1)).astype(int).tolist() == [[1, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 1]]


def test_thresholds_rise_and_are_such_as_a_configuration_can_have():
    for count in (1, 3):
        thresholds = Levels.of(count).thresholds
        assert list(thresholds) == sorted(set(thresholds))
        assert thresholds[-1] == 1.0
        assert all(round(value, 4) == value for value in thresholds)
    assert 0.1 <= Levels.of(1).thresholds[0] < 0.11
    assert 0.5 < Levels.of(2).thresholds[0] < 0.51
    assert Levels.of(2, 0.9).thresholds[0] > 0.9


@pytest.mark.parametrize(("count", "lowest"), [(1, 0.01), (1, 1.0), (2, 0.3), (1, float("nan"))])
def test_a_lowest_score_out_of_range_is_refused(count, lowest):
    with pytest.raises(ConfigError, match="lowest score"):
        Levels.of(count, lowest)
