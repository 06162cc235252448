"""The file that every calibration ends in: who made it, from what, for which camera.

A record is one JSON object. Its `sha256` is the digest of everything else in it, so that a digit that was changed by
hand or by a bad disk is found before a line measures with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from inspectd.errors import ConfigError

__all__ = ["FORMAT", "InputFile", "Part", "Record", "Software", "load_record", "parse_record"]

FORMAT = 1
"""The format of records that this version writes, and the one that it reads."""

_Record = TypeVar("_Record", bound="Record")


class Part(BaseModel):
    """What a record is made of: frozen, without unknown fields, with finite numbers alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class InputFile(Part):
    """A file that a calibration was made from."""

    name: str = Field(min_length=1)
    """Its name, without the folder."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Digest of its contents."""
    size_bytes: int = Field(ge=0)
    """Its length."""


class Software(Part):
    """What made a calibration."""

    name: str = Field(min_length=1)
    """Of the program."""
    version: str = Field(min_length=1)
    """Of the program."""


class Record(Part):
    """What every calibration's result says about itself; each kind adds its figures, with units in their names.

    A kind sets `kind` to a literal of its own, and `made_by` to the command that makes it anew.
    """

    made_by: ClassVar[str] = "inspectd-calibrate"

    format: Literal[1] = 1
    """Of the file."""
    kind: str
    """What was calibrated."""
    made: datetime
    """When, in UTC."""
    software: Software
    """By what."""
    inputs: tuple[InputFile, ...]
    """From what."""
    serial: str | None = None
    """Serial number of the camera it belongs to; None where it is not known."""
    model: str | None = None
    """The camera's model; None where it is not known."""
    width_px: int | None = Field(None, ge=1)
    """Width of the camera's pictures; None where it does not depend on it."""
    height_px: int | None = Field(None, ge=1)
    """Height of the camera's pictures; None where it does not depend on it."""
    channels: Literal[1, 3] | None = None
    """1 for grey pictures, 3 for RGB; None where it does not depend on it, or is not known."""

    @field_validator("made")
    @classmethod
    def _in_utc(cls, made: datetime) -> datetime:
        if made.utcoffset() != timedelta(0):
            raise ValueError(f"expected a time in UTC, got {made.isoformat()}")
        return made

    def check(
        self, *, serial: str | None, width_px: int, height_px: int, channels: int | None = None
    ) -> tuple[str, ...]:
        """Hold it against a live camera.

        Args:
            serial: the camera's serial number; None where it has none (a folder of pictures).
            width_px: width of its frames.
            height_px: height of its frames.
            channels: of its frames; None where nobody asks.

        Returns:
            What could not be compared, in words to log; empty where it certainly belongs to this camera.

        Raises:
            ConfigError: it is another camera's, for another resolution, or for grey and not colour; both sides are
                named.
        """
        faults, doubts = [], []
        if self.serial is None:
            doubts.append(f"the {self.kind} calibration does not say which camera it is of")
        elif serial is None:
            doubts.append(
                f"the {self.kind} calibration is of camera {self.serial}, and this source has no serial number"
            )
        elif serial != self.serial:
            faults.append(f"it is of camera {self.serial}, and this is camera {serial}")
        for name, own, live in (("width", self.width_px, width_px), ("height", self.height_px, height_px)):
            if own is not None and own != live:
                faults.append(f"it is for a {name} of {own} px, and the camera's frames have {live} px")
        if None not in (self.channels, channels) and self.channels != channels:
            mine, its = ("grey pictures", "in colour") if self.channels == 1 else ("pictures in colour", "grey")
            faults.append(f"it is for {mine}, and the camera's frames are {its}")
        if faults:
            raise ConfigError(
                f"the {self.kind} calibration of {self.made:%Y-%m-%d} does not fit: {'; '.join(faults)}; "
                f"set the camera as it was, or calibrate it anew by {self.made_by}"
            )
        return tuple(doubts)

    def content(self) -> dict[str, Any]:
        """What its file holds: JSON values by name, with the digest."""
        values = self._values()
        return {**values, "sha256": _digest(values)}

    def text(self) -> str:
        """Its file, as JSON."""
        return json.dumps(self.content(), indent=2, ensure_ascii=False) + "\n"

    @property
    def sha256(self) -> str:
        """Digest of what it says: two calibrations with the same one are the same."""
        return _digest(self._values())

    def _values(self) -> dict[str, Any]:
        values = self.model_dump(mode="json")
        if self.channels is None:
            # Records of before say nothing of them, and are known to others by their digests.
            del values["channels"]
        return values


def load_record(path: Path, kind: type[_Record]) -> _Record:
    """Read and check a calibration's result.

    Args:
        path: the JSON file.
        kind: what is expected in it.

    Raises:
        ConfigError: missing, unreadable, damaged, changed, of another format or kind; one line, with the remedy.
    """
    again = f"make it anew by {kind.made_by}"
    try:
        raw = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such calibration; make one by {kind.made_by}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a calibration ({error}); {again}") from error
    return parse_record(raw, path, kind)


def parse_record(text: str, path: Path, kind: type[_Record]) -> _Record:
    """Check a record's text; `path` is its file's name in messages.

    Raises:
        ConfigError: as `load_record`, for what it says.
    """
    again = f"make it anew by {kind.made_by}"
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{path}: damaged: not JSON ({error}); copy it again, or {again}") from error
    if not isinstance(content, dict) or not {"format", "kind"} <= content.keys():
        raise ConfigError(f"{path}: is no calibration: it has no format and kind; {again}")
    if content["format"] != FORMAT:
        raise ConfigError(
            f"{path}: calibration format {content['format']!r}, this version reads {FORMAT}; {again} of this version"
        )
    expected = kind.model_fields["kind"].default
    if content["kind"] != expected:
        raise ConfigError(
            f"{path}: is a calibration of kind {content['kind']!r}, expected {expected!r}; name another file"
        )
    digest = content.pop("sha256", None)
    if digest != _digest(content):
        raise ConfigError(f"{path}: was changed since it was made (its sha256 does not fit); copy it again, or {again}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ConfigError(f"{path}: is not valid: {faults}; {again}") from error


def _digest(values: Mapping[str, Any]) -> str:
    """SHA-256 of JSON values in their one canonical spelling."""
    spelt = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(spelt.encode()).hexdigest()
