"""Marking what the line missed: from a box to a label, and into a dataset on a real station."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from inspectd.bundle import encode_png
from inspectd.buttons import LINES, render
from inspectd.config import load_config
from inspectd.dataset import open_dataset, read_labels
from inspectd.errors import ConfigError, RequestError
from inspectd.inspection import Verdict
from inspectd.runtime.archive import Archive
from inspectd.runtime.augment.gathering import good_parts
from inspectd.runtime.mark_ctl import by_stroke, overlay, parse_box, refined
from inspectd.runtime.marking import Marking
from inspectd.runtime.marks import FREE_PARTS, marked_pictures
from inspectd.wire import OPERATIONS

from .archive_site import Shelf, inspected, noise
from .conftest import finish, inspectd, run_inspectd, save_picture
from .station_site import until
from .test_station import Running

CAMERA = 'source = "folder"\npath = "pictures"\nloop = true\nfps = 20'
MORE = """
[archive]
path = "archive"
ok_every = 1
keep_free_gib = 0

[augment]
out = "site"
keep_free_gib = 0
"""


def box_of(mask: np.ndarray, margin: int) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask)
    left, top = max(0, columns.min() - margin), max(0, rows.min() - margin)
    right, bottom = min(mask.shape[1], columns.max() + margin + 1), min(mask.shape[0], rows.max() + margin + 1)
    return int(left), int(top), int(right - left), int(bottom - top)


@pytest.mark.parametrize(("defect", "seed"), [("stain", 5), ("stain", 7), ("hole", 7), ("scratch", 3)])
def test_a_box_becomes_the_defect_in_it(defect, seed):
    part = render(LINES[seed % len(LINES)], defect, seed, 256)
    truth = part.mask > 0
    box = box_of(truth, 6)
    label = refined(part.image, box)
    x, y, width, height = box
    outside = label.copy()
    outside[y : y + height, x : x + width] = False
    assert not outside.any()
    iou = (label & truth).sum() / (label | truth).sum()
    filled = truth.sum() / (width * height)
    assert iou > max(0.5, filled), f"{iou:.2f}, of the box itself {filled:.2f}"
    assert (refined(part.image, box) == label).all(), "the same again"
    shown = overlay(part.image, label)
    near = cv2.dilate(label.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert (shown[~near] == part.image[~near]).all()
    assert (shown[near] != part.image[near]).any(axis=-1).mean() > 0.9


def test_a_box_with_nothing_in_it_is_refused():
    flat = np.full((80, 100, 1), 90, np.uint8)
    with pytest.raises(ConfigError, match="nothing in it stands out"):
        refined(flat, (20, 20, 30, 20))
    with pytest.raises(ConfigError, match="lies outside of the picture of 100 x 80 px"):
        refined(flat, (90, 20, 30, 20))
    assert parse_box("1, 2,3,4") == (1, 2, 3, 4)
    for text in ("1,2,3", "a,b,c,d", "1,2,0,4", "-1,2,3,4"):
        with pytest.raises(ConfigError, match="expected X,Y,W,H"):
            parse_box(text)


def test_a_stroke_along_a_thin_defect_is_its_label():
    part = render(LINES[2], "scratch", 7_000_001, 256)
    truth = part.mask > 0
    # As somebody would click along it: from end to end in five pieces.
    rows, columns = np.nonzero(truth)
    axis = columns if np.ptp(columns) > np.ptp(rows) else rows
    steps = np.linspace(axis.min(), axis.max(), 6)
    near = [np.abs(axis - step) <= 2 for step in steps]
    corners = " ".join(f"{round(columns[each].mean())},{round(rows[each].mean())}" for each in near)
    label = by_stroke(corners, 3).label(part.image)
    assert (label & truth).sum() / (label | truth).sum() > 0.5
    assert by_stroke("3, 4", 1).label(part.image).nonzero() == (np.array([4]), np.array([3]))
    for text in ("", "1,2 3", "a,b", "1,2;3,4", "-1,2 3,4", " ".join(["1,1"] * 201)):
        with pytest.raises(ConfigError, match="expected its corners"):
            by_stroke(text, 3)
    with pytest.raises(ConfigError, match="256,3 lies outside of the picture of 256 x 256 px"):
        by_stroke("1,1 256,3", 3).label(part.image)


def test_only_engineers_mark():
    assert OPERATIONS["mark"].role == "engineer"
    assert OPERATIONS["mark"].changes


@pytest.fixture
def running(tmp_path, write_config):
    """A station whose network sees bright pixels alone: a dark spot passes."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        pixels = rng.integers(80, 100, (64, 64, 3)).astype(np.uint8)
        if number == 0:
            cv2.circle(pixels, (30, 24), 6, (10, 12, 14), -1)
        save_picture(pictures / f"part{number}.png", pixels)
    station = Running(inspectd("run", write_config(CAMERA, MORE)), tmp_path)
    with station.requester, station.subscriber:
        yield station
    if station.process.poll() is None:
        station.process.terminate()
        finish(station.process)
    for stream in (station.process.stdout, station.process.stderr):
        stream.close()


