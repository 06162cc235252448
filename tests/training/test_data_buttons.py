"""Datasets of rendered buttons: the protocols, their seeds, and runs that continue."""

import json
import multiprocessing
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from inspectd.buttons import DEFECTS, LINES, render
from inspectd.dataset import read_image, read_labels
from inspectd.errors import ConfigError, DatasetError
from inspectd.sheet import Tile, contact_sheet
from inspectd.training.data.buttons import plan, write_buttons
from inspectd.training.data.check import check

PAPER = {"ref": 9, "free": 238, "extra": 150, "test": 78, "ok_test": 200, "ok_calibration": 200}


def test_the_paper_protocol_has_the_papers_numbers() -> None:
    parts = plan("paper")
    assert Counter(part.role for part in parts) == PAPER
    assert [part.defect for part in parts if part.role == "ref"] == list(DEFECTS)
    assert {part.line for part in parts} == {LINES[0]}
    for role in ("extra", "test"):
        shares = Counter(part.defect for part in parts if part.role == role)
        assert set(shares) == set(DEFECTS)
        assert max(shares.values()) - min(shares.values()) <= 1
    assert all(bool(part.defect) == bool(part.mask) == (part.role in ("ref", "extra", "test")) for part in parts)


def test_the_demo_protocol_shows_every_defect_on_every_line() -> None:
    parts = plan("demo", train=120)
    assert Counter(part.role for part in parts) == {
        "extra": 120,
        "free": 120,
        "test": 300,
        "ok_test": 300,
        "ok_calibration": 300,
    }
    assert {(part.line, part.defect) for part in parts} >= {(line, defect) for line in LINES for defect in DEFECTS}
    assert {part.line for part in plan("demo", lines="shell")} == {"shell"}


def test_no_part_is_in_two_roles_protocols_or_datasets() -> None:
    seeds = [part.seed for name in ("paper", "demo") for seed in (0, 1, 2) for part in plan(name, seed=seed, train=900)]
    assert len(set(seeds)) == len(seeds)
    # The sets to measure on are the same whatever the number of training images.
    few, many = ([part for part in plan("demo", train=n) if "test" in part.role] for n in (50, 500))
    assert few == many


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"protocol": "papers"}, "unknown protocol 'papers'; expected one of paper, demo"),
        ({"protocol": "demo", "lines": "corn"}, "unknown product line 'corn'; expected all or one of"),
        ({"protocol": "demo", "seed": -1}, "the seed is -1"),
        ({"protocol": "demo", "train": 0}, "0 training images; expected 1 to 100000"),
    ],
)
def test_what_cannot_be_planned_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        plan(**arguments)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The paper's protocol at 64 px, rendered by two processes."""
    root = tmp_path_factory.mktemp("buttons") / "paper"
    seen: list[tuple[int, int]] = []
    write_buttons(root, size=64, workers=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 875) for done in range(876)]
    assert multiprocessing.active_children() == []
    return root


def test_the_dataset_is_sound_and_says_where_it_comes_from(written: Path) -> None:
    report = check(written)
    assert report.faults == ()
    assert report.warnings == ()
    assert report.roles == PAPER
    assert report.sizes == {(64, 64): 875}
    provenance = json.loads((written / "provenance.json").read_text())
    assert (provenance["protocol"], provenance["seed"], provenance["size_px"]) == ("paper", 0, 64)
    assert len(provenance["parts"]) == 875
    part = provenance["parts"][3]
    rendered = render(part["line"], part["defect"], part["seed"], 64)
    np.testing.assert_array_equal(read_image(written / part["image"]), rendered.image)
    mask = cv2.imread(str(written / part["image"].replace("images", "masks")), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask, rendered.mask * 255)
    assert cv2.imread(str(written / "contact-sheet.png")).shape[1] == 9 * 196 + 4


def test_an_interrupted_run_is_continued(written: Path) -> None:
    images = sorted((written / "images").iterdir())
    masks = sorted((written / "masks").iterdir())
    before = {path: path.read_bytes() for path in (*images, *masks, written / "split.csv")}
    touched = {path: path.stat().st_mtime_ns for path in images}
    images[0].unlink()
    images[400].write_bytes(b"half a picture")
    masks[7].unlink()
    (written / "split.csv").unlink()
    seen: list[tuple[int, int]] = []
    write_buttons(written, size=64, workers=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 875) for done in range(872, 876)]
    assert {path: path.read_bytes() for path in before} == before
    assert sum(path.stat().st_mtime_ns != touched[path] for path in images) == 3


@pytest.mark.parametrize(("change", "named"), [({"size": 80}, "size_px"), ({"seed": 1}, "seed, parts")])
def test_another_dataset_is_not_continued(written: Path, change: dict, named: str) -> None:
    with pytest.raises(DatasetError, match=f"holds rendered buttons with another {named}"):
        write_buttons(written, **{"size": 64, "workers": 1, **change})


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DatasetError, match="already there and not a folder of rendered buttons"):
        write_buttons(tmp_path, size=64)
    (tmp_path / "provenance.json").write_text("{")
    with pytest.raises(DatasetError, match=r"provenance\.json: not JSON"):
        write_buttons(tmp_path, size=64)
    (tmp_path / "provenance.json").write_text("[]")
    with pytest.raises(DatasetError, match="holds rendered buttons with another made_by, protocol"):
        write_buttons(tmp_path, size=64)


def test_a_size_that_the_renderer_refuses_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="size is 100 px"):
        write_buttons(tmp_path / "out", size=100)
    assert not (tmp_path / "out").exists()


# --- contact sheets


def test_a_sheet_shows_its_tiles_and_outlines_around_the_masks() -> None:
    grey = np.full((32, 64, 1), 90, np.uint8)
    mask = np.zeros((32, 64), np.uint8)
    mask[12:20, 28:36] = 1
    sheet = contact_sheet([Tile(grey, "good"), Tile(grey, "bad", mask), Tile(grey)], columns=2, side=64)
    assert sheet.shape == (2 * 86 + 4, 2 * 68 + 4, 3)
    red = np.all(sheet == (255, 0, 0), axis=2)
    rows, columns = np.nonzero(red)
    # Second tile, its picture letterboxed from row 16 on; the outline runs two px outside the mask.
    assert (rows.min(), rows.max()) == (4 + 16 + 12 - 2, 4 + 16 + 19 + 2)
    assert (columns.min(), columns.max()) == (72 + 28 - 2, 72 + 35 + 2)
    assert np.all(sheet[4 + 16 + 12 : 4 + 16 + 20, 72 + 28 : 72 + 36] == 90)
    assert np.any(sheet[68:86, 4:68] < 100)
    assert np.all(sheet[86 + 68 :, 4:68] == 250)


def test_a_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot lay out 0 tiles"):
        contact_sheet([], columns=3)


def test_written_masks_label_the_images(written: Path) -> None:
    report = check(written)
    assert set(report.areas) == set(DEFECTS)
    assert all(areas.smallest_px >= 4 for areas in report.areas.values())
    dataset = write_buttons(written, size=64, workers=1)
    sample = dataset.select("ref")[0]
    assert read_labels(sample, None, (64, 64)).any()
