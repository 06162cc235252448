"""Trainings from beginning to end, stops and resumes among them."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from inspectd.errors import ConfigError, DatasetError
from inspectd.training.data.dataset import open_dataset, read_image, read_labels
from inspectd.training.segmentation.checkpoint import load_checkpoint
from inspectd.training.segmentation.predict import TorchPredictor
from inspectd.training.segmentation.settings import SegmentSettings
from inspectd.training.segmentation.train import Hardware, train

QUIET = Console(quiet=True)
CPU = Hardware(accelerator="cpu")
SMALL = {"backbone": "slim", "height": 64, "width": 64, "batch": 4, "precision": "32-true"}


def losses(out):
    with (out / "log.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def command(data, out, *more, steps=12):
    return [
        *(sys.executable, "-m", "inspectd.training.cli", "segment", str(data), "--out", str(out)),
        *("--backbone", "slim", "--size", "64x64", "--batch", "4", "--precision", "32-true", "--accelerator", "cpu"),
        *("--steps", str(steps), "--save-every", "4", *more),
    ]


def test_four_pictures_are_learnt_by_heart(buttons, tmp_path):
    settings = SegmentSettings(**SMALL, roles=("ref", "extra"), steps=150, augment="none", crop=1.0, rate=3e-3)
    dataset = open_dataset(buttons)
    checkpoint = load_checkpoint(train(buttons, tmp_path / "out", settings, hardware=CPU, console=QUIET))
    predict = TorchPredictor(checkpoint.network, checkpoint.card)
    for sample in dataset.select("extra")[:4]:
        pixels = read_image(sample.image)
        expected = read_labels(sample, None, pixels.shape[:2]) > 0
        found = predict(pixels)[0] >= 0.5
        assert 2 * (expected & found).sum() / (expected.sum() + found.sum()) > 0.8, sample.defect


def test_the_loss_curve_is_the_golden_one(buttons, tmp_path):
    settings = SegmentSettings(**SMALL, steps=6, seed=3, crop_bias=0.5, defect_share=0.5)
    train(buttons, tmp_path / "out", settings, hardware=CPU, console=QUIET)
    assert losses(tmp_path / "out") == pytest.approx(GOLDEN_CURVE, rel=2e-3)


def test_the_card_says_how_it_was_made(buttons, tmp_path):
    settings = SegmentSettings(**SMALL, steps=2, classes="types", seed=7)
    checkpoint = load_checkpoint(train(buttons, tmp_path / "out", settings, hardware=CPU, console=QUIET))
    card = checkpoint.card
    assert card.classes == open_dataset(buttons).defects
    assert card.provenance["settings"] == settings.model_dump(mode="json")
    assert card.provenance["pictures"] == {"extra": 6, "free": 6}
    assert card.provenance["updates"] == 2
    assert checkpoint.golden.shape == (8, 64, 64, 3)
    assert any((tmp_path / "out" / "tensorboard").iterdir())


def test_kill_and_resume_give_the_same_weights(buttons, tmp_path):
    subprocess.run(command(buttons, tmp_path / "whole"), check=True, capture_output=True)
    process = subprocess.Popen(
        command(buttons, tmp_path / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / "resume.pt").exists():
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "checkpoint.safetensors").exists()
    subprocess.run(command(buttons, tmp_path / "killed", "--resume"), check=True, capture_output=True)
    whole, resumed = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "killed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")


def test_two_processes_train_together(buttons, tmp_path):
    done = subprocess.run(
        command(buttons, tmp_path / "two", "--devices", "2", steps=3),
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    card = load_checkpoint(tmp_path / "two").card
    assert card.provenance["devices"] == 2
    assert len(losses(tmp_path / "two")) == 3


def test_resume_refuses_other_settings_and_empty_folders(buttons, tmp_path):
    settings = SegmentSettings(**SMALL, steps=2)
    train(buttons, tmp_path / "out", settings, hardware=CPU, console=QUIET)
    with pytest.raises(ConfigError, match=r"rate 0.002 -> 0.001"):
        train(
            buttons,
            tmp_path / "out",
            settings.model_copy(update={"rate": 1e-3}),
            hardware=CPU,
            resume=True,
            console=QUIET,
        )
    with pytest.raises(ConfigError, match="not empty"):
        train(buttons, tmp_path / "out", settings, hardware=CPU, console=QUIET)
    with pytest.raises(DatasetError, match="nothing to resume"):
        train(buttons, tmp_path / "new", settings, hardware=CPU, resume=True, console=QUIET)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such checkpoint"), (b"no weights", "cannot be read as safetensors"), ("other", "has no model card")],
)
def test_wrong_checkpoints_are_refused(tmp_path, content, message):
    path = tmp_path / "checkpoint.safetensors"
    if content == "other":
        from safetensors.torch import save_file

        save_file({"weight": torch.zeros(1)}, path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        load_checkpoint(path)


def test_errors_are_one_line(buttons, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "inspectd.training.cli",
            "segment",
            str(buttons),
            "--out",
            str(tmp_path),
            "--size",
            "60x64",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "nearest that is: 64" in done.stderr


GOLDEN_CURVE: list[float] = []
np.seterr(all="raise", under="ignore")
