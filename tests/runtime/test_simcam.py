"""The simulated GenICam camera, driven by the real harvesters: one process for each consumer, as harvesters wants."""

from __future__ import annotations

import ctypes
import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from inspectd.buttons import line_part
from inspectd.errors import CameraError
from inspectd.runtime.simcam import FEED_VARIABLE, PART_ID_INFO, producer_path
from inspectd.runtime.simcam.faults import Faults
from inspectd.runtime.simcam.feed import FrameFeed, feed_buttons, is_fed

WIDTH, HEIGHT = 37, 23  # nothing here is a multiple of anything
CHILD_TIMEOUT_S = 60

CONSUMER = f"""
import hashlib, json, os, sys, time
from genicam import genapi, gentl
from harvesters.core import Harvester

harvester = Harvester()
harvester.add_file({{producer!r}})
harvester.update()
result = {{{{}}}}

def fetch(camera, timeout=5.0):
    with camera.fetch(timeout=timeout) as buffer:
        image = buffer.payload.components[0]
        return {{{{
            "id": buffer.frame_id,
            "ns": buffer.timestamp_ns,
            "part": buffer.module.get_info_uint64({PART_ID_INFO}),
            "format": image.data_format,
            "size": [image.width, image.height],
            "sha256": hashlib.sha256(image.data.tobytes()).hexdigest(),
        }}}}

def refusal(action):
    try:
        action()
    except Exception as error:
        return type(error).__name__
    return None

{{body}}
harvester.reset()
print(json.dumps(result))
"""

CREATE = """
camera = harvester.create(0)
features = camera.remote_device.node_map
"""


@pytest.fixture(scope="session")
def producer() -> str:
    try:
        return str(producer_path())
    except CameraError as error:
        if any(shutil.which(name) for name in ("cc", "gcc", "clang")):
            raise
        pytest.skip(f"no C compiler: {error}")


class Consumer:
    """A process with harvesters in it. Its input stays open until `result` is called."""

    def __init__(self, producer: str, feeds: str, body: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CONSUMER.format(producer=producer, body=body)],
            env={**os.environ, FEED_VARIABLE: feeds},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def result(self) -> dict:
        try:
            output, errors = self.process.communicate(timeout=CHILD_TIMEOUT_S)
        finally:
            self.process.kill()
        assert self.process.returncode == 0, errors
        return json.loads(output.splitlines()[-1])


def consume(producer: str, feeds: Path | str, body: str) -> dict:
    return Consumer(producer, str(feeds), body).result()


def pictures(count: int, channels: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (HEIGHT, WIDTH, channels), dtype=np.uint8) for _ in range(count)]


