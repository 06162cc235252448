"""`check` names every fault of a dataset at once, and passes a sound one."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from inspectd.errors import DatasetError
from inspectd.training.data.check import CheckReport, check

MAGNETIC_TILE = Path(__file__).resolve().parents[3] / "shared/data/magnetic_tile"


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def picture(path: Path, seed: int, shape: tuple[int, ...] = (24, 32, 3)) -> None:
    write(path, np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def mask(path: Path, value: int = 255, shape: tuple[int, int] = (24, 32), side: int = 4) -> None:
    pixels = np.zeros(shape, np.uint8)
    pixels[:side, :side] = value
    write(path, pixels)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images 0 to 5 and masks 0 to 5."""
    for number in range(6):
        picture(tmp_path / f"{number}.png", number)
        mask(tmp_path / f"m{number}.png", side=number + 1)
    return tmp_path


def checked(root: Path, *rows: str, header: str = "image,mask,defect,role,tile") -> CheckReport:
    (root / "split.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return check(root)


SOUND = ("0.png,m0.png,chip,ref,a", "1.png,m1.png,crack,test,b", "2.png,,,free,c", "3.png,,,ok_test,d")


def test_a_sound_dataset_is_counted(root: Path) -> None:
    seen = []
    (root / "split.csv").write_text("\n".join(["image,mask,defect,role,tile", *SOUND, "0.png,m5.png,crack,ref,a"]))
    picture(root / "2.png", 7, (40, 50))
    report = check(root, progress=lambda done, total: seen.append((done, total)))
    assert report.ok
    assert report.warnings == ()
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert report.roles == {"ref": 1, "free": 1, "test": 1, "ok_test": 1}
    assert report.defects == {
        ("ref", "chip"): 1,
        ("ref", "crack"): 1,
        ("test", "crack"): 1,
        ("free", ""): 1,
        ("ok_test", ""): 1,
    }
    assert report.sizes == {(32, 24): 3, (50, 40): 1}
    assert report.depths == {"8-bit colour": 3, "8-bit grey": 1}
    areas = report.areas["crack"]
    assert (areas.masks, areas.smallest_px, areas.median_px, areas.largest_px) == (2, 4, 20, 36)
    assert areas.median_share == pytest.approx(20 / (24 * 32))
    assert report.text().splitlines() == [
        f"{root}: split.csv, 4 images",
        "",
        "role     good  chip  crack  images",
        "ref         -     1      1       1",
        "free        1     -      -       1",
        "test        -     -      1       1",
        "ok_test     1     -      -       1",
        "",
        "Sizes, px (width x height): 32 x 24 (3), 50 x 40 (1)",
        "Depths: 8-bit colour (3), 8-bit grey (1)",
        "",
        "defect  masks  smallest px  median px  largest px  median share",
        "chip        1            1          1           1         0.13%",
        "crack       2            4         20          36         2.60%",
        "",
        "No faults.",
    ]


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        (["9.png,,,free,"], "split.csv line 2: the image 9.png is missing"),
        (["0.png,m9.png,chip,ref,"], "split.csv line 2: the mask m9.png is missing"),
        ([",,,free,"], "split.csv line 2: no image is named"),
        (["0.png,,,good,"], "split.csv line 2: unknown role 'good' of 0.png; the roles are ref, free, extra,"),
        (["0.png,,chip,ref,"], "split.csv line 2: 0.png has the defect 'chip' without a mask"),
        (["0.png,m0.png,,ref,"], "split.csv line 2: 0.png has the mask m0.png without a defect"),
        (["0.png,m0.png,chip,free,"], "split.csv line 2: 0.png is of the defect-free role free but has a defect"),
        (["0.png,,,test,"], "split.csv line 2: 0.png is of the role test but has neither defect nor mask"),
        (["0.png,m0.png,chip+crack,ref,"], "split.csv line 2: the defect 'chip+crack' of 0.png has a '+'"),
        (["../0.png,,,free,"], "split.csv line 2: the image ../0.png lies outside the dataset"),
        (["a/../../0.png,,,free,"], "split.csv line 2: the image a/../../0.png lies outside the dataset"),
        (["/etc/0.png,,,free,"], "split.csv line 2: the image /etc/0.png lies outside the dataset"),
        (["0.png,,,free,", "0.png,,,free,"], "split.csv line 3: 0.png occurs twice (first in line 2)"),
        (
            ["0.png,m0.png,chip,ref,", "0.png,m0.png,chip,ref,"],
            "split.csv line 3: 0.png occurs twice with the same mask of 'chip' (first in line 2)",
        ),
        (["0.png,m0.png,chip,ref,", "0.png,m1.png,chip,ref,"], "split.csv line 3: 0.png has two masks of 'chip'"),
        (["0.png,,,free,", "1.png,,,free,", "./0.png,,,ok_test,"], "line 4: 0.png is in two roles, free and ok_test"),
        (["0.png,m0.png,chip,ref,a", "0.png,m1.png,crack,ref,b"], "line 3: 0.png is of two tiles, 'a' and 'b'"),
        (["0.png,,,free"], "split.csv line 2: 4 columns, expected 5"),
        (['0.png,,,"free,'], "split.csv line 2: not CSV: unexpected end of data"),
        ([], "no images"),
    ],
)
def test_faults_of_the_table(root: Path, rows: list[str], fault: str) -> None:
    report = checked(root, *rows)
    assert not report.ok
    (found,) = report.faults
    assert fault in found


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        ("image,mask,defect", "line 1: the header lacks role; expected image,mask,defect,role,tile"),
        ("image,mask,defect,role,tiles", "line 1: unknown column 'tiles'"),
        ("image,mask,defect,role,role", "line 1: a column occurs twice"),
        ("", "split.csv: empty; expected the header"),
    ],
)
def test_faults_of_the_header(root: Path, header: str, fault: str) -> None:
    (found,) = checked(root, header=header).faults
    assert fault in found


