"""What the line costs beyond its engine: a frame's time on the real line over its time in a bare loop.

Both run the same network on the same pictures in one process and in turns. The line is whole: a camera's
thread, the mailbox, preprocessing, defects, the rule, and verdicts and masks published over TCP to a
subscriber in another process.
"""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inspectd.bundle import Bundle, load_bundle
from inspectd.buttons import line_part
from inspectd.config import Archive, ButtonsCamera, Config, ModelSettings
from inspectd.errors import InferenceError, ProtocolError
from inspectd.frame import STREAMING, CameraStatus, Frame
from inspectd.runtime.archive import ArchiveKeeper
from inspectd.runtime.engine import Engine, open_engine, self_test
from inspectd.runtime.journal import Journal
from inspectd.runtime.line import Line
from inspectd.runtime.messaging import CameraStream, Publisher, Sent, Silence, Subscriber, local_endpoint
from inspectd.wire import MessageType

from .measure import Report, compare, table

if TYPE_CHECKING:
    from inspectd.inspection import Inspection

__all__ = ["BOUND", "run"]

BOUND = 1.15
"""Highest ratio of the time per frame that is allowed at 256 px."""

CAMERA = "cam1"
PICTURES = 12
DEFECT_RATE = 0.3
STAGES = ("wait", "pre", "infer", "post", "publish")
BESIDE = ("wait", "publish")
"""Of these the time that goes by while another frame is inspected."""

_SUBSCRIBE_S = 30.0
_SILENCE_S = 0.5
_LISTENER_S = 30.0


def run(
    *, bundle_path: Path, rounds: int, frames: int, size: int, threads: int, state_dir: Path | None = None
) -> Report:
    """Compare the line with the bare engine.

    Args:
        bundle_path: the bundle that judges.
        rounds: how often each is run.
        frames: frames of a round.
        size: side of the frames, px.
        threads: of the engine, in both; 0 takes all cores.
        state_dir: the whole station: every result and mask in a journal there before it is published, and NG parts and
            every tenth OK part archived there by the archive's process; None for the line alone.

    Raises:
        BundleError: the bundle cannot be used.
        InferenceError: a frame was not inspected, so that its time says nothing.
        ProtocolError: the subscriber did not receive everything.
    """
    bundle = load_bundle(bundle_path)
    pictures = [line_part(index, 0, DEFECT_RATE, size=size).image for index in range(PICTURES)]
    engine = open_engine(bundle, threads=threads)
    config = Config(
        # Not a camera that runs freely: the source waits for the line, and no frame is dropped.
        cameras={CAMERA: ButtonsCamera(source="buttons", size=size)},
        model=ModelSettings(bundle=str(bundle_path), threads=threads),
    )
    with ExitStack() as stack:
        stack.callback(engine.close)
        journal, archive = _on_disk(state_dir, stack)
        publisher = _TimedPublisher(
            "tcp://127.0.0.1:*",
            epoch=1,
            cameras={CAMERA: CameraStream(simulated=True)},
            station="benchmark",
            journal=journal,
        )
        stack.enter_context(publisher)
        stack.enter_context(_listener(publisher, expected=rounds * frames))
        result = compare(
            lambda: _bare_ms(engine, bundle, pictures, frames=frames),
            lambda: _line_ms(
                config, engine, bundle, pictures, publisher, frames=frames, journal=journal, archive=archive
            ),
            rounds=rounds,
            bound=BOUND,
        )
        archived = "" if archive is None else f"; archived {archive.written}, refused {archive.refused} so far"
    # Means, for they add up: every frame's time is accounted for.
    bare_ms, line_ms = fmean(result.baseline_ms), fmean(result.measured_ms)
    stages = dict(zip(STAGES, map(fmean, zip(*publisher.stages_ms, strict=True)), strict=True))
    # A frame waits while the ones before it are inspected, and is published while the next one is: that is latency, not
    # time of the line.
    stages["rest"] = line_ms - sum(stages[name] for name in STAGES if name not in BESIDE)
    rows = [
        (
            name,
            f"{ms:.3f}",
            "-" if name in BESIDE else f"{100 * ms / line_ms:.1f} %",
            f"{bare_ms:.3f}" if name == "infer" else "-",
        )
        for name, ms in stages.items()
    ]
    rows.append(("frame", f"{line_ms:.3f}", "100.0 %", f"{bare_ms:.3f}"))
    text = "\n".join(
        (
            f"bundle {bundle.card.name!r} {_edges(bundle)}, frames {size}x{size}, threads {threads or 'of all cores'}, "
            f"{rounds} rounds of {frames} frames",
            *([f"with journal and archive on the disk under {state_dir}{archived}"] if state_dir else []),
            f"line over bare engine: {result.text()}",
            f"end to end: {1000 / median(result.measured_ms):.1f} frames/s",
            table(("where the time goes, mean ms", "line", "share", "bare engine"), rows),
            "  wait: in the mailbox, full all the time here, while earlier frames are inspected; not part of the sum",
            "  publish: messages, and the journal where there is one, while the next frame is inspected; nor is this",
        )
    )
    values = {
        **result.values(),
        "bundle": {"name": bundle.card.name, "digest": bundle.digest, "size_px": list(bundle.card.preprocess.size)},
        "frame_size_px": size,
        "frames": frames,
        "threads": threads,
        "frames_per_s": 1000 / median(result.measured_ms),
        "stages_ms": stages,
    }
    return Report(text, values, result.passed)


