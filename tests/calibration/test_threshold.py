"""`inspectd-calibrate threshold` from pictures to the rule, by the line's own engine and inspector."""

from __future__ import annotations

import csv
import json
import sys
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from inspectd.bundle import load_bundle
from inspectd.calibrated import EvenScale, load_record
from inspectd.calibrated.threshold import ThresholdRecord
from inspectd.calibration import cli
from inspectd.calibration.bounds import at_most
from inspectd.calibration.record import save_record
from inspectd.calibration.threshold import calibrate_thresholds
from inspectd.calibration.threshold_cli import inspector_of
from inspectd.calibration.threshold_settings import ThresholdSettings, percentage
from inspectd.config import parse_config
from inspectd.dataset import Dataset, open_dataset, read_image
from inspectd.errors import ConfigError, DatasetError, InferenceError
from inspectd.inspection import Verdict
from inspectd.runtime.engine import open_engine
from tests.runtime.test_optics import scale

from .toy_bundle import blob, write_png, write_toy_bundle

MADE = datetime(2025, 3, 4, 5, 6, 7, tzinfo=timezone.utc)
NAMES = ("dent", "crack")


def write_data(root: Path, rows) -> Path:
    """A dataset: (pixels, mask or None, defect, role, tile) for each picture."""
    table = [("image", "mask", "defect", "role", "tile")]
    for index, (pixels, mask, defect, role, tile) in enumerate(rows):
        image = f"images/{role}-{index}.png"
        write_png(root / image, pixels)
        if mask is not None:
            write_png(root / "masks" / f"{index}.png", mask)
        table.append((image, "" if mask is None else f"masks/{index}.png", defect, role, tile))
    with (root / "split.csv").open("w", newline="") as file:
        csv.writer(file).writerows(table)
    return root


def good(rng, count, *, per_part=1, highest=120, channels=1):
    """Good parts with a speck each, of four pixels at most."""
    for part in range(count):
        for _ in range(per_part):
            pixels = np.zeros((32, 32, 3), np.uint8)
            for channel in range(channels):
                pixels += blob(rng, channel, int(rng.integers(0, highest)), int(rng.integers(1, 3)))
            yield pixels, None, "", "ok_calibration", f"g{part}"


def defective(rng, name, channel, levels, *, side=5, role="extra"):
    for index, level in enumerate(levels):
        pixels = blob(rng, channel, level, side)
        yield pixels, (pixels[..., channel] > 0).astype(np.uint8) * 255, name, role, f"{name}{index}"


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    return {count: write_toy_bundle(folder / str(count), NAMES[:count]) for count in (1, 2)}


