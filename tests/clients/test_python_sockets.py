"""The client in Python against a station that is killed, forgets, answers late, or has keys."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

import pytest
import zmq

from inspectd.wire import STATION_STREAM, MessageType

from .bench import CLIENTS, WAIT_S, place, wait_until

SCRIPT = CLIENTS / "python" / "ins1_client.py"


class Following(threading.Thread):
    """A subscriber in a thread, which keeps what it is given."""

    def __init__(self, ins1, bench, *, control=True, stall_s=0.0, **options):
        super().__init__(daemon=True)
        self.events = []
        self.subscriber = ins1.Subscriber(bench.publish, bench.control if control else None, **options)
        self._over = threading.Event()
        self._stall_s = stall_s
        self._ins1 = ins1
        self.start()
        wait_until(lambda: self.subscriber.started is not None or options.get("since"), "the first snapshot")

    def run(self):
        with self.subscriber:
            while not self._over.is_set():
                event = self.subscriber.receive(0.05)
                if event is not None:
                    self.events.append(event)
                    if len(self.events) == 20:
                        time.sleep(self._stall_s)

    def stop(self):
        self._over.set()
        self.join(WAIT_S)
        assert not self.is_alive()

    def of(self, kind):
        return [event for event in list(self.events) if isinstance(event, kind)]

    @property
    def results(self):
        return [place(event.message) for event in self.of(self._ins1.Result)]


def expected_of(bench, following, *kinds):
    """What it has to have had: all that is in the journal after the place where it began."""
    started = following.subscriber.started
    first = {int(stream): seq for stream, seq in started["streams"].items()}
    return [
        place(message)
        for message in bench.written(*kinds)
        if message.header.epoch > started["epoch"] or message.header.seq > first.get(message.header.stream, 0)
    ]


@pytest.mark.parametrize("masks", [False, True])
def test_every_result_comes_once_however_often_the_station_is_killed(ins1, bench, masks):
    bench.start(rate=200, drop=0.03, cameras=2)
    following = Following(ins1, bench, masks=masks)
    for _ in range(5):
        time.sleep(0.5)
        bench.kill()
        bench.start(rate=200, drop=0.03, cameras=2)
    time.sleep(0.5)
    bench.quieten()
    expected = expected_of(bench, following)
    wait_until(lambda: len(following.results) >= len(expected), "all results")
    time.sleep(0.5)
    following.stop()
    assert sorted(following.results) == sorted(expected)
    for stream in (0, 1):
        own = [seq for seq in following.results if seq[1] == stream]
        assert own == sorted(own)
    assert not following.of(ins1.Lost)
    changed = [place(event.message) for event in following.of(ins1.Changed)]
    kinds = (MessageType.STATE, MessageType.ALARM)
    assert sorted(changed) == sorted(expected_of(bench, following, *kinds))
    if masks:
        assert_masks_are_there(ins1, following)


def assert_masks_are_there(ins1, following):
    for result in following.of(ins1.Result):
        if result.header.verdict == ins1.NOT_INSPECTED:
            assert result.mask is None
        else:
            assert place(result.mask) == place(result.message)
            assert len(ins1.read_mask(result.mask).labels) == 32 * 48


def test_a_mask_is_waited_for_while_the_station_starts_again(ins1, bench):
    """It is killed between a verdict and its mask, and needs some seconds."""
    bench.quieten()
    bench.start(rate=100, killed_before_mask=21)
    following = Following(ins1, bench, masks=True)
    bench.wake()
    bench.process.wait(WAIT_S)
    time.sleep(3.0)
    bench.kill()
    bench.start(rate=100)
    wait_until(lambda: following.results and following.results[-1][0] == 2, "results of the new start")
    following.stop()
    assert not following.of(ins1.Lost)
    assert (1, 0, 21) in following.results
    assert_masks_are_there(ins1, following)


def test_who_stalls_has_the_rest_by_replay(ins1, bench):
    """Longer than the heartbeats of the connection wait, and more than the station keeps for a client."""
    bench.start(rate=1000)
    following = Following(ins1, bench, stall_s=3.0, masks=True)
    time.sleep(3.0)
    bench.quieten()
    wait_until(lambda: len(following.results) >= len(expected_of(bench, following)), "all results")
    following.stop()
    assert following.results == expected_of(bench, following)
    assert not following.of(ins1.Lost)


def test_a_replay_comes_in_pieces(ins1, bench):
    bench.start(rate=400, answer_bytes=5000)
    wait_until(lambda: len(bench.written()) > 100, "results")
    following = Following(ins1, bench, masks=True, since={"epoch": 1, "streams": {"0": 3}})
    bench.quieten()
    wait_until(lambda: len(following.results) >= len(bench.written()) - 3, "all results")
    following.stop()
    assert following.results == [place(message) for message in bench.written()[3:]]


def test_one_run_of_a_program_goes_on_where_the_last_one_ended(ins1, bench):
    bench.start(rate=200)
    first = Following(ins1, bench)
    wait_until(lambda: len(first.results) > 20, "results")
    first.stop()
    position = json.loads(json.dumps(first.subscriber.position))
    bench.kill()
    bench.start(rate=200)
    second = Following(ins1, bench, since=position)
    time.sleep(0.3)
    bench.quieten()
    expected = expected_of(bench, first)
    wait_until(lambda: len(first.results + second.results) >= len(expected), "all results")
    second.stop()
    assert first.results + second.results == expected


def test_what_is_no_longer_held_is_told(ins1, bench):
    bench.start(rate=400, keep=30)
    wait_until(lambda: len(bench.written()) > 100, "results")
    bench.quieten()
    following = Following(ins1, bench, since={"epoch": 1, "streams": {"0": 10}}, station=False)
    last = len(bench.written())
    wait_until(lambda: len(following.results) >= 30, "what is held")
    following.stop()
    assert following.results == [(1, 0, seq) for seq in range(last - 29, last + 1)]
    (lost,) = following.of(ins1.Lost)
    assert lost[:5] == (1, 0, "cam1", 11, last - 30)


def test_without_control_what_is_missed_is_told(ins1, bench):
    bench.start(rate=200, drop=0.1)
    following = Following(ins1, bench, control=False, station=False)
    wait_until(lambda: len(following.results) > 50, "results")
    bench.kill()
    bench.start(rate=200, drop=0.1)
    wait_until(lambda: len([each for each in following.results if each[0] == 2]) > 50, "results of the second start")
    bench.quieten()
    time.sleep(0.5)
    following.stop()
    missed = [event for event in following.of(ins1.Lost) if event.last is not None]
    told = [(lost.epoch, lost.stream, seq) for lost in missed for seq in range(lost.first, lost.last + 1)]
    (end,) = [event for event in following.of(ins1.Lost) if event.last is None]
    assert (end.epoch, end.first) == (1, max(each for each in following.results + told if each[0] == 1)[2] + 1)
    first = min(following.results + told)
    known = [each for each in expected_of(bench, following) if each >= first and (each[0] == 2 or each[2] < end.first)]
    assert sorted(following.results + told) == known


def test_one_camera_alone(ins1, bench):
    bench.start(rate=200, cameras=2, drop=0.1)
    following = Following(ins1, bench, cameras=["cam2"], station=False)
    time.sleep(0.5)
    bench.quieten()
    expected = [each for each in expected_of(bench, following) if each[1] == 1]
    wait_until(lambda: len(following.results) >= len(expected), "all results")
    following.stop()
    assert following.results == expected
    assert {event.camera for event in following.events} == {"cam2"}


def test_a_station_that_counts_anew_is_followed_all_the_same(ins1, bench):
    """Its state folder was lost, and with it the number of its starts."""
    bench.start(rate=200)
    bench.kill()
    bench.start(rate=200)
    following = Following(ins1, bench, station=False)
    wait_until(lambda: len(following.results) > 20, "results")
    bench.kill()
    for name in ("epoch", "journal"):
        (bench.folder / name).unlink()
    bench.start(rate=200)
    wait_until(lambda: any(epoch == 1 for epoch, _, _ in following.results), "results of the new count")
    following.stop()
    (lost,) = following.of(ins1.Lost)
    assert (lost.epoch, lost.last) == (2, None)
    assert "count" in lost.reason


def test_a_message_that_does_not_follow_the_format_is_told_and_the_rest_goes_on(ins1, bench):
    context = zmq.Context()
    publisher = context.socket(zmq.XPUB)
    publisher.bind(bench.publish)
    subscriber = ins1.Subscriber(bench.publish)
    publisher.recv()
    with subscriber:
        publisher.send_multipart([b"ins1/verdict/cam1/", b"INS9", b"{}"])
        event = subscriber.receive(5.0)
    context.destroy(linger=0)
    assert isinstance(event, ins1.Spoiled)
    assert "64 bytes" in event.reason


# Control


def test_a_command_is_done_once_however_often_it_is_sent(ins1, bench):
    bench.start(rate=1, deaf=2)
    with ins1.Control(bench.control, name="press 3") as control:
        number = control.new_id()
        answer = control.ask("ack_alarm", {"alarmId": "1-1"}, timeout_s=10, request_id=number)
        assert answer.result["times"] == 1
    with ins1.Control(bench.control, name="press 3") as control:
        # What became of it, after this program was started anew?
        assert control.ask("ack_alarm", {"alarmId": "1-1"}, request_id=number).result["times"] == 1
        assert control.ask("ack_alarm", {"alarmId": "1-1"}).result["times"] == 2
        with pytest.raises(ins1.Refused, match="repeated"):
            control.ask("ack_alarm", {"alarmId": "1-2"}, request_id=number)
        with pytest.raises(ins1.Refused) as refused:
            control.ask("replay", {"stream": 0, "from": 0, "to": 1})
        assert (refused.value.code, refused.value.field) == ("bad_request", "from")


def test_a_station_that_is_away_is_named(ins1, bench):
    with ins1.Control(bench.control) as control, pytest.raises(ins1.NoAnswer, match=f"{bench.control}: no answer"):
        control.ask("hello", timeout_s=0.2)
    with pytest.raises(ValueError, match="expected an address"):
        ins1.Control("nonsense")


def test_keys(ins1, bench, tmp_path):
    public, secret = zmq.curve_keypair()
    own_public, own_secret = zmq.curve_keypair()
    bench.start(rate=200, publish="tcp://127.0.0.1:*", control="tcp://127.0.0.1:*", secret=secret.decode())
    path = tmp_path / "client.toml"
    path.write_text(f'public_key = "{own_public.decode()}"\nsecret_key = "{own_secret.decode()}"\n')
    keys = ins1.Keys.from_file(str(path), public.decode())
    with ins1.Control(bench.control, keys) as control:
        assert control.ask("hello").result["station"] == "bench"
    with ins1.Control(bench.control) as control, pytest.raises(ins1.NoAnswer, match="keys"):
        control.ask("hello", timeout_s=0.5)
    following = Following(ins1, bench, keys=keys)
    wait_until(lambda: len(following.results) > 10, "results")
    following.stop()


# The command


def command(*words):
    return subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_the_command_prints_an_object_for_each_event(bench, tmp_path):
    bench.start(rate=200)
    position = tmp_path / "position.json"
    words = (bench.publish, "--control", bench.control, "--masks", "--position", position, "--count")
    out = ""
    for count in (5, 7):
        more, err = command(*words, count).communicate(timeout=WAIT_S)
        assert err == ""
        out += more
    events = [json.loads(line) for line in out.splitlines()]
    results = [event for event in events if event["event"] == "result"]
    start = next(event for event in events if event["event"] == "started")["streams"]["0"]
    assert [result["seq"] for result in results] == list(range(start + 1, start + 13))
    assert {result["verdict"] for result in results} == {"OK", "NG", "REVIEW", "NOT_INSPECTED"}
    assert next(result for result in results if result["verdict"] == "NG")["mask_px"] == {"scratch": 50, "stain": 0}


def test_the_command_waits_for_one_part(bench):
    """Of the bench every fifth part is NOT_INSPECTED, and the one after it OK; trigger_id counts from 1."""
    bench.start(rate=20)
    wait_until(lambda: len(bench.written()) > 5, "results")
    number = len(bench.written()) // 5 * 5 + 45
    good = command(bench.publish, "--camera", "cam1", "--check-part", number + 1, "--deadline", 10)
    bad = command(bench.publish, "--camera", "cam1", "--check-part", number, "--deadline", 10)
    late = command(bench.publish, "--camera", "cam1", "--check-part", 100_000, "--deadline", 0.5)
    assert good.communicate(timeout=WAIT_S) == ("good\n", "")
    assert bad.communicate(timeout=WAIT_S) == ("reject\n", "")
    assert late.communicate(timeout=WAIT_S) == ("reject\n", "")
    assert (good.returncode, bad.returncode, late.returncode) == (0, 1, 1)


def test_the_command_names_what_is_wrong(bench):
    for words, says in (
        (("nonsense",), "expected an address"),
        ((bench.publish, "--check-part", 1), "expected one --camera"),
        ((bench.publish, "--keys", "/nowhere"), "No such file"),
    ):
        process = command(*words)
        _, err = process.communicate(timeout=WAIT_S)
        assert process.returncode == 2
        assert says in err
        assert err.count("\n") == 1


def test_the_station_itself_is_not_followed_unless_asked_for(ins1, bench):
    bench.start(rate=400)
    following = Following(ins1, bench, station=False)
    time.sleep(0.5)
    following.stop()
    assert following.results
    assert not [event for event in following.of(ins1.Changed) if event.message.header.stream == STATION_STREAM]
