"""Who may talk to a station from other machines: its keys, and the list of its clients.

keys/station.key      the station's secret CURVE key, Z85; for its user alone
keys/station.pub      its public one: clients need it
keys/clients.toml     who may come, and what each may do

[[clients]]
name = "plc-3"
role = "viewer"
key = "…40 signs of Z85…"
created = 2026-11-26
revoked = 2026-12-01      # is let in no more; kept so that its name is not given twice
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import zmq

from inspectd.config import Role
from inspectd.durable import replace_file
from inspectd.errors import ConfigError
from inspectd.permissions import check_secret, check_unshared
from inspectd.wire import ROLES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["KEY_SIGNS", "Access", "ClientEntry", "ClientKeys", "KeysFolder", "make_pair", "write_client_file"]

SECRET, PUBLIC, CLIENTS = "station.key", "station.pub", "clients.toml"
_LOCK = ".lock"
KEY_SIGNS = 40
"""Of a key, in Z85."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_Z85 = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")


@dataclass(frozen=True, slots=True)
class ClientEntry:
    """A client of the list; `revoked` is None as long as it is let in."""

    name: str
    role: Role
    key: str
    created: dt.date
    revoked: dt.date | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """Keys and clients as they were at one moment.

    Attributes:
        public: the station's public key, Z85.
        secret: its secret one; not shown.
        clients: by their keys.
    """

    public: str
    secret: bytes = field(repr=False)
    clients: Mapping[str, ClientEntry]

    def who(self, key: str) -> tuple[str, Role] | None:
        """Name and role of a key; None for one that is not let in."""
        entry = self.clients.get(key)
        return None if entry is None or entry.revoked is not None else (entry.name, entry.role)

    def cuts(self, later: Access) -> bool:
        """Whether somebody who was let in by this one is not by a later one; a role needs no cut."""
        if (self.public, self.secret) != (later.public, later.secret):
            return True
        return any(self.who(key) is not None and later.who(key) is None for key in self.clients)


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """What a client needs to get in.

    Attributes:
        server: the station's public key.
        public: the client's public key.
        secret: its secret one; not shown.
    """

    server: bytes
    public: bytes
    secret: bytes = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> ClientKeys:
        """Read a client's file, as `inspectd keys client --out` writes it.

        Raises:
            ConfigError: it is missing, none, or others can read it.
        """
        values = _toml(path, "make one with `inspectd keys client NAME --out FILE` at the station")
        check_secret(path)
        keys = {name: str(values.get(name, "")) for name in ("server_key", "public_key", "secret_key")}
        for name, key in keys.items():
            if not _Z85.fullmatch(key):
                raise ConfigError(f"{path}: {name}: expected {KEY_SIGNS} signs of Z85")
        return cls(keys["server_key"].encode(), keys["public_key"].encode(), keys["secret_key"].encode())

    def apply(self, socket: zmq.Socket[Any]) -> None:
        """Set them on a socket before it connects."""
        socket.curve_serverkey = self.server
        socket.curve_publickey = self.public
        socket.curve_secretkey = self.secret


