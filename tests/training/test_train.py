"""Trainings from beginning to end, stops and resumes among them."""

from __future__ import annotations

import csv
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from rich.console import Console
from safetensors.torch import load_file

from inspectd.dataset import open_dataset, read_image, read_labels
from inspectd.errors import ConfigError, DatasetError
from inspectd.mask import ClassMap
from inspectd.preprocess import Preprocess
from inspectd.training.devices import fast_precision
from inspectd.training.segmentation.buttonlab import Buttonlab
from inspectd.training.segmentation.checkpoint import load_checkpoint
from inspectd.training.segmentation.predict import TorchPredictor
from inspectd.training.segmentation.settings import SegmentSettings
from inspectd.training.segmentation.train import Hardware, _card, train

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
    settings = SegmentSettings(**SMALL, roles=("ref", "extra"), steps=200, augment="none", crop=1.0, rate=3e-3)
    dataset = open_dataset(buttons)
    checkpoint = load_checkpoint(train(buttons, tmp_path / "out", settings, hardware=CPU, console=QUIET))
    predict = TorchPredictor(checkpoint.network, checkpoint.card)
    for sample in dataset.select("extra")[:4]:
        pixels = read_image(sample.image)
        expected = read_labels(sample, None, pixels.shape[:2]) > 0
        found = predict(pixels)[0] >= 0.5
        assert 2 * (expected & found).sum() / (expected.sum() + found.sum()) > 0.6, sample.defect


def test_the_loss_curve_is_the_golden_one(buttons, tmp_path):
    settings = SegmentSettings(**SMALL, steps=6, seed=3, crop_bias=0.5, defect_share=0.5, augment="flips")
    train(buttons, tmp_path / "out", settings, hardware=CPU, console=QUIET)
    assert losses(tmp_path / "out") == pytest.approx(
        GOLDEN_CURVE, rel=2e-2
    )  # processors differ by 0.8 % after six updates


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


def stop(process, out, when, how):
    deadline = time.monotonic() + 120
    while not when():
        assert process.poll() is None, f"{out}: the training ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(how)
    process.communicate()


def test_a_training_that_was_stopped_gives_the_same_weights(buttons, tmp_path):
    """Killed after a saved state, resumed, stopped by Ctrl-C in the middle of an update, and resumed again."""
    out, log = tmp_path / "stopped", tmp_path / "stopped" / "log.csv"
    settings = SegmentSettings(**SMALL, steps=60)

    def start(*more):
        return subprocess.Popen(
            command(buttons, out, *more, steps=60),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},  # as many as here: the order of additions decides the last bit
        )

    stop(start(), out, (out / "resume.pt").exists, signal.SIGKILL)
    assert not (out / "checkpoint.safetensors").exists()
    # States are saved rarely from here on: what Ctrl-C saves is what the last part goes on from.
    saved = (out / "resume.pt").stat().st_mtime_ns
    logged = log.read_text().count("\n")
    process = start("--resume", "--save-every", "100")
    stop(process, out, lambda: logged < log.read_text().count("\n"), signal.SIGINT)
    assert process.returncode == 130
    assert (out / "resume.pt").stat().st_mtime_ns > saved
    train(buttons, out, settings, hardware=CPU, resume=True, console=QUIET)
    train(buttons, tmp_path / "whole", settings, hardware=CPU, console=QUIET)
    first, second = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "stopped"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert losses(tmp_path / "whole") == losses(out)


