"""Subscribers that stand still for longer than the heartbeats of their connections wait."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np

from inspectd.frame import Frame
from inspectd.inspection import Inspection, Verdict
from inspectd.runtime.messaging import CameraStream, Publisher

STALLING = """
import sys, threading, time
from inspectd.runtime.messaging import Subscriber
from inspectd.wire import Message

def follow(stall_s):
    seen = 0
    with Subscriber(sys.argv[1]) as subscriber:
        while seen < 5:
            seen += isinstance(subscriber.receive(1.0), Message)
        time.sleep(stall_s)
        # As fast as it goes: then the queue has room again before the new connection has filled it.
        socket = subscriber._link.socket
        while socket.poll(1000):
            socket.recv_multipart()

threads = [threading.Thread(target=follow, args=(2.0 + 0.2 * number,)) for number in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("went on")
"""


def failed(number: int) -> Inspection:
    frame = Frame("cam1", number, np.zeros((4, 4, 1), np.uint8), 10)
    return Inspection(frame, Verdict.NOT_INSPECTED, (), None, "", reason="half a frame")


def test_they_go_on_when_they_wake():
    """With a bounded queue libzmq 4.3.5 ends the process (its issue 3937), by chance: so twelve of them."""
    with Publisher("tcp://127.0.0.1:*", epoch=1, cameras={"cam1": CameraStream()}) as publisher:
        process = subprocess.Popen(
            [sys.executable, "-c", STALLING, publisher.endpoint],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert publisher.wait_for_subscriber(20)
        stop_s = time.monotonic() + 6
        number = 0
        while time.monotonic() < stop_s and process.poll() is None:
            number += 1
            publisher.publish(failed(number))
            publisher.tick()
            time.sleep(0.0005)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "went on\n", "")
