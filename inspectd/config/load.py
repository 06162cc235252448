"""From the text of a configuration to its models, with every fault in words."""

from __future__ import annotations

import difflib
import re
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from inspectd.errors import ConfigError
from inspectd.inspection import AcceptanceRule, ClassRule
from inspectd.mask import ClassMap

from .sections import ButtonsCamera, Config, FolderCamera, GenicamCamera

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["effective_rule", "load_config", "parse_config"]


def load_config(path: Path, *, bundle: str | None = None) -> Config:
    """Read and check a configuration file.

    Args:
        path: the TOML file.
        bundle: takes the place of `model.bundle`; relative to the working directory.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or something in it is wrong; every fault, one a line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; examples are in deploy/config/") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); expected a TOML file in UTF-8") from error
    return parse_config(text, path, bundle=bundle)


def parse_config(text: str, path: Path, *, bundle: str | None = None) -> Config:
    """Check the text of a configuration; `path` gives its folder and its name in messages.

    Raises:
        ConfigError: as `load_config`.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    # So that its defaults are relative to the file like all others.
    data.setdefault("station", {})
    if bundle is not None:
        model = data.setdefault("model", {})
        if isinstance(model, dict):
            model["bundle"] = bundle if bundle == "demo" else str(Path(bundle).expanduser().absolute())
    try:
        return Config.model_validate(data, context={"directory": path.absolute().parent})
    except ValidationError as error:
        # Two settings of a union may report the same fault; the order of the file is kept.
        faults = dict.fromkeys(_describe(fault, data) for fault in error.errors(include_url=False))
        raise ConfigError("\n".join(f"{path}: {fault}" for fault in faults)) from None


def effective_rule(rule: AcceptanceRule, classes: ClassMap, thresholds: Mapping[str, float]) -> AcceptanceRule:
    """The rule that the line judges by, each class spelt out.

    What a class's section does not set comes from the default section, and a score from the bundle.

    Args:
        rule: the rule of the configuration.
        classes: the classes of the bundle.
        thresholds: the bundle's threshold of each class, 0..1.

    Raises:
        ConfigError: the rule names a class that the bundle lacks, or a review score is not below the bundle's
            threshold; every fault, one a line.
    """
    faults = []
    for name in rule.unknown_classes(classes):
        near = _suggestion(name, classes.names)
        faults.append(f"acceptance.classes.{name}: the bundle has no such class{near}; it has {_listed(classes.names)}")
    spelt_out = {}
    said_of_all = rule.default.model_dump(exclude_unset=True)
    for name in classes.names:
        own = rule.classes.get(name)
        values = {"score": thresholds[name], **said_of_all, **(own.model_dump(exclude_unset=True) if own else {})}
        review_score = values.get("review_score")
        if review_score is not None and review_score >= values["score"]:
            faults.append(
                f"acceptance: review_score {review_score:g} of class {name!r} is not below its score "
                f"{values['score']:g} (the bundle's, where none is set)"
            )
            continue
        try:
            spelt_out[name] = ClassRule.model_validate(values)
        except ValidationError as error:
            faults += [f"acceptance: class {name!r}: {fault['msg']}" for fault in error.errors()]
    if faults:
        raise ConfigError("\n".join(faults))
    return AcceptanceRule(default=rule.default, classes=spelt_out)


def _describe(fault: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    kind, location = fault["type"], [part for part in fault["loc"] if part != "[key]"]
    value = fault["input"]
    if len(location) > 2 and location[0] == "cameras":
        del location[2]  # the discriminator, which is no level of the file
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        location.append("source")
        kinds = ("genicam", "folder", "buttons")
        if kind == "union_tag_not_found":
            return f"{_dotted(location)}: missing; expected one of {_listed(kinds)}"
        tag = str(fault["ctx"]["tag"])
        return f"{_dotted(location)}: expected one of {_listed(kinds)}, got {tag!r}{_suggestion(tag, kinds)}"
    if kind == "extra_forbidden":
        known = _settings(location[:-1], data)
        return f"{_dotted(location)}: unknown setting{_suggestion(str(location[-1]), known)}; known: {_listed(known)}"
    if kind == "missing":
        return f"{_dotted(location)}: missing; it has to be set"
    message = fault["msg"].removeprefix("Value error, ")
    if message.startswith(("Input should be", "String should")):
        expected = re.sub(r"^(Input|String) should (be |have )?", "", message)
        expected = re.sub(r"^(greater|less) than", r"a value \1 than", expected)
        message = f"expected {expected}, got {value!r}"
    return f"{_dotted(location)}: {message}" if location else message


def _settings(location: Sequence[int | str], data: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings that a section of the file may hold."""
    section: Any = Config
    for depth, part in enumerate(location):
        if isinstance(section, type) and issubclass(section, BaseModel):
            section = section.model_fields[str(part)].annotation
        else:  # a table of sections with free names
            section = typing.get_args(section)[1]
        if depth == 1 and location[0] == "cameras":
            kinds = {"genicam": GenicamCamera, "folder": FolderCamera, "buttons": ButtonsCamera}
            section = kinds[data["cameras"][part]["source"]]
    return tuple(section.model_fields)


def _suggestion(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _dotted(location: Sequence[int | str]) -> str:
    return ".".join(str(part) for part in location)
