"""Augmentation on the site: a real station, its archive, and bundles that were really trained."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from inspectd.bundle import load_bundle, write_bundle
from inspectd.config import load_config
from inspectd.dataset import open_dataset, read_image, read_labels
from inspectd.errors import BundleError, NotReached, RequestError
from inspectd.inspection import Verdict
from inspectd.runtime.alarms import Alarms
from inspectd.runtime.archive import Archive
from inspectd.runtime.augment import Augmenting
from inspectd.runtime.augment.gathering import good_parts
from inspectd.runtime.augment.pace import Pace, Slack
from inspectd.runtime.augment.painting import Brushes, PaintingBundle, reference_of
from inspectd.simulation.parts import Backgrounds
from inspectd.simulation.placement import VARIED, read_placements
from inspectd.simulation.simulate import PLACEMENTS, Painter
from inspectd.wire import MessageType, StatsBody, read_body

from .archive_site import Shelf, inspected, noise
from .conftest import children, finish, inspectd, run_inspectd
from .painting_site import make_bundles
from .station_site import is_running, until
from .test_station import Running

DEFECTS = ("stain", "scratch")
CAMERA = 'source = "folder"\npath = "pictures"\nloop = true\nfps = 20'
# Nothing on a button is as bright as that.
RULE = "[acceptance.default]\nscore = 0.999\n"


@pytest.fixture(scope="module")
def painting(parts, vgg_file, tmp_path_factory):
    """The folder of bundles, and the checkpoints that they were made of."""
    return make_bundles(parts, vgg_file, tmp_path_factory.mktemp("painting"), DEFECTS)


@pytest.fixture
def site(tmp_path, parts, painting, write_config):
    """Starts a station that looks at good buttons, keeps each of them, and can paint."""
    (tmp_path / "pictures").mkdir()
    for sample in open_dataset(parts).select("free"):
        shutil.copy(sample.image, tmp_path / "pictures")
    processes = []

    @contextmanager
    def run(more: str = "", ok_every: int = 1, bundles: Path = painting[0]):
        archive = f'[archive]\npath = "archive"\nok_every = {ok_every}\nkeep_free_gib = 0\n'
        floor = "" if "keep_free_gib" in more else "keep_free_gib = 0\n"
        augment = f'[augment]\nbundles = "{bundles}"\nout = "site"\n{floor}{more}\n'
        config = write_config(CAMERA, archive + augment + RULE)
        processes.append(inspectd("run", config))
        running = Running(processes[-1], tmp_path)
        with running.requester, running.subscriber:
            yield running

    yield run
    for process in processes:
        if process.poll() is None:
            process.terminate()
            finish(process)
        for stream in (process.stdout, process.stderr):
            stream.close()


def kept(folder: Path) -> int:
    return len(list((folder / "archive").glob("*/cam1/*.json")))


def written(folder: Path) -> list[str]:
    """What is in the folder of the site."""
    return sorted(path.name for path in (folder / "site").glob("*"))


def told(running: Running) -> dict:
    return running.ask("snapshot")["augment"] or {}


def until_told(running: Running, state: str, done: int = 0, within_s: float = 120.0) -> dict:
    def holds() -> bool:
        try:
            now = told(running)
        except NotReached:
            return False
        assert now.get("state") != "failed" or state == "failed", now
        return now.get("state") == state and now["done"] >= done

    until(holds, f"never {state}: {told(running)}", within_s)
    return told(running)


def painter_process(running: Running) -> int:
    """Which it is; after one was killed the next one is started soon."""

    def found() -> list[int]:
        return [child for child, command in children(running.core).items() if "runtime.augment" in command]

    until(lambda: len(found()) == 1)
    return found()[0]


def check_dataset(out: Path, count: int) -> list:
    """A whole dataset, without doubles or gaps; its simulated samples."""
    dataset = open_dataset(out)
    simulated = dataset.select("simulated")
    assert len(simulated) == len({sample.name for sample in simulated}) == count
    assert {placement.sample for placement in read_placements(out / PLACEMENTS)} == set(range(count))
    assert sorted(path.name for path in (out / "images" / "simulated").iterdir()) == sorted(
        sample.image.name for sample in simulated
    )
    for sample in simulated:
        image = read_image(sample.image)
        assert read_labels(sample, None, image.shape[:2]).any()
    return list(simulated)


def test_a_station_paints_on_its_own_good_parts(site, tmp_path):
    with site() as running:
        until(lambda: kept(tmp_path) >= 8)
        begun = running.ask("augment", defects=list(DEFECTS), count=12, seed=5)
        assert (begun["count"], begun["seed"], begun["references"]) == (12, 5, 2)
        progress = []

        def is_done(message) -> bool:
            if message.header.msg_type != MessageType.STATS:
                return False
            body = read_body(message, StatsBody).augment
            if body is not None:
                progress.append((body.state, body.done))
            return body is not None and body.state == "done"

        running.until(is_done, timeout_s=120)
        assert progress[-1] == ("done", 12)
        assert sorted(progress, key=lambda each: each[1]) == progress
        assert not (tmp_path / "state" / "augment.json").exists()
        assert written(tmp_path) == [begun["job"]], "what it was made from is gone"
    out = Path(begun["out"])
    simulated = check_dataset(out, 12)
    assert {sample.defect for sample in simulated} == set(DEFECTS)
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["simulated"] is True
    assert provenance["settings"]["seed"] == 5
    assert set(provenance["bundles"]) == set(DEFECTS)
    assert len(provenance["frames"]) == 6, "each picture of the folder once"
    archive = Archive(tmp_path / "archive")
    for frame in provenance["frames"]:
        part = archive.find(epoch=frame["epoch"], seq=frame["seq"], camera=frame["camera"])
        assert part.sidecar.picture.sha256 == frame["sha256"]
        assert (read_image(out / frame["image"]) == part.frame().pixels).all()
    assert cv2.imread(str(out / "contact-sheet.png")).shape[0] > 100
    checked = subprocess.run(
        [sys.executable, "-m", "inspectd.training.cli", "check", str(out)], capture_output=True, text=True
    )
    assert (checked.returncode, "No faults." in checked.stdout) == (0, True), checked.stdout + checked.stderr


def test_a_station_paints_by_openvino(site, parts, vgg_file, tmp_path):
    pytest.importorskip("openvino", reason="needs pip install 'inspectd[openvino]'")
    bundles, _ = make_bundles(parts, vgg_file, tmp_path / "made", DEFECTS[:1], openvino=True)
    with site('backend = "openvino"', bundles=bundles) as running:
        until(lambda: kept(tmp_path) >= 4)
        begun = running.ask("augment", defects=list(DEFECTS[:1]), count=4, seed=5)
        until_told(running, "done")
    assert len(check_dataset(Path(begun["out"]), 4)) == 4
    provenance = json.loads((Path(begun["out"]) / "provenance.json").read_text())
    assert provenance["engines"].keys() == set(DEFECTS[:1])
    assert provenance["engines"][DEFECTS[0]].startswith("OpenVINO")


def test_what_is_painted_is_what_simulate_paints(parts, painting):
    """Grey levels apart from one by rounding: also where a defect is larger than the network's window."""
    from inspectd.simulation.placement import PlacementSettings
    from inspectd.simulation.planning import plan
    from inspectd.training.style.simulate import SimulateSettings, Work, painter_of

    folder, checkpoints = painting
    bundles = [
        PaintingBundle(load_bundle(folder / name), reference_of(load_bundle(folder / name), name)) for name in DEFECTS
    ]
    work = Work(parts, Path("unused"), tuple(path.parent for path in checkpoints.values()))
    trained = painter_of(work, SimulateSettings(partial=True))
    names = {exemplar.defect: name for name, exemplar in trained.exemplars.items()}
    dataset = open_dataset(parts)
    backgrounds = Backgrounds(dataset)
    exemplars = {names[each.reference.defect]: each.reference for each in bundles}
    larger = PlacementSettings(scale=(1.2, 1.6))
    with Brushes(bundles) as brushes:
        patch = brushes.on(backgrounds)
        painter = Painter(dataset, backgrounds, exemplars, patch)
        changed = 0
        for settings in (VARIED, larger):
            for placement in plan(trained.references(), backgrounds, 6, settings, 3).placements:
                ours, theirs = painter.paint([placement]), trained.paint([placement])
                assert (ours.labels[placement.defect] == theirs.labels[placement.defect]).all()
                assert np.abs(ours.image.astype(int) - theirs.image).max() <= 1
                changed += int((ours.image != backgrounds.picture(placement.background)).sum())
        assert changed > 1000


