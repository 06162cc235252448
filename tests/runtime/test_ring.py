"""The ring of frames between two processes, and what they say to each other."""

from __future__ import annotations

import gc
import os
import socket

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspectd.frame import Frame
from inspectd.runtime.sources.grab_link import Kind, Link, LinkClosed
from inspectd.runtime.sources.ring import FrameRing, RingDamaged

SHAPE = (5, 7, 3)


def frame(number: int, shape=SHAPE) -> Frame:
    pixels = np.random.default_rng(number).integers(0, 256, shape, np.uint8)
    return Frame("cam1", number, pixels, acquired_ns=-number, trigger_id=3, received_ns=number + 1, camera_clock=True)


def pair(slots: int = 2) -> tuple[FrameRing, FrameRing]:
    """Both ends; the memory stays for as long as they are there."""
    writer = FrameRing.create(slots, 5 * 7 * 3)
    reader = FrameRing(os.dup(writer.descriptor))
    writer.close()
    reader.close()
    return writer, reader


def never() -> None: ...


def test_a_frame_comes_through_with_all_that_is_known_of_it():
    writer, reader = pair()
    sent = frame(4)
    writer.write(1, 9, sent)
    got = reader.lease(1, 9, "cam1", never)
    np.testing.assert_array_equal(got.pixels, sent.pixels)
    for name in ("frame_id", "acquired_ns", "received_ns", "trigger_id", "camera_clock", "camera"):
        assert getattr(got, name) == getattr(sent, name)
    with pytest.raises(ValueError, match="read-only"):
        got.pixels[0, 0, 0] = 1


def test_pixels_that_lie_in_the_ring_already_are_not_copied():
    writer, reader = pair()
    place = writer.picture(0, SHAPE)
    place[:] = 17
    writer.write(0, 1, Frame("cam1", 1, place, acquired_ns=0))
    assert (reader.lease(0, 1, "cam1", never).pixels == 17).all()


@pytest.mark.parametrize("generation", [1, 3])
def test_another_frame_is_never_taken_for_the_one_that_was_told_of(generation):
    writer, reader = pair()
    writer.write(0, 2, frame(1))
    with pytest.raises(RingDamaged, match=f"another frame: 2, told of {generation}"):
        reader.lease(0, generation, "cam1", never)


@given(at=st.integers(0, 59), bit=st.integers(0, 7))
def test_a_header_with_any_flipped_bit_is_refused(at, bit):
    writer = FrameRing.create(2, 5 * 7 * 3)
    writer.write(0, 2, frame(1))
    start = 4096 + at
    old = os.pread(writer.descriptor, 1, start)
    os.pwrite(writer.descriptor, bytes([old[0] ^ 1 << bit]), start)
    with pytest.raises(RingDamaged):
        writer.lease(0, 2, "cam1", never)
    writer.close()


def test_a_slot_is_free_when_the_last_view_of_its_picture_is_gone():
    writer, reader = pair()
    writer.write(0, 1, frame(1))
    freed = []
    got = reader.lease(0, 1, "cam1", lambda: freed.append(1))
    view = got.pixels[1:3, :, ::-1][..., :1]
    expected = view.copy()
    del got
    gc.collect()
    assert freed == []
    np.testing.assert_array_equal(view, expected)
    del view
    gc.collect()
    assert freed == [1]


def test_a_picture_outlives_its_ring():
    writer, reader = pair()
    sent = frame(1)
    writer.write(0, 1, sent)
    got = reader.lease(0, 1, "cam1", never)
    for ring in (writer, reader):
        ring.close()
        ring.close()
    del writer, reader
    gc.collect()
    np.testing.assert_array_equal(got.pixels, sent.pixels)


def test_what_does_not_fit_is_refused():
    writer, _ = pair()
    with pytest.raises(ValueError, match="does not fit"):
        writer.write(0, 1, frame(1, (100, 100, 3)))


@pytest.mark.parametrize("content", [b"", b"x" * 5000])
def test_other_memory_is_no_ring(content):
    descriptor = os.memfd_create("other")
    os.write(descriptor, content)
    with pytest.raises(RingDamaged, match="no ring"):
        FrameRing(descriptor)
    os.close(descriptor)


@pytest.fixture
def links():
    """The line's end and the camera's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    line, camera = Link(ours, waits=False), Link(theirs, waits=True)
    yield line, camera
    line.close()
    camera.close()


def test_packets_arrive_whole_in_order_and_with_their_descriptor(links):
    line, camera = links
    ring = FrameRing.create(2, 100)
    camera.tell(Kind.READY, descriptor=ring.descriptor, device="x")
    ring.close()
    camera.tell_place(Kind.FRAME, 1, 2**60)
    camera.tell(Kind.TICK)
    ready, place, tick = (line.receive(1.0) for _ in range(3))
    assert (ready.kind, ready.facts) == (Kind.READY, {"device": "x"})
    FrameRing(ready.descriptor).close()
    assert (place.kind, place.place) == (Kind.FRAME, (1, 2**60))
    assert (tick.kind, tick.facts) == (Kind.TICK, {})
    assert line.receive(0.01) is None


def test_what_was_sent_is_received_before_the_end_is_told(links):
    line, camera = links
    camera.tell(Kind.TICK)
    camera.close()
    assert line.receive(1.0).kind == Kind.TICK
    with pytest.raises(LinkClosed):
        line.receive(1.0)
    with pytest.raises(LinkClosed):
        line.tell(Kind.STOP)
    line.free(0, 1)


def test_what_was_sent_is_received_though_its_sender_has_not_read_all(links):
    """As of a camera that is lost while pictures are given back: its reason must arrive."""
    line, camera = links
    line.free(0, 1)
    camera.tell(Kind.LOST, reason="the cable is out")
    camera.close()
    assert line.receive(1.0).facts == {"reason": "the cable is out"}
    with pytest.raises(LinkClosed):
        line.receive(1.0)


def test_giving_back_never_waits_and_loses_nothing(links):
    """More than the socket holds, while the other process does not read: the rest goes with the next ones."""
    line, camera = links
    for number in range(2000):
        line.free(0, number)
    got = []
    while len(got) < 2000:
        packet = camera.receive(0)
        if packet is None:
            line.free(1, 0)  # any later one takes along what waits
        elif packet.place[0] == 0:
            got.append(packet.place[1])
    assert got == list(range(2000))


def test_a_process_that_takes_no_packets_counts_as_ended(links):
    line, _camera = links

    def go_on() -> None:
        for _ in range(100_000):
            line.tell(Kind.TRIGGER)

    with pytest.raises(LinkClosed):
        go_on()
