"""A whole station in its process: states, commands, alarms, models, and what survives kill -9."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from inspectd.bundle import load_bundle
from inspectd.errors import NotReached, RequestError
from inspectd.runtime.access import ClientKeys
from inspectd.runtime.journal import JournalReader
from inspectd.runtime.messaging import Requester, Silence, Subscriber
from inspectd.wire import (
    AlarmBody,
    Answer,
    Header,
    Message,
    MessageType,
    Request,
    Severity,
    StateBody,
    StatsBody,
    VerdictBody,
    read_body,
)

from .conftest import bright_pixel_model, children, core_of, finish, inspectd, summary_of
from .station_site import until

FOLDER = 'source = "folder"\npath = "pictures"\nloop = true\nfps = 40'
FOLDER_OF_TEN = 'source = "folder"\npath = "pictures"'


class Running:
    """A station that runs, a client of its control, and a subscriber."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.requester = Requester(f"ipc://{folder}/state/ctl", identity=b"test")
        self.subscriber = Subscriber(f"ipc://{folder}/pub")

    @property
    def core(self) -> int:
        """The process that judges."""
        return core_of(self.process)

    def ask(self, op: str, **args) -> dict:
        return dict(
            self.requester.ask(op, {key.rstrip("_"): value for key, value in args.items()}, timeout_s=20).result
        )

    def state(self) -> str:
        return self.ask("snapshot")["state"]

    def until(self, holds: Callable[[Message], bool], timeout_s: float = 20.0) -> Message:
        """The first message for which it holds."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            message = self.subscriber.receive(0.2)
            if not isinstance(message, Silence) and holds(message):
                return message
        pytest.fail("it never came")

    def until_state(self, state: str) -> None:
        deadline = time.monotonic() + 20
        while self.state() != state:
            assert time.monotonic() < deadline, f"never {state}"
            time.sleep(0.02)

    def open_alarm(self, code: str, within_s: float = 30.0) -> dict:
        """The alarm of a code that nobody has acknowledged; one that came while nobody had connected yet too."""
        deadline = time.monotonic() + within_s
        while True:
            assert time.monotonic() < deadline, f"{code} never came"
            with contextlib.suppress(NotReached):
                for alarm in self.requester.ask("snapshot", timeout_s=1.0).result["alarms"]:
                    if alarm["code"] == code:
                        return alarm
            time.sleep(0.05)

    def alarm(self, code: str, *, active: bool = True) -> AlarmBody:
        def fits(message: Message) -> bool:
            if message.header.msg_type != MessageType.ALARM:
                return False
            body = read_body(message, AlarmBody)
            return body.code.startswith(code) and body.active == active

        return read_body(self.until(fits), AlarmBody)


@pytest.fixture
def start(monkeypatch) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `inspectd`; what still runs at the end of the test is killed."""
    processes: list[subprocess.Popen[str]] = []

    def run(*arguments: object) -> subprocess.Popen[str]:
        processes.append(inspectd(*arguments))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            stream.close()


@pytest.fixture
def station(write_config, tmp_path, start):
    @contextmanager
    def run(camera: str = FOLDER, more: str = "", *arguments: object) -> Iterator[Running]:
        config = write_config(camera, more)
        running = Running(start("run", config, *arguments), tmp_path)
        with running.requester, running.subscriber:
            yield running
        if running.process.poll() is None:
            running.process.kill()
            running.process.communicate()

    @contextmanager
    def again(before: Running) -> Iterator[Running]:
        """With the configuration as it is now."""
        running = Running(start("run", before.folder / "line.toml"), before.folder)
        with running.requester, running.subscriber:
            yield running

    run.again = again
    return run


def test_a_client_leads_the_station_through_its_states(station, pictures):
    with station() as running:
        hello = running.ask("hello")
        assert (hello["role"], hello["epoch"]) == ("engineer", 1)
        assert "fault.inject" not in hello["operations"]
        running.until_state("ContinuousExecution")
        with pytest.raises(RequestError, match="start_continuous: not in state ContinuousExecution") as caught:
            running.ask("start_continuous")
        assert caught.value.code == "wrong_state"
        assert running.ask("stop") == {"state": "Ready"}
        before = running.ask("snapshot")["streams"][0]["last"]
        time.sleep(0.3)
        assert running.ask("snapshot")["streams"][0]["last"] == before
        assert running.ask("prepare_recipe", recipe_no=7, job_id="J1") == {"state": "Ready"}
        assert running.ask("start_single_job") == {"state": "SingleExecution"}
        running.until_state("Ready")
        after = running.ask("snapshot")
        assert after["streams"][0]["last"] == before + 1
        assert after["recipe"]["recipe_no"] == 7
        result = running.ask("get_result", stream=0, seq=before + 1)
        assert (result["header"]["recipe_no"], result["body"]["jobId"], result["mask"]) == (7, "J1", True)
        assert running.ask("start_continuous") == {"state": "ContinuousExecution"}
        assert running.ask("halt") == {"state": "Halted"}
        with pytest.raises(RequestError, match="Halted"):
            running.ask("stop")
        assert running.ask("reset") == {"state": "Preoperational"}
        running.until_state("ContinuousExecution")
        running.process.terminate()
        status, out, _ = finish(running.process)
    summary = summary_of(out)
    assert status == 0
    assert summary["frames"] == summary["verdicts"] > before


