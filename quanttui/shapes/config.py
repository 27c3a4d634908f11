"""From the config.json that a model's makers publish to its shape, in llama.cpp's terms.

Owns the families of which it is known what they are to llama.cpp, and the reading of the published ones. The lengths
that a config leaves out are those that the transformers library puts there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from quanttui.errors import UserError
from quanttui.format import clean

PUBLISHED = Path(__file__).with_name("published.json")
"""The shapes that are known by name: whose they are, what to call them, and the part of their config.json that says
what their tensors are."""

LARGEST = 1 << 24
"""Larger lengths are damage: the largest vocabularies are a sixtieth of it."""

LAYERS, WEIGHTS = 4096, 1 << 46
"""So many layers, and so many weights in all of them, no model has by far."""


@dataclass(frozen=True)
class KnownShape:
    """A model in the llama manner. Lengths in elements.

    `names`: the models of this shape, whose weights differ; `source`: whose config it is of. `architecture` is
    llama.cpp's name of it, `context` what it was trained for, in tokens, `window` the sliding window of those of its
    layers that have one, `rope` its rotation's base, `rotated` how much of a head that turns; `contexts` those of
    models that were trained for another one.
    `head` is the length of one. `norms`: vectors of the embedding's length in each layer; `head_norms`: queries and
    keys have one of a head's length each; `bias`: queries, keys and values have one; `sinks`: each head has one, and
    all else has a bias too (gpt-oss). `tied`: the embedding is the output matrix too. `experts` of the feed-forward
    part in each layer, of which a token uses `experts_used`, `feed_forward` being one expert's; 0 without any.
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
    architecture: str = "llama"
    context: int = 4096
    source: str = ""
    window: int = 0
    head_norms: bool = False
    sinks: bool = False
    rope: float = 10000.0
    rotated: int = 0
    contexts: tuple[tuple[str, int], ...] = ()

    @property
    def end(self) -> int:
        """Weights of the embedding, and as many of the output where that is a matrix of its own."""
        return self.vocabulary * self.embedding

    @property
    def expert_weights(self) -> int:
        """Weights of all experts of all layers."""
        biases = 2 * self.feed_forward + self.embedding if self.sinks else 0
        return self.layers * self.experts * (3 * self.embedding * self.feed_forward + biases)

    @property
    def block_weights(self) -> int:
        """Weights of all layers: attention, feed-forward, norms, biases."""
        queries, keys = self.heads * self.head, self.heads_kv * self.head
        layer = 2 * self.embedding * (queries + keys) + self.norms * self.embedding
        layer += 2 * self.head if self.head_norms else 0
        layer += queries + 2 * keys if self.bias else 0
        layer += self.heads + self.embedding + self.experts if self.sinks else 0
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


@dataclass(frozen=True)
class _Family:
    """What a `model_type` is to llama.cpp; `experts` and `hidden` are the keys of their number and of one's length.

    `defaults`: what transformers puts where such a config says nothing.
    """

    architecture: str
    norms: int = 2
    bias: bool = False
    head_norms: bool = False
    sinks: bool = False
    windows: bool = False
    experts: str = ""
    hidden: str = "intermediate_size"
    defaults: tuple[tuple[str, Any], ...] = ()


_GEMMA = (("tie_word_embeddings", True), ("num_attention_heads", 8), ("num_key_value_heads", 4), ("head_dim", 256))
_GEMMA_3 = (*_GEMMA, ("vocab_size", 262144), ("max_position_embeddings", 131072), ("sliding_window", 4096))
"""262,208 rows in the published files, of which llama.cpp's converter drops those that stand for no token."""

