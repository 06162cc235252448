"""The comparison of methods: a small one from beginning to end, and its parts."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet18

from inspectd.errors import ConfigError, DatasetError
from inspectd.simulation.placement import PlacementSettings
from inspectd.training.code import code_digest
from inspectd.training.experiments.cells import METRICS, Cell
from inspectd.training.experiments.experiment import Entry, run_experiment
from inspectd.training.experiments.methods import methods as grid_of
from inspectd.training.experiments.report import write_report
from inspectd.training.experiments.runs import run_grid
from inspectd.training.experiments.simulation import ExperimentSettings
from inspectd.training.experiments.tasks import run_tasks, tell
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


def compare_methods(data, out, settings, names, **options):
    """As the command does it, but for what is printed."""
    return run_grid(data, out, grid_of(settings, names), name=data.name, command="compare", **options)


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
    settings = settings.model_copy(update={"placement": PlacementSettings(gain=(0.9, 1.1), hue_deg=180.0)})
    seen, tables = [], {}

    def progress(what, done, total):
        seen.append((what, done, total))
        if what == "training" and (tmp_path / "out" / "report.md").exists():
            tables[done] = (tmp_path / "out" / "report.md").read_text()

    text = compare_methods(parts, tmp_path / "out", settings, methods, progress=progress)
    first = [line for line in tables[2].splitlines() if line.startswith("| only-real |")]
    assert re.match(r"\| only-real \| 0\.\d{3} \(1\) \|", first[0]), "the first training's, when the second ends"
    assert " (1) |" in tables[2]
    assert seen[-1] == ("training", 10, 10)
    head, whole, types, sizes, times = text.split("\n## ")
    for part, corner in ((whole, "method"), (types, "method"), (sizes, ""), (times, "")):
        rows = [line.split(" | ") for line in part.splitlines() if line.startswith("| ")]
        assert [row[0].removeprefix("|").strip() for row in rows] == [corner, *methods]
        if part is whole:
            header = ["| method", "pooled F1", "image F1", "recall at 1 %", "AUROC", "best F1 (a diagnosis) |"]
            assert rows[0] == header
            assert "±" in rows[1][1]
    assert types.startswith("F1 by defect type\n")
    assert re.search(r"\d+-\d* px \(\d+\)", sizes)
    assert "**" in text
    assert (
        "Networks that paint, one for each reference: dst, 3 of 1 updates from random weights, losses on a VGG-19 "
        "whose file ends early: relu3_1 for relu4_1; cyclegan, 3 of 1 updates from random weights.\n"
    ) in head
    assert "DST with vgg vgg19.safetensors, channels 4, blocks 1, epochs 1" in head
    assert "placements with gain (0.9, 1.1); " in head
    entries = json.loads((tmp_path / "out" / "report.json").read_text())["entries"]
    assert [(entry["row"], entry["column"], len(entry["seeds"])) for entry in entries] == [
        (name, "", 2) for name in methods
    ]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == 2, "the plot, and the networks at work"
    lists = {(tmp_path / "out" / "simulated" / name / "placements.jsonl").read_bytes() for name in ("cutpaste", "dst")}
    assert len(lists) == 1, "the same places for every method"
    assert sorted(path.name for path in (tmp_path / "out" / "networks").iterdir()) == ["cyclegan", "dst"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob(METRICS)}
    grid = grid_of(settings, methods)
    some = {grid.entries[2]: [read_evaluation(path) for path in before if path.parent.name.startswith("dst-")][:1]}
    half = write_report(tmp_path, "parts", grid, some, command="compare", overlays=False)
    assert " (1) | " in half, "one of two seeds"
    assert len(before) == 10
    assert compare_methods(parts, tmp_path / "out", settings, methods) == text
    assert "| poisson |" in compare_methods(parts, tmp_path / "out", settings, ("poisson", *methods))
    with pytest.raises(DatasetError, match="an experiment with another roles"):
        compare_methods(parts, tmp_path / "out", settings.model_copy(update={"roles": ("ok_test", "test")}), methods)
    with pytest.raises(ConfigError, match="Ways to simulate defects: nothing is given that could be trained"):
        compare_methods(parts, tmp_path / "new", settings, ())
    with pytest.raises(ConfigError, match=r"method 'dst:epoch=2': epoch: .*"):
        compare_methods(parts, tmp_path / "new", settings, ("dst:epoch=2",))
    assert not (tmp_path / "new").exists(), "faults in the settings come before any work"
    assert {path: path.stat().st_mtime_ns for path in before} == before


def with_roles(data, out, roles):
    """A copy of a dataset in which some roles are others; those that become None are left out."""
    shutil.copytree(data, out)
    with (data / "split.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    kept = [[*row[:3], role, *row[4:]] for row in rows if (role := roles.get(row[3], row[3])) is not None]
    with (out / "split.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *kept])
    return out


def test_real_defects_alone_are_real_ones_alone_also_where_the_data_has_simulated_ones(parts, tmp_path):
    data = with_roles(parts, tmp_path / "data", {})
    with (data / "split.csv").open("a", newline="") as file:
        for number in range(2):
            shutil.copy(data / "images" / f"test-{number}.png", data / "images" / f"simulated-{number}.png")
            csv.writer(file).writerow(
                (f"images/simulated-{number}.png", f"masks/test-{number}.png", "hole", "simulated", "")
            )
    settings = ExperimentSettings(seeds=1, count=3, segment=SegmentSettings(**SEGMENT))
    compare_methods(data, tmp_path / "out", settings, ("only-real", "cutpaste"), accelerator="cpu")
    pictures = {
        name: Cell(tmp_path / "out" / "cells" / f"{name}-0", data, data, (), settings.segment, name)
        .trained()
        .card.provenance["pictures"]
        for name in ("only-real", "cutpaste")
    }
    assert pictures == {"only-real": {"free": 6, "ref": 3}, "cutpaste": {"free": 6, "ref": 3, "simulated": 3}}


@pytest.mark.parametrize(
    ("changed", "roles", "message"),
    [
        ({}, ("tset", "ok_test"), "unknown role 'tset'; the roles are ref, free"),
        ({}, (), "no role is given to measure on"),
        (
            {},
            ("ref", "free"),
            "role 'ref' is trained on, so it tells nothing of other pictures; measure on",
        ),
        (
            {"test": None},
            ("test", "ok_test"),
            "ok_test, but no picture has the role test; there are 3 ref, 6 free",
        ),
        ({"ok_test": None}, ("test", "ok_test"), "but no picture has the role ok_test"),
        ({}, ("test",), "measured are to be test, but no picture of these is good; add some, of the role ok_test"),
        ({}, ("ok_test",), "no picture of these is defective; add labelled ones, of the role test"),
    ],
)
def test_roles_that_tell_nothing_are_refused_before_any_work(parts, tmp_path, changed, roles, message):
    data = with_roles(parts, tmp_path / "data", changed)
    settings = ExperimentSettings(seeds=1, count=3, segment=SegmentSettings(**SEGMENT), roles=roles)
    with pytest.raises((ConfigError, DatasetError), match=message):
        compare_methods(data, tmp_path / "out", settings, ("only-real",), accelerator="cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_two_processes_share_an_experiment_and_a_killed_one_leaves_its_cells(parts, tmp_path, jobs):
    """Nothing is trained twice, and what a killed process had begun, itself or by others, is gone on with."""
    out = tmp_path / "out"
    command = [
        *(sys.executable, "-m", "inspectd.training.cli", "experiment", "methods", str(parts), "--out", str(out)),
        *("--methods", "only-real,cutpaste", "--seeds", "2", "--count", "4", "--steps", "30", "--batch", "2"),
        *("--size", "96", "--accelerator", "cpu"),
    ]
    options = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    first = subprocess.Popen([*command, "--jobs", jobs], **options)
    deadline = time.monotonic() + 120
    while not list(out.glob("cells/*/training/log.csv")):
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    second = subprocess.Popen(command, **options)
    while len(list(out.glob("cells/*/training/log.csv"))) < 1 + int(jobs):
        assert second.poll() is None, second.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    table, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert table.decode() == (out / "report.md").read_text() + f"\n\n{out / 'report.html'}\n"
    assert len(list(out.glob(f"cells/*/{METRICS}"))) == 4
    for log in out.glob("cells/*/training/log.csv"):
        steps = [int(line.partition(",")[0]) for line in log.read_text().splitlines()[1:]]
        assert steps == list(range(1, 31)), log


def test_damaged_files_are_made_again(parts, tmp_path):
    """What a power cut, a full disk or a copy that was stopped leaves of them."""
    settings = ExperimentSettings(
        seeds=1,
        count=3,
        cyclegan={"channels": 4, "blocks": 1, "epochs": 1, "pictures": 2, "batch": 2},
        segment=SegmentSettings(**SEGMENT),
    )
    out, methods = tmp_path / "out", ("only-real", "cyclegan")
    text = compare_methods(parts, out, settings, methods, accelerator="cpu")
    cell, network = out / "cells" / "only-real-0", out / "networks" / "cyclegan" / "ref-0"
    times = re.compile("measured_s|training_s")
    for damaged in (
        [cell / METRICS],
        [cell / "cell.json"],
        [cell / METRICS, cell / "training" / "checkpoint.safetensors"],
        [cell / METRICS, cell / "training" / "checkpoint.safetensors", cell / "training" / "settings.json"],
        [cell / METRICS, cell / "training" / "checkpoint.safetensors", cell / "training" / "resume.pt"],
        [network / "checkpoint.safetensors"],
        [network / "checkpoint.safetensors", network / "resume.pt"],
    ):
        before = (cell / METRICS).read_text()
        for path in damaged:
            path.write_bytes(b"")
        again = compare_methods(parts, out, settings, methods, accelerator="cpu")
        # Trained again, it has another time.
        assert again.split("## Times")[0] == text.split("## Times")[0], damaged
        after = (cell / METRICS).read_text()
        assert [line for line in after.splitlines() if not times.search(line)] == [
            line for line in before.splitlines() if not times.search(line)
        ]
    # The training's own note still tells it from another, where the cell's is damaged.
    (cell / "cell.json").write_bytes(b"")
    other = replace(Cell(cell, parts, parts, (), settings.segment, "only-real"), settings=SegmentSettings(steps=7))
    with pytest.raises(DatasetError, match=r"is of another training: .*steps 2 -> 7"):
        other.check()


def test_a_network_that_cannot_paint_leaves_the_ways_that_need_none(parts, tmp_path):
    vgg, out = tmp_path / "vgg19.safetensors", tmp_path / "out"
    vgg.write_text("torn off")
    settings = ExperimentSettings(seeds=1, count=3, dst={"vgg": str(vgg)}, segment=SegmentSettings(**SEGMENT))
    methods, seen = ("dst", "only-real", "cutpaste"), []
    with pytest.raises(DatasetError, match=r"vgg19.* \(3 failed, 2 that need them were left out; the others are done"):
        compare_methods(parts, out, settings, methods, accelerator="cpu", progress=lambda *at: seen.append(at))
    assert seen[-1] == ("training", 2, 2)
    assert sorted(path.parent.name for path in out.glob(f"cells/*/{METRICS}")) == ["cutpaste-0", "only-real-0"]
    assert "| cutpaste |" in (out / "report.md").read_text()
    assert not (out / "simulated" / "dst").exists()
    # Those that are done are shown at work, also where one of them was removed since.
    page = out / "report.html"
    assert page.read_text().count('src="data:image/png;base64,') == 2
    before = cv2.imread(str(out / "figure7.png")).shape[0]
    (out / "cells" / "cutpaste-0" / "training" / "checkpoint.safetensors").unlink()
    text = compare_methods(parts, out, settings, methods[1:], accelerator="cpu")
    assert "| cutpaste |" in text
    assert cv2.imread(str(out / "figure7.png")).shape[0] < before


def test_a_report_that_cannot_be_written_stops_no_training(parts, tmp_path):
    out, called = tmp_path / "out", []
    settings = ExperimentSettings(seeds=3, count=3, segment=SegmentSettings(**SEGMENT))
    entries = [Entry("only-real", "", Variant.of("only-real"))]

    def report(_, found):
        called.append(len(found[entries[0]]))
        if called[-1] in failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "report.md")

    failing = {1, 3}
    with pytest.raises(OSError, match=r"No space left on device: 'report\.md'"):
        run_experiment(parts, out, settings, entries, report=report, accelerator="cpu")
    assert called == [1, 2, 3]
    failing = {1, 2}
    run_experiment(parts, out, settings, entries, report=report, accelerator="cpu")
    assert called == [1, 2, 3, 3], "the newest report is what counts"


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_cell_that_another_process_holds_is_waited_for(parts, tmp_path, jobs):
    settings = SegmentSettings(**SEGMENT | {"roles": ("ref", "free")})
    cells = [
        Cell(
            folder=tmp_path / str(seed),
            data=parts,
            measured=parts,
            roles=("test", "ok_test"),
            settings=settings.model_copy(update={"seed": seed}),
            variant="only-real",
            accelerator="cpu",
        )
        for seed in range(3)
    ]
    seen, left = [], threading.Event()

    def progress(done, total):
        seen.append((done, total))
        if done == 2:
            assert not cells[1].done
            left.set()

    def hold(ready):
        with locked(cells[1].folder, beside=True):
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
    cell = Cell(tmp_path / "cell", parts, parts, ("test",), SegmentSettings(**SEGMENT), "only-real", "cpu")
    (failure,) = run_tasks([cell], jobs=1)
    assert failure.reason == f"{cell.folder}: cannot be locked: No locks available; name a folder on another disk"


class OutOfMemoryError(RuntimeError):
    """As torch raises it: none of inspectd's own errors, and not to be built from its message alone."""

    def __init__(self, what, *, there=True):
        super().__init__(what)

    def __reduce__(self):
        raise TypeError("this error does not travel")


