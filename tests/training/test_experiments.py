"""The comparison of methods: a small one from beginning to end, and its parts."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from inspectd.errors import ConfigError, DatasetError
from inspectd.training.experiments.cells import METRICS, Cell
from inspectd.training.experiments.methods import compare_methods, table
from inspectd.training.experiments.simulation import ExperimentSettings
from inspectd.training.experiments.tasks import run_tasks
from inspectd.training.experiments.variants import Variant
from inspectd.training.files import locked
from inspectd.training.segmentation.results import read_evaluation
from inspectd.training.segmentation.settings import SegmentSettings

SEGMENT = {
    "backbone": "slim",
    "height": 96,
    "width": 96,
    "batch": 2,
    "steps": 2,
    "precision": "32-true",
    "roles": ("ref", "free", "simulated"),
}


def test_names_say_what_is_compared():
    assert Variant.of("dst").varied
    assert not Variant.of("dst-varied").varied
    assert not Variant.of("cutpaste").varied
    assert Variant.of("cutpaste+varied").varied
    found = Variant.of("dst:style_target=ring;loss.weights.hist=0;epochs=2+varied")
    assert (found.base, found.varied) == ("dst", True)
    assert found.changes == {"style_target": "ring", "loss": {"weights": {"hist": 0}}, "epochs": 2}
    assert Variant.of("dst").networks == Variant.of("dst-varied").networks
    assert Variant.of("dst").folder != Variant.of("dst-varied").folder
    with pytest.raises(ConfigError, match="expected only-real, dst-paper or one of dst, cyclegan, histmatch"):
        Variant.of("gan")
    with pytest.raises(ConfigError, match="only dst, dst-paper and cyclegan have settings"):
        Variant.of("cutpaste:epochs=2")


def test_methods_are_compared_and_a_second_run_does_nothing_again(parts, vgg_file, tmp_path):
    methods = ("only-real", "cutpaste", "dst", "dst-varied", "cyclegan")
    settings = ExperimentSettings(
        seeds=2,
        count=4,
        dst={"vgg": str(vgg_file), "channels": 4, "blocks": 1, "epochs": 1, "pictures": 2, "batch": 2},
        cyclegan={"channels": 4, "blocks": 1, "epochs": 1, "pictures": 2, "batch": 2},
        segment=SegmentSettings(**SEGMENT),
    )
    seen, tables = [], {}

    def progress(what, done, total):
        seen.append((what, done, total))
        if what == "training" and (tmp_path / "out" / "report.md").exists():
            tables[done] = (tmp_path / "out" / "report.md").read_text()

    text = compare_methods(parts, tmp_path / "out", settings, methods, progress=progress)
    assert tables[2].splitlines()[-1].startswith("| only-real | 0."), "the first training's, when the second ends"
    assert " (1) |" in tables[2]
    assert seen[-1] == ("training", 10, 10)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows] == ["method", *methods]
    assert "±" in rows[1]
    assert "**" in text
    figures = json.loads((tmp_path / "out" / "report.json").read_text())["figures"]
    assert {len(results) for results in figures.values()} == {2}
    lists = {(tmp_path / "out" / "simulated" / name / "placements.jsonl").read_bytes() for name in ("cutpaste", "dst")}
    assert len(lists) == 1, "the same places for every method"
    assert sorted(path.name for path in (tmp_path / "out" / "networks").iterdir()) == ["cyclegan", "dst"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob(METRICS)}
    some = {"dst": [read_evaluation(path) for path in before if path.parent.name.startswith("dst-")][:1]}
    assert " (1) | " in table("parts", settings, some), "one of two seeds"
    assert len(before) == 10
    assert compare_methods(parts, tmp_path / "out", settings, methods) == text
    assert "| poisson |" in compare_methods(parts, tmp_path / "out", settings, ("poisson", *methods))
    with pytest.raises(DatasetError, match="an experiment with another roles"):
        compare_methods(parts, tmp_path / "out", settings.model_copy(update={"roles": ("test",)}), methods)
    with pytest.raises(ConfigError, match=r"method 'dst:epoch=2': epoch: .*"):
        compare_methods(parts, tmp_path / "new", settings, ("dst:epoch=2",))
    assert not (tmp_path / "new").exists(), "faults in the settings come before any work"
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_two_processes_share_an_experiment_and_a_killed_one_leaves_its_cell(parts, tmp_path):
    """Nothing is trained twice, and what a killed process had begun is gone on with."""
    out = tmp_path / "out"
    command = [
        *(sys.executable, "-m", "inspectd.training.cli", "experiment", "methods", str(parts), "--out", str(out)),
        *("--methods", "only-real,cutpaste", "--seeds", "2", "--count", "4", "--steps", "30", "--batch", "2"),
        *("--size", "96", "--accelerator", "cpu"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(out.glob("cells/*/training/log.csv")):
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    second = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while len(list(out.glob("cells/*/training/log.csv"))) < 2:
        assert second.poll() is None, second.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    table, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert table.decode() == (out / "report.md").read_text() + "\n"
    assert len(list(out.glob(f"cells/*/{METRICS}"))) == 4
    for log in out.glob("cells/*/training/log.csv"):
        steps = [int(line.partition(",")[0]) for line in log.read_text().splitlines()[1:]]
        assert steps == list(range(1, 31)), log


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_cell_that_another_process_holds_is_waited_for(parts, tmp_path, jobs):
    settings = SegmentSettings(**SEGMENT | {"roles": ("ref", "free")})
    cells = [
        Cell(tmp_path / str(seed), parts, parts, ("test", "ok_test"), settings.model_copy(update={"seed": seed}), "cpu")
        for seed in range(3)
    ]
    cells[1].folder.mkdir()
    seen, left = [], threading.Event()

    def progress(done, total):
        seen.append((done, total))
        if done == 2:
            assert not cells[1].done
            left.set()

    def hold(ready):
        with locked(cells[1].folder):
            ready.set()
            left.wait(120)

    ready = threading.Event()
    holder = threading.Thread(target=hold, args=(ready,))
    holder.start()
    assert ready.wait(10)
    try:
        run_tasks(cells, jobs=jobs, progress=progress)
    finally:
        left.set()
        holder.join()
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert all(cell.done for cell in cells)


def test_a_folder_that_cannot_be_locked_is_an_error_and_nothing_to_wait_for(parts, tmp_path, monkeypatch):
    def none(_file, _operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", none)
    cell = Cell(tmp_path / "cell", parts, parts, ("test",), SegmentSettings(**SEGMENT), "cpu")
    with pytest.raises(ConfigError, match="cell: cannot be locked: No locks available; name a folder on another disk"):
        run_tasks([cell], jobs=1)