def test_a_manual_start_waits_for_its_client(station, pictures, write_config, start):
    with station(FOLDER_OF_TEN) as running:
        pass
    config = write_config(FOLDER_OF_TEN)
    config.write_text(config.read_text().replace('name = "test"', 'name = "test"\nstart = "manual"'))
    process = start("run", config)
    with Requester(f"ipc://{config.parent}/state/ctl") as requester:
        for op, state in (
            ("select_mode_automatic", "Initialized"),
            ("prepare_recipe", "Ready"),
            ("start_continuous", "ContinuousExecution"),
        ):
            assert requester.ask(op, timeout_s=20).result == {"state": state}
        status, out, _ = finish(process)
    assert (status, summary_of(out)["verdicts"]) == (0, 10)
    assert running.process.returncode is not None


def test_abort_gives_what_was_grabbed_no_verdict_but_not_inspected(station, pictures):
    with station() as running:
        running.until_state("ContinuousExecution")
        running.until(lambda message: message.header.msg_type == MessageType.VERDICT)
        assert running.ask("abort") == {"state": "Ready"}
        running.process.terminate()
        _, out, _ = finish(running.process)
    summary = summary_of(out)
    assert summary["frames"] == summary["verdicts"]


def test_every_message_that_counts_is_in_the_journal_as_it_was_sent(station, pictures):
    with station() as running:
        sent = {}
        while len(sent) < 40:
            message = running.until(lambda message: message.header.seq > 0)
            sent[message.header.stream, message.header.seq, message.header.msg_type] = message
        running.process.terminate()
        finish(running.process)
    with JournalReader(running.folder / "state" / "journal.db") as reader:
        for (stream, seq, kind), message in sent.items():
            kept = next(
                each
                for each in reader.messages(epoch=1, stream=stream, first=seq, last=seq, masks=True)
                if each.header.msg_type == kind
            )
            assert (kept.topic, kept.body, kept.payload) == (message.topic, message.body, message.payload)
            assert not message.header.flags & 32, "it said that it was not durable"


def test_replay_gives_what_was_missed_and_says_what_cannot_be_had(station, pictures):
    with station() as running:
        running.until(lambda message: message.header.msg_type == MessageType.VERDICT and message.header.seq >= 12)
        result, messages = running.requester.replay(0, 3, 7, masks=True)
        assert (result["from"], result["to"], result["oldest"]) == (3, 7, 1)
        assert [(m.header.seq, m.header.msg_type) for m in messages] == [(n, k) for n in range(3, 8) for k in (1, 2)]
        assert all(message.header.flags & 4 for message in messages)
        result, messages = running.requester.replay(65535, 1, 50)
        assert [read_body(m, StateBody).state for m in messages][:3] == ["Initialized", "Ready", "ContinuousExecution"]
        with pytest.raises(RequestError, match="nothing is held of stream 0 of epoch 9"):
            running.requester.replay(0, 1, 5, epoch=9)
        with pytest.raises(RequestError, match="at most 500") as caught:
            running.requester.replay(0, 1, 501)
        assert (caught.value.code, caught.value.field) == ("bad_request", "to")
        with pytest.raises(RequestError, match="not in the archive") as caught:
            running.ask("get_image", stream=0, seq=1)
        assert caught.value.code == "not_found"


def test_stats_account_for_every_part(station, pictures):
    with station() as running:
        for _ in range(3):
            body = read_body(running.until(lambda m: m.header.msg_type == MessageType.STATS), StatsBody)
            assert body.triggers == body.waiting + sum(body.verdicts.values())
            assert sum(body.latency["total"].counts) == sum(body.verdicts.values())
        assert body.memory_bytes > 10**7
        assert body.descriptors > 5


def test_a_command_is_done_once_however_often_it_is_sent_and_after_a_crash_too(station, pictures, write_config, start):
    with station() as running:
        running.until_state("ContinuousExecution")
        number = running.requester._next_id
        assert running.ask("stop") == {"state": "Ready"}
        assert running.ask("start_continuous") == {"state": "ContinuousExecution"}
        running.requester._next_id = number
        assert running.ask("stop") == {"state": "Ready"}
        assert running.state() == "ContinuousExecution", "the old command was done again"
        running.requester._next_id = number
        with pytest.raises(RequestError, match="was used for another request") as caught:
            running.ask("halt")
        assert caught.value.code == "repeated"
        os.kill(running.core, signal.SIGKILL)
        assert "SIGKILL" in running.open_alarm("process.restarted.core")["message"]
        running.requester._next_id = number
        assert running.ask("stop") == {"state": "Ready"}
        running.until_state("ContinuousExecution")
        assert running.ask("hello")["epoch"] == 2
        running.process.terminate()
        assert finish(running.process)[0] == 0
    with JournalReader(running.folder / "state" / "journal.db") as reader:
        assert [each.op for each in reader.requests()] == ["stop", "start_continuous"]


