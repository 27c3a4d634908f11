"""Models without their weights: the header of a published model that nobody has yet, and a file that is header alone.

Owns what a published shape means in tensors and metadata, and the writing of a GGUF whose data is a hole: llama.cpp
weighs it (engine.weigh) as it would weigh the model itself, for no room on the disk. Runs nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quanttui import quants, shapes
from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.models.header import DEFAULT_ALIGNMENT, Header, Tensor
from quanttui.models.layers import Value
from quanttui.shapes import KnownShape

PREFIX = "ghost:"
"""How a MODEL argument names a published shape."""

_FAMILIES: tuple[tuple[str, str, int], ...] = (
    ("Llama-2", "llama", 4096),
    ("Llama-3-", "llama", 8192),
    ("Llama-3.", "llama", 131072),
    ("Mixtral-8x22B", "llama", 65536),
    ("Mistral", "llama", 32768),
    ("Mixtral", "llama", 32768),
    ("Qwen2.5", "qwen2", 32768),
    ("Gemma-2", "gemma2", 8192),
    ("Phi-3-", "phi3", 4096),
    ("Phi-3.5", "phi3", 131072),
    ("Phi-4", "phi3", 16384),
)
"""By the beginning of a name: llama.cpp's architecture, and max_position_embeddings of the published config.json (of
Phi-3 the 4k models')."""

_WINDOWS = {"gemma2": 4096, "phi3": 0}
"""sliding_window of the published config.json, where llama.cpp heeds it."""

_DROPPED = ("tokenizer.", "split.")
"""Metadata that says nothing of memory, and takes long to load."""


def named(argument: str) -> Header:
    """The header of the F16 model that `ghost:NAME` names, with the tensors that llama.cpp's converter would write.

    Raises:
        UserError: its shape is not known; says which are.
    """
    name = argument[len(PREFIX) :] if argument.lower().startswith(PREFIX) else argument
    shape = shapes.named(name)
    if shape is None:
        known = ", ".join(each.names[-1].lower() for each in shapes.SHAPES)
        raise UserError(f"{clean(argument, 120)}: no shape is known by that name; there are {known}")
    wanted = shapes.weights_named(name)
    spelled = next((each for each in shape.names if wanted.startswith(shapes.weights_named(each))), shape.names[-1])
    return of(shape, spelled)


