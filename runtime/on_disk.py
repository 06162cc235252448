"""What clients are answered with from the disk: results of the journal, archived pictures, commands of before.

Everything here may take as long as the disk does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from inspectd.errors import ConfigError, InspectdError, RequestError
from inspectd.inspection import Verdict
from inspectd.wire import MAX_ANSWER_BYTES, MAX_REPLAY_ROWS, Answer, Arguments, Flags, Message, MessageType, Request

from .journal import JournalReader

__all__ = ["ON_DISK", "Images", "OnDisk", "Past", "refusal"]

ON_DISK = ("replay", "get_result", "get_image")
"""Operations that are answered from the disk alone."""
Past = tuple[str, str, str | None]
"""Operation, arguments and answer of a request of before."""


class Images(Protocol):
    """Where archived pictures are found."""

    def __call__(self, epoch: int, stream: int, seq: int) -> tuple[dict[str, Any], bytes] | None:
        """Format and size of a part's picture, and its file; None where there is none."""


class OnDisk:
    """What lies on the disk; from any thread.

    Args:
        journal_path: of the journal's database; None where there is none.
        images: finds archived pictures.
        epoch: of this start.
    """

    def __init__(self, journal_path: Path | None, images: Images, *, epoch: int) -> None:
        self._journal_path = journal_path
        self._images = images
        self._epoch = epoch

    @property
    def has_journal(self) -> bool:
        """Whether results and requests are kept."""
        return self._journal_path is not None

    def answer(self, request: Request, arguments: Arguments) -> Answer:
        """The answer to one of `ON_DISK`, also where it is that there is none."""
        read = {"replay": self._replay, "get_result": self._result, "get_image": self._image}[request.op]
        try:
            return read(request, arguments.model_dump())
        except RequestError as error:
            return refusal(request.request_id, error)
        except (InspectdError, OSError) as error:
            return Answer(request.request_id, code="failed", message=str(error))

    def past(self, key: tuple[str, str]) -> Past | None:
        """A request of before, by its client and number; a journal that cannot be read remembers none."""
        if self._journal_path is None:
            return None
        try:
            with JournalReader(self._journal_path) as reader:
                past = reader.request(*key)
        except ConfigError:
            return None  # its alarm tells
        return None if past is None else (past.op, past.args, past.answer)

    def with_epochs(self, answer: Answer) -> Answer:
        """A snapshot with the earlier epochs; a journal that cannot be read has none."""
        held: dict[int, list[dict[str, int]]] = {}
        if self._journal_path is not None:
            try:
                with JournalReader(self._journal_path) as reader:
                    for each in reader.held():
                        if each.epoch != self._epoch:
                            row = {"stream": each.stream, "last": each.last, "oldest": each.oldest}
                            held.setdefault(each.epoch, []).append(row)
            except ConfigError:
                pass
        epochs = [{"epoch": epoch, "streams": streams} for epoch, streams in held.items()]
        return Answer(answer.request_id, {**(answer.result or {}), "epochs": epochs})

    def _reader(self) -> JournalReader:
        if self._journal_path is None:
            raise RequestError("there is no journal on this station (journal.enabled)", code="refused")
        return JournalReader(self._journal_path)

    def _replay(self, request: Request, args: Mapping[str, Any]) -> Answer:
        epoch, stream, first, last = args["epoch"] or self._epoch, args["stream"], args["first"], args["last"]
        if not first <= last < first + MAX_REPLAY_ROWS:
            raise RequestError(
                f"replay: expected from <= to, at most {MAX_REPLAY_ROWS} results, got {first} to {last}",
                code="bad_request",
                field="to",
            )
        with self._reader() as reader:
            held = next((each for each in reader.held(epoch) if each.stream == stream), None)
            if held is None:
                raise RequestError(f"replay: nothing is held of stream {stream} of epoch {epoch}", code="not_found")
            blobs: list[bytes] = []
            given = first - 1
            size = 0
            for message in reader.messages(epoch=epoch, stream=stream, first=first, last=last, masks=args["masks"]):
                if size > MAX_ANSWER_BYTES and message.header.seq != given:
                    break
                given = message.header.seq
                parts = _again(message)
                size += sum(map(len, parts))
                blobs += parts
        result = {
            "epoch": epoch,
            "stream": stream,
            "oldest": held.oldest,
            "newest": held.last,
            "from": max(first, held.oldest),
            "to": given,
            "messages": len(blobs) // 4,
        }
        return Answer(request.request_id, result, blobs=tuple(blobs))

    def _result(self, request: Request, args: Mapping[str, Any]) -> Answer:
        epoch, stream, seq = args["epoch"] or self._epoch, args["stream"], args["seq"]
        with self._reader() as reader:
            messages = list(reader.messages(epoch=epoch, stream=stream, first=seq, last=seq, masks=True))
        verdict = next((each for each in messages if each.header.msg_type == MessageType.VERDICT), None)
        if verdict is None:
            raise RequestError(f"get_result: {epoch}-{stream}-{seq} is not in the journal", code="not_found")
        header = verdict.header
        described = {
            "topic": verdict.topic,
            "epoch": header.epoch,
            "stream": header.stream,
            "seq": header.seq,
            "frame_id": header.frame_id,
            "t_acq_ns": header.t_acq_ns,
            "latency_us": header.latency_us,
            "verdict": Verdict(header.verdict).name,
            "state": header.state.label,
            "defect_count": header.defect_count,
            "recipe_no": header.recipe_no,
            "trigger_id": header.trigger_id,
        }
        result = {"header": described, "body": json.loads(verdict.body), "mask": len(messages) > 1}
        return Answer(request.request_id, result, blobs=tuple(part for each in messages for part in _again(each)))

    def _image(self, request: Request, args: Mapping[str, Any]) -> Answer:
        epoch, stream, seq = args["epoch"] or self._epoch, args["stream"], args["seq"]
        found = self._images(epoch, stream, seq)
        if found is None:
            raise RequestError(f"get_image: {epoch}-{stream}-{seq} is not in the archive", code="not_found")
        described, data = found
        return Answer(request.request_id, described, blobs=(data,))


def _again(message: Message) -> list[bytes]:
    """The four parts of a message from the journal."""
    header = message.header
    again = replace(header, flags=(header.flags | Flags.REPLAYED) & ~Flags.NOT_DURABLE)
    return [message.topic.encode("ascii"), again.pack(), message.body, message.payload]


def refusal(request_id: int, error: RequestError) -> Answer:
    """That a request is not done."""
    return Answer(request_id, code=error.code, field=error.field, message=str(error))