def test_roles_are_kept_and_attempts_are_noted(station, pictures):
    with station(FOLDER, '[control]\nlocal_role = "viewer"') as running:
        with pytest.raises(RequestError, match="needs the role operator, this client is viewer") as caught:
            running.ask("stop")
        assert caught.value.code == "forbidden"
        assert running.ask("hello")["operations"] == ["hello", "snapshot", "replay", "get_result", "get_image"]
        running.process.terminate()
        finish(running.process)
    with JournalReader(running.folder / "state" / "journal.db") as reader:
        (attempt,) = reader.requests()
        assert (attempt.op, attempt.role) == ("stop", "viewer")
        assert "forbidden" in (attempt.answer or "")


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ([b"\x01" * 8, b"not json"], "bad_request"),
        ([b"\x01" * 8, b"[1]"], "bad_request"),
        ([b"\x01" * 8, b'{"op": 1}'], "bad_request"),
        ([b"\x01" * 8, b'{"op": "stop", "args": 3}'], "bad_request"),
        ([b"\x01" * 8, b'{"op": "stop", "args": {"now": true}}'], "bad_request"),
        ([b"\x01" * 8, b'{"op": "replay", "args": {"stream": "x", "from": 1, "to": 2}}'], "bad_request"),
        ([b"\x01" * 8, b'{"op": "explode"}'], "unknown_operation"),
        ([b"\x01" * 8, b'{"op": "load_model", "args": {"bundle": "../../etc"}}'], "bad_request"),
        ([b"\x01" * 8, b"[" * 60_000], "bad_request"),
        ([b"short", b"{}"], "bad_request"),
        ([b""], "bad_request"),
    ],
)
def test_what_is_no_request_is_answered_and_hurts_nothing(station, pictures, parts, code):
    with station() as running:
        running.ask("hello")
        socket = running.requester._link.socket
        socket.send_multipart(parts)
        answer = {}
        while "error" not in answer:  # hello may have been sent, and be answered, more than once
            assert socket.poll(5000)
            answer = json.loads(socket.recv_multipart()[1])
        assert answer["error"]["code"] == code
        socket.send_multipart([b"\x02" * 8, b"x" * 100_000])  # above what is taken: the connection ends
        assert running.ask("hello")["epoch"] == 1


def test_a_broken_bundle_leads_to_error_with_an_alarm_and_back(station, pictures, bundle_path, tmp_path):
    broken = tmp_path / "bundle"
    shutil.copytree(bundle_path, broken)
    model = (broken / "model.onnx").read_bytes()
    (broken / "model.onnx").write_bytes(model[:-100])
    with station(FOLDER, "", "--stay", "--bundle", broken) as running:
        running.until_state("Error")
        snapshot = running.ask("snapshot")
        assert (snapshot["deviceHealth"], snapshot["model"].get("name")) == ("FAILURE", None)
        (alarm,) = snapshot["alarms"]
        assert alarm["code"] == "model.failed"
        assert "model.onnx" in alarm["message"]
        (broken / "model.onnx").write_bytes(model)
        assert running.ask("reset") == {"state": "Preoperational"}
        running.until_state("ContinuousExecution")
        (alarm,) = running.ask("snapshot")["alarms"]
        assert (alarm["active"], alarm["acked"]) == (False, False)
        assert running.ask("ack_alarm", alarmId=alarm["alarmId"]) == {"alarms": 0}
        with pytest.raises(RequestError, match="none that is open"):
            running.ask("ack_alarm", alarmId=alarm["alarmId"])
        running.until(lambda message: message.header.verdict == 1)


def test_alarms_that_nobody_acknowledged_come_again_after_a_restart(station, pictures, tmp_path):
    with station('source = "folder"\npath = "missing"', "", "--stay") as running:
        # The folder is looked for before anything starts: that is a fault of the configuration.
        status, _, err = finish(running.process)
    assert (status, "missing is not a folder" in err) == (2, True)
    camera = 'source = "genicam"\nproducer = "viky"\ndevice = "2"\nfeatures = { Widht = 3 }'
    with station(camera, "", "--stay") as running:
        running.until_state("Error")
        (first,) = running.ask("snapshot")["alarms"]
        assert first["code"] == "camera.failed"
        while MessageType.ALARM not in {m.header.msg_type for m in running.requester.replay(65535, 1, 50)[1]}:
            time.sleep(0.02)
        running.process.kill()
        finish(running.process)
    with station(FOLDER) as running:
        running.until_state("ContinuousExecution")
        (again,) = running.ask("snapshot")["alarms"]
        assert (again["alarmId"], again["active"]) == (first["alarmId"], False)


def variant(source: Path, target: Path, change: Callable[[dict], None]) -> Path:
    """A copy of a bundle with another golden expectation, so that it fails its self-test; checksums are right."""
    from inspectd.bundle import GOLDEN, write_bundle

    bundle = load_bundle(source)
    golden = json.loads(bundle.read(GOLDEN))
    change(golden)
    files = {name: bundle.read(name) for name in bundle.files if name != GOLDEN}
    write_bundle(target, bundle.card, {**files, GOLDEN: json.dumps(golden).encode()}, version="test")
    return target