def test_it_goes_on_after_its_process_and_the_whole_core_were_killed(site, tmp_path):
    with site() as running:
        until(lambda: kept(tmp_path) >= 6)
        begun = running.ask("augment", defects=["stain"], count=300, seed=1)
        until_told(running, "painting", 5)
        with pytest.raises(RequestError, match="is under way") as caught:
            running.ask("augment", defects=["scratch"], count=5)
        assert caught.value.code == "busy"
        os.kill(painter_process(running), signal.SIGKILL)
        running.open_alarm("process.restarted.augment")
        done = until_told(running, "painting", 20)["done"]
        assert done < 300, "too quick to be killed again"
        painter = painter_process(running)
        until(lambda: os.sched_getscheduler(painter) == os.SCHED_IDLE, "does not go last")
        assert os.getpriority(os.PRIO_PROCESS, painter) == 19
        # As while a part is judged: then it sees nothing, and must not be left behind all the same.
        os.kill(painter, signal.SIGSTOP)
        os.kill(running.core, signal.SIGKILL)
        until(lambda: not is_running(painter), "outlives its core")
        until_told(running, "done", within_s=180)
        assert told(running)["job"] == begun["job"]
    check_dataset(Path(begun["out"]), 300)
    assert written(tmp_path) == [begun["job"]]