def test_fabric_run_trains_with_two_processes(buttons, tmp_path):
    fabric = Path(sys.executable).with_name("fabric")
    program = tmp_path / "inspectd-train"
    program.write_text("from inspectd.training.cli import main\n\nmain()\n")
    options = ("--devices", "2", "--accelerator", "cpu", "--strategy", "ddp")
    done = subprocess.run(
        [str(fabric), "run", *options, str(program), *command(buttons, tmp_path / "two", steps=3)[3:]],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("checkpoint.safetensors") == 1, "one process speaks for all"
    card = load_checkpoint(tmp_path / "two").card
    assert card.provenance["devices"] == 2
    assert card.provenance["settings"]["precision"] == "32-true"
    assert len(losses(tmp_path / "two")) == 3


def test_two_processes_stop_together(damaged, tmp_path):
    done = subprocess.run(
        command(damaged, tmp_path / "two", "--devices", "2", steps=6), capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 2
    assert done.stderr.count("copy it again") == 1
    assert "Traceback" not in done.stderr


@pytest.fixture
def damaged(buttons, tmp_path):
    """The dataset with one picture that breaks off."""
    root = tmp_path / "damaged"
    shutil.copytree(buttons, root)
    picture = root / "images" / "extra-3.png"
    picture.write_bytes(picture.read_bytes()[:900])
    return root


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns of what DataLoader does
@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_is_named(damaged, tmp_path, workers):
    settings = SegmentSettings(**SMALL, steps=6)
    hardware = Hardware(accelerator="cpu", workers=workers)
    with pytest.raises(DatasetError, match=r"^\S+extra-3.png: truncated: the PNG has no end chunk; copy it again$"):
        train(damaged, tmp_path / "out", settings, hardware=hardware, console=QUIET)


def test_a_full_disk_is_named_and_leaves_no_drafts(buttons, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(ConfigError, match=r"resume.pt: cannot be written: .*File too large"):
            train(
                buttons,
                tmp_path / "out",
                SegmentSettings(**SMALL, steps=2),
                hardware=Hardware(accelerator="cpu", save_every=1),
                console=QUIET,
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"settings.json", "log.csv", "tensorboard"}


def test_a_complete_training_is_not_resumed(buttons, tmp_path):
    settings = SegmentSettings(**SMALL, steps=2)
    out = tmp_path / "out"
    checkpoint = train(buttons, out, settings, hardware=CPU, console=QUIET)
    before = {path: path.stat().st_mtime_ns for path in (checkpoint, out / "resume.pt", out / "log.csv")}
    said = io.StringIO()
    assert train(buttons, out, settings, hardware=CPU, resume=True, console=Console(file=said)) == checkpoint
    assert said.getvalue() == f"{out}: the training is complete, 2 updates; nothing to resume\n"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    # What an earlier version did not name is as its default.
    note = json.loads((out / "settings.json").read_text())
    del note["peak_weight"]
    (out / "settings.json").write_text(json.dumps(note))
    train(buttons, out, settings, hardware=CPU, resume=True, console=QUIET)
    other = settings.model_copy(update={"peak_weight": 0.5})
    with pytest.raises(ConfigError, match=r"peak_weight 0\.0 -> 0\.5"):
        train(buttons, out, other, hardware=CPU, resume=True, console=QUIET)
    # Without its checkpoint there is something to do.
    learnt = load_file(checkpoint)
    checkpoint.unlink()
    train(buttons, out, settings, hardware=CPU, resume=True, console=QUIET)
    again = load_file(checkpoint)
    assert all(torch.equal(learnt[name], again[name]) for name in learnt)


def test_a_training_without_a_saved_state_begins_anew(buttons, tmp_path):
    settings = SegmentSettings(**SMALL, steps=2)
    train(buttons, tmp_path / "out", settings, hardware=CPU, console=QUIET)
    before = losses(tmp_path / "out")
    (tmp_path / "out" / "resume.pt").unlink()
    train(buttons, tmp_path / "out", settings, hardware=CPU, resume=True, console=QUIET)
    assert losses(tmp_path / "out") == before


def test_wrong_weights_leave_no_folder(buttons, tmp_path):
    settings = SegmentSettings(**SMALL, steps=2, weights=str(buttons / "split.csv"))
    with pytest.raises(DatasetError, match="cannot be read as weights: neither"):
        train(buttons, tmp_path / "out", settings, hardware=CPU, console=QUIET)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", [{"devices": 0}, {"workers": -1}, {"save_every": 0}, {"nodes": 0}])
def test_impossible_hardware_is_refused(change):
    with pytest.raises(ConfigError, match=r"--[a-z-]+ -?\d: expected"):
        Hardware(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"roles": ("extra", "test")}, "role 'test' is not for training"),
        ({"batch": 1, "defect_share": 0.5}, "batch of 2 pictures or more"),
        ({"batch": 1, "height": 16, "width": 16}, "more than one picture"),
        ({"batch": 1, "height": 32, "width": 32, "window": 0.5}, "more than one picture"),
        ({"height": 100_000}, "less than or equal to 8192"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        SegmentSettings(**(SMALL | change))


def test_a_training_goes_on_from_another(buttons, tmp_path):
    first = SegmentSettings(**SMALL, steps=2)
    checkpoint = train(buttons, tmp_path / "first", first, hardware=CPU, console=QUIET)
    second = SegmentSettings(**SMALL | {"height": 96}, steps=1, start=str(checkpoint), rate=1e-12)
    gone_on = load_checkpoint(train(buttons, tmp_path / "second", second, hardware=CPU, console=QUIET))
    expected, got = load_file(checkpoint), gone_on.network.state_dict()
    assert torch.allclose(got["classify.weight"], expected["classify.weight"], atol=1e-9)
    assert gone_on.card.provenance["start"]["updates"] == 2
    other = SegmentSettings(**SMALL | {"backbone": "resnet18"}, steps=1, start=str(checkpoint))
    with pytest.raises(ConfigError, match=r"is a buttonlab slim for defect; this training is of a buttonlab resnet18"):
        train(buttons, tmp_path / "third", other, hardware=CPU, console=QUIET)


def test_a_training_goes_on_with_a_further_type(parts, tmp_path):
    changes = {"classes": "types", "roles": ("ref", "free"), "steps": 1}
    one_less = shutil.copytree(parts, tmp_path / "data")
    rows = (one_less / "split.csv").read_text().splitlines()
    (one_less / "split.csv").write_text("\n".join(row for row in rows if ",scratch," not in row) + "\n")
    before = train(one_less, tmp_path / "before", SegmentSettings(**SMALL | changes), hardware=CPU, console=QUIET)
    more = SegmentSettings(**SMALL | changes | {"start": str(before), "rate": 1e-12})
    gone_on = load_checkpoint(train(parts, tmp_path / "after", more, hardware=CPU, console=QUIET))
    assert load_checkpoint(before).card.classes == ("hole", "stain")
    assert gone_on.card.classes == ("hole", "scratch", "stain")
    # The good surface, the hole and the stain are where they belong; the scratch begins anew.
    for name in ("classify.weight", "classify.bias"):
        kept = gone_on.network.state_dict()[name][[0, 1, 3]]
        assert torch.allclose(kept, load_file(before)[name], atol=1e-9)
    fewer = more.model_copy(update={"start": str(tmp_path / "after")})
    with pytest.raises(ConfigError, match=r"for hole, scratch, stain; this training is of a .* for hole, stain"):
        train(one_less, tmp_path / "third", fewer, hardware=CPU, console=QUIET)


def test_types_that_no_picture_teaches_are_refused(buttons, tmp_path):
    copy = shutil.copytree(buttons, tmp_path / "data")
    rows = (copy / "split.csv").read_text().replace("stain,test", "dent,test")
    (copy / "split.csv").write_text(rows)
    settings = SegmentSettings(**SMALL, steps=1, classes="types")
    with pytest.raises(DatasetError, match="dent occur in other roles"):
        train(copy, tmp_path / "out", settings, hardware=CPU, console=QUIET)


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
    state = torch.load(tmp_path / "out" / "resume.pt", weights_only=True)
    torch.save(state | {"devices": 3, "pictures": 7}, tmp_path / "out" / "resume.pt")
    with pytest.raises(ConfigError, match=r"is of a training with 3 devices, 7 pictures, this would be 1, 12"):
        train(buttons, tmp_path / "out", settings, hardware=CPU, resume=True, console=QUIET)
    for name in ("resume.pt", "settings.json"):
        (tmp_path / "out" / name).write_bytes(b"{")
        with pytest.raises(DatasetError, match=f"{name}: is damaged"):
            train(buttons, tmp_path / "out", settings, hardware=CPU, resume=True, console=QUIET)


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


def test_a_device_that_is_not_there_is_refused(buttons):
    dataset = open_dataset(buttons)
    card = _card(
        dataset,
        dataset.samples,
        SegmentSettings(**SMALL),
        ClassMap(("defect",)),
        Preprocess(height=64, width=64),
    )
    with pytest.raises(ConfigError, match="device 'nonsense' cannot be used"):
        TorchPredictor(Buttonlab("slim"), card, device="nonsense")


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


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True, "avx512_bf16": False}, "32-true"),
        ({"avx512_bf16": True}, "bf16-mixed"),
        ({"bf16": True}, "bf16-mixed"),
    ],
)
def test_bf16_is_chosen_where_the_processor_has_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert fast_precision("cpu") == expected


def test_the_settings_say_what_precision_was_chosen(buttons, tmp_path):
    settings = SegmentSettings(**SMALL | {"precision": "auto"}, roles=("ref", "extra"), steps=1)
    card = load_checkpoint(train(buttons, tmp_path / "out", settings, hardware=CPU, console=QUIET)).card
    assert card.provenance["settings"]["precision"] == fast_precision("cpu")
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["precision"] == fast_precision("cpu")


GOLDEN_CURVE = [0.598131, 0.594964, 0.584088, 0.499129, 0.492304, 0.467196]
