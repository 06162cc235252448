"""Master parts on a line: found, missed, and what follows; over real sockets, and with what becomes of pictures."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import queue
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from inspectd.bundle import MODEL, encode_png, load_bundle, write_bundle
from inspectd.buttons import LINES, render
from inspectd.calibrated import InputFile
from inspectd.calibration.golden import GoldenSettings, make_masters
from inspectd.calibration.record import utc_now
from inspectd.calibration.threshold_cli import inspector_of
from inspectd.config import load_config
from inspectd.dataset import open_dataset
from inspectd.errors import BundleError, InferenceError, RequestError
from inspectd.frame import Frame
from inspectd.inspection import AcceptanceRule
from inspectd.masters import encode_masters, open_masters
from inspectd.runtime.alarms import Alarms
from inspectd.runtime.engine import EngineResult, open_engine
from inspectd.runtime.journal import JournalReader
from inspectd.runtime.models import LoadedBundle, Model, Models, rule_for
from inspectd.runtime.self_testing import SAMPLES_S, UNPAINTED_S, SelfTests
from inspectd.runtime.station import demo_bundle
from inspectd.wire import MessageType, State, StateBody, read_body

from .conftest import bright_pixel_model, finish, inspectd, run_inspectd, save_picture, summary_of
from .station_site import until
from .test_station import FOLDER, start, station  # noqa: F401 - fixtures

SIDES = (8, 12, 20)


def make(bundle_path: Path, data: Path, out: Path, settings: GoldenSettings) -> Path:
    """A set, as the command makes it."""
    bundle = load_bundle(bundle_path)
    rule = rule_for(bundle, AcceptanceRule())
    with open_engine(bundle, threads=1) as engine:
        made = make_masters(
            bundle,
            open_dataset(data),
            settings,
            rule=rule,
            judge=inspector_of(bundle, engine, rule),
            engine_name=engine.name,
            made=utc_now(),
        )
    out.write_bytes(encode_masters(made.record, made.pictures))
    return out


def changed(path: Path, out: Path, change) -> Path:
    """A set with other pictures, whose checksums are right all the same."""
    masters, files, parts = open_masters(path), {}, []
    for number, part in enumerate(masters.record.parts):
        pixels = change(masters.frame(part, number, camera="any").pixels)
        data = files[part.picture.name] = encode_png(np.ascontiguousarray(pixels[..., ::-1]))
        entry = InputFile(name=part.picture.name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        parts.append(part.model_copy(update={"picture": entry}))
        if (labels := masters.labels(part)) is not None:
            files[part.labels.name] = encode_png(labels.astype(np.uint8) * 255)
    out.write_bytes(encode_masters(masters.record.model_copy(update={"parts": tuple(parts)}), files))
    return out


def write_data(root: Path, parts) -> Path:
    """A dataset of (pixels, mask or None, defect)."""
    (root / "images").mkdir(parents=True)
    rows = [("image", "mask", "defect", "role", "tile")]
    for index, (pixels, mask, defect) in enumerate(parts):
        name = f"images/{index}.png"
        save_picture(root / name, pixels)
        if mask is not None:
            cv2.imwrite(str(root / f"{index}.png"), mask.astype(np.uint8) * 255)
        rows.append((name, f"{index}.png", defect, "test", "") if mask is not None else (name, "", "", "ok_test", ""))
    with (root / "split.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


def squares():
    for index in range(32):
        side = SIDES[index % 3] if index < 24 else 0
        pixels = np.full((64, 64, 3), 30 + index, np.uint8)
        pixels[10 : 10 + side, 12 : 12 + side] = 255
        yield pixels, pixels[..., 0] == 255 if side else None, "glare" if side else ""


@pytest.fixture(scope="session")
def masters(bundle_path, tmp_path_factory) -> Path:
    """24 bright squares of three sizes and 8 dark parts."""
    root = write_data(tmp_path_factory.mktemp("squares") / "data", squares())
    return make(bundle_path, root, root / "set.zip", GoldenSettings(per_class=24))


@pytest.fixture
def golden(masters, tmp_path):
    """The section of a configuration, with a set of its own."""
    shutil.copy(masters, tmp_path / "set.zip")
    return f'[golden]\nfile = "{tmp_path}/set.zip"\n'


def kept_tests(folder: Path) -> list[tuple[str, dict]]:
    """What for, and how it came out: the tests that the station did by itself, from its journal."""
    with JournalReader(folder / "state" / "journal.db") as reader:
        rows = [row for row in reader.requests() if row.client == "station"]
    return [(json.loads(row.args)["why"], json.loads(row.answer)["result"]) for row in rows]


def test_known_defects_are_found_at_the_start_and_when_asked(station, pictures, golden):  # noqa: F811
    with station(FOLDER, golden) as running:
        running.until_state("ContinuousExecution")
        test = running.ask("snapshot")["self_test"]
        assert (test["why"], test["passed"], test["samples"]) == ("at the start", True, 1)
        test = running.ask("self_test")
        digest = running.ask("snapshot")["model"]["digest"]
        assert (test["why"], test["passed"], test["digest"], test["samples"]) == ("asked for", True, digest, 1)
        found = test["masters"]
        assert [found[name] for name in ("known", "found", "good", "accepted")] == [24, 24, 8, 8]
        assert (found["missed"], found["rejected"]) == ([], [])
        assert found["types"] == [{"name": "glare", "found": 24, "total": 24, "least": 1.0}]
        assert [each["name"] for each in found["sizes"]] == ["64-255 px", "256-1023 px"]
        assert running.ask("snapshot")["self_test"] == test
        assert running.ask("snapshot")["alarms"] == []
        assert running.state() == "ContinuousExecution"
        assert [why for why, _ in kept_tests(running.folder)] == ["at the start", "asked for"]
        running.process.terminate()
        _, out, _ = finish(running.process)
    # Parts are judged as if nothing had been.
    summary = summary_of(out)
    assert (summary["not_inspected"], summary["frames"]) == (0, summary["verdicts"])


def test_a_rule_that_misses_them_leads_to_error_and_back_once_it_is_mended(station, pictures, golden):  # noqa: F811
    with station(FOLDER, golden, "--stay") as running:
        running.until_state("ContinuousExecution")
        # Of the 8 x 8 and 12 x 12 squares there are 16; nobody asks for a test.
        running.ask("set_threshold", class_="bright", minimum_area_px=200)
        alarm = running.open_alarm("golden.missed")
        assert (alarm["severity"], alarm["active"]) == ("error", True)
        assert alarm["message"].startswith("16 of 24 known defects are missed: images/")
        assert "(glare, 64-255 px: OK, expected NG)" in alarm["message"]
        running.until_state("Error")
        message = running.until(lambda m: m.header.msg_type == MessageType.STATE and m.header.state is State.ERROR)
        assert read_body(message, StateBody).reason == alarm["message"]
        until(lambda: running.ask("snapshot")["deviceHealth"] == "FAILURE")
        snapshot = running.ask("snapshot")
        assert snapshot["healthReason"] == alarm["message"]
        before = snapshot["streams"][0]["last"]
        test = running.ask("self_test")
        assert (test["passed"], test["masters"]["found"], len(test["masters"]["missed"])) == (False, 8, 16)
        # It does not help to begin anew.
        assert running.ask("reset") == {"state": "Preoperational"}
        running.until_state("Error")
        assert running.ask("snapshot")["streams"][0]["last"] == before, "a part was judged in between"
        running.ask("set_threshold", class_="bright", minimum_area_px=1)
        assert running.ask("snapshot")["alarms"][0]["active"]
        running.ask("reset")
        running.until_state("ContinuousExecution")
        assert running.ask("self_test")["passed"] is True
        (alarm,) = running.ask("snapshot")["alarms"]
        assert (alarm["code"], alarm["active"]) == ("golden.missed", False)
        running.until(lambda m: m.header.msg_type == MessageType.VERDICT and m.header.seq > before)
        # What had been grabbed was not let pass: it has a verdict, which is none.
        running.process.terminate()
        _, out, _ = finish(running.process)
    summary = summary_of(out)
    assert summary["frames"] == summary["verdicts"]
    (_, why), *_rest = [(result, why) for why, result in kept_tests(running.folder) if not result["passed"]]
    assert why == "another model or rule judges"


def test_a_client_that_prepares_a_station_which_misses_them_is_told(station, pictures, golden):  # noqa: F811
    with station(FOLDER, golden + "[acceptance.default]\nminimum_area_px = 100") as running:
        pass
    config = running.folder / "line.toml"
    config.write_text(config.read_text().replace('name = "test"', 'name = "test"\nstart = "manual"'))
    running.process = inspectd("run", config, "--stay")
    try:
        with running.requester:
            running.ask("select_mode_automatic")
            with pytest.raises(RequestError, match="prepare_recipe: 8 of 24 known defects are missed") as caught:
                running.ask("prepare_recipe")
            assert (caught.value.code, running.state()) == ("failed", "Error")
    finally:
        running.process.kill()
        running.process.communicate()


def test_without_stay_a_line_that_misses_them_ends_with_the_reason(station, pictures, golden):  # noqa: F811
    with station(FOLDER, golden + "[acceptance.default]\nminimum_area_px = 100") as running:
        status, _, err = finish(running.process)
    assert status == 2
    assert "error: 8 of 24 known defects are missed: " in err


def test_an_alarm_alone_stops_nothing(station, pictures, golden):  # noqa: F811
    with station(FOLDER, golden + 'on_failure = "alarm"') as running:
        running.until_state("ContinuousExecution")
        running.ask("set_threshold", class_="bright", minimum_area_px=200)
        running.open_alarm("golden.missed")
        seq = running.ask("snapshot")["streams"][0]["last"]
        running.until(lambda m: m.header.msg_type == MessageType.VERDICT and m.header.seq > seq + 20)
        assert running.state() == "ContinuousExecution"
        running.ask("set_threshold", class_="bright", minimum_area_px=1)
        running.alarm("golden.missed", active=False)


def test_good_parts_that_are_rejected_raise_an_alarm_and_stop_nothing(station, pictures, golden):  # noqa: F811
    with station(FOLDER, golden, "--stay") as running:
        running.until_state("ContinuousExecution")
        running.ask("set_threshold", class_="bright", score=0.22)
        alarm = running.open_alarm("golden.rejected")
        assert alarm["severity"] == "warning"
        assert alarm["message"].startswith("5 of 8 good master parts are not OK: images/")
        assert running.state() == "ContinuousExecution"
        running.ask("set_threshold", class_="bright", score=0.6)
        running.alarm("golden.rejected", active=False)


@pytest.mark.parametrize("damage", ["missing", "damaged", "a picture"])
def test_a_set_that_cannot_be_used_is_told_and_never_passed_over(station, pictures, golden, masters, damage):  # noqa: F811
    path = pictures.parent / "set.zip"

    def break_it() -> None:
        if damage == "missing":
            path.unlink()
        elif damage == "damaged":
            path.write_bytes(masters.read_bytes()[:5000])
        else:
            black = encode_png(np.zeros((64, 64, 3), np.uint8))
            opened = open_masters(masters)
            names = [entry.name for part in opened.record.parts for entry in (part.picture, part.labels) if entry]
            path.write_bytes(encode_masters(opened.record, dict.fromkeys(names, black)))

    break_it()
    with station(FOLDER, golden) as running:
        status, _, err = finish(running.process)
    assert (status, "master parts cannot be judged: " in err, str(path) in err) == (2, True, True)
    with station(FOLDER, golden, "--stay") as running:
        running.until_state("Error")
        alarm = running.open_alarm("golden.unusable")
        assert (alarm["severity"], str(path) in alarm["message"]) == ("error", True)
        with pytest.raises(RequestError, match="master parts cannot be judged"):
            running.ask("self_test")
        shutil.copy(masters, path)
        running.ask("reset")
        running.until_state("ContinuousExecution")
        assert not running.ask("snapshot")["alarms"][0]["active"]
        # And so while it runs.
        break_it()
        with pytest.raises(RequestError, match="master parts cannot be judged") as caught:
            running.ask("self_test")
        assert caught.value.code == "failed"
        running.until_state("Error")
        running.process.kill()
        finish(running.process)
    with station.again(running) as running:  # without --stay
        assert finish(running.process)[0] == 2
    config = running.folder / "line.toml"
    config.write_text(config.read_text().replace("[golden]", '[golden]\non_failure = "alarm"'))
    with station.again(running) as running:
        running.until_state("ContinuousExecution")
        alarms = running.ask("snapshot")["alarms"]
        assert [alarm["code"] for alarm in alarms if alarm["active"]] == ["golden.unusable"]
        running.until(lambda m: m.header.msg_type == MessageType.VERDICT)


def test_a_model_that_misses_them_is_not_loaded_and_another_is_tested_where_it_judges(
    station,  # noqa: F811
    pictures,
    golden,
    bundle_path,
    tmp_path,
):
    first = load_bundle(bundle_path)
    files = {name: first.read(name) for name in first.files if name != MODEL}

    def model(name: str, **changes) -> str:
        card = first.card.model_copy(update=changes)
        return write_bundle(
            tmp_path / "models" / name, card, {**files, MODEL: bright_pixel_model(card)}, version="test"
        )

    model("renamed", classes=("glaring",))
    digest = model("lower", thresholds=(0.5,))
    # One that sees nothing, with samples that say so: only known defects show it.
    golden_file = json.loads(first.read("golden/golden.json"))
    blind = {**files, "golden/golden.json": json.dumps({**golden_file, "thresholds": [1.0]}).encode()}
    card = first.card.model_copy(update={"thresholds": (1.0,)})
    write_bundle(tmp_path / "models" / "blind", card, {**blind, MODEL: bright_pixel_model(card)}, version="test")
    changed(tmp_path / "set.zip", tmp_path / "set.zip", lambda pixels: np.minimum(pixels, 200))
    with station(FOLDER, golden) as running:
        pass
    config = running.folder / "line.toml"
    config.write_text(config.read_text().replace("threads = 1", f'threads = 1\nmodels_dir = "{tmp_path}/models"'))
    with station.again(running) as running:
        running.until_state("ContinuousExecution")
        with pytest.raises(RequestError, match="24 of 24 known defects are missed"):
            running.ask("load_model", bundle="blind")
        with pytest.raises(
            RequestError, match="known defects of bright, and the network that judges has the classes gl"
        ):
            running.ask("load_model", bundle="renamed")
        with pytest.raises(RequestError, match="no model is loaded"):
            running.ask("activate")
        running.ask("load_model", bundle="lower")
        assert running.ask("activate")["digest"] == digest
        until(lambda: running.ask("snapshot")["self_test"]["digest"] == digest)
        test = running.ask("snapshot")["self_test"]
        assert (test["why"], test["passed"]) == ("another model or rule judges", True)
        assert running.state() == "ContinuousExecution"


def test_they_are_judged_again_after_the_period_that_is_set(station, pictures, golden):  # noqa: F811
    with station(FOLDER, golden + "every_h = 0.001") as running:
        until(lambda: len(kept_tests(running.folder)) > 2 if running.state() else False)
        assert [why for why, _ in kept_tests(running.folder)][:3] == [
            "at the start",
            *2 * ["0.001 h after the last time"],
        ]


def test_parts_go_on_while_they_are_judged(station, pictures, golden):  # noqa: F811
    # As fast as it can: there is always a part that waits.
    with station('source = "folder"\npath = "pictures"\nloop = true', golden) as running:
        running.until_state("ContinuousExecution")
        before = running.ask("snapshot")["streams"][0]["last"]
        test = running.ask("self_test")
        after = running.ask("snapshot")["streams"][0]["last"]
    assert test["masters"]["found"] == 24
    assert after - before >= 33


def test_what_is_told_in_the_terminal_and_to_monitoring(station, pictures, golden, tmp_path):  # noqa: F811
    with station(FOLDER, golden + 'on_failure = "alarm"\n[health]\nport = 0') as running:
        running.until_state("ContinuousExecution")
        lines = []
        port = ""
        while not port:
            lines.append(running.process.stderr.readline())
            port = lines[-1].strip().rpartition("http://127.0.0.1:")[2].rstrip("/") if "monitoring" in lines[-1] else ""
        # Nobody reads its log any further.
        threading.Thread(target=running.process.stderr.read, daemon=True).start()
        status, out, _ = run_inspectd("ctl", "self_test", "--at", tmp_path / "line.toml")
        assert status == 0
        assert "self-test passed" in out
        assert "24 of 24 known defects found, 8 of 8 good parts accepted" in out
        assert ["glare", "24", "24", "100", "%"] in [line.split() for line in out.splitlines()]
        time.sleep(0.5)
        status, out, _ = run_inspectd("status", "--port", port)
        assert "24 of 24 known defects found, 8 of 8 good parts accepted" in " ".join(out.split())
        running.ask("set_threshold", class_="bright", minimum_area_px=200)
        status, out, _ = run_inspectd("ctl", "self_test", "--at", tmp_path / "line.toml")
        assert status == 1
        assert "self-test NOT PASSED" in out
        assert out.count("missed: images/") == 16
        status, out, _ = run_inspectd("ctl", "self_test", "--json", "--at", tmp_path / "line.toml")
        assert (status, json.loads(out)["passed"]) == (1, False)
        time.sleep(0.5)
        status, out, _ = run_inspectd("status", "--port", port)
        assert "8 of 24 known defects found, 8 of 8 good parts accepted; missed: images/" in " ".join(out.split())


def test_check_tells_of_them_too(write_config, pictures, golden):
    status, out, _ = run_inspectd("check", write_config(FOLDER, golden))
    assert (status, "golden: 24 of 24 known defects found, 8 of 8 good parts accepted" in out) == (0, True)
    rule = "[acceptance.default]\nminimum_area_px = 200"
    status, _, err = run_inspectd("check", write_config(FOLDER, golden + rule))
    assert (status, "set.zip: 16 of 24 known defects are missed" in err) == (2, True)
    (pictures.parent / "set.zip").unlink()
    status, _, err = run_inspectd("check", write_config(FOLDER, golden))
    assert (status, "no such master parts" in err) == (2, True)


class _Swaps:
    """An inspector after one of whose frames another model judges."""

    def __init__(self, models: Models, model: Model, other: Model, *, after: int) -> None:
        self._models, self._model, self._other, self._after, self.frames = models, model, other, after, 0

    def inspect(self, frame):
        self.frames += 1
        if self.frames == self._after:
            self._models.current = self._other
        return self._model.inspector.inspect(frame)


class Bench:
    """Self-tests of a model, with a clock that goes on by hand and a line whose turns are taken here."""

    def __init__(self, config, models: Models) -> None:
        self.ns, self.failures, self.answers, self.alarms = 10**9, [], [], Alarms("test", epoch=1, publish=print)
        self.line: queue.SimpleQueue = queue.SimpleQueue()
        self.judges, self.state = True, State.READY
        self.tests = SelfTests(
            config,
            models=models,
            alarms=self.alarms,
            post=self.line.put,
            with_engine=lambda act: act() if self.judges else None,
            wait_for=lambda act: act(),
            state=lambda: self.state,
            fail=self.failures.append,
            keep=lambda _entry: None,
            epoch=1,
            clock=lambda: self.ns,
            utc=time.time_ns,
        )

    def turn_until(self, condition) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            with contextlib.suppress(queue.Empty):
                self.line.get(timeout=0.05)()

    def told(self) -> list[tuple[str, str]]:
        return [(alarm.code, alarm.message) for alarm in self.alarms.active]


@pytest.fixture
def models(bundle_path):
    bundle = load_bundle(bundle_path)
    with open_engine(bundle, threads=1) as engine:
        models = Models(None)
        models.current = model_of(bundle, engine)
        yield models


def model_of(bundle, engine, **rule) -> Model:
    acceptance = AcceptanceRule.model_validate({"default": rule})
    return Model.make(LoadedBundle(bundle, engine), acceptance, scales={"cam1": None}, clock=time.monotonic_ns)


@pytest.fixture
def bench(write_config, pictures, golden, models):
    return lambda more="": Bench(load_config(write_config(FOLDER, golden + more)), models)


@pytest.mark.parametrize("after", [3, 32])
def test_a_test_that_a_change_overtakes_is_begun_anew(bench, models, after):
    current = models.current
    swaps = _Swaps(models, current, model_of(current.bundle, current.engine, minimum_area_px=200), after=after)
    models.replace_rule(replace(current, inspector=swaps))
    bench = bench()
    bench.tests.ask(bench.answers.append)
    bench.turn_until(lambda: bench.answers)
    # Its engine may be closed by now.
    assert swaps.frames == after
    # None of the figures is of the first rule.
    assert (bench.answers[0]["masters"]["found"], len(bench.failures)) == (8, 1)


def test_who_asks_meanwhile_is_told_how_that_test_comes_out(bench):
    bench = bench()
    bench.tests.ask(bench.answers.append)
    bench.tests.ask(bench.answers.append)
    bench.turn_until(lambda: bench.answers)
    assert bench.answers[0] is bench.answers[1]
    assert bench.answers[0]["passed"]


@pytest.mark.parametrize("on_failure", ["error", "alarm"])
def test_a_line_that_judges_none_of_them_in_time_is_told(bench, monkeypatch, on_failure):
    monkeypatch.setattr("inspectd.runtime.self_testing.STEP_S", 0.3)
    bench = bench(f'on_failure = "{on_failure}"')
    bench.judges = False
    bench.tests.ask(bench.answers.append)
    bench.turn_until(lambda: bench.answers)
    fault = "master parts cannot be judged: a picture of the self-test was not judged within 0.3 s"
    assert fault in str(bench.answers[0])
    assert ("golden.unusable", fault) in bench.told()
    assert [str(each) for each in bench.failures] == [fault] * (on_failure == "error")


def test_a_test_that_hangs_is_given_up_and_told(bench):
    bench = bench()
    # Nobody takes what it posts: as on a disk that does not answer.
    bench.tests.look()
    bench.tests.ask(bench.answers.append)
    bench.ns += 899 * 10**9
    bench.tests.look()
    assert not bench.told()
    bench.ns += 2 * 10**9
    bench.tests.look()
    fault = "the self-test has not ended within 900 s; it hangs"
    assert bench.told() == [("golden.unusable", fault)]
    assert [str(each) for each in bench.failures] == [fault]
    assert fault in str(bench.answers[0])
    # What it says after all is of no interest any more.
    bench.turn_until(lambda: not any(thread.name == "self-test" for thread in threading.enumerate()))
    bench.turn_until(bench.line.empty)
    assert len(bench.answers) == len(bench.failures) == 1
    assert bench.tests.beat.fault == fault


class _Turns:
    """A real engine, until it is told to be blind or to fail."""

    def __init__(self, engine) -> None:
        self._engine, self.name, self.precision, self.failure = engine, engine.name, engine.precision, None
        self.is_blind, self.fails = False, False

    def infer(self, images, thresholds) -> EngineResult:
        if self.fails:
            raise InferenceError("the device is gone")
        result = self._engine.infer(images, thresholds)
        if self.is_blind:
            return EngineResult(result.labels * 0, result.confidence * 0, result.scores * 0)
        return result


def with_turns(models: Models) -> _Turns:
    current = models.current
    engine = _Turns(current.engine)
    models.current = model_of(current.bundle, engine)
    return engine


@pytest.mark.parametrize("more", ["", "on_failure = 'alarm'", None], ids=["masters", "masters' alarm", "no masters"])
def test_an_engine_that_comes_to_differ_from_its_export_is_found_within_the_hour(
    write_config, pictures, golden, models, more
):
    engine = with_turns(models)
    bench = Bench(load_config(write_config(FOLDER, "" if more is None else golden + more)), models)
    bench.tests.at_start(models.current)
    bench.state = State.CONTINUOUS_EXECUTION
    last, engine.is_blind = bench.tests.last, True
    bench.ns += round((SAMPLES_S - 1) * 1e9)
    bench.tests.look()
    assert bench.line.empty()
    bench.ns += 2 * 10**9
    bench.tests.look()
    bench.turn_until(lambda: bench.failures)
    (failure,) = bench.failures
    assert isinstance(failure, BundleError)
    assert "differs from its golden mask" in str(failure)
    assert [code for code, _ in bench.told()] == ["model.self_test"]
    assert bench.tests.last is last, "the master parts were not judged"
    # Once it is right again the next start says so.
    engine.is_blind = False
    bench.tests.at_start(models.current)
    assert bench.told() == []


def test_an_engine_that_fails_its_test_is_an_alarm_alone(write_config, pictures, models):
    engine = with_turns(models)
    bench = Bench(load_config(write_config(FOLDER)), models)
    engine.fails = True
    bench.tests.ask(bench.answers.append)
    bench.turn_until(lambda: bench.answers)
    # It gives no part another verdict than NOT_INSPECTED.
    assert bench.told() == [("model.self_test", "self_test: the device is gone")]
    assert bench.failures == []


def test_who_asks_while_the_samples_alone_are_tested_is_told_of_the_master_parts(bench, models):
    bench = bench()
    bench.tests.at_start(models.current)
    bench.ns += round(SAMPLES_S * 1e9)
    bench.tests.look()
    bench.tests.ask(bench.answers.append)
    bench.turn_until(lambda: bench.answers)
    assert (bench.answers[0]["why"], bench.answers[0]["masters"]["found"]) == ("asked for", 24)


def test_defects_that_are_never_painted_are_told_after_an_hour_of_execution(bench, models, monkeypatch):
    monkeypatch.setattr("inspectd.runtime.self_testing.SAMPLES_S", 1e9)
    bench = bench("paint = 2")
    hour = round(UNPAINTED_S * 1e9)

    def run(state: State, ns: int) -> list[str]:
        bench.state = state
        for _ in range(4):
            bench.tests.look()
            bench.ns += ns // 4
        bench.tests.look()
        return [code for code, _ in bench.told()]

    bench.tests.at_start(models.current)
    assert bench.tests.last.unpainted
    assert run(State.CONTINUOUS_EXECUTION, hour - 10**9) == []
    assert run(State.READY, 2 * hour) == [], "on a line that stands still no part can come"
    # Tests that come to nothing do not begin the hour anew.
    bench.tests.ask(bench.answers.append)
    bench.turn_until(lambda: bench.answers)
    assert run(State.CONTINUOUS_EXECUTION, 2 * 10**9) == ["golden.unpainted"]
    ((_, words),) = bench.told()
    assert words == (
        "in 1 h of execution known defects could not be painted on pictures of now: between two tests cam1 gives too "
        "few parts for it (golden.paint = 2)"
    )
    assert bench.failures == []
    # Parts come after all.
    for number in range(2):
        pixels = np.full((64, 64, 3), 30 + number, np.uint8)
        bench.tests.note(models.current.inspector.inspect(Frame("cam1", number, pixels, acquired_ns=0)))
    bench.ns += 10**9
    bench.tests.look()
    bench.turn_until(lambda: bench.tests.last.why == "there are parts to paint on")
    assert (bench.tests.last.faults, bench.tests.last.unpainted) == ([], "")
    assert bench.told() == []
    assert run(State.CONTINUOUS_EXECUTION, 2 * hour) == []


# What becomes of pictures

BUTTONS = [*((line, defect) for line in LINES[:2] for defect in ("scratch", "hole", "chip")), (LINES[0], None)]


@pytest.fixture(scope="session")
def buttons_set(tmp_path_factory) -> Path:
    """Rendered buttons, and the bundle that is shipped."""
    parts = [render(line, defect, 4_000_100_000 + seed, 256) for seed, (line, defect) in enumerate(BUTTONS)]
    rows = [(part.image, part.mask > 0 if part.defect else None, part.defect or "") for part in parts]
    root = write_data(tmp_path_factory.mktemp("buttons") / "data", rows)
    return make(demo_bundle(), root, root / "set.zip", GoldenSettings(per_class=2, leave_out=True))


FAULTS = {
    "covered": lambda pixels: np.full_like(pixels, 3),
    "defocused": lambda pixels: cv2.GaussianBlur(pixels, (0, 0), 4.0),
    "overexposed": lambda pixels: cv2.convertScaleAbs(pixels, alpha=4.0),
    "underexposed": lambda pixels: cv2.convertScaleAbs(pixels, alpha=0.1),
}


@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_parts_that_cannot_be_seen_are_missed(station, tmp_path, buttons_set, fault):  # noqa: F811
    path = tmp_path / "set.zip"
    changed(buttons_set, path, FAULTS[fault] if fault else lambda pixels: pixels)
    with station('source = "buttons"\nfps = 5', f'[golden]\nfile = "{path}"') as running:
        pass
    config = running.folder / "line.toml"
    text = config.read_text()
    config.write_text(text[: text.index('bundle = "')] + 'bundle = "demo"\n' + text[text.index("threads") :])
    process = inspectd("run", config, "--stay")
    running.process = process
    try:
        with running.requester, running.subscriber:
            if fault is None:
                running.until_state("ContinuousExecution")
                assert running.ask("snapshot")["self_test"]["masters"]["found"] == 6
            else:
                alarm = running.open_alarm("golden.missed")
                assert "known defects are missed" in alarm["message"]
                running.until_state("Error")
                assert running.ask("snapshot")["streams"][0]["last"] == 0
    finally:
        process.kill()
        process.communicate()