_FAMILIES: dict[str, _Family] = {
    "llama": _Family("llama"),
    "mistral": _Family("llama"),
    "mixtral": _Family("llama", experts="num_local_experts"),
    "qwen2": _Family("qwen2", bias=True),
    "qwen3": _Family("qwen3", head_norms=True),
    "qwen3_moe": _Family("qwen3moe", head_norms=True, experts="num_experts", hidden="moe_intermediate_size"),
    "gemma2": _Family("gemma2", norms=4, windows=True, defaults=(*_GEMMA, ("sliding_window", 4096))),
    "gemma3_text": _Family("gemma3", norms=4, head_norms=True, windows=True, defaults=_GEMMA_3),
    "phi3": _Family("phi3"),
    "gpt_oss": _Family("gpt-oss", bias=True, sinks=True, windows=True, experts="num_local_experts"),
}


class _Published(msgspec.Struct, frozen=True):
    names: tuple[str, ...]
    source: str
    config: dict[str, Any]
    contexts: dict[str, int] = {}


def published() -> tuple[KnownShape, ...]:
    """All shapes that are known by name."""
    each = msgspec.json.decode(PUBLISHED.read_bytes(), type=tuple[_Published, ...])
    shapes = ((of(one.config, one.names, one.source), one.contexts) for one in each)
    return tuple(replace(shape, contexts=tuple(contexts.items())) for shape, contexts in shapes)


def of(config: Mapping[str, Any], names: tuple[str, ...], source: str) -> KnownShape:
    """The shape that a config.json describes; of a model of several parts (text_config) the one that writes text.

    Raises:
        UserError: of a family that is not known here, or without a length that it must have: names `source`.
    """
    inner = config.get("text_config")
    if isinstance(inner, Mapping):
        config = {**inner, "model_type": inner.get("model_type") or f"{config.get('model_type', '')}_text"}
    kind = config.get("model_type")
    family = _FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        said = f"{clean(kind, 40)!r} is" if isinstance(kind, str) else "it says no"
        raise UserError(f"{source}: {said} model_type of which a ghost is known here; known are {', '.join(_FAMILIES)}")
    read = _Reader({**dict(family.defaults), **config}, source)
    heads, embedding = read.length("num_attention_heads"), read.length("hidden_size")
    head = read.length("head_dim", embedding // heads)
    experts = read.length(family.experts) if family.experts else 0
    shape = KnownShape(
        names=names,
        layers=read.length("num_hidden_layers", most=LAYERS),
        embedding=embedding,
        feed_forward=read.length(family.hidden),
        heads=heads,
        heads_kv=read.length("num_key_value_heads", heads),
        head=head,
        vocabulary=read.length("vocab_size"),
        tied=read.values.get("tie_word_embeddings") is True,
        norms=family.norms,
        bias=family.bias,
        experts=experts,
        experts_used=read.length("num_experts_per_tok") if experts else 0,
        architecture=family.architecture,
        context=read.length("max_position_embeddings"),
        source=source,
        window=read.length("sliding_window") if family.windows else 0,
        head_norms=family.head_norms,
        sinks=family.sinks,
        rope=read.number("rope_theta", 10000.0),
        rotated=int(head * min(1.0, read.number("partial_rotary_factor", 1.0))) // 2 * 2,
    )
    if shape.heads % shape.heads_kv or shape.head % 2 or shape.experts_used > shape.experts:
        raise UserError(f"{source}: {heads} heads of {head} over {shape.heads_kv} KV heads make no model")
    if shape.parameters > WEIGHTS:
        raise UserError(f"{source}: comes to {shape.parameters:.1e} weights, which no model has")
    return shape


class _Reader:
    """Typed look-ups in a config, whose errors name it."""

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self.values, self.source = values, source

    def length(self, key: str, default: int | None = None, most: int = LARGEST) -> int:
        """A whole number of at least 1."""
        value = self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            said = "is missing" if value is None else f"is no length: {clean(str(value), 40)}"
            raise UserError(f"{self.source}: {key} {said}")
        return value

    def number(self, key: str, default: float) -> float:
        """A number above 0."""
        value = self.values.get(key)
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e12
        return float(value) if good and value is not None else default
