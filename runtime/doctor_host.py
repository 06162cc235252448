"""What the system has to allow for cameras to deliver every frame at their full rate; part of `inspectd doctor`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .doctor import Check

__all__ = ["check_host"]

_GIGE_BUFFER = 32 * 2**20
"""A quarter of a second of a GigE link."""
_JUMBO_BYTES = 9000
_USB_MB = 1000
_RULES = "60-inspectd-cameras.rules"


def check_host(root: Path = Path("/")) -> Iterator[Check]:
    """Each setting, with the command that mends it.

    Args:
        root: of the file system, whose /sys, /proc, /dev and /etc are looked at.
    """
    yield from _receive_buffers(root)
    yield from _packets(root)
    yield from _usb(root)


def _receive_buffers(root: Path) -> Iterator[Check]:
    """What a burst of packets may fill before a producer reads it."""
    limit = _number(root / "proc/sys/net/core/rmem_max")
    if limit is None:
        yield Check("host", "socket buffers", "ok", "their limit is not this machine's to set")
        return
    found = f"net.core.rmem_max is {limit / 2**20:.3g} MiB"
    if limit >= _GIGE_BUFFER:
        yield Check("host", "socket buffers", "ok", found)
        return
    place = "/etc/sysctl.d/60-inspectd-cameras.conf"
    remedy = f"echo net.core.rmem_max={_GIGE_BUFFER} | sudo tee {place} && sudo sysctl --load {place}"
    yield Check("host", "socket buffers", "missing", f"{found}; GigE cameras lose packets in bursts", remedy)


def _packets(root: Path) -> Iterator[Check]:
    """Whether the wired ports that are in use take jumbo frames: which of them leads to a camera nobody can tell."""
    for port in sorted(root.glob("sys/class/net/*")):
        # Type 1 is Ethernet; bridges and the like have no device.
        is_wired = _number(port / "type") == 1 and (port / "device").exists() and not (port / "wireless").exists()
        mtu = _number(port / "mtu")
        if not is_wired or mtu is None or _text_of(port / "operstate") != "up":
            continue
        found = f"packets of {mtu} bytes (MTU)"
        if mtu >= _JUMBO_BYTES:
            yield Check("host", f"port {port.name}", "ok", found)
            continue
        found += f"; a GigE camera on it costs the processor less with {_JUMBO_BYTES}, if switches between take them"
        remedy = f"sudo ip link set {port.name} mtu {_JUMBO_BYTES}, and the same in netplan or NetworkManager to last"
        yield Check("host", f"port {port.name}", "missing", found, remedy)


def _usb(root: Path) -> Iterator[Check]:
    """The memory that USB3 Vision cameras share, and who may open them."""
    limit_mb = _number(root / "sys/module/usbcore/parameters/usbfs_memory_mb")
    if limit_mb is None:
        return  # no USB
    if limit_mb == 0 or limit_mb >= _USB_MB:
        found = f"usbfs_memory_mb is {limit_mb}" + ("" if limit_mb else ", without a limit")
        yield Check("host", "USB memory", "ok", found)
    else:
        found = f"usbfs_memory_mb is {limit_mb}; USB cameras share it, and lose frames or do not start"
        line = f"w /sys/module/usbcore/parameters/usbfs_memory_mb - - - - {_USB_MB}"
        place = "/etc/tmpfiles.d/inspectd-usb.conf"
        remedy = f"echo '{line}' | sudo tee {place} && sudo systemd-tmpfiles --create {place}"
        yield Check("host", "USB memory", "missing", found, remedy)
    rules = [root / folder / "udev/rules.d" / _RULES for folder in ("etc", "usr/lib", "lib", "run")]
    has_rules = any(path.is_file() for path in rules)
    remedy = (
        f"sudo install -m 644 deploy/systemd/{_RULES} /etc/udev/rules.d/ && sudo udevadm control --reload && "
        "sudo udevadm trigger --subsystem-match=usb; people join the group: sudo usermod -aG inspectd NAME"
    )
    closed = [node for node in _usb_cameras(root) if not os.access(node, os.R_OK | os.W_OK)]
    if closed:
        names = ", ".join(f"/{node.relative_to(root)}" for node in closed)
        yield Check("host", "USB cameras", "warning", f"this user may not open {names}", remedy)
    elif has_rules:
        yield Check("host", "USB cameras", "ok", "belong to the group inspectd, by udev's rules")
    else:
        yield Check("host", "USB cameras", "missing", f"there is no {_RULES}; only root opens them", remedy)


def _usb_cameras(root: Path) -> Iterator[Path]:
    """The devices of USB3 Vision cameras that are plugged in."""
    for interface in sorted(root.glob("sys/bus/usb/devices/*:*")):
        kind = [_text_of(interface / f"bInterface{part}") for part in ("Class", "SubClass", "Protocol")]
        if kind != ["ef", "05", "00"]:  # as the standard says: miscellaneous, USB3 Vision, control
            continue
        device = interface.with_name(interface.name.partition(":")[0])
        bus, number = _number(device / "busnum"), _number(device / "devnum")
        if bus is not None and number is not None:
            yield root / f"dev/bus/usb/{bus:03}/{number:03}"


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text_of(path)
    return int(text) if text.isdecimal() else None