def test_a_model_is_swapped_while_the_line_runs(station, pictures, bundle_path, tmp_path, start):
    models = tmp_path / "models"
    variant(bundle_path, models / "second", lambda golden: golden["samples"].append(golden["samples"][0]))
    variant(bundle_path, models / "wrong", lambda golden: golden["samples"][0].update(scores=[0.1]))
    shutil.copytree(bundle_path, models / "cut")
    (models / "cut" / "model.onnx").write_bytes(b"cut")
    first, second = load_bundle(bundle_path).digest, load_bundle(models / "second").digest
    assert first != second
    with station(FOLDER) as running:
        pass
    config = running.folder / "line.toml"
    config.write_text(config.read_text().replace("threads = 1", f'threads = 1\nmodels_dir = "{models}"'))
    process = start("run", config)
    with Requester(f"ipc://{tmp_path}/state/ctl") as requester, Subscriber(f"ipc://{tmp_path}/pub") as subscriber:
        ask = lambda op, **args: requester.ask(op, args, timeout_s=20).result  # noqa: E731
        with pytest.raises(RequestError, match="no model is loaded"):
            ask("activate")
        with pytest.raises(RequestError, match="no 'third' in") as caught:
            ask("load_model", bundle="third")
        assert caught.value.code == "not_found"
        with pytest.raises(RequestError, match="self-test failed"):
            ask("load_model", bundle="wrong")
        with pytest.raises(RequestError, match=r"model\.onnx"):
            ask("load_model", bundle="cut")
        assert ask("load_model", bundle="second")["digest"] == second
        assert ask("snapshot")["model"]["loaded"]["digest"] == second
        assert ask("activate")["digest"] == second
        digests, last = [], 0
        while not digests or digests[-1] != second:
            message = subscriber.receive(5.0)
            assert not isinstance(message, Silence)
            if message.header.msg_type == MessageType.VERDICT:
                assert last in (0, message.header.seq - 1), "a part was lost in the swap"
                last = message.header.seq
                digests.append(read_body(message, VerdictBody).model_digest)
        assert set(digests) <= {first, second}
        # It is kept over a restart, and can be taken back.
        process.terminate()
        finish(process)
        process = start("run", config)
        assert ask("snapshot")["model"]["digest"] == second
        with pytest.raises(RequestError, match="no model before"):
            ask("rollback")
        assert ask("load_model", bundle="second")["digest"] == second
        ask("activate")
        assert ask("rollback")["digest"] == second
        process.terminate()
        status, out, _ = finish(process)
    assert (status, summary_of(out)["not_inspected"]) == (0, 0)


def test_an_engine_that_fails_after_a_swap_brings_the_one_before_back(station, pictures, bundle_path, tmp_path, start):
    variant(bundle_path, tmp_path / "models" / "second", lambda golden: golden["samples"].append(golden["samples"][0]))
    with station(FOLDER, "[control]\nfault_injection = true") as running:
        pass
    config = running.folder / "line.toml"
    text = config.read_text().replace(
        "threads = 1", f'threads = 1\nwatch_frames = 100000\nmodels_dir = "{tmp_path}/models"'
    )
    config.write_text(text)
    process = start("run", config)
    with running.requester, running.subscriber:
        running.process = process
        running.until_state("ContinuousExecution")
        running.ask("load_model", bundle="second")
        running.ask("activate")
        running.ask("fault.inject", fault="engine")
        alarm = running.open_alarm("model.rolled_back")
        assert "a fault on purpose" in alarm["message"]
        assert running.ask("snapshot")["model"]["digest"] == load_bundle(bundle_path).digest
        process.terminate()
        _, out, _ = finish(process)
    assert summary_of(out)["not_inspected"] == 1


def test_a_model_that_kills_the_process_on_trial_does_not_judge_again(station, pictures, bundle_path, tmp_path):
    variant(bundle_path, tmp_path / "models" / "second", lambda golden: golden["samples"].append(golden["samples"][0]))
    first, second = load_bundle(bundle_path).digest, load_bundle(tmp_path / "models" / "second").digest
    with station(FOLDER) as running:
        pass
    config = running.folder / "line.toml"
    kept = f'threads = 1\nwatch_frames = 100000\nmodels_dir = "{tmp_path}/models"'
    config.write_text(config.read_text().replace("threads = 1", kept))
    with station.again(running) as running:
        running.until_state("ContinuousExecution")
        running.ask("load_model", bundle="second")
        running.ask("activate")
        running.process.terminate()
        assert finish(running.process)[0] == 0
    # It was stopped in order, so the trial goes on.
    with station.again(running) as running:
        running.until_state("ContinuousExecution")
        assert running.ask("snapshot")["model"]["digest"] == second
        os.kill(running.core, signal.SIGKILL)
        alarm = running.open_alarm("model.rolled_back")
        assert "died while" in alarm["message"]
        running.until_state("ContinuousExecution")
        assert running.ask("snapshot")["model"]["digest"] == first
        running.process.terminate()
        finish(running.process)