def calibrate(path, data, settings, *, judge=None, scale=None, progress=lambda *_: None):
    bundle = load_bundle(path)
    engine = open_engine(bundle, threads=1)
    return calibrate_thresholds(
        bundle,
        open_dataset(data),
        settings,
        engine=engine,
        engine_name=engine.name,
        judge=judge or (lambda rule: inspector_of(bundle, engine, rule, scale=scale)),
        made=MADE,
        scale=scale,
        progress=progress,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(1)
    rows = [*good(rng, 60), *defective(rng, "dent", 0, range(20, 255, 12))]
    return write_data(tmp_path_factory.mktemp("data"), rows)


def test_good_parts_alone_give_the_lowest_score_that_the_bound_allows(toys, data):
    record = calibrate(toys[1], data, ThresholdSettings(0.05))
    assert record.cuts == 1
    assert record.good_parts == record.good_pictures == 60
    assert record.good_parts_rejected == 0
    assert record.false_reject_bound == pytest.approx(1 - 0.05 ** (1 / 60), rel=1e-6)
    (rule,) = record.classes
    assert rule.minimum_area_px == 1
    # One step lower, the worst part would be rejected.
    worst = record.nearest[0]
    assert worst.reaches < rule.score <= worst.reaches + 0.005
    assert not record.remarks
    assert record.types == ()
    assert [point.recall for point in record.curve] == [None] * len(record.curve)
    assert all(
        a.false_reject_bound < b.false_reject_bound for a, b in zip(record.curve, record.curve[1:], strict=False)
    )


def test_defects_choose_the_minimum_area_that_finds_most(toys, data):
    settings = ThresholdSettings(0.1, defect_roles=("extra",))
    record = calibrate(toys[1], data, settings)
    # Specks have four pixels at most, defects 25: a quarter of one lets every speck pass.
    assert record.candidates == ((1,), (6,), (12,))
    assert any("1 of the sets were not tried" in remark for remark in record.remarks)
    assert record.classes[0].minimum_area_px == 6
    assert record.classes[0].score < 0.11
    alone = calibrate(toys[1], data, ThresholdSettings(0.1, defect_roles=("extra",), minimum_area_px=1))
    (dents,), (fewer,) = record.types, alone.types
    assert (dents.found, dents.total, dents.parts) == (20, 20, 20)
    assert fewer.found < 15
    assert [each.name for each in record.sizes] == ["16-63 px"]
    assert record.sizes[0].found == 20
    # Each candidate has its share of the risk: the bound holds for all of them together.
    assert at_most(record.cuts - 1, 60, 0.1) <= 0.05 / 3
    assert record.cuts == alone.cuts == 2
    assert at_most(alone.cuts - 1, 60, 0.1) <= 0.05 < at_most(alone.cuts, 60, 0.1)


def test_with_a_scale_minimum_areas_are_in_mm2_by_the_size_of_each_pixel(toys, data):
    plane = scale(width_px=32, height_px=32).plane()
    record = calibrate(toys[1], data, ThresholdSettings(0.1, defect_roles=("extra",)), scale=plane)
    # Of 25 pixels of 0.010 to 0.018 mm2 a quarter and a half; nothing is asked in px any more.
    (first, *rest) = record.candidates_mm2
    assert (first, record.candidates) == ((0.0,), ((1,),) * 3)
    assert [0.06 < rest[0][0] < 0.08, 0.12 < rest[1][0] < 0.16] == [True, True]
    # Good specks of four pixels are less than a quarter of a defect on the left, and more on the right: 1/2 finds most,
    # where areas in px let them pass at 1/4.
    assert 4 * float(plane.pixel_area_mm2.min()) < rest[0][0] < 4 * float(plane.pixel_area_mm2.max())
    (rule,) = record.classes
    assert (rule.minimum_area_px, rule.minimum_area_mm2) == (1, rest[1][0])
    assert (record.types[0].found, record.sizes[0].found) == (20, 20)
    assert record.scale == plane.name
    assert all(len(point.minimum_areas_mm2) == 1 for point in record.curve)


def test_one_figure_of_mm_per_px_gives_the_rule_in_px(toys, data):
    settings = ThresholdSettings(0.1, defect_roles=("extra",), minimum_area_px=6)
    in_px = calibrate(toys[1], data, settings)
    in_mm2 = calibrate(
        toys[1],
        data,
        ThresholdSettings(0.1, defect_roles=("extra",), minimum_area_mm2=6 * 0.5**2),
        scale=EvenScale(0.5),
    )
    assert in_mm2.classes[0].score == in_px.classes[0].score
    assert (in_mm2.types, in_mm2.sizes) == (in_px.types, in_px.sizes)
    assert (in_mm2.scale, in_px.scale) == ("0.5 mm per px", None)
    # An area in px holds although there is a scale.
    assert calibrate(toys[1], data, settings, scale=EvenScale(0.5)).classes == in_px.classes


def test_a_line_takes_the_rule_in_mm2_and_no_other(toys, data, tmp_path):
    size = EvenScale(0.5)
    record = calibrate(toys[2], data, ThresholdSettings(0.1, minimum_area_mm2=0.75), scale=size)
    text = '[cameras.cam1]\nsource = "folder"\npath = "."\nscale_mm_per_px = 0.5\n\n[model]\nbundle = "b"\n\n'
    config = parse_config(text + record.toml("thresholds.json"), tmp_path / "line.toml")
    for name in NAMES:
        assert config.acceptance.rule(name).minimum_area_mm2 == 0.75
    record.hold_against(record.bundle_sha256, config.acceptance)
    other = parse_config(text + record.toml("t.json").replace("mm2 = 0.75", "mm2 = 0.7"), tmp_path / "line.toml")
    with pytest.raises(ConfigError, match=r"minimum_area_mm2 of class 'dent' is 0\.7, and 0\.75 was calibrated"):
        record.hold_against(record.bundle_sha256, other.acceptance)
    assert record.doubts(record.engine, {"cam1": size}) == ""
    told = record.doubts(record.engine, {"cam1": size, "cam2": scale().plane()})
    assert "calibrated with the scale 0.5 mm per px, and that of camera 'cam2' is " in told
    assert scale().sha256[:12] in told
    assert "that of camera 'cam1' is none" in record.doubts(record.engine, {"cam1": None})


def test_pictures_of_another_size_than_the_scale_s_are_refused(toys, data):
    for width, height in ((32, 30), (64, 64)):
        plane = scale(width_px=width, height_px=height).plane()
        with pytest.raises(DatasetError, match=rf"has 32 by 32 px, and the scale is for {width} by {height}; give"):
            calibrate(toys[1], data, ThresholdSettings(0.1), scale=plane)


def test_photographs_of_one_part_count_once(toys, tmp_path):
    rng = np.random.default_rng(2)
    rows = list(good(rng, 30, per_part=4, highest=60))
    # One part with two bad photographs is one rejected part.
    rows[0][0][3, 3, 0] = rows[1][0][3, 3, 0] = 250
    folder = write_data(tmp_path, rows)
    with pytest.raises(ConfigError, match=r"30 good parts \(120 photographs\).* 59 are needed, 29 more"):
        calibrate(toys[1], folder, ThresholdSettings(0.05))
    record = calibrate(toys[1], folder, ThresholdSettings(0.2))
    assert (record.good_parts, record.good_pictures) == (30, 120)
    assert record.cuts >= 2
    assert record.nearest[0].name == "g0"
    assert record.nearest[0].rejected
    assert record.good_parts_rejected <= record.cuts - 1


def test_classes_are_set_apart(toys, tmp_path):
    rng = np.random.default_rng(3)
    noisy = list(good(rng, 120, highest=190))
    for index, row in enumerate(noisy):
        if index % 3 == 0:
            row[0][..., 1] = np.where(row[0][..., 0] > 0, 0, blob(rng, 1, int(rng.integers(100, 110)), 1)[..., 1])
    rows = [
        *noisy,
        *defective(rng, "dent", 0, range(90, 255, 8)),
        *defective(rng, "crack", 1, range(90, 255, 8)),
    ]
    folder = write_data(tmp_path, rows)
    for roles in ((), ("extra",)):
        record = calibrate(toys[2], folder, ThresholdSettings(0.1, defect_roles=roles, minimum_area_px=1))
        dent, crack = record.classes
        assert record.cuts >= 3
        assert crack.score < dent.score
        assert record.good_parts_rejected <= record.cuts - 1
    assert {each.name for each in record.types} == set(NAMES)


def test_the_rule_is_what_a_configuration_takes(toys, data, tmp_path):
    record = calibrate(toys[2], data, ThresholdSettings(0.1, minimum_area_px=3))
    text = '[cameras.cam1]\nsource = "folder"\npath = "."\n\n[model]\nbundle = "b"\n\n' + record.toml("thresholds.json")
    config = parse_config(text, tmp_path / "line.toml")
    for name in NAMES:
        assert config.acceptance.rule(name) == record.rule.rule(name)
    assert "0.1 of the good parts" in text


def test_a_class_name_of_any_letters_survives_toml(tmp_path):
    name = 'Riß "tief".\\x\U0001f600'
    bundle = write_toy_bundle(tmp_path / "bundle", (name,))
    folder = write_data(tmp_path / "data", good(np.random.default_rng(0), 30))
    record = calibrate(bundle, folder, ThresholdSettings(0.1))
    text = '[cameras.cam1]\nsource = "folder"\npath = "."\n\n[model]\nbundle = "b"\n\n' + record.toml("thresholds.json")
    assert parse_config(text, tmp_path / "line.toml").acceptance.rule(name) == record.rule.rule(name)


def test_an_engine_that_does_not_say_the_same_twice_is_found_out(toys, data):
    bundle = load_bundle(toys[1])
    engine = open_engine(bundle, threads=1)

    def nervous(rule):
        lower = rule.model_copy(update={"classes": {"dent": rule.rule("dent").model_copy(update={"score": 0.2})}})
        return inspector_of(bundle, engine, lower)

    with pytest.raises(InferenceError, match="does not give the same twice"):
        calibrate(toys[1], data, ThresholdSettings(0.1), judge=nervous)


def test_a_picture_that_is_not_inspected_ends_it(toys, data):
    bundle = load_bundle(toys[1])

    class Broken:
        name, precision, failure = "broken", "fp32", None

        def infer(self, *_):
            raise InferenceError("the card fell out")

        def close(self):
            pass

    with pytest.raises(InferenceError, match="could not be inspected: the card fell out"):
        calibrate(toys[1], data, ThresholdSettings(0.1), judge=lambda rule: inspector_of(bundle, Broken(), rule))


def test_parts_that_are_rejected_at_every_score_are_named(toys, tmp_path):
    rows = list(good(np.random.default_rng(0), 30))
    for index in (4, 9):
        rows[index][0][5:9, 5:9, 0] = 255
    folder = write_data(tmp_path, rows)
    with pytest.raises(ConfigError, match=r"2 of 30 good parts are rejected at every score \(g4, g9\)"):
        calibrate(toys[1], folder, ThresholdSettings(0.1))
    assert calibrate(toys[1], folder, ThresholdSettings(0.1, minimum_area_px=17)).good_parts_rejected == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_false_reject": 0.0}, "more than 0%"),
        ({"max_false_reject": 1.5}, "less than 100%"),
        ({"max_false_reject": float("nan")}, "less than 100%"),
        ({"confidence": 1.0}, "confidence 100%"),
        ({"confidence": 0.2}, "confidence 20%"),
        ({"roles": ("ok",)}, "unknown role 'ok'"),
        ({"roles": ("test",)}, "'test' holds labelled defects"),
        ({"defect_roles": ("free",)}, "'free' holds no defects"),
        ({"roles": ()}, "no role"),
        ({"minimum_area_px": 0}, "minimum area 0 px"),
        ({"minimum_area_mm2": 0.0}, "minimum area 0 mm2"),
        ({"minimum_area_mm2": float("nan")}, "minimum area nan mm2"),
        ({"minimum_area_px": 2, "minimum_area_mm2": 1.0}, "in px and in mm2 exclude each other"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ConfigError, match=message):
        ThresholdSettings(**{"max_false_reject": 0.01, **settings})


@pytest.mark.parametrize(("text", "share"), [("0.5%", 0.005), (" 95 % ", 0.95), (".1%", 0.001), ("150%", 1.5)])
def test_a_percentage(text, share):
    assert percentage("--x", text) == share


@pytest.mark.parametrize(
    ("text", "hint"), [("0,5", "write 0.5%"), ("0.5", "write 0.5%"), ("-1%", ""), ("half", ""), ("0,5%", "write 0.5%")]
)
def test_what_is_no_percentage(text, hint):
    with pytest.raises(ConfigError, match=f"--x {text}: expected a percentage.*{hint}"):
        percentage("--x", text)


def test_data_that_do_not_fit(toys, data, tmp_path):
    rng = np.random.default_rng(5)
    with pytest.raises(DatasetError, match="no defect-free picture of the role ok_test, only 20 extra"):
        calibrate(toys[1], data, ThresholdSettings(0.1, roles=("ok_test",)))
    with pytest.raises(DatasetError, match="no picture of the role simulated"):
        calibrate(toys[1], data, ThresholdSettings(0.1, defect_roles=("simulated",)))
    other = write_data(tmp_path / "other", [*good(rng, 40), *defective(rng, "fray", 0, [200])])
    with pytest.raises(DatasetError, match=r"'fray' is not one of the network's classes dent, crack"):
        calibrate(toys[2], other, ThresholdSettings(0.1, defect_roles=("extra",)))
    (other / "images" / "ok_calibration-7.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"ok_calibration-7\.png"):
        calibrate(toys[1], other, ThresholdSettings(0.1))


def test_parts_that_the_network_was_trained_on(tmp_path):
    rng = np.random.default_rng(6)
    rows = [(pixels, None, "", "free", tile) for pixels, _, _, _, tile in good(rng, 30)]
    folder = write_data(tmp_path / "mine", [*rows, *defective(rng, "dent", 0, [200, 220])])
    for dataset, refused in (("mine", True), ("another", False)):
        origin = {"dataset": dataset, "settings": {"roles": ["free", "extra"], "bits": 8}}
        bundle = write_toy_bundle(tmp_path / dataset / "bundle", ("dent",), origin)
        settings = ThresholdSettings(0.1, roles=("free",), defect_roles=("extra",))
        if refused:
            with pytest.raises(ConfigError, match="trained on the role 'free'"):
                calibrate(bundle, folder, settings)
        else:
            remarks = calibrate(bundle, folder, settings).remarks
            assert any("good pictures of the role free" in remark for remark in remarks)
            assert any("defects of the role extra" in remark for remark in remarks)


def run(monkeypatch, *arguments):
    """The command, as typed."""
    monkeypatch.setattr(sys, "argv", ["inspectd-calibrate", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as ended:
        return ended.code or 0
    return 0


def test_the_command(toys, data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "deep" / "thresholds.json"
    options = ("--max-false-reject", "10%", "--defects", "extra", "--out", out)
    assert run(monkeypatch, "threshold", toys[1], data, *options) == 0
    said = capsys.readouterr()
    assert "dent  score 0.1" in said.out
    assert "at most 10 % of the good parts are rejected" in said.out
    record = load_record(out, ThresholdRecord)
    assert record.toml("thresholds.json") == out.with_suffix(".toml").read_text()
    assert json.loads(out.read_text())["kind"] == "threshold"
    page = out.with_suffix(".html").read_text()
    assert record.sha256 in page
    assert page.count("<svg") == 1
    assert "g12" in page or "g1" in page


@pytest.mark.parametrize("blocked", ["o.html", "o.toml"])
def test_where_something_cannot_be_written_there_is_no_record(toys, data, tmp_path, monkeypatch, capsys, *, blocked):
    (tmp_path / blocked).mkdir()
    arguments = ("threshold", toys[1], data, "--max-false-reject", "10%", "--out", tmp_path / "o.json")
    assert run(monkeypatch, *arguments) == 2
    assert f"{blocked}: cannot be written: Is a directory" in capsys.readouterr().err
    assert not (tmp_path / "o.json").exists()


LINE = '[cameras.cam1]\nsource = "buttons"\n{}\n[model]\nbundle = "demo"\n'


def test_the_command_with_the_line_s_scale(toys, data, tmp_path, monkeypatch, capsys):
    save_record(tmp_path / "scale.json", scale(width_px=32, height_px=32))
    config, out = tmp_path / "line.toml", tmp_path / "thresholds.json"
    # What the line has besides may not be made yet.
    config.write_text(LINE.format(f'scale = "{tmp_path}/scale.json"\nimage_health = "{tmp_path}/to-come.json"'))
    options = ("--max-false-reject", "10%", "--defects", "extra", "--config", config, "--out", out)
    assert run(monkeypatch, "threshold", toys[1], data, *options) == 0
    said = capsys.readouterr()
    record = load_record(out, ThresholdRecord)
    area = record.classes[0].minimum_area_mm2
    assert f"minimum area {area:g} mm2" in said.out
    assert f"minimum_area_mm2 = {area!r}" in out.with_suffix(".toml").read_text()
    page = out.with_suffix(".html").read_text()
    assert f"{area:g} mm2" in page
    assert f"by the scale {record.scale}" in page
    assert [each.name for each in record.inputs][-1] == "scale.json"
    assert record.scale == scale(width_px=32, height_px=32).sha256


@pytest.fixture
def refused(toys, data, tmp_path, monkeypatch, capsys):
    """The command with a line's configuration, which writes nothing: its status, and what it says."""

    def ask(line, *options):
        out = tmp_path / "o.json"
        if line is not None:
            (tmp_path / "line.toml").write_text(line)
            options = ("--config", tmp_path / "line.toml", *options)
        status = run(monkeypatch, "threshold", toys[1], data, "--max-false-reject", "10%", "--out", out, *options)
        assert not out.exists()
        return status, capsys.readouterr().err.strip()

    return ask


@pytest.mark.parametrize(
    ("cameras", "options", "message"),
    [
        (None, ("--minimum-area-mm2", "1"), "name the line's configuration by --config"),
        (None, ("--camera", "cam1"), "name that by --config"),
        (LINE.format(""), (), "cameras.cam1 has no scale to give minimum areas in mm2 by"),
        (LINE.format('scale = "nowhere.json"'), (), "nowhere.json: no such calibration"),
        (LINE.format("scale_mm_per_px = 0.1"), ("--camera", "cam2"), "none of that name, only cam1"),
        (
            LINE.format('scale_mm_per_px = 0.1\n[cameras.cam2]\nsource = "buttons"'),
            (),
            "has the cameras cam1, cam2; say by --camera",
        ),
        ("[cameras", (), "line.toml"),
    ],
)
def test_scales_that_the_command_cannot_use(refused, *, cameras, options, message):
    status, said = refused(cameras, *options)
    assert (status, message in said, "\n" in said) == (2, True, False), said


@pytest.mark.parametrize(
    "refused",
    [
        ({"--max-false-reject": "0,5"}, "--max-false-reject 0,5: expected a percentage"),
        ({"--max-false-reject": "0%"}, "share of false rejects 0%"),
        ({"--confidence": "150%"}, "confidence 150%"),
        ({"--roles": "nice"}, "unknown role 'nice'"),
        ({"--out": "x.txt"}, "--out x.txt: expected a file that ends in .json"),
        ({"--max-false-reject": "0.5%"}, "598 are needed, 538 more"),
        ({"--backend": "abacus"}, "backend 'abacus'"),
    ],
)
def test_what_the_command_refuses_in_one_line(toys, data, monkeypatch, capsys, refused):
    change, message = refused
    tmp_path = data / "nothing-here"
    options = {"--max-false-reject": "10%", "--out": tmp_path / "o.json"} | change
    code = run(monkeypatch, "threshold", toys[1], data, *(word for pair in options.items() for word in pair))
    said = capsys.readouterr().err.strip()
    assert code == 2
    assert message in said
    assert said.startswith("inspectd-calibrate: error: ")
    assert "\n" not in said
    assert not tmp_path.exists()


def test_a_good_picture_with_a_defect_is_refused_before_it_starts(toys, tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(8)
    rows = [*good(rng, 30), *defective(rng, "dent", 0, [200], role="ok_calibration")]
    folder, out = write_data(tmp_path, rows), tmp_path / "o.json"
    code = run(monkeypatch, "threshold", toys[1], folder, "--max-false-reject", "10%", "--out", out)
    assert code == 2
    assert "is of the defect-free role ok_calibration but has a defect" in capsys.readouterr().err


def test_the_promise_holds_through_the_whole_way(toys, tmp_path):
    """Pictures in, rule out, held-out pictures through the line: over many draws the bound is kept."""
    rng = np.random.default_rng(11)
    bundle = load_bundle(toys[1])
    engine = open_engine(bundle, threads=1)
    pool = write_data(tmp_path / "pool", good(rng, 400, highest=250))
    dataset = open_dataset(pool)
    broken, draws, rate, confidence = 0, 40, 0.1, 0.8
    for _ in range(draws):
        chosen = rng.permutation(400)
        own = Dataset(dataset.root, dataset.layout, tuple(dataset.samples[index] for index in chosen[:40]))
        record = calibrate_thresholds(
            bundle,
            own,
            ThresholdSettings(rate, confidence),
            engine=engine,
            engine_name="toy",
            judge=lambda rule: inspector_of(bundle, engine, rule),
            made=MADE,
        )
        judge = inspector_of(bundle, engine, record.rule)
        rest = [dataset.samples[index] for index in chosen[40:]]
        rejected = sum(judge(read_image(sample.image)).verdict is not Verdict.OK for sample in rest)
        broken += rejected / len(rest) > rate
    assert not broken or 1 - at_most(broken - 1, draws, 1 - confidence) > 1e-3
