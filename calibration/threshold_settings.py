"""What a calibration of thresholds is asked for, and which pictures it is made from."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from inspectd.calibrated import InputFile
from inspectd.dataset import DEFECT_FREE_ROLES, ROLES, Dataset, Sample
from inspectd.errors import ConfigError, DatasetError

from .bounds import needed_trials, upper_bound
from .threshold_choice import cuts_allowed

__all__ = ["Digest", "Pictures", "ThresholdSettings", "percentage", "picture_bits", "select_pictures", "unit"]


@dataclass(frozen=True, slots=True)
class ThresholdSettings:
    """What is asked for.

    Attributes:
        max_false_reject: share of good parts that may be rejected, above 0 and below 1.
        confidence: of that, from 0.5 to below 1.
        roles: of the good pictures.
        defect_roles: of labelled or simulated defects; without any, the classes are treated evenly.
        minimum_area_px: smaller regions are let pass; None tries some, by the defects, and takes 1 px without them.
        minimum_area_mm2: the same in mm2; needs a scale.
        lowest_score: no threshold is set below; None takes 0.1, with several classes 1/2.
        bits: significant bits of 16-bit picture files; None takes those of the training.

    Raises:
        ConfigError: a value out of range, or a role on the wrong side.
    """

    max_false_reject: float
    confidence: float = 0.95
    roles: tuple[str, ...] = ("ok_calibration",)
    defect_roles: tuple[str, ...] = ()
    minimum_area_px: int | None = None
    minimum_area_mm2: float | None = None
    lowest_score: float | None = None
    bits: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.max_false_reject < 1:
            raise ConfigError(
                f"share of false rejects {100 * self.max_false_reject:g}%: expected more than 0% and less than 100%; "
                "no number of good parts shows that none is ever rejected"
            )
        if not 0.5 <= self.confidence < 1:
            raise ConfigError(
                f"confidence {100 * self.confidence:g}%: expected 50% or more and less than 100%; 95% is usual"
            )
        if self.minimum_area_px is not None and self.minimum_area_px < 1:
            raise ConfigError(f"minimum area {self.minimum_area_px} px: expected 1 px or more")
        if self.minimum_area_mm2 is not None and not 0 < self.minimum_area_mm2 < math.inf:
            raise ConfigError(f"minimum area {self.minimum_area_mm2:g} mm2: expected more than 0 mm2")
        if self.minimum_area_px is not None and self.minimum_area_mm2 is not None:
            raise ConfigError("minimum areas in px and in mm2 exclude each other; leave one of them out")
        if not self.roles:
            raise ConfigError(f"no role of good pictures: expected some of {', '.join(DEFECT_FREE_ROLES)}")
        for role in (*self.roles, *self.defect_roles):
            if role not in ROLES:
                raise ConfigError(f"unknown role {role!r}; the roles are {', '.join(ROLES)}")
        if wrong := [role for role in self.roles if role not in DEFECT_FREE_ROLES]:
            raise ConfigError(
                f"role {wrong[0]!r} holds labelled defects; good parts are of {', '.join(DEFECT_FREE_ROLES)}, "
                f"and defects are given by --defects {wrong[0]}"
            )
        if wrong := [role for role in self.defect_roles if role in DEFECT_FREE_ROLES]:
            raise ConfigError(f"role {wrong[0]!r} holds no defects; good parts are given by --roles {wrong[0]}")


def percentage(option: str, text: str) -> float:
    """A share written as "0.5%". The sign is asked for: 0.5 without it could be a half.

    Raises:
        ConfigError: it is written otherwise.
    """
    if found := re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*%\s*", text):
        # 0.1 / 100 is not 0.001.
        return float(f"{found[1]}e-2")
    near = text.replace(",", ".").strip().rstrip("%").strip()
    hint = f"; write {near}%" if re.fullmatch(r"\d*\.?\d+", near) else ""
    raise ConfigError(
        f"{option} {text}: expected a percentage with a decimal point and its sign, 0.5% for example{hint}"
    )


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pictures of a calibration.

    Attributes:
        root: name of the dataset.
        good: of good parts.
        parts: for each of them, which part it shows, numbered from 0.
        names: of the parts; of a part without a name that of its one photograph.
        named: whether the data name the part of every good picture.
        defects: with labelled defects; may be empty.
        bits: significant bits of 16-bit files.
    """

    root: str
    good: tuple[Sample, ...]
    parts: tuple[int, ...]
    names: tuple[str, ...]
    named: bool
    defects: tuple[Sample, ...]
    bits: int


