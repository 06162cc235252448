"""From marked parts to a bundle: the command as it is typed, on pictures of 64 px."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from inspectd.bundle import load_bundle
from inspectd.buttons import LINES, UNSEEN, render
from inspectd.dataset import open_dataset
from inspectd.dataset_writing import write_png, write_split
from inspectd.errors import BundleError, ConfigError, DatasetError
from inspectd.export.bundler import export_bundle
from inspectd.signature import TrustList
from inspectd.signing import make_signing_key
from inspectd.training.update.compare import MASTERS, Comparison, TypeFound
from inspectd.training.update.settings import UpdateSettings
from inspectd.training.update.update import Update, _judged, update

# Cut-and-paste paints without a network, which has tests of its own.
QUICK = ["--method", "cutpaste", "--count", "20", "--steps", "4", "--batch", "4", "--accelerator", "cpu"]


@pytest.fixture(scope="module")
def before(buttons, learnt, tmp_path_factory) -> Path:
    """A bundle that finds some of the buttons' defects."""
    out = tmp_path_factory.mktemp("before") / "bundle"
    export_bundle(learnt, out, calibration=buttons, limit=4)
    return out


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """What a station keeps of three marked imprints."""
    top = tmp_path_factory.mktemp("site")
    rows = []
    for number, defect in enumerate((*UNSEEN * 3, *(None,) * 8)):
        part = render(LINES[0], defect, 700 + number, 64)
        image, mask = f"images/{number}.png", f"masks/{number}.png"
        write_png(top / "marked" / image, part.image)
        if defect:
            write_png(top / "marked" / mask, part.mask * 255)
        rows.append((image, mask if defect else "", defect or "", "ref" if defect else "free", ""))
    write_split(top / "marked", rows)
    return top


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "inspectd.training.cli", "update", *map(str, words)]


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True)


