"""The JSON bodies of INS1 messages. Names in camelCase are those of OPC 40100-1."""

from __future__ import annotations

from enum import Enum
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from inspectd.frame import CameraState

from .header import MessageType

__all__ = [
    "AlarmBody",
    "AugmentBody",
    "Body",
    "DefectBody",
    "DeviceHealth",
    "HeartbeatBody",
    "HistogramBody",
    "MaskBody",
    "MaskEncoding",
    "PreviewBody",
    "ProcessingTimes",
    "Severity",
    "StateBody",
    "StatsBody",
    "StreamPosition",
    "VerdictBody",
]

_TIME = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$"

StateName = Literal[
    "Preoperational", "Halted", "Error", "Initialized", "Ready", "SingleExecution", "ContinuousExecution"
]


class MaskEncoding(str, Enum):
    """How the payload of a mask message is coded. `zstd` is reserved."""

    RLE8 = "rle8"
    RLE8_ZLIB = "rle8+zlib"
    PNG8 = "png8"


class DeviceHealth(str, Enum):
    """How a station is, by the names of OPC 10000-100 (DeviceHealthEnumeration), which are those of NAMUR NE 107."""

    NORMAL = "NORMAL"
    FAILURE = "FAILURE"
    CHECK_FUNCTION = "CHECK_FUNCTION"
    OFF_SPEC = "OFF_SPEC"
    """It works, but not as it is meant to: on the processor instead of the GPU, for one."""
    MAINTENANCE_REQUIRED = "MAINTENANCE_REQUIRED"


class Severity(str, Enum):
    """How bad what an alarm tells is."""

    WARNING = "warning"
    """Verdicts come as they should; somebody should look soon."""
    ERROR = "error"
    """Something that the station is for does not work; parts may be NOT_INSPECTED, or results may get lost."""


class _Model(BaseModel):
    # Fields that a later minor version added are passed over.
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False, populate_by_name=True)


class Body(_Model):
    """What all bodies have in common."""

    TYPE: ClassVar[MessageType]
    """The message type that this is the body of."""


class ProcessingTimes(_Model):
    """Where the time of a result went, ms."""

    acquire: float = Field(ge=0)
    """From the frame's arrival to the start of its inspection."""
    pre: float = Field(ge=0)
    infer: float = Field(ge=0)
    post: float = Field(ge=0)


class DefectBody(_Model):
    """One defect, in the camera's pixels."""

    id: int = Field(ge=1)
    """Number in this result; 1 is the worst."""
    class_id: int = Field(alias="classId", ge=1, le=254)
    """Label of the class in the mask."""
    class_name: str = Field(alias="class")
    score: float = Field(ge=0, le=1)
    bbox_px: tuple[int, int, int, int]
    """x, y, width, height."""
    area_px: int = Field(ge=1)
    area_mm2: float | None = Field(None, gt=0)
    """Left out where the camera's scale is not known."""
    length_mm: float | None = Field(None, gt=0)
    """Greatest length in the part's plane (Feret diameter); left out where the camera's scale is not known."""
    centroid_px: tuple[float, float]
    """x, y; the centre of the upper left pixel is (0, 0)."""


class VerdictBody(Body):
    """The result of one part; the verdict itself is in the header."""

    model_config = ConfigDict(alias_generator=to_camel)
    TYPE: ClassVar[MessageType] = MessageType.VERDICT

    result_id: str
    """Unique over all starts of one station: epoch, stream and seq joined by '-'."""
    job_id: str
    meas_id: str
    """The camera's frame number."""
    part_id: str
    """The PLC's part or trigger number; empty when free-running."""
    internal_recipe_id: str
    external_recipe_id: str
    model_digest: str
    """sha256 of the bundle that judged, hexadecimal."""
    result_state: Literal[1, 4]
    """1 completed, 4 failed (the part was not inspected)."""
    is_partial: bool
    is_simulated: bool
    creation_time: str = Field(pattern=_TIME)
    """UTC; a label, never a clock."""
    processing_times_ms: ProcessingTimes = Field(alias="processingTimes_ms")
    defects: tuple[DefectBody, ...]
    """Worst first."""
    truncated: bool
    """True where defects were left out; the header has the real number."""
    reason: str
    """Why the part was not inspected; empty otherwise."""
    source: str | None = None
    """The file that the picture was read from; left out where it comes from a camera."""
    image: dict[str, float] | None = None
    """How good the picture is (docs/protocol.md); left out where nobody knows what good ones look like."""
    calibration: dict[str, str] | None = None
    """sha256 of each calibration that was used: `flat_field`, `scale`, `image`; left out where none was."""


class MaskBody(Body):
    """How to read the mask in the payload."""

    TYPE: ClassVar[MessageType] = MessageType.MASK

    width: int = Field(ge=1)
    height: int = Field(ge=1)
    encoding: MaskEncoding
    classes: tuple[str, ...]
    """`classes[k - 1]` is the class of label k; 0 is the good surface."""
    scale_mm_per_px: float | None = Field(None, gt=0)


class PreviewBody(Body):
    """How to read the picture in the payload."""

    TYPE: ClassVar[MessageType] = MessageType.PREVIEW

    width: int = Field(ge=1)
    height: int = Field(ge=1)
    encoding: Literal["jpeg"]


class StreamPosition(_Model):
    """How far a stream has come."""

    stream: int = Field(ge=0, le=0xFFFF)
    camera: str
    """Empty for the station's own stream."""
    last: int = Field(ge=0)
    """seq of the latest message, 0 before the first."""
    oldest: int = Field(ge=1)
    """The oldest seq that the station still holds; last + 1 where it holds none."""


