"""Model files and what stands beside them: GGUF headers, importance matrices, base logits, config.json."""

from __future__ import annotations

import json
import math
import os
import struct
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from hypothesis import strategies as st

from quanttui import quants
from quanttui.errors import UserError
from quanttui.measure import divergence
from quanttui.models import files as found_files
from quanttui.models import header, imatrix, label, mix, outline
from quanttui.shapes.config import of as shape_of

from ... import ggufs
from ..structures import JSON, WORDS, encoded, keyed
from ..target import Target, check, printable, put

SIZE = 1 << 17
"""Bytes that a mutated GGUF is filled up to, so that its tensors have a place: a hole in the file."""


def _written(make: Callable[[Path], Any]) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "case.gguf"
        make(path)
        return path.read_bytes()


# --- GGUF -----------------------------------------------------------------------------------------------------------

SMALL = ggufs.Model(1, 32, 64, 2, 1, 40)


@lru_cache(maxsize=1)
def headers() -> tuple[bytes, ...]:
    """Headers of small models, their tensors left out."""
    moe = replace(SMALL, experts=4, experts_used=2)
    gemma = replace(SMALL, architecture="gemma2", head=16, tied=True)
    more: dict[str, Any] = {
        "general.name": "Tiny",
        "general.file_type": 7,
        "tokenizer.ggml.tokens": ["a", "b", "c"],
        "x.list": [1, 2, 3],
        "tokenizer.chat_template": "{{ messages }}",
        "general.alignment": 32,
        "x.flag": True,
        "x.real": 1.5,
        "llama.attention.head_count_kv": [1],
    }
    made = [
        _written(lambda path: ggufs.write(path, SMALL, "Q8_0", **more)),
        _written(lambda path: ggufs.write(path, moe, "F16")),
        _written(lambda path: ggufs.write(path, gemma, "BF16")),
        _written(
            lambda path: ggufs.write(path, replace(SMALL, architecture="mamba"), "F32", **{"mamba.ssm.inner_size": 8})
        ),
        _written(lambda path: ggufs.write(path, SMALL, "Q4_0", **{"split.count": 1, "split.no": 0})),
    ]
    return tuple(data[: _data_offset(data)] for data in made)


def _data_offset(data: bytes) -> int:
    with tempfile.TemporaryDirectory() as name:
        return header.read(put(Path(name), "case.gguf", data)).data_offset


def _gguf(data: bytes, folder: Path) -> None:
    """A header is refused, or it is what the gguf library reads too, and all that is asked of it has an answer."""
    path = put(folder, "case-Q4_K_M.gguf", data)
    if len(data) % 3:
        os.truncate(path, max(len(data), SIZE))
    found = header.read(path)
    for name in (label.claimed(found), "Q4_K_M", "F16"):
        printable(label.label_note(found, name), "a note", "")
    printable(header.name(found), "a name", "")
    printable(header.imatrix(found), "a matrix's name", "")
    label.is_unquantized(found)
    _agrees(found, path)
    brief = found_files.read(path)
    printable(f"{brief.title}{brief.quant}{brief.error}{brief.brief.architecture}", "a file", "")
    if not found.tensors:
        return
    bits = header.bits_per_weight(found)
    check(math.isfinite(bits) and bits >= 0, f"{bits} bits per weight")
    shape = header.shape(found)
    printable(f"{shape.architecture}{shape.name}{shape.note}", "a shape", "")
    check(shape.parameters == sum(tensor.elements for tensor in found.tensors), "parameters")
    check(
        min(shape.layers, shape.embedding, shape.vocabulary, shape.heads, shape.context, shape.state_bytes) >= 0,
        "a length",
    )
    whole = outline.named(f"ghost:{path}")
    check(outline.data_bytes(whole) <= whole.file_bytes, "an outline")
    if label.is_unquantized(found) and shape.parameters:
        mix.requantized(whole, quants.BY_NAME["Q4_K_M"], False)


