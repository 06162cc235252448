"""The few calls of the CUDA driver that running an engine takes, behind a small interface.

A context belongs to a thread, so whoever opens a driver makes all its calls from that one thread. `PycudaDriver` shares
the device's primary context with everything else in the process (torch, the CUDA runtime).
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from inspectd.errors import DeviceError
from inspectd.optional import require

__all__ = ["Driver", "PycudaDriver"]

_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads call does not spoil a capture."""


class Driver(Protocol):
    """A device that is open in this thread. Whatever was allocated is freed by `close`.

    Every call raises DeviceError where the device refuses it, or where it comes from another thread.

    Attributes:
        name: of the device.
        capability: its compute capability, 8.6 for example.
    """

    name: str
    capability: str

    def stream(self) -> int:
        """A new stream: its handle."""

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Page-locked memory of the host: uint8 [size]."""

    def memory(self, size: int) -> int:
        """Memory of the device, bytes: its address."""

    def copy_in(self, address: int, host: NDArray[np.uint8], stream: int) -> None:
        """Copy pinned memory to the device, when the stream comes to it."""

    def copy_out(self, host: NDArray[np.uint8], address: int, stream: int) -> None:
        """Copy from the device to pinned memory, when the stream comes to it."""

    def wait(self, stream: int) -> None:
        """Wait until a stream has done all that it was given."""

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        """What `enqueue` gives to the stream as one graph, without doing it: its handle."""

    def launch(self, graph: int, stream: int) -> None:
        """Give a graph to a stream."""

    def close(self) -> None:
        """Free everything and let go of the device."""


class PycudaDriver:
    """A device through pycuda. Its graphs, which pycuda does not have, are a few calls of the driver itself."""

    def __init__(self, index: int = 0) -> None:
        """Open a device in this thread.

        Args:
            index: of the device.

        Raises:
            MissingDependencyError: pycuda or the driver is not installed.
            DeviceError: there is no such device, or it cannot be used.
        """
        self._cuda: Any = require("pycuda.driver", extra="tensorrt")
        self._thread = threading.get_ident()
        try:
            self._cuda.init()
            device = self._cuda.Device(index)
            self._context = device.retain_primary_context()
            self._context.push()
        except self._cuda.Error as error:
            raise DeviceError(f"GPU {index} cannot be used: {error}") from error
        self.name = str(device.name())
        self.capability = ".".join(map(str, device.compute_capability()))
        self._streams: dict[int, Any] = {}
        self._kept: list[Any] = []
        self._graphs: list[int] = []
        # The driver itself is loaded by now; this finds the same one.
        self._library = ctypes.CDLL("libcuda.so.1")

    def stream(self) -> int:
        """See `Driver.stream`."""
        made = self._called(self._cuda.Stream)
        self._streams[int(made.handle)] = made
        return int(made.handle)

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """See `Driver.pinned`."""
        made: NDArray[np.uint8] = self._called(self._cuda.pagelocked_empty, size, np.uint8)
        self._kept.append(made)
        return made

    def memory(self, size: int) -> int:
        """See `Driver.memory`."""
        made = self._called(self._cuda.mem_alloc, size)
        self._kept.append(made)
        return int(made)

    def copy_in(self, address: int, host: NDArray[np.uint8], stream: int) -> None:
        """See `Driver.copy_in`."""
        self._called(self._cuda.memcpy_htod_async, address, host, self._streams[stream])

    def copy_out(self, host: NDArray[np.uint8], address: int, stream: int) -> None:
        """See `Driver.copy_out`."""
        self._called(self._cuda.memcpy_dtoh_async, host, address, self._streams[stream])

    def wait(self, stream: int) -> None:
        """See `Driver.wait`."""
        self._called(self._streams[stream].synchronize)

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        """See `Driver.capture`."""
        handle, graph, ready = ctypes.c_void_p(stream), ctypes.c_void_p(), ctypes.c_void_p()
        self._direct("cuStreamBeginCapture_v2", handle, ctypes.c_int(_THREAD_LOCAL))
        try:
            enqueue()
        finally:
            # Also after a failure: the stream would stay in capture and take nothing else.
            self._direct("cuStreamEndCapture", handle, ctypes.byref(graph))
        try:
            self._direct("cuGraphInstantiateWithFlags", ctypes.byref(ready), graph, ctypes.c_ulonglong(0))
        finally:
            self._direct("cuGraphDestroy", graph)
        self._graphs.append(int(ready.value or 0))
        return self._graphs[-1]

    def launch(self, graph: int, stream: int) -> None:
        """See `Driver.launch`."""
        self._direct("cuGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))

    def close(self) -> None:
        """See `Driver.close`."""
        if self._context is None:
            return
        for graph in self._graphs:
            # A device that has failed refuses this too, and has nothing left to free.
            with contextlib.suppress(DeviceError):
                self._direct("cuGraphExecDestroy", ctypes.c_void_p(graph))
        # They free themselves when nothing names them, and must do so before the context goes.
        self._graphs.clear()
        self._streams.clear()
        self._kept.clear()
        context, self._context = self._context, None
        context.pop()
        context.detach()

    def _called(self, function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - pycuda has no types
        self._check_thread()
        try:
            return function(*arguments)
        except self._cuda.Error as error:
            raise DeviceError(f"{self.name}: {error}") from error

    def _direct(self, name: str, *arguments: object) -> None:
        """A call that pycuda does not have."""
        self._check_thread()
        if status := getattr(self._library, name)(*arguments):
            raise DeviceError(f"{self.name}: {name} failed with CUDA error {status}")

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise DeviceError("a CUDA context was used from another thread than the one that opened it")
