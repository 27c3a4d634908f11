"""Which weights llama.cpp's CPU backend rearranges into memory of its own when it loads them. Pure.

Source: ggml_repack_get_optimal_repack_type in ggml/src/ggml-cpu/repack.cpp, and amx.cpp beside it, of llama.cpp as
vendored by llama-cpp-python 0.3.36. RISC-V's vectors are left out: they go by the length of its registers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from quanttui.models import header as headers
from quanttui.models.header import Tensor

_FEATURE = re.compile(r"(\w+) = (\d+)")

_RULES: Mapping[str, tuple[tuple[tuple[str, ...], int], ...]] = {
    "Q4_0": ((("AVX2",), 8), (("NEON", "DOTPROD"), 4), (("NEON", "MATMUL_INT8"), 4), (("VXE",), 4)),
    "Q4_K": ((("AVX2",), 8), (("NEON", "MATMUL_INT8"), 8), (("NEON", "DOTPROD"), 8)),
    "Q2_K": ((("AVX512",), 8),),
    "Q5_K": ((("NEON", "MATMUL_INT8"), 8), (("NEON", "DOTPROD"), 8)),
    "Q6_K": ((("NEON", "MATMUL_INT8"), 8), (("NEON", "DOTPROD"), 8)),
    "IQ4_NL": ((("AVX2",), 8), (("NEON", "DOTPROD"), 4)),
    "MXFP4": ((("AVX2",), 8), (("NEON", "DOTPROD"), 4)),
    "Q8_0": ((("NEON", "MATMUL_INT8"), 4), (("NEON", "DOTPROD"), 4)),
}
"""By type: what the CPU must have, and what the number of rows must be a multiple of."""

_AMX = frozenset({"Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"})
"""Types that a build for AMX takes into tiles of about the same size. Not measured here."""


def features(system_info: str) -> frozenset[str]:
    """What llama.cpp says that the CPU and the build have, from its own line (events.Build.system_info)."""
    return frozenset(name for name, value in _FEATURE.findall(system_info) if value != "0")


def is_packed(tensor: Tensor, have: frozenset[str]) -> bool:
    """Whether a matrix of that type is rearranged: those that tokens are multiplied with, not tables.

    A tied embedding is asked about as the output that it is too.
    """
    if len(tensor.shape) < 2 or "REPACK" not in have or headers.role(tensor.name) == "rows":
        return False
    if len(tensor.shape) == 2 and "AMX_INT8" in have and tensor.type in _AMX:
        return True
    return any(have.issuperset(needs) and tensor.shape[1] % rows == 0 for needs, rows in _RULES.get(tensor.type, ()))
