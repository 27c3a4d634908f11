"""Importance matrices: reads them, computes them, writes them.

An importance matrix holds, for each weight matrix, the mean squared activation of each of its input columns;
quantizing weighs its rounding errors with it. Owns both file forms (GGUF and the older .dat), whether a matrix is of a
model, and the collection through llama.cpp's evaluation callback. Must not know how the matrix is used, nor print
anything.

Formats and rules: llama.cpp, tools/imatrix, common/imatrix-loader and tools/quantize.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.models import header as headers
from quanttui.models.header import Header, Tensor

Array = np.ndarray[Any, np.dtype[Any]]

DATASETS, CHUNK_COUNT, CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"
SUMS, COUNTS = ".in_sum2", ".counts"
FORMS = ("gguf", "dat")
"""The forms that a matrix may be saved in: that of today, and the one that older programs read."""
SMALLEST_BATCH = 16
"""llama-imatrix passes over products of fewer rows than this."""


@dataclass(frozen=True)
class Collected:
    """Raw sums of one computation, by weight name: squared activations, float64 (matrices, columns), and the rows that
    went into each matrix, int64 (matrices,): one count for each expert, and one for all of a dense tensor."""

    sums: dict[str, Array]
    counts: dict[str, Array]
    chunks: int
    n_ctx: int

    def means(self) -> dict[str, Array]:
        """What `load` gives once this is saved."""
        return {name: mean(self.sums[name].astype(np.float32), self.counts[name]) for name in self.sums}


@dataclass(frozen=True)
class Matrix:
    """A matrix as a file has it: mean squared activation per column by weight name, float32 (matrices * columns,).

    `datasets` are the texts that it says it was computed over, `chunks` how many pieces of them, 0 where it does not
    say.
    """

    means: dict[str, Array]
    datasets: tuple[str, ...] = ()
    chunks: int = 0


def mean(sums: Array, counts: Array) -> Array:
    """Float32 sums (matrices, columns) over row counts (matrices,), flat; 1 throughout a matrix that saw no row.

    Fewer counts than matrices count for as many matrices each.
    """
    seen = counts.astype(np.float32)[:, None]
    rows = sums.reshape(len(counts), -1)
    return np.where(seen > 0, rows / np.maximum(seen, np.float32(1)), np.float32(1)).astype(np.float32).ravel()


# -- reading -----------------------------------------------------------------------------------------------------------


def load(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Mean squared activation per column by weight name, float32 (matrices * columns,), as llama-quantize takes it.

    Raises:
        UserError: see `read`.
    """
    return read(path).means


def read(path: str | os.PathLike[str]) -> Matrix:
    """A matrix in the GGUF form or the .dat form. No count in a file makes it read more than the file is long.

    Raises:
        UserError: no such file, cut off, no importance matrix, or a value in it is negative or not finite.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            source = _Source(file, path)
            matrix = _load_gguf(source) if source.take(4) == b"GGUF" else _load_dat(source)
    except OSError as error:
        raise UserError(f"{clean(str(path))} cannot be read: {error.strerror}") from None
    for name, values in matrix.means.items():
        if not np.isfinite(values).all() or (values < 0).any():
            raise source.bad(f"a value of {clean(name, 80)!r} is negative or not finite")
    return matrix


class _Source:
    """A file read in bounds: what is not there cannot be taken."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self.path = file, path
        self._size = os.fstat(file.fileno()).st_size

    def bad(self, why: str) -> UserError:
        return UserError(f"{clean(str(self.path))} is no usable importance matrix: {why}; make it anew or name another")

    def seek(self, at: int) -> None:
        self._file.seek(at)

    @property
    def left(self) -> int:
        return self._size - self._file.tell()

    def take(self, n: int) -> bytes:
        data = self._file.read(n) if 0 <= n <= self.left else b""
        if len(data) != n:
            raise self.bad("it is cut off")
        return data

    def int32(self) -> int:
        return int.from_bytes(self.take(4), "little", signed=True)

    def text(self) -> str:
        return self.take(self.int32()).decode("utf-8", "replace")

    def floats(self, n: int) -> Array:
        return np.frombuffer(self.take(4 * n), "<f4").astype(np.float32)


