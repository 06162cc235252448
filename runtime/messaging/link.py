"""What both sides of INS1's sockets share: options, addresses, and the words where one cannot be had."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket as posix_socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

import zmq

from inspectd.errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Connected", "Link", "bind", "bind_again", "bound_address", "let_go", "local_endpoint"]

_LINK_HEARTBEAT_MS = 500
_LINK_TIMEOUT_MS = 1500
_AGAIN_S = 3.0
_LONGEST_PATH = 100
"""The system takes 107 bytes; libzmq's own copy of a path is one shorter."""
_UMASK = threading.Lock()


class Link:
    """A socket with a context of its own, and the options that both sides of INS1 share.

    Args:
        kind: of the socket, such as `zmq.SUB`.
        endpoint: that it will be bound or connected to.
        context: of the socket, if it shares one; else it gets one of its own, which ends with it.

    Raises:
        ConfigError: the endpoint has a port that no machine has.
    """

    def __init__(self, kind: int, endpoint: str, *, context: zmq.Context[zmq.Socket[bytes]] | None = None) -> None:
        port = endpoint.rpartition(":")[2]
        if endpoint.startswith("tcp://") and port.isdecimal() and int(port) > 65535:
            # libzmq takes such a number modulo 65536.
            raise ConfigError(f"endpoint {endpoint}: the port is above 65535")
        self._owns_context = context is None
        self.context: zmq.Context[zmq.Socket[bytes]] = context or zmq.Context()
        self.socket: zmq.Socket[Any] = self.context.socket(kind)
        self.socket.linger = 0
        # Without these a subscriber stays deaf after its network was away for a second.
        self.socket.heartbeat_ivl = _LINK_HEARTBEAT_MS
        self.socket.heartbeat_timeout = _LINK_TIMEOUT_MS
        self.socket.ipv6 = "[" in endpoint

    def close(self, drain_s: float = 0.0) -> None:
        """Ending the context waits until everything is sent, but not longer than the socket may linger."""
        self.socket.close(linger=round(drain_s * 1000))
        if self._owns_context:
            self.context.term()


class Connected:
    """What every client of a station does: connect to one address, and let go; a context manager.

    Args:
        endpoint: address to connect to; who is there may come later.
        secure: sets keys on the socket before it connects.
    """

    KIND: ClassVar[int]
    """Of the socket."""
    EXAMPLE: ClassVar[str] = "tcp://192.168.0.5:5560 or ipc:///run/inspectd/pub"
    """An address, for errors."""

    def __init__(self, endpoint: str, *, secure: Callable[[zmq.Socket[Any]], None] | None = None) -> None:
        self.endpoint = endpoint
        self._secure = secure
        self._link: Link | None = None

    def open(self) -> None:
        """Connect; returns before the connection stands.

        Raises:
            ConfigError: the address is not one.
        """
        link = Link(self.KIND, self.endpoint)
        try:
            self._set(link.socket)
            if self._secure is not None:
                self._secure(link.socket)
            link.socket.connect(self.endpoint)
        except zmq.ZMQError as error:
            link.close()
            raise ConfigError(
                f"endpoint {self.endpoint}: cannot be connected to ({error.strerror}); expected an address such as "
                f"{self.EXAMPLE}"
            ) from error
        self._link = link

    def _set(self, socket: zmq.Socket[Any]) -> None:
        """Set its options."""

    @property
    def _socket(self) -> zmq.Socket[Any]:
        if self._link is None:
            raise RuntimeError(f"{type(self).__name__} of {self.endpoint} is not open")
        return self._link.socket

    def close(self) -> None:
        """Let go. May be called twice."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def bind(socket: zmq.Socket[Any], endpoint: str, *, setting: str, mode: int | None = None) -> str:
    """Bind a socket to an address of this machine.

    Args:
        socket: the socket, its options set.
        endpoint: the address.
        setting: of the configuration, for errors.
        mode: permissions of the file of an `ipc://` address; None leaves those of the process.

    Returns:
        The address, with the port that was chosen.

    Raises:
        ConfigError: it is taken or cannot be bound.
    """
    path = Path(endpoint.removeprefix("ipc://")) if endpoint.startswith("ipc://") else None
    if path is not None:
        _check_path(path, endpoint, setting)
    try:
        # Whoever connects before the permissions are set has the ones of the process: none but its user's.
        with _umask(0o077 if mode is not None and path is not None else None):
            socket.bind(endpoint)
        if mode is not None and path is not None:
            Path(bound_address(socket).removeprefix("ipc://")).chmod(mode)
    except (zmq.ZMQError, OSError) as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(_in_use(endpoint, setting)) from error
        raise ConfigError(
            f"{setting} {endpoint}: cannot be bound ({error.strerror}); expected an address of this "
            f"machine such as tcp://*:5560, or ipc:// and a path in a folder that exists"
        ) from error
    return bound_address(socket)


def let_go(link: Link, *endpoints: str) -> None:
    """Close a socket, and give its addresses free first."""
    for endpoint in endpoints:
        with contextlib.suppress(zmq.ZMQError):
            link.socket.unbind(endpoint)
    link.close()


def bind_again(make: Callable[[], None]) -> None:
    """Bind addresses that were just let go of: the system takes a moment to give them free.

    Args:
        make: binds them.

    Raises:
        ConfigError: they cannot be had again.
    """
    deadline = time.monotonic() + _AGAIN_S
    while True:
        try:
            make()
        except ConfigError:  # noqa: PERF203 - tried again
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def bound_address(socket: zmq.Socket[Any]) -> str:
    """The address that a socket was last bound to."""
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)


def local_endpoint(folder: Path, name: str) -> str:
    """The `ipc://` address of a socket in a folder; where its path is too long, in one for short paths.

    Raises:
        ConfigError: that folder belongs to somebody else.
    """
    path = folder.absolute() / name
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        return f"ipc://{path}"
    digest = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:12]
    short = Path(tempfile.gettempdir()) / f"inspectd-{os.getuid()}-{digest}"
    short.mkdir(mode=0o700, exist_ok=True)
    status = short.lstat()
    if status.st_uid != os.getuid() or short.is_symlink():
        raise ConfigError(f"{short}: belongs to somebody else; remove it, or set a shorter station.state_dir")
    return f"ipc://{short / name}"


@contextlib.contextmanager
def _umask(mask: int | None) -> Iterator[None]:
    if mask is None:
        yield
        return
    # It is the process's: two threads that bind at once would put back each other's.
    with _UMASK:
        before = os.umask(mask)
        try:
            yield
        finally:
            os.umask(before)


def _check_path(path: Path, endpoint: str, setting: str) -> None:
    """Whatever libzmq finds at the path it deletes without a word, to make its socket there."""
    try:
        taken = path.exists() and not path.is_socket()
    except OSError:
        return  # an impossible path: binding tells why
    if taken:
        raise ConfigError(
            f"{setting} {endpoint}: there is a file or folder of this name already; expected the path "
            f"of a socket that is made when the line starts"
        )
    if _is_listening(str(path)):
        raise ConfigError(_in_use(endpoint, setting))


def _is_listening(path: str) -> bool:
    with posix_socket.socket(posix_socket.AF_UNIX, posix_socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            return True  # whose queue is full: to wait for a place in it could take for ever
        except OSError:
            return False
        return True


def _in_use(endpoint: str, setting: str) -> str:
    return (
        f"{setting} {endpoint}: port in use, perhaps by another line on this machine; stop that one "
        f"(`ss -ltnpx` shows who listens where), or set another {setting}"
    )
