"""INS1 on real sockets."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket as posix_socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zmq

from inspectd.defect import find_defects
from inspectd.errors import ConfigError, ProtocolError
from inspectd.frame import Frame
from inspectd.inspection import Inspection, Verdict
from inspectd.mask import ClassMap, Mask
from inspectd.runtime.epoch import EpochCounter, default_state_dir
from inspectd.runtime.journal import Journal
from inspectd.runtime.messaging import CameraStream, Publisher, Silence, Subscriber
from inspectd.wire import (
    STATION_STREAM,
    Flags,
    HeartbeatBody,
    MaskEncoding,
    Message,
    MessageType,
    Origin,
    State,
    StateBody,
    StreamPosition,
    VerdictBody,
    heartbeat_message,
    read_body,
    read_mask,
    read_preview,
    verdict_message,
)

ANY_PORT = "tcp://127.0.0.1:*"
CAMERAS = {"cam1": CameraStream(scale_mm_per_px=0.1, simulated=True), "cam2": CameraStream()}
WAIT_S = 5.0


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000

    def __call__(self) -> int:
        return self.now_ns


def inspection(frame_id: int, *, camera: str = "cam1", ok: bool = True, received_ns: int = 0) -> Inspection:
    labels = np.zeros((32, 48), np.uint8)
    if not ok:
        labels[4:9, 6:16] = 1
    mask = Mask(labels, ClassMap(("scratch",)))
    defects = find_defects(mask, np.full(labels.shape, 230, np.uint8))
    frame = Frame(camera, frame_id, np.full((32, 48, 3), 90, np.uint8), 10, frame_id, received_ns)
    return Inspection(frame, Verdict.OK if ok else Verdict.NG, defects, mask, "cd" * 32)


def failed(frame_id: int) -> Inspection:
    frame = Frame("cam1", frame_id, np.zeros((4, 4, 1), np.uint8), 10)
    return Inspection(frame, Verdict.NOT_INSPECTED, (), None, "", reason="the camera delivered half a frame")


def connected(publisher: Publisher, subscriber: Subscriber) -> None:
    """Return when the subscriber hears the publisher."""
    assert publisher.wait_for_subscriber(WAIT_S)
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        publisher.tick()
        if not isinstance(subscriber.receive(0.02), Silence):
            return
    pytest.fail("no heartbeat")


def receive(subscriber: Subscriber, *kinds: MessageType) -> Message:
    """The next message of these kinds."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        message = subscriber.receive(0.2)
        if isinstance(message, Message) and message.header.msg_type in (kinds or tuple(MessageType)):
            return message
    pytest.fail(f"no message of {kinds}")


def test_verdict_and_mask_share_their_number():
    with (
        Publisher(ANY_PORT, epoch=4, cameras=CAMERAS, mask_encoding=MaskEncoding.RLE8_ZLIB) as publisher,
        Subscriber(publisher.endpoint) as subscriber,
    ):
        connected(publisher, subscriber)
        sent = [inspection(10), inspection(11, ok=False), inspection(7, camera="cam2"), failed(12)]
        assert [publisher.publish(result) for result in sent] == [1, 2, 1, 3]
        got = [
            (message.camera, MessageType(message.header.msg_type), message.header.stream, message.header.seq)
            for message in (receive(subscriber, MessageType.VERDICT, MessageType.MASK) for _ in range(7))
        ]
        verdict, mask = MessageType.VERDICT, MessageType.MASK
        assert got == [
            ("cam1", verdict, 0, 1),
            ("cam1", mask, 0, 1),
            ("cam1", verdict, 0, 2),
            ("cam1", mask, 0, 2),
            ("cam2", verdict, 1, 1),
            ("cam2", mask, 1, 1),
            ("cam1", verdict, 0, 3),
        ]
        assert subscriber.lost.total() == 0


