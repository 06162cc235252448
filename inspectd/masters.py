"""Master parts: pictures of parts whose verdict is known, which a line has to give them again.

    master-parts.zip           `inspectd-calibrate golden` makes it
      masters.json             what each part is, which verdict is expected, and how many have to be found
      parts/001.png            the pictures, as the line would have taken them, lossless
      labels/001.png           where the defect of a defective one is

The golden samples of a bundle (`Bundle.golden`) are another thing: they ask whether an engine is still the network that
was exported. Master parts ask whether all that judges, network, engine and rule, still finds what it has to find, so
they hold for any bundle that has their classes.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from inspectd.calibrated import InputFile, Record
from inspectd.calibrated.record import Part, parse_record
from inspectd.durable import ZIP_DAMAGE
from inspectd.errors import ConfigError, DatasetError
from inspectd.frame import Frame
from inspectd.inspection import AcceptanceRule, Inspection, Verdict
from inspectd.mask import ClassMap
from inspectd.picture import decode_image

__all__ = [
    "MOST_PARTS",
    "LeftOut",
    "MasterOutcome",
    "MasterPart",
    "Masters",
    "MastersRecord",
    "MastersResult",
    "Recall",
    "RecallLimit",
    "encode_masters",
    "fault_of",
    "open_masters",
    "run_masters",
]

MOST_PARTS = 200
"""Of one set: a line judges them between its frames."""
_RECORD = "masters.json"
_NAMED = 5
"""So many missed parts are named in one sentence."""


class MasterPart(Part):
    """One part: its picture, and what is known of it."""

    name: str = Field(min_length=1)
    """Of its picture in the dataset that it comes from."""
    picture: InputFile
    """The picture in this file: PNG, uint8 [H, W, 1 or 3]."""
    expected: Literal["OK", "NG", "REVIEW"]
    """The verdict that it has to have; OK of a good part."""
    defect: str = ""
    """Type of its defect; empty of a good part."""
    class_name: str = ""
    """Class of the network that has to say so; empty of a good part."""
    area_px: int = Field(0, ge=0)
    """Of the largest labelled region, px of the camera."""
    size: str = ""
    """Size class of that region; empty of a good part."""
    labels: InputFile | None = None
    """Where the defect is: PNG, uint8 [H, W], 0 and 255; None of a good part."""

    @property
    def is_good(self) -> bool:
        """Whether it has no defect."""
        return self.labels is None

    @model_validator(mode="after")
    def _consistent(self) -> MasterPart:
        known = (bool(self.defect), bool(self.class_name), bool(self.size), self.area_px > 0, self.expected != "OK")
        if known != (not self.is_good,) * len(known):
            raise ValueError(f"{self.name}: a defect has type, class, size, labels and a verdict that is not OK")
        return self


class RecallLimit(Part):
    """How many of some defects have to be found."""

    name: str = Field(min_length=1)
    """A type of defects, or a size class."""
    parts: int = Field(ge=1)
    """Master parts of it."""
    least: float = Field(gt=0, le=1)
    """Share of them that has to be found."""
    tried: int = Field(ge=1)
    """Parts that were tried for the set; those that were not found were left out."""


class LeftOut(Part):
    """A part that came out otherwise than it should when the set was made, and so is no master part."""

    name: str
    """Of its picture in the dataset."""
    defect: str
    """Type of its defect; empty of a good part."""
    size: str
    """Size class of its largest region; empty of a good part."""
    why: str
    """How it came out."""


class MastersRecord(Record):
    """A set of master parts, beside its pictures."""

    made_by: ClassVar[str] = "`inspectd-calibrate golden`"

    kind: Literal["master_parts"] = "master_parts"
    """What was made."""
    bundle_name: str
    """Name of the bundle that found them."""
    bundle_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Its digest."""
    engine: str
    """What ran it."""
    rule: AcceptanceRule
    """The rule that it judged by."""
    defect_roles: tuple[str, ...]
    """Roles of the dataset that the defective parts come from."""
    good_roles: tuple[str, ...]
    """Roles that the good parts come from."""
    per_class: int = Field(ge=1)
    """Parts of each type that were asked for, and good ones."""
    seed: int
    """Of the choice."""
    parts: tuple[MasterPart, ...] = Field(min_length=1, max_length=MOST_PARTS)
    """The master parts."""
    types: tuple[RecallLimit, ...]
    """Limits by the type of the defects."""
    sizes: tuple[RecallLimit, ...]
    """Limits by their size."""
    left_out: tuple[LeftOut, ...]
    """Parts that were tried and did not come out as they should."""

    @model_validator(mode="after")
    def _consistent(self) -> MastersRecord:
        defective = [part for part in self.parts if not part.is_good]
        if not defective:
            raise ValueError("parts: without a defective one nothing is asked")
        if doubles := [name for name, count in Counter(part.name for part in self.parts).items() if count > 1]:
            raise ValueError(f"parts: {doubles[0]} is there twice")
        for kind, limits, names in (
            ("types", self.types, [part.defect for part in defective]),
            ("sizes", self.sizes, [part.size for part in defective]),
        ):
            if {limit.name: limit.parts for limit in limits} != Counter(names):
                raise ValueError(f"{kind}: are not those of the parts")
        return self


