"""C(type): how fast ggml multiplies a matrix of a tensor type with one vector, and how fast a device copies memory.

Both are graphs of ggml's own, run on the backend of the device in question, through the library that this process
has loaded already: nothing is loaded here, so it is the engine's process that can measure. The matrix lies in the
cores' own caches (on another device, whose caches ggml does not tell, it is as large as a model's), of random
numbers, and in the buffer type that llama.cpp would put it in: what is repacked there is repacked here.
Rates are kept per machine and build. Knows no session and no model.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from quanttui import format, paths, quants
from quanttui.events import Ceiling, KernelRate
from quanttui.probes import ROOT, Absent, contents
from quanttui.probes.host import binary_size, cache_bytes, cores, cpu_list, cpu_name
from quanttui.probes.memory import limits

try:
    import resource
except ImportError:  # Windows has no getrusage
    resource = None  # type: ignore[assignment]

REPEATS, COPIES, LEAST = 20, 5, 3
"""Windows of which the best counts, of products and of copies, and how many there must be. Short ones: what a
neighbour does in one of them is not in the next. One in which a thread was put off its core counts for nothing:
threads that wait for each other on one core are hundreds of times slower."""

PATIENCE_S, REST_S = 0.3, 0.01
"""How much longer than planned is waited for windows that count, and the pause after any other: threads that have
slept are placed anew, and go first."""

FEW, MOST = 4, 1024
"""Products in the graph that is timed first, and in the one that is measured at most. One graph holds as many as
fill a window, so that waking the threads, once a graph, is not what is measured."""

SAMPLE = 16384
"""Weights that are really made; the matrix repeats their blocks, since quantizing is far slower than reading."""

SCALE_AT = {"IQ1_S": 1, "IQ1_M": 55, "IQ2_XXS": 1, "IQ2_XS": 1, "IQ2_S": 1, "IQ3_XXS": 1, "IQ3_S": 1}
"""Types whose codes are places in a codebook, all of them valid: ggml's tables for finding the best ones take up to ten
seconds to build. Of their blocks only the 16-bit scale may not be anything: here is its high byte (ggml-common.h)."""

COLUMNS = (2048, 16384)
ROWS = (32, 224)
"""Rows for each thread: with fewer than 256 ggml gives every thread the same rows in every product
(ggml_compute_forward_mul_mat), which is what keeps them in its own cache. Repacked types want whole groups of 32."""

PRIVATE, MOST_PRIVATE = 512 << 10, 2 << 20
DEVICE_COLUMNS, DEVICE_MATRIX = 4096, 32 << 20
"""The matrix on a device that is no processor: a feed-forward one of an 8B model, beside which a launch is short."""

ASKED_COLUMNS = 512
SHARE_OF_FREE = 4
MOST_REMEMBERED = 1000
LASTING = 120.0

NUMBERS = {kind.name: number for number, kind in quants.TENSOR_TYPES.items()}
MATRICES = frozenset(name for quant in quants.QUANTS for name in (quant.tensor_type, *quant.mix))
"""Types that files keep matrices in. ggml ends the process when it is told to quantize to any other."""

_CPU = 0
"""GGML_BACKEND_DEVICE_TYPE_CPU (ggml-backend.h)."""
_F32 = 0


class _InitParams(ctypes.Structure):
    """ggml_init_params (ggml.h)."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


_int, _long, _size, _pointer, _bool = ctypes.c_int, ctypes.c_int64, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_bool
_Array = ctypes.POINTER(ctypes.c_void_p)

