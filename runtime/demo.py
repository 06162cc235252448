"""`inspectd demo`: rendered buttons pass a simulated GenICam camera, and a subscriber shows the verdicts.

renderer (process) ── feed ── simulated camera ── harvesters ── line ── ZeroMQ ── subscriber (thread)
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from inspectd.config import ButtonsCamera, Camera, Config, GenicamCamera, ModelSettings, Publish, Station
from inspectd.errors import CameraError, ConfigError, ProtocolError
from inspectd.inspection import Verdict
from inspectd.wire import DeviceHealth, HeartbeatBody, Message, MessageType, State, VerdictBody, read_body

from .demo_render import render_parts
from .demo_view import Display, Row
from .epoch import default_state_dir
from .line import Summary
from .messaging import Silence, Subscriber
from .signals import interrupts_held
from .simcam import FEED_VARIABLE, producer_path
from .station import run_station

if TYPE_CHECKING:
    from .demo_render import Truths

__all__ = ["run_demo"]

SIZE_PX = 256
DEFECT_RATE = 0.3
AHEAD = 60
"""Parts that are rendered before the line starts, unless it runs for fewer."""
QUEUE_FRAMES = 64
"""So many may wait: a moment's load on a desk machine should not drop parts of the demo."""
SUBSCRIBE_S = 5.0
JOIN_S = 5.0

_POLL_S = 0.2


