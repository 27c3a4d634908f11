"""Glyph sets of one shape: braille, block, ascii. A set turns dots into characters and text into what can be shown.

Owns which characters a terminal is given; knows nothing of widgets or colours.
"""

from __future__ import annotations

import locale
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.tui import evidence

NAMES = ("braille", "block", "ascii")


class Raster(NamedTuple):
    """How a cell is made of dots: `across` columns of `up` dots.

    `chars[mask]` shows the dots whose bits are set: bit column * up + height, height counted from the bottom.
    """

    across: int
    up: int
    chars: str

    def line(self, columns: list[int], row: int) -> str:
        """One row of cells, row 0 at the bottom. `columns` are bit masks of dots, bit 0 lowest."""
        across, up, chars = self.across, self.up, self.chars
        shift, mask = row * up, (1 << up) - 1
        if across == 1:
            return "".join([chars[column >> shift & mask] for column in columns])
        low, high = columns[::2], columns[1::2]
        return "".join([chars[a >> shift & mask | (b >> shift & mask) << up] for a, b in zip(low, high, strict=False)])


@dataclass(frozen=True, eq=False)
class Glyphs:
    """One set. `area` draws filled charts, `curve` lines; `table` is for str.translate. Compared by identity."""

    name: str
    area: Raster
    curve: Raster
    table: dict[int, str]
    plain: bool

    def text(self, words: str) -> str:
        """Text as this set can show it. May be longer than it was, so pad afterwards.

        Everything shown passes here, so here is the last door that a control character could slip through.
        """
        if not words.isprintable():
            words = clean(words)
        if not self.plain or words.isascii():
            return words
        return words.translate(self.table).encode("ascii", "replace").decode()


def _braille() -> str:
    bits = (0x40, 0x04, 0x02, 0x01, 0x80, 0x20, 0x10, 0x08)
    cells = []
    for mask in range(256):
        cells.append(chr(0x2800 + sum(bit for place, bit in enumerate(bits) if mask >> place & 1)) if mask else " ")
    return "".join(cells)


def _levels(up: int, steps: str) -> str:
    """A cell one column wide that shows only how high it is filled."""
    return "".join(steps[mask.bit_length()] for mask in range(1 << up))


_ASCII = {
    "✓": "+", "✗": "x", "▶": ">", "●": "o", "◐": ":", "·": ".", "…": "..", "±": "+-", "Δ": "d", "→": "->", "←": "<-",
    "↑": "^", "↓": "v", "×": "x", "≥": ">=", "≤": "<=", "–": "-", "—": "-", "’": "'", "−": "-", "°": "", "█": "#",
    "▌": "=", "░": ".", "▒": ":", "▓": "%", "─": "-", "│": "|", "╭": "+", "╮": "+", "╰": "+", "╯": "+", "╟": "|",
    "╢": "|", "╫": "|", "❚": "|",
}  # fmt: skip

_BRAILLE = Raster(2, 4, _braille())

SETS = {
    "braille": Glyphs("braille", _BRAILLE, _BRAILLE, {}, False),
    "block": Glyphs("block", Raster(1, 8, _levels(8, " ▁▂▃▄▅▆▇█")), Raster(1, 2, " ▄▀█"), {}, False),
    "ascii": Glyphs(
        "ascii", Raster(1, 3, _levels(3, " .:#")), Raster(1, 3, " .-|'|||"), str.maketrans(_ASCII), True
    ),
}  # fmt: skip


def choose(option: str, environ: Mapping[str, str], encoding: str | None = None) -> Glyphs:
    """The set for `--glyphs`: one of NAMES, or "auto", which goes by evidence.

    Raises:
        UserError: no such set.
    """
    if option in SETS:
        return SETS[option]
    if option != "auto":
        raise UserError(f"--glyphs {option}: no such set: give auto, {', '.join(NAMES)}")
    known = encoding if encoding is not None else locale.getpreferredencoding(False)
    return SETS[evidence.glyphs(environ, known).value]
