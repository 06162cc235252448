"""Features of a camera that is open: what it has, and setting them.

Values come as text, as a command line gives them, and become what the feature takes.
"""

from __future__ import annotations

import difflib
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from inspectd.errors import CameraError, ConfigError

from .producers import Foreign, Producer, load_api, sigint_kept, tolerated
from .survey import FoundCamera

__all__ = [
    "Change",
    "Feature",
    "Value",
    "check_user_set",
    "feature_values",
    "features_of",
    "find_feature",
    "opened",
    "save_user_set",
    "set_feature",
    "split_feature",
    "write_feature",
]

Value: TypeAlias = bool | int | float | str
"""What a feature may hold."""
Kind: TypeAlias = Literal["integer", "float", "choice", "boolean", "text", "command"]

_KINDS: dict[str, Kind] = {
    "IInteger": "integer",
    "IFloat": "float",
    "IEnumeration": "choice",
    "IBoolean": "boolean",
    "IString": "text",
    "ICommand": "command",
}
# Access modes of GenApi.
_READABLE, _WRITABLE = (3, 4), (2, 4)
_NO_LIMIT = 2**63 - 1
_ROUNDING = 0.01  # cameras round times and rates to what their clocks can do
_SAVING_S = 10.0
_POLL_S = 0.05
_WORDS = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature of a camera, as it is now.

    Attributes:
        name: in the camera's manual.
        kind: what values it takes.
        value: None where it cannot be read (a command).
        minimum: smallest value; None where it has none.
        maximum: largest value.
        step: between values, from the smallest one on.
        unit: of the value, empty where it has none.
        choices: of a choice, those that can be taken now.
        writable: whether it can be set now.
    """

    name: str
    kind: Kind
    value: Value | None
    minimum: float | None
    maximum: float | None
    step: float | None
    unit: str
    choices: tuple[str, ...]
    writable: bool

    @property
    def expected(self) -> str:
        """What it takes, in words."""
        match self.kind:
            case "choice":
                return f"one of {', '.join(self.choices)}"
            case "boolean":
                return "true or false"
            case "command":
                return "true, which executes it"
            case "text":
                return "text"
            case _ if self.minimum is None or self.maximum is None:
                return self._number
            case _:
                unit = f" {self.unit}" if self.unit else ""
                step = f" in steps of {self.step}" if self.step not in {None, 0, 1} else ""
                return f"{self._number} from {self.minimum} to {self.maximum}{unit}{step}"

    @property
    def _number(self) -> str:
        return "a whole number" if self.kind == "integer" else "a number"


@dataclass(frozen=True, slots=True)
class Change:
    """What setting a feature did; `old` and `new` are None where it cannot be read."""

    name: str
    old: Value | None
    new: Value | None

    def __str__(self) -> str:
        return f"{self.name}: {self.old} -> {self.new}" if self.new is not None else f"{self.name}: done"


def split_feature(text: str) -> tuple[str, str]:
    """`Name=value` as name and value.

    Raises:
        ConfigError: it is none.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise ConfigError(f"{text!r}: expected NAME=VALUE, such as ExposureTime=2000")
    return name.strip(), value.strip()


def feature_values(texts: Iterable[str]) -> dict[str, Value]:
    """Features of a command line as a configuration has them: true and false, numbers, and what is left is text.

    Raises:
        ConfigError: one is no `Name=value`.
    """
    return {name: _value(text) for name, text in map(split_feature, texts)}


@contextmanager
def opened(camera: FoundCamera) -> Iterator[Foreign]:
    """The node map of a camera, for as long as it is held.

    Raises:
        CameraError: it is held elsewhere, gone, or breaks while it is held.
    """
    producer = Producer.share(Path(camera.producer))
    acquirer = None
    try:
        acquirer = _acquirer(producer, camera)
        with _broken(camera):
            yield acquirer.remote_device.node_map
    finally:
        if acquirer is not None:
            with tolerated("letting go of the camera"):
                acquirer.destroy()
        producer.release()


