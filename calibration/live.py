"""Pictures to calibrate from that are taken now, by a camera or by a line's camera as the line has it.

Options of the commands that can do so stand here, so that all of them can do the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from inspectd.config import Camera
    from inspectd.frame import Frame

    from .record import CameraId

__all__ = ["CameraOption", "ConfigOption", "ProducerOption", "SetOption", "Taking", "TimeoutOption", "take_pictures"]

CameraOption = Annotated[
    str | None,
    typer.Option(metavar="CAMERA", help="Take the pictures now, by this camera; with --config, by its name there."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE.toml", help="Take the pictures now, by a camera of this line, as it is set there."),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Set a feature of it first; may be repeated.")
]
ProducerOption = Annotated[
    list[str] | None, typer.Option("--producer", metavar="P", help="Its producer's .cti file, viky or simulator.")
]
TimeoutOption = Annotated[float, typer.Option(min=0.1, metavar="S", help="Give up after S seconds without one.")]


@dataclass(frozen=True, slots=True)
class Taking:
    """What a command was given to take pictures by.

    Attributes:
        camera: serial number, id or user-defined name; with a configuration its name there.
        config: of the line.
        frames: how many.
        features: NAME=VALUE, set first.
        producers: to look for the camera behind.
        timeout_s: the longest that one picture may take, s.

    Raises:
        ConfigError: options that do not go together.
    """

    camera: str | None
    config: Path | None
    frames: int
    features: tuple[str, ...]
    producers: tuple[str, ...]
    timeout_s: float

    def __post_init__(self) -> None:
        from inspectd.errors import ConfigError

        if not self.features and not self.producers:
            return
        if self.config is not None:
            raise ConfigError("--set and --producer stand in the line's configuration; leave them out with --config")
        if self.camera is None:
            raise ConfigError("--set and --producer are for pictures that are taken now; name the --camera")

    @property
    def is_asked_for(self) -> bool:
        """Whether pictures are taken now; else they are there."""
        return self.camera is not None or self.config is not None


def take_pictures(folder: Path, taking: Taking, *, corrected: bool) -> CameraId:
    """Take pictures and keep them: what a calibration was made from can be looked at again.

    Args:
        folder: a new or empty one; 1.png, 2.png, ... are put there, with leading zeros.
        taking: by what.
        corrected: whether a line's camera gives them as the line judges them, with its flat field; else as they come.

    Returns:
        Which camera took them.

    Raises:
        ConfigError: the folder holds files or cannot be written, no such camera of the line, or a flat field that does
            not fit it.
        CameraError: the camera is not there, refuses a feature, is silent, or sends what is no picture.
    """
    from inspectd.errors import ConfigError

    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder}: holds files already; name a new folder for the pictures that are taken")
        if taking.config is not None:
            return _by_line(taking.config, folder, taking, corrected=corrected)
        return _by_camera(folder, taking)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror}; name another folder") from error


def _by_camera(folder: Path, taking: Taking) -> CameraId:
    import os

    from inspectd.runtime.snapshot import settings_of
    from inspectd.runtime.sources.features import feature_values
    from inspectd.runtime.sources.survey import find_camera

    from .record import CameraId

    features = feature_values(taking.features)
    found = find_camera(taking.camera or "", taking.producers, os.environ)
    settings = settings_of(found, features=features, timeout_s=taking.timeout_s)
    _take(found.serial or found.id, settings, folder, taking, lambda frame: frame)
    return CameraId(found.serial or None, found.model or None)


def _by_line(config: Path, folder: Path, taking: Taking, *, corrected: bool) -> CameraId:
    from inspectd.config import GenicamCamera, load_config
    from inspectd.runtime.optics import Optics

    from .line import camera_of
    from .record import CameraId

    name, settings = camera_of(load_config(config), taking.camera)
    if isinstance(settings, GenicamCamera):
        # A camera that is away is told now, and not looked for as a line does.
        settings = settings.model_copy(update={"reconnect": False})
    flat_field = settings.flat_field if corrected else None
    others = {"scale": None, "scale_mm_per_px": None, "image_health": None, "flat_field": flat_field}
    optics = Optics.load(name, settings.model_copy(update=others))

    return CameraId(_take(name, settings, folder, taking, lambda frame: optics.prepare(frame)[0]) or None)


def _take(name: str, settings: Camera, folder: Path, taking: Taking, prepare: Callable[[Frame], Frame]) -> str:
    """Take and write them; the serial number of the camera, empty where it has none."""
    from inspectd.command import bar
    from inspectd.runtime.snapshot import taken, write_picture

    serial, digits = "", len(str(taking.frames))
    folder.mkdir(parents=True, exist_ok=True)
    with bar("taking pictures") as progress:
        # A camera without a line's settings gives up by itself.
        timeout_s = None if taking.config is None else taking.timeout_s
        frames = taken(name, settings, count=taking.frames, timeout_s=timeout_s)
        for number, frame in enumerate(frames, 1):
            write_picture(folder / f"{number:0{digits}d}.png", prepare(frame).pixels)
            serial = frame.serial
            progress(number, taking.frames)
    return serial
