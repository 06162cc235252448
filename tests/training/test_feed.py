"""Order, augmentation and crops of the training pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from inspectd.dataset import open_dataset
from inspectd.errors import DatasetError
from inspectd.preprocess import Preprocess
from inspectd.training.segmentation.augment import Moves
from inspectd.training.segmentation.feed import Picture, Pictures, _place, loader, normalise, training_samples
from inspectd.training.segmentation.settings import SegmentSettings


def make(root, **change):
    chosen = SegmentSettings(height=64, width=64, batch=4, **change)
    samples = open_dataset(root).select(*chosen.roles)
    return Pictures(samples, None, Preprocess(height=64, width=64), chosen)


def drawn(pictures, *, rank=0, world=1, steps=range(6)):
    return list(loader(pictures, rank=rank, world=world, steps=steps, workers=0).batch_sampler)


def test_every_picture_comes_once_an_epoch(buttons):
    keys = [key.index for batch in drawn(make(buttons), steps=range(6)) for key in batch]
    assert sorted(keys[:12]) == sorted(keys[12:]) == list(range(12))
    assert keys[:12] != keys[12:]


def test_a_later_start_sees_what_came_then(buttons):
    pictures = make(buttons)
    assert drawn(pictures, steps=range(3, 6)) == drawn(pictures, steps=range(6))[3:]


def test_devices_share_what_one_device_would_see(buttons):
    pictures = make(buttons)
    whole = make(buttons)
    whole.settings = SegmentSettings(height=64, width=64, batch=8)
    for first, second, both in zip(
        drawn(pictures, rank=0, world=2), drawn(pictures, rank=1, world=2), drawn(whole), strict=True
    ):
        assert sorted(map(repr, first + second)) == sorted(map(repr, both))


def test_the_share_of_defects_is_kept(buttons):
    pictures = make(buttons, defect_share=0.75)
    for batch in drawn(pictures):
        assert sum(bool(pictures.samples[key.index].masks) for key in batch) == 3


def test_the_share_of_simulated_defects_is_kept(buttons):
    pictures = make(buttons, defect_share=0.75, simulated_share=0.7)
    defective, _ = pictures.by_state()
    real = set(defective[:1])
    pictures.samples = tuple(
        replace(sample, role="simulated") if index in set(defective) - real else sample
        for index, sample in enumerate(pictures.samples)
    )
    for batch in drawn(pictures):
        roles = [pictures.samples[key.index].role for key in batch if pictures.samples[key.index].masks]
        assert roles.count("simulated") == 2
        assert len(roles) == 3
    with pytest.raises(ValidationError, match="needs a share of defects"):
        SegmentSettings(simulated_share=0.5)


def test_with_replacement_each_picture_is_drawn_by_itself(buttons):
    pictures = make(buttons, defect_share=0.5, replacement=True, steps=60)
    keys = [[key.index for key in batch] for batch in drawn(pictures, steps=range(60))]
    for batch in keys:
        assert sum(bool(pictures.samples[index].masks) for index in batch) == 2
    assert any(len(set(batch)) < 4 for batch in keys), "a batch that shows a picture twice"
    assert {index for batch in keys for index in batch} == set(range(12))
    assert keys[50:] == [[key.index for key in batch] for batch in drawn(pictures, steps=range(50, 60))]
    with pytest.raises(ValidationError, match="there are no passes to count"):
        SegmentSettings(replacement=True)


def test_real_defects_are_the_references_and_then_others_by_the_seed(buttons):
    """More hold those that fewer held; good and simulated pictures all stay."""
    found = open_dataset(buttons)
    some = [sample.name for sample in found.samples if sample.masks][2:4]
    samples = (replace(sample, role="ref") if sample.name in some else sample for sample in found.samples)
    found = replace(found, samples=tuple(samples))
    roles = ("ref", "extra", "free")
    kept = {}
    for real in (2, 3, 5):
        settings = SegmentSettings(roles=roles, real=real, seed=3)
        kept[real] = {sample.name for sample in training_samples(found, settings) if sample.masks}
        assert len(kept[real]) == real
    assert kept[2] < kept[3] < kept[5]
    assert kept[2] == set(some)
    every = SegmentSettings(roles=roles)
    good = [sample for sample in training_samples(found, every) if not sample.masks]
    assert [
        sample for sample in training_samples(found, SegmentSettings(roles=roles, real=2)) if not sample.masks
    ] == good
    assert training_samples(found, every) == found.select(*roles)
    with pytest.raises(DatasetError, match=r"hold \d+ real defective pictures, 99 are asked for"):
        training_samples(found, SegmentSettings(roles=roles, real=99))


def test_a_picture_is_a_function_of_its_key(buttons):
    pictures = make(buttons)
    state = torch.get_rng_state()
    first, again, other = (pictures[Picture(0, seed)] for seed in (5, 5, 6))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert first[2] == again[2]
    assert not torch.equal(first[0], other[0])
    assert torch.equal(torch.get_rng_state(), state), "the global generator must be left alone"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns of what DataLoader does
def test_workers_change_nothing(buttons):
    pictures = make(buttons)
    alone, helped = (
        [batch.images for batch in loader(pictures, rank=0, world=1, steps=range(3), workers=workers)]
        for workers in (0, 1)
    )
    assert all(torch.equal(one, two) for one, two in zip(alone, helped, strict=True))


def test_mask_and_picture_move_together(buttons):
    pictures = make(buttons, crop=1.0)
    labels = np.zeros((64, 64), np.uint8)
    labels[20:34, 12:44] = 1
    pictures._cache[0] = (np.repeat(labels[..., None] * 255, 3, axis=2), labels)
    for seed in range(20):
        image, mask, _ = pictures[Picture(0, seed)]
        bright = image.float().mean(0) > 100
        union = (bright | (mask > 0)).sum()
        assert union > 100
        assert (bright & (mask > 0)).sum() / union > 0.85


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), row=st.integers(0, 63), column=st.integers(0, 63))
def test_biased_crops_hold_the_defect_and_stay_on_the_grid(seed, row, column):
    labels = np.zeros((64, 64), np.uint8)
    labels[row, column] = 1
    ((top, left),) = _place(labels, (32, 32), 1.0, np.random.default_rng(seed)).offsets
    assert top % 4 == left % 4 == 0
    assert 0 <= top <= row < top + 32 <= 64
    assert 0 <= left <= column < left + 32 <= 64


def test_a_window_is_cut_before_the_crop(buttons):
    pictures = make(buttons, window=0.5, crop=0.5, crop_bias=1.0, augment="none")
    labels = np.zeros((64, 64), np.uint8)
    labels[40:44, 20:24] = 1
    pictures._cache[0] = (np.repeat(labels[..., None] * 255, 3, axis=2), labels)
    for seed in range(20):
        image, mask, (top, left) = pictures[Picture(0, seed)]
        assert image.shape == (3, 32, 32)
        assert mask.shape == (16, 16)
        assert mask.any()
        assert torch.equal(image[0, top : top + 16, left : left + 16] > 0, mask > 0)


def test_a_set_without_defects_is_refused(buttons):
    with pytest.raises(DatasetError, match="no labelled defect"):
        make(buttons, roles=("free",))


def test_no_plane_is_moved_twice(buttons, monkeypatch):
    moved = []
    move = Moves.transform
    monkeypatch.setattr(
        Moves, "transform", lambda self, plane, params: moved.append(plane) or move(self, plane, params)
    )
    make(buttons, augment="full")[Picture(0, seed=1)]
    assert [type(plane).__name__ for plane in moved] == ["Image", "Mask"]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_normalising_leaves_its_input_and_gives_the_formula_to_the_bit(dtype):
    preprocess = Preprocess(height=16, width=16)
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8).to(dtype, memory_format=torch.channels_last)
    before = images.clone()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (preprocess.mean, preprocess.std))
    found = normalise(images, preprocess)
    assert torch.equal(found, (images.float() * preprocess.scale - mean) / std)
    assert torch.equal(images, before)
    assert found.is_contiguous(memory_format=torch.channels_last)
