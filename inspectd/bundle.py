"""The bundle: everything a station needs to run a network, and the proof that it is what was exported.

    bundle.json          the model card, and size and sha256 of every other file
    model.onnx           the graph, fp32: uint8 pictures in, class masks and scores out
    model-fp16.onnx      the same graph with the network in half precision, which engines are built from
    parity.json          the certificate: what was compared at export, and how it came out
    model-int8.onnx      the graph with the network in integers, for processors
    model-int8-gpu.onnx  the same for engines in integers, whose builder wants other ones
    engines.json         what engines there are, and which machines each is for
    engines/*.engine     engines of TensorRT or TensorRT-RTX
    reference/*.png      picture, mask and part of the reference; of a network that paints defects
    golden/golden.json   inputs with the masks expected, for the self-test before the first frame
    golden/*.png

    bundle.sig           who vouches for it: a signature of bundle.json (inspectd.signature), if it was signed

Bundles of before have no model-fp16.onnx, and those that no engine was asked for have no engines.

A bundle is a folder or the same files in a .zip. Files are checked each time they are read, so nothing
can be swapped between the check and the use. bundle.json holds those checksums and so has none itself: the
card in it is held against the one inside the graph when the engine is opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from inspectd.durable import ZIP_DAMAGE
from inspectd.errors import BundleError, ChecksumError
from inspectd.mask import ClassMap
from inspectd.preprocess import Preprocess
from inspectd.signature import SIGNATURE

__all__ = [
    "ENGINE_GRAPHS",
    "FORMAT",
    "GUARD_CHECK",
    "Bundle",
    "EngineFile",
    "EnginePrecision",
    "Engines",
    "Golden",
    "GoldenPainting",
    "GoldenPaintings",
    "GoldenSample",
    "ModelCard",
    "decode_png",
    "encode_png",
    "explain",
    "is_bundle",
    "load_bundle",
    "write_bundle",
]

EnginePrecision = Literal["fp16", "int8"]
FORMAT = 1
MANIFEST = "bundle.json"
MODEL = "model.onnx"
PARITY = "parity.json"
GUARD_CHECK = "scores where a number is not finite"
"""In the certificate, what vouches for the guard of a graph (`Bundle.guarded`)."""
GOLDEN = "golden/golden.json"
HALF_MODEL = "model-fp16.onnx"
INT8_MODEL = "model-int8.onnx"
GPU_INT8_MODEL = "model-int8-gpu.onnx"
ENGINES = "engines.json"
ENGINE_GRAPHS: Mapping[EnginePrecision, str] = {"fp16": HALF_MODEL, "int8": GPU_INT8_MODEL}
"""What an engine of each arithmetic is built from."""
_ABSENT = "nothing"
CARD_KEY = "inspectd.card"
"""Key of the graph's metadata under which the card travels in it."""


class ModelCard(BaseModel):
    """What a network is, how it is fed, and where it comes from. Travels in the checkpoint and in the bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["seg", "dst"] = "seg"
    """seg: a segmentation network; dst: a defect style transfer network."""
    name: str = Field(min_length=1)
    """What people call it."""
    classes: tuple[str, ...]
    """Defect classes in the order of their labels; a binary network has one."""
    preprocess: Preprocess
    """How pictures are fed to it."""
    thresholds: tuple[float, ...]
    """Probability from which on a pixel belongs to each class, where a station says nothing else."""
    network: dict[str, Any]
    """How the network is built."""
    provenance: dict[str, Any]
    """Data, settings, seeds, versions and dates of its training."""

    @model_validator(mode="after")
    def _consistent(self) -> ModelCard:
        ClassMap(self.classes)
        if len(self.thresholds) != len(self.classes):
            raise ValueError(f"{len(self.thresholds)} thresholds for {len(self.classes)} classes")
        if not all(0 < threshold <= 1 for threshold in self.thresholds):
            raise ValueError(f"thresholds must be above 0 and at most 1: {list(self.thresholds)}")
        return self


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class _Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    inspectd: str
    card: ModelCard
    files: dict[str, _File]


class GoldenSample(BaseModel):
    """One input at the network's size, and what it gave at export."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: str
    """File of the picture, in the network's colour order."""
    labels: str
    """File of the class mask expected."""
    scores: tuple[float, ...]
    """Highest probability of each class expected."""


