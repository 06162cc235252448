"""Signatures of bundles: Ed25519, detached, over bundle.json, which has the checksum of every other file.

    bundle.sig     {"format": 1, "signer": NAME, "key": BASE64, "signature": BASE64}

A station with a list of trusted keys (`model.trusted_keys`) runs only what one of them has signed. The name of the
signer is that of the list, never the one that the bundle claims.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from inspectd.errors import ConfigError, SignatureError
from inspectd.optional import require
from inspectd.permissions import check_unshared

__all__ = ["FORMAT", "NAME", "PURPOSE", "SIGNATURE", "TrustList"]

SIGNATURE = "bundle.sig"
FORMAT = 1
PURPOSE = b"inspectd bundle 1\0"
"""Before what is signed, so that a signature for something else is none for a bundle."""
_KEY_BYTES = 32
_SIGNATURE_BYTES = 64
_MOST_BYTES = 4096
NAME = re.compile(r"[^\x00-\x1f\"\\]{1,80}")


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
        check_unshared(path, "whose bundles are run")
        signers: dict[bytes, str] = {}
        faults = []
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            kind, _, rest = line.strip().partition(" ")
            text, _, name = rest.strip().partition(" ")
            key = _decoded(text, _KEY_BYTES)
            if kind != "ed25519" or key is None or not NAME.fullmatch(name.strip()):
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
    if form != FORMAT:
        raise SignatureError(f"{bundle}: {SIGNATURE} is of format {form!r}, this version reads {FORMAT}")
    key = _decoded(key_text, _KEY_BYTES)
    signed = _decoded(signed_text, _SIGNATURE_BYTES)
    if key is None or signed is None:
        raise SignatureError(problem)
    return key, signed


def _verify(key: bytes, signed: bytes, manifest: bytes) -> bool:
    primitives = require("cryptography.hazmat.primitives.asymmetric.ed25519", extra="signatures")
    exceptions = require("cryptography.exceptions", extra="signatures")
    try:
        primitives.Ed25519PublicKey.from_public_bytes(key).verify(signed, PURPOSE + manifest)
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