def test_a_cancelled_one_leaves_nothing(site, tmp_path):
    with site() as running:
        until(lambda: kept(tmp_path) >= 4)
        with pytest.raises(RequestError, match="nothing is under way"):
            running.ask("augment_cancel")
        begun = running.ask("augment", defects=["stain"], count=5000)
        until_told(running, "painting", 3)
        assert running.ask("augment_cancel") == {"job": begun["job"], "state": "cancelled"}
        assert written(tmp_path) == []
        assert not (tmp_path / "state" / "augment.json").exists()
        until(lambda: not [each for each in children(running.core).values() if "runtime.augment" in each])


def test_a_stop_in_order_pauses_it(site, tmp_path):
    with site() as running:
        until(lambda: kept(tmp_path) >= 4)
        begun = running.ask("augment", defects=["stain"], count=5000, seed=2)
        until_told(running, "painting", 2)
        began_s = time.monotonic()
        running.process.terminate()
        assert finish(running.process)[0] == 0
        assert time.monotonic() - began_s < 20
        assert json.loads((tmp_path / "state" / "augment.json").read_text())["job"] == begun["job"]
    with site() as running:
        until_told(running, "painting", 3)
        assert told(running)["job"] == begun["job"]
        running.ask("augment_cancel")


def test_without_room_it_waits_and_goes_on(site, tmp_path):
    with site("max_gib = 0.05") as running:
        until(lambda: kept(tmp_path) >= 4)
        running.ask("augment", defects=["stain"], count=5000)
        until_told(running, "painting", 2)
        filler = tmp_path / "site" / "filler"
        with filler.open("wb") as file:
            file.truncate(60 << 20)
        assert "may hold 0.05" in running.open_alarm("augment.failing")["message"]
        done = told(running)["done"]
        time.sleep(1.5)
        assert told(running)["done"] == done < 5000
        filler.unlink()
        until_told(running, "painting", done + 2)
        assert not next(a for a in running.ask("snapshot")["alarms"] if a["code"] == "augment.failing")["active"]
        running.ask("augment_cancel")


