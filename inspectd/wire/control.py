"""Control: what clients ask of a station, and what it answers (docs/protocol.md)."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from inspectd.errors import ProtocolError

from .header import CAMERA_NAME

__all__ = [
    "MAX_ANSWER_BYTES",
    "MAX_REPLAY_ROWS",
    "MAX_REQUEST_BYTES",
    "OPERATIONS",
    "ROLES",
    "Answer",
    "ArgumentError",
    "Arguments",
    "ErrorCode",
    "Operation",
    "Request",
]

MAX_REQUEST_BYTES = 64 * 1024
"""Longest request; a longer one ends the connection."""
MAX_REPLAY_ROWS = 500
"""Results that one replay gives at most."""
MAX_ANSWER_BYTES = 4 * 2**20
"""Above this a replay stops early, and says how far it came."""

_MOST_SEQ = 2**63 - 1
"""What a journal can hold as a number."""
ROLES = ("viewer", "operator", "engineer")
"""What a client may do; each one may also do what those before it may."""

ErrorCode = Literal[
    "bad_request",
    "unknown_operation",
    "forbidden",
    "wrong_state",
    "not_found",
    "refused",
    "busy",
    "repeated",
    "failed",
]
"""Why a request was not done.

bad_request: it is no request, or its arguments are wrong; field names the argument.
unknown_operation: this station has no such operation.
forbidden: the client's role may not do it.
wrong_state: not in the state that the station is in.
not_found: no such result, alarm, camera, picture.
refused: understood, and the station will not: a bundle that cannot be used, a setting that needs a restart.
busy: something is under way that has to end first.
repeated: the same number was used for another request.
failed: it was begun and went wrong.
"""


class Arguments(BaseModel):
    """What an operation takes; unknown arguments are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=True)


class NoArguments(Arguments):
    """Nothing."""


class ReplayArguments(Arguments):
    """Messages of one stream again, from the journal."""

    stream: int = Field(ge=0, le=0xFFFF)
    first: int = Field(alias="from", ge=1, le=_MOST_SEQ)
    """seq of the first result."""
    last: int = Field(alias="to", ge=1, le=_MOST_SEQ)
    """seq of the last one."""
    epoch: int | None = Field(None, ge=1, le=0xFFFF_FFFF)
    """Of which start; the present one if not given."""
    masks: bool = False
    """Give masks too."""


class ResultArguments(Arguments):
    """One result."""

    stream: int = Field(ge=0, le=0xFFFF)
    seq: int = Field(ge=1, le=_MOST_SEQ)
    epoch: int | None = Field(None, ge=1, le=0xFFFF_FFFF)


class RecipeArguments(Arguments):
    """What the station is set to; given back in every verdict."""

    recipe_no: int = Field(0, ge=0, le=0xFFFF_FFFF)
    internal_id: str = Field("", max_length=256)
    external_id: str = Field("", max_length=256)
    job_id: str = Field("", max_length=256)


class SingleJobArguments(Arguments):
    """One part of one camera."""

    camera: str = Field("", pattern=rf"{CAMERA_NAME}|^$")
    """May be left out where there is one."""
    trigger_id: int = Field(0, ge=0, le=0xFFFF_FFFF)
    """The PLC's number of the part."""


class AlarmArguments(Arguments):
    """One alarm."""

    alarm_id: str = Field(alias="alarmId", min_length=1, max_length=200)


class ThresholdArguments(Arguments):
    """The acceptance rule of one class; what is left out stays as it is."""

    class_name: str = Field(alias="class", min_length=1)
    score: float | None = Field(None, gt=0, le=1)
    review_score: float | None = Field(None, gt=0, le=1)
    minimum_area_px: int | None = Field(None, ge=1)
    maximum_count: int | None = Field(None, ge=0)


