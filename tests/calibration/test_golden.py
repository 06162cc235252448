"""`inspectd-calibrate golden`: which parts become master parts, by the line's own inspector."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest

from inspectd.bundle import load_bundle
from inspectd.calibration import cli
from inspectd.calibration.record import save_record
from inspectd.calibration.threshold_cli import inspector_of
from inspectd.inspection import AcceptanceRule, ClassRule
from inspectd.masters import open_masters, run_masters
from inspectd.runtime.engine import open_engine
from inspectd.runtime.models import rule_for
from tests.runtime.test_optics import scale

from .test_threshold import defective, write_data
from .toy_bundle import write_toy_bundle

SIDES = (3, 6, 12)
"""Areas of 9, 36 and 144 px: three size classes."""


def good(count, role="ok_test"):
    for index in range(count):
        yield np.full((32, 32, 3), index, np.uint8), None, "", role, f"g{index}"


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy_bundle(tmp_path_factory.mktemp("toy") / "bundle", ("dent", "crack"))


def rows(levels=(250,) * 6):
    rng = np.random.default_rng(3)
    for name, channel in (("dent", 0), ("crack", 1)):
        for side in SIDES:
            for index, (*row, _tile) in enumerate(defective(rng, name, channel, levels, side=side, role="test")):
                yield *row, f"{name}{side}-{index}"
    yield from good(8)


@pytest.fixture
def golden(toy, tmp_path, monkeypatch, capsys):
    def run(*options, data):
        out = tmp_path / "set.zip"
        monkeypatch.setattr(
            sys, "argv", ["inspectd-calibrate", "golden", str(toy), str(data), "--out", str(out), *options]
        )
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, out, capsys.readouterr()

    return run


def test_a_set_is_balanced_by_type_and_size_and_found_by_the_line(golden, toy, tmp_path):
    status, out, said = golden("--per-class", "6", data=write_data(tmp_path / "data", rows()))
    assert (status, "written: " in said.err) == (0, True)
    masters = open_masters(out)
    record = masters.record
    assert [(each.name, each.parts, each.least, each.tried) for each in record.types] == [
        ("crack", 6, 1.0, 6),
        ("dent", 6, 1.0, 6),
    ]
    assert [(each.name, each.parts) for each in record.sizes] == [("1-15 px", 4), ("16-63 px", 4), ("64-255 px", 4)]
    assert sum(part.is_good for part in record.parts) == 6
    bundle = load_bundle(toy)
    assert (record.bundle_sha256, record.left_out) == (bundle.digest, ())
    engine = open_engine(bundle, threads=1)
    for rule, missed in ((AcceptanceRule(), 0), (AcceptanceRule(default=ClassRule(minimum_area_px=40)), 8)):
        judge = inspector_of(bundle, engine, rule_for(bundle, rule))
        result = run_masters(masters, bundle.class_map, lambda frame: judge(frame.pixels), camera="cam1")  # noqa: B023
        assert (len(result.missed), result.rejected, result.passed) == (missed, (), not missed)
    page = out.with_suffix(".html").read_text()
    assert "12 known defects of 2 types and 6 good parts" in page
    assert record.sha256 in page


def test_the_same_seed_gives_the_same_set_and_another_one_another(golden, tmp_path):
    data = write_data(tmp_path / "data", rows())

    def names(seed):
        _, out, _ = golden("--per-class", "3", "--seed", seed, data=data)
        return [part.name for part in open_masters(out).record.parts]

    assert names("0") == names("0") != names("1")


def test_what_is_not_found_today_is_refused_or_left_out_and_told(golden, tmp_path):
    data = write_data(tmp_path / "data", rows(levels=(250, 250, 250, 250, 10, 10)))
    status, out, said = golden("--per-class", "18", data=data)
    assert (status, out.exists()) == (2, False)
    assert re.search(r"12 parts come out otherwise .*-\d+\.png \(crack: OK, expected NG\)", said.err)
    assert said.err.count("\n") == 1
    status, out, said = golden("--per-class", "18", "--leave-out", data=data)
    record = open_masters(out).record
    assert (status, len(record.left_out)) == (0, 12)
    assert [(each.parts, each.tried) for each in record.types] == [(12, 18), (12, 18)]
    assert "6 of 18 parts of the type 'dent' came out otherwise than they should" in said.err
    assert "There are 12 parts of the type 'dent', and 18 were asked for" in said.err
    assert said.err.count("left out: ") == 12
    page = out.with_suffix(".html").read_text()
    assert "Left out" in page
    assert all(each.name in page for each in record.left_out)


def test_a_type_that_is_never_found_is_told_apart(golden, tmp_path):
    dark = [row for row in rows(levels=(10,) * 4) if row[2] == "crack"]
    data = write_data(tmp_path / "data", [*dark, *(row for row in rows() if row[2] != "crack")])
    _, out, said = golden("--leave-out", data=data)
    assert [each.name for each in open_masters(out).record.types] == ["dent"]
    assert "Of 12 parts of the type 'crack' none comes out as it should: the set says nothing of them" in said.err


def test_a_part_that_was_photographed_twice_is_taken_once(golden, tmp_path):
    twice = [(*row[:4], "the same") if row[2] == "dent" else row for row in rows()]
    _, out, said = golden("--per-class", "4", data=write_data(tmp_path / "data", twice))
    assert [(each.name, each.parts) for each in open_masters(out).record.types] == [("crack", 4), ("dent", 1)]
    assert "There are 1 parts of the type 'dent'" in said.err


def test_the_rule_of_the_line_decides(golden, tmp_path):
    data = write_data(tmp_path / "data", rows())
    config = tmp_path / "line.toml"
    config.write_text(
        '[cameras.cam1]\nsource = "buttons"\nscale_mm_per_px = 0.1\n[model]\nbundle = "demo"\n'
        "[acceptance.classes.dent]\nminimum_area_mm2 = 0.2\n"
    )
    status, _, said = golden("--per-class", "6", "--config", str(config), data=data)
    # 9 px are 0.09 mm2. Two of them come by their turns, and a third one in the place of the first.
    assert status == 2
    assert "3 parts come out otherwise than they should" in said.err


def test_a_calibrated_scale_measures_as_it_does_in_the_line(golden, tmp_path):
    size = {"width_px": 32, "height_px": 32}
    even = scale(**size, homography=(0.1, 0, 0, 0, 0.1, 0, 0, 0, 1))
    save_record(tmp_path / "scale.json", even)
    config = tmp_path / "line.toml"
    config.write_text(
        f'[cameras.cam1]\nsource = "buttons"\nscale = "{tmp_path}/scale.json"\n[model]\nbundle = "demo"\n'
        "[acceptance.classes.dent]\nminimum_area_mm2 = 0.2\n"
    )
    status, _, said = golden("--per-class", "6", "--config", str(config), data=write_data(tmp_path / "data", rows()))
    assert status == 2
    assert "3 parts come out otherwise than they should" in said.err


def test_what_is_only_just_found_is_no_master_part_where_more_is_asked(golden, tmp_path):
    parts = list(rows())
    pixels, mask, *rest = parts[0]
    wide = mask.copy()
    wide[:, :] = np.where(mask.any(), mask.max(), 0)  # nearly all of the picture, of which the network marks a corner
    parts[0] = (pixels, wide, *rest)
    data = write_data(tmp_path / "data", parts)
    assert golden("--per-class", "18", data=data)[0] == 0
    status, out, said = golden("--per-class", "18", "--cover", "50%", data=data)
    assert status == 2
    assert re.search(r"1 parts come out otherwise .* \(dent: 1 % of it is marked, below --cover 50%\)", said.err)
    status, out, _ = golden("--per-class", "18", "--cover", "50%", "--leave-out", data=data)
    assert (status, len(open_masters(out).record.left_out)) == (0, 1)


def test_where_the_page_cannot_be_written_there_is_no_set(golden, tmp_path):
    (tmp_path / "set.html").mkdir()
    status, out, said = golden(data=write_data(tmp_path / "data", rows()))
    assert (status, out.exists(), "set.html: cannot be written: Is a directory" in said.err) == (2, False, True)


def test_simulated_defects_make_a_set_as_real_ones_do(golden, tmp_path):
    """As `inspectd ctl augment` and `inspectd-train simulate` write them: roles simulated, and free or ok_test."""
    painted = [(*row[:3], {"test": "simulated", "ok_test": "free"}[row[3]], "") for row in rows()]
    data = write_data(tmp_path / "data", painted)
    status, out, _ = golden("--defects", "simulated", "--good", "free", data=data)
    record = open_masters(out).record
    assert (status, record.defect_roles, record.good_roles) == (0, ("simulated",), ("free",))
    assert [(each.name, each.parts) for each in record.types] == [("crack", 4), ("dent", 4)]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--defects", "ok_test"), "--defects ok_test: expected some of ref, extra, simulated, test"),
        (("--good", "test"), "--good test: expected some of free, ok_test, ok_calibration"),
        (("--defects", "extra"), "holds no usable part of the role extra"),
        (("--good", "free"), "holds no usable part of the role free"),
        (("--least", "0%"), "expected more than 0%"),
        (("--cover", "x"), "--cover"),
        (("--out", "set.json"), "expected a file that ends in .zip"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(golden, tmp_path, options, told):
    status, out, said = golden(*options, data=write_data(tmp_path / "data", rows()))
    assert (status, out.exists()) == (2, False)
    assert told in said.err
    assert said.err.count("\n") == 1


def test_a_type_that_the_network_has_no_class_for_is_refused(golden, tmp_path):
    data = write_data(
        tmp_path / "data", [(*row[:2], "dint" if row[2] == "dent" else row[2], *row[3:]) for row in rows()]
    )
    status, _, said = golden(data=data)
    assert (status, "its defect 'dint' is not one of the network's classes" in said.err) == (2, True)
