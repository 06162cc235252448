"""The paper's two experiments: what they train, and small ones from beginning to end."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
from rich.console import Console

from inspectd.dataset import open_dataset
from inspectd.errors import ConfigError, DatasetError
from inspectd.training.devices import alone, fast_precision
from inspectd.training.experiments.cells import METRICS, Cell
from inspectd.training.experiments.experiment import Entry
from inspectd.training.experiments.paper import TABLE1, WAYS, figure6, settings_of, table1
from inspectd.training.experiments.results import common, compared
from inspectd.training.experiments.simulation import Simulation
from inspectd.training.experiments.variants import ONLY_REAL, Variant
from inspectd.training.experiments.view import View
from inspectd.training.segmentation.settings import SegmentSettings
from tests.conftest import write_dataset

TRAINED = ("ref", "free", "simulated")
SMALL = ("--count", "4", "--steps", "3", "--batch", "2", "--size", "64", "--window", "1", "--accelerator", "cpu")


@pytest.fixture(scope="session")
def nine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered buttons at 96 px: three references, six further defects, good parts; read only."""
    root = write_dataset(tmp_path_factory.mktemp("nine") / "nine", size=96, defective=9, role="ref")
    split = root / "split.csv"
    split.write_text(re.sub(r"(images/ref-[3-8]\.png,.*,)ref,", r"\1extra,", split.read_text()))
    return root


def test_table_1_is_networks_against_ways_with_two_controls(nine):
    settings, dataset = settings_of("quick", TRAINED, {}, seeds=3), open_dataset(nine)
    grid = table1(settings, dataset, ("buttonlab", "unet"), WAYS)
    assert len(grid.entries) == 2 * (len(WAYS) + 1)
    columns = list(dict.fromkeys(entry.column for entry in grid.entries))
    assert columns == [*WAYS, "only-real, 45 updates"], "120 passes over 3, of which each batch has 8"
    few = [entry for entry in grid.entries if entry.column == columns[-1]]
    assert [entry.changes for entry in few] == [
        {"network": "buttonlab", "steps": 45},
        {"network": "unet", "steps": 45},
    ]
    assert {entry.variant.base for entry in few} == {ONLY_REAL}
    assert [entry.row for entry in grid.shown] == ["buttonlab", "unet"]
    assert {column for _, column in TABLE1} <= set(WAYS)
    short = table1(settings_of("quick", TRAINED, {"steps": 40}, seeds=1), dataset, ("unet",), (ONLY_REAL,))
    assert short.entries[-1].changes["steps"] == 40, "never more updates than the others"
    for name in ("vgg", "my net:build"):
        with pytest.raises(ConfigError, match=f"network '{name}' is not one of buttonlab, deeplabv3plus, unet, nor"):
            table1(settings, dataset, (name,), WAYS)


