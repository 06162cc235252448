"""The loss of Buttonlab: the paper's cross-entropy, and the peaks of a window."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from inspectd.training.segmentation.loss import PEAK_PX, peak_loss, segmentation_loss


def scene(height=24, width=32, batch=2, classes=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, 1 + classes, height, width, generator=generator)
    labels = torch.zeros(batch, height, width, dtype=torch.int64)
    labels[0, 4:9, 5:11] = 1
    return logits, labels


def plain_peak_loss(logits, labels):
    """The same in loops over pixels."""
    good, found = [], []
    for picture, label in zip(logits.double(), labels, strict=True):
        odds = {}
        for row in range(label.shape[0]):
            for column in range(label.shape[1]):
                defects = sum(math.exp(value) for value in picture[1:, row, column].tolist())
                odds[row, column] = math.log(defects) - picture[0, row, column].item()
        marked = [place for place in odds if label[place]]
        away = [
            value
            for (row, column), value in odds.items()
            if not any(abs(row - r) <= 3 and abs(column - c) <= 3 for r, c in marked)
        ]
        good.append(sum(math.log1p(math.exp(value)) for value in sorted(away)[-PEAK_PX:]) / PEAK_PX)
        if len(marked) >= PEAK_PX:
            likeliest = sorted(odds[place] for place in marked)[-PEAK_PX:]
            found.append(sum(math.log1p(math.exp(-value)) for value in likeliest) / PEAK_PX)
    return sum(good) / len(good) + (sum(found) / len(found) if found else 0.0)


@pytest.mark.parametrize("classes", [1, 3])
def test_the_peaks_are_those_of_a_plain_reading(classes):
    logits, labels = scene(classes=classes)
    labels[1, 20, 10:14] = classes  # fewer pixels than a peak
    assert peak_loss(logits, labels).item() == pytest.approx(plain_peak_loss(logits, labels), rel=1e-5)


def test_without_peaks_it_is_the_papers_cross_entropy():
    logits, labels = scene()
    assert segmentation_loss(logits, labels) == F.cross_entropy(logits, labels)
    expected = F.cross_entropy(logits, labels, weight=torch.tensor([1.0, 3.0]))
    assert segmentation_loss(logits, labels, defect_weight=3.0) == expected


def test_a_peak_at_the_threshold_stands_at_even_chances():
    """A weight of 3 puts the card's threshold to a probability of 3/4."""
    logits, labels = torch.zeros(1, 2, 16, 16), torch.zeros(1, 16, 16, dtype=torch.int64)
    logits[:, 1] = math.log(3)
    difference = segmentation_loss(logits, labels, 3.0, 1.0) - segmentation_loss(logits, labels, 3.0)
    assert difference.item() == pytest.approx(math.log(2), rel=1e-5)


def test_only_the_peaks_are_pulled():
    logits, labels = scene()
    logits.requires_grad_()
    peak_loss(logits, labels).backward()
    pulled = logits.grad[:, 1] != 0
    assert pulled[0].sum() == 2 * PEAK_PX
    assert pulled[1].sum() == PEAK_PX
    assert (logits.grad[0, 1][labels[0] > 0] <= 0).all()  # up, towards a defect
    beside = F.max_pool2d((labels[:1] > 0).float(), 7, 1, 3)[0] - (labels[0] > 0).float() > 0
    assert not (pulled[0] & beside).any()


def test_a_window_full_of_a_defect_has_no_good_peak():
    logits, labels = scene()
    labels[:] = 1
    logits.requires_grad_()
    loss = peak_loss(logits, labels)
    loss.backward()
    assert math.isfinite(loss.item())
    assert logits.grad.isfinite().all()
    assert (logits.grad[:, 1] <= 0).all()


def test_a_window_smaller_than_a_peak_is_taken_whole():
    logits = torch.zeros(1, 2, 2, 2)
    assert peak_loss(logits, torch.zeros(1, 2, 2, dtype=torch.int64)).item() == pytest.approx(math.log(2))