def _load_dat(source: _Source) -> Matrix:
    """int32 entries; each: int32 length, name, int32 calls, int32 values, float32 sums; then maybe calls, dataset."""
    source.seek(0)
    matrix: dict[str, Array] = {}
    entries = source.int32()
    if entries < 1:
        raise source.bad("it has no entries")
    for number in range(1, entries + 1):
        name, calls, values = source.text(), source.int32(), source.int32()
        if values < 1 or not name or name in matrix:
            raise source.bad(f"entry {number} is empty or repeated")
        sums = source.floats(values)
        with np.errstate(invalid="ignore"):  # what is no number is refused, in one line
            matrix[name] = sums / np.float32(calls) if calls > 0 else sums
    if not source.left:
        return Matrix(matrix)
    chunks, dataset = source.int32(), source.text()
    return Matrix(matrix, (dataset,) if dataset else (), max(0, chunks))


def _load_gguf(source: _Source) -> Matrix:
    """Each weight as two float32 tensors: `.in_sum2` (matrices, columns) and `.counts` (matrices, 1)."""
    header = headers.read(source.path)
    missing = {DATASETS, CHUNK_COUNT, CHUNK_SIZE} - header.metadata.keys() - header.lengths.keys()
    if missing:
        raise source.bad(f"it has no key {min(missing)}")
    tensors = {tensor.name: tensor for tensor in header.tensors}
    names = sorted({name.removesuffix(SUMS).removesuffix(COUNTS) for name in tensors})
    if not names or tensors.keys() != {name + part for name in names for part in (SUMS, COUNTS)}:
        raise source.bad("its tensors are not pairs of sums and counts")

    def values(name: str) -> Array:
        tensor = tensors[name]
        if tensor.type != "F32" or not tensor.elements:
            raise source.bad(f"{clean(name, 80)!r} is empty or not of type F32")
        source.seek(header.data_offset + tensor.offset)
        if -(-tensor.bytes // header.alignment) * header.alignment > source.left:
            raise source.bad("it is cut off")
        return source.floats(tensor.elements)

    matrix: dict[str, Array] = {}
    for name in names:
        sums, counts = values(name + SUMS), values(name + COUNTS)
        if not np.isfinite(counts).all() or (counts < 0).any() or len(sums) % len(counts):
            raise source.bad(f"the counts of {clean(name, 80)!r} make no sense")
        matrix[name] = mean(sums, np.rint(counts))
    chunks = header.metadata.get(CHUNK_COUNT)
    source.seek(0)
    datasets = _texts(source.take(header.data_offset), DATASETS)
    return Matrix(matrix, datasets, chunks if isinstance(chunks, int) else 0)


def _texts(header: bytes, key: str) -> tuple[str, ...]:
    """The array of strings under a key of a GGUF's header, which is known to be whole; empty where there is none."""
    strings, array = 8, 9
    begin = struct.pack(f"<Q{len(key)}sII", len(key), key.encode(), array, strings)
    at = header.find(begin)
    if at < 0:
        return ()
    at += len(begin)
    (count,) = struct.unpack_from("<Q", header, at)
    at += 8
    found: list[str] = []
    while len(found) < count and at + 8 <= len(header):
        (length,) = struct.unpack_from("<Q", header, at)
        found.append(header[at + 8 : at + 8 + length].decode("utf-8", "replace"))
        at += 8 + length
    return tuple(found)


# -- of which model ----------------------------------------------------------------------------------------------------


def check(path: str | os.PathLike[str], matrix: Mapping[str, Array], model: Header) -> None:
    """That a matrix is of this model: llama.cpp leaves out what it has no name for, in silence.

    Raises:
        UserError: it has none of the model's names, or another number of columns for one of them.
    """
    tensors = {tensor.name: tensor for tensor in model.tensors}
    what, whose = clean(str(path), 200), clean(model.path.name, 120)
    if not matrix.keys() & tensors.keys():
        raise UserError(
            f"{what} is the importance matrix of another model: {whose} has no {clean(next(iter(matrix), ''), 80)}, nor"
            f" any other of its {len(matrix)} names; compute this model's with `quanttui imatrix`"
        )
    for name, values in matrix.items():
        if name in tensors and len(values) != _columns(tensors[name]) and "token_embd" not in name:
            raise UserError(
                f"{what} is the importance matrix of another model: {clean(name, 80)} has {len(values)} values in it,"
                f" and {_columns(tensors[name])} columns in {whose}; compute this model's with `quanttui imatrix`"
            )


def _columns(tensor: Tensor) -> int:
    """How many values a matrix has for a tensor: its columns, for each of the experts that lie in it."""
    return tensor.shape[0] * (tensor.shape[2] if len(tensor.shape) > 2 else 1)


# -- writing -----------------------------------------------------------------------------------------------------------


def save(path: str | os.PathLike[str], collected: Collected, dataset: str, form: str = "gguf") -> None:
    """Write one of FORMS; `dataset` says what text it was computed over.

    Raises:
        UserError: it cannot be written; what was is left there.
    """
    try:
        if form == "dat":
            Path(path).write_bytes(_dat(collected, dataset))
        else:
            _write_gguf(path, collected, dataset)
    except OSError as error:
        raise UserError(f"{clean(str(path))} cannot be written: {error.strerror}") from None


def _dat(collected: Collected, dataset: str) -> bytes:
    """The older form: in place of sums over counts, means times the calls of n_ctx rows that there were at most."""
    kept = {name: counts for name, counts in sorted(collected.counts.items()) if counts.any()}
    parts = [struct.pack("<i", len(kept))]
    for name, counts in kept.items():
        calls, named = -(-int(counts.max()) // collected.n_ctx), name.encode()
        values = mean(collected.sums[name].astype(np.float32), counts) * np.float32(calls)
        parts += [struct.pack(f"<i{len(named)}sii", len(named), named, calls, len(values)), values.tobytes()]
    text = dataset.encode("utf-8", "surrogateescape")
    return b"".join([*parts, struct.pack(f"<ii{len(text)}s", collected.chunks, len(text), text)])


def _write_gguf(path: str | os.PathLike[str], collected: Collected, dataset: str) -> None:
    import gguf

    out = gguf.GGUFWriter(path, arch="")
    out.add_type("imatrix")
    out.add_array(DATASETS, [dataset])
    out.add_uint32(CHUNK_COUNT, collected.chunks)
    out.add_uint32(CHUNK_SIZE, collected.n_ctx)
    for name, counts in sorted(collected.counts.items()):
        out.add_tensor(name + SUMS, collected.sums[name].astype(np.float32).reshape(len(counts), -1))
        out.add_tensor(name + COUNTS, counts.astype(np.float32)[:, None])
    try:
        out.write_header_to_file()
        out.write_kv_data_to_file()
        out.write_tensors_to_file()
    finally:
        out.close()


# -- computing ---------------------------------------------------------------------------------------------------------


class _Tensor(ctypes.Structure):
    """ggml_tensor as ggml.h lays it out, up to its name; `_ggml` checks that it does."""


_Tensor._fields_ = [
    ("type", ctypes.c_int), ("buffer", ctypes.c_void_p), ("ne", ctypes.c_int64 * 4), ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int), ("op_params", ctypes.c_int32 * 16), ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * 10), ("view_src", ctypes.c_void_p), ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p), ("name", ctypes.c_char * 64),
]  # fmt: skip


