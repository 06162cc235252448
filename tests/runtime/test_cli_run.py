"""`inspectd run`, `check` and `demo` as a user starts them."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

from inspectd.errors import CameraError
from inspectd.runtime.messaging import Subscriber
from inspectd.runtime.simcam import producer_path
from inspectd.wire import Message, MessageType

from .conftest import finish, inspectd, picture, run_inspectd, summary_of

ROOT = Path(__file__).resolve().parents[2]
FOLDER = 'source = "folder"\npath = "pictures"'


def test_a_folder_gives_one_verdict_per_picture(write_config, pictures):
    status, out, err = run_inspectd("run", write_config(FOLDER))
    summary = summary_of(out)
    assert status == 0, err
    assert (summary["frames"], summary["verdicts"], summary["ok"], summary["ng"]) == (10, 10, 5, 5)
    assert (summary["review"], summary["not_inspected"], summary["dropped"]) == (0, 0, 0)
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p99"]
    assert summary["fps"] > 0


def test_frames_limits_and_a_broken_picture_is_never_ok(write_config, pictures):
    good = (pictures / "part1.png").read_bytes()
    (pictures / "part1.png").write_bytes(good[: len(good) // 2])
    bitmap = cv2.imencode(".bmp", picture(defect=False))[1].tobytes()
    (pictures / "part0.bmp").write_bytes(bitmap[: len(bitmap) // 2])
    status, out, err = run_inspectd("run", write_config(FOLDER), "--frames", 6)
    summary = summary_of(out)
    assert status == 0
    assert "part1.png: truncated" in err
    assert all(line.startswith("inspectd: ") for line in err.splitlines())
    counts = {key: summary[key] for key in ("frames", "verdicts", "ok", "ng", "review", "not_inspected")}
    assert counts == {"frames": 6, "verdicts": 6, "ok": 2, "ng": 2, "review": 0, "not_inspected": 2}


def test_every_verdict_says_which_file_it_judged(write_config, pictures, tmp_path):
    (pictures / "lot 3").mkdir()
    (pictures / "part1.png").rename(pictures / "lot 3" / "ö 1.png")
    (pictures / "part2.png").write_bytes(b"no picture")
    config = write_config(FOLDER + '\npattern = "**/*.png"')
    watcher = inspectd("watch", f"ipc://{tmp_path}/pub", "--json", "--save", tmp_path / "out", "--frames", 3)
    status, _, err = run_inspectd("run", config, "--frames", 3, "--wait", 10)
    assert status == 0, err
    status, out, err = finish(watcher)
    assert status == 0, err
    rows = [json.loads(row) for row in out.splitlines()]
    assert [(row["verdict"], row["result"]["source"]) for row in rows] == [
        ("OK", "lot 3/ö 1.png"),
        ("NOT_INSPECTED", "part2.png"),
        ("OK", "part3.png"),
    ]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "cam1-000001-OK-ö_1.png",
        "cam1-000003-OK-part3.png",
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_well(write_config, pictures, tmp_path, number):
    process = inspectd("run", write_config(FOLDER + "\nloop = true\nfps = 50"))
    with Subscriber(f"ipc://{tmp_path}/pub") as subscriber:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            message = subscriber.receive(1.0)
            if isinstance(message, Message) and message.header.msg_type == MessageType.VERDICT:
                break
        process.send_signal(number)
        status, out, err = finish(process)
    summary = summary_of(out)
    assert status == 0, err
    assert "Traceback" not in err
    assert summary["frames"] == summary["verdicts"] >= 1


def test_the_viky_camera_is_watched(write_config, tmp_path):
    config = write_config(
        'source = "genicam"\nproducer = "viky"\ndevice = "2"\n'
        "features = { Width = 128, Height = 128, AcquisitionFrameRate = 50.0 }"
    )
    watcher = inspectd("watch", f"ipc://{tmp_path}/pub", "--json", "--frames", 20, "--timeout", 30)
    status, out, err = run_inspectd("run", config, "--frames", 20, "--wait", 10)
    assert status == 0, err
    summary = summary_of(out)
    assert summary["frames"] == summary["verdicts"] == 20
    status, out, err = finish(watcher)
    assert status == 0, err
    verdicts = [json.loads(line) for line in out.splitlines()]
    assert [verdict["seq"] for verdict in verdicts] == list(range(1, 21))
    assert all("simulated" in verdict["flags"] for verdict in verdicts)
    assert all((verdict["mask"]["width"], verdict["mask"]["height"]) == (128, 128) for verdict in verdicts)


@pytest.mark.parametrize("page", ["README.md", "deploy/config/folder.toml"])
def test_in_the_order_of_the_page_no_verdict_of_a_short_folder_is_lost(write_config, pictures, tmp_path, page):
    (options,) = re.findall(r"inspectd run +\S+\.toml(.*) &", (ROOT / page).read_text())
    line = inspectd("run", write_config(FOLDER), *options.split())
    time.sleep(2)
    status, out, err = run_inspectd("watch", f"ipc://{tmp_path}/pub", "--json", "--frames", 10)
    assert (status, err) == (0, "")
    assert [json.loads(row)["seq"] for row in out.splitlines()] == list(range(1, 11))
    assert finish(line)[0] == 0


def tampered(bundle_path: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "tampered"
    shutil.copytree(bundle_path, copy)
    model = bytearray((copy / "model.onnx").read_bytes())
    model[-1] ^= 1
    (copy / "model.onnx").write_bytes(model)
    return copy


def test_a_tampered_bundle_is_refused(write_config, pictures, bundle_path, tmp_path):
    status, out, err = run_inspectd("run", write_config(FOLDER), "--bundle", tampered(bundle_path, tmp_path))
    assert (status, out) == (2, "")
    assert err.startswith("inspectd: error: ")
    assert "model.onnx was changed after export" in err


@pytest.mark.parametrize(
    "case",
    [
        ({"thresholds": [0.999]}, "thresholds ([0.999], exported [0.6])"),
        ({"classes": ["dust"]}, "classes (['dust'], exported ['bright'])"),
        ({"preprocess": {"colour": "bgr"}}, "preprocess.colour ('bgr', exported 'rgb')"),
        ({"preprocess": {"fill": 128}}, "preprocess.fill (128, exported 0)"),
    ],
)
def test_an_edited_card_is_refused(write_config, pictures, bundle_path, tmp_path, case):
    change, named = case
    copy = tmp_path / "edited"
    shutil.copytree(bundle_path, copy)
    content = json.loads((copy / "bundle.json").read_text())
    for name, value in change.items():
        content["card"][name] = content["card"][name] | value if isinstance(value, dict) else value
    (copy / "bundle.json").write_text(json.dumps(content))
    for command in ("run", "check"):
        status, out, err = run_inspectd(command, write_config(FOLDER), "--bundle", copy)
        assert status == 2
        assert "verdicts" not in out
        (error,) = [line for line in err.splitlines() if line.startswith("inspectd: error: ")]
        assert "was changed after export" in error
        assert named in error


def test_a_port_in_use_is_told(write_config, pictures, tmp_path):
    config = write_config(FOLDER + "\nloop = true\nfps = 50")
    first = inspectd("run", config)
    try:
        with Subscriber(f"ipc://{tmp_path}/pub") as subscriber:
            assert isinstance(subscriber.receive(30.0), Message)
        same = run_inspectd("run", config)
        text = config.read_text()
        config.write_text(text.replace('name = "test"', 'name = "test"\nstate_dir = "other"'))
        other = run_inspectd("run", config)
    finally:
        first.terminate()
        finish(first)
    assert same[:2] == other[:2] == (2, "")
    assert "state_dir" in same[2]
    assert "another line is running with it" in same[2]
    assert "in use" in other[2]
    assert "publish.endpoint" in other[2]


def test_every_fault_of_a_configuration_in_a_line_each(write_config):
    config = write_config('source = "folder"\npath = "p"\nfsp = 3', "[acceptance.default]\nscore = 2")
    status, out, err = run_inspectd("run", config)
    assert (status, out) == (2, "")
    first, second = err.splitlines()
    assert first.startswith(f"inspectd: error: {config}: cameras.cam1.fsp: unknown setting; did you mean 'fps'?")
    assert second.startswith(f"inspectd: error: {config}: acceptance.default.score: expected")


def test_check_looks_at_everything(write_config, pictures):
    status, out, err = run_inspectd("check", write_config(FOLDER))
    assert (status, err) == (0, "")
    assert "self-test passed" in out
    assert "10 pictures" in out
    assert "no fault found" in out


def test_check_lists_what_the_line_would_stumble_over(write_config, tmp_path):
    status, _, err = run_inspectd(
        "check", write_config('source = "folder"\npath = "missing"', "[acceptance.classes.scratch]\nscore = 0.5")
    )
    assert status == 2
    assert "acceptance.classes.scratch: the bundle has no such class; it has bright" in err
    assert f"{tmp_path}/missing is not a folder" in err


def test_a_camera_that_is_not_there_is_told_with_those_that_are(write_config):
    status, out, err = run_inspectd(
        "run", write_config('source = "genicam"\nproducer = "viky"\ndevice = "77"\nreconnect = false')
    )
    assert (status, out) == (2, "")
    (error,) = err.splitlines()
    assert error.startswith("inspectd: error: camera 'cam1'")
    assert "not found" in error
    assert "VikyTL_DEV_green" in error


def test_every_feature_that_a_camera_refuses_is_told_and_nothing_else(write_config):
    features = '{ Widht = 128, Height = "tall", PixelFormat = "Mono8" }'
    camera = f'source = "genicam"\nproducer = "viky"\ndevice = "2"\nfeatures = {features}'
    status, out, err = run_inspectd("run", write_config(camera))
    assert (status, out) == (2, "")
    first, second = err.splitlines()
    assert "feature 'Widht' does not exist" in first
    assert "feature 'Height': 'tall' does not fit" in second


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("camera", "fault"),
    [
        ('source = "folder"\npath = "missing"', "missing is not a folder"),
        ('source = "folder"\npath = "."\npattern = "*.png"', "no picture matches '*.png'"),
        ('source = "genicam"\nproducer = "missing.cti"', "no GenTL producer at"),
        ('source = "genicam"\nproducer = "text.cti"', "text.cti: is not a GenTL producer that can be loaded"),
    ],
)
def test_run_tells_all_that_check_tells_and_nothing_else(write_config, tmp_path, command, camera, fault):
    (tmp_path / "text.cti").write_text("no library")
    config = write_config(camera, "[acceptance.classes.scratch]\nscore = 0.5")
    config.write_text(config.read_text().replace('name = "test"', 'name = "test"\nstate_dir = "/proc/nope/deeper"'))
    status, out, err = run_inspectd(command, config)
    assert status == 2
    assert command == "check" or not out
    first, second, third = err.splitlines()
    assert first.startswith("inspectd: error: /proc/nope/deeper/epoch: the count of starts cannot be kept")
    assert "acceptance.classes.scratch: the bundle has no such class; it has bright" in second
    assert fault in third


def test_check_leaves_no_trace(write_config, pictures, tmp_path):
    config = write_config(FOLDER)
    config.write_text(config.read_text().replace('name = "test"', 'name = "test"\nstate_dir = "new/state"'))
    before = sorted(tmp_path.rglob("*"))
    assert run_inspectd("check", config)[0] == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_signal_ends_the_wait_for_a_subscriber_in_good_order(write_config, pictures, tmp_path):
    process = inspectd("run", write_config(FOLDER), "--wait", 30)
    for line in process.stderr:
        if "judging by" in line:
            break
    time.sleep(0.5)
    process.terminate()
    status, out, err = finish(process, 10)
    assert status == 0, err
    assert summary_of(out)["frames"] == 0


def catches(process: subprocess.Popen[str], number: int) -> bool:
    """Whether the process has a handler for a signal: from then on it is ours, before that Python's start."""
    (mask,) = re.findall(r"^SigCgt:\t([0-9a-f]+)$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("after_s", [0, 0.1, 0.25, 0.5, 0.8])
def test_a_signal_during_the_start_is_no_failure(write_config, pictures, number, after_s):
    process = inspectd("run", write_config(FOLDER), "--wait", 30)
    while not catches(process, signal.SIGTERM):
        time.sleep(0.001)
    time.sleep(after_s)
    process.send_signal(number)
    status, _, err = finish(process, 10)
    assert status == 0, err
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_demo_renders_ahead_is_no_failure(tmp_path, monkeypatch, number):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    process = inspectd("demo", "--endpoint", f"ipc://{tmp_path}/pub")
    for line in process.stderr:
        if "rendering" in line:
            break
    process.send_signal(number)
    status, out, err = finish(process, 20)
    assert (status, out) == (0, "")
    assert err == "inspectd: stopped before the line had started\n"


def test_a_second_signal_ends_the_line_at_once(write_config, pictures, tmp_path):
    script = """
import signal, sys, time
from inspectd.runtime.signals import stopping, while_starting
while_starting()
with stopping(lambda: print("stopping", flush=True)):
    print("running", flush=True)
    time.sleep(30)
    time.sleep(30)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "stopping\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 128 + signal.SIGTERM
    process.stdout.close()


def test_the_demo_names_an_impossible_endpoint():
    status, out, err = run_inspectd("demo", "--endpoint", "nowhere")
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("inspectd: error: --endpoint: expected tcp://HOST:PORT")


def test_help_is_quick_and_loads_nothing_heavy():
    script = """
import sys
sys.argv = ["inspectd", "--help"]
from inspectd.runtime.cli import main
try:
    main()
except SystemExit:
    pass
print([name for name in ("numpy", "cv2", "zmq", "onnxruntime", "pydantic", "harvesters") if name in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
    for command in ("run", "check", "demo", "watch"):
        assert f"  {command}" in out


def simulator_is_built() -> bool:
    try:
        producer_path()
    except CameraError:
        return False
    return True


def test_the_demo_runs_a_line_with_or_without_the_simulated_camera(bundle_path, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    status, out, err = run_inspectd(
        "demo", "--frames", 8, "--fps", 30, "--bundle", bundle_path, "--endpoint", f"ipc://{tmp_path}/pub"
    )
    summary = summary_of(out)
    assert status == 0, err
    assert summary["frames"] == summary["verdicts"] == 8
    assert "the subscriber received 8 verdicts and 8 masks of 8 parts" in err
    if simulator_is_built():
        assert "verdicts agree with what was rendered" in err
        assert err.count("[rendered: ") == 8
    else:
        assert "was not built" in err


def test_a_demo_that_is_slower_than_its_camera_says_how_long_parts_waited(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    status, _, err = run_inspectd("demo", "--frames", 40, "--fps", 1000, "--endpoint", f"ipc://{tmp_path}/pub")
    assert status == 0, err
    (told,) = [line for line in err.splitlines() if "slower than the camera" in line]
    assert re.search(r"on average a part waited \d+ ms", told)
    status, _, err = run_inspectd("demo", "--frames", 4, "--fps", 2, "--endpoint", f"ipc://{tmp_path}/pub")
    assert status == 0, err
    assert "slower than the camera" not in err
