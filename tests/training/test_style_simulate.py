"""Simulated datasets: the same places for every method, labels that fit, stops and errors."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from inspectd.dataset import open_dataset, read_image, read_labels
from inspectd.errors import DatasetError
from inspectd.simulation.parts import Backgrounds, MaskFolders, read_exemplars
from inspectd.simulation.placement import PlacementSettings, place_mask, read_placements
from inspectd.simulation.planning import plan
from inspectd.training.data.check import check
from inspectd.training.devices import Hardware
from inspectd.training.segmentation.settings import SegmentSettings
from inspectd.training.segmentation.train import train
from inspectd.training.style.cyclegan import CycleGanSettings
from inspectd.training.style.dst import DstSettings
from inspectd.training.style.simulate import METHODS, NETWORKS, SimulateSettings, Work, painter_of, simulate
from inspectd.training.style.train import train_dst

SIMPLE = [method for method in METHODS if method not in NETWORKS]


def made(parts, out, method, count=6, **more):
    settings = SimulateSettings(method=method, count=count, varied=False, **more.pop("settings", {}))
    return simulate(Work(parts, out, **more.pop("work", {})), settings, workers=1, **more)


def rows(out, role="simulated"):
    with (out / "split.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["role"] == role]


@pytest.fixture(scope="module")
def networks(parts, vgg_file, tmp_path_factory):
    """A DST network for each reference, hardly trained."""
    root = tmp_path_factory.mktemp("networks")
    dataset = open_dataset(parts)
    settings = DstSettings(vgg=str(vgg_file), channels=4, blocks=1, epochs=1, pictures=4, precision="32-true")
    for exemplar in read_exemplars(dataset):
        folder = root / exemplar.defect
        train_dst(
            exemplar, Backgrounds(dataset), folder, settings, hardware=Hardware(accelerator="cpu"), preview_every=0
        )
    return tuple(sorted(root.iterdir()))


@pytest.fixture(scope="module")
def generators(parts, tmp_path_factory):
    """A CycleGAN for each reference, hardly trained."""
    root = tmp_path_factory.mktemp("generators")
    dataset = open_dataset(parts)
    settings = CycleGanSettings(channels=4, blocks=1, epochs=1, pictures=4, precision="32-true")
    for exemplar in read_exemplars(dataset):
        folder, cpu = root / exemplar.defect, Hardware(accelerator="cpu")
        train_dst(exemplar, Backgrounds(dataset), folder, settings, hardware=cpu, preview_every=0)
    return tuple(sorted(root.iterdir()))


def test_networks_of_another_method_are_refused(parts, networks, generators, tmp_path):
    with pytest.raises(DatasetError, match="its network is a cyclegan; the method dst needs others"):
        made(parts, tmp_path / "out", "dst", work={"networks": generators})
    with pytest.raises(DatasetError, match="its network is a transfernet; the method cyclegan needs others"):
        made(parts, tmp_path / "out", "cyclegan", work={"networks": networks})
    with pytest.raises(
        DatasetError, match="needs networks: train them with `inspectd-train experiment methods --methods cyclegan`"
    ):
        made(parts, tmp_path / "out", "cyclegan")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", METHODS)
def test_labels_and_pictures_agree(parts, networks, generators, tmp_path, method):
    """A simulated picture is its background, but for the label and a few pixels around it."""
    work = {"networks": {"dst": networks, "cyclegan": generators}[method]} if method in NETWORKS else {}
    out = tmp_path / "out"
    dataset = made(parts, out, method, work=work)
    assert check(out).ok, check(out).text()
    good = Backgrounds(open_dataset(parts))
    for sample, placement in zip(dataset.select("simulated"), read_placements(out / "placements.jsonl"), strict=True):
        image, background = read_image(sample.image), good.picture(placement.background)
        label = read_labels(sample, None, image.shape[:2]) > 0
        assert sample.defect == placement.defect
        assert label.sum() >= 12
        change = np.abs(image.astype(int) - background).max(axis=2)
        assert change[label].mean() > 3
        near = cv2.dilate(label.astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
        assert not change[~near].any()


def test_every_method_gets_the_same_places_and_labels(parts, networks, tmp_path):
    first = made(parts, tmp_path / "first", "cutpaste")
    other = made(parts, tmp_path / "other", "dst", work={"networks": networks})
    given = made(parts, tmp_path / "given", "poisson", placements=tmp_path / "first" / "placements.jsonl")
    assert (tmp_path / "first" / "placements.jsonl").read_bytes() == (
        tmp_path / "other" / "placements.jsonl"
    ).read_bytes()
    for one, two, three in zip(*(d.select("simulated") for d in (first, other, given)), strict=True):
        masks = {sample.masks[0][1].read_bytes() for sample in (one, two, three)}
        assert len(masks) == 1
        assert one.image.read_bytes() != two.image.read_bytes()


def test_a_longer_run_begins_with_the_shorter_one(parts, tmp_path):
    short, long = made(parts, tmp_path / "short", "relit", 3), made(parts, tmp_path / "long", "relit", 6)
    for one, two in zip(short.select("simulated"), long.select("simulated"), strict=False):
        assert one.image.read_bytes() == two.image.read_bytes()


def test_the_dataset_is_trained_and_measured_on_as_it_is(parts, tmp_path):
    out = tmp_path / "out"
    dataset = made(parts, out, "relit")
    roles = {sample.role for sample in dataset.samples}
    assert roles == {"simulated", "ref", "free", "test", "ok_test"}
    assert [sample.tile for sample in dataset.select("test")] == [
        sample.tile for sample in open_dataset(parts).select("test")
    ]
    assert dataset.select("free")[0].image.samefile(open_dataset(parts).select("free")[0].image)
    settings = SegmentSettings(backbone="slim", height=96, width=96, batch=2, steps=1, precision="32-true")
    train(out, tmp_path / "net", settings, hardware=Hardware(accelerator="cpu"))
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["simulated"] is True
    assert provenance["settings"]["seed"] == 0
    assert all(cv2.imread(str(out / name)) is not None for name in ("contact-sheet.png", "figure3.png"))


def test_several_defects_on_a_picture_have_masks_of_their_own(parts, tmp_path):
    out = tmp_path / "out"
    settings = {"placement": {"per_image": (2, 2), "margin_px": 2, "scale": (0.5, 0.7)}}
    dataset = made(parts, out, "relit", 4, settings=settings)
    assert check(out).ok, check(out).text()
    counts = [len(sample.masks) for sample in dataset.select("simulated")]
    assert max(counts) == 2
    exemplars = {exemplar.name: exemplar for exemplar in read_exemplars(open_dataset(parts))}
    listed = read_placements(out / "placements.jsonl")
    for number, sample in enumerate(dataset.select("simulated")):
        expected: dict[str, np.ndarray] = {}
        for placement in (placement for placement in listed if placement.sample == number):
            label = place_mask(placement, exemplars[placement.reference].mask, (96, 96))
            expected[placement.defect] = expected.get(placement.defect, False) | label
        assert dict(sample.masks).keys() == expected.keys()
        for defect, path in sample.masks:
            assert np.array_equal(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 0, expected[defect])


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_and_grey_pictures_work(parts, vgg_file, tmp_path, channels):
    root = tmp_path / "data"
    shutil.copytree(parts, root)
    for path in (root / "images").glob("*.png"):
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR)
        cv2.imwrite(str(path), image.astype(np.uint16) * 16)
    settings = DstSettings(
        vgg=str(vgg_file), channels=4, blocks=1, epochs=1, pictures=2, batch=2, precision="32-true", bits=12
    )
    exemplar = read_exemplars(open_dataset(root), bits=12)[0]
    backgrounds = Backgrounds(open_dataset(root), bits=12)
    train_dst(exemplar, backgrounds, tmp_path / "net", settings, hardware=Hardware(accelerator="cpu"), preview_every=0)
    work = {"networks": (tmp_path / "net",)}
    dataset = made(root, tmp_path / "out", "dst", 2, settings={"bits": 12, "partial": True}, work=work)
    image = read_image(dataset.select("simulated")[0].image)
    assert image.shape[2] == channels
    assert image.max() > 100
    sheet = cv2.imread(str(tmp_path / "out" / "contact-sheet.png"))
    taken_over, simulated = sheet[: len(sheet) // 3], sheet[-len(sheet) // 3 :]
    assert taken_over.mean() == pytest.approx(simulated.mean(), rel=0.2)
    with pytest.raises(DatasetError, match="trained with --bits 12, this simulates with 16"):
        made(root, tmp_path / "other", "dst", 2, work=work)


def test_a_killed_run_is_continued_without_doubles_or_gaps(parts, tmp_path):
    out = tmp_path / "out"
    command = [
        *(sys.executable, "-m", "inspectd.training.cli", "simulate", str(parts), "--out", str(out)),
        *("--method", "relit", "--count", "40", "--workers", "1"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while len(list((out / "images" / "simulated").glob("*.png"))) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "split.csv").exists()
    first = sorted((out / "images" / "simulated").glob("*.png"))[0]
    before = first.stat().st_mtime_ns
    # What was torn by the kill is painted again.
    torn = out / "images" / "simulated" / sorted(path.name for path in first.parent.glob("*.png"))[1]
    torn.write_bytes(torn.read_bytes()[:100])
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "40 simulated" in done.stdout
    assert first.stat().st_mtime_ns == before
    assert len(rows(out)) == len({row["image"] for row in rows(out)}) == 40
    whole = made(parts, tmp_path / "whole", "relit", 40)
    for one, two in zip(open_dataset(out).select("simulated"), whole.select("simulated"), strict=True):
        assert np.array_equal(read_image(one.image), read_image(two.image))


def test_regions_and_forbidden_pixels_given_as_masks_are_kept_to(parts, tmp_path):
    regions, forbidden = tmp_path / "regions", tmp_path / "forbidden"
    for folder in (regions, forbidden):
        folder.mkdir()
    left = np.zeros((96, 96), np.uint8)
    left[20:80, 10:50] = 255
    for sample in open_dataset(parts).samples:
        cv2.imwrite(str(regions / f"{Path(sample.name).stem}.png"), left if sample.role == "free" else left | 255)
    placed = made(parts, tmp_path / "left", "relit", 8, work={"masks": MaskFolders(regions)}).select("simulated")
    assert all(not read_labels(sample, None, (96, 96))[:, 54:].any() for sample in placed)
    bar = np.zeros((96, 96), np.uint8)
    bar[:, 60:] = 255
    for sample in open_dataset(parts).select("free"):
        cv2.imwrite(str(forbidden / sample.name.split("/")[-1]), bar)
    out = tmp_path / "out"
    dataset = made(parts, out, "relit", 8, work={"masks": MaskFolders(None, forbidden)})
    for sample in dataset.select("simulated"):
        assert not read_labels(sample, None, (96, 96))[:, 60:].any()
    cv2.imwrite(str(forbidden / "free-0.png"), bar[:50])
    with pytest.raises(DatasetError, match=r"free-0.png: the mask is 96 x 50 px"):
        made(parts, tmp_path / "other", "relit", 8, work={"masks": MaskFolders(None, forbidden)})
    with pytest.raises(DatasetError, match="no such folder"):
        MaskFolders(tmp_path / "none")
    # The same folder of results with other masks is another dataset.
    with pytest.raises(DatasetError, match="another data_sha256"):
        made(parts, out, "relit", 8)
    (tmp_path / "others").mkdir()
    cv2.imwrite(str(tmp_path / "others" / "IMG_1.png"), bar)
    with pytest.raises(DatasetError, match="no mask is named like a picture"):
        made(parts, tmp_path / "unlike", "relit", 8, work={"masks": MaskFolders(None, tmp_path / "others")})


def test_what_cannot_be_simulated_is_answered(parts, networks, tmp_path):
    with pytest.raises(DatasetError, match="inspectd-train dst"):
        made(parts, tmp_path / "out", "dst")
    with pytest.raises(DatasetError, match=r"2 references of .* have no network, .*--partial"):
        made(parts, tmp_path / "out", "dst", work={"networks": networks[:1]})
    made(parts, tmp_path / "few", "relit", 2)
    with pytest.raises(DatasetError, match="holds 2 samples, 6 are wanted"):
        made(parts, tmp_path / "out", "relit", placements=tmp_path / "few" / "placements.jsonl")
    with pytest.raises(DatasetError, match="another settings"):
        made(parts, tmp_path / "few", "relit", 3)
    root = tmp_path / "data"
    shutil.copytree(parts, root)
    (root / "split.csv").write_text(
        "\n".join(line for line in (root / "split.csv").read_text().splitlines() if ",free," not in line) + "\n"
    )
    with pytest.raises(DatasetError, match="no picture of the role free"):
        made(root, tmp_path / "none", "relit")


def test_a_reference_larger_than_the_part_is_answered(parts, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(parts, root)
    for path in (root / "images").glob("free-*.png"):
        cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (16, 16)))
    label = np.zeros((96, 96), np.uint8)
    label[35:62, 35:62] = 255
    cv2.imwrite(str(root / "masks" / "ref-0.png"), label)
    with pytest.raises(DatasetError, match=r"ref-0.png' \(stain\): larger than the part"):
        made(root, tmp_path / "out", "relit")


@pytest.fixture
def grained(tmp_path):
    """A grained surface: a stain that shows the grain, a hole that does not, and three good parts."""
    root, rng = tmp_path / "grained", np.random.default_rng(0)
    rows, columns = np.mgrid[:96, :96]
    disc = np.hypot(rows - 46, columns - 50) <= 14
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    lines = ["image,mask,defect,role,tile"]
    for name, defect in (("stain", "stain"), ("hole", "hole"), ("a", ""), ("b", ""), ("c", "")):
        grain = 40 * np.sin(columns / 2 + rng.uniform(0, 6))
        picture = 150 + np.repeat(grain[..., None], 3, axis=2) + rng.normal(0, 2, (96, 96, 3))
        if defect:
            colour, opacity = ((120.0, 40.0, 90.0), 0.6) if defect == "stain" else ((30.0, 30.0, 30.0), 1.0)
            picture[disc] = opacity * np.array(colour) + (1 - opacity) * picture[disc]
            cv2.imwrite(str(root / "masks" / f"{name}.png"), disc.astype(np.uint8) * 255)
        cv2.imwrite(str(root / "images" / f"{name}.png"), np.clip(picture, 0, 255).astype(np.uint8))
        mask, role = (f"masks/{name}.png", "ref") if defect else ("", "free")
        lines.append(f"images/{name}.png,{mask},{defect},{role},")
    (root / "split.csv").write_text("\n".join(lines) + "\n")
    return root


def test_strength_and_hue_are_those_of_what_shows_the_surface(grained, tmp_path):
    placement = PlacementSettings(gain=(0.5, 0.5), hue_deg=180.0)
    settings = SimulateSettings(method="relit", placement=placement, varied=True)
    work = Work(grained, tmp_path / "out")
    varied, plain = (painter_of(work, settings.model_copy(update={"varied": flag})) for flag in (True, False))
    assert {name: exemplar.veil for name, exemplar in varied.exemplars.items()} == {
        "images/hole.png": False,
        "images/stain.png": True,
    }
    for spot in plan(varied.references(), varied.backgrounds, 8, placement, 0).placements:
        good = varied.backgrounds.picture(spot.background).astype(float)
        first, second = varied.paint([spot]), plain.paint([spot])
        label = first.labels[spot.defect]
        assert np.array_equal(label, second.labels[spot.defect])
        if spot.defect == "hole":
            assert np.array_equal(first.image, second.image)
            continue
        fainter, full = ((painted.image - good)[label] for painted in (first, second))
        assert fainter.mean() == pytest.approx(0.5 * full.mean(), rel=0.15), "half as strong, as bright in another hue"
        tints = [change.mean(axis=0) - change.mean() for change in (fainter, full)]
        if abs(spot.hue_deg) > 30:
            assert np.dot(*tints) < 0.95 * np.linalg.norm(tints[0]) * np.linalg.norm(tints[1])
    assert made(grained, tmp_path / "dataset", "relit", count=2)


def test_the_command_varies_what_it_is_told_to(grained, tmp_path):
    """A strength alone turns no hue, and a hue alone makes nothing fainter."""
    for number, (more, gains, hues) in enumerate(
        (([], {1.0}, {0.0}), (["--gain", "0.5,0.5"], {0.5}, {0.0}), (["--hue-deg", "90"], {1.0}, None))
    ):
        out = tmp_path / str(number)
        command = [sys.executable, "-m", "inspectd.training.cli", "simulate", str(grained), "--out", str(out)]
        done = subprocess.run([*command, "--method", "relit", "--count", "4", *more], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found = read_placements(out / "placements.jsonl")
        assert {spot.gain for spot in found} == gains
        assert len({spot.hue_deg for spot in found}) > 1 if hues is None else {spot.hue_deg for spot in found} == hues