@dataclass
class _Collector:
    """Sums up what flows into the weights while llama.cpp evaluates; `__call__` is its evaluation callback."""

    ggml: Any
    output: bool
    sums: dict[str, Array] = field(default_factory=dict)
    counts: dict[str, Array] = field(default_factory=dict)
    error: Exception | None = None

    def __call__(self, address: int, ask: bool, _: object) -> bool:
        try:
            tensor = _Tensor.from_address(address)
            if ask:
                return self.wants(tensor)
            self.add(tensor)
        except Exception as error:  # nothing may be raised through llama.cpp: it is raised once the decode has ended
            self.error = error
            return False
        return True

    def wants(self, tensor: _Tensor) -> bool:
        op = self.ggml.ggml_op_name(tensor.op)
        if op == b"MUL_MAT_ID":
            return True
        if op != b"MUL_MAT":
            return False
        name, given = _weight(tensor), tensor.src[1].contents
        if given.ne[1] < SMALLEST_BATCH or given.type != 0:
            return False
        return name.startswith("blk.") or (self.output and name == "output.weight")

    def add(self, tensor: _Tensor) -> None:
        name, weight = _weight(tensor), tensor.src[0].contents
        x = self.read(tensor.src[1].contents, np.float32)
        if self.ggml.ggml_op_name(tensor.op) == b"MUL_MAT_ID":
            self.add_experts(name, weight.ne[2], x, self.read(tensor.src[2].contents, np.int32)[0, 0])
        else:
            self.add_dense(name, (weight.ne[3], weight.ne[2]), x)

    def entry(self, name: str, matrices: int, columns: int, counted: int) -> tuple[Array, Array]:
        sums = self.sums.setdefault(name, np.zeros((matrices, columns)))
        return sums, self.counts.setdefault(name, np.zeros(counted, np.int64))

    def add_dense(self, name: str, stack: tuple[int, int], x: Array) -> None:
        """x (i3, i2, row, column); the matrices of the weight repeat over i3 and i2, and see as many rows each."""
        n3, n2 = stack
        sums, counts = self.entry(name, n3 * n2, x.shape[3], 1)
        for i3, i2 in np.ndindex(x.shape[:2]):
            rows, matrix = x[i3, i2], (i3 % n3) * n2 + i2 % n2
            sums[matrix] += np.einsum("rc,rc->c", rows, rows)
        counts += x.shape[0] * x.shape[1] * x.shape[2] // (n3 * n2)

    def add_experts(self, name: str, experts: int, x: Array, ids: Array) -> None:
        """x (1, token, used or 1, column), ids (token, used): which expert each row went to."""
        sums, counts = self.entry(name, experts, x.shape[3], experts)
        rows = np.broadcast_to(x[0], (*ids.shape, x.shape[3]))
        for expert in np.unique(ids):
            routed = rows[ids == expert]
            sums[expert] += np.einsum("rc,rc->c", routed, routed)
            counts[expert] += len(routed)

    def read(self, tensor: _Tensor, kind: Any) -> Array:
        """The tensor's values from wherever they lie, dimensions outermost first."""
        size = self.ggml.ggml_nbytes(ctypes.byref(tensor))
        buffer = bytearray(size)
        self.ggml.ggml_backend_tensor_get(ctypes.byref(tensor), (ctypes.c_char * size).from_buffer(buffer), 0, size)
        return np.ndarray(tuple(tensor.ne)[::-1], kind, buffer, strides=tuple(tensor.nb)[::-1])