class Masters:
    """A set of master parts; made by `open_masters`."""

    def __init__(self, path: Path, record: MastersRecord) -> None:
        self.path = path
        self.record = record

    def hold_against(self, classes: ClassMap) -> None:
        """Refuse a network that cannot find them.

        Raises:
            ConfigError: it does not have a class of theirs.
        """
        wanted = {part.class_name for part in self.record.parts if not part.is_good}
        if unknown := sorted(wanted - set(classes.names)):
            raise ConfigError(
                f"{self.path}: holds known defects of {', '.join(unknown)}, and the network that judges has the "
                f"classes {', '.join(classes.names)} alone: it cannot find them; make a set for it by "
                f"{MastersRecord.made_by}"
            )

    def frame(self, part: MasterPart, number: int, *, camera: str) -> Frame:
        """A part as a frame of a camera.

        Raises:
            ConfigError: its picture is missing or damaged.
        """
        return Frame(camera, number, np.ascontiguousarray(self._pixels(part.picture)), acquired_ns=0)

    def labels(self, part: MasterPart) -> NDArray[np.bool_] | None:
        """Where a part's defect is, bool [H, W]; None of a good part.

        Raises:
            ConfigError: they are missing or damaged.
        """
        return None if part.labels is None else self._pixels(part.labels)[..., 0] > 0

    def _pixels(self, entry: InputFile) -> NDArray[np.uint8]:
        data = _read(self.path, entry.name)
        if len(data) != entry.size_bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
            raise ConfigError(f"{self.path}: {entry.name} is not the picture that was put in; {_again()}")
        try:
            return decode_image(data, Path(entry.name))
        except DatasetError as error:
            raise ConfigError(f"{self.path}: {error}") from error


def open_masters(path: Path) -> Masters:
    """Open a set. Its record is checked now, each picture when it is read.

    Raises:
        ConfigError: missing, damaged, changed, or of another format or kind.
    """
    return Masters(path, parse_record(_read(path, _RECORD).decode("utf-8", "replace"), path, MastersRecord))


def encode_masters(record: MastersRecord, pictures: Mapping[str, bytes]) -> bytes:
    """The file of a set: a .zip, by itself the same for the same contents.

    Args:
        record: what it holds.
        pictures: the PNGs by their names in the file.
    """
    buffer = io.BytesIO()
    # PNGs are packed already.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {_RECORD: record.text().encode(), **pictures}.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def _read(path: Path, name: str) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(name)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such master parts; make them by {MastersRecord.made_by}") from None
    except ZIP_DAMAGE as error:
        raise ConfigError(f"{path}: damaged, or no master parts ({name}: {error}); {_again()}") from error


def _again() -> str:
    return f"copy it again, or make it anew by {MastersRecord.made_by}"


@dataclass(frozen=True, slots=True)
class MasterOutcome:
    """How a master part came out.

    Attributes:
        part: the part.
        verdict: what it got.
        why: what is wrong with that, in words; empty where it is as expected.
    """

    part: MasterPart
    verdict: Verdict
    why: str

    def body(self) -> dict[str, Any]:
        """As JSON values."""
        part = self.part
        return {
            "name": part.name,
            "defect": part.defect,
            "size": part.size,
            "expected": part.expected,
            "verdict": self.verdict.name,
            "why": self.why,
        }

    def __str__(self) -> str:
        about = f"{self.part.defect}, {self.part.size}: " if self.part.defect else ""
        return f"{self.part.name} ({about}{self.why})"