def _agrees(found: header.Header, path: Path) -> None:
    """Held against the gguf library, where that reads the file as well."""
    if found.file_bytes > 4 * SIZE or any(count > 10_000 for count in found.lengths.values()):
        return
    try:
        theirs = gguf.GGUFReader(path)
        fields = {name: _plain(entry) for name, entry in theirs.fields.items() if not name.startswith("GGUF.")}
        tensors = [
            (t.name, t.tensor_type.name, tuple(map(int, t.shape)), int(t.n_bytes), t.data_offset - theirs.data_offset)
            for t in theirs.tensors
        ]
    except Exception:
        return
    for key, value in found.metadata.items():
        check(
            key in fields and repr(fields[key]) == repr(value), f"{key} is {fields.get(key)!r} to gguf, {value!r} to us"
        )
    check(found.data_offset == theirs.data_offset, "where the data begins")
    ours = [(t.name, t.type, t.shape, t.bytes, t.offset) for t in found.tensors]
    check(ours == tensors, f"tensors are {tensors[:2]} to gguf, {ours[:2]} to us")


def _plain(entry: Any) -> Any:
    value = entry.contents()
    if entry.types[0] == gguf.GGUFValueType.ARRAY:
        return tuple(value) if isinstance(value, list) else value
    return bool(value) if entry.types[0] == gguf.GGUFValueType.BOOL else value


_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
KEYS = (
    "general.architecture",
    "general.name",
    "general.alignment",
    "general.file_type",
    "llama.block_count",
    "llama.embedding_length",
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.context_length",
    "llama.vocab_size",
    "llama.expert_count",
    "llama.expert_used_count",
    "split.count",
    "split.no",
    "tokenizer.ggml.tokens",
    "llama.attention.key_length",
    "llama.feed_forward_length",
    "llama.attention.sliding_window",
    "quantize.imatrix.file",
    "imatrix.datasets",
    "imatrix.chunk_count",
    "imatrix.chunk_size",
    "general.type",
)
TENSORS = (
    "token_embd.weight",
    "output.weight",
    "output_norm.weight",
    "blk.0.attn_q.weight",
    "blk.0.attn_k.weight",
    "blk.1.ffn_up.weight",
    "blk.0.ffn_up_exps.weight",
    "blk.511.attn_k.weight",
    "a.in_sum2",
    "a.counts",
)


def _text(text: str, length: int | None = None) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", (len(data) if length is None else length) % 2**64) + data


def _value(kind: int, number: int, text: str) -> bytes:
    if kind == 8:
        return _text(text)
    if kind in (6, 12):
        return struct.pack("<" + _SCALARS[kind], float(number % 2**60))
    form = _SCALARS.get(kind, "I")
    return (number % 2 ** (8 * struct.calcsize(form))).to_bytes(struct.calcsize(form), "little")


def _key(name: str, kind: int, numbers: list[int], text: str, count: int | None) -> bytes:
    if kind != 9:
        return _text(name) + struct.pack("<I", kind) + _value(kind, numbers[0], text)
    inner = numbers[0] % 14
    body = b"".join(_value(inner, number, text) for number in numbers)
    return _text(name) + struct.pack("<IIQ", 9, inner, (len(numbers) if count is None else count) % 2**64) + body


def _info(name: str, lengths: list[int], kind: int, offset: int) -> bytes:
    return _text(name) + struct.pack(
        f"<I{len(lengths)}QIQ", len(lengths), *(one % 2**64 for one in lengths), kind, offset % 2**64
    )


def _file(version: int, keys: list[bytes], infos: list[bytes], count: int | None) -> bytes:
    counted = struct.pack("<QQ", (len(infos) if count is None else count) % 2**64, len(keys))
    return b"GGUF" + struct.pack("<I", version) + counted + b"".join(keys) + b"".join(infos)


_LENGTH = st.sampled_from([0, 1, 2, 32, 40, 64, 96, 256, 2**31, 2**40, 2**63, -1]) | st.integers(0, 300)
_ODD = st.none() | st.none() | st.none() | st.sampled_from([0, 1, 2**20, 2**32, 2**62, -1])
GGUFS = st.builds(
    _file,
    st.sampled_from([3, 3, 3, 2, 1, 4, 0x3000000]),
    st.lists(
        st.builds(
            _key,
            st.sampled_from(KEYS) | WORDS,
            st.integers(0, 13),
            st.lists(_LENGTH, min_size=1, max_size=4),
            st.sampled_from(["llama", "gemma2", "imatrix"]) | WORDS,
            _ODD,
        ),
        max_size=8,
    ),
    st.lists(
        st.builds(
            _info,
            st.sampled_from(TENSORS) | WORDS,
            st.lists(_LENGTH, max_size=5),
            st.integers(0, 42),
            st.just(0) | _LENGTH,
        ),
        max_size=4,
    ),
    _ODD,
)