class ModelArguments(Arguments):
    """A bundle on the station's disk."""

    bundle: str = Field(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$")
    """Name of a folder or .zip in `model.models_dir`."""


class AugmentArguments(Arguments):
    """Labelled defects, painted on the station's own good parts."""

    defects: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field(min_length=1, max_length=32)
    """Defect types, which have their turns."""
    count: int = Field(ge=1, le=100_000)
    """Pictures, of all types together."""
    seed: int | None = Field(None, ge=0, le=_MOST_SEQ)
    """Of the places; without it another one each time. It is written beside the pictures."""
    camera: str = Field("", pattern=rf"{CAMERA_NAME}|^$")
    """Whose good parts are painted on; all cameras' if not given."""


class MarkArguments(ResultArguments):
    """A defect that was missed on an archived part."""

    defect: str = Field(min_length=1, max_length=256)
    """Its type."""
    mask: str = Field(min_length=1)
    """PNG of the picture's size in base64: above 0 where the defect is."""
    how: str = Field("", max_length=256)
    """How the mask came about, for people."""


class FaultArguments(Arguments):
    """A fault on purpose."""

    fault: Literal["crash", "hang", "engine"]
    """crash: the process that judges dies; hang: it stops answering; engine: the next frame fails."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What a station can be asked to do.

    Attributes:
        role: the least that a client has to be.
        arguments: what it takes.
        changes: whether it changes something: then it is done once however often it is sent, and kept in the journal.
    """

    role: Literal["viewer", "operator", "engineer"]
    arguments: type[Arguments] = NoArguments
    changes: bool = True


OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    {
        "hello": Operation("viewer", changes=False),
        "snapshot": Operation("viewer", changes=False),
        "replay": Operation("viewer", ReplayArguments, changes=False),
        "get_result": Operation("viewer", ResultArguments, changes=False),
        "get_image": Operation("viewer", ResultArguments, changes=False),
        "select_mode_automatic": Operation("operator"),
        "prepare_recipe": Operation("operator", RecipeArguments),
        "start_single_job": Operation("operator", SingleJobArguments),
        "start_continuous": Operation("operator"),
        "stop": Operation("operator"),
        "abort": Operation("operator"),
        "halt": Operation("operator"),
        "reset": Operation("operator"),
        "ack_alarm": Operation("operator", AlarmArguments),
        "self_test": Operation("operator"),
        "challenge": Operation("operator"),
        "challenge_cancel": Operation("operator"),
        "set_threshold": Operation("engineer", ThresholdArguments),
        "load_model": Operation("engineer", ModelArguments),
        "activate": Operation("engineer"),
        "rollback": Operation("engineer"),
        "reload_config": Operation("engineer"),
        "augment": Operation("engineer", AugmentArguments),
        "augment_cancel": Operation("engineer"),
        "mark": Operation("engineer", MarkArguments),
        "fault.inject": Operation("engineer", FaultArguments),
    }
)
"""Every operation of this version."""

_ID = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Request:
    """One request, valid in form; whether its arguments are right `parsed` tells.

    Attributes:
        request_id: chosen by the client; the same number means the same request.
        op: name of the operation.
        args: what came with it.
    """

    request_id: int
    op: str
    args: Mapping[str, Any]

    def to_parts(self) -> list[bytes]:
        """The parts to send."""
        return [_ID.pack(self.request_id), json.dumps({"op": self.op, "args": dict(self.args)}).encode()]

    @classmethod
    def from_parts(cls, parts: Sequence[bytes]) -> Request:
        """Read what was received; parts beyond the second are passed over.

        Raises:
            ProtocolError: it is no request.
        """
        if len(parts) < 2 or len(parts[0]) != _ID.size:
            raise ProtocolError(
                f"request: expected a number of {_ID.size} bytes and a JSON object, got {len(parts)} parts of "
                f"{[len(part) for part in parts[:4]]} bytes"
            )
        if sum(map(len, parts)) > MAX_REQUEST_BYTES:
            raise ProtocolError(f"request: expected at most {MAX_REQUEST_BYTES} bytes")
        try:
            value = json.loads(parts[1])
        except (ValueError, RecursionError):
            raise ProtocolError("request: expected a JSON object in UTF-8") from None
        if not isinstance(value, dict) or not isinstance(value.get("op"), str):
            raise ProtocolError("request: expected a JSON object with the field op")
        args = value.get("args", {})
        if not isinstance(args, dict):
            raise ProtocolError("request: expected an object in the field args")
        return cls(_ID.unpack(parts[0])[0], value["op"], args)

    def parsed(self) -> Arguments:
        """The arguments as their operation takes them.

        Raises:
            KeyError: there is no such operation.
            ProtocolError: arguments that it does not take; `field` names the first.
        """
        try:
            return OPERATIONS[self.op].arguments.model_validate(dict(self.args))
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            field = ".".join(map(str, fault["loc"]))
            raise ArgumentError(field, f"{self.op}: {field or 'args'}: {fault['msg']}") from error


class ArgumentError(ProtocolError):
    """An argument is wrong; `field` names it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Answer:
    """What a station answers.

    Attributes:
        request_id: of the request.
        result: what was asked for; None where it was not done.
        code, field, message: why it was not done: the kind, the argument at fault, words for people.
        blobs: what belongs to the result and is no JSON.
    """

    request_id: int
    result: Mapping[str, Any] | None = None
    code: str = ""
    field: str = ""
    message: str = ""
    blobs: tuple[bytes, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether it was done."""
        return self.result is not None

    def to_parts(self) -> list[bytes]:
        """The parts to send."""
        if self.result is not None:
            value: dict[str, Any] = {"ok": True, "result": dict(self.result)}
        else:
            value = {"ok": False, "error": {"code": self.code, "field": self.field, "message": self.message}}
        return [_ID.pack(self.request_id), json.dumps(value).encode(), *self.blobs]

    @classmethod
    def from_parts(cls, parts: Sequence[bytes]) -> Answer:
        """Read what was received.

        Raises:
            ProtocolError: it is no answer.
        """
        try:
            (number,) = _ID.unpack(parts[0])
            value = json.loads(parts[1])
            if value["ok"] is True:
                return cls(number, dict(value["result"]), blobs=tuple(parts[2:]))
            error = value["error"]
            return cls(
                number,
                code=str(error["code"]),
                field=str(error.get("field", "")),
                message=str(error.get("message", "")),
            )
        except (IndexError, KeyError, TypeError, ValueError, struct.error, RecursionError) as error:
            raise ProtocolError(f"answer: not one of INS1 ({error})") from None
