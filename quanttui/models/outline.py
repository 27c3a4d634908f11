"""Models without their weights: the header of a published model that nobody has yet, and a file that is header alone.

Owns what a published shape means in tensors and metadata, and the writing of a GGUF whose data is a hole: llama.cpp
weighs it (engine.weigh) as it would weigh the model itself, for no room on the disk. Runs nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import msgspec

from quanttui import quants, shapes
from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.models import header as headers
from quanttui.models.header import DEFAULT_ALIGNMENT, Header, Tensor
from quanttui.models.layers import Value
from quanttui.shapes import KnownShape
from quanttui.shapes.config import of as read_config

PREFIX = "ghost:"
"""How a MODEL argument names a published shape."""

_DROPPED = ("tokenizer.", "split.")
"""Metadata that says nothing of memory, and takes long to load."""


def named(argument: str) -> Header:
    """The header of the F16 model that `ghost:NAME` names, with the tensors that llama.cpp's converter would write.

    NAME is a known shape's, or the path of a config.json or of a GGUF, of whose header what is quantized counts as F16.

    Raises:
        UserError: its shape is not known (says which are), or the file cannot be read.
    """
    name = argument[len(PREFIX) :] if argument.lower().startswith(PREFIX) else argument
    if name.lower().endswith(".gguf"):
        return _whole(headers.read(name))
    shape = None if name.lower().endswith(".json") else shapes.named(name)
    if shape is None and _is_path(name):
        return _configured(Path(name))
    if shape is None:
        known = ", ".join(each.names[-1].lower() for each in shapes.SHAPES)
        raise UserError(
            f"{clean(argument, 120)}: no shape is known by that name; there are {known}; or give the path of a"
            " config.json or of a GGUF"
        )
    wanted = shapes.weights_named(name)
    called = next((each for each in shape.names if wanted.startswith(shapes.weights_named(each))), shape.names[-1])
    return of(shape, called)


def spelled(argument: str) -> str:
    """The same argument for a process in any folder: a path made absolute, a name as it is."""
    name = argument[len(PREFIX) :] if argument.lower().startswith(PREFIX) else argument
    by_name = not name.lower().endswith((".gguf", ".json")) and shapes.named(name) is not None
    return f"{PREFIX}{os.path.abspath(name) if not by_name and _is_path(name) else name}"


def _is_path(name: str) -> bool:
    return name.lower().endswith((".gguf", ".json")) or os.path.isdir(name)


def of(shape: KnownShape, name: str) -> Header:
    """The header of a published shape as an F16 GGUF, under the name of one of its models."""
    at, tensors = 0, []
    for part, sides in _tensors(shape):
        kind = quants.BY_TYPE_NAME["F16" if _is_matrix(part, sides) else "F32"]
        size = math.prod(sides) * kind.bytes
        tensors.append(Tensor(part, kind.name, sides, size, at))
        at += _padded(size)
    text = _VOCABULARY_BYTES * shape.vocabulary // DEFAULT_ALIGNMENT * DEFAULT_ALIGNMENT
    path = Path(f"{PREFIX}{name.lower()}")
    metadata = _metadata(shape, dict(shape.contexts).get(name, shape.context)) | {"general.name": name}
    return Header(path, 3, metadata, {}, tuple(tensors), text + at, DEFAULT_ALIGNMENT, text, (path,))


def _configured(path: Path) -> Header:
    """The header of what a config.json describes, or the one in a folder."""
    file = path / "config.json" if path.is_dir() else path
    said = clean(str(file), 200)
    try:
        if file.stat().st_size > _CONFIG_LIMIT:
            raise UserError(f"{said}: is too large for a config.json")
        config = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise UserError(f"{said}: cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UserError(f"{said}: is no JSON object, as a model's config.json is") from None
    given = config.get("_name_or_path")
    name = PurePath(given).name if isinstance(given, str) and given else file.absolute().parent.name
    return of(read_config(config, (name,), said), clean(name, 80) or "config")


def _whole(header: Header) -> Header:
    """A model's header as the F16 file that it could have been quantized from."""
    at, tensors = 0, []
    for tensor in header.tensors:
        floats = tensor.type in quants.UNQUANTIZED
        kind = quants.BY_TYPE_NAME[tensor.type if floats else "F16"]
        size = tensor.elements * kind.bytes
        tensors.append(replace(tensor, type=kind.name, bytes=size, offset=at))
        at += _padded(size)
    start = _padded(header.data_offset)
    return replace(
        header, tensors=tuple(tensors), alignment=DEFAULT_ALIGNMENT, data_offset=start, file_bytes=start + at
    )


def _is_matrix(name: str, sides: tuple[int, ...]) -> bool:
    """Whether llama.cpp's converter writes the tensor in the file's own type, and not in F32."""
    return len(sides) > 1 and name.endswith("weight") and "gate_inp" not in name


_CONFIG_LIMIT = 1 << 20
"""Bytes of a config.json: published ones have some kilobytes."""

_VOCABULARY_BYTES = 48
"""Bytes of metadata for each token: its text, score, kind, and the merges. Llama-3's 128,256 tokens take 7.8 MB, of
which 1.6 bytes a token are anything else; sentencepiece vocabularies take less."""