def sha256(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def filled_feed(path: Path, count: int, channels: int = 3) -> tuple[FrameFeed, list[np.ndarray]]:
    feed = FrameFeed(path, WIDTH, HEIGHT, channels, slots=max(count, 1))
    images = pictures(count, channels)
    for image in images:
        assert feed.put(image, 0.0)
    return feed, images


@pytest.mark.parametrize(("channels", "pixel_format"), [(3, "RGB8"), (1, "Mono8")])
def test_pixels_arrive_bit_exact_and_in_order(tmp_path, producer, channels, pixel_format):
    """More frames than slots: the writer waits for the camera, in another process, and overruns nothing."""
    path = tmp_path / "line-1.feed"
    images = pictures(60, channels)
    began_ns = time.time_ns()
    with FrameFeed(path, WIDTH, HEIGHT, channels, slots=3) as feed:
        consumer = Consumer(
            producer,
            str(path),
            CREATE
            + """
result["described"] = [
    features.Width.value, features.Height.value, features.PixelFormat.value, features.PayloadSize.value,
    features.DeviceVendorName.value, features.DeviceModelName.value, features.DeviceSerialNumber.value,
]
features.AcquisitionFrameRate.value = 1000
camera.num_buffers = 60
camera.start()
result["frames"] = [fetch(camera) for _ in range(60)]
result["lost"] = camera.data_streams[0].num_underrun
camera.destroy()
""",
        )
        for number, image in enumerate(images):
            assert feed.put(image, 20.0, part_id=1000 + number)
        result = consumer.result()
        assert feed.written == feed.consumed == 60
    assert result["described"] == [
        WIDTH, HEIGHT, pixel_format, WIDTH * HEIGHT * channels, "inspectd", "FeedCamera", "line-1",
    ]  # fmt: skip
    frames = result["frames"]
    assert [frame["sha256"] for frame in frames] == [sha256(image) for image in images]
    assert [frame["id"] for frame in frames] == list(range(60))
    assert [frame["part"] for frame in frames] == list(range(1000, 1060))
    assert {(frame["format"], *frame["size"]) for frame in frames} == {(pixel_format, WIDTH, HEIGHT)}
    stamps = [frame["ns"] for frame in frames]
    assert stamps == sorted(stamps)
    assert began_ns < stamps[0] < stamps[-1] < time.time_ns()
    assert result["lost"] == 0


def test_frame_rate_is_kept_and_a_slow_feed_is_waited_for(tmp_path, producer):
    feed, _ = filled_feed(tmp_path / "a.feed", 21)
    result = consume(
        producer,
        feed.path,
        CREATE
        + """
features.AcquisitionFrameRate.value = 40
camera.num_buffers = 21
camera.start()
result["stamps"] = [fetch(camera)["ns"] for _ in range(21)]
began = time.monotonic()
result["starved"] = refusal(lambda: fetch(camera, timeout=0.3))
result["waited_s"] = time.monotonic() - began
camera.destroy()
""",
    )
    mean_s = (result["stamps"][-1] - result["stamps"][0]) / 20 / 1e9
    assert 0.024 < mean_s < 0.05  # 25 ms wanted; a busy machine may be late but never early
    assert result["starved"] == "TimeoutException"
    assert 0.29 < result["waited_s"] < 1.0
    feed.close()


def test_a_closed_feed_delivers_its_rest_and_then_nothing(tmp_path, producer):
    feed, images = filled_feed(tmp_path / "a.feed", 2)
    feed.close()
    feed.close()
    body = """
camera.start()
result["frames"] = [fetch(camera)["sha256"] for _ in range(2)]
result["after"] = refusal(lambda: fetch(camera, timeout=0.2))
camera.destroy()
"""
    result = consume(producer, feed.path, CREATE + body)
    assert result == {"frames": [sha256(image) for image in images], "after": "TimeoutException"}


def test_each_software_trigger_gives_one_frame(tmp_path, producer):
    feed, images = filled_feed(tmp_path / "a.feed", 8)
    result = consume(
        producer,
        feed.path,
        CREATE
        + """
result["while_off"] = refusal(lambda: features.TriggerSoftware.execute())
features.TriggerSelector.value = "FrameStart"
features.TriggerSource.value = "Software"
features.TriggerMode.value = "On"
features.TriggerSoftware.execute()  # before the start: not kept
camera.num_buffers = 4
camera.start()
result["untriggered"] = refusal(lambda: fetch(camera, timeout=0.2))
result["single"] = []
for _ in range(2):
    features.TriggerSoftware.execute()
    result["single"].append(fetch(camera)["sha256"])
    result["second"] = refusal(lambda: fetch(camera, timeout=0.1))
for _ in range(3):
    features.TriggerSoftware.execute()
result["burst"] = [fetch(camera)["sha256"] for _ in range(3)]
result["fourth"] = refusal(lambda: fetch(camera, timeout=0.1))
features.TriggerMode.value = "Off"
result["free"] = fetch(camera)["sha256"]
camera.destroy()
""",
    )
    digests = [sha256(image) for image in images]
    assert result["while_off"] == "AccessException"
    assert result["untriggered"] == result["second"] == result["fourth"] == "TimeoutException"
    assert result["single"] + result["burst"] + [result["free"]] == digests[:6]
    feed.close()


def test_a_frame_without_a_buffer_leaves_a_gap(tmp_path, producer):
    feed, images = filled_feed(tmp_path / "a.feed", 12)
    result = consume(
        producer,
        feed.path,
        CREATE
        + """
features.AcquisitionFrameRate.value = 1000
camera.num_buffers = 3
camera.start()
stream = camera.data_streams[0]
while stream.num_started < 12:
    time.sleep(0.01)
result["frames"] = [fetch(camera) for _ in range(3)]
result["lost"] = stream.num_underrun
result["after"] = refusal(lambda: fetch(camera, timeout=0.1))
result["acquired"] = [stream.num_delivered, stream.num_announced, stream.num_queued]
camera.destroy()
""",
    )
    assert [frame["id"] for frame in result["frames"]] == [0, 1, 2]
    assert [frame["sha256"] for frame in result["frames"]] == [sha256(image) for image in images[:3]]
    assert result["lost"] == 9
    assert result["after"] == "TimeoutException"
    assert result["acquired"] == [3, 3, 3]
    feed.close()


def test_a_gap_shows_in_the_ids_of_the_frames_after_it(tmp_path, producer):
    feed, images = filled_feed(tmp_path / "a.feed", 6)
    result = consume(
        producer,
        feed.path,
        CREATE
        + """
features.TriggerMode.value = "On"
camera.num_buffers = 3
camera.start()
stream = camera.data_streams[0]
for _ in range(5):
    features.TriggerSoftware.execute()
while stream.num_started < 5:
    time.sleep(0.005)
result["frames"] = [fetch(camera) for _ in range(3)]
features.TriggerSoftware.execute()
result["frames"].append(fetch(camera))
camera.destroy()
""",
    )
    assert [frame["id"] for frame in result["frames"]] == [0, 1, 2, 5]
    assert [frame["part"] for frame in result["frames"]] == [0, 1, 2, 5]
    assert result["frames"][3]["sha256"] == sha256(images[5])
    feed.close()


def test_features_are_bounded(tmp_path, producer):
    feed, _ = filled_feed(tmp_path / "a.feed", 1)
    result = consume(
        producer,
        feed.path,
        CREATE
        + """
def assign(name, value):
    node = features.get_node(name)
    return refusal(lambda: setattr(node, "value", value))

rate = features.AcquisitionFrameRate
result["bounds"] = [rate.value, rate.min, rate.max]
result["too_fast"] = assign("AcquisitionFrameRate", 1000.1)
result["too_slow"] = assign("AcquisitionFrameRate", 0.05)
result["rate"] = assign("AcquisitionFrameRate", 12.5)
result["kept"] = rate.get_value(False, True)
result["width"] = assign("Width", 64)
result["other_format"] = assign("PixelFormat", "Mono8")
result["own_format"] = assign("PixelFormat", "RGB8")
result["mode"] = assign("AcquisitionMode", "MultiFrame")
camera.destroy()
""",
    )
    assert result == {
        "bounds": [10.0, 0.1, 1000.0],
        "too_fast": "OutOfRangeException",
        "too_slow": "OutOfRangeException",
        "rate": None,
        "kept": 12.5,
        "width": "OutOfRangeException",
        "other_format": "AccessException",
        "own_format": None,
        "mode": "InvalidArgumentException",
    }
    feed.close()


def test_stopping_starting_and_reopening(tmp_path, producer):
    """A start counts frames from 0 again; the belt goes on where it was."""
    feed, images = filled_feed(tmp_path / "a.feed", 8)
    result = consume(
        producer,
        feed.path,
        """
result["frames"] = []
for opening in range(2):
    camera = harvester.create(0)
    features = camera.remote_device.node_map
    features.TriggerMode.value = "On"
    for start in range(2):
        camera.start()
        for _ in range(2):
            features.TriggerSoftware.execute()
            frame = fetch(camera)
            result["frames"].append([frame["id"], frame["sha256"]])
        camera.stop()
    camera.destroy()
    del camera, features
""",
    )
    assert result["frames"] == [[number % 2, sha256(image)] for number, image in enumerate(images)]
    feed.close()


def test_one_camera_for_each_feed_and_one_owner_for_each_camera(tmp_path, producer):
    folder, other = tmp_path / "folder", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    for path in (folder / "b.feed", folder / "a.feed", other / "a.feed"):
        filled_feed(path, 2)[0].close()
    (folder / "c.feed").write_bytes(b"not a feed")
    (folder / "notes.txt").write_bytes(b"")
    feeds = f"{folder}:{other / 'a.feed'}:{tmp_path / 'absent.feed'}"
    owner = Consumer(
        producer,
        feeds,
        """
camera = harvester.create({"serial_number": "a"})
result["serials"] = [info.serial_number for info in harvester.device_info_list]
result["again"] = refusal(lambda: harvester.create({"serial_number": "a"}))
print("open", flush=True)
sys.stdin.readline()
camera.destroy()
""",
    )
    assert owner.process.stdout is not None
    assert owner.process.stdout.readline() == "open\n"
    second = consume(
        producer,
        feeds,
        """
result["taken"] = refusal(lambda: harvester.create({"serial_number": "a"}))
camera = harvester.create({"serial_number": "a-2"})
camera.start()
result["size"] = fetch(camera)["size"]
camera.destroy()
""",
    )
    assert owner.result() == {"serials": ["a", "b", "a-2"], "again": "ResourceInUseException"}
    assert second == {"taken": "AccessDeniedException", "size": [WIDTH, HEIGHT]}


def test_no_feed_is_no_camera(producer):
    assert consume(producer, "", "result['devices'] = len(harvester.device_info_list)") == {"devices": 0}


POOLS = """
import ctypes, json, os, threading, time

gentl = ctypes.CDLL({producer!r})
def call(function, *arguments):
    return getattr(gentl, function)(*arguments)

def handle(function, *arguments):
    result = ctypes.c_void_p()
    assert call(function, *arguments, ctypes.byref(result)) == 0, function
    return result

class NewBuffer(ctypes.Structure):
    _fields_ = [("buffer", ctypes.c_void_p), ("user", ctypes.c_void_p)]

def event_data(timeout_ms):
    data, size = NewBuffer(), ctypes.c_size_t(ctypes.sizeof(NewBuffer))
    code = call("EventGetData", event, ctypes.byref(data), ctypes.byref(size), ctypes.c_uint64(timeout_ms))
    return code, data

def info(what, kind=ctypes.c_size_t):
    value, size = kind(), ctypes.c_size_t(ctypes.sizeof(kind))
    assert call("DSGetInfo", stream, what, None, ctypes.byref(value), ctypes.byref(size)) == 0
    return value.value

def pools():
    return [info(4), info(5)]  # queued, awaiting delivery

def write(address, value):
    word, size = ctypes.c_uint32(value), ctypes.c_size_t(4)
    return call("GCWritePort", port, ctypes.c_uint64(address), ctypes.byref(word), ctypes.byref(size))

result = {{}}
result["before"] = call("TLOpen", ctypes.byref(ctypes.c_void_p()))
assert call("GCInitLib") == 0
result["null"] = call("DevClose", None)
system = handle("TLOpen")
interface = handle("TLOpenInterface", system, b"feeds")
call("IFUpdateDeviceList", interface, None, ctypes.c_uint64(0))
device = handle("IFOpenDevice", interface, b"sim:a", 4)
port = handle("DevGetPort", device)
stream = handle("DevOpenDataStream", device, b"stream0")
event = handle("GCRegisterEvent", stream, 1)
memory = [ctypes.create_string_buffer(size) for size in ({size}, {size}, {size} - 5)]
buffers = [
    handle("DSAnnounceBuffer", stream, block, ctypes.c_size_t(len(block)), ctypes.c_void_p(7 + number))
    for number, block in enumerate(memory)
]

began = time.monotonic()
result["timeout"] = [event_data(0)[0], event_data(100)[0]]
result["timeout_s"] = time.monotonic() - began

for buffer in buffers:
    assert call("DSQueueBuffer", stream, buffer) == 0
result["queued_twice"] = call("DSQueueBuffer", stream, buffers[0])
result["revoke_queued"] = call("DSRevokeBuffer", stream, buffers[0], None, None)
result["queued"] = pools()
call("DSFlushQueue", stream, 0)
result["input_to_output"] = pools()
code, data = event_data(0)
result["unfilled"] = [code, data.user]
call("DSFlushQueue", stream, 1)
result["output_discard"] = pools()
call("DSFlushQueue", stream, 3)
result["unqueued_to_input"] = pools()
call("DSFlushQueue", stream, 4)
result["all_discard"] = pools()
for buffer in buffers:
    call("DSQueueBuffer", stream, buffer)

kills = []
waiter = threading.Thread(target=lambda: kills.append(event_data(2**64 - 1)[0]))
waiter.start()
time.sleep(0.1)
call("EventKill", event)
waiter.join(10)
call("EventKill", event)
result["killed"] = kills + [event_data(5000)[0], event_data(0)[0]]

assert write(0x150, 1) == 0  # AcquisitionStart
assert call("DSStartAcquisition", stream, 0, ctypes.c_uint64(2**64 - 1)) == 0
result["started_twice"] = call("DSStartAcquisition", stream, 0, ctypes.c_uint64(1))
result["filled"] = []
for number in range(3):
    code, data = event_data(5000)
    incomplete, size = ctypes.c_uint8(), ctypes.c_size_t(1)
    call("DSGetBufferInfo", stream, ctypes.c_void_p(data.buffer), 7, None, ctypes.byref(incomplete), ctypes.byref(size))
    result["filled"].append([code, data.user, incomplete.value])
assert call("DSStopAcquisition", stream, 1) == 0
result["stopped_twice"] = call("DSStopAcquisition", stream, 1)
result["pixels"] = bytes(memory[1]).hex()
result["revoked"] = call("DSRevokeBuffer", stream, buffers[0], None, None)
result["revoked_twice"] = call("DSRevokeBuffer", stream, buffers[0], None, None)
result["format"] = write(0x148, 1)
result["nowhere"] = write(0x9000, 1)

waiter = threading.Thread(target=lambda: kills.append(event_data(2**64 - 1)[0]))
waiter.start()
time.sleep(0.1)
assert call("TLClose", system) == 0
waiter.join(10)
result["closed"] = [kills[-1], call("DSClose", stream), call("DevClose", device)]
result["stub"] = call("DSGetNumFlows", stream, None)
assert call("GCCloseLib") == 0
print(json.dumps(result))
"""


def test_pools_events_and_error_codes(tmp_path, producer):
    """The C interface itself, where harvesters does not reach: numbers are those of the GenTL standard."""
    feed, images = filled_feed(tmp_path / "a.feed", 3)
    size = WIDTH * HEIGHT * 3
    done = subprocess.run(
        [sys.executable, "-c", POOLS.format(producer=producer, size=size)],
        env={**os.environ, FEED_VARIABLE: str(feed.path)},
        capture_output=True,
        text=True,
        timeout=CHILD_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    not_initialised, not_implemented, in_use, invalid_handle, timeout = -1002, -1003, -1004, -1006, -1011
    abort, invalid_buffer, invalid_address, invalid_value, busy = -1012, -1013, -1015, -1019, -1022
    assert 0.09 < result.pop("timeout_s") < 1.0
    assert result == {
        "before": not_initialised,
        "null": invalid_handle,
        "timeout": [timeout, timeout],
        "queued_twice": busy,
        "revoke_queued": busy,
        "queued": [3, 0],
        "input_to_output": [0, 3],
        "unfilled": [0, 7],
        "output_discard": [0, 0],
        "unqueued_to_input": [3, 0],
        "all_discard": [0, 0],
        "killed": [abort, abort, timeout],
        "started_twice": in_use,
        "filled": [[0, 7, 0], [0, 8, 0], [0, 9, 1]],
        "stopped_twice": in_use,
        "pixels": images[1].tobytes().hex(),
        "revoked": 0,
        "revoked_twice": invalid_buffer,
        "format": invalid_value,
        "nowhere": invalid_address,
        "closed": [abort, invalid_handle, invalid_handle],
        "stub": not_implemented,
    }
    feed.close()


def test_a_renderer_process_feeds_buttons_and_a_second_one_continues(tmp_path, producer):
    path = tmp_path / "buttons.feed"
    spawn = multiprocessing.get_context("spawn")
    line = {"seed": 3, "defect_rate": 0.5, "size": 64}

    def render(**limits) -> multiprocessing.process.BaseProcess:
        process = spawn.Process(target=feed_buttons, args=(path,), kwargs={**line, **limits}, daemon=True)
        process.start()
        return process

    first = render(count=2)
    first.join(CHILD_TIMEOUT_S)
    assert first.exitcode == 0
    stop = spawn.Event()
    second = render(stop=stop)
    body = """
camera.start()
result["frames"] = [fetch(camera, timeout=30) for _ in range(4)]
camera.destroy()
"""
    frames = consume(producer, path, CREATE + body)["frames"]
    stop.set()
    second.join(CHILD_TIMEOUT_S)
    assert second.exitcode == 0
    assert [frame["part"] for frame in frames] == [0, 1, 2, 3]
    assert [frame["sha256"] for frame in frames] == [sha256(line_part(n, **line).image) for n in range(4)]


def test_the_writer_waits_for_a_slot_and_keeps_what_waits(tmp_path, producer):
    feed, _ = filled_feed(tmp_path / "a.feed", 2)
    image = pictures(1)[0]
    began = time.monotonic()
    assert not feed.put(image, 0.1)
    assert time.monotonic() - began >= 0.1
    assert (feed.written, feed.consumed) == (2, 0)
    feed.close()
    with FrameFeed(feed.path, WIDTH, HEIGHT, 3, slots=2) as continued:
        assert continued.written == 2
        assert not continued.put(image, 0.0)
    with FrameFeed(feed.path, WIDTH, HEIGHT, 1, slots=2) as replaced:
        assert replaced.written == 0


@pytest.mark.parametrize("geometry", [(0, 5, 3, 2), (5, 70000, 3, 2), (5, 5, 4, 2), (5, 5, 3, 0)])
def test_an_impossible_feed_is_refused(tmp_path, producer, geometry):
    with pytest.raises(CameraError, match="is not possible; expected sides"):
        FrameFeed(tmp_path / "a.feed", *geometry)


def test_wrong_files_and_wrong_pixels_are_refused(tmp_path, producer):
    (tmp_path / "a.feed").write_bytes(b"something of value")
    with pytest.raises(CameraError, match="not a frame feed; remove it"):
        FrameFeed(tmp_path / "a.feed", WIDTH, HEIGHT)
    assert (tmp_path / "a.feed").read_bytes() == b"something of value"
    with pytest.raises(CameraError, match="choose another path"):
        FrameFeed(tmp_path / "absent" / "a.feed", WIDTH, HEIGHT)
    with FrameFeed(tmp_path / "b.feed", WIDTH, HEIGHT) as feed:
        for pixels in (np.zeros((HEIGHT, WIDTH, 1), np.uint8), np.zeros((HEIGHT, WIDTH, 3), np.float32)):
            with pytest.raises(ValueError, match=r"expected uint8 \[23, 37, 3\]"):
                feed.put(pixels, 0.0)


def test_a_second_writer_is_refused(tmp_path, producer):
    script = f"""
from pathlib import Path
from inspectd.runtime.simcam.feed import FrameFeed
FrameFeed(Path({str(tmp_path / "a.feed")!r}), {WIDTH}, {HEIGHT})
"""
    with FrameFeed(tmp_path / "a.feed", WIDTH, HEIGHT) as feed:
        Faults(feed.path).close()  # that opened the file here, too, and closed it
        assert is_fed(feed.path)
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=CHILD_TIMEOUT_S, check=False
        )
    assert done.returncode == 1
    assert "another process feeds this camera already" in done.stderr
    assert not is_fed(tmp_path / "a.feed")


GENTL_1_5 = [
    "GCGetInfo",
    "GCGetLastError",
    "GCInitLib",
    "GCCloseLib",
    "GCReadPort",
    "GCWritePort",
    "GCGetPortURL",
    "GCGetPortInfo",
    "GCGetNumPortURLs",
    "GCGetPortURLInfo",
    "GCReadPortStacked",
    "GCWritePortStacked",
    "GCRegisterEvent",
    "GCUnregisterEvent",
    "EventGetData",
    "EventGetDataInfo",
    "EventGetInfo",
    "EventFlush",
    "EventKill",
    "TLOpen",
    "TLClose",
    "TLGetInfo",
    "TLGetNumInterfaces",
    "TLGetInterfaceID",
    "TLGetInterfaceInfo",
    "TLOpenInterface",
    "TLUpdateInterfaceList",
    "IFClose",
    "IFGetInfo",
    "IFGetNumDevices",
    "IFGetDeviceID",
    "IFUpdateDeviceList",
    "IFGetDeviceInfo",
    "IFOpenDevice",
    "IFGetParentTL",
    "DevGetPort",
    "DevGetNumDataStreams",
    "DevGetDataStreamID",
    "DevOpenDataStream",
    "DevGetInfo",
    "DevClose",
    "DevGetParentIF",
    "DSAnnounceBuffer",
    "DSAllocAndAnnounceBuffer",
    "DSFlushQueue",
    "DSStartAcquisition",
    "DSStopAcquisition",
    "DSGetInfo",
    "DSGetBufferID",
    "DSClose",
    "DSRevokeBuffer",
    "DSQueueBuffer",
    "DSGetBufferInfo",
    "DSGetBufferChunkData",
    "DSGetParentDev",
    "DSGetNumBufferParts",
    "DSGetBufferPartInfo",
]


def test_every_function_that_gentl_names_is_there(producer):
    """Consumers call what is not there without looking, and crash."""
    library = ctypes.CDLL(producer)
    assert [name for name in GENTL_1_5 if not hasattr(library, name)] == []
