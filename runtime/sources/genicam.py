"""GenICam cameras through harvesters and any GenTL producer.

What is worked around here was measured with harvesters 1.4.3 and genicam 1.6.0: `fetch` can block far beyond its
timeout and hides incomplete frames, so buffers are taken from the event manager; the interpreter is held while
harvesters waits, so it waits for moments only, and a line gives each camera a process of its own; queueing a buffer
clears its memory, so pixels are copied before; line padding is left in the data, so strides are handled here; a pixel
format that harvesters does not know loses the buffer, so the format is checked at opening.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from inspectd.config import GenicamCamera
from inspectd.errors import CameraAway, CameraError, CameraLost, FrameTimeout
from inspectd.frame import Frame
from inspectd.runtime.simcam import PART_ID_INFO

from .damaged import DamagedFrame, stand_in
from .features import write_feature
from .pixel_formats import PIXEL_FORMATS, PixelFormat, Place, to_pixels
from .producers import Device, Foreign, Producer, load_api, producer_file, sigint_kept, tolerated

__all__ = ["GenicamSource", "gives_part_numbers"]

_WAIT_MS = 20
"""How long the producer is waited for at a time, while no other thread runs."""
_WAIT_TRIGGERED_MS = 2
"""The same where software triggers have to be passed on without delay."""
# Beyond harvesters' three: what arrives while all are full is lost without a word.
_BUFFERS = 8
_ALIVE_NS = 500_000_000
_NO_ACCESS = 3  # DEVICE_ACCESS_STATUS_NOACCESS of GenTL
_IMAGE_PAYLOADS = (1, 4)  # PAYLOAD_TYPE_IMAGE, PAYLOAD_TYPE_CHUNK_DATA
_SAME_CLOCK_NS = 10_000_000_000


class GenicamSource:
    """One GenICam camera, for one connection: what is lost has to be made anew.

    Attributes:
        place: gives the memory for the next picture; without it it is new.
    """

    def __init__(
        self,
        name: str,
        camera: GenicamCamera,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        utc: Callable[[], int] = time.time_ns,
    ) -> None:
        self._name = name
        self._camera = camera
        self._clock = clock
        self._utc = utc
        self._wait_ms = _WAIT_TRIGGERED_MS if camera.trigger == "Software" else _WAIT_MS
        self._producer: Producer | None = None
        self._acquirer: Foreign = None
        self._monitor: Foreign = None
        self._format = PIXEL_FORMATS["Mono8"]
        self._last_frame_ns = 0
        self._last_alive_ns = 0
        self._lost = False
        self._device = self._serial = ""
        self.place: Place | None = None

    @property
    def name(self) -> str:
        """Name of the camera in the configuration."""
        return self._name

    def open(self) -> None:
        """Find the camera and set its features.

        Raises:
            CameraAway: no such camera now, held elsewhere, or it does not answer.
            CameraError: no producer, features that cannot be set (each in a line), or a pixel format that cannot be
                read; what was opened has been let go again.
        """
        with self._letting_go():
            self._producer = Producer.share(producer_file(self._camera.producer))
            device = self._choose(self._producer)
            self._device, self._serial = str(device), device.serial
            with sigint_kept():
                self._acquirer = self._producer.harvester.create(device.info)
            # Else it is destroyed once more when the interpreter ends, after the libraries under it.
            self._acquirer._finalizer.detach()  # noqa: SLF001 - there is no public way
            nodes = self._acquirer.remote_device.node_map
            refused = []
            for feature, value in self._camera.features.items():
                try:
                    write_feature(nodes, feature, value, camera=self._who)
                except CameraError as error:  # noqa: PERF203 - all of them are told at once
                    refused.append(str(error))
            if refused:
                # A camera that is being unplugged refuses as well; that is no fault of the configuration.
                nodes.Width.get_value(False, True)
                raise CameraError("\n".join(refused))
            # Last, for a user set that is loaded by a feature replaces them.
            for feature, value in self._camera.trigger_features.items():
                write_feature(nodes, feature, value, camera=self._who)
            self._check_trigger(nodes)
            self._format = self._agree_on_format(nodes)
            self._acquirer.num_buffers = max(self._acquirer.min_num_buffers, _BUFFERS)

    def start(self) -> None:
        """Start to acquire.

        Raises:
            CameraError: the camera refuses, or is not open; it has been let go.
        """
        if self._acquirer is None:
            raise CameraLost(f"{self._who}: is not open")
        with self._letting_go():
            self._acquirer.start()
            # What `fetch` itself polls, without its own ideas of time and damage.
            self._monitor = next(iter(self._acquirer._new_buffer_event_monitor_dict.values()))  # noqa: SLF001
        self._last_frame_ns = self._last_alive_ns = self._clock()

    def end_exposures(self) -> None:
        """Let the camera expose nothing more; what it has exposed can still be read.

        Raises:
            CameraLost: it does not answer.
        """
        with self._breaking():
            self._acquirer.remote_device.node_map.AcquisitionStop.execute()

    def stop(self) -> None:
        """End what `start` began; the camera stays open and set.

        Raises:
            CameraLost: it does not answer.
        """
        with self._breaking():
            self._monitor = None
            self._acquirer.stop()

    @contextmanager
    def _breaking(self) -> Iterator[None]:
        faults: tuple[type[Exception], ...] = (AttributeError, *load_api().faults)
        try:
            yield
        except faults as error:
            self._lost = True
            raise CameraLost(f"{self._who}: does not stop to acquire: {error}") from error

    @contextmanager
    def _letting_go(self) -> Iterator[None]:
        """Faults of harvesters and GenTL as ours; whatever the fault, the camera is let go."""
        api = load_api()
        faults: tuple[type[Exception], ...] = (ValueError, StopIteration, *api.faults)
        try:
            yield
        except CameraError:
            self.close()
            raise
        except (api.access_denied, api.in_use) as error:
            self.close()
            raise CameraAway(
                f"{self._who}: in use by another program, or by one that was killed and whose heartbeat has not "
                f"run out; close that program or wait 10 s ({error})"
            ) from error
        except faults as error:
            self.close()
            raise CameraAway(f"{self._who}: cannot be opened: {error}") from error

    def read(self, timeout_s: float) -> Frame:
        """The next frame; see `FrameSource.read`.

        Raises:
            FrameTimeout: nothing came in time.
            DamagedFrame: an incomplete frame came, or one that is no picture of the format agreed.
            CameraLost: the camera is gone, or was silent for its `timeout_ms`.
        """
        if self._monitor is None:
            raise CameraLost(f"{self._who}: is not started")
        deadline_ns = self._clock() + round(timeout_s * 1e9)
        try:
            while not self._arrived(deadline_ns):
                self._check_alive()
                if self._clock() >= deadline_ns:
                    raise FrameTimeout(f"{self._who}: no frame within {timeout_s:g} s")
            buffer = self._monitor.buffer
            try:
                return self._frame(buffer)
            finally:
                buffer.parent.queue_buffer(buffer)
        except load_api().faults as error:
            self._lost = True
            raise CameraLost(f"{self._who}: the connection broke: {error}") from error
        except CameraLost:
            self._lost = True
            raise

    @property
    def largest_bytes(self) -> int:
        """Bytes of the largest picture that it may deliver as it is set, however its format is converted."""
        nodes = self._acquirer.remote_device.node_map
        return 3 * int(nodes.Width.value) * int(nodes.Height.value)

    @property
    def device(self) -> str:
        """What was opened, for people: model, and serial number or id."""
        return self._device

    @property
    def serial(self) -> str:
        """Serial number of what was opened; empty where it says none."""
        return self._serial

    @property
    def pixel_format(self) -> str:
        """Name of the format that was agreed on at opening."""
        return next(name for name, known in PIXEL_FORMATS.items() if known is self._format)

    @property
    def unread(self) -> int:
        """Frames that the producer holds ready and that nobody has fetched; 0 where it does not say."""
        if self._acquirer is None:
            return 0
        asked = load_api().asked
        streams: list[Foreign] = asked(lambda: list(self._acquirer.data_streams), [])
        return asked(lambda: sum(int(stream.num_awaiting_delivery) for stream in streams), 0)

    def trigger(self) -> None:
        """Send it a software trigger.

        Raises:
            CameraLost: it does not take one.
        """
        faults: tuple[type[Exception], ...] = (AttributeError, *load_api().faults)
        try:
            self._acquirer.remote_device.node_map.TriggerSoftware.execute()
        except faults as error:
            self._lost = True
            raise CameraLost(f"{self._who}: takes no software trigger: {error}") from error

    def close(self) -> None:
        """Stop and let go of the camera."""
        acquirer, self._acquirer, self._monitor = self._acquirer, None, None
        producer, self._producer = self._producer, None
        if acquirer is not None:
            if self._lost:
                # On a dead link harvesters' own stop raises before it has stopped the stream.
                for stream in acquirer.data_streams:
                    with tolerated("stopping the stream of a lost camera"):
                        stream.stop_acquisition(load_api().kill)
            with tolerated("letting go of the camera"):
                acquirer.destroy()
        if producer is not None:
            producer.release()

    @property
    def _who(self) -> str:
        device = f" ({self._camera.device})" if self._camera.device else ""
        return f"camera {self._name!r}{device}"

    def _choose(self, producer: Producer) -> Device:
        devices, wanted = producer.devices(), self._camera.device
        matching = [device for device in devices if wanted is None or wanted in device.names]
        if len(matching) == 1:
            return matching[0]
        found = ", ".join(map(str, devices)) or "none"
        if matching:
            raise CameraError(
                f"{self._who}: {producer.path} finds {len(matching)}; "
                f"set cameras.{self._name}.device to a serial number or id of: {found}"
            )
        raise CameraAway(f"{self._who}: not found; {producer.path} finds: {found}")

    def _check_trigger(self, nodes: Foreign) -> None:
        """A camera that waits for a trigger, taken for one that runs freely, would lose parts and only count them."""
        waits = nodes.has_node("TriggerMode") and load_api().asked(lambda: str(nodes.TriggerMode.value), "Off") == "On"
        if waits and self._camera.free_running:
            raise CameraError(
                f"{self._who}: waits for a trigger (TriggerMode is On); set cameras.{self._name}.trigger to its source "
                f"(Line1, ...), or its feature TriggerMode to Off"
            )

    def _agree_on_format(self, nodes: Foreign) -> PixelFormat:
        name = str(nodes.PixelFormat.value)
        if name in PIXEL_FORMATS:
            return PIXEL_FORMATS[name]
        offered: Sequence[str] = [known for known in PIXEL_FORMATS if known in nodes.PixelFormat.symbolics]
        raise CameraError(
            f"{self._who}: sends {name}, which cannot be read; set cameras.{self._name}.features.PixelFormat "
            f"to one of {', '.join(offered or PIXEL_FORMATS)}"
        )

    def _arrived(self, deadline_ns: int) -> bool:
        left_ms = -(-(deadline_ns - self._clock()) // 1_000_000)
        try:
            self._monitor.update_event_data(max(0, min(left_ms, self._wait_ms)))
        except load_api().timeout:
            return False
        return True

    def _check_alive(self) -> None:
        now = self._clock()
        silent_ms = (now - self._last_frame_ns) / 1e6
        if self._camera.silence_ms and silent_ms >= self._camera.silence_ms:
            raise CameraLost(
                f"{self._who}: no frame for {silent_ms / 1e3:.1f} s; check cable, power and trigger "
                f"(cameras.{self._name}.timeout_ms = 0 waits for ever)"
            )
        if now - self._last_alive_ns < _ALIVE_NS:
            return
        self._last_alive_ns = now
        if self._acquirer.device.module.access_status == _NO_ACCESS:
            raise CameraLost(f"{self._who}: the producer has lost it; check cable and power")
        # Past the cache, which would still answer after the camera is gone.
        self._acquirer.remote_device.node_map.Width.get_value(False, True)

    def _frame(self, buffer: Foreign) -> Frame:
        asked = load_api().asked
        fetched_ns, host_ns = self._clock(), self._utc()
        self._last_frame_ns = self._last_alive_ns = fetched_ns
        frame_id, part = asked(lambda: int(buffer.frame_id), 0), self._part(buffer)
        device_ns = asked(lambda: int(buffer.timestamp_ns), 0)
        # A camera's clock is UTC only where PTP sets it; else it counts from power-on and says nothing here.
        camera_clock = abs(device_ns - host_ns) < _SAME_CLOCK_NS
        acquired_ns = device_ns if camera_clock else host_ns
        # Where it lay meanwhile, in camera, network or producer, its part has gone on towards the gate.
        received_ns = fetched_ns - max(0, host_ns - acquired_ns)

        def damaged(fault: str) -> DamagedFrame:
            frame = stand_in(self._name, frame_id, acquired_ns=acquired_ns, received_ns=received_ns)
            return DamagedFrame(f"{self._who}: frame {frame_id}: {fault}", replace(frame, trigger_id=part))

        if not buffer.is_complete():
            raise damaged("incomplete: part of its lines did not arrive")
        payload = asked(lambda: int(buffer.payload_type), 1)
        if payload not in _IMAGE_PAYLOADS:
            raise damaged(f"payload type {payload}; expected a plain image (switch multi-part and compression off)")
        code = asked(lambda: int(buffer.pixel_format), self._format.code)
        if code != self._format.code:
            raise damaged(f"pixel format {code:#010x}; {self._format.code:#010x} was agreed on at opening")
        nodes = self._acquirer.remote_device.node_map
        height = asked(lambda: int(buffer.height), 0) or int(nodes.Height.value)
        width = asked(lambda: int(buffer.width), 0) or int(nodes.Width.value)
        padding = asked(lambda: int(buffer.padding_x), 0)
        data = np.frombuffer(buffer.raw_buffer, np.uint8)
        # Beyond it lies what the buffer held before, which a line-scan camera's short frame does not overwrite.
        filled = asked(lambda: int(buffer.size_filled), data.size)
        data = data[asked(lambda: int(buffer.image_offset), 0) : filled]
        try:
            pixels = to_pixels(data, height, width, padding, self._format, place=self.place)
        except ValueError as error:
            raise damaged(str(error)) from error
        return Frame(
            self._name,
            frame_id,
            pixels,
            acquired_ns=acquired_ns,
            trigger_id=part,
            received_ns=received_ns,
            camera_clock=camera_clock,
        )

    def _part(self, buffer: Foreign) -> int:
        """The number of the part, from 1, where the camera knows it: the simulated one does. 0 where not."""
        if not gives_part_numbers(self._camera.producer):
            return 0
        return load_api().asked(lambda: 1 + int(buffer.get_info_uint64(PART_ID_INFO)), 0)


def gives_part_numbers(producer: str) -> bool:
    """Whether a producer of the configuration says with each frame which part it shows; the simulated one does."""
    return producer == "simulator"