def _weight(tensor: _Tensor) -> str:
    """The weight's name, less what a backend put around it (`CUDA0#blk.0.attn_k.weight#0`)."""
    name: str = tensor.src[0].contents.name.decode(errors="replace")
    return name.split("#")[1] if "#" in name else name


def compute(
    model: str | os.PathLike[str],
    text: str | Sequence[int],
    *,
    n_ctx: int = 512,
    chunks: int | None = None,
    output: bool = False,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Collected:
    """Load the model, and `collect` over text or token ids.

    Raises:
        UserError: llama.cpp cannot load the model or run it, or the text is shorter than two chunks.
    """
    import llama_cpp as llama

    with _quiet(), _model(Path(model)) as loaded:
        vocabulary = llama.llama_model_get_vocab(loaded)
        tokens = _tokenize(vocabulary, text) if isinstance(text, str) else text
        return collect(
            loaded, tokens, str(model), n_ctx=n_ctx, chunks=chunks, output=output, threads=threads, progress=progress
        )


def collect(
    model: Any,
    tokens: Sequence[int],
    name: str,
    *,
    n_ctx: int = 512,
    chunks: int | None = None,
    output: bool = False,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Collected:
    """Run a loaded model (llama.cpp's handle) over tokens and sum up the squared activations, as llama-imatrix does.

    Chunks of n_ctx tokens, all of them unless `chunks` bounds them, each beginning with BOS where the vocabulary adds
    it. `output`: collect for output.weight too. `progress(done, of)` is called after each chunk; what it raises ends
    the run. `name` is how an error calls the model.

    Raises:
        UserError: llama.cpp cannot run the model, or there are fewer tokens than two chunks.
    """
    import llama_cpp as llama

    if n_ctx < SMALLEST_BATCH:
        raise UserError(f"a context of {n_ctx} is too small for an importance matrix: give {SMALLEST_BATCH} or more")
    collector = _Collector(_ggml(), output)
    callback = llama.ggml_backend_sched_eval_callback(collector)
    fields = {"n_ctx": n_ctx, "n_batch": n_ctx, "n_ubatch": min(n_ctx, 512), "cb_eval": callback}
    if threads is not None:
        fields |= {"n_threads": threads, "n_threads_batch": threads}
    vocabulary = llama.llama_model_get_vocab(model)
    if llama.llama_vocab_get_add_eos(vocabulary):
        raise UserError(f"{clean(name)} ends every text with EOS: no importance matrix can be computed")
    if len(tokens) < 2 * n_ctx:
        raise UserError(f"the text makes {len(tokens)} tokens; an importance matrix needs {2 * n_ctx} or more")
    total = min(len(tokens) // n_ctx, chunks or len(tokens))
    bos = llama.llama_vocab_bos(vocabulary) if llama.llama_vocab_get_add_bos(vocabulary) else None
    with _context(model, name, fields) as context:
        for done in range(total):
            chunk = [int(token) for token in tokens[done * n_ctx : (done + 1) * n_ctx]]
            _decode(context, [bos, *chunk[1:]] if bos is not None else chunk, collector)
            if progress is not None:
                progress(done + 1, total)
    _finite(collector, name)
    return Collected(collector.sums, collector.counts, total, n_ctx)


def _finite(collector: _Collector, model: str) -> None:
    """What is no number would make garbage of every quant."""
    broken = next((name for name, sums in collector.sums.items() if not np.isfinite(sums).all()), None)
    if broken is not None:
        raise UserError(f"{clean(model)} is broken: what flows into {clean(broken, 80)} is no finite number")


def _ggml() -> Any:
    """The ggml library that llama_cpp loaded, after checking that its tensors are laid out as `_Tensor` says."""
    import llama_cpp
    from llama_cpp._ctypes_extensions import load_shared_library

    ggml = load_shared_library("ggml-base", llama_cpp.llama_cpp._base_path)
    ggml.ggml_op_name.argtypes, ggml.ggml_op_name.restype = [ctypes.c_int], ctypes.c_char_p
    ggml.ggml_nbytes.argtypes, ggml.ggml_nbytes.restype = [ctypes.c_void_p], ctypes.c_size_t
    ggml.ggml_get_name.argtypes, ggml.ggml_get_name.restype = [ctypes.c_void_p], ctypes.c_void_p
    ggml.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
    ggml.ggml_backend_tensor_get.restype = None
    tensor = _Tensor()
    if ggml.ggml_get_name(ctypes.byref(tensor)) != ctypes.addressof(tensor) + _Tensor.name.offset:
        raise UserError("this llama.cpp lays out its tensors in a way not known here; install llama-cpp-python 0.3.36")
    return ggml


@contextmanager
def _quiet() -> Iterator[None]:
    """llama.cpp's log goes nowhere meanwhile."""
    import llama_cpp as llama

    before, data, silent = llama.llama_log_callback(), ctypes.c_void_p(), llama.llama_log_callback(lambda *_: None)
    llama.llama_log_get(ctypes.byref(before), ctypes.byref(data))
    llama.llama_log_set(silent, None)
    try:
        yield
    finally:
        llama.llama_log_set(before, data)


@contextmanager
def _model(path: Path) -> Iterator[Any]:
    import llama_cpp as llama

    if not path.is_file():
        raise UserError(f"{clean(str(path))}: no such file")
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(os.fsencode(path), llama.llama_model_default_params())
    if not model:
        raise UserError(f"{clean(str(path))} is no model that this llama.cpp can load")
    try:
        yield model
    finally:
        llama.llama_model_free(model)


@contextmanager
def _context(model: Any, name: str, fields: dict[str, Any]) -> Iterator[Any]:
    import llama_cpp as llama

    params = llama.llama_context_default_params()
    unknown = fields.keys() - {key for key, *_ in params._fields_}
    if unknown:
        raise UserError(f"this llama.cpp has no context setting {min(unknown)}; install llama-cpp-python 0.3.36")
    for key, value in fields.items():
        setattr(params, key, value)
    context = llama.llama_init_from_model(model, params)
    if not context:
        raise UserError(f"{clean(name)} does not run with {fields['n_ctx']} tokens of context: memory, most likely")
    try:
        yield context
    finally:
        llama.llama_free(context)


def _tokenize(vocabulary: Any, text: str) -> list[int]:
    import llama_cpp as llama

    data = text.encode()
    room = -llama.llama_tokenize(vocabulary, data, len(data), None, 0, True, False)
    tokens = (llama.llama_token * room)()
    llama.llama_tokenize(vocabulary, data, len(data), tokens, room, True, False)
    return list(tokens)


def _decode(context: Any, tokens: Sequence[int], collector: _Collector) -> None:
    """Evaluate one chunk from empty memory, with an output for every token, so that the last block sees all rows."""
    import llama_cpp as llama

    llama.llama_memory_clear(llama.llama_get_memory(context), True)
    batch = llama.llama_batch_init(len(tokens), 0, 1)
    try:
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = token, i, 1
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        status = llama.llama_decode(context, batch)
    finally:
        llama.llama_batch_free(batch)
    if collector.error is not None:
        raise collector.error
    if status:
        raise UserError(f"llama.cpp could not evaluate a chunk of the text (llama_decode: {status})")
