"""Shapes of published models: what a file of some quant of them takes before anybody has it.

Owns the shapes as read from what their makers published (published.json, by shapes.config), the reading of model names,
and the bytes that follow from both; reads no other file and knows no table of figures. The tests hold the weights that
the shapes come to against the published totals, and the bytes against llama.cpp's dry runs.
"""

from __future__ import annotations

import re

from quanttui.quants import BY_TYPE_NAME, Quant
from quanttui.shapes.config import KnownShape, published

__all__ = [
    "DEMO", "SHAPES", "KnownShape", "active_bytes", "billions", "file_bytes", "kv_bytes", "named", "obstacle",
    "weights_named",
]  # fmt: skip

SHAPES: tuple[KnownShape, ...] = published()

DEMO = "wall-0.3b"
"""The shape of the demo's ghosts."""

_IDLE = frozenset({"meta", "hf", "gguf", "base"})
"""Words of a name that say nothing of the weights."""
_TUNED = frozenset(
    {"instruct", "chat", "it", "pt", "v0.1", "v0.2", "4k", "128k", "2407", "2410", "2411", "2501", "2507", "thinking"}
)
"""Words that tell other weights of the same shape."""
_QUANT = re.compile(r"[-_. ](?:ud[-_])?(?:i?q[0-9]\w*|bf16|fp?16|fp?32)$")
_FAMILY = re.compile(r"(?<![a-z0-9.])([a-z]{2,})(?=[0-9])")
_BILLIONS = re.compile(r"(?:([0-9]{1,3})x)?([0-9]{1,4}(?:\.[0-9]{1,3})?)b")


def weights_named(name: str) -> str:
    """A model's name with all spellings of the same weights made one: "Meta-Llama-3.1-8B-Instruct" and
    "llama3.1 8b instruct" are "llama-3.1-8b-instruct".

    Case, the organisation before a slash, `.gguf`, a quant at the end, and whether words are parted by a space, an
    underscore or a dash are of no account, nor are the words meta, hf, gguf and base.
    """
    return "-".join(word for word in _words(name) if word not in _IDLE)


def named(name: str) -> KnownShape | None:
    """The known shape of that model, however it is spelled (see weights_named) or tuned (instruct, chat, 4k,
    2407, …); None where there is none. Nothing is guessed from a name that is merely near."""
    return _BY_NAME.get(_shape_named(name))


def billions(name: str) -> float | None:
    """The weights that the name itself gives, in 1e9: 70 for Llama-3-70B, 56 for Mixtral-8x7B; None without any."""
    for word in _words(name):
        if found := _BILLIONS.fullmatch(word):
            return int(found[1] or 1) * float(found[2])
    return None


def obstacle(shape: KnownShape, quant: Quant) -> str:
    """Why the size of that quant is not known; "" where it is."""
    if quant.family == "microscaling":
        return f"{quant.name} leaves other tensors at other types in each model"
    ends = (quant.output,) if shape.tied else (quant.embedding, quant.output)
    uneven = [row for row in shape.rows if any(row % BY_TYPE_NAME[kind].block for kind in quant.mix)]
    uneven += [shape.embedding for kind in ends if shape.embedding % BY_TYPE_NAME[kind].block]
    if uneven:
        return f"rows of {uneven[0]} do not divide into {quant.name}'s blocks, so llama.cpp takes other types there"
    return ""


def file_bytes(shape: KnownShape, quant: Quant) -> float | None:
    """Bytes that a GGUF of that quant takes, about; None where `obstacle` says why not.

    The layers at the bits per weight that those of Llama-3.1-8B come to, embedding and output at their own types; a
    tied embedding has the output's, as llama.cpp does it. The vocabulary's text (some MB) is left out.
    """
    if obstacle(shape, quant):
        return None
    ends = BY_TYPE_NAME[quant.output].bits * shape.end
    if not shape.tied:
        ends += BY_TYPE_NAME[quant.embedding].bits * shape.end
    return (quant.block_bits * shape.block_weights + ends) / 8


def active_bytes(shape: KnownShape, quant: Quant, file: float) -> float:
    """Bytes of weights that one token reads of a file of `file` bytes: not the embedding, of which it reads one row,
    unless that is tied; and of the experts those that it uses. The KV cache is left out. 0 where nothing would be left.
    """
    embedding = 0.0 if shape.tied else BY_TYPE_NAME[quant.embedding].bits * shape.end / 8
    read = file - embedding
    if shape.experts:
        blocks = max(0.0, read - BY_TYPE_NAME[quant.output].bits * shape.end / 8)
        unused = 1 - shape.experts_used / shape.experts
        read -= blocks * shape.expert_weights / shape.block_weights * unused
    return max(0.0, read)


def kv_bytes(shape: KnownShape, tokens: int) -> float:
    """Bytes of an f16 KV cache of so many tokens, no sliding window taken off."""
    return 2.0 * 2 * tokens * shape.layers * shape.heads_kv * shape.head


def _words(name: str) -> list[str]:
    text = name.strip().lower().replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".gguf")
    return [word for word in re.split(r"[\s_-]+", _FAMILY.sub(r"\1-", _QUANT.sub("", text))) if word]


def _shape_named(name: str) -> str:
    return "-".join(word for word in _words(name) if word not in _IDLE | _TUNED)


_BY_NAME = {_shape_named(name): shape for shape in SHAPES for name in shape.names}
