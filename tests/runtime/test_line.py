"""The line: one verdict a frame, whatever fails."""

from __future__ import annotations

import signal
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspectd.bundle import load_bundle
from inspectd.config import parse_config
from inspectd.errors import (
    BundleError,
    CameraError,
    CameraLost,
    EndOfFrames,
    FrameTimeout,
    IncompleteFrame,
    InferenceError,
    ProtocolError,
)
from inspectd.frame import STREAMING, Frame
from inspectd.inspection import Verdict
from inspectd.runtime.engine import EngineResult, open_engine
from inspectd.runtime.line import Line
from inspectd.runtime.mailbox import Arrival, Mailbox, Slot
from inspectd.runtime.messaging import CameraStream, Publisher, Silence, Subscriber
from inspectd.runtime.models import LoadedBundle, Model, Models
from inspectd.runtime.sources import make_source
from inspectd.wire import Message, MessageType, State, StateBody, VerdictBody, read_body

from .conftest import picture, save_picture


def frame(number: int, camera: str = "cam1", *, defect: bool = False) -> Frame:
    return Frame(camera, number, picture(defect=defect), acquired_ns=number, received_ns=time.monotonic_ns())


class Script:
    """A camera that plays what it is given: frames, and errors in between."""

    def __init__(self, *steps: Frame | BaseException, name: str = "cam1") -> None:
        self.name = name
        self.status = STREAMING
        self._steps = list(steps)
        self.closed = self.stopped = False

    def open(self) -> None: ...

    def start(self) -> None: ...

    def read(self, timeout_s: float) -> Frame:
        if self.stopped and not self._steps:
            raise EndOfFrames
        step = self._steps.pop(0)
        if isinstance(step, BaseException):
            raise step
        return step

    def stop(self) -> None:
        """What it was given is what had come before."""
        self.stopped = True

    def attend(self) -> None: ...

    def close(self) -> None:
        self.closed = True


class Fails:
    """A real engine that fails on chosen frames, counted from the first after the self-test."""

    def __init__(self, engine, *failures: BaseException | None) -> None:
        self._engine, self.name, self.precision, self.failure = engine, engine.name, engine.precision, None
        self._failures = [None, *failures]

    def infer(self, images, thresholds) -> EngineResult:
        failure = self._failures.pop(0) if self._failures else None
        if failure is not None:
            raise failure
        return self._engine.infer(images, thresholds)

    def close(self) -> None:
        self._engine.close()


class Setup:
    """A line between a scripted camera and a real subscriber."""

    def __init__(self, tmp_path, bundle_path) -> None:
        self.bundle = load_bundle(bundle_path)
        self.engine = open_engine(self.bundle, threads=1)
        self.endpoint = f"ipc://{tmp_path}/pub"
        self.config_file = tmp_path / "line.toml"
        self.publisher = Publisher(
            self.endpoint, epoch=1, cameras={"cam1": CameraStream(simulated=True)}, heartbeat_s=0.05
        )
        self.subscriber = Subscriber(self.endpoint)

    def config(self, camera: str = 'source = "buttons"'):
        text = f"[cameras.cam1]\n{camera}\n[model]\nbundle = '{self.bundle.path}'\n[publish]\nheartbeat_ms = 50\n"
        return parse_config(text, self.config_file)

    def run(self, source, *, engine=None, camera: str = 'source = "buttons"', frames: int | None = None) -> Line:
        line = Line(self.config(camera), self.bundle, engine or self.engine, [source], self.publisher, frames=frames)
        with self.publisher, self.subscriber:
            assert self.publisher.wait_for_subscriber(5.0)
            self.failure = None
            try:
                line.run()
            except (CameraError, BundleError, InferenceError) as error:
                self.failure = error
            self.messages = self._received()
        return line

    def _received(self) -> list[Message]:
        messages = []
        while not isinstance(message := self.subscriber.receive(0.3), Silence):
            messages.append(message)
        return messages

    def of(self, kind: MessageType) -> list[Message]:
        return [message for message in self.messages if message.header.msg_type == kind]

    @property
    def verdicts(self) -> list[Verdict]:
        return [Verdict(message.header.verdict) for message in self.of(MessageType.VERDICT)]

    @property
    def reasons(self) -> list[str]:
        return [read_body(message, VerdictBody).reason for message in self.of(MessageType.VERDICT)]

    @property
    def states(self) -> list[str]:
        return [read_body(message, StateBody).state for message in self.of(MessageType.STATE)]