def test_a_model_that_has_judged_long_enough_is_kept_over_a_crash(station, pictures, bundle_path, tmp_path):
    variant(bundle_path, tmp_path / "models" / "second", lambda golden: golden["samples"].append(golden["samples"][0]))
    with station(FOLDER) as running:
        pass
    config = running.folder / "line.toml"
    config.write_text(
        config.read_text().replace("threads = 1", f'threads = 1\nwatch_frames = 5\nmodels_dir = "{tmp_path}/models"')
    )
    with station.again(running) as running:
        running.until_state("ContinuousExecution")
        running.ask("load_model", bundle="second")
        running.ask("activate")
        until(lambda: json.loads((tmp_path / "state" / "model.json").read_text())["trial"] == "")
        os.kill(running.core, signal.SIGKILL)
        running.open_alarm("process.restarted.core")
        running.until_state("ContinuousExecution")
        assert running.ask("snapshot")["model"]["digest"] == load_bundle(tmp_path / "models" / "second").digest


def test_the_score_of_a_bundle_does_not_go_over_to_the_next(station, pictures, bundle_path, tmp_path):
    from inspectd.bundle import MODEL, write_bundle

    first = load_bundle(bundle_path)
    card = first.card.model_copy(update={"thresholds": (0.3,)})
    files = {name: first.read(name) for name in first.files if name != MODEL}
    write_bundle(tmp_path / "models" / "second", card, {**files, MODEL: bright_pixel_model(card)}, version="test")
    with station(FOLDER) as running:
        pass
    config = running.folder / "line.toml"
    config.write_text(config.read_text().replace("threads = 1", f'threads = 1\nmodels_dir = "{tmp_path}/models"'))
    with station.again(running) as running:
        running.until_state("ContinuousExecution")
        rule = running.ask("set_threshold", class_="bright", minimum_area_px=20)["bright"]
        assert (rule["score"], rule["minimum_area_px"]) == (0.6, 20)
        running.ask("load_model", bundle="second")
        running.ask("activate")
        rule = running.ask("snapshot")["acceptance"]["bright"]
        assert (rule["score"], rule["minimum_area_px"]) == (0.3, 20)


def test_thresholds_and_rules_change_between_two_frames(station, pictures):
    with station() as running:
        running.until(lambda message: message.header.verdict == 2)
        changed = running.ask("set_threshold", class_="bright", minimum_area_px=100_000)
        assert changed["bright"]["minimum_area_px"] == 100_000
        seq = running.ask("snapshot")["streams"][0]["last"]
        for _ in range(10):
            message = running.until(lambda m: m.header.msg_type == MessageType.VERDICT and m.header.seq > seq + 2)
            assert message.header.verdict == 1
        for args, code in (({"class": "brigth"}, "not_found"), ({"class": "bright", "score": 2}, "bad_request")):
            with pytest.raises(RequestError) as caught:
                running.requester.ask("set_threshold", args)
            assert caught.value.code == code
        config = running.folder / "line.toml"
        text = config.read_text()
        config.write_text(text + "\n[acceptance.default]\nminimum_area_px = 5\n")
        assert running.ask("reload_config") == {
            "applied": ["acceptance.default.minimum_area_px"],
            "undone": ["bright"],
        }
        running.until(lambda message: message.header.verdict == 2)
        config.write_text(text.replace("fps = 40", "fps = 41") + "\n[acceptance.default]\nminimum_area_px = 9\n")
        with pytest.raises(RequestError, match=r"cameras\.cam1\.fps: needs a restart") as caught:
            running.ask("reload_config")
        assert caught.value.field == "cameras.cam1.fps"
        assert running.ask("snapshot")["acceptance"]["bright"]["minimum_area_px"] == 5
        config.write_text("nonsense")
        with pytest.raises(RequestError, match="not valid TOML"):
            running.ask("reload_config")
        assert running.ask("self_test") == {"samples": 1, "passed": True}


def test_a_journal_that_cannot_be_written_stops_nothing(station, pictures, tmp_path):
    (tmp_path / "state" / "journal.db").mkdir(parents=True)
    with station() as running:
        (alarm,) = running.ask("snapshot")["alarms"]
        assert alarm["code"] == "journal.failing"
        assert "parts are inspected all the same" in alarm["message"]
        message = running.until(lambda message: message.header.msg_type == MessageType.VERDICT)
        assert message.header.flags & 32, "it claims to be durable"
        with pytest.raises(RequestError, match="no journal"):
            running.requester.replay(0, 1, 5)
        (tmp_path / "state" / "journal.db").rmdir()
        running.alarm("journal.failing", active=False)
        running.until(lambda m: m.header.msg_type == MessageType.VERDICT and not m.header.flags & 32)


def test_two_stations_do_not_share_a_state_folder(station, pictures, tmp_path, start):
    with station() as running:
        running.until_state("ContinuousExecution")
        other = start("run", running.folder / "line.toml")
        status, _, err = finish(other)
        assert (status, "another line is running with it" in err) == (2, True)