_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_backend_alloc_ctx_tensors_from_buft": (_pointer, (_pointer, _pointer)),
    "ggml_backend_alloc_ctx_tensors_from_buft_size": (_size, (_pointer, _pointer)),
    "ggml_backend_buffer_clear": (None, (_pointer, ctypes.c_uint8)),
    "ggml_backend_buffer_free": (None, (_pointer,)),
    "ggml_backend_dev_backend_reg": (_pointer, (_pointer,)),
    "ggml_backend_dev_buffer_type": (_pointer, (_pointer,)),
    "ggml_backend_dev_by_name": (_pointer, (ctypes.c_char_p,)),
    "ggml_backend_dev_count": (_size, ()),
    "ggml_backend_dev_get": (_pointer, (_size,)),
    "ggml_backend_dev_host_buffer_type": (_pointer, (_pointer,)),
    "ggml_backend_dev_init": (_pointer, (_pointer, ctypes.c_char_p)),
    "ggml_backend_dev_memory": (None, (_pointer, ctypes.POINTER(_size), ctypes.POINTER(_size))),
    "ggml_backend_dev_supports_op": (_bool, (_pointer, _pointer)),
    "ggml_backend_dev_type": (_int, (_pointer,)),
    "ggml_backend_free": (None, (_pointer,)),
    "ggml_backend_graph_compute": (_int, (_pointer, _pointer)),
    "ggml_backend_reg_get_proc_address": (_pointer, (_pointer, ctypes.c_char_p)),
    "ggml_backend_tensor_set": (None, (_pointer, _pointer, _size, _size)),
    "ggml_backend_view_init": (_int, (_pointer,)),
    "ggml_blck_size": (_long, (_int,)),
    "ggml_build_forward_expand": (None, (_pointer, _pointer)),
    "ggml_cpy": (_pointer, (_pointer, _pointer, _pointer)),
    "ggml_free": (None, (_pointer,)),
    "ggml_graph_overhead_custom": (_size, (_size, _bool)),
    "ggml_init": (_pointer, (_InitParams,)),
    "ggml_mul_mat": (_pointer, (_pointer, _pointer, _pointer)),
    "ggml_nbytes": (_size, (_pointer,)),
    "ggml_new_graph_custom": (_pointer, (_pointer, _size, _bool)),
    "ggml_new_tensor_2d": (_pointer, (_pointer, _int, _long, _long)),
    "ggml_quantize_chunk": (_size, (_int, _pointer, _pointer, _long, _long, _long, _pointer)),
    "ggml_tensor_overhead": (_size, ()),
    "ggml_type_name": (ctypes.c_char_p, (_int,)),
    "ggml_type_size": (_size, (_int,)),
}
"""What is called of ggml: results and arguments, from ggml.h, ggml-alloc.h and ggml-backend.h."""


class Ggml:
    """ggml's functions, each looked up in the libraries when it is first called.

    Raises:
        Absent: on access, where this ggml has no such function.
    """

    def __init__(self, *libraries: ctypes.CDLL) -> None:
        self._libraries = libraries

    def __getattr__(self, name: str) -> Any:
        if name not in _FUNCTIONS:
            raise AttributeError(name)
        for library in self._libraries:
            with suppress(AttributeError):
                # Not getattr: that would be one object for all who call it, with one set of argument types.
                function = library[name]
                function.restype, function.argtypes = _FUNCTIONS[name]
                setattr(self, name, function)
                return function
        raise Absent(f"this build of ggml has no {name}")


def loaded() -> Ggml:
    """The ggml of the llama.cpp that this process has loaded.

    Raises:
        Absent: it has loaded none.
    """
    module = sys.modules.get("llama_cpp.llama_cpp")
    library = getattr(module, "_lib", None)
    if module is None or library is None:
        raise Absent("llama.cpp is not loaded in this process")
    if os.name != "nt":
        return Ggml(library)
    # Windows looks for a name in one library, not in what that has loaded.
    folder = Path(str(module.__file__)).parent / "lib"
    names = [folder / f"{prefix}{name}.dll" for name in ("ggml-base", "ggml") for prefix in ("", "lib")]
    return Ggml(library, *(ctypes.CDLL(str(path)) for path in names if path.exists()))


Take = Callable[[str], tuple[float, ...]]
"""Measures one tensor type, by name: GB/s of each repeat. Raises Absent where it cannot."""


