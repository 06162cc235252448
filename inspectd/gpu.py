"""An engine of TensorRT or TensorRT-RTX on a GPU: one worker thread owns the device, two slots keep it busy.

A slot is an execution context with a stream of its own, and with pinned and device memory for the largest batch. While
one slot calculates, the other copies. What a slot does for one batch size is captured as a CUDA graph after its first
run.

Whatever goes wrong raises; an answer is never an older one. After a failure of the device, or a call that did not come
back, the engine takes no more: a context in that state cannot be trusted.
"""

from __future__ import annotations

import math
import platform
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspectd.bundle import ENGINE_GRAPHS, Bundle, EngineFile, EnginePrecision, ModelCard
from inspectd.cpu import TABLES
from inspectd.cuda import Driver, open_driver
from inspectd.errors import DeviceError, IncompatibleEngine, InferenceError, InspectdError, MissingDependencyError
from inspectd.optional import require

__all__ = ["EXTRAS", "GpuGraph", "Tensor", "Tensors", "error_log", "misfit", "open_gpu_graph"]

EXTRAS = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}
"""The extra that installs each flavour; a flavour is the name of its module."""
_SLOTS = 2
_NOTHING = 0xFF
"""What the last output is full of before each call: bytes of floats that are no numbers, or a window all white."""
TIMEOUT_S = 10.0
"""A batch takes milliseconds; a device that is silent for so long hangs."""
OPENING_S = 120.0
"""Loading an engine of TensorRT-RTX compiles its kernels."""


def error_log(module: Any) -> Any:  # noqa: ANN401 - of the module's, which has no types
    """A logger that keeps TensorRT's errors, `text()` telling the last: a recorder of Python's crashes RTX 1.7.1."""

    class Log(module.ILogger):  # type: ignore[misc]  # known when it is installed
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:  # noqa: ANN401 - of the module's
            if severity in (module.ILogger.Severity.ERROR, module.ILogger.Severity.INTERNAL_ERROR):
                self._errors.append(" ".join(message.split()))

        def text(self) -> str:
            return "; ".join(self._errors[-3:]) or "it gave no reason"

    return Log()


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of an engine: its type, and its sides beside the batch; None for no batch."""

    kind: str
    sides: tuple[int, ...]
    batched: bool

    def shape(self, count: int) -> tuple[int, ...]:
        """Of a batch."""
        return (count, *self.sides) if self.batched else self.sides

    def size(self, count: int) -> int:
        """Bytes of a batch."""
        return math.prod(self.shape(count)) * np.dtype(self.kind).itemsize


@dataclass(frozen=True, slots=True)
class Tensors:
    """What an engine takes and gives, in this order."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]

    @property
    def both(self) -> dict[str, Tensor]:
        """All by name."""
        return {**self.inputs, **self.outputs}

    @property
    def proof(self) -> str:
        """The output that shows whether it was written."""
        return list(self.outputs)[-1]


def misfit(engine: EngineFile, bundle_graph: str | None, *, version: str | None, capability: str) -> str | None:
    """Why an engine does not run here; None where it does.

    Args:
        engine: as the bundle lists it.
        bundle_graph: sha256 of the bundle's graph in its arithmetic, None where it has none.
        version: of its library on this machine, None where it is not installed.
        capability: of the GPU.
    """
    here = f"{platform.system().lower()}-{platform.machine()}"
    if engine.graph_sha256 != bundle_graph:
        return "it was built from another graph"
    if engine.platform != here:
        return f"it is for {engine.platform}, this is {here}"
    if version is None:
        return f"{engine.flavour} is not installed: pip install 'inspectd[{EXTRAS[engine.flavour]}]'"
    if engine.version != version:
        return f"it is of {engine.flavour} {engine.version}, this machine has {version}"
    if capability not in engine.compute_capabilities:
        return f"it is for compute capability {', '.join(engine.compute_capabilities)}, this GPU has {capability}"
    return None