# --- importance matrices --------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _matrices() -> tuple[bytes, ...]:
    rng = np.random.default_rng(1)
    collected = imatrix.Collected(
        {"blk.0.attn_q.weight": rng.random((1, 4)), "blk.0.ffn_up_exps.weight": rng.random((3, 2))},
        {"blk.0.attn_q.weight": np.array([8]), "blk.0.ffn_up_exps.weight": np.array([3, 0, 5])},
        2,
        16,
    )
    return tuple(
        _written(lambda path, form=form: imatrix.save(path, collected, "text", form)) for form in imatrix.FORMS
    )


def _imatrix(data: bytes, folder: Path) -> None:
    """A matrix has a finite value for each column that its file says it has."""
    path = put(folder, "case", data)
    found = imatrix.read(path)
    check(found.chunks >= 0 and found.means, "an empty matrix")
    for name, values in found.means.items():
        check(values.dtype == np.float32 and values.ndim == 1 and len(values) > 0, f"values of {name!r}")
        check(np.isfinite(values).all() and (values >= 0).all(), f"a value of {name!r}")
    if data.startswith(b"GGUF"):
        sums = {
            t.name.removesuffix(imatrix.SUMS): t.elements
            for t in header.read(path).tensors
            if t.name.endswith(imatrix.SUMS)
        }
        check({name: len(values) for name, values in found.means.items()} == sums, "as many values as its tensors have")
    else:
        check(4 * sum(map(len, found.means.values())) < len(data), "more values than the file is long")
    for model in (header.read(put(folder, "model.gguf", _model())),):
        try:
            imatrix.check(path, found.means, model)
        except UserError as error:
            printable(str(error), "a refusal", "")


@lru_cache(maxsize=1)
def _model() -> bytes:
    return _written(lambda path: ggufs.write(path, SMALL))


def _dat(entries: list[tuple[str, int, int, list[float]]], count: int | None, tail: bytes) -> bytes:
    parts = [struct.pack("<I", (len(entries) if count is None else count) % 2**32)]
    for name, calls, values, floats in entries:
        text = name.encode("utf-8", "surrogatepass")
        parts.append(struct.pack("<I", len(text)) + text + struct.pack("<II", calls % 2**32, values % 2**32))
        parts.append(struct.pack(f"<{len(floats)}f", *floats))
    return b"".join(parts) + tail


_FLOATS = st.lists(st.floats(width=32) | st.floats(0, 9, width=32), max_size=4)
MATRICES = GGUFS | st.builds(
    _dat,
    st.lists(st.tuples(st.sampled_from(TENSORS) | WORDS, _LENGTH, st.integers(0, 4) | _LENGTH, _FLOATS), max_size=3),
    _ODD,
    st.binary(max_size=12),
)


# --- base logits ----------------------------------------------------------------------------------------------------

CONTEXT, VOCABULARY, CHUNKS = 8, 7, 2
TEXT = np.arange(CONTEXT * CHUNKS, dtype=np.int32) % VOCABULARY


@lru_cache(maxsize=1)
def _bases() -> tuple[bytes, ...]:
    def make(path: Path) -> None:
        base = divergence.BaseFile.create(path, CONTEXT, VOCABULARY, CHUNKS, TEXT)
        for chunk in range(CHUNKS):
            base.put(chunk, np.random.default_rng(chunk).normal(size=(base.scored, VOCABULARY)).astype(np.float32))
        base.finish()

    return (_written(make),)


