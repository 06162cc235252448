"""`watch` against real publishers, in processes of its own."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from rich.console import Console

from inspectd.defect import find_defects
from inspectd.errors import ConfigError
from inspectd.frame import Frame
from inspectd.inspection import Inspection, Verdict
from inspectd.mask import ClassMap, Mask
from inspectd.runtime.messaging import CameraStream, Publisher
from inspectd.runtime.watch import _file_part, overlay, watch
from inspectd.wire import DeviceHealth, MessageType, State

CLASSES = ClassMap(("scratch", "stain"))


def inspection(frame_id: int, verdict: Verdict) -> Inspection:
    pixels = np.full((40, 60, 3), (200, 100, 50), np.uint8)
    frame = Frame("cam1", frame_id, pixels, 10, frame_id)
    if verdict is Verdict.NOT_INSPECTED:
        return Inspection(frame, verdict, (), None, "", reason="the engine failed [/x] \x1b[2J")
    labels = np.zeros((40, 60), np.uint8)
    if verdict is not Verdict.OK:
        labels[8:16, 16:32] = 2
    mask = Mask(labels, CLASSES)
    return Inspection(frame, verdict, find_defects(mask, np.full(labels.shape, 255, np.uint8)), mask, "ef" * 32)


@contextlib.contextmanager
def line(*, preview: bool = False, verdicts: tuple[Verdict, ...] = tuple(Verdict)) -> Iterator[str]:
    """A line that waits for its subscriber, sends these verdicts, and then heartbeats; gives its endpoint."""
    endpoints: list[str] = []
    bound, ended = threading.Event(), threading.Event()

    def run() -> None:
        with Publisher(
            "tcp://127.0.0.1:*", epoch=3, cameras={"cam1": CameraStream()}, station="press", preview=preview
        ) as publisher:
            endpoints.append(publisher.endpoint)
            bound.set()
            publisher.wait_for_subscriber(20)
            for number, verdict in enumerate(verdicts, 1):
                publisher.publish(inspection(number, verdict))
            while not ended.wait(0.02):
                publisher.tick()

    thread = threading.Thread(target=run)
    thread.start()
    assert bound.wait(10)
    try:
        yield endpoints[0]
    finally:
        ended.set()
        thread.join()


def watching(endpoint: str, arguments: str) -> subprocess.Popen[str]:
    code = f"import sys; from inspectd.runtime.watch import watch; sys.exit(watch({endpoint!r}, {arguments}))"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_json_lines_in_another_process():
    with line() as endpoint, watching(endpoint, "json_lines=True, count=4") as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    rows = [json.loads(row) for row in out.splitlines()]
    assert [(row["seq"], row["verdict"]) for row in rows] == [(1, "OK"), (2, "NG"), (3, "REVIEW"), (4, "NOT_INSPECTED")]
    assert rows[0]["mask"] == {"width": 60, "height": 40, "encoding": "rle8", "defect_px": {}}
    assert rows[1]["mask"]["defect_px"] == {"stain": 128}
    assert rows[1]["result"]["defects"][0]["class"] == "stain"
    assert rows[1]["flags"] == ["not_durable"]
    assert rows[3]["mask"] is None
    assert rows[3]["result"]["reason"].startswith("the engine failed")
    assert {row["epoch"] for row in rows} == {3}


def test_what_was_lost_on_the_way_is_told(capsys):
    """A publisher whose second verdict and third mask ZeroMQ has dropped."""
    sent = threading.Event()

    class Lossy(Publisher):
        def _send(self, message):
            if (message.header.msg_type, message.header.seq) not in ((MessageType.VERDICT, 2), (MessageType.MASK, 3)):
                super()._send(message)

    def run() -> None:
        publisher.wait_for_subscriber(20)
        for number in range(1, 4):
            publisher.publish(inspection(number, Verdict.OK))
        while not sent.wait(0.02):
            publisher.tick()

    with Lossy("tcp://127.0.0.1:*", epoch=3, cameras={"cam1": CameraStream()}) as publisher:
        thread = threading.Thread(target=run)
        thread.start()
        status = watch(publisher.endpoint, json_lines=True, count=2)
        sent.set()
        thread.join()
    out, err = capsys.readouterr()
    assert status == 0
    assert [json.loads(row)["seq"] for row in out.splitlines()] == [1, 3]
    assert "1 messages were lost before ins1/verdict/cam1/ 3" in err
    assert "ins1/verdict/cam1/ 3: its mask was lost" in err


@pytest.mark.parametrize("arguments", ["json_lines=True", "json_lines=False"])
def test_an_interrupt_ends_it_well(arguments):
    with line() as endpoint, watching(endpoint, arguments) as process:
        if "True" in arguments:
            for _ in range(4):
                assert json.loads(process.stdout.readline())["camera"] == "cam1"
        else:
            time.sleep(2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    if "True" not in arguments:
        assert "NOT_INSPECTED" in out
        assert "press: Preoperational, heartbeat" in out


def test_a_reader_that_goes_away_is_no_error():
    with line(verdicts=(Verdict.OK,) * 300) as endpoint, watching(endpoint, "json_lines=True") as process:
        assert json.loads(process.stdout.readline())["seq"] >= 1
        process.stdout.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (0, "")


def test_nothing_at_all_is_an_error(capsys):
    assert watch("tcp://127.0.0.1:9", json_lines=True, timeout_s=0.3) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "nothing came from tcp://127.0.0.1:9 within 0.3 s, not even a heartbeat" in captured.err


def test_a_heartbeat_is_enough_to_go_on(capsys):
    """Heartbeats alone for longer than the limit; it ends only as they do."""
    with line(verdicts=()) as endpoint:
        done: list[int] = []
        watcher = threading.Thread(target=lambda: done.append(watch(endpoint, json_lines=True, count=1, timeout_s=0.8)))
        watcher.start()
        time.sleep(1.6)
        assert watcher.is_alive()
    watcher.join(10)
    assert done == [1]
    assert "silent for 0.8 s, after 0 of 1 verdicts" in capsys.readouterr().err


def test_the_table():
    out = io.StringIO()
    with line() as endpoint:
        console = Console(file=out, width=100, force_terminal=True, color_system="truecolor")
        assert watch(endpoint, count=4, console=console) == 0
    text = out.getvalue()
    assert "the engine failed [/x] ?[2J" in text
    assert "1 stain worst 1.00" in text
    assert "\x1b[1;31mNG" in text
    assert "0 lost" in text


def test_the_table_shows_a_line_that_has_stopped_as_stopped(capsys):
    """Its last message is the change of state; after that there is no heartbeat."""
    over = threading.Event()

    def run() -> None:
        publisher.wait_for_subscriber(20)
        publisher.state = State.CONTINUOUS_EXECUTION
        while not heard.wait(0.02):
            publisher.tick()
        publisher.publish(inspection(1, Verdict.OK))
        publisher.state = State.HALTED
        over.wait(20)

    out, heard = io.StringIO(), threading.Event()
    with Publisher("tcp://127.0.0.1:*", epoch=3, cameras={"cam1": CameraStream()}, station="press") as publisher:
        thread = threading.Thread(target=run)
        thread.start()
        threading.Timer(0.7, heard.set).start()
        assert watch(publisher.endpoint, count=2, timeout_s=0.5, console=Console(file=out, width=100)) == 1
        over.set()
        thread.join()
    assert "press: Halted, heartbeat" in out.getvalue()
    assert "ContinuousExecution" not in out.getvalue()
    assert "after 1 of 2 verdicts" in capsys.readouterr().err


def test_a_line_that_is_not_well_says_so_under_the_table():
    out, heard = io.StringIO(), threading.Event()

    def run() -> None:
        publisher.wait_for_subscriber(20)
        publisher.health, publisher.health_reason = DeviceHealth.OFF_SPEC, "no GPU [bold]"
        while not heard.wait(0.02):
            publisher.tick()
        publisher.publish(inspection(1, Verdict.OK))

    with Publisher("tcp://127.0.0.1:*", epoch=3, cameras={"cam1": CameraStream()}, station="press") as publisher:
        thread = threading.Thread(target=run)
        thread.start()
        threading.Timer(0.7, heard.set).start()
        console = Console(file=out, width=100, force_terminal=True, color_system="truecolor")
        assert watch(publisher.endpoint, count=1, console=console) == 0
        thread.join()
    assert "\x1b[1;31mOFF_SPEC: no GPU [bold]" in out.getvalue()


def test_a_complaint_has_a_line_of_its_own_where_there_is_no_terminal():
    with watching("tcp://127.0.0.1:9", "timeout_s=0.3") as process:
        out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "no heartbeat yet" in out
    assert out.endswith("\n")
    assert err.startswith("inspectd watch: nothing came")


@pytest.mark.parametrize("preview", [True, False])
def test_overlays(tmp_path, preview, capsys):
    folder = tmp_path / "new" / "overlays"
    with line(preview=preview) as endpoint:
        assert watch(endpoint, json_lines=True, count=4, save=folder) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    names = {"cam1-000001-OK.png", "cam1-000002-NG.png", "cam1-000003-REVIEW.png"}
    assert {path.name for path in folder.iterdir()} == names | ({"cam1-000004-NOT_INSPECTED.png"} if preview else set())
    picture = cv2.imread(str(folder / "cam1-000002-NG.png"))[:, :, ::-1].astype(int)
    surface, defect = picture[30, 45], picture[12, 24]
    if preview:
        np.testing.assert_allclose(surface, (200, 100, 50), atol=4)
        np.testing.assert_allclose(defect, (100, 177, 25), atol=4)
    else:
        assert surface.tolist() == [0, 0, 0]
        assert defect.tolist() == [0, 255, 0]


def test_an_overlay_brings_a_preview_to_the_size_of_the_mask():
    labels = np.zeros((4, 6), np.uint8)
    labels[0, 0] = 1
    picture = overlay(Mask(labels, CLASSES), np.full((8, 12, 3), 100, np.uint8))
    assert picture.shape == (4, 6, 3)
    assert picture[0, 0].tolist() == [50, 177, 50]
    assert picture[3, 5].tolist() == [100, 100, 100]
    assert overlay(None, None) is None


@pytest.mark.parametrize(
    ("source", "part"),
    [
        (None, ""),
        ("lot 3/part7.jpg", "-part7"),
        ("../../../etc/x y.png", "-x_y"),
        ("a\x00b\n.png", "-a_b_"),
        ("ö" * 300 + ".png", "-" + "ö" * 50),
    ],
)
def test_the_name_of_a_picture_becomes_part_of_a_file_name(source, part):
    assert _file_part(source) == part


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=rf"{tmp_path}/file/x: cannot be made .*--save"):
        watch("tcp://127.0.0.1:9", json_lines=True, save=tmp_path / "file" / "x")
    (tmp_path / "cam1-000001-OK.png").mkdir()
    with line() as endpoint, pytest.raises(ConfigError, match=r"OK\.png: cannot be written"):
        watch(endpoint, json_lines=True, count=4, save=tmp_path)
    assert not list(tmp_path.glob("*.part"))