def _acquirer(producer: Producer, camera: FoundCamera) -> Foreign:
    api = load_api()
    devices = [device for device in producer.devices() if camera.id in device.names]
    if len(devices) != 1:
        raise CameraError(f"{camera}: is gone; check cable and power")
    try:
        with sigint_kept():
            acquirer = producer.harvester.create(devices[0].info)
    except (api.access_denied, api.in_use) as error:
        raise CameraError(
            f"{camera}: in use by another program (a line?), or by one that was killed and whose heartbeat has not run "
            f"out; close that program or wait 10 s ({error})"
        ) from error
    except ValueError as error:
        raise CameraError(f"{camera}: cannot be opened: {error}") from error
    except api.faults as error:
        raise CameraError(f"{camera}: cannot be opened: {error}") from error
    # Else it is destroyed once more when the interpreter ends, after the libraries under it.
    acquirer._finalizer.detach()  # noqa: SLF001 - there is no public way
    return acquirer


@contextmanager
def _broken(camera: FoundCamera) -> Iterator[None]:
    try:
        yield
    except load_api().faults as error:
        raise CameraError(f"{camera}: does not answer as it should: {error}") from error


def features_of(nodes: Foreign) -> list[Feature]:
    """Every feature that is there now, by name; commands and registers aside."""
    found = (find_feature(nodes, name) for name in _names(nodes))
    return [feature for feature in found if feature is not None and feature.value is not None]


def find_feature(nodes: Foreign, name: str) -> Feature | None:
    """A feature as it is now; None where the camera has none of that name, or not now."""
    node = _node(nodes, name)
    kind = _KINDS.get(type(node).__name__)
    if kind is None:
        return None
    asked = load_api().asked
    access = asked(lambda: int(node.get_access_mode()), 0)
    if access not in {*_READABLE, *_WRITABLE}:
        return None
    numeric = kind in {"integer", "float"}
    readable = access in _READABLE and kind != "command"
    return Feature(
        name=name,
        kind=kind,
        value=asked(lambda: node.value, None) if readable else None,
        minimum=_limit(asked(lambda: node.min, None)) if numeric and readable else None,
        maximum=_limit(asked(lambda: node.max, None)) if numeric and readable else None,
        step=asked(lambda: node.inc, None) if numeric and readable else None,
        unit=asked(lambda: str(node.unit or ""), "") if numeric else "",
        choices=asked(lambda: tuple(map(str, node.symbolics)), ()) if kind == "choice" else (),
        writable=access in _WRITABLE,
    )


def _value(text: str) -> Value:
    if text in {"true", "false"}:
        return text == "true"
    if re.fullmatch(r"[+-]?\d+|0[xX][0-9a-fA-F]+", text):
        return _integer(text)
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text):
        return float(text)
    return text.strip('"')  # quotes keep a number text


def _integer(text: str) -> int:
    return int(text, 16 if text[:2].lower() == "0x" else 10)


def _limit(number: float | None) -> float | None:
    """A limit, or None for the end of the number's type, which GenApi gives where there is none."""
    return None if number is None or abs(number) >= _NO_LIMIT else number


def set_feature(nodes: Foreign, name: str, text: str, *, camera: str) -> Change:
    """Set a feature to what a text says, and read it back.

    Args:
        nodes: the node map of an open camera.
        name: of the feature.
        text: the value; of a command `true`, which executes it.
        camera: for messages.

    Raises:
        CameraError: as `write_feature`.
    """
    feature = _writable(nodes, name, f"{camera}: feature {name!r}")
    return write_feature(nodes, name, _converted(feature, text, f"{camera}: feature {name!r}"), camera=camera)


