"""Signatures of bundles: Ed25519, detached, over bundle.json, which has the checksum of every other file.

    bundle.sig     {"format": 1, "signer": NAME, "key": BASE64, "signature": BASE64}

A station with a list of trusted keys (`model.trusted_keys`) runs only what one of them has signed. The name of the
signer is that of the list, never the one that the bundle claims.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from inspectd.errors import BundleError, ConfigError, SignatureError
from inspectd.optional import require

__all__ = ["SIGNATURE", "TrustList", "make_signing_key", "sign_bundle", "signing_key"]

SIGNATURE = "bundle.sig"
_MANIFEST = "bundle.json"
_FORMAT = 1
_PURPOSE = b"inspectd bundle 1\0"
"""Before what is signed, so that a signature for something else is none for a bundle."""
_KEY_BYTES = 32
_SIGNATURE_BYTES = 64
_MOST_BYTES = 4096
_NAME = re.compile(r"[^\x00-\x1f\"\\]{1,80}")


@dataclass(frozen=True, slots=True)
class TrustList:
    """Who may sign bundles: names by their public keys (32 bytes)."""

    path: Path
    signers: Mapping[bytes, str]

    @classmethod
    def load(cls, path: Path) -> TrustList:
        """Read a list: `ed25519 BASE64 NAME` a line; empty lines and those that begin with # are passed over.

        Raises:
            ConfigError: it is missing, empty, or has a line that is none; every fault, one a line.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: the list of trusted keys cannot be read ({error})") from None
        signers: dict[bytes, str] = {}
        faults = []
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            kind, _, rest = line.strip().partition(" ")
            text, _, name = rest.strip().partition(" ")
            key = _decoded(text, _KEY_BYTES)
            if kind != "ed25519" or key is None or not _NAME.fullmatch(name.strip()):
                faults.append(
                    f"{path}: line {number}: expected 'ed25519 KEY NAME' as `inspectd keys signing` prints it"
                )
            elif key in signers:
                faults.append(f"{path}: line {number}: the key of {signers[key]!r} is listed twice")
            else:
                signers[key] = name.strip()
        if not signers and not faults:
            faults.append(f"{path}: lists no key; then nothing could be run")
        if faults:
            raise ConfigError("\n".join(faults))
        return cls(path, MappingProxyType(signers))

    def check(self, bundle: Path, manifest: bytes, signature: bytes | None) -> str:
        """Who has signed a bundle.

        Args:
            bundle: its path, for errors.
            manifest: the bytes of its bundle.json, those that will be used.
            signature: of its bundle.sig; None where there is none.

        Raises:
            SignatureError: nobody, somebody who is not trusted, or it was changed since.
            MissingDependencyError: there is nothing here to verify with.
        """
        if signature is None:
            raise SignatureError(
                f"{bundle}: is not signed, and only bundles signed by a key of {self.path} are run; sign it with "
                f"`inspectd keys sign`"
            )
        key, signed = _parsed(bundle, signature)
        signer = self.signers.get(key)
        if signer is None:
            raise SignatureError(
                f"{bundle}: is signed by a key that is not trusted ({_short(key)}); add it to {self.path} if it "
                f"should be"
            )
        if not _verify(key, signed, manifest):
            raise SignatureError(
                f"{bundle}: was changed after {signer!r} signed it, or the signature is of another one; copy it again"
            )
        return signer


def make_signing_key(path: Path, name: str) -> str:
    """Make a pair of keys; the secret one goes into `path`, for its user alone, the public one into `path`.pub.

    Returns:
        The line for a list of trusted keys.

    Raises:
        ConfigError: the file exists or cannot be written, or an impossible name.
    """
    if not _NAME.fullmatch(name):
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
        BundleError: there is no bundle, or it cannot be written.
    """
    name, secret = signing_key(key_file)
    _, serialization = _ed25519()
    try:
        manifest = _read_member(path, _MANIFEST)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path}: is not a bundle ({error})") from error
    public = secret.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    content = {
        "format": _FORMAT,
        "signer": name,
        "key": base64.b64encode(public).decode(),
        "signature": base64.b64encode(secret.sign(_PURPOSE + manifest)).decode(),
    }
    try:
        _write_member(path, json.dumps(content, indent=2).encode() + b"\n")
    except OSError as error:
        raise BundleError(f"{path}: the signature cannot be written ({error.strerror})") from error
    return name


def _ed25519() -> tuple[Any, Any]:
    return (
        require("cryptography.hazmat.primitives.asymmetric.ed25519", extra="signatures"),
        require("cryptography.hazmat.primitives.serialization", extra="signatures"),
    )


def signing_key(path: Path) -> tuple[str, Any]:
    """Who signs with a secret key, and the key.

    Raises:
        ConfigError: it is missing, none, or others can read it.
    """
    primitives, serialization = _ed25519()
    try:
        data = path.read_bytes()
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"{path}: the key cannot be read ({error.strerror})") from error
    if mode & 0o077:
        raise ConfigError(
            f"{path}: others can read it; it is secret: `chmod 600 {path}`, and make a new one if it was read"
        )
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


def _parsed(bundle: Path, signature: bytes) -> tuple[bytes, bytes]:
    """Key and signature of a bundle.sig."""
    problem = f"{bundle}: {SIGNATURE} is damaged; sign the bundle again"
    if len(signature) > _MOST_BYTES:
        raise SignatureError(problem)
    try:
        content = json.loads(signature)
        form, key_text, signed_text = content["format"], content["key"], content["signature"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise SignatureError(problem) from None
    if form != _FORMAT:
        raise SignatureError(f"{bundle}: {SIGNATURE} is of format {form!r}, this version reads {_FORMAT}")
    key = _decoded(key_text, _KEY_BYTES)
    signed = _decoded(signed_text, _SIGNATURE_BYTES)
    if key is None or signed is None:
        raise SignatureError(problem)
    return key, signed


def _verify(key: bytes, signed: bytes, manifest: bytes) -> bool:
    primitives, _ = _ed25519()
    exceptions = require("cryptography.exceptions", extra="signatures")
    try:
        primitives.Ed25519PublicKey.from_public_bytes(key).verify(signed, _PURPOSE + manifest)
    except (exceptions.InvalidSignature, ValueError):
        return False
    return True


def _decoded(text: object, size: int) -> bytes | None:
    if not isinstance(text, str):
        return None
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if len(data) == size else None


def _short(key: bytes) -> str:
    return base64.b64encode(key).decode()[:12] + "…"


def _read_member(path: Path, name: str) -> bytes:
    if path.is_dir():
        return (path / name).read_bytes()
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


def _write_member(path: Path, data: bytes) -> None:
    if path.is_dir():
        temporary = path / f".{SIGNATURE}.new"
        temporary.write_bytes(data)
        temporary.replace(path / SIGNATURE)
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