@pytest.mark.parametrize(
    ("settings", "args", "refusal"),
    [
        (("", 1), {"defects": ["rust"]}, ("not_found", "paints 'rust'; there are scratch, stain")),
        (("", 0), {"defects": ["stain"]}, ("not_found", "no good colour part")),
        (("", 1), {"defects": ["stain"], "camera": "cam9"}, ("not_found", "no camera 'cam9'")),
        (("keep_free_gib = 1e9", 1), {"defects": ["stain"]}, ("refused", "to stay free")),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(site, tmp_path, settings, args, refusal):
    (more, ok_every), (code, words) = settings, refusal
    with site(more, ok_every) as running:
        if ok_every:
            until(lambda: kept(tmp_path) >= 1)
        else:
            running.until(lambda m: m.header.msg_type == MessageType.VERDICT)
            (tmp_path / "archive").mkdir(exist_ok=True)
        with pytest.raises(RequestError, match=words) as caught:
            running.ask("augment", count=3, **args)
        assert caught.value.code == code
        assert not told(running)
        assert not (tmp_path / "state" / "augment.json").exists()
        assert not written(tmp_path)


def test_the_command_orders_and_follows(site, tmp_path):
    with site() as running:
        until(lambda: kept(tmp_path) >= 4)
        command = ("ctl", "augment", "--at", tmp_path / "state", "--defect", "stain", "--count", "3")
        status, out, err = run_inspectd(*command, "--wait")
        assert status == 0, err
        assert json.loads(out)["state"] == "done"
        check_dataset(Path(json.loads(out)["out"]), 3)
        status, _, err = run_inspectd("ctl", "stop", "--count", "3", "--at", tmp_path / "state")
        assert (status, "are of augment" in err) == (2, True)
        assert running.state() == "ContinuousExecution"


# Parts


def test_good_parts_are_those_in_which_nothing_was_found(tmp_path):
    shelf = Shelf(tmp_path / "archive")
    shelf.put(inspected(Verdict.OK, frame_id=1), seq=1)
    shelf.put(replace(inspected(Verdict.NG, frame_id=2), verdict=Verdict.OK), seq=2)
    shelf.put(inspected(Verdict.NG, frame_id=3), seq=3)
    shelf.put(inspected(Verdict.OK, frame_id=4, pixels=noise(channels=1)), seq=4)
    archive = Archive(shelf.root)
    assert [part.sidecar.frame.frame_id for part in good_parts(archive, channels=3)] == [1]
    assert [part.sidecar.frame.frame_id for part in good_parts(archive, channels=1)] == [4]
    part = next(good_parts(archive, channels=3))
    assert not list(good_parts(archive, channels=3, without={part.sidecar.picture.sha256}))
    assert not list(good_parts(archive, channels=3, camera="cam2"))


def test_a_bundle_of_before_without_its_reference_says_what_to_do(painting, tmp_path):
    bundle = load_bundle(painting[0] / "stain")
    files = {name: bundle.read(name) for name in bundle.files if not name.startswith("reference/")}
    write_bundle(tmp_path / "old", bundle.card, files, version="test")
    with pytest.raises(BundleError, match=r"has no reference/image.png; export it again"):
        reference_of(load_bundle(tmp_path / "old"), "old")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_line_leaves_what_it_does_not_use():
    clock = Clock()
    slack = Slack(clock)
    clock.now = 1.0
    assert slack.share(250.0, 0) == pytest.approx(0.75)
    clock.now = 2.0
    assert slack.share(1250.0, 0) == 0.0, "it has all of it"
    clock.now = 3.0
    assert slack.share(1250.0, 1) == 0.0, "a part missed its deadline"
    clock.now = 12.9
    assert slack.share(1250.0, 1) == 0.0
    clock.now = 13.1
    assert slack.share(1250.0, 1) == 1.0


def test_work_takes_no_more_than_its_share():
    clock, used = Clock(), Clock()
    shares: list[float] = []

    def ask(timeout_s: float) -> float:
        clock.now += timeout_s
        return shares.pop(0) if len(shares) > 1 else shares[0]

    pace = Pace(ask, used=used, clock=clock)
    shares[:] = [0.25]
    used.now = 0.1
    pace.step()
    assert clock.now == pytest.approx(0.3), "three times as long as it worked"
    shares[:] = [0.0, 0.0, 0.0, 0.5]
    used.now = 0.2
    pace.step()
    assert clock.now == pytest.approx(0.3 + 1.5), "while there is no share it waits, and asks again"
    shares[:] = [1.0]
    used.now = 9.0
    pace.step()
    assert clock.now == pytest.approx(1.8)


def test_it_stands_still_while_a_part_is_judged(tmp_path):
    """By the real signals to a real process, and not longer."""

    def state(number: int) -> str:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]

    config = load_config_of(tmp_path)
    augmenting = Augmenting(config, Alarms("test", epoch=1, publish=lambda _body: None), lambda: (0.0, 0))
    augmenting.hold(True)  # nothing is under way
    augmenting.begin({"defects": ["stain"], "count": 1, "seed": 1, "camera": ""}, lambda _outcome: None)
    try:
        number = augmenting.number
        augmenting.hold(True)
        until(lambda: state(number) == "T")
        augmenting.hold(False)
        until(lambda: state(number) != "T")
        augmenting.hold(True)
    finally:
        began_s = time.monotonic()
        augmenting.close()
    assert time.monotonic() - began_s < 5
    assert not is_running(number)


def load_config_of(folder: Path):
    path = folder / "line.toml"
    path.write_text(
        '[cameras.cam1]\nsource = "buttons"\n[model]\nbundle = "demo"\n[archive]\npath = "archive"\n'
        '[augment]\nbundles = "bundles"\nout = "site"\n'
    )
    (folder / "state").mkdir()
    return load_config(path)
