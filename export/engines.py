"""Engines of TensorRT and TensorRT-RTX: one code path, by the part of their interface that is the same in both.

Precision is in the graph (a strongly typed network), so nothing here depends on flags that TensorRT 11 removed; what is
called exists from TensorRT 10.3 on. TensorRT-RTX builds without a GPU for the compute capabilities that it is told;
TensorRT builds on the machine that the engine is for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import platform
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

import inspectd
from inspectd.bundle import (
    ENGINE_GRAPHS,
    ENGINES,
    MODEL,
    PARITY,
    Bundle,
    EngineFile,
    EnginePrecision,
    Engines,
    decode_png,
    explain,
    load_bundle,
    write_bundle,
)
from inspectd.cpu import CPU_WAYS, TABLES, CpuWay, open_graph
from inspectd.cuda import open_driver
from inspectd.errors import BundleError, ConfigError, DeviceError, MissingDependencyError
from inspectd.gpu import EXTRAS, GpuGraph, error_log, open_gpu_graph
from inspectd.optional import require

from .checks import HALF, HALF_LEVELS, INTEGERS, Certificate, Check, guard, joined, levels, parity

__all__ = [
    "TARGETS",
    "BuiltEngine",
    "EngineWish",
    "Target",
    "build_engine",
    "certify_engine",
    "installed_target",
    "prepared",
    "rebuild",
    "sizes_of",
    "with_engine",
]

Target = Literal["tensorrt", "rtx"]
TARGETS: tuple[Target, ...] = get_args(Target)
Kind = Literal["seg", "dst"]

_FLAVOURS: dict[Target, Literal["tensorrt", "tensorrt_rtx"]] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
_WORKSPACE_BYTES = 1 << 30
_TENSORS: dict[Kind, dict[str, str]] = {
    "seg": {"images": "UINT8", "thresholds": "FLOAT", "labels": "UINT8", "confidence": "UINT8", "scores": "FLOAT"},
    "dst": {"beneath": "UINT8", "coarse": "UINT8", "mask": "UINT8", "painted": "UINT8"},
}
"""Inputs and outputs of the graph of each kind."""


@dataclass(frozen=True, slots=True)
class EngineWish:
    """The engine that is asked for; see `build_engine`."""

    target: Target
    capabilities: tuple[str, ...] = ()
    batch: tuple[int, int, int] = (1, 1, 8)
    precision: EnginePrecision = "fp16"


@dataclass(frozen=True, slots=True, eq=False)
class BuiltEngine:
    """An engine and what the bundle says of it."""

    data: bytes
    description: EngineFile


def installed_target() -> Target | None:
    """TensorRT where it is installed, else TensorRT-RTX, else None."""
    for target in TARGETS:
        with contextlib.suppress(MissingDependencyError):
            _load(target)
            return target
    return None


def build_engine(
    graph: bytes,
    wish: EngineWish,
    *,
    kind: Kind = "seg",
    progress: Callable[[int, int], None] | None = None,
) -> BuiltEngine:
    """Build an engine of a graph; Ctrl-C ends it.

    Args:
        graph: a strongly typed ONNX graph with the tensors of `graph.to_onnx` or `painter.painter_to_onnx`.
        wish: the engine.
        kind: of the network.
        progress: called with (steps done, steps known by now).

    Returns:
        The engine.

    Raises:
        MissingDependencyError: the library is not installed.
        ConfigError: capabilities or a batch that it cannot build for.
        BundleError: the library refuses the graph, or could not build.
        KeyboardInterrupt: Ctrl-C.
    """
    trt, named = _load(wish.target), prepared(wish).capabilities
    log = error_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph):
        faults = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise BundleError(f"{trt.__name__} {trt.__version__} does not take the graph: {faults or log.text()}")
    _check_tensors(trt, network, _TENSORS[kind])
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE_BYTES)
    if wish.target == "rtx":
        config.num_compute_capabilities = len(named)
        for index, text in enumerate(named):
            config.set_compute_capability(_known_capabilities(trt)[text], index)
    profile = builder.create_optimization_profile()
    for tensor in (network.get_input(index) for index in range(network.num_inputs)):
        # What is uint8 is pictures, of which a call takes some.
        if tensor.dtype == trt.DataType.UINT8:
            sides = tuple(tensor.shape)[1:]
            profile.set_shape(tensor.name, *((pictures, *sides) for pictures in wish.batch))
    config.add_optimization_profile(profile)
    begun = time.monotonic()
    with _interruptible() as interrupted:
        config.progress_monitor = _monitor(trt, progress, interrupted)
        serialized = builder.build_serialized_network(network, config)
        if interrupted():
            raise KeyboardInterrupt
    if serialized is None:
        raise BundleError(f"{trt.__name__} {trt.__version__} could not build the engine: {log.text()}")
    data = bytes(serialized)
    where = f"{platform.system().lower()}-{platform.machine()}"
    name = f"{_FLAVOURS[wish.target]}-{trt.__version__}-{where}-sm{'-'.join(named).replace('.', '')}"
    if wish.precision != "fp16":
        name += f"-{wish.precision}"
    description = EngineFile(
        file=f"engines/{name}.engine",
        flavour=_FLAVOURS[wish.target],
        version=trt.__version__,
        platform=where,
        compute_capabilities=named,
        batch=wish.batch,
        precision=wish.precision,
        graph_sha256=hashlib.sha256(graph).hexdigest(),
        built_s=round(time.monotonic() - begun, 2),
    )
    return BuiltEngine(data, description)


def with_engine(
    files: Mapping[str, bytes],
    before: Sequence[EngineFile],
    wish: EngineWish,
    *,
    kind: Kind,
    stage: Callable[[str], None],
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, bytes], tuple[EngineFile, ...]]:
    """The files of a bundle with an engine more, and the list of its engines; one for the same machines is replaced."""
    stage(f"building an engine of {_FLAVOURS[wish.target]} in {wish.precision}")
    built = build_engine(files[ENGINE_GRAPHS[wish.precision]], wish, kind=kind, progress=progress)
    kept = tuple(engine for engine in before if engine.file != built.description.file)
    # First, since the first that fits is run: this one was asked for last.
    engines = (built.description, *kept)
    listed = (Engines(engines=engines).model_dump_json(indent=2) + "\n").encode()
    return {**files, built.description.file: built.data, ENGINES: listed}, engines


def sizes_of(files: Mapping[str, bytes]) -> dict[str, int]:
    """Bytes of the graphs and engines among the files of a bundle."""
    return {name: len(data) for name, data in files.items() if name.endswith((".onnx", ".engine"))}


def rebuild(
    bundle: Path,
    out: Path,
    wish: EngineWish,
    *,
    stage: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, int], tuple[EngineFile, ...]]:
    """Build an engine from a bundle's own graph, on the machine that it is for; needs neither torch nor onnx.

    Args:
        bundle: that holds the graph which such engines are built from.
        out: the bundle to write; may be the same.
        wish: the engine.
        stage: called with the name of each stage as it begins.
        progress: called with (steps done, steps known by now).

    Returns:
        Bytes of its graphs and engines, and its engines.

    Raises:
        BundleError: the bundle is damaged or has no such graph, or the engine could not be built.
        ConfigError: an engine that cannot be built so.
        MissingDependencyError: the library is not installed.
    """
    stage = stage or (lambda _: None)
    wish = prepared(wish)
    stage("reading the bundle")
    found = load_bundle(bundle)
    files = {name: found.read(name) for name in found.files}
    if (graph := ENGINE_GRAPHS[wish.precision]) not in files:
        again = " with --int8" if wish.precision == "int8" else ""
        raise BundleError(f"{bundle}: has no {graph}, which such engines are built from; export it again{again}")
    files, engines = with_engine(files, found.engines(), wish, kind=found.card.kind, stage=stage, progress=progress)
    stage("writing the bundle")
    write_bundle(out, found.card, files, version=inspectd.__version__)
    load_bundle(out)
    return sizes_of(files), engines


def certify_engine(
    bundle: Path,
    out: Path,
    *,
    precision: EnginePrecision = "fp16",
    stage: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[EngineFile, tuple[Check, ...]]:
    """Compare the engine that fits this machine with the graph in fp32, on the bundle's golden pictures.

    Args:
        bundle: of either kind, with an engine that fits.
        out: the bundle to write; may be the same.
        precision: of the engine.
        stage: called with the name of each stage as it begins.
        progress: called with (done, all) pictures.

    Returns:
        The engine, with the GPU that it was checked on, and what was measured. Both are in the bundle then.

    Raises:
        BundleError: the bundle is damaged, no engine fits, or a check failed; nothing is written then.
        DeviceError, MissingDependencyError: there is no GPU that can be used.
        InferenceError: it failed.
    """
    stage = stage or (lambda _: None)
    stage("reading the bundle")
    found = load_bundle(bundle)
    files = {name: found.read(name) for name in found.files}
    stage("loading the engine")
    graph, engine = open_gpu_graph(found, precision=precision)
    try:
        stage("comparing with the graph")
        if found.card.kind == "seg":
            checks = _compared(found, graph, precision, progress)
        else:
            checks = _compared_paintings(found, graph, progress)
    finally:
        graph.close()
    if failed := [check for check in checks if not check.passed]:
        wrong = "; ".join(f"{check.name}: {check.value} ({check.bound})" for check in failed)
        raise BundleError(f"{bundle}: {engine.file} does not give what the graph gives on {graph.device}: {wrong}")
    checked = engine.model_copy(update={"checked_on": graph.device})
    listed = tuple(checked if one.file == engine.file else one for one in found.engines())
    try:
        certificate = Certificate.model_validate_json(files[PARITY])
    except ValidationError as error:
        raise BundleError(f"{bundle}: {PARITY} is no certificate: {explain(error)}; export it again") from error
    certificate = certificate.model_copy(update={"engines": {**certificate.engines, engine.file: checks}})
    files[ENGINES] = (Engines(engines=listed).model_dump_json(indent=2) + "\n").encode()
    files[PARITY] = (certificate.model_dump_json(indent=2) + "\n").encode()
    stage("writing the bundle")
    write_bundle(out, found.card, files, version=inspectd.__version__)
    load_bundle(out)
    return checked, checks


def _compared(
    bundle: Bundle, graph: GpuGraph, precision: EnginePrecision, progress: Callable[[int, int], None] | None
) -> tuple[Check, ...]:
    """One picture at a time, and then all in one call, which takes batches and both slots.

    With the graph in fp32; an engine in integers by their bounds, and by those of half precision with its own graph
    too, of which the certificate says on labelled pictures what its integers cost.
    """
    golden = bundle.golden()
    pictures = [np.atleast_3d(decode_png(bundle.read(one.input), one.input)) for one in golden.samples]
    thresholds = np.asarray(golden.thresholds, np.float32)
    references = [("", open_graph(bundle.read(MODEL), CPU_WAYS[0]), INTEGERS if precision == "int8" else HALF)]
    if precision == "int8":
        way = CpuWay("onnxruntime", "int8")
        own = open_graph(bundle.read(ENGINE_GRAPHS[precision]), way, fused=False)
        references.append((", its own graph", own, HALF))
    expected: list[list[list[NDArray[Any]]]] = [[] for _ in references]
    single = []
    for number, picture in enumerate(pictures):
        fed: dict[str, NDArray[Any]] = {"images": picture[None], "thresholds": thresholds}
        for parts, (_, reference, _) in zip(expected, references, strict=True):
            parts.append(reference.run(fed))
        single.append(graph.run(fed))
        if progress is not None:
            progress(number + 1, len(pictures))
    together = joined([graph.run({"images": np.stack(pictures), "thresholds": thresholds})])
    checks: list[Check] = []
    for parts, (of, _, bounds) in zip(expected, references, strict=True):
        checks += parity(f"one by one{of}", joined(parts), joined(single), bounds)
        checks += parity(f"all in one call{of}", joined(parts), together, bounds)
    if bundle.guarded():
        checks.append(guard("", graph.run, bundle.card))
    return tuple(checks)


def _compared_paintings(
    bundle: Bundle, graph: GpuGraph, progress: Callable[[int, int], None] | None
) -> tuple[Check, ...]:
    """The same for a network that paints."""
    samples = bundle.paintings().samples
    table = TABLES["dst"]
    windows = {
        name: np.stack([decode_png(bundle.read(getattr(one, name)), getattr(one, name)) for one in samples])
        for name in table.inputs
    }
    windows["mask"] = (windows["mask"] > 0).astype(np.uint8)
    reference = open_graph(bundle.read(MODEL), CPU_WAYS[0], table=table)
    expected, single = [], []
    for index in range(len(samples)):
        fed = {name: array[index : index + 1] for name, array in windows.items()}
        expected += reference.run(fed)
        single += graph.run(fed)
        if progress is not None:
            progress(index + 1, len(samples))
    truth, (together,) = np.concatenate(expected), graph.run(windows)
    return (
        levels("one by one", truth, np.concatenate(single), HALF_LEVELS),
        levels("all in one call", truth, together, HALF_LEVELS),
    )


def _load(target: Target) -> Any:  # noqa: ANN401 - the module, which has no types
    return require(_FLAVOURS[target], extra=EXTRAS[_FLAVOURS[target]])


def _monitor(trt: Any, progress: Callable[[int, int], None] | None, interrupted: Callable[[], bool]) -> Any:  # noqa: ANN401
    """Counts the steps of all phases, which begin one inside the other, and tells the library when to stop."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # known when it is installed
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._done = self._total = 0
            # The library calls from threads of its own.
            self._lock = threading.Lock()

        def phase_start(self, _name: str, _parent: str | None, steps: int) -> None:
            with self._lock:
                self._total += steps

        def phase_finish(self, _name: str) -> None:
            pass

        def step_complete(self, _name: str, _step: int) -> bool:
            with self._lock:
                self._done += 1
                if progress is not None:
                    progress(self._done, self._total)
            return not interrupted()

    return Monitor()


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Holds Ctrl-C back: an exception would have to pass the library, which only takes an answer."""
    pressed = False

    def note(_signal: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _check_tensors(trt: Any, network: Any, kinds: Mapping[str, str]) -> None:  # noqa: ANN401 - of the module's
    """What the library read must be what the line feeds."""
    tensors = [
        *(network.get_input(index) for index in range(network.num_inputs)),
        *(network.get_output(index) for index in range(network.num_outputs)),
    ]
    found = {tensor.name: tensor.dtype for tensor in tensors}
    expected = {name: getattr(trt.DataType, kind) for name, kind in kinds.items()}
    if found != expected:
        shown = {name: str(kind) for name, kind in found.items()}
        raise BundleError(f"{trt.__name__} reads inputs and outputs {shown}, expected {dict(kinds)}")


def prepared(wish: EngineWish) -> EngineWish:
    """The wish with its GPUs named, lowest first and each once.

    Raises:
        MissingDependencyError, ConfigError: as `build_engine`.
    """
    if not 0 < wish.batch[0] <= wish.batch[1] <= wish.batch[2]:
        raise ConfigError(f"--batch {','.join(map(str, wish.batch))}: expected three rising numbers from 1 on")
    trt = _load(wish.target)
    if wish.target == "tensorrt":
        own = _own_capability("TensorRT builds on the machine that the engine is for")
        if wish.capabilities and wish.capabilities != (own,):
            raise ConfigError("--compute-capability is for --target rtx; TensorRT builds for the GPU of this machine")
        return dataclasses.replace(wish, capabilities=(own,))
    known = _known_capabilities(trt)
    listed = f"{trt.__name__} {trt.__version__} has {', '.join(known)}"
    named = wish.capabilities or (_own_capability(f"name the GPUs of the station by --compute-capability; {listed}"),)
    if unknown := [text for text in named if text not in known]:
        raise ConfigError(f"compute capability {unknown[0]}: {listed}")
    return dataclasses.replace(wish, capabilities=tuple(text for text in known if text in named))


def _known_capabilities(trt: Any) -> dict[str, Any]:  # noqa: ANN401 - of the module's
    """GPUs that TensorRT-RTX builds for without having one: 7.5 and so on, lowest first."""
    names = [name for name in dir(trt.ComputeCapability) if name.startswith("SM")]
    found = {_dotted(name): getattr(trt.ComputeCapability, name) for name in names}
    return dict(sorted(found.items(), key=lambda item: tuple(map(int, item[0].split(".")))))


def _dotted(name: str) -> str:
    """SM86 -> 8.6, SM120 -> 12.0."""
    digits = re.sub(r"\D", "", name)
    return f"{digits[:-1]}.{digits[-1]}"


def _own_capability(remedy: str) -> str:
    """Compute capability of the first GPU of this machine.

    Raises:
        ConfigError: there is none that a driver tells of.
    """
    try:
        device = open_driver()
    except (MissingDependencyError, DeviceError) as error:
        raise ConfigError(f"no GPU of this machine answers ({error}); {remedy}") from error
    capability = device.capability
    device.close()
    return capability
