"""A tiny bundle that calls bright pixels a defect, pictures for it, and a line in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from inspectd.bundle import (
    CARD_KEY,
    GOLDEN,
    GUARD_CHECK,
    MODEL,
    PARITY,
    Golden,
    GoldenSample,
    ModelCard,
    encode_png,
    write_bundle,
)
from inspectd.preprocess import Preprocess
from inspectd.runtime.simcam import FEED_VARIABLE

from .camera_site import Site

SIZE = 32
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def bright_pixel_model(card: ModelCard) -> bytes:
    """`labels = mean(RGB) / 255 >= threshold`, for uint8 [N, 32, 32, 3]; the card travels in it."""
    constants = {
        "channels": np.array([3], np.int64),
        "pixels": np.array([1, 2], np.int64),
        "classes": np.array([1], np.int64),
        "white": np.array(255, np.float32),
        "nothing": np.array(0, np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["values", "channels"], ["grey"], keepdims=0),
        helper.make_node("Div", ["grey", "white"], ["probability"]),
        helper.make_node("GreaterOrEqual", ["probability", "thresholds"], ["over"]),
        helper.make_node("Cast", ["over"], ["labels"], to=TensorProto.UINT8),
        helper.make_node("Round", ["grey"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["confidence"], to=TensorProto.UINT8),
        helper.make_node("ReduceMax", ["probability", "pixels"], ["highest"], keepdims=0),
        # The guard of exported graphs, in short: what is not finite goes on into the score.
        helper.make_node("Sub", ["probability", "thresholds"], ["excess"]),
        helper.make_node("ReduceMean", ["excess", "pixels"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "nothing"], ["fault"]),
        helper.make_node("Add", ["highest", "fault"], ["guarded"]),
        helper.make_node("Unsqueeze", ["guarded", "classes"], ["scores"]),
    ]
    inputs = [
        helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIZE, SIZE, 3]),
        helper.make_tensor_value_info("thresholds", TensorProto.FLOAT, [1]),
    ]
    outputs = [
        helper.make_tensor_value_info("labels", TensorProto.UINT8, ["N", SIZE, SIZE]),
        helper.make_tensor_value_info("confidence", TensorProto.UINT8, ["N", SIZE, SIZE]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 1]),
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "bright", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {CARD_KEY: card.model_dump_json()})
    return model.SerializeToString()


def picture(*, defect: bool, side: int = 64) -> np.ndarray:
    """Dark grey, with a white square of a quarter of the side where it has a defect."""
    pixels = np.full((side, side, 3), 40, np.uint8)
    if defect:
        pixels[side // 4 : side // 2, side // 4 : side // 2] = 255
    return pixels


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "bright"
    sample = picture(defect=True, side=SIZE)
    labels = (sample[..., 0] == 255).astype(np.uint8)
    golden = Golden(
        samples=(GoldenSample(input="golden/0.png", labels="golden/0-labels.png", scores=(1.0,)),), thresholds=(0.6,)
    )
    card = ModelCard(
        name="bright pixels",
        classes=("bright",),
        preprocess=Preprocess(height=SIZE, width=SIZE),
        thresholds=(0.6,),
        network={},
        provenance={},
    )
    files = {
        MODEL: bright_pixel_model(card),
        PARITY: json.dumps({"checks": [{"name": GUARD_CHECK, "value": "", "bound": "", "passed": True}]}).encode(),
        GOLDEN: golden.model_dump_json().encode(),
        "golden/0.png": encode_png(sample),
        "golden/0-labels.png": encode_png(labels),
    }
    write_bundle(path, card, files, version="test")
    return path


def save_picture(path: Path, pixels: np.ndarray) -> None:
    done, data = cv2.imencode(path.suffix, pixels[..., ::-1])
    assert done
    path.write_bytes(data.tobytes())


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Ten pictures; those with an even number have a defect."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(1, 11):
        save_picture(folder / f"part{number}.png", picture(defect=number % 2 == 0))
    return folder


@pytest.fixture
def write_config(tmp_path: Path, bundle_path: Path):
    """Writes a configuration around a `[cameras.cam1]` table, with its own state, socket and the tiny bundle."""

    def write(camera: str, more: str = "") -> Path:
        path = tmp_path / "line.toml"
        path.write_text(
            f'[station]\nname = "test"\n\n[cameras.cam1]\n{camera}\n\n'
            f'[model]\nbundle = "{bundle_path}"\nthreads = 1\n\n'
            f'[publish]\nendpoint = "ipc://{tmp_path}/pub"\n\n{more}\n'
        )
        return path

    return write


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A place for a simulated camera."""
    monkeypatch.setenv(FEED_VARIABLE, str(tmp_path / "line.feed"))
    site = Site(tmp_path / "line.feed")
    yield site
    for grabber in site.grabbers:
        grabber.close()
    if site.feed is not None:
        site.feed.close()


def inspectd(*arguments: object, **options) -> subprocess.Popen[str]:
    """Start the command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", "from inspectd.runtime.entry import main; main()", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ONE_THREAD},
        **options,
    )


def children(number: int) -> dict[int, str]:
    """The processes that a process has started, whichever of its threads did, with their command lines."""
    found = {}
    for task in Path(f"/proc/{number}/task").iterdir():
        for child in (task / "children").read_text().split():
            with contextlib.suppress(FileNotFoundError):
                found[int(child)] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def core_of(process: subprocess.Popen[str], timeout_s: float = 20.0) -> int:
    """The process that judges, of a station that is supervised."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        cores = [child for child, command in children(process.pid).items() if "inspectd.runtime.entry" in command]
        if cores:
            return cores[0]
        time.sleep(0.02)
    pytest.fail("the station has no core")


def finish(process: subprocess.Popen[str], timeout_s: float = 60) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"did not end within {timeout_s} s:\n{out}\n{err}")
    return process.returncode, out, err


def run_inspectd(*arguments: object) -> tuple[int, str, str]:
    """Run the command to its end."""
    return finish(inspectd(*arguments))


def summary_of(out: str) -> dict:
    """The one line of JSON that a line prints."""
    (line,) = out.splitlines()
    return json.loads(line)