@pytest.fixture
def setup(tmp_path, bundle_path):
    return Setup(tmp_path, bundle_path)


def test_frames_are_judged_and_the_station_tells_its_states(setup):
    source = Script(*(frame(number, defect=number % 2 == 0) for number in range(1, 5)))
    summary = setup.run(source, frames=4).summary()
    assert setup.verdicts == [Verdict.OK, Verdict.NG, Verdict.OK, Verdict.NG]
    assert setup.states == ["Ready", "ContinuousExecution", "Halted"]
    assert len(setup.of(MessageType.MASK)) == 4
    assert (summary.frames, summary.verdicts, summary.ok, summary.ng, summary.complete) == (4, 4, 2, 2, True)
    assert source.closed
    defects = read_body(setup.of(MessageType.VERDICT)[1], VerdictBody).defects
    assert [(defect.bbox_px, defect.area_px) for defect in defects] == [((16, 16, 16, 16), 256)]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (InferenceError("the device is gone"), "the device is gone"),
        (RuntimeError("surprise"), "RuntimeError: surprise"),
        (MemoryError(), "MemoryError: "),
    ],
)
def test_an_engine_that_fails_gives_not_inspected_and_the_next_frame_is_judged(setup, failure, reason):
    engine = Fails(setup.engine, None, failure, None)
    line = setup.run(Script(frame(1), frame(2), frame(3, defect=True)), engine=engine, frames=3)
    assert setup.verdicts == [Verdict.OK, Verdict.NOT_INSPECTED, Verdict.NG]
    assert setup.reasons[1] == reason
    assert len(setup.of(MessageType.MASK)) == 2
    assert line.summary().not_inspected == 1
    assert line.summary().complete


def test_an_impossible_result_gives_not_inspected(setup):
    class Wild(Fails):
        calls = 0

        def infer(self, images, thresholds):
            self.calls += 1
            result = super().infer(images, thresholds)
            if self.calls == 1:
                return result
            return EngineResult(np.full_like(result.labels, 7), result.confidence, result.scores)

    setup.run(Script(frame(1)), engine=Wild(setup.engine), frames=1)
    assert setup.verdicts == [Verdict.NOT_INSPECTED]
    assert "label 7" in setup.reasons[0]


def test_an_incomplete_frame_counts_as_one_and_is_not_inspected(setup):
    line = setup.run(Script(frame(1), IncompleteFrame("half of it is missing"), frame(3)), frames=3)
    assert setup.verdicts == [Verdict.OK, Verdict.NOT_INSPECTED, Verdict.OK]
    assert setup.reasons[1] == "half of it is missing"
    assert line.summary().complete


@pytest.mark.parametrize(
    ("death", "told"),
    [
        (CameraLost("camera 'cam1': the cable is out"), "the cable is out"),
        (ZeroDivisionError("a bug"), "its thread died of ZeroDivisionError: a bug"),
    ],
)
def test_a_camera_that_dies_stops_the_line_after_what_was_grabbed(setup, death, told):
    line = setup.run(Script(frame(1), frame(2, defect=True), death))
    assert told in str(setup.failure)
    assert setup.verdicts == [Verdict.OK, Verdict.NG]
    assert setup.states[-1] == "Error"
    assert line.summary().complete


def test_a_camera_that_cannot_be_opened_stops_the_line_before_a_frame(setup, tmp_path):
    source = make_source("cam1", setup.config(f'source = "folder"\npath = "{tmp_path}/missing"').cameras["cam1"])
    setup.run(source)
    assert "is not a folder" in str(setup.failure)
    assert setup.states == ["Error"]
    assert setup.verdicts == []


def test_all_cameras_that_cannot_be_opened_are_told(setup):
    class Absent(Script):
        def open(self):
            raise CameraError(f"camera {self.name!r}: absent")

    sources = [Absent(name="cam1"), Script(name="cam2"), Absent(name="cam3")]
    with setup.publisher, pytest.raises(CameraError, match="camera 'cam1': absent\ncamera 'cam3': absent"):
        Line(setup.config(), setup.bundle, setup.engine, sources, setup.publisher).open()
    assert all(source.closed for source in sources)
    assert setup.publisher.state is State.ERROR


