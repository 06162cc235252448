"""What becomes of a station when its disk, its network or its clock fails: real ones, where this machine permits."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from inspectd.bundle import load_bundle
from inspectd.config import parse_config
from inspectd.errors import RequestError
from inspectd.runtime import active_model
from inspectd.runtime.active_model import ActiveModel
from inspectd.runtime.control import Client
from inspectd.runtime.core import Core
from inspectd.runtime.engine import open_engine
from inspectd.runtime.messaging import CameraStream, Publisher, Requester, Silence, Subscriber
from inspectd.runtime.models import LoadedBundle
from inspectd.runtime.optics import load_optics
from inspectd.runtime.sources import make_source
from inspectd.wire import OPERATIONS, AlarmBody, Flags, MessageType, read_body

from .conftest import finish
from .station_site import until
from .test_station import FOLDER, start, station  # noqa: F401 - fixtures

is_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts and networks are root's to make")


@contextlib.contextmanager
def small_disk(path: Path, mebibytes: int) -> Iterator[Path]:
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "none", path], capture_output=True)
    if done.returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def is_durable(message) -> bool:
    return message.header.msg_type == MessageType.VERDICT and not message.header.flags & Flags.NOT_DURABLE


def is_not_durable(message) -> bool:
    return message.header.msg_type == MessageType.VERDICT and bool(message.header.flags & Flags.NOT_DURABLE)


@is_root
def test_a_full_disk_costs_results_their_durability_and_nothing_else(station, pictures, tmp_path):  # noqa: F811
    with small_disk(tmp_path / "state", 6), station() as running:
        running.until(is_durable)
        hog = tmp_path / "state" / "hog"
        with contextlib.suppress(OSError), hog.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        alarm = running.alarm("journal.full")
        assert "Make room" in alarm.message
        running.until(is_not_durable)
        seen = [running.until(lambda m: m.header.msg_type == MessageType.VERDICT).header.seq for _ in range(20)]
        assert seen == list(range(seen[0], seen[0] + 20)), "parts went without a verdict"
        hog.unlink()
        running.alarm("journal.full", active=False)
        running.until(is_durable)
        running.process.terminate()
        status, out, _ = finish(running.process)
        summary = json.loads(out)
        assert (status, summary["frames"] == summary["verdicts"]) == (0, True)
        assert summary["not_durable"] >= 20


@is_root
def test_a_disk_that_is_read_only_is_told_and_written_again_once_it_can_be(station, pictures, tmp_path):  # noqa: F811
    with small_disk(tmp_path / "disk", 6) as disk:
        with station(FOLDER, f'[journal]\npath = "{disk}/journal.db"') as running:
            running.until(is_durable)
            running.process.terminate()
            assert finish(running.process)[0] == 0
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with station.again(running) as running:
            running.until(is_not_durable)
            assert "the disk is read-only" in running.open_alarm("journal.failing")["message"]
            subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
            running.until(is_durable)
            running.process.terminate()
            assert finish(running.process)[0] == 0


@is_root
def test_a_station_starts_on_a_full_disk(station, pictures, tmp_path):  # noqa: F811
    with small_disk(tmp_path / "state", 3):
        with station() as running:
            running.until(is_durable)
            running.process.kill()
            finish(running.process)
        with contextlib.suppress(OSError), (tmp_path / "state" / "hog").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        with station() as running:
            message = running.until(lambda m: m.header.msg_type == MessageType.VERDICT)
            assert message.header.epoch == 2
            running.until(is_not_durable)


@is_root
def test_a_subscriber_behind_a_black_hole_gets_everything(station, pictures, tmp_path, start):  # noqa: F811
    """Three seconds in which packets vanish without a word; then the subscriber asks for what it missed."""
    if (
        shutil.which("ip") is None
        or subprocess.run(["ip", "netns", "add", "inspectd-t"], capture_output=True).returncode
    ):
        pytest.skip("this machine lets nobody make a network namespace")
    try:
        for words in (
            "link add inspectd-a type veth peer name inspectd-b netns inspectd-t",
            "addr add 10.213.77.1/24 dev inspectd-a",
            "link set inspectd-a up",
            "-n inspectd-t addr add 10.213.77.2/24 dev inspectd-b",
            "-n inspectd-t link set inspectd-b up",
        ):
            subprocess.run(["ip", *words.split()], check=True)
        with station() as running:
            pass
        config = running.folder / "line.toml"
        text = config.read_text().replace(f'endpoint = "ipc://{tmp_path}/pub"', 'endpoint = "tcp://10.213.77.1:5560"')
        config.write_text(text + '\n[control]\nendpoint = "tcp://10.213.77.1:5561"\n[security]\ncurve = "off"\n')
        process = start("run", config)
        follower = subprocess.Popen(
            ["ip", "netns", "exec", "inspectd-t", sys.executable, "-c", FOLLOWER],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        try:
            lines = iter(follower.stdout.readline, "")
            assert next(lines) == "first\n"
            # Not `link down`, which both sides would be told of: the packets go to a neighbour that is not there.
            for words in NEIGHBOURS:
                subprocess.run(["ip", *words.split(), "lladdr", "02:00:00:00:00:99", "nud", "permanent"], check=True)
            time.sleep(3)
            for words in NEIGHBOURS:
                subprocess.run(["ip", *words.replace("replace", "del").split()], check=True)
            back = time.monotonic()
            assert next(lines) == "back\n"
            took_s = time.monotonic() - back
            numbers = json.loads(next(lines))
        finally:
            follower.kill()
            follower.communicate()
        process.terminate()
        finish(process)
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert len(numbers) > 100
        assert took_s < 5, f"it took {took_s:.1f} s to hear again"
    finally:
        subprocess.run(["ip", "link", "del", "inspectd-a"], capture_output=True)
        subprocess.run(["ip", "netns", "del", "inspectd-t"], check=True)


NEIGHBOURS = (
    "neigh replace 10.213.77.2 dev inspectd-a",
    "-n inspectd-t neigh replace 10.213.77.1 dev inspectd-b",
)
FOLLOWER = """
import json, sys, time
from inspectd.runtime.messaging import Requester, Silence, Subscriber
from inspectd.wire import MessageType
got, quiet = {}, 0.0
with Subscriber("tcp://10.213.77.1:5560") as subscriber, Requester("tcp://10.213.77.1:5561") as requester:
    heard, back = time.monotonic(), False
    while True:
        message = subscriber.receive(0.1)
        if isinstance(message, Silence):
            continue
        # How long the station takes to start is no black hole.
        quiet, heard = max(quiet, time.monotonic() - heard if got else 0.0), time.monotonic()
        if quiet > 2 and not back:
            back = True
            print("back", flush=True)
        if message.header.msg_type != MessageType.VERDICT:
            continue
        if not got:
            print("first", flush=True)
        got[message.header.seq] = message
        if back and len(got) > 100:
            break
    missing = sorted(set(range(min(got), max(got))) - set(got))
    while missing:
        answer, messages = requester.replay(0, missing[0], min(missing[-1], missing[0] + 400), timeout_s=10)
        got.update({message.header.seq: message for message in messages})
        missing = sorted(set(range(min(got), max(got))) - set(got))
    print(json.dumps(sorted(got)), flush=True)
    time.sleep(10)
