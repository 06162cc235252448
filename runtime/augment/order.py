"""What is ordered, what its process is given, and what the two tell each other: lines of JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from inspectd.config import Augment
from inspectd.wire import AugmentBody

__all__ = ["CANCEL", "Order", "Report", "Task"]

CANCEL = "cancel"
"""What the line tells the process, beside shares of time such as `0.75`; a line each."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Order(_Model):
    """One augmentation; kept in the state folder from its begin to its end."""

    job: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    """Its name, and that of its folder."""
    defects: tuple[str, ...] = Field(min_length=1)
    """Defect types that are painted."""
    count: int = Field(ge=1)
    """Pictures that are painted, of all types together."""
    seed: int = Field(ge=0)
    """Of the places."""
    camera: str = ""
    """Whose good parts are painted on; empty for all."""


class Task(_Model):
    """All that the process needs."""

    order: Order
    settings: Augment
    archive: Path
    """Where good parts are taken from."""
    state_file: Path
    """Where the order is kept while it is not done."""
    trusted_keys: Path | None = None
    """As `model.trusted_keys`."""
    resumed: bool = False
    """Whether it was begun before: then it is not refused any more, it fails."""


class Report(_Model):
    """How far the process is."""

    state: Literal["starting", "gathering", "placing", "painting", "done", "cancelled", "failed", "refused"]
    done: int = 0
    count: int = 0
    frames: int = 0
    """Good parts that are painted on."""
    references: int = 0
    """Labelled defects that are painted."""
    fault: str = ""
    """Why it waits, for people; empty while it goes on."""
    reason: str = ""
    """Why it failed or was refused, for people."""
    code: Literal["not_found", "refused", "failed"] = "failed"
    """Of a refusal."""
    field: str = ""
    """The argument at fault."""

    @property
    def is_last(self) -> bool:
        """Whether nothing comes after it."""
        return self.state in ("done", "cancelled", "failed", "refused")

    def body(self, order: Order, out: Path) -> AugmentBody | None:
        """As clients are told of it; None of one that was refused, which never was."""
        if self.state == "refused":
            return None
        return AugmentBody(
            job=order.job,
            state=self.state,
            done=self.done,
            count=order.count,
            out=str(out / order.job),
            fault=self.fault or self.reason,
        )