def test_a_camera_acquires_only_once_the_line_runs(setup):
    """What comes while the line waits for a subscriber would be lost."""
    steps = []

    class Told(Script):
        def open(self):
            steps.append("open")

        def start(self):
            steps.append("start")

    line = Line(setup.config(), setup.bundle, setup.engine, [Told(frame(1))], setup.publisher, frames=1)
    with setup.publisher:
        line.open()
        assert steps == ["open"]
        assert setup.publisher.state is State.READY
        line.run()
    assert steps == ["open", "start"]
    assert line.summary().verdicts == 1


def test_the_self_test_comes_before_the_first_frame(setup):
    class Wrong(Fails):
        def infer(self, images, thresholds):
            result = super().infer(images, thresholds)
            return EngineResult(1 - result.labels, result.confidence, result.scores)

    setup.run(Script(frame(1)), engine=Wrong(setup.engine), frames=1)
    assert "self-test failed" in str(setup.failure)
    assert setup.verdicts == []
    assert setup.states == ["Error"]


def test_heartbeats_go_on_while_no_frame_comes(setup, tmp_path):
    folder = tmp_path / "slow"
    folder.mkdir()
    for number in range(2):
        save_picture(folder / f"{number}.png", picture(defect=False))
    camera = f'source = "folder"\npath = "{folder}"\nfps = 2'
    setup.run(make_source("cam1", setup.config(camera).cameras["cam1"]), camera=camera)
    assert len(setup.verdicts) == 2
    # Half a second between the frames, a heartbeat every 50 ms.
    assert len(setup.of(MessageType.HEARTBEAT)) >= 7


def test_a_camera_that_is_being_opened_is_a_stage_of_limited_time(setup):
    class Opening(Script):
        def open(self):
            time.sleep(0.5)
            raise CameraError("cam1: is not there")

    line = Line(setup.config(), setup.bundle, setup.engine, [Opening()], setup.publisher)
    seen = []
    line.each_turn = lambda: seen.append(line.stages["open"])
    with setup.publisher, pytest.raises(CameraError, match="is not there"):
        line.connect()
    assert max(busy_s for _, busy_s, _ in seen) > 0.3
    assert {limit_s for _, _, limit_s in seen} == {600.0}
    assert line.stages["open"][1] == 0, "an error ends it too"


def test_a_turn_that_fails_ends_the_stage_too(setup):
    def fails():
        raise ProtocolError("no heartbeat can be made")

    line = Line(setup.config(), setup.bundle, setup.engine, [Script()], setup.publisher)
    line.each_turn = fails
    with setup.publisher, pytest.raises(ProtocolError):
        line.wait_for(lambda: time.sleep(0.1))
    assert line.stages["open"][1] == 0


def test_heartbeats_go_on_while_a_camera_takes_its_time_to_let_go(setup):
    class Slow(Script):
        def close(self):
            time.sleep(1.0)
            super().close()

    setup.run(Slow(frame(1)), frames=1)
    after = setup.messages[[message.header.msg_type for message in setup.messages].index(MessageType.VERDICT) :]
    assert len([message for message in after if message.header.msg_type == MessageType.HEARTBEAT]) >= 10


def test_a_camera_that_hangs_when_it_is_let_go_is_left_alone_until_it_is_back(setup, monkeypatch):
    monkeypatch.setattr("inspectd.runtime.line.HANG_S", 0.5)
    back = threading.Event()

    class Hangs(Script):
        def close(self):
            back.wait(20)
            super().close()

    source = Hangs(frame(1), name="cam1")
    began = time.monotonic()
    line = setup.run(source, frames=1)
    line.close()  # it is not asked twice
    assert not setup.failure
    assert time.monotonic() - began < 5
    assert setup.states[-1] == "Halted"
    assert [thread.name for thread in threading.enumerate()].count("close-cam1") == 1
    with setup.publisher:
        with pytest.raises(CameraError, match=r"'cam1': has not come back within 0\.5 s; its driver hangs"):
            line.connect()
        back.set()
        deadline = time.monotonic() + 5
        while not source.closed:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        line._stuck["cam1"].join(5)
        line.connect()
        line.close()


