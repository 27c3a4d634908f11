"""llama.cpp, through the low-level ctypes bindings. Owns every call of it, and every number taken from its log.

The high-level class of llama-cpp-python is not used: it keeps one sequence, switches flash attention off and copies
logits. Knows nothing of requests, and of events only the settings and the build.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp as lib

from quanttui import __version__
from quanttui.engine.protocol import OUT_OF_MEMORY
from quanttui.errors import UserError
from quanttui.events import Build, Settings
from quanttui.format import clean, size
from quanttui.measure.speed import TokenArray, Vocabulary
from quanttui.measure.thought import SPECIAL
from quanttui.quants import TENSOR_TYPES

KV_TYPES = {
    "f32": lib.GGML_TYPE_F32,
    "f16": lib.GGML_TYPE_F16,
    "bf16": 30,
    "q8_0": lib.GGML_TYPE_Q8_0,
    "q5_1": lib.GGML_TYPE_Q5_1,
    "q5_0": lib.GGML_TYPE_Q5_0,
    "q4_1": lib.GGML_TYPE_Q4_1,
    "q4_0": lib.GGML_TYPE_Q4_0,
    "iq4_nl": lib.GGML_TYPE_IQ4_NL,
}
FLASH_ATTN = {
    "auto": lib.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": lib.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": lib.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
SPLIT_MODES = {
    "none": lib.LLAMA_SPLIT_MODE_NONE,
    "layer": lib.LLAMA_SPLIT_MODE_LAYER,
    "row": lib.LLAMA_SPLIT_MODE_ROW,
    "tensor": 3,
}
LOAD_MODES = {
    "auto": lib.LLAMA_LOAD_MODE_AUTO,
    "none": lib.LLAMA_LOAD_MODE_NONE,
    "mmap": lib.LLAMA_LOAD_MODE_MMAP,
    "mlock": lib.LLAMA_LOAD_MODE_MLOCK,
    "mmap+mlock": lib.LLAMA_LOAD_MODE_MMAP_MLOCK,
}

_ABORTED = 2
"""What llama_decode returns when the abort callback ended it (llama.h)."""

_DEBUG, _ERROR, _CONTINUED = 1, 4, 5
"""Levels of ggml's log (ggml.h): the last one continues the line before it."""

_MEBIBYTE = 1 << 20
_KEPT_LINES = 4000
_BUFFER = re.compile(r":\s*(\S+)\s+(model|KV|RS|compute|output) buffer size =\s*([\d.]+) MiB")
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_FLASH_ON = re.compile(r"Flash Attention\b.*\benabled|enabling flash_attn")
_FLASH_OFF = re.compile(r"Flash Attention\b.*\bdisabled|flash_attn\b.*\bforcing off")
_STEP = re.compile(r"^\[\s*(\d+)/\s*(\d+)\]")
_PREFIX = re.compile(
    r"(?:\w+: )*(?:(?:error loading model|failed to quantize|failed to initialize the context): (?:\w+: )?)*"
)
_SAYS_NOTHING = re.compile(r"\W*$|failed to load model|failed to decode")

_CPU = 0
"""GGML_BACKEND_DEVICE_TYPE_CPU (ggml-backend.h)."""
_THREADPOOL_PARAMS_BYTES = 4096
"""More than ggml_threadpool_params takes (ggml.h: a mask of 512 bytes and five words): ggml itself fills it in."""


class LlamaError(Exception):
    """llama.cpp would not: its own words in one line, and an outcome of events.OUTCOMES."""

    def __init__(self, error: str, outcome: str = "refused"):
        super().__init__(error)
        self.error, self.outcome = error, outcome


class Aborted(Exception):
    """The decode under way was given up because the abort flag was raised."""