def measure(
    arm: str,
    types: Sequence[str],
    threads: int,
    cache: Path | None,
    build: str,
    seconds: float = 0.05,
    device: str = "cpu",
    *,
    root: Path = ROOT,
    take: Take | None = None,
) -> list[KernelRate]:
    """C of each tensor type, in the order given, each type once: from `cache` where it was measured on this machine
    with this `build`, with these threads, on this device less than LASTING seconds ago; else now, in about `seconds` of
    each thread, since a processor's clock changes as its memory's bandwidth does (7.3 where it had been 5.7 GB/s); and
    from the cache, however old, where it cannot be measured now.

    A device is cpu, or what llama.cpp calls it (CUDA0). What cannot be measured is absent with the reason. `cache` is
    a JSON file, made if need be: one that makes no sense is replaced, one that cannot be written is done without.
    `take` measures instead of ggml.
    """
    threads = max(1, threads)
    machine = f"{cpu_name(root)}, {cores(root)} cores, {cache_bytes(root) or 0} bytes of cache"
    taking = take or (lambda name: _product_rate(loaded(), name, threads, seconds, device, root))
    known = _known(cache)
    fresh: dict[Key, Remembered] = {}
    found = []
    for name in dict.fromkeys(types):
        key = Key(machine, build, device, threads, name)
        about: dict[str, Any] = {"arm": arm, "type": format.clean(name, 40), "threads": threads, "device": device}
        kept = known.get(key)
        if kept is None or abs(time.time() - kept.wall) >= LASTING:  # a rounded time may lie a moment ahead
            try:
                fresh[key] = Remembered(key, taking(name), round(time.time(), 3))
            except (Absent, OSError, MemoryError) as error:
                if kept is None:
                    found.append(KernelRate(how="absent", why=_why(error), **about))
                    continue
        told = fresh.get(key, kept)
        assert told is not None
        repeats, wall = told.repeats, None if key in fresh else told.wall
        found.append(KernelRate(how="measured", gb_s=max(repeats), repeats=repeats, wall=wall, **about))
    if cache is not None and fresh:
        _remember(cache, fresh)
    return found


def _why(error: Exception) -> str:
    return format.clean(str(error)) or type(error).__name__


def copy_gb_s(
    device: str,
    bytes_: int = 256 << 20,
    seconds: float = 0.2,
    threads: int = 1,
    *,
    ggml: Ggml | None = None,
    root: Path = ROOT,
) -> Ceiling:
    """How fast a device copies `bytes_` from one place of its memory to another, bytes read and written both counted:
    best of COPIES windows of `seconds` altogether. Of no arm; absent with the reason, also where the two places
    would take more than a quarter of the memory that is free.

    `threads` are those of a processor; a device of another kind has its own.
    """
    threads = max(1, threads)
    about: dict[str, Any] = {"arm": "", "threads": threads, "over": "device copy", "device": device}
    try:
        with ExitStack() as stack:
            opened = stack.enter_context(_opened(ggml or loaded(), device, threads))
            _is_spare(opened, 2 * bytes_, root)
            repeats = _copied(stack, opened, bytes_, seconds)
    except (Absent, OSError, MemoryError) as error:
        return Ceiling(how="absent", why=_why(error), **about)
    return Ceiling(how="measured", gb_s=max(repeats), repeats=repeats, **about)


