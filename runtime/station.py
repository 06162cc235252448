"""A station: everything that a configuration names, put together and run."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from inspectd.bundle import Bundle, load_bundle
from inspectd.config import Config, FolderCamera, GenicamCamera, effective_rule
from inspectd.errors import ConfigError, InspectdError
from inspectd.wire import MaskEncoding

from .engine import open_engine, self_test
from .epoch import EpochCounter
from .line import Line, Summary
from .messaging import CameraStream, Publisher
from .sources import make_source

__all__ = ["check_station", "demo_bundle", "run_station"]


def demo_bundle() -> Path:
    """The bundle for rendered buttons that is shipped."""
    return Path(__file__).parent / "demo" / "bundle"


def run_station(
    config: Config,
    *,
    frames: int | None = None,
    wait_s: float = 0.0,
    opened: Callable[[str], None] = lambda _address: None,
    announce: Callable[[str], None],
    report: Callable[[Summary], None],
) -> Summary:
    """Run a line until it has done its frames, its cameras are at their end, or SIGINT or SIGTERM comes.

    Args:
        config: the configuration.
        frames: stop after so many.
        wait_s: wait so long for somebody to subscribe before the first frame.
        opened: given the address that is published at, once subscribers can connect.
        announce: told what goes on, for people.
        report: given the summary at the end, also where the line ends with an error.

    Raises:
        InspectdError: what stopped it.
    """
    bundle = _load(config)
    cameras = {
        name: CameraStream(scale_mm_per_px=camera.scale_mm_per_px, simulated=camera.simulated)
        for name, camera in config.cameras.items()
    }
    publish = config.publish
    publisher = Publisher(
        publish.endpoint,
        epoch=EpochCounter(config.station.state_dir / "epoch").next(),
        cameras=cameras,
        station=config.station.name,
        mask_encoding=MaskEncoding(publish.mask_encoding),
        preview=publish.preview,
        heartbeat_s=publish.heartbeat_ms / 1000,
    )
    with ExitStack() as stack:
        stack.enter_context(publisher)
        opened(publisher.endpoint)
        announce(f"station {config.station.name!r} publishes at {publisher.endpoint}")
        engine = open_engine(bundle, backend=config.model.backend, threads=config.model.threads)
        stack.callback(engine.close)
        sources = [make_source(name, camera) for name, camera in config.cameras.items()]
        line = Line(config, bundle, engine, sources, publisher, frames=frames)
        announce(f"judging by {bundle.card.name!r} ({bundle.digest[:12]}): {', '.join(bundle.card.classes)}")
        try:
            with _stopped_by_signals(line):
                if wait_s and not publisher.wait_for_subscriber(wait_s, is_over=lambda: line.is_stopped):
                    announce("nobody has subscribed yet; going on all the same")
                line.run()
        finally:
            report(line.summary())
    return line.summary()


def check_station(config: Config, *, announce: Callable[[str], None]) -> None:
    """Try all of a configuration that can be tried without touching a camera or a port.

    Raises:
        ConfigError: every fault found, one a line.
    """
    faults = []
    try:
        bundle = _load(config)
        thresholds = dict(zip(bundle.card.classes, bundle.card.thresholds, strict=True))
        rule = effective_rule(config.acceptance, bundle.class_map, thresholds)
        engine = open_engine(bundle, backend=config.model.backend, threads=config.model.threads)
        try:
            self_test(engine, bundle)
        finally:
            engine.close()
        announce(f"model: {bundle.card.name!r} ({bundle.digest[:12]}), self-test passed")
        for name in bundle.card.classes:
            announce(f"acceptance: {name!r} from a score of {rule.rule(name).score:g}")
    except InspectdError as error:
        faults.append(str(error))
    for name, camera in config.cameras.items():
        try:
            announce(f"cameras.{name}: {_look(name, camera)}")
        except InspectdError as error:  # noqa: PERF203 - each camera is looked at
            faults.append(str(error))
    if faults:
        raise ConfigError("\n".join(faults))


def _look(name: str, camera: object) -> str:
    """What can be said of a camera without opening it."""
    match camera:
        case FolderCamera():
            from .sources.folder import FolderSource

            source = FolderSource(name, camera)
            source.open()
            return f"{len(source.files)} pictures in {camera.path}"
        case GenicamCamera():
            from .sources.producers import producer_file

            return f"producer {producer_file(camera.producer)}; the camera itself is looked for when the line starts"
        case _:
            return "rendered buttons"


def _load(config: Config) -> Bundle:
    return load_bundle(demo_bundle() if config.model.bundle == "demo" else Path(config.model.bundle))


@contextmanager
def _stopped_by_signals(line: Line) -> Iterator[None]:
    """SIGINT and SIGTERM end the line in good order; a second one ends the process at once."""
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def stop(_number: int, _frame: FrameType | None) -> None:
        line.stop()
        restore()

    for number in previous:
        signal.signal(number, stop)
    try:
        yield
    finally:
        restore()