def test_sockets_have_the_permissions_that_were_set(station, pictures, tmp_path):
    commands = f"ipc://{tmp_path}/commands"
    with station(FOLDER, f'[control]\nsocket_mode = 0o600\nendpoint = "{commands}"') as running:
        running.until_state("ContinuousExecution")
        modes = {
            name: oct((tmp_path / name).stat().st_mode & 0o777)
            for name in ("state/ctl", "state/pub", "commands", "pub")
        }
        with Requester(commands) as requester:
            assert requester.ask("snapshot").result["state"] == "ContinuousExecution"
    assert set(modes.values()) == {"0o600"}, modes
    with station(FOLDER, "[control]\nenabled = false") as running:
        running.until(lambda message: message.header.msg_type == MessageType.VERDICT)
        with pytest.raises(NotReached):
            running.requester.ask("hello", timeout_s=0.5)


def test_parts_are_archived_given_out_and_inspected_again_with_the_same_result(station, pictures, tmp_path):
    with station(FOLDER, f'[archive]\npath = "{tmp_path}/archive"\nok_every = 3') as running:
        running.until_state("ContinuousExecution")
        numbers = {1: [], 2: []}
        while min(map(len, numbers.values())) < 9:
            message = running.until(lambda m: m.header.msg_type == MessageType.VERDICT)
            numbers[message.header.verdict].append(message.header.seq)
        deadline = time.monotonic() + 20
        while True:
            try:
                found = running.requester.ask("get_image", {"stream": 0, "seq": numbers[2][0]})
                break
            except RequestError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        assert found.result == {"format": "png", "width": 64, "height": 64}
        assert found.blobs[0][:8] == b"\x89PNG\r\n\x1a\n"
        # The archive may die as often as it likes: the line goes on, and so does the archive.
        (archive,) = [child for child, command in children(running.core).items() if "runtime.archive" in command]
        os.kill(archive, signal.SIGKILL)
        alarm = running.alarm("process.restarted.archive")
        assert "ended by signal 9" in alarm.message
        time.sleep(1.0)
        running.process.terminate()
        status, out, _ = finish(running.process)
        summary = summary_of(out)
        assert (status, summary["frames"] == summary["verdicts"], summary["not_inspected"]) == (0, True, 0)
    status, out, err = finish(inspectd("replay", tmp_path / "archive", "--config", tmp_path / "line.toml", "--verify"))
    assert status == 0, err
    kept = sorted((tmp_path / "archive").glob("*/cam1/*.json"))
    verdicts = [json.loads(path.read_text())["verdict"] for path in kept]
    assert verdicts.count("NG") >= 9
    assert 0 < verdicts.count("OK") < verdicts.count("NG")


def test_an_archive_that_fails_again_and_again_is_an_error_and_the_line_goes_on(station, pictures, tmp_path):
    with station(FOLDER, f'[archive]\npath = "{tmp_path}/archive"') as running:
        running.until_state("ContinuousExecution")
        killed: set[int] = set()
        deadline = time.monotonic() + 60
        while len(killed) < 5:
            assert time.monotonic() < deadline
            for child, command in children(running.core).items():
                if "runtime.archive" in command and child not in killed:
                    os.kill(child, signal.SIGKILL)
                    killed.add(child)
            time.sleep(0.1)
        alarm = running.alarm("process.failing.archive")
        assert alarm.severity is Severity.ERROR
        assert "again and again" in alarm.message
        running.until(lambda m: m.header.msg_type == MessageType.VERDICT)
        running.process.terminate()
        assert finish(running.process)[0] == 0


def test_a_self_test_is_answered_although_the_line_stops(station, pictures):
    with station() as running:
        running.until_state("ContinuousExecution")
        for round_ in range(3):
            socket, number = running.requester._link.socket, running.requester._next_id
            running.requester._next_id += 2
            socket.send_multipart(Request(number, "self_test", {}).to_parts())
            socket.send_multipart(Request(number + 1, "stop", {}).to_parts())
            answered = set()
            while answered != {number, number + 1}:
                assert socket.poll(10_000), f"round {round_}: only {answered} of {number}"
                answered.add(Answer.from_parts(socket.recv_multipart()).request_id)
                answered &= {number, number + 1}
            running.ask("start_continuous")


def test_a_rule_that_was_set_holds_after_a_swap_that_failed(station, pictures, bundle_path, tmp_path, start):
    variant(bundle_path, tmp_path / "models" / "second", lambda golden: golden["samples"].append(golden["samples"][0]))
    with station(FOLDER, "[control]\nfault_injection = true") as running:
        pass
    config = running.folder / "line.toml"
    config.write_text(
        config.read_text().replace(
            "threads = 1", f'threads = 1\nwatch_frames = 100000\nmodels_dir = "{tmp_path}/models"'
        )
    )
    with station.again(running) as running:
        running.until_state("ContinuousExecution")
        running.ask("load_model", bundle="second")
        running.ask("activate")
        running.ask("set_threshold", class_="bright", minimum_area_px=77)
        running.ask("fault.inject", fault="engine")
        running.open_alarm("model.rolled_back")
        assert running.ask("snapshot")["acceptance"]["bright"]["minimum_area_px"] == 77