def test_a_path_that_is_no_socket_is_left_alone(tmp_path):
    file, folder = tmp_path / "notes.txt", tmp_path / "folder"
    file.write_text("precious")
    folder.mkdir()
    for path in (file, folder):
        with pytest.raises(ConfigError, match="a file or folder of this name"):
            Publisher(f"ipc://{path}", epoch=1, cameras=CAMERAS).open()
    assert file.read_text() == "precious"


def test_what_a_verdict_says():
    clock = Clock()
    with (
        Publisher(
            ANY_PORT, epoch=4, cameras=CAMERAS, preview=True, monotonic_ns=clock, utc_ns=lambda: 1_767_225_600 * 10**9
        ) as publisher,
        Subscriber(publisher.endpoint) as subscriber,
    ):
        while isinstance(subscriber.receive(0.02), Silence):
            clock.now_ns += 250_000_000
            publisher.tick()
        result = inspection(5, ok=False, received_ns=clock.now_ns)
        clock.now_ns += 12_345_678
        publisher.publish(result)
        message = receive(subscriber, MessageType.VERDICT)
        header, body = message.header, read_body(message, VerdictBody)
        assert (header.epoch, header.verdict, header.frame_id, header.trigger_id) == (4, Verdict.NG, 5, 5)
        assert header.latency_us == 12_345
        assert header.flags == Flags.SIMULATED | Flags.NOT_DURABLE
        assert (header.defect_count, header.worst_class, header.worst_score_e4) == (1, 1, 9020)
        assert body.creation_time == "2026-01-01T00:00:00.000000Z"
        assert body.model_digest == "cd" * 32
        np.testing.assert_array_equal(read_mask(receive(subscriber, MessageType.MASK)).labels, result.mask.labels)
        assert np.abs(read_preview(receive(subscriber, MessageType.PREVIEW)).astype(int) - 90).max() <= 2


def test_changes_of_state_have_a_stream_of_their_own():
    with (
        Publisher(ANY_PORT, epoch=1, cameras=CAMERAS, station="press 3") as publisher,
        Subscriber(publisher.endpoint) as subscriber,
    ):
        connected(publisher, subscriber)
        publisher.state = State.READY
        publisher.state = State.READY
        publisher.state = State.CONTINUOUS_EXECUTION
        first, second = receive(subscriber, MessageType.STATE), receive(subscriber, MessageType.STATE)
        assert (first.header.stream, first.header.seq, second.header.seq) == (STATION_STREAM, 1, 2)
        assert read_body(second, StateBody) == StateBody(
            station="press 3", state="ContinuousExecution", previous="Ready"
        )
        assert second.header.state is State.CONTINUOUS_EXECUTION


def test_heartbeats_come_when_nothing_else_does():
    clock = Clock()
    with (
        Publisher(ANY_PORT, epoch=1, cameras=CAMERAS, monotonic_ns=clock) as publisher,
        Subscriber(publisher.endpoint) as subscriber,
    ):
        while isinstance(subscriber.receive(0.02), Silence):
            clock.now_ns += 250_000_000
            publisher.tick()
        started_ns = clock.now_ns
        publisher.drops = 2
        for _ in range(100):
            clock.now_ns += 10_000_000
            publisher.tick()
        beats = [read_body(receive(subscriber, MessageType.HEARTBEAT), HeartbeatBody) for _ in range(4)]
        assert isinstance(subscriber.receive(0.1), Silence)
        ages = [round(beat.uptime_s - (started_ns - 1_000_000_000) / 1e9, 3) for beat in beats]
        assert ages == [0.25, 0.5, 0.75, 1.0]
        assert beats[0].drops == 2
        assert [(p.stream, p.camera, p.last, p.oldest) for p in beats[0].streams] == [
            (0, "cam1", 0, 1),
            (1, "cam2", 0, 1),
            (STATION_STREAM, "", 0, 1),
        ]


