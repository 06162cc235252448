"""The record of calibrated thresholds at the line: with another bundle or other rules nothing is judged."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from inspectd.bundle import Bundle, ModelCard, load_bundle, write_bundle
from inspectd.calibrated import Software
from inspectd.calibrated.threshold import ChosenClass, ThresholdRecord
from inspectd.calibration.record import save_record
from inspectd.errors import ConfigError, RequestError
from inspectd.inspection import AcceptanceRule, ClassRule

from .conftest import bright_pixel_model, finish, run_inspectd
from .test_station import FOLDER, start, station  # noqa: F401 - fixtures

RULE = "[acceptance.classes.bright]\nscore = 0.8\nminimum_area_px = 3\nmaximum_count = 0\n"
ENGINE = "ONNX Runtime fp32"


def record(digest: str, **changes: object) -> ThresholdRecord:
    made = ThresholdRecord(
        made=datetime(2026, 11, 26, tzinfo=timezone.utc),
        software=Software(name="inspectd", version="1"),
        inputs=(),
        bundle_sha256=digest,
        engine=ENGINE,
        max_false_reject=0.01,
        confidence=0.95,
        false_reject_bound=0.009,
        roles=("ok_calibration",),
        good_parts=300,
        good_pictures=300,
        parts_named=True,
        cuts=1,
        good_parts_rejected=0,
        candidates=((3,),),
        classes=(ChosenClass(name="bright", score=0.8, minimum_area_px=3),),
        card_scores=(0.6,),
        defect_roles=(),
        types=(),
        sizes=(),
        curve=(),
        nearest=(),
        remarks=(),
    )
    return made.model_copy(update=changes)


@pytest.fixture
def bundle(bundle_path) -> Bundle:
    return load_bundle(bundle_path)


@pytest.fixture
def kept(tmp_path, bundle) -> str:
    """The section of a configuration beside which the record lies."""
    save_record(tmp_path / "thresholds.json", record(bundle.digest))
    return f'[acceptance]\nrecord = "thresholds.json"\n{RULE}'


def other_bundle(bundle: Bundle, path: Path) -> Path:
    """The same network, under another digest."""
    card = ModelCard.model_validate({**bundle.card.model_dump(), "thresholds": (0.9,)})
    files = {name: bundle.read(name) for name in bundle.files}
    write_bundle(path, card, files | {"model.onnx": bright_pixel_model(card)}, version="test")
    return path


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        ({}, ""),
        ({"score": 0.7}, "score of class 'bright' is 0.7, and 0.8 was calibrated"),
        ({"minimum_area_px": 9}, "minimum_area_px of class 'bright' is 9, and 3 was calibrated"),
        ({"minimum_area_mm2": 1.0}, "minimum_area_mm2 of class 'bright' is 1.0, and None was calibrated"),
        ({"review_score": 0.2}, "review_score of class 'bright' is 0.2, and None was calibrated"),
        ({"maximum_count": 2}, "maximum_count of class 'bright' is 2, and 0 was calibrated"),
    ],
)
def test_what_differs_from_the_calibration_is_named(rule, fault):
    here = AcceptanceRule(classes={"bright": ClassRule(**{"score": 0.8, "minimum_area_px": 3, **rule})})
    if not fault:
        record("ab" * 32).hold_against("ab" * 32, here)
        return
    with pytest.raises(ConfigError, match=fault):
        record("ab" * 32).hold_against("ab" * 32, here)


def test_the_toml_that_is_written_fits(write_config, tmp_path, bundle):
    made = record(bundle.digest)
    save_record(tmp_path / "thresholds.json", made)
    status, out, err = run_inspectd("check", write_config('source = "buttons"', made.toml("thresholds.json")))
    assert (status, err) == (0, "")
    assert f"acceptance: calibrated on 2026-11-26 ({made.sha256[:12]}) by 300 good parts" in out


@pytest.mark.parametrize(
    ("changes", "doubt"),
    [
        ({"engine": ENGINE}, ""),
        ({"engine": "TensorRT fp16"}, "acceptance: the thresholds were calibrated on TensorRT fp16, and ONNX Runtime"),
        ({"scale": "0.5 mm per px"}, ""),
        (
            {"scale": "ab" * 32},
            "acceptance: the minimum areas were calibrated with the scale abababababab, and that of",
        ),
    ],
)
def test_a_check_tells_where_the_promise_does_not_hold(write_config, tmp_path, bundle, changes, doubt):
    made = record(bundle.digest, **changes)
    save_record(tmp_path / "thresholds.json", made)
    config = write_config('source = "buttons"\nscale_mm_per_px = 0.5', made.toml("thresholds.json"))
    status, out, _ = run_inspectd("check", config)
    assert (status, "no fault found" in out) == (0, True)
    assert [
        line[: len(doubt)] for line in out.splitlines() if "calibrated with" in line or "calibrated on T" in line
    ] == ([doubt] if doubt else [])


@pytest.mark.parametrize(
    ("changes", "rule", "fault"),
    [
        ({"bundle_sha256": "ab" * 32}, RULE, "it is of bundle abababababab, and this is bundle "),
        ({}, RULE.replace("0.8", "0.99"), "score of class 'bright' is 0.99, and 0.8 was calibrated"),
        (None, RULE, "acceptance.record: "),
    ],
)
def test_a_line_does_not_judge_by_what_was_not_calibrated(write_config, tmp_path, bundle, *, changes, rule, fault):
    path = tmp_path / "thresholds.json"
    if changes is None:
        path.write_text(record(bundle.digest).text().replace("0.8", "0.3"))
    else:
        save_record(path, record(bundle.digest, **changes))
    config = write_config('source = "buttons"', f'[acceptance]\nrecord = "thresholds.json"\n{rule}')
    for command in ("check", "run"):
        status, out, err = run_inspectd(command, config, *(["--frames", "1"] if command == "run" else []))
        assert (status, fault in err) == (2, True), err
        assert "verdicts" not in out


def test_neither_another_model_nor_another_rule_comes_in_later(station, pictures, bundle, kept, tmp_path):  # noqa: F811
    (tmp_path / "models").mkdir()
    other_bundle(bundle, tmp_path / "models" / "other")
    with station(FOLDER, kept) as running:
        pass
    config = tmp_path / "line.toml"
    config.write_text(config.read_text().replace("threads = 1", f'threads = 1\nmodels_dir = "{tmp_path}/models"'))
    with station.again(running) as running:
        running.until_state("ContinuousExecution")
        with pytest.raises(RequestError, match=r"load_model: .* it is of bundle"):
            running.ask("load_model", bundle="other")
        config.write_text(config.read_text().replace("score = 0.8", "score = 0.9"))
        with pytest.raises(RequestError, match=r"score of class 'bright' is 0\.9, and 0.8 was calibrated"):
            running.ask("reload_config")
        assert running.ask("snapshot")["acceptance"]["bright"]["score"] == 0.8
        # Without the record it is anybody's rule again; with a new one, the new one's.
        save_record(
            tmp_path / "new.json",
            record(bundle.digest, classes=(ChosenClass(name="bright", score=0.9, minimum_area_px=3),)),
        )
        config.write_text(config.read_text().replace("thresholds.json", "new.json"))
        assert running.ask("reload_config")["applied"] == ["acceptance.classes.bright.score", "acceptance.record"]
        running.process.terminate()
        assert finish(running.process)[0] == 0


def test_what_a_client_sets_holds_with_an_alarm(station, pictures, kept):  # noqa: F811
    with station(FOLDER, kept) as running:
        running.until_state("ContinuousExecution")
        running.ask("set_threshold", class_="bright", score=0.9)
        assert "is 0.9, and 0.8 was calibrated" in running.alarm("model.thresholds").message
        running.ask("set_threshold", class_="bright", score=0.8)
        assert not running.alarm("model.thresholds", active=False).active


def test_areas_by_another_scale_are_an_alarm(station, pictures, bundle, tmp_path):  # noqa: F811
    rule = ChosenClass(name="bright", score=0.8, minimum_area_px=1, minimum_area_mm2=0.5)
    made = record(bundle.digest, classes=(rule,), scale="0.2 mm per px")
    save_record(tmp_path / "thresholds.json", made)
    with station(f"{FOLDER}\nscale_mm_per_px = 0.2", made.toml("thresholds.json")) as running:
        running.until_state("ContinuousExecution")
        assert "model.thresholds" not in {alarm["code"] for alarm in running.ask("snapshot")["alarms"]}
    config = tmp_path / "line.toml"
    config.write_text(config.read_text().replace("mm_per_px = 0.2", "mm_per_px = 0.25"))
    with station.again(running) as running:
        told = running.open_alarm("model.thresholds")["message"]
        assert told.startswith("the minimum areas were calibrated with the scale 0.2 mm per px, and that of camera")


def test_another_arithmetic_is_an_alarm(station, pictures, bundle, kept, tmp_path):  # noqa: F811
    save_record(tmp_path / "thresholds.json", record(bundle.digest, engine="TensorRT fp16"))
    with station(FOLDER, kept) as running:
        alarm = running.open_alarm("model.thresholds")
        assert alarm["message"].startswith(f"the thresholds were calibrated on TensorRT fp16, and {ENGINE} judges")
