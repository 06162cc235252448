"""Signatures of bundles: what nobody trusted has signed, or was changed since, is not run."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from inspectd.bundle import load_bundle
from inspectd.errors import BundleError, ChecksumError, ConfigError, SignatureError
from inspectd.signature import SIGNATURE, TrustList
from inspectd.signing import make_signing_key, sign_bundle


@pytest.fixture
def bundle(bundle_path, tmp_path):
    return shutil.copytree(bundle_path, tmp_path / "bundle")


@pytest.fixture
def key(tmp_path):
    make_signing_key(tmp_path / "anna.key", "Anna of the vision team")
    return tmp_path / "anna.key"


def trust(*keys: Path) -> TrustList:
    path = keys[0].with_name("trusted.keys")
    path.write_text("# who may sign\n\n" + "".join(key.with_name(f"{key.name}.pub").read_text() for key in keys))
    return TrustList.load(path)


def zipped(bundle: Path) -> Path:
    path = bundle.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(bundle.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(bundle))
    return path


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_signed_bundle_is_run_and_is_the_same_bundle(bundle, key, form):
    path = bundle if form == "folder" else zipped(bundle)
    digest = load_bundle(path).digest
    assert sign_bundle(path, key) == "Anna of the vision team"
    opened = load_bundle(path, trusted=trust(key))
    assert (opened.signer, opened.digest) == ("Anna of the vision team", digest)
    assert load_bundle(path).signer == ""
    # Signed again it has one signature still.
    sign_bundle(path, key)
    assert load_bundle(path, trusted=trust(key)).signer


def test_an_unsigned_one_is_refused(bundle, key):
    with pytest.raises(SignatureError, match="is not signed"):
        load_bundle(bundle, trusted=trust(key))


def test_one_of_a_stranger_is_refused_whatever_name_it_claims(bundle, key, tmp_path):
    make_signing_key(tmp_path / "mallory.key", "Anna of the vision team")
    sign_bundle(bundle, tmp_path / "mallory.key")
    with pytest.raises(SignatureError, match="not trusted"):
        load_bundle(bundle, trusted=trust(key))


def test_one_that_was_changed_since_is_refused(bundle, key):
    sign_bundle(bundle, key)
    manifest = bundle / "bundle.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"thresholds":[0.6]', b'"thresholds":[0.9]') + b"\n")
    with pytest.raises(SignatureError, match="was changed after 'Anna"):
        load_bundle(bundle, trusted=trust(key))
    # And a file that bundle.json names has its checksum there.
    other = bundle.with_name("other")
    shutil.copytree(bundle, other)
    (other / "bundle.json").write_bytes(
        manifest.read_bytes()[:-1].replace(b'"thresholds":[0.9]', b'"thresholds":[0.6]')
    )
    sign_bundle(other, key)
    (other / "parity.json").write_bytes(b"{}")
    with pytest.raises(ChecksumError, match=r"parity\.json"):
        load_bundle(other, trusted=trust(key))


def test_a_damaged_one_is_not_signed(bundle, key):
    (bundle / "golden" / "golden.json").write_bytes(b"{}")
    with pytest.raises(ChecksumError):
        sign_bundle(bundle, key)
    assert not (bundle / SIGNATURE).exists()


def test_a_zip_with_two_files_of_one_name_is_refused(bundle, key):
    path = zipped(bundle)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.write(bundle / "bundle.json", "bundle.json")
    with pytest.raises(BundleError, match=r"has bundle.json twice"):
        load_bundle(path)
    with pytest.raises(BundleError, match="twice"):
        sign_bundle(path, key)


def test_a_list_that_others_can_write_is_refused(bundle, key):
    sign_bundle(bundle, key)
    path = trust(key).path
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="others can write to it, and so say whose bundles are run"):
        TrustList.load(path)


def test_the_signature_of_another_bundle_is_none(bundle, key, tmp_path):
    sign_bundle(bundle, key)
    other = shutil.copytree(bundle, tmp_path / "other")
    (other / "bundle.json").write_bytes((bundle / "bundle.json").read_bytes() + b" ")
    with pytest.raises(SignatureError, match="of another one"):
        load_bundle(other, trusted=trust(key))


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{}",
        b"[" * 3000,
        b"\xff\xfe",
        b"x" * 10_000,
        b'{"format": 1, "key": "AAAA", "signature": "AAAA"}',
        b'{"format": 1, "key": 3, "signature": null}',
        b'{"format": 2, "key": "", "signature": ""}',
    ],
)
def test_a_damaged_signature_is_refused(bundle, key, damage):
    (bundle / SIGNATURE).write_bytes(damage)
    with pytest.raises(SignatureError):
        load_bundle(bundle, trusted=trust(key))


def test_a_flipped_bit_anywhere_is_noticed(bundle, key):
    sign_bundle(bundle, key)
    content = json.loads((bundle / SIGNATURE).read_text())
    trusted = trust(key)
    for field in ("key", "signature"):
        text = content[field]
        flipped = text[:5] + ("A" if text[5] != "A" else "B") + text[6:]
        (bundle / SIGNATURE).write_text(json.dumps({**content, field: flipped}))
        with pytest.raises(SignatureError):
            load_bundle(bundle, trusted=trusted)


def test_keys_are_secret_and_made_once(key, bundle, tmp_path):
    assert key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="exists"):
        make_signing_key(key, "Anna")
    key.chmod(0o644)
    with pytest.raises(ConfigError, match="others can read it"):
        sign_bundle(bundle, key)
    (tmp_path / "text.key").write_text("no key")
    (tmp_path / "text.key").chmod(0o600)
    with pytest.raises(ConfigError, match="is no key"):
        sign_bundle(bundle, tmp_path / "text.key")
    with pytest.raises(ConfigError, match="cannot be read"):
        sign_bundle(bundle, tmp_path / "missing.key")
    key.chmod(0o600)
    with pytest.raises(BundleError, match="is not a bundle"):
        sign_bundle(tmp_path, key)


def test_every_fault_of_a_list_is_told(key, tmp_path):
    line = key.with_name("anna.key.pub").read_text()
    path = tmp_path / "list"
    path.write_text(f"{line}ed25519 short Name\nrsa x y\n{line}")
    with pytest.raises(ConfigError) as caught:
        TrustList.load(path)
    assert [fault.partition(": ")[2].partition(":")[0] for fault in str(caught.value).splitlines()] == [
        *("line 2", "line 3", "line 4")
    ]
    path.write_text("# nobody\n")
    with pytest.raises(ConfigError, match="lists no key"):
        TrustList.load(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        TrustList.load(tmp_path / "missing")
