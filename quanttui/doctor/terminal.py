"""What `quanttui doctor` says of the terminal: each switch with its evidence, and a strip on which people see whether
the terminal keeps its word. Pure but for `look`; the rules themselves are tui/evidence.py's.
"""

from __future__ import annotations

import locale
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from quanttui.tui import evidence
from quanttui.tui.evidence import Detected
from quanttui.tui.glyphs import SETS

_RAMP = 24
"""Cells of a ramp."""

_FLAGS = (("[!!] contaminated", 31), ("[!] caution", 33), ("[=] explained", 36), ("[ok] done", 32))
"""Each flag, and its SGR colour among the sixteen."""

_ESC = "\x1b["

_BOX = "╭─╮│╰─╯ ± Δ … · ×"
"""What the screen draws its frames and writes its figures with, beside the charts."""


def look(environ: Mapping[str, str], asked: Mapping[str, str] | None = None) -> Detected:
    """The terminal that stdout is, or would be.

    Args:
        asked: what the configuration says of each switch.
    """
    width, height = shutil.get_terminal_size()
    return evidence.detect(environ, locale.getpreferredencoding(False), (width, height), sys.stdout.isatty(), asked)


def lines(found: Detected) -> Iterator[str]:
    """The evidence; ASCII, so that it can be read where nothing else can."""
    if found.is_one:
        cells = f"{found.size[0]}x{found.size[1]}"
        yield f"terminal    {found.term or 'TERM not set'}, {cells}{_link(found)}"
    else:
        yield "terminal    none here: the screen needs one, --headless does not; by what is known:"
    for switch in ("glyphs", "colour", "layout", "mouse"):
        choice: evidence.Choice = getattr(found, switch)
        yield f"  {switch:<9} {choice.value}: {choice.why}"


def _link(found: Detected) -> str:
    return ", over SSH: the screen is painted half as often" if found.ssh else ""


def strip(found: Detected, environ: Mapping[str, str]) -> Iterator[str]:
    """What every set and every depth looks like: where a line is broken, a smaller one is to be asked for.

    No escape sequence where there is no terminal, nor where NO_COLOR asks for none.
    """
    yield "look at these lines: what is not as the words say is what this terminal cannot show"
    yield f"  braille   {_levels('braille')}  no gaps, no boxes; else --glyphs block"
    yield f"  block     {_levels('block')}  the same; else --glyphs ascii"
    yield f"  ascii     {_levels('ascii')}"
    yield f"  frames    {_BOX}  each one cell wide; else --glyphs ascii"
    if not found.is_one or environ.get("NO_COLOR") or environ.get("TERM") == "dumb":
        yield f"  flags     {'  '.join(words for words, _ in _FLAGS)}"
        yield f"  colours   none are shown here: {found.colour.why if found.is_one else 'no terminal'}"
        return
    yield f"  flags     {'  '.join(f'{_ESC}{colour}m{words}{_ESC}0m' for words, colour in _FLAGS)}"
    yield f"  16        {_painted(range(16), _sixteen)}  sixteen colours; else --color none"
    yield f"  256       {_painted(range(_RAMP), _grey)}  dark to light, evenly; else --color 16"
    yield f"  truecolor {_painted(range(_RAMP), _deep)}  blue to orange, no seam; else --color 256"


def _levels(name: str) -> str:
    """A chart's slope: every height that a cell of the set has, by the set's own raster."""
    raster = SETS[name].area
    columns = _RAMP * raster.across
    return raster.line([(2 << step * raster.up // columns) - 1 for step in range(columns)], 0)


def _painted(steps: Sequence[int], code: Callable[[int], str]) -> str:
    return "".join(f"{_ESC}{code(step)}m " for step in steps) + f"{_ESC}0m"


def _sixteen(step: int) -> str:
    return str((40 if step < 8 else 92) + step)


def _grey(step: int) -> str:
    return f"48;5;{232 + step * 24 // _RAMP}"


def _deep(step: int) -> str:
    """Between the two colours that are told apart by everyone: #56B4E9 and #E69F00."""
    ends = zip((0x56, 0xB4, 0xE9), (0xE6, 0x9F, 0x00), strict=True)
    return "48;2;" + ";".join(str(a + (b - a) * step // (_RAMP - 1)) for a, b in ends)