class Golden(BaseModel):
    """The self-test: samples, and how far an engine may stray from them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: tuple[GoldenSample, ...] = Field(min_length=1)
    thresholds: tuple[float, ...]
    """What the engine was run with."""
    pixel_tolerance: float = Field(1e-3, ge=0, lt=1)
    """Share of the pixels of a mask that may differ."""
    score_tolerance: float = Field(0.02, ge=0, lt=1)
    """How far a score may be off."""


class GoldenPainting(BaseModel):
    """One window at the network's size, and what was painted there at export; all are files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    beneath: str
    """What the painting is fused with: S, the good surface, or y where it has an edge of its own."""
    coarse: str
    """y, with the coarse defect."""
    mask: str
    """L, 255 where the defect goes."""
    painted: str
    """What is expected."""


class GoldenPaintings(BaseModel):
    """The self-test of a network that paints defects."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: tuple[GoldenPainting, ...] = Field(min_length=1)
    level_tolerance: int = Field(2, ge=0)
    """How far a pixel may be off, grey levels."""


class EngineFile(BaseModel):
    """An engine of a bundle, and the machines that it runs on: engines are not portable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    """Its file in the bundle."""
    flavour: Literal["tensorrt", "tensorrt_rtx"]
    """Library that built it, and that runs it."""
    version: str
    """Version of that library; engines run on no other."""
    platform: str
    """System and processor that it was built on, linux-x86_64 for example."""
    compute_capabilities: tuple[str, ...]
    """GPUs that it runs on: 8.6 and so on."""
    batch: tuple[int, int, int]
    """Pictures of one call: least, optimised for, most."""
    precision: EnginePrecision = "fp16"
    """Its arithmetic."""
    graph_sha256: str
    """Digest of the graph that it was built from."""
    built_s: float
    """Seconds that the library took."""
    checked_on: str | None = None
    """GPU on which it was compared with the graph; None until that is done."""