@dataclass(frozen=True)
class Failing:
    """A task that cannot be done, or, with another name, one that can."""

    folder: Path

    @property
    def done(self):
        return self.folder.is_dir()

    def run(self):
        if self.folder.name.startswith("bad"):
            raise ConfigError(f"{self.folder.name} is bad")
        if self.folder.name.startswith("worse"):
            raise OutOfMemoryError("CUDA out of memory")
        self.folder.mkdir()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_task_that_fails_keeps_no_other_from_being_done(tmp_path, jobs):
    tasks = [Failing(tmp_path / name) for name in ("bad", "good1", "worse", "good2")]
    seen = []
    failed = run_tasks(tasks, jobs=jobs, progress=lambda *at: seen.append(at))
    reasons = {failure.task.folder.name: failure.reason for failure in failed}
    told = tmp_path / "worse.traceback.txt"
    assert reasons == {
        "bad": "bad is bad",
        "worse": f"OutOfMemoryError: CUDA out of memory; its traceback is in {told}",
    }
    assert 'raise OutOfMemoryError("CUDA out of memory")' in told.read_text()
    assert not (tmp_path / "bad.traceback.txt").exists(), "what is raised on purpose needs none"
    assert [task.done for task in tasks] == [False, True, False, True]
    assert seen == [(0, 4), (1, 4), (2, 4)]
    with pytest.raises(
        DatasetError, match=r"(bad|worse): .* \(2 failed, 3 that need them were left out; the others are"
    ):
        tell(failed, left_out=3)
    with pytest.raises(DatasetError, match=r"\(1 failed; the others are done\); and more"):
        tell(failed[:1], also="; and more")
    tasks[2].folder.mkdir()
    assert len(run_tasks(tasks, jobs=jobs)) == 1