def test_a_camera_that_cannot_be_let_go_keeps_no_other_open(setup, caplog):
    class Broken(Script):
        def close(self):
            raise OSError(5, "Input/output error")

    other = Script(name="cam2")
    text = "[cameras.cam1]\nsource = 'buttons'\n[cameras.cam2]\nsource = 'buttons'\n"
    config = parse_config(f"{text}[model]\nbundle = '{setup.bundle.path}'\n", setup.config_file)
    line = Line(config, setup.bundle, setup.engine, [Broken(), other], setup.publisher)
    with setup.publisher:
        line.connect()
        line.close()
    assert other.closed
    assert "camera 'cam1' could not be let go" in caplog.text


def test_commands_that_never_end_keep_neither_heartbeats_nor_parts_waiting(setup):
    over = threading.Event()
    line = Line(setup.config(), setup.bundle, setup.engine, [Script(frame(1))], setup.publisher, frames=1)

    def again() -> None:
        if not over.is_set():
            line.post(again)

    with setup.publisher:
        line.open()
        line.post(again)
        ends = threading.Timer(20, over.set)
        ends.start()
        line.run()
        assert not over.is_set(), "the part waited for the commands"
        over.set()
        ends.cancel()
    assert line.summary().verdicts == 1


def test_self_tests_that_never_end_keep_no_part_waiting(setup):
    over = threading.Event()
    line = Line(setup.config(), setup.bundle, setup.engine, [Script(frame(1), frame(2))], setup.publisher, frames=2)

    def sample() -> None:
        time.sleep(0.02)  # the next one is there before this one is done
        line.post(lambda: None if over.is_set() or line.is_stopped else line.with_engine(sample))

    with setup.publisher:
        line.open()
        for _ in range(5):
            line.post(lambda: line.with_engine(sample))
        ends = threading.Timer(10, over.set)
        ends.start()
        line.run()
        assert not over.is_set(), "the parts waited for the samples"
        over.set()
        ends.cancel()
    assert line.summary().verdicts == 2


def test_stop_drains_what_was_grabbed(setup):
    released = threading.Event()

    class Endless(Script):
        def __init__(self) -> None:
            super().__init__()
            self._next = 0

        def read(self, timeout_s: float) -> Frame:
            if self.stopped:
                raise EndOfFrames
            self._next += 1
            if self._next == 4:
                released.set()
            return frame(self._next)

    line = Line(setup.config(), setup.bundle, setup.engine, [Endless()], setup.publisher)
    stopper = threading.Thread(target=lambda: (released.wait(5), line.stop()))
    with setup.publisher:
        stopper.start()
        line.run()
        stopper.join()
    assert line.summary().complete
    assert line.summary().verdicts >= 3
    assert setup.publisher.state is State.HALTED


def test_a_signal_that_comes_while_the_time_of_a_wait_runs_out_ends_it(setup):
    line = Line(setup.config(), setup.bundle, setup.engine, [Script(frame(1))], setup.publisher)

    def stop(*_) -> None:
        line.stop()
        time.sleep(0.1)  # until the time is up

    before, rescue = signal.signal(signal.SIGUSR1, stop), threading.Timer(5, line.post)
    sender = threading.Timer(0.03, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1))
    rescue.start()
    try:
        with setup.publisher:
            sender.start()
            begun = time.monotonic()
            line.attend(0.06)
            assert time.monotonic() - begun < 2
    finally:
        rescue.cancel()
        sender.join()
        signal.signal(signal.SIGUSR1, before)


def test_a_part_that_a_camera_has_in_its_hands_when_the_line_stops_is_judged(setup):
    class Late(Script):
        def read(self, timeout_s: float) -> Frame:
            got = super().read(timeout_s)
            if got.frame_id == 2:
                line.stop()
                time.sleep(0.3)  # meanwhile the line has closed its mailbox, and waits
            return got

    line = Line(setup.config(), setup.bundle, setup.engine, [Late(frame(1), frame(2))], setup.publisher)
    with setup.publisher:
        line.run()
    assert (line.summary().frames, line.summary().verdicts) == (2, 2)
    assert setup.publisher.state is State.HALTED


