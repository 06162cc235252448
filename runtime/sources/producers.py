"""GenTL producers: what is used of harvesters and genicam, loaded at the first camera and shared by all."""

from __future__ import annotations

import ctypes
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypeVar

from inspectd.errors import CameraError, MissingDependencyError
from inspectd.optional import remedy_of

__all__ = [
    "Api",
    "Device",
    "Foreign",
    "Producer",
    "check_library",
    "load_api",
    "producer_file",
    "sigint_kept",
    "tolerated",
]

Foreign: TypeAlias = Any
"""An object of harvesters or genicam, which carry no types."""

Answer = TypeVar("Answer")

_log = logging.getLogger("inspectd.camera")
# harvesters prints its faults with tracebacks to the terminal; here they become errors of inspectd.
_harvesters_log = logging.getLogger("inspectd.camera.harvesters")
_harvesters_log.addHandler(logging.NullHandler())
_harvesters_log.setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Api:
    """The names of harvesters and genicam that are used here; gentl and genapi errors have no common base."""

    harvester: Foreign
    package: Path
    faults: tuple[type[Exception], ...]
    timeout: type[Exception]
    access_denied: type[Exception]
    in_use: type[Exception]
    out_of_range: type[Exception]
    invalid: type[Exception]
    access: type[Exception]
    kill: Foreign

    def asked(self, question: Callable[[], Answer], otherwise: Answer) -> Answer:
        """What a producer answers, or `otherwise` where it does not know: most of a buffer's facts are optional."""
        try:
            return question()
        except self.faults:
            return otherwise


_api: Api | None = None


def load_api() -> Api:
    """Import harvesters and genicam.

    Raises:
        MissingDependencyError: they are not installed, or cannot be loaded.
    """
    global _api  # noqa: PLW0603 - loaded at the first camera, so that importing this module stays cheap
    if _api is None:
        try:
            import genicam
            from genicam import genapi, gentl
            from harvesters.core import Harvester
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"GenICam cameras need harvesters and genicam ({error}); install them: pip install harvesters genicam"
            ) from error
        except ImportError as error:
            raise MissingDependencyError(
                f"GenICam cameras need harvesters and genicam, which are installed and cannot be loaded ({error}); "
                f"{remedy_of(str(error), 'harvesters genicam')}"
            ) from error
        _api = Api(
            harvester=Harvester,
            package=Path(genicam.__file__).parent,
            faults=(gentl.GenericException, genapi.GenericException),
            timeout=gentl.TimeoutException,
            access_denied=gentl.AccessDeniedException,
            in_use=gentl.ResourceInUseException,
            out_of_range=genapi.OutOfRangeException,
            invalid=genapi.InvalidArgumentException,
            access=genapi.AccessException,
            kill=gentl.ACQ_STOP_FLAGS_LIST.ACQ_STOP_FLAGS_KILL,
        )
    return _api


def producer_file(producer: str) -> Path:
    """The `.cti` of a producer of the configuration: a path, `viky` or `simulator`.

    Raises:
        CameraError: it is not there.
    """
    match producer:
        case "viky":
            path = load_api().package / "viky.cti"
        case "simulator":
            from inspectd.runtime.simcam import producer_path

            path = producer_path()
        case _:
            path = Path(producer)
    try:
        found = path.is_file()
    except OSError as error:
        raise CameraError(f"{path}: cannot be looked at: {error.strerror}") from error
    if not found:
        raise CameraError(f"no GenTL producer at {path}; expected the .cti file that the camera's maker installs")
    return path


def check_library(path: Path) -> None:
    """Whether a file can be a producer, as far as it can be told without calling it.

    Raises:
        CameraError: it is no library for this machine, or another one.
    """
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise CameraError(f"{path}: is not a GenTL producer that can be loaded: {error}") from error
    # harvesters calls what is not there, which ends the process.
    if not hasattr(library, "GCInitLib"):
        raise CameraError(f"{path}: is a library, but no GenTL producer; expected the camera maker's .cti file")


@dataclass(frozen=True, slots=True)
class Device:
    """A camera that a producer has found: serial number, id and user-defined name, as far as it has them."""

    info: Foreign
    model: str
    serial: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.model} [{' | '.join(self.names)}]"


class Producer:
    """A loaded producer.

    A second Harvester on the same file finds no device in the same process, and a second `update` takes the
    cameras away that are open: so the cameras behind one producer share one, loaded by the first of them.
    """

    _loaded: ClassVar[dict[Path, Producer]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cameras = 0
        """How many cameras share it."""
        self.harvester = load_api().harvester(logger=_harvesters_log)
        check_library(path)
        faults: tuple[type[Exception], ...] = (OSError, *load_api().faults)
        try:
            self.harvester.add_file(str(path), check_existence=True, check_validity=True)
            self.harvester.update()
        except faults as error:
            raise CameraError(f"{path}: is not a GenTL producer that can be loaded: {error}") from error

    @classmethod
    def share(cls, path: Path) -> Producer:
        """The producer of a file, for one more camera; give it back with `release`."""
        with cls._lock:
            if path not in cls._loaded:
                cls._loaded[path] = cls(path)
            producer = cls._loaded[path]
            producer.cameras += 1
            return producer

    def release(self) -> None:
        """Unload it after the last camera."""
        with self._lock:
            self.cameras -= 1
            if self.cameras == 0:
                del self._loaded[self.path]
                with tolerated("unloading the producer"):
                    self.harvester.reset()

    def devices(self) -> list[Device]:
        """What it has found."""
        return [self._device(info) for info in self.harvester.device_info_list]

    @staticmethod
    def _device(info: Foreign) -> Device:
        asked = load_api().asked
        names = (
            asked(lambda: str(info.serial_number), ""),
            asked(lambda: str(info.id_), ""),
            asked(lambda: str(info.user_defined_name), ""),
        )
        return Device(info, asked(lambda: str(info.model), "camera"), names[0], tuple(name for name in names if name))


@contextmanager
def sigint_kept() -> Iterator[None]:
    """Put back the SIGINT handler that harvesters replaces: its own destroys the camera and ends nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def tolerated(doing: str) -> Iterator[None]:
    """A camera that is gone may refuse to be let go; that is noted, for nothing else can be done about it."""
    try:
        yield
    except load_api().faults as error:
        _log.warning("%s failed: %s", doing, error)
