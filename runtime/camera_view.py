"""What a camera can do, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from .sources.features import Feature
from .sources.pixel_formats import PIXEL_FORMATS
from .sources.survey import FoundCamera, Surveyed

__all__ = ["description", "feature_table", "overview_table", "survey_table"]

_STYLES = {"free": "green", "in use": "yellow", "unreachable": "red"}
# What cameras call it: today's name of the standard first, then those of older cameras.
_SUBJECTS: Mapping[str, Sequence[str]] = {
    "width": ("Width",),
    "height": ("Height",),
    "exposure": ("ExposureTime", "ExposureTimeAbs", "ExposureTimeRaw"),
    "gain": ("Gain", "GainAbs", "GainRaw"),
    "rate": ("AcquisitionFrameRate", "AcquisitionFrameRateAbs", "AcquisitionLineRate"),
    "trigger": ("TriggerMode",),
    "trigger sources": ("TriggerSource",),
    "user sets": ("UserSetSelector",),
    "starts with": ("UserSetDefault", "UserSetDefaultSelector"),
}


def survey_table(surveyed: Sequence[Surveyed]) -> Table:
    """The cameras of all producers; a producer without one has its line too."""
    table = Table("producer", "model", "serial", "id", "name", "state", box=box.SIMPLE)
    for answer in surveyed:
        producer = Text(answer.producer, overflow="fold")
        if answer.fault:
            table.add_row(producer, Text("cannot be used", "red"), "", "", "", Text(answer.fault, overflow="fold"))
        elif not answer.cameras:
            table.add_row(producer, Text("finds no camera", "yellow"))
        for camera in answer.cameras:
            state = Text(camera.state, _STYLES.get(camera.state, ""))
            names = (camera.model, camera.serial, camera.id, camera.user_name)
            table.add_row(producer, *(Text(name, overflow="fold") for name in names), state)
    return table


def overview_table(camera: FoundCamera, features: Sequence[Feature]) -> Table:
    """What matters first: formats, size, exposure, gain, rate, trigger, user sets."""
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_row("camera", Text(str(camera)))
    table.add_row("producer", Text(camera.producer, overflow="fold"))
    for line in _formats(features):
        words = [*(["sent now"] if line["current"] else []), *([] if line["readable"] else ["inspectd cannot read it"])]
        remark = f" ({', '.join(words)})" if words else ""
        table.add_row("format", Text(line["name"] + remark))
    for subject, feature in _subjects(features).items():
        if feature is None:
            table.add_row(subject, Text("none", "dim"))
        else:
            table.add_row(subject, Text(f"{feature.name} = {value_of(feature)}, {feature.expected}"))
    return table


def feature_table(features: Sequence[Feature]) -> Table:
    """Every feature with its value and what it takes."""
    table = Table("feature", "", "value", "takes", box=box.SIMPLE)
    for feature in features:
        access = "" if feature.writable else "read only"
        takes = feature.expected if feature.writable else ""
        table.add_row(feature.name, Text(access, "dim"), Text(value_of(feature)), Text(takes, overflow="fold"))
    return table


def description(camera: FoundCamera, features: Sequence[Feature], *, everything: bool) -> dict[str, Any]:
    """The same for programs."""
    subjects = {
        subject.replace(" ", "_"): None if feature is None else asdict(feature)
        for subject, feature in _subjects(features).items()
    }
    described: dict[str, Any] = {"camera": asdict(camera), "formats": _formats(features), **subjects}
    if everything:
        described["features"] = [asdict(feature) for feature in features]
    return described


def value_of(feature: Feature) -> str:
    """A feature's value with its unit."""
    value = str(feature.value).lower() if isinstance(feature.value, bool) else str(feature.value)
    return f"{value} {feature.unit}" if feature.unit else value


def _formats(features: Sequence[Feature]) -> list[dict[str, Any]]:
    found = next((feature for feature in features if feature.name == "PixelFormat"), None)
    if found is None:
        return []
    return [{"name": name, "readable": name in PIXEL_FORMATS, "current": name == found.value} for name in found.choices]


def _subjects(features: Sequence[Feature]) -> dict[str, Feature | None]:
    known = {feature.name: feature for feature in features}
    return {
        subject: next((known[name] for name in names if name in known), None) for subject, names in _SUBJECTS.items()
    }
