"""The verdict on a part, and the rule that gives it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from pydantic import BaseModel, ConfigDict, Field, model_validator

from inspectd.calibrated import ImageNumbers
from inspectd.defect import Defect
from inspectd.frame import Frame
from inspectd.mask import ClassMap, Mask

__all__ = ["AcceptanceRule", "ClassRule", "ImageHealth", "Inspection", "Timings", "Verdict"]


class Verdict(IntEnum):
    """What became of a part; the values are those on the wire. Any failure is NOT_INSPECTED."""

    OK = 1
    NG = 2
    REVIEW = 3
    NOT_INSPECTED = 4


class ClassRule(BaseModel):
    """When a region of one class counts as a defect, and how many of them a part may have."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    score: float = Field(0.5, gt=0, le=1)
    """A pixel belongs to the class from this probability on."""
    review_score: float | None = Field(None, gt=0, le=1)
    """From this probability on, below `score`, the part goes to REVIEW."""
    minimum_area_px: int = Field(1, ge=1)
    """Smaller regions are let pass, camera px."""
    minimum_area_mm2: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Smaller regions are let pass; needs the camera's scale."""
    maximum_count: int = Field(0, ge=0)
    """Regions that a good part may have."""

    @model_validator(mode="after")
    def _consistent(self) -> ClassRule:
        # Regions are formed from review_score on, and two sure ones may then be one: they could not be counted.
        if self.review_score is not None and self.maximum_count:
            raise ValueError("review_score and maximum_count cannot be combined; leave one of them out")
        # A score that is not set comes from the bundle; only then is it known what to compare with.
        if "score" in self.model_fields_set and self.review_score is not None and self.review_score >= self.score:
            raise ValueError(f"review_score {self.review_score} must be below score {self.score}")
        return self


class AcceptanceRule(BaseModel):
    """A rule for each class; `default` holds for classes that are not named, and for what a class does not set."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    default: ClassRule = ClassRule()
    """The rule of classes that are not named, and for what a class does not set."""
    classes: dict[str, ClassRule] = Field(default_factory=dict)
    """Rules of classes by their names."""

    def rule(self, class_name: str) -> ClassRule:
        """The rule that holds for a class."""
        return self.classes.get(class_name, self.default)

    def thresholds(self, classes: ClassMap) -> tuple[float, ...]:
        """The probability from which on a pixel belongs to each class; what the engine is run with."""
        return tuple(rule.review_score or rule.score for rule in map(self.rule, classes.names))

    def unknown_classes(self, classes: ClassMap) -> tuple[str, ...]:
        """Classes that are named here and that the network does not have."""
        return tuple(sorted(set(self.classes) - set(classes.names)))

    def relevant(self, defects: Iterable[Defect]) -> tuple[Defect, ...]:
        """The defects that are large enough to matter.

        Raises:
            ValueError: a rule asks for mm2 and a defect has none.
        """
        kept = []
        for defect in defects:
            rule = self.rule(defect.class_name)
            if rule.minimum_area_mm2 is not None:
                if defect.area_mm2 is None:
                    raise ValueError(f"the rule of {defect.class_name!r} asks for mm2, but the camera has no scale")
                if defect.area_mm2 < rule.minimum_area_mm2:
                    continue
            if defect.area_px >= rule.minimum_area_px:
                kept.append(defect)
        return tuple(kept)

    def judge(self, defects: Iterable[Defect]) -> Verdict:
        """OK, NG or REVIEW for what `relevant` kept."""
        sure: Counter[str] = Counter()
        possible: Counter[str] = Counter()
        for defect in defects:
            possible[defect.class_name] += 1
            sure[defect.class_name] += defect.score >= self.rule(defect.class_name).score
        if any(count > self.rule(name).maximum_count for name, count in sure.items()):
            return Verdict.NG
        if any(count > self.rule(name).maximum_count for name, count in possible.items()):
            return Verdict.REVIEW
        return Verdict.OK


@dataclass(frozen=True, slots=True)
class ImageHealth:
    """How good the picture of a part is.

    Attributes:
        numbers: the numbers.
        faults: what is the matter, in words; empty where it is like the good ones.
    """

    numbers: ImageNumbers
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one frame went, ms; `wait_ms` is from its arrival to the start of its inspection."""

    wait_ms: float = 0.0
    pre_ms: float = 0.0
    infer_ms: float = 0.0
    post_ms: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Inspection:
    """What was found on one frame.

    Attributes:
        frame: the frame.
        verdict: OK, NG, REVIEW or NOT_INSPECTED.
        defects: what counts by the rule, in camera pixels.
        mask: classes in camera pixels; None if and only if not inspected.
        timings: where the time went.
        bundle_digest: sha256 of the bundle that judged, hexadecimal.
        reason: why it was not inspected; empty otherwise.
        image: how good the picture is; None where nobody knows what good ones look like.
        calibration: sha256 of each record that was used, by its kind; with `flat_field` the frame is a corrected one.

    Raises:
        ValueError: a combination that would let an uninspected part look inspected.
    """

    frame: Frame
    verdict: Verdict
    defects: tuple[Defect, ...]
    mask: Mask | None
    bundle_digest: str
    timings: Timings = field(default_factory=Timings)
    reason: str = ""
    image: ImageHealth | None = None
    calibration: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        inspected = self.verdict is not Verdict.NOT_INSPECTED
        if inspected != (self.mask is not None):
            raise ValueError(f"a part with verdict {self.verdict.name} must {'' if inspected else 'not '}have a mask")
        if inspected == bool(self.reason):
            raise ValueError("NOT_INSPECTED, and it alone, carries a reason")
        if not inspected and self.defects:
            raise ValueError("a part that was not inspected cannot show defects")
        if self.mask is not None and self.mask.labels.shape != (self.frame.height, self.frame.width):
            raise ValueError(
                f"the mask is {list(self.mask.labels.shape)}, the frame {[self.frame.height, self.frame.width]}"
            )