def test_many_processes_may_begin_an_experiment_at_once(parts, tmp_path):
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from inspectd.training.experiments.experiment import run_experiment\n"
        "from inspectd.training.experiments.simulation import ExperimentSettings\n"
        "from inspectd.training.segmentation.settings import SegmentSettings\n"
        "settings = ExperimentSettings(count=2, segment=SegmentSettings(backbone='slim', steps=1))\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
        "run_experiment(Path(sys.argv[1]), Path(sys.argv[2]), settings, [], report=print)\n"
    )
    command = [sys.executable, "-c", script, str(parts), str(tmp_path / "out")]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **options) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


def test_the_report_says_what_auto_stood_for(parts, tmp_path):
    settings = ExperimentSettings(seeds=1, segment=SegmentSettings(**SEGMENT | {"precision": "auto"}))
    text = compare_methods(parts, tmp_path / "out", settings, ("only-real",), accelerator="cpu")
    precision = settings.resolved("cpu").segment.precision
    assert f"; arithmetic {precision}.\n" in text
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert found["settings"]["segment"]["precision"] == precision


def test_trainings_and_pictures_of_other_code_or_placements_are_told(parts, tmp_path):
    out, methods = tmp_path / "out", ("only-real", "cutpaste")
    settings = ExperimentSettings(seeds=1, count=3, segment=SegmentSettings(**SEGMENT))
    text = compare_methods(parts, out, settings, methods, accelerator="cpu")
    assert f"(code {code_digest()})." in text
    assert "different code" not in text
    path = out / "cells" / "only-real-0" / METRICS
    found = json.loads(path.read_text())
    versions = found["provenance"]["card"]["provenance"]["versions"]
    assert versions["code"] == code_digest()
    versions["code"] = "0123456789ab"
    path.write_text(json.dumps(found))
    listed = ", ".join(f"1 by {code}" for code in sorted(("0123456789ab", code_digest())))
    told = f"Trainings of different code stand in these tables ({listed})"
    assert told in compare_methods(parts, out, settings, methods, accelerator="cpu")
    # Pictures that are not all there are finished; those at other places are refused, not trained on.
    simulated = out / "simulated" / "cutpaste"
    (simulated / "figure3.png").unlink()
    compare_methods(parts, out, settings, methods, accelerator="cpu")
    assert (simulated / "figure3.png").is_file()
    lines = (out / "placements.jsonl").read_text().splitlines()
    (out / "placements.jsonl").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    with pytest.raises(DatasetError, match="holds simulated defects with another placements_sha256"):
        compare_methods(parts, out, settings, methods, accelerator="cpu")