def _base(data: bytes, folder: Path) -> None:
    """Rows that are read are log-probabilities: finite, none above 0, the likeliest above that of an even guess."""
    base = divergence.BaseFile.open(put(folder, "case", data))
    try:
        check(divergence.size(base.context, base.vocabulary, base.chunks) == len(data), "a size")
        for chunk in range(min(3, base.usable(CONTEXT, VOCABULARY, TEXT))):
            rows = base.rows(chunk)
            check(np.isfinite(rows).all() and rows.max() < 0.02, "a log-probability above 0")
            logits = np.zeros((len(rows), base.vocabulary), np.float32)
            found = divergence.diverge(base.codes(chunk), logits, np.zeros(len(rows), np.int32))
            check(np.isfinite(found.stacked()).all(), "a divergence that is no number")
    finally:
        base.close()


BASES = st.builds(
    lambda context, vocabulary, chunks, rest: b"_logits_" + struct.pack("<3i", context, vocabulary, chunks) + rest,
    *(st.sampled_from([0, 1, 2, 3, 7, 8, -1, 2**31 - 1, -(2**31)]) for _ in range(3)),
    st.binary(max_size=120) | st.sampled_from([_bases()[0][20:]]),
)


# --- config.json ----------------------------------------------------------------------------------------------------

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 320,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "_name_or_path": "org/tiny",
}
QWEN_MOE = LLAMA | {
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "head_dim": 16,
}
GEMMA = {
    "model_type": "gemma3",
    "text_config": LLAMA | {"model_type": "gemma3_text", "sliding_window": 512, "head_dim": 16},
}
OSS = LLAMA | {
    "model_type": "gpt_oss",
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 128,
    "head_dim": 16,
}
PHI = LLAMA | {"model_type": "phi3", "partial_rotary_factor": 0.75}
CONFIGS = tuple(json.dumps(one).encode() for one in (LLAMA, QWEN_MOE, GEMMA, OSS, PHI))


def _config(data: bytes, folder: Path) -> None:
    """A shape is refused, or its tensors are those of a model: all there, none without weights, in a header that is."""
    path = put(folder, "config.json", data)
    found = outline.named(f"ghost:{path}")
    printable(header.name(found), "a name", "")
    check(found.tensors and all(tensor.elements > 0 and tensor.bytes > 0 for tensor in found.tensors), "a tensor")
    shape = header.shape(found)
    check(not shape.note or "wrong" not in shape.note, shape.note)
    check(sum(tensor.elements for tensor in found.tensors) == shape.parameters, "parameters")
    told = shape_of(json.loads(data), ("x",), "case")
    check(shape.layers == told.layers and shape.heads == told.heads, "another shape")
    if shape.parameters < 1 << 40:
        mix.requantized(found, quants.BY_NAME["Q8_0"], False)


_SIZE = st.sampled_from([1, 2, 4, 64, 128, 320, 1 << 24, 1 << 25, 0, -1, 2**63, 10**30]) | JSON
GHOSTS = keyed(
    {key: _SIZE for key in {**LLAMA, **QWEN_MOE, **GEMMA, **OSS, **PHI}}
    | {
        "model_type": st.sampled_from(
            ["llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma2", "phi3", "gpt_oss"]
        )
    },
    ["model_type", "hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size", "intermediate_size"],
).map(encoded)

KEY_WORDS = tuple(
    key.encode() for key in (*KEYS, *TENSORS, "GGUF", "blk.4095.x", "general.architecture", "mamba", "imatrix")
)

TARGETS = (
    Target(
        "gguf",
        headers,
        _gguf,
        "bytes",
        GGUFS,
        (
            "quanttui.models.header",
            "quanttui.models.layers",
            "quanttui.models.label",
            "quanttui.models.outline",
            "quanttui.models.mix",
        ),
        KEY_WORDS,
        share=4.0,
    ),
    Target(
        "imatrix",
        _matrices,
        _imatrix,
        "bytes",
        MATRICES,
        ("quanttui.models.imatrix", "quanttui.models.header"),
        KEY_WORDS,
        share=3.0,
    ),
    Target("base-logits", _bases, _base, "bytes", BASES, ("quanttui.measure.divergence",), (b"_logits_",), share=2.0),
    Target(
        "config.json",
        lambda: CONFIGS,
        _config,
        "json",
        GHOSTS,
        ("quanttui.models.outline", "quanttui.shapes.config", "quanttui.models.header", "quanttui.models.mix"),
        names=("config.json", "config", "ghost"),
        share=2.0,
    ),
)
