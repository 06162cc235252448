"""Real photographs, several of each part: the bound on the scores that a real network gives them.

The pictures are not ours to redistribute; the same is shown on painted ones in test_threshold.py.
"""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from inspectd.bundle import load_bundle
from inspectd.calibration.bounds import at_most
from inspectd.calibration.threshold import calibrate_thresholds
from inspectd.calibration.threshold_choice import cut, cuts_allowed, even_path
from inspectd.calibration.threshold_cli import inspector_of
from inspectd.calibration.threshold_levels import Levels, reached
from inspectd.calibration.threshold_settings import ThresholdSettings
from inspectd.dataset import open_dataset, read_image
from inspectd.inspection import Verdict
from inspectd.runtime.engine import open_engine
from inspectd.runtime.station import demo_bundle

TILES = Path(os.environ.get("INSPECTD_TILES", "magnetic_tile"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (TILES / "split.csv").is_file(),
        reason="needs the magnetic tiles with a split.csv by tile (docs/results/magnetic-tile.md); set INSPECTD_TILES "
        "to their folder",
    ),
]


@pytest.fixture(scope="module")
def line():
    """The shipped network: it was never shown a tile, so that its scores on them are as wild as scores get."""
    bundle = load_bundle(demo_bundle())
    return bundle, open_engine(bundle, threads=1)


def test_what_is_calibrated_on_some_tiles_holds_on_others(line):
    bundle, engine = line
    dataset = open_dataset(TILES)
    record = calibrate_thresholds(
        bundle,
        dataset,
        ThresholdSettings(0.2, 0.9, minimum_area_px=40),
        engine=engine,
        engine_name=engine.name,
        judge=lambda rule: inspector_of(bundle, engine, rule),
        made=datetime(2025, 1, 1, tzinfo=timezone.utc),
    )
    assert record.parts_named
    assert record.good_pictures > 3 * record.good_parts
    judge = inspector_of(bundle, engine, record.rule)
    rejected = {}
    for sample in dataset.select("ok_test"):
        bad = judge(read_image(sample.image)).verdict is not Verdict.OK
        rejected[sample.tile] = rejected.get(sample.tile, False) or bad
    count = sum(rejected.values())
    # So many would be a sign that more than the share are rejected: only one calibration in ten may break its bound.
    assert count == 0 or 1 - at_most(count - 1, len(rejected), 0.2) > 1e-3


def test_the_bound_holds_for_draws_of_real_scores(line):
    bundle, engine = line
    levels = Levels.of(1)
    by_tile: dict[str, int] = {}
    for sample in open_dataset(TILES).select("ok_calibration", "ok_test"):
        seen = levels.map(engine, bundle.card.preprocess, read_image(sample.image), 1)[0]
        by_tile[sample.tile] = max(by_tile.get(sample.tile, 0), reached(seen, [40])[0])
    population = np.array(list(by_tile.values()))[:, None]
    path = even_path(np.array(levels.thresholds), np.array(bundle.card.thresholds))
    rng = np.random.default_rng(0)
    draws, parts, rate, confidence = 2000, 60, 0.1, 0.9
    cuts = cuts_allowed(parts, rate, confidence)
    made = broken = 0
    for _ in range(draws):
        chosen = cut(population[rng.integers(0, len(population), parts)], path, cuts, lambda *_: 0).levels
        made += chosen is not None
        broken += chosen is not None and float((population > chosen).mean()) > rate
    assert made > draws / 2
    assert broken == 0 or 1 - at_most(broken - 1, draws, 1 - confidence) > 1e-4
