"""`inspectd replay`: archived parts inspected again, with the same network and with others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from inspectd.bundle import Bundle, ModelCard, load_bundle, write_bundle
from inspectd.config import effective_rule
from inspectd.errors import BundleError, ConfigError
from inspectd.frame import Frame
from inspectd.inspection import AcceptanceRule, Verdict
from inspectd.mask import ClassMap, Mask
from inspectd.runtime.engine import open_engine
from inspectd.runtime.inspector import Inspector
from inspectd.runtime.replay import Change, MaskDifference, Selection, difference, run_replay

from .archive_site import DAY_NS, Shelf, decoded
from .conftest import bright_pixel_model, picture, run_inspectd


def bright(grey: int, *, side: int = 64) -> np.ndarray:
    """A part with a square of this grey, of a network that calls from 0.6 * 255 = 153 on a defect."""
    pixels = picture(defect=True, side=side)
    pixels[pixels == 255] = grey
    return pixels


def fill(shelf: Shelf, bundle: Bundle, pictures: list[np.ndarray], *, camera: str = "cam1", first: int = 1) -> None:
    """Archive parts as a line judged them."""
    thresholds = dict(zip(bundle.card.classes, bundle.card.thresholds, strict=True))
    rule = effective_rule(AcceptanceRule(), bundle.class_map, thresholds)
    with open_engine(bundle, threads=1) as engine:
        inspector = Inspector(bundle, engine, rule, scales={camera: None})
        for seq, pixels in enumerate(pictures, first):
            shelf.put(inspector.inspect(Frame(camera, seq, pixels, acquired_ns=seq)), seq=seq)


@pytest.fixture
def bundle(bundle_path: Path) -> Bundle:
    return load_bundle(bundle_path)


@pytest.fixture
def other_bundle(bundle: Bundle, tmp_path: Path) -> Path:
    """The same network with a threshold of 0.9 * 255 = 229.5, under another digest."""
    card = ModelCard.model_validate({**bundle.card.model_dump(), "thresholds": (0.9,)})
    files = {name: bundle.read(name) for name in bundle.files}
    path = tmp_path / "other"
    write_bundle(path, card, files | {"model.onnx": bright_pixel_model(card)}, version="test")
    return path


@pytest.fixture
def shelf(tmp_path: Path, bundle: Bundle) -> Shelf:
    """Six parts: good, and with squares of 200, 240 and 255."""
    shelf = Shelf(tmp_path / "archive")
    fill(shelf, bundle, [bright(40), bright(200), bright(240), bright(255), bright(40), bright(200)])
    return shelf


def test_the_same_bundle_gives_the_same_masks_and_verdicts(shelf, bundle_path):
    replayed = run_replay(shelf.root, Selection(), bundle=str(bundle_path))
    assert replayed.same
    assert replayed.verdicts == {(Verdict.OK, Verdict.OK): 2, (Verdict.NG, Verdict.NG): 4}
    assert (replayed.masks, replayed.mean_iou, replayed.pixels, replayed.other_bundle) == (6, 1.0, 0, 0)


def test_the_configuration_names_the_bundle_that_judged(shelf, write_config):
    config = write_config('source = "buttons"')
    replayed = run_replay(shelf.root, Selection(), config=config)
    assert replayed.same
    assert replayed.rule == str(config)


def test_a_bundle_beside_that_of_the_configuration_is_found(shelf, write_config, other_bundle, bundle_path, tmp_path):
    config = write_config('source = "buttons"')
    config.write_text(config.read_text().replace(str(bundle_path), str(other_bundle)))
    with pytest.raises(BundleError, match="fetch it, or name another one with --bundle"):
        run_replay(shelf.root, Selection(), config=config)
    shutil.copytree(bundle_path, tmp_path / "before")
    assert run_replay(shelf.root, Selection(), config=config).same


def test_parts_of_two_bundles_are_judged_by_their_own(shelf, write_config, other_bundle, bundle_path, tmp_path):
    shelf.now_ns += DAY_NS
    fill(shelf, load_bundle(other_bundle), [bright(200), bright(255)], first=7)
    config = write_config('source = "buttons"')
    config.write_text(config.read_text().replace(str(bundle_path), str(other_bundle)))
    shutil.copytree(bundle_path, tmp_path / "before")
    replayed = run_replay(shelf.root, Selection(), config=config)
    assert replayed.same
    assert len(replayed.judged_by) == 2
    assert replayed.verdicts == {(Verdict.OK, Verdict.OK): 3, (Verdict.NG, Verdict.NG): 5}


def test_another_bundle_shows_what_it_would_change_worst_first(shelf, other_bundle, tmp_path):
    replayed = run_replay(shelf.root, Selection(), bundle=str(other_bundle), out=tmp_path / "out")
    assert not replayed.same
    assert replayed.other_bundle == 6
    assert replayed.verdicts == {
        (Verdict.OK, Verdict.OK): 2,
        (Verdict.NG, Verdict.OK): 2,
        (Verdict.NG, Verdict.NG): 2,
    }
    assert [(change.seq, change.was, change.now) for change in replayed.changes] == [
        (2, Verdict.NG, Verdict.OK),
        (6, Verdict.NG, Verdict.OK),
    ]
    assert all(change.mask == MaskDifference(256, 256 / 4096, 0.0) for change in replayed.changes)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["2026-11-26-cam1-7-2-NG-OK.png", "2026-11-26-cam1-7-6-NG-OK.png"]
    shown = decoded(tmp_path / "out" / names[0])
    assert shown.shape == (28 + 6 * 64, 2 * 6 * 64 + 4, 3)
    inside = 6 * 20
    assert tuple(shown[28 + inside, inside]) == (100, 227, 100)
    assert tuple(shown[28 + inside, 6 * 64 + 4 + inside]) == (200, 200, 200)


def test_the_rule_of_the_configuration_is_the_one(shelf, write_config, bundle_path):
    config = write_config('source = "buttons"', "[acceptance.classes.bright]\nscore = 0.97")
    replayed = run_replay(shelf.root, Selection(), config=config)
    assert replayed.verdicts[Verdict.NG, Verdict.OK] == 3
    assert {change.seq for change in replayed.changes} == {2, 3, 6}


def test_parts_are_chosen(shelf, bundle, bundle_path):
    fill(shelf, bundle, [bright(255)], camera="cam2", first=100)
    by = str(bundle_path)
    assert run_replay(shelf.root, Selection(camera="cam2"), bundle=by).parts == 1
    assert run_replay(shelf.root, Selection(verdict=Verdict.OK), bundle=by).parts == 2
    last = run_replay(shelf.root, Selection(camera="cam1", last=2), bundle=by)
    assert last.verdicts == {(Verdict.OK, Verdict.OK): 1, (Verdict.NG, Verdict.NG): 1}
    with pytest.raises(ConfigError, match="holds no such part"):
        run_replay(shelf.root, Selection(camera="cam3"), bundle=by)


def test_without_a_bundle_it_is_said_which_one_is_missing(shelf, bundle):
    with pytest.raises(ConfigError, match=rf"{bundle.digest[:12]} \(6 parts\).*--bundle, or with --config"):
        run_replay(shelf.root, Selection())


def test_parts_that_had_not_been_inspected_are_no_change(shelf, bundle, bundle_path):
    with open_engine(bundle, threads=1) as engine:
        inspector = Inspector(bundle, engine, AcceptanceRule(), scales={})
        shelf.put(inspector.refuse(Frame("cam1", 7, bright(255), acquired_ns=1), "too late"), seq=7)
    replayed = run_replay(shelf.root, Selection(), bundle=str(bundle_path))
    assert replayed.same
    assert replayed.not_inspected == 1
    assert replayed.verdicts[Verdict.NOT_INSPECTED, Verdict.NG] == 1


def test_jpegs_are_compared_with_a_tolerance(tmp_path, bundle, bundle_path):
    shelf = Shelf(tmp_path / "archive", format="jpeg")
    fill(shelf, bundle, [bright(255, side=256), bright(40, side=256)])
    replayed = run_replay(shelf.root, Selection(), bundle=str(bundle_path))
    assert replayed.lossy == 2
    assert replayed.same


def test_damaged_parts_are_told_and_nothing_is_verified_by_them(shelf, bundle_path):
    folder = shelf.root / "2026-11-26" / "cam1"
    (folder / "7-1.json").write_text("{")
    (folder / "7-2.png").write_bytes(b"short")
    replayed = run_replay(shelf.root, Selection(), bundle=str(bundle_path))
    assert replayed.parts == 4
    assert not replayed.changes
    assert not replayed.same
    assert ["7-1.json" in replayed.damaged[0], "7-2.png" in replayed.damaged[1]] == [True, True]


def test_masks_are_compared_by_the_names_of_their_classes():
    then = Mask(np.array([[0, 1, 2, 2]], np.uint8), ClassMap(("a", "b")))
    now = Mask(np.array([[0, 2, 1, 3]], np.uint8), ClassMap(("b", "a", "c")))
    assert difference(then, now) == MaskDifference(pixels=1, share=0.25, iou=2 / 3)
    good = Mask(np.zeros((1, 4), np.uint8), ClassMap(("a",)))
    assert difference(good, good) == MaskDifference(0, 0.0, 1.0)
    many = ClassMap(tuple(f"x{number}" for number in range(254)))
    assert (
        difference(Mask(np.array([[254]], np.uint8), many), Mask(np.array([[1]], np.uint8), ClassMap(("y",)))).iou == 0
    )


def test_a_part_that_would_pass_now_is_the_worst():
    def change(was: Verdict, now: Verdict, iou: float) -> Change:
        return Change("p", "c", 1, 1, was, now, MaskDifference(5, 0.1, iou))

    ranked = [
        change(Verdict.NG, Verdict.OK, 0.9),
        change(Verdict.OK, Verdict.NG, 0.2),
        change(Verdict.NG, Verdict.REVIEW, 0.5),
        change(Verdict.NG, Verdict.NG, 0.1),
        change(Verdict.OK, Verdict.OK, 0.8),
    ]
    assert sorted(ranked, key=lambda each: each.badness, reverse=True) == ranked


# The command


def test_verify_passes_and_fails_with_its_exit_status(shelf, bundle_path, other_bundle, tmp_path):
    status, out, err = run_inspectd("replay", shelf.root, "--bundle", bundle_path, "--verify")
    assert (status, err) == (0, "")
    assert "no part changed" in out
    status, out, err = run_inspectd("replay", shelf.root, "--bundle", other_bundle, "--verify", "--out", tmp_path / "o")
    assert (status, err) == (1, "")
    assert "2 of 6 came out otherwise" in out
    assert "2026-11-26/cam1/7-2" in out
    assert run_inspectd("replay", shelf.root, "--bundle", other_bundle)[0] == 0


def test_json_holds_all(shelf, other_bundle):
    status, out, err = run_inspectd("replay", shelf.root, "--bundle", other_bundle, "--json", "--verdict", "ng")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["parts"] == 4
    assert found["verdicts"] == [
        {"was": "NG", "now": "OK", "parts": 2},
        {"was": "NG", "now": "NG", "parts": 2},
    ]
    assert {change["seq"] for change in found["changes"]} == {2, 6}
    assert found["changes"][0]["mask"] == {"pixels": 256, "share": 0.0625, "iou": 0.0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "there is no such folder"),
        (["ARCHIVE"], "name a bundle with --bundle"),
        (["ARCHIVE", "--bundle", "nothing"], "no such bundle"),
        (["ARCHIVE", "--config", "nothing.toml"], "nothing.toml"),
        (["ARCHIVE", "--bundle", "BUNDLE", "--camera", "x"], "holds no such part"),
        (["ARCHIVE", "--bundle", "BUNDLE", "--out", "/proc/x"], "choose another folder for --out"),
    ],
)
def test_errors_are_one_line(shelf, bundle_path, arguments, said):
    names = {"ARCHIVE": shelf.root, "BUNDLE": bundle_path}
    status, out, err = run_inspectd("replay", *(names.get(word, word) for word in arguments))
    assert (status, out) == (2, "")
    assert said in err
    assert err.startswith("inspectd: error: ")
    assert err.count("\n") == 1


def test_damage_is_told_on_standard_error(shelf, bundle_path):
    (shelf.root / "2026-11-26" / "cam1" / "7-2.png").unlink()
    status, out, err = run_inspectd("replay", shelf.root, "--bundle", bundle_path, "--verify")
    assert status == 1
    assert "7-2.png: cannot be read: No such file" in err
    assert "1 could not be read" in out
