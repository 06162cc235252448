"""Master parts that are put through a camera: a simulated one behind GenTL, triggered part by part."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from inspectd.bundle import load_bundle
from inspectd.calibration.golden import GoldenSettings
from inspectd.config import parse_config
from inspectd.errors import RequestError
from inspectd.frame import Frame
from inspectd.inspection import AcceptanceRule
from inspectd.masters import open_masters
from inspectd.runtime.alarms import Alarms
from inspectd.runtime.challenge import Challenges
from inspectd.runtime.engine import open_engine
from inspectd.runtime.journal import JournalReader
from inspectd.runtime.models import LoadedBundle, Model, Models
from inspectd.runtime.simcam.feed import FrameFeed
from inspectd.runtime.station import demo_bundle
from inspectd.wire import Header, MessageType, State, VerdictBody, read_body

from .conftest import finish, inspectd, run_inspectd
from .station_site import is_running, until
from .test_self_testing import make, write_data
from .test_station import Running, start, station  # noqa: F401 - fixtures

CAMERA = 'source = "genicam"\nproducer = "simulator"\ntrigger = "Software"'
SIDE = 64


def part(side: int, x: int = 12, level: int = 30) -> np.ndarray:
    pixels = np.full((SIDE, SIDE, 3), level, np.uint8)
    pixels[10 : 10 + side, x : x + side] = 255
    return pixels


@pytest.fixture(scope="module")
def masters(bundle_path, tmp_path_factory) -> Path:
    """Three parts with bright squares of three sizes, and three dark ones."""
    sides = (8, 12, 20, 0, 0, 0)
    parts = [
        (part(side, level=30 + index), part(side, level=0)[..., 0] == 255 if side else None, "glare" if side else "")
        for index, side in enumerate(sides)
    ]
    root = write_data(tmp_path_factory.mktemp("drawer") / "data", parts)
    return make(bundle_path, root, root / "set.zip", GoldenSettings(per_class=3))


class Bench:
    """A station, and somebody who lays parts before its camera."""

    def __init__(self, running: Running, feed: FrameFeed) -> None:
        self.running, self.feed = running, feed

    def lay_in(self, pixels: np.ndarray) -> str:
        """Put a part before the camera and trigger it; what its result is called."""
        last = self.running.ask("snapshot")["streams"][0]["last"]
        assert self.feed.put(pixels, 5.0)
        self.running.until_state("Ready")
        self.running.ask("start_single_job")

        def is_its(message) -> bool:
            return message.header.msg_type == MessageType.VERDICT and message.header.seq > last

        return read_body(self.running.until(is_its), VerdictBody).result_id

    def told(self) -> dict:
        return self.running.ask("snapshot")["challenge"]

    def alarms(self) -> dict[str, bool]:
        return {alarm["code"]: alarm["active"] for alarm in self.running.ask("snapshot")["alarms"]}

    def lay_in_what_is_asked_for(self, but: dict[int, np.ndarray] | None = None) -> list[str]:
        names = []
        while (told := self.told())["state"] == "running":
            shown = part(12, x=30) if told["next"]["defect"] else part(0)
            names.append(self.lay_in((but or {}).get(told["done"], shown)))
            until(lambda names=names: self.told()["done"] == len(names))
        return names


@pytest.fixture
def bench(station, masters, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("INSPECTD_SIM_FEED", str(tmp_path / "line.feed"))
    section = f'[challenge]\nfile = "{masters}"\n'

    @contextlib.contextmanager
    def run(more: str = "", feed: FrameFeed | None = None):
        with contextlib.ExitStack() as stack:
            feed = stack.enter_context(FrameFeed(tmp_path / "line.feed", SIDE, SIDE, slots=8))
            running = stack.enter_context(station(CAMERA, section + more, "--stay"))
            running.until_state("Ready")
            yield Bench(running, feed)

    return run


def test_parts_that_come_out_as_they_should_pass_and_are_due_no_more(bench):
    with bench('at = ["00:00"]') as site:
        due = site.running.open_alarm("challenge.due")
        assert " 00:00 the master parts have not been put through camera 'cam1'" in due["message"]
        site.lay_in(part(0))
        begun = site.running.ask("challenge")
        assert (begun["state"], begun["done"], begun["count"], begun["parts"]) == ("running", 0, 6, [])
        assert begun["next"].keys() == {"name", "defect", "size", "expected"}
        with pytest.raises(RequestError, match="one is under way") as caught:
            site.running.ask("challenge")
        assert caught.value.code == "busy"
        names = site.lay_in_what_is_asked_for()
        told = site.told()
        assert (told["state"], told["done"], told["next"], told["why"]) == ("passed", 6, None, "")
        # What lay there before was no master part.
        assert [each["result_id"] for each in told["parts"]] == names
        assert names[0] == "1-0-2"
        counts = [told["masters"][name] for name in ("known", "found", "good", "accepted")]
        assert counts == [3, 3, 3, 3]
        until(lambda: site.alarms() == {"challenge.due": False})
        with JournalReader(site.running.folder / "state" / "journal.db") as reader:
            (row,) = [row for row in reader.requests() if row.client == "station"]
        assert json.loads(row.answer)["result"] == told
    # The next start knows of it.
    with bench('at = ["00:00"]') as site:
        assert (site.told(), site.alarms()) == (None, {"challenge.due": False})


def test_a_known_defect_that_passes_leads_to_error_and_stays_told_until_it_is_found(bench):
    with bench() as site:
        begun = site.running.ask("challenge")
        assert begun["next"]["defect"] == "glare"
        names = site.lay_in_what_is_asked_for(but={1: part(0), 4: part(20)})
        told = site.told()
        assert (told["state"], told["masters"]["passed"]) == ("missed", False)
        missed, rejected = told["parts"][1], told["parts"][4]
        assert (missed["why"], missed["result_id"]) == ("OK, expected NG", names[1])
        assert (rejected["why"], rejected["defect"]) == ("NG, expected OK", "")
        site.running.until_state("Error")
        assert site.alarms() == {"challenge.missed": True, "challenge.rejected": True}
        alarm = site.running.open_alarm("challenge.missed")
        assert alarm["severity"] == "error"
        assert alarm["message"].startswith("master parts at camera 'cam1': 1 of 3 known defects are missed: images/")
        assert site.running.ask("snapshot")["healthReason"] == alarm["message"]
        with pytest.raises(RequestError, match="the station has to be Ready or to run, and is Error") as caught:
            site.running.ask("challenge")
        assert caught.value.code == "wrong_state"
    with bench() as site:
        until(lambda: site.alarms().get("challenge.missed"))
        site.running.ask("challenge")
        site.lay_in_what_is_asked_for()
        assert (site.told()["state"], site.alarms()["challenge.missed"]) == ("passed", False)
        site.running.until_state("Ready")


def test_an_alarm_alone_stops_nothing(bench):
    with bench('on_failure = "alarm"') as site:
        site.running.ask("challenge")
        site.lay_in_what_is_asked_for(but={0: part(0)})
        assert (site.told()["state"], site.alarms()) == ("missed", {"challenge.missed": True})
        site.running.until_state("Ready")


def test_what_is_broken_off_proves_nothing(bench):
    with bench('at = ["00:00"]\nwait_s = 1') as site:
        site.running.ask("challenge")
        until(lambda: site.told()["state"] != "running")
        assert (site.told()["state"], site.told()["why"]) == ("broken off", "no part came within 1 s")
        assert site.told()["masters"] is None
        site.running.ask("challenge")
        site.lay_in(part(12))
        site.running.ask("set_threshold", class_="bright", score=0.55)
        until(lambda: site.told()["state"] != "running")
        assert (site.told()["done"], site.told()["why"]) == (1, "another model or rule judges")
        site.running.ask("challenge")
        site.lay_in(part(12))
        assert site.running.ask("challenge_cancel")["why"] == "it was given up"
        with pytest.raises(RequestError, match="none is under way"):
            site.running.ask("challenge_cancel")
        assert site.alarms() == {"challenge.due": True}


def missed_by(site: Bench) -> None:
    site.running.ask("challenge")
    site.lay_in(part(0))
    until(lambda: site.told()["done"] == 1)


def test_nobody_gets_rid_of_a_missed_part_by_breaking_off(bench):
    with bench('at = ["00:00"]') as site:
        missed_by(site)
        site.running.ask("challenge_cancel")
        site.running.until_state("Error")
        assert site.alarms() == {"challenge.due": True, "challenge.missed": True}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nor_by_a_restart(bench, how):
    with bench() as site:
        missed_by(site)
        core = site.running.core
        site.running.process.send_signal(how) if how == signal.SIGTERM else os.kill(core, how)
        until(lambda: not is_running(core))
        if how == signal.SIGTERM:
            finish(site.running.process)
            with JournalReader(site.running.folder / "state" / "journal.db") as reader:
                (row,) = [row for row in reader.requests() if row.client == "station"]
            assert json.loads(row.answer)["result"]["why"] == "the station ended"
        else:
            # The supervisor starts the next one.
            alarm = site.running.open_alarm("challenge.missed")
            assert "1 of 3 known defects are missed" in alarm["message"]
    if how == signal.SIGTERM:
        with bench() as site:
            until(lambda: site.alarms().get("challenge.missed"))
            assert site.running.ask("snapshot")["alarms"][-1]["severity"] == "error"


def test_what_cannot_be_kept_is_told_and_kept_once_it_can_be(bench):
    with bench() as site:
        blocked = site.running.folder / "state" / ".challenge.json.new"
        blocked.mkdir()
        missed_by(site)
        alarm = site.running.open_alarm("challenge.not_kept")
        assert (alarm["severity"], alarm["active"]) == ("error", True)
        assert "challenge.json: what came of a challenge cannot be kept" in alarm["message"]
        blocked.rmdir()
        until(lambda: site.alarms()["challenge.not_kept"] is False)
        kept = json.loads((site.running.folder / "state" / "challenge.json").read_text())
        assert (kept["done_utc_ns"], kept["is_enough"]) == (0, False)


def test_while_a_single_job_is_executed_none_begins(bench):
    with bench() as site:
        site.running.ask("start_single_job")
        with pytest.raises(RequestError, match="Ready or to run, and is SingleExecution"):
            site.running.ask("challenge")


def test_a_model_that_cannot_find_them_is_not_loaded(bench, bundle_path):
    other = bundle_path.parent / "of-other-defects"
    shutil.copytree(demo_bundle(), other)
    refusal = "holds known defects of bright, and the network that judges"
    try:
        with bench() as site, pytest.raises(RequestError, match=refusal):
            site.running.ask("load_model", bundle=other.name)
    finally:
        shutil.rmtree(other)


@pytest.mark.parametrize("more", ["", "[challenge]\n"], ids=["no section", "an empty one"])
def test_a_station_without_a_set_refuses(station, pictures, more):  # noqa: F811
    with station(more=more) as running:
        running.until_state("ContinuousExecution")
        with pytest.raises(RequestError, match=r"set challenge\.file") as caught:
            running.ask("challenge")
        assert caught.value.code == "refused"


def test_a_set_that_cannot_be_used_is_told_by_check_and_run(write_config, pictures, masters, tmp_path):
    folder = 'source = "folder"\npath = "pictures"'
    gone = write_config(folder, '[challenge]\nfile = "gone.zip"')
    for command in ("check", "run"):
        status, _, err = run_inspectd(command, gone)
        assert (status, f"{tmp_path}/gone.zip: no such master parts" in err) == (2, True)
    foreign = gone.read_text().replace("gone.zip", str(masters))
    gone.write_text(
        foreign[: foreign.index("[model]")] + '[model]\nbundle = "demo"\n' + foreign[foreign.index("[chall") :]
    )
    status, _, err = run_inspectd("check", gone)
    assert (status, "holds known defects of bright, and the network that judges has the classes" in err) == (2, True)


def by_hand(site: Bench, *arguments: str) -> subprocess.Popen[str]:
    """The command, as somebody calls it."""
    return inspectd("ctl", "challenge", "--at", site.running.folder / "state", *arguments)


def test_the_command_asks_for_one_part_after_the_other(bench):
    with bench() as site:
        with by_hand(site) as hand:
            until(lambda: (site.told() or {}).get("state") == "running")
            names = site.lay_in_what_is_asked_for(but={0: part(0)})
            out, err = hand.communicate(timeout=20)
        assert (hand.returncode, err) == (1, "")
        lines = [line for line in out.splitlines() if not line.startswith("next: ")]
        asked = [line for line in out.splitlines() if line.startswith("next: ")]
        assert lines[0] == "challenge: put 6 master parts through camera 'cam1', in this order"
        assert asked[0].endswith("px)")
        assert asked[-1].endswith("(a good part)")
        first, last = (told["name"] for told in (site.told()["parts"][0], site.told()["parts"][5]))
        assert asked[0].startswith(f"next: {first} (glare, ")
        assert lines[1] == f"  1 of 6: {first}: OK, NOT AS IT SHOULD BE: OK, expected NG ({names[0]})"
        assert lines[6] == f"  6 of 6: {last}: OK, as it should be ({names[5]})"
        assert lines[7] == "challenge NOT PASSED: 2 of 3 known defects found, 3 of 3 good parts accepted"
        site.running.ask("reset")
        site.running.until_state("Ready")
        with by_hand(site, "--json") as hand:
            until(lambda: site.told()["state"] == "running")
            site.lay_in_what_is_asked_for()
            out, err = hand.communicate(timeout=20)
        assert (hand.returncode, json.loads(out)["state"]) == (0, "passed")
        assert "6 of 6: images/" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_command_gives_it_up(bench, number):
    with bench() as site, by_hand(site) as hand:
        until(lambda: (site.told() or {}).get("state") == "running")
        assert hand.stdout.readline().startswith("challenge: put 6 master parts")
        hand.send_signal(number)
        hand.communicate(timeout=20)
        assert hand.returncode != 0
        assert site.told()["why"] == "it was given up"


def test_a_command_that_waits_in_vain_says_so(bench):
    with bench("wait_s = 1") as site:
        status, out, _ = run_inspectd("ctl", "challenge", "--at", site.running.folder / "state")
    assert (status, out.splitlines()[-1]) == (
        2,
        "challenge BROKEN OFF after 0 of 6 parts: no part came within 1 s",
    )


class Desk:
    """Challenges with clocks that go on by hand."""

    def __init__(self, folder: Path, masters: Path, now: str, at: str = '["06:00", "14:00"]') -> None:
        config = parse_config(
            f'[station]\nstate_dir = "{folder}"\n[cameras.cam1]\nsource = "buttons"\n[model]\nbundle = "demo"\n'
            f'[challenge]\nfile = "{masters}"\nat = {at}\n',
            folder / "line.toml",
        )
        self.at(now)
        self.ns = 10**9
        self.models = Models(None)
        self.alarms = Alarms("test", epoch=1, publish=lambda _body: None)
        self.challenges = Challenges(
            config,
            open_masters(masters),
            models=self.models,
            alarms=self.alarms,
            state=lambda: State.READY,
            fail=print,
            keep=print,
            epoch=1,
            clock=lambda: self.ns,
            utc=lambda: self.utc,
        )
        self.challenges.take_up()

    def at(self, now: str) -> None:
        self.utc = round(datetime.fromisoformat(now).timestamp() * 1e9)

    def due(self, now: str) -> str:
        self.at(now)
        self.ns += 10**9
        self.challenges.look()
        return next((alarm.message for alarm in self.alarms.active if alarm.code == "challenge.due"), "")


def test_what_was_exposed_or_came_before_it_began_is_no_master_part(tmp_path, masters, bundle_path):
    desk, told = Desk(tmp_path, masters, "2026-03-02T09:00"), []
    with open_engine(load_bundle(bundle_path), threads=1) as engine:
        model = Model.make(LoadedBundle(load_bundle(bundle_path), engine), AcceptanceRule(), scales={}, clock=lambda: 0)
        desk.models.current = model
        desk.challenges.begin(told.append)

        def see(acquired_ns: int, received_ns: int, camera: str = "cam1") -> int:
            seen = Frame(camera, 1, part(12), acquired_ns=acquired_ns, received_ns=received_ns)
            header = Header(msg_type=MessageType.VERDICT, epoch=1, state=State.READY, seq=1)
            desk.challenges.note(model.inspector.inspect(seen), header)
            return desk.challenges.body["done"]

        assert see(desk.utc - 1, desk.ns + 5) == 0
        assert see(desk.utc + 1, desk.ns - 5) == 0
        assert see(desk.utc + 1, desk.ns + 5, camera="cam2") == 0
        assert see(desk.utc + 1, desk.ns + 5) == 1


def test_what_cannot_be_kept_at_the_end_is_told(tmp_path, masters, bundle_path):
    desk = Desk(tmp_path, masters, "2026-03-02T09:00")
    (tmp_path / ".challenge.json.new").mkdir()
    with open_engine(load_bundle(bundle_path), threads=1) as engine:
        model = Model.make(LoadedBundle(load_bundle(bundle_path), engine), AcceptanceRule(), scales={}, clock=lambda: 0)
        desk.models.current = model
        desk.challenges.begin(lambda _body: None)
        while not [alarm for alarm in desk.alarms.active if alarm.code == "challenge.missed"]:
            seen = Frame("cam1", 1, part(12), acquired_ns=desk.utc + 1, received_ns=desk.ns + 5)
            header = Header(msg_type=MessageType.VERDICT, epoch=1, state=State.READY, seq=1)
            desk.challenges.note(model.inspector.inspect(seen), header)
        desk.challenges.close()
    (told,) = [alarm.message for alarm in desk.alarms.active if alarm.code == "challenge.not_kept"]
    assert "challenge.json: what came of a challenge cannot be kept (Is a directory)" in told
    assert told.endswith("; the station ends")


@pytest.fixture
def passed(masters, tmp_path):
    """Has one be done at a time, of this set or another, at this camera or another."""

    def do(when: str, **other) -> None:
        ns = round(datetime.fromisoformat(when).timestamp() * 1e9)
        kept = {"set": open_masters(masters).record.sha256, "camera": "cam1", "done_utc_ns": ns, **other}
        (tmp_path / "challenge.json").write_text(json.dumps(kept))

    return do


def test_one_is_due_from_each_time_of_day_until_it_was_done(tmp_path, masters, passed):
    assert "since 2026-03-01 14:00" in Desk(tmp_path, masters, "2026-03-02T05:59").due("2026-03-02T05:59")
    passed("2026-03-01T14:05")
    desk = Desk(tmp_path, masters, "2026-03-02T05:58")
    assert desk.due("2026-03-02T05:59") == ""
    assert "since 2026-03-02 06:00" in desk.due("2026-03-02T06:00")
    assert "since 2026-03-02 14:00" in desk.due("2026-03-02T15:00")
    assert "since 2026-03-08 14:00" in desk.due("2026-03-09T01:00")
    # Also where the station was down when the time came.
    assert " 06:00" in Desk(tmp_path, masters, "2026-03-02T09:00").due("2026-03-02T09:00")
    passed("2026-03-02T09:01", missed="1 of 3", is_enough=False)
    desk = Desk(tmp_path, masters, "2026-03-02T09:02")
    assert desk.due("2026-03-02T09:02") == ""
    assert [(alarm.code, alarm.message) for alarm in desk.alarms.active] == [("challenge.missed", "1 of 3")]
    # A clock that is set back by a day: that it was done lies ahead, so nobody knows.
    assert " 06:00" in desk.due("2026-03-01T09:00")
    assert desk.due("2026-03-02T08:50") == ""


@pytest.mark.parametrize("other", [{"set": "ab" * 32}, {"camera": "cam2"}])
def test_one_of_another_set_or_camera_was_none_of_this(tmp_path, masters, passed, other):
    passed("2026-03-02T09:00", **other)
    assert " 06:00" in Desk(tmp_path, masters, "2026-03-02T09:01").due("2026-03-02T09:01")
    passed("2026-03-02T09:00")
    assert Desk(tmp_path, masters, "2026-03-02T09:01").due("2026-03-02T09:01") == ""


def test_an_hour_that_summer_time_repeats_or_leaves_out_asks_once(tmp_path, masters, passed, monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        desk = Desk(tmp_path, masters, "2026-10-25T01:00+02:00", at='["02:30"]')
        passed("2026-10-24T03:00+02:00")
        desk.challenges.take_up()
        told = [
            bool(desk.due(f"2026-10-25T{clock}"))
            for clock in ("02:29+02:00", "02:31+02:00", "02:05+01:00", "02:29+01:00", "02:31+01:00", "03:30+01:00")
        ]
        assert told == [False, True, True, True, True, True]
        passed("2026-10-25T02:20+01:00")
        desk.challenges.take_up()
        assert not desk.due("2026-10-25T02:31+01:00")
        passed("2026-03-28T03:00+01:00")
        desk.challenges.take_up()
        assert not desk.due("2026-03-29T01:59+01:00")
        assert "2026-03-29" in desk.due("2026-03-29T04:00+02:00")
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"done_utc_ns": "x"}',
        '{"done_utc_ns": 1e999}',
        '{"done_utc_ns": 1' + 30 * "0" + "}",
        "[" * 9999,
    ],
)
def test_of_a_damaged_memory_nobody_knows_what_it_held(tmp_path, masters, text):
    (tmp_path / "challenge.json").write_text(text)
    desk = Desk(tmp_path, masters, "2026-03-02T09:00")
    assert " 06:00" in desk.due("2026-03-02T09:00")
    (missed,) = [alarm for alarm in desk.alarms.active if alarm.code == "challenge.missed"]
    assert "is damaged; nobody knows what the latest challenge came to" in missed.message
