"""Hard examples: how they are found, kept and trained on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.main import get_command

from inspectd.dataset import open_dataset
from inspectd.errors import DatasetError
from inspectd.preprocess import Preprocess
from inspectd.training.cli import app
from inspectd.training.segmentation.checkpoint import load_checkpoint
from inspectd.training.segmentation.feed import Picture, Pictures, loader
from inspectd.training.segmentation.hard import HardExample, HardExamples, find_hard, read_hard, write_hard
from inspectd.training.segmentation.mining import mine_dataset
from inspectd.training.segmentation.settings import SegmentSettings
from inspectd.training.segmentation.train import Hardware, train

ROLES = ("extra", "free")


def example(image, hardness=0.5, row=10, column=20):
    return HardExample(image=image, hardness=hardness, row=row, column=column)


def written(path, examples, side=64):
    write_hard(path, HardExamples(height=side, width=side, network="n", pictures=tuple(examples)))
    return path


def test_a_mark_on_the_good_surface_is_the_error():
    probability, labels = np.full((32, 32), 0.1, np.float32), np.zeros((32, 32), np.uint8)
    probability[7, 21] = 0.75
    assert find_hard(probability, labels) == (0.75, 7, 21)


def test_a_mark_beside_its_label_is_none():
    probability, labels = np.zeros((32, 32), np.float32), np.zeros((32, 32), np.uint8)
    labels[10:14, 10:14] = 1
    probability[10:17, 10:14] = 0.9
    assert find_hard(probability, labels)[0] == pytest.approx(0.1)
    probability[17, 12] = 0.9  # four pixels away from the label
    assert find_hard(probability, labels) == (pytest.approx(0.9), 17, 12)


def test_the_region_that_is_missed_most_counts():
    probability, labels = np.zeros((32, 32), np.float32), np.zeros((32, 32), np.uint8)
    labels[2:6, 2:6] = labels[20:22, 20:28] = 1
    probability[3, 3], probability[21, 21] = 0.8, 0.3
    hardness, row, column = find_hard(probability, labels)
    assert hardness == pytest.approx(0.7)
    assert labels[row, column]
    assert row >= 20


def pictures_of(root, path, **change):
    settings = SegmentSettings(height=64, width=64, batch=4, roles=ROLES, hard=str(path), **change)
    return Pictures(open_dataset(root).select(*ROLES), None, Preprocess(height=64, width=64), settings)


def test_hard_pictures_come_more_often_and_the_rest_in_turn(buttons, tmp_path):
    samples = open_dataset(buttons).select(*ROLES)
    path = written(tmp_path / "hard.json", [example(sample.name, float(i == 3)) for i, sample in enumerate(samples)])
    pictures = pictures_of(buttons, path)
    batches = list(loader(pictures, rank=0, world=1, steps=range(6), workers=0).batch_sampler)
    keys = [key for batch in batches for key in batch]
    assert all(sum(key.hard for key in batch) == 2 for batch in batches)
    assert {key.index for key in keys if key.hard} == {3}
    assert sorted(key.index for key in keys if not key.hard) == list(range(12))
    later = list(loader(pictures, rank=0, world=1, steps=range(3, 6), workers=0).batch_sampler)
    assert later == batches[3:], "a training that is resumed must see what it would have seen"


def test_the_share_of_defects_is_kept_beside_it(buttons, tmp_path):
    samples = open_dataset(buttons).select(*ROLES)
    path = written(tmp_path / "hard.json", [example(sample.name) for sample in samples])
    pictures = pictures_of(buttons, path, defect_share=0.5)
    for batch in loader(pictures, rank=0, world=1, steps=range(4), workers=0).batch_sampler:
        assert sum(bool(pictures.samples[key.index].masks) for key in batch) == 2
        assert sum(key.hard for key in batch) == 2


@pytest.mark.parametrize("augment", ["none", "flips", "full"])
def test_the_window_shows_the_hardest_place(buttons, tmp_path, augment):
    samples = open_dataset(buttons).select(*ROLES)
    path = written(tmp_path / "hard.json", [example(sample.name, row=40, column=25) for sample in samples])
    pictures = pictures_of(buttons, path, window=0.25, crop=0.5, augment=augment)
    spot = np.zeros((64, 64, 3), np.uint8)
    spot[38:43, 23:28] = 255
    pictures._cache[0] = spot, np.zeros((64, 64), np.uint8)
    for seed in range(20):
        image, _, (top, left) = pictures[Picture(0, seed, hard=True)]
        assert image.shape[1:] == (16, 16)
        assert int(image[:, top : top + 8, left : left + 8].max()) > 60


def test_files_that_do_not_fit_are_refused(buttons, tmp_path):
    samples = open_dataset(buttons).select(*ROLES)
    names = [sample.name for sample in samples]
    whole = written(tmp_path / "hard.json", [example(name) for name in names])
    read_hard(whole, names, (64, 64))
    with pytest.raises(DatasetError, match=r"is for pictures of 64x64 px.*32x32"):
        read_hard(whole, names, (32, 32))
    with pytest.raises(DatasetError, match="lacks 1 of the 12"):
        read_hard(written(tmp_path / "few.json", [example(name) for name in names[1:]]), names, (64, 64))
    with pytest.raises(DatasetError, match="is outside"):
        read_hard(written(tmp_path / "far.json", [example(name, row=64) for name in names]), names, (64, 64))
    with pytest.raises(DatasetError, match="cannot be read: No such file"):
        read_hard(tmp_path / "none.json", names, (64, 64))
    torn = json.loads(whole.read_text())
    del torn["pictures"][0]["row"]
    whole.write_text(json.dumps(torn))
    with pytest.raises(DatasetError, match="is not what `inspectd-train mine` writes"):
        read_hard(whole, names, (64, 64))


def test_a_network_judges_its_pictures_and_goes_on_with_the_worst(buttons, tmp_path):
    small = {"backbone": "slim", "height": 64, "width": 64, "batch": 4, "precision": "32-true", "roles": ROLES}
    hardware, quiet = Hardware(accelerator="cpu"), Console(quiet=True)
    train(buttons, tmp_path / "first", SegmentSettings(**small, steps=4), hardware=hardware, console=quiet)
    seen = []
    path = tmp_path / "hard.json"
    examples = mine_dataset(tmp_path / "first", buttons, path, roles=ROLES, progress=lambda *at: seen.append(at))
    assert seen[-1] == (12, 12)
    assert {e.image for e in examples.pictures} == {s.name for s in open_dataset(buttons).select(*ROLES)}
    on_disk = [e["hardness"] for e in json.loads(path.read_text())["pictures"]]
    assert on_disk == sorted(on_disk, reverse=True)
    settings = SegmentSettings(**small, steps=3, start=str(tmp_path / "first"), hard=str(path), window=0.5)
    card = load_checkpoint(train(buttons, tmp_path / "next", settings, hardware=hardware, console=quiet)).card
    assert card.provenance["settings"]["hard"] == "hard.json"
    assert card.provenance["hard"]["network"] == "first"
    assert len(card.provenance["hard"]["sha256"]) == 64


def test_the_guide_shows_commands_that_exist():
    text = (Path(__file__).resolve().parents[2] / "docs/training.md").read_text().replace("\\\n", " ")
    lines = re.findall(r"^    inspectd-train ((?:mine|segment) .*hard.*)$", text, re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["mine", "segment"]
    commands = get_command(app).commands
    for line in lines:
        name, *arguments = line.split()
        commands[name].make_context(name, arguments)  # parses and runs nothing
