"""Each benchmark runs on tiny sizes, and its figures hold together."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import pytest
from onnx import helper, parser

from inspectd.bundle import (
    CARD_KEY,
    GOLDEN,
    MODEL,
    PARITY,
    Golden,
    GoldenSample,
    ModelCard,
    encode_png,
    write_bundle,
)
from inspectd.buttons import DEFECTS, LINES
from inspectd.preprocess import Preprocess

ROOT = Path(__file__).resolve().parents[1]
SIZE = 64

# Bright red pixels are a defect: a network that costs next to nothing.
GRAPH = """
<ir_version: 9, opset_import: ["" : 18]>
red (uint8[N,64,64,3] images, float[1] thresholds)
    => (uint8[N,64,64] labels, uint8[N,64,64] confidence, float[N,1] scores)
{
    first = Constant <value_int = 0> ()
    pixels = Constant <value_ints = [1, 2]> ()
    classes = Constant <value_ints = [1]> ()
    white = Constant <value_float = 255.0> ()
    confidence = Gather <axis = 3> (images, first)
    values = Cast <to = 1> (confidence)
    probability = Div (values, white)
    over = GreaterOrEqual (probability, thresholds)
    labels = Cast <to = 2> (over)
    highest = ReduceMax <keepdims = 0> (probability, pixels)
    scores = Unsqueeze (highest, classes)
}
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    sample = GoldenSample(input="golden/0.png", labels="golden/0-labels.png", scores=(0.0,))
    card = ModelCard(
        name="red",
        classes=("red",),
        preprocess=Preprocess(height=SIZE, width=SIZE),
        thresholds=(0.9,),
        network={},
        provenance={},
    )
    model = parser.parse_model(GRAPH)
    helper.set_model_props(model, {CARD_KEY: card.model_dump_json()})
    files = {
        MODEL: model.SerializeToString(),
        PARITY: b'{"checks": []}',
        GOLDEN: Golden(samples=(sample,), thresholds=(0.9,)).model_dump_json().encode(),
        sample.input: encode_png(picture),
        sample.labels: encode_png(picture[..., 0]),
    }
    path = tmp_path_factory.mktemp("benchmarks") / "bundle"
    write_bundle(path, card, files, version="test")
    return path