def test_a_line_that_is_stopped_before_its_first_frame_grabs_none(setup):
    line = Line(setup.config(), setup.bundle, setup.engine, [Script(frame(1))], setup.publisher)
    line.stop()
    with setup.publisher:
        line.run()
    assert line.summary().frames == 0


def test_a_camera_that_hangs_in_its_driver_ends_the_line(setup, monkeypatch):
    monkeypatch.setattr("inspectd.runtime.line.HANG_S", 0.4)
    ended = threading.Event()

    class Hangs(Script):
        def read(self, timeout_s: float) -> Frame:
            if not self._steps:
                ended.wait(20)
            return super().read(timeout_s)

    source = Hangs(frame(1), frame(2, defect=True))
    started = time.monotonic()
    line = setup.run(source)
    took_s = time.monotonic() - started
    ended.set()
    assert "its driver hangs" in str(setup.failure)
    assert setup.verdicts == [Verdict.OK, Verdict.NG]
    assert setup.states[-1] == "Error"
    assert line.summary().complete
    assert took_s < 5
    # To close it could hang as well.
    assert not source.closed


# Mailbox


def arrival(number: int, camera: str = "a") -> Arrival:
    return Arrival(Frame(camera, number, np.zeros((1, 1, 1), np.uint8), acquired_ns=0))


@given(
    steps=st.lists(st.sampled_from(["a", "b", "get"]), max_size=60),
    capacity=st.integers(1, 4),
    limit=st.none() | st.integers(1, 20),
)
def test_every_accepted_frame_is_given_out_once_and_in_order(steps, capacity, limit):
    mailbox = Mailbox({camera: Slot(capacity, drops_oldest=True) for camera in "ab"}, limit=limit)
    given_out, accepted = [], 0
    for number, step in enumerate(steps):
        if step == "get":
            given_out += [got[1]] if (got := mailbox.get(0)) else []
        else:
            accepted += mailbox.put(step, arrival(number, step))
    mailbox.close()
    while got := mailbox.get(0):
        given_out.append(got[1])
    numbers = [got.frame.frame_id for got in given_out]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == mailbox.accepted == accepted - mailbox.dropped
    assert limit is None or len(numbers) <= limit
    for camera in "ab":
        mailbox.finish(camera)
    assert mailbox.drained
    assert not mailbox.put("a", arrival(99))


def test_a_free_running_camera_drops_the_oldest():
    mailbox = Mailbox({"a": Slot(2, drops_oldest=True)})
    for number in range(5):
        assert mailbox.put("a", arrival(number))
    assert mailbox.dropped == 3
    assert [mailbox.get(0)[1].frame.frame_id for _ in range(2)] == [3, 4]


def test_any_other_camera_waits_for_room():
    mailbox = Mailbox({"a": Slot(1, drops_oldest=False)})
    results = []
    putter = threading.Thread(target=lambda: results.extend(mailbox.put("a", arrival(number)) for number in range(3)))
    putter.start()
    assert [mailbox.get(5)[1].frame.frame_id for _ in range(3)] == [0, 1, 2]
    putter.join(5)
    assert results == [True] * 3
    assert mailbox.dropped == 0


def test_closing_takes_what_a_waiting_camera_has_in_its_hands():
    mailbox = Mailbox({"a": Slot(1, drops_oldest=False)})
    assert mailbox.put("a", arrival(0))
    results = []
    putter = threading.Thread(target=lambda: results.append(mailbox.put("a", arrival(1))))
    putter.start()
    mailbox.close()
    putter.join(5)
    assert results == [True]
    assert mailbox.is_over
    assert [mailbox.get(0)[1].frame.frame_id for _ in range(2)] == [0, 1]
    assert not mailbox.drained
    mailbox.finish("a")
    assert mailbox.drained


# Deadlines


class Slow(Fails):
    """An engine that takes its time over some frames, counted from the first after the self-test."""

    def __init__(self, engine, *seconds: float) -> None:
        super().__init__(engine)
        self._seconds = [0.0, *seconds]

    def infer(self, images, thresholds) -> EngineResult:
        time.sleep(self._seconds.pop(0) if self._seconds else 0.0)
        return super().infer(images, thresholds)


class Arriving(Script):
    """A camera whose frames arrive when they are read."""

    def read(self, timeout_s: float) -> Frame:
        if not self._steps:
            raise EndOfFrames
        return frame(self._steps.pop(0))


