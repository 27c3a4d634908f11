"""What a GGUF is called, and what its tensors say that it is. Pure: reads headers that others have read.

A label is a claim: the name of the file, or `general.file_type`. The truth is in the types of the tensors: llama.cpp
puts another type where a row does not divide into blocks, and files get renamed.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from quanttui import quants
from quanttui.format import clean, significant
from quanttui.models.header import Header, Tensor, role

FALLBACK_SHARE = 0.05
"""From this share of weights on that could not have the label's type, the label needs a note."""
OWN_SHARE = 0.25
"""Less than this share in the types of the label's mix, and the label is wrong. llama.cpp's dry runs over twelve
architectures and sizes put 42 % there at least (falcon's IQ3_XXS), mostly more than 90 %."""
BITS_RATIO = 1.5
"""Bits per weight of the blocks further off than this factor from the label's nominal ones: the label is wrong. In
the same dry runs they were 5 % below to 16 % above them, falcon's smallest (IQ1_S) 41 % above."""

GUESSED = 1024
"""llama.cpp's flag in `general.file_type` for a type that it derived from the tensors itself."""

_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:UD-)?(?:(?:I|T)?Q\d(?:_(?:\d|K|XXS|XS|S|M|L|XL|XXL|NL))+|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP?32)"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_SAME = {"FP16": "F16", "FP32": "F32", "MXFP4": "MXFP4_MOE"}


def from_name(file_name: str) -> str:
    """The quant that a file's name claims (`Qwen3-4B-UD-Q4_K_XL.gguf`: UD-Q4_K_XL), "" where it claims none."""
    found = _TOKEN.findall(Path(file_name).name.removesuffix(".gguf"))
    token = found[-1].upper() if found else ""
    return quants.ALIASES.get(token, _SAME.get(token, token))


def without_quant(file_name: str) -> str:
    """A file's name without its quant, split part and ending: what the files of one model have in common.

    Lower case, words joined by `-`: to be compared, and to name files with.
    """
    stem = re.sub(r"\.gguf$", "", file_name.rpartition("/")[2], flags=re.IGNORECASE)
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", stem)
    return re.sub(r"[^a-z0-9]+", "-", _TOKEN.sub("", stem).lower()).strip("-")


def claimed(header: Header) -> str:
    """The quant that a file claims to be: by its name, else `general.file_type`, else its tensors."""
    named = from_name(header.path.name)
    kind = header.metadata.get("general.file_type")
    by_key = quants.BY_FTYPE.get(kind & ~GUESSED) if isinstance(kind, int) else None
    return named or (by_key.name if by_key else "") or actual(header)


def actual(header: Header) -> str:
    """The tensor type that most weights of the blocks have; "" for a file without matrices."""
    return next(iter(shares(header)), "")


def is_unquantized(header: Header) -> bool:
    """Whether all matrices are F32, F16 or BF16, so that quants may be made of it."""
    return bool(header.tensors) and all(
        tensor.type in quants.UNQUANTIZED for tensor in header.tensors if len(tensor.shape) > 1
    )


def matrices(header: Header) -> tuple[Tensor, ...]:
    """The matrices of the model's blocks, experts included: what a quantization is about.

    Norms, biases and routers (too small to be quantized), the embedding and the output are left out. A model of
    another make, without blocks, gives all its matrices.
    """
    wide = [t for t in header.tensors if len(t.shape) > 1 and "_norm" not in t.name and "_gate_inp" not in t.name]
    blocks = tuple(tensor for tensor in wide if role(tensor.name) in ("block", "experts"))
    return blocks or tuple(wide)


def shares(header: Header) -> dict[str, float]:
    """The share of each tensor type among the weights of `matrices`, largest first; empty where there are none."""
    weights: Counter[str] = Counter()
    for tensor in matrices(header):
        weights[tensor.type] += tensor.elements
    total = sum(weights.values())
    return {kind: count / total for kind, count in weights.most_common()} if total else {}


def label_note(header: Header, label: str) -> str:
    """Why the label does not say what the file is, in one line; "" when it does or is none of llama.cpp's names."""
    quant = quants.named(label)
    held = shares(header)
    if quant is None or not held:
        return ""
    return _fallback_note(header, quant) or _wrong_note(header, quant, held)


def _fallback_note(header: Header, quant: quants.Quant) -> str:
    """llama.cpp quantizes rows whole: what does not divide into the label's blocks becomes another type."""
    every = matrices(header)
    odd = [tensor for tensor in every if tensor.shape[0] % quant.block and tensor.type not in quant.mix]
    share = sum(tensor.elements for tensor in odd) / sum(tensor.elements for tensor in every)
    if share < FALLBACK_SHARE:
        return ""
    rows = ", ".join(str(length) for length in sorted({tensor.shape[0] for tensor in odd})[:3])
    kinds = Counter[str]()
    for tensor in odd:
        kinds[tensor.type] += tensor.elements
    return (
        f"{significant(share * 100, 2)}% of the weights are {' and '.join(kind for kind, _ in kinds.most_common(3))}, "
        f"not {quant.tensor_type}: rows of {rows} do not divide by its {quant.block}"
    )


def _wrong_note(header: Header, quant: quants.Quant, held: dict[str, float]) -> str:
    own = sum(held.get(kind, 0.0) for kind in quant.mix)
    every = matrices(header)
    bits = sum(tensor.bytes for tensor in every) * 8 / sum(tensor.elements for tensor in every)
    ratio = bits / quant.block_bits
    mixed = quant.family == "microscaling" or 1 / BITS_RATIO <= ratio <= BITS_RATIO
    if own >= OWN_SHARE and mixed:
        return ""
    parts = ", ".join(f"{significant(share * 100, 2)}% {clean(kind, 20)}" for kind, share in list(held.items())[:3])
    return f"not {quant.name}: the weights of its blocks are {parts}, {significant(bits)} bits each"
