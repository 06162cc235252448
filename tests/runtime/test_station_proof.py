"""The proof: a station that is killed again and again, and consumers that have every result once.

`python -m pytest -m slow -s tests/runtime/test_station_proof.py` prints the figures of docs/results/station.md.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from inspectd.errors import NotReached
from inspectd.runtime.journal import JournalReader
from inspectd.runtime.messaging import Subscriber
from inspectd.wire import MessageType, StatsBody, read_body

from ..clients.bench import CLIENTS  # noqa: TID252
from ..clients.test_c import build  # noqa: TID252
from .conftest import core_of, finish, summary_of
from .test_station import Running, start, station  # noqa: F401 - fixtures

RATE = 200
FAST = f'source = "folder"\npath = "pictures"\nloop = true\nfps = {RATE}'


class Consumer:
    """A client in a process of its own, and the results that it tells, one a line."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self.results: list[tuple[int, int]] = []
        self.lost: list[str] = []
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._read, self._complain)]
        self.complaints: list[str] = []
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            if line.startswith("{"):
                event = json.loads(line)
                if event["event"] == "result" and event["stream"] == 0:
                    self.results.append((event["epoch"], event["seq"]))
                elif event["event"] == "lost":
                    self.lost.append(line)
            else:
                words = line.split()
                if words[0] == "result" and words[2] == "0":
                    self.results.append((int(words[1]), int(words[3])))
                elif words[0] == "lost":
                    self.lost.append(line)

    def _complain(self) -> None:
        self.complaints += list(self.process.stderr)

    def close(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join(5)
        self.process.stdout.close()
        self.process.stderr.close()


def python_client(name: str, folder: Path) -> Consumer:
    script = CLIENTS / "python" / "ins1_client.py"
    return Consumer(
        name, [sys.executable, str(script), f"ipc://{folder}/pub", "--control", f"ipc://{folder}/state/ctl"]
    )


def c_client(folder: Path) -> Consumer | None:
    if shutil.which("gcc") is None:
        return None
    program = build(folder, CLIENTS / "c" / "example.c")
    return Consumer("C", [str(program), f"ipc://{folder}/pub", f"ipc://{folder}/state/ctl"])


def wait(holds, what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


def last_of(running: Running) -> tuple[int, int]:
    """Epoch and seq of the latest result."""
    while True:
        try:
            snapshot = running.requester.ask("snapshot", timeout_s=1.0).result
        except NotReached:
            continue
        return snapshot["epoch"], snapshot["streams"][0]["last"]


def proof(running: Running, *, kills: int, seed: int = 0, apart_s: float = 0.0) -> dict:
    chance = random.Random(seed)
    folder = running.folder
    consumers = [python_client("normal", folder), python_client("stalling", folder)]
    if (written_in_c := c_client(folder)) is not None:
        consumers.append(written_in_c)
    for consumer in consumers:
        wait(lambda each=consumer: each.results, f"{consumer.name} has begun")
    away_s = []
    try:
        for number in range(1, kills + 1):
            wait(lambda epoch=number: last_of(running) > (epoch, 100), f"results of epoch {number}")
            # Five in a minute are too many for the supervisor: then it waits for half a minute.
            time.sleep(apart_s)
            consumers[1].process.send_signal(signal.SIGSTOP)
            time.sleep(chance.uniform(0.2, 1.0))
            core = core_of(running.process)
            began = time.monotonic()
            os.kill(core, signal.SIGKILL)
            wait(lambda epoch=number: last_of(running) > (epoch + 1, 0), f"a result of epoch {number + 1}")
            away_s.append(time.monotonic() - began)
            consumers[1].process.send_signal(signal.SIGCONT)
            if number == (kills + 1) // 2:
                consumers.append(python_client("late", folder))
                wait(lambda: consumers[-1].results, "the late one has begun")
        wait(lambda: last_of(running) > (kills + 1, 200), "results after the last one")
        running.ask("stop")
        with JournalReader(folder / "state" / "journal.db") as reader:
            journalled = [
                (message.header.epoch, message.header.seq)
                for _, message in reader.all_messages(kinds=(MessageType.VERDICT,))
            ]
        for consumer in consumers:
            wait(
                lambda each=consumer: each.results and each.results[-1] == journalled[-1], f"all of it: {consumer.name}"
            )
    finally:
        for consumer in consumers:
            consumer.close()
    per_epoch = Counter(epoch for epoch, _ in journalled)
    for epoch, count in per_epoch.items():
        assert [seq for each, seq in journalled if each == epoch] == list(range(1, count + 1)), "numbers have gaps"
    figures = {"kills": kills, "journalled": len(journalled), "epochs": len(per_epoch)}
    for consumer in consumers:
        expected = journalled[journalled.index(consumer.results[0]) :]
        assert not consumer.lost, f"{consumer.name}: {consumer.lost[:3]}"
        doubled = len(consumer.results) - len(set(consumer.results))
        missing = len(set(expected) - set(consumer.results))
        figures[consumer.name] = {"results": len(consumer.results), "missing": missing, "doubled": doubled}
        assert (missing, doubled) == (0, 0), f"{consumer.name}: {missing} missing, {doubled} doubled"
        assert consumer.results == expected, f"{consumer.name}: not in their order"
    figures["away_s"] = {"median": round(statistics.median(away_s), 2), "longest": round(max(away_s), 2)}
    return figures


def test_every_result_once_over_kills_of_the_core(station, pictures, tmp_path):  # noqa: F811
    with station(FAST) as running:
        figures = proof(running, kills=3)
        running.process.terminate()
        assert finish(running.process)[0] == 0
    assert figures["epochs"] == 4


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_result_once_over_twenty_kills_of_the_core(station, pictures, tmp_path, capsys):  # noqa: F811
    began = time.monotonic()
    with station(FAST) as running:
        figures = proof(running, kills=20, seed=1, apart_s=12.0)
        stats = running.ask("snapshot")
        running.process.terminate()
        assert finish(running.process)[0] == 0
    assert figures["epochs"] == 21
    assert stats["state"] == "Ready"
    figures["results_per_s"] = round(figures["journalled"] / (time.monotonic() - began), 1)
    with capsys.disabled():
        print(f"\n{json.dumps(figures)}")  # noqa: T201


def latencies_ms(running: Running, count: int) -> list[float]:
    """Of the next results, from their frame's arrival to their publishing."""
    return [
        running.until(lambda message: message.header.msg_type == MessageType.VERDICT).header.latency_us / 1000
        for _ in range(count)
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_stalled_subscriber_does_not_raise_the_latency(station, pictures, tmp_path, capsys):  # noqa: F811
    alone, beside = [], []
    with station(FAST) as running:
        latencies_ms(running, 200)
        for _ in range(5):
            alone.append(np.percentile(latencies_ms(running, 1000), 99))
            with Subscriber(f"ipc://{tmp_path}/pub") as stalled:
                stalled.receive(5.0)  # and never again
                beside.append(np.percentile(latencies_ms(running, 1000), 99))
        running.process.terminate()
        finish(running.process)
    ratio = statistics.median(beside) / statistics.median(alone)
    figures = {
        "p99_ms_alone": list(map(float, alone)),
        "p99_ms_beside": list(map(float, beside)),
        "ratio": float(ratio),
    }
    with capsys.disabled():
        print(f"\n{json.dumps(figures)}")  # noqa: T201
    assert ratio < 1.5


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
def test_an_hour_leaves_memory_and_descriptors_as_they_were(station, pictures, tmp_path, capsys):  # noqa: F811
    """30 parts a second with journal, masks and archive; `INSPECTD_SOAK_MINUTES` and `INSPECTD_SOAK_FPS` for others."""
    minutes = float(os.environ.get("INSPECTD_SOAK_MINUTES", "60"))
    fps = os.environ.get("INSPECTD_SOAK_FPS", "30")
    samples: list[StatsBody] = []
    more = f'[archive]\npath = "{tmp_path}/archive"\nok_every = 30\nmax_gib = 0.05\n[journal]\nmax_mib = 64\n'
    with station(FAST.replace(str(RATE), fps), more) as running:
        until = time.monotonic() + 60 * minutes
        while time.monotonic() < until:
            message = running.until(lambda message: message.header.msg_type == MessageType.STATS)
            samples.append(read_body(message, StatsBody))
            last = samples[-1]
            assert last.triggers == last.waiting + sum(last.verdicts.values())
        running.process.terminate()
        status, out, _ = finish(running.process)
    settled = samples[len(samples) // 10 :]
    quarter = max(1, len(settled) // 4)
    memory = [statistics.median(each.memory_bytes for each in part) for part in (settled[:quarter], settled[-quarter:])]
    # The median, not the highest: a file that is open for a moment is no leak.
    descriptors = [
        statistics.median(each.descriptors for each in part) for part in (settled[:quarter], settled[-quarter:])
    ]
    figures = {
        "minutes": minutes,
        "verdicts": summary_of(out)["verdicts"],
        "not_durable": summary_of(out)["not_durable"],
        "not_inspected": summary_of(out)["not_inspected"],
        "memory_mib": [round(value / 2**20, 1) for value in memory],
        # Caches fill up, a leak does not.
        "memory_mib_by_parts": {
            each.triggers: round(each.memory_bytes / 2**20, 2) for each in samples[:: max(1, len(samples) // 12)]
        },
        "descriptors": descriptors,
        "archived": last.archived,
        "archive_refused": last.archive_refused,
        "journal_mib": round(last.journal_bytes / 2**20, 1),
    }
    with capsys.disabled():
        print(f"\n{json.dumps(figures)}")  # noqa: T201
    assert status == 0
    assert summary_of(out)["frames"] == summary_of(out)["verdicts"]
    assert memory[1] < 1.05 * memory[0]
    assert descriptors[1] <= descriptors[0]