def private_cache(root: Path = ROOT) -> int:
    """Bytes of second-level cache that a core has for itself: its part where several share one, the smallest where
    they differ, 512 KiB where the host does not say, never more than 2 MiB."""
    found = []
    for index in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cache/index[0-9]*"):
        size = binary_size(contents(index / "size"))
        if contents(index / "level").strip() != b"2" or contents(index / "type").strip() == b"Instruction" or not size:
            continue
        sharing = len(cpu_list(contents(index / "shared_cpu_list")))
        siblings = len(cpu_list(contents(index.parent.parent / "topology/thread_siblings_list")))
        found.append(size // max(1, sharing // max(1, siblings)))
    return min([*found, MOST_PRIVATE]) if found else PRIVATE


def shape(kind: quants.TensorType, threads: int, private: int) -> tuple[int, int]:
    """Rows and columns of a matrix of which every thread's rows fill about half of `private` bytes."""
    least, most = COLUMNS
    columns = int(private // 2 / ROWS[1] / (kind.bytes / kind.block)) // 256 * 256
    columns = min(most, max(least, columns))
    rows = private // 2 // (columns // kind.block * kind.bytes) // 32 * 32
    return min(ROWS[1], max(ROWS[0], rows)) * threads, columns


def normal(seed: int, count: int) -> NDArray[np.float32]:
    """Normally distributed numbers, the same ones for the same seed."""
    return np.random.default_rng(seed).standard_normal(count, dtype=np.float32)


def sample(ggml: Ggml, number: int) -> NDArray[np.uint8]:
    """SAMPLE weights of a type of MATRICES, as the bytes of its blocks: normally distributed ones that ggml quantizes,
    or blocks of random codes where a search of the codebook would take seconds (SCALE_AT)."""
    kind = quants.TENSOR_TYPES[number]
    size = SAMPLE // kind.block * kind.bytes
    if kind.name in SCALE_AT:
        blocks = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
        high = blocks[SCALE_AT[kind.name] :: kind.bytes]
        high[:] = high & 0x0F | 0x20
        return blocks
    weights, importance = normal(0, SAMPLE), np.ones(SAMPLE, dtype=np.float32)
    blocks = np.zeros(size, dtype=np.uint8)
    ggml.ggml_quantize_chunk(number, weights.ctypes.data, blocks.ctypes.data, 0, 1, SAMPLE, importance.ctypes.data)
    return blocks


@dataclass(frozen=True)
class _Device:
    """A device with a backend of ours on it. Handles are ggml's pointers."""

    ggml: Ggml
    name: str
    handle: int
    backend: int
    threads: int
    is_cpu: bool

    @property
    def buffer_type(self) -> int:
        """Its own memory."""
        found: int = self.ggml.ggml_backend_dev_buffer_type(self.handle)
        return found

    def weight_buffer_types(self) -> Iterator[int]:
        """Where llama.cpp would have a matrix, best first (make_cpu_buft_list): a processor's are those that repack,
        unless there is a device beside it that offers memory of the host, and then the plain one."""
        ggml = self.ggml
        every = (ggml.ggml_backend_dev_get(index) for index in range(ggml.ggml_backend_dev_count()))
        beside = any(ggml.ggml_backend_dev_host_buffer_type(each) for each in every)
        extra = self.special(b"ggml_backend_dev_get_extra_bufts", _Array, _pointer) if self.is_cpu else None
        if extra and not beside:
            listed = extra(self.handle)
            for index in range(64):
                if not listed or not listed[index]:
                    break
                yield listed[index]
        yield self.buffer_type

    def special(self, name: bytes, result: Any, *arguments: Any) -> Any:
        """A function that only this kind of backend has; None where it has it not."""
        ggml = self.ggml
        address = ggml.ggml_backend_reg_get_proc_address(ggml.ggml_backend_dev_backend_reg(self.handle), name)
        return ctypes.CFUNCTYPE(result, *arguments)(address) if address else None


@contextmanager
def _opened(ggml: Ggml, name: str, threads: int) -> Iterator[_Device]:
    """The device of that name, computing with so many threads where it is a processor."""
    handle = ggml.ggml_backend_dev_by_name(name.encode("utf-8", "replace"))
    if not handle:
        raise Absent(f"llama.cpp has no device {format.clean(name, 40)}")
    is_cpu = ggml.ggml_backend_dev_type(handle) == _CPU
    backend = ggml.ggml_backend_dev_init(handle, None)
    if not backend:
        raise Absent(f"the device {format.clean(name, 40)} could not be opened")
    try:
        device = _Device(ggml, name, handle, backend, threads, is_cpu)
        if is_cpu:
            set_threads = device.special(b"ggml_backend_set_n_threads", None, _pointer, _int)
            if set_threads is None:
                raise Absent("this build of ggml cannot be told how many threads to use")
            set_threads(backend, threads)
        yield device
    finally:
        ggml.ggml_backend_free(backend)


@contextmanager
def _context(ggml: Ggml, tensors: int, nodes: int = 0) -> Iterator[int]:
    """Room for so many tensors without their data, and for a graph of so many nodes."""
    size = tensors * ggml.ggml_tensor_overhead()
    size += ggml.ggml_graph_overhead_custom(nodes, False) if nodes else 0
    handle = ggml.ggml_init(_InitParams(size, None, True))
    if not handle:
        raise Absent("ggml had no memory for a graph")
    try:
        yield handle
    finally:
        ggml.ggml_free(handle)


@contextmanager
def _memory(device: _Device, context: int, buffer_type: int) -> Iterator[int]:
    """Memory for the data of a context's tensors, as a buffer."""
    buffer = device.ggml.ggml_backend_alloc_ctx_tensors_from_buft(context, buffer_type)
    if not buffer:
        raise Absent(f"the device {format.clean(device.name, 40)} had no memory to measure with")
    try:
        yield buffer
    finally:
        device.ggml.ggml_backend_buffer_free(buffer)


Operation = Callable[[int], int]
"""Adds one node to a context and returns it."""


Run = Callable[[], tuple[float, bool]]
"""Computes a graph: the seconds that it took, and whether a thread was put off its core meanwhile."""


@contextmanager
def _graph(device: _Device, operation: Operation, nodes: int) -> Iterator[Run]:
    """A graph that does the same operation so many times."""
    ggml, size = device.ggml, max(nodes, 8)
    with ExitStack() as stack:
        context = stack.enter_context(_context(ggml, nodes, size))
        graph = ggml.ggml_new_graph_custom(context, size, False)
        for _ in range(nodes):
            ggml.ggml_build_forward_expand(graph, operation(context))
        if ggml.ggml_backend_alloc_ctx_tensors_from_buft_size(context, device.buffer_type):
            stack.enter_context(_memory(device, context, device.buffer_type))

        def run() -> tuple[float, bool]:
            before, start = _put_off(), time.perf_counter()
            status = ggml.ggml_backend_graph_compute(device.backend, graph)
            elapsed = time.perf_counter() - start
            if status:
                raise Absent(f"the device {format.clean(device.name, 40)} could not compute (status {status})")
            return max(elapsed, 1e-9), _put_off() > before

        yield run


def _put_off() -> int:
    """How often threads of this process were taken off a core that they still wanted. Only Linux tells: a process's
    time on the cores comes in steps longer than a window, and macOS counts other switches with these."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource and sys.platform == "linux" else 0


def _rate(
    device: _Device, operation: Operation, bytes_: int, window: float, repeats: int, few: int, alone: bool
) -> tuple[float, ...]:
    """GB/s of an operation that touches so many bytes, in windows of so many seconds: `few` operations tell how many
    fill one. Where the threads have to be `alone` on their cores, other windows do not count.

    Raises:
        Absent: the threads did not have a core each.
    """
    with _graph(device, operation, few) as run:
        run()
        each = min(run()[0] for _ in range(LEAST)) / few
    nodes = min(MOST, max(few, round(window / each)))
    found: list[float] = []
    missed = 0
    end = time.perf_counter() + repeats * window + PATIENCE_S
    with _graph(device, operation, nodes) as run:
        while len(found) < repeats and (len(found) + missed < LEAST or time.perf_counter() < end):
            elapsed, disturbed = run()
            if not (alone and disturbed):
                found.append(float(f"{nodes * bytes_ / elapsed / 1e9:.4g}"))
            else:
                missed += 1
                time.sleep(REST_S)
                run()  # wakes them, which would be part of the next window
    if len(found) < LEAST:
        raise Absent("the threads did not have a core each: stop other processes, or use fewer threads")
    return tuple(found)


def _product_rate(ggml: Ggml, name: str, threads: int, seconds: float, device: str, root: Path) -> tuple[float, ...]:
    """C of one type, from its name on."""
    number = _number(ggml, name)
    kind = quants.TENSOR_TYPES[number]
    with ExitStack() as stack:
        opened = stack.enter_context(_opened(ggml, device, threads))
        if opened.is_cpu:
            rows, columns = shape(kind, threads, private_cache(root))
        else:
            columns = DEVICE_COLUMNS
            rows = DEVICE_MATRIX // (columns // kind.block * kind.bytes) // 32 * 32
        product = _product(stack, opened, number, rows, columns)
        size = rows * columns // kind.block * kind.bytes
        return _rate(opened, product, size, seconds / REPEATS, REPEATS, FEW, alone=opened.is_cpu)


def _number(ggml: Ggml, name: str) -> int:
    """ggml's number of a type, once ggml has said that it means by it what quants.TENSOR_TYPES says."""
    if name not in NUMBERS:
        raise Absent(f"ggml has no tensor type {format.clean(name, 40)}")
    if name not in MATRICES:
        raise Absent(f"no file keeps matrices in {name}")
    number = NUMBERS[name]
    kind = quants.TENSOR_TYPES[number]
    called = (ggml.ggml_type_name(number) or b"").decode("ascii", "replace").upper()
    if (called, ggml.ggml_blck_size(number), ggml.ggml_type_size(number)) != (name, kind.block, kind.bytes):
        raise Absent(f"this build of ggml has another {name}: its type {number} is {format.clean(called, 40) or '?'}")
    return number


def _product(stack: ExitStack, device: _Device, number: int, rows: int, columns: int) -> Operation:
    """Matrix [rows, columns] of a type times a vector [columns] of 32-bit floats; what it needs lives in `stack`."""
    ggml = device.ggml
    blocks = sample(ggml, number)
    matrix = _matrix(stack, device, number, rows, columns)
    _fill(ggml, matrix, np.resize(blocks, ggml.ggml_nbytes(matrix)))
    context = stack.enter_context(_context(ggml, 1))
    vector = ggml.ggml_new_tensor_2d(context, _F32, columns, 1)
    stack.enter_context(_memory(device, context, device.buffer_type))
    _fill(ggml, vector, normal(1, columns))
    return lambda context: ggml.ggml_mul_mat(context, matrix, vector)


def _matrix(stack: ExitStack, device: _Device, number: int, rows: int, columns: int) -> int:
    """The empty matrix in the first memory in which the device multiplies it, asked as llama.cpp asks
    (weight_buft_supported): for 512 columns at once."""
    ggml = device.ggml
    for buffer_type in device.weight_buffer_types():
        with ExitStack() as attempt:
            context = attempt.enter_context(_context(ggml, 1))
            matrix: int = ggml.ggml_new_tensor_2d(context, number, columns, rows)
            attempt.enter_context(_memory(device, context, buffer_type))
            with _context(ggml, 2) as asking:
                many = ggml.ggml_new_tensor_2d(asking, _F32, columns, ASKED_COLUMNS)
                product = ggml.ggml_mul_mat(asking, matrix, many)
                supported = ggml.ggml_backend_dev_supports_op(device.handle, product)
            if supported:
                stack.enter_context(attempt.pop_all())
                return matrix
    name = quants.TENSOR_TYPES[number].name
    raise Absent(f"the device {format.clean(device.name, 40)} does not multiply matrices of {name}")


def _fill(ggml: Ggml, tensor: int, values: NDArray[Any]) -> None:
    """Give a tensor its data, all of it."""
    ggml.ggml_backend_tensor_set(tensor, values.ctypes.data, 0, values.nbytes)


def _is_spare(device: _Device, wanted: int, root: Path) -> None:
    """Raises Absent where `wanted` bytes are more than a quarter of the memory that is free."""
    if device.is_cpu:
        free = limits(root)[2]  # ggml takes all of the machine's for free
    else:
        left, total = ctypes.c_size_t(), ctypes.c_size_t()
        device.ggml.ggml_backend_dev_memory(device.handle, ctypes.byref(left), ctypes.byref(total))
        free = left.value if total.value else None
    if free is None:
        raise Absent("how much memory is free is unknown, so none was taken to measure with")
    if wanted > free // SHARE_OF_FREE:
        raise Absent(
            f"{format.size(wanted)} to copy in would be more than a quarter of the memory that is free "
            f"({format.size(free)}): free some memory"
        )


def _copied(stack: ExitStack, device: _Device, bytes_: int, seconds: float) -> tuple[float, ...]:
    ggml, columns = device.ggml, 4096
    rows = max(1, bytes_ // (4 * columns))
    context = stack.enter_context(_context(ggml, 2))
    source, target = (ggml.ggml_new_tensor_2d(context, _F32, columns, rows) for _ in range(2))
    buffer = stack.enter_context(_memory(device, context, device.buffer_type))
    # Memory that was never written is one page of zeros, read from cache.
    ggml.ggml_backend_buffer_clear(buffer, 1)

    def copy(context: int) -> int:
        node: int = ggml.ggml_cpy(context, source, target)
        ggml.ggml_backend_view_init(node)
        return node

    return _rate(device, copy, 2 * 4 * columns * rows, seconds / COPIES, COPIES, few=1, alone=False)


class Key(msgspec.Struct, frozen=True):
    """What a remembered rate is of."""

    machine: str
    build: str
    device: str
    threads: int
    type: str


class Remembered(msgspec.Struct, frozen=True):
    """A rate as the cache keeps it: GB/s of each repeat, and the Unix time at which it was measured."""

    key: Key
    repeats: Annotated[tuple[Annotated[float, msgspec.Meta(gt=0)], ...], msgspec.Meta(min_length=1)]
    wall: float


def _known(cache: Path | None) -> dict[Key, Remembered]:
    """What the file holds; nothing where it is missing or makes no sense."""
    if cache is None:
        return {}
    try:
        entries = msgspec.json.decode(contents(cache) or b"[]", type=tuple[Remembered, ...])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    return {entry.key: entry for entry in entries}


def _remember(cache: Path, fresh: dict[Key, Remembered]) -> None:
    """Add to the file, whole or not at all; other processes may have added meanwhile."""
    entries = list((_known(cache) | fresh).values())[-MOST_REMEMBERED:]
    temporary = cache.with_name(f".{cache.name}.{os.getpid()}.tmp")
    with suppress(OSError):
        paths.made(cache.parent)
        try:
            paths.write(temporary, msgspec.json.format(msgspec.json.encode(entries)))
            os.replace(temporary, cache)
        finally:
            temporary.unlink(missing_ok=True)
