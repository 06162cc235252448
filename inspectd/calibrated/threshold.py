"""What the calibration of thresholds says: the rule, what is promised of it, and what it was seen to do.

It knows what a rule is, and rules know of what `inspectd.calibrated` exports, so it is imported by its own name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from inspectd.errors import ConfigError
from inspectd.inspection import AcceptanceRule, ClassRule

from .plane import Scale
from .record import Part, Record

__all__ = ["ChosenClass", "CurvePoint", "Found", "GoodPart", "ThresholdRecord"]

_DIGEST_LENGTH = 64


class ChosenClass(Part):
    """The rule of one class."""

    name: str
    """The class."""
    score: float = Field(gt=0, le=1)
    """A pixel belongs to it from this probability on."""
    minimum_area_px: int = Field(ge=1)
    """Smaller regions are let pass, px of the camera."""
    minimum_area_mm2: float | None = Field(None, gt=0)
    """Smaller regions are let pass, by the size of each pixel on the part; None where areas are in px."""

    @property
    def minimum_area(self) -> str:
        """Its minimum area with its unit, for people."""
        return f"{self.minimum_area_px} px" if self.minimum_area_mm2 is None else f"{self.minimum_area_mm2:g} mm2"


class Found(Part):
    """How many of some defects the rule finds, judged as the line does."""

    name: str
    """Which defects."""
    parts: int = Field(ge=1)
    """Parts that they are on."""
    total: int = Field(ge=1)
    """Photographs, or labelled regions."""
    found: int = Field(ge=0)
    """Of photographs: rejected ones. Of regions: those that a region which counts touches."""
    low: float = Field(ge=0, le=1)
    """Lower end of the 95 % interval of found / total, as if each part had been seen once."""
    high: float = Field(ge=0, le=1)
    """Upper end."""

    @property
    def recall(self) -> float:
        """Share of them."""
        return self.found / self.total


class CurvePoint(Part):
    """What another number of rejected good parts would give; one for itself, not all of them together."""

    false_reject_bound: float = Field(ge=0, le=1)
    """Upper bound of the share of good parts rejected, with the record's confidence."""
    recall: float | None = Field(ge=0, le=1)
    """Mean over the defect types of the share of photographs rejected; None without defects."""
    scores: tuple[float, ...]
    """Of each class."""
    minimum_areas_px: tuple[int, ...]
    """Of each class."""
    minimum_areas_mm2: tuple[float, ...] = ()
    """Of each class, 0 for none; empty where areas are in px."""


class GoodPart(Part):
    """One of the good parts nearest to being rejected, or rejected."""

    name: str
    """The part, or its photograph where parts are not named."""
    picture: str
    """The photograph of it that comes nearest."""
    class_name: str
    """The class in which it does."""
    reaches: float = Field(ge=0, le=1)
    """Highest threshold that a region of the minimum area still reaches there; 0 where none reaches the lowest one."""
    rejected: bool
    """Whether the rule rejects it."""


