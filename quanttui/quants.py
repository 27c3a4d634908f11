"""The table of quantization types: what llama.cpp calls them, what they cost, what they need. Pure; reads no file.

Names and numbers are those of llama.cpp as vendored by llama-cpp-python 0.3.36 (`enum llama_ftype`, `enum ggml_type`,
`llama_ftype_get_default_type`). The tests ask llama.cpp itself for every row, so that the table cannot drift.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field

from quanttui.errors import UserError
from quanttui.format import clean


@dataclass(frozen=True)
class TensorType:
    """A ggml tensor type: `block` elements of one row are stored together in `bytes` bytes."""

    name: str
    block: int
    bytes: int

    @property
    def bits(self) -> float:
        """Bits per element, scales included."""
        return self.bytes * 8 / self.block


TENSOR_TYPES: dict[int, TensorType] = {
    number: TensorType(name, block, size)
    for number, name, block, size in (
        (0, "F32", 1, 4),
        (1, "F16", 1, 2),
        (2, "Q4_0", 32, 18),
        (3, "Q4_1", 32, 20),
        (6, "Q5_0", 32, 22),
        (7, "Q5_1", 32, 24),
        (8, "Q8_0", 32, 34),
        (9, "Q8_1", 32, 36),
        (10, "Q2_K", 256, 84),
        (11, "Q3_K", 256, 110),
        (12, "Q4_K", 256, 144),
        (13, "Q5_K", 256, 176),
        (14, "Q6_K", 256, 210),
        (15, "Q8_K", 256, 292),
        (16, "IQ2_XXS", 256, 66),
        (17, "IQ2_XS", 256, 74),
        (18, "IQ3_XXS", 256, 98),
        (19, "IQ1_S", 256, 50),
        (20, "IQ4_NL", 32, 18),
        (21, "IQ3_S", 256, 110),
        (22, "IQ2_S", 256, 82),
        (23, "IQ4_XS", 256, 136),
        (24, "I8", 1, 1),
        (25, "I16", 1, 2),
        (26, "I32", 1, 4),
        (27, "I64", 1, 8),
        (28, "F64", 1, 8),
        (29, "IQ1_M", 256, 56),
        (30, "BF16", 1, 2),
        (34, "TQ1_0", 256, 54),
        (35, "TQ2_0", 256, 66),
        (39, "MXFP4", 32, 17),
        (40, "NVFP4", 64, 36),
        (41, "Q1_0", 128, 18),
        (42, "Q2_0", 64, 18),
    )
}
"""By ggml's number. Numbers that ggml has given up (4, 5, 31 to 33, 36 to 38) are absent."""

BY_TYPE_NAME: dict[str, TensorType] = {kind.name: kind for kind in TENSOR_TYPES.values()}

_WEIGHTS, _EMBEDDING = 8_030_261_248, 525_336_576
"""Weights of Llama-3.1-8B, of which its embedding has so many and its output as many again."""

UNQUANTIZED = frozenset({"F32", "F16", "BF16"})
"""Tensor types that a file may be quantized from."""