@dataclass(frozen=True, slots=True)
class Recall:
    """How many of some known defects were found."""

    name: str
    found: int
    total: int
    least: float

    @property
    def holds(self) -> bool:
        """Whether as many as have to be."""
        # A share such as 0.9 is a little above or below nine of ten.
        return self.found >= self.least * self.total - 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class MastersResult:
    """How all master parts came out.

    Attributes:
        outcomes: of each part.
        types: recall by the type of the defects.
        sizes: recall by their size.
    """

    outcomes: tuple[MasterOutcome, ...]
    types: tuple[Recall, ...]
    sizes: tuple[Recall, ...]

    @classmethod
    def of(cls, record: MastersRecord, outcomes: Sequence[MasterOutcome]) -> MastersResult:
        """Count."""
        defective = [outcome for outcome in outcomes if not outcome.part.is_good]

        def recalls(limits: Sequence[RecallLimit], name: Callable[[MasterPart], str]) -> tuple[Recall, ...]:
            found = Counter(name(outcome.part) for outcome in defective if not outcome.why)
            return tuple(Recall(limit.name, found[limit.name], limit.parts, limit.least) for limit in limits)

        types = recalls(record.types, lambda part: part.defect)
        return cls(tuple(outcomes), types, recalls(record.sizes, lambda part: part.size))

    @property
    def known(self) -> int:
        """Defective parts."""
        return sum(not outcome.part.is_good for outcome in self.outcomes)

    @property
    def good(self) -> int:
        """Good parts."""
        return len(self.outcomes) - self.known

    @property
    def missed(self) -> tuple[MasterOutcome, ...]:
        """Known defects that were not found."""
        return tuple(outcome for outcome in self.outcomes if outcome.why and not outcome.part.is_good)

    @property
    def rejected(self) -> tuple[MasterOutcome, ...]:
        """Good parts that did not come out as such."""
        return tuple(outcome for outcome in self.outcomes if outcome.why and outcome.part.is_good)

    @property
    def passed(self) -> bool:
        """Whether as many defects were found as have to be, of each type and size."""
        return all(recall.holds for recall in (*self.types, *self.sizes))

    def body(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "passed": self.passed,
            "known": self.known,
            "found": self.known - len(self.missed),
            "good": self.good,
            "accepted": self.good - len(self.rejected),
            "missed": [outcome.body() for outcome in self.missed],
            "rejected": [outcome.body() for outcome in self.rejected],
            **{
                name: [
                    {"name": recall.name, "found": recall.found, "total": recall.total, "least": recall.least}
                    for recall in recalls
                ]
                for name, recalls in (("types", self.types), ("sizes", self.sizes))
            },
        }

    def told_missed(self) -> str:
        """Which known defects are missed, in a sentence; empty where none is."""
        return _told(self.missed, f"of {self.known} known defects are missed")

    def told_rejected(self) -> str:
        """Which good parts are rejected, in a sentence; empty where none is."""
        return _told(self.rejected, f"of {self.good} good master parts are not OK")


def _told(outcomes: Sequence[MasterOutcome], what: str) -> str:
    if not outcomes:
        return ""
    more = f"; and {len(outcomes) - _NAMED} more" if len(outcomes) > _NAMED else ""
    return f"{len(outcomes)} {what}: {'; '.join(map(str, outcomes[:_NAMED]))}{more}"


def run_masters(
    masters: Masters, classes: ClassMap, judge: Callable[[Frame], Inspection], *, camera: str
) -> MastersResult:
    """Judge all master parts, one after the other.

    Args:
        masters: the set.
        classes: of the network that judges.
        judge: what the line makes of a frame.
        camera: the name that the frames bear, for its scale.

    Raises:
        ConfigError: a picture is damaged, or the network does not have a class of theirs.
        InspectdError: what `judge` raises.
    """
    masters.hold_against(classes)
    outcomes = []
    for number, part in enumerate(masters.record.parts):
        labels = masters.labels(part)
        inspection = judge(masters.frame(part, number, camera=camera))
        why = fault_of(inspection, expected=Verdict[part.expected], class_name=part.class_name, labels=labels)
        outcomes.append(MasterOutcome(part, inspection.verdict, why))
    return MastersResult.of(masters.record, outcomes)


def fault_of(
    inspection: Inspection, *, expected: Verdict | None, class_name: str, labels: NDArray[np.bool_] | None
) -> str:
    """How a part that is known came out otherwise than it should, in words; empty where it did not.

    A defect is found where the verdict is the expected one, or NG, and a region that counts, of the right class,
    touches the label: a part that is rejected for something else would hide that the defect is no longer seen.

    Args:
        inspection: what came of it.
        expected: the verdict that it should have; None asks of a defective part only that it does not pass.
        class_name: of its defect; empty of a good part.
        labels: where the defect is, bool [H, W]; None where it may be anywhere, as on a part that was laid in by hand.
    """
    verdict, mask = inspection.verdict, inspection.mask
    if mask is None:
        return f"not inspected: {inspection.reason}"
    if not class_name:
        return "" if verdict is Verdict.OK else f"{verdict.name}, expected OK"
    if verdict is Verdict.OK or (expected is Verdict.NG and verdict is not Verdict.NG):
        return f"{verdict.name}, expected {'NG' if expected is None else expected.name}"
    seen = mask.labels == mask.classes.label(class_name)
    if labels is not None:
        if labels.shape != seen.shape:
            return f"its labels are {list(labels.shape)}, its picture {list(seen.shape)}"
        seen = seen & labels
    for defect in inspection.defects:
        x, y, width, height = defect.bbox_px
        if defect.class_name == class_name and seen[y : y + height, x : x + width].any():
            return ""
    return f"{verdict.name}, but not for the {class_name!r} that is known"
