"""The sections of a configuration. Their docstrings are the meanings that docs/configuration.md lists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationInfo,
    field_validator,
    model_validator,
)

from inspectd.inspection import AcceptanceRule
from inspectd.wire import CAMERA_NAME

__all__ = [
    "Acceptance",
    "Archive",
    "Augment",
    "ButtonsCamera",
    "Camera",
    "Challenge",
    "Config",
    "Control",
    "Feature",
    "FolderCamera",
    "GenicamCamera",
    "Golden",
    "Health",
    "Journal",
    "Log",
    "ModelSettings",
    "Publish",
    "Role",
    "Security",
    "Station",
]

Role = Literal["viewer", "operator", "engineer"]
"""What a client may do; each one may also do what those before it may."""


def _feature(value: object) -> object:
    if not isinstance(value, bool | int | float | str):
        raise ValueError(f"expected a boolean, a number or a string, got {value!r}")  # noqa: TRY004 - for pydantic
    return value


Feature = Annotated[bool | int | float | str, BeforeValidator(_feature)]
"""The value of a camera's feature, as TOML writes it."""

TimeOfDay = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]

TRIGGERED_DEADLINE_MS = 1000
"""The deadline of triggered cameras where none is set."""
_PRODUCER_NAMES = ("viky", "simulator")
_ENDPOINT = re.compile(r"tcp://[^/\s:]+:(\d{1,5}|\*)|tcp://\[[0-9a-fA-F:]+\]:(\d{1,5}|\*)|ipc://[^@\s]\S*")


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: there is no such user on this machine") from error
    return path if path.is_absolute() or info.context is None else (info.context["directory"] / path).resolve()


ConfigPath = Annotated[Path, Strict(False), AfterValidator(_beside_the_file)]
"""A path of the configuration, relative to its file."""


def _checked_endpoint(endpoint: str) -> str:
    if not _ENDPOINT.fullmatch(endpoint):
        raise ValueError(f"expected tcp://HOST:PORT (tcp://*:5560 for every interface) or ipc://PATH, got {endpoint!r}")
    return endpoint


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class Station(_Section):
    """The place on the line."""

    name: str = Field("station", min_length=1, max_length=64)
    """Name of the station; it stands in every message of the station's state."""
    state_dir: ConfigPath = Field(Path("state"), validate_default=True)
    """Folder for what must survive a restart: the count of starts (the epoch), the journal, models that were loaded."""
    start: Literal["automatic", "manual"] = "automatic"
    """At the start: `automatic`, the line runs; `manual`, it waits in Preoperational for a client of `control`."""


