"""What `quanttui ghost` says: which shapes are known by name, and what the files of one take. Plain text, and data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quanttui import shapes
from quanttui.format import clean, size

WAYS = (
    "quanttui run ghost:NAME --quants Q8_0,Q4_K_M   measures one; ghost:PATH of a config.json or of a GGUF as well\n"
    "quanttui ghost NAME --quants Q8_0 --out DIR    only writes the files"
)


def known() -> str:
    """A line for each shape: its name, llama.cpp's architecture, weights, context, and whose config.json it is."""
    rows = [
        (shape.names[-1].lower(), shape.architecture, billions(shape.parameters), str(shape.context), shape.source)
        for shape in shapes.SHAPES
    ]
    heads = ("name", "architecture", "weights", "context", "source")
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(4)]
    lines = [
        f"{name:<{widths[0]}}  {kind:<{widths[1]}}  {weights:>{widths[2]}}  {context:>{widths[3]}}  {source}"
        for name, kind, weights, context, source in (heads, *rows)
    ]
    return "\n".join((*lines, "", WAYS))


def billions(weights: int) -> str:
    """`8.03 B`, `0.494 B`."""
    return f"{weights / 1e9:.3g} B" if weights < 1e11 else f"{weights / 1e9:.0f} B"


def data() -> list[dict[str, Any]]:
    """The same as data."""
    return [
        {
            "names": [name.lower() for name in shape.names],
            "architecture": shape.architecture,
            "parameters": shape.parameters,
            "layers": shape.layers,
            "embedding": shape.embedding,
            "vocabulary": shape.vocabulary,
            "context": shape.context,
            "experts": shape.experts,
            "source": shape.source,
        }
        for shape in shapes.SHAPES
    ]


def sizes(files: Sequence[tuple[Path, int, bool]]) -> str:
    """What is about to be written: path, bytes, and whether it is there already; and the sum of what is not."""
    lines = [
        f"{size(held):>10}  {clean(str(path), 200)}{'  (there already)' if there else ''}"
        for path, held, there in files
    ]
    left = sum(held for _, held, there in files if not there)
    return "\n".join((*lines, f"{size(left):>10}  to write: random weights, a speed and a memory, no quality"))
