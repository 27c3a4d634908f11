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
    writer = gguf.GGUFWriter(path, model.architecture)
    for key, value in (model.keys() | more).items():
        _add(writer, key, value)
    size = 0
    for name, shape in model.tensors().items():
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


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
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
