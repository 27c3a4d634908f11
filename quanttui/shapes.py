"""Shapes of published models: what a file of some quant of them takes before anybody has it. Pure data and arithmetic.

Owns the table of shapes, the reading of model names, and the bytes that follow from both; reads no file and knows no
table of figures. The numbers are those of the models' own config.json; the tests hold the weights that they come to
against the published totals, and the bytes against llama.cpp's dry runs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from quanttui.quants import BY_TYPE_NAME, Quant


@dataclass(frozen=True)
class KnownShape:
    """A model in the llama manner. Lengths in elements.

    `names`: the models of this shape, whose weights differ. `head` is the length of one. `norms`: vectors of the
    embedding's length in each layer; `bias`: queries, keys and values have one. `tied`: the embedding is the output
    matrix too. `experts` of the feed-forward part in each layer, of which a token uses `experts_used`; 0 without any.
    """

    names: tuple[str, ...]
    layers: int
    embedding: int
    feed_forward: int
    heads: int
    heads_kv: int
    head: int
    vocabulary: int
    tied: bool = False
    norms: int = 2
    bias: bool = False
    experts: int = 0
    experts_used: int = 0

    @property
    def end(self) -> int:
        """Weights of the embedding, and as many of the output where that is a matrix of its own."""
        return self.vocabulary * self.embedding

    @property
    def expert_weights(self) -> int:
        """Weights of all experts of all layers."""
        return self.layers * self.experts * 3 * self.embedding * self.feed_forward

    @property
    def block_weights(self) -> int:
        """Weights of all layers: attention, feed-forward, norms, biases."""
        queries, keys = self.heads * self.head, self.heads_kv * self.head
        layer = 2 * self.embedding * (queries + keys) + self.norms * self.embedding
        layer += queries + 2 * keys if self.bias else 0
        layer += self.embedding * self.experts if self.experts else 3 * self.embedding * self.feed_forward
        return self.layers * layer + self.expert_weights

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.block_weights + self.end * (1 if self.tied else 2) + self.embedding

    @property
    def rows(self) -> tuple[int, ...]:
        """Row lengths of the layers' matrices: each must divide into the blocks of a type."""
        return self.embedding, self.heads * self.head, self.feed_forward


SHAPES: tuple[KnownShape, ...] = (
    KnownShape(("Llama-2-7B",), 32, 4096, 11008, 32, 32, 128, 32000),
    KnownShape(("Llama-2-13B",), 40, 5120, 13824, 40, 40, 128, 32000),
    KnownShape(("Llama-2-70B",), 80, 8192, 28672, 64, 8, 128, 32000),
    KnownShape(("Llama-3-8B", "Llama-3.1-8B"), 32, 4096, 14336, 32, 8, 128, 128256),
    KnownShape(("Llama-3-70B", "Llama-3.1-70B", "Llama-3.3-70B"), 80, 8192, 28672, 64, 8, 128, 128256),
    KnownShape(("Llama-3.1-405B",), 126, 16384, 53248, 128, 8, 128, 128256),
    KnownShape(("Llama-3.2-1B",), 16, 2048, 8192, 32, 8, 64, 128256, tied=True),
    KnownShape(("Llama-3.2-3B",), 28, 3072, 8192, 24, 8, 128, 128256, tied=True),
    KnownShape(("Mistral-7B",), 32, 4096, 14336, 32, 8, 128, 32000),
    KnownShape(("Mistral-7B-v0.3",), 32, 4096, 14336, 32, 8, 128, 32768),
    KnownShape(("Mixtral-8x7B",), 32, 4096, 14336, 32, 8, 128, 32000, experts=8, experts_used=2),
    KnownShape(("Mixtral-8x22B",), 56, 6144, 16384, 48, 8, 128, 32000, experts=8, experts_used=2),
    KnownShape(("Qwen2.5-0.5B",), 24, 896, 4864, 14, 2, 64, 151936, tied=True, bias=True),
    KnownShape(("Qwen2.5-1.5B",), 28, 1536, 8960, 12, 2, 128, 151936, tied=True, bias=True),
    KnownShape(("Qwen2.5-3B",), 36, 2048, 11008, 16, 2, 128, 151936, tied=True, bias=True),
    KnownShape(("Qwen2.5-7B",), 28, 3584, 18944, 28, 4, 128, 152064, bias=True),
    KnownShape(("Qwen2.5-14B",), 48, 5120, 13824, 40, 8, 128, 152064, bias=True),
    KnownShape(("Qwen2.5-32B",), 64, 5120, 27648, 40, 8, 128, 152064, bias=True),
    KnownShape(("Qwen2.5-72B",), 80, 8192, 29568, 64, 8, 128, 152064, bias=True),
    KnownShape(("Gemma-2-2B",), 26, 2304, 9216, 8, 4, 256, 256000, tied=True, norms=4),
    KnownShape(("Gemma-2-9B",), 42, 3584, 14336, 16, 8, 256, 256000, tied=True, norms=4),
    KnownShape(("Gemma-2-27B",), 46, 4608, 36864, 32, 16, 128, 256000, tied=True, norms=4),
    KnownShape(("Phi-3-mini", "Phi-3.5-mini"), 32, 3072, 8192, 32, 32, 96, 32064),
    KnownShape(("Phi-3-medium",), 40, 5120, 17920, 40, 10, 128, 32064),
    KnownShape(("Phi-4",), 40, 5120, 17920, 40, 10, 128, 100352),
)

_IDLE = frozenset({"meta", "hf", "gguf", "base"})
"""Words of a name that say nothing of the weights."""
_TUNED = frozenset({"instruct", "chat", "it", "v0.1", "v0.2", "4k", "128k"})
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
    """The known shape of that model, however it is spelled (see weights_named) or tuned (instruct, chat, it, v0.1,
    v0.2, 4k, 128k); None where there is none. Nothing is guessed from a name that is merely near."""
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
