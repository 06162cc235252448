"""A station: everything that a configuration names, put together and run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from inspectd.bundle import Bundle, EnginePrecision, load_bundle
from inspectd.config import Config, FolderCamera, GenicamCamera, effective_rule
from inspectd.errors import ConfigError, DeviceError, IncompatibleEngine, InspectdError, MissingDependencyError
from inspectd.inspection import AcceptanceRule
from inspectd.wire import DeviceHealth, MaskEncoding

from .engine import Engine, open_engine, self_test
from .epoch import EpochCounter
from .line import Line, Summary
from .messaging import CameraStream, Publisher
from .own_engine import open_own
from .signals import stopping
from .sources import make_source

__all__ = ["check_station", "demo_bundle", "run_station"]

_log = logging.getLogger("inspectd.line")


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
        InspectdError: what stopped it; what is wrong with the configuration is told before anything is announced.
    """
    found = _survey(config)
    if found.bundle is None or found.engine is None or found.faults:
        if found.engine is not None:
            found.engine.close()
        raise _all(found.faults)
    bundle, engine = found.bundle, found.engine
    cameras = {
        name: CameraStream(scale_mm_per_px=camera.scale_mm_per_px, simulated=camera.simulated)
        for name, camera in config.cameras.items()
    }
    publish = config.publish
    with ExitStack() as stack:
        stack.callback(engine.close)
        publisher = Publisher(
            publish.endpoint,
            epoch=_epochs(config).next(),
            cameras=cameras,
            station=config.station.name,
            mask_encoding=MaskEncoding(publish.mask_encoding),
            preview=publish.preview,
            heartbeat_s=publish.heartbeat_ms / 1000,
        )
        if found.fallback:
            publisher.health, publisher.health_reason = DeviceHealth.OFF_SPEC, found.fallback
        stack.enter_context(publisher)
        sources = [make_source(name, camera) for name, camera in config.cameras.items()]
        line = Line(config, bundle, engine, sources, publisher, frames=frames)
        stack.callback(line.close)
        with stopping(line.stop):
            line.open()
            opened(publisher.endpoint)
            announce(f"station {config.station.name!r} publishes at {publisher.endpoint}")
            announce(
                f"judging by {bundle.card.name!r} ({bundle.digest[:12]}) on {engine.name}: "
                f"{', '.join(bundle.card.classes)}"
            )
            if wait_s and not publisher.wait_for_subscriber(wait_s, is_over=lambda: line.is_stopped):
                announce("nobody has subscribed yet; going on all the same")
            try:
                line.run()
            except BaseException:
                # Of a line that saw no frame the error says all.
                if line.summary().frames:
                    report(line.summary())
                raise
            report(line.summary())
    return line.summary()


def check_station(config: Config, *, announce: Callable[[str], None]) -> None:
    """Try all of a configuration that can be tried without touching a camera or a port.

    Raises:
        InspectdError: every fault found, one a line.
    """
    found = _survey(config, build=False)
    faults = list(found.faults)
    if found.bundle is not None and found.engine is not None:
        with _noted(faults):
            self_test(found.engine, found.bundle)
            announce(
                f"model: {found.bundle.card.name!r} ({found.bundle.digest[:12]}) on {found.engine.name}, "
                "self-test passed"
            )
        found.engine.close()
    if found.bundle is not None and found.rule is not None:
        for name in found.bundle.card.classes:
            announce(f"acceptance: {name!r} from a score of {found.rule.rule(name).score:g}")
    for name, words in found.cameras.items():
        announce(f"cameras.{name}: {words}")
    if faults:
        raise _all(faults)


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """What a configuration names, as far as it is there, and all that is wrong with the rest."""

    bundle: Bundle | None
    rule: AcceptanceRule | None
    engine: Engine | None
    fallback: str
    """Why the engine is not the one that the configuration names; empty where it is."""
    cameras: Mapping[str, str]
    faults: Sequence[InspectdError]


def _survey(config: Config, *, build: bool = True) -> _Found:
    """Look at everything, without touching a camera or a port; what `check` finds, `run` finds.

    Only engines are not built by `check`, which may run beside the line.
    """
    faults: list[InspectdError] = []
    bundle, rule, engine, fallback = None, None, None, ""
    with _noted(faults):
        _epochs(config).check()
    with _noted(faults):
        bundle = load_bundle(demo_bundle() if config.model.bundle == "demo" else Path(config.model.bundle))
    if bundle is not None:
        thresholds = dict(zip(bundle.card.classes, bundle.card.thresholds, strict=True))
        with _noted(faults):
            rule = effective_rule(config.acceptance, bundle.class_map, thresholds)
        with _noted(faults):
            engine, fallback = _engine(bundle, config, build=build)
    cameras = {}
    for name, camera in config.cameras.items():
        with _noted(faults):
            cameras[name] = _look(name, camera)
    return _Found(bundle, rule, engine, fallback, cameras, faults)


def _engine(bundle: Bundle, config: Config, *, build: bool) -> tuple[Engine, str]:
    """The engine of a configuration; or the processor's where that is allowed, and why."""
    model = config.model
    on_processor = partial(open_engine, threads=model.threads, allow_uncertified=model.allow_uncertified)
    as_set = partial(on_processor, backend=model.backend, precision=model.precision)
    if model.backend != "tensorrt":
        return as_set(bundle), ""
    try:
        try:
            return as_set(bundle), ""
        except IncompatibleEngine as error:
            if not model.rebuild:
                raise
            _log.warning("%s", error)
            precision: EnginePrecision = "int8" if model.precision == "int8" else "fp16"
            return open_own(bundle, config.station.state_dir, as_set, precision=precision, build=build), ""
    except (DeviceError, IncompatibleEngine, MissingDependencyError) as error:
        if model.fallback != "cpu":
            raise
        _log.warning("RUNNING ON THE PROCESSOR INSTEAD OF THE GPU: %s", error)
        return on_processor(bundle), f"running on the processor instead of the GPU: {error}"


@contextmanager
def _noted(faults: list[InspectdError]) -> Iterator[None]:
    try:
        yield
    except InspectdError as error:
        faults.append(error)


def _all(faults: Sequence[InspectdError]) -> InspectdError:
    """One error that tells of all: the first itself if it is alone."""
    return faults[0] if len(faults) == 1 else ConfigError("\n".join(map(str, faults)))


def _epochs(config: Config) -> EpochCounter:
    return EpochCounter(config.station.state_dir / "epoch")


def _look(name: str, camera: object) -> str:
    """What can be said of a camera without opening it."""
    match camera:
        case FolderCamera():
            from .sources.folder import FolderSource

            source = FolderSource(name, camera)
            source.open()
            return f"{len(source.files)} pictures in {camera.path}"
        case GenicamCamera():
            from .sources.producers import check_library, producer_file

            path = producer_file(camera.producer)
            check_library(path)
            return f"producer {path}; the camera itself is looked for when the line starts"
        case _:
            return "rendered buttons"