class _CameraSection(_Section):
    @property
    def free_running(self) -> bool:
        """Whether it goes on by itself: then the oldest waiting frame is dropped where the line is too slow."""
        return False

    @property
    def simulated(self) -> bool:
        """Whether its frames come from no real camera; its messages say so."""
        return True

    @property
    def verdict_within_ms(self) -> int | None:
        """So long after its frame was received a part has its verdict, ms; None for no limit."""
        return self.deadline_ms

    scale_mm_per_px: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Side of a pixel in the part's plane, mm; without it and without `scale` areas are in pixels alone."""
    scale: ConfigPath | None = None
    """How large each of its pixels is in the part's plane: a file of `inspectd-calibrate scale`."""
    flat_field: ConfigPath | None = None
    """What its frames are corrected by before all else: a file of `inspectd-calibrate flat-field`."""
    image_health: ConfigPath | None = None
    """What good pictures of it look like: a file of `inspectd-calibrate image`. Without it every picture is judged."""
    image_fault: Literal["refuse", "alarm"] = "refuse"
    """What a picture unlike the good ones costs: refuse lets no part pass by it (NOT_INSPECTED), alarm only tells."""
    queue_frames: int = Field(4, ge=1, le=256)
    """Frames that may wait for their inspection."""
    deadline_ms: int | None = Field(None, ge=10, le=600_000)
    """What is not judged so long after it was received is NOT_INSPECTED, ms; unset 1000 if triggered, else never."""


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
    frozen_frames: int | None = Field(None, ge=0, le=1000)
    """From so many identical pictures in a row on they are NOT_INSPECTED; 0 never. Without it 2, simulated 0."""

    @field_validator("frozen_frames")
    @classmethod
    def _one_is_always_identical(cls, frames: int | None) -> int | None:
        if frames == 1:
            raise ValueError("1 would refuse every picture; expected 2 or more, or 0 to refuse none")
        return frames

    @property
    def refuses_from(self) -> int:
        """From so many identical pictures in a row on they are not inspected; 0 for never."""
        if self.frozen_frames is not None:
            return self.frozen_frames
        return 0 if self.simulated else 2

    @property
    def free_running(self) -> bool:
        """Whether it goes on by itself: then the oldest waiting frame is dropped where the line is too slow."""
        return self.trigger == "off"

    @property
    def verdict_within_ms(self) -> int | None:
        """So long after its frame was received a part has its verdict, ms; None for no limit."""
        if self.deadline_ms is not None or self.free_running:
            return self.deadline_ms
        return TRIGGERED_DEADLINE_MS

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
    models_dir: ConfigPath | None = None
    """Folder of the bundles that `load_model` may name; without it the folder that `bundle` lies in."""
    trusted_keys: ConfigPath | None = None
    """File of public keys, one a line; with it only bundles that one of them has signed are run."""
    watch_frames: int = Field(50, ge=0, le=100_000)
    """So many frames after a swap one that fails brings the model before back by itself."""

    @field_validator("bundle")
    @classmethod
    def _bundle_beside_the_file(cls, bundle: str, info: ValidationInfo) -> str:
        return bundle if bundle == "demo" else str(_beside_the_file(Path(bundle), info))


class Acceptance(AcceptanceRule):
    """A rule for each class, and what vouches for it."""

    record: ConfigPath | None = None
    """What `inspectd-calibrate threshold` wrote: the line does not judge by another bundle or by other rules."""


class Golden(_Section):
    """Master parts: known defects that the line has to find again and again."""

    file: ConfigPath | None = None
    """The set, as `inspectd-calibrate golden` writes it; judged at every start, after every change of model or rule."""
    on_failure: Literal["error", "alarm"] = "error"
    """What it costs where too few are found, or the set cannot be used: the state Error, or an alarm alone."""
    at: list[TimeOfDay] = Field(default_factory=list, max_length=48)
    """Times of day at which they are judged too, such as the starts of shifts: `["06:00", "14:00"]`, local time."""
    every_h: float | None = Field(None, ge=0.001, le=1000, allow_inf_nan=False)
    """So long after they were last judged they are judged again, hours."""
    camera: str | None = None
    """Camera that the pictures are of, for its scale; without it the first."""
    paint: int = Field(0, ge=0, le=16)
    """Pictures of now that each known defect is also painted on and has to be found on; 0 is none."""

    @model_validator(mode="after")
    def _has_a_file(self) -> Golden:
        # A section that does nothing would be taken for one that does.
        if self.file is None and self.model_fields_set:
            raise ValueError("file is missing: the set of `inspectd-calibrate golden`")
        return self


class Challenge(_Section):
    """Master parts themselves, which somebody puts through a camera one after the other."""

    file: ConfigPath | None = None
    """What each has to come out as: the set of `inspectd-calibrate golden` from photographs of those parts."""
    camera: str | None = None
    """Camera that they are put through, one picture of each; without it the first."""
    at: list[TimeOfDay] = Field(default_factory=list, max_length=48)
    """Times of day from which on they are due, such as the starts of shifts: `["06:00", "14:00"]`, local time."""
    wait_s: float = Field(120.0, ge=1, le=3600, allow_inf_nan=False)
    """So long the next part may take, s; then the challenge is broken off."""
    on_failure: Literal["error", "alarm"] = "error"
    """What it costs where too few are found: the state Error, or an alarm alone."""

    @model_validator(mode="after")
    def _has_a_file(self) -> Challenge:
        if self.file is None and self.model_fields_set:
            raise ValueError("file is missing: the set of `inspectd-calibrate golden`")
        return self


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
    header_port: int | None = Field(None, ge=0, le=65535)
    """Port that pushes the 64-byte headers over plain TCP, for PLCs without ZeroMQ; without it none is opened."""
    header_host: str = Field("127.0.0.1", min_length=1)
    """Address that this port is opened at; it has no keys: only where the network is the line's own."""

    @field_validator("endpoint")
    @classmethod
    def _endpoint(cls, endpoint: str) -> str:
        return _checked_endpoint(endpoint)


