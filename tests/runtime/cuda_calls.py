"""What the CUDA drivers must do, each in its own process: `python tests/runtime/cuda_calls.py PycudaDriver copies`.

The same on a simulated `libcuda.so.1` and on a real one. Ends with 0 or an AssertionError.
"""

from __future__ import annotations

import resource
import sys
import threading
from functools import partial

import numpy as np
import pytest

from inspectd import cuda
from inspectd.errors import DeviceError


def copies(open_driver):
    """Bytes go there and back when the stream is waited for."""
    driver = open_driver()
    assert driver.name
    assert 5 <= float(driver.capability) < 100
    stream, size = driver.stream(), 1 << 20
    host, back, there = driver.pinned(size), driver.pinned(size), driver.memory(size)
    assert (host.dtype, host.shape, host.flags.writeable) == (np.uint8, (size,), True)
    host[:] = np.random.default_rng(0).integers(0, 256, size)
    back[:] = 0
    driver.copy_in(there, host, stream)
    driver.copy_out(back, there, stream)
    driver.wait(stream)
    assert (back == host).all()
    part = np.arange(16, dtype=np.uint8)
    host[:16] = part
    back[:] = 0
    driver.copy_in(there, host[:16], stream)
    driver.copy_out(back[:32], there, stream)
    driver.wait(stream)
    assert (back[:16] == part).all()
    assert (back[16:32] == host[16:32]).all()
    assert not back[32:].any()
    driver.close()
    driver.close()


def graphs(open_driver):
    """What is captured does not run, and runs with what is in memory at each launch."""
    driver = open_driver()
    stream = driver.stream()
    host, back, there = driver.pinned(64), driver.pinned(64), driver.memory(64)
    host[:], back[:] = 1, 0

    def enqueue():
        driver.copy_in(there, host, stream)
        driver.copy_out(back, there, stream)

    graph = driver.capture(stream, enqueue)
    driver.wait(stream)
    assert not back.any()
    for value in (1, 2, 3):
        host[:] = value
        driver.launch(graph, stream)
        driver.wait(stream)
        assert (back == value).all()

    def broken():
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        driver.capture(stream, broken)
    host[:] = 9
    enqueue()
    driver.wait(stream)
    assert (back == 9).all(), "the stream goes on after a capture that failed"
    driver.close()


def threads(open_driver):
    """Another thread is refused, and may open the device for itself."""
    driver = open_driver()
    stream = driver.stream()
    done = []

    def other():
        for call in (driver.stream, lambda: driver.pinned(8), lambda: driver.memory(8), lambda: driver.wait(stream)):
            with pytest.raises(DeviceError, match="was used from another thread than the one that opened it"):
                call()
        own = open_driver()
        own.wait(own.stream())
        own.close()
        done.append(True)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert done
    driver.wait(stream)
    driver.close()


def full(open_driver):
    """More memory than there is raises, and the device goes on."""
    driver = open_driver()
    with pytest.raises(DeviceError, match=f"(?i){driver.name}.*out.of.memory"):
        driver.memory(1 << 50)
    assert driver.memory(16)
    driver.close()


def cycles(open_driver, count=10_000):
    """Opened and closed ten thousand times, nothing grows."""
    before = 0
    for number in range(count):
        driver = open_driver()
        stream = driver.stream()
        copy = partial(driver.copy_in, driver.memory(4096), driver.pinned(4096), stream)
        copy()
        driver.launch(driver.capture(stream, copy), stream)
        driver.wait(stream)
        driver.close()
        if number == count // 10:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 8 << 10, f"grew by {grown_kib} KiB"


def no_device(open_driver):
    """A driver that finds no device says so."""
    with pytest.raises(DeviceError, match="GPU 0"):
        open_driver()


def main(driver, name):
    """One of the above; a device that it leaves open after a failure is closed, as the runner does."""
    opened = []

    def open_driver():
        opened[:] = [getattr(cuda, driver)()]
        return opened[0]

    try:
        globals()[name](open_driver)
    except BaseException:
        for device in opened:
            device.close()
        raise


if __name__ == "__main__":
    main(*sys.argv[1:])
