"""A station: everything that a configuration names, put together and run."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from inspectd.bundle import Bundle, EnginePrecision, load_bundle
from inspectd.calibrated.threshold import ThresholdRecord
from inspectd.config import Config, FolderCamera, GenicamCamera
from inspectd.errors import (
    ConfigError,
    DatasetError,
    DeviceError,
    IncompatibleEngine,
    InspectdError,
    MasterPartsError,
    MissingDependencyError,
    RequestError,
)
from inspectd.inspection import AcceptanceRule
from inspectd.masters import Masters
from inspectd.signature import TrustList
from inspectd.wire import MaskEncoding, State

from .access import KeysFolder
from .active_model import ActiveModel
from .archive import Archive, ArchiveKeeper
from .beats import PERIOD_S, Beat, Reporter, Work
from .challenge import check_challenge
from .child import Child
from .control import ControlServer
from .core import Core
from .engine import Engine, open_engine, self_test
from .epoch import EpochCounter
from .gate import Gate, needs_curve
from .journal import Journal
from .line import Summary, open_limit_s
from .messaging import CameraStream, Publisher, local_endpoint
from .models import LoadedBundle, Model, rule_for, thresholds_of
from .optics import Optics, load_optics, scales_of
from .own_engine import open_own
from .painted_parts import check_painting
from .self_testing import check_masters
from .signals import stopping
from .sources import make_source

__all__ = ["check_station", "core_child", "demo_bundle", "header_child", "run_station"]

CORE_SILENT_S = 10.0
"""A core that does not beat for so long hangs; to let go of a camera that hangs takes it some of that."""
END_S = 120.0
"""And to close all where it ends by itself; a disk may take some of that."""
CORE_DRAIN_S = 30.0
"""So long may it take to end after SIGTERM: to drain its cameras, and to have its archive written."""

_log = logging.getLogger("inspectd.line")


def demo_bundle() -> Path:
    """The bundle for rendered buttons that is shipped."""
    return Path(__file__).parent / "demo" / "bundle"


def run_station(
    config: Config,
    *,
    config_file: Path | None = None,
    frames: int | None = None,
    wait_s: float = 0.0,
    stays: bool = False,
    opened: Callable[[str], None] = lambda _address: None,
    announce: Callable[[str], None],
    report: Callable[[Summary], None],
) -> Summary:
    """Run a station until it has done its frames, its cameras are at their end, or SIGINT or SIGTERM comes.

    Args:
        config: the configuration.
        config_file: where it was read from, so that it can be read again.
        frames: stop after so many.
        wait_s: wait so long for somebody to subscribe before the first frame.
        stays: a model or camera that cannot be used leads to the state Error with an alarm; else it ends the station.
        opened: given the address that is published at, once subscribers can connect.
        announce: told what goes on, for people.
        report: given the summary at the end, also where the station ends with an error.

    Raises:
        InspectdError: what stopped it; what is wrong with the configuration is told before anything is announced.
    """
    with ExitStack() as outermost:
        reporter = Reporter.from_environment()
        outermost.callback(reporter.close)
        try:
            return _run(
                config,
                reporter,
                outermost.enter_context(_taken_up(config)),
                config_file=config_file,
                frames=frames,
                wait_s=wait_s,
                stays=stays,
                opened=opened,
                announce=announce,
                report=report,
            )
        except InspectdError as error:
            reporter.bye(2, str(error))
            raise


def _run(
    config: Config,
    reporter: Reporter,
    active: ActiveModel,
    *,
    config_file: Path | None,
    frames: int | None,
    wait_s: float,
    stays: bool,
    opened: Callable[[str], None],
    announce: Callable[[str], None],
    report: Callable[[Summary], None],
) -> Summary:
    with _beating(reporter, "starting", open_limit_s(config)):
        found = _survey(config, active.bundle)
    if faults := [fault for fault in found.faults if not (stays and fault in found.model_faults)]:
        if found.engine is not None:
            found.engine.close()
        raise _all(faults)
    loaded: LoadedBundle | InspectdError
    if found.bundle is None or found.engine is None:
        loaded = _all(found.model_faults)
    else:
        loaded = LoadedBundle(found.bundle, found.engine, found.fallback)
    with ExitStack() as after, ExitStack() as stack:
        if isinstance(loaded, LoadedBundle):
            stack.callback(loaded.engine.close)
        core, control = _assemble(
            config,
            config_file,
            loaded,
            stack,
            reporter,
            active=active,
            optics=found.optics,
            challenge=found.challenge,
            frames=frames,
            stays=stays,
        )
        reporter.gone = core.stop
        if reporter.supervisor_gone:
            core.stop()
        publisher = core.publisher

        def ready() -> None:
            opened(publisher.endpoint)
            announce(f"station {config.station.name!r} publishes at {publisher.endpoint}")
            if control is not None:
                announce(f"commands are taken at {', '.join(filter(None, (control.local, control.endpoint)))}")
            if (model := core.models.current) is not None:
                announce(
                    f"judging by {model.bundle.card.name!r} ({model.bundle.digest[:12]}) on {model.engine.name}: "
                    f"{', '.join(model.bundle.card.classes)}"
                )
            for name, optics in found.optics.items():
                if words := optics.words():
                    announce(f"camera {name!r} is calibrated: {words}")
            if wait_s and not publisher.wait_for_subscriber(wait_s, is_over=lambda: core.is_stopped):
                announce("nobody has subscribed yet; going on all the same")

        core.ready = ready
        with stopping(core.stop):
            try:
                core.run()
                # What is closed now takes its time too.
                after.enter_context(_beating(reporter, "ending", END_S))
            except BaseException:
                # Of a line that saw no frame the error says all.
                if core.line.summary().frames:
                    report(core.line.summary())
                raise
            report(core.line.summary())
            reporter.bye(0 if core.line.summary().complete else 1)
    return core.line.summary()


@contextmanager
def _taken_up(config: Config) -> Iterator[ActiveModel]:
    """Which model was activated, with nobody else at the station's state.

    Before an engine is opened, which may be what the process dies of.

    Raises:
        ConfigError: another line runs with the same state.
    """
    active, state_dir = _active(config), config.station.state_dir
    with ExitStack() as held:
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
        except OSError:
            pass  # told with all else that is wrong: starts cannot be counted there
        else:
            held.enter_context(_alone(state_dir))
            active.take_up()
            # Where the disk is full it is tried again while the line runs.
            with contextlib.suppress(OSError):
                active.flush()
        yield active


@contextmanager
def _beating(reporter: Reporter, status: str, limit_s: float) -> Iterator[None]:
    """Tell the supervisor of life while nothing else does: to build an engine takes minutes, to close a disk may.

    It is a stage like any other: what takes longer than `limit_s` hangs, and the process is replaced.
    """
    over, work = threading.Event(), Work(limit_s)

    def go_on() -> None:
        while not over.wait(PERIOD_S):
            stages = {status: work.stage}
            reporter.beat(Beat(state=State.PREOPERATIONAL.label, ready=False, status=status, stages=stages))

    if not reporter.is_supervised:
        yield
        return
    thread = threading.Thread(target=go_on, name=status, daemon=True)
    thread.start()
    try:
        with work:
            yield
    finally:
        over.set()
        thread.join()


def _assemble(
    config: Config,
    config_file: Path | None,
    loaded: LoadedBundle | InspectdError,
    stack: ExitStack,
    reporter: Reporter,
    *,
    active: ActiveModel,
    optics: Mapping[str, Optics],
    challenge: Masters | None,
    frames: int | None,
    stays: bool,
) -> tuple[Core, ControlServer | None]:
    """A station of everything that a configuration names, with its sockets and its journal open."""
    state_dir = config.station.state_dir
    journal_path = config.journal.path or state_dir / "journal.db"
    keeps = config.journal.enabled
    epoch = _epochs(config).next(above=Journal.last_epoch(journal_path) if keeps else 0)
    journal = None
    if keeps:
        journal = Journal(
            journal_path,
            epoch=epoch,
            retention_days=config.journal.retention_days,
            max_mib=config.journal.max_mib,
            commit_timeout_s=config.journal.commit_timeout_ms / 1000,
        )
        stack.callback(journal.close)
    gate = _gate(config, stack)
    guarded = needs_curve(config.publish.endpoint, config.security.curve)
    publisher = Publisher(
        config.publish.endpoint,
        epoch=epoch,
        cameras={
            name: CameraStream(scale_mm_per_px=optics[name].scale_mm_per_px, simulated=camera.simulated)
            for name, camera in config.cameras.items()
        },
        station=config.station.name,
        mask_encoding=MaskEncoding(config.publish.mask_encoding),
        preview=config.publish.preview,
        heartbeat_s=config.publish.heartbeat_ms / 1000,
        journal=journal,
        commit_timeout_s=config.journal.commit_timeout_ms / 1000,
        keep_masks=config.journal.masks,
        local=local_endpoint(state_dir, "pub"),
        socket_mode=config.control.socket_mode,
        secure=gate.secure if gate is not None and guarded else None,
        context=None if gate is None else gate.context,
    )
    stack.enter_context(publisher)
    archive = None
    if config.archive.path is not None:
        archive = ArchiveKeeper(config.archive, local_endpoint(state_dir, "archive.sock"))
        stack.callback(archive.close)
    core = Core(
        config,
        config_file=config_file,
        loaded=loaded,
        sources=[make_source(name, camera) for name, camera in config.cameras.items()],
        publisher=publisher,
        journal=journal,
        open_bundle=_open_bundle,
        active=active,
        optics=optics,
        restored=[] if journal is None else journal.open(),
        archive=archive,
        gate=gate,
        challenge=challenge,
        reporter=reporter,
        frames=frames,
        stays=stays,
    )
    if journal is not None:
        journal.committed = core.line.post
    control = None
    if config.control.enabled:
        control = ControlServer(
            core,
            local=local_endpoint(state_dir, "ctl"),
            endpoint=config.control.endpoint,
            local_role=config.control.local_role,
            socket_mode=config.control.socket_mode,
            journal=journal,
            journal_path=journal_path if keeps else None,
            images=partial(_image, config.archive.path),
            secure=gate.secure if gate is not None and _control_guarded(config) else None,
            context=None if gate is None else gate.context,
            who=(lambda _key: None) if gate is None else gate.who,
            generation=(lambda: 0) if gate is None else (lambda: gate.generation),
        )
        stack.enter_context(control)
    return core, control


def _gate(config: Config, stack: ExitStack) -> Gate | None:
    """What guards the addresses that need it; None where none does.

    Raises:
        ConfigError: there are no keys.
    """
    if not needs_curve(config.publish.endpoint, config.security.curve) and not _control_guarded(config):
        return None
    gate = Gate(KeysFolder(config.security.keys_dir or config.station.state_dir / "keys"))
    return stack.enter_context(gate)


def _control_guarded(config: Config) -> bool:
    endpoint = config.control.endpoint
    return config.control.enabled and endpoint is not None and needs_curve(endpoint, config.security.curve)


def _image(archive: Path | None, epoch: int, stream: int, seq: int) -> tuple[dict[str, object], bytes] | None:
    """An archived picture as `get_image` answers with it."""
    part = None if archive is None else Archive(archive).find(epoch=epoch, seq=seq, stream=stream)
    if part is None:
        return None
    try:
        data = part.picture()
    except DatasetError as error:
        raise RequestError(f"get_image: {error}", code="failed") from error
    form = "png" if part.sidecar.picture.name.endswith(".png") else "jpeg"
    return {"format": form, "width": part.sidecar.frame.width, "height": part.sidecar.frame.height}, data


@contextmanager
def _alone(state_dir: Path) -> Iterator[None]:
    """Two stations with one state folder would give the same numbers to different parts."""
    path = state_dir / "lock"
    try:
        lock = path.open("wb")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); set another station.state_dir") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"station.state_dir {state_dir}: another line is running with it; stop that one, or set another folder"
            ) from None
        yield


def _active(config: Config) -> ActiveModel:
    return ActiveModel(config.station.state_dir / "model.json", config.model.bundle)


def core_child(arguments: Sequence[str]) -> Child:
    """The process that judges, as its supervisor starts it.

    Args:
        arguments: of the command line of `inspectd run`; it gets the same.
    """
    return Child(
        "core",
        (sys.executable, "-m", "inspectd.runtime.entry", *arguments),
        essential=True,
        silent_s=CORE_SILENT_S,
        drain_s=CORE_DRAIN_S,
    )


def header_child(config: Config) -> Child | None:
    """The process that pushes headers over TCP; None where no port is set."""
    if config.publish.header_port is None:
        return None
    local = local_endpoint(config.station.state_dir, "pub")
    where = ("--host", config.publish.header_host, "--port", str(config.publish.header_port))
    return Child("headers", (sys.executable, "-m", "inspectd.runtime.header_push", "--from", local, *where))


def check_station(config: Config, *, announce: Callable[[str], None]) -> None:
    """Try all of a configuration that can be tried without touching a camera or a port.

    Raises:
        InspectdError: every fault found, one a line.
    """
    found = _survey(config, _active(config).read(), build=False)
    faults = list(found.faults)
    if found.bundle is not None and found.engine is not None:
        with _noted(faults):
            self_test(found.engine, found.bundle)
            announce(
                f"model: {found.bundle.card.name!r} ({found.bundle.digest[:12]}) on {found.engine.name}, "
                "self-test passed"
            )
        if config.golden.file is not None and found.rule is not None and found.optics:
            with _noted(faults):
                announce(_master_parts(config, LoadedBundle(found.bundle, found.engine), found.optics))
        found.engine.close()
    if found.bundle is not None and found.rule is not None:
        for name in found.bundle.card.classes:
            announce(f"acceptance: {name!r} from a score of {found.rule.rule(name).score:g}")
        if found.thresholds is not None:
            made = f"{found.thresholds.made:%Y-%m-%d} ({found.thresholds.sha256[:12]})"
            announce(f"acceptance: calibrated on {made} by {found.thresholds.good_parts} good parts")
            doubts = found.thresholds.doubts(found.engine.name, scales_of(found.optics)) if found.engine else ""
            if doubts:
                announce(f"acceptance: {doubts}")
    for name, words in found.cameras.items():
        announce(f"cameras.{name}: {words}")
    for name, optics in found.optics.items():
        if words := optics.words():
            announce(f"cameras.{name}: calibrated: {words}")
    if faults:
        raise _all(faults)


def _master_parts(config: Config, loaded: LoadedBundle, optics: Mapping[str, Optics]) -> str:
    model = Model.make(loaded, config.acceptance, scales=scales_of(optics), clock=time.monotonic_ns)
    if config.golden.paint:
        check_painting(config)
    result = check_masters(config, model)
    if not result.passed:
        raise MasterPartsError(f"{config.golden.file}: {result.told_missed()}")
    found = f"{result.known - len(result.missed)} of {result.known} known defects found"
    return f"golden: {found}, {result.good - len(result.rejected)} of {result.good} good parts accepted"


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """What a configuration names, as far as it is there, and all that is wrong with the rest.

    `model_faults` are those of `faults` that are the bundle's and its engine's.
    """

    bundle: Bundle | None
    rule: AcceptanceRule | None
    engine: Engine | None
    fallback: str
    """Why the engine is not the one that the configuration names; empty where it is."""
    cameras: Mapping[str, str]
    optics: Mapping[str, Optics]
    """Empty where some calibration cannot be used, which is a fault."""
    thresholds: ThresholdRecord | None
    """What the rule was calibrated by."""
    challenge: Masters | None
    """The parts that are put through a camera."""
    faults: Sequence[InspectdError]
    model_faults: Sequence[InspectdError]


def _survey(config: Config, activated: str, *, build: bool = True) -> _Found:
    """Look at everything, without touching a camera or a port; what `check` finds, `run` finds.

    Only engines are not built by `check`, which may run beside the line. `activated` is the bundle that a client has
    activated; empty for the configured one.
    """
    faults: list[InspectdError] = []
    model_faults: list[InspectdError] = []
    bundle, rule, engine, fallback = None, None, None, ""
    with _noted(faults):
        _epochs(config).check()
    if needs_curve(config.publish.endpoint, config.security.curve) or _control_guarded(config):
        with _noted(faults):
            KeysFolder(config.security.keys_dir or config.station.state_dir / "keys").load()
    optics: Mapping[str, Optics] = {}
    thresholds = None
    with _noted(faults):
        thresholds = thresholds_of(config.acceptance)
    with _noted(faults):
        optics = load_optics(config.cameras)
    challenge = None
    with _noted(faults):
        challenge = check_challenge(config)
    with _noted(model_faults):
        bundle = load_bundle(_bundle_path(activated or config.model.bundle), trusted=_trusted(config))
    if bundle is not None:
        with _noted(faults):
            rule = rule_for(bundle, config.acceptance)
            if thresholds is not None:
                thresholds.hold_against(bundle.digest, rule)
        if challenge is not None:
            with _noted(faults):
                challenge.hold_against(bundle.class_map)
        with _noted(model_faults):
            engine, fallback = _engine(bundle, config, build=build)
    faults += model_faults
    cameras = {}
    for name, camera in config.cameras.items():
        with _noted(faults):
            cameras[name] = _look(name, camera)
    return _Found(bundle, rule, engine, fallback, cameras, optics, thresholds, challenge, faults, model_faults)


def _trusted(config: Config) -> TrustList | None:
    return None if config.model.trusted_keys is None else TrustList.load(config.model.trusted_keys)


def _bundle_path(configured: str) -> Path:
    return demo_bundle() if configured == "demo" else Path(configured)


def _open_bundle(path: Path, config: Config) -> LoadedBundle:
    """The bundle at a path, with its engine.

    Raises:
        InspectdError: it cannot be used.
    """
    bundle = load_bundle(_bundle_path(str(path)), trusted=_trusted(config))
    engine, fallback = _engine(bundle, config, build=True)
    return LoadedBundle(bundle, engine, fallback)


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
