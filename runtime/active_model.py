"""Which model was activated by a client, kept over restarts; and whether it is still on trial.

    activate ── on trial ── so many frames judged ── kept
                   └ the process died ── at the next start the one before judges

model.json     {"bundle": PATH, "instead_of": MODEL.BUNDLE, "before": PATH, "trial": "open" | "paused" | ""}

A model that kills the process that judges would kill it again at each start. What is on trial when the process is
gone is therefore given up; a station that was stopped in order has only paused it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inspectd.durable import replace_file

__all__ = ["ActiveModel"]

_OPEN, _PAUSED, _OVER = "open", "paused", ""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the file says; `bundle` and `before` are empty for the configured one."""

    bundle: str = ""
    before: str = ""
    trial: str = _OVER


class ActiveModel:
    """The file.

    It holds as long as `model.bundle` of the configuration is the one that it took the place of. What is decided holds
    at once; `flush` brings it to the disk, and may be asked again where that fails. Who may not wait for the disk has
    another thread `write` what is `wanted`.

    Args:
        path: of the file.
        configured: `model.bundle` of the configuration.

    Attributes:
        why: why it is not the one that was activated last, for people; empty where it is.
    """

    def __init__(self, path: Path, configured: str) -> None:
        self._path = path
        self._configured = configured
        self._wanted = _Kept()
        self._written: _Kept | None = None
        self.why = ""

    def read(self) -> str:
        """Path of the bundle that judges after a start; empty where the configured one does. Changes nothing."""
        return self._decide()[0].bundle

    def take_up(self) -> None:
        """Begin with it; before anything of the bundle is opened, which may be what the process dies of."""
        kept, self.why = self._decide()
        self._wanted = replace(kept, trial=_OPEN) if kept.trial == _PAUSED else kept

    @property
    def wanted(self) -> _Kept:
        """What the file should say."""
        return self._wanted

    @property
    def written(self) -> _Kept | None:
        """What it says; None where nobody knows."""
        return self._written

    @property
    def bundle(self) -> str:
        """Path of the bundle that should judge; empty for the configured one."""
        return self._wanted.bundle

    @property
    def is_on_trial(self) -> bool:
        """Whether the next start gives it up if the process dies now."""
        return self._wanted.trial == _OPEN

    def activate(self, bundle: Path, before: Path | None) -> None:
        """Another one is about to judge, on trial, in place of `before`."""
        # One that is on trial itself is nothing to go back to.
        kept = self._wanted.before if self.is_on_trial else "" if before is None else str(before)
        self._wanted = _Kept(str(bundle), kept, _OPEN)

    def roll_back(self, bundle: Path) -> None:
        """The one before judges again; on trial, if it had not passed its own."""
        is_proved = not self.is_on_trial or str(bundle) == (self._wanted.before or self._configured)
        self._wanted = _Kept(str(bundle)) if is_proved else replace(self._wanted, bundle=str(bundle))

    def take_back(self, wanted: _Kept) -> None:
        """What was decided since is not done: this holds, as `wanted` was before."""
        self._wanted = wanted

    def passed(self) -> None:
        """The trial is over."""
        self._wanted = replace(self._wanted, before="", trial=_OVER)

    def pause(self) -> None:
        """The station ends in order."""
        if self.is_on_trial:
            self._wanted = replace(self._wanted, trial=_PAUSED)

    def flush(self) -> None:
        """Have the file say what should be; on the disk when this returns.

        Raises:
            OSError: the disk does not take it; ask again.
        """
        if self._wanted != self._written:
            self.write(self._wanted)

    def write(self, kept: _Kept) -> None:
        """Have the file say this; on the disk when this returns. By one thread at a time.

        Raises:
            OSError: the disk does not take it.
        """
        if kept.trial == _OVER and kept.bundle in ("", self._configured):
            self._path.unlink(missing_ok=True)
        else:
            content: dict[str, Any] = {
                "bundle": kept.bundle,
                "instead_of": self._configured,
                "before": kept.before,
                "trial": kept.trial,
            }
            replace_file(self._path, json.dumps(content).encode())
        self._written = kept

    def _decide(self) -> tuple[_Kept, str]:
        try:
            value = json.loads(self._path.read_text(encoding="utf-8"))
            if value["instead_of"] != self._configured:
                return _Kept(), ""
            kept = _Kept(_text(value["bundle"]), _text(value.get("before", "")), _text(value.get("trial", _OVER)))
        except FileNotFoundError:
            return _Kept(), ""
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            why = f"{self._path}: is damaged ({error}); the model of the configuration judges, not one activated since"
            return _Kept(), why
        if kept.trial != _OPEN:
            return kept, ""
        before = kept.before or self._configured
        return (
            _Kept(kept.before),
            f"the process that judges died while {kept.bundle} was on trial; {before}, the one before, judges again",
        )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    return value