def run_demo(
    *,
    frames: int | None,
    fps: float,
    seed: int,
    endpoint: str,
    bundle: str,
    report: Callable[[Summary], None],
    console: Console,
) -> bool:
    """Run the demonstration.

    Args:
        frames: stop after so many parts; None goes on until interrupted.
        fps: parts per second that pass the camera; beyond the parts rendered ahead, as many as the renderer makes.
        seed: production line.
        endpoint: where verdicts are published.
        bundle: `demo`, or the path of one.
        report: given the summary at the end.
        console: where it is shown.

    Returns:
        Whether every part got exactly one verdict and the subscriber received them all.

    Raises:
        InspectdError: what stopped it.
    """
    try:
        publish = Publish(endpoint=endpoint)
    except ValidationError as error:
        raise ConfigError(f"--endpoint: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    ahead = AHEAD if frames is None else min(frames, AHEAD)
    audience: list[_Audience] = []
    with _camera(seed=seed, fps=fps, ahead=ahead, frames=frames, console=console) as (camera, truths):
        config = Config(
            station=Station(name="demo", state_dir=default_state_dir() / "demo"),
            cameras={"cam1": camera},
            model=ModelSettings(bundle=bundle),
            publish=publish,
        )
        with Display(console) as display:

            def opened(address: str) -> None:
                audience.append(_Audience(address, truths, display))
                audience[0].start()

            try:
                summary = run_station(
                    config, frames=frames, wait_s=SUBSCRIBE_S, opened=opened, announce=display.note, report=report
                )
            finally:
                for listener in audience:
                    listener.end()
    listener = audience[0]
    console.print(
        f"inspectd: the subscriber received {listener.verdicts} verdicts and {listener.masks} masks of "
        f"{summary.verdicts} parts{listener.agreement}",
        highlight=False,
        soft_wrap=True,
    )
    if queued := _queued(listener.mean_wait_ms, fps):
        console.print(f"inspectd: {queued}", highlight=False, soft_wrap=True)
    return summary.complete and listener.verdicts == summary.verdicts


def _queued(mean_wait_ms: float, fps: float) -> str:
    """Where more than one part waited on average, how long they did; else ""."""
    if mean_wait_ms * fps <= 1000:
        return ""
    return (
        f"the line was slower than the camera: on average a part waited {mean_wait_ms:.0f} ms for its inspection, "
        f"which is part of every latency above; try a lower --fps"
    )


@contextmanager
def _camera(
    *, seed: int, fps: float, ahead: int, frames: int | None, console: Console
) -> Iterator[tuple[Camera, _Truths]]:
    """The simulated camera with a renderer behind it; rendered buttons without a camera where it is not built."""
    try:
        producer_path()
    except CameraError as error:
        console.print(f"inspectd: {error}", style="yellow", markup=False, highlight=False, soft_wrap=True)
        console.print(f"inspectd: going on without a camera; rendering {ahead} parts first", highlight=False)
        yield (
            ButtonsCamera(source="buttons", seed=seed, defect_rate=DEFECT_RATE, fps=fps, size=SIZE_PX, ahead=ahead),
            _Truths(None),
        )
        return
    context = multiprocessing.get_context("spawn")
    stop, told = context.Event(), context.Queue()
    shared_memory = Path("/dev/shm")  # noqa: S108 - the folder below is private
    with tempfile.TemporaryDirectory(
        prefix="inspectd-", dir=shared_memory if os.access(shared_memory, os.W_OK) else None
    ) as folder:
        feed = Path(folder) / "demo.feed"
        renderer = context.Process(
            target=render_parts,
            args=(feed,),
            kwargs={
                "seed": seed,
                "defect_rate": DEFECT_RATE,
                "size_px": SIZE_PX,
                "ahead": ahead,
                "pause_at": frames,
                "truths": told,
                "stop": stop,
            },
            name="renderer",
            daemon=True,
        )
        with interrupts_held():
            renderer.start()
        try:
            truths = _Truths(told)
            _wait_for_parts(truths, ahead, renderer.is_alive, console)
            with _environment(FEED_VARIABLE, str(feed)):
                yield (
                    GenicamCamera(
                        source="genicam",
                        producer="simulator",
                        features={"AcquisitionFrameRate": fps},
                        queue_frames=QUEUE_FRAMES,
                    ),
                    truths,
                )
        finally:
            stop.set()
            renderer.join(JOIN_S)
            if renderer.is_alive():
                renderer.kill()


def _wait_for_parts(truths: _Truths, ahead: int, is_alive: Callable[[], bool], console: Console) -> None:
    """Show how the parts are rendered that are to be there before the line starts."""
    columns = (TextColumn("inspectd: rendering parts ahead"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    if not console.is_terminal:
        console.print(f"inspectd: rendering {ahead} parts ahead", highlight=False)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=ahead)
        while truths.rendered < ahead:
            if not truths.hear(_POLL_S) and not is_alive():
                raise CameraError(
                    "the renderer of the demo ended before its parts were rendered; see its message above"
                )
            progress.update(task, completed=truths.rendered)


class _Truths:
    """What was rendered, by the number of the part; knows nothing where there is no renderer process."""

    def __init__(self, told: Truths | None) -> None:
        self._told = told
        self._parts: dict[int, str] = {}
        self.rendered = 0

    def hear(self, timeout_s: float) -> bool:
        """Take what the renderer tells of its next part; False if it tells nothing in time."""
        if self._told is None:
            return False
        try:
            index, line, defect = self._told.get(timeout=timeout_s) if timeout_s else self._told.get_nowait()
        except queue.Empty:
            return False
        self._parts[index] = f"{line}, {defect or 'good'}"
        self.rendered = index + 1
        return True

    def of(self, index: int) -> str:
        """What a part is, in words; empty if not known. Earlier parts are forgotten."""
        while self.rendered <= index and self.hear(0):
            pass
        for passed in [number for number in self._parts if number < index]:
            del self._parts[passed]
        return self._parts.get(index, "")


class _Audience(threading.Thread):
    """The subscriber of the demo: shows what arrives, and counts it."""

    def __init__(self, endpoint: str, truths: _Truths, display: Display) -> None:
        super().__init__(name="subscriber", daemon=True)
        self._endpoint = endpoint
        self._truths = truths
        self._display = display
        self._over = threading.Event()
        self.verdicts = self.masks = self._known = self._agreed = 0
        self._waited_ms = 0.0
        self._health = ""

    @property
    def agreement(self) -> str:
        """How the verdicts compare with what was rendered, in words; empty where that is not known."""
        return f"; {self._agreed} of {self._known} verdicts agree with what was rendered" if self._known else ""

    @property
    def mean_wait_ms(self) -> float:
        """How long a part waited for its inspection on average."""
        return self._waited_ms / max(1, self.verdicts)

    def run(self) -> None:
        """Receive until the station halts."""
        with Subscriber(self._endpoint) as subscriber:
            while True:
                try:
                    message = subscriber.receive(_POLL_S)
                except ProtocolError as error:
                    self._display.note(f"the subscriber refused a message: {error}")
                    continue
                if isinstance(message, Silence):
                    if self._over.is_set():
                        return
                    continue
                self._take(message)
                if message.header.msg_type == MessageType.STATE and message.header.state in (State.HALTED, State.ERROR):
                    return

    def end(self) -> None:
        """Wait until what was sent has been received."""
        self._over.set()
        self.join(JOIN_S)

    def _take(self, message: Message) -> None:
        header = message.header
        match header.msg_type:
            case MessageType.MASK:
                self.masks += 1
            case MessageType.STATE:
                self._display.state(header.state.label)
            case MessageType.HEARTBEAT:
                self._note_health(read_body(message, HeartbeatBody))
            case MessageType.VERDICT:
                self.verdicts += 1
                verdict, body = Verdict(header.verdict), read_body(message, VerdictBody)
                self._waited_ms += body.processing_times_ms.acquire
                truth = self._truths.of(int(body.part_id) - 1) if body.part_id else ""
                if truth:
                    self._known += 1
                    self._agreed += verdict is (Verdict.OK if truth.endswith(", good") else Verdict.NG)
                found = body.reason or _in_words(body, header.defect_count)
                self._display.show(Row(header.seq, verdict.name, found, truth, header.latency_us / 1000))

    def _note_health(self, beat: HeartbeatBody) -> None:
        """An alarm when it comes, and when it is over; not with every heartbeat between."""
        healthy = beat.device_health is DeviceHealth.NORMAL
        health = "" if healthy else f"{beat.device_health.value}: {beat.health_reason}"
        if health != self._health:
            self._display.note(health or "all is well again")
        self._health = health


def _in_words(body: VerdictBody, count: int) -> str:
    worst = [f"{defect.class_name} {defect.score:.2f} ({defect.area_px} px)" for defect in body.defects[:2]]
    return ", ".join(worst) + (f" and {count - 2} more" if count > 2 else "")


@contextmanager
def _environment(variable: str, value: str) -> Iterator[None]:
    before = os.environ.get(variable)
    os.environ[variable] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