class Control(_Section):
    """Commands from clients, over a ZeroMQ ROUTER socket."""

    endpoint: str | None = None
    """Address that clients connect to, as `publish.endpoint`; without it the socket `ctl` in the state folder."""
    enabled: bool = True
    """Whether clients can ask and command anything; without it nothing lost can be fetched again either."""
    socket_mode: int = Field(0o660, ge=0, le=0o777)
    """Permissions of sockets, in the state folder and of `ipc://` addresses: who may write such a file may connect."""
    local_role: Role = "engineer"
    """What clients without a key may do: those on `ipc://`, and on addresses of this machine alone."""
    fault_injection: bool = False
    """Whether engineers may make the station fail on purpose (`fault.inject`); for acceptance tests of a line."""

    @field_validator("endpoint")
    @classmethod
    def _endpoint(cls, endpoint: str | None) -> str | None:
        return endpoint if endpoint is None else _checked_endpoint(endpoint)


class Security(_Section):
    """Who gets in from other machines: CURVE keys, made by `inspectd keys`."""

    curve: Literal["auto", "always", "off"] = "auto"
    """Encrypt and authenticate: on addresses that other machines reach; on all of `tcp://`; or nowhere."""
    keys_dir: ConfigPath | None = None
    """Folder of the station's keys and its list of clients; without it `keys` in the state folder."""


class Journal(_Section):
    """What was published, kept on the disk: an SQLite database that the line alone writes."""

    enabled: bool = True
    """Whether there is one; without it what a client missed is lost."""
    path: ConfigPath | None = None
    """The file; without it `journal.db` in the state folder."""
    masks: bool = True
    """Keep masks too."""
    retention_days: float = Field(30.0, gt=0, le=36_500)
    """Older messages are deleted, days."""
    max_mib: int = Field(2048, ge=8)
    """Above this size the oldest messages are deleted, MiB."""
    commit_timeout_ms: int = Field(200, ge=10, le=60_000)
    """A verdict that the disk has not taken by then is published all the same, marked not_durable, with an alarm."""


class Archive(_Section):
    """Pictures of parts on the disk, written by a process of its own."""

    path: ConfigPath | None = None
    """The folder; without it nothing is archived. NG, REVIEW and parts that could not be inspected always are."""
    ok_every: int = Field(0, ge=0)
    """Of the OK parts every so many is archived; 0 is none."""
    format: Literal["png", "jpeg"] = "png"
    """png is lossless, and can be inspected again with the same result; jpeg is smaller."""
    overlays: bool = False
    """Write a picture with the mask painted over it too."""
    max_gib: float = Field(50.0, gt=0)
    """Above this size the oldest parts are deleted, GiB."""
    keep_free_gib: float = Field(2.0, ge=0)
    """With less free space on the disk the oldest parts are deleted, GiB; if that is not enough, none is archived."""
    retention_days: float = Field(90.0, gt=0, le=36_500)
    """Older parts are deleted, days."""


