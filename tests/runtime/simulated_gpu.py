"""A CUDA device and a TensorRT that keep the rules of the real ones, on the processor.

Nothing that a stream is given happens before somebody waits for the stream; memory holds rubbish until it is written;
what is captured does not run; calls from another thread are refused. The engine calculates what an ONNX graph does.
"""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace

import numpy as np

from inspectd.cpu import CPU_WAYS, TABLES, open_graph
from inspectd.errors import DeviceError

RUBBISH = 0xCD


class SimulatedDriver:
    """See `cuda.Driver`."""

    name, capability = "Simulated GPU", "8.6"

    def __init__(self, *, room=1 << 30):
        self._thread = threading.get_ident()
        self.room = room
        self.memories, self.streams, self.graphs, self.capturing = {}, {}, {}, None
        self.calls = []
        self.closed = False
        self.fail_in = None

    def _called(self, what):
        if threading.get_ident() != self._thread:
            raise DeviceError("a CUDA context was used from another thread than the one that opened it")
        assert not self.closed, f"{what} after close"
        self.calls.append(what)
        if self.fail_in == what:
            raise DeviceError(f"{self.name}: {what} failed: an illegal memory access was encountered")

    def stream(self):
        self._called("stream")
        self.streams[handle := 1000 + len(self.streams)] = []
        return handle

    def _take(self, size):
        if size > self.room:
            raise DeviceError(f"{self.name}: out of memory")
        self.room -= size
        return np.full(size, RUBBISH, np.uint8)

    def pinned(self, size):
        self._called("pinned")
        return np.full(size, RUBBISH, np.uint8)

    def memory(self, size):
        self._called("memory")
        self.memories[address := 0x10000 * (1 + len(self.memories))] = self._take(size)
        return address

    def give(self, stream, operation):
        """Put an operation into a stream, or into the graph that is being captured from it."""
        (self.capturing if self.capturing is not None else self.streams[stream]).append(operation)

    def copy_in(self, address, host, stream):
        self._called("copy_in")
        self.give(stream, lambda: self._write(address, host))

    def _write(self, address, host):
        self.memories[address][: host.size] = host

    def copy_out(self, host, address, stream):
        self._called("copy_out")

        def read():
            host[:] = self.memories[address][: host.size]

        self.give(stream, read)

    def wait(self, stream):
        self._called("wait")
        pending, self.streams[stream] = self.streams[stream], []
        for operation in pending:
            operation()

    def capture(self, stream, enqueue):
        self._called("capture")
        self.capturing = []
        enqueue()
        self.graphs[handle := 1 + len(self.graphs)] = self.capturing
        self.capturing = None
        return handle

    def launch(self, graph, stream):
        self._called("launch")
        self.streams[stream] += self.graphs[graph]

    def close(self):
        self._called("close")
        self.closed = True


class SimulatedTensorRT(SimpleNamespace):
    """The module. Its engines are the ONNX graphs themselves, with what they say of their tensors."""

    def __init__(self, driver_of, version="1.7.1", *, changed=None, **faults):
        super().__init__(
            __version__=version,
            ILogger=_Logger,
            DataType=SimpleNamespace(UINT8="u8", FLOAT="f32", HALF="f16"),
            TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
        )
        self.driver_of, self.faults, self.changed = driver_of, faults, changed or {}

    def Runtime(self, log):  # noqa: N802 - TensorRT's name
        def deserialize_cuda_engine(content):
            if self.faults.get("refuses"):
                log.log(_Logger.Severity.ERROR, "the engine plan file is not compatible with this version")
                return None
            return _Engine(self, content)

        return SimpleNamespace(deserialize_cuda_engine=deserialize_cuda_engine)


class _Logger:
    Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0, INFO=3)


class _Engine:
    def __init__(self, module, content):
        head, _, graph = content.partition(b"\n")
        said = json.loads(head)
        said |= module.changed
        self._module, self._names = module, list(said["shapes"])
        self._shapes, self._types = said["shapes"], said["types"]
        self.table = TABLES[said["kind"]]
        self.graph = open_graph(graph, CPU_WAYS[0], threads=1, table=self.table)
        self.num_io_tensors = len(self._names)

    def get_tensor_name(self, index):
        return self._names[index]

    def get_tensor_dtype(self, name):
        return self._types[name]

    def get_tensor_shape(self, name):
        return self._shapes[name]

    def get_tensor_mode(self, name):
        return "in" if name in self.table.inputs else "out"

    def create_execution_context(self):
        return None if self._module.faults.get("no_room") else _Context(self._module, self)


class _Context:
    def __init__(self, module, engine):
        self._module, self._engine = module, engine
        self._at, self._shape = {}, {}

    def set_tensor_address(self, name, address):
        self._at[name] = address
        return True

    def set_input_shape(self, name, shape):
        known = self._engine.get_tensor_shape(name)
        if len(known) != len(shape) or any(side not in (-1, got) for side, got in zip(known, shape, strict=True)):
            return False
        self._shape[name] = tuple(shape)
        return True

    def infer_shapes(self):
        return [name for name in self._engine.table.inputs if name not in self._shape]

    def execute_async_v3(self, stream):
        if self._module.faults.get("does_not_start"):
            return False
        driver, shape = self._module.driver_of(), dict(self._shape)

        def calculate():
            if hang := self._module.faults.get("hangs"):
                hang.wait()
            fed = {
                name: driver.memories[self._at[name]][: int(np.prod(shape[name])) * np.dtype(kind).itemsize]
                .view(kind)
                .reshape(shape[name])
                for name, kind in self._engine.table.inputs.items()
            }
            if self._module.faults.get("writes_nothing"):
                return
            for name, values in zip(self._engine.table.outputs, self._engine.graph.run(fed), strict=True):
                raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
                driver.memories[self._at[name]][: raw.size] = raw

        driver.give(stream, calculate)
        return True


def engine_content(bundle):
    """What the simulated library loads: a graph and its tensors."""
    preprocess, classes = bundle.card.preprocess, len(bundle.card.classes)
    height, width = preprocess.size
    table, picture = TABLES[bundle.card.kind], [-1, height, width, preprocess.channels]
    sides = {
        **dict.fromkeys(("images", "beneath", "coarse", "painted"), picture),
        **dict.fromkeys(("labels", "confidence", "mask"), picture[:3]),
        "thresholds": [classes],
        "scores": [-1, classes],
    }
    tensors = {**table.inputs, **table.outputs}
    said = {
        "kind": bundle.card.kind,
        "shapes": {name: sides[name] for name in tensors},
        "types": {name: "u8" if kind == "uint8" else "f32" for name, kind in tensors.items()},
    }
    return json.dumps(said).encode() + b"\n" + bundle.read("model.onnx")
