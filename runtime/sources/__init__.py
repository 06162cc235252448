"""Frame sources: GenICam cameras, folders of pictures, rendered buttons."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inspectd.config import ButtonsCamera, FolderCamera, GenicamCamera

if TYPE_CHECKING:
    from inspectd.config import Camera
    from inspectd.frame import FrameSource

__all__ = ["make_source"]


def make_source(name: str, camera: Camera) -> FrameSource:
    """The source of a camera of the configuration; not opened yet."""
    match camera:
        case GenicamCamera():
            from .grabber import Grabber

            return Grabber(name, camera)
        case FolderCamera():
            from .folder import FolderSource

            return FolderSource(name, camera)
        case ButtonsCamera():
            from .buttons import ButtonsSource

            return ButtonsSource(name, camera)
