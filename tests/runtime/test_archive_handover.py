"""The socket between the line and the archive: what is handed over, what is refused, and what it costs."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import zmq

from inspectd.config import Archive as ArchiveSettings
from inspectd.errors import ConfigError, ProtocolError
from inspectd.frame import Frame
from inspectd.inspection import Inspection, Verdict
from inspectd.runtime.archive import ArchiveSender, Beat, handover
from inspectd.runtime.archive.handover import ArchiveReceiver
from inspectd.runtime.sources.damaged import stand_in
from inspectd.runtime.sources.ring import FrameRing

from .archive_site import DIGEST, inspected, message, noise, until


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/archive"


@pytest.fixture
def sender(endpoint):
    sender = ArchiveSender(endpoint, ArchiveSettings())
    yield sender
    sender.close(0)


@pytest.fixture
def receiver(endpoint):
    receiver = ArchiveReceiver(endpoint)
    yield receiver
    receiver.close()


def test_a_part_arrives_as_it_was(sender, receiver):
    given = inspected(source="lot 3/part\udce47.png", frame_id=12)
    verdict = message(given, 5)
    assert sender.offer(given, verdict)
    got = receiver.receive(5)
    assert got is not None
    assert got.verdict == verdict
    assert np.array_equal(got.frame.pixels, given.frame.pixels)
    assert np.array_equal(got.mask.labels, given.mask.labels)
    assert got.mask.classes == given.mask.classes
    facts = ("camera", "frame_id", "acquired_ns", "trigger_id", "source", "camera_clock", "serial")
    assert [getattr(got.frame, name) for name in facts] == [getattr(given.frame, name) for name in facts]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_part_that_was_not_inspected_has_no_mask(sender, receiver, channels):
    given = inspected(Verdict.NOT_INSPECTED, pixels=noise(channels=channels))
    assert sender.offer(given, message(given, 1))
    got = receiver.receive(5)
    assert got.mask is None
    assert np.array_equal(got.frame.pixels, given.frame.pixels)


def test_what_is_sent_is_owned(sender, receiver):
    """A slot of a camera's ring is given back once the line is through, and written again."""
    ring = FrameRing.create(1, 1 << 20)
    given_back = []
    pixels = noise(300, 400)
    ring.write(0, 1, Frame("cam1", 1, pixels, acquired_ns=1))
    frame = ring.lease(0, 1, "cam1", lambda: given_back.append(True))
    part = inspected(pixels=frame.pixels)
    assert sender.offer(part, message(part, 1))
    del part, frame
    assert given_back == [True]
    ring.picture(0, (300, 400, 3))[:] = 0
    assert np.array_equal(receiver.receive(5).frame.pixels, pixels)
    ring.close()


def test_which_parts_are_wanted(endpoint, receiver):
    sender = ArchiveSender(endpoint, ArchiveSettings(ok_every=3))
    good = {camera: inspected(Verdict.OK, camera=camera) for camera in ("a", "b")}
    assert [sender.wants(good["a"]) for _ in range(7)] == [False, False, True, False, False, True, False]
    assert [sender.wants(good["b"]) for _ in range(3)] == [False, False, True]
    assert all(sender.wants(inspected(verdict)) for verdict in (Verdict.NG, Verdict.REVIEW, Verdict.NOT_INSPECTED))
    nothing = stand_in("a", 1, acquired_ns=1, received_ns=1)
    assert not sender.wants(Inspection(nothing, Verdict.NOT_INSPECTED, (), None, DIGEST, reason="incomplete"))
    sender.close(0)


def test_no_good_part_is_wanted_by_default(sender):
    good = inspected(Verdict.OK)
    assert all(sender.offer(good, message(good, seq)) for seq in range(1, 10))
    assert (sender.offered, sender.refused) == (0, 0)


def test_an_archive_that_is_away_never_makes_the_line_wait(sender):
    part = inspected()
    begun = time.monotonic()
    taken = [sender.offer(part, message(part, seq)) for seq in range(1, 101)]
    assert time.monotonic() - begun < 2
    assert taken == [True] * handover.WAITING_PARTS + [False] * (100 - handover.WAITING_PARTS)
    assert (sender.offered, sender.refused) == (100, 100 - handover.WAITING_PARTS)


def test_large_pictures_do_not_take_the_lines_memory(sender, monkeypatch):
    part = inspected(pixels=np.zeros((1000, 1000, 3), np.uint8))
    size = part.frame.pixels.nbytes + part.mask.labels.nbytes
    monkeypatch.setattr(handover, "WAITING_BYTES", int(2.5 * size))
    assert [sender.offer(part, message(part, seq)) for seq in range(1, 5)] == [True, True, False, False]


def test_a_picture_above_the_limit_can_wait_alone(sender, monkeypatch):
    monkeypatch.setattr(handover, "WAITING_BYTES", 10)
    part = inspected()
    assert [sender.offer(part, message(part, seq)) for seq in (1, 2)] == [True, False]