def test_a_port_in_use_is_named():
    with Publisher(ANY_PORT, epoch=1, cameras=CAMERAS) as publisher:
        second = Publisher(publisher.endpoint, epoch=2, cameras=CAMERAS)
        with pytest.raises(ConfigError, match=rf"{publisher.endpoint}: port in use.*set another publish.endpoint"):
            second.open()
        second.close()
    with Publisher(publisher.endpoint, epoch=3, cameras=CAMERAS):
        pass


def test_an_ipc_path_in_use_is_not_taken_away(tmp_path: Path):
    endpoint = f"ipc://{tmp_path}/pub"
    with (
        Publisher(endpoint, epoch=1, cameras=CAMERAS) as publisher,
        pytest.raises(ConfigError, match="in use"),
        Publisher(endpoint, epoch=2, cameras=CAMERAS),
    ):
        pytest.fail("two publishers on one path")
    with (
        Publisher(endpoint, epoch=3, cameras=CAMERAS) as publisher,
        Subscriber(publisher.endpoint) as subscriber,
    ):
        connected(publisher, subscriber)


def test_an_address_that_cannot_be_bound_again_is_tried_until_it_can_and_nobody_waits_for_it(tmp_path: Path):
    folder, away = tmp_path / "here", tmp_path / "away"
    folder.mkdir()
    with Publisher(f"ipc://{folder}/pub", epoch=1, cameras=CAMERAS) as publisher:
        folder.rename(away)
        began = time.monotonic()
        publisher.rebind()
        publisher.publish(inspection(1))
        assert time.monotonic() - began < 0.5
        while not publisher.fault and time.monotonic() - began < 5:
            publisher.tick()
            time.sleep(0.01)
        assert "cannot be bound" in publisher.fault
        away.rename(folder)
        publisher.tick()
        assert not publisher.fault
        with Subscriber(publisher.endpoint) as subscriber:
            connected(publisher, subscriber)
            assert publisher.publish(inspection(2)) == 2


def test_its_sockets_have_the_permissions_that_are_asked_for_also_when_they_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def modes() -> list[str]:
        return [oct((tmp_path / name).stat().st_mode & 0o777) for name in ("pub", "local")]

    endpoint, local = (f"ipc://{tmp_path / name}" for name in ("pub", "local"))
    before = os.umask(0o027)
    try:
        with Publisher(endpoint, epoch=1, cameras=CAMERAS, local=local, socket_mode=0o666) as publisher:
            assert modes() == ["0o666", "0o666"]
            publisher.rebind()
            publisher.tick()
            assert not publisher.fault
            assert modes() == ["0o666", "0o666"]
            with Subscriber(publisher.endpoint) as subscriber:
                connected(publisher, subscriber)
        # Without one they are those of the process.
        with Publisher(endpoint, epoch=2, cameras=CAMERAS, local=local):
            assert modes() == ["0o750", "0o750"]
        # The path of a socket that ZeroMQ names is known once there is one.
        monkeypatch.chdir(tmp_path)
        with Publisher("ipc://*", epoch=3, cameras=CAMERAS, socket_mode=0o606) as publisher:
            path = Path(publisher.endpoint.removeprefix("ipc://"))
            assert oct(path.stat().st_mode & 0o777) == "0o606"
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_a_subscription_that_is_longer_than_any_topic_cuts_its_client_off(tmp_path: Path):
    """A thousand bytes cost fifty thousand of memory: thousands of them would be the end of the process."""
    context = zmq.Context()
    with Publisher(f"ipc://{tmp_path}/pub", epoch=1, cameras=CAMERAS) as publisher, context:
        client = context.socket(zmq.SUB)
        client.linger = 0
        client.connect(publisher.endpoint)
        client.subscribe(b"ins1/verdict/" + b"x" * 64 + b"/")
        assert publisher.wait_for_subscriber(WAIT_S)
        publisher.tick()
        assert not publisher.flood
        client.subscribe(b"x" * 128)
        deadline = time.monotonic() + WAIT_S
        while not publisher.flood:
            assert time.monotonic() < deadline, "nobody noticed"
            publisher.tick()
        client.close()
    assert "longer than any topic" in publisher.flood