def test_a_file_of_weights_counts_by_what_it_holds(parts, vgg_file, tmp_path):
    """As machines see it that share a folder, each with its own path to the same file."""
    out, methods = tmp_path / "out", ("dst",)
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    shutil.copy(vgg_file, here)
    shutil.copy(vgg_file, there)
    backbone = tmp_path / "backbone.safetensors"
    save_file(resnet18(weights=None).state_dict(), backbone)

    def settings(vgg, weights=backbone):
        return ExperimentSettings(
            seeds=1,
            count=3,
            dst={"vgg": str(vgg), "channels": 4, "blocks": 1, "epochs": 1, "pictures": 2, "batch": 2},
            segment=SegmentSettings(**SEGMENT | {"backbone": "resnet18", "weights": str(weights)}),
        )

    compare_methods(parts, out, settings(here), methods, accelerator="cpu")
    # Under another path, what was stopped is gone on with.
    network, cell = out / "networks" / "dst" / "ref-0", out / "cells" / "dst-0"
    (network / "checkpoint.safetensors").unlink()
    (cell / METRICS).unlink()
    (cell / "training" / "checkpoint.safetensors").unlink()
    moved = tmp_path / "moved.safetensors"
    backbone.rename(moved)
    here.unlink()
    compare_methods(parts, out, settings(there, moved), methods, accelerator="cpu")
    # Other content under the same path is another experiment.
    there.write_bytes(there.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(DatasetError, match="an experiment with another dst"):
        compare_methods(parts, out, settings(there, moved), methods, accelerator="cpu")
    with pytest.raises(DatasetError, match=r"here\.safetensors: no such file of weights; expected one, or imagenet"):
        compare_methods(parts, tmp_path / "new", settings(here, moved), methods, accelerator="cpu")
    assert not (tmp_path / "new").exists()
    # A folder of an earlier version, which has the path.
    claimed = json.loads((out / "provenance.json").read_text())
    assert claimed["dst"]["vgg"].startswith("sha256:")
    shutil.copy(vgg_file, there)
    (out / "provenance.json").write_text(
        json.dumps(
            named := claimed
            | {
                "dst": claimed["dst"] | {"vgg": str(there)},
                "segment": claimed["segment"] | {"weights": str(moved)},
            }
        )
    )
    note = json.loads((cell / "cell.json").read_text())
    (cell / "cell.json").write_text(json.dumps(note | {"weights": str(moved)}))
    compare_methods(parts, out, settings(there, moved), methods, accelerator="cpu")
    assert json.loads((out / "provenance.json").read_text()) == named


@pytest.mark.gpu
def test_a_gpu_measures_what_it_trained(parts, tmp_path):
    cell = Cell(
        folder=tmp_path / "cell",
        data=parts,
        measured=parts,
        roles=("test", "ok_test"),
        settings=SegmentSettings(**SEGMENT | {"roles": ("ref", "free")}),
        variant="only-real",
        accelerator="gpu",
    )
    cell.run()
    assert cell.found.provenance["measured_by"] == torch.cuda.get_device_name()
    on_gpu = [image.score for image in cell.found.images]
    (cell.folder / METRICS).unlink()
    replace(cell, accelerator="cpu").run()
    assert cell.found.provenance["measured_by"] == "CPU"
    assert [image.score for image in cell.found.images] == pytest.approx(on_gpu, abs=0.01)


def test_one_arithmetic_is_chosen_for_all():
    settings = ExperimentSettings(segment=SegmentSettings(**SEGMENT | {"precision": "auto"}), dst={"epochs": 2})
    found = settings.resolved("cpu")
    assert found.segment.precision in ("32-true", "bf16-mixed")
    assert found.dst == {"precision": found.segment.precision, "epochs": 2}
    assert found.cyclegan == {"precision": found.segment.precision}
    asked = ExperimentSettings(segment=SegmentSettings(**SEGMENT | {"precision": "16-mixed"}))
    assert asked.resolved("cpu").dst == {"precision": "16-mixed"}