class Log:
    """llama.cpp's log: written to fd 2 as it comes, and kept for the numbers that stand in no API.

    `on_line` sees each whole line. Nothing logs during timed units.
    """

    def __init__(self) -> None:
        self.lines: list[tuple[int, str]] = []
        self.on_line: Callable[[str], None] | None = None
        self._rest = ""
        self._level = 0
        self._callback = lib.llama_log_callback(self._take)
        lib.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _take(self, level: int, text: bytes, _: Any) -> None:
        if level != _CONTINUED:
            self._level = level
        if self._level == _DEBUG:
            return
        with suppress(OSError):  # a full disk takes the file, not the numbers
            os.write(2, text)
        *whole, self._rest = (self._rest + text.decode("utf-8", "replace")).split("\n")
        for line in whole:
            self.lines.append((self._level, line))
            if self.on_line is not None:
                self.on_line(line)
        if self._rest and self.on_line is not None:
            self.on_line(self._rest)
        del self.lines[:-_KEPT_LINES]

    def mark(self) -> None:
        """Forget what was logged so far."""
        self.lines.clear()

    def buffers(self, kinds: str) -> dict[str, int]:
        """Bytes of the buffers of some kinds (model, KV, RS, compute, output) by llama.cpp's names, since the mark."""
        found: dict[str, int] = {}
        for _, line in self.lines:
            match = _BUFFER.search(line)
            if match and match[2] in kinds.split():
                found[match[1]] = found.get(match[1], 0) + round(float(match[3]) * _MEBIBYTE)
        return found

    def find(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """The last line since the mark that matches."""
        found = (pattern.search(line) for _, line in reversed(self.lines))
        return next((match for match in found if match), None)

    def reason(self, otherwise: str) -> str:
        """The last error since the mark that says something, without the names of functions."""
        said = (_PREFIX.sub("", line, count=1) for level, line in reversed(self.lines) if level == _ERROR)
        return clean(next((line for line in said if not _SAYS_NOTHING.match(line)), otherwise), 200)

    def outcome(self, otherwise: str) -> str:
        """oom if an error since the mark speaks of memory that could not be had."""
        wanting = any(level == _ERROR and OUT_OF_MEMORY.search(line) for level, line in self.lines)
        return "oom" if wanting else otherwise


class AbortFlag:
    """A byte that a native callback reads between the nodes of a graph: raising it ends a decode on the CPU backend.

    The callback is libc's strlen on the flag: a Python callback, called some hundred times a token, would cut the
    speed that it is there to guard.
    """

    def __init__(self) -> None:
        self._flag = ctypes.create_string_buffer(2)
        strlen = ctypes.CDLL(None).strlen if os.name == "posix" else ctypes.cdll.msvcrt.strlen
        self.callback = ctypes.cast(strlen, lib.ggml_abort_callback)
        self.data = ctypes.cast(self._flag, ctypes.c_void_p)

    def raise_(self) -> None:
        self._flag[0] = b"\x01"

    def lower(self) -> None:
        self._flag[0] = b"\x00"

    @property
    def raised(self) -> bool:
        return self._flag[0] != b"\x00"


def put(struct: Any, **values: Any) -> Any:
    """Set fields of a ctypes struct; ctypes itself silently accepts those that do not exist.

    Raises:
        LlamaError: this llama-cpp-python has no such field.
    """
    names = {name for name, *_ in struct._fields_}
    for name, value in values.items():
        if name not in names:
            raise LlamaError(f"llama-cpp-python has no {type(struct).__name__}.{name}: a newer quanttui is needed")
        setattr(struct, name, value)
    return struct


def _choice(table: Mapping[str, int], name: str, what: str) -> int:
    """What llama.cpp calls a setting.

    Raises:
        LlamaError: it knows no such one.
    """
    if name not in table:
        raise LlamaError(f"{what} {clean(name, 40)!r} is none of {', '.join(table)}")
    return table[name]


def _native(name: str, result: Any, *arguments: Any) -> Any:
    """A function that llama-cpp-python's library exports but the package does not bind; None where it does not."""
    found = getattr(lib._lib, name, None)
    if found is not None:
        found.restype, found.argtypes = result, list(arguments)
    return found


def _devices() -> tuple[str, ...]:
    """What this build can compute on: `CPU: …`, `CUDA0: …`."""
    count = _native("ggml_backend_dev_count", ctypes.c_size_t)
    get = _native("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    name = _native("ggml_backend_dev_name", ctypes.c_char_p, ctypes.c_void_p)
    about = _native("ggml_backend_dev_description", ctypes.c_char_p, ctypes.c_void_p)
    if not (count and get and name and about):
        return ()
    found = (get(index) for index in range(count()))
    return tuple(clean(f"{name(each).decode()}: {about(each).decode('utf-8', 'replace')}") for each in found)


class Threadpool:
    """The threads that a context computes with, made as llama-bench and llama-perplexity make them.

    Without them a build that has no OpenMP (macOS as a rule) starts and ends its threads for every graph, i.e. for
    every token. Where a build does not offer the calls, nothing is attached.
    """

    def __init__(self, threads: int) -> None:
        self._handle: int | None = None
        pointer = ctypes.c_void_p
        device = _native("ggml_backend_dev_by_type", pointer, ctypes.c_int)
        registry = _native("ggml_backend_dev_backend_reg", pointer, pointer)
        address = _native("ggml_backend_reg_get_proc_address", pointer, pointer, ctypes.c_char_p)
        fill = _native("ggml_threadpool_params_init", None, pointer, ctypes.c_int)
        self._attach = _native("llama_attach_threadpool", None, pointer, pointer, pointer)
        if not (device and registry and address and fill and self._attach and device(_CPU)):
            return
        cpu = registry(device(_CPU))
        new, free = address(cpu, b"ggml_threadpool_new"), address(cpu, b"ggml_threadpool_free")
        if new and free:
            params = ctypes.create_string_buffer(_THREADPOOL_PARAMS_BYTES)
            fill(params, threads)
            self._free = ctypes.CFUNCTYPE(None, pointer)(free)
            self._handle = ctypes.CFUNCTYPE(pointer, pointer)(new)(ctypes.addressof(params))

    def attach(self, context: Any) -> None:
        """Let a context compute with them."""
        if self._handle is not None:
            self._attach(context, self._handle, None)

    def close(self) -> None:
        """End them. Their context must be gone already."""
        if self._handle is not None:
            self._free(self._handle)
            self._handle = None


def build() -> Build:
    """Which llama.cpp this is, and what it can compute on."""
    return Build(
        quanttui=__version__,
        llama_cpp_python=importlib.metadata.version("llama-cpp-python"),
        llama_cpp=clean(lib.llama_version().decode("utf-8", "replace")),
        gpu_offload=bool(lib.llama_supports_gpu_offload()),
        system_info=clean(lib.llama_print_system_info().decode("utf-8", "replace")),
        devices=_devices(),
    )


class Model:
    """A loaded GGUF.

    Unless asked otherwise loaded as llama-bench and llama-perplexity load it: mode AUTO (mapped where it can be), with
    repacking; and of `gpu_layers` -1 as many as there are.

    Raises:
        LlamaError: the file cannot be read, llama.cpp refuses it, or there is no memory for it.
        Aborted: the flag was raised meanwhile.
    """

    def __init__(self, file: str, settings: Settings, log: Log, abort: AbortFlag, progress: Callable[[float], None]):
        self.log = log
        log.mark()
        try:
            Path(file).open("rb").close()
        except OSError as error:
            raise LlamaError(f"{clean(file)}: cannot be read ({error.strerror})") from None
        split = (ctypes.c_float * max(16, int(lib.llama_max_devices())))(*settings.tensor_split)

        def told(fraction: float, _: Any) -> bool:
            progress(fraction)
            return not abort.raised

        callback = lib.llama_progress_callback(told)
        params = put(
            lib.llama_model_default_params(),
            n_gpu_layers=settings.gpu_layers if lib.llama_supports_gpu_offload() else 0,
            split_mode=_choice(SPLIT_MODES, settings.split_mode, "split mode"),
            tensor_split=ctypes.cast(split, ctypes.POINTER(ctypes.c_float)) if settings.tensor_split else None,
            load_mode=_choice(LOAD_MODES, settings.load_mode, "load mode"),
            use_extra_bufts=settings.repack,
            progress_callback=callback,
        )
        handle = lib.llama_model_load_from_file(os.fsencode(file), params)
        if not handle and abort.raised:
            raise Aborted
        if not handle:
            raise LlamaError(f"{clean(file)}: {log.reason('llama.cpp cannot load it')}", log.outcome("refused"))
        self.handle = handle
        self._abort = abort  # llama.cpp keeps pointers into it
        self.vocab = lib.llama_model_get_vocab(handle)
        self.layers = int(lib.llama_model_n_layer(handle)) + 1
        match = log.find(_OFFLOADED)
        self.gpu_layers = int(match[1]) if match else 0
        if match:
            self.layers = int(match[2])
        self.buffers = log.buffers("model")

    @property
    def vocabulary(self) -> Vocabulary:
        """Its size, and BOS where a text begins with it."""
        begins = lib.llama_vocab_get_add_bos(self.vocab)
        bos = int(lib.llama_vocab_bos(self.vocab)) if begins else None
        return Vocabulary(int(lib.llama_vocab_n_tokens(self.vocab)), bos)

    def tokenize(self, text: bytes) -> TokenArray:
        """The text's tokens as llama-perplexity takes them: begun as the vocabulary says, no special tokens parsed.

        Raises:
            LlamaError: there are more of them than llama.cpp can count.
        """
        tokens = np.empty(len(text) + 2, dtype=np.int32)
        count = self._tokenize(text, tokens, False)
        if count < 0:
            tokens = np.empty(-count, dtype=np.int32)
            count = self._tokenize(text, tokens, False)
        if count < 0:
            raise LlamaError(f"a text of {size(len(text))} is too long for llama.cpp's tokenizer: give a shorter one")
        return tokens[:count].copy()

    def _tokenize(self, text: bytes, tokens: TokenArray, special: bool) -> int:
        into = tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        return int(lib.llama_tokenize(self.vocab, text, len(text), into, len(tokens), True, special))

    def prompt_tokens(self, text: str, chat: bool) -> TokenArray:
        """A prompt's tokens, begun as the vocabulary says and open at their end.

        Of a chat template's text the special tokens are parsed, and the BOS that it wrote itself is taken once.
        """
        data = text.encode("utf-8", "replace")
        begun = self.special(self.vocabulary.bos)
        if chat and begun:
            data = data.removeprefix(begun.encode())
        tokens = np.empty(len(data) + 2, dtype=np.int32)
        count = self._tokenize(data, tokens, chat)
        if count < 0:
            tokens = np.empty(-count, dtype=np.int32)
            count = self._tokenize(data, tokens, chat)
        if count <= 0:
            raise LlamaError("a prompt makes no tokens: give a longer one", "failed")
        ends = self.adds_eos and count > 1 and int(tokens[count - 1]) == int(lib.llama_vocab_eos(self.vocab))
        return tokens[: count - ends].copy()

    def special(self, token: int | None) -> str:
        """The text of a special token, "" where there is none."""
        if token is None or token < 0:
            return ""
        return (lib.llama_vocab_get_text(self.vocab, token) or b"").decode("utf-8", "replace")

    @property
    def eos(self) -> str:
        """The text of the token that ends a text, "" where there is none."""
        return self.special(int(lib.llama_vocab_eos(self.vocab)))

    @property
    def bos(self) -> str:
        """The text of the token that begins a text, whether or not the vocabulary adds it itself."""
        return self.special(int(lib.llama_vocab_bos(self.vocab)))

    @property
    def trained_context(self) -> int:
        """How many tokens of context it was trained for, 0 where its file does not say."""
        return max(0, int(lib.llama_model_n_ctx_train(self.handle)))

    @property
    def chat_template(self) -> str:
        """The Jinja template of its file, "" where that has none."""
        return (lib.llama_model_chat_template(self.handle, None) or b"").decode("utf-8", "replace")

    def ends(self, token: int) -> bool:
        """Whether a token ends what the model has to say."""
        return bool(lib.llama_vocab_is_eog(self.vocab, token))

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; of special ones only those that mark its thinking stand for any."""
        return self._piece(token, False) or (found if (found := self._piece(token, True)) in SPECIAL else b"")

    def _piece(self, token: int, special: bool) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            length = int(lib.llama_token_to_piece(self.vocab, token, buffer, room, 0, special))
            if length >= 0:
                return buffer.raw[:length]
            room = -length

    @property
    def adds_eos(self) -> bool:
        return bool(lib.llama_vocab_get_add_eos(self.vocab))

    def close(self) -> None:
        """Free it. Its contexts are closed before."""
        lib.llama_model_free(self.handle)


class _Batch:
    """llama.cpp's batch over arrays of ours, `size` long: what is written into them is what llama_decode reads."""

    def __init__(self, size: int) -> None:
        self.tokens = np.zeros(size, dtype=np.int32)
        self.positions = np.zeros(size, dtype=np.int32)
        self.sequences = np.zeros(size, dtype=np.int32)
        self.outputs = np.zeros(size, dtype=np.int8)
        self._ones = np.ones(size, dtype=np.int32)
        self._each = self.sequences.ctypes.data + 4 * np.arange(size, dtype=np.uintp)
        ints = ctypes.POINTER(ctypes.c_int32)
        self._struct = put(
            lib.llama_batch(),
            token=self.tokens.ctypes.data_as(ints),
            pos=self.positions.ctypes.data_as(ints),
            n_seq_id=self._ones.ctypes.data_as(ints),
            seq_id=self._each.ctypes.data_as(ctypes.POINTER(ints)),
            logits=self.outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def first(self, count: int) -> Any:
        """The batch of the first `count` entries."""
        self._struct.n_tokens = count
        return self._struct


class Context:
    """A context of a model, for one sequence (speed) or for `n_seq` that are decoded together (perplexity, tasks).

    `unified`: the sequences lie in one memory of `n_ctx` tokens, in which they can have a beginning in common; else
    each has its own share of it.

    The parameters that are not set here are those that llama-bench and llama-perplexity leave at llama.cpp's defaults;
    `swa_full` is not: both tools turn it off.

    Raises:
        LlamaError: it cannot be made (memory, an unusable KV type).
    """

    def __init__(
        self, model: Model, settings: Settings, n_ctx: int, n_seq: int, abort: AbortFlag, unified: bool = False
    ):
        self.n_seq = n_seq
        self._model = model
        self._abort = abort
        log = model.log
        log.mark()
        kv = _choice(KV_TYPES, settings.kv, "KV type")
        params = put(
            lib.llama_context_default_params(),
            n_ctx=n_ctx,
            n_batch=settings.batch,
            n_ubatch=settings.ubatch,
            n_seq_max=n_seq,
            n_threads=settings.threads,
            n_threads_batch=settings.threads,
            flash_attn_type=_choice(FLASH_ATTN, settings.flash_attn, "flash attention"),
            type_k=kv,
            type_v=kv,
            abort_callback=abort.callback,
            abort_callback_data=abort.data,
            swa_full=False,
            kv_unified=unified,
        )
        handle = lib.llama_init_from_model(model.handle, params)
        if not handle:
            why = log.reason("llama.cpp does not say why")
            raise LlamaError(
                f"a context of {n_ctx} tokens, KV {settings.kv}, cannot be made: {why}", log.outcome("failed")
            )
        self.handle = handle
        self._threads = Threadpool(settings.threads)
        self._threads.attach(handle)
        self._memory = lib.llama_get_memory(handle)
        self.n_ctx, self.n_batch = int(lib.llama_n_ctx(handle)), int(lib.llama_n_batch(handle))
        self.n_ubatch = int(lib.llama_n_ubatch(handle))
        self.flash_attn = _flash_attn(log, settings.flash_attn)
        self.kv_bytes = sum(log.buffers("KV RS").values()) or None
        self.compute_bytes = sum(log.buffers("compute").values()) or None
        self._vocabulary = model.vocabulary.size
        self._one = (ctypes.c_int32 * 1)()
        self._step = lib.llama_batch_get_one(self._one, 1)
        self._batch = _Batch(self.n_batch)
        self._places = _taken_up(n_seq, 0, 1)
        self._decode, self._synchronize = lib.llama_decode, lib.llama_synchronize

    def clear(self) -> None:
        """Forget all tokens, as llama-bench does between repetitions."""
        lib.llama_memory_clear(self._memory, False)

    def wipe(self) -> None:
        """Forget all tokens, contents included, as llama-perplexity does between groups."""
        lib.llama_memory_clear(self._memory, True)

    def keep(self, length: int) -> bool:
        """Forget all tokens but the first `length` of sequence 0; False where this memory cannot do just that.

        A memory with a window has dropped the oldest of them for those that came after: then it no longer begins at 0.
        """
        for sequence in range(1, self.n_seq):
            self.forget(sequence)
        removed = lib.llama_memory_seq_rm(self._memory, 0, length, -1)
        return bool(removed) and int(lib.llama_memory_seq_pos_min(self._memory, 0)) == 0

    def fork(self, source: int, target: int) -> None:
        """Have the empty sequence `target` begin with all tokens of `source`. In a unified memory nothing is copied."""
        lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def forget(self, sequence: int) -> None:
        """Forget all tokens of a sequence; those that another one has as well stay with that."""
        lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def prompt(self, tokens: TokenArray, position: int) -> None:
        """Submit tokens at the end of what the memory holds, with logits for the last."""
        held = np.ascontiguousarray(tokens, dtype=np.int32)
        batch = lib.llama_batch_get_one(held.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)), len(held))
        self._check(self._decode(self.handle, batch))

    def step(self, token: int, position: int) -> None:
        """Decode one token at the end of what the memory holds, and wait for it."""
        self._one[0] = token
        code = self._decode(self.handle, self._step)
        self._synchronize(self.handle)
        if code:
            self._check(code)

    def likeliest(self) -> int:
        """The token with the largest logit after the last that was submitted."""
        return int(np.argmax(self._logits(-1, 1)))

    def next_logits(self) -> npt.NDArray[np.float32]:
        """The logits after the last token that was submitted, [vocabulary]: a view, good until the next is."""
        return self._logits(-1, 1).reshape(-1)

    def synchronize(self) -> None:
        """Wait for what was submitted."""
        self._synchronize(self.handle)

    def decode(self, tokens: TokenArray, position: int, outputs: npt.NDArray[np.bool_]) -> None:
        """Submit tokens[sequence, k] at positions `position` + k, with logits where outputs[k], and wait.

        They are submitted in the order in which llama.cpp takes them up. Into any other it would move the logits
        afterwards, on one thread: a third again of what scoring them takes.
        """
        (sequences, width), count, batch = tokens.shape, tokens.size, self._batch
        places = self._places = _taken_up(sequences, width, self._stretch(sequences))
        batch.tokens[places] = tokens
        batch.positions[places] = np.arange(position, position + width)
        batch.sequences[places] = np.arange(sequences)[:, None]
        batch.outputs[places] = outputs
        self._check(self._decode(self.handle, batch.first(count)))
        self._synchronize(self.handle)

    def decode_each(
        self, tokens: TokenArray, positions: TokenArray, sequences: TokenArray, outputs: npt.NDArray[np.bool_]
    ) -> None:
        """Submit tokens (at most n_batch of them), each at the end of its sequence, with logits where `outputs`; wait.
        """
        count, batch = len(tokens), self._batch
        batch.tokens[:count], batch.positions[:count] = tokens, positions
        batch.sequences[:count], batch.outputs[:count] = sequences, outputs
        self._check(self._decode(self.handle, batch.first(count)))
        self._synchronize(self.handle)

    def logits_of(self, index: int) -> npt.NDArray[np.float32]:
        """The logits of the `index`-th token submitted, [vocabulary]: a view, good until others are."""
        return self._logits(index, 1).reshape(-1)

    def _stretch(self, sequences: int) -> int:
        """How many tokens of a sequence llama.cpp takes up before it turns to the next: n_ubatch holds all of them."""
        return max(1, self.n_ubatch // sequences)

    def logits(self, sequence: int, start: int, stop: int) -> list[npt.NDArray[np.float32]]:
        """Views of the logits of the submitted tokens [sequence, start … stop - 1], of all of which they were asked.

        In order, float32 [some, vocabulary] each: tokens of one stretch lie next to each other.
        """
        stretch = self._stretch(len(self._places))
        cuts = [start, *range(start - start % stretch + stretch, stop, stretch), stop]
        return [self._logits(int(self._places[sequence, low]), high - low) for low, high in pairwise(cuts)]

    def _logits(self, index: int, rows: int) -> npt.NDArray[np.float32]:
        pointer = lib.llama_get_logits_ith(self.handle, index)
        if not pointer:
            raise LlamaError(f"llama.cpp gives no logits for token {index}", "failed")
        return np.ctypeslib.as_array(pointer, shape=(rows, self._vocabulary))

    def _check(self, code: int) -> None:
        if code == _ABORTED:
            raise Aborted
        if code:
            log = self._model.log
            raise LlamaError(f"decoding failed: {log.reason(f'llama_decode returned {code}')}", log.outcome("failed"))

    def close(self) -> None:
        """Free it."""
        lib.llama_free(self.handle)
        self._threads.close()


def _taken_up(sequences: int, width: int, stretch: int) -> npt.NDArray[np.intp]:
    """Of tokens [sequence, k] the place at which each is taken up, where that goes by stretches of each sequence."""
    at = np.arange(width)
    begin = at - at % stretch
    length = np.minimum(stretch, width - begin)
    places: npt.NDArray[np.intp] = begin * sequences + np.arange(sequences)[:, None] * length + at - begin
    return places


def _flash_attn(log: Log, asked: str) -> bool | None:
    """Whether flash attention is used: what llama.cpp made of `asked` when the context was made, None if unknown."""
    if log.find(_FLASH_OFF):
        return False
    return True if log.find(_FLASH_ON) else {"on": True, "off": False}.get(asked)


def quantize(
    source: str,
    target: str,
    quant: str,
    ftype: int,
    imatrix: str,
    threads: int,
    log: Log,
    progress: Callable[[float], None],
    tensor_types: Sequence[tuple[str, str]] = (),
) -> None:
    """Quantize a GGUF into another as llama-quantize does, to the byte.

    `ftype` is the llama_ftype of `quant`, `imatrix` a file or "", `tensor_types` patterns of names with ggml's names of
    types.

    Raises:
        LlamaError: llama.cpp refuses (an importance matrix is needed, the source is quantized already, a full disk).
        UserError: the importance matrix cannot be read, or is of another model.
    """
    log.mark()
    params = put(lib.llama_model_quantize_default_params(), ftype=ftype, nthread=threads)
    held = [*_with_imatrix(params, imatrix, source), *_with_types(params, tensor_types)]

    def told(line: str) -> None:
        match = _STEP.search(line)
        if match:
            progress(int(match[1]) / max(1, int(match[2])))

    log.on_line = told
    try:
        code = lib.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params))
    finally:
        log.on_line = None
        held.clear()
    if code:
        refused = _not_quantized(source, target, quant, imatrix, log)
        Path(target).unlink(missing_ok=True)
        raise refused


