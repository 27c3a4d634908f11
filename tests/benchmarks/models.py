"""The models and texts that rows are measured on, made once in a folder outside the checkout. Knows no tool."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
        data = Path(os.environ.get("QUANTTUI_SHARED") or Path(__file__).resolve().parents[3] / "shared") / "data"
        model, text = data / "stories260K-pad256-F16.gguf", data / "wiki.test.raw"
        missing = next((file for file in (model, text) if not file.is_file()), None)
        if missing is not None:
            raise UserError(f"{missing}: is not there: QUANTTUI_SHARED names the folder that holds data/{missing.name}")
        return self._family("stories", model, text, wanted)

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
