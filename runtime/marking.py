"""The operation `mark`: done by a thread of its own, for a disk may hang and the line may not."""

from __future__ import annotations

import base64
import binascii
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inspectd.config import Config
from inspectd.errors import DatasetError, RequestError
from inspectd.inspection import Verdict
from inspectd.picture import decode_pixels

from .archive import Archive, Part
from .augment.gathering import those_good
from .augment.room import Room
from .marks import Mark, Marks

__all__ = ["Marking"]

Answering = Callable[[Any], None]


class Marking:
    """Keeps parts whose defects were missed; used from the line's thread.

    Args:
        config: of the station.
        post: has something done in the line's thread.
        utc_ns: ns since the Unix epoch.
    """

    def __init__(
        self, config: Config, post: Callable[[Callable[[], None]], None], *, utc_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._config, self._post, self._utc_ns = config, post, utc_ns
        self._is_busy = False

    def begin(self, args: dict[str, Any], client: str, epoch: int, answer: Answering) -> None:
        """Begin; answered once the part is kept.

        Args:
            args: of the operation.
            client: who asks.
            epoch: the present one, where none is given.
            answer: told of the outcome.

        Raises:
            RequestError: it is not possible here, or another part is being kept.
        """
        out, archive = self._config.augment.out, self._config.archive.path
        if out is None or archive is None:
            name = "augment.out" if out is None else "archive.path"
            raise RequestError(f"mark: {name} is not set; without it no marked part can be kept")
        if self._is_busy:
            raise RequestError("mark: another part is being kept; wait a moment", code="busy")
        self._is_busy = True

        def work() -> None:
            outcome: Any
            try:
                outcome = self._keep(out, archive, {**args, "epoch": args["epoch"] or epoch}, client)
            except RequestError as error:
                outcome = error
            except DatasetError as error:
                outcome = RequestError(f"mark: {error}", code="failed")
            except OSError as error:
                outcome = RequestError(f"mark: {error.filename or out}: {error.strerror}", code="failed")
            except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for an answer
                outcome = RequestError(f"mark: {type(error).__name__}: {error}", code="failed")
            self._post(lambda: done(outcome))

        def done(outcome: Any) -> None:  # noqa: ANN401 - a result or an error
            self._is_busy = False
            answer(outcome)

        threading.Thread(target=work, name="mark", daemon=True).start()

    def _keep(self, out: Path, archive: Path, args: dict[str, Any], client: str) -> dict[str, Any]:
        mask = _mask(args["mask"])
        epoch, stream, seq = args["epoch"], args["stream"], args["seq"]
        found = Archive(archive) if archive.is_dir() else None
        part = None if found is None else found.find(epoch=epoch, seq=seq, stream=stream)
        if found is None or part is None:
            raise RequestError(
                f"mark: {epoch}-{stream}-{seq} is not in the archive; of OK parts it keeps every so many "
                "(archive.ok_every)",
                code="not_found",
            )
        if lack := Room(self._config.augment).lack():
            raise RequestError(f"mark: {lack}")
        marks = Marks(out)
        mark = marks.keep(part, args["defect"], mask, by=client, how=args["how"], now_ns=self._utc_ns())
        # Good parts, so that the defect can be learnt from this dataset alone.
        marks.add_free(mark.camera, _good_parts(found, part, marks.all()))
        count = marks.write()
        return {
            "name": mark.name,
            "dataset": str(marks.root),
            "defect": mark.defect,
            "verdict": mark.verdict,
            "pixels": int(mask.sum()),
            "marks": count,
        }


def _good_parts(archive: Archive, marked: Part, marks: Sequence[Mark]) -> Iterator[Part]:
    """Good parts of the camera of a part, with pictures of its size, from all over the archive.

    What was missed comes in series, so that the parts around a marked one are the likeliest to have the defect too.
    """
    camera, facts = marked.sidecar.camera, marked.sidecar.frame
    near = {(mark.epoch, mark.seq) for mark in marks if mark.camera == camera}
    parts = (
        part
        for part in archive.spread(camera=camera, verdict=Verdict.OK, away_from=near)
        if (part.sidecar.frame.height, part.sidecar.frame.width) == (facts.height, facts.width)
    )
    return those_good(parts, channels=facts.channels, without={mark.picture_sha256 for mark in marks})


def _mask(text: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The mask of a request: bool [H, W].

    Raises:
        RequestError: it is none.
    """
    try:
        pixels = decode_pixels(base64.b64decode(text, validate=True), Path("the mask"))
    except (binascii.Error, DatasetError, ValueError) as error:
        raise RequestError(f"mark: the mask is no PNG in base64 ({error})", code="bad_request", field="mask") from error
    if pixels.shape[2] != 1:
        raise RequestError("mark: the mask has colours; expected grey", code="bad_request", field="mask")
    return np.asarray(pixels[..., 0] > 0)