class Augment(_Section):
    """Labelled defects painted on this station's own good parts, for the next training."""

    bundles: ConfigPath | None = None
    """Folder of the bundles that paint, some for each defect type (`export-trt` of a DST network)."""
    out: ConfigPath | None = None
    """Folder that datasets are written to, a folder each, and defects that somebody marked; without it none are."""
    backend: Literal["onnxruntime", "openvino", "tensorrt"] = "onnxruntime"
    """What runs the bundles, as `model.backend`; on a processor one thread."""
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    """Its arithmetic; without it the backend's own."""
    allow_uncertified: bool = False
    """Paint also by a bundle whose certificate says that it is not the network that was trained."""
    frames: int = Field(500, ge=1)
    """Good parts of the archive that are painted on, at most: the latest."""
    max_gib: float = Field(10.0, gt=0)
    """While the folder holds as much nothing more is written, GiB; nothing in it is ever deleted."""
    keep_free_gib: float = Field(2.0, ge=0)
    """With less free space on the disk nothing more is written, GiB."""


class Health(_Section):
    """What monitoring asks by HTTP: `/metrics` for Prometheus, `/healthz`, `/readyz`."""

    port: int | None = Field(None, ge=0, le=65535)
    """Port on 127.0.0.1; without it none is opened, 0 is any free one."""


class Log(_Section):
    """What is logged, and how."""

    format: Literal["text", "json", "journald"] = "text"
    """On standard error as text or a line of JSON each; or to the system's journal, with fields."""
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """What is less important is left out."""


class Config(_Section):
    """A whole configuration."""

    station: Station = Field(default_factory=Station)
    cameras: dict[str, Camera] = Field(min_length=1, max_length=64)
    model: ModelSettings
    acceptance: Acceptance = Acceptance()
    golden: Golden = Golden()
    challenge: Challenge = Challenge()
    publish: Publish = Publish()
    control: Control = Control()
    security: Security = Security()
    journal: Journal = Journal()
    archive: Archive = Archive()
    augment: Augment = Augment()
    health: Health = Health()
    log: Log = Log()

    @field_validator("cameras")
    @classmethod
    def _names(cls, cameras: dict[str, Camera]) -> dict[str, Camera]:
        for name in cameras:
            if not re.fullmatch(CAMERA_NAME, name):
                raise ValueError(f"camera name {name!r}: expected up to 64 letters, digits, '_', '-' or '.'")
        return cameras

    @property
    def golden_camera(self) -> str:
        """The camera that the master parts are of."""
        return self.golden.camera or next(iter(self.cameras))

    @model_validator(mode="after")
    def _the_master_parts_have_a_camera(self) -> Config:
        if self.golden_camera not in self.cameras:
            raise ValueError(f"golden.camera {self.golden.camera!r}: expected one of {', '.join(self.cameras)}")
        return self

    @property
    def challenge_camera(self) -> str:
        """The camera that master parts are put through."""
        return self.challenge.camera or next(iter(self.cameras))

    @model_validator(mode="after")
    def _a_challenge_has_a_camera(self) -> Config:
        if self.challenge_camera not in self.cameras:
            raise ValueError(f"challenge.camera {self.challenge.camera!r}: expected one of {', '.join(self.cameras)}")
        camera = self.cameras[self.challenge_camera]
        if self.challenge.file is not None and isinstance(camera, GenicamCamera) and camera.free_running:
            raise ValueError(
                f"challenge.camera {self.challenge_camera!r} runs freely, so that nobody knows which of its pictures "
                f"are the master parts': give it a trigger"
            )
        return self

    @model_validator(mode="after")
    def _areas_have_a_scale(self) -> Config:
        for name, camera in self.cameras.items():
            if camera.scale is not None and camera.scale_mm_per_px is not None:
                raise ValueError(f"cameras.{name}: scale and scale_mm_per_px exclude each other; leave one of them out")
        rules = {"default": self.acceptance.default}
        rules.update({f"classes.{name}": rule for name, rule in self.acceptance.classes.items()})
        asking = [name for name, rule in rules.items() if rule.minimum_area_mm2 is not None]
        without = [
            name for name, camera in self.cameras.items() if camera.scale is None and camera.scale_mm_per_px is None
        ]
        if asking and without:
            raise ValueError(
                f"acceptance.{asking[0]}.minimum_area_mm2 needs cameras.{without[0]}.scale or "
                f"cameras.{without[0]}.scale_mm_per_px, and neither is set"
            )
        return self