def test_what_waits_is_told_of_although_nobody_can_be_sent_it(tmp_path: Path):
    journal = Journal(tmp_path / "journal.db", epoch=1)
    journal.open()
    sent: list[int] = []
    folder = tmp_path / "here"
    folder.mkdir()
    endpoint = f"ipc://{folder}/pub"
    with Publisher(endpoint, epoch=1, cameras=CAMERAS, journal=journal, commit_timeout_s=5.0) as publisher:
        publisher.sent = lambda each: sent.append(each.message.header.seq)
        folder.rename(tmp_path / "away")
        publisher.rebind()
        for number in range(1, 11):
            publisher.publish(inspection(number))
    assert sent == list(range(1, 11))
    assert journal.close()


def test_a_machine_without_a_descriptor_left_holds_nobody_up(tmp_path: Path):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    context = zmq.Context()
    endpoint = f"ipc://{tmp_path}/pub"
    with context, Publisher(endpoint, epoch=1, cameras=CAMERAS, context=context) as publisher:
        with contextlib.ExitStack() as taken:
            taken.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
            resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
            began = time.monotonic()
            while not publisher.fault:
                assert time.monotonic() - began < 5
                with contextlib.suppress(OSError):
                    while True:
                        taken.enter_context(open(os.devnull, "rb"))  # noqa: PTH123
                publisher.rebind()
                publisher.tick()
            publisher.publish(inspection(1))
        with Subscriber(publisher.endpoint) as subscriber:
            connected(publisher, subscriber)


def test_an_address_whose_owner_takes_nobody_on_is_in_use(tmp_path: Path):
    with posix_socket.socket(posix_socket.AF_UNIX) as squatter, contextlib.ExitStack() as waiting:
        squatter.bind(f"{tmp_path}/pub")
        squatter.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                client = waiting.enter_context(posix_socket.socket(posix_socket.AF_UNIX))
                client.setblocking(False)
                client.connect(f"{tmp_path}/pub")
        with pytest.raises(ConfigError, match="in use"):
            Publisher(f"ipc://{tmp_path}/pub", epoch=1, cameras=CAMERAS).open()


def test_a_client_that_subscribes_without_an_end_is_cut_off_and_the_others_come_again(tmp_path: Path):
    context = zmq.Context()
    with (
        Publisher(f"ipc://{tmp_path}/pub", epoch=1, cameras=CAMERAS, heartbeat_s=0.05) as publisher,
        Subscriber(publisher.endpoint) as subscriber,
        context,
    ):
        connected(publisher, subscriber)
        flooding = context.socket(zmq.SUB)
        flooding.linger = flooding.sndhwm = 0  # nothing of the flood is dropped on this side
        flooding.connect(publisher.endpoint)
        for number in range(30_000):
            flooding.subscribe(b"%d" % number)
        deadline = time.monotonic() + 20
        longest_s = 0.0
        while not publisher.flood:
            assert time.monotonic() < deadline, "nobody noticed"
            began = time.monotonic()
            publisher.tick()
            longest_s = max(longest_s, time.monotonic() - began)
        assert "a client without keys" in publisher.flood
        assert longest_s < 0.5, "the line waited"
        flooding.close()
        deadline = time.monotonic() + WAIT_S
        number = 0
        while True:
            assert time.monotonic() < deadline, "the honest one does not come again"
            number += 1
            publisher.publish(inspection(number))
            publisher.tick()
            message = subscriber.receive(0.02)
            if not isinstance(message, Silence) and message.header.msg_type == MessageType.VERDICT:
                break


@pytest.mark.parametrize("endpoint", ["tcp://203.0.113.1:5560", "ipc:///no/such/folder/pub", "tcp://nonsense"])
def test_an_address_that_cannot_be_bound(endpoint):
    with pytest.raises(ConfigError, match=f"{endpoint}: cannot be bound"), Publisher(endpoint, epoch=1, cameras={}):
        pytest.fail("bound")