class Engines(BaseModel):
    """What engines.json holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engines: tuple[EngineFile, ...] = ()


class Bundle:
    """A bundle whose manifest is valid; made by `load_bundle`."""

    def __init__(self, path: Path, manifest: _Manifest, digest: str, *, signer: str = "") -> None:
        self.path = path
        self.card = manifest.card
        self.digest = digest
        """sha256 of bundle.json, and through it of every file."""
        self.signer = signer
        """Who has signed it, by the list of those who are trusted; empty where nobody was asked for."""
        self.class_map = ClassMap(manifest.card.classes)
        self._files = manifest.files

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files, without bundle.json."""
        return tuple(sorted(self._files))

    def read(self, name: str) -> bytes:
        """The contents of a file, checked.

        Raises:
            BundleError: the file is not part of the bundle, missing or unreadable.
            ChecksumError: it is not the file that was exported.
        """
        self.sha256(name)
        expected, data = self._files[name], _read(self.path, name)
        if len(data) != expected.size:
            raise ChecksumError(
                f"{self.path}: {name} has {len(data)} bytes, {expected.size} were exported; copy the bundle again"
            )
        if (got := hashlib.sha256(data).hexdigest()) != expected.sha256:
            raise ChecksumError(
                f"{self.path}: {name} was changed after export (sha256 {got[:12]}…, exported {expected.sha256[:12]}…); "
                "copy the bundle again"
            )
        return data

    def sha256(self, name: str) -> str:
        """Digest of a file, as of its export.

        Raises:
            BundleError: the file is not part of the bundle.
        """
        if name not in self._files:
            raise BundleError(f"{self.path}: has no {name}; export it again with this version of export-trt")
        return self._files[name].sha256

    def verify(self) -> None:
        """Check every file.

        Raises:
            BundleError, ChecksumError: as `read`.
        """
        for name in self._files:
            self.read(name)

    def check_card(self, exported: str | None) -> None:
        """Hold the card of bundle.json against the one that `export-trt` put into the graph.

        Args:
            exported: JSON of the graph's card, None where the graph has none.

        Raises:
            ChecksumError: they differ; each differing field is named with both values.
            BundleError: the graph has no card, or one that cannot be read.
        """
        if exported is None:
            raise BundleError(
                f"{self.path}: {MODEL} carries no card to hold {MANIFEST} against; export it again with export-trt"
            )
        try:
            card = ModelCard.model_validate_json(exported)
        except ValidationError as error:
            raise BundleError(
                f"{self.path}: the card in {MODEL} is not valid: {explain(error)}; export it again with export-trt"
            ) from error
        here, there = (_flat(side.model_dump(mode="json")) for side in (self.card, card))
        names = dict.fromkeys((*here, *there))
        if differing := [name for name in names if here.get(name, _ABSENT) != there.get(name, _ABSENT)]:
            listed = ", ".join(
                f"{name} ({_short(here.get(name, _ABSENT))}, exported {_short(there.get(name, _ABSENT))})"
                for name in differing
            )
            raise ChecksumError(
                f"{self.path}: the card in {MANIFEST} was changed after export: {listed}; copy the bundle again "
                "(scores of a line are set in [acceptance] of its configuration)"
            )

    def engines(self) -> tuple[EngineFile, ...]:
        """The engines that it holds; none where no engine was asked for.

        Raises:
            BundleError: the list cannot be read, or names a file that is not there.
        """
        if ENGINES not in self._files:
            return ()
        try:
            found = Engines.model_validate_json(self.read(ENGINES)).engines
        except ValidationError as error:
            raise BundleError(f"{self.path}: {ENGINES} is not valid: {explain(error)}") from error
        if missing := [engine.file for engine in found if engine.file not in self._files]:
            raise BundleError(f"{self.path}: {ENGINES} names {missing[0]}, which is not part of the bundle")
        return found

    def uncertified(self) -> tuple[str, ...]:
        """What the certificate holds against the exported graphs: measurement and bound of each check that failed.

        Raises:
            BundleError: the certificate cannot be read.
        """
        try:
            checks = json.loads(self.read(PARITY))["checks"]
            failed = [check for check in checks if check["passed"] is not True]
            return tuple(f"{check['name']}: {check['value']} ({check['bound']})" for check in failed)
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError(f"{self.path}: {PARITY} is no certificate: {error!r}; export it again") from error

    def guarded(self) -> bool:
        """Whether its graph shows in the scores that a number was not finite; those of before the guard do not.

        Raises:
            BundleError: the certificate cannot be read.
        """
        try:
            checks = json.loads(self.read(PARITY))["checks"]
            return any(check["name"] == GUARD_CHECK and check["passed"] is True for check in checks)
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError(f"{self.path}: {PARITY} is no certificate: {error!r}; export it again") from error

    def unproven(self, way: str) -> tuple[str, ...]:
        """What keeps the certificate from vouching for another way to run the network than ONNX Runtime in fp32.

        Args:
            way: its name, as of `cpu.CpuWay`.

        Raises:
            BundleError: the certificate cannot be read.
        """
        try:
            ways = json.loads(self.read(PARITY)).get("ways", {})
            if way not in ways:
                return ("it was not compared",)
            return tuple(
                f"{check['name']}: {check['value']} ({check['bound']})"
                for check in ways[way]
                if check["passed"] is not True
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"{self.path}: {PARITY} is no certificate: {error!r}; export it again") from error

    def golden(self) -> Golden:
        """The self-test's samples.

        Raises:
            BundleError: there are none, or they cannot be read.
        """
        try:
            return Golden.model_validate_json(self.read(GOLDEN))
        except ValidationError as error:
            raise BundleError(f"{self.path}: {GOLDEN} is not valid: {explain(error)}") from error

    @cached_property
    def is_in_colour(self) -> bool:
        """Whether it was trained on pictures in colour alone, as its samples tell, which are some of them.

        False also where they cannot be read: the self-test says so.
        """
        if self.card.preprocess.channels == 1:
            return False
        try:
            pictures = (decode_png(self.read(sample.input), sample.input) for sample in self.golden().samples)
            # Grey ones are repeated for a network of three channels; a colour camera's differ, by their noise alone.
            return all(bool(np.any(pixels != pixels[..., :1])) for pixels in pictures)
        except BundleError:
            return False

    def paintings(self) -> GoldenPaintings:
        """The self-test's samples of a bundle of kind dst.

        Raises:
            BundleError: there are none, or they cannot be read.
        """
        try:
            return GoldenPaintings.model_validate_json(self.read(GOLDEN))
        except ValidationError as error:
            raise BundleError(f"{self.path}: {GOLDEN} is not valid: {explain(error)}") from error