def unit(sample: Sample) -> tuple[bool, str]:
    """What counts as one: the part, or the photograph where the part has no name."""
    return (True, sample.tile) if sample.tile else (False, sample.name)


def select_pictures(dataset: Dataset, settings: ThresholdSettings, provenance: dict[str, Any]) -> Pictures:
    """The pictures that a calibration is made from.

    Args:
        dataset: where they are.
        settings: what is asked for.
        provenance: of the bundle's card: what its network was trained on.

    Raises:
        ConfigError: too few good parts, or the network was trained on them.
        DatasetError: no pictures of a role.
    """
    good = dataset.select(*settings.roles)
    if not good:
        raise DatasetError(
            f"{dataset.root}: holds no defect-free picture of the role {', '.join(settings.roles)}, only "
            f"{dataset.summary}; give good pictures this role in split.csv, or name another by --roles"
        )
    trained = provenance.get("settings", {})
    seen = [role for role in settings.roles if role in trained.get("roles", ())]
    if seen and provenance.get("dataset") == dataset.root.resolve().name:
        raise ConfigError(
            f"{dataset.root}: the network was trained on the role {seen[0]!r} of it, and says less of parts that it "
            "knows than of others; take good parts that it has not seen, of the role ok_calibration"
        )
    units = list(dict.fromkeys(map(unit, good)))
    if not cuts_allowed(len(units), settings.max_false_reject, settings.confidence):
        raise ConfigError(_too_few(dataset, len(units), len(good), settings))
    defects = dataset.select(*settings.defect_roles) if settings.defect_roles else ()
    if settings.defect_roles and not defects:
        raise DatasetError(
            f"{dataset.root}: holds no picture of the role {', '.join(settings.defect_roles)}, only {dataset.summary}; "
            "leave out --defects to go by good parts alone"
        )
    number = {each: index for index, each in enumerate(units)}
    return Pictures(
        dataset.root.resolve().name,
        good,
        tuple(number[unit(sample)] for sample in good),
        tuple(name for _, name in units),
        all(named for named, _ in units),
        defects,
        picture_bits(settings.bits, provenance),
    )


def picture_bits(told: int | None, provenance: dict[str, Any]) -> int:
    """Significant bits of 16-bit files: as told, else as in the training."""
    return told or int(provenance.get("settings", {}).get("bits", 16))


def _too_few(dataset: Dataset, parts: int, pictures: int, settings: ThresholdSettings) -> str:
    rate, confidence = settings.max_false_reject, settings.confidence
    needed = needed_trials(rate, confidence)
    best = 100 * upper_bound(0, parts, confidence)
    # Rounded up to two digits, so that what is proposed can be had.
    step = 10.0 ** (math.floor(math.log10(best)) - 1)
    proposed = f"{math.ceil(best / step - 1e-9) * step:.6g}%"
    shown = "" if pictures == parts else f" ({pictures} photographs)"
    return (
        f"{dataset.root}: {parts} good parts{shown} of {', '.join(settings.roles)} are too few for at most "
        f"{100 * rate:g}% false rejects at {100 * confidence:g}% confidence: {needed} are needed, "
        f"{needed - parts} more; with these the least that can be asked for is --max-false-reject {proposed}"
    )


@dataclass(slots=True)
class Digest:
    """Which files were read. There are thousands of them: one digest stands for all."""

    entries: list[tuple[str, str]] = field(default_factory=list)
    size_bytes: int = 0

    def add(self, samples: Sequence[Sample]) -> None:
        """Take the pictures and masks of samples in.

        Raises:
            DatasetError: a file cannot be read.
        """
        for sample in samples:
            for path in (sample.image, *(mask for _, mask in sample.masks)):
                try:
                    data = path.read_bytes()
                except OSError as error:
                    raise DatasetError(f"{path}: cannot be read: {error.strerror}") from None
                self.entries.append((path.name, hashlib.sha256(data).hexdigest()))
                self.size_bytes += len(data)

    def entry(self, name: str) -> InputFile:
        """All of them as one file: the listing that sha256sum would give, sorted by name."""
        listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(self.entries))
        return InputFile(
            name=f"{name}: the list of {len(self.entries)} pictures and masks",
            sha256=hashlib.sha256(listing.encode()).hexdigest(),
            size_bytes=self.size_bytes,
        )