def test_ctl_shows_and_commands(station, pictures, tmp_path):
    with station() as running:
        running.until_state("ContinuousExecution")
        status, out, _ = finish(inspectd("ctl", "snapshot", "--at", tmp_path / "state"))
        assert status == 0
        assert "station test: ContinuousExecution, NORMAL" in out
        assert "no alarms" in out
        status, out, _ = finish(inspectd("ctl", "stop", "--at", tmp_path / "line.toml", "--json"))
        assert (status, json.loads(out)) == (0, {"state": "Ready"})
        status, _, err = finish(inspectd("ctl", "stop", "--at", tmp_path / "line.toml"))
        assert (status, "not in state Ready" in err) == (2, True)
        status, _, err = finish(inspectd("ctl", "set_threshold", "bright", "--at", tmp_path / "state"))
        assert (status, "expected NAME=VALUE, such as class=…" in err) == (2, True)
        status, out, _ = finish(
            inspectd("ctl", "set_threshold", "class=bright", "score=0.7", "--at", tmp_path / "state")
        )
        assert (status, json.loads(out)["bright"]["score"]) == (0, 0.7)
    status, _, err = finish(inspectd("ctl", "hello", "--at", f"ipc://{tmp_path}/nothing", "--timeout", "0.5"))
    assert (status, "no answer to hello" in err) == (2, True)


def test_a_killed_core_leaves_no_result_behind_that_cannot_be_asked_for(station, pictures):
    """What a subscriber has seen is in the journal, under the same number, whenever the process dies."""
    with station() as running:
        for epoch in range(1, 4):
            seen: dict[int, bytes] = {}
            while len(seen) < 15 + epoch:
                message = running.until(lambda message: message.header.msg_type == MessageType.VERDICT)
                assert message.header.epoch == epoch
                seen[message.header.seq] = message.body
            os.kill(running.core, signal.SIGKILL)
            time.sleep(0.2)
            while not isinstance(running.subscriber.receive(0.1), Silence):
                pass  # what was still on its way
            with JournalReader(running.folder / "state" / "journal.db") as reader:
                kept = {m.header.seq: m.body for m in reader.messages(epoch=epoch, stream=0, first=1, last=10**6)}
            assert seen.items() <= kept.items()
            assert sorted(kept) == list(range(1, max(kept) + 1))


def test_a_core_that_hangs_is_found_and_replaced(station, pictures):
    with station(FOLDER, "[control]\nfault_injection = true") as running:
        running.until(lambda message: message.header.msg_type == MessageType.VERDICT)
        with pytest.raises(NotReached):
            running.requester.ask("fault.inject", {"fault": "hang"}, timeout_s=0.5)
        assert "nothing was heard of it" in running.open_alarm("process.restarted.core")["message"]
        running.until(lambda m: m.header.msg_type == MessageType.VERDICT and m.header.epoch == 2)