def test_faults_of_a_network_come_before_any_work(nine, tmp_path, monkeypatch):
    (tmp_path / "faulty.py").write_text(
        "from torch import nn\n\n\ndef coarse(logits):\n    return nn.Conv2d(3, logits, 4, 4)\n\n\n"
        "def deaf(logits):\n    return nn.Linear(5, logits)\n\n\n"
        "class Untrained(nn.Conv2d):\n    def forward(self, x):\n        if self.training:\n"
        "            raise ValueError('not like this')\n        return super().forward(x)\n\n\n"
        "def untrained(logits):\n    return Untrained(3, logits, 1)\n\n\n"
        "class Cut(nn.Conv2d):\n    def forward(self, x):\n        return super().forward(x).detach()\n\n\n"
        "def cut(logits):\n    return Cut(3, logits, 1)\n"
    )
    (tmp_path / "broken.py").write_text("def build(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    dataset = open_dataset(nine)
    for network, message in (
        ("faulty:coarse", r"gives \[1, 2, 16, 16\] for a picture \[1, 3, 64, 64\], expected logits \[1, 2, 64, 64\]"),
        ("faulty:deaf", "'faulty:deaf': RuntimeError"),
        ("faulty:untrained", "'faulty:untrained', in training: ValueError: not like this"),
        ("faulty:cut", "'faulty:cut', in training: RuntimeError: element 0 of tensors does not require grad"),
        ("broken:build", "'broken:build': SyntaxError"),
    ):
        with pytest.raises(ConfigError, match=message):
            table1(settings_of("quick", TRAINED, {}, seeds=1), dataset, (network,), WAYS)
    with pytest.raises(ConfigError, match="no ImageNet weights for the slim backbone"):
        table1(settings_of("quick", TRAINED, {"weights": "imagenet"}, seeds=1), dataset, ("buttonlab",), WAYS)
    missing = str(tmp_path / "missing.safetensors")
    with pytest.raises(DatasetError, match="missing"):
        table1(settings_of("quick", TRAINED, {"weights": missing}, seeds=1), dataset, ("unet",), WAYS)


def test_the_paper_s_budget_is_the_paper_s_schedule():
    settings = settings_of("paper", TRAINED, {}, seeds=3)
    segment = settings.segment
    assert (settings.count, segment.backbone, segment.height, segment.batch) == (2167, "resnet50", 256, 8)
    # 120 passes of ceil(2167 / 8) updates.
    assert (segment.steps, segment.rate, segment.schedule) == (120 * 271, 2e-3, "constant")
    assert (segment.crop, segment.window) == (0.5, 1.0)
    assert settings.dst == settings.cyclegan == {}
    assert settings_of("quick", TRAINED, {"height": 64}, seeds=1, count=7).count == 7
    quick = settings_of("quick", TRAINED, {}, seeds=1, dst={"vgg": "f", "epochs": 5}, measured=("extra", "ok_test"))
    assert (quick.dst, quick.cyclegan["epochs"]) == ({"vgg": "f", "epochs": 5, "pictures": 120}, 2)
    assert quick.roles == ("extra", "ok_test")


def test_one_column_may_have_more_updates_than_the_budget_gives(nine):
    settings = settings_of("quick", TRAINED, {}, seeds=1)
    grid = table1(settings, open_dataset(nine), ("buttonlab",), ("cyclegan:epochs=60;pictures=240", "cyclegan"))
    simulation = Simulation(nine, Path("out"), settings, "cpu")
    found = [simulation.settings_of(entry.variant) for entry in grid.entries]
    assert [one.epochs * one.updates(238) for one in found] == [60 * 60, 2 * 30]
    assert len({entry.variant.networks for entry in grid.entries}) == 2


def test_figure_6_has_three_strategies_for_four_numbers_of_real_defects(nine):
    settings = settings_of("quick", ("ref", "extra", "free", "simulated"), {"steps": 150}, seeds=1)
    grid = figure6(settings, open_dataset(nine), "buttonlab", "dst")
    found = {(entry.row, entry.column): entry for entry in grid.entries}
    assert sorted(found) == [(row, real) for row in "ABC" for real in ("3", "5", "7", "9")]
    for (row, real), entry in found.items():
        assert entry.changes["real"] == int(real)
        assert entry.variant.base == ("dst" if row == "C" else ONLY_REAL)
        assert entry.changes.get("replacement", False) is (row != "A")
    assert grid.note.endswith("C: as B, 0.5 of the defects being simulated.")
    for share, said in ((0.2, " 0.2 of the defects being simulated."), (None, " the simulated ones as they occur.")):
        other = settings_of("quick", settings.segment.roles, {"simulated_share": share}, seeds=1)
        assert figure6(other, open_dataset(nine), "buttonlab", "dst").note.endswith(said)
    # 120 passes over n pictures, 8 of which are in each batch of 16.
    assert [found["A", real].changes["steps"] for real in ("3", "5", "7", "9")] == [45, 75, 105, 135]
    with pytest.raises(DatasetError, match="real defects beside the references, in the role extra; there are 0"):
        figure6(settings, _without_extra(nine), "buttonlab", "dst")
    part = figure6(settings, open_dataset(nine), "buttonlab", "dst", strategies=("C", "B"), numbers=("9", "5"))
    assert [(entry.row, entry.column) for entry in part.entries] == [("B", "5"), ("B", "9"), ("C", "5"), ("C", "9")]
    assert [entry for entry in grid.entries if entry in part.entries] == list(part.entries), "a part of the whole"
    assert [(entry.row, entry.column) for entry in part.shown] == [("B", "5"), ("C", "5")]
    with pytest.raises(ConfigError, match="number of real defects '4' is not one of 3, 5, 7, 9"):
        figure6(settings, open_dataset(nine), "buttonlab", "dst", numbers=("3", "4"))
    with pytest.raises(ConfigError, match="strategy 'D' is not one of A, B, C"):
        figure6(settings, open_dataset(nine), "buttonlab", "dst", strategies=("A", "D"))
    with pytest.raises(ConfigError, match="no strategy is given"):
        figure6(settings, open_dataset(nine), "buttonlab", "dst", strategies=())


def test_what_differs_in_the_loss_is_told():
    settings = settings_of("quick", TRAINED, {"peak_weight": 0.03, "defect_weight": 3.0}, seeds=1)
    assert "laid over the defect 0.8, defects weighing 3, the windows' peaks weighing 0.03, shares" in common(settings)
    assert "weighing" not in common(settings_of("quick", TRAINED, {}, seeds=1))


def _without_extra(root):
    from dataclasses import replace

    dataset = open_dataset(root)
    return replace(dataset, samples=tuple(sample for sample in dataset.samples if sample.role != "extra"))


def test_the_best_of_a_row_or_a_column_is_bold_and_what_is_not_whole_competes_not():
    values = {
        "a": {"x": [0.1, 0.3], "y": [0.9], "z": [0.4, 0.6]},
        "b": {"x": [0.5, 0.5], "y": [0.1, None], "z": [0.1, 0.1]},
    }
    assert compared(values, 2, along_rows=True) == [
        ("a", "0.200 ± 0.141", "0.900 (1)", "**0.500 ± 0.141**"),
        ("b", "**0.500 ± 0.000**", "0.100 (1)", "0.100 ± 0.000"),
    ]
    assert compared(values, 2, along_rows=False, brief=True) == [
        ("a", "0.20", "**0.90** (1)", "**0.50**"),
        ("b", "**0.50**", "0.10 (1)", "0.10"),
    ]


def test_what_is_printed_alike_is_bold_alike_and_only_what_is_defined_counts():
    alike = {"a": {"x": [0.7121, 0.7123]}, "b": {"x": [0.7122, 0.7124]}, "c": {"x": [0.7, 0.7]}}
    assert [row[1] for row in compared(alike, 2, along_rows=False)] == [
        "**0.712 ± 0.000**",
        "**0.712 ± 0.000**",
        "0.700 ± 0.000",
    ]
    one, whole, none = [0.5, None, None], [0.4, 0.4, 0.4], [None, None, None]
    partly = {"a": {"x": one}, "b": {"x": whole}, "c": {"x": none}, "d": {"x": [0.3] * 3}}
    found = [row[1] for row in compared(partly, 3, along_rows=False)]
    assert found == ["0.500 (1)", "**0.400 ± 0.000**", "-", "0.300 ± 0.000"]
    found = common(settings_of("quick", TRAINED, {}, seeds=3))
    assert "mean ± standard deviation (n - 1) over seeds, which are of the training alone" in found


def run(*arguments, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "inspectd.training.cli", "experiment", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, **options)


def test_table_1_runs_to_its_report_and_repeats_nothing(nine, tmp_path, monkeypatch):
    out = tmp_path / "out"
    (tmp_path / "mynet.py").write_text(
        "from torch import nn\n\n\ndef build(logits):\n    return nn.Conv2d(3, logits, 3, padding=1)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    networks = ("--networks", "unet,mynet:build")
    grid = ("table1", "--data", nine, "--out", out, *networks, "--methods", "cutpaste,only-real")
    first = run(*grid, "--seeds", "1", *SMALL, "--jobs", "2")
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("# Table 1\n")
    assert f"\n{out / 'report.html'}\n" in first.stdout
    found = json.loads((out / "report.json").read_text())
    assert [(entry["row"], entry["column"]) for entry in found["entries"]] == [
        (network, column)
        for network in ("unet", "mynet:build")
        for column in ("cutpaste", "only-real", "only-real, 3 updates")
    ]
    assert [entry["paper"] for entry in found["entries"]] == [None, None, 0.5903, None, None, None]
    for entry in found["entries"]:
        assert entry["seeds"][0]["training s"] > 0
        assert entry["seeds"][0]["pictures/s measured"] > 0
    text = (out / "report.md").read_text()
    assert "unet, mynet:build on slim (random weights; a network of one's own begins as it makes itself)" in text
    assert "AdamW with decay 0.01, rate 0.002 onecycle" in text
    precision = fast_precision("cpu")
    assert f"; arithmetic {precision}.\n" in text
    assert found["settings"]["segment"]["precision"] == precision
    assert "| the paper's unet, on its photographs |  |  | 0.590 |" in text
    for heading in ("pooled F1", "image F1", "recall at 1 %", "F1 by defect type", "Times"):
        assert f"## {heading}" in text
    assert "beside whatever else the machine did; measured in fp32 by CPU\n" in text
    page = (out / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == 2
    assert not re.search(r'(src|href)="(?!data:)', page), "it opens without a network"
    assert cv2.imread(str(out / "report.png")) is not None
    assert cv2.imread(str(out / "figure7.png")) is not None
    before = {path: path.stat().st_mtime_ns for path in out.rglob(METRICS)}
    assert len(before) == 6
    more = run(*grid, "--seeds", "2", *SMALL)
    assert more.returncode == 0, more.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before, "a seed more does nothing again"
    assert len(list(out.rglob(METRICS))) == 12
    assert "±" in (out / "report.md").read_text()
    shown = json.loads((out / "report.json").read_text())
    assert shown["machine"].count("cores") == 1, "one machine, one day"
    assert shown["command"].startswith("inspectd-train experiment table1 --data ")
    # Another network under the same name: what it has learnt is not of this one.
    (tmp_path / "mynet.py").write_text(
        "from torch import nn\n\n\ndef build(logits):\n    return nn.Conv2d(3, logits, 5, padding=2)\n"
    )
    changed = run(*grid, "--seeds", "2", *SMALL)
    assert changed.returncode == 2
    assert "is of another training: code_sha256" in changed.stderr
    other = run(*grid, "--seeds", "2", *SMALL, "--steps", "4")
    assert other.returncode == 2
    assert "an experiment with another segment" in other.stderr


def test_a_network_that_raises_in_training_leaves_the_others_of_the_grid(nine, tmp_path, monkeypatch):
    """Whatever a user's code raises in the middle of a training; here, in its third update."""
    (tmp_path / "mynet.py").write_text(
        "from torch import nn\n\n\nclass Tiring(nn.Conv2d):\n    seen = 0\n\n    def forward(self, x):\n"
        "        self.seen += self.training\n        if self.seen > 2:\n            raise KeyError('tired')\n"
        "        return super().forward(x)\n\n\n"
        "def build(logits):\n    return Tiring(3, logits, 1)\n\n\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    out = tmp_path / "out"
    grid = ("table1", "--data", nine, "--out", out, "--networks", "mynet:build,unet", "--methods", "cutpaste")
    for jobs in ("1", "2"):
        done = run(*grid, "--seeds", "1", *SMALL, "--jobs", jobs)
        assert done.returncode == 2
        trace = out / "cells" / "mynet_build-cutpaste-0.traceback.txt"
        where = f"mynet_build-cutpaste-0: KeyError: 'tired'; its traceback is in {trace}"
        assert done.stderr.endswith(f"{where} (1 failed; the others are done)\n")
        assert "Traceback" not in done.stderr
        assert "raise KeyError('tired')" in trace.read_text()
        assert (out / "cells" / "unet-cutpaste-0" / METRICS).is_file()
        assert "| unet |" in (out / "report.md").read_text()


def test_figure_6_runs_under_fabric_run_and_its_processes_share_the_work(nine, tmp_path):
    out, program = tmp_path / "out", tmp_path / "inspectd-train"
    program.write_text("from inspectd.training.cli import main\n\nif __name__ == '__main__':\n    main()\n")
    fabric = Path(sys.executable).with_name("fabric")
    arguments = ("experiment", "figure6", "--data", nine, "--out", out, "--method", "cutpaste", "--seeds", "1", *SMALL)
    command = [str(fabric), "run", "--devices", "2", "--accelerator", "cpu", str(program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("# Figure 6") == 1, "one process speaks for all"
    found = json.loads((out / "report.json").read_text())
    assert [(entry["row"], entry["column"]) for entry in found["entries"]] == [
        (row, real) for row in "ABC" for real in ("3", "5", "7", "9")
    ]
    assert len(list(out.glob(f"cells/*/{METRICS}"))) == 12
    for log in out.glob("cells/*/training/log.csv"):
        steps = [int(line.partition(",")[0]) for line in log.read_text().splitlines()[1:]]
        assert steps == list(range(1, len(steps) + 1)), f"{log}: trained by two processes"
    assert "| C: real and simulated |" in (out / "report.md").read_text()
    other = run(
        "figure6", "--data", nine, "--out", out, "--method", "cutpaste", "--network", "unet", "--seeds", "1", *SMALL
    )
    assert other.returncode == 2
    assert "is of another training: network 'buttonlab' -> 'unet'; name another --out" in other.stderr


def test_a_recipe_of_methods_can_be_had_of_the_grids_too(nine, tmp_path):
    recipe = ("--rate", "1e-3", "--crop", "0.75", "--crop-bias", "0.4", "--simulated-share", "0.25")
    recipe += ("--defect-weight", "2", "--peak-weight", "0.03", "--roles", "extra,ok_test")
    table = ("table1", "--networks", "buttonlab", "--methods", "cutpaste")
    figure = ("figure6", "--strategies", "B", "--real", "3", "--dst-epochs", "3", "--dst-pictures", "7")
    for name, (kind, *which), dst in (
        ("table1", table, {"epochs": 2, "pictures": 120}),
        ("figure6", figure, {"epochs": 3, "pictures": 7}),
    ):
        # Its roles are refused before anything is trained: extra is one of those that Figure 6 trains on.
        out, measured = tmp_path / name, () if name == "table1" else ("--roles", "test,ok_test")
        done = run(kind, "--data", nine, "--out", out, *which, "--seeds", "1", *SMALL, *recipe, *measured)
        assert done.returncode == 0, done.stderr
        settings = json.loads((out / "report.json").read_text())["settings"]
        segment = settings["segment"]
        assert [segment[key] for key in ("rate", "crop", "crop_bias", "simulated_share")] == [1e-3, 0.75, 0.4, 0.25]
        assert [segment[key] for key in ("defect_weight", "peak_weight")] == [2, 0.03]
        assert dst.items() <= settings["dst"].items()
        assert settings["roles"] == (["extra", "ok_test"] if name == "table1" else ["test", "ok_test"])
    refused = run(*figure, "--data", nine, "--out", tmp_path / "no", "--seeds", "1", *SMALL, "--roles", "extra,ok_test")
    assert (refused.returncode, "role 'extra' is trained on" in refused.stderr) == (2, True)


def test_a_launched_process_works_by_itself(monkeypatch):
    assert alone("cpu").first
    launched = {"LT_CLI_USED": "1", "LT_ACCELERATOR": "gpu", "LT_DEVICES": "2", "RANK": "3", "LOCAL_RANK": "1"}
    launched |= {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "TORCHELASTIC_RUN_ID": "r"}
    launched |= {"CUDA_VISIBLE_DEVICES": "4,7", "OMP_NUM_THREADS": "1"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    place = alone("auto")
    assert (place.accelerator, place.first) == ("gpu", False)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"
    for name, value in (launched | {"CUDA_VISIBLE_DEVICES": "5"}).items():
        monkeypatch.setenv(name, value)
    alone("auto")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5", "two processes on one GPU"
    assert not [
        name for name in launched if name in os.environ and name not in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
    ]


def test_the_view_tells_how_far_each_place_is_and_what_is_left(nine, tmp_path):
    settings = SegmentSettings(steps=10)
    cells = {
        Entry("unet", way, Variant.of(way)): [
            Cell(tmp_path / f"{way}-{seed}", nine, nine, ("test",), settings, way, "cpu") for seed in range(2)
        ]
        for way in ("cutpaste", "poisson")
    }
    screen = io.StringIO()
    view = View(Console(file=screen, force_terminal=True, width=100), log_every_s=60)
    with view:
        view("simulated datasets", 1, 2)
        assert view.line() == "simulated datasets 1 of 2"
        view.watch(cells)
        assert view.line() == "training 0 of 4, 0 % of all updates"
        log = cells[next(iter(cells))][0].folder / "training" / "log.csv"
        log.parent.mkdir(parents=True)
        log.write_text("step,loss\n" + "".join(f"{step},1\n" for step in range(1, 9)))
        assert re.fullmatch(r"training 0 of 4, 20 % of all updates, about 0:\d\d:\d\d left", view.line())
        view._live.refresh()
    shown = screen.getvalue()
    assert "0/2 80%" in shown
    assert "poisson" in shown
    lines = io.StringIO()
    with View(Console(file=lines), log_every_s=0.05) as view:
        view("networks that paint", 3, 9)
        deadline = time.monotonic() + 10
        while "networks that paint 3 of 9" not in lines.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.02)