def of(shape: KnownShape, name: str) -> Header:
    """The header of a published shape as an F16 GGUF, under the name of one of its models."""
    _, architecture, context = next(family for family in _FAMILIES if name.startswith(family[0]))
    at, tensors = 0, []
    for part, sides in _tensors(shape, architecture):
        kind = quants.BY_TYPE_NAME["F16" if len(sides) > 1 and "gate_inp" not in part else "F32"]
        size = math.prod(sides) * kind.bytes
        tensors.append(Tensor(part, kind.name, sides, size, at))
        at += -(-size // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT
    text = _VOCABULARY_BYTES * shape.vocabulary // DEFAULT_ALIGNMENT * DEFAULT_ALIGNMENT
    path = Path(f"{PREFIX}{name.lower()}")
    metadata = _metadata(shape, architecture, context) | {"general.name": name}
    return Header(path, 3, metadata, {}, tuple(tensors), text + at, DEFAULT_ALIGNMENT, text, (path,))


_VOCABULARY_BYTES = 48
"""Bytes of metadata for each token: its text, score, kind, and the merges. Llama-3's 128,256 tokens take 7.8 MB, of
which 1.6 bytes a token are anything else; sentencepiece vocabularies take less."""


def write(header: Header, path: Path) -> None:
    """A GGUF of that header, its tensors' data a hole in the file, and no vocabulary but its size.

    Raises:
        UserError: it cannot be written, or a tensor is of a type that the gguf library does not have.
    """
    import gguf

    try:
        writer = gguf.GGUFWriter(path, str(header.metadata.get("general.architecture", "")))
        for key, value in _kept(header):
            _add(writer, key, value)
        for tensor in header.tensors:
            _add_tensor(writer, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        assert writer.fout is not None
        start = writer.fout[0].tell()
        writer.close()
        held = sum(_padded(tensor.bytes) for tensor in header.tensors)
        os.truncate(path, _padded(start) + held)
    except KeyError as error:
        raise UserError(f"{clean(str(header.path), 200)}: has tensors of type {clean(str(error), 40)}") from None
    except OSError as error:
        raise UserError(f"{clean(str(path), 200)}: cannot be written: {error.strerror}") from None


def _kept(header: Header) -> Iterator[tuple[str, Value]]:
    """The metadata that goes into the file."""
    architecture = header.metadata.get("general.architecture", "")
    taken = {"general.architecture", "general.alignment", f"{architecture}.vocab_size"}
    for key, value in header.metadata.items():
        if key not in taken and not key.startswith(_DROPPED) and value != ():
            yield key, value
    rows = next((tensor.shape[1] for tensor in header.tensors if tensor.name == "token_embd.weight"), 0)
    yield f"{architecture}.vocab_size", rows
    yield "tokenizer.ggml.model", "no_vocab"


def _add(writer: Any, key: str, value: Value) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        (writer.add_uint32 if 0 <= value < 1 << 32 else writer.add_int64)(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, list(value))


def _add_tensor(writer: Any, tensor: Tensor) -> None:
    """The library wants bytes, rows last."""
    import gguf
    import numpy as np

    kind = quants.BY_TYPE_NAME[tensor.type]
    rows = (*reversed(tensor.shape[1:]), tensor.shape[0] // kind.block * kind.bytes)
    raw = gguf.GGMLQuantizationType[kind.name]
    writer.add_tensor_info(tensor.name, rows, np.dtype(np.uint8), tensor.bytes, raw_dtype=raw)


def _padded(size: int) -> int:
    return size + -size % DEFAULT_ALIGNMENT


def _metadata(shape: KnownShape, architecture: str, context: int) -> dict[str, Value]:
    own: dict[str, Value] = {
        "block_count": shape.layers,
        "context_length": context,
        "embedding_length": shape.embedding,
        "feed_forward_length": shape.feed_forward,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.heads_kv,
        "attention.key_length": shape.head,
        "attention.value_length": shape.head,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": shape.head,
        "vocab_size": shape.vocabulary,
    }
    if shape.experts:
        own |= {"expert_count": shape.experts, "expert_used_count": shape.experts_used}
    if architecture in _WINDOWS:
        own["attention.sliding_window"] = _WINDOWS[architecture]
    general: dict[str, Value] = {"general.architecture": architecture, "general.file_type": 1}
    return general | {f"{architecture}.{key}": value for key, value in own.items()}


def _tensors(shape: KnownShape, architecture: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and lengths, row length first, in a file's order."""
    wide = shape.embedding
    yield "token_embd.weight", (wide, shape.vocabulary)
    for layer in range(shape.layers):
        for part, sides in _block(shape, architecture):
            yield f"blk.{layer}.{part}", sides
    yield "output_norm.weight", (wide,)
    if not shape.tied:
        yield "output.weight", (wide, shape.vocabulary)


def _block(shape: KnownShape, architecture: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    wide, hidden = shape.embedding, shape.feed_forward
    queries, keys = shape.heads * shape.head, shape.heads_kv * shape.head
    yield "attn_norm.weight", (wide,)
    if architecture == "phi3":
        yield "attn_qkv.weight", (wide, queries + 2 * keys)
    else:
        for part, rows in (("attn_q", queries), ("attn_k", keys), ("attn_v", keys)):
            yield f"{part}.weight", (wide, rows)
            if shape.bias:
                yield f"{part}.bias", (rows,)
    yield "attn_output.weight", (queries, wide)
    yield "ffn_norm.weight", (wide,)
    if shape.norms == 4:
        yield "post_attention_norm.weight", (wide,)
        yield "post_ffw_norm.weight", (wide,)
    if architecture == "phi3":
        yield "ffn_up.weight", (wide, 2 * hidden)
        yield "ffn_down.weight", (hidden, wide)
        return
    each = (("ffn_gate", wide, hidden), ("ffn_up", wide, hidden), ("ffn_down", hidden, wide))
    if shape.experts:
        yield "ffn_gate_inp.weight", (wide, shape.experts)
        yield from ((f"{part}_exps.weight", (row, rows, shape.experts)) for part, row, rows in each)
    else:
        yield from ((f"{part}.weight", (row, rows)) for part, row, rows in each)
