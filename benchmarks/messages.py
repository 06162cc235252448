"""What messages cost: coding masks, sending them to another process with and without keys, keeping them on disk."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import zmq
from numpy.typing import NDArray

from inspectd.errors import ProtocolError
from inspectd.frame import Frame
from inspectd.inspection import Inspection, Verdict
from inspectd.mask import ClassMap, Mask
from inspectd.runtime.journal import Entry, Journal
from inspectd.wire import (
    MaskEncoding,
    Message,
    Origin,
    State,
    decode_mask,
    encode_mask,
    mask_message,
    verdict_message,
)

from .measure import Report, table

__all__ = ["run"]

SIDE_PX = 2048
BLOBS = 40
PAYLOADS = {"10 kB": 10_000, "1 MB": 1_000_000}
_WAIT_S = 20.0


def run(*, repeats: int) -> Report:
    """Measure coding, sending and keeping.

    Args:
        repeats: how often each; the median counts.

    Raises:
        ProtocolError: the other process did not answer.
    """
    coding = _coding(max(3, repeats))
    sending = _sending(50 * repeats)
    keeping = _keeping(200 * repeats)
    rows = [
        (name, f"{its['bytes'] / 1000:.1f}", f"{its['encode_ms']:.2f}", f"{its['decode_ms']:.2f}")
        for name, its in coding.items()
    ]
    text = "\n".join(
        (
            table((f"mask of {SIDE_PX}x{SIDE_PX}, {BLOBS} defects", "kB", "encode, ms", "decode, ms"), rows),
            table(
                ("payload, pub to sub in another process", "p50, us", "p50 with CURVE, us"),
                [(name, f"{plain:.0f}", f"{curve:.0f}") for name, (plain, curve) in sending.items()],
            ),
            f"journal, verdict and mask of 256x256 in a transaction each, on the disk (FULL): "
            f"{keeping['rows_per_s']:.0f} messages/s, p50 {keeping['p50_ms']:.2f} ms, p99 {keeping['p99_ms']:.2f} ms",
        )
    )
    return Report(text, {"coding": coding, "sending_us": sending, "journal": keeping, "passed": True}, passed=True)


def _labels(side: int, blobs: int) -> NDArray[np.uint8]:
    labels = np.zeros((side, side), np.uint8)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side]
    for number in range(blobs):
        y, x, radius = rng.integers(0, side), rng.integers(0, side), rng.integers(3, max(4, side // 80))
        labels[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = 1 + number % 3
    return labels


def _coding(repeats: int) -> dict[str, dict[str, float]]:
    labels = _labels(SIDE_PX, BLOBS)
    found = {}
    for encoding in MaskEncoding:
        data = encode_mask(labels, encoding)
        found[encoding.value] = {
            "bytes": float(len(data)),
            "encode_ms": _median_ms(lambda e=encoding: encode_mask(labels, e), repeats),  # type: ignore[misc]
            "decode_ms": _median_ms(lambda e=encoding, d=data: decode_mask(d, e, SIDE_PX, SIDE_PX), repeats),  # type: ignore[misc]
        }
    return found


def _median_ms(act: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        act()
        times.append((time.perf_counter() - began) * 1e3)
    return median(times)


def _sending(count: int) -> dict[str, tuple[float, float]]:
    return {
        name: (_latency_us(size, count, curve=False), _latency_us(size, count, curve=True))
        for name, size in PAYLOADS.items()
    }


def _latency_us(size: int, count: int, *, curve: bool) -> float:
    """From before the send to after the receive, on the one clock of this machine."""
    context = zmq.Context()
    pub = context.socket(zmq.XPUB)
    pub.linger = 0
    keys = zmq.curve_keypair() if curve else None
    if keys is not None:
        pub.curve_server, pub.curve_secretkey = True, keys[1]
    pub.bind("tcp://127.0.0.1:*")
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    endpoint = pub.getsockopt_string(zmq.LAST_ENDPOINT)
    process = spawn.Process(target=_listen, args=(endpoint, keys and keys[0], count, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        if not pub.poll(round(_WAIT_S * 1000)):
            raise ProtocolError("nobody has subscribed")
        pub.recv()
        payload = bytes(size)
        for _ in range(count):
            pub.send_multipart([b"t", time.monotonic_ns().to_bytes(8, "little"), payload])
            time.sleep(0.002)
        if not ours.poll(_WAIT_S):
            raise ProtocolError("the subscriber did not answer")
        return float(median(ours.recv())) / 1000
    finally:
        process.kill()
        process.join()
        ours.close()
        pub.close()
        context.term()


def _listen(endpoint: str, server: bytes | None, count: int, parent: Connection) -> None:
    context = zmq.Context()
    sub = context.socket(zmq.SUB)
    sub.rcvhwm = 0
    if server is not None:
        sub.curve_publickey, sub.curve_secretkey = zmq.curve_keypair()
        sub.curve_serverkey = server
    sub.subscribe(b"t")
    sub.connect(endpoint)
    late = []
    while len(late) < count and sub.poll(5000):
        parts: list[Any] = sub.recv_multipart(copy=False)
        late.append(time.monotonic_ns() - int.from_bytes(parts[1].bytes, "little"))
    parent.send(late)


def _keeping(count: int) -> dict[str, float]:
    times = []
    with tempfile.TemporaryDirectory(prefix="inspectd-") as folder:
        journal = Journal(Path(folder) / "journal.db", epoch=1)
        journal.open()
        began = time.perf_counter()
        for seq in range(1, count + 1):
            started = time.perf_counter()
            ticket = journal.submit(Entry(messages=_result(seq)))
            while not ticket.answered:
                time.sleep(0)
            times.append((time.perf_counter() - started) * 1e3)
        seconds = time.perf_counter() - began
        journal.close()
    p50, p99 = np.percentile(times, (50, 99))
    return {"rows_per_s": 2 * count / seconds, "p50_ms": float(p50), "p99_ms": float(p99)}


_MASK = Mask(_labels(256, 3), ClassMap(("a", "b", "c")))


def _result(seq: int) -> list[Message]:
    frame = Frame("cam1", seq, np.zeros((256, 256, 1), np.uint8), acquired_ns=0)
    inspection = Inspection(frame, Verdict.OK, (), _MASK, "ab" * 32)
    origin = Origin(epoch=1, stream=0, seq=seq, state=State.CONTINUOUS_EXECUTION)
    return [
        verdict_message(inspection, origin, created_ns=0),
        mask_message(inspection, origin, encoding=MaskEncoding.RLE8),
    ]
