"""Evaluations of small pictures that carry their own prediction: a pixel's value over 255 is its probability."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tracemalloc
from dataclasses import replace

import cv2
import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from inspectd.dataset import Sample
from inspectd.errors import ConfigError, DatasetError, InferenceError
from inspectd.mask import ClassMap
from inspectd.training.segmentation import figures
from inspectd.training.segmentation.evaluate import evaluate
from inspectd.training.segmentation.figures import (
    AGREEMENT_RGB,
    LABEL_RGB,
    PREDICTION_RGB,
    overlay,
    overlay_panel,
)
from inspectd.training.segmentation.results import read_evaluation

BINARY = ClassMap(("defect",))
SHAPE = (24, 20)


def first_channel(pixels):
    return (pixels[..., 0].astype(np.float32) / 255)[None]


def first_two_channels(pixels):
    return pixels[..., :2].astype(np.float32).transpose(2, 0, 1) / 255


class Pictures:
    """Writes pictures and masks, and gathers the samples."""

    def __init__(self, folder):
        self.folder = folder
        self.samples = []

    def add(self, probability, label=None, *, role="test", defect="dent", tile=""):
        name = f"pictures/{len(self.samples)}.png"
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        value = np.rint(np.asarray(probability) * 255).astype(np.uint8)
        assert cv2.imwrite(str(path), value if value.ndim == 2 else value[..., ::-1])
        masks = ()
        if label is not None:
            mask = path.with_suffix(".mask.png")
            assert cv2.imwrite(str(mask), np.asarray(label, np.uint8) * 255)
            masks = ((defect, mask),)
        self.samples.append(Sample(path, masks, role, tile, name))

    def add_random(self, count, seed=0):
        """Labelled pictures of two types, three to a part, and half as many good ones."""
        rng = np.random.default_rng(seed)
        for index in range(count):
            label = np.zeros(SHAPE, bool)
            row, column = rng.integers(0, 12, 2)
            label[row : row + 6, column : column + 4] = True
            probability = np.clip(0.6 * label + rng.normal(0.2, 0.15, SHAPE), 0, 1)
            defect = ("dent", "scratch")[index % 2]
            self.add(probability, label, defect=defect, tile=f"part{index // 3}")
            if index % 2:
                self.add(np.clip(rng.normal(0.2, 0.12, SHAPE), 0, 1), role="ok_test")


@pytest.fixture
def pictures(tmp_path):
    return Pictures(tmp_path)


def box(rows, columns, shape=SHAPE):
    mask = np.zeros(shape, bool)
    mask[rows, columns] = True
    return mask


def no_nan(value):
    if isinstance(value, dict):
        return all(map(no_nan, value.values()))
    if isinstance(value, list):
        return all(map(no_nan, value))
    return not isinstance(value, float) or np.isfinite(value)


def read_rgb(path):
    return cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1]


def test_pooled_figures_are_those_of_scikit_learn_over_all_pixels(pictures):
    pictures.add_random(12)
    found = evaluate(pictures.samples, first_channel, BINARY, resamples=50)
    labels, predictions = {"test": [], "ok_test": []}, {"test": [], "ok_test": []}
    for sample in pictures.samples:
        value = cv2.imread(str(sample.image), cv2.IMREAD_GRAYSCALE).ravel()
        mask = np.zeros(value.size, bool)
        for _, path in sample.masks:
            mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).ravel() > 0
        labels[sample.role].append(mask)
        predictions[sample.role].append(value >= 128)

    for pool, roles in ((found.pooled, ("test",)), (found.pooled_all, ("test", "ok_test"))):
        truth = np.concatenate([mask for role in roles for mask in labels[role]])
        guess = np.concatenate([mask for role in roles for mask in predictions[role]])
        precision, recall, f1, _ = precision_recall_fscore_support(truth, guess, average="binary")
        assert (pool.pixels.precision, pool.pixels.recall, pool.pixels.f1) == pytest.approx((precision, recall, f1))
        assert pool.roles == roles
        assert pool.f1_interval.low < f1 < pool.f1_interval.high
    assert found.pooled.units == 4
    assert found.pooled_all.pixels.f1 < found.pooled.pixels.f1


def test_images_are_scored_by_their_highest_probability(pictures):
    pictures.add_random(12)
    found = evaluate(pictures.samples, first_channel, BINARY, resamples=0)
    highest = [cv2.imread(str(sample.image), cv2.IMREAD_GRAYSCALE).max() / 255 for sample in pictures.samples]
    assert [result.score for result in found.images] == pytest.approx(highest)
    truth = [bool(sample.masks) for sample in pictures.samples]
    assert found.image_level.auroc == pytest.approx(roc_auc_score(truth, highest))
    strict, loose = found.image_level.at_false_rejects
    assert (strict.false_reject_rate, strict.false_rejects) == (0.0, 0)
    assert (loose.false_reject_rate, loose.false_rejects) == (0.01, 0)
    best_good = max(score for score, defective in zip(highest, truth, strict=True) if not defective)
    assert strict.found == sum(score > best_good for score, defective in zip(highest, truth, strict=True) if defective)


def test_the_curve_passes_through_the_pooled_figures(pictures):
    pictures.add_random(6)
    for threshold in (0.29, 0.5, 0.57):
        pool = evaluate(pictures.samples, first_channel, BINARY, thresholds=threshold, resamples=0).pooled
        index = pool.curve.thresholds.index(threshold)
        scores = pool.pixels
        assert (pool.curve.precision[index], pool.curve.recall[index], pool.curve.f1[index]) == (
            scores.precision,
            scores.recall,
            scores.f1,
        )
        assert pool.best_f1 >= scores.f1


def test_types_are_pooled_over_their_images_even_with_one_class(pictures):
    pictures.add(box(slice(0, 4), slice(0, 4)), box(slice(0, 4), slice(0, 4)), defect="dent")
    pictures.add(np.zeros(SHAPE), box(slice(0, 2), slice(0, 2)), defect="dent")
    pictures.add(box(slice(0, 4), slice(0, 5)), box(slice(0, 4), slice(1, 5)), defect="scratch")
    found = evaluate(pictures.samples, first_channel, BINARY, resamples=0)
    dent, scratch = found.types["dent"], found.types["scratch"]
    assert (dent.images.total, dent.images.found, dent.images.recall) == (2, 1, 0.5)
    assert (dent.pixels.tp, dent.pixels.fp, dent.pixels.fn) == (16, 0, 4)
    assert (dent.image_f1.images, dent.image_f1.mean, dent.image_f1.median) == (2, 0.5, 0.5)
    assert (dent.regions.total, dent.regions.found) == (2, 1)
    assert scratch.pixels.f1 == pytest.approx(32 / 36)
    assert found.image_f1.median == pytest.approx(32 / 36)
    assert found.image_f1.mean == pytest.approx((1 + 0 + 32 / 36) / 3)


def test_classes_are_told_apart(pictures):
    dent, scratch = box(slice(0, 4), slice(0, 4)), box(slice(10, 12), slice(0, 8))
    nothing = np.zeros(SHAPE)
    pictures.add(np.dstack([dent, nothing, nothing]), dent, defect="dent")
    pictures.add(np.dstack([scratch, nothing, nothing]), scratch, defect="scratch")
    classes = ClassMap(("dent", "scratch"))
    found = evaluate(pictures.samples, first_two_channels, classes, resamples=0)
    assert found.pooled.pixels.f1 == 1.0
    assert (found.class_pixels["dent"].tp, found.class_pixels["dent"].fp) == (16, 16)
    assert (found.class_pixels["scratch"].recall, found.class_pixels["scratch"].precision) == (0.0, None)
    good = 2 * SHAPE[0] * SHAPE[1] - 32
    assert found.confusion == ((good, 0, 0), (0, 16, 0), (0, 16, 0))
    assert "class scratch" in found.text()


def test_each_class_has_its_threshold(pictures):
    pictures.add(np.dstack([np.full(SHAPE, 0.6), np.full(SHAPE, 0.4), np.zeros(SHAPE)]), np.ones(SHAPE), defect="b")
    found = evaluate(pictures.samples, first_two_channels, ClassMap(("a", "b")), thresholds=(0.7, 0.3), resamples=0)
    assert found.class_pixels["b"].f1 == 1.0
    assert found.common_threshold is None
    assert found.image_level.at_threshold.threshold is None


def test_regions_are_found_if_a_predicted_pixel_lies_in_them(pictures):
    label = box(slice(0, 1), slice(0, 3)) | box(slice(5, 9), slice(0, 5)) | box(slice(12, 20), slice(0, 10))
    touched = box(slice(8, 9), slice(4, 8))
    pictures.add(touched, label)
    # Two squares that meet at a corner are one region.
    pictures.add(np.zeros(SHAPE), box(slice(0, 2), slice(0, 2)) | box(slice(2, 4), slice(2, 4)))
    found = evaluate(pictures.samples, first_channel, BINARY, resamples=0)
    assert (found.regions.total, found.regions.found, found.regions.recall) == (4, 1, 0.25)
    by_size = {name: (part.total, part.found) for name, part in found.regions_by_size_px.items()}
    assert by_size == {"1-15": (2, 0), "16-63": (1, 1), "64-255": (1, 0), "256-1023": (0, 0), "1024-": (0, 0)}
    assert found.regions_by_size_px["1024-"].recall is None
    sizes = found.f1_by_size_px
    assert {name: part.images for name, part in sizes.items() if part.images} == {"1-15": 1, "64-255": 1}
    # Of 3 + 20 + 80 labelled pixels 1 is found, with 3 beside it; the other image's 8 are not.
    assert (sizes["64-255"].pixels.tp, sizes["64-255"].pixels.fn) == (1, 102)
    assert sizes["64-255"].pixels.f1 == sizes["64-255"].image_f1.mean == 2 / 107
    assert (sizes["1-15"].pixels.f1, sizes["16-63"].pixels.f1) == (0.0, None)
    line = next(line for line in found.text().split("defective images")[-1].splitlines() if line.startswith("64-255"))
    assert line.split() == [
        "64-255",
        "px",
        "1",
        *[f"{2 / 107:.3f}", "0.250", f"{1 / 103:.3f}"],
        *[f"{2 / 107:.3f}"] * 2,
    ]


def test_good_sets_count_what_is_wrongly_found(pictures):
    pictures.add(np.zeros(SHAPE), role="ok_test")
    pictures.add(box(slice(0, 2), slice(0, 3)) * 0.8, role="ok_test")
    pictures.add(box(slice(0, 1), slice(0, 1)), role="ok_calibration")
    found = evaluate(pictures.samples, first_channel, BINARY, minimum_area_px=6, resamples=0)
    good = found.good_sets["ok_test"]
    assert (good.images, good.images_marked, good.images_rejected, good.false_pixels) == (2, 1, 1, 6)
    assert good.false_pixels_per_image == 3.0
    assert good.false_pixels_per_megapixel == pytest.approx(6e6 / (2 * 480))
    other = found.good_sets["ok_calibration"]
    assert (other.images_marked, other.images_rejected) == (1, 0)


def test_a_minimum_area_lowers_scores_to_where_a_region_is_left(pictures):
    probability = box(slice(0, 5), slice(0, 5)) * 0.4
    probability[2, 2] = 1.0
    pictures.add(probability, box(slice(0, 5), slice(0, 5)))
    scores = {
        area: evaluate(pictures.samples, first_channel, BINARY, minimum_area_px=area, resamples=0).images[0]
        for area in (1, 2, 25, 26, 480, 481)
    }
    assert scores[1].score == 1.0
    assert scores[1].rejected
    assert not scores[2].rejected
    for area, expected in ((2, 0.4), (25, 0.4), (26, 0.0), (480, 0.0), (481, 0.0)):
        assert scores[area].score == pytest.approx(expected, abs=1e-6)


def test_no_samples_define_nothing(tmp_path):
    found = evaluate([], first_channel, BINARY, out=tmp_path / "out")
    content = json.loads(found.to_json())
    assert content["pooled"]["pixels"]["f1"] is None
    assert content["pooled"]["f1_interval"] is None
    assert content["image_level"]["auroc"] is None
    assert content["image_level"]["at_threshold"]["recall"] is None
    assert content["image_f1"] == {"images": 0, "mean": None, "median": None}
    assert content["types"] == content["good_sets"] == {}
    assert (tmp_path / "out" / "curves.png").stat().st_size > 0
    assert "-" in found.text()


def test_defects_without_good_images(pictures, tmp_path):
    for _ in range(3):
        pictures.add(box(slice(0, 4), slice(0, 4)), box(slice(0, 4), slice(0, 4)))
    found = evaluate(pictures.samples, first_channel, BINARY, out=tmp_path / "out")
    assert found.pooled.pixels.f1 == 1.0
    assert found.image_level.auroc is None
    for point in found.image_level.at_false_rejects:
        assert (point.threshold, point.false_rejects, point.found, point.recall) == (None, None, None, None)
    assert found.image_level.at_threshold.recall == 1.0
    assert found.good_sets == {}


def test_good_images_without_defects(pictures, tmp_path):
    for _ in range(3):
        pictures.add(np.full(SHAPE, 0.1), role="ok_test")
    found = evaluate(pictures.samples, first_channel, BINARY, out=tmp_path / "out")
    assert (found.pooled.images, found.pooled.pixels.f1, found.pooled.pixels.tn) == (0, None, 0)
    assert found.pooled_all.average_precision is None
    assert found.image_level.at_false_rejects[0].recall is None
    assert found.image_level.at_false_rejects[0].threshold == pytest.approx(26 / 255, abs=1e-6)
    assert found.regions.recall is None
    assert not list((tmp_path / "out" / "overlays").iterdir())


def test_predictions_of_zero(pictures, tmp_path):
    for _ in range(3):
        pictures.add(np.zeros(SHAPE), box(slice(0, 4), slice(0, 4)))
        pictures.add(np.zeros(SHAPE), role="ok_test")
    found = evaluate(pictures.samples, first_channel, BINARY, out=tmp_path / "out")
    assert (found.pooled.pixels.precision, found.pooled.pixels.recall, found.pooled.pixels.f1) == (None, 0.0, 0.0)
    assert found.image_level.auroc == 0.5
    strict = found.image_level.at_false_rejects[0]
    assert (strict.found, strict.recall, strict.false_rejects) == (0, 0.0, 0)
    assert no_nan(json.loads((tmp_path / "out" / "metrics.json").read_text()))


def test_tied_scores_are_never_split(pictures):
    for _ in range(4):
        pictures.add(np.ones(SHAPE), box(slice(0, 4), slice(0, 4)))
        pictures.add(np.ones(SHAPE), role="ok_test")
    level = evaluate(pictures.samples, first_channel, BINARY).image_level
    assert level.auroc == 0.5
    assert (level.at_false_rejects[0].found, level.at_false_rejects[0].false_rejects) == (0, 0)
    assert (level.at_threshold.found, level.at_threshold.false_rejects) == (4, 4)


def test_the_output_folder(pictures, tmp_path):
    pictures.add_random(14)
    out = tmp_path / "out"
    calls = []
    found = evaluate(
        pictures.samples,
        first_channel,
        BINARY,
        out=out,
        provenance={"checkpoint": "3f" * 32, "roles": ("test", "ok_test"), "versions": {"numpy": np.__version__}},
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(number, 21) for number in range(1, 22)]
    assert read_evaluation(out / "metrics.json") == found
    assert found.provenance["roles"] == ["test", "ok_test"]
    assert no_nan(json.loads((out / "metrics.json").read_text()))
    with (out / "per-image.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [sample.name for sample in pictures.samples]
    for row, result in zip(rows, found.images, strict=True):
        assert float(row["score"]) == result.score
        assert row["f1"] == ("" if result.pixels.f1 is None else str(result.pixels.f1))
        assert int(row["tp"]) == result.pixels.tp
    written = {f"overlays/{path.name}" for path in (out / "overlays").iterdir()}
    assert written == {result.overlay for result in found.images} - {None}
    for name in ("curves.png", "contact-sheet.png"):
        assert read_rgb(out / name).std() > 10


def test_an_evaluation_repeats_to_the_byte_and_its_seed_counts(pictures, tmp_path):
    pictures.add_random(9)
    first, again, other = (
        evaluate(pictures.samples, first_channel, BINARY, seed=seed, resamples=100) for seed in (3, 3, 4)
    )
    assert first.to_json() == again.to_json()
    assert first.pooled.f1_interval != other.pooled.f1_interval
    assert first.pooled.pixels == other.pooled.pixels


def test_an_earlier_evaluation_is_replaced_and_nothing_else(pictures, tmp_path):
    pictures.add(box(slice(0, 4), slice(0, 4)), box(slice(0, 4), slice(0, 4)))
    out = tmp_path / "out"
    (out / "overlays").mkdir(parents=True)
    (out / "overlays" / "9999-old.png").write_bytes(b"old")
    found = evaluate(pictures.samples, first_channel, BINARY, out=out)
    assert [path.name for path in (out / "overlays").iterdir()] == ["0001-pictures-0.png"]
    assert found.images[0].overlay == "overlays/0001-pictures-0.png"
    with pytest.raises(InferenceError):
        evaluate(pictures.samples, lambda pixels: first_channel(pixels) * 2, BINARY, out=out)
    assert not (out / "metrics.json").exists()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"holds 'thesis.tex', which is not of an evaluation"):
        evaluate(pictures.samples, first_channel, BINARY, out=out)


def test_an_output_that_is_a_file_is_refused(pictures, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="cannot be used as the output folder"):
        evaluate(pictures.samples, first_channel, BINARY, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        (lambda pixels: np.zeros((2, *SHAPE), np.float32), r"float32 \[2, 24, 20\], expected float32 \[1, 24, 20\]"),
        (lambda pixels: np.zeros((1, 20, 24), np.float32), r"\[1, 20, 24\], expected float32 \[1, 24, 20\]"),
        (lambda pixels: np.zeros((1, *SHAPE)), r"gave float64"),
        (lambda pixels: np.full((1, *SHAPE), np.nan, np.float32), r"from nan to nan, expected 0\.\.1"),
        (lambda pixels: np.full((1, *SHAPE), 1.5, np.float32), r"from 1\.5 to 1\.5"),
        (lambda pixels: np.full((1, *SHAPE), -0.5, np.float32), r"from -0\.5"),
    ],
)
def test_impossible_predictions_are_refused_with_the_image(pictures, predict, message):
    pictures.add(np.zeros(SHAPE), role="ok_test")
    with pytest.raises(InferenceError, match=rf"pictures/0\.png: .*{message}"):
        evaluate(pictures.samples, predict, BINARY)


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01, float("nan")])
def test_thresholds_out_of_range_are_refused(threshold):
    with pytest.raises(ConfigError, match="thresholds must be above 0 and at most 1, got"):
        evaluate([], first_channel, BINARY, thresholds=threshold)


def test_other_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r"2 thresholds for 1 classes \(defect\)"):
        evaluate([], first_channel, BINARY, thresholds=(0.5, 0.5))
    with pytest.raises(ConfigError, match="minimum area: expected at least 1 px, got 0"):
        evaluate([], first_channel, BINARY, minimum_area_px=0)


def test_metrics_that_cannot_be_read_say_why(tmp_path):
    path = tmp_path / "metrics.json"
    with pytest.raises(DatasetError, match="cannot be read: No such file"):
        read_evaluation(path)
    path.write_text("{}")
    with pytest.raises(DatasetError, match=r"not a metrics\.json of inspectd-train evaluate: format: Field required"):
        read_evaluation(path)
    path.write_text(evaluate([], first_channel, BINARY).to_json().replace('"format": 1', '"format": 99'))
    with pytest.raises(DatasetError, match="format 99, expected 1"):
        read_evaluation(path)


def test_the_summary_is_aligned_and_says_what_the_figures_are(pictures):
    pictures.add_random(12)
    found = evaluate(pictures.samples, first_channel, BINARY, resamples=50)
    text = found.text()
    assert f"{found.pooled.pixels.f1:.3f}" in text
    assert f"AUROC {found.image_level.auroc:.3f}" in text
    types = text.split("\n\n")[2].splitlines()
    assert [line.split()[0] for line in types] == ["defect", "dent", "scratch", "all"]
    assert len({len(line) for line in types}) == 1


def test_overlay_colours_are_exact():
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20
    label = np.array([[True, False], [True, False]])
    prediction = np.array([[False, True], [True, False]])
    expected = [[LABEL_RGB, PREDICTION_RGB], [AGREEMENT_RGB, tuple(pixels[1, 1])]]
    assert np.array_equal(overlay(pixels, label, prediction), np.array(expected, np.uint8))
    grey = overlay(pixels[..., :1], label, prediction)
    assert np.array_equal(grey[1, 1], np.repeat(pixels[1, 1, 0], 3))
    assert np.array_equal(pixels, np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20)


def test_written_overlays_keep_colours_and_show_the_photograph_beside(pictures, tmp_path):
    shape = (256, 256)
    label, prediction = box(slice(0, 20), slice(0, 20), shape), box(slice(10, 20), slice(0, 40), shape)
    pictures.add(np.dstack([prediction, np.full(shape, 0.2), np.full(shape, 0.4)]), label)
    out = tmp_path / "out"
    found = evaluate(pictures.samples, first_channel, BINARY, out=out)
    panel = read_rgb(out / found.images[0].overlay)
    photograph, marked = panel[:256, :256], panel[:256, 258:514]
    assert photograph[100, 100].tolist() == [0, 51, 102]
    assert marked[100, 100].tolist() == [0, 51, 102]
    assert tuple(marked[5, 5]) == LABEL_RGB
    assert tuple(marked[15, 30]) == PREDICTION_RGB
    assert tuple(marked[15, 5]) == AGREEMENT_RGB
    legend = {tuple(colour) for colour in panel[256:].reshape(-1, 3)}
    assert {LABEL_RGB, PREDICTION_RGB, AGREEMENT_RGB} <= legend


@pytest.mark.parametrize("shape", [(16, 16), (300, 40), (40, 300), (64, 700)])
def test_panels_of_any_size_have_their_legend(shape):
    panel = overlay_panel(np.zeros((*shape, 1), np.uint8), np.zeros(shape, bool), np.zeros(shape, bool), 0.5)
    assert max(panel.shape[:2]) >= 256
    # Swatches in the legend's three colours, and the image's F1 at its end.
    colours = {tuple(colour) for colour in panel[-18:].reshape(-1, 3)}
    assert {LABEL_RGB, PREDICTION_RGB, AGREEMENT_RGB} <= colours
    assert panel[-18:, -60:].min() < 100


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are written."""
    kept = []

    def figure(*size):
        kept.append(make(*size))
        return kept[-1]

    make = figures.new_figure
    monkeypatch.setattr(figures, "new_figure", figure)
    return kept