def test_what_is_not_judged_by_its_deadline_is_not_inspected_then(setup):
    engine = Slow(setup.engine, 0.0, 1.0, 0.0)
    camera = 'source = "buttons"\ndeadline_ms = 200'
    line = setup.run(Arriving(1, 2, 3), engine=engine, camera=camera)
    # The third waited behind the second one, and its own deadline passed.
    assert setup.verdicts == [Verdict.OK, Verdict.NOT_INSPECTED, Verdict.NOT_INSPECTED]
    assert setup.reasons[1] == "no verdict within its deadline of 200 ms"
    latencies_ms = [message.header.latency_us / 1000 for message in setup.of(MessageType.VERDICT)]
    assert all(200 <= latency < 400 for latency in latencies_ms[1:]), latencies_ms
    summary = line.summary()
    assert (summary.complete, summary.overdue, line.triggers, line.waiting) == (True, 2, 3, 0)


class Paced(Script):
    """A camera whose frames arrive one after the other, those that are on their way when it stops as well."""

    def __init__(self, *steps: int, period_s: float, on_their_way: int = 0) -> None:
        super().__init__(*steps)
        self._period_s, self._on_their_way = period_s, on_their_way

    def read(self, timeout_s: float) -> Frame:
        if not self._steps:
            raise EndOfFrames
        time.sleep(self._period_s)
        return frame(self._steps.pop(0))

    def stop(self) -> None:
        self._steps = self._steps[: self._on_their_way]


def when_published(count: int, act):
    """For `inspected`: what the thread that judges does after so many parts."""
    left = [count]

    def inspected(_inspection) -> None:
        left[0] -= 1
        if not left[0]:
            act()

    return inspected


def test_a_result_that_waited_for_the_lines_thread_beyond_its_deadline_is_late(setup):
    line = Line(
        setup.config('source = "buttons"\ndeadline_ms = 300\nqueue_frames = 16'),
        setup.bundle,
        setup.engine,
        [Paced(*range(1, 16), period_s=0.05)],
        setup.publisher,
    )
    # Held up as a slow disk or a flood of connections would.
    line.inspected = when_published(2, lambda: line.post(lambda: time.sleep(0.7)))
    with setup.publisher, setup.subscriber:
        assert setup.publisher.wait_for_subscriber(5.0)
        line.run()
        setup.messages = setup._received()
    headers = [message.header for message in setup.of(MessageType.VERDICT)]
    late = [header for header in headers if header.verdict == Verdict.NOT_INSPECTED]
    assert line.overdue == len(late) > 3
    assert all(header.latency_us >= 300_000 for header in late)
    # One that was settled just in time is on its way for a moment more.
    assert all(header.latency_us < 400_000 for header in headers if header not in late)
    assert line.summary().complete


def test_nothing_is_ok_after_an_abort(setup):
    sent, aborted_ns = [], []
    line = Line(
        setup.config(),
        setup.bundle,
        setup.engine,
        [Paced(*range(1, 40), period_s=0.03, on_their_way=4)],
        setup.publisher,
        archive=lambda each: sent.append((time.monotonic_ns(), each.inspection)),
    )

    def abort() -> None:
        aborted_ns.append(time.monotonic_ns())
        line.abort()

    line.inspected = when_published(3, lambda: line.post(abort))
    with setup.publisher, setup.subscriber:
        line.run()
    after = [inspection for at_ns, inspection in sent if at_ns > aborted_ns[0]]
    assert len(after) >= 4
    assert {(inspection.verdict, inspection.reason) for inspection in after} == {(Verdict.NOT_INSPECTED, "aborted")}
    assert line.summary().complete


def test_heartbeats_go_on_while_the_last_frame_is_still_with_the_engine(setup):
    engine = Slow(setup.engine, 1.0)
    setup.run(Arriving(1), engine=engine, camera='source = "buttons"\ndeadline_ms = 200', frames=1)
    assert setup.reasons == ["no verdict within its deadline of 200 ms"]
    kinds = [message.header.msg_type for message in setup.messages]
    after = kinds[kinds.index(MessageType.VERDICT) :]
    # 0.8 s until the engine comes back, a heartbeat each 50 ms.
    assert after.count(MessageType.HEARTBEAT) >= 8