def archived(folder: Path, picture: int, count: int = 1) -> list:
    """Parts of a picture that lie in the archive."""

    def found() -> list:
        if not (folder / "archive").is_dir():
            return []
        return [
            each for each in Archive(folder / "archive").parts() if each.sidecar.frame.source.endswith(f"{picture}.png")
        ]

    until(lambda: len(found()) >= count)
    return found()


def test_a_missed_defect_becomes_a_reference_that_trainings_read(running, tmp_path):
    part = archived(tmp_path, 0)[0]
    other = archived(tmp_path, 2)[0]
    archived(tmp_path, 3)
    assert part.verdict is Verdict.OK
    sidecar = part.sidecar
    result = f"{sidecar.epoch}-{sidecar.stream}-{sidecar.seq}"
    at = ("--at", tmp_path / "state")
    status, out, err = run_inspectd(
        "ctl", "mark", result, "--box", "20,14,20,20", "--defect", "spot", "--yes", "--save", tmp_path / "seen.png", *at
    )
    assert status == 0, err
    told = json.loads(out)
    assert (told["verdict"], told["marks"], told["defect"]) == ("OK", 1, "spot")
    assert cv2.imread(told["overlay"]).shape == (64, 64, 3)
    dataset = open_dataset(tmp_path / "site" / "marked")
    (sample,) = dataset.select("ref")
    assert sample.image.read_bytes() == part.picture()
    truth = np.zeros((64, 64), np.uint8)
    cv2.circle(truth, (30, 24), 6, 1, -1)
    label = read_labels(sample, None, (64, 64)) > 0
    assert (label & (truth > 0)).sum() / (label | (truth > 0)).sum() > 0.8
    free = dataset.select("free")
    assert len(free) == 3 <= FREE_PARTS, "each picture once, and not the one that was marked"
    (mark,) = json.loads((dataset.root / "provenance.json").read_text())["marks"]
    assert (mark["marked_by"], mark["how"]) == ("local", "GrabCut in the box 20,14,20,20")
    assert mark["picture_sha256"] == sidecar.picture.sha256
    checked = subprocess.run(
        [sys.executable, "-m", "inspectd.training.cli", "check", str(dataset.root)], capture_output=True, text=True
    )
    assert (checked.returncode, "No faults." in checked.stdout) == (0, True), checked.stdout + checked.stderr

    # No good part any more, for nobody.
    without = marked_pictures(tmp_path / "site")
    assert without == {sidecar.picture.sha256}
    good = list(good_parts(Archive(tmp_path / "archive"), channels=3, without=without))
    assert {Path(each.sidecar.frame.source).stem for each in good} == {"part1", "part2", "part3"}

    # By a mask, named as the archive names it; the same again changes nothing, another label is refused.
    cv2.imwrite(str(tmp_path / "mask.png"), truth * 255)
    name = f"{other.path.parent.parent.name}/{other.sidecar.camera}/{other.path.stem}"
    command = ("ctl", "mark", name, "--mask", tmp_path / "mask.png", "--defect", "spot", "--yes", *at)
    assert [run_inspectd(*command)[0] for _ in range(2)] == [0, 0]
    dataset = open_dataset(tmp_path / "site" / "marked")
    assert len(dataset.select("ref")) == 2
    assert not {each.image.stem for each in dataset.select("free")} & {
        each.image.stem for each in dataset.select("ref")
    }
    cv2.imwrite(str(tmp_path / "mask.png"), np.roll(truth, 5) * 255)
    status, _, err = run_inspectd(*command)
    assert (status, "is marked with 'spot' already" in err) == (2, True)

    # Along a line: another type on the same part.
    stroke = ("--stroke", "5,8 15,8", "--width", "2", "--defect", "scratch", "--yes", *at)
    status, out, err = run_inspectd("ctl", "mark", name, *stroke)
    assert status == 0, err
    kept = {each["defect"]: each["how"] for each in json.loads((dataset.root / "provenance.json").read_text())["marks"]}
    assert kept["scratch"] == "a stroke of 2 px along 5,8 15,8"
    assert running.state() == "ContinuousExecution"


@pytest.fixture
def mark(tmp_path, write_config):
    """Has a part of `tmp_path`/archive marked, without a station: the seqs of the good parts that are kept with it."""
    marking = Marking(load_config(write_config(CAMERA, MORE)), lambda act: act())
    label = np.zeros((8, 8), np.uint8)
    label[3:5, 3:5] = 255
    text = base64.b64encode(encode_png(label)).decode()

    def do(seq: int, stream: int = 0, camera: str = "cam1") -> list[int]:
        answers = []
        asked = {"epoch": 7, "stream": stream, "seq": seq, "defect": "spot", "mask": text, "how": "by hand"}
        marking.begin(asked, "anna", 7, answers.append)
        until(lambda: answers)
        assert isinstance(answers[0], dict), answers
        free = open_dataset(tmp_path / "site" / "marked").select("free")
        names = [each.image.stem for each in free if each.image.stem.startswith(f"{camera}-2026-11-")]
        return sorted(int(name.rpartition("-")[2]) for name in names)

    return do