class ThresholdRecord(Record):
    """The thresholds and minimum areas of a bundle's classes, chosen on good parts."""

    made_by: ClassVar[str] = "inspectd-calibrate threshold"

    kind: Literal["threshold"] = "threshold"
    """What was calibrated."""
    bundle_sha256: str
    """Digest of the bundle whose network it is for."""
    engine: str
    """What ran the network: another arithmetic gives other probabilities."""
    max_false_reject: float = Field(gt=0, lt=1)
    """Share of good parts that may be rejected."""
    confidence: float = Field(gt=0, lt=1)
    """Share of such calibrations in which that holds, at least."""
    false_reject_bound: float = Field(ge=0, le=1)
    """What is excluded with that confidence; at most `max_false_reject`."""
    roles: tuple[str, ...]
    """Of the good pictures."""
    good_parts: int = Field(ge=1)
    """Units of the bound: parts, however often each was photographed."""
    good_pictures: int = Field(ge=1)
    """Photographs of them."""
    parts_named: bool
    """Whether the data say which photographs show one part; else each was taken for a part."""
    cuts: int = Field(ge=1)
    """Good parts that could be cut off; at most one less is rejected."""
    good_parts_rejected: int = Field(ge=0)
    """Good parts with a photograph that the rule rejects, judged as the line does."""
    candidates: tuple[tuple[int, ...], ...]
    """Minimum areas that were tried, px, of each class; each one has its share of 1 - confidence."""
    candidates_mm2: tuple[tuple[float, ...], ...] = ()
    """The same in mm2, 0 for none; empty where areas are in px."""
    scale: str | None = None
    """What measured areas in mm2: sha256 of the scale's record, or its one figure; None where areas are in px."""
    classes: tuple[ChosenClass, ...]
    """The rule."""
    card_scores: tuple[float, ...]
    """Thresholds of the bundle's card, for comparison."""
    defect_roles: tuple[str, ...]
    """Of the labelled defects; empty where there were none."""
    types: tuple[Found, ...]
    """Photographs by the type of their defects."""
    sizes: tuple[Found, ...]
    """Labelled regions by their size."""
    curve: tuple[CurvePoint, ...]
    """Recall against the bound."""
    nearest: tuple[GoodPart, ...]
    """The good parts nearest to being rejected, first the rejected ones."""
    remarks: tuple[str, ...]
    """What the figures must not be read without."""

    @property
    def rule(self) -> AcceptanceRule:
        """As the line judges by."""
        return AcceptanceRule(
            classes={
                each.name: ClassRule(
                    score=each.score,
                    minimum_area_px=each.minimum_area_px,
                    minimum_area_mm2=each.minimum_area_mm2,
                    maximum_count=0,
                )
                for each in self.classes
            }
        )

    def hold_against(self, bundle_sha256: str, rule: AcceptanceRule) -> None:
        """Whether it was made for what a line judges by.

        Args:
            bundle_sha256: digest of the bundle.
            rule: with each class of the bundle spelt out.

        Raises:
            ConfigError: another bundle, or another rule: what was promised does not hold; every fault.
        """
        faults = []
        if bundle_sha256 != self.bundle_sha256:
            faults.append(f"it is of bundle {self.bundle_sha256[:12]}, and this is bundle {bundle_sha256[:12]}")
        else:
            for each in self.classes:
                here, there = rule.rule(each.name).model_dump(), self.rule.rule(each.name).model_dump()
                faults += [
                    f"{name} of class {each.name!r} is {here[name]}, and {there[name]} was calibrated"
                    for name in there
                    if here[name] != there[name]
                ]
        if faults:
            raise ConfigError(
                f"the threshold calibration of {self.made:%Y-%m-%d} does not fit: {'; '.join(faults)}; take "
                f"what stands in its .toml, calibrate anew by {self.made_by}, or leave acceptance.record out"
            )

    def doubts(self, engine: str, scales: Mapping[str, Scale | None]) -> str:
        """Why the promise may not hold although the rule is as it was calibrated; empty where it does.

        Args:
            engine: what runs the network now.
            scales: what measures each camera's pictures in mm.
        """
        if engine != self.engine:
            return (
                f"the thresholds were calibrated on {self.engine}, and {engine} judges: how many good parts are "
                "rejected is not known; calibrate them anew with its --backend and --precision"
            )
        for camera, scale in scales.items():
            if self.scale is not None and (scale is None or scale.name != self.scale):
                own = "none" if scale is None else _short(scale.name)
                return (
                    f"the minimum areas were calibrated with the scale {_short(self.scale)}, and that of camera "
                    f"{camera!r} is {own}: how many good parts are rejected is not known; calibrate them anew with "
                    "--config"
                )
        return ""

    def toml(self, name: str) -> str:
        """The section `[acceptance]` of a line's configuration; `name` is that of the record's file beside it."""
        lines = [
            f"# By {self.made_by} on {self.made:%Y-%m-%d}, from {self.good_parts} good parts: with "
            f"{self.confidence:.6g} confidence at most",
            f"# {self.max_false_reject:.6g} of the good parts are rejected. For bundle {self.bundle_sha256[:12]} on "
            f"{self.engine} alone.",
            f"# Record: sha256 {self.sha256}",
            "",
            "[acceptance]",
            f"record = {_quoted(name)}",
        ]
        for each in self.classes:
            lines += [
                "",
                f"[acceptance.classes.{_quoted(each.name)}]",
                f"score = {each.score!r}",
                f"minimum_area_px = {each.minimum_area_px}",
                *([] if each.minimum_area_mm2 is None else [f"minimum_area_mm2 = {each.minimum_area_mm2!r}"]),
                "maximum_count = 0",
            ]
        return "\n".join(lines) + "\n"


def _short(name: str) -> str:
    """Of a digest as much as people compare, of a figure all."""
    return name[:12] if len(name) == _DIGEST_LENGTH else name


def _quoted(text: str) -> str:
    """A TOML basic string, which is written as JSON writes one."""
    return json.dumps(text, ensure_ascii=False)