@pytest.fixture(scope="module")
def masters(before, buttons, tmp_path_factory) -> Path:
    """Master parts that the bundle judges rightly."""
    out = tmp_path_factory.mktemp("masters") / "masters.zip"
    words = ["golden", before, buttons, "--out", out, "--per-class", "2", "--leave-out", "--defects", "extra"]
    done = subprocess.run(
        [sys.executable, "-m", "inspectd.calibration.cli", *map(str, words), "--good", "free"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return out


def test_an_update_measures_both_bundles_signs_the_new_one_and_goes_on(before, site, buttons, masters, tmp_path):
    make_signing_key(tmp_path / "anna.key", "Anna")
    out = tmp_path / "update"
    words = [before, "--from", site, "--data", buttons, "--golden", masters, "--test", buttons]
    words += ["--out", out, "--sign", tmp_path / "anna.key", *QUICK, "--rate", "1e-6"]
    done = run(*words)
    told = json.loads((out / "report.json").read_text())
    # With this rate it learns nothing, and is the network that it was: no master part is lost.
    assert (done.returncode, len(told["lost"])) == (1, 1), done.stderr
    assert "imprint is found on" in told["lost"][0]
    assert told["signed_by"] is None
    sets = {each["name"]: each for each in told["comparisons"]}
    assert list(sets) == [
        MASTERS,
        f"test pictures of {buttons.name}",
        "marked parts, held out",
        "marked parts",
        "good parts that were learnt from",
        "painted on good parts that were held out",
    ]
    assert sets[MASTERS]["lost"] == []
    assert sets[MASTERS]["recall"] == [1.0, 1.0]
    assert sum(each["parts"] for each in sets["marked parts, held out"]["types"]) == 1
    assert sum(each["parts"] for each in sets["marked parts"]["types"]) == 2
    painted = sets["painted on good parts that were held out"]
    assert painted["good"]["parts"] == 2
    assert [(each["name"], each["parts"]) for each in painted["types"]] == [("imprint", 4)]
    # What it was taught from: what was marked, what was painted, and what it knew.
    summary = open_dataset(out / "training").summary
    assert summary == "2 ref, 12 free, 6 extra, 20 simulated"
    card = load_bundle(out / "bundle").card
    assert card.provenance["settings"]["start"] == "bundle"
    assert (card.name, card.thresholds) == (load_bundle(before).card.name, load_bundle(before).card.thresholds)
    assert (out / "report.html").stat().st_size > 10_000
    assert "| imprint | 4 |" in (out / "report.md").read_text()
    assert "imprint" in done.stdout
    # Again, what is done is not done again; both are measured.
    order = Update(before, (site,), out, buttons, masters, (buttons,), accelerator="cpu")
    settings = UpdateSettings(method="cutpaste", count=20, steps=4, batch=4, rate=1e-6)
    files = (out / "net" / "checkpoint.safetensors", out / "bundle" / "model.onnx")
    times = [path.stat().st_mtime_ns for path in files]
    again = update(order, settings)
    assert times == [path.stat().st_mtime_ns for path in files]
    assert json.loads(json.dumps([each.to_json() for each in again.comparisons])) == told["comparisons"]
    with pytest.raises(DatasetError, match="holds an update with another settings; name another folder"):
        update(order, settings.model_copy(update={"count": 21}))


def test_stopped_and_killed_while_it_learns_it_goes_on(before, site, tmp_path):
    out = tmp_path / "update"
    words = [before, "--from", site, "--out", out, *QUICK, "--steps", "120", "--rate", "3e-3"]
    for number in (signal.SIGINT, signal.SIGKILL):
        said: list[str] = []
        with subprocess.Popen(command(*words), stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
            for line in process.stderr:
                said.append(line)
                if "training: update" in line or "fine-tuning" in line:
                    os.killpg(process.pid, number)
                    break
            said += process.stderr.readlines()
        assert "without --data nothing is shown of the defects that the bundle knows" in said[0]
        assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), said
        painted = {path: path.stat().st_mtime_ns for path in (out / "simulated" / "images").rglob("*.png")}
        assert len(painted) == 20
    assert not (out / "bundle").exists()
    done = run(*words, "--steps", "120")
    assert (out / "report.html").is_file(), done.stderr
    assert painted == {path: path.stat().st_mtime_ns for path in painted}
    assert load_bundle(out / "bundle").digest != load_bundle(before).digest


def test_a_network_that_forgets_is_not_signed(before, site, buttons, masters, tmp_path):
    make_signing_key(tmp_path / "anna.key", "Anna")
    out = tmp_path / "update"
    words = [
        before,
        "--from",
        site,
        "--data",
        buttons,
        "--golden",
        masters,
        "--out",
        out,
        "--sign",
        tmp_path / "anna.key",
    ]
    done = run(*words, *QUICK, "--steps", "12", "--rate", "0.03")
    assert done.returncode == 1, done.stderr
    assert "not to be used: " in done.stderr
    assert "master parts that the bundle judged rightly before are judged wrongly now" in done.stderr
    assert json.loads((out / "report.json").read_text())["signed_by"] is None
    assert "**Not to be used" in (out / "report.md").read_text()
    with pytest.raises(BundleError, match="is not signed"):
        load_bundle(out / "bundle", trusted=TrustList.load(tmp_path / "anna.key.pub"))


def test_what_speaks_against_a_bundle():
    def compared(name: str, before: int, after: int, *, rejected: int = 0, lost: tuple[str, ...] = ()) -> Comparison:
        types, good = (TypeFound("dent", 10, before, after),), TypeFound("good", 20, 0, rejected)
        return Comparison(name, False, types, good, (None, 0.5), lost)

    better = compared("painted", 1, 9)
    assert _judged([compared(MASTERS, 10, 10), better], ["dent"]) == ((), ())
    lost, remarks = _judged([compared(MASTERS, 10, 9, lost=("images/004.png",)), better], ["dent"])
    assert lost == ("1 master parts that the bundle judged rightly before are judged wrongly now: images/004.png",)
    assert not remarks
    lost, remarks = _judged([compared("test pictures", 8, 7, rejected=2), better], ["dent"])
    assert not lost
    assert remarks == (
        "test pictures: dent is found on 7 of 10 parts, before on 8",
        "test pictures: 2 of 20 good parts are rejected, before 0",
    )
    (lost,), _ = _judged([compared("painted", 3, 3)], ["dent"])
    assert "no more than before (3)" in lost
    assert _judged([compared("painted", 10, 10)], ["dent"]) == ((), ())


def test_what_would_end_it_hours_later_is_refused_at_once(before, site, tmp_path):
    order = Update(before, (site,), tmp_path / "out")
    for changed, error, message in (
        (replace(order, bundle=site), BundleError, "is not a bundle"),
        (replace(order, golden=Path("none.zip")), ConfigError, "none.zip: no such master parts"),
        (replace(order, sign=Path("none.key")), ConfigError, "none.key"),
        (replace(order, tests=(site / "marked",)), DatasetError, "holds no picture of the roles test and ok_test"),
    ):
        with pytest.raises(error, match=message):
            update(changed, UpdateSettings(method="cutpaste"))
    assert not (tmp_path / "out").exists()


def test_types_need_the_pictures_of_those_that_are_known(bundle, site, buttons, tmp_path):
    order = Update(bundle.path, (site,), tmp_path / "out")
    with pytest.raises(ConfigError, match="apart, which is forgotten where it is not shown"):
        update(order, UpdateSettings(method="cutpaste"))
    done = run(bundle.path, "--from", site, "--data", buttons, "--out", tmp_path / "out", *QUICK)
    assert (tmp_path / "out" / "report.html").is_file(), done.stderr
    classes = load_bundle(tmp_path / "out" / "bundle").card.classes
    assert classes == tuple(sorted({*bundle.card.classes, *UNSEEN}))


def test_a_failing_step_says_why(before, site, tmp_path):
    damaged = shutil.copytree(before, tmp_path / "bundle")
    (damaged / "model.onnx").write_bytes(b"no graph")
    done = run(damaged, "--from", site, "--out", tmp_path / "out", *QUICK)
    assert done.returncode == 2
    assert "model.onnx" in done.stderr
    assert "Traceback" not in done.stderr