def test_a_result_that_comes_too_late_is_no_second_verdict(setup):
    engine = Slow(setup.engine, 0.6, 0.0, 0.0, 0.0)
    camera = 'source = "buttons"\ndeadline_ms = 250\nqueue_frames = 8'
    setup.run(Arriving(1, 2, 3, 4), engine=engine, camera=camera)
    seen = [(message.header.seq, message.header.frame_id) for message in setup.of(MessageType.VERDICT)]
    assert [seq for seq, _ in seen] == [1, 2, 3, 4]
    assert sorted(number for _, number in seen) == [1, 2, 3, 4]


def test_an_engine_that_hangs_ends_the_line_and_no_part_goes_without_a_verdict(setup, monkeypatch):
    monkeypatch.setattr("inspectd.runtime.line.JUDGE_S", 0.5)
    monkeypatch.setattr("inspectd.runtime.line.HANG_S", 0.2)
    line = setup.run(Arriving(1, 2, 3), engine=Slow(setup.engine, 0.0, 3.0))
    assert "it hangs" in str(setup.failure)
    assert setup.verdicts == [Verdict.OK, Verdict.NOT_INSPECTED, Verdict.NOT_INSPECTED]
    assert "before it was inspected" in setup.reasons[1]
    assert line.summary().complete
    assert setup.states[-1] == "Error"


@given(
    steps=st.lists(st.sampled_from(["put", "get", "settle", "pass", "late"]), max_size=60),
    deadline=st.sampled_from([0, 5, 50]),
)
def test_every_accepted_frame_is_claimed_exactly_once(steps, deadline):
    mailbox = Mailbox({"a": Slot(100, drops_oldest=False, deadline_ns=deadline)})
    out, claimed, put = [], [], 0
    for now, step in enumerate(steps):
        match step:
            case "put":
                put += mailbox.put("a", Arrival(Frame("a", put, np.zeros((1, 1, 1), np.uint8), 0, received_ns=now)))
            case "get":
                out += [got] if (got := mailbox.get(0)) else []
            case "settle" if out:
                number, taken = out.pop(0)
                claimed += [taken.frame.frame_id] if mailbox.settle(number) else []
            case "pass" if out:
                number, taken = out.pop(0)
                if mailbox.settle(number, now):
                    claimed.append(taken.frame.frame_id)
                    assert not deadline or now < taken.frame.received_ns + deadline
            case "late":
                claimed += [taken.frame.frame_id for taken in mailbox.overdue(now)]
        assert mailbox.open == put - len(claimed)
    claimed += [taken.frame.frame_id for taken in mailbox.give_up()]
    assert sorted(claimed) == list(range(put))
    mailbox.finish("a")
    assert mailbox.finished


def test_a_late_result_says_nothing_of_the_next_execution(setup, monkeypatch):
    """Numbers begin anew with each: what an engine gives that hung in the last one is of no part of this one."""
    monkeypatch.setattr("inspectd.runtime.line.HANG_S", 0.2)
    engine = Slow(setup.engine)
    engine._seconds = [1.5, 0.0]
    camera = 'source = "buttons"\ndeadline_ms = 100'
    source = Arriving(1, 2)
    line = Line(setup.config(camera), setup.bundle, engine, [source], setup.publisher)
    with setup.publisher, setup.subscriber:
        assert setup.publisher.wait_for_subscriber(5.0)
        line.connect()
        with pytest.raises(InferenceError, match="hangs"):
            line.execute(limit=1)
        # As long as it has not come back nothing new is begun: two threads would have one engine.
        with pytest.raises(InferenceError, match="hangs"):
            line.execute(limit=1)
        time.sleep(2.0)
        source.stopped = False
        line.execute(limit=1)
        line.close()
        setup.messages = setup._received()
    seen = [(message.header.frame_id, Verdict(message.header.verdict)) for message in setup.of(MessageType.VERDICT)]
    assert seen == [(1, Verdict.NOT_INSPECTED), (2, Verdict.OK)]


# Other work of the engine's, between frames


