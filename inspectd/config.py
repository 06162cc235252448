"""The configuration of a line: TOML in, validated models out, every error at once.

A configuration is a TOML file with the sections `station`, `cameras.<name>`, `model`, `acceptance` and
`publish`. Paths in it are relative to the file. `load_config` refuses what it does not know, and lists
everything that is wrong in one go, a line for each fault with the file and the dotted path of the setting.
"""

from __future__ import annotations

import difflib
import re
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from inspectd.errors import ConfigError
from inspectd.inspection import AcceptanceRule, ClassRule
from inspectd.mask import ClassMap
from inspectd.wire import CAMERA_NAME

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "ButtonsCamera",
    "Camera",
    "Config",
    "FolderCamera",
    "GenicamCamera",
    "ModelSettings",
    "Publish",
    "Station",
    "effective_rule",
    "load_config",
    "parse_config",
]


def _feature(value: object) -> object:
    if not isinstance(value, bool | int | float | str):
        raise ValueError(f"expected a boolean, a number or a string, got {value!r}")  # noqa: TRY004 - for pydantic
    return value


Feature = Annotated[bool | int | float | str, BeforeValidator(_feature)]
"""The value of a camera's feature, as TOML writes it."""

_PRODUCER_NAMES = ("viky", "simulator")
_ENDPOINT = re.compile(r"tcp://[^/\s:]+:(\d{1,5}|\*)|tcp://\[[0-9a-fA-F:]+\]:(\d{1,5}|\*)|ipc://\S+")


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: there is no such user on this machine") from error
    return path if path.is_absolute() or info.context is None else (info.context["directory"] / path).resolve()


ConfigPath = Annotated[Path, Strict(False), AfterValidator(_beside_the_file)]
"""A path of the configuration, relative to its file."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class Station(_Section):
    """The place on the line."""

    name: str = Field("station", min_length=1, max_length=64)
    """Name of the station; it stands in every message of the station's state."""
    state_dir: ConfigPath = Field(Path("state"), validate_default=True)
    """Folder for what must survive a restart, such as the count of starts (the epoch)."""


class _CameraSection(_Section):
    @property
    def free_running(self) -> bool:
        """Whether it goes on by itself: then the oldest waiting frame is dropped where the line is too slow."""
        return False

    @property
    def simulated(self) -> bool:
        """Whether its frames come from no real camera; its messages say so."""
        return True

    scale_mm_per_px: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Side of a pixel in the part's plane, mm; without it areas are in pixels alone."""
    queue_frames: int = Field(4, ge=1, le=256)
    """Frames that may wait for their inspection."""


class GenicamCamera(_CameraSection):
    """A camera behind a GenTL producer (a `.cti` file)."""

    source: Literal["genicam"]
    """Kind of the source."""
    producer: str
    """Path of the producer's `.cti`; or `viky`, the test producer inside the genicam package; or `simulator`."""
    device: str | None = Field(None, min_length=1)
    """Serial number, device id or user-defined name; needed where the producer finds more than one camera."""
    features: dict[str, Feature] = Field(default_factory=dict)
    """Features of the camera set before it starts, in this order; read back and compared."""
    trigger: str = Field("off", pattern=r"^[A-Za-z][A-Za-z0-9]*$")
    """What starts an exposure: `off`, it runs freely; else a `TriggerSource` of the camera: `Software`, `Line1`, …"""
    trigger_divider: int | None = Field(None, ge=1)
    """Every so many pulses of the trigger's source is one trigger (`TriggerDivider`), for encoders."""
    trigger_timeout_ms: int = Field(2000, ge=1)
    """A camera that does not answer a software trigger in so long is connected anew, ms; the part is not inspected."""
    timeout_ms: int | None = Field(None, ge=0)
    """A camera that delivers nothing for so long is lost, ms; 0 waits for ever. Without it 5000, triggered 0."""
    reconnect: bool = True
    """Whether a camera that is absent or lost is looked for again while the line runs; else it ends the line."""

    @property
    def free_running(self) -> bool:
        """Whether it goes on by itself: then the oldest waiting frame is dropped where the line is too slow."""
        return self.trigger == "off"

    @property
    def silence_ms(self) -> int:
        """After so long without a frame it is lost, ms; 0 for never."""
        if self.timeout_ms is not None:
            return self.timeout_ms
        return 5000 if self.free_running else 0

    @property
    def trigger_features(self) -> dict[str, Feature]:
        """The features that make it wait for its trigger, in their order."""
        if self.free_running:
            return {}
        divider: dict[str, Feature] = {"TriggerDivider": self.trigger_divider} if self.trigger_divider else {}
        return {
            "TriggerSelector": "FrameStart",
            "TriggerMode": "On",
            "TriggerSource": self.trigger,
            **divider,
        }

    @property
    def simulated(self) -> bool:
        """Whether its frames come from no real camera; its messages say so."""
        return self.producer in _PRODUCER_NAMES

    @field_validator("producer")
    @classmethod
    def _producer_beside_the_file(cls, producer: str, info: ValidationInfo) -> str:
        return producer if producer in _PRODUCER_NAMES else str(_beside_the_file(Path(producer), info))