def test_good_parts_are_from_all_over_the_archive_and_not_from_around_the_marked_one(tmp_path, mark):
    shelf = Shelf(tmp_path / "archive")
    series = range(291, 311)  # the defect, which nobody noticed on most of them
    for seq in range(1, 321):
        verdict = Verdict.NG if seq % 5 == 0 else Verdict.OK
        found = inspected(verdict, pixels=noise(8, 8, seed=seq))
        shelf.put(replace(found, verdict=Verdict.OK) if seq % 10 == 0 else found, seq=seq)
    shelf.put(inspected(Verdict.OK, pixels=noise(8, 16)), seq=321)
    for seq in range(322, 327):
        shelf.put(inspected(Verdict.OK, pixels=noise(8, 8, seed=seq), camera="cam1-2"), seq=seq, stream=1)
    # One that was damaged since costs nobody the mark.
    (shelf.root / "2026-11-26" / "cam1" / "7-1.png").write_bytes(b"")
    free = mark(301)
    assert len(free) == FREE_PARTS
    assert not set(free) & {*series, 1, 321}, "siblings of the defect, a damaged picture, one of another size"
    assert not [seq for seq in free if seq % 5 == 0], "something was found on these, whatever the verdict"
    assert np.histogram(free, bins=5, range=(1, 285))[0].min() >= 7, free
    assert mark(100) == free, "there are enough; nor is any of them marked now"
    # Again from nothing: the same, but for what is near to the second mark.
    shutil.rmtree(tmp_path / "site" / "marked" / "free")
    again = mark(100)
    assert not set(again) & {*series, *range(84, 117)}
    assert len(set(again) & set(free)) > 35
    # The other camera is no worse off for it.
    assert mark(324, stream=1, camera="cam1-2") == [322, 323, 325, 326]


def test_what_nobody_agrees_to_or_cannot_be_is_not_kept(running, tmp_path):
    part = archived(tmp_path, 0)[0]
    result = f"{part.sidecar.epoch}-{part.sidecar.seq}"
    at = ("--at", tmp_path / "state")
    asked = inspectd("ctl", "mark", result, "--box", "20,14,20,20", "--defect", "spot", *at, stdin=subprocess.PIPE)
    out, err = asked.communicate("n\n", timeout=60)
    assert (asked.returncode, out.strip()) == (1, "")
    shown = Path(err.partition(": ")[0].strip())
    assert cv2.imread(str(shown)) is not None
    shown.unlink()
    for more, words in (
        (("1-0-999999", "--box", "1,1,9,9", "--defect", "spot"), "is not in the archive; of OK parts"),
        ((result, "--box", "60,60,20,20", "--defect", "spot"), "lies outside of the picture"),
        ((result, "--defect", "spot"), "expected one RESULT_ID"),
        ((result, "--box", "1,1,9,9", "--stroke", "1,1 9,9", "--defect", "spot"), "expected one RESULT_ID"),
        ((result, "--box", "1,1,9,9", "--width", "3", "--defect", "spot"), "--width is of --stroke"),
        ((result, "--stroke", "1,1 99,9", "--defect", "spot"), "99,9 lies outside of the picture of 64 x 64 px"),
        (("part0.png?", "--box", "1,1,9,9", "--defect", "spot"), "expected the id of a result"),
        (("cam9/1-2", "--box", "1,1,9,9", "--defect", "spot"), "no camera 'cam9'"),
        ((result, "--box", "20,14,20,20", "--defect", "a+b"), "a name without '+'"),
        ((result, "--box", "20,14,20,20", "--defect", ".."), "a dot in front"),
    ):
        status, _, err = run_inspectd("ctl", "mark", *more, "--yes", *at)
        assert (status, words in err) == (2, True), err
    assert not (tmp_path / "site" / "marked" / "split.csv").exists()
    with pytest.raises(RequestError, match="no PNG in base64") as caught:
        running.ask("mark", stream=0, seq=part.sidecar.seq, defect="spot", mask="@@")
    assert (caught.value.code, caught.value.field) == ("bad_request", "mask")
    shutil.rmtree(tmp_path / "site", ignore_errors=True)
    (tmp_path / "site").write_text("in the way")
    status, _, err = run_inspectd("ctl", "mark", result, "--box", "20,14,20,20", "--defect", "spot", "--yes", *at)
    assert (status, "site" in err) == (2, True)
    assert running.state() == "ContinuousExecution"