@dataclass(frozen=True)
class Quant:
    """A quantization type of whole files: llama.cpp's `llama_ftype`, a mix of tensor types under one name.

    `bits_per_weight` is nominal: the whole file of Llama-3.1-8B, embedding, output and norms included. Figures with
    four decimals are those of the table in llama.cpp's tools/quantize/README.md; Q4_0, Q4_1, Q5_0, Q5_1, Q1_0, Q2_0,
    TQ1_0 and TQ2_0, which it leaves out, are llama.cpp's own dry run over the same shape. MXFP4_MOE and NVFP4 carry
    their block's arithmetic, since a dense model says nothing of them; F32 and BF16 likewise.

    `tensor_type` is what most matrices become, `mix` the types that the matrices of the blocks mostly are, itself
    first. `embedding` and `output` are the types of those two tensors. `needs_imatrix`: llama.cpp refuses to write it
    without an importance matrix (its rule: tensors of IQ1_*, IQ2_*, IQ3_XXS, and of Q2_K in a Q2_K_S file).
    `writable`: llama.cpp can quantize to it; it reads all of them.
    """

    name: str
    ftype: int
    bits_per_weight: float
    family: str
    tensor_type: str
    needs_imatrix: bool = False
    mix: tuple[str, ...] = ()
    embedding: str = ""
    output: str = "Q6_K"
    writable: bool = True
    block: int = field(init=False, default=1)

    @property
    def block_bits(self) -> float:
        """Nominal bits per weight of the blocks alone: Llama-3.1-8B's, its embedding and output taken off."""
        if self.family == "microscaling":
            return BY_TYPE_NAME[self.tensor_type].bits
        ends = BY_TYPE_NAME[self.embedding].bits + BY_TYPE_NAME[self.output].bits
        return (self.bits_per_weight * _WEIGHTS - ends * _EMBEDDING) / (_WEIGHTS - 2 * _EMBEDDING)

    def __post_init__(self) -> None:
        """Fill what follows from the tensor type."""
        object.__setattr__(self, "block", BY_TYPE_NAME[self.tensor_type].block)
        object.__setattr__(self, "mix", self.mix or (self.tensor_type,))
        object.__setattr__(self, "embedding", self.embedding or self.tensor_type)


QUANTS: tuple[Quant, ...] = (
    Quant("F32", 0, 32.0, "float", "F32", output="F32"),
    Quant("F16", 1, 16.0005, "float", "F16", output="F16"),
    Quant("BF16", 32, 16.0005, "float", "BF16", output="BF16"),
    Quant("Q8_0", 7, 8.5008, "legacy", "Q8_0", output="Q8_0"),
    Quant("Q5_1", 9, 6.0376, "legacy", "Q5_1"),
    Quant("Q5_0", 8, 5.5704, "legacy", "Q5_0"),
    Quant("Q4_1", 3, 5.1030, "legacy", "Q4_1"),
    Quant("Q4_0", 2, 4.6358, "legacy", "Q4_0"),
    Quant("Q2_0", 41, 2.6803, "legacy", "Q2_0", embedding="Q4_K"),
    Quant("Q1_0", 40, 1.4817, "legacy", "Q1_0"),
    Quant("Q6_K", 18, 6.5633, "K", "Q6_K"),
    Quant("Q5_K_M", 17, 5.7036, "K", "Q5_K", mix=("Q5_K", "Q6_K")),
    Quant("Q5_K_S", 16, 5.5704, "K", "Q5_K"),
    Quant("Q4_K_M", 15, 4.8944, "K", "Q4_K", mix=("Q4_K", "Q5_K", "Q6_K")),
    Quant("Q4_K_S", 14, 4.6672, "K", "Q4_K", mix=("Q4_K", "Q5_K")),
    Quant("Q3_K_L", 13, 4.2979, "K", "Q3_K", mix=("Q3_K", "Q5_K")),
    Quant("Q3_K_M", 12, 3.9960, "K", "Q3_K", mix=("Q3_K", "Q4_K", "Q5_K")),
    Quant("Q3_K_S", 11, 3.6429, "K", "Q3_K"),
    Quant("Q2_K", 10, 3.1593, "K", "Q2_K", mix=("Q2_K", "Q3_K", "Q4_K")),
    Quant("Q2_K_S", 21, 2.9697, "K", "Q2_K", True, mix=("Q2_K", "Q4_K")),
    Quant("IQ4_NL", 25, 4.6818, "IQ", "IQ4_NL"),
    Quant("IQ4_XS", 30, 4.4597, "IQ", "IQ4_XS"),
    Quant("IQ3_M", 27, 3.7628, "IQ", "IQ3_S", mix=("IQ3_S", "Q4_K")),
    Quant("IQ3_S", 26, 3.6606, "IQ", "IQ3_S"),
    Quant("IQ3_XS", 22, 3.4977, "IQ", "IQ3_S", True, mix=("IQ3_S", "IQ3_XXS")),
    Quant("IQ3_XXS", 23, 3.2548, "IQ", "IQ3_XXS", True, ("IQ3_XXS", "IQ3_S", "IQ2_S"), "IQ3_S", "Q5_K"),
    Quant("IQ2_M", 29, 2.9294, "IQ", "IQ2_S", True, ("IQ2_S", "IQ3_S"), "IQ3_S", "Q5_K"),
    Quant("IQ2_S", 28, 2.7403, "IQ", "IQ2_XS", True, ("IQ2_XS", "IQ3_S"), "IQ3_S", "Q5_K"),
    Quant("IQ2_XS", 20, 2.5882, "IQ", "IQ2_XS", True, embedding="Q2_K", output="Q5_K"),
    Quant("IQ2_XXS", 19, 2.3824, "IQ", "IQ2_XXS", True, embedding="Q2_K", output="Q5_K"),
    Quant("IQ1_M", 31, 2.1460, "IQ", "IQ1_M", True, ("IQ1_M", "IQ2_XXS"), "Q2_K", "Q5_K"),
    Quant("IQ1_S", 24, 2.0042, "IQ", "IQ1_S", True, ("IQ1_S", "IQ2_XXS"), "Q2_K", "Q5_K"),
    Quant("TQ2_0", 37, 2.5173, "ternary", "TQ2_0", embedding="Q4_K"),
    Quant("TQ1_0", 36, 2.1914, "ternary", "TQ1_0", embedding="Q4_K"),
    Quant("MXFP4_MOE", 38, 4.25, "microscaling", "MXFP4", embedding="Q8_0", output="Q8_0"),
    Quant("NVFP4", 39, 4.5, "microscaling", "NVFP4", writable=False),
)