def test_a_table_that_is_no_text(root: Path) -> None:
    (root / "split.csv").write_bytes(b"image,mask\xff\xfe")
    assert check(root).faults == ("split.csv: not UTF-8 text (byte 10)",)


def test_every_fault_of_the_files_at_once(root: Path) -> None:
    (root / "0.png").write_bytes((root / "0.png").read_bytes()[:-20])
    (root / "1.png").write_text("an image")
    mask(root / "m2.png", shape=(24, 30))
    mask(root / "m3.png", value=0)
    mask(root / "m4.png", value=7)
    (root / "m5.png").write_bytes((root / "m5.png").read_bytes()[:-20])
    rows = [f"{number}.png,m{number}.png,chip,extra," for number in range(6)]
    report = checked(root, *rows, "7.png,,,free,")
    assert [fault.split(";")[0] for fault in report.faults] == [
        "split.csv line 8: the image 7.png is missing",
        "0.png: truncated: the PNG has no end chunk",
        "1.png: damaged, or not an image of a known kind (.png, .jpg, .jpeg, .bmp, .tif, .tiff, .webp, .pgm, .ppm)",
        "m2.png: the mask is 30 x 24 px, but its image 2.png is 32 x 24 px (width x height)",
        "m3.png: the mask of 'chip' on 3.png is empty",
        "m4.png: holds the values 0, 7, expected 0 and one of 1 or 255",
        "m5.png: truncated: the PNG has no end chunk",
    ]
    assert "Faults (7):\n  split.csv line 8: the image 7.png is missing\n" in report.text()


def test_a_row_at_fault_does_not_hide_what_is_wrong_with_its_files(root: Path) -> None:
    (root / "0.png").write_bytes(b"")
    mask(root / "m0.png", value=0)
    report = checked(root, "0.png,m0.png,chip,good,")
    assert [fault.split(";")[0] for fault in report.faults] == [
        "split.csv line 2: unknown role 'good' of 0.png",
        "0.png: the file is empty",
        "m0.png: the mask of 'chip' on 0.png is empty",
    ]


def test_copies_of_a_picture_are_a_fault_across_roles_and_a_warning_within_one(root: Path) -> None:
    (root / "1.png").write_bytes((root / "0.png").read_bytes())
    # The same pixels in another format are the same picture.
    write(root / "2.bmp", cv2.imread(str(root / "0.png")))
    within = checked(root, "0.png,,,free,", "1.png,,,free,", "3.png,,,free,")
    assert within.ok
    assert within.warnings == ("the same picture 2 times in free: 0.png, 1.png",)
    assert "Warnings (1):\n  the same picture" in within.text()
    across = checked(root, "0.png,,,free,", "1.png,,,free,", "2.bmp,,,ok_test,")
    assert across.faults == ("the same picture in several roles: 0.png (free), 1.png (free), 2.bmp (ok_test)",)


def test_a_tile_in_two_roles_is_a_warning_unless_both_are_labelled_training_roles(root: Path) -> None:
    report = checked(
        root,
        "0.png,m0.png,chip,ref,a",
        "1.png,m1.png,chip,extra,a",
        "2.png,m2.png,chip,ref,b",
        "3.png,m3.png,chip,test,b",
    )
    assert report.ok
    assert report.warnings == ("tile b is in several roles: ref, test; one physical part in two roles can leak",)


def test_shared_and_inverted_masks_are_warnings(root: Path) -> None:
    mask(root / "m1.png", side=24)
    write(root / "m1.png", np.full((24, 32), 255, np.uint8))
    report = checked(root, "0.png,m0.png,chip,ref,", "2.png,m0.png,chip,ref,", "1.png,m1.png,chip,ref,")
    assert report.ok
    assert report.warnings == (
        "m1.png: the mask covers 100% of 1.png; is it inverted?",
        "m0.png: one mask of several images: 0.png, 2.png",
    )


def test_a_tree_is_checked_too(tmp_path: Path) -> None:
    picture(tmp_path / "train/good/0.png", 0)
    picture(tmp_path / "test/dent/0.png", 1)
    picture(tmp_path / "test/dent/1.png", 2)
    mask(tmp_path / "ground_truth/dent/0_mask.png", value=0)
    (tmp_path / "train/good/0.gif").touch()
    report = check(tmp_path)
    assert report.layout == "mvtec"
    assert report.faults == (
        "test/dent/1.png has no mask; expected ground_truth/dent/1_mask.png",
        "ground_truth/dent/0_mask.png: the mask of 'dent' on test/dent/0.png is empty",
    )
    assert report.warnings == ("train/good/0.gif: ignored, not an image of a known kind",)


def test_a_folder_without_a_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not a dataset"):
        check(tmp_path)


@pytest.mark.skipif(not MAGNETIC_TILE.is_dir(), reason=f"the magnetic-tile photographs are not in {MAGNETIC_TILE}")
def test_the_magnetic_tiles_are_sound() -> None:
    report = check(MAGNETIC_TILE)
    assert report.faults == ()
    assert report.warnings == ()
    assert report.roles == {"ref": 9, "free": 238, "extra": 150, "test": 74, "ok_test": 110, "ok_calibration": 200}