def test_a_supervisor_that_is_killed_takes_its_station_along_in_good_order(station, pictures):
    with station() as running:
        running.until(lambda message: message.header.msg_type == MessageType.VERDICT)
        core = running.core
        os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait()
        change = running.until(lambda m: m.header.msg_type == MessageType.STATE and m.header.state.label == "Halted")
        assert read_body(change, StateBody).previous == "ContinuousExecution"
        deadline = time.monotonic() + 10
        while Path(f"/proc/{core}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_headers_are_pushed_to_a_plc_over_tcp(station, pictures):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with station() as running:
        pass
    config = running.folder / "line.toml"
    config.write_text(config.read_text().replace("[publish]\n", f"[publish]\nheader_port = {port}\n"))
    with station.again(running) as running:
        running.until(lambda message: message.header.msg_type == MessageType.VERDICT)
        deadline = time.monotonic() + 20
        while True:
            try:
                plc = socket.create_connection(("127.0.0.1", port), 1.0)
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        with plc, plc.makefile("rb") as stream:
            headers = [Header.unpack(stream.read(64)) for _ in range(60)]
        verdicts = [header.seq for header in headers if header.msg_type == MessageType.VERDICT]
        assert len(verdicts) > 30
        assert verdicts == list(range(verdicts[0], verdicts[0] + len(verdicts)))
        (push,) = [child for child, command in children(running.process.pid).items() if "header_push" in command]
        os.kill(push, signal.SIGKILL)
        assert "SIGKILL" in running.open_alarm("process.restarted.headers")["message"]
        running.process.terminate()
        assert finish(running.process)[0] == 0


# Keys


def keys(*arguments: object) -> tuple[int, str, str]:
    return finish(inspectd("keys", *arguments))


@pytest.fixture
def guarded(station, pictures, tmp_path):
    """A station at two TCP ports that ask for keys, and the files of two clients."""
    folder = tmp_path / "state" / "keys"
    assert keys("station", "--keys", folder)[0] == 0
    for name, role in (("anna", "engineer"), ("plc", "viewer")):
        assert keys("client", name, "--role", role, "--out", tmp_path / f"{name}.toml", "--keys", folder)[0] == 0
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(free.getsockname()[1])
    with station():
        pass
    config = tmp_path / "line.toml"
    text = config.read_text().replace(f'endpoint = "ipc://{tmp_path}/pub"', f'endpoint = "tcp://127.0.0.1:{ports[0]}"')
    text += f'\n[control]\nendpoint = "tcp://127.0.0.1:{ports[1]}"\n[security]\ncurve = "always"\n'
    config.write_text(text)
    return config, f"tcp://127.0.0.1:{ports[0]}", f"tcp://127.0.0.1:{ports[1]}"


def test_whoever_has_no_key_gets_nothing_and_who_has_one_what_his_role_allows(guarded, start, tmp_path):
    config, publish, ctl = guarded
    process = start("run", config)
    anna, plc = (ClientKeys.load(tmp_path / f"{name}.toml").apply for name in ("anna", "plc"))
    with (
        Subscriber(publish, secure=plc) as known,
        Subscriber(publish) as nobody,
        Requester(ctl, secure=anna) as engineer,
        Requester(ctl, secure=plc) as viewer,
        Requester(ctl) as without,
    ):
        assert isinstance(known.receive(20.0), Message)
        assert isinstance(nobody.receive(1.0), Silence)
        with pytest.raises(NotReached):
            without.ask("hello", timeout_s=1.0)
        assert engineer.ask("hello").result["client"] == "anna"
        assert (viewer.ask("hello").result["role"], viewer.ask("snapshot").ok) == ("viewer", True)
        with pytest.raises(RequestError, match="needs the role operator"):
            viewer.ask("stop")
        refused = [alarm for alarm in engineer.ask("snapshot").result["alarms"] if alarm["code"] == "security.refused"]
        assert len(refused) == 1, "however often somebody tried it is one alarm"
        # Revoked while it is connected: it hears nothing more, and the others go on.
        assert keys("revoke", "plc", "--keys", tmp_path / "state" / "keys")[0] == 0
        deadline = time.monotonic() + 20
        while not isinstance(known.receive(1.5), Silence):
            assert time.monotonic() < deadline, "it is still let in"
        with pytest.raises((NotReached, RequestError)):
            viewer.ask("hello", timeout_s=2.0)
        assert engineer.ask("hello", timeout_s=20).result["client"] == "anna"
        assert engineer.ask("stop", timeout_s=20).result == {"state": "Ready"}
        process.terminate()
        assert finish(process)[0] == 0
    with JournalReader(tmp_path / "state" / "journal.db") as reader:
        trail = [(each.name, each.op) for each in reader.requests()]
    assert trail == [("plc", "stop"), ("anna", "stop")]


def test_without_keys_a_guarded_station_does_not_start(guarded, start, tmp_path):
    config, _, _ = guarded
    shutil.rmtree(tmp_path / "state" / "keys")
    for command in ("check", "run"):
        status, _, err = finish(start(command, config))
        assert status == 2
        assert "inspectd keys station --keys" in err


def test_watch_and_ctl_come_with_keys(guarded, start, tmp_path):
    config, publish, ctl = guarded
    process = start("run", config)
    options = ("--keys", tmp_path / "anna.toml")
    status, out, _ = finish(start("watch", publish, "--json", "--frames", 3, "--timeout", 20, *options))
    assert (status, len(out.splitlines())) == (0, 3)
    status, out, _ = finish(start("ctl", "stop", "--at", ctl, "--json", *options))
    assert (status, json.loads(out)) == (0, {"state": "Ready"})
    assert finish(start("watch", publish, "--json", "--frames", 1, "--timeout", 1))[0] == 1
    status, out, _ = keys("list", "--keys", tmp_path / "state" / "keys")
    assert status == 0
    assert "engineer" in out
    assert (tmp_path / "state" / "keys" / "station.key").read_text().strip() not in out
    process.terminate()
    finish(process)


def test_only_signed_bundles_are_run_where_that_is_asked_for(station, pictures, start, bundle_path, tmp_path):
    signed = shutil.copytree(bundle_path, tmp_path / "models" / "signed")
    shutil.copytree(bundle_path, tmp_path / "models" / "unsigned")
    assert keys("signing", "Anna", "--out", tmp_path / "anna.key")[0] == 0
    assert keys("sign", signed, "--key", tmp_path / "anna.key")[0] == 0
    shutil.copy(tmp_path / "anna.key.pub", tmp_path / "trusted")
    status, out, _ = keys("verify", signed, "--trusted", tmp_path / "trusted")
    assert (status, "signed by Anna" in out) == (0, True)
    assert keys("verify", tmp_path / "models" / "unsigned", "--trusted", tmp_path / "trusted")[0] == 2
    with station():
        pass
    config = tmp_path / "line.toml"
    text = config.read_text().replace("threads = 1", f'threads = 1\ntrusted_keys = "{tmp_path}/trusted"')
    config.write_text(text)
    status, _, err = finish(start("run", config))
    assert (status, "is not signed" in err) == (2, True)
    process = start("run", config, "--bundle", signed)
    with Requester(f"ipc://{tmp_path}/state/ctl") as requester:
        requester.ask("hello", timeout_s=20)
        with pytest.raises(RequestError, match="is not signed"):
            requester.ask("load_model", {"bundle": "unsigned"}, timeout_s=20)
        assert requester.ask("load_model", {"bundle": "signed"}, timeout_s=20).ok
    process.terminate()
    assert finish(process)[0] == 0
