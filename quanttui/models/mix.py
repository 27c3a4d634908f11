"""Which type each tensor gets when llama.cpp quantizes a model: known from the header alone, without asking it.

Owns llama.cpp's rules, as facts of llama-quant.cpp of llama.cpp as vendored by llama-cpp-python 0.3.36; the tests hold
them against its dry runs. Reads no file and runs nothing. An importance matrix is a yes or no here: rules ask no more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from quanttui import quants
from quanttui.models import header as headers
from quanttui.models.header import Header, Tensor
from quanttui.models.layers import Keys
from quanttui.quants import BY_TYPE_NAME, Quant

FALLBACKS = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "TQ1_0": "Q4_0",
    "TQ2_0": "Q4_0",
    "Q2_0": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
}
"""What stands in where rows do not divide into a type's blocks; F16 where they do not divide into its blocks either."""

_LEFT = (
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",
)
"""Parts of names of matrices that stay as they are, however many bits the quant has."""

_PARTS = (
    ("attn_qkv.weight", "v"),
    ("attn_kv_b.weight", "v"),
    ("attn_v.weight", "v"),
    ("attn_k.weight", "k"),
    ("attn_q.weight", "q"),
    ("attn_output.weight", "o"),
    ("ffn_up", "up"),
    ("ffn_gate", "gate"),
    ("ffn_down", "down"),
)
"""What a matrix of a block is, by a part of its name; the first that fits counts."""