def write_feature(nodes: Foreign, name: str, value: Value, *, camera: str) -> Change:
    """Set a feature and read it back.

    Args:
        nodes: the node map of an open camera.
        name: of the feature.
        value: of a command True, which executes it.
        camera: for messages.

    Raises:
        CameraError: there is no such feature, it takes no such value or none now, or answers with another one.
    """
    where = f"{camera}: feature {name!r}"
    feature = _writable(nodes, name, where)
    node, api = _node(nodes, name), load_api()
    try:
        if feature.kind == "command":
            if value is not True:
                raise CameraError(f"{where} is a command: true executes it, got {value!r}")
            node.execute()
            return Change(name, None, None)
        if feature.choices and value not in feature.choices:
            raise CameraError(f"{where}: {value!r} does not fit; expected {feature.expected}")
        node.value = value
        new = api.asked(lambda: node.get_value(False, True), None)
    except api.out_of_range as error:
        raise CameraError(f"{where}: {value!r} is out of range; expected {feature.expected}") from error
    except (api.invalid, TypeError, AttributeError) as error:
        raise CameraError(f"{where}: {value!r} does not fit; expected {feature.expected}") from error
    except api.access as error:
        raise CameraError(f"{where} cannot be written now; another feature may lock it ({error})") from error
    if new is not None and not _same(value, new):
        raise CameraError(f"{where}: was set to {value!r}, but the camera answers {new!r}; expected {feature.expected}")
    return Change(name, feature.value, new)


def _writable(nodes: Foreign, name: str, where: str) -> Feature:
    feature = find_feature(nodes, name)
    if feature is None:
        raise CameraError(f"{where} {_absence(nodes, name)}")
    if not feature.writable:
        raise CameraError(f"{where} cannot be written now; another feature may lock it")
    return feature


def save_user_set(
    nodes: Foreign,
    user_set: str,
    *,
    camera: str,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Write the camera's present features into one of its user sets, which outlives a power cycle.

    Raises:
        CameraError: it has no user sets, not this one, or does not get it done in 10 s.
    """
    check_user_set(nodes, user_set, camera=camera)
    set_feature(nodes, "UserSetSelector", user_set, camera=camera)
    set_feature(nodes, "UserSetSave", "true", camera=camera)
    deadline = clock() + _SAVING_S
    while not _node(nodes, "UserSetSave").is_done():
        if clock() >= deadline:
            raise CameraError(f"{camera}: has not saved {user_set} within {_SAVING_S:g} s; save it again")
        sleep(_POLL_S)


def check_user_set(nodes: Foreign, user_set: str, *, camera: str) -> None:
    """Whether a camera has a user set; better known before something is set.

    Raises:
        CameraError: it has none, or not this one.
    """
    selector = find_feature(nodes, "UserSetSelector")
    if selector is None or _node(nodes, "UserSetSave") is None:
        raise CameraError(f"{camera}: has no user sets, so nothing can be saved in it; name the features in the "
                          "line's configuration instead, which sets them at every start")  # fmt: skip
    if user_set not in selector.choices:
        raise CameraError(f"{camera}: has no user set {user_set!r}; expected one of {', '.join(selector.choices)}")


def _node(nodes: Foreign, name: str) -> Foreign:
    """A node, or None. `has_node` of genicam takes methods of the node map for nodes too."""
    return load_api().asked(lambda: nodes.get_node(name), None)


def _absence(nodes: Foreign, name: str) -> str:
    node = _node(nodes, name)
    if node is not None:
        return "is a category, not a value" if type(node).__name__ == "ICategory" else "is not available now"
    near = difflib.get_close_matches(name, _names(nodes), n=1)
    return f"does not exist{f'; did you mean {near[0]!r}?' if near else ''}"


def _names(nodes: Foreign) -> Sequence[str]:
    return [name for name in dir(nodes) if not name.startswith("_") and _node(nodes, name) is not None]


def _converted(feature: Feature, text: str, where: str) -> Value:
    try:
        match feature.kind:
            case "integer":
                return _integer(text)
            case "float":
                number = float(text)
                if not math.isfinite(number):
                    raise ValueError(text)
                return number
            case "boolean":
                return _WORDS[text.lower()]
            case "command":
                if not _WORDS[text.lower()]:
                    raise ValueError(text)
                return True
            case "choice" if text not in feature.choices:
                raise ValueError(text)
            case _:
                return text
    except (ValueError, KeyError):
        raise CameraError(f"{where}: {text} does not fit; expected {feature.expected}") from None


def _same(wanted: Value, got: Value) -> bool:
    if isinstance(got, float):
        return math.isclose(got, float(wanted), rel_tol=_ROUNDING)
    return got == wanted
