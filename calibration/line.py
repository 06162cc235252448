"""A line's configuration, as calibrations use it: its camera, and what measures that camera's pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inspectd.calibrated import InputFile, Scale
    from inspectd.config import Camera, Config

__all__ = ["camera_of", "scale_of"]


def camera_of(config: Config, name: str | None) -> tuple[str, Camera]:
    """A camera of a line by its name; without one, the only one.

    Raises:
        ConfigError: there is none of that name, or there are several.
    """
    from inspectd.errors import ConfigError

    known = ", ".join(config.cameras)
    if name is None:
        if len(config.cameras) > 1:
            raise ConfigError(f"the line has the cameras {known}; say by --camera which of them it is")
        name = next(iter(config.cameras))
    if name not in config.cameras:
        raise ConfigError(f"--camera {name}: the line has none of that name, only {known}")
    return name, config.cameras[name]


def scale_of(config: Path | None, camera: str | None) -> tuple[Scale | None, list[InputFile]]:
    """What measures the pictures of a line's camera in mm, and the file that it comes from; none without a line.

    Raises:
        ConfigError: no such camera, or it has no scale.
    """
    from inspectd.config import load_config
    from inspectd.errors import ConfigError
    from inspectd.runtime.optics import Optics

    from .record import read_source

    if config is None:
        if camera is not None:
            raise ConfigError(f"--camera {camera}: is one of a line's configuration; name that by --config")
        return None, []
    name, settings = camera_of(load_config(config), camera)
    # What else is calibrated of it may come later, and has no part in this.
    scale = Optics.load(name, settings.model_copy(update={"flat_field": None, "image_health": None})).scale
    if scale is None:
        raise ConfigError(
            f"{config}: cameras.{name} has no scale to give minimum areas in mm2 by; make one by inspectd-calibrate "
            "scale, or leave --config out for areas in px"
        )
    return scale, [] if settings.scale is None else [read_source(settings.scale).entry]
