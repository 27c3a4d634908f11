"""Small ghosts: F16 GGUFs of a made-up shape with random weights, for llama.cpp itself to quantize and score.

Owns the shape, the tensors that it means in the llama architecture, and a vocabulary of any size that cuts any text.
Ghosts of published shapes, in any quant at once, are `tiles`'. Must not know what a ghost is measured for.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from quanttui.errors import UserError
from quanttui.format import clean

BLOCK = 2**20
"""Weights made and written at once: what lies in memory, whatever the size of the model."""

SPREAD = 2.0
"""Standard deviation of the logits: a favourite among thousands of tokens, and none that is certain."""

ALIGNMENT = 32
"""GGUF's default: every tensor begins at a multiple of it."""

_LETTERS = "\u2581abcdefghijklmnopqrstuvwxyz"
_SPECIAL = ("<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)))
_KINDS = (2, 3, 3, *[6] * 256)
"""llama.cpp's kinds of tokens: 1 normal, 2 unknown, 3 control, 6 byte."""

LEAST_TOKENS = len(_SPECIAL) + len(_LETTERS)
"""Fewer tokens cannot cut any text."""

_METADATA = 1024
"""Bytes of the metadata beside the vocabulary, about."""


@dataclass(frozen=True)
class GhostShape:
    """A model in the llama architecture. Lengths in elements; `tied` has no output tensor beside the embedding.

    Raises:
        UserError: there is no such model, or no vocabulary so small that can cut any text.
    """

    layers: int
    embedding: int
    heads: int
    heads_kv: int
    feed_forward: int
    vocabulary: int
    context: int = 4096
    tied: bool = False

    def __post_init__(self) -> None:
        wrong = ""
        if min(self.layers, self.embedding, self.heads, self.heads_kv, self.feed_forward, self.context) < 1:
            wrong = "layers, lengths and heads must be at least 1"
        elif self.embedding % (2 * self.heads):
            wrong = f"an embedding of {self.embedding} makes no {self.heads} heads of an even length"
        elif self.heads % self.heads_kv:
            wrong = f"{self.heads} heads cannot share {self.heads_kv} KV heads"
        elif self.vocabulary < LEAST_TOKENS:
            wrong = f"a vocabulary must have at least {LEAST_TOKENS} tokens"
        if wrong:
            raise UserError(f"ghost: {wrong}")

    @property
    def head(self) -> int:
        """Length of one head."""
        return self.embedding // self.heads

    @property
    def parameters(self) -> int:
        """How many weights there are, the norms' included."""
        return sum(math.prod(shape) for _, shape in _tensors(self))


def estimate(shape: GhostShape) -> int:
    """Bytes of the file that `write` makes, to well under a hundredth."""
    size = _METADATA + sum(len(piece.encode()) + 8 + 4 + 4 for piece in pieces(shape.vocabulary))
    for name, sides in _tensors(shape):
        size += 24 + len(name) + 8 * len(sides)
        size += _padded(math.prod(sides) * _width(sides))
    return size


def write(path: Path, shape: GhostShape, seed: int = 1) -> None:
    """Make the GGUF: matrices F16, norms F32. It appears under its name when it is whole.

    The same seed gives the same bytes. Weights are normal, of a variance that keeps the length of what flows through a
    layer; norms are ones. No more than a block of them is ever in memory.

    Raises:
        UserError: it cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        _head(part, shape)
        with open(part, "ab") as file:
            for index, (_, sides) in enumerate(_tensors(shape)):
                file.write(bytes(-file.tell() % ALIGNMENT))
                _weights(file, sides, _deviation(index, sides, shape), np.random.default_rng((seed, index)))
            file.write(bytes(-file.tell() % ALIGNMENT))
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise UserError(f"{clean(str(path))}: cannot be written: {error.strerror}") from None


def pieces(vocabulary: int) -> Iterator[str]:
    """The texts of all tokens: specials, bytes, then letters (and the space) in all ways, short ones first.

    So every piece of two letters and more can be merged from shorter ones, and what has no piece becomes bytes.
    """
    made = ("".join(each) for length in itertools.count(1) for each in itertools.product(_LETTERS, repeat=length))
    return itertools.islice(itertools.chain(_SPECIAL, made), vocabulary)


def _tensors(shape: GhostShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and sides (rows first), in the order of the file; the embedding is the first."""
    wide, narrow, hidden = shape.embedding, shape.heads_kv * shape.head, shape.feed_forward
    yield "token_embd.weight", (shape.vocabulary, wide)
    yield "output_norm.weight", (wide,)
    if not shape.tied:
        yield "output.weight", (shape.vocabulary, wide)
    for layer in range(shape.layers):
        for name, sides in (
            ("attn_norm", (wide,)),
            ("attn_q", (wide, wide)),
            ("attn_k", (narrow, wide)),
            ("attn_v", (narrow, wide)),
            ("attn_output", (wide, wide)),
            ("ffn_norm", (wide,)),
            ("ffn_gate", (hidden, wide)),
            ("ffn_up", (hidden, wide)),
            ("ffn_down", (wide, hidden)),
        ):
            yield f"blk.{layer}.{name}.weight", sides


def _width(sides: tuple[int, ...]) -> int:
    """Bytes of a weight: F32 in a norm, F16 in a matrix."""
    return 4 if len(sides) == 1 else 2


def _padded(size: int) -> int:
    return size + -size % ALIGNMENT


def _deviation(index: int, sides: tuple[int, ...], shape: GhostShape) -> float:
    """Of the weights of one tensor; 0 means ones.

    A row of n weights of deviation s turns a normalized input into a sum of deviation s * sqrt(n).
    """
    if len(sides) == 1:
        return 0.0
    if index == 0 and not shape.tied:
        return 1.0
    return (SPREAD if sides[0] == shape.vocabulary else 1.0) / math.sqrt(sides[-1])


def _weights(file: BinaryIO, sides: tuple[int, ...], deviation: float, random: np.random.Generator) -> None:
    if not deviation:
        file.write(np.ones(sides, "<f4").tobytes())
        return
    left = math.prod(sides)
    while left:
        block = random.standard_normal(min(left, BLOCK), dtype=np.float32)
        block *= np.float32(deviation)
        file.write(block.astype("<f2").data.cast("B"))
        left -= len(block)


def _head(path: Path, shape: GhostShape) -> None:
    """Everything before the tensors' data."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"ghost {shape.layers}x{shape.embedding}")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.embedding)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads_kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.head)
    vocabulary(writer, shape.vocabulary)
    for name, sides in _tensors(shape):
        kind = np.dtype(np.float32 if _width(sides) == 4 else np.float16)
        writer.add_tensor_info(name, sides, kind, math.prod(sides) * _width(sides))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


def vocabulary(writer: Any, size: int) -> None:
    """Add a tokenizer of so many tokens, at least LEAST_TOKENS, to a gguf.GGUFWriter: llama.cpp's SPM, whatever the
    architecture."""
    made = size - len(_SPECIAL)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(list(pieces(size)))
    writer.add_token_scores([0.0] * len(_SPECIAL) + [-float(rank) for rank in range(made)])
    writer.add_token_types([*_KINDS, *[1] * made])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