BY_NAME: dict[str, Quant] = {quant.name: quant for quant in QUANTS}
BY_FTYPE: dict[int, Quant] = {quant.ftype: quant for quant in QUANTS}
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
"""Short names that llama-quantize takes too."""

COMMON: tuple[Quant, ...] = tuple(
    BY_NAME[name]
    for name in (
        "Q8_0",
        "Q6_K",
        "Q5_K_M",
        "Q5_K_S",
        "Q4_K_M",
        "Q4_K_S",
        "Q3_K_L",
        "Q3_K_M",
        "Q3_K_S",
        "IQ3_XS",
        "Q2_K",
    )
)
"""The eleven levels that people choose between, largest first."""


def largest_first(quants: Iterable[Quant]) -> tuple[Quant, ...]:
    """The same quants by nominal bits per weight, most bits first; equal ones by name."""
    return tuple(sorted(quants, key=lambda quant: (-quant.bits_per_weight, quant.name)))


def named(name: str) -> Quant | None:
    """The quant of that name or alias in any case, `-` for `_` allowed; None where there is none."""
    key = name.strip().upper().replace("-", "_")
    return BY_NAME.get(ALIASES.get(key, key))


def parse(spec: str, flag: str = "--quants") -> tuple[Quant, ...]:
    """The quants that a list such as "Q8_0,q4_k_m", "common", "all" or "common,F16" names, each once, largest first.

    `flag` is what an error calls the list.

    Raises:
        UserError: a name that llama.cpp does not have or cannot write, with what comes near it; an empty list.
    """
    chosen: dict[str, Quant] = {}
    for word in filter(None, (part.strip() for part in spec.split(","))):
        for quant in _group(word, flag):
            chosen[quant.name] = quant
    if not chosen:
        raise UserError(f"{flag} names no quant: give a list such as Q8_0,Q4_K_M, or common, or all")
    return largest_first(chosen.values())


def _group(word: str, flag: str) -> tuple[Quant, ...]:
    if word.lower() == "common":
        return COMMON
    if word.lower() == "all":
        return tuple(quant for quant in QUANTS if quant.writable)
    quant = named(word)
    if quant is None:
        raise UserError(f"{flag}: there is no quant {clean(word, 40)!r}{_near(word)}")
    if not quant.writable:
        raise UserError(f"{flag}: llama.cpp reads {quant.name} but cannot quantize to it; leave it out")
    return (quant,)


def _near(word: str) -> str:
    key = word.upper().replace("-", "_")
    near = difflib.get_close_matches(key, [*BY_NAME, *ALIASES], n=3, cutoff=0.6)
    return f"; did you mean {', '.join(near)}?" if near else "; `common` and `all` name many at once"