_LOW = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M"})
_MANY_EXPERTS = frozenset(
    {"Q2_K", "IQ3_XS", "IQ3_XXS", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M", "IQ3_S", "IQ3_M", "IQ4_XS"}
)
_OUTPUT_PROJECTION = {"Q2_K": "Q3_K", "IQ3_XXS": "IQ3_S", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K", "IQ3_M": "Q4_K"}
_WIDE_SEVENTIES = frozenset({"llama", "mistral3", "qwen2", "deci", "olmo"})
"""Architectures of which llama.cpp calls 80 layers a 70B, whose values get more bits."""

_LAYER = re.compile(r"blk\.(\d{1,9})\.")


Overrides = Sequence[tuple[str, str]]
"""Types of single tensors: patterns that are searched for in their names, with types; the first one found counts."""


def types(header: Header, quant: Quant, imatrix: bool = False, overrides: Overrides = ()) -> dict[str, str]:
    """The type of each tensor, by name, of a file that llama.cpp quantizes from this unquantized model."""
    if quant.family == "float":
        kind = quant.tensor_type
        return {tensor.name: kind if allowed(tensor) else tensor.type for tensor in header.tensors}
    rules = _Rules(header, quant, imatrix, overrides)
    return {tensor.name: rules.of(tensor) for tensor in sorted(header.tensors, key=order)}


def requantized(header: Header, quant: Quant, imatrix: bool = False, overrides: Overrides = ()) -> Header:
    """The header that the quantized file would have, its tensors in the same order."""
    kinds, at, tensors = types(header, quant, imatrix, overrides), 0, []
    for tensor in header.tensors:
        kind = BY_TYPE_NAME.get(kinds[tensor.name])
        size = tensor.bytes if kind is None else tensor.elements // kind.block * kind.bytes
        tensors.append(replace(tensor, type=kinds[tensor.name], bytes=size, offset=at))
        at += -(-size // header.alignment) * header.alignment
    metadata = {**header.metadata, "general.file_type": quant.ftype}
    return replace(header, metadata=metadata, tensors=tuple(tensors), file_bytes=header.data_offset + at)


def allowed(tensor: Tensor) -> bool:
    """Whether llama.cpp quantizes this tensor at all."""
    name = tensor.name
    if name == "per_layer_token_embd.weight":
        return True
    matrix = any(side > 1 for side in tensor.shape[1:]) and name.endswith("weight") and "_norm.weight" not in name
    return matrix and headers.role(name) != "rows" and not any(part in name for part in _LEFT)


def layer(name: str) -> int:
    """The layer that a tensor of that name is of, -1 for none."""
    found = _LAYER.match(name)
    return int(found[1]) if found else -1


def order(tensor: Tensor) -> tuple[int, str]:
    """llama.cpp takes tensors by layer, then by name, however the file has them."""
    return layer(tensor.name), tensor.name


def _part(name: str) -> str:
    if name == "output.weight":
        return "output"
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return "embedding"
    return next((part for piece, part in _PARTS if piece in name), "")


def _more(layer: int, layers: int) -> bool:
    """The layers that get more bits in the quants of middle size: the first and last eighth, and every third."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


class _Rules:
    """The rules for one file. Values and down projections are counted as they come: their place decides."""

    def __init__(self, header: Header, quant: Quant, imatrix: bool, overrides: Overrides) -> None:
        keys = Keys(header.metadata, "")
        self.overrides = [(re.compile(pattern), kind) for pattern, kind in overrides]
        self.quant, self.name, self.imatrix = quant, quant.name, imatrix
        self.architecture = keys.architecture
        self.layers = keys.number("block_count")
        heads = next(iter(keys.values("attention.head_count")), keys.number("attention.head_count"))
        kv = next(iter(keys.values("attention.head_count_kv")), keys.number("attention.head_count_kv", default=heads))
        self.gqa = heads // kv if kv else 0
        self.experts = keys.number("expert_count")
        self.tied = all(tensor.name != "output.weight" for tensor in header.tensors)
        self.values = sum(_part(tensor.name) == "v" for tensor in header.tensors)
        self.seventy = self.architecture in _WIDE_SEVENTIES and self.layers == 80 and heads != kv
        self.seen = {"v": 0, "down": 0, "gate": 0, "up": 0}

    def of(self, tensor: Tensor) -> str:
        """The type of the next tensor."""
        if not allowed(tensor):
            return tensor.type
        kind = self._named(tensor.name) or self._chosen(tensor)
        if tensor.shape[0] % BY_TYPE_NAME[kind].block == 0:
            return kind
        kind = FALLBACKS.get(kind, kind)
        return kind if tensor.shape[0] % BY_TYPE_NAME[kind].block == 0 else "F16"

    def _named(self, name: str) -> str:
        """The type that the tensor was given by name, "" for none. It does not count as one of its kind then."""
        return next((kind for pattern, kind in self.overrides if pattern.search(name)), "")

    def _chosen(self, tensor: Tensor) -> str:
        part = _part(tensor.name)
        if part == "output" or (part == "embedding" and self.tied):
            even = tensor.shape[0] % self.quant.block == 0 and self.architecture != "falcon"
            return self.quant.output if even else "Q8_0"
        if self.name == "MXFP4_MOE":
            return "MXFP4" if len(tensor.shape) > 2 and tensor.shape[2] > 1 else "Q8_0"
        if part == "embedding":
            return self.quant.embedding
        place = self._place(part, tensor.name)
        if self.name in _LOW:
            return self._low(part, place)
        choose = {"v": self._v, "k": self._k, "q": self._q, "o": self._o, "down": self._down}.get(part)
        if choose is not None:
            return choose(place)
        inner = self.layers // 8 <= place < 7 * self.layers // 8
        return "IQ3_XXS" if part in ("gate", "up") and self.name == "IQ3_XS" and inner else self.quant.tensor_type

    def _place(self, part: str, name: str) -> int:
        """Which one of its kind it is; of a model with experts the layer that its name says."""
        count = self.seen.get(part, 0)
        if part in self.seen:
            self.seen[part] = count + 1
        return layer(name) if self.experts > 1 and part in ("down", "gate", "up") else count

    def _low(self, part: str, place: int) -> str:
        """The quants of one and two bits."""
        wide = "IQ3_S" if self.name in ("IQ2_S", "IQ2_M") else "Q2_K"
        if part == "v":
            return "Q4_K" if self.gqa >= 4 or self.experts >= 4 else wide
        if part == "k" and self.experts == 8:
            return "Q4_K"
        if part == "down" and place < self.layers // 8:
            return wide
        if part == "o" and self.experts == 8:
            return "Q5_K"
        if part == "o":
            own = {"IQ1_S": "IQ2_XXS", "IQ1_M": "IQ2_XXS", "IQ2_S": "IQ3_S", "IQ2_M": "IQ3_S"}
            return own.get(self.name, self.quant.tensor_type)
        return self.quant.tensor_type

    def _v(self, place: int) -> str:
        """Values, or all of attention in one tensor: small where heads share them, so more bits cost little."""
        kind, name, shared = self.quant.tensor_type, self.name, self.gqa >= 4
        if self.experts == 8:
            return "Q8_0"
        if name == "Q2_K":
            kind = "Q4_K" if shared else "Q3_K"
        elif name == "Q2_K_S" and shared:
            kind = "Q4_K"
        elif name == "IQ3_XXS":
            kind = "Q4_K" if shared else "IQ3_XXS" if self.imatrix else "IQ3_S"
        elif (name in ("IQ3_XS", "IQ3_S") and shared) or name == "IQ3_M":
            kind = "Q4_K"
        elif name == "Q3_K_M":
            kind = "Q5_K" if place < 2 else "Q4_K"
        elif name == "Q3_K_L" or (name in ("IQ4_NL", "IQ4_XS") and shared):
            kind = "Q5_K"
        elif name in ("Q4_K_M", "Q5_K_M") and _more(place, self.values):
            kind = "Q6_K"
        elif name == "Q4_K_S" and place < 4:
            kind = "Q5_K"
        return "Q5_K" if self.seventy and kind in ("Q3_K", "Q4_K") else kind

    def _k(self, place: int) -> str:
        return "Q8_0" if self.experts == 8 else self._q(place)

    def _q(self, place: int) -> str:
        return {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}.get(self.name, self.quant.tensor_type)

    def _o(self, place: int) -> str:
        if self.architecture == "falcon":
            return "Q4_K" if self.name == "Q3_K_L" else self.quant.tensor_type
        if self.experts == 8:
            return "Q5_K" if self.name in _MANY_EXPERTS else self.quant.tensor_type
        return _OUTPUT_PROJECTION.get(self.name, self.quant.tensor_type)

    def _down(self, place: int) -> str:
        """What leads out of the feed-forward part."""
        kind, name, falcon = self.quant.tensor_type, self.name, self.architecture == "falcon"
        first, more = place < self.layers // 8, _more(place, self.layers)
        if name == "Q2_K":
            return "Q3_K"
        if name == "Q3_K_M":
            return "Q5_K" if place < self.layers // 16 else "Q4_K" if not falcon or more else "Q3_K"
        if name == "Q3_K_L":
            return "Q4_K" if falcon else "Q5_K"
        if name == "Q4_K_M" and falcon:
            return "Q6_K" if place < self.layers // 16 else "Q5_K" if more else "Q4_K"
        if name in ("Q4_K_M", "Q5_K_M"):
            return "Q6_K" if more else kind
        if name == "IQ3_XXS" and not self.imatrix:
            return "Q4_K" if first else "Q3_K"
        if name == "IQ3_M":
            return "Q4_K" if first or (self.experts == 8 and more) else kind
        if not first:
            return kind
        with_matrix = {"Q4_0": "Q4_1", "Q5_0": "Q5_1"} if self.imatrix else {"IQ4_NL": "Q5_K", "IQ4_XS": "Q5_K"}
        always = {"Q2_K_S": "Q4_K"} if falcon else {"Q2_K_S": "Q4_K", "Q4_K_S": "Q5_K"}
        return (with_matrix | always).get(name, kind)


def common(header: Header, imatrix: bool = False) -> dict[str, Header]:
    """The headers of the eleven quants that people choose between, by name, largest first."""
    return {quant.name: requantized(header, quant, imatrix) for quant in quants.COMMON}
