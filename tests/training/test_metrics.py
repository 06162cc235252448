"""Every figure against scikit-learn, torchmetrics or a count by hand."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    jaccard_score,
    precision_recall_fscore_support,
    roc_auc_score,
)
from torchmetrics.classification import BinaryF1Score, BinaryJaccardIndex, MulticlassConfusionMatrix

from inspectd.training.segmentation.metrics import (
    GRID,
    SIZE_BINS_PX,
    Interval,
    PixelScores,
    ScoreHistogram,
    auroc,
    bootstrap,
    confusion,
    count_pixels,
    decide,
    operating_point,
    ratio,
    size_bin,
    threshold_at,
)

masks = npst.arrays(np.bool_, npst.array_shapes(min_dims=2, max_dims=2, max_side=12))
probabilities = st.floats(0, 1, width=32)


@given(st.data(), masks)
def test_counts_are_those_of_scikit_learn(data, label):
    prediction = data.draw(npst.arrays(np.bool_, label.shape))
    tp, fp, fn, tn = count_pixels(label, prediction)
    expected = confusion_matrix(label.ravel(), prediction.ravel(), labels=[False, True])
    assert [[tn, fp], [fn, tp]] == expected.tolist()


def test_figures_are_those_of_scikit_learn_and_torchmetrics():
    rng = np.random.default_rng(0)
    label, prediction = rng.random((2, 64, 48)) < [[[0.1]], [[0.15]]]
    scores = PixelScores.of(count_pixels(label, prediction))
    precision, recall, f1, _ = precision_recall_fscore_support(label.ravel(), prediction.ravel(), average="binary")
    assert (scores.precision, scores.recall, scores.f1) == pytest.approx((precision, recall, f1))
    assert scores.iou == pytest.approx(jaccard_score(label.ravel(), prediction.ravel()))
    tensors = torch.from_numpy(prediction).int(), torch.from_numpy(label).int()
    assert scores.f1 == pytest.approx(BinaryF1Score()(*tensors).item(), abs=1e-6)
    assert scores.iou == pytest.approx(BinaryJaccardIndex()(*tensors).item(), abs=1e-6)


@pytest.mark.parametrize(
    ("counts", "precision", "recall", "f1", "iou"),
    [
        ((0, 0, 0, 9), None, None, None, None),
        ((0, 3, 0, 9), 0.0, None, 0.0, 0.0),
        ((0, 0, 3, 9), None, 0.0, 0.0, 0.0),
        ((2, 0, 0, 0), 1.0, 1.0, 1.0, 1.0),
    ],
)
def test_figures_without_a_denominator_are_none(counts, precision, recall, f1, iou):
    scores = PixelScores(*counts)
    assert (scores.precision, scores.recall, scores.f1, scores.iou) == (precision, recall, f1, iou)


def test_negative_counts_are_refused():
    with pytest.raises(ValueError, match="must not be negative: tp 1, fp -1"):
        PixelScores(1, -1, 0, 0)


def test_ratio_of_nothing_is_none():
    assert ratio(0, 0) is None
    assert ratio(1, 4) == 0.25


def test_confusion_is_that_of_scikit_learn_and_torchmetrics():
    label, prediction = np.random.default_rng(1).integers(0, 4, (2, 40, 30)).astype(np.uint8)
    counts = confusion(label, prediction, 3)
    assert counts.tolist() == confusion_matrix(label.ravel(), prediction.ravel(), labels=range(4)).tolist()
    ours = MulticlassConfusionMatrix(4)(torch.from_numpy(prediction.astype(int)), torch.from_numpy(label.astype(int)))
    assert counts.tolist() == ours.tolist()


@given(npst.arrays(np.float32, (3, 4, 5), elements=probabilities), npst.arrays(np.float32, 3, elements=probabilities))
def test_a_decision_is_the_largest_margin_that_is_not_negative(values, thresholds):
    decided = decide(values, thresholds)
    assert decided.dtype == np.uint8
    for row in range(4):
        for column in range(5):
            margins = list(values[:, row, column] - thresholds)
            best = max(margins)
            assert decided[row, column] == (margins.index(best) + 1 if best >= 0 else 0)


def test_a_binary_decision_includes_its_threshold():
    values = np.array([[[0.5, np.nextafter(np.float32(0.5), np.float32(0))]]], np.float32)
    assert decide(values, np.array([0.5], np.float32)).tolist() == [[1, 0]]


@given(
    npst.arrays(np.float32, (6, 7), elements=probabilities),
    npst.arrays(np.bool_, (6, 7)),
    st.integers(0, GRID),
)
def test_the_histogram_meets_every_threshold_of_its_grid_exactly(score, label, step):
    histogram = ScoreHistogram()
    histogram.add(score, label)
    threshold = np.float32(step / GRID)
    assert histogram.at(step) == PixelScores.of(count_pixels(label, score >= threshold))


def test_scores_on_the_edges_of_bins_are_not_moved_by_rounding():
    edges = (np.arange(GRID + 1) / GRID).astype(np.float32)
    histogram = ScoreHistogram()
    histogram.add(edges[None], np.ones((1, GRID + 1), np.bool_))
    assert (histogram.positive == 1).all()
    below = ScoreHistogram()
    below.add(np.nextafter(edges[1:], np.float32(0))[None], np.ones((1, GRID), np.bool_))
    assert (below.positive[:GRID] == 1).all()


def _histogram(score, label):
    histogram = ScoreHistogram()
    for part, mask in zip(np.array_split(score, 5), np.array_split(label, 5), strict=True):
        histogram.add(part[None], mask[None])
    return histogram


@given(st.integers(0, 2**32 - 1), st.integers(2, 300))
def test_average_precision_and_auroc_are_exact_for_scores_on_the_grid(seed, size):
    rng = np.random.default_rng(seed)
    label = rng.random(size) < 0.3
    label[:2] = True, False
    score = (np.floor(rng.beta(1 + label, 2) * rng.choice([3, 20, GRID])) / GRID).astype(np.float32)
    histogram = _histogram(score, label)
    assert histogram.average_precision() == pytest.approx(average_precision_score(label, score))
    assert histogram.auroc() == pytest.approx(roc_auc_score(label, score))


def test_average_precision_and_auroc_are_near_for_any_scores():
    rng = np.random.default_rng(3)
    label = rng.random(40_000) < 0.05
    score = rng.beta(np.where(label, 4, 1), np.where(label, 1, 8)).astype(np.float32)
    histogram = _histogram(score, label)
    assert histogram.average_precision() == pytest.approx(average_precision_score(label, score), abs=2e-3)
    assert histogram.auroc() == pytest.approx(roc_auc_score(label, score), abs=1e-4)


def test_a_histogram_of_one_kind_defines_what_it_can():
    empty = ScoreHistogram()
    assert empty.average_precision() is None
    assert empty.auroc() is None
    assert set(empty.curve().f1) == {None}
    assert empty.curve().best_f1() is None
    good = _histogram(np.linspace(0, 0.4, 50, dtype=np.float32), np.zeros(50, np.bool_))
    assert good.average_precision() is None
    assert good.auroc() is None
    with pytest.raises(ValueError, match=r"expected a step of 0\.\.1000, got 1001"):
        good.at(GRID + 1)


def test_the_curve_has_101_points_and_knows_its_best():
    label = np.array([True] * 10 + [False] * 90)
    score = np.where(label, 0.62, 0.3).astype(np.float32)
    curve = _histogram(score, label).curve()
    assert len(curve.thresholds) == 101
    assert (curve.thresholds[0], curve.thresholds[29], curve.thresholds[100]) == (0.0, 0.29, 1.0)
    assert (curve.recall[62], curve.recall[63]) == (1.0, 0.0)
    assert curve.precision[63] is None
    threshold, f1 = curve.best_f1()
    assert (threshold, f1) == (0.31, 1.0)


def test_the_histogram_keeps_no_maps():
    histogram = ScoreHistogram()
    score, label = np.full((1000, 1000), 0.3, np.float32), np.zeros((1000, 1000), np.bool_)
    histogram.add(score, label)
    tracemalloc.start()
    for _ in range(5):
        histogram.add(score, label)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 100_000
    assert histogram.negative.sum() == 6_000_000


scores_1d = npst.arrays(np.float64, st.integers(1, 40), elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]))


@given(scores_1d, scores_1d)
def test_image_auroc_is_that_of_scikit_learn_with_ties(good, defective):
    labels = [0] * good.size + [1] * defective.size
    assert auroc(good, defective) == pytest.approx(roc_auc_score(labels, np.concatenate([good, defective])))


def test_image_auroc_needs_both_kinds():
    none, some = np.array([]), np.array([0.5])
    assert auroc(none, some) is None
    assert auroc(some, none) is None


@given(npst.arrays(np.float32, st.integers(1, 60), elements=probabilities), st.floats(0, 1))
def test_the_threshold_is_the_smallest_that_rejects_no_more_than_allowed(scores, rate):
    good = scores.astype(np.float64)
    threshold = threshold_at(good, rate)
    allowed = math.floor(rate * good.size + 1e-9)
    assert (good >= threshold).sum() <= allowed
    if threshold > 0:
        assert (good >= np.nextafter(np.float32(threshold), np.float32(0))).sum() > allowed


def test_operating_points_by_hand():
    good = np.array([0.1, 0.2, 0.3, 0.4])
    defective = np.array([0.3, 0.35, 0.5])
    strict = operating_point(good.astype(np.float32).astype(np.float64), defective, 0.0)
    assert (strict.false_rejects, strict.found, strict.recall) == (0, 1, pytest.approx(1 / 3))
    assert strict.threshold == pytest.approx(0.4, abs=1e-6)
    loose = operating_point(good, defective, 0.25)
    assert (loose.false_rejects, loose.found) == (1, 2)
    assert operating_point(good, defective, 0.24).false_rejects == 0
    assert operating_point(good, defective, 1.0).found == 3


def test_a_rate_counts_images_as_a_person_reads_it():
    good = np.linspace(0, 0.5, 100)
    assert operating_point(good, np.array([1.0]), 0.29).false_rejects == 29


def test_tied_good_images_are_rejected_together_or_not_at_all():
    good = np.array([0.2, 0.9, 0.9, 0.9])
    point = operating_point(good, np.array([0.9, 0.95]), 0.5)
    assert (point.false_rejects, point.found) == (0, 1)


def test_good_images_that_score_one_leave_no_threshold_that_finds_anything():
    point = operating_point(np.array([0.1, 1.0]), np.array([1.0, 1.0]), 0.0)
    assert (point.found, point.recall) == (0, 0.0)
    assert point.threshold > 1


def test_operating_points_of_empty_sets_are_none():
    none, some = np.array([]), np.array([0.5])
    no_good = operating_point(none, some, 0.01)
    assert (no_good.threshold, no_good.false_rejects, no_good.found, no_good.recall) == (None, None, None, None)
    no_defects = operating_point(some, none, 0.0)
    assert (no_defects.found, no_defects.recall) == (0, None)


def test_size_bins_have_names():
    assert [size_bin(lower) for lower in SIZE_BINS_PX] == ["1-15", "16-63", "64-255", "256-1023", "1024-"]


def test_the_bootstrap_of_a_mean_covers_what_theory_says():
    values = np.random.default_rng(4).normal(10, 2, 400)
    interval = bootstrap(lambda index: float(values[index].mean()), [range(400)], np.random.default_rng(5))
    half = 1.96 * values.std() / 20
    assert interval.low == pytest.approx(values.mean() - half, abs=0.04)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.04)


def test_the_bootstrap_draws_whole_units_and_is_seeded():
    units = [index // 10 for index in range(200)]
    values = np.repeat(np.random.default_rng(6).normal(size=20), 10)

    def interval(groups):
        return bootstrap(lambda index: float(values[index].mean()), [groups], np.random.default_rng(7))

    assert interval(units) == interval(units)
    by_unit, by_image = interval(units), interval(range(200))
    # Ten copies of the same value carry no more than one: the interval is sqrt(10) times as wide.
    assert (by_unit.high - by_unit.low) / (by_image.high - by_image.low) == pytest.approx(math.sqrt(10), rel=0.2)


def test_the_bootstrap_of_too_little_is_none():
    rng = np.random.default_rng(8)
    assert bootstrap(lambda index: 1.0, [["a", "a", "a"]], rng) is None
    assert bootstrap(lambda good, bad: 1.0, [["a", "b"], []], rng) is None
    assert bootstrap(lambda index: None, [["a", "b"]], rng) is None
    assert bootstrap(lambda index: 0.25, [["a", "b"]], rng) == Interval(0.25, 0.25)