def write(header: Header, path: Path) -> None:
    """A GGUF of that header, its tensors' data a hole in the file, and no vocabulary but its size.

    Raises:
        UserError: it cannot be written, or a tensor is of a type that the gguf library does not have.
    """
    try:
        start = begin(header, path, lambda writer: writer.add_tokenizer_model("no_vocab"))
        os.truncate(path, start + data_bytes(header))
    except OSError as error:
        raise UserError(f"{clean(str(path), 200)}: cannot be written: {error.strerror}") from None


def data_bytes(header: Header) -> int:
    """Bytes of all tensors' data, each padded."""
    return sum(_padded(tensor.bytes) for tensor in header.tensors)


def begin(header: Header, path: Path, vocabulary: Callable[[Any], None]) -> int:
    """Write all of the GGUF that comes before the tensors' data, and say where that begins.

    Args:
        vocabulary: adds the tokenizer's keys to a gguf.GGUFWriter.

    Raises:
        UserError: a tensor is of a type that the gguf library does not have.
        OSError: it cannot be written.
    """
    import gguf

    writer = gguf.GGUFWriter(path, str(header.metadata.get("general.architecture", "")))
    try:
        for key, value in _kept(header):
            _add(writer, key, value)
        vocabulary(writer)
        for tensor in header.tensors:
            _add_tensor(writer, tensor)
    except KeyError as error:
        raise UserError(f"{clean(str(header.path), 200)}: has tensors of type {clean(str(error), 40)}") from None
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout is not None
    start = writer.fout[0].tell()
    writer.close()
    os.truncate(path, _padded(start))
    return _padded(start)


def _kept(header: Header) -> Iterator[tuple[str, Value]]:
    """The metadata that goes into the file."""
    architecture = header.metadata.get("general.architecture", "")
    taken = {"general.architecture", "general.alignment", f"{architecture}.vocab_size"}
    for key, value in header.metadata.items():
        if key not in taken and not key.startswith(_DROPPED) and value != ():
            yield key, value
    rows = next((tensor.shape[1] for tensor in header.tensors if tensor.name == "token_embd.weight"), 0)
    yield f"{architecture}.vocab_size", rows


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


def _metadata(shape: KnownShape, context: int) -> dict[str, Value]:
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
        "rope.dimension_count": shape.rotated or shape.head,
        "rope.freq_base": shape.rope,
        "vocab_size": shape.vocabulary,
    }
    if shape.experts:
        own |= {"expert_count": shape.experts, "expert_used_count": shape.experts_used}
        own |= {"expert_feed_forward_length": shape.feed_forward}
    if shape.window:
        own["attention.sliding_window"] = shape.window
    elif shape.architecture == "phi3":
        own["attention.sliding_window"] = 0
    general: dict[str, Value] = {"general.architecture": shape.architecture, "general.file_type": 1}
    return general | {f"{shape.architecture}.{key}": value for key, value in own.items()}


Part = tuple[str, tuple[int, ...]]
"""A tensor's name and its lengths, row length first."""


def _tensors(shape: KnownShape) -> Iterator[Part]:
    """All tensors, in a file's order."""
    wide = shape.embedding
    yield "token_embd.weight", (wide, shape.vocabulary)
    for layer in range(shape.layers):
        for part, sides in (*_attention(shape), *_feed_forward(shape)):
            yield f"blk.{layer}.{part}", sides
    yield "output_norm.weight", (wide,)
    if not shape.tied:
        yield "output.weight", (wide, shape.vocabulary)


def _attention(shape: KnownShape) -> Iterator[Part]:
    wide, queries, keys = shape.embedding, shape.heads * shape.head, shape.heads_kv * shape.head
    yield "attn_norm.weight", (wide,)
    if shape.architecture == "phi3":
        yield "attn_qkv.weight", (wide, queries + 2 * keys)
    else:
        for part, rows in (("attn_q", queries), ("attn_k", keys), ("attn_v", keys)):
            yield f"{part}.weight", (wide, rows)
            if shape.bias:
                yield f"{part}.bias", (rows,)
    if shape.head_norms:
        yield "attn_q_norm.weight", (shape.head,)
        yield "attn_k_norm.weight", (shape.head,)
    yield "attn_output.weight", (queries, wide)
    if shape.sinks:
        yield "attn_output.bias", (wide,)
        yield "attn_sinks.weight", (shape.heads,)
    if shape.norms == 4 or shape.sinks:
        yield "post_attention_norm.weight", (wide,)


def _feed_forward(shape: KnownShape) -> Iterator[Part]:
    wide, hidden = shape.embedding, shape.feed_forward
    if not shape.sinks:
        yield "ffn_norm.weight", (wide,)
    if shape.norms == 4:
        yield "post_ffw_norm.weight", (wide,)
    if shape.architecture == "phi3":
        yield "ffn_up.weight", (wide, 2 * hidden)
        yield "ffn_down.weight", (hidden, wide)
        return
    each = (("ffn_gate", wide, hidden), ("ffn_up", wide, hidden), ("ffn_down", hidden, wide))
    if not shape.experts:
        yield from ((f"{part}.weight", (row, rows)) for part, row, rows in each)
        return
    yield "ffn_gate_inp.weight", (wide, shape.experts)
    if shape.sinks:
        yield "ffn_gate_inp.bias", (shape.experts,)
    for part, row, rows in each:
        yield f"{part}_exps.weight", (row, rows, shape.experts)
        if shape.sinks:
            yield f"{part}_exps.bias", (rows, shape.experts)
