"""Reading an archive, also while it is written to."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
from collections.abc import Callable, Collection, Iterator
from datetime import date
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from inspectd.bundle import explain
from inspectd.errors import ConfigError, DatasetError
from inspectd.frame import Frame
from inspectd.inspection import Verdict
from inspectd.mask import ClassMap, Mask
from inspectd.picture import decode_image, decode_pixels

from .layout import DAY_NAME, SIDECAR, PartName, Sidecar, StoredFile, camera_folders

__all__ = ["Archive", "Part"]

_AWAY = 20
"""`spread` passes over the twentieth of the archive on either side of a part."""
_GOLDEN = (5**0.5 - 1) / 2
_log = logging.getLogger("inspectd.archive")


class Part:
    """One archived part; its files are checked each time they are read.

    Attributes:
        path: of its sidecar.
        sidecar: what is known of it.
    """

    def __init__(self, path: Path) -> None:
        """Read the sidecar of a part.

        Raises:
            DatasetError: it is missing or damaged.
        """
        self.path = path
        try:
            self.sidecar = Sidecar.model_validate_json(path.read_bytes())
        except OSError as error:
            raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
        except ValidationError as error:
            raise DatasetError(f"{path}: is not the sidecar of a part, or damaged: {explain(error)}") from error

    @property
    def verdict(self) -> Verdict:
        """The verdict on it."""
        return Verdict[self.sidecar.verdict]

    def picture(self) -> bytes:
        """The file of the picture, PNG or JPEG as its name says.

        Raises:
            DatasetError: it is missing, or not the one that was archived.
        """
        return self._read(self.sidecar.picture)

    def frame(self, *, received_ns: int = 0) -> Frame:
        """The frame that was inspected; of a JPEG what it has left of it.

        Args:
            received_ns: given to the frame; latencies count from there.

        Raises:
            DatasetError: as `picture`, or it is not of the size that the sidecar tells.
        """
        facts = self.sidecar.frame
        pixels = decode_image(self.picture(), self._beside(self.sidecar.picture))
        if pixels.shape != (facts.height, facts.width, facts.channels):
            raise DatasetError(
                f"{self._beside(self.sidecar.picture)}: expected {facts.height} x {facts.width} pixels of "
                f"{facts.channels} channels, got {list(pixels.shape)}"
            )
        return Frame(
            self.sidecar.camera,
            facts.frame_id,
            pixels,
            acquired_ns=facts.acquired_ns,
            trigger_id=facts.trigger_id,
            received_ns=received_ns,
            source=facts.source,
            camera_clock=facts.camera_clock,
            serial=facts.serial,
        )

    def mask(self) -> Mask | None:
        """What was found; None of a part that was not inspected.

        Raises:
            DatasetError: it is missing, not the one that was archived, or does not fit the picture.
        """
        kept, facts = self.sidecar.mask, self.sidecar.frame
        if kept is None or self.sidecar.classes is None:
            return None
        labels = decode_pixels(self._read(kept), self._beside(kept))
        if labels.dtype != np.uint8 or labels.shape != (facts.height, facts.width, 1):
            raise DatasetError(
                f"{self._beside(kept)}: expected labels of {facts.height} x {facts.width}, got {list(labels.shape)}"
            )
        try:
            return Mask(np.ascontiguousarray(labels[..., 0], np.uint8), ClassMap(self.sidecar.classes))
        except ValueError as error:
            raise DatasetError(f"{self._beside(kept)}: {error}") from error

    def verify(self) -> None:
        """Check all files.

        Raises:
            DatasetError: one is missing, or not the one that was archived.
        """
        for kept in (self.sidecar.picture, self.sidecar.mask, self.sidecar.overlay):
            if kept is not None:
                self._read(kept)

    def _beside(self, kept: StoredFile) -> Path:
        return self.path.with_name(kept.name)

    def _read(self, kept: StoredFile) -> bytes:
        path = self._beside(kept)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
        if len(data) != kept.bytes or hashlib.sha256(data).hexdigest() != kept.sha256:
            raise DatasetError(f"{path}: is not the file that was archived: it was changed or damaged since")
        return data


class Archive:
    """The parts of an archive.

    Args:
        root: its folder.
        tell: told of what is damaged, and passed over.

    Raises:
        ConfigError: there is no such folder.
    """

    def __init__(self, root: Path, *, tell: Callable[[str], None] = _log.warning) -> None:
        if not root.is_dir():
            raise ConfigError(f"{root}: there is no such folder; expected an archive, the archive.path of a station")
        self.root = root
        self._tell = tell

    def find(self, *, epoch: int, seq: int, camera: str | None = None, stream: int | None = None) -> Part | None:
        """The part of a result, by its camera's name or number, or both; the latest where several have its numbers.

        Args:
            epoch: of the result.
            seq: of the result.
            camera: name of the camera.
            stream: number of the camera.
        """
        wanted = (epoch, seq)
        for day in reversed(self._days()):
            for folder in self._cameras(day, camera):
                names = [PartName(*wanted)]
                while (folder / f"{names[-1]}{SIDECAR}").exists():
                    names.append(PartName(*wanted, len(names) + 1))
                for name in reversed(names[:-1]):
                    part = self._open(folder / f"{name}{SIDECAR}")
                    if part is not None and stream in (None, part.sidecar.stream):
                        return part
        return None

    def parts(
        self,
        *,
        camera: str | None = None,
        verdict: Verdict | None = None,
        first: date | None = None,
        last: date | None = None,
        newest_first: bool = False,
    ) -> Iterator[Part]:
        """All parts by day, then in the order in which they were inspected: by epoch, seq and camera.

        What is deleted meanwhile may be left out, and so may what is added.

        Args:
            camera: only of this one.
            verdict: only with this one.
            first: only of this day and later, UTC.
            last: only of this day and before.
            newest_first: the other way round.
        """
        for day in sorted(self._days(), reverse=newest_first):
            if (first and day.name < first.isoformat()) or (last and day.name > last.isoformat()):
                continue
            found = [
                (name, folder)
                for folder in self._cameras(day, camera)
                for name in self._sidecars(folder)
            ]  # fmt: skip
            for name, folder in sorted(found, reverse=newest_first):
                part = self._still(folder / f"{name}{SIDECAR}", verdict)
                if part is not None:
                    yield part

    def spread(
        self, *, camera: str, verdict: Verdict | None = None, away_from: Collection[tuple[int, int]] = ()
    ) -> Iterator[Part]:
        """Parts of a camera, in an order in which the first few are from all over the archive, as are the first many.

        The order follows from which parts there are alone. Only the sidecars of parts that are asked for are read.

        Args:
            camera: of this one.
            verdict: only with this one.
            away_from: parts, by epoch and seq, that no part is near to: of as many as the archive has of this camera,
                with whatever verdict, the nearest twentieth before it and after it are passed over.
        """
        found = [
            (folder, name)
            for day in self._days()
            for folder in self._cameras(day, camera)
            for name in sorted(self._sidecars(folder))
        ]
        around = len(found) // _AWAY
        near: set[int] = set()
        for place, (_, name) in enumerate(found):
            if (name.epoch, name.seq) in away_from:
                near.update(range(place - around, place + around + 1))
        for place in _spread(len(found)):
            folder, name = found[place]
            part = None if place in near else self._still(folder / f"{name}{SIDECAR}", verdict)
            if part is not None:
                yield part

    def _still(self, path: Path, verdict: Verdict | None) -> Part | None:
        # What was deleted since is no damage.
        part = self._open(path) if path.exists() else None
        return part if part is not None and verdict in (None, part.verdict) else None

    def _open(self, path: Path) -> Part | None:
        try:
            part = Part(path)
        except DatasetError as error:
            self._tell(str(error))
            return None
        if part.sidecar.camera != path.parent.name:
            self._tell(f"{path}: is of camera {part.sidecar.camera!r}, and was put here by somebody; it is passed over")
            return None
        return part

    def _days(self) -> list[Path]:
        try:
            return sorted(path for path in self.root.iterdir() if DAY_NAME.fullmatch(path.name) and path.is_dir())
        except OSError as error:
            self._tell(f"{self.root}: cannot be read: {error.strerror}")
            return []

    def _cameras(self, day: Path, camera: str | None) -> list[Path]:
        with contextlib.suppress(FileNotFoundError):
            try:
                return [path for path in camera_folders(day) if camera in (None, path.name)]
            except PermissionError as error:
                self._tell(f"{day}: cannot be read: {error.strerror}")
        return []

    def _sidecars(self, folder: Path) -> Iterator[PartName]:
        with contextlib.suppress(FileNotFoundError):
            for path in folder.iterdir():
                file = PartName.of_file(path.name)
                if file is not None and file[1] == SIDECAR:
                    yield file[0]


def _spread(count: int) -> Iterator[int]:
    """The numbers below `count`, each once: the fractional parts of multiples of the golden ratio.

    However many are taken, they lie evenly; and they keep step with no period, such as that of a fixture with eight
    places, as equal strides would.
    """
    seen: set[int] = set()
    for number in itertools.count():
        if len(seen) == count:
            return
        place = int(number * _GOLDEN % 1 * count)
        if place not in seen:
            seen.add(place)
            yield place
