"""The few calls of the CUDA driver that running an engine takes, behind a small interface.

A context belongs to a thread, so whoever opens a driver makes all its calls from that one thread. `PycudaDriver` and
`CudaPythonDriver`, which needs no compiler to be installed, share the device's primary context with everything else in
the process (torch, the CUDA runtime).
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from inspectd.errors import DeviceError, MissingDependencyError
from inspectd.optional import require

__all__ = ["DRIVERS", "CudaPythonDriver", "Driver", "PycudaDriver", "open_driver"]

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


class _OneThread:
    """Remembers who opened the device."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise DeviceError("a CUDA context was used from another thread than the one that opened it")


class PycudaDriver(_OneThread):
    """A device through pycuda. Its graphs, which pycuda does not have, are a few calls of the driver itself."""

    def __init__(self, index: int = 0) -> None:
        """Open a device in this thread.

        Args:
            index: of the device.

        Raises:
            MissingDependencyError: pycuda or the driver is not installed.
            DeviceError: there is no such device, or it cannot be used.
        """
        super().__init__()
        with warnings.catch_warnings():
            # Without NVIDIA's driver it warns first, and then raises what tells the same.
            warnings.simplefilter("ignore")
            self._cuda: Any = require("pycuda.driver", extra="tensorrt")
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
        self._kept.append(made.base)
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
        except BaseException:
            # The stream would stay in capture and take nothing else; a capture that was spoilt gives no graph.
            with contextlib.suppress(DeviceError):
                self._direct("cuStreamEndCapture", handle, ctypes.byref(graph))
                self._direct("cuGraphDestroy", graph)
            raise
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
        for allocation in self._kept:
            # Whoever still holds an array of it would keep it beyond the context, which can free it no more.
            with contextlib.suppress(self._cuda.Error):
                allocation.free()
        # Streams have no call for it, and go when nothing names them.
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


class CudaPythonDriver(_OneThread):
    """A device through NVIDIA's own cuda-python, which comes as a wheel."""

    def __init__(self, index: int = 0) -> None:
        """Open a device in this thread; see `PycudaDriver`."""
        super().__init__()
        self._cuda: Any = require("cuda.bindings.driver", extra="cuda-python")
        self.name, self._context = f"GPU {index}", None
        try:
            self._called("cuInit", 0)
        except RuntimeError as error:
            # The bindings are there without the driver, which they look for at the first call.
            raise MissingDependencyError(
                f"NVIDIA's driver cannot be loaded ({' '.join(str(error).split())}); install it, or run on a machine "
                "with a GPU"
            ) from error
        device = self._called("cuDeviceGet", index)
        self._device = device
        self.name = self._called("cuDeviceGetName", 128, device).split(b"\0")[0].decode(errors="replace")
        attributes = self._cuda.CUdevice_attribute
        major, minor = (
            self._called("cuDeviceGetAttribute", attribute, device)
            for attribute in (
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        self.capability = f"{major}.{minor}"
        self._streams: list[int] = []
        self._pinned: list[int] = []
        self._memory: list[int] = []
        self._graphs: list[int] = []
        context = self._called("cuDevicePrimaryCtxRetain", device)
        try:
            self._called("cuCtxPushCurrent", context)
        except DeviceError:
            self._called("cuDevicePrimaryCtxRelease", device)
            raise
        self._context = context

    def stream(self) -> int:
        """See `Driver.stream`."""
        self._streams.append(int(self._called("cuStreamCreate", 0)))
        return self._streams[-1]

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """See `Driver.pinned`."""
        address = int(self._called("cuMemHostAlloc", size, 0))
        self._pinned.append(address)
        return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_uint8)), (size,))

    def memory(self, size: int) -> int:
        """See `Driver.memory`."""
        self._memory.append(int(self._called("cuMemAlloc", size)))
        return self._memory[-1]

    def copy_in(self, address: int, host: NDArray[np.uint8], stream: int) -> None:
        """See `Driver.copy_in`."""
        self._called("cuMemcpyHtoDAsync", address, host.ctypes.data, host.nbytes, stream)

    def copy_out(self, host: NDArray[np.uint8], address: int, stream: int) -> None:
        """See `Driver.copy_out`."""
        self._called("cuMemcpyDtoHAsync", host.ctypes.data, address, host.nbytes, stream)

    def wait(self, stream: int) -> None:
        """See `Driver.wait`."""
        self._called("cuStreamSynchronize", stream)

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        """See `Driver.capture`."""
        mode = self._cuda.CUstreamCaptureMode(_THREAD_LOCAL)
        self._called("cuStreamBeginCapture", stream, mode)
        try:
            enqueue()
        except BaseException:
            # As above.
            with contextlib.suppress(DeviceError):
                self._called("cuGraphDestroy", self._called("cuStreamEndCapture", stream))
            raise
        graph = self._called("cuStreamEndCapture", stream)
        try:
            self._graphs.append(int(self._called("cuGraphInstantiate", graph, 0)))
        finally:
            self._called("cuGraphDestroy", graph)
        return self._graphs[-1]

    def launch(self, graph: int, stream: int) -> None:
        """See `Driver.launch`."""
        self._called("cuGraphLaunch", graph, stream)

    def close(self) -> None:
        """See `Driver.close`."""
        if self._context is None:
            return
        self._context = None
        for free, handles in (
            ("cuGraphExecDestroy", self._graphs),
            ("cuStreamDestroy", self._streams),
            ("cuMemFree", self._memory),
            ("cuMemFreeHost", self._pinned),
        ):
            for handle in handles:
                # A device that has failed refuses this too, and has nothing left to free.
                with contextlib.suppress(DeviceError):
                    self._called(free, handle)
            handles.clear()
        with contextlib.suppress(DeviceError):
            self._called("cuCtxPopCurrent")
        with contextlib.suppress(DeviceError):
            self._called("cuDevicePrimaryCtxRelease", self._device)

    def _called(self, name: str, *arguments: object) -> Any:  # noqa: ANN401 - the bindings' own kinds
        self._check_thread()
        status, *values = getattr(self._cuda, name)(*arguments)
        if status:
            raise DeviceError(f"{self.name}: {name} failed: {getattr(status, 'name', status)}")
        return values[0] if values else None


DRIVERS: tuple[Callable[[], Driver], ...] = (PycudaDriver, CudaPythonDriver)
"""In the order of preference."""


def open_driver() -> Driver:
    """The device by the first of `DRIVERS` that is installed.

    Raises:
        MissingDependencyError: none is, or NVIDIA's driver is not.
        DeviceError: there is no device, or it cannot be used.
    """
    missing = []
    for driver in DRIVERS:
        try:
            return driver()
        except MissingDependencyError as error:  # noqa: PERF203 - there are two
            missing.append(str(error))
    raise MissingDependencyError("; or: ".join(missing))