def test_an_address_that_cannot_be_connected_to():
    with pytest.raises(ConfigError, match="nonsense: cannot be connected to"), Subscriber("nonsense"):
        pytest.fail("connected")


def test_a_port_that_is_none_is_not_cut_down_to_another():
    with pytest.raises(ConfigError, match="99999: the port is above 65535"):
        Publisher("tcp://127.0.0.1:99999", epoch=1, cameras={}).open()
    with pytest.raises(ConfigError, match="99999: the port is above 65535"):
        Subscriber("tcp://127.0.0.1:99999").open()


def test_a_foreign_camera_and_a_bad_name_are_refused():
    with pytest.raises(ProtocolError, match="camera name 'a/b'"):
        Publisher(ANY_PORT, epoch=1, cameras={"a/b": CameraStream()})
    with Publisher(ANY_PORT, epoch=1, cameras={"cam2": CameraStream()}) as publisher:
        with pytest.raises(ProtocolError, match=r"'cam1' is not one of \['cam2'\]"):
            publisher.publish(inspection(1))
        assert publisher.publish(inspection(1, camera="cam2")) == 1


def test_a_result_that_cannot_be_sent_takes_no_number():
    with Publisher(ANY_PORT, epoch=1, cameras=CAMERAS) as publisher:
        with pytest.raises(ProtocolError, match="trigger_id"):
            publisher.publish(inspection(2**32))
        assert publisher.publish(inspection(1)) == 1


def test_waiting_for_a_subscriber_has_an_end():
    with Publisher(ANY_PORT, epoch=1, cameras=CAMERAS) as publisher:
        assert not publisher.wait_for_subscriber(0.05)
        with Subscriber(publisher.endpoint):
            assert publisher.wait_for_subscriber(WAIT_S)


def test_who_joins_late_has_lost_nothing_and_sees_gaps_from_then_on():
    with Publisher(ANY_PORT, epoch=1, cameras=CAMERAS) as publisher:
        for number in range(1, 6):
            publisher.publish(inspection(number))
        with Subscriber(publisher.endpoint) as subscriber:
            connected(publisher, subscriber)
            publisher.publish(inspection(6))
            assert receive(subscriber, MessageType.VERDICT).header.seq == 6
            assert subscriber.lost.total() == 0


def parts_of(seq: int, *, epoch: int = 1, camera: str = "cam1") -> list[bytes]:
    """The message that a publisher sends as its number `seq`."""
    origin = Origin(epoch=epoch, stream=0 if camera == "cam1" else 1, seq=seq, state=State.READY)
    return verdict_message(inspection(seq, camera=camera), origin, created_ns=0).to_parts()


def heartbeat_parts(last: int, *, epoch: int = 1) -> list[bytes]:
    position = StreamPosition(stream=0, camera="cam1", last=last, oldest=last + 1)
    return heartbeat_message("a", State.READY, [position], epoch=epoch, uptime_s=1).to_parts()


@pytest.fixture
def raw_publisher():
    """A bare PUB socket, to send what a line would not."""
    context = zmq.Context()
    pub = context.socket(zmq.XPUB)
    pub.linger = 0
    pub.bind(ANY_PORT)
    yield pub
    pub.close()
    context.term()


def follow(pub: zmq.Socket[bytes], messages: list[list[bytes]], **options: object) -> Subscriber:
    """A subscriber that has received the messages."""
    with Subscriber(pub.getsockopt_string(zmq.LAST_ENDPOINT), **options) as subscriber:
        for _ in options.get("topics", ["ins1/"]):
            assert pub.poll(WAIT_S * 1000)
            pub.recv()
        for parts in messages:
            pub.send_multipart(parts)
        for _ in messages:
            with contextlib.suppress(ProtocolError):
                assert not isinstance(subscriber.receive(WAIT_S), Silence)
        return subscriber