def _bare_ms(engine: Engine, bundle: Bundle, pictures: Sequence[NDArray[np.uint8]], *, frames: int) -> float:
    """Time of a frame in a loop of nothing but inference."""
    thresholds = np.asarray(bundle.card.thresholds, np.float32)
    inputs = [bundle.card.preprocess.image(pixels)[None] for pixels in pictures]
    # The line begins with it too; both are warm when the clock starts.
    self_test(engine, bundle)
    started = time.monotonic_ns()
    for picture in itertools.islice(itertools.cycle(inputs), frames):
        engine.infer(picture, thresholds)
    return (time.monotonic_ns() - started) / 1e6 / frames


def _line_ms(
    config: Config,
    engine: Engine,
    bundle: Bundle,
    pictures: Sequence[NDArray[np.uint8]],
    publisher: Publisher,
    *,
    frames: int,
    journal: Journal | None,
    archive: ArchiveKeeper | None,
) -> float:
    """Time of a frame from the first one's arrival to the last one's verdict."""

    def offer(sent: Sent) -> None:
        if archive is not None:
            archive.offer(sent.inspection, sent.message)

    line = Line(config, bundle, engine, [_MemorySource(pictures)], publisher, frames=frames, archive=offer)
    if archive is not None:
        line.each_turn = archive.look_after
    if journal is not None:
        journal.committed = line.post
    line.run()
    if line.not_durable and journal is not None:
        raise ProtocolError(
            f"{line.not_durable} verdicts were not on the disk: the disk is too slow to measure anything"
        )
    summary = line.summary()
    if summary.not_inspected or not summary.complete or summary.verdicts != frames:
        raise InferenceError(f"of {frames} frames some were not inspected, so nothing was measured: {summary}")
    return 1000 / summary.fps


def _on_disk(state_dir: Path | None, stack: ExitStack) -> tuple[Journal | None, ArchiveKeeper | None]:
    if state_dir is None:
        return None, None
    journal = Journal(state_dir / "journal.db", epoch=1)
    journal.open()
    stack.callback(journal.close)
    archive = ArchiveKeeper(Archive(path=state_dir / "archive", ok_every=10), local_endpoint(state_dir, "archive.sock"))
    stack.callback(archive.close)
    return journal, archive


class _MemorySource:
    """Delivers pictures from memory, over and over, as fast as they are taken."""

    def __init__(self, pictures: Sequence[NDArray[np.uint8]]) -> None:
        self._pictures = itertools.cycle(pictures)
        self._delivered = 0

    @property
    def name(self) -> str:
        return CAMERA

    @property
    def status(self) -> CameraStatus:
        return STREAMING

    def open(self) -> None:
        """Nothing to connect to."""

    def start(self) -> None:
        """Nothing to start."""

    def read(self, timeout_s: float) -> Frame:  # noqa: ARG002 - there is always one
        self._delivered += 1
        pixels = next(self._pictures)
        return Frame(CAMERA, self._delivered, pixels, acquired_ns=time.time_ns(), received_ns=time.monotonic_ns())

    def stop(self) -> None:
        """Nothing to stop."""

    def attend(self) -> None:
        """Nothing to see to."""

    def trigger(self, trigger_id: int) -> None:
        """Takes none."""

    def close(self) -> None:
        """Nothing to let go of."""


class _TimedPublisher(Publisher):
    """The publisher, and a note of where each frame's time went: ms, in the order of STAGES."""

    stages_ms: list[tuple[float, ...]]

    def open(self) -> None:
        self.stages_ms = []
        super().open()

    def publish(self, inspection: Inspection) -> int:
        started = time.monotonic_ns()
        seq = super().publish(inspection)
        took_ms = (time.monotonic_ns() - started) / 1e6
        timings = inspection.timings
        self.stages_ms.append((timings.wait_ms, timings.pre_ms, timings.infer_ms, timings.post_ms, took_ms))
        return seq


@contextmanager
def _listener(publisher: Publisher, *, expected: int) -> Iterator[None]:
    """A subscriber in a process of its own, which must have received every verdict and every mask at the end."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_listen, args=(publisher.endpoint, theirs), name="subscriber", daemon=True)
    process.start()
    theirs.close()
    try:
        if not publisher.wait_for_subscriber(_SUBSCRIBE_S):
            raise ProtocolError(f"nobody has subscribed to {publisher.endpoint} within {_SUBSCRIBE_S:g} s")
        yield
        ours.send("over")
        if not ours.poll(_LISTENER_S):
            raise ProtocolError(f"the subscriber did not answer within {_LISTENER_S:g} s")
        verdicts, masks = ours.recv()
    except (EOFError, BrokenPipeError) as error:
        raise ProtocolError("the subscriber ended too early; its message is above") from error
    finally:
        process.kill()
        process.join()
        ours.close()
    if (verdicts, masks) != (expected, expected):
        raise ProtocolError(f"the subscriber received {verdicts} verdicts and {masks} masks of {expected}")


def _listen(endpoint: str, parent: Connection) -> None:
    verdicts = masks = 0
    with Subscriber(endpoint) as subscriber:
        while True:
            message = subscriber.receive(_SILENCE_S)
            if not isinstance(message, Silence):
                verdicts += message.header.msg_type == MessageType.VERDICT
                masks += message.header.msg_type == MessageType.MASK
            elif parent.poll(0):
                break
    parent.send((verdicts, masks))


def _edges(bundle: Bundle) -> str:
    return "{}x{}".format(*bundle.card.preprocess.size)