"""


@contextlib.contextmanager
def core_at_work(config, bundle_path: Path, publisher: Publisher, **options) -> Iterator[Core]:
    """The core in a thread of this process."""
    bundle = load_bundle(bundle_path)
    core = Core(
        config,
        config_file=None,
        loaded=LoadedBundle(bundle, open_engine(bundle, threads=1)),
        sources=[make_source("cam1", config.cameras["cam1"])],
        publisher=publisher,
        journal=None,
        open_bundle=open_bundle,
        active=ActiveModel(config.station.state_dir / "model.json", str(bundle_path)),
        optics=load_optics(config.cameras),
        **options,
    )
    thread = threading.Thread(target=core.run)
    thread.start()
    try:
        yield core
    finally:
        core.stop()
        thread.join(20)
    assert not thread.is_alive()


def configured(bundle_path: Path, tmp_path: Path):
    text = f"[cameras.cam1]\n{FOLDER}\n[model]\nbundle = '{bundle_path}'\nthreads = 1\n"
    return parse_config(f"[station]\nstate_dir = '{tmp_path}'\n{text}", tmp_path / "line.toml")


def test_a_clock_that_is_set_is_told_and_orders_nothing(bundle_path, pictures, tmp_path):
    ahead_ns = [0]

    def utc() -> int:
        return time.time_ns() + ahead_ns[0]

    publisher = Publisher(f"ipc://{tmp_path}/pub", epoch=1, cameras={"cam1": CameraStream()}, utc_ns=utc)
    with (
        publisher,
        Subscriber(publisher.endpoint) as subscriber,
        core_at_work(configured(bundle_path, tmp_path), bundle_path, publisher, utc=utc),
    ):
        alarms, numbers, deadline = [], [], time.monotonic() + 20
        while len(alarms) < 4:
            assert time.monotonic() < deadline
            message = subscriber.receive(0.2)
            if isinstance(message, Silence):
                continue
            if message.header.msg_type == MessageType.ALARM:
                alarms.append(read_body(message, AlarmBody))
            elif message.header.msg_type == MessageType.VERDICT:
                numbers.append(message.header.seq)
                if len(numbers) == 20:
                    ahead_ns[0] = -3_600_000_000_000
                if len(numbers) == 60:
                    ahead_ns[0] = 0
    assert [alarm.code for alarm in alarms] == ["clock.stepped"] * 4
    assert "set back by 3600.0 s" in alarms[0].message
    assert "set forward by 3600.0 s" in alarms[2].message
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_parts_are_judged_while_the_address_cannot_be_bound_again(bundle_path, pictures, tmp_path):
    sockets, away = tmp_path / "sockets", tmp_path / "away"
    sockets.mkdir()
    publisher = Publisher(f"ipc://{sockets}/pub", epoch=1, cameras={"cam1": CameraStream()})
    with publisher, core_at_work(configured(bundle_path, tmp_path), bundle_path, publisher) as core:

        def alarms() -> list[bool]:
            return [alarm.active for alarm in core.alarms.open if alarm.code == "publish.failing"]

        until(lambda: core.line.verdicts.total() > 5)
        sockets.rename(away)
        core.post(publisher.rebind)
        until(lambda: alarms() == [True], "nobody was told")
        judged = core.line.verdicts.total()
        until(lambda: core.line.verdicts.total() > judged + 20, "the line stood still")
        away.rename(sockets)
        until(lambda: alarms() == [False], "it was not tried again")
        with Subscriber(publisher.endpoint) as subscriber:
            assert not isinstance(subscriber.receive(5.0), Silence)


def open_bundle(path: Path, config) -> LoadedBundle:
    bundle = load_bundle(path)
    return LoadedBundle(bundle, open_engine(bundle, threads=1))


def test_no_heartbeat_and_no_deadline_waits_for_the_disk_when_a_model_is_activated(
    bundle_path, pictures, tmp_path, monkeypatch
):
    replace_file = active_model.replace_file

    def slowly(path: Path, data: bytes) -> None:
        time.sleep(2.5)
        replace_file(path, data)

    config = configured(bundle_path, tmp_path)
    publisher = Publisher(f"ipc://{tmp_path}/pub", epoch=1, cameras={"cam1": CameraStream()})
    answers: queue.SimpleQueue[object] = queue.SimpleQueue()

    def ask(core: Core, op: str, **args: str) -> None:
        arguments = OPERATIONS[op].arguments.model_validate(args)
        core.post(lambda: core.do(op, arguments, Client("test", "test", "engineer"), answers.put))

    with (
        publisher,
        Subscriber(publisher.endpoint) as subscriber,
        core_at_work(config, bundle_path, publisher) as core,
    ):
        ask(core, "load_model", bundle=bundle_path.name)
        assert isinstance(answers.get(timeout=20), dict)
        monkeypatch.setattr(active_model, "replace_file", slowly)
        while not isinstance(subscriber.receive(0.0), Silence):
            pass
        ask(core, "activate")
        began_s = time.monotonic()
        beats, latencies_us = [began_s], []
        while answers.empty():
            assert time.monotonic() - began_s < 20
            message = subscriber.receive(0.05)
            if isinstance(message, Silence):
                continue
            if message.header.msg_type == MessageType.HEARTBEAT:
                beats.append(time.monotonic())
            elif message.header.msg_type == MessageType.VERDICT:
                latencies_us.append(message.header.latency_us)
        beats.append(time.monotonic())
        assert isinstance(answers.get(), dict)
        assert time.monotonic() - began_s > 2.4, "it was answered before it was on the disk"
        assert max(after - before for before, after in itertools.pairwise(beats)) < 1.2
        assert len(latencies_us) > 20
        assert max(latencies_us) < 1_500_000
        assert json.loads((tmp_path / "model.json").read_text())["trial"] == "open"


def test_a_subscriber_that_stalls_holds_nobody_up(station, pictures, tmp_path):  # noqa: F811
    with station(FOLDER.replace("fps = 40", "fps = 100"), "") as running:
        running.until(is_durable)
        with Subscriber(f"ipc://{tmp_path}/pub") as stalling:
            stalling.receive(5.0)  # and then never again: what it does not take is dropped for it alone
            late = []
            for _ in range(400):
                message = running.until(lambda m: m.header.msg_type == MessageType.VERDICT)
                late.append((message.header.seq, message.header.latency_us))
        numbers = [seq for seq, _ in late]
        assert numbers == list(range(numbers[0], numbers[0] + 400))
        with Requester(f"ipc://{tmp_path}/state/ctl") as requester:
            assert requester.ask("snapshot").ok


def test_a_picture_that_hangs_keeps_no_command_from_being_done(station, pictures, tmp_path):  # noqa: F811
    more = f'[archive]\npath = "{tmp_path}/archive"\nformat = "png"\nok_every = 1'
    with station(FOLDER, more) as running:
        running.until(lambda message: message.header.seq > 5)
        until(lambda: list((tmp_path / "archive").rglob("1-1.png")), "nothing was archived")
        (hanging,) = (tmp_path / "archive").rglob("1-1.png")
        whole = hanging.read_bytes()
        hanging.unlink()
        os.mkfifo(hanging)  # whoever reads it waits for somebody who writes
        local = f"ipc://{tmp_path}/state/ctl"
        with Requester(local, identity=b"viewer") as viewer, ThreadPoolExecutor(1) as beside:
            asked = beside.submit(viewer.ask, "get_image", {"stream": 0, "seq": 1}, timeout_s=20)
            time.sleep(0.5)
            with Requester(local, identity=b"operator") as operator:
                assert operator.ask("snapshot", timeout_s=2.5).ok
                for op in ("abort", "halt", "reset"):
                    assert operator.ask(op, timeout_s=2.5).ok
            running.until_state("ContinuousExecution")
            assert running.ask("stop") == {"state": "Ready"}
            with pytest.raises(RequestError, match="get_image: the disk does not answer") as caught:
                asked.result(timeout=20)
            assert caught.value.code == "failed"
        alarm = running.open_alarm("control.slow")
        assert (alarm["severity"], "get_image cannot be had" in alarm["message"]) == ("warning", True)
        # Results are on another disk.
        assert running.ask("get_result", stream=0, seq=1)["header"]["seq"] == 1
        with hanging.open("wb"):
            hanging.unlink()
        hanging.write_bytes(whole)
        until(lambda: not running.open_alarm("control.slow")["active"])
        assert running.ask("get_image", stream=0, seq=1)["format"] == "png"