def test_gaps_are_counted(raw_publisher):
    subscriber = follow(raw_publisher, [parts_of(3), parts_of(4), parts_of(7), parts_of(7), parts_of(1, camera="cam2")])
    assert subscriber.lost == {0: 2, 1: 0}


def test_a_heartbeat_tells_of_what_was_lost_at_the_end(raw_publisher):
    subscriber = follow(raw_publisher, [heartbeat_parts(2), parts_of(4), heartbeat_parts(9), heartbeat_parts(9)])
    assert subscriber.lost == {0: 1 + 5}


def test_a_new_start_begins_at_one(raw_publisher):
    subscriber = follow(raw_publisher, [parts_of(8), parts_of(3, epoch=2), heartbeat_parts(4, epoch=2)])
    assert (subscriber.epoch, subscriber.restarts, subscriber.lost) == (2, 1, {0: 2 + 1})


def test_streams_that_are_not_subscribed_to_are_not_missed(raw_publisher):
    subscriber = follow(
        raw_publisher,
        [parts_of(1, camera="cam2"), heartbeat_parts(2), heartbeat_parts(5)],
        topics=["ins1/verdict/cam2/", "ins1/hb/"],
    )
    assert subscriber.lost == {1: 0}


def test_what_is_not_ins1_is_refused_and_the_next_is_read(raw_publisher):
    damaged = parts_of(2)
    damaged[2] += b" "
    subscriber = follow(raw_publisher, [parts_of(1), damaged, [b"ins1/", b"?"], parts_of(3)])
    assert subscriber.refused == 2
    assert subscriber.lost == {0: 1}


SLOW = """
import sys
from inspectd.runtime.messaging import Subscriber
from inspectd.wire import Message, MessageType
received = 0
with Subscriber(sys.argv[1]) as subscriber:
    while received + subscriber.lost[0] < int(sys.argv[2]):
        message = subscriber.receive(10)
        assert isinstance(message, Message), message
        if message.header.msg_type == MessageType.HEARTBEAT:
            print("hears", flush=True)
        received += message.header.msg_type == MessageType.VERDICT
    print(received, subscriber.lost[0])
"""


def test_a_slow_subscriber_loses_and_learns_how_much():
    """SNDHWM drops the newest; the publisher goes on, and the heartbeat tells the end of it."""
    total = 4000
    with Publisher(ANY_PORT, epoch=1, cameras=CAMERAS, preview=True, heartbeat_s=0.05) as publisher:
        process = subprocess.Popen(
            [sys.executable, "-c", SLOW, publisher.endpoint, str(total)], stdout=subprocess.PIPE, text=True
        )
        assert publisher.wait_for_subscriber(30)
        publisher.tick()
        time.sleep(0.1)
        publisher.tick()
        assert process.stdout.readline() == "hears\n"
        process.send_signal(signal.SIGSTOP)
        pixels = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
        labels = np.zeros((128, 128), np.uint8)
        frame = Frame("cam1", 1, pixels, 10)
        result = Inspection(frame, Verdict.OK, (), Mask(labels, ClassMap(("a",))), "")
        for _ in range(total):
            publisher.publish(result)
        process.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            publisher.tick()
            time.sleep(0.01)
        *_, line = process.stdout.read().splitlines()
        process.stdout.close()
    assert process.returncode == 0
    received, lost = map(int, line.split())
    assert received + lost == total
    assert lost > 0


LINE = """
import sys, time
from inspectd.runtime.journal import Journal
from inspectd.runtime.messaging import CameraStream, Publisher
sys.path.insert(0, {tests!r})
from test_messaging import failed, inspection
with Publisher("tcp://127.0.0.1:*", epoch=9, cameras={{"cam1": CameraStream()}}) as publisher:
    print(publisher.endpoint, flush=True)
    assert publisher.wait_for_subscriber(20)
    for number in range(1, 501):
        publisher.publish(failed(number) if number % 50 == 0 else inspection(number, ok=number % 2 == 0))
        time.sleep(0.001)
"""