def open_gpu_graph(
    bundle: Bundle,
    *,
    precision: EnginePrecision = "fp16",
    driver: Callable[[], Driver] = open_driver,
    module: Callable[[str], Any] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> tuple[GpuGraph, EngineFile]:
    """The first engine of a bundle that fits this machine, ready to run.

    Args:
        bundle: of either kind of network.
        precision: its arithmetic.
        driver: opens the device, in the worker's thread.
        module: gives TensorRT's module of a flavour.
        timeout_s: after which a batch is given up.

    Raises:
        MissingDependencyError: neither pycuda nor cuda-python, or no driver, is installed.
        IncompatibleEngine: the bundle has no engine that fits; each is named with the reason.
        DeviceError: there is no GPU, or it failed.
    """
    listed = [engine for engine in bundle.engines() if engine.precision == precision]
    build = f"export-trt --from-onnx {bundle.path}{' --int8' if precision == 'int8' else ''}"
    if not listed:
        raise IncompatibleEngine(f"{bundle.path}: holds no engine in {precision}; build one on this machine: {build}")
    modules = {flavour: _loaded(flavour, module) for flavour in {engine.flavour for engine in listed}}
    file = ENGINE_GRAPHS[precision]
    graph = bundle.sha256(file) if file in bundle.files else None

    def choose(capability: str) -> tuple[EngineFile, Any, bytes]:
        reasons = []
        for engine in listed:
            found = modules[engine.flavour]
            version = None if found is None else str(found.__version__)
            why = misfit(engine, graph, version=version, capability=capability)
            if why is None:
                return engine, found, bundle.read(engine.file)
            reasons.append(f"{engine.file}: {why}")
        raise IncompatibleEngine(
            f"{bundle.path}: no engine fits this machine: {'; '.join(reasons)}; build one here: {build}"
        )

    made = GpuGraph(driver, choose, _tensors(bundle.card), timeout_s=timeout_s)
    return made, made.engine


def _tensors(card: ModelCard) -> Tensors:
    """What an engine of a card takes and gives."""
    preprocess, table = card.preprocess, TABLES[card.kind]
    picture, map_ = (*preprocess.size, preprocess.channels), preprocess.size
    classes = (len(card.classes),)
    coloured = dict.fromkeys(("beneath", "coarse", "painted"), (*preprocess.size, 3))
    sides = {"images": picture, "labels": map_, "confidence": map_, "mask": map_, **coloured}

    def of(kinds: Mapping[str, str]) -> dict[str, Tensor]:
        return {
            name: Tensor(kind, sides.get(name, classes), batched=name != "thresholds") for name, kind in kinds.items()
        }

    return Tensors(of(table.inputs), of(table.outputs))


def _loaded(flavour: str, module: Callable[[str], Any] | None) -> Any:  # noqa: ANN401 - the module, which has no types
    if module is not None:
        return module(flavour)
    try:
        return require(flavour, extra=EXTRAS[flavour])
    except MissingDependencyError:
        return None


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """Pictures that somebody waits for."""

    fed: Mapping[str, NDArray[Any]]
    answer: Future[list[NDArray[Any]]] = field(default_factory=Future)


class GpuGraph:
    """An engine that is ready; `run` may be called from any one thread at a time.

    Attributes:
        engine: what runs.
        device: name of the GPU.
    """

    engine: EngineFile
    device: str

    def __init__(
        self,
        driver: Callable[[], Driver],
        choose: Callable[[str], tuple[EngineFile, Any, bytes]],
        tensors: Tensors,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Start the worker, which opens the device and loads the engine.

        Args:
            driver: opens the device, in the worker's thread.
            choose: gives the engine for a compute capability, its module and its content.
            tensors: inputs and outputs that are expected.
            timeout_s: after which a batch is given up.

        Raises:
            InspectdError: whatever keeps it from being ready.
        """
        self._tensors, self._timeout_s = tensors, timeout_s
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._broken: str | None = None
        opened: Future[tuple[EngineFile, str]] = Future()
        self._worker = threading.Thread(
            target=self._work, args=(driver, choose, opened), name="inspectd-gpu", daemon=True
        )
        self._worker.start()
        try:
            self.engine, self.device = opened.result(OPENING_S)
        except FutureTimeout:
            raise DeviceError(f"the GPU was not ready after {OPENING_S:g} s") from None

    def run(self, fed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs for any number of pictures, in the order of the table.

        Raises:
            InferenceError: the input does not fit, the device failed, or it did not come back in time.
        """
        if self._broken is not None:
            raise InferenceError(f"the GPU is not used any more since it failed: {self._broken}")
        inputs = self._tensors.inputs
        count = len(fed[next(iter(inputs))]) or 1
        for name, tensor in inputs.items():
            got = fed[name]
            if got.shape != tensor.shape(count) or got.dtype != np.dtype(tensor.kind):
                raise InferenceError(
                    f"expected {name} of {tensor.kind} {list(tensor.shape(count))}, got {got.dtype} {list(got.shape)}"
                )
        job = _Job({name: np.array(fed[name], order="C") for name in inputs})
        self._jobs.put(job)
        try:
            return job.answer.result(self._timeout_s)
        except FutureTimeout:
            self._broken = f"no answer within {self._timeout_s:g} s"
            raise InferenceError(f"the GPU gave {self._broken}") from None
        except InspectdError as error:
            self._broken = str(error)
            raise InferenceError(f"the GPU failed: {error}") from error

    @property
    def failure(self) -> str | None:
        """Why the GPU is not used any more; None while it is."""
        return self._broken

    def close(self) -> None:
        """End the worker, which frees the device. May be called twice."""
        self._broken = self._broken or "it was closed"
        self._jobs.put(None)
        # One that hangs in the driver does not come back; it is a daemon and ends with the process.
        self._worker.join(self._timeout_s)

    def _work(
        self,
        driver: Callable[[], Driver],
        choose: Callable[[str], tuple[EngineFile, Any, bytes]],
        opened: Future[tuple[EngineFile, str]],
    ) -> None:
        """The worker: everything that touches the device."""
        device: Driver | None = None
        try:
            device = driver()
            engine, module, content = choose(device.capability)
            ready = _Loaded(module, content, engine, self._tensors, device)
        except BaseException as error:  # noqa: BLE001 - it is for the thread that waits
            if device is not None:
                device.close()
            opened.set_exception(_as_ours(error))
            return
        opened.set_result((engine, device.name))
        try:
            while (job := self._jobs.get()) is not None:
                try:
                    found = _run(ready.slots, engine.batch, job.fed, self._tensors)
                except BaseException as error:  # noqa: BLE001 - as above
                    job.answer.set_exception(_as_ours(error))
                    return
                job.answer.set_result(found)
        finally:
            # Contexts of the library before the memory that they know.
            ready.release()
            device.close()


def _as_ours(error: BaseException) -> InspectdError:
    return error if isinstance(error, InspectdError) else DeviceError(f"{type(error).__name__}: {error}")


class _Slot:
    """An execution context with its stream and buffers."""

    def __init__(
        self,
        context: Any,  # noqa: ANN401 - of the module's
        tensors: Tensors,
        largest: int,
        driver: Driver,
    ) -> None:
        self._context, self._tensors, self._driver = context, tensors, driver
        self._stream = driver.stream()
        self._host = {name: driver.pinned(tensor.size(largest)) for name, tensor in tensors.both.items()}
        self._device = {name: driver.memory(tensor.size(largest)) for name, tensor in tensors.both.items()}
        self._graphs: dict[int, int | None] = {}
        """By batch size; None after the first run, which is not captured since the library sets itself up in it."""
        self._count = 0
        for name, address in self._device.items():
            if not context.set_tensor_address(name, address):
                raise DeviceError(f"the engine takes no address for {name}")

    def submit(self, fed: Mapping[str, NDArray[Any]], count: int) -> None:
        """Give a batch of `count` to the stream; pictures that are missing to it are black."""
        for name, values in fed.items():
            room = self._host[name][: self._tensors.inputs[name].size(count)]
            flat = values.reshape(-1).view(np.uint8)
            room[: flat.size] = flat
            room[flat.size :] = 0
        # If nothing is written there, it is no answer, and is refused.
        self._host[self._tensors.proof][:] = _NOTHING
        self._count = count
        graph = self._graphs.get(count)
        if graph is not None:
            self._driver.launch(graph, self._stream)
            return
        self._shape(count)
        if count not in self._graphs:
            self._graphs[count] = None
            self._enqueue()
        else:
            graph = self._graphs[count] = self._driver.capture(self._stream, self._enqueue)
            self._driver.launch(graph, self._stream)

    def collect(self) -> dict[str, NDArray[Any]]:
        """Wait for the batch: its outputs, which are the caller's own."""
        self._driver.wait(self._stream)
        found = {}
        for name, tensor in self._tensors.outputs.items():
            raw = self._host[name][: tensor.size(self._count)]
            found[name] = raw.view(tensor.kind).reshape(tensor.shape(self._count)).copy()
        return found

    def _shape(self, count: int) -> None:
        for name, tensor in self._tensors.inputs.items():
            if not self._context.set_input_shape(name, tensor.shape(count)):
                raise DeviceError(f"the engine takes no {name} of {list(tensor.shape(count))}")
        if missing := self._context.infer_shapes():
            raise DeviceError(f"the engine does not know the shapes of {', '.join(missing)}")

    def _enqueue(self) -> None:
        # The last output too, which is nothing yet.
        for name in (*self._tensors.inputs, self._tensors.proof):
            size = self._tensors.both[name].size(self._count)
            self._driver.copy_in(self._device[name], self._host[name][:size], self._stream)
        if not self._context.execute_async_v3(self._stream):
            raise DeviceError("the engine did not start")
        for name, tensor in self._tensors.outputs.items():
            size = tensor.size(self._count)
            self._driver.copy_out(self._host[name][:size], self._device[name], self._stream)


class _Loaded:
    """An engine in the device's memory, with its slots."""

    def __init__(
        self,
        module: Any,  # noqa: ANN401
        content: bytes,
        engine: EngineFile,
        tensors: Tensors,
        driver: Driver,
    ) -> None:
        """Load it and hold it against what is expected."""
        log = error_log(module)
        runtime = module.Runtime(log)
        loaded = runtime.deserialize_cuda_engine(content)
        # The library wants them to outlive what is made of them.
        self._kept: list[Any] = [log, runtime, loaded]
        self.slots: list[_Slot] = []
        if loaded is None:
            raise IncompatibleEngine(f"{engine.file} cannot be loaded: {log.text()}")
        _check_table(module, loaded, engine, tensors)
        for _ in range(_SLOTS):
            context = loaded.create_execution_context()
            if context is None:
                raise DeviceError(f"{engine.file}: no room on the GPU for it: {log.text()}")
            self.slots.append(_Slot(context, tensors, engine.batch[2], driver))

    def release(self) -> None:
        """Let go of it, in the order that the library wants."""
        self.slots.clear()
        while self._kept:
            self._kept.pop()


def _check_table(
    module: Any,  # noqa: ANN401 - it has no types
    loaded: Any,  # noqa: ANN401
    engine: EngineFile,
    tensors: Tensors,
) -> None:
    """Inputs and outputs of the engine must be what the card promises."""
    kinds = {module.DataType.UINT8: "uint8", module.DataType.FLOAT: "float32"}
    inputs: dict[str, tuple[str, tuple[int, ...]]] = {}
    outputs: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name in (loaded.get_tensor_name(index) for index in range(loaded.num_io_tensors)):
        found = (kinds.get(loaded.get_tensor_dtype(name), "another type"), tuple(loaded.get_tensor_shape(name)))
        is_input = loaded.get_tensor_mode(name) == module.TensorIOMode.INPUT
        (inputs if is_input else outputs)[name] = found
    for what, got, its in (("inputs", inputs, tensors.inputs), ("outputs", outputs, tensors.outputs)):
        # -1 is a batch of any size.
        expected = {name: (tensor.kind, tensor.shape(-1)) for name, tensor in its.items()}
        fixed = {name: (tensor.kind, tensor.shape(engine.batch[2])) for name, tensor in its.items()}
        if got not in (expected, fixed):
            raise IncompatibleEngine(f"{engine.file} has {what} {got}, expected {expected}")


def _run(
    slots: Sequence[_Slot],
    batch: tuple[int, int, int],
    fed: Mapping[str, NDArray[Any]],
    tensors: Tensors,
) -> list[NDArray[Any]]:
    """All pictures, in batches that the engine takes; the slots take turns."""
    least, _, most = batch
    pictures = len(fed[next(iter(tensors.inputs))])
    parts: list[dict[str, NDArray[Any]]] = []
    waiting: list[tuple[_Slot, int]] = []
    for number, start in enumerate(range(0, pictures, most)):
        count = min(most, pictures - start)
        if len(waiting) == len(slots):
            parts.append(_collected(*waiting.pop(0)))
        slot = slots[number % len(slots)]
        chunk = {
            name: fed[name][start : start + count] if tensor.batched else fed[name]
            for name, tensor in tensors.inputs.items()
        }
        slot.submit(chunk, max(count, least))
        waiting.append((slot, count))
    parts += [_collected(*one) for one in waiting]
    return [np.concatenate([part[name] for part in parts]) for name in tensors.outputs]


def _collected(slot: _Slot, count: int) -> dict[str, NDArray[Any]]:
    return {name: values[:count] for name, values in slot.collect().items()}