class KeysFolder:
    """The folder of a station's keys; everything in it is changed as a whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> Access:
        """Keys and clients as they are.

        Raises:
            ConfigError: what is missing or wrong; every fault of the list, one a line.
        """
        secret, public = self.path / SECRET, self.path / PUBLIC
        if not secret.exists():
            raise ConfigError(
                f"{secret}: no such file; addresses that other machines reach need the station's keys: "
                f'`inspectd keys station --keys {self.path}` makes them (security.curve = "off" does without)'
            )
        check_secret(secret)
        keys = {path: _read(path).strip() for path in (secret, public)}
        for path, key in keys.items():
            if not _Z85.fullmatch(key):
                raise ConfigError(
                    f"{path}: expected a key of {KEY_SIGNS} signs of Z85; make keys anew with `inspectd keys rotate`"
                )
        try:
            derived = zmq.curve_public(keys[secret].encode()).decode()
        except zmq.ZMQError:
            derived = ""
        if derived != keys[public]:
            raise ConfigError(
                f"{public}: is not the public key of {SECRET}; make keys anew with `inspectd keys rotate`"
            )
        entries = self.entries()
        return Access(keys[public], keys[secret].encode(), MappingProxyType({entry.key: entry for entry in entries}))

    @property
    def has_list(self) -> bool:
        """Whether there is a list of clients."""
        return (self.path / CLIENTS).exists()

    def entries(self) -> list[ClientEntry]:
        """The list of clients; empty where there is none.

        Raises:
            ConfigError: every fault, one a line.
        """
        path = self.path / CLIENTS
        if not path.exists():
            return []
        check_unshared(path, "who is let in")
        rows = _toml(path, "").get("clients")
        if not isinstance(rows, list):
            # What an editor has emptied, and not filled yet, must not throw everybody out.
            raise ConfigError(f"{path}: expected tables [[clients]]; write `clients = []` to let nobody in")
        entries: list[ClientEntry] = []
        faults: list[str] = []
        for number, row in enumerate(rows, 1):
            entry = _entry(row, f"{path}: client {number}", faults)
            if entry is None:
                continue
            faults += [
                f"{path}: client {number}: has the name or the key of {other.name!r}"
                for other in entries
                if entry.key == other.key or entry.name == other.name
            ]
            entries.append(entry)
        if faults:
            raise ConfigError("\n".join(faults))
        return entries

    def make_station(self, *, replace_old: bool = False) -> str:
        """Make the station's keys; the public one.

        Raises:
            ConfigError: there are some already, or they cannot be written.
        """
        secret = self.path / SECRET
        with self._alone():
            if secret.exists():
                if not replace_old:
                    raise ConfigError(f"{secret}: there is one already; `inspectd keys rotate` makes a new one")
                # A copy, not a move: at no moment has the station no key.
                kept = secret.with_name(f"{SECRET}.{dt.datetime.now(dt.timezone.utc):%Y%m%dT%H%M%S.%f}")
                replace_file(kept, secret.read_bytes(), mode=0o600)
            made_public, made_secret = make_pair()
            replace_file(secret, f"{made_secret}\n".encode(), mode=0o600)
            replace_file(self.path / PUBLIC, f"{made_public}\n".encode())
        return made_public

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One command at a time: each writes the whole of what it has read."""
        with _explained(self.path):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with (self.path / _LOCK).open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield

    def add(self, name: str, role: Role, key: str, *, today: dt.date) -> None:
        """Let a client in.

        Raises:
            ConfigError: its name or key is taken or impossible, or the list cannot be written.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(f"client {name!r}: expected up to 64 letters, digits, '_', '-' or '.'")
        if not _Z85.fullmatch(key):
            raise ConfigError(f"client {name!r}: expected a public key of {KEY_SIGNS} signs of Z85")
        with self._alone():
            entries = self.entries()
            for entry in entries:
                if name == entry.name:
                    raise ConfigError(f"client {name!r}: there is one of this name already; take another one")
                if key == entry.key:
                    raise ConfigError(f"client {name!r}: its key is that of {entry.name!r}")
            self._write_entries([*entries, ClientEntry(name, role, key, today)])

    def revoke(self, name: str, *, today: dt.date) -> None:
        """Let a client in no more; a station that runs cuts it off within a second.

        Raises:
            ConfigError: there is no such client, or the list cannot be written.
        """
        with self._alone():
            entries = self.entries()
            if name not in {entry.name for entry in entries if entry.revoked is None}:
                raise ConfigError(f"client {name!r}: none of that name is let in; `inspectd keys list` shows them")
            self._write_entries([replace(each, revoked=today) if each.name == name else each for each in entries])

    def _write_entries(self, entries: Sequence[ClientEntry]) -> None:
        text = "# Who may talk to the station; written by `inspectd keys`.\n"
        for entry in entries:
            text += f'\n[[clients]]\nname = "{entry.name}"\nrole = "{entry.role}"\nkey = "{entry.key}"\n'
            text += f"created = {entry.created.isoformat()}\n"
            if entry.revoked is not None:
                text += f"revoked = {entry.revoked.isoformat()}\n"
        replace_file(self.path / CLIENTS, text.encode())

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Changes when one of the files does."""
        return tuple(map(_stamp, (self.path / name for name in (SECRET, PUBLIC, CLIENTS))))


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0, 0
    return status.st_mtime_ns, status.st_size, status.st_ino


def make_pair() -> tuple[str, str]:
    """New keys, public and secret, in Z85."""
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def write_client_file(path: Path, server: str, public: str, secret: str) -> None:
    """Write what a client needs into one file.

    Raises:
        ConfigError: it exists, or cannot be written.
    """
    if path.exists():
        raise ConfigError(f"{path}: exists; name another file")
    text = (
        "# Keys of a client of an inspectd station. Whoever has this file is this client.\n"
        f'server_key = "{server}"\npublic_key = "{public}"\nsecret_key = "{secret}"\n'
    )
    with _explained(path):
        replace_file(path, text.encode(), mode=0o600)


def _entry(row: Any, where: str, faults: list[str]) -> ClientEntry | None:  # noqa: ANN401 - of any TOML
    if not isinstance(row, dict):
        faults.append(f"{where}: expected a table")
        return None
    before = len(faults)
    unknown = set(row) - {"name", "role", "key", "created", "revoked"}
    faults += [f"{where}: {name}: unknown setting" for name in sorted(unknown)]
    name, role, key = row.get("name"), row.get("role"), row.get("key")
    created, revoked = row.get("created"), row.get("revoked")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        faults.append(f"{where}: name: expected up to 64 letters, digits, '_', '-' or '.', got {name!r}")
    if role not in ROLES:
        faults.append(f"{where}: role: expected one of {', '.join(ROLES)}, got {role!r}")
    if not isinstance(key, str) or not _Z85.fullmatch(key):
        faults.append(f"{where}: key: expected {KEY_SIGNS} signs of Z85")
    if not isinstance(created, dt.date):
        faults.append(f"{where}: created: expected a date such as 2026-11-26, got {created!r}")
    if revoked is not None and not isinstance(revoked, dt.date):
        faults.append(f"{where}: revoked: expected a date such as 2026-11-26, got {revoked!r}")
    if len(faults) > before:
        return None
    return ClientEntry(str(name), cast("Role", role), str(key), cast("dt.date", created), revoked)


def _toml(path: Path, remedy: str) -> dict[str, Any]:
    try:
        return tomllib.loads(_read(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}{'; ' if remedy else ''}{remedy}") from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None


@contextlib.contextmanager
def _explained(path: Path) -> Any:  # noqa: ANN401
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error