def test_what_waited_for_an_archive_comes_when_it_is_there(sender, endpoint):
    part = inspected()
    for seq in range(1, 21):
        assert sender.offer(part, message(part, seq))
    receiver = ArchiveReceiver(endpoint)
    for seq in range(1, 21):
        got = receiver.receive(5)
        assert got.verdict.header.seq == seq
        receiver.answer(got, written=True)
    until(lambda: sender.hear() or sender.written == 20)
    receiver.close()


def test_closing_waits_until_what_was_taken_is_written(sender, receiver):
    part = inspected()
    for seq in range(1, 31):
        sender.offer(part, message(part, seq))
    closing = threading.Thread(target=sender.close)
    closing.start()
    for seq in range(1, 31):
        got = receiver.receive(5)
        assert got.verdict.header.seq == seq
        receiver.answer(got, written=seq != 7)
    closing.join()
    assert (sender.offered, sender.written, sender.refused) == (30, 29, 1)


def test_closing_counts_what_nobody_took(sender):
    part = inspected()
    for seq in range(1, 4):
        sender.offer(part, message(part, seq))
    begun = time.monotonic()
    sender.close(0.3)
    assert 0.2 < time.monotonic() - begun < 2
    assert (sender.offered, sender.refused) == (3, 3)
    assert not sender.offer(part, message(part, 4))


def test_what_is_lost_with_an_archive_is_known_by_the_answer_to_the_next(sender, endpoint):
    part = inspected()
    receiver = ArchiveReceiver(endpoint)
    for seq in range(1, 4):
        sender.offer(part, message(part, seq))
    assert receiver.receive(5).verdict.header.seq == 1
    until(lambda: receiver._socket.poll(0))
    receiver.close()  # 1 was in work, and what it had received besides is lost too
    receiver = ArchiveReceiver(endpoint)
    sender.offer(part, message(part, 4))
    while (got := receiver.receive(5)).verdict.header.seq < 4:
        receiver.answer(got, written=True)
    receiver.answer(got, written=True)
    until(lambda: sender.hear() or not sender.waiting)
    assert sender.written + sender.refused == sender.offered == 4
    assert sender.written >= 1
    assert sender.refused >= 1
    receiver.close()


def test_room_that_a_lost_picture_took_comes_back(sender, endpoint, monkeypatch):
    """By asking: no other part could be handed over, whose answer would tell."""
    monkeypatch.setattr(handover, "WAITING_BYTES", 10)
    monkeypatch.setattr(handover, "ASK_S", 0.05)
    part = inspected()
    receiver = ArchiveReceiver(endpoint)
    assert sender.offer(part, message(part, 1))
    assert receiver.receive(5) is not None
    receiver.close()
    receiver = ArchiveReceiver(endpoint)
    assert not sender.offer(part, message(part, 2))
    until(lambda: receiver.receive(0.1) or sender.offer(part, message(part, 3)))
    assert sender.refused == sender.offered - 1
    receiver.close()


@pytest.mark.parametrize(
    "parts",
    [
        [b"x"],
        [b"x", b"y"],
        [b"\0" * 8, b"{}", b"", b"", b"", b""],
        [b"\0" * 8, b"\xff", b"ins1/verdict/cam1/", b"\0" * 64, b"{}", b"1", b"2"],
        [b"\0" * 8, b"1", b"2", b"3", b"4", b"5", b"6", b"7"],
    ],
)
def test_what_is_no_part_is_refused_and_the_next_is_taken(endpoint, receiver, sender, parts):
    with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
        stranger.connect(endpoint)
        stranger.send_multipart(parts)
        with pytest.raises(ProtocolError):
            receiver.receive(5)
    part = inspected()
    sender.offer(part, message(part, 1))
    assert receiver.receive(5).verdict.header.seq == 1


def test_a_frame_of_another_camera_than_its_verdict_is_refused(sender, receiver):
    assert sender.offer(inspected(camera="cam2"), message(inspected(camera="cam1"), 1))
    with pytest.raises(ProtocolError, match="'cam2' with a verdict of 'cam1'"):
        receiver.receive(5)


def test_nobody_else_can_hand_over(receiver, tmp_path):
    assert (tmp_path / "archive").stat().st_mode & 0o077 == 0


def test_an_address_that_is_none_is_told(tmp_path):
    with pytest.raises(ConfigError, match="107 bytes"):
        ArchiveSender(f"ipc://{tmp_path}/{'x' * 120}", ArchiveSettings())
    with pytest.raises(ConfigError, match="folder that exists"):
        ArchiveReceiver(f"ipc://{tmp_path}/nowhere/archive")


def test_beats_are_read_as_they_were_written():
    beat = Beat(3, 1, 2, 5_000_000_000, "the disk is full — Ω" * 400)
    line = beat.to_line()
    assert line.endswith(b"\n")
    assert len(line) < 4096
    read = Beat.from_line(line)
    assert (read.written, read.refused, read.deleted, read.size_bytes) == (3, 1, 2, 5_000_000_000)
    assert beat.fault.startswith(read.fault)
    for other in (b"", b"{}", b"[]", b'{"kind": "tick"}', b'{"kind": "beat", "written": null}'):
        with pytest.raises(ProtocolError):
            Beat.from_line(other)
