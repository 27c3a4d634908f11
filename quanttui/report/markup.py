"""Elements of HTML and SVG as text, in which nothing is markup that was not made here.

Owns the escaping: a child or an attribute that is plain text is cleaned and escaped on its way in. Knows no session.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

from quanttui.format import clean

LIMIT = 4000
"""Characters of one text that are kept."""

_VOID = ("meta", "br")


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


NOTHING, SPACE, LINE = Markup(), Markup(" "), Markup("\n")
"""What may stand between elements; blanks around plain text are taken off."""


def safe(text: str) -> Markup:
    """Text as markup: clean, bounded and escaped, also for an attribute in double quotes."""
    return text if isinstance(text, Markup) else Markup(html.escape(clean(text, LIMIT)))


def join(parts: Iterable[str], between: Markup = NOTHING) -> Markup:
    """Parts after each other; those that are plain text are escaped."""
    return Markup(between.join(safe(part) for part in parts))


def element(name: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """`<name attribute="…">children</name>`.

    Attributes go by Python's names: `class_` is class, `stroke_width` stroke-width. One that is None is left out, a
    number is written as `number` has it.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{safe(value) if isinstance(value, str) else number(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def number(value: float) -> str:
    """A coordinate: two decimals at most."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