class Silent(Script):
    """A camera that delivers nothing for two seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._until = time.monotonic() + 2.0

    def read(self, timeout_s: float) -> Frame:
        time.sleep(timeout_s)
        raise FrameTimeout if time.monotonic() < self._until else EndOfFrames


def chain(setup, source, engine, count: int) -> tuple[list[int], list[float]]:
    """Has so many jobs done, each asked for by the one before; frames inferred before each, and when it was, s."""
    line = Line(setup.config(), setup.bundle, engine, [source], setup.publisher)
    judged, times = [], []

    def job() -> None:
        judged.append(len(engine.seen))
        times.append(time.monotonic())
        if len(judged) < count:
            line.post(lambda: line.with_engine(job))

    with setup.publisher:
        line.connect()
        line.post(lambda: line.with_engine(job))
        line.execute()
        line.close()
    return judged, times


class Counting(Slow):
    """Counts what it has inferred."""

    def __init__(self, engine, *seconds: float) -> None:
        super().__init__(engine, *seconds)
        self.seen = []

    def infer(self, images, thresholds) -> EngineResult:
        self.seen.append(time.monotonic())
        return super().infer(images, thresholds)


def test_while_frames_wait_other_work_is_done_once_in_a_while(setup):
    engine = Counting(setup.engine, *[0.02] * 80)
    judged, times = chain(setup, Arriving(*range(80)), engine, 1000)
    # The last frames wait for none.
    while_waiting = [number for number in judged if number < 74]
    seconds = engine.seen[73] - engine.seen[0]
    assert 3 <= len(while_waiting) <= seconds / 0.25 + 2, (judged, seconds)
    assert len(set(while_waiting)) == len(while_waiting), "two were done between the same frames"
    apart = [later - earlier for earlier, later in pairwise(times)][1 : len(while_waiting) - 1]
    assert min(apart) > 0.25


def test_while_none_waits_other_work_does_not_wait_either(setup):
    judged, times = chain(setup, Silent(), Counting(setup.engine), 30)
    assert len(judged) == 30
    assert times[-1] - times[0] < 1.0


class Swaps(Slow):
    """An engine during whose last frame another model is activated."""

    def __init__(self, engine, *seconds: float, fails: bool = False) -> None:
        super().__init__(engine, *seconds)
        self._fails = fails
        self.swap = lambda: None

    def infer(self, images, thresholds) -> EngineResult:
        is_last = len(self._seconds) == 1
        if is_last:
            self.swap()
        result = super().infer(images, thresholds)
        if is_last and self._fails:
            raise InferenceError("out of memory")
        return result


class OneByOne(Script):
    """A camera whose next frame arrives once the engine is at rest."""

    line: Line

    def read(self, timeout_s: float) -> Frame:
        if not self._steps:
            raise EndOfFrames
        while self.line.waiting or self.line.stages["judge"][1]:
            time.sleep(0.005)
        return frame(self._steps.pop(0))


LATE = 0.25


@pytest.mark.parametrize(
    ("old", "fails", "new", "rolled_back"),
    [
        ([LATE] * 5, False, [], False),  # the fifth comes when the next one judges already
        ([0.0], True, [], False),  # so does a failure
        ([LATE] * 7, False, [LATE], False),  # why it was swapped: one late result is no five
        ([0.0], False, [LATE] * 5, True),
    ],
)
def test_only_its_own_results_speak_against_a_model_that_was_activated(setup, old, fails, new, rolled_back):
    before, after = Swaps(setup.engine, *old, fails=fails), Slow(open_engine(setup.bundle, threads=1), *new)
    after._seconds = new  # it is not self-tested here
    acceptance = setup.config().acceptance
    first, second = (
        Model.make(LoadedBundle(setup.bundle, engine), acceptance, scales={"cam1": None}, clock=time.monotonic_ns)
        for engine in (before, after)
    )
    models = Models(first, watch_frames=20)
    models.load(second)
    source = OneByOne(*range(1, len(old) + len(new) + 3))
    config = setup.config('source = "buttons"\ndeadline_ms = 150')
    line = source.line = Line(config, None, None, [source], setup.publisher, models=models)
    told: list[str] = []
    line.swap_failed = told.append

    def swap() -> None:
        done = threading.Event()
        line.post(lambda: (models.activate(), done.set()))
        assert done.wait(5)

    before.swap = swap
    with setup.publisher:
        line.run()
    assert (models.current.engine is before, bool(told)) == (rolled_back, rolled_back)
    assert line.summary().complete
    models.close()
