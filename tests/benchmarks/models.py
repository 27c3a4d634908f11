"""The models and texts that rows are measured on, made once in a folder outside the checkout. Knows no tool."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFReader

from quanttui import quants
from quanttui.engine import protocol
from quanttui.engine.process import Engine
from quanttui.errors import UserError
from quanttui.models import pocket
from quanttui.models.ghost import GhostShape, write

POCKET_TEXT = pocket.TEXT

SPEED = GhostShape(18, 1024, 16, 4, 2816, 32000)
"""267 million weights: 284 MB as Q8_0, more than any cache holds."""

SMALL = GhostShape(4, 256, 4, 4, 704, 32000)
LARGE = GhostShape(4, 256, 4, 4, 704, 128256)
"""Little body under the vocabularies of LLaMA-2 and LLaMA-3: what scoring costs shows."""

TINY = GhostShape(4, 512, 8, 4, 1408, 4096)
"""16 million weights: about a thousand tokens a second on a small machine."""

SEVEN = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_0", "Q4_K_M", "Q3_K_M", "Q2_K")


@dataclass(frozen=True)
class Family:
    """A model, F16, with quants of it, and a text to score."""

    name: str
    base: Path
    quants: tuple[Path, ...]
    text: Path


def engine(folder: Path) -> Engine:
    """An engine process of quanttui's, to be closed."""
    return Engine.start(folder / "engine.txt", time.monotonic_ns())


def _shared(name: str) -> Path:
    """A file of the shared data.

    Raises:
        UserError: $QUANTTUI_SHARED names no folder that has it.
    """
    folder = Path(os.environ.get("QUANTTUI_SHARED") or Path(__file__).resolve().parents[3] / "shared")
    file = folder / "data" / name
    if not file.is_file():
        raise UserError(f"{file}: is not there: QUANTTUI_SHARED names the folder that holds data/{name}")
    return file


def _fill(file: Path, seed: int = 1) -> None:
    """Numbers in place of the zeros of each F16 tensor, half as widely spread as the others."""
    draw = np.random.default_rng(seed)
    for tensor in GGUFReader(file, "r+").tensors:
        weights = tensor.data
        if weights.dtype == np.float16:
            empty = weights == 0
            spread = float(weights[~empty].astype(np.float32).std()) if not empty.all() else 0.02
            weights[empty] = (draw.standard_normal(int(empty.sum())) * spread / 2).astype(np.float16)


class Store:
    """Makes what is missing."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._folder, self._threads = folder, threads
        folder.mkdir(parents=True, exist_ok=True)

    def ghost(self, shape: GhostShape, quant: str = "F16") -> Path:
        """A ghost of that shape; of a quantized one the F16 is not kept."""
        stem = "-".join(map(str, (shape.layers, shape.embedding, shape.heads, shape.heads_kv, shape.feed_forward)))
        made = self._folder / f"ghost-{stem}-{shape.vocabulary}-{quant}.gguf"
        if made.exists():
            return made
        source = self._folder / f"ghost-{stem}-{shape.vocabulary}-F16.gguf"
        write(source, shape)
        if quant != "F16":
            self._quantize(source, made, quant)
            source.unlink()
        return made

    def pocket(self, wanted: Sequence[str] = SEVEN) -> Family:
        """The shipped model and its held-out text."""
        return self._family("pocket", pocket.MODEL, pocket.TEXT, wanted)

    def stories(self, wanted: Sequence[str] = SEVEN) -> Family:
        """stories260K, its rows padded to a multiple of 256, and WikiText-2's test part.

        Raises:
            UserError: $QUANTTUI_SHARED names no folder that has them.
        """
        return self._family("stories", _shared("stories260K-pad256-F16.gguf"), _shared("wiki.test.raw"), wanted)

    def stories_filled(self, wanted: Sequence[str] = SEVEN) -> Family:
        """The same model with numbers in place of its padding: its speed is a model's, what it says is not.

        94 % of the padded file's weights are exactly 0, and a processor gets through zeros faster than through numbers
        (2 % on the machine where that was seen): no file of random weights can keep pace with it.

        Raises:
            UserError: as `stories`.
        """
        filled = self._folder / "stories-filled-F16.gguf"
        if not filled.exists():
            with tempfile.TemporaryDirectory(dir=self._folder) as folder:
                half = Path(shutil.copyfile(_shared("stories260K-pad256-F16.gguf"), Path(folder) / filled.name))
                _fill(half)
                half.rename(filled)
        return self._family("stories-filled", filled, _shared("wiki.test.raw"), wanted)

    def _family(self, name: str, source: Path, text: Path, wanted: Sequence[str]) -> Family:
        """In a folder of its own, the base linked into it, so that the folder is a sweep's MODEL."""
        digest = hashlib.sha256(source.read_bytes()).hexdigest()[:8]
        folder = self._folder / f"{name}-{digest}"
        folder.mkdir(exist_ok=True)
        base = folder / f"{name}-F16.gguf"
        if not base.exists():
            os.symlink(source.resolve(), base)
        made = []
        for quant in wanted:
            file = folder / f"{name}-{quant}.gguf"
            if not file.exists():
                self._quantize(base, file, quant)
            made.append(file)
        return Family(name, base, tuple(made), text)

    def _quantize(self, source: Path, target: Path, quant: str) -> None:
        known = quants.named(quant)
        assert known is not None
        request = protocol.Quantize(
            arm=quant, source=str(source), target=str(target), quant=quant, ftype=known.ftype, threads=self._threads
        )
        with engine(self._folder) as started:
            list(started.ask(request))
