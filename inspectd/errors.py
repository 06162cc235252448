"""Every error that inspectd raises on purpose.

    InspectdError
    ├── ConfigError               a configuration file or a command-line value is wrong
    ├── BundleError               a bundle cannot be used
    │   ├── ChecksumError         a file of the bundle is not the one that was exported
    │   ├── SignatureError        nobody who is trusted has signed the bundle
    │   └── IncompatibleEngine    the engine does not fit this machine or this bundle
    ├── CameraError               a frame source cannot deliver
    │   ├── FrameTimeout          no frame within the time given; the source may still recover
    │   ├── IncompleteFrame       a frame arrived with part of its lines missing
    │   ├── CameraAway            the device is absent, held by another, or does not answer; it may come back
    │   │   └── CameraLost        the device is gone; it has to be opened anew
    │   └── EndOfFrames           a finite source (a folder) has delivered everything
    ├── InferenceError            the network failed on a frame, or gave an impossible result
    ├── MasterPartsError          known defects are not found, or the parts that show them cannot be used
    ├── DeviceError               a GPU cannot be used, or failed
    ├── DatasetError              a dataset or a checkpoint is unusable
    ├── ProtocolError             a message does not follow INS1
    ├── RequestError              a station does not do what it was asked to
    │   ├── WrongState            not in the state that it is in
    │   └── NotReached            it does not answer
    └── MissingDependencyError    an optional package is not installed

A message says what is wrong, where, what was expected and what to do. Commands print it in one line
and exit with status 2; a traceback is a defect of inspectd.
"""

from __future__ import annotations

__all__ = [
    "BundleError",
    "CameraAway",
    "CameraError",
    "CameraLost",
    "ChecksumError",
    "ConfigError",
    "DatasetError",
    "DeviceError",
    "EndOfFrames",
    "FrameTimeout",
    "IncompatibleEngine",
    "IncompleteFrame",
    "InferenceError",
    "InspectdError",
    "MasterPartsError",
    "MissingDependencyError",
    "NotReached",
    "ProtocolError",
    "RequestError",
    "SignatureError",
    "WrongState",
]


class InspectdError(Exception):
    """Base of the tree; catch it to catch everything that inspectd raises on purpose."""


class ConfigError(InspectdError):
    """A configuration file or a command-line value is wrong."""


class BundleError(InspectdError):
    """A bundle cannot be used."""


class ChecksumError(BundleError):
    """A file of the bundle is not the one that was exported."""


class SignatureError(BundleError):
    """Nobody who is trusted has signed the bundle, or it was changed since."""


class IncompatibleEngine(BundleError):
    """The engine does not fit this machine or this bundle."""


class CameraError(InspectdError):
    """A frame source cannot deliver."""


class FrameTimeout(CameraError):
    """No frame within the time given; the source may still recover."""


class IncompleteFrame(CameraError):
    """A frame arrived with part of its lines missing."""


class CameraAway(CameraError):
    """The device is absent, held by another program, or does not answer; it may come back by itself."""


class CameraLost(CameraAway):
    """The device is gone; it has to be opened anew."""


class EndOfFrames(CameraError):
    """A finite source has delivered everything."""


class InferenceError(InspectdError):
    """The network failed on a frame, or gave an impossible result."""


class MasterPartsError(InspectdError):
    """Known defects are not found, or the parts that show them cannot be used."""


class DeviceError(InspectdError):
    """A GPU cannot be used, or failed."""


class DatasetError(InspectdError):
    """A dataset or a checkpoint is unusable."""


class ProtocolError(InspectdError):
    """A message does not follow INS1."""


class MissingDependencyError(InspectdError):
    """An optional package is not installed."""


class RequestError(InspectdError):
    """A station does not do what it was asked to.

    Attributes:
        code: the kind, one of those of docs/protocol.md.
        field: the argument at fault, empty where it is none.
    """

    def __init__(self, message: str, *, code: str = "refused", field: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.field = field


class WrongState(RequestError):
    """Not in the state that the station is in."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="wrong_state")


class NotReached(RequestError):
    """A station does not answer."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="not_reached")
