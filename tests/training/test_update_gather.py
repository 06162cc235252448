"""What is taken of sites: what is learnt from, what is held out, and what is neither."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from inspectd.dataset import open_dataset, read_labels
from inspectd.dataset_writing import write_png, write_split
from inspectd.errors import DatasetError

pytest.importorskip("torch", reason="training needs torch: pip install 'inspectd[train]'")

from inspectd.training.update.gather import Pick, gather, merge, sites


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 255, (16, 16, 3), np.uint8)


def dataset(root: Path, parts: list[tuple[str, str, int]]) -> Path:
    """(role, defect, picture) each."""
    rows = []
    for role, defect, number in parts:
        image, mask = f"images/{role}-{number}.png", f"masks/{role}-{number}.png"
        write_png(root / image, picture(number))
        if defect:
            label = np.zeros((16, 16), np.uint8)
            label[number % 12 : number % 12 + 3, 4:8] = 255
            write_png(root / mask, label)
        rows.append((image, mask if defect else "", defect, role, f"part{number}"))
    write_split(root, rows)
    return root


def good(first: int, count: int) -> list[tuple[str, str, int]]:
    return [("free", "", number) for number in range(first, first + count)]


def names(picks: tuple[Pick, ...]) -> set[str]:
    return {Path(pick.sample.name).name for pick in picks}


def test_a_third_of_the_marks_of_a_type_and_a_quarter_of_the_good_parts_are_held_out(tmp_path):
    marks = [("ref", "dent", number) for number in range(7)] + [("ref", "smear", 50), ("ref", "smear", 51)]
    few = sites([dataset(tmp_path / "few", [*marks, *good(100, 12)])])
    assert (len(few.references), len(few.examined)) == (5 + 2, 2)
    assert {pick.sample.defect for pick in few.examined} == {"dent"}
    assert (len(few.good), len(few.unseen)) == (9, 3)
    assert few.defects == ("dent", "smear")
    # Nothing is both learnt from and measured on, and the same is held out wherever it lies and in whatever order.
    assert not names(few.references) & names(few.examined)
    assert not names(few.good) & names(few.unseen)
    again = sites([dataset(tmp_path / "again", [*reversed(good(100, 12)), *reversed(marks)])])
    assert names(again.examined) == names(few.examined)
    assert names(again.unseen) == names(few.unseen)


def test_a_part_that_somebody_marked_is_no_good_part_of_another_site(tmp_path):
    one = dataset(tmp_path / "one", [("ref", "dent", 1), *good(100, 4)])
    other = dataset(tmp_path / "other", [("ref", "dent", 2), ("free", "", 1), *good(102, 4)])
    found = sites([one, other])
    # 100 to 105: two of them lie at both sites, and what was marked at the first is not among them.
    assert names(found.good) | names(found.unseen) == {f"free-{number}.png" for number in range(100, 106)}


def test_a_station_folder_is_taken_with_what_it_has_painted_itself(tmp_path):
    top = tmp_path / "site"
    dataset(top / "marked", [("ref", "dent", 1), *good(100, 8)])
    dataset(top / "augmented-1", [("simulated", "chip", 7), ("ref", "chip", 8), *good(100, 8)])
    (top / "augmented-2" / "images").mkdir(parents=True)
    found = sites([top])
    assert names(found.references) == {"ref-1.png"}, "a reference that was painted already needs no network"
    assert {(pick.role, Path(pick.sample.name).name) for pick in found.more} == {
        ("simulated", "simulated-7.png"),
        ("extra", "ref-8.png"),
    }
    assert found.skipped == (top / "augmented-2",)
    gather(found, tmp_path / "out")
    learnt, unseen = open_dataset(tmp_path / "out" / "site"), open_dataset(tmp_path / "out" / "unseen")
    assert learnt.summary == "1 ref, 6 free"
    assert unseen.summary == "1 ref, 2 free"
    (reference,) = learnt.select("ref")
    assert (read_labels(reference, None, (16, 16)) > 0).sum() == 12
    # Once more it is as it was; with another mark it is another update.
    gather(found, tmp_path / "out")
    dataset(top / "marked", [("ref", "dent", 1), ("ref", "dent", 2), *good(100, 8)])
    with pytest.raises(DatasetError, match="another content_sha256"):
        gather(sites([top]), tmp_path / "out")


def test_what_cannot_be_learnt_from_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere: no such folder; copy the station's folder augment.out"):
        sites([tmp_path / "nowhere"])
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    with pytest.raises(DatasetError, match="no dataset there"):
        sites([tmp_path / "empty"])
    with pytest.raises(DatasetError, match=r"no part was marked there; mark what was missed by `inspectd ctl mark"):
        sites([dataset(tmp_path / "unmarked", good(0, 8))])
    with pytest.raises(DatasetError, match="3 good parts, expected at least 4"):
        sites([dataset(tmp_path / "few", [("ref", "dent", 9), *good(0, 3)])])
    damaged = shutil.copytree(tmp_path / "few", tmp_path / "damaged")
    (damaged / "split.csv").write_text("image,mask,defect,role\nimages/none.png,,,free\n")
    with pytest.raises(DatasetError, match=r"the image images/none\.png is missing"):
        sites([damaged])


def test_a_merge_that_was_stopped_leaves_nothing(tmp_path, monkeypatch):
    source = open_dataset(dataset(tmp_path / "source", [("ref", "dent", 1), *good(0, 3)]))
    picks = [Pick(sample, source.root, "a", sample.role) for sample in source.samples]

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("inspectd.training.update.gather.write_split", full)
        with pytest.raises(OSError, match="No space"):
            merge(tmp_path / "out", picks, "pictures")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]
    merged = merge(tmp_path / "out", picks, "pictures")
    assert merged.summary == "1 ref, 3 free"
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["made_by"] == "inspectd-train update"
    assert {sample.tile for sample in merged.samples} == {"a/part0", "a/part1", "a/part2"}
