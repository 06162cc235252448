"""Both dataset formats, and the reading of images and masks."""

import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspectd.dataset import ROLES, open_dataset, read_image, read_labels
from inspectd.errors import DatasetError
from inspectd.mask import ClassMap

RNG = np.random.default_rng(5)


def write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


def picture(path: Path, height: int = 24, width: int = 32) -> Path:
    return write(path, RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


def mask(path: Path, height: int = 24, width: int = 32, box: tuple[int, int, int, int] = (4, 8, 5, 9)) -> Path:
    pixels = np.zeros((height, width), np.uint8)
    pixels[box[0] : box[1], box[2] : box[3]] = 255
    return write(path, pixels)


def split(root: Path, *rows: str, header: str = "image,mask,defect,role,tile") -> Path:
    root.mkdir(exist_ok=True)
    (root / "split.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with two images and two masks, not yet a dataset."""
    picture(tmp_path / "images/a.png")
    picture(tmp_path / "images/b.png")
    mask(tmp_path / "masks/a.png")
    mask(tmp_path / "masks/a2.png", box=(6, 12, 7, 12))
    return tmp_path


# --- split.csv


def test_split_csv_gathers_the_masks_of_one_image(root: Path) -> None:
    split(
        root,
        "images/a.png,masks/a.png,scratch,ref,t1",
        "images/b.png,,,free,t2",
        "images/../images/a.png,masks/a2.png,chip,ref,t1",
    )
    dataset = open_dataset(root)
    assert dataset.layout == "split.csv"
    assert dataset.defects == ("chip", "scratch")
    first, second = dataset.samples
    assert (first.name, first.defect, first.role, first.tile) == ("images/a.png", "scratch+chip", "ref", "t1")
    assert first.masks == (("scratch", root / "masks/a.png"), ("chip", root / "masks/a2.png"))
    assert (second.defect, second.masks, second.tile) == ("", (), "t2")
    assert dataset.select("free") == (second,)
    assert dataset.select(*ROLES) == dataset.samples
    with pytest.raises(DatasetError, match="unknown role 'train'"):
        dataset.select("train")


def test_labels_are_the_classes_of_the_masks_and_the_later_mask_wins(root: Path) -> None:
    split(root, "images/a.png,masks/a.png,scratch,ref,", "images/a.png,masks/a2.png,chip,ref,")
    (sample,) = open_dataset(root).samples
    labels = read_labels(sample, ClassMap(("chip", "scratch")), (24, 32))
    expected = np.zeros((24, 32), np.uint8)
    expected[4:8, 5:9] = 2
    expected[6:12, 7:12] = 1
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(read_labels(sample, None, (24, 32)), expected > 0)
    with pytest.raises(DatasetError, match=r"images/a\.png: its defect 'scratch' is not one of the classes \['chip'\]"):
        read_labels(sample, ClassMap(("chip",)), (24, 32))
    with pytest.raises(DatasetError, match=r"masks/a\.png: the mask is 32 x 24 px, .* 40 x 24 px"):
        read_labels(sample, None, (24, 40))


def test_the_tile_column_may_be_missing_and_the_file_may_come_from_a_spreadsheet(root: Path) -> None:
    text = "\ufeffrole,image,mask,defect\r\nref,images/a.png, masks/a.png ,scratch\r\n,,,\r\nfree,images/b.png,,\r\n"
    (root / "split.csv").write_bytes(text.encode())
    assert [(sample.name, sample.defect, sample.tile) for sample in open_dataset(root).samples] == [
        ("images/a.png", "scratch", ""),
        ("images/b.png", "", ""),
    ]


def test_a_faulty_split_is_refused_with_the_command_that_lists_all(root: Path) -> None:
    split(root, *(f"images/{name}.png,,,free," for name in "cdefg"))
    with pytest.raises(DatasetError) as caught:
        open_dataset(root)
    assert "split.csv line 2: the image images/c.png is missing" in str(caught.value)
    assert f"and 2 more (`inspectd-train check {root}` lists every fault)" in str(caught.value)


# --- MVTec


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("train/good/000", "train/dent/000", "validation/good/000", "test/good/000", "test/dent/000"):
        picture(tmp_path / f"{name}.png")
    picture(tmp_path / "test/dent/001.png")
    mask(tmp_path / "ground_truth/dent/000_mask.png")
    mask(tmp_path / "ground_truth/dent/001.png")
    mask(tmp_path / "ground_truth_train/dent/000_mask.png")
    (tmp_path / "test/good/.DS_Store").touch()
    return tmp_path


def test_the_mvtec_tree_gives_roles_and_masks(tree: Path) -> None:
    dataset = open_dataset(tree)
    assert dataset.layout == "mvtec"
    assert dataset.defects == ("dent",)
    assert {(sample.name, sample.role, sample.defect) for sample in dataset.samples} == {
        ("train/good/000.png", "free", ""),
        ("train/dent/000.png", "ref", "dent"),
        ("validation/good/000.png", "ok_calibration", ""),
        ("test/good/000.png", "ok_test", ""),
        ("test/dent/000.png", "test", "dent"),
        ("test/dent/001.png", "test", "dent"),
    }
    for sample in dataset.select("test", "ref"):
        assert read_labels(sample, ClassMap(dataset.defects), (24, 32)).sum() == 16


def test_a_split_csv_is_preferred_to_the_tree_around_it(tree: Path) -> None:
    split(tree, "train/good/000.png,,,ok_test,")
    assert [sample.role for sample in open_dataset(tree).samples] == ["ok_test"]


def test_images_without_masks_and_masks_without_images_are_named(tree: Path) -> None:
    (tree / "ground_truth/dent/000_mask.png").rename(tree / "ground_truth/dent/007_mask.png")
    with pytest.raises(DatasetError) as caught:
        open_dataset(tree)
    assert "test/dent/000.png has no mask; expected ground_truth/dent/000_mask.png" in str(caught.value)
    assert "ground_truth/dent/007_mask.png is the mask of no image in test/dent" in str(caught.value)


def test_defects_in_validation_are_refused(tree: Path) -> None:
    picture(tree / "validation/dent/000.png")
    with pytest.raises(DatasetError, match="validation/dent: only validation/good is expected there"):
        open_dataset(tree)


def test_what_is_no_dataset_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"found neither split\.csv nor an MVTec-style tree \(train/good"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        open_dataset(tmp_path / "nowhere")
    (tmp_path / "train/good").mkdir(parents=True)
    with pytest.raises(DatasetError, match="no images"):
        open_dataset(tmp_path)


# --- images


def test_channels_come_out_as_rgb_or_grey(tmp_path: Path) -> None:
    bgra = RNG.integers(0, 256, (6, 9, 4), dtype=np.uint8)
    np.testing.assert_array_equal(read_image(write(tmp_path / "c.png", bgra[..., :3])), bgra[..., 2::-1])
    np.testing.assert_array_equal(read_image(write(tmp_path / "a.png", bgra)), bgra[..., 2::-1])
    np.testing.assert_array_equal(read_image(write(tmp_path / "g.png", bgra[..., 0])), bgra[..., :1])
    np.testing.assert_array_equal(read_image(write(tmp_path / "g.tif", bgra[..., 0])), bgra[..., :1])


@given(st.integers(8, 16), st.data())
def test_sixteen_bit_files_are_scaled_by_their_bits_alone(
    tmp_path_factory: pytest.TempPathFactory, bits: int, data: st.DataObject
) -> None:
    values = np.array(data.draw(st.lists(st.integers(0, 255), min_size=1, max_size=8)), np.uint16)[None]
    path = write(tmp_path_factory.getbasetemp() / "deep.png", values << (bits - 8))
    np.testing.assert_array_equal(read_image(path, bits=bits)[..., 0], values)


def test_values_beyond_the_bits_and_other_depths_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "deep.png", np.full((4, 4), 4096, np.uint16))
    assert read_image(path, bits=13).max() == 128
    with pytest.raises(DatasetError, match="holds the value 4096, beyond what 12 bits hold"):
        read_image(path, bits=12)
    with pytest.raises(DatasetError, match="bits must be between 8 and 16, got 7"):
        read_image(path, bits=7)
    with pytest.raises(DatasetError, match="samples are float32, expected 8 or 16 bits"):
        read_image(write(tmp_path / "float.tiff", np.zeros((4, 4), np.float32)))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp", ".ppm"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.97])
def test_truncated_files_are_refused(
    tmp_path: Path, suffix: str, share: float, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / f"a{suffix}", RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    assert read_image(path).shape == (64, 64, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DatasetError, match=f"a{suffix}: "):
        read_image(path)
    assert capfd.readouterr().err == "", "the decoder speaks beside the error"


def test_a_jpeg_is_not_whole_because_its_thumbnail_is(tmp_path: Path) -> None:
    whole = cv2.imencode(".jpg", RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))[1].tobytes()
    thumbnail = b"\xff\xe1" + (2 + len(whole)).to_bytes(2, "big") + whole
    path = tmp_path / "a.jpg"
    path.write_bytes(whole[:2] + thumbnail + whole[2:])
    assert read_image(path).shape == (64, 64, 3)
    path.write_bytes(whole[:2] + thumbnail + whole[2:-40])
    with pytest.raises(DatasetError, match="truncated: the JPEG has no end marker"):
        read_image(path)


def test_progressive_jpegs_with_restarts_and_bytes_after_the_end_are_whole(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
    path = tmp_path / "a.jpg"
    path.write_bytes(cv2.imencode(".jpg", pixels, options)[1].tobytes() + b"\0" * 100)
    assert read_image(path).shape == (64, 64, 3)


def test_a_flipped_bit_in_a_png_is_refused(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="PNG chunk 'IDAT' at byte 33 has a wrong checksum; copy it again"):
        read_image(path)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not an image at all, but long enough to be one")
    with pytest.raises(DatasetError, match=r"a\.png: damaged, or not an image of a known kind"):
        read_image(tmp_path / "a.png")
    with pytest.raises(DatasetError, match=r"b\.png: cannot be read: No such file"):
        read_image(tmp_path / "b.png")


# --- masks


def one_bit_png(pixels: np.ndarray) -> bytes:
    """A PNG of 1 bit a pixel, as annotation tools write them."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    height, width = pixels.shape
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in pixels)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("kind", ["255", "1", "1-bit", "colour"])
def test_masks_are_read_from_every_way_of_writing_them(root: Path, kind: str) -> None:
    wanted = (RNG.random((24, 32)) < 0.3).astype(np.uint8)
    split(root, "images/a.png,masks/a.png,scratch,ref,")
    path = root / "masks/a.png"
    match kind:
        case "1-bit":
            path.write_bytes(one_bit_png(wanted))
        case "colour":
            write(path, np.repeat(wanted[..., None] * np.uint8(255), 3, axis=2))
        case _:
            write(path, wanted * np.uint8(kind))
    (sample,) = open_dataset(root).samples
    np.testing.assert_array_equal(read_labels(sample, None, (24, 32)), wanted)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 2], "holds the values 0, 2, expected 0 and one of 1 or 255"),
        ([0, 1, 255], "holds the values 0, 1, 255, expected"),
        (list(range(9)), r"holds the values 0, 1, 2, 3, 4, 5, \.\.\., expected"),
    ],
)
def test_masks_with_other_values_are_refused(root: Path, values: list[int], message: str) -> None:
    split(root, "images/a.png,masks/a.png,scratch,ref,")
    write(root / "masks/a.png", np.resize(np.array(values, np.uint8), (24, 32)))
    (sample,) = open_dataset(root).samples
    with pytest.raises(DatasetError, match=message):
        read_labels(sample, None, (24, 32))


def test_a_coloured_mask_is_refused(root: Path) -> None:
    split(root, "images/a.png,images/b.png,scratch,ref,")
    (sample,) = open_dataset(root).samples
    with pytest.raises(DatasetError, match=r"b\.png: a coloured picture, expected a mask of 0 and 255"):
        read_labels(sample, None, (24, 32))
