"""GGUF files for tests: of any architecture's shape, their tensor data a hole in the file, and llama.cpp's own opinion.

    path = ggufs.write(tmp_path / "model.gguf", ggufs.LLAMA_8B)
    opinions = ggufs.dry_runs(path)          # llama.cpp's dry run of every quantization type, in a process of its own

Nothing here imports llama_cpp, save for this file run as a script, which is what `dry_runs` does.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from quanttui import quants
from quanttui.models import header as headers
from quanttui.models.header import Header

FTYPES = 64
"""Numbers of llama_ftype that are tried; the enum ends far below."""


@dataclass(frozen=True)
class Model:
    """A model's shape in the llama manner; `fused` has one attn_qkv and no gate, as gpt2 and phi-2 do."""

    layers: int
    width: int
    feed_forward: int
    heads: int
    heads_kv: int
    vocabulary: int
    tied: bool = False
    fused: bool = False
    experts: int = 0
    experts_used: int = 0
    head: int = 0
    architecture: str = "llama"
    metadata: dict[str, Any] = field(default_factory=dict)

    def keys(self) -> dict[str, Any]:
        """The metadata, architecture's prefix and all."""
        head = self.head or self.width // self.heads
        own: dict[str, Any] = {
            "block_count": self.layers,
            "embedding_length": self.width,
            "feed_forward_length": self.feed_forward,
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.heads_kv,
            "context_length": 8192,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "attention.layer_norm_epsilon": 1e-5,
            "rope.dimension_count": head,
            "vocab_size": self.vocabulary,
        }
        if self.head:
            own |= {"attention.key_length": head, "attention.value_length": head}
        if self.experts:
            own |= {"expert_count": self.experts, "expert_used_count": self.experts_used}
        return {f"{self.architecture}.{key}": value for key, value in own.items()} | self.metadata

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes, row length first."""
        wide, head = self.width, self.head or self.width // self.heads
        every: dict[str, tuple[int, ...]] = {"token_embd.weight": (wide, self.vocabulary)}
        every["output_norm.weight"] = (wide,)
        if not self.tied:
            every["output.weight"] = (wide, self.vocabulary)
        for layer in range(self.layers):
            block = {"attn_norm": (wide,), "attn_output": (self.heads * head, wide), "ffn_norm": (wide,)}
            if self.fused:
                block |= {"attn_qkv": (wide, (self.heads + 2 * self.heads_kv) * head)}
                block |= {"ffn_up": (wide, self.feed_forward), "ffn_down": (self.feed_forward, wide)}
            else:
                block |= {"attn_q": (wide, self.heads * head)}
                block |= {"attn_k": (wide, self.heads_kv * head), "attn_v": (wide, self.heads_kv * head)}
                block |= self._feed_forward()
            every |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
        return every

    def _feed_forward(self) -> dict[str, tuple[int, ...]]:
        up, down = (self.width, self.feed_forward), (self.feed_forward, self.width)
        if not self.experts:
            return {"ffn_gate": up, "ffn_up": up, "ffn_down": down}
        each = {"ffn_gate_exps": up, "ffn_up_exps": up, "ffn_down_exps": down}
        routed = {name: (*shape, self.experts) for name, shape in each.items()}
        return {"ffn_gate_inp": (self.width, self.experts), **routed}


LLAMA_8B = Model(32, 4096, 14336, 32, 8, 128256)
QWEN_HALF_B = Model(24, 896, 4864, 14, 2, 151936, tied=True)
PHI_2 = Model(32, 2560, 10240, 32, 32, 51200, fused=True, architecture="phi2")
MIXTRAL = Model(8, 4096, 14336, 32, 8, 32000, experts=8, experts_used=2)
QWEN_MOE = Model(12, 2048, 768, 32, 4, 151936, experts=128, experts_used=8, head=128)
GEMMA_2B = Model(26, 2304, 9216, 8, 4, 256000, tied=True, head=256, architecture="gemma2")
SMALL = Model(2, 64, 128, 4, 2, 96)


def write(path: Path, model: Model, kind: str = "F16", **more: Any) -> Path:
    """A GGUF of that shape: matrices of type `kind`, vectors F32, all of it zeros that take no room on the disk."""
    return build(path, model.architecture, model.keys() | more, model.tensors(), kind)


def build(
    path: Path, architecture: str, metadata: dict[str, Any], tensors: dict[str, tuple[int, ...]], kind: str = "F16"
) -> Path:
    """A GGUF of just those keys, prefix and all, and tensors (row length first); types and data as of `write`."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        _add(writer, key, value)
    size = 0
    for name, shape in tensors.items():
        tensor_type = quants.BY_TYPE_NAME["F32" if len(shape) == 1 else kind]
        count = prod(shape) // tensor_type.block * tensor_type.bytes
        raw = gguf.GGMLQuantizationType[tensor_type.name]
        rows = (*shape[1:][::-1], shape[0] // tensor_type.block * tensor_type.bytes)
        writer.add_tensor_info(name, rows, np.dtype(np.uint8), count, raw_dtype=raw)
        size += -(-count // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout is not None
    start = writer.fout[0].tell()
    writer.close()
    os.truncate(path, -(-start // 32) * 32 + size)
    return path


def tiny(
    path: Path,
    architecture: str,
    keys: dict[str, Any],
    blocks: list[dict[str, tuple[int, ...]]],
    more: dict[str, tuple[int, ...]] | None = None,
) -> Path:
    """A GGUF of any architecture in F16: `keys` without its prefix, `blocks` the matrices of each layer by their part
    of the name, and an embedding of 96 rows of 64, tied unless `more` has an output."""
    own = {"block_count": len(blocks), "embedding_length": 64, "context_length": 8192, "vocab_size": 96} | keys
    tensors = {f"blk.{il}.{name}.weight": shape for il, block in enumerate(blocks) for name, shape in block.items()}
    metadata = {f"{architecture}.{key}": value for key, value in own.items()}
    return build(path, architecture, metadata, {"token_embd.weight": (64, 96)} | (more or {}) | tensors)


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        (writer.add_uint32 if value < 1 << 32 else writer.add_uint64)(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def with_types(header: Header, types: dict[str, str]) -> Header:
    """The same model with its tensors in those types."""
    tensors, at = [], 0
    for tensor in header.tensors:
        kind = quants.BY_TYPE_NAME[types[tensor.name]]
        size = tensor.elements // kind.block * kind.bytes
        tensors.append(replace(tensor, type=kind.name, bytes=size, offset=at))
        at += -(-size // header.alignment) * header.alignment
    return replace(header, tensors=tuple(tensors), file_bytes=header.data_offset + at)


@dataclass(frozen=True)
class Opinion:
    """What llama.cpp says of quantizing one model to one type: every tensor's type, or why it will not."""

    types: dict[str, str]
    needs_imatrix: bool
    error: str


def dry_runs(path: Path, imatrix: bool = False) -> dict[int, Opinion]:
    """llama.cpp's dry run of every llama_ftype it takes, by number; with `imatrix` as if a matrix were given."""
    answer = _ask(["dry", str(path), "imatrix" if imatrix else ""])
    return {int(number): Opinion(**opinion) for number, opinion in answer.items()}


def refusals(path: Path, ftypes: list[int], folder: Path) -> dict[int, str]:
    """What llama.cpp says when it is really asked for those types without an importance matrix; "" for a success."""
    answer = _ask(["real", str(path), str(folder), *map(str, ftypes)])
    return {int(number): str(error) for number, error in answer.items()}


@dataclass(frozen=True)
class Kept:
    """What llama.cpp keeps of a model at 4096 cells: the layers that slide, those with keys and values of the whole
    context and with a state, and the MiB of both."""

    slides: list[int]
    whole: list[int]
    states: list[int]
    whole_mib: float
    state_mib: float


def kept(path: Path, architecture: str, keys: dict[str, Any], layers: int) -> Kept:
    """llama.cpp's own account of a model of that architecture, which is written to `path` with whatever tensors it
    asks for, of whatever shape it says that they must have."""
    return Kept(**_ask(["kept", str(path), architecture, json.dumps(keys), str(layers)])["0"])


def tensor_types() -> dict[int, tuple[str, int, int]]:
    """ggml's own table: name, elements and bytes of a block by number."""
    return {int(number): tuple(row) for number, row in _ask(["types"]).items()}


def _ask(arguments: list[str]) -> Any:
    done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, check=True, timeout=300)
    return json.loads(done.stdout)


_TENSOR = re.compile(r"\]\s+(\S+)\s+- \[[^]]*\], type =\s*(\w+), size =[^\n]*?(?:-> *[\d.]+ MiB \((\w+)\))?\n")


def _main(task: str, *arguments: str) -> dict[int, Any]:
    import llama_cpp
    from llama_cpp import _ggml

    said: list[str] = []

    @llama_cpp.llama_log_callback
    def hear(level: int, text: bytes, data: ctypes.c_void_p) -> None:
        said.append(text.decode(errors="replace"))

    llama_cpp.llama_log_set(hear, ctypes.c_void_p(0))
    if task == "types":
        return _types(_ggml.libggml)
    if task == "kept":
        path, architecture, keys, layers = arguments
        _agreed(llama_cpp, said, Path(path), architecture, json.loads(keys), int(layers))
        return {0: _account("".join(said))}
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = 1
    params.dry_run = task == "dry"
    answers: dict[int, Any] = {}
    wanted = range(FTYPES) if task == "dry" else map(int, arguments[2:])
    rows = (llama_cpp.llama_model_imatrix_data * 2)()
    if task == "dry" and arguments[1]:
        rows[0].name, rows[0].size = b"none", 0
        params.imatrix = ctypes.cast(rows, type(params.imatrix))
    for ftype in wanted:
        said.clear()
        params.ftype = ftype
        target = f"{arguments[1]}/{ftype}.gguf" if task == "real" else os.devnull
        code = llama_cpp.llama_model_quantize(arguments[0].encode(), target.encode(), ctypes.byref(params))
        text = "".join(said)
        error = (re.findall(r"failed to quantize: (.*)", text) or ["no reason"])[-1] if code else ""
        if task == "real":
            answers[ftype] = error
        elif not code or "invalid output file type" not in error:
            types = {name: (after or before).upper() for name, before, after in _TENSOR.findall(text)}
            answers[ftype] = {"types": types, "needs_imatrix": "require an imatrix" in text, "error": error}
    return answers


_ABSENT = re.compile(r"tensor '([^']+)' not found")
_SHAPE = re.compile(r"tensor '([^']+)' has wrong shape; expected ([\d, ]+), got")
_SLIDES = re.compile(r"layer +(\d+) assigned to device \w+, is_swa = 1")
_CACHE = re.compile(r"K \(\w+\): +([\d.]+) MiB, V \(\w+\): +([\d.]+) MiB")
_STATE = re.compile(r"R \(\w+\): +([\d.]+) MiB, S \(\w+\): +([\d.]+) MiB")


def _agreed(llama_cpp: Any, said: list[str], path: Path, architecture: str, keys: dict[str, Any], layers: int) -> None:
    """Ask again with what was missing until llama.cpp has a model and a context; `said` is what it said of them."""
    own = {"block_count": layers, "embedding_length": 64, "context_length": 8192, "vocab_size": 96}
    own |= {"attention.layer_norm_rms_epsilon": 1e-5} | keys
    metadata = {f"{architecture}.{key}": value for key, value in own.items()} | {"tokenizer.ggml.model": "no_vocab"}
    tensors: dict[str, tuple[int, ...]] = {}
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    for _ in range(1000):
        build(path, architecture, metadata, tensors, "F32")
        said.clear()
        model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
        if model:
            context = llama_cpp.llama_context_default_params()
            context.n_ctx, context.n_batch, context.n_ubatch, context.swa_full = 4096, 32, 32, False
            llama_cpp.llama_init_from_model(model, context)
            return
        text = "".join(said)
        if found := _SHAPE.search(text):
            shape = [int(length) for length in found[2].split(",")]
            tensors[found[1]] = tuple(shape[: max(i + 1 for i, length in enumerate(shape) if length > 1 or not i)])
        elif found := _ABSENT.search(text):
            before = re.sub(r"blk\.\d+", lambda layer: f"blk.{int(layer[0][4:]) - 1}", found[1])
            tensors[found[1]] = tensors.get(before, (1,))
        else:
            raise RuntimeError(text[-500:])
    raise RuntimeError(f"no {architecture} after 1000 tries")


def _account(text: str) -> dict[str, Any]:
    """`Kept` from llama.cpp's log of one model and one context."""
    layers: dict[str, list[int]] = {"kv": [], "SWA": [], "rs": []}
    mib = {"kv": 0.0, "SWA": 0.0, "rs": 0.0}
    now = "kv"
    for line in text.splitlines():
        if "creating " in line:
            now = "SWA" if "creating     SWA" in line else "kv"
        kind = "rs" if "llama_memory_recurrent" in line else now
        if found := re.search(r"layer +(\d+): dev", line):
            layers[kind].append(int(found[1]))
        elif found := _STATE.search(line) or _CACHE.search(line):
            mib[kind] = float(found[1]) + float(found[2])
    slides = sorted({int(found) for found in _SLIDES.findall(text)})
    return {
        "slides": slides, "whole": layers["kv"], "states": layers["rs"], "whole_mib": mib["kv"], "state_mib": mib["rs"]
    }  # fmt: skip


def _types(ggml: Any) -> dict[int, Any]:
    ggml.ggml_type_name.restype = ctypes.c_char_p
    ggml.ggml_blck_size.restype = ctypes.c_int64
    ggml.ggml_type_size.restype = ctypes.c_size_t
    table = {}
    for number in range(43):
        if ggml.ggml_blck_size(number):
            name = ggml.ggml_type_name(number).decode().upper()
            table[number] = (name, ggml.ggml_blck_size(number), ggml.ggml_type_size(number))
    return table


def header_of(path: Path, opinion: Opinion) -> Header:
    """The header that the file would have after that quantization."""
    return with_types(headers.read(path), opinion.types)


if __name__ == "__main__":
    print(json.dumps(_main(*sys.argv[1:])))