def test_everything_arrives_in_another_process_and_closing_drains():
    """The publisher ends right after its last message; nothing of it may be cut off."""
    line = subprocess.Popen(
        [sys.executable, "-c", LINE.format(tests=str(Path(__file__).parent))], stdout=subprocess.PIPE, text=True
    )
    with line:
        endpoint = line.stdout.readline().strip()
        verdicts, mask_numbers = [], []
        with Subscriber(endpoint) as subscriber:
            deadline = time.monotonic() + 20
            while len(verdicts) < 500 and time.monotonic() < deadline:
                message = subscriber.receive(0.1)
                if isinstance(message, Message) and message.header.msg_type == MessageType.VERDICT:
                    verdicts.append((message.header.seq, message.header.verdict))
                elif isinstance(message, Message) and message.header.msg_type == MessageType.MASK:
                    mask_numbers.append(message.header.seq)
            assert [seq for seq, _ in verdicts] == list(range(1, 501))
            assert subscriber.lost.total() == 0
        assert line.wait(20) == 0
    assert set(mask_numbers) == {seq for seq, verdict in verdicts if verdict != Verdict.NOT_INSPECTED}


def test_closing_does_not_wait_longer_than_it_says_for_a_peer_that_is_stuck():
    publisher = Publisher(ANY_PORT, epoch=1, cameras=CAMERAS, preview=True)
    publisher.open()
    with Subscriber(publisher.endpoint) as subscriber:
        connected(publisher, subscriber)
        pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
        result = Inspection(
            Frame("cam1", 1, pixels, 10), Verdict.OK, (), Mask(np.zeros((256, 256), np.uint8), ClassMap(("a",))), ""
        )
        for _ in range(600):
            publisher.publish(result)
        started = time.monotonic()
        publisher.close(drain_s=0.3)
        assert time.monotonic() - started < 2.0


# The epoch


def test_each_start_has_its_epoch(tmp_path: Path):
    path = tmp_path / "state" / "epoch"
    assert [EpochCounter(path).next() for _ in range(3)] == [1, 2, 3]
    assert path.read_text() == "epoch 3\n"


STARTS = """
import sys
from pathlib import Path
from inspectd.runtime.epoch import EpochCounter
for _ in range(10):
    print(EpochCounter(Path(sys.argv[1])).next())
"""


def test_starts_at_the_same_time_do_not_share_an_epoch(tmp_path: Path):
    command = [sys.executable, "-c", STARTS, str(tmp_path / "epoch")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    counts = [int(number) for process in processes for number in process.communicate(timeout=60)[0].split()]
    assert sorted(counts) == list(range(1, 41))


@pytest.mark.parametrize("text", ["", "epoch 12", "epoch -1\n", "epoch 0\n", "17\n", "epoch 3\nepoch 4\n"])
def test_a_damaged_count_is_never_used(tmp_path: Path, text):
    path = tmp_path / "epoch"
    path.write_text(text)
    with pytest.raises(ConfigError, match="the count of starts is damaged"):
        EpochCounter(path).next()
    assert path.read_text() == text


def test_the_count_ends(tmp_path: Path):
    (tmp_path / "epoch").write_text(f"epoch {2**32 - 1}\n")
    with pytest.raises(ConfigError, match="used up"):
        EpochCounter(tmp_path / "epoch").next()


def test_a_count_that_cannot_be_kept_is_an_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be kept.*station\.state_dir"):
        EpochCounter(tmp_path / "file" / "epoch").next()
    (tmp_path / ".epoch.new").mkdir()
    with pytest.raises(ConfigError, match="cannot be kept"):
        EpochCounter(tmp_path / "epoch").next()


def test_default_state_dir():
    assert default_state_dir({"XDG_STATE_HOME": "/var/state"}) == Path("/var/state/inspectd")
    assert default_state_dir({"XDG_STATE_HOME": "relative"}) == Path("~/.local/state/inspectd").expanduser()