def test_no_legend_lies_on_what_is_drawn(pictures, tmp_path, drawn):
    pictures.add_random(12)
    evaluate(pictures.samples, first_channel, BINARY, resamples=0, out=tmp_path / "out")
    curves = drawn[0]
    legends = [axis.get_legend() for axis in curves.axes]
    assert all(legends)
    for axis, legend in zip(curves.axes, legends, strict=True):
        box = legend.get_window_extent()
        assert not box.overlaps(axis.bbox)
        assert not box.overlaps(axis.title.get_window_extent())
        assert curves.bbox.x0 <= box.x0 < box.x1 <= curves.bbox.x1


def test_the_contact_sheet_tells_equal_file_names_apart_and_praises_nothing(pictures, tmp_path, drawn):
    truth = box(slice(4, 8), slice(4, 8))
    for number in range(14):
        pictures.add(np.zeros(SHAPE), truth)
        name = f"test/{'ab'[number % 2]}/{number // 2:03d}.png"
        pictures.samples[-1] = replace(pictures.samples[-1], name=name)
    evaluate(pictures.samples, first_channel, BINARY, resamples=0, out=tmp_path / "out")
    titles = [axis.get_title(loc="left") for axis in drawn[1].axes]
    assert sum("test/a/000" in title for title in titles) == 1
    assert sum("test/b/000" in title for title in titles) == 1
    # Every F1 is 0: none is the highest.
    assert not any("highest" in title for title in titles)


def test_memory_does_not_grow_with_the_number_of_images(pictures):
    shape = (400, 400)
    for _ in range(12):
        pictures.add(np.zeros(shape), box(slice(0, 40), slice(0, 40), shape))

    def peak(samples):
        tracemalloc.start()
        evaluate(samples, first_channel, BINARY, resamples=0)
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(pictures.samples[:2])
    # A probability map is 640 kB; ten more images may cost their results alone.
    assert peak(pictures.samples) - peak(pictures.samples[:2]) < 100_000


def test_evaluation_loads_neither_torch_nor_matplotlib():
    code = (
        "import sys, inspectd.training.segmentation.evaluate\n"
        "sys.exit(', '.join({'torch', 'matplotlib'} & set(sys.modules)) or None)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