def _not_quantized(source: str, target: str, quant: str, imatrix: str, log: Log) -> LlamaError:
    reason = log.reason("llama.cpp does not say why")
    if "requires an imatrix" in reason:
        return LlamaError(
            f"{clean(quant, 40)} of {clean(source)} cannot be made without an importance matrix: "
            "give one of this model with --imatrix FILE"
        )
    if "mportance matrix" in reason or "imatrix" in reason:
        return LlamaError(f"{clean(imatrix)}: {reason}: give one of this model with --imatrix FILE")
    if "iostream" in reason:
        return LlamaError(f"{clean(target)}: cannot be written{_room(Path(target).parent)}", "failed")
    return LlamaError(f"{clean(source)}: {clean(quant, 40)} cannot be made of it: {reason}", log.outcome("refused"))


def _room(folder: Path) -> str:
    """What there is to say of a folder that could not be written to."""
    if not folder.is_dir():
        return f": there is no folder {clean(str(folder))}"
    return f": its disk has {size(shutil.disk_usage(folder).free)} free"


def _with_imatrix(params: Any, imatrix: str, source: str) -> list[Any]:
    """Hand an importance matrix to the parameters; returns what must stay alive meanwhile."""
    if not imatrix:
        return []
    from quanttui.models import header
    from quanttui.models import imatrix as matrices

    matrix = matrices.read(Path(imatrix))
    loaded = matrix.means
    matrices.check(imatrix, loaded, header.read(source))
    rows = (lib.llama_model_imatrix_data * (len(loaded) + 1))()
    held = []
    for row, (name, values) in zip(rows, loaded.items(), strict=False):
        data = np.ascontiguousarray(values, dtype=np.float32)
        held.append(data)
        row.name = name.encode()
        row.data = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        row.size = data.size
    rows[len(loaded)].name = None
    noted: dict[str, str | int] = {"quantize.imatrix.file": imatrix}
    if matrix.datasets:
        noted["quantize.imatrix.dataset"] = matrix.datasets[0]
    noted["quantize.imatrix.entries_count"] = len(loaded)
    if matrix.chunks > 0:
        noted["quantize.imatrix.chunks_count"] = matrix.chunks
    keys = _keys(noted)
    put(params, imatrix=ctypes.cast(rows, type(params.imatrix)))
    put(params, kv_overrides=ctypes.cast(keys, type(params.kv_overrides)))
    return [rows, keys, *held]


