"""COCO and LabelMe files become datasets; their faults are reported together and nothing is written."""

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from inspectd.dataset import Dataset, read_labels
from inspectd.errors import ConfigError, DatasetError
from inspectd.training.data import shapes
from inspectd.training.data.check import check
from inspectd.training.data.holdout import HoldOut
from inspectd.training.data.importers import import_coco, import_labelme

SHAPE = (20, 30)


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), pixels)
    return path


def labels(dataset: Dataset, name: str) -> dict[str, np.ndarray]:
    (sample,) = (sample for sample in dataset.samples if sample.name == name)
    masks = {}
    for defect, path in sample.masks:
        masks[defect] = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert set(np.unique(masks[defect])) == {0, 255}
    return {defect: mask > 0 for defect, mask in masks.items()}


def box(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[top:bottom, left:right] = True
    return mask


# --- shapes and run lengths


def encode_counts(mask: np.ndarray) -> tuple[list[int], str]:
    """Run lengths and compressed string of COCO, after `rleToString` of maskApi.c."""
    flat = mask.T.reshape(-1).astype(np.int8)
    edges = np.flatnonzero(np.diff(flat, prepend=0))
    counts = np.diff(np.concatenate(([0], edges, [flat.size]))).tolist()
    text = ""
    for index, count in enumerate(counts):
        value, more = count - (counts[index - 2] if index > 2 else 0), True
        while more:
            group, value = value & 31, value >> 5
            more = value != (-1 if group & 16 else 0)
            text += chr((group | (32 if more else 0)) + 48)
    return counts, text


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_run_lengths_give_the_mask_back(mask: np.ndarray) -> None:
    counts, text = encode_counts(mask)
    assert shapes.decode_counts(text) == counts
    np.testing.assert_array_equal(shapes.from_counts(counts, mask.shape), mask)


@given(st.integers(0, 2**40), st.integers(0, 60))
def test_long_runs_survive_their_code(length: int, start: int) -> None:
    counts = [start, length, 3, 2 * length + 1, 0, 7]
    flat = [n - (counts[i - 2] if i > 2 else 0) for i, n in enumerate(counts)]
    text = ""
    for value in flat:
        more = True
        while more:
            group, value = value & 31, value >> 5  # noqa: PLW2901
            more = value != (-1 if group & 16 else 0)
            text += chr((group | (32 if more else 0)) + 48)
    assert shapes.decode_counts(text) == counts


def test_run_lengths_agree_with_pycocotools() -> None:
    """Strings of pycocotools 2.0.11."""
    rows = ["0010110", "1010010", "1111110", "1100001", "1001000"]
    mask = np.array([[cell == "1" for cell in row] for row in rows])
    np.testing.assert_array_equal(shapes.from_counts(shapes.decode_counts("142NO13NM10O123NL"), (5, 7)), mask)
    assert shapes.decode_counts("0S1") == [0, 35]
    large = np.zeros((200, 100), bool)
    large[20:150, 10:60] = True
    large[170:172, 80] = True
    text = "To1R4V2" + "0" * 97 + "fQ4PLhC"
    np.testing.assert_array_equal(shapes.from_counts(shapes.decode_counts(text), (200, 100)), large)


@pytest.mark.parametrize(
    ("text", "message"), [("1 2", "character ' ' does not occur"), ("1R", "break off inside a number")]
)
def test_broken_run_lengths_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shapes.decode_counts(text)


@given(st.tuples(*[st.integers(-5, 35)] * 2), st.tuples(*[st.integers(-5, 35)] * 2), st.floats(-0.49, 0.49))
def test_a_box_covers_the_pixels_whose_centres_are_in_it(a: tuple[int, int], b: tuple[int, int], shift: float) -> None:
    corners = np.array([a, b], float) + shift
    (left, top), (right, bottom) = np.clip(np.sort(np.array([a, b]), axis=0), 0, (30, 20))
    np.testing.assert_array_equal(shapes.rectangle(corners, SHAPE), box(top, bottom, left, right))


def test_outlines_follow_the_even_odd_rule() -> None:
    hourglass = np.array([[0, 0], [20, 0], [0, 20], [20, 20]], float)
    mask = shapes.polygon(hourglass, (20, 20))
    assert mask[2, 10]
    assert mask[17, 10]
    assert not mask[10, 2]
    assert not mask[10, 17]
    assert mask.sum() == pytest.approx(200, abs=12)


def test_a_circle_has_its_area() -> None:
    mask = shapes.circle(np.array([[50.0, 40.0], [50.0, 70.0]]), (100, 100))
    assert mask.sum() == pytest.approx(np.pi * 900, rel=0.01)
    assert mask[40, 79]
    assert not mask[40, 80]


# --- COCO


def coco(tmp_path: Path, annotations: list[dict[str, Any]], images: int = 2, **changes: Any) -> Path:
    for number in range(images):
        picture(tmp_path / f"photos/line 1/{number}.png", number)
    content = {
        "info": {"description": "ignored"},
        "images": [
            {"id": 10 + n, "file_name": f"line 1/{n}.png", "height": SHAPE[0], "width": SHAPE[1]} for n in range(images)
        ],
        "categories": [{"id": 1, "name": "chip"}, {"id": 7, "name": "deep scratch"}],
        "annotations": annotations,
        **changes,
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_coco_polygons_and_run_lengths_become_masks_by_category(tmp_path: Path) -> None:
    runs, text = encode_counts(box(1, 4, 20, 28))
    two_parts = [[2, 3, 8, 3, 8, 9, 2, 9], [-5, 15, 4, 15, 4, 90, -5, 90]]  # the second leaves the picture
    _, corner = encode_counts(box(10, 12, 20, 22))
    given = [
        (10, 1, two_parts),
        (10, 7, {"counts": runs, "size": [20, 30]}),
        (10, 7, {"counts": corner, "size": [20, 30]}),
        (11, 1, {"counts": text, "size": [20, 30]}),
    ]
    annotations = [
        {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": 0}
        for number, (image, category, segmentation) in enumerate(given)
    ]
    file = coco(tmp_path, annotations, images=3)
    seen = []
    out = tmp_path / "out/dataset"
    dataset = import_coco(
        file, tmp_path / "photos", out, role="extra", progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert [(sample.name, sample.role, sample.defect) for sample in dataset.samples] == [
        ("images/line 1/0.png", "extra", "chip+deep scratch"),
        ("images/line 1/1.png", "extra", "chip"),
        ("images/line 1/2.png", "free", ""),
    ]
    first = labels(dataset, "images/line 1/0.png")
    np.testing.assert_array_equal(first["chip"], box(3, 9, 2, 8) | box(15, 20, 0, 4))
    np.testing.assert_array_equal(first["deep scratch"], box(1, 4, 20, 28) | box(10, 12, 20, 22))
    np.testing.assert_array_equal(labels(dataset, "images/line 1/1.png")["chip"], box(1, 4, 20, 28))
    for number in range(3):
        source = tmp_path / f"photos/line 1/{number}.png"
        assert (out / f"images/line 1/{number}.png").read_bytes() == source.read_bytes()
    assert check(out).ok
    assert check(out).warnings == ()
    assert sorted(path.name for path in out.parent.iterdir()) == ["dataset"]


def test_good_parts_beside_test_images_are_for_testing_and_images_can_be_linked(tmp_path: Path) -> None:
    file = coco(tmp_path, [{"id": 1, "image_id": 10, "category_id": 1, "segmentation": [[2, 3, 8, 3, 8, 9]]}])
    dataset = import_coco(file, tmp_path / "photos", tmp_path / "out", role="test", link=True)
    assert [sample.role for sample in dataset.samples] == ["test", "ok_test"]
    assert os.path.samefile(dataset.samples[0].image, tmp_path / "photos/line 1/0.png")  # noqa: PTH121


def test_every_fault_of_a_coco_file_is_reported_and_nothing_is_written(tmp_path: Path) -> None:
    bad = [
        ({"segmentation": []}, "annotation 0 on line 1/0.png: it has no segmentation; a box alone is not a mask"),
        ({"segmentation": [[1, 2, 3]]}, "annotation 1 on line 1/0.png: a polygon has 3 coordinates"),
        ({"segmentation": [[1, 2, 3, 4]]}, "annotation 2 on line 1/0.png: an outline needs 3 points or more, got 2"),
        ({"segmentation": [[40, 2, 50, 2, 50, 9]]}, "annotation 3 on line 1/0.png: covers no pixel of the image"),
        ({"segmentation": {"counts": [600], "size": [30, 20]}}, "annotation 4 on line 1/0.png: its run lengths are"),
        ({"segmentation": {"counts": [1, 2], "size": [20, 30]}}, "annotation 5 on line 1/0.png: the run lengths sum"),
        ({"segmentation": {"counts": "~", "size": [20, 30]}}, "annotation 6 on line 1/0.png: character '~'"),
        ({"segmentation": {"counts": [-1, 601], "size": [20, 30]}}, "annotation 7 on line 1/0.png: a run length is"),
        ({"image_id": 99}, "annotation 8 is on image 99, which is not listed"),
        ({"category_id": 5}, "annotation 9 has the category 5, which is not listed"),
    ]  # fmt: skip
    box_of_four = {"segmentation": [[2, 3, 8, 3, 8, 9, 2, 9]], "image_id": 10, "category_id": 1}
    file = coco(
        tmp_path,
        [{**box_of_four, "id": number, **change} for number, (change, _) in enumerate(bad)],
        categories=[{"id": 1, "name": "chip"}, {"id": 1, "name": "chip"}],
    )
    content = json.loads(file.read_text())
    content["images"] += [
        {"id": 12, "file_name": "gone.png", "height": 20, "width": 30},
        {"id": 13, "file_name": "../secret.png", "height": 20, "width": 30},
        {"id": 10, "file_name": "line 1/1.png", "height": 30, "width": 20},
    ]
    file.write_text(json.dumps(content))
    with pytest.raises(DatasetError) as caught:
        import_coco(file, tmp_path / "photos", tmp_path / "out")
    message = str(caught.value)
    for _, fault in bad:
        assert fault in message
    for fault in (
        "gone.png: cannot be read: No such file",
        "the file_name ../secret.png leads out of",
        "1.png: is 30 x 20 px, but was annotated as 20 x 30 px",
        "the id 10 occurs twice in images",
        "the id 1 occurs twice in categories",
        "the category name 'chip' occurs twice",
        "the file_name line 1/1.png occurs twice",
    ):
        assert fault in message
    assert not (tmp_path / "out").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["instances.json", "photos"]


@pytest.mark.parametrize("name", ["", " chip", "a+b"])
def test_names_that_are_no_defects_are_refused(tmp_path: Path, name: str) -> None:
    file = coco(
        tmp_path,
        [{"id": 1, "image_id": 10, "category_id": 1, "segmentation": [[2, 3, 8, 3, 8, 9]]}],
        categories=[{"id": 1, "name": name}],
    )
    with pytest.raises(DatasetError, match=r"the defect's name .* is empty, has outer spaces"):
        import_coco(file, tmp_path / "photos", tmp_path / "out")


def test_defects_that_would_share_a_folder_are_refused(tmp_path: Path) -> None:
    polygon = [[2, 3, 8, 3, 8, 9]]
    file = coco(
        tmp_path,
        [{"id": n, "image_id": 10, "category_id": n, "segmentation": polygon} for n in (1, 2)],
        categories=[{"id": 1, "name": "a/b"}, {"id": 2, "name": "a b"}],
    )
    with pytest.raises(DatasetError, match="the defects 'a/b' and 'a b' are too alike for file names"):
        import_coco(file, tmp_path / "photos", tmp_path / "out")


def test_what_is_no_coco_file_is_refused(tmp_path: Path) -> None:
    file = coco(tmp_path, [{"image_id": 10, "category_id": "x"}])
    with pytest.raises(DatasetError, match=r"annotations\.0\.id: Field required; annotations\.0\.category_id: Input"):
        import_coco(file, tmp_path / "photos", tmp_path / "out")
    file.write_text("{")
    with pytest.raises(DatasetError, match=r"instances\.json: not the JSON expected: file: Invalid JSON"):
        import_coco(file, tmp_path / "photos", tmp_path / "out")
    with pytest.raises(DatasetError, match=r"none\.json: cannot be read: No such file"):
        import_coco(tmp_path / "none.json", tmp_path / "photos", tmp_path / "out")


def test_nothing_is_overwritten_and_roles_are_for_defects(tmp_path: Path) -> None:
    file = coco(tmp_path, [])
    kept = tmp_path / "out/kept.txt"
    kept.parent.mkdir()
    kept.touch()
    with pytest.raises(DatasetError, match="already there and not an empty folder"):
        import_coco(file, tmp_path / "photos", tmp_path / "out")
    kept.unlink()
    with pytest.raises(
        DatasetError, match="the role 'free' is not one for images with defects; expected one of ref, extra"
    ):
        import_coco(file, tmp_path / "photos", tmp_path / "out", role="free")
    assert len(import_coco(file, tmp_path / "photos", tmp_path / "out").samples) == 2


# --- LabelMe


def labelme(path: Path, *shapes_: dict[str, Any], image: str | None = None, **changes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    stated = {"imagePath": image or f"{path.stem}.png", "imageHeight": SHAPE[0], "imageWidth": SHAPE[1]}
    path.write_text(
        json.dumps({"version": "5.4.1", "flags": {}, "imageData": None, "shapes": shapes_, **stated, **changes})
    )
    return path


def shape(label: str, kind: str, *points: tuple[float, float]) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}}


CHIP = shape("chip", "rectangle", (8, 9), (2, 3))


def test_labelme_shapes_become_masks_by_label(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for seed, name in enumerate(["a.png", "b.png", "c.png", "sub/a.png"]):
        picture(source / name, seed)
    picture(tmp_path / "elsewhere/far.png", 9)
    labelme(
        source / "a.json",
        CHIP,
        shape("chip", "polygon", (20, 0), (30, 0), (30, 5), (20, 5)),
        shape("hole", "circle", (10, 10), (10, 14)),
    )
    labelme(source / "b.json")
    labelme(source / "sub/a.json", CHIP)
    labelme(source / "sub/far.json", CHIP, image="..\\..\\elsewhere\\far.png")
    seen = []
    dataset = import_labelme(source, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert [(sample.name, sample.role, sample.defect) for sample in dataset.samples] == [
        ("images/a.png", "ref", "chip+hole"),
        ("images/b.png", "free", ""),
        ("images/sub/a.png", "ref", "chip"),
        ("images/sub/far.png", "ref", "chip"),
        ("images/c.png", "free", ""),
    ]
    first = labels(dataset, "images/a.png")
    np.testing.assert_array_equal(first["chip"], box(3, 9, 2, 8) | box(0, 5, 20, 30))
    assert first["hole"].sum() == pytest.approx(np.pi * 16, rel=0.1)
    assert read_labels(dataset.samples[0], None, SHAPE).sum() == (first["chip"] | first["hole"]).sum()
    assert (tmp_path / "out/images/sub/far.png").read_bytes() == (tmp_path / "elsewhere/far.png").read_bytes()
    assert seen[-1][0] == seen[-1][1]
    assert check(tmp_path / "out").ok


def test_an_image_that_moved_beside_its_json_file_is_found(tmp_path: Path) -> None:
    picture(tmp_path / "in/a.png")
    labelme(tmp_path / "in/a.json", CHIP, image="C:\\Users\\someone\\a.bmp")
    assert [sample.name for sample in import_labelme(tmp_path / "in", tmp_path / "out").samples] == ["images/a.png"]


def test_every_fault_of_labelme_files_is_reported_and_nothing_is_written(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for seed, name in enumerate("abcdg"):
        picture(source / f"{name}.png", seed)
    labelme(
        source / "a.json",
        shape("chip", "linestrip", (1, 1), (9, 9)),
        shape("chip", "rectangle", (1, 1)),
        shape("chip", "circle", (1, 1)),
        shape("chip", "polygon", (1, 1), (2, 2)),
        shape("chip", "polygon", (1.1, 1.1), (1.2, 1.1), (1.2, 1.2)),
        shape("", "polygon", (1, 1), (9, 1), (9, 9)),
    )
    labelme(source / "b.json", CHIP, imageWidth=300)
    labelme(source / "c.json", CHIP, image="a.png")
    (source / "d.json").write_text('{"shapes": 3}')
    labelme(source / "e.json", CHIP)
    (source / "g.png").write_bytes((source / "g.png").read_bytes()[:50])
    with pytest.raises(DatasetError) as caught:
        import_labelme(source, tmp_path / "out")
    message = str(caught.value)
    for fault in (
        "a.json: shape 1 ('chip'): a 'linestrip' has no area that can be imported",
        "a.json: shape 2 ('chip'): a rectangle needs 2 points, got 1",
        "a.json: shape 3 ('chip'): a circle needs 2 points, got 1",
        "a.json: shape 4 ('chip'): an outline needs 3 points or more, got 2",
        "a.json: shape 5 ('chip'): covers no pixel of the image",
        "a.json: shape 6 (''): the defect's name '' is empty",
        "b.png: is 30 x 20 px, but was annotated as 300 x 20 px",
        f"c.json: its image {source / 'a.png'} already belongs to {source / 'a.json'}",
        "d.json: not the JSON expected: imagePath: Field required; shapes: Input should be a valid array",
        "e.json: its image e.png is missing",
        "g.png: truncated",
    ):
        assert fault in message
    assert not (tmp_path / "out").exists()


def test_folders_without_labelme_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no LabelMe JSON file"):
        import_labelme(tmp_path, tmp_path / "out")
    with pytest.raises(DatasetError, match="no such folder"):
        import_labelme(tmp_path / "in", tmp_path / "out")


# --- held out for measuring


def rows(defects: dict[str, int], good: int, per_part: int = 1) -> list[tuple[str, str, str, str, str]]:
    names = [
        (f"{defect}{number // per_part}_{number}", defect) for defect in defects for number in range(defects[defect])
    ]
    names += [(f"good{number // per_part}_{number}", "") for number in range(good)]
    return [(f"images/{name}.png", f"masks/{name}" if d else "", d, "extra" if d else "free", "") for name, d in names]


def test_each_type_and_the_good_parts_are_held_out_by_the_same_share() -> None:
    before = rows({"chip": 20, "burr": 5, "hole": 1}, good=40)
    found = HoldOut(0.2).apply(before, [])
    roles = [(defect, role) for _, _, defect, role, _ in found]
    assert {pair: roles.count(pair) for pair in set(roles)} == {
        ("chip", "extra"): 16, ("chip", "test"): 4, ("burr", "extra"): 4, ("burr", "test"): 1,
        ("hole", "extra"): 1, ("", "free"): 32, ("", "ok_test"): 8,
    }  # fmt: skip
    # The names decide, not their order; another seed is another choice.
    assert sorted(HoldOut(0.2).apply(before[::-1], [])) == sorted(found)
    assert HoldOut(0.2, seed=1).apply(before, []) != found
    assert HoldOut().apply(before, []) == before


def test_the_pictures_of_a_part_are_held_out_together() -> None:
    found = HoldOut(0.25, part="^[^_]+").apply(rows({"chip": 24}, good=24, per_part=3), [])
    roles = {part: {role for *_, role, other in found if other == part} for *_, part in found}
    assert roles["chip0"] in ({"extra"}, {"test"})
    assert all(len(held) == 1 for held in roles.values())
    assert sorted(role for (role,) in roles.values()) == ["extra"] * 6 + ["free"] * 6 + ["ok_test"] * 2 + ["test"] * 2


def test_an_image_with_several_defects_counts_for_the_rarest() -> None:
    both = [(f"images/{n}.png", f"masks/{d}/{n}", d, "ref", "") for n in range(5) for d in ("chip", "burr")]
    found = HoldOut(0.2).apply([*both, *rows({"chip": 40}, good=0)], [])
    held = {image for image, _, defect, role, _ in found if role == "test" and defect == "burr"}
    assert len(held) == 1
    assert {role for image, *_, role, _ in found if image in held} == {"test"}


def test_an_import_holds_out_and_says_how(tmp_path: Path) -> None:
    for number in range(10):
        picture(tmp_path / f"in/p{number // 2}_{number}.png", number)
    for number in range(4):
        labelme(tmp_path / f"in/p{number // 2}_{number}.json", CHIP)
    dataset = import_labelme(tmp_path / "in", tmp_path / "out", role="extra", held=HoldOut(0.4, 3, "^(p[0-9])_"))
    parts = {sample.name: (sample.tile, sample.role) for sample in dataset.samples}
    assert len(parts) == 10
    assert all(name.startswith(f"images/{tile}_") for name, (tile, _) in parts.items())
    assert [sum(role == wanted for _, role in parts.values()) for wanted in ("extra", "test", "free", "ok_test")] == [
        2, 2, 4, 2,
    ]  # fmt: skip
    assert check(tmp_path / "out").warnings == ()
    stated = json.loads((tmp_path / "out/provenance.json").read_text())
    assert (stated["test_share"], stated["seed"], stated["part"]) == (0.4, 3, "^(p[0-9])_")


def test_shares_that_cannot_be_held_out_are_refused(tmp_path: Path) -> None:
    for share in (1.0, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="expected a share from 0 to below 1"):
            HoldOut(share)
    with pytest.raises(ConfigError, match="not a regular expression"):
        HoldOut(part="(")
    file = coco(tmp_path, [])
    for role in ("test", "simulated"):
        with pytest.raises(ConfigError, match=f"nothing is held out of the role '{role}'"):
            import_coco(file, tmp_path / "photos", tmp_path / "out", role=role, held=HoldOut(0.2))
    with pytest.raises(DatasetError, match=r"line 1/0\.png: --part ^x finds no part in its name".replace("^", r"\^")):
        import_coco(file, tmp_path / "photos", tmp_path / "out", held=HoldOut(part="^x"))
