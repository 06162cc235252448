"""A reference station in its process, which tests start, kill and ask what it has written."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

import pytest

from inspectd.wire import Message, MessageType

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ROOT / "deploy" / "clients"
GOLDEN = ROOT / "tests" / "golden" / "ins1"
STATION = Path(__file__).with_name("station.py")
WAIT_S = 30.0


def load_client() -> ModuleType:
    """The one file of the client in Python."""
    path = CLIENTS / "python" / "ins1_client.py"
    spec = importlib.util.spec_from_file_location("ins1_client", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def golden_parts(path: Path) -> list[bytes]:
    data, parts = path.read_bytes(), []
    while data:
        (length,) = struct.unpack_from("<I", data)
        parts.append(data[4 : 4 + length])
        data = data[4 + length :]
    return parts


def told(path: Path) -> dict:
    return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


class Bench:
    """Its folder, short enough for the path of a socket, and its process."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ins1-", dir="/tmp"))  # a short path
        self.publish = f"ipc://{self.folder}/pub"
        self.control = f"ipc://{self.folder}/ctl"
        self.process: subprocess.Popen[str] | None = None

    def start(self, **options: object) -> int:
        """The epoch of the station, which has bound its sockets."""
        words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        self.process = subprocess.Popen(
            [sys.executable, STATION, self.folder, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        epoch, self.publish, self.control = self.process.stdout.readline().split()
        return int(epoch)

    def kill(self) -> None:
        """As if its power were cut."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.process = None

    def quieten(self) -> None:
        """From now on nothing but heartbeats."""
        (self.folder / "quiet").touch()
        time.sleep(0.1)

    def wake(self) -> None:
        (self.folder / "quiet").unlink()

    def written(self, *kinds: MessageType) -> list[Message]:
        """What is in its journal, in its order."""
        data, messages = (self.folder / "journal").read_bytes(), []
        position = 0
        while len(data) - position >= 16:
            lengths = struct.unpack_from("<4I", data, position)
            end = position + 16 + sum(lengths)
            if end > len(data):
                break
            parts, at = [], position + 16
            for length in lengths:
                parts.append(data[at : at + length])
                at += length
            messages.append(Message.from_parts(parts))
            position = end
        return [message for message in messages if message.header.msg_type in (kinds or (MessageType.VERDICT,))]

    def close(self) -> None:
        if self.process is not None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def place(message: Message) -> tuple[int, int, int]:
    return message.header.epoch, message.header.stream, message.header.seq


def wait_until(condition, what: str, timeout_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.01)