def benchmarks(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def figures(name: str, *arguments: str | Path, json_file: Path) -> dict[str, Any]:
    done = benchmarks(name, "--size", str(SIZE), "--json", json_file, *arguments)
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(json_file.read_text())
    assert set(found) == {"machine", name}
    assert found["machine"]["cores"] >= 1
    assert ("WARNING" in done.stdout) is found["machine"]["busy"]
    values: dict[str, Any] = found[name]
    # The bound decides the exit status.
    assert values["passed"] is (done.returncode == 0)
    assert ("FAIL" in done.stdout) is (done.returncode == 1)
    return values


def check_comparison(values: dict[str, Any], *, rounds: int, bound: float) -> None:
    baseline, measured = values["baseline_ms"], values["measured_ms"]
    assert len(baseline) == len(measured) == rounds
    assert values["ratio"] == pytest.approx(median(measured) / median(baseline))
    assert values["spread"][0] <= values["spread"][1]
    assert values["bound"] == bound
    assert values["passed"] is (values["ratio"] <= bound)


def test_station(bundle: Path, tmp_path: Path) -> None:
    arguments = ("--bundle", bundle, "--repeats", "2", "--frames", "9", "--threads", "1", "--state", tmp_path)
    values = figures("station", *arguments, json_file=tmp_path / "out.json")
    check_comparison(values, rounds=2, bound=1.15)
    assert not list(tmp_path.glob("inspectd-*")), "what it wrote is left behind"


def test_messages(tmp_path: Path) -> None:
    values = figures("messages", "--repeats", "1", json_file=tmp_path / "out.json")
    assert set(values["coding"]) == {"rle8", "rle8+zlib", "png8"}
    assert all(min(its.values()) > 0 for its in values["coding"].values())
    assert all(0 < us < 1e6 for pair in values["sending_us"].values() for us in pair)
    assert values["journal"]["rows_per_s"] > 10


def test_line(bundle: Path, tmp_path: Path) -> None:
    values = figures(
        "line", "--bundle", bundle, "--repeats", "2", "--frames", "9", "--threads", "1", json_file=tmp_path / "out.json"
    )
    check_comparison(values, rounds=2, bound=1.15)
    stages = values["stages_ms"]
    assert set(stages) == {"wait", "pre", "infer", "post", "publish", "rest"}
    assert sum(ms for name, ms in stages.items() if name not in ("wait", "publish")) == pytest.approx(
        fmean(values["measured_ms"])
    )
    assert min(stages.values()) >= 0
    assert values["frames_per_s"] == pytest.approx(1000 / median(values["measured_ms"]))


def test_tiles(tmp_path: Path) -> None:
    """Without a margin the joins are seen; with one beyond the network's reach they are not."""
    values = figures("tiles", "--repeats", "1", json_file=tmp_path / "out.json")
    assert values["passed"]
    ways = values["ways"]
    assert ways["whole"]["ratio"] == 1
    assert ways["tiles, margin 0 px"]["largest_difference"] > 0.05
    differences = [way["largest_difference"] for name, way in ways.items() if name != "whole"]
    assert differences == sorted(differences, reverse=True)
    assert all(min(way["s"]) > 0 for way in ways.values())


def test_matte(tmp_path: Path) -> None:
    values = figures("matte", "--repeats", "2", "--size", "128", json_file=tmp_path / "out.json")
    assert set(values["lines"]) == set(LINES)
    for found in values["lines"].values():
        assert set(found) == set(DEFECTS)
        assert {len(each["share"]) for each in found.values()} == {2}
        assert all(0.2 < fmean(each["strength"]) < 1.5 for each in found.values())


def test_edges(parts: Path, tmp_path: Path) -> None:
    data, simulated = tmp_path / "data", tmp_path / "simulated"
    shutil.copytree(parts, data)
    shown = ("edges", "--simulated", simulated, "--data", data)
    command = [sys.executable, "-m", "inspectd.training.cli", "simulate", str(data), "--out", str(simulated)]
    made = subprocess.run([*command, "--method", "cutpaste", "--count", "6"], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    refused = benchmarks(*shown)
    assert (refused.returncode, "is not of `inspectd-train buttons`" in refused.stderr) == (2, True)
    rendered = [
        {"image": f"images/ref-{number}.png", "line": LINES[0], "defect": DEFECTS[number], "seed": number}
        for number in range(3)
    ]
    note = {"size_px": 96, "parts": rendered}
    (data / "provenance.json").write_text(json.dumps(note))
    values = figures(*shown, json_file=tmp_path / "figures.json")["edges"]
    assert {name: of["parts"] for name, of in values.items()} == {
        f"{defect}, {what}": count for defect in DEFECTS[:3] for what, count in (("rendered", 1), ("simulated", 2))
    }
    for name, of in values.items():
        _, inner, outer, *far = of["shares"]
        assert inner > outer >= far[-1], name
    rendered[0]["seed"] += 1
    (data / "provenance.json").write_text(json.dumps(note))
    refused = benchmarks(*shown)
    assert (refused.returncode, "is not what is rendered now" in refused.stderr) == (2, True)
    split = simulated / "split.csv"
    split.write_text("".join(line for line in split.read_text().splitlines(keepends=True) if "/00005-" not in line))
    refused = benchmarks(*shown)
    assert (refused.returncode, "has no sample 5, a " in refused.stderr) == (2, True)
    refused = benchmarks("edges")
    assert (refused.returncode, "needs --simulated and --data" in refused.stderr) == (2, True)


def test_a_line_without_its_bundle_is_refused(tmp_path: Path) -> None:
    done = benchmarks("line", "--bundle", tmp_path / "absent")
    assert done.returncode == 2
    assert "no such bundle" in done.stderr
    assert "Traceback" not in done.stderr


def test_training(tmp_path: Path) -> None:
    values = figures(
        *("training", "--repeats", "2", "--steps", "2", "--batch", "2", "--accelerator", "cpu"),
        json_file=tmp_path / "out.json",
    )
    check_comparison(values, rounds=2, bound=1.10)
    recipe, bare = values["phases_ms"]["recipe"], values["phases_ms"]["bare"]
    assert min(*recipe.values(), *bare.values()) > 0
    # Only the recipe draws and augments its batches.
    assert recipe["feed"] > 10 * bare["feed"]
    assert sum(recipe.values()) == pytest.approx(fmean(values["measured_ms"]))
    assert sum(bare.values()) == pytest.approx(fmean(values["baseline_ms"]))
    # Both run the network.
    for phase in ("forward", "backward", "optimiser"):
        assert recipe[phase] > 0.01 * sum(recipe.values())
        assert bare[phase] > 0.01 * sum(bare.values())


@pytest.mark.slow  # it renders a dataset and trains nine networks, for a moment each
def test_dst(tmp_path: Path) -> None:
    arguments = ("dst", "--repeats", "1", "--steps", "2", "--size", "128", "--accelerator", "cpu")
    values = figures(*arguments, json_file=tmp_path / "out.json")
    assert len(values["windows_per_s"]) == len(values["generated_per_s"]) == 1
    assert min(values["windows_per_s"][0], values["generated_per_s"][0], values["placing_s"]) > 0
    assert values["training_s"] == pytest.approx(2380 * (1 / values["windows_per_s"][0] + values["placing_s"]))


def test_engines(tmp_path: Path) -> None:
    arguments = ("--backbone", "slim", "--repeats", "2", "--threads", "1")
    engines = figures("engines", *arguments, json_file=tmp_path / "figures.json")["engines"]
    names = ["torch fp32", "ONNX Runtime fp32", "ONNX Runtime int8", "OpenVINO fp32", "OpenVINO int8"]
    for size in (SIZE, 2 * SIZE):
        assert {f"{name}, {size} px" for name in names} <= set(engines)
    assert all(len(its["ms"]) == 2 and min(its["ms"]) > 0 for its in engines.values())
    assert engines[f"torch fp32, {SIZE} px"]["times_as_fast"] == 1.0
    for name, its in engines.items():
        base = engines[f"torch fp32, {name.partition(', ')[2]}"]
        assert its["times_as_fast"] == pytest.approx(median(base["ms"]) / median(its["ms"]))


def test_painter(tmp_path: Path) -> None:
    painters = figures("painter", "--repeats", "2", json_file=tmp_path / "figures.json")["painters"]
    for size in (64, SIZE, 2 * SIZE):
        assert {f"{name}, {size} px" for name in ("torch fp32", "ONNX Runtime fp32", "OpenVINO fp32")} <= set(painters)
    for its in painters.values():
        assert its["windows_a_second"] == pytest.approx(8000 / median(its["ms"]))


def test_render(tmp_path: Path) -> None:
    values = figures("render", "--repeats", "1", json_file=tmp_path / "out.json")
    times = [ms for kind in ("good_ms", "defective_ms") for group in values[kind].values() for ms in group]
    assert len(times) == 12
    assert values["median_ms"] == pytest.approx(median(times))
    assert 0 < values["spread_ms"][0] <= values["median_ms"] <= values["spread_ms"][1]


def test_rounds_come_in_turns_and_a_ratio_above_the_bound_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.measure import Comparison, compare

    order = []

    def take(name: str, ms: float) -> float:
        order.append(name)
        return ms

    slow = compare(lambda: take("A", 2.0), lambda: take("B", 3.0), rounds=3, bound=1.4)
    assert order == ["A", "B", "B", "A", "A", "B"]
    assert (slow.ratio, slow.spread, slow.passed) == (1.5, (1.5, 1.5), False)
    assert "FAIL" in slow.text()
    uneven = Comparison((10.0, 10.0, 10.0), (10.0, 11.0, 14.0), bound=1.15)
    assert uneven.passed
    assert math.isclose(uneven.ratio, 1.1)
    assert "within the spread" in uneven.text()
    for baseline, measured in (((), ()), ((1.0,), ()), ((0.0,), (1.0,))):
        with pytest.raises(ValueError, match=r"round"):
            Comparison(baseline, measured, bound=1.0)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_sight(tmp_path: Path) -> None:
    cameras = figures("sight", "--repeats", "1", json_file=tmp_path / "figures.json")["cameras"]
    assert cameras["as it was, 1"]["missed"] == 0
    assert cameras["covered: level 3"]["found"] < cameras["blurred by 2 px"]["found"] < cameras["as it was, 1"]["found"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_faults_at_random_for_ten_minutes():
    """No wrong picture, no part twice, every frame accounted for; what `python -m benchmarks faults` prints."""
    from benchmarks import faults

    report = faults.run(minutes=10, seed=0)
    assert report.passed, report.text