class FolderCamera(_CameraSection):
    """A folder of pictures, in the order of their names."""

    source: Literal["folder"]
    """Kind of the source."""
    path: ConfigPath
    """The folder."""
    pattern: str = Field("*", min_length=1)
    """Which files, as a glob under the folder; `**/*.png` goes into sub-folders."""
    bits: int = Field(16, ge=8, le=16)
    """Bits that 16-bit files really use; the low ones above 8 are dropped, as in training."""
    fps: float | None = Field(None, gt=0, le=10_000)
    """Frames per second; without it as fast as the line takes them."""
    loop: bool = False
    """Start anew after the last picture."""


class ButtonsCamera(_CameraSection):
    """Rendered buttons: the built-in product."""

    source: Literal["buttons"]
    """Kind of the source."""
    seed: int = Field(0, ge=0)
    """The same seed gives the same parts."""
    defect_rate: float = Field(0.3, ge=0, le=1)
    """Share of the parts that have a defect."""
    fps: float | None = Field(None, gt=0, le=10_000)
    """Frames per second at most; rendering a part takes some 0.1 s."""
    size: int = Field(256, ge=64, le=1024, multiple_of=16)
    """Side of the picture, px; a multiple of 16."""
    ahead: int = Field(0, ge=0, le=10_000)
    """Parts that are rendered before the line starts, so that it can go faster than the renderer."""


Camera = Annotated[GenicamCamera | FolderCamera | ButtonsCamera, Field(discriminator="source")]


class ModelSettings(_Section):
    """The network that judges."""

    bundle: str = Field(min_length=1)
    """Path of the bundle, as `export-trt` writes it; or `demo`, the one for rendered buttons that is shipped."""
    backend: Literal["onnxruntime", "openvino", "tensorrt"] = "onnxruntime"
    """What runs the network: a processor by ONNX Runtime or OpenVINO, a GPU by an engine of TensorRT (or -RTX)."""
    precision: Literal["fp32", "bf16", "int8", "fp16"] | None = None
    """Its arithmetic; without it fp32, of tensorrt fp16. bf16 is OpenVINO's, int8 needs a bundle of `--int8`."""
    rebuild: bool = False
    """Where no engine of the bundle can be used on this GPU: build one before the line starts, compare and keep it."""
    fallback: Literal["refuse", "cpu"] = "refuse"
    """Where the GPU or its engine cannot be used at the start: end with the reason, or run on the processor in fp32."""
    threads: int = Field(0, ge=0, le=1024)
    """Threads of the engine; 0 takes a thread per core."""
    allow_uncertified: bool = False
    """Run a bundle too whose certificate says that it is not the network that was trained."""

    @field_validator("bundle")
    @classmethod
    def _bundle_beside_the_file(cls, bundle: str, info: ValidationInfo) -> str:
        return bundle if bundle == "demo" else str(_beside_the_file(Path(bundle), info))


class Publish(_Section):
    """Where the results go: INS1 messages on a ZeroMQ XPUB socket."""

    endpoint: str = "tcp://127.0.0.1:5560"
    """Address that subscribers connect to: `tcp://HOST:PORT` or `ipc://PATH`."""
    heartbeat_ms: int = Field(250, ge=10, le=10_000)
    """Period of the heartbeat, ms; a subscriber that misses three takes the line for dead."""
    mask_encoding: Literal["rle8", "rle8+zlib", "png8"] = "rle8"
    """How masks travel; `rle8+zlib` is a third of the size, for slow links."""
    preview: bool = False
    """Send a picture of every part beside its verdict."""

    @field_validator("endpoint")
    @classmethod
    def _endpoint(cls, endpoint: str) -> str:
        if not _ENDPOINT.fullmatch(endpoint):
            raise ValueError(
                f"expected tcp://HOST:PORT (tcp://*:5560 for every interface) or ipc://PATH, got {endpoint!r}"
            )
        return endpoint


class Config(_Section):
    """A whole configuration."""

    station: Station = Field(default_factory=Station)
    cameras: dict[str, Camera] = Field(min_length=1, max_length=64)
    model: ModelSettings
    acceptance: AcceptanceRule = AcceptanceRule()
    publish: Publish = Publish()

    @field_validator("cameras")
    @classmethod
    def _names(cls, cameras: dict[str, Camera]) -> dict[str, Camera]:
        for name in cameras:
            if not re.fullmatch(CAMERA_NAME, name):
                raise ValueError(f"camera name {name!r}: expected up to 64 letters, digits, '_', '-' or '.'")
        return cameras

    @model_validator(mode="after")
    def _areas_have_a_scale(self) -> Config:
        rules = {"default": self.acceptance.default}
        rules.update({f"classes.{name}": rule for name, rule in self.acceptance.classes.items()})
        asking = [name for name, rule in rules.items() if rule.minimum_area_mm2 is not None]
        without = [name for name, camera in self.cameras.items() if camera.scale_mm_per_px is None]
        if asking and without:
            raise ValueError(
                f"acceptance.{asking[0]}.minimum_area_mm2 needs cameras.{without[0]}.scale_mm_per_px, which is not set"
            )
        return self


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
