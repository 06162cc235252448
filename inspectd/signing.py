"""Making keys that sign bundles, and signing; whoever verifies needs `inspectd.signature` alone."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

from inspectd.bundle import MANIFEST, load_bundle
from inspectd.durable import replace_file
from inspectd.errors import BundleError, ConfigError
from inspectd.optional import require
from inspectd.permissions import check_secret
from inspectd.signature import FORMAT, NAME, PURPOSE, SIGNATURE

__all__ = ["make_signing_key", "sign_bundle", "signing_key"]


def make_signing_key(path: Path, name: str) -> str:
    """Make a pair of keys; the secret one goes into `path`, for its user alone, the public one into `path`.pub.

    Returns:
        The line for a list of trusted keys.

    Raises:
        ConfigError: the file exists or cannot be written, or an impossible name.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"name {name!r}: expected up to 80 signs, no quotes")
    primitives, serialization = _ed25519()
    secret = primitives.Ed25519PrivateKey.generate()
    pem = secret.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = secret.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    line = f"ed25519 {base64.b64encode(public).decode()} {name}"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(f"# signer: {name}\n".encode() + pem)
            file.flush()
            os.fsync(file.fileno())
        path.with_name(f"{path.name}.pub").write_text(line + "\n", encoding="utf-8")
    except FileExistsError:
        raise ConfigError(f"{path}: exists; name another file, for a key that is lost cannot be had again") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error
    return line


def sign_bundle(path: Path, key_file: Path) -> str:
    """Sign a bundle; a signature that it has is replaced.

    Args:
        path: of its folder or .zip.
        key_file: the secret key.

    Returns:
        Who signs.

    Raises:
        ConfigError: the key cannot be used.
        BundleError: there is no bundle, a file of it is not the one that was exported, or it cannot be written.
    """
    name, secret = signing_key(key_file)
    # Nobody vouches for what is damaged.
    bundle = load_bundle(path)
    _, serialization = _ed25519()
    try:
        manifest = _read_member(path, MANIFEST)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path}: is not a bundle ({error})") from error
    if hashlib.sha256(manifest).hexdigest() != bundle.digest:
        raise BundleError(f"{path}: was changed while it was being signed; sign it again")
    public = secret.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    content = {
        "format": FORMAT,
        "signer": name,
        "key": base64.b64encode(public).decode(),
        "signature": base64.b64encode(secret.sign(PURPOSE + manifest)).decode(),
    }
    try:
        _write_member(path, json.dumps(content, indent=2).encode() + b"\n")
    except OSError as error:
        raise BundleError(f"{path}: the signature cannot be written ({error.strerror})") from error
    return name


def signing_key(path: Path) -> tuple[str, Any]:
    """Who signs with a secret key, and the key.

    Raises:
        ConfigError: it is missing, none, or others can read it.
    """
    primitives, serialization = _ed25519()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: the key cannot be read ({error.strerror})") from error
    check_secret(path)
    first, _, rest = data.partition(b"\n")
    name = (
        first.removeprefix(b"# signer: ").decode("utf-8", "replace") if first.startswith(b"# signer: ") else path.stem
    )
    try:
        secret = serialization.load_pem_private_key(rest if first.startswith(b"#") else data, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: is no key as `inspectd keys signing` makes it ({error})") from None
    if not isinstance(secret, primitives.Ed25519PrivateKey):
        raise ConfigError(f"{path}: is a key of another kind; expected Ed25519, as `inspectd keys signing` makes it")
    return name, secret


def _ed25519() -> tuple[Any, Any]:
    return (
        require("cryptography.hazmat.primitives.asymmetric.ed25519", extra="signatures"),
        require("cryptography.hazmat.primitives.serialization", extra="signatures"),
    )


def _read_member(path: Path, name: str) -> bytes:
    if path.is_dir():
        return (path / name).read_bytes()
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


def _write_member(path: Path, data: bytes) -> None:
    if path.is_dir():
        replace_file(path / SIGNATURE, data)
        return
    # A .zip cannot replace a member; it is written anew beside the old one.
    temporary = path.with_name(f".{path.name}.new")
    try:
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as new:
            for info in old.infolist():
                if info.filename != SIGNATURE:
                    new.writestr(info, old.read(info))
            new.writestr(SIGNATURE, data)
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
