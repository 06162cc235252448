"""`inspectd camera` against real GenTL producers: the test cameras of genicam, the simulated one, and broken ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from inspectd.errors import CameraError, ConfigError
from inspectd.runtime.simcam.feed import FrameFeed
from inspectd.runtime.snapshot import Picture
from inspectd.runtime.sources.features import feature_values
from inspectd.runtime.sources.survey import FoundCamera, find_camera, survey

from .conftest import run_inspectd

VIKY = ("--producer", "viky")


def camera(*arguments: object) -> tuple[int, str, str]:
    status, out, err = run_inspectd("camera", *arguments)
    assert "Traceback" not in err
    return status, out, err


def library(path: Path, source: str) -> Path:
    """A library that is loaded like a producer."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler; apt install gcc")
    subprocess.run([compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", path], input=source, text=True, check=True)
    return path


@pytest.fixture
def crashing(tmp_path):
    return library(
        tmp_path / "crash.cti", "#include <stdlib.h>\n__attribute__((constructor)) static void f(void){abort();}"
    )


@pytest.fixture
def hanging(tmp_path):
    return library(
        tmp_path / "hang.cti",
        "#include <unistd.h>\n__attribute__((constructor)) static void f(void){for(;;) pause();}",
    )


@pytest.fixture
def feed(tmp_path, monkeypatch):
    """A feed of a simulated camera named `line`, 50 x 40 px, RGB8."""
    path = tmp_path / "line.feed"
    monkeypatch.setenv("INSPECTD_SIM_FEED", str(path))
    with FrameFeed(path, 50, 40, slots=6) as open_feed:
        yield open_feed


@pytest.mark.parametrize(
    ("fault", "words", "remedy"),
    [
        # As genicam ends on a Debian that has `python3` alone.
        (
            'ImportError("libpython3.11.so.1.0: cannot open shared object file: No such file or directory")',
            "which are installed and cannot be loaded (libpython3.11.so.1.0: cannot open",
            "; sudo apt install libpython3.11",
        ),
        ('ImportError("no such ABI")', "cannot be loaded (no such ABI)", "; pip install --force-reinstall harvesters"),
        (
            "ModuleNotFoundError(\"No module named 'genicam'\")",
            "need harvesters and genicam (No module named 'genicam')",
            "; install them: pip install harvesters genicam",
        ),
    ],
)
def test_what_is_the_matter_with_the_packages_of_cameras_is_told_with_its_remedy(
    tmp_path, monkeypatch, fault, words, remedy
):
    (tmp_path / "genicam.py").write_text(f"raise {fault}\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    status, out, err = camera("snap", "any", *VIKY, "--out", tmp_path / "snap.png")
    assert (status, out) == (2, "")
    assert words in err
    assert remedy in err


# list


def test_every_producer_has_its_line_whatever_is_wrong_with_it(crashing, monkeypatch):
    monkeypatch.setenv("GENICAM_GENTL64_PATH", os.pathsep.join(["/nowhere", str(crashing.parent), ""]))
    status, out, _ = camera("list", *VIKY, "--producer", "/nowhere/maker.cti")
    assert status == 0
    out = " ".join(out.split())  # long paths are folded
    assert "VikyTL_DEV_green" in out
    assert "free" in out
    assert "crashed (SIGABRT)" in out
    assert "no GenTL producer at /nowhere/maker.cti" in out


def test_the_list_as_json(feed):
    status, out, _ = camera("list", *VIKY, "--producer", "simulator", "--json")
    viky, simulator = json.loads(out)
    assert status == 0
    assert [found["serial"] for found in viky["cameras"]] == ["0", "1", "2"]
    (found,) = simulator["cameras"]
    assert (found["model"], found["serial"], found["id"], found["user_name"], found["state"]) == (
        *("FeedCamera", "line", "sim:line", "line"),
        "free",
    )


def test_a_producer_that_hangs_is_ended(hanging):
    (answer,) = survey([str(hanging)], time_limit_s=2)
    assert "did not answer within 2 s" in answer.fault
    assert not answer.cameras


def test_a_producer_named_twice_is_asked_once(monkeypatch):
    (answer,) = survey(["viky", "viky"])
    assert len(answer.cameras) == 3
    (same,) = survey(["viky"], environment={"GENICAM_GENTL64_PATH": str(Path(answer.producer).parent)})
    assert same == answer


def test_a_library_that_is_no_producer(tmp_path):
    (answer,) = survey([str(library(tmp_path / "other.cti", "int other(void){return 1;}"))])
    assert "is a library, but no GenTL producer" in answer.fault


def test_no_producer_at_all(monkeypatch):
    monkeypatch.delenv("GENICAM_GENTL64_PATH", raising=False)
    status, _, err = camera("list")
    assert status == 2
    assert "GENICAM_GENTL64_PATH" in err
    with pytest.raises(CameraError, match="no GenTL producer is known"):
        find_camera("1", (), {})


# info


def test_what_a_camera_can_do():
    status, out, _ = camera("info", "VikyTL_DEV_green", *VIKY, "--all")
    assert status == 0
    assert "RGBa8 (sent now)" in out
    assert "AcquisitionFrameRate = 20.0 Hz, a number from 1.0 to 200.0 Hz" in out
    assert "BouncingBallSize" in out
    assert "connect" not in out


def test_what_a_camera_can_do_as_json(feed):
    status, out, _ = camera("info", "line", "--producer", "simulator", "--json")
    told = json.loads(out)
    assert status == 0
    assert told["formats"] == [
        {"name": "RGB8", "readable": True, "current": True},
        {"name": "BayerRG8", "readable": True, "current": False},
    ]
    assert (told["width"]["value"], told["width"]["maximum"], told["width"]["writable"]) == (50, 50, True)
    assert told["trigger_sources"]["choices"] == ["Software", "Line1"]
    assert (told["exposure"]["value"], told["exposure"]["unit"]) == (5000.0, "us")
    assert "features" not in told


def test_a_camera_that_is_not_there():
    status, out, err = camera("info", "77", *VIKY)
    assert (status, out) == (2, "")
    assert "camera '77': not found; there are: Viky [0 | VikyTL_DEV_red]" in err


def test_one_name_for_two_cameras(tmp_path):
    (viky,) = survey(["viky"])
    copy = tmp_path / "viky.cti"
    shutil.copy(viky.producer, copy)
    with pytest.raises(CameraError, match="several are called so"):
        find_camera("1", ["viky", str(copy)], {})


def test_a_camera_that_is_held_elsewhere(feed):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys\n"
            "from inspectd.runtime.sources.survey import find_camera\n"
            "from inspectd.runtime.sources.features import opened\n"
            "with opened(find_camera('line', ['simulator'], {})):\n"
            "    print('held', flush=True)\n"
            "    sys.stdin.read()\n",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        status, _, err = camera("info", "line", "--producer", "simulator")
        holder.stdin.close()
    assert holder.returncode == 0
    assert status == 2
    assert "in use by another program" in err
    assert camera("info", "line", "--producer", "simulator")[0] == 0


# snap


def test_a_snapshot_is_what_the_line_sees(feed, tmp_path):
    part = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    for number in (1, 2):
        assert feed.put(part // number, 1.0)
    out = tmp_path / "part.png"
    status, said, err = camera(
        *("snap", "line", "--producer", "simulator", "--out", out),
        *("--count", 2, "--set", "AcquisitionFrameRate=50"),
    )
    assert (status, err) == (0, "")
    assert f"part-1.png: 50 x 40 px, RGB, mean grey value {part.mean():.1f}" in said
    for number in (1, 2):
        written = cv2.imread(str(tmp_path / f"part-{number}.png"))[..., ::-1]
        np.testing.assert_array_equal(written, part // number)


def test_a_snapshot_in_another_format(tmp_path):
    out = tmp_path / "grey.png"
    status, said, _ = camera("snap", "1", *VIKY, "--out", out, "--set", "PixelFormat=Mono8", "--set", "Width=0x80")
    assert status == 0
    assert "128 x 400 px, grey" in said
    assert cv2.imread(str(out), cv2.IMREAD_UNCHANGED).shape == (400, 128)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--out", "part.jpg"], "expected a name ending in .png"),
        (["--out", "/nowhere/part.png"], "there is no folder /nowhere"),
        (["--out", "part.png", "--set", "Width"], "expected NAME=VALUE"),
        (["--out", "part.png", "--set", "Width=3"], "3 is out of range; expected a whole number from 100 to 800"),
    ],
)
def test_snapshots_that_cannot_be(arguments, complaint):
    status, _, err = camera("snap", "1", *VIKY, *arguments)
    assert status == 2
    assert complaint in err


def test_a_silent_camera_is_given_up(feed, tmp_path):
    """Nothing passes it."""
    arguments = ("snap", "line", "--producer", "simulator", "--out", tmp_path / "p.png", "--timeout", 0.5)
    status, _, err = camera(*arguments)
    assert status == 2
    assert "no frame for 0.5 s" in err
    status, _, err = camera(*arguments, "--set", "TriggerMode=On")
    assert status == 2
    assert "waits for a trigger (TriggerMode is On)" in err


def test_saturated_pixels_are_told():
    pixels = np.full((10, 100, 3), 100, np.uint8)
    assert not Picture.of(pixels).warning
    pixels[0, 0, 1] = 255
    assert "0.1% of the pixels are saturated" in Picture.of(pixels).warning
    assert str(Picture.of(pixels[..., :1])) == "100 x 10 px, grey, mean grey value 100.0"


# set


def test_features_are_set_and_read_back():
    status, out, err = camera("set", "0", *VIKY, "Width=200", "PixelFormat=Mono8", "AcquisitionFrameRate=50")
    assert (status, err) == (0, "")
    assert out.splitlines()[:3] == [
        *("Width: 400 -> 200", "PixelFormat: RGBa8 -> Mono8"),
        "AcquisitionFrameRate: 20.0 -> 50.0",
    ]
    assert "until the camera's power cycle" in out


def test_every_refusal_is_told_with_what_is_expected():
    status, out, err = camera(
        *(
            "set",
            "0",
            *VIKY,
            "Width=3",
            "Height=200.5",
            "Widht=200",
            "PixelFormat=Mono12",
            "Height=tall",
            "PayloadSize=1",
        ),
        *("Root=1", "EventGameProgress=1", "connect=1", "ChunkEnable=maybe", "AcquisitionFrameRate=nan", "Height=200"),
    )
    assert status == 2
    assert out == "Height: 400 -> 200\n"
    complaints = (
        *(
            "3 is out of range; expected a whole number from 100 to 800",
            "200.5 does not fit; expected a whole number",
            "'Widht' does not exist; did you mean 'Width'?",
        ),
        *("expected one of RGBa8, Mono8", "tall does not fit", "'PayloadSize' cannot be written now"),
        *(
            "'Root' is a category",
            "is not available now",
            "'connect' does not exist",
            "expected true or false",
            "nan does not fit",
        ),
    )
    assert len(err.splitlines()) == len(complaints)
    for line, complaint in zip(err.splitlines(), complaints, strict=True):
        assert complaint in line


def test_a_camera_without_user_sets_is_left_as_it_is():
    status, out, err = camera("set", "0", *VIKY, "Width=200", "--save", "UserSet1")
    assert (status, out) == (2, "")
    assert "has no user sets" in err


def test_a_user_set_is_saved():
    """No producer here has user sets: stand-ins for the nodes of a camera that has."""
    script = """
import json
from inspectd.errors import CameraError
from inspectd.runtime.sources.features import save_user_set

class Node:
    def get_access_mode(self): return 4

class IEnumeration(Node):
    symbolics = ("Default", "UserSet1")
    value = "Default"
    def get_value(self, verify, ignore_cache): return self.value

class ICommand(Node):
    executed, left = 0, 3
    def execute(self): self.executed += 1
    def is_done(self):
        self.left -= 1
        return self.left < 0

class Nodes:
    def __init__(self, left):
        self.UserSetSelector, self.UserSetSave = IEnumeration(), ICommand()
        self.UserSetSave.left = left
    def get_node(self, name): return getattr(self, name)

def save(left, user_set):
    nodes, slept = Nodes(left), []
    try:
        save_user_set(nodes, user_set, camera="cam", clock=lambda: sum(slept), sleep=slept.append)
    except CameraError as error:
        return str(error)
    return [nodes.UserSetSelector.value, nodes.UserSetSave.executed, len(slept)]

print(json.dumps([save(3, "UserSet1"), save(3, "UserSet9"), save(1e9, "UserSet1")]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    saved, unknown, slow = json.loads(done.stdout)
    assert saved == ["UserSet1", 1, 3]
    assert "expected one of Default, UserSet1" in unknown
    assert "has not saved UserSet1 within 10 s" in slow


def test_values_of_a_command_line():
    values = {"A": True, "B": 12, "C": 16, "D": -1.5, "E": "Mono8", "F": "12", "G": 1000.0, "H": "a=b"}
    assert feature_values(["A=true", "B=12", "C=0x10", "D=-1.5", "E=Mono8", 'F="12"', "G=1e3", "H=a=b"]) == values
    for text in ("Width", "=3", "Width=", " = "):
        with pytest.raises(ConfigError, match="expected NAME=VALUE"):
            feature_values([text])


def test_a_camera_says_each_of_its_names_once():
    assert str(FoundCamera("p.cti", "M", "7", "id7", "7", "free")) == "M [7 | id7]"


def test_a_listing_that_is_interrupted_leaves_no_process_and_no_traceback(hanging):
    script = "from inspectd.runtime.entry import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, "camera", "list", "--producer", hanging],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 20
    while not children.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
