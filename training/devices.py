"""The devices of a training: how they are asked for, and how they stop together.

Devices wait for each other in every update. One that left alone would keep the others waiting, so an error of
one is agreed upon by all: the device that met it raises it, the others leave without a word.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Literal

import torch
from lightning.fabric import Fabric
from torch import Tensor

from inspectd.errors import ConfigError, InspectdError

__all__ = [
    "Hardware",
    "Place",
    "Precision",
    "agree",
    "alone",
    "average",
    "device_of",
    "fast_precision",
    "interruption",
    "launch",
    "on_first",
]


Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a training runs on; unlike the settings, it may change between a stop and a resume.

    Under `fabric run` its options say what accelerator and how many devices and machines there are.

    Attributes:
        accelerator: auto, cpu or gpu.
        devices: number of processes or GPUs on each machine.
        nodes: number of machines, when started by `fabric run` on each.
        workers: processes that read pictures, for each device.
        save_every: updates between two saved states.

    Raises:
        ConfigError: a number that is too small.
    """

    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    workers: int = 0
    save_every: int = 200

    def __post_init__(self) -> None:
        for name, least in (("devices", 1), ("nodes", 1), ("workers", 0), ("save_every", 1)):
            if (number := getattr(self, name)) < least:
                raise ConfigError(f"--{name.replace('_', '-')} {number}: expected {least} or more")


def fast_precision(accelerator: str) -> Precision:
    """The arithmetic to train in where none was asked for: bf16-mixed where the device calculates in it, else 32-true.

    A processor without instructions for bf16 imitates them, and is then many times slower than in fp32.

    Args:
        accelerator: auto, cpu or gpu.
    """
    if accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    # Not there in older versions, of which nothing is known then.
    can = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    # x86: AVX-512 BF16 or AMX; ARM names its own simply bf16.
    return "bf16-mixed" if any(can.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else "32-true"


def device_of(accelerator: str) -> Literal["cpu", "cuda"]:
    """The device of a network that is not trained, by torch's name.

    Args:
        accelerator: auto, cpu or gpu.
    """
    return "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"


def launch(hardware: Hardware, precision: Precision) -> Fabric:
    """Fabric on the hardware, with its processes started.

    Raises:
        ConfigError: this machine has no such devices, or they cannot calculate so.
    """
    # `fabric run` has started them, and refuses a program that asks for devices itself.
    launched = os.environ.get("LT_CLI_USED") == "1"
    several = hardware.devices * hardware.nodes > 1
    try:
        if launched:
            # It gives each of its processes all cores.
            share = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            torch.set_num_threads(max(1, min(torch.get_num_threads(), share)))
            return Fabric(precision=precision)
        fabric = Fabric(
            accelerator=hardware.accelerator,
            devices=hardware.devices,
            num_nodes=hardware.nodes,
            strategy="ddp" if several else "auto",
            precision=precision,
        )
    except (RuntimeError, ValueError) as error:
        where = "the devices of fabric run" if launched else f"{hardware.devices} x {hardware.accelerator}"
        raise ConfigError(f"cannot train on {where} with {precision}: {error}") from error
    fabric.launch()
    return fabric


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process is that works by itself: on which kind of device, and whether it is the first of its launch."""

    accelerator: str
    first: bool


def alone(accelerator: str) -> Place:
    """Let this process train by itself on one device, also where `fabric run` has started it as one of several.

    That launcher means its processes for one training. An experiment has many that share work by files instead: each
    process keeps one GPU of its machine and its share of the cores, and forgets the others.

    Args:
        accelerator: auto, cpu or gpu; under `fabric run` its own option holds.
    """
    if os.environ.get("LT_CLI_USED") != "1":
        return Place(accelerator, first=True)
    local, beside = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    place = Place(os.environ.get("LT_ACCELERATOR", accelerator), first=os.environ.get("RANK", "0") == "0")
    for name in [name for name in os.environ if name.startswith(_LAUNCHERS) or name in _RENDEZVOUS]:
        del os.environ[name]
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // beside))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if place.accelerator != "cpu" and beside > 1:
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        visible = named.split(",") if named else [str(index) for index in range(torch.cuda.device_count())]
        if visible:
            # More processes than GPUs share them.
            os.environ["CUDA_VISIBLE_DEVICES"] = visible[local % len(visible)]
    return place


_LAUNCHERS = ("LT_", "TORCHELASTIC_", "TORCH_NCCL_")
_RENDEZVOUS = {
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    *("GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
}


def on_first(fabric: Fabric, action: Callable[[], None]) -> None:
    """Do something on the first device alone; the others wait for it.

    Raises:
        InspectdError, OSError: what `action` raised, on the first device.
        SystemExit: `action` failed, on the others.
    """
    failure: InspectdError | OSError | None = None
    if fabric.global_rank == 0:
        try:
            action()
        except (InspectdError, OSError) as error:
            failure = error
    failed = fabric.broadcast(failure is not None)
    if failure is not None:
        raise failure
    if failed:
        raise SystemExit(2)


def agree(fabric: Fabric, *flags: bool) -> tuple[bool, ...]:
    """Each flag, true where it is true on any device."""
    if fabric.world_size == 1:
        return flags
    raised = torch.tensor(flags, dtype=torch.float32, device=fabric.device)
    fabric.all_reduce(raised, reduce_op="max")  # in place
    return tuple(flag > 0 for flag in raised.tolist())


def average(fabric: Fabric, scalar: Tensor) -> float:
    """The mean of a scalar over the devices."""
    mean = scalar.detach().clone()
    if fabric.world_size > 1:
        fabric.all_reduce(mean, reduce_op="mean")  # in place
    return float(mean)


@contextlib.contextmanager
def interruption() -> Iterator[Callable[[], bool]]:
    """Holds Ctrl-C back and tells whether it was pressed; a second one does not wait.

    In the middle of an update, part of the state is already that of the next one: saved then, it would not
    go on as if it had never been stopped.
    """
    pressed = False

    def note(_signal: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
