"""DST networks: trained, stopped, resumed, and what is refused."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from inspectd.dataset import open_dataset
from inspectd.errors import ConfigError, DatasetError
from inspectd.simulation.coarse import Exemplar
from inspectd.simulation.painting import coarse_scene
from inspectd.simulation.parts import Backgrounds, file_name, folders_of, read_exemplars
from inspectd.training.carded import CHECKPOINT
from inspectd.training.devices import Hardware
from inspectd.training.files import locked
from inspectd.training.style.checkpoint import load_dst
from inspectd.training.style.dst import DST_PRESETS, DstSettings
from inspectd.training.style.painting import painted_by
from inspectd.training.style.settings import PRESETS
from inspectd.training.style.train import train_dst
from inspectd.training.style.transfernet import TransferNet

from .test_style_coarse import placed

LINE = np.zeros((64, 64), bool)
LINE[30:32, 10:54] = True
QUIET, CPU = Console(quiet=True), Hardware(accelerator="cpu", save_every=2)


def small(vgg_file, **change):
    given = {"vgg": str(vgg_file), "channels": 4, "blocks": 1, "epochs": 2, "pictures": 6, "batch": 2}
    return DstSettings(**(given | {"precision": "32-true"} | change))


def run(parts, out, settings, **more):
    dataset = open_dataset(parts)
    exemplar = read_exemplars(dataset)[0]
    return train_dst(exemplar, Backgrounds(dataset), out, settings, hardware=CPU, console=QUIET, **more)


def logged(out):
    with (out / "log.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_training_writes_what_simulating_needs(parts, vgg_file, tmp_path):
    found = load_dst(run(parts, tmp_path / "out", small(vgg_file), preview_every=3))
    exemplar = read_exemplars(open_dataset(parts))[0]
    assert found.exemplar.name == exemplar.name
    assert np.array_equal(found.exemplar.image, exemplar.image)
    assert np.array_equal(found.exemplar.mask, exemplar.mask)
    assert found.card.kind == "dst"
    assert found.card.classes == (exemplar.defect,)
    assert found.settings.window == 64
    assert found.card.provenance["updates"] == 6
    assert found.card.provenance["layers_replaced"] == {"relu4_1": "relu3_1"}
    assert found.card.provenance["losses"]["balance"] == "fixed"
    rows = logged(tmp_path / "out")
    assert [int(row["step"]) for row in rows] == list(range(1, 7))
    assert all(float(row[name]) >= 0 for row in rows for name in ("loss", "content", "style", "hist"))
    assert "tv" not in rows[0], "a term without a weight is not calculated"
    previews = sorted((tmp_path / "out" / "previews").iterdir())
    assert [path.name for path in previews] == ["update-000003.png", "update-000006.png"]
    assert cv2.imread(str(previews[0])).std() > 10


def test_the_loss_falls(parts, vgg_file, tmp_path):
    """Against a network that learns nothing, on the same windows, which differ by more than a training gives."""
    losses = {}
    for rate in (1e-12, 3e-3):
        run(parts, tmp_path / str(rate), small(vgg_file, epochs=8, rate=rate, channels=8), preview_every=0)
        losses[rate] = [float(row["loss"]) for row in logged(tmp_path / str(rate))][-8:]
    assert losses[3e-3] != losses[1e-12]
    assert np.mean(losses[3e-3]) < 0.95 * np.mean(losses[1e-12])


def test_a_training_that_was_killed_gives_the_same_weights(parts, vgg_file, tmp_path):
    out = tmp_path / "killed"
    command = [
        *(sys.executable, "-m", "inspectd.training.cli", "dst", str(parts), "--out", str(out)),
        *("--reference", "ref-0", "--vgg-weights", str(vgg_file), "--epochs", "8", "--pictures", "6", "--batch", "2"),
        *("--precision", "32-true", "--accelerator", "cpu", "--save-every", "2", "--preview-every", "0"),
        *("--channels", "4", "--blocks", "1"),
    ]
    folder = out / "ref-0"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ)
    deadline = time.monotonic() + 120
    while not (folder / "resume.pt").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (folder / CHECKPOINT).exists()
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder / CHECKPOINT)
    settings = small(vgg_file, epochs=8)
    whole = run(parts, tmp_path / "whole", settings, preview_every=0)
    first, second = load_file(whole), load_file(folder / CHECKPOINT)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [int(row["step"]) for row in logged(folder)] == list(range(1, 25))
    before = (folder / CHECKPOINT).stat().st_mtime_ns
    subprocess.run([*command, "--resume"], check=True, capture_output=True)
    assert (folder / CHECKPOINT).stat().st_mtime_ns == before, "a training that is complete is left alone"


def test_all_references_are_trained_by_one_command_side_by_side(parts, vgg_file, tmp_path):
    out = tmp_path / "networks"
    command = [
        *(sys.executable, "-m", "inspectd.training.cli", "dst", str(parts), "--out", str(out), "--jobs", "2"),
        *("--vgg-weights", str(vgg_file), "--epochs", "1", "--pictures", "2", "--batch", "2", "--preview-every", "0"),
        *("--channels", "4", "--blocks", "1"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = {load_dst(path).exemplar.name for path in sorted(out.rglob(CHECKPOINT))}
    assert names == {exemplar.name for exemplar in read_exemplars(open_dataset(parts))}
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2
    assert "--resume" in again.stderr
    assert subprocess.run([*command, "--resume"], capture_output=True).returncode == 0


def test_a_loss_that_is_not_finite_stops_with_its_terms(parts, vgg_file, tmp_path):
    # Features of 1e20 have squares beyond what fp32 holds.
    tensors = load_file(vgg_file)
    tensors["features.0.weight"] *= 1e20
    save_file(tensors, tmp_path / "vgg.safetensors")
    settings = small(tmp_path / "vgg.safetensors", loss=PRESETS["literal"])
    with pytest.raises(DatasetError, match=r"not finite at update 1 \(loss .*style nan, hist inf"):
        run(parts, tmp_path / "out", settings, preview_every=0)


def test_folders_in_use_and_other_settings_are_refused(parts, vgg_file, tmp_path):
    run(parts, tmp_path / "out", small(vgg_file), preview_every=0)
    with pytest.raises(ConfigError, match="exists and is not empty"):
        run(parts, tmp_path / "out", small(vgg_file))
    with pytest.raises(ConfigError, match=r"other settings: .*rate 0.001 -> 0.002"):
        run(parts, tmp_path / "out", small(vgg_file, rate=2e-3), resume=True)
    other = tmp_path / "relabelled"
    shutil.copytree(parts, other)
    cv2.imwrite(str(other / "masks" / "ref-0.png"), np.pad(np.full((9, 9), 255, np.uint8), ((40, 47), (40, 47))))
    with pytest.raises(ConfigError, match="other settings: data "):
        run(other, tmp_path / "out", small(vgg_file), resume=True)
    (tmp_path / "out" / CHECKPOINT).unlink()
    with locked(tmp_path / "out"), pytest.raises(ConfigError, match="another process writes there"):
        run(parts, tmp_path / "out", small(vgg_file), resume=True)
    (tmp_path / "out" / "resume.pt").write_bytes(b"torn")
    with pytest.raises(DatasetError, match="is damaged"):
        run(parts, tmp_path / "out", small(vgg_file), resume=True)


def test_references_without_a_usable_mask_are_named(parts, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(parts, root)
    split = (root / "split.csv").read_text()
    (root / "split.csv").write_text(split.replace("masks/ref-0.png,stain,ref", ",,ref"))
    with pytest.raises(DatasetError, match=r"ref-0\.png"):
        read_exemplars(open_dataset(root))
    (root / "split.csv").write_text(split)
    cv2.imwrite(str(root / "masks" / "ref-1.png"), np.zeros((96, 96), np.uint8))
    with pytest.raises(DatasetError, match=r"ref-1\.png.*is empty"):
        read_exemplars(open_dataset(root))
    cv2.imwrite(str(root / "masks" / "ref-1.png"), np.full((32, 96), 255, np.uint8))
    with pytest.raises(DatasetError, match=r"ref-1\.png.*another size"):
        read_exemplars(open_dataset(root))


def test_foreign_checkpoints_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="no such checkpoint"):
        load_dst(tmp_path)
    (tmp_path / CHECKPOINT).write_bytes(b"nothing")
    with pytest.raises(DatasetError, match="cannot be read"):
        load_dst(tmp_path)


def test_a_network_of_settings_that_an_earlier_version_did_not_know_is_refused(parts, vgg_file, tmp_path):
    path = run(parts, tmp_path / "out", small(vgg_file, epochs=1, pictures=2), preview_every=0)
    with safe_open(path, framework="pt") as file:
        card = json.loads(file.metadata()["inspectd"])
    del card["provenance"]["settings"]["window"]
    save_file(load_file(path), path, metadata={"inspectd": json.dumps(card)})
    with pytest.raises(DatasetError, match="by another version, which differs in window; train it again"):
        load_dst(path)


def test_references_of_one_name_have_folders_of_their_own():
    image, mask = np.zeros((8, 8, 3), np.uint8), np.eye(8, dtype=bool)
    names = ["train/stain/000.png", "train/hole/000.png"]
    folders = folders_of([Exemplar(name, "d", image, mask) for name in names])
    assert folders == {names[0]: "train_stain_000", names[1]: "train_hole_000"}
    assert folders_of([Exemplar("images/a.png", "d", image, mask)]) == {"images/a.png": "a"}
    assert file_name("hole.1") != file_name("hole.2")
    with pytest.raises(DatasetError, match="too alike"):
        folders_of([Exemplar(name, "d", image, mask) for name in ("a b.png", "a_b.png")])


def test_a_thin_defect_gets_one_edge_and_not_two(parts):
    """Painted by a network that changes nothing, it stays as the coarse step made it."""
    exemplar = Exemplar("r", "scratch", np.full((64, 64, 3), 160, np.uint8), np.zeros((64, 64), bool) | LINE)
    exemplar.image[LINE] = 40
    settings = DstSettings(window=64)
    scene, coarse = coarse_scene(np.full((64, 64, 3), 160, np.uint8), exemplar, placed(0.0, 0.0), settings.brush)
    (found,) = painted_by(TransferNet(4, blocks=0).eval(), settings, [(scene, coarse)])
    assert np.abs(found.astype(int) - coarse).max() <= 2
    share = (160 - found[scene.label].mean()) / 120
    assert share > 0.95


def test_presets_are_what_they_are_called():
    assert DST_PRESETS["paper"].coarse == "histmatch"
    assert DST_PRESETS["paper"].method == "cdf256"
    assert DST_PRESETS["default"] == DstSettings()
    with pytest.raises(ValueError, match="multiple"):
        DstSettings(window=70)
    with pytest.raises(ValueError, match="cdf256"):
        DstSettings(method="cdf256", space="lab")
