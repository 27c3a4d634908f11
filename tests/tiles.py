"""Makes the blocks that ghosts are tiled with (quanttui/models/tiles.msgpack), by ggml itself.

    python tests/tiles.py [TARGET]

Normally distributed weights, quantized with an importance matrix of ones, which the types of the fewest bits ask for.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import msgspec
import numpy as np

from quanttui import quants
from quanttui.models import tiles

MADE = [kind for kind in quants.TENSOR_TYPES.values() if kind.block > 1 and kind.name not in ("Q8_1", "Q8_K")]
"""Types that files keep weights in; those two are of vectors, during a multiplication."""


def blocks() -> dict[str, bytes]:
    """The blocks of every type, as ggml quantizes the same weights."""
    import llama_cpp

    folder = Path(llama_cpp.__file__).parent / "lib"
    name = {"win32": "ggml-base.dll", "darwin": "libggml-base.dylib"}.get(sys.platform, "libggml-base.so")
    ggml = ctypes.CDLL(str(folder / name))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    weights = np.random.default_rng(1).standard_normal(tiles.WEIGHTS, dtype=np.float32) * np.float32(tiles.SPREAD)
    ones = np.ones(tiles.WEIGHTS, dtype=np.float32)
    numbers = {kind.name: number for number, kind in quants.TENSOR_TYPES.items()}
    found = {}
    for kind in MADE:
        held = np.zeros(tiles.WEIGHTS // kind.block * kind.bytes, dtype=np.uint8)
        zero, rows, row = ctypes.c_int64(0), ctypes.c_int64(tiles.WEIGHTS // 256), ctypes.c_int64(256)
        pointers = (ctypes.c_void_p(each.ctypes.data) for each in (weights, held))
        ggml.ggml_quantize_chunk(numbers[kind.name], *pointers, zero, rows, row, ctypes.c_void_p(ones.ctypes.data))
        found[kind.name] = held.tobytes()
    return found


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else tiles.BLOCKS
    target.write_bytes(msgspec.msgpack.encode(blocks()))
    print(f"{target}: {target.stat().st_size} bytes")