class CameraBody(_Model):
    """How a camera is, and what it has done since the line opened it."""

    camera: str
    """Name of the camera in the configuration."""
    state: CameraState = Field(strict=False)
    reason: str = ""
    """Why it is not as it should be, for people; empty where it is."""
    connections: int = Field(ge=0)
    """How often it was opened."""
    frames: int = Field(ge=0)
    """Pictures that came whole."""
    unusable: int = Field(ge=0)
    """Frames that came and are no pictures: incomplete, of another format, out of order."""
    missed: int = Field(ge=0)
    """Frames that never came, by gaps in the camera's numbers, or were not fetched when it was lost or stopped."""
    overruns: int = Field(ge=0)
    """Frames that came while all places were taken, and were let go."""
    late: int = Field(ge=0)
    """Frames that came more than a second after their exposure."""
    host_clock: int = Field(ge=0)
    """Frames whose time is the host's, because the camera's clock is not UTC."""


class HeartbeatBody(Body):
    """Sent four times a second, whatever else happens."""

    TYPE: ClassVar[MessageType] = MessageType.HEARTBEAT

    station: str
    """Name of the station."""
    streams: tuple[StreamPosition, ...]
    state: StateName
    uptime_s: float = Field(ge=0)
    drops: int = Field(ge=0)
    """Frames lost before inspection since the start."""
    journal_lag: int = Field(ge=0)
    """Results that are not yet in the journal; 0 without a journal."""
    device_health: DeviceHealth = Field(DeviceHealth.NORMAL, alias="deviceHealth", strict=False)
    health_reason: str = Field("", alias="healthReason")
    """Why it is not NORMAL, for people; empty otherwise."""
    cameras: tuple[CameraBody, ...] = ()
    """In the order of their streams."""


class StateBody(Body):
    """A change of the station's state."""

    TYPE: ClassVar[MessageType] = MessageType.STATE

    station: str
    """Name of the station."""
    state: StateName
    previous: StateName
    reason: str = ""
    """Why, for people; empty where a client asked for it."""


class AlarmBody(Body):
    """An alarm that came, was acknowledged, or went. It is over once it is neither active nor unacknowledged."""

    TYPE: ClassVar[MessageType] = MessageType.ALARM

    station: str
    """Name of the station."""
    alarm_id: str = Field(alias="alarmId")
    """Of this occurrence; what `ack_alarm` takes."""
    code: str = Field(pattern=r"^[a-z0-9_]+(\.[A-Za-z0-9_-]+)*$")
    """What kind it is, such as `journal.full`, or `camera.lost.cam1` of one camera."""
    severity: Severity = Field(strict=False)
    message: str
    """What is wrong and what to do, for people."""
    active: bool
    """Whether what it tells of is still so."""
    acked: bool
    """Whether somebody has acknowledged it."""
    acked_by: str = Field("", alias="ackedBy")
    """Who; empty if nobody has."""
    raised_time: str = Field(alias="raisedTime", pattern=_TIME)
    """When it came, UTC; a label."""


class HistogramBody(_Model):
    """How long something took, counted."""

    upper_ms: tuple[float, ...]
    """Upper bounds of the bins, ms, rising; one more bin holds what took longer."""
    counts: tuple[int, ...]
    """So many in each bin."""
    sum_ms: float = Field(ge=0)


class AugmentBody(_Model):
    """How far an augmentation is: the latest of this start."""

    job: str
    """Its name, and that of its folder."""
    state: Literal["starting", "gathering", "placing", "painting", "done", "cancelled", "failed"]
    done: int = Field(ge=0)
    """Pictures that are painted."""
    count: int = Field(ge=1)
    """Pictures that were ordered."""
    out: str
    """Folder of the dataset, on the station."""
    fault: str = ""
    """Why it waits, or why it failed, for people; empty otherwise."""


class StatsBody(Body):
    """What the station has done since its start; sent once a second."""

    TYPE: ClassVar[MessageType] = MessageType.STATS

    station: str
    """Name of the station."""
    uptime_s: float = Field(ge=0)
    triggers: int = Field(ge=0)
    """Parts that have to have a verdict: frames taken up, and those of triggered cameras that never came."""
    waiting: int = Field(ge=0)
    """Of these, those that have none yet; triggers = waiting + all verdicts, always."""
    verdicts: dict[str, int]
    """How many of each: OK, NG, REVIEW, NOT_INSPECTED."""
    dropped: int = Field(ge=0)
    """Frames of free-running cameras that gave way to newer ones."""
    lost: int = Field(ge=0)
    """Frames that never arrived, by gaps in the cameras' numbers."""
    overdue: int = Field(ge=0)
    """Parts that were not judged by their deadline, so NOT_INSPECTED."""
    not_durable: int = Field(ge=0)
    """Verdicts that were published without being on the disk."""
    latency: dict[str, HistogramBody]
    """By stage: wait, pre, infer, post, journal (to the disk), total (from arrival to publishing)."""
    journal_rows: int = Field(ge=0)
    journal_bytes: int = Field(ge=0)
    archived: int = Field(ge=0)
    """Pictures given to the archive."""
    archive_refused: int = Field(ge=0)
    """Pictures that the archive could not take."""
    alarms: int = Field(ge=0)
    """Alarms that are active or not acknowledged."""
    model_digest: str
    """sha256 of the bundle that judges, hexadecimal; empty where there is none."""
    memory_bytes: int = Field(ge=0)
    """Resident memory of the process that judges."""
    descriptors: int = Field(ge=0)
    """Files and sockets that it has open."""
    augment: AugmentBody | None = None
    """The augmentation that is under way, or was the last; left out where there was none."""