def _keys(noted: Mapping[str, str | int]) -> Any:
    """Keys that the quantized file gets besides its model's, in llama.cpp's form: a string has 127 bytes at most."""
    keys = (lib.llama_model_kv_override * (len(noted) + 1))()
    for row, (name, value) in zip(keys, noted.items(), strict=False):
        row.key = name.encode()
        if isinstance(value, int):
            row.tag, row.value.val_i64 = lib.LLAMA_KV_OVERRIDE_TYPE_INT, value
        else:
            row.tag, row.value.val_str = lib.LLAMA_KV_OVERRIDE_TYPE_STR, os.fsencode(value)[:127]
    return keys


def _with_types(params: Any, tensor_types: Sequence[tuple[str, str]]) -> list[Any]:
    """Hand types of single tensors to the parameters; returns what must stay alive meanwhile."""
    if not tensor_types:
        return []
    numbers = {kind.name: number for number, kind in TENSOR_TYPES.items()}
    rows = (lib.llama_model_tensor_override * (len(tensor_types) + 1))()
    for row, (pattern, kind) in zip(rows, tensor_types, strict=False):
        row.pattern, row.type = pattern.encode(), numbers[kind]
    rows[len(tensor_types)].pattern = None
    put(params, tt_overrides=ctypes.cast(rows, type(params.tt_overrides)))
    return [rows]


def start() -> Log:
    """Initialize llama.cpp's backends; its log goes to fd 2 from here on."""
    log = Log()
    lib.llama_backend_init()
    return log


def text_of(path: str) -> bytes:
    """A text file as llama-perplexity reads it: exactly one trailing newline dropped.

    Raises:
        UserError: it cannot be read.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{clean(path)}: cannot be read ({error.strerror}): give another with --text") from None
    return data[:-1] if data.endswith(b"\n") else data