class Trust(Protocol):
    """Who may sign bundles; `inspectd.signature.TrustList`."""

    def check(self, bundle: Path, manifest: bytes, signature: bytes | None) -> str:
        """The signer's name; raises SignatureError where there is none who is trusted."""


def load_bundle(path: Path, *, trusted: Trust | None = None) -> Bundle:
    """Open a bundle and check every file of it.

    Args:
        path: its folder, or a .zip of it.
        trusted: those of whom one must have signed it; None asks for no signature.

    Raises:
        SignatureError: none of them has, or it was changed since.
        BundleError: there is no bundle, it is of another format, or its card is not valid.
        ChecksumError: a file is not the one that was exported.
    """
    try:
        path.stat()
    except FileNotFoundError:
        raise BundleError(f"{path}: no such bundle; make one with export-trt CHECKPOINT --out {path}") from None
    except OSError as error:
        raise BundleError(f"{path}: cannot be looked at: {error.strerror}") from error
    _refuse_doubles(path)
    try:
        raw = _read(path, MANIFEST)
    except BundleError as error:
        if path.suffix == ".safetensors" or (path / "checkpoint.safetensors").is_file():
            raise BundleError(
                f"{path}: is a trained network, not a bundle; export-trt {path} --out BUNDLE makes a bundle of it"
            ) from error
        raise BundleError(f"{path}: is not a bundle: {MANIFEST} is missing or unreadable") from error
    # The very bytes that are used from here on.
    signer = "" if trusted is None else trusted.check(path, raw, _signature(path))
    try:
        content = json.loads(raw)
    except ValueError as error:
        raise BundleError(f"{path}: {MANIFEST} is not JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise BundleError(f"{path}: {MANIFEST} has no format number, so this is not a bundle of inspectd")
    if content["format"] != FORMAT:
        raise BundleError(
            f"{path}: bundle format {content['format']}, this version reads {FORMAT}; export it again with this version"
        )
    try:
        manifest = _Manifest.model_validate(content)
    except ValidationError as error:
        raise BundleError(f"{path}: {MANIFEST} is not valid: {explain(error)}") from error
    if missing := {MODEL, PARITY, GOLDEN} - set(manifest.files):
        raise BundleError(f"{path}: {MANIFEST} names no {', '.join(sorted(missing))}")
    bundle = Bundle(path, manifest, hashlib.sha256(raw).hexdigest(), signer=signer)
    bundle.verify()
    return bundle


def _refuse_doubles(path: Path) -> None:
    """A .zip may hold two files of one name, of which each program takes another one."""
    try:
        with zipfile.ZipFile(path) as archive:
            counts = Counter(archive.namelist())
    except ZIP_DAMAGE:
        return  # a folder; or no .zip, which is told where it is read
    if doubles := sorted(name for name, count in counts.items() if count > 1):
        raise BundleError(f"{path}: has {', '.join(doubles)} twice; export it again")


def _signature(path: Path) -> bytes | None:
    try:
        return _read(path, SIGNATURE)
    except BundleError:
        return None


def is_bundle(path: Path) -> bool:
    """Whether this is a bundle, folder or .zip; not whether it is a whole one."""
    try:
        _read(path, MANIFEST)
    except BundleError:
        return False
    return True


def write_bundle(path: Path, card: ModelCard, files: Mapping[str, bytes], *, version: str) -> str:
    """Write a bundle whole or not at all; one that is there is replaced.

    Args:
        path: folder to write, or a name ending in .zip.
        card: the model card.
        files: contents by name, `bundle.json` excepted.
        version: version of inspectd that writes it.

    Returns:
        The digest of the bundle.

    Raises:
        BundleError: a file that every bundle has is missing, or the place cannot be written.
    """
    if missing := {MODEL, PARITY, GOLDEN} - set(files):
        raise BundleError(f"{path}: a bundle needs {', '.join(sorted(missing))}")
    if path.is_dir():
        if any(path.iterdir()) and not (path / MANIFEST).exists():
            raise BundleError(f"{path}: is a folder with other files; name a new one")
    elif path.exists() and not is_bundle(path):
        raise BundleError(f"{path}: is a file that is no bundle; name a new one")
    entries = {name: _File(sha256=hashlib.sha256(data).hexdigest(), size=len(data)) for name, data in files.items()}
    manifest = _Manifest(format=FORMAT, inspectd=version, card=card, files=entries)
    raw = manifest.model_dump_json(indent=2).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
            draft = Path(scratch) / "bundle"
            if path.suffix == ".zip":
                with draft.open("wb") as file:
                    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                        for name, data in {**files, MANIFEST: raw}.items():
                            archive.writestr(name, data)
                    os.fsync(file.fileno())
                draft.replace(path)
            else:
                for name, data in {**files, MANIFEST: raw}.items():
                    _write_synced(draft / name, data)
                if path.exists():
                    path.rename(Path(scratch) / "old")
                draft.rename(path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be written: {error}") from error
    return hashlib.sha256(raw).hexdigest()


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """A picture uint8 [H, W, 1 or 3] or a mask [H, W] as PNG; channels keep their order through `decode_png`."""
    done, data = cv2.imencode(".png", pixels)
    if not done:
        raise BundleError(f"a picture {list(pixels.shape)} cannot be encoded as PNG")
    return data.tobytes()


def decode_png(data: bytes, name: str) -> NDArray[np.uint8]:
    """The picture of `encode_png`.

    Raises:
        BundleError: it cannot be decoded.
    """
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise BundleError(f"{name}: is not a PNG")
    return np.asarray(pixels, np.uint8)


def explain(error: ValidationError) -> str:
    """All faults that pydantic found, in one line."""
    parts = []
    for fault in error.errors():
        where = ".".join(str(part) for part in fault["loc"])
        what = fault["msg"].removeprefix("Value error, ")
        parts.append(f"{where}: {what}" if where else what)
    return "; ".join(parts)


def _short(value: object) -> str:
    """A value in a message; how a network was made can be pages."""
    text = value if value is _ABSENT else repr(value)
    return text if len(str(text)) <= 60 else f"{str(text)[:60]}…"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested tables by their dotted names."""
    leaves: dict[str, Any] = {}
    for name, value in values.items():
        inner = isinstance(value, Mapping) and value
        leaves |= _flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return leaves


def _read(path: Path, name: str) -> bytes:
    try:
        if path.is_dir():
            target = path / name
            # A manifest from elsewhere must not make us read outside the bundle.
            if not target.resolve().is_relative_to(path.resolve()):
                raise BundleError(f"{path}: {name} lies outside the bundle")
            return target.read_bytes()
        with zipfile.ZipFile(path) as archive:
            return archive.read(name)
    except ZIP_DAMAGE as error:
        raise BundleError(f"{path}: {name} cannot be read: {error}") from error


def _write_synced(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
